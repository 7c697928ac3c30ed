"""The methods of one workload as a forest plot: mean and interval of each, and its difference from the baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from textwrap import fill

from tpbench.engine import method_title
from tpbench.engine.errors import visible
from tpbench.reports.curves import cell_label, cells_of, name_tunings
from tpbench.reports.style import Annotation, Axes, Figure, MaxNLocator, drawing, log_scale, mark
from tpbench.results import RunStore
from tpbench.results.paper import paper_cell
from tpbench.results.ranking import BASELINE, RankedCell, format_p, rank_all, require_validated
from tpbench.results.runs import FULL_SEEDS
from tpbench.results.statistics import t_interval
from tpbench.results.tables import PUBLISHED, Column

# Errors that differ by more than this factor share no linear axis.
_WIDE = 5.0
_TICK = "\N{CHECK MARK}"
_SHADE = "#e0ecf9"
# Rows have names, so colours mean nothing here but which row is the baseline, and what is the paper's.
_BASELINE, _MEASURED, _PAPER = "#000000", "#595959", "#8c8c8c"
# Characters in a line of a row's name.
_LABEL_WIDTH = 22
# Points from the picture to the end of the means, and to the beginning of the differences.
MEANS, DIFFERENCES = 37, 48


def forest_rows(
    store: RunStore, workload: str, baseline: str = BASELINE, tuning: str | None = None
) -> list[RankedCell]:
    """Return the cells of a workload in the order of the leaderboard, one kind of data after the other.

    Args:
        baseline: the method that others are compared with.
        tuning: only cells with this tuning label; None: all.

    Raises:
        UsageError: its runs have no validation set.
        TpbenchError: there are none.
    """
    require_validated(store.summaries(), [workload])
    cells = {cell.key: cell for cell in cells_of(store, workload, tuning)}
    return [ranked for ranking in rank_all(cells, baseline, tuning) for ranked in ranking.cells]


@drawing()
def forest_figure(rows: Sequence[RankedCell], workload: str = "", tuning: str | None = None) -> Figure:
    """Draw mean test error with its 95 % interval, a line per cell, beside the difference from the baseline as text.

    A vertical line is at the baseline's mean, a hollow diamond with a thin bar at the paper's. The methods that could
    be the best apart from the baseline have a shaded background. The axis is logarithmic where errors lie far apart.

    Args:
        rows: of one workload, in their order.
        workload: for the title above the figure, which then has a legend below.
        tuning: label of all rows, for the title, where only such rows were asked for.
    """
    several = len({row.cell.data_label for row in rows}) > 1
    # Where all are of one kind of data, the title names it.
    cells = name_tunings(row.cell for row in rows) if workload else [row.cell for row in rows]
    names = [cell_label(cell if several else replace(cell, data_label=""), cells) for cell in cells]
    # In several lines, so that long names leave room for the picture.
    broken = [name.replace(" (", "\n(").replace(", ", "\n", 1).split("\n") for name in names]
    labels = ["\n".join(fill(part, _LABEL_WIDTH) for part in parts) for parts in broken]
    legend = forest_legend(rows) if workload else []
    row_height = max(0.34, 0.05 + 0.145 * max(label.count("\n") + 1 for label in labels))
    figure = Figure(figsize=(8, 0.95 + row_height * len(rows) + 0.17 * len(legend)), layout="constrained")
    axes = figure.subplots()
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        _draw(axes, place, name, row)
    _draw_baselines(axes, rows)
    ticked = [f"{_TICK} {label}" if _shaded(row) else label for label, row in zip(labels, rows, strict=True)]
    axes.set_yticks(range(len(rows)), ticked, fontsize=10, linespacing=1)
    axes.set(ylim=(len(rows) - 0.4, -0.6))
    axes.set_xlabel("test error (%)", fontsize=9)
    _scale(axes, rows)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="x", labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if workload:
        title = Column(workload, "" if several else rows[0].cell.data_label).title
        only = f", {tuning}" if tuning else ""
        figure.suptitle(visible(f"{title}{only}: test error of each method"), fontsize=12)
        figure.supxlabel("\n".join(legend), fontsize=9, x=0.01, ha="left")
    return figure


def forest_legend(rows: Iterable[RankedCell]) -> list[str]:
    """Return the legend of what occurs in forests of these cells, in sentences."""
    rows = list(rows)
    base = next((method_title(row.baseline.method) for row in rows if row.baseline), "")
    intervals = any(not math.isnan(row.cell.interval[0]) for row in rows)
    parts = [f"Dot{' and bar' * intervals}: mean over seeds{' and its 95 % interval' * intervals}"]
    if base:
        parts.append(f"dashed line: {base}'s mean")
    sentences = ["; ".join(parts) + "."]
    if any(map(_printed, rows)):
        sentences.append(
            f"Hollow diamond and thin bar: the paper's mean and its 95 % interval (Student's t, from the printed "
            f"deviation of {FULL_SEEDS} seeds)."
        )
    if any(row.differs for row in rows):
        sentences.append(f"Bold: shown to differ from {base} at 5 %.")
    if any(map(_shaded, rows)):
        sentences.append(f"Shaded and {_TICK}: could be the best{f', {base} apart' * bool(base)}.")
    return sentences


def _shaded(row: RankedCell) -> bool:
    return row.could_be_best == "yes"


def _printed(row: RankedCell) -> tuple[float, float] | None:
    """Return the paper's mean and deviation; None of other data or configurations than the paper's."""
    cell = row.cell
    return None if cell.data_label or cell.tuning != PUBLISHED else paper_cell(cell.workload, cell.method)


def _draw(axes: Axes, place: int, name: str, row: RankedCell) -> None:
    cell, shade = row.cell, _BASELINE if row.is_baseline else _MEASURED
    if _shaded(row):
        axes.axhspan(place - 0.5, place + 0.5, color=_SHADE, linewidth=0, zorder=0)
    low, high = cell.interval
    if not math.isnan(low):
        (bar,) = axes.plot([low, high], [place, place], color=shade, linewidth=3, solid_capstyle="butt")
        mark(bar, "interval", name)
    (dot,) = axes.plot([cell.mean], [place], "o", color=shade, markersize=7)
    mark(dot, "mean", name, f"{name}: {describe_row(row)}")
    if printed := _printed(row):
        below = place + 0.3
        (thin,) = axes.plot(t_interval(*printed, FULL_SEEDS), [below, below], color=_PAPER, linewidth=1)
        mark(thin, "paper-interval", name)
        (paper,) = axes.plot([printed[0]], [below], "D", color=_PAPER, markerfacecolor="white", markersize=4.5)
        mark(paper, "paper", name)
    mean = _beside(axes, place, f"{cell.mean:.2f}", MEANS, "right")
    mark(mean, "mean-text", name)
    if text := difference_text(row):
        difference = _beside(axes, place, text, DIFFERENCES, "left")
        difference.set_fontweight("bold" if row.differs else "normal")
        mark(difference, "difference-text", name)


def _beside(axes: Axes, place: float, text: str, points: float, side: str) -> Annotation:
    """Write text right of the picture, this many points from it."""
    return axes.annotate(
        text,
        (1, place),
        xycoords=axes.get_yaxis_transform(),
        xytext=(points, 0),
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=10,
        annotation_clip=False,
    )


def _draw_baselines(axes: Axes, rows: Sequence[RankedCell]) -> None:
    """Draw a line at the baseline's mean over the rows of its data, and headings above the texts."""
    _beside(axes, -0.95, "mean", MEANS, "right")
    bases = [row.baseline for row in rows]
    for base, places in groupby(range(len(rows)), key=lambda place: bases[place]):
        if base:
            span = list(places)
            ends = span[0] - 0.5, span[-1] + 0.5
            axes.plot([base.mean, base.mean], ends, color=_BASELINE, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    if title := next((method_title(base.method) for base in bases if base), ""):
        _beside(axes, -0.95, f"minus {title}", DIFFERENCES, "left")


def difference_text(row: RankedCell) -> str:
    """Format the difference from the baseline as the figure has it; empty of the baseline itself."""
    if row.is_baseline or row.has_interval:
        return row.difference_text
    return "not tested" if math.isnan(row.p) else f"{row.difference:+.2f} (p {format_p(row.p)})"


def describe_row(row: RankedCell) -> str:
    """Format a row of the plot as text."""
    low, high = row.cell.interval
    parts = [f"{row.cell.mean:.2f} %" + ("" if math.isnan(low) else f", interval {low:.2f} to {high:.2f}")]
    if row.is_baseline:
        parts.append("the baseline")
    elif row.baseline and not math.isnan(row.difference):
        parts.append(f"minus {method_title(row.baseline.method)} {row.difference_text}")
    else:
        parts.append(row.tested)
    if _shaded(row):
        parts.append("could be the best")
    if printed := _printed(row):
        parts.append(f"paper {printed[0]:.2f}")
    return "; ".join(parts)


def _scale(axes: Axes, rows: Sequence[RankedCell]) -> None:
    means = [row.cell.mean for row in rows] + [printed[0] for row in rows if (printed := _printed(row))]
    axes.xaxis.set_major_locator(MaxNLocator(6))
    smallest = min((mean for mean in means if mean > 0), default=math.inf)
    if max(means) <= _WIDE * smallest:
        return
    log_scale(axes, "x", means)
    # An interval that reaches below zero ends at the edge.
    ends = [low for row in rows if (low := row.cell.interval[0]) > smallest / _WIDE]
    axes.set_xlim(left=min([*means, *ends]) / 1.1 if min(means) > 0 else -smallest / 3)
