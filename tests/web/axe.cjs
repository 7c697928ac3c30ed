// node axe.cjs FOLDER PAGE: what axe-core finds wrong with a page under jsdom, as JSON. FOLDER holds the packages.
"use strict";
const {readFileSync} = require("node:fs");
const [folder, page] = process.argv.slice(2);
const {JSDOM} = require("node:module").createRequire(`${folder}/`)("jsdom");

const {window} = new JSDOM(readFileSync(page, "utf-8"), {runScripts: "outside-only", pretendToBeVisual: true});
window.eval(readFileSync(`${folder}/node_modules/axe-core/axe.min.js`, "utf-8"));
// jsdom lays nothing out, so nothing can be said of colours and of what scrolls.
const rules = {"color-contrast": {enabled: false}, "scrollable-region-focusable": {enabled: false}};
window.axe.run(window.document, {rules}).then(found => {
  process.stdout.write(JSON.stringify(found.violations));
  window.close();
});
