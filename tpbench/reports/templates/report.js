"use strict";
document.documentElement.classList.add("script");

// Tables: a click on a column's name sorts by it. Numbers by size, words by the alphabet, what is missing last either way.
// A page that is loaded anew may have more columns, so they are kept by their text.
const sorted = new Map();
function sort(table, name, up) {
  const heads = [...table.tHead.rows[0].cells], column = heads.findIndex(head => head.textContent === name);
  if (column < 0) return;
  heads.forEach(head => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[column].dataset.key ?? row.cells[column].textContent.trim();
  const rows = [...table.tBodies[0].rows].map((row, place) => ({row, place, key: key(row)}));
  const compare = (a, b) => {
    const missing = (a.key === "" || a.key === "-") - (b.key === "" || b.key === "-");
    if (missing) return missing;
    const x = Number(a.key), y = Number(b.key);
    const order = Number.isNaN(x) || Number.isNaN(y) ? a.key.localeCompare(b.key) : x - y;
    return (up ? order : -order) || a.place - b.place;
  };
  rows.sort(compare).forEach(({row}) => table.tBodies[0].append(row));
  sorted.set(table.caption.textContent, [name, up]);
}
for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.tHead.rows[0].cells) head.querySelector("button").addEventListener("click", () => {
    sort(table, head.textContent, head.getAttribute("aria-sort") !== "ascending");
  });
}

// Curves: what is pointed to, or has the focus, stands out in all figures beside it and says its name.
const bubble = document.createElement("div");
bubble.className = "bubble";
bubble.hidden = true;
bubble.setAttribute("aria-hidden", "true");
document.body.append(bubble);
function say(text, x, y) {
  bubble.textContent = text;
  bubble.hidden = false;
  const {width, height} = bubble.getBoundingClientRect();
  bubble.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 4))}px`;
  bubble.style.top = `${y + 18 + height > innerHeight ? y - height - 10 : y + 18}px`;
}
const pins = new Map();
for (const group of document.querySelectorAll(".linked")) {
  const series = [...group.querySelectorAll(".series")], buttons = [...group.querySelectorAll(".legend button")];
  let pinned = null;
  const pin = name => {
    pinned = buttons.some(one => one.dataset.name === name) ? name : null;
    for (const other of buttons) other.setAttribute("aria-pressed", String(other.dataset.name === pinned));
    choose(pinned);
  };
  const choose = name => {
    group.classList.toggle("chosen", name !== null);
    for (const one of series) one.classList.toggle("on", one.dataset.name === name);
  };
  const rest = () => { choose(pinned); bubble.hidden = true; };
  const point = (target, x, y) => {
    const one = target.closest?.("[data-name]");
    if (!one) return rest();
    choose(one.dataset.name);
    if (one.closest("svg")) {
      const box = one.getBoundingClientRect();
      say(one.getAttribute("aria-label") ?? one.dataset.name, x ?? box.left + box.width / 2, y ?? box.top + box.height / 2);
    }
  };
  group.addEventListener("pointermove", event => point(event.target, event.clientX, event.clientY));
  group.addEventListener("pointerleave", rest);
  group.addEventListener("focusin", event => point(event.target));
  group.addEventListener("focusout", rest);
  for (const button of buttons) {
    button.addEventListener("click", () => pin(pinned === button.dataset.name ? null : button.dataset.name));
  }
  pins.set(group.querySelector("h3").textContent, {name: () => pinned, pin});
}
for (const figure of document.querySelectorAll("figure svg")) {
  const stops = [...figure.querySelectorAll(".series[tabindex]")];
  // One stop of the tabulator for each figure; the arrows lead on.
  const stop = place => stops.forEach((one, other) => one.setAttribute("tabindex", other === place ? "0" : "-1"));
  stop(0);
  stops.forEach((one, place) => {
    one.querySelector("title").remove();  // the bubble says it at once
    one.addEventListener("focus", () => stop(place));
    one.addEventListener("keydown", event => {
      if (event.key === "Escape") return one.blur();
      const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
      if (!step) return;
      event.preventDefault();
      stops[(place + step + stops.length) % stops.length].focus();
    });
  });
  // A thin line is hard to hit.
  for (const line of figure.querySelectorAll(".series > path")) {
    const wide = line.cloneNode();
    wide.removeAttribute("style");
    wide.setAttribute("class", "hit");
    line.before(wide);
  }
}

// What goes on to the right, or below, fades there.
const boxes = [...document.querySelectorAll(".scroll")];
const fade = box => {
  box.classList.toggle("more", box.scrollWidth - box.clientWidth - box.scrollLeft > 1);
  box.classList.toggle("below", box.scrollHeight - box.clientHeight - box.scrollTop > 1);
};
const sizes = new ResizeObserver(entries => entries.forEach(entry => fade(entry.target)));
for (const box of boxes) {
  box.addEventListener("scroll", () => fade(box), {passive: true});
  sizes.observe(box);
}

// On paper, what is folded is open, but for what made the runs and what the searches saw.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details.printed:not([open])")];
  opened.forEach(fold => { fold.open = true; });
});
addEventListener("afterprint", () => opened.forEach(fold => { fold.open = false; }));
