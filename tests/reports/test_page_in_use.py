"""The report in a real browser: by keyboard and pointer, narrow, dark and on paper; and what axe-core says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.reports.axe import violations_in, violations_without_browser
from tests.reports.browser import Browser, PageLeftError, browsing, chromium
from tests.results.records import record
from tpbench.reports.page import Report, make_report
from tpbench.results import RunStore
from tpbench.results.runs import search_info

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of a small store in which everything that can be said is said."""
    folder = tmp_path_factory.mktemp("report")
    store = RunStore(folder / "results")
    published, search = {"by": "published"}, search_info("s", 40, 2, "0" * 64, "final", range(10))
    for seed in range(10):
        for method, level in (("bp", 0.01), ("ddtp-linear", 0.011), ("dtp", 0.2)):
            error = level + (seed + len(method)) % 10 / 1000
            store.publish(record(method, seed, [0.5, error], epochs=2, found=published))
    for seed in range(4):
        store.publish(record("dtp", seed, [0.5, 0.1 + seed / 1000], epochs=2, lr=2e-3, found=search))
        store.publish(record("dfa", seed, [0.4, 0.1 + seed / 1000], epochs=2, label="copy 0123abcd", found=published))
    store.publish(record("dtpdrl", 0, [0.5], status="diverged", epochs=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPBENCH_CACHE", str(folder / "cache"))
        return make_report(store, "tpbench report")


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.html(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not chromium():
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


def show(browser: Browser, page: Path, width: int, **media: str) -> None:
    """Open a page on a screen of this width with these preferences, or on paper."""
    features = [{"name": "prefers-color-scheme", "value": media.get("scheme", "light")}]
    browser.call("Emulation.setEmulatedMedia", media=media.get("kind", "screen"), features=features)
    browser.open(page, width)


def test_axe_finds_nothing(page: Path, request: pytest.FixtureRequest) -> None:
    """Best practices and WCAG A and AA, with every fold open; what differs by screen on another one too."""
    if not chromium():
        assert violations_without_browser(page) == []
        return
    browser = request.getfixturevalue("browser")
    for width, scheme in ((1300, "light"), (390, "dark")):
        show(browser, page, width, scheme=scheme)
        browser.ask("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
        assert violations_in(browser) == []


def test_axe_would_find_something(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<!doctype html><html lang="en"><title>x</title><main><h1>x</h1><img src="x.png"></main></html>')
    if not chromium():
        found = violations_without_browser(bad)
    else:
        browser = request.getfixturevalue("browser")
        show(browser, bad, 390)
        found = violations_in(browser)
    assert [violation.split(":")[0] for violation in found] == ["image-alt"]


@pytest.mark.parametrize(("width", "kind"), [(1300, "screen"), (800, "screen"), (390, "screen"), (760, "print")])
def test_the_page_is_as_wide_as_its_window(page: Path, browser: Browser, width: int, kind: str) -> None:
    """Wide tables scroll inside their own frame; on a laptop and on paper none has to."""
    show(browser, page, width, kind=kind)
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    if kind == "print" or width == 1300:
        wide = "[...document.querySelectorAll('section:not([aria-labelledby=provenance]) .wide')]"
        assert browser.ask(f"{wide}.filter(one => one.scrollWidth > one.clientWidth + 1).length") == 0
    assert browser.complaints == []  # nor does the page's policy stop its own script and style
    assert browser.ask("document.documentElement.className") == "script"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_legend_has_the_colours_of_its_lines(page: Path, browser: Browser, scheme: str) -> None:
    show(browser, page, 1300, scheme=scheme)
    colours = browser.ask(
        """[...document.querySelectorAll('.linked')].flatMap(group => {
            const stroke = one => getComputedStyle(one).stroke;
            const drawn = name => [...group.querySelectorAll('.series[aria-label] path:not(.hit)')]
                .filter(one => one.closest('.series').dataset.name === name).map(stroke).filter(one => one !== 'none');
            return [...group.querySelectorAll('.legend button')].map(({dataset, firstElementChild}) => [
                dataset.name, stroke(firstElementChild.querySelector('path')), [...new Set(drawn(dataset.name))]]);
        })"""
    )
    assert {name for name, _, _ in colours} >= {"BP", "DDTP-linear"}
    assert all(drawn == [legend] for _, legend, drawn in colours), colours
    black = {"light": "rgb(0, 0, 0)", "dark": "rgb(232, 232, 232)"}[scheme]
    assert {legend for name, legend, _ in colours if name == "BP"} == {black}
    ground = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(24, 24, 24)"}[scheme]
    assert browser.ask("[...document.querySelectorAll('svg')].every(one => getComputedStyle(one).filter === 'none')")


def test_paper_is_light(page: Path, browser: Browser) -> None:
    show(browser, page, 760, scheme="dark", kind="print")
    assert browser.ask("getComputedStyle(document.documentElement).getPropertyValue('--page')") == "#ffffff"


def test_on_a_phone_the_method_stays_in_sight_and_what_goes_on_is_marked(page: Path, browser: Browser) -> None:
    show(browser, page, 390)
    browser.wait("document.querySelector('nav .scroll').classList.contains('more')")
    browser.ask("document.querySelector('.wide').scrollLeft = 1000")
    first = "document.querySelector('.wide tbody th').getBoundingClientRect()"
    assert browser.ask(f"{first}.left >= 0 && {first}.right < 200")
    browser.wait("!document.querySelector('.wide').classList.contains('more')")
    # Letters are 13 px high at the drawing's own size.
    scale = "(one => one.getBoundingClientRect().width / one.viewBox.baseVal.width * 72 / 96)"
    assert browser.ask(f"[...document.querySelectorAll('.forest svg')].map({scale}).every(one => one * 13 >= 10)")


def focused(browser: Browser) -> str:
    """A name for what has the focus: its text, or its label."""
    return str(
        browser.ask(
            "(one => one === document.body ? '' : one.getAttribute('aria-label') ?? one.textContent.trim())"
            "(document.activeElement)"
        )
    )


def tabbed(browser: Browser) -> list[str]:
    """Everything that the tabulator stops at, from the top of the page."""
    seen = []
    while True:
        browser.press("Tab")
        name = focused(browser)
        if not name or len(seen) > 200:
            return seen
        seen.append(name)


def test_everything_can_be_reached_with_the_tabulator(page: Path, browser: Browser) -> None:
    show(browser, page, 1300)
    stops = tabbed(browser)
    assert stops[0].startswith("Skip ")
    assert stops[1] == "Summary"
    shown = "[...document.querySelectorAll('th button, summary, .legend button')].filter(one => one.checkVisibility())"
    wanted = browser.ask(f"{shown}.map(one => one.textContent.trim())")
    assert len(wanted) > 15
    remaining = list(stops)
    for name in wanted:
        remaining.remove(name)
    # One stop for each figure: two forests, and loss (which these runs have not), errors and cost.
    series = browser.ask("[...document.querySelectorAll('figure .series[tabindex=\"0\"]')].map(one => one.ariaLabel)")
    assert len(series) == 4
    assert all(name in remaining for name in series)


def test_arrows_go_from_curve_to_curve_and_each_says_its_name(page: Path, browser: Browser) -> None:
    show(browser, page, 1300)
    browser.ask("document.querySelector('.plots .series[tabindex=\"0\"]').focus()")
    seen = [focused(browser)]
    for _ in range(5):
        assert browser.ask("document.querySelector('.bubble').textContent") == seen[-1]
        browser.press("ArrowRight")
        seen.append(focused(browser))
    assert [name.split(": ")[0] for name in seen] == [
        "BP",
        "DFA (copy 0123abcd)",
        "DTP, published",
        "DTP, 40 x 2",
        "DDTP-linear",
        "BP",
    ]
    assert seen[0].startswith("BP: validation error (%) 1.45 ")
    browser.press("ArrowLeft")
    chosen = "[...document.querySelectorAll('.plots .series')].filter(one => getComputedStyle(one).opacity === '1')"
    # Opacity changes little by little.
    browser.wait(f"[...new Set({chosen}.map(one => one.dataset.name))].join() === 'DDTP-linear'")
    browser.press("Escape")
    assert browser.ask("document.querySelector('.bubble').hidden")


def test_tables_and_folds_work_by_keyboard(page: Path, browser: Browser) -> None:
    show(browser, page, 390)
    table = "document.querySelector('[data-fold^=leaderboard] table')"
    browser.ask(f"{table}.closest('details').open = true")
    column = browser.ask(f"[...{table}.tHead.rows[0].cells].findIndex(one => one.textContent.startsWith('minus'))")
    browser.ask(f"{table}.tHead.rows[0].cells[{column}].querySelector('button').focus()")
    for key, direction in (("Enter", "ascending"), ("Space", "descending")):
        browser.press(key)
        assert browser.ask(f"{table}.tHead.rows[0].cells[{column}].ariaSort") == direction
        keys = browser.ask(f"[...{table}.tBodies[0].rows].map(row => row.cells[{column}].dataset.key)")
        numbers = [float(key) for key in keys if key != "-"]
        assert numbers == sorted(numbers, reverse=direction == "descending")
        assert (len(numbers), keys[-1]) == (3, "-")  # what is not tested, and the baseline, comes last
    browser.ask("document.querySelector('details:not([open]) summary').focus()")
    closed = browser.ask("document.querySelectorAll('details:not([open])').length")
    browser.press("Enter")
    assert browser.ask("document.querySelectorAll('details:not([open])').length") == closed - 1
    browser.ask("document.querySelector('.legend button').focus()")
    browser.press("Enter")
    assert browser.ask("document.querySelector('.legend button').ariaPressed") == "true"


def test_pointing_to_a_curve_names_it(page: Path, browser: Browser) -> None:
    show(browser, page, 1300)
    browser.point(".forest .series[data-name='DTP, published'][tabindex]")
    browser.wait("!document.querySelector('.bubble').hidden")
    assert browser.ask("document.querySelector('.bubble').textContent").startswith("DTP, published: 21.45 %")
    browser.point("h1")
    browser.wait("document.querySelector('.bubble').hidden")


NEVER = 10_000
"""Seconds between two looks of a page that a test has look when it is time."""


def look_again(browser: Browser) -> None:
    """Have a watched page load itself anew, as it does at once where a pause ends."""
    button = "document.querySelector('.live button').click()"
    with suppress(PageLeftError):
        browser.ask(f"{button}; {button}")


def test_a_watched_page_is_after_a_reload_as_it_was_left(report: Report, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "watched.html"
    path.write_text(report.html(reload_s=NEVER), encoding="utf-8")
    show(browser, path, 800)
    browser.ask_loaded(
        "document.querySelector('details').open = true",
        "document.querySelector('th button').click()",
        "document.querySelector('.legend button').click()",
        "document.querySelectorAll('summary')[1].focus()",
        "scrollTo(0, 500)",
        "window.before = true",
    )
    # What is written meanwhile has one more link before it, and another title.
    changed = (
        report.html(reload_s=NEVER)
        .replace("<summary>", "<summary>more of ")
        .replace("<ul><li>", "<ul><li><a href='#main'>new</a></li><li>", 1)
    )
    path.write_text(changed, encoding="utf-8")
    look_again(browser)
    seen = browser.ask_loaded(
        "[[...document.querySelectorAll('details')].map(one => one.open).indexOf(true),"
        "document.querySelector('th').ariaSort, scrollY,"
        "document.activeElement === document.querySelectorAll('summary')[1],"
        "document.querySelector('.legend button').ariaPressed]",
        condition="!window.before && document.querySelector('summary').textContent.startsWith('more')",
    )
    assert seen == [0, "ascending", 500, True, "true"]
    pressed = browser.ask_loaded(
        "document.querySelector('.live button').click()", "document.querySelector('.live button').ariaPressed"
    )
    assert pressed == "true"
    assert browser.complaints == []


def test_a_page_follows_though_what_its_reader_chose_is_gone(report: Report, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "watched.html"
    path.write_text(report.html(reload_s=NEVER), encoding="utf-8")
    show(browser, path, 800)
    caption, name, title = browser.ask_loaded(
        "(table => [table.caption.textContent, table.tHead.rows[0].cells[1].textContent,"
        "document.querySelector('.linked h3').textContent])(document.querySelector('table.sortable'))"
    )
    gone = {"folds": ["gone"], "sorted": {caption: ["gone", True]}, "pinned": {title: "gone"}, "top": 0}
    there = {**gone, "sorted": {caption: [name, False]}}
    for state in (gone, {"folds": []}, {**gone, "sorted": {caption: [9, True]}}):
        leave(browser, state)
        assert browser.ask_loaded("document.querySelectorAll('th[aria-sort], .linked.chosen').length") == 0
        browser.ask_loaded("window.before = true")
        look_again(browser)
        browser.ask_loaded("null", condition="!window.before")
    leave(browser, there)
    order = browser.ask_loaded("document.querySelector('table.sortable').tHead.rows[0].cells[1].ariaSort")
    assert order == "descending"
    assert browser.complaints == []


def leave(browser: Browser, state: dict[str, Any]) -> None:
    """Load the page anew as one that was left in this state."""
    browser.ask_loaded(f"history.replaceState({json.dumps(state)}, '')", "window.before = true", "location.reload()")
    browser.ask_loaded("null", condition="!window.before")
