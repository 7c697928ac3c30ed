"""``tpbench report``: one self-contained HTML page of everything a store holds."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from tpbench import __version__
from tpbench.engine import TpbenchError, method_title
from tpbench.engine.errors import visible
from tpbench.reports.alignment_figures import alignment_figure
from tpbench.reports.curves import BANDS, CURVES, cost_panel, curve_panel, in_order, line_of, name_of, with_curves
from tpbench.reports.forest import LEGEND, forest_figure
from tpbench.reports.names import ALIGNMENT_WORKLOADS
from tpbench.reports.page_tables import leaderboard_section, paper_section, provenance_section
from tpbench.reports.parts import Card, Fold, LegendEntry, PageFigure, PlotGroup, Section
from tpbench.reports.recorded import known_records, of_workload
from tpbench.reports.searches import search_figure
from tpbench.reports.style import Figure, colour, drawing
from tpbench.reports.summary import (
    State,
    WorkloadSummary,
    completeness,
    headline,
    protocol_words,
    statements,
    summarise,
    warnings_of,
)
from tpbench.reports.vector import Glyphs, drawn, inline
from tpbench.results import Cell, RunStore, choose_cells
from tpbench.results.cells import CellKey
from tpbench.results.leaderboards import leaderboard_of
from tpbench.results.location import location
from tpbench.results.opening import DEFAULT_STORE
from tpbench.results.paper import ERROR_TABLES
from tpbench.results.rendering import against_paper
from tpbench.results.standings import ENOUGH_WORDS, all_standings
from tpbench.results.tables import paper_table_of
from tpbench.search.listing import list_sweeps

Cells = Mapping[CellKey, Cell]

TITLE = "tpbench: is this learning rule really better than that one?"
_DASHES = {"-": "none", "--": "5 2", ":": "1 2", "-.": "6 2 1 2"}
_NO_RUN = "{} holds no run yet; train some with 'tpbench sweep' or 'tpbench run'"


class NoRunError(TpbenchError):
    """There is nothing to show yet."""


def _here(command: str, results: str) -> str:
    """A command that reads the store that the page shows."""
    return command if results == DEFAULT_STORE else f"{command} --results {shlex.quote(results)}"


@dataclass(frozen=True)
class Report:
    """What a page shows; how it is written is decided later."""

    content: Mapping[str, Any]

    def html(self, reload_s: int | None = None) -> str:
        """The page.

        Args:
            reload_s: seconds after which it loads itself anew; None: it does not.
        """
        folder = files("tpbench.reports").joinpath("templates")
        template, style, script = (
            folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.html", "report.css", "report.js")
        )
        page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_visible).from_string(
            template
        )
        return page.render(
            **self.content,
            title=TITLE,
            version=__version__,
            reload=reload_s,
            style=Markup(style),
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
        )


def _visible(value: object) -> object:
    """Text of a page without what would turn its direction or is no text; what is HTML already stays."""
    return visible(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(text: str) -> str:
    """What a page's policy calls the one script, and the one style sheet, that it lets through."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _drawing(glyphs: Glyphs, figure: Figure, alt: str, command: str, caption: str = "") -> PageFigure:
    return PageFigure(inline(drawn(figure), alt, glyphs), caption, command)


def summary_card(summary: WorkloadSummary, glyphs: Glyphs, results: str) -> Card:
    """One workload in words and one picture."""
    groups = {state: [method_title(m) for m, found in summary.states.items() if found is state] for state in State}
    said = "; ".join(f"{state.value}: {', '.join(methods)}" for state, methods in groups.items() if methods)
    figure = _drawing(
        glyphs,
        forest_figure(summary.rows),
        f"{summary.title}: test errors of its methods with intervals",
        _here(f"tpbench plot forest {summary.column.workload}", results),
    )
    states = [state.name.lower() for state in summary.states.values()]
    return Card(summary.title, statements(summary), states, said, protocol_words(summary), warnings_of(summary), figure)


def _try(make: Callable[[], Figure]) -> Figure | None:
    """A figure, or None where the store lacks what it shows."""
    try:
        return make()
    except TpbenchError:
        return None


def curve_section(store: RunStore, cells: Cells, workloads: Iterable[str], glyphs: Glyphs, results: str) -> Section:
    """Learning curves and cost of every workload; of the store, the curves that are drawn are read."""
    section = Section(
        "curves",
        "Learning curves and cost",
        [f"{BANDS} Point to a curve, or go to a figure with the tabulator and on with the arrows, to see its name."],
    )
    for workload in workloads:
        shown = in_order(cell for cell in cells.values() if cell.workload == workload)
        section.groups.append(_plots(workload, with_curves(store, shown), shown, glyphs, results))
    return section


def _plots(workload: str, read: Sequence[Cell], cells: Sequence[Cell], glyphs: Glyphs, results: str) -> PlotGroup:
    command = _here(f"tpbench plot curves {workload}", results)
    figures = [
        _drawing(
            glyphs, curve_panel(read, curve), f"{workload}: {label} over epochs", command, f"{label.capitalize()}."
        )
        for curve, (_, label) in CURVES.items()
    ]
    alt, caption = f"{workload}: test error against seconds per run", "Test error (mean and deviation) and cost."
    cost = _here(f"tpbench plot cost {workload}", results)
    figures.append(_drawing(glyphs, cost_panel(cells), alt, cost, caption))
    legend = [LegendEntry(name_of(cell), colour(cell.method), _DASHES[line_of(cell, cells)]) for cell in cells]
    return PlotGroup(f"curves-{workload}", workload, legend, figures)


def alignment_section(store: RunStore, results: str, glyphs: Glyphs) -> Section:
    """Figures 4 and S3 to S5, where alignment was recorded."""
    section = Section("alignment", "Alignment of the updates")
    try:
        known = known_records(store)
    except TpbenchError as error:
        # Such as a record of a newer version: the page shows the rest, and says what it lacks.
        store.damaged.append(f"no angles are shown: {error}")
        return section
    for name, workload in ALIGNMENT_WORKLOADS.items():
        if records := of_workload(known, workload):
            figure = alignment_figure(records, name)
            caption = f"Figure {name.upper()}: angles with the loss gradient and with Gauss-Newton targets' updates."
            alt = f"{workload}: angles of weight updates over epochs, figure {name.upper()}"
            section.figures.append(_drawing(glyphs, figure, alt, _here(f"tpbench figure {name}", results), caption))
    return section


def search_section(results: str, glyphs: Glyphs) -> Section:
    """What every sweep searched, each in a fold."""
    section = Section("searches", "Searches")
    for status in list_sweeps(RunStore(location(results))):
        figure = _try(lambda name=status.id: search_figure(results, name))  # type: ignore[misc]
        if figure:
            caption = f"{status.id} ({status.state}): error over trials, importance, parallel coordinates."
            shown = _drawing(
                glyphs, figure, f"search of {status.id}", _here(f"tpbench plot search {status.id}", results), caption
            )
            title = f"{status.id}: {status.state}, {status.searched} of {status.trials} configurations"
            section.folds.append(Fold(title, figures=[shown], printed=False, name=status.id))
    return section


@drawing()
def make_report(results: str, command: str) -> Report:
    """What the page of a store shows.

    Args:
        results: the store.
        command: as it was typed.

    Raises:
        NoRunError: the store is empty.
    """
    store = RunStore(location(results))
    runs = store.summaries()
    if not runs:
        raise NoRunError(_NO_RUN.format(results))
    cells, glyphs = choose_cells(runs), Glyphs()
    tables = {name: paper_table_of(cells, name) for name in ERROR_TABLES}
    summaries = summarise(cells, all_standings(cells))
    workloads = dict.fromkeys(summary.column.workload for summary in summaries if summary.rows)
    sections = [
        leaderboard_section(leaderboard_of(cells)),
        paper_section(tables, folded=not completeness(summaries)),
        curve_section(store, cells, workloads, glyphs, results),
        alignment_section(store, results, glyphs),
        search_section(results, glyphs),
        provenance_section(cells),
    ]
    told = [headline(summaries), completeness(summaries), against_paper(tables["s6"])]
    content = _heading(results, command, len(runs)) | {
        "lead": [text for text in told if text],
        "warnings": list(dict.fromkeys(store.damaged)),
        "cards": [summary_card(summary, glyphs, results) for summary in summaries if summary.rows],
        "nothing": [s.title for s in summaries if not s.rows] if completeness(summaries) else [],
        "forest_note": LEGEND,
        "enough": ENOUGH_WORDS,
        "sections": [section for section in sections if section.filled],
    }
    return Report(content | {"glyphs": glyphs.svg})


def empty_report(results: str, command: str) -> Report:
    """The page of a store in which there is nothing yet."""
    lead = [_NO_RUN.format(results) + "."]
    nothing: dict[str, Any] = {name: [] for name in ("warnings", "cards", "nothing", "sections")}
    return Report(_heading(results, command, 0) | nothing | {"lead": lead, "forest_note": "", "glyphs": ""})


def _heading(results: str, command: str, runs: int) -> dict[str, Any]:
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    plan = _here("tpbench reproduce --dry-run", results)
    return {"made": made, "runs": runs, "store": results, "command": command, "plan": plan}


def render_report(results: str, command: str) -> str:
    """The whole page.

    Raises:
        TpbenchError: the store is empty.
    """
    return make_report(results, command).html()
