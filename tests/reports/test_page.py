"""The report: self-contained, escaped, and sortable in a real browser."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

from tests.conftest import Inside
from tests.results.records import record
from tpbench.reports.curves import cells_of, cost_plot, learning_curves
from tpbench.reports.page import _svg
from tpbench.results import RunRecord, RunStore


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "results")
    for seed in range(4):
        store.publish(record("bp", seed, [0.5, 0.0100 + seed / 1000]))
        store.publish(record("ddtp-linear", seed, [0.4, 0.0110 + seed / 1000]))
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

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data") and value:
                self.links.append(value)
            if name == "id" and value and "svg" not in self.open:
                self.ids.append(value)

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
    assert "default-src 'none'" in page
    assert "<b>odd</b>" not in page
    assert "&lt;b&gt;odd&lt;/b&gt; copy" in page
    assert 'scope="col"' in page
    assert 'lang="en"' in page
    assert 'role="img" aria-label="mnist' in page
    assert re.search(r"<strong>2\.2\d ± 0\.\d+", page)


@pytest.mark.parametrize(("there", "code"), [(True, 1), (False, 2)], ids=["empty", "absent"])
def test_an_empty_store_is_one_line(tpbench_inside: Inside, tmp_path: Path, there: bool, code: int) -> None:
    if there:
        (tmp_path / "nothing").mkdir()
    result = tpbench_inside("report", "--results", "nothing")
    assert result.returncode == code
    assert "holds no run yet" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["curves", "cost"])
def test_a_figure_is_drawn_once_and_as_when_it_is_saved(
    kind: str, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    draw = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: (drawn.append(figure), draw(figure, renderer)))
    cells = cells_of(store, "mnist")
    with matplotlib.rc_context({"svg.hashsalt": "ids that do not change"}):
        figures = [learning_curves(store, cells) if kind == "curves" else cost_plot(cells) for _ in range(2)]
        on_the_page = _svg(figures[0])
        assert drawn == figures[:1]
        saved = io.StringIO()
        figures[1].savefig(saved, format="svg", metadata={"Date": None})
    assert saved.getvalue().endswith(on_the_page)


def test_the_runs_of_a_figure_are_read_together(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = cells_of(store, "mnist")
    gone = cells[0].runs[0].definition.id
    store.path(gone).unlink()
    asked: list[list[str]] = []

    def whole(self: RunStore, runs: Iterable[RunRecord]) -> Iterator[RunRecord]:
        runs = list(runs)
        asked.append([run.definition.id for run in runs])
        return read(self, runs)

    read = RunStore.whole
    monkeypatch.setattr(RunStore, "whole", whole)
    learning_curves(store, cells)  # without the run that is gone
    assert asked == [[run.definition.id for cell in cells for run in cell.runs]]


PROBE = """<script>
const seen = [];
window.addEventListener("error", e => seen.push("error: " + e.message));
const table = document.querySelector("table.sortable");
const column = [...table.tHead.rows[0].cells].findIndex(c => c.textContent.startsWith("test error"));
const click = () => { table.tHead.rows[0].cells[column].querySelector("button").click();
  return [table.tHead.rows[0].cells[column].getAttribute("aria-sort"),
          [...table.tBodies[0].rows].map(r => Number(r.cells[column].dataset.key))]; };
const result = {up: click(), down: click(), errors: seen,
                overflow: document.documentElement.scrollWidth > window.innerWidth};
const out = document.createElement("pre"); out.id = "probe"; out.textContent = JSON.stringify(result);
document.body.append(out);
</script></body>"""


@pytest.mark.slow
def test_tables_sort_in_chromium(store: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    page = tmp_path / "probe.html"
    page.write_text(make(tpbench_inside, tmp_path).replace("</body>", PROBE))
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=420,900", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout)
    assert found, done.stderr[-2000:]
    result = json.loads(found.group(1))
    assert result["errors"] == []
    assert "CONSOLE" not in done.stderr, done.stderr
    assert not result["overflow"]  # on a phone, wide tables scroll inside their own frame
    (up, rising), (down, falling) = result["up"], result["down"]
    assert (up, down) == ("ascending", "descending")
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert len(rising) == 3
