"""The report: self-contained, escaped, whole without a script. What needs a browser: test_page_in_use.py."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

from tests.conftest import Inside
from tests.results.records import record
from tpbench.reports.curves import cells_of, cost_plot, learning_curves
from tpbench.reports.style import drawing
from tpbench.reports.style import to_svg as drawn_as_svg
from tpbench.results import RunRecord, RunStore


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "results")
    for seed in range(4):
        store.publish(record("bp", seed, [0.5, 0.0100 + seed / 1000], epochs=2))
        store.publish(record("ddtp-linear", seed, [0.4, 0.0110 + seed / 1000], epochs=2))
        store.publish(record("dfa", seed, [0.4, 0.1 + seed / 1000], label="<b>odd</b> copy"))
    return store


class Structure(HTMLParser):
    """Collects what a page refers to, its ids, and whether its elements close in order."""

    VOID = ("meta", "br", "path", "use", "rect", "line", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.series: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data") and value:
                self.links.append(value)
            if name == "id" and value:
                self.ids.append(value)
        if ("class", "series") in attrs:
            self.series.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def make(tpbench_inside: Inside, tmp_path: Path) -> str:
    result = tpbench_inside("report")
    assert result.returncode == 0, result.stderr
    return (tmp_path / "report.html").read_text()


def test_the_page_asks_for_nothing_outside_and_is_well_formed(
    store: RunStore, tpbench_inside: Inside, tmp_path: Path
) -> None:
    page = make(tpbench_inside, tmp_path)
    structure = Structure()
    structure.feed(page)
    assert structure.open == []
    assert all(link.startswith("#") for link in structure.links), structure.links
    assert len(set(structure.ids)) == len(structure.ids)
    # Shapes of characters lie in one place, shapes of points and edges of panels in each figure.
    assert {link[1:] for link in structure.links} <= set(structure.ids)
    assert "<b>odd</b>" not in page
    assert "&lt;b&gt;odd&lt;/b&gt; copy" in page
    assert 'scope="col"' in page
    assert 'lang="en"' in page
    assert "data-reload" not in page
    assert re.search(r"<strong>2\.2\d ± 0\.\d+", page)


def test_the_policy_lets_through_the_pages_own_script_and_style_alone(
    store: RunStore, tpbench_inside: Inside, tmp_path: Path
) -> None:
    page = make(tpbench_inside, tmp_path)
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy.startswith("default-src 'none';")
    for element in ("script", "style"):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        known = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{element}-src{'-elem' * (element == 'style')} 'sha256-{known}'" in policy
    assert " onclick=" not in page


def test_every_curve_says_its_name_without_a_script(store: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    page = make(tpbench_inside, tmp_path)
    structure = Structure()
    structure.feed(page)
    stops = [one for one in structure.series if "tabindex" in one]
    # In the forest, among the validation errors (the runs have no loss) and in the picture of cost.
    said = [str(one["aria-label"]) for one in stops]
    assert sum(text.startswith("BP: ") for text in said) == 3
    assert any(re.fullmatch(r"BP: validation error \(%\) 1\.15 .*\(4 seeds\)", text) for text in said), said
    assert any(re.fullmatch(r"BP: 2\.15 %, .*1\.94 .*2\.36, .*; paper 1\.98", text) for text in said), said
    assert all({"role", "data-name"} <= one.keys() for one in stops)
    assert {one["data-name"] for one in structure.series} >= {"BP", "DDTP-linear"}
    assert page.count("<title>") == 1 + len(stops)


def test_numbers_are_read_out_and_intervals_shown_as_they_are(tpbench_inside: Inside, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "results")
    for seed, error in enumerate((0.0001, 0.0002, 0.03)):
        store.publish(record("dfa", seed, [0.5, error], epochs=2, label="jitter 0.12345 deadbeef"))
    for seed in range(2):
        store.publish(record("bp", seed, [0.5, 0.000456], epochs=2))
    page = make(tpbench_inside, tmp_path)
    structure = Structure()
    structure.feed(page)
    assert any("BP: validation error (%) 0.0456 at" in (part.get("aria-label") or "") for part in structure.series)
    # Legend and curve call a method alike.
    named = {part["data-name"] for part in structure.series}
    assert "DFA (jitter 0.12345 deadbeef)" in named
    assert set(re.findall(r'<button[^>]* data-name="([^"]*)"', page)) <= named
    assert re.search(r"<small>-2\.27 \w+ 6\.29</small>", page)


@pytest.mark.parametrize(("there", "code"), [(True, 1), (False, 2)], ids=["empty", "absent"])
def test_an_empty_store_is_one_line(tpbench_inside: Inside, tmp_path: Path, there: bool, code: int) -> None:
    if there:
        (tmp_path / "nothing").mkdir()
    result = tpbench_inside("report", "--results", "nothing")
    assert result.returncode == code
    assert "no run" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["curves", "cost"])
def test_a_figure_is_drawn_once_and_as_when_it_is_saved(
    kind: str, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    draw = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: (drawn.append(figure), draw(figure, renderer)))
    cells = cells_of(store, "mnist")
    figure = {"curves": lambda: learning_curves(store, cells), "cost": lambda: cost_plot(cells)}[kind]
    with drawing(), matplotlib.rc_context({"svg.hashsalt": "ids that do not change"}):
        figures = [figure(), figure()]
        on_the_page = drawn_as_svg(figures[0])
        assert drawn == figures[:1]
        saved = io.StringIO()
        figures[1].savefig(saved, format="svg", metadata={"Date": None})
    assert saved.getvalue().endswith(on_the_page)


def test_the_cost_of_a_cell_is_not_averaged_over_devices(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for seed, (device, name, seconds) in enumerate(
        [("cpu", "A CPU", 700.0), ("cpu", "A CPU", 800.0), ("cuda", "A GPU", 20.0), ("cpu", "Another CPU", 300.0)]
    ):
        made = {"device": device, "device_name": name}
        store.publish(replace(record("dtp", seed), wall_time_s=seconds, provenance=made))
    store.publish(replace(record("bp"), wall_time_s=50.0))  # of an older version, which did not say
    figure = cost_plot(cells_of(store, "mnist"))
    (axes,) = figure.axes
    found = sorted(
        (bars[0].get_xdata()[0], bars[0].get_markerfacecolor() == "white")
        for bars in axes.containers  # type: ignore[index]
    )
    assert found == [(20.0, True), (50.0, False), (300.0, False), (750.0, False)]
    assert axes.get_xlabel().endswith("a GPU")


def test_the_runs_of_a_figure_are_read_together(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = cells_of(store, "mnist")
    gone = cells[0].runs[0].definition.id
    store.path(gone).unlink()
    asked: list[list[str]] = []

    def whole(self: RunStore, runs: Iterable[RunRecord]) -> Iterator[RunRecord]:
        runs = list(runs)
        asked.append([run.definition.id for run in runs])
        return read(self, runs)

    read = RunStore.with_curves
    monkeypatch.setattr(RunStore, "with_curves", whole)
    learning_curves(store, cells)  # without the run that is gone
    assert asked == [[run.definition.id for cell in cells for run in cell.runs]]
