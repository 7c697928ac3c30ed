
// A page that follows a store loads itself anew where its figures changed, and is then as the reader left it.
const now = document.querySelector("#live");
const folds = () => [...document.querySelectorAll("details")], captions = () => [...document.querySelectorAll("table.sortable")];
const focusable = () => [...document.querySelectorAll("a, button, summary, select, input, [tabindex]")];
// What an element is called on every version of the page: there may be more of them after a while.
const called = one => JSON.stringify([
  one.tagName, one.getAttribute("href"), one.dataset.name, one.dataset.name ? null : one.getAttribute("aria-label"),
  one.tagName === "BUTTON" ? one.textContent : null, one.closest("[data-fold]")?.dataset.fold,
  one.closest("table")?.caption.textContent, one.closest(".linked")?.querySelector("h3").textContent,
  one.closest("svg")?.getAttribute("aria-label"),
].map(text => text ?? null));

// What is in the middle of the screen, and where its top is.
function middle() {
  const places = [...document.querySelectorAll(".sweeps > li, main > section:not(#live)")];
  const one = places.find(place => place.getBoundingClientRect().bottom > innerHeight / 2) ?? places.at(-1);
  return one && [one.id ? `#${CSS.escape(one.id)}` : `[aria-labelledby="${CSS.escape(one.getAttribute("aria-labelledby"))}"]`, one.getBoundingClientRect().top];
}
function scrollBack([selector, top]) {
  const one = document.querySelector(selector);
  if (one) scrollBy(0, one.getBoundingClientRect().top - top);
}
function openFolds(open) {
  for (const fold of folds()) fold.open = open.includes(fold.dataset.fold);
}
const openNames = () => folds().filter(fold => fold.open).map(fold => fold.dataset.fold);
const kept = history.state;
function restore() {
  openFolds(kept.folds);
  for (const table of captions()) if (kept.sorted[table.caption.textContent]) sort(table, ...kept.sorted[table.caption.textContent]);
  for (const [title, name] of Object.entries(kept.pinned)) pins.get(title)?.pin(name);
  focusable().find(one => called(one) === kept.focus)?.focus({preventScroll: true});
  scrollTo(0, kept.top);
  if (kept.top && kept.middle) scrollBack(kept.middle);
}
try {
  if (kept?.folds) restore();
} catch (error) {
  // The page of another version may have kept other things. It follows the store all the same.
  console.warn(error);
}

const watched = document.documentElement.dataset, every = Number(watched.reload);
if (every) {
  const pause = document.querySelector(".live button"), stale = document.querySelector(".live [role=status]");
  let paused = kept?.paused ?? false, pressed = false, written = null, heard = Date.now(), pace = every;

  // Someone selects text, holds a button of the mouse, or has a menu open: nothing is replaced under their hands.
  const busy = () => pressed || getSelection().type === "Range" || !!document.querySelector("dialog[open], :popover-open")
    || !!document.activeElement?.matches("select, input, textarea");
  addEventListener("pointerdown", () => { pressed = true; });
  for (const end of ["pointerup", "pointercancel", "blur"]) addEventListener(end, () => { pressed = false; });

  const reload = () => {
    if (paused || document.hidden || busy()) return;
    history.replaceState({
      folds: openNames(), sorted: Object.fromEntries(sorted),
      pinned: Object.fromEntries([...pins].filter(([, one]) => one.name() !== null).map(([title, one]) => [title, one.name()])),
      top: scrollY, middle: middle(), focus: document.activeElement ? called(document.activeElement) : null, paused,
    }, "");
    location.reload();
  };
  // Replace the section about what is going on now; what is in the middle of the screen stays there.
  const replace = html => {
    const open = openNames(), focus = now.contains(document.activeElement) ? called(document.activeElement) : null;
    const above = now.getBoundingClientRect().top < 0, place = middle();
    now.innerHTML = html;
    openFolds(open);
    if (focus) focusable().find(one => called(one) === focus)?.focus({preventScroll: true});
    if (above && place) scrollBack(place);
  };
  // Called by the script that tpbench writes beside the page: a page that is opened as a file can read nothing else.
  globalThis.showLive = state => {
    // By the clock of this machine: that of the writer may be another.
    if (state.written !== written) heard = Date.now();
    written = state.written;
    pace = state.every;
    if (paused || busy()) return;
    if (state.stamp === watched.stamp) replace(state.html);
    else reload();
  };
  const look = then => {
    if (paused || document.hidden) {
      // What is not looked at is not late.
      heard = Date.now();
      return then();
    }
    if (!watched.feed) {
      then();
      return reload();
    }
    const script = document.createElement("script");
    script.src = `${watched.feed}?${Date.now()}`;
    const done = () => {
      const late = (Date.now() - heard) / 1000;
      stale.textContent = late > 3 * pace + 60 ? "Nothing was written for a while: does tpbench report --watch still run?" : "";
      script.remove();
      then();
    };
    script.addEventListener("load", done);
    // It is gone once nothing is watched any more: the last page is there.
    script.addEventListener("error", () => { done(); reload(); });
    document.body.append(script);
  };
  const follow = () => look(() => setTimeout(follow, 1000 * pace));
  history.scrollRestoration = "manual";
  const show = () => pause.setAttribute("aria-pressed", String(paused));
  show();
  pause.addEventListener("click", () => {
    paused = !paused;
    show();
    if (!paused) look(() => {});
  });
  setTimeout(follow, 1000 * every);
}
