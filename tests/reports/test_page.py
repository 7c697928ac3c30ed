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
from tpbench.reports.page import make_report
from tpbench.reports.style import contrast, dark_colour, drawing, method_style, variable
from tpbench.reports.style import to_svg as drawn_as_svg
from tpbench.reports.summary import Verdict
from tpbench.results import RunRecord, RunStore, choose_cells
from tpbench.results.formats import Value
from tpbench.results.ranking import rank_all, ranking_header, ranking_values


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "results")
    for seed in range(10):
        for method, level in (("bp", 0.01), ("ddtp-linear", 0.011), ("dtp", 0.02)):
            error = level + (seed + len(method)) % 10 / 1000
            store.publish(record(method, seed, [0.5, error], epochs=2, found={"by": "published"}))
    for seed in range(4):
        run = record("dfa", seed, [0.4, 0.1 + seed / 1000], label="<b>odd</b> copy")
        store.publish(replace(run, provenance={"command": "tpbench <b>odd</b> 0-9"}))
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
    assert "tpbench &lt;b&gt;odd&lt;/b&gt; <span>0-9</span>" in page  # a range stays on one line
    assert 'scope="col"' in page
    assert 'lang="en"' in page
    assert "data-reload" not in page


@pytest.mark.parametrize(("wall_time", "error"), [(0.0, 0.02), (1.5, 0.0)])
@pytest.mark.filterwarnings("error")
def test_zero_errors_and_times_are_drawn_without_a_warning(tmp_path: Path, wall_time: float, error: float) -> None:
    store = RunStore(tmp_path)
    for method in ("bp", "dfa"):
        store.publish(replace(record(method, 0, [error, error], epochs=2, test=[error] * 2), wall_time_s=wall_time))
    assert make_report(RunStore(tmp_path), "tpbench report").html()
    assert drawn_as_svg(learning_curves(store, cells_of(store, "mnist")))


def test_a_workload_with_a_copy_alone_is_named_as_one_without_runs(store: RunStore) -> None:
    store.publish(record("bp", workload="cifar10", epochs=2, label="copy 0123abcd", found={"by": "published"}))
    content = make_report(RunStore(store.folder), "tpbench report").content
    assert "CIFAR10" in content["nothing"]
    assert "MNIST" not in content["nothing"]


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
    assert any(re.fullmatch(r"BP: validation error \(%\) 1\.45 .*\(10 seeds\)", text) for text in said), said
    assert any(re.fullmatch(r"BP: 2\.45 %, .*2\.23 .*2\.67; .*; paper 1\.98", text) for text in said), said
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


class Tables(HTMLParser):
    """Collects the tables of a page: text of each entry, with stars around what is bold."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.entry: list[str] | None = None
        self.caption = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.tables[self.caption].append([])
        if tag in ("caption", "td", "th"):
            self.entry = []
        if tag == "strong" and self.entry is not None:
            self.entry.append("*")
        if tag == "br" and self.entry is not None:
            self.entry.append("|")

    def handle_data(self, data: str) -> None:
        if self.entry is not None:
            self.entry.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("caption", "td", "th") and self.entry is not None:
            text, self.entry = "".join(self.entry), None
            if tag == "caption":
                self.caption = text
                self.tables[text] = []
            else:
                self.tables[self.caption][-1].append(text)


def tables_of(store: RunStore, baseline: str = "bp") -> dict[str, list[list[str]]]:
    parser = Tables()
    parser.feed(make_report(store, "tpbench report", baseline).html())
    return parser.tables


@pytest.mark.parametrize("baseline", ["bp", "dtp"])
def test_a_table_per_workload_shows_its_ranking(store: RunStore, baseline: str) -> None:
    tables = tables_of(store, baseline)
    rankings = rank_all(choose_cells(store.summaries()), baseline)
    assert [caption for caption in tables if caption in {ranking.title for ranking in rankings}] == [
        ranking.title for ranking in rankings
    ]
    for ranking in rankings:
        header, *rows = tables[ranking.title]
        assert header == ranking_header(ranking)
        for row, ranked in zip(rows, ranking.cells, strict=True):
            values = [value if isinstance(value, Value) else Value(value) for value in ranking_values(ranked)]
            assert row == ["*" * value.bold + value.text for value in values]
        assert any(entry.startswith("*") for row in rows for entry in row) == any(r.differs for r in ranking.cells)


def test_the_page_begins_with_a_matrix_of_methods_and_workloads(store: RunStore) -> None:
    (header, *rows), *_ = tables_of(store).values()
    assert header == ["method", "MNIST", "MNIST (<b>odd</b> copy ffffffff)"]
    by_method = {row[0]: row[1:] for row in rows}
    numbers = {method: [re.findall(r"[+-]?\d+\.\d\d", entry) for entry in row] for method, row in by_method.items()}
    assert numbers == {
        "BP": [["2.45"], []],
        "DTP": [["3.45", "+1.00"], []],
        "DDTP-linear": [["2.55", "+0.10"], []],
        "DFA, unknown": [[], ["11.15"]],
    }
    # A sign tells without colour what each cell says.
    signs = {row[0]: {one for one in Verdict if one.value.strip() and one.value in "".join(row[1:])} for row in rows}
    assert signs == {
        "BP": {Verdict.BASELINE},
        "DTP": {Verdict.WORSE},
        "DDTP-linear": {Verdict.BEST, Verdict.SAME},
        "DFA, unknown": {Verdict.UNTESTED},
    }


def test_the_sections_are_in_the_order_of_a_reader(store: RunStore) -> None:
    page = make_report(store, "tpbench report").html()
    links = re.findall(r'<li><a href="#(.*?)">', page)
    assert links == ["summary", "workloads", "curves", "tables", "leaderboard", "provenance"]
    assert re.findall(r'<h2 id="(.*?)">', page) == links


def test_what_is_missing_has_the_command_that_trains_it(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "other results")
    for seed in (0, 1, 2, 4):
        store.publish(record("bp", seed, [0.5, 0.02], found={"by": "published"}))
    page = make_report(store, "tpbench report").html()
    place = f"--results &#39;{store.folder}&#39;"
    assert f"<code>tpbench run mnist bp --seeds 3,5-9 {place}</code>" in page
    assert f"<code>tpbench reproduce --dry-run {place}</code>" in page


def test_every_colour_of_a_figure_has_a_dark_one_that_can_be_seen(store: RunStore) -> None:
    report = make_report(store, "tpbench report")
    page = report.html()
    used = set(re.findall(r"var\(--(\w+)\)", page))
    light, dark = (dict(re.findall(r"--(\w+):(#[0-9a-f]{6});", part)) for part in re.findall(r":root\{(.*?)\}", page))
    assert used <= light.keys() == dark.keys()
    # No colour is left that does not follow the page.
    assert not re.findall(r": #[0-9a-f]{6}\b", page)
    for method in ("bp", "dfa", "fa", "dtp", "dtpdrl", "ddtp-linear", "ddtp-rhl", "gnt", "a-rule-of-a-package"):
        style = method_style(method)
        assert dark[variable(style.light)[6:-1]] == style.dark
        assert contrast(style.light, light["page"]) >= 3
        assert contrast(style.dark, dark["page"]) >= 3
    for side in (light, dark):
        for ground in ("page", "soft", "best", "better", "worse"):
            assert min(contrast(side[text], side[ground]) for text in ("ink", "muted")) >= 4.5


@pytest.mark.parametrize(
    ("colour", "wanted"),
    [("#000000", "#e8e8e8"), ("#ffffff", "#181818"), ("#08519c", "#6aaeea"), ("#009e73", "#009e73")],
)
def test_dark_colours(colour: str, wanted: str) -> None:
    assert dark_colour(colour) == wanted
    assert dark_colour("#b0b0b0") < "#606060"  # the grid stays behind the lines
    assert contrast(dark_colour("#0000ff"), "#181818") >= 3


def test_the_papers_table_compares_published_cells_on_its_data_alone(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "results")
    for seed in range(10):
        error = 0.010 + seed / 1000
        store.publish(record("bp", seed, [0.5, error], found={"by": "published"}))
        store.publish(record("bp", seed, [0.5, error], fingerprint="e" * 64, label="copy", found={"by": "published"}))
        store.publish(record("dtp", seed, [0.5, error], found={"by": "file"}))
    ((header, *rows),) = (table for caption, table in tables_of(store).items() if "S6" in caption)
    exact, copy = header.index("MNIST"), next(n for n, name in enumerate(header) if name.startswith("MNIST (copy"))
    found = {row[0]: row for row in rows}
    assert found["BP"][exact].split("|")[:2] == ["2.45 ± 0.30", "paper: 1.98 ± 0.14"]
    assert found["BP"][exact].split("|")[2].startswith("+23.7 %")
    assert found["BP"][copy].split("|") == ["2.45 ± 0.30", "paper: 1.98 ± 0.14"]
    assert found["DTP"][exact].split("|")[0] == "missing"


def test_epochs_to_target_and_provenance_are_rows_of_their_tunings(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "results")
    for seed in range(3):
        store.publish(record("bp", seed, [0.5, 0.3, 0.1, 0.1], epochs=4, found={"by": "published"}))
        store.publish(record("dtp", seed, [0.5, 0.3, 0.3, 0.1], epochs=4, found={"by": "published"}))
        store.publish(record("dtp", seed, [0.5, 0.3, 0.2, 0.2], epochs=4, lr=2e-3, found={"by": "file"}))
    tables = tables_of(store)
    (header, *rows) = tables["Epochs to target"]
    place = header.index("epochs")
    assert [(row[1], row[2], row[place]) for row in rows] == [
        ("BP [without seeds 3-9; 4 epochs]", "published", "3 (3 to 3)"),
        ("DTP [without seeds 3-9; 4 epochs]", "published", "4 (4 to 4)"),
        ("DTP [without seeds 3-9; 4 epochs]", "file", "never"),
    ]
    (header, *rows) = tables["Origin of the runs: MNIST"]
    assert [(row[0], row[header.index("tuning")], row[header.index("seeds")]) for row in rows] == [
        ("BP", "published", "0-2"),
        ("DTP", "published", "0-2"),
        ("DTP", "file", "0-2"),
    ]


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
