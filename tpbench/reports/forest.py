"""The methods of one workload as a forest plot: mean and interval of each, the paper's value beside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tpbench.engine.errors import visible
from tpbench.reports.curves import cell_label, cells_of
from tpbench.reports.style import Axes, Figure, colour, drawing, mark, plain_labels
from tpbench.results import Cell, RunStore
from tpbench.results.paper import paper_cell
from tpbench.results.ranking import YARDSTICK, Standing, all_standings

ForestRow = tuple[Cell, Standing]
# Errors that differ by more than this factor share no linear axis.
_WIDE = 5.0
LEGEND = "Dot and bar: mean and 95 % interval; hollow diamond: the paper's mean. (-): no difference could show."


def forest_rows(store: RunStore, workload: str) -> list[ForestRow]:
    """Return the cells of a workload with their standings, best first as in the leaderboard.

    Raises:
        TpbenchError: there are none.
    """
    cells = {cell.key: cell for cell in cells_of(store, workload)}
    return rank_rows([(cells[key], standing) for key, standing in all_standings(cells).items()])


def rank_rows(rows: Sequence[ForestRow]) -> list[ForestRow]:
    """Sort as the leaderboard: by test error; cells with diverged seeds after complete ones, few seeds last."""

    def place(row: ForestRow) -> tuple[str, int, bool, float, str]:
        cell, _ = row
        return cell.data_label, cell.tier, math.isnan(cell.mean), cell.mean, cell.method

    return sorted(rows, key=place)


@drawing()
def forest_figure(rows: Sequence[ForestRow], title: str = "") -> Figure:
    """Draw mean test error with its 95 % interval, one line per cell, and the paper's value as a hollow diamond.

    Cells of fewer than three finished seeds have no interval. The axis is logarithmic where errors lie far apart.

    Args:
        rows: of one workload, in their order.
        title: above the figure.
    """
    figure = Figure(figsize=(5, 0.75 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    several = len({cell.data_label for cell, _ in rows}) > 1
    # Where all are of one kind of data, that is in the title.
    names = [cell_label(cell if several else replace(cell, data_label="")) for cell, _ in rows]
    best = "best but BP" if any(cell.method == YARDSTICK for cell, _ in rows) else "best"
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        _draw(axes, place, name, row, best)
    # In two lines, so that long names leave room for the picture.
    names = [name.replace(" (", "\n(").replace(", ", "\n") for name in names]
    axes.set_yticks(range(len(rows)), names, fontsize="small", linespacing=1)
    for tick, (_, standing) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if standing.best else "normal")
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel="test error (%)")
    _scale(axes, rows)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if title:
        axes.set_title(visible(title), fontsize="medium")
        figure.supxlabel(LEGEND, fontsize="x-small")
    return figure


def _draw(axes: Axes, place: int, name: str, row: ForestRow, best: str) -> None:
    cell, standing = row
    shade = colour(cell.method)
    low, high = cell.interval
    if not math.isnan(low):
        (bar,) = axes.plot([low, high], [place, place], color=shade, linewidth=2, solid_capstyle="butt")
        mark(bar, "interval", name)
    (dot,) = axes.plot([cell.mean], [place], "o", color=shade, markersize=6)
    mark(dot, "mean", name, f"{name}: {describe_cell(cell, standing)}")
    if printed := paper_cell(cell.workload, cell.method):
        (paper,) = axes.plot([printed[0]], [place + 0.3], "D", color=shade, markerfacecolor="none", markersize=4)
        mark(paper, "paper", name)
    text = axes.text(
        1.02,
        place,
        format_values(cell, standing, best),
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize="small",
        fontweight="bold" if standing.best else "normal",
    )
    mark(text, "values", name)


def format_values(cell: Cell, standing: Standing, best: str = "best") -> str:
    """``2.22 [2.06, 2.38] =``: what the picture shows, and the mark of the table, or what the best is called.

    As in the table, ``= (-)`` where no difference could show.
    """
    low, high = cell.interval
    mean = "-" if math.isnan(cell.mean) else f"{cell.mean:.2f}"
    interval = "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"
    said = best if standing.best else standing.verdict.value + " (-)" * standing.silent
    return f"{mean}{interval} {said}"


def describe_cell(cell: Cell, standing: Standing) -> str:
    """Format a row of the plot as text."""
    low, high = cell.interval
    mean = "no test error" if math.isnan(cell.mean) else f"{cell.mean:.2f} %"
    interval = "" if math.isnan(low) else f", interval {low:.2f} to {high:.2f}"
    printed = paper_cell(cell.workload, cell.method)
    paper = f"; paper {printed[0]:.2f}" if printed else ""
    return f"{mean}{interval}, {standing.words}{paper}"


def _scale(axes: Axes, rows: Sequence[ForestRow]) -> None:
    printed = [paper_cell(cell.workload, cell.method) for cell, _ in rows]
    known = (*(cell.mean for cell, _ in rows), *(pair[0] for pair in printed if pair))
    means = [mean for mean in known if not math.isnan(mean)]
    # An error of 0 has no place on a logarithmic axis.
    if not means or max(means) <= _WIDE * min(means) or min(means) == 0:
        return
    axes.set_xscale("log")
    plain_labels(axes.xaxis)
    # An interval that reaches below zero ends at the edge.
    ends = [cell.interval[0] for cell, _ in rows if cell.interval[0] > min(means) / _WIDE]
    axes.set_xlim(left=min([*means, *ends]) / 1.1)
