"""``tpbench report``: one self-contained HTML page of everything a store holds."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment
from markupsafe import Markup, escape

from tpbench import __version__
from tpbench.engine import TpbenchError, method_title
from tpbench.engine.configuration import format_value
from tpbench.engine.errors import visible
from tpbench.reports import ALIGNMENT_WORKLOADS
from tpbench.reports.alignment_figures import ALIGNMENT_NOTE, alignment_legend, alignment_panel, shown_layers
from tpbench.reports.alignment_tables import alignment_records, describe_records, select_workload
from tpbench.reports.curves import (
    BANDS,
    COST_NOTE,
    CURVES,
    cell_curves,
    cell_label,
    cost_panel,
    curve_panel,
    dashes,
    sort_by_method,
    workload_title,
)
from tpbench.reports.forest import forest_figure, forest_legend
from tpbench.reports.redrawing import kept
from tpbench.reports.style import Figure, Glyphs, colour, colour_variables, drawing, inline_svg, to_svg, variable
from tpbench.reports.summary import (
    few_seeds,
    legend,
    listed,
    matrix,
    missing_methods,
    missing_runs,
    reproduction,
    verdict_sentence,
    warnings_of,
)
from tpbench.reports.tuning_plots import (
    MULTIPLES_NOTE,
    SEARCH_NOTE,
    SPREAD_NOTE,
    SPREAD_TITLE,
    TUNING_AXES,
    TUNING_NOTE,
    TuningPlot,
    importance,
    importance_note,
    read_search,
    search_panels,
    tuning_panel,
    tuning_plots,
)
from tpbench.results import Cell, RunStore, choose_cells
from tpbench.results.cells import (
    CellKey,
    provenance_groups,
    read_curves,
    seed_ranges,
    tuning_labels,
    with_label,
)
from tpbench.results.formats import Value
from tpbench.results.opening import DEFAULT_STORE, NoRunError
from tpbench.results.paper import PAPER_WORKLOADS
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
    LOSS_TITLE,
    ErrorTable,
    entry_lines,
    epochs_note,
    epochs_rows,
    epochs_values,
    footnote,
    loss_columns,
    loss_footnotes,
    loss_matrix,
    loss_notes,
    loss_rows,
    notes,
    paper_table,
)
from tpbench.search.listing import list_sweeps
from tpbench.search.spaces import supplied_sweeps
from tpbench.workloads import WORKLOADS

if TYPE_CHECKING:
    import pandas as pd

    from tpbench.results.alignments import AlignmentRecord
    from tpbench.results.runs import RunRecord

TITLE = "tpbench: is this learning rule really better than that one?"
# An interval, a p-value and a range of seeds stay on one line.
_UNBROKEN = re.compile(r"\[[+-]?[\d.]+, [+-]?[\d.]+\]|\(p [^()]*\)|\d+-\d+")
PLAN = "tpbench reproduce --dry-run"


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
    """The forest plot of one workload, with what it does not say."""

    title: str
    statements: Sequence[tuple[str, Sequence[str]]]
    warnings: Sequence[str]
    commands: Sequence[str]
    """Commands that train what is missing."""
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


def leaderboard_section(rankings: Sequence[Ranking]) -> Section:
    """Return a folded table per workload with the tests against the baseline."""
    return Section("leaderboard", "Leaderboards", folds=[Fold(r.title, tables=[_ranking_table(r)]) for r in rankings])


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


def paper_section(table: ErrorTable, folded: bool, results: str) -> Section:
    """Return Table S6: errors beside the paper's numbers.

    Args:
        folded: whether it is in a fold, as where the store has nothing of it.
    """
    remarks = [*footnote(table), *notes(table)]
    if any(entry.compared == "missing" and entry.paper for entry in table.entries.values()):
        remarks.append(f"What is missing: '{_with_store(PLAN, results)}' lists it with its cost.")
    whole = _paper_table(table, remarks)
    section = Section("tables", "The paper's table")
    if folded:
        section.folds.append(Fold(whole.caption, tables=[whole]))
    else:
        section.tables.append(whole)
    return section


def loss_section(store: RunStore, cells: Iterable[Cell], glyphs: Glyphs, results: str, tuning: str | None) -> Section:
    """Return the section of cells without a validation set: their training losses at the end and over epochs."""
    section, alike = Section("losses", "Trained without a validation set"), sort_by_method(cells)
    frame = loss_rows(store, alike)
    columns = loss_columns(frame)
    rows = [[PageEntry(value.text, loose=True) for value in row] for row in loss_matrix(frame, columns)]
    if rows:
        header = ["method", *(column.title for column in columns)]
        section.tables.append(PageTable(LOSS_TITLE, header, rows, [*loss_notes(frame), *loss_footnotes(frame)]))
    for workload in dict.fromkeys(column.workload for column in columns):
        of_workload = [cell for cell in alike if cell.workload == workload]
        plots = _plots(read_curves(store, of_workload), workload, of_workload, glyphs, results, tuning)
        section.groups += [plots] if plots.figures else []
    return section


def provenance_section(groups: Mapping[str, Sequence[Cell]]) -> Section:
    """Return the section of provenance: a table per workload, a row per cell and command.

    Args:
        groups: the cells of each workload, by its title.
    """
    tables = [_provenance_table(title, cells) for title, cells in groups.items()]
    fold = Fold("What made each cell", [], tables, printed=False)
    return Section("provenance", "Provenance", folds=[fold])


def _provenance_table(title: str, cells: Sequence[Cell]) -> PageTable:
    rows = []
    for cell in sort_by_method(cells):
        values = cell.runs[0].definition.configuration
        configuration = ", ".join(f"{name} {format_value(value, '.4g')}" for name, value in values.items())
        for origin in provenance_groups(cell):
            torch, commit = origin.entry("torch"), origin.entry("commit")[:12]
            versions = f"{origin.entry('precision')}, torch {torch}\ncommit {commit}"
            rows.append(
                [
                    PageEntry(method_title(cell.method)),
                    PageEntry(cell.tuning),
                    PageEntry(seed_ranges(run.definition.seed for run in origin.runs)),
                    PageEntry(f"{origin.seconds:.0f}", float(origin.seconds)),
                    PageEntry(origin.entry("command"), below=configuration, long=True),
                    PageEntry(origin.hardware, below=versions, loose=True),
                ]
            )
    columns = ["method", "tuning", "seeds", "seconds", "command and hyperparameters", "machine and versions"]
    return PageTable(f"Origin of the runs: {title}", columns, rows)


def _with_store(command: str, results: str) -> str:
    """Add the option that names the page's store to a command."""
    return command if results == DEFAULT_STORE else f"{command} --results {shlex.quote(results)}"


@dataclass(frozen=True)
class Report:
    """The content of a page; :meth:`html` renders it."""

    content: Mapping[str, Any]
    colours: Collection[str] = ()
    """Colours on white of its figures."""

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
        environment.filters["variable"] = variable
        style = colour_variables(self.colours) + style
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


def workload_card(ranking: Ranking, glyphs: Glyphs, results: str, everything: Collection[Cell]) -> Card:
    """Return the card of one workload; its commands are right for a store with all of these cells."""
    words = ["tpbench", "plot", "forest", ranking.workload]
    words += ["--baseline", ranking.baseline] * (ranking.baseline != BASELINE) + _tuning_words(ranking.tuning)
    figure = _drawing(
        glyphs,
        forest_figure(ranking.cells),
        f"{ranking.title}: test errors of its methods with intervals",
        _with_store(shlex.join(words), results),
    )
    statements, commands = few_seeds(ranking), missing_runs(ranking, supplied_sweeps(), everything)
    if methods := missing_methods(ranking):
        statements.append(("Not run with the published configuration", [listed(methods)]))
        commands.append(PLAN)
    commands = [_with_store(command, results) for command in commands]
    return Card(ranking.title, statements, warnings_of(ranking), commands, figure)


def _tuning_words(tuning: str | None) -> list[str]:
    """Return the option that restricts a command to the page's tuning label, in words."""
    return ["--tuning", tuning] if tuning else []


@kept
def curve_section(store: RunStore, rankings: Sequence[Ranking], baseline: str, glyphs: Glyphs, results: str) -> Section:
    """Return the section of learning curves, cost and epochs to target; only curves that are drawn are read."""
    section = Section(
        "curves",
        "Learning curves and cost",
        [f"{BANDS} Point to a curve, or go to a figure with the Tab key and on with the arrow keys, to see its name."],
    )
    frames = []
    for workload in dict.fromkeys(ranking.workload for ranking in rankings):
        alike = [ranking for ranking in rankings if ranking.workload == workload]
        cells = sort_by_method(row.cell for ranking in alike for row in ranking.cells)
        runs = read_curves(store, cells)
        section.groups.append(_plots(runs, workload, cells, glyphs, results, alike[0].tuning))
        frames.append(epochs_rows(alike, runs))
    if epochs := _epochs_table(frames, baseline):
        section.folds.append(Fold(epochs.caption, tables=[epochs]))
    return section


def _plots(
    runs: Mapping[str, RunRecord],
    workload: str,
    cells: Sequence[Cell],
    glyphs: Glyphs,
    results: str,
    tuning: str | None,
) -> PlotGroup:
    command, cost = (
        _with_store(shlex.join(["tpbench", "plot", kind, workload, *_tuning_words(tuning)]), results)
        for kind in ("curves", "cost")
    )
    title = workload_title(workload)
    drawn = {curve: curves for curve in CURVES if (curves := cell_curves(cells, runs, curve))}
    figures = [
        _drawing(
            glyphs,
            curve_panel(cells, curves, curve),
            f"{title}: {CURVES[curve][1]} over epochs, a panel for each method",
            command,
            f"{CURVES[curve][1].capitalize()}.",
        )
        for curve, curves in drawn.items()
    ]
    # The cost has a point of each cell, the curves have a line of those that did not diverge.
    lines = {one.cell.key for curves in drawn.values() for one in curves}
    if all(cell.validated for cell in cells):
        lines |= {cell.key for cell in cells}
        alt = f"{title}: test error against seconds per run"
        figures.append(_drawing(glyphs, cost_panel(cells), alt, cost, f"Cost. {COST_NOTE}"))
    legend = [
        (cell_label(cell, cells), colour(cell.method), " ".join(map(str, dashes(cell, cells))) or "none")
        for cell in cells
        if cell.key in lines
    ]
    return PlotGroup(f"curves-{workload}", title, legend, figures)


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
    for workload in dict.fromkeys(ALIGNMENT_WORKLOADS.values()):
        if records := select_workload(known, workload):
            section.groups.append(_alignment_group(records, workload, glyphs, results))
    if section.groups:
        section.paragraphs.append(ALIGNMENT_NOTE)
    return section


def _alignment_group(records: Sequence[AlignmentRecord], workload: str, glyphs: Glyphs, results: str) -> PlotGroup:
    """Return the figures of a workload, a layer each."""
    title = workload_title(workload)
    figures = [
        _drawing(
            glyphs,
            alignment_panel(records, name, layer),
            f"{title}, layer {layer + 1}: angles of weight updates over epochs, figure {name.upper()}",
            _with_store(f"tpbench figure {name}", results),
            f"Figure {name.upper()}, layer {layer + 1}.",
        )
        for name, drawn_on in ALIGNMENT_WORKLOADS.items()
        if drawn_on == workload
        for layer in shown_layers(records, name)
    ]
    legend = [(name, shade, " ".join(map(str, dashed)) or "none") for name, shade, dashed in alignment_legend(records)]
    return PlotGroup(f"alignment-{workload}", f"{title} ({describe_records(records)})", legend, figures)


def search_section(store: RunStore, results: str, glyphs: Glyphs) -> Section:
    """Return the section of searches: tuning curves of each workload, and the plots of each sweep in a fold."""
    section = Section("searches", "Searches")
    plots, notes = tuning_plots(store)
    if plots:
        several = [MULTIPLES_NOTE] if any(plot.multiples for plot in plots) else []
        unfinished = [note for plot in plots for note in plot.unfinished_note]
        section.paragraphs += [" ".join([TUNING_NOTE, *several, SPREAD_NOTE]), *unfinished, *notes]
    for plot in plots:
        header, rows = plot.table()
        section.tables.append(
            PageTable(
                f"{workload_title(plot.workload)}: {SPREAD_TITLE}", header, [[*map(PageEntry, row)] for row in rows]
            )
        )
        section.groups.append(_tuning_group(plot, glyphs, results))
    for status in list_sweeps(store):
        with suppress(TpbenchError):  # its search has no results yet
            search = read_search(store, status.id)
            shares = importance(search.configurations)
            command = _with_store(shlex.join(["tpbench", "plot", "search", status.id]), results)
            figures = [
                _drawing(glyphs, figure, f"{status.id}: {figure.axes[0].get_xlabel()} and error", command)
                for figure in search_panels(search, shares)
            ]
            title = f"{status.id}: {status.state}, {status.searched} of {status.trials} configurations"
            texts = [SEARCH_NOTE, importance_note(shares)]
            section.folds.append(Fold(title, texts, figures=figures, printed=False, name=status.id))
    return section


def _tuning_group(plot: TuningPlot, glyphs: Glyphs, results: str) -> PlotGroup:
    command = _with_store(shlex.join(["tpbench", "plot", "tuning", plot.workload]), results)
    title = workload_title(plot.workload)
    figures = [
        _drawing(
            glyphs,
            tuning_panel(plot, column),
            f"{title}: tuning curves over {label}",
            command,
            f"Best validation error over {label}.",
        )
        for column, label in TUNING_AXES.items()
    ]
    legend = [(search.label, search.style["color"], "none") for search in plot.drawn]
    return PlotGroup(f"tuning-{plot.workload}", f"{title}: tuning curves", legend, figures)


@drawing()
def make_report(store: RunStore, command: str, baseline: str = BASELINE, tuning: str | None = None) -> Report:
    """Collect the content of a store's page.

    Args:
        store: was not read before, so that its messages are those of this reading.
        command: as it was typed.
        baseline: the method that all others are compared with.
        tuning: label of the cells that are compared; None: all. The paper's table and the searches stay whole.

    Raises:
        NoRunError: the store is empty.
    """
    results, runs = str(store.folder), store.summaries()
    if not runs:
        raise NoRunError(results)
    cells, glyphs = choose_cells(runs, tuning), Glyphs()
    every_cell = choose_cells(runs) if tuning else cells
    table = paper_table(store, "s6", every_cell)
    rankings = read_test_samples(store, rank_all(cells, baseline, tuning))
    rows, exact = matrix(rankings), {ranking.workload for ranking in rankings if not ranking.data_label}
    paper = reproduction(rankings, table)
    searches = search_section(store, results, glyphs)
    origins: dict[str, list[Cell]] = defaultdict(list)
    for ranking in rankings:
        origins[ranking.title] += [row.cell for row in ranking.cells]
    unvalidated = [cell for cell in cells.values() if not cell.validated]
    for cell in unvalidated:
        origins[with_label(workload_title(cell.workload), cell.data_label)].append(cell)
    sections = [
        replace(searches, id="tuning", title="Tuning curves", folds=[]),
        curve_section(store, rankings, baseline, glyphs, results),
        alignment_section(store, results, glyphs),
        Section(searches.id, searches.title, folds=searches.folds),
        paper_section(table, not paper, results),
        leaderboard_section(rankings),
        loss_section(store, unvalidated, glyphs, results, tuning),
        provenance_section(origins),
    ]
    content = _heading(results, command, len(runs)) | {
        "baseline": method_title(baseline),
        "workloads": [ranking.title for ranking in rankings],
        "matrix": rows,
        "legend": legend(rows, baseline),
        "tuning": tuning,
        "tunings": list(dict.fromkeys(row.cell.tuning for ranking in rankings for row in ranking.cells)),
        "verdicts": [(ranking.title, verdict_sentence(ranking)) for ranking in rankings],
        "reproduction": paper,
        "nothing": [WORKLOADS[name].title for name in PAPER_WORKLOADS if paper and name not in exact],
        "warnings": [*dict.fromkeys(store.damaged), *_none_tuned(tuning, cells, runs)],
        "cards": [workload_card(ranking, glyphs, results, every_cell.values()) for ranking in rankings],
        "forest_note": " ".join(forest_legend(row for ranking in rankings for row in ranking.cells)),
        "sections": [section for section in sections if section.filled],
    }
    return Report(content | {"glyphs": glyphs.svg}, glyphs.colours)


def _none_tuned(tuning: str | None, cells: Collection[CellKey], runs: Iterable[RunRecord]) -> list[str]:
    """Return a sentence where a page of one tuning label has nothing to show, as before the end of its search."""
    if tuning is None or cells:
        return []
    labels = ", ".join(f"'{label}'" for label in sorted(tuning_labels(runs)))
    return [f"Nothing is tuned as '{tuning}' yet; there is {labels}."]


def empty_report(store: RunStore, command: str) -> Report:
    """Return the page of an empty store."""
    results = str(store.folder)
    return Report(_heading(results, command, 0) | {"empty": f"{NoRunError(results)}."})


def _heading(results: str, command: str, runs: int) -> dict[str, Any]:
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    plan = _with_store(PLAN, results)
    return {"made": made, "runs": runs, "store": results, "command": command, "plan": plan}
