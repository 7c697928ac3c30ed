"""``tpbench report``: one self-contained HTML page of everything a store holds."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment
from markupsafe import Markup, escape

from tpbench import __version__
from tpbench.engine import TpbenchError, method_title
from tpbench.engine.errors import visible
from tpbench.reports import ALIGNMENT_WORKLOADS
from tpbench.reports.alignment_figures import alignment_figure
from tpbench.reports.alignment_tables import alignment_records, select_workload
from tpbench.reports.curves import (
    BANDS,
    CURVES,
    cell_label,
    cost_panel,
    curve_panel,
    dashes,
    sort_by_method,
)
from tpbench.reports.forest import forest_figure, forest_legend
from tpbench.reports.redrawing import kept
from tpbench.reports.style import Figure, Glyphs, colour, drawing, inline_svg, to_svg
from tpbench.reports.summary import (
    State,
    completeness,
    headline,
    paper_states,
    protocol_words,
    statements,
    warnings_of,
)
from tpbench.reports.tuning_plots import (
    SPREAD_NOTE,
    SPREAD_TITLE,
    TUNING_AXES,
    TUNING_NOTE,
    TuningPlot,
    search_figure,
    tuning_panel,
    tuning_plots,
)
from tpbench.results import Cell, RunStore, choose_cells
from tpbench.results.cells import CellKey, provenance_groups, read_curves
from tpbench.results.formats import Value
from tpbench.results.opening import DEFAULT_STORE
from tpbench.results.paper import ERROR_TABLES, PAPER_WORKLOADS
from tpbench.results.ranking import (
    BASELINE,
    Ranking,
    rank_all,
    ranking_header,
    ranking_notes,
    ranking_values,
    read_test_samples,
)
from tpbench.results.tables import (
    EPOCHS_HEADER,
    ErrorTable,
    against_paper,
    entry_lines,
    epochs_note,
    epochs_rows,
    epochs_values,
    footnote,
    notes,
    overview_matrix,
    overview_notes,
    paper_table,
)
from tpbench.search.listing import list_sweeps
from tpbench.workloads import WORKLOADS

if TYPE_CHECKING:
    import pandas as pd

    from tpbench.results.runs import RunRecord

Cells = Mapping[CellKey, Cell]

TITLE = "tpbench: is this learning rule really better than that one?"
# An interval, a p-value and a range of seeds stay on one line.
_UNBROKEN = re.compile(r"\[[+-][\d.]+, [+-][\d.]+\]|\(p [^()]*\)|\d+-\d+")
_NO_RUN = "{} holds no run yet; train some with 'tpbench sweep' or 'tpbench run'"


@dataclass(frozen=True)
class PageEntry:
    """One entry of a table."""

    text: str
    key: float | None = None
    """The number to sort by, where that is not the text; one that is not finite is missing, and comes last."""
    below: str = ""
    """More lines."""
    long: bool = False
    """Many lines."""
    loose: bool = False
    """May be broken into lines."""
    bold: bool = False

    @property
    def sort(self) -> str | float | None:
        """The sort key; None: the text itself. A dash comes last."""
        if self.key is None:
            return self.text if self.below else None
        return self.key if math.isfinite(self.key) else "-"


@dataclass(frozen=True)
class PageTable:
    caption: str
    columns: list[str]
    rows: list[list[PageEntry]]
    notes: Sequence[str] = ()
    """Its legend, below it."""


@dataclass(frozen=True)
class PageFigure:
    svg: str
    caption: str
    command: str
    """Draws it alone."""


@dataclass(frozen=True)
class PlotGroup:
    """Figures of the same methods, side by side below one legend."""

    id: str
    title: str
    legend: Sequence[tuple[str, str, str]]
    """Name, colour and SVG's ``stroke-dasharray`` of each line."""
    figures: Sequence[PageFigure]


@dataclass(frozen=True)
class Fold:
    """A part of a section that opens on a click."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    figures: Sequence[PageFigure] = ()
    printed: bool = True
    """True: it is open on paper."""
    name: str = ""
    """Stays the same while the title changes; empty: the title does not."""


@dataclass(frozen=True)
class Card:
    """One workload of the summary."""

    title: str
    statements: Sequence[tuple[str, Sequence[str]]]
    cells: Sequence[str]
    """One word for each cell of the paper's: how a square for it looks."""
    cells_label: str
    progress: str
    warnings: Sequence[str]
    figure: PageFigure


@dataclass
class Section:
    id: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    tables: list[PageTable] = field(default_factory=list)
    figures: list[PageFigure] = field(default_factory=list)
    groups: list[PlotGroup] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)

    @property
    def filled(self) -> bool:
        return bool(self.tables or self.figures or self.groups or any(f.tables or f.figures for f in self.folds))


def number(value: float, below: str = "") -> PageEntry:
    """Return an entry that shows a number without decimals."""
    return PageEntry(f"{value:.0f}", float(value), below)


def leaderboard_section(rankings: Sequence[Ranking], baseline: str) -> Section:
    """Return the matrix of methods and workloads, and a table per workload with the tests against the baseline."""
    header, matrix = overview_matrix(rankings)
    title = f"All workloads, against {method_title(baseline)}"
    overview = PageTable(title, header, [list(map(_matrix_entry, row)) for row in matrix], overview_notes(rankings))
    return Section("leaderboard", "Leaderboard", tables=[overview, *map(_ranking_table, rankings)])


def _matrix_entry(value: str | Value) -> PageEntry:
    if isinstance(value, str):
        return PageEntry(value)
    error = value.text.split()[0]
    return PageEntry(value.text, math.nan if error == "-" else float(error), value.below, bold=value.bold)


def _ranking_table(ranking: Ranking) -> PageTable:
    rows = []
    for row in ranking.cells:
        keys = (None, row.cell.mean, row.difference, None, None)
        values = [Value(value) if isinstance(value, str) else value for value in ranking_values(row)]
        rows.append(
            [PageEntry(v.text, key, loose=True, bold=v.bold) for v, key in zip(values, keys, strict=True)],
        )
    return PageTable(ranking.title, ranking_header(ranking), rows, ranking_notes(ranking))


def _paper_table(table: ErrorTable, notes: Sequence[str] = ()) -> PageTable:
    rows = []
    for method in table.rows:
        entries = [PageEntry(method_title(method))]
        for column in table.columns:
            entry = table.entries[method, column]
            measured, paper = entry_lines(entry)
            entries.append(PageEntry(measured, entry.cell.mean if entry.cell else math.nan, paper, loose=True))
        rows.append(entries)
    return PageTable(table.title, ["method", *(c.title for c in table.columns)], rows, notes)


def paper_section(tables: Mapping[str, ErrorTable], folded: bool) -> Section:
    """Return the tables of errors beside the paper's numbers: Table S6, and Table 1 in a fold.

    Args:
        folded: whether the whole one is in a fold too, as where the store has nothing of it.
    """
    whole = _paper_table(tables["s6"], [footnote(tables["s6"]), *notes(tables["s6"])])
    shorter = Fold("Table 1, the part of it that the paper's text shows", tables=[_paper_table(tables["1"])])
    section = Section("tables", "The paper's table", folds=[shorter])
    if folded:
        section.folds.insert(0, Fold(whole.caption, tables=[whole]))
    else:
        section.tables.append(whole)
    return section


def provenance_section(cells: Mapping[CellKey, Cell]) -> Section:
    """Return the section of provenance: one row per cell and command."""
    rows = []
    for cell in cells.values():
        configuration = ", ".join(f"{k} {v:.4g}" for k, v in cell.runs[0].definition.configuration.items())
        for origin in provenance_groups(cell):
            rows.append(
                [
                    PageEntry(cell.workload_title),
                    PageEntry(method_title(cell.method)),
                    PageEntry(cell.tuning),
                    PageEntry(origin.seeds),
                    number(origin.seconds),
                    PageEntry(origin.entry("command"), long=True),
                    PageEntry(origin.entry("commit")[:12]),
                    PageEntry(origin.hardware),
                    PageEntry(origin.entry("precision")),
                    PageEntry(origin.entry("torch")),
                    PageEntry(configuration, long=True),
                ]
            )
    columns = [
        "workload",
        "method",
        "tuning",
        "seeds",
        "seconds",
        "command",
        "commit",
        "processor",
        "precision",
        "torch",
        "configuration",
    ]
    table = PageTable("Origin of the runs", columns, rows)
    return Section("provenance", "Provenance", folds=[Fold("What made each cell", [], [table], printed=False)])


class NoRunError(TpbenchError):
    """The store holds no run."""


def _with_store(command: str, results: str) -> str:
    """Add the option that names the page's store to a command."""
    return command if results == DEFAULT_STORE else f"{command} --results {shlex.quote(results)}"


@dataclass(frozen=True)
class Report:
    """The content of a page; :meth:`html` renders it."""

    content: Mapping[str, Any]

    def html(self, reload_s: int | None = None, *, live: str = "", feed: str = "", stamp: str = "") -> str:
        """Render the page.

        Args:
            reload_s: seconds between two looks of a page that follows a store; None: it does not.
            live: HTML of the section about what is going on now.
            feed: name of the script beside the page that brings that section; empty: the page loads itself anew.
            stamp: of the figures; the page loads itself anew once the script has another.
        """
        folder = files("tpbench.reports").joinpath("templates")
        names = ("report.html", "report.css", "report.js", "live.css", "live.js")
        template, style, script, *of_live = (folder.joinpath(name).read_text(encoding="utf-8") for name in names)
        # The script also on the final page, which an open one of the watch becomes.
        style, script = style + of_live[0] * bool(reload_s), script + of_live[1]
        environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_visible)
        environment.filters["unbroken"] = _unbroken
        return environment.from_string(template).render(
            **self.content,
            title=TITLE,
            version=__version__,
            reload=reload_s,
            live=Markup(live),
            feed=feed,
            stamp=stamp,
            style=Markup(style),
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
        )


def _visible(value: object) -> object:
    """Escape control and direction characters in text; HTML passes unchanged."""
    return visible(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def _unbroken(text: str) -> Markup:
    return Markup(_UNBROKEN.sub(r"<span>\g<0></span>", str(escape(_visible(text)))))


def _hash(text: str) -> str:
    """Return a source hash for the page's content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _drawing(glyphs: Glyphs, figure: Figure, alt: str, command: str, caption: str = "") -> PageFigure:
    return PageFigure(inline_svg(to_svg(figure), alt, glyphs), caption, command)


def summary_card(ranking: Ranking, rankings: Sequence[Ranking], glyphs: Glyphs, results: str) -> Card:
    """Return the card of one workload: sentences and one figure."""
    paper = not ranking.data_label and ranking.workload in PAPER_WORKLOADS
    states = paper_states(rankings, ranking.workload) if paper else {}
    groups = {state: [method_title(m) for m, current in states.items() if current is state] for state in State}
    label = "; ".join(f"{state.value}: {', '.join(methods)}" for state, methods in groups.items() if methods)
    figure = _drawing(
        glyphs,
        forest_figure(ranking.cells),
        f"{ranking.title}: test errors of its methods with intervals",
        _with_store(f"tpbench plot forest {ranking.workload}", results),
    )
    squares = [state.name.lower() for state in states.values()]
    progress = protocol_words(ranking, states)
    return Card(ranking.title, statements(ranking), squares, label, progress, warnings_of(ranking), figure)


@kept
def curve_section(store: RunStore, rankings: Sequence[Ranking], baseline: str, glyphs: Glyphs, results: str) -> Section:
    """Return the section of learning curves, cost and epochs to target; only curves that are drawn are read."""
    section = Section(
        "curves",
        "Learning curves and cost",
        [f"{BANDS} Point to a curve, or go to a figure with the tabulator and on with the arrows, to see its name."],
    )
    frames = []
    for workload in dict.fromkeys(ranking.workload for ranking in rankings):
        alike = [ranking for ranking in rankings if ranking.workload == workload]
        cells = sort_by_method(row.cell for ranking in alike for row in ranking.cells)
        runs = read_curves(store, cells)
        section.groups.append(_plots(runs, workload, cells, glyphs, results))
        frames.append(epochs_rows(alike, runs))
    if epochs := _epochs_table(frames, baseline):
        section.folds.append(Fold(epochs.caption, tables=[epochs]))
    return section


def _plots(
    runs: Mapping[str, RunRecord], workload: str, cells: Sequence[Cell], glyphs: Glyphs, results: str
) -> PlotGroup:
    command = _with_store(f"tpbench plot curves {workload}", results)
    figures = [
        _drawing(
            glyphs,
            curve_panel(cells, runs, curve),
            f"{workload}: {label} over epochs",
            command,
            f"{label.capitalize()}.",
        )
        for curve, (_, label) in CURVES.items()
    ]
    alt, caption = f"{workload}: test error against seconds per run", "Test error (mean and deviation) and cost."
    cost = _with_store(f"tpbench plot cost {workload}", results)
    figures.append(_drawing(glyphs, cost_panel(cells), alt, cost, caption))
    legend = [
        (cell_label(cell), colour(cell.method), " ".join(map(str, dashes(cell, cells))) or "none") for cell in cells
    ]
    return PlotGroup(f"curves-{workload}", workload, legend, figures)


def _epochs_table(frames: Sequence[pd.DataFrame], baseline: str) -> PageTable | None:
    rows = []
    for row in (row for frame in frames for row in frame.to_dict("records")):
        *names, epochs, reached = epochs_values(row)
        entries = [PageEntry(name, loose=True) for name in names]
        rows.append([*entries, PageEntry(epochs, row["median"]), PageEntry(reached, row["reached"])])
    return PageTable("Epochs to target", list(EPOCHS_HEADER), rows, [epochs_note(baseline)]) if rows else None


@kept
def alignment_section(store: RunStore, results: str, glyphs: Glyphs) -> Section:
    """Figures 4 and S3 to S5, where alignment was recorded."""
    section = Section("alignment", "Alignment of the updates")
    try:
        known = alignment_records(store)
    except TpbenchError as error:
        # Such as a record of a newer version: the page shows the rest, and says what it lacks.
        store.damaged.append(f"no angles are shown: {error}")
        return section
    for name, workload in ALIGNMENT_WORKLOADS.items():
        if records := select_workload(known, workload):
            figure = alignment_figure(records, name)
            caption = f"Figure {name.upper()}: angles with the loss gradient and with Gauss-Newton targets' updates."
            alt = f"{workload}: angles of weight updates over epochs, figure {name.upper()}"
            section.figures.append(
                _drawing(glyphs, figure, alt, _with_store(f"tpbench figure {name}", results), caption)
            )
    return section


def search_section(store: RunStore, results: str, glyphs: Glyphs) -> Section:
    """Return the section of searches: tuning curves of each workload, and the plot of each sweep in a fold."""
    section = Section("searches", "Searches")
    plots, notes = tuning_plots(store)
    if plots:
        section.paragraphs += [f"{TUNING_NOTE} {SPREAD_NOTE}", *notes]
    for plot in plots:
        header, rows = plot.table()
        section.tables.append(
            PageTable(f"{plot.workload}: {SPREAD_TITLE}", header, [[*map(PageEntry, row)] for row in rows])
        )
        section.groups.append(_tuning_group(plot, glyphs, results))
    for status in list_sweeps(store):
        with suppress(TpbenchError):  # its search has no results yet
            figure = _drawing(
                glyphs,
                search_figure(store, status.id),
                f"search of {status.id}",
                _with_store(f"tpbench plot search {status.id}", results),
                f"{status.id} ({status.state}): error over trials, importance, parallel coordinates.",
            )
            title = f"{status.id}: {status.state}, {status.searched} of {status.trials} configurations"
            section.folds.append(Fold(title, figures=[figure], printed=False, name=status.id))
    return section


def _tuning_group(plot: TuningPlot, glyphs: Glyphs, results: str) -> PlotGroup:
    command = _with_store(f"tpbench plot tuning {plot.workload}", results)
    figures = [
        _drawing(
            glyphs,
            tuning_panel(plot, column),
            f"{plot.workload}: tuning curves over {label}",
            command,
            f"Best validation error over {label}.",
        )
        for column, label in TUNING_AXES.items()
    ]
    legend = [(search.label, search.style["color"], "none") for search in plot.searches]
    return PlotGroup(f"tuning-{plot.workload}", f"{plot.workload}: tuning curves", legend, figures)


@drawing()
def make_report(store: RunStore, command: str, baseline: str = BASELINE) -> Report:
    """Collect the content of a store's page.

    Args:
        store: was not read before, so that its messages are those of this reading.
        command: as it was typed.
        baseline: the method that all others are compared with.

    Raises:
        NoRunError: the store is empty.
    """
    results, runs = str(store.folder), store.summaries()
    if not runs:
        raise NoRunError(_NO_RUN.format(results))
    cells, glyphs = choose_cells(runs), Glyphs()
    tables = {name: paper_table(store, name, cells) for name in ERROR_TABLES}
    rankings = read_test_samples(store, rank_all(cells, baseline))
    share = completeness(rankings)
    sections = [
        leaderboard_section(rankings, baseline),
        paper_section(tables, folded=not share),
        curve_section(store, rankings, baseline, glyphs, results),
        alignment_section(store, results, glyphs),
        search_section(store, results, glyphs),
        provenance_section(cells),
    ]
    lead = [headline(rankings), share, against_paper(tables["s6"])]
    known = {ranking.workload for ranking in rankings}
    content = _heading(results, command, len(runs)) | {
        "lead": [text for text in lead if text],
        "warnings": list(dict.fromkeys(store.damaged)),
        "cards": [summary_card(ranking, rankings, glyphs, results) for ranking in rankings],
        "nothing": [WORKLOADS[name].title for name in PAPER_WORKLOADS if share and name not in known],
        "forest_note": " ".join(forest_legend(row for ranking in rankings for row in ranking.cells)),
        "squares": bool(share),
        "sections": [section for section in sections if section.filled],
    }
    return Report(content | {"glyphs": glyphs.svg})


def empty_report(store: RunStore, command: str) -> Report:
    """Return the page of an empty store."""
    results = str(store.folder)
    lead = [_NO_RUN.format(results) + "."]
    nothing: dict[str, Any] = {name: [] for name in ("warnings", "cards", "nothing", "sections")}
    return Report(_heading(results, command, 0) | nothing | {"lead": lead, "forest_note": "", "glyphs": ""})


def _heading(results: str, command: str, runs: int) -> dict[str, Any]:
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    plan = _with_store("tpbench reproduce --dry-run", results)
    return {"made": made, "runs": runs, "store": results, "command": command, "plan": plan}
