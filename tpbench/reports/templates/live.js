
// The page of --watch follows the store. The section about what is going on now is replaced in place; the page is
// loaded anew where its figures changed, and is then as the reader left it.
const watched = document.documentElement.dataset, every = Number(watched.reload);
const pause = document.querySelector(".live button"), stale = document.querySelector(".live [role=status]");
const now = document.querySelector("#live");
let paused = false, pressed = false, heard = Date.now(), pace = every;  // seconds to the next look

// What an element is called on every version of the page: there may be more of them after a while.
const called = one => JSON.stringify([
  one.tagName, one.getAttribute("href"), one.dataset.name, one.dataset.name ? null : one.getAttribute("aria-label"),
  one.tagName === "BUTTON" ? one.textContent : null, one.closest("[data-fold]")?.dataset.fold,
  one.closest("table")?.caption.textContent, one.closest(".linked")?.querySelector("h3").textContent,
  one.closest("svg")?.getAttribute("aria-label"),
].map(text => text ?? null));
const focusable = () => [...document.querySelectorAll("a, button, summary, select, input, [tabindex]")];
const folds = () => [...document.querySelectorAll("details")], captions = () => [...document.querySelectorAll("table.sortable")];

// Someone selects text, holds a button of the mouse, or has a menu open: nothing is replaced under their hands.
const busy = () => pressed || getSelection().type === "Range" || !!document.querySelector("dialog[open], :popover-open")
  || !!document.activeElement?.matches("select, input, textarea");
addEventListener("pointerdown", () => { pressed = true; });
for (const end of ["pointerup", "pointercancel", "blur"]) addEventListener(end, () => { pressed = false; });

function reloadPage() {
  if (paused || document.hidden || busy()) return;
  history.replaceState({
    folds: folds().filter(fold => fold.open).map(fold => fold.dataset.fold), sorted: Object.fromEntries(sorted),
    pinned: Object.fromEntries([...pins].filter(([, one]) => one.name() !== null).map(([title, one]) => [title, one.name()])),
    top: scrollY, focus: document.activeElement ? called(document.activeElement) : null, paused,
  }, "");
  location.reload();
}
function restorePage(kept) {
  for (const fold of folds()) fold.open = kept.folds.includes(fold.dataset.fold);
  for (const table of captions()) if (kept.sorted[table.caption.textContent]) sort(table, ...kept.sorted[table.caption.textContent]);
  paused = kept.paused;
  for (const [title, name] of Object.entries(kept.pinned)) pins.get(title)?.pin(name);
  focusable().find(one => called(one) === kept.focus)?.focus({preventScroll: true});
  scrollTo(0, kept.top);
}
// Replace the section; what is in the middle of the screen stays there.
function replaceNow(html) {
  const open = folds().filter(fold => fold.open).map(fold => fold.dataset.fold);
  const focus = now.contains(document.activeElement) ? called(document.activeElement) : null;
  const places = [...document.querySelectorAll(".sweeps > li, main > section:not(#live)")];
  const middle = places.find(one => one.getBoundingClientRect().bottom > innerHeight / 2) ?? places.at(-1);
  const above = now.getBoundingClientRect().top < 0, before = middle?.getBoundingClientRect().top;
  now.innerHTML = html;
  for (const fold of now.querySelectorAll("details")) fold.open = open.includes(fold.dataset.fold);
  if (focus) focusable().find(one => called(one) === focus)?.focus({preventScroll: true});
  const after = middle?.isConnected ? middle : document.getElementById(middle?.id);
  if (above && after) scrollBy(0, after.getBoundingClientRect().top - before);
}
// Called by the script that tpbench writes beside the page: a page that is opened as a file can read nothing else.
function showLive(state) {
  heard = 1000 * state.written;
  pace = state.every;
  if (paused || busy()) return;
  if (state.stamp !== watched.stamp) return reloadPage();
  replaceNow(state.html);
}
function look() {
  const late = (Date.now() - heard) / 1000;
  stale.textContent = late > 3 * pace + 60 ? "Nothing was written for a while: does tpbench report --watch still run?" : "";
  if (paused || document.hidden) return;
  if (!watched.feed) return reloadPage();
  const script = document.createElement("script");
  script.src = `${watched.feed}?${Date.now()}`;
  script.addEventListener("load", () => script.remove());
  // It is gone once nothing is watched any more: the last page is there.
  script.addEventListener("error", () => { script.remove(); reloadPage(); });
  document.body.append(script);
}
history.scrollRestoration = "manual";
if (history.state?.folds) restorePage(history.state);
const show = () => pause.setAttribute("aria-pressed", String(paused));
show();
pause.addEventListener("click", () => {
  paused = !paused;
  show();
  if (!paused) look();
});
function follow() {
  look();
  setTimeout(follow, 1000 * pace);
}
setTimeout(follow, 1000 * every);
