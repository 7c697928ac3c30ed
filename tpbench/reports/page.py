"""``tpbench report``: one self-contained HTML page of everything a store holds."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files

import pandas as pd
from jinja2 import Environment
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tpbench import __version__
from tpbench.engine import TpbenchError, method_title
from tpbench.reports.curves import cost_plot, in_order, learning_curves
from tpbench.reports.names import ALIGNMENT_WORKLOADS
from tpbench.reports.searches import search_figure
from tpbench.results import Cell, RunStore, choose_cells
from tpbench.results.cells import CellKey, workload_words
from tpbench.results.formats import spell
from tpbench.results.leaderboards import BOARD_NOTE, error_words, interval_words, leaderboard_of
from tpbench.results.location import location
from tpbench.results.origins import origins_of
from tpbench.results.paper import ERROR_TABLES
from tpbench.results.rendering import FOOTNOTE, entry_lines, notes
from tpbench.results.tables import ErrorTable, paper_table_of
from tpbench.search.listing import all_sweeps

Cells = Mapping[CellKey, Cell]


@dataclass(frozen=True)
class PageEntry:
    """One entry of a table: what is shown, and the number to sort by where that is not it."""

    text: str
    key: float | None = None
    long: bool = False
    best: bool = False


@dataclass(frozen=True)
class PageTable:
    caption: str
    columns: list[str]
    rows: list[list[PageEntry]]


@dataclass(frozen=True)
class PageFigure:
    svg: str
    alt: str
    caption: str
    command: str


@dataclass
class Section:
    id: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    tables: list[PageTable] = field(default_factory=list)
    figures: list[PageFigure] = field(default_factory=list)


def _svg(figure: Figure) -> str:
    """A figure as inline SVG; ids are made unique to it, because all figures share one page."""
    buffer = io.StringIO()
    # Not by savefig, which draws a figure once more only to lay it out.
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _number(value: float, form: str = ".2f") -> PageEntry:
    missing = pd.isna(value)
    return PageEntry("-" if missing else f"{value:{form}}", None if missing else float(value))


def leaderboard_section(board: pd.DataFrame) -> Section:
    """All cells, best first."""
    rows = []
    for row in board.to_dict("records"):
        rows.append(
            [
                PageEntry(workload_words(row)), PageEntry(method_title(row["method"])), _number(row["seeds"], ".0f"),
                _number(row["epochs"], ".0f"),
                PageEntry(error_words(row), None if math.isnan(row["test_error_mean"]) else row["test_error_mean"]),
                PageEntry(interval_words(row), None if math.isnan(row["ci_low"]) else row["ci_low"]),
                PageEntry(row["against_best"], None if math.isnan(row["p_best"]) else row["p_best"]),
                PageEntry(row["budget"]),
                PageEntry(
                    spell(row["paper_mean"], row["paper_std"]), row["paper_mean"] if row["paper_mean"] > 0 else None
                ),
                _number(row["p_paper"], ".2g"), _number(row["diverged"], ".0f"),
            ]
        )  # fmt: skip
    columns = [
        "workload", "method", "seeds", "epochs", "test error (%)", "95 % interval", "against the best",
        "configuration from", "paper", "p against paper", "diverged",
    ]  # fmt: skip
    note = "p against paper: Welch's test from the printed mean, deviation and n = 10."
    return Section(
        "leaderboard", "Leaderboard", [f"{BOARD_NOTE} {note}"], [PageTable("Test error, best first", columns, rows)]
    )


def _paper_table(table: ErrorTable) -> PageTable:
    rows = []
    for method in table.rows:
        entries = [table.entries[method, column] for column in table.columns]
        spelled = [
            PageEntry(
                " / ".join(entry_lines(e)), e.cell.mean if e.cell and not math.isnan(e.cell.mean) else None, best=e.best
            )
            for e in entries
        ]
        rows.append([PageEntry(method_title(method)), *spelled])
    return PageTable(table.title, ["method", *(c.title for c in table.columns)], rows)


def paper_section(cells: Cells) -> Section:
    """The tables of errors beside the paper's numbers."""
    tables = [paper_table_of(cells, name) for name in ERROR_TABLES]
    said = dict.fromkeys(note for table in tables for note in notes(table))
    return Section("tables", "The paper's tables", [FOOTNOTE, *said], [_paper_table(table) for table in tables])


def provenance_section(cells: Cells) -> Section:
    """Where the cells of the tables come from: one row per cell and command."""
    rows = []
    for cell in cells.values():
        configuration = ", ".join(f"{k} {v:.4g}" for k, v in cell.runs[0].definition.configuration.items())
        for origin in origins_of(cell):
            rows.append(
                [
                    PageEntry(cell.workload_title), PageEntry(method_title(cell.method)), PageEntry(origin.seeds),
                    _number(origin.seconds, ".0f"), PageEntry(origin.said("command"), long=True),
                    PageEntry(origin.said("commit")[:12]), PageEntry(origin.hardware),
                    PageEntry(origin.said("precision")), PageEntry(origin.said("torch")),
                    PageEntry(configuration, long=True),
                ]
            )  # fmt: skip
    columns = [
        "workload", "method", "seeds", "seconds", "command", "commit", "processor", "precision", "torch",
        "configuration",
    ]  # fmt: skip
    return Section(
        "provenance", "Provenance", ["What made each cell."], [PageTable("Origin of the runs", columns, rows)]
    )


def _try(make: Callable[[], Figure]) -> Figure | None:
    """A figure, or None where the store lacks what it shows."""
    try:
        return make()
    except TpbenchError:
        return None


def curve_sections(store: RunStore, cells: Cells, workloads: Iterable[str]) -> Section:
    """Learning curves and cost of every workload; of the store, the curves that are drawn are read."""
    section = Section("curves", "Learning curves and cost")
    for workload in workloads:
        drawn = in_order(cell for cell in cells.values() if cell.workload == workload)
        for kind, figure, alt in (
            ("curves", learning_curves(store, drawn), "training loss and validation error over epochs"),
            ("cost", cost_plot(drawn), "test error against seconds per run"),
        ):
            command = f"tpbench plot {kind} {workload}"
            section.figures.append(PageFigure(_svg(figure), f"{workload}: {alt}", f"{workload}: {alt}.", command))
    return section


def alignment_section(results: str) -> Section:
    """Figures 4 and S3 to S5, where alignment was recorded."""
    section = Section("alignment", "Alignment of the updates")
    if not (location(results) / "alignment").is_dir():
        return section
    # It needs torch.
    from tpbench.reports.figures import alignment_figure

    for name, workload in ALIGNMENT_WORKLOADS.items():
        figure = _try(lambda name=name: alignment_figure(results, name))  # type: ignore[misc]
        if figure:
            caption = f"Figure {name.upper()}: angles with the loss gradient and with Gauss-Newton targets' updates."
            alt = f"{workload}: angles of weight updates over epochs"
            section.figures.append(PageFigure(_svg(figure), alt, caption, f"tpbench figure {name}"))
    return section


def search_section(results: str) -> Section:
    """What every sweep searched."""
    section = Section("searches", "Searches")
    for status in all_sweeps(results):
        figure = _try(lambda name=status.id: search_figure(results, name))  # type: ignore[misc]
        if figure:
            caption = f"{status.id} ({status.state}): error over trials, importance, parallel coordinates."
            section.figures.append(
                PageFigure(_svg(figure), f"search of {status.id}", caption, f"tpbench plot search {status.id}")
            )
    return section


def render_report(results: str, command: str) -> str:
    """The whole page.

    Raises:
        TpbenchError: the store is empty.
    """
    store = RunStore(location(results))
    runs = store.summaries()
    if not runs:
        raise TpbenchError(f"{results} holds no run yet; train some with 'tpbench sweep' or 'tpbench run'")
    cells = choose_cells(runs)
    board = leaderboard_of(cells)
    sections = [
        leaderboard_section(board), paper_section(cells),
        curve_sections(store, cells, dict.fromkeys(board["workload"])), alignment_section(results),
        search_section(results), provenance_section(cells),
    ]  # fmt: skip
    template = files("tpbench.reports").joinpath("templates/report.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return page.render(
        title="tpbench: is this learning rule really better than that one?",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), version=__version__, runs=len(runs), store=results,
        command=command, warnings=list(dict.fromkeys(store.damaged)),
        sections=[s for s in sections if s.tables or s.figures],
    )  # fmt: skip
