"""Learning curves and cost of a workload's methods, drawn from the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import TpbenchError, method_names
from tpbench.engine.errors import visible
from tpbench.reports.style import (
    Axes,
    Figure,
    MaxNLocator,
    colour,
    drawing,
    line_style,
    mark,
    method_style,
    plain_labels,
    plain_number,
    save,
)
from tpbench.results import Cell, RunStore, choose_cells
from tpbench.results.cells import ProvenanceGroup, provenance_groups, read_curves, with_label
from tpbench.results.formats import format_mean
from tpbench.results.runs import FULL_SEEDS, RunRecord

if TYPE_CHECKING:
    from tpbench.workloads.benchmark import BenchmarkRow

Values = NDArray[np.floating]

CURVES = {"train_loss": (1.0, "training loss"), "validation_error": (100.0, "validation error (%)")}
"""The curves in the plots: factor of the values, and label of the axis."""
BANDS = (
    f"Line: median over seeds; band: between their 10 % and 90 % quantiles, or from the lowest to the highest "
    f"of fewer than {FULL_SEEDS} seeds. Diverged seeds are left out."
)
_VARIANTS: tuple[tuple[float, ...], ...] = ((9, 3), (9, 3, 3, 3), (3, 3), (1, 3), (9, 3, 1, 3, 1, 3))
"""Patterns of the second and further tunings of a method, in units of the line's width: dashes and gaps."""


def cells_of(store: RunStore, workload: str) -> list[Cell]:
    """Return all cells of a workload, in the order of the table of methods.

    Raises:
        TpbenchError: there are none.
    """
    cells = [c for c in choose_cells(store.summaries()).values() if c.workload == workload]
    if not cells:
        raise TpbenchError(f"{store.folder} holds no run of {workload} yet")
    return sort_by_method(cells)


def sort_by_method(cells: Iterable[Cell]) -> list[Cell]:
    """Sort cells of one workload by the order of the table of methods, of one method as :func:`_variant` says."""
    order = method_names()
    return sorted(cells, key=lambda c: (order.index(c.method) if c.method in order else len(order), _variant(c)))


def _variant(cell: Cell) -> tuple[str, int, str]:
    """Return the key that cells of one method differ in: the exact data and the published configuration first."""
    return cell.data_label, cell.budget.rank, cell.tuning


def cell_label(cell: Cell) -> str:
    """Format method, tuning, kind of data and number of diverged seeds, which are not in the picture."""
    gone = f", {cell.diverged} of {cell.seeds} diverged" if cell.diverged else ""
    return visible(with_label(cell.title, cell.data_label)) + gone


def middle_and_band(values: Values) -> tuple[Values, Values, Values]:
    """Return the median over seeds and the ends of the band around it, as :data:`BANDS` describes.

    Below ten seeds a 10 % quantile would lie between the two lowest of them, where none was measured. Unlike a mean
    less its deviation, no quantile of positive numbers is below zero, so a logarithmic axis shows all of the band.

    Args:
        values: (seeds, epochs).
    """
    low, high = (0.1, 0.9) if len(values) >= FULL_SEEDS else (0.0, 1.0)
    below, middle, above = np.quantile(values, (low, 0.5, high), axis=0)
    return middle, below, above


def dashes(cell: Cell, cells: Sequence[Cell]) -> tuple[float, ...]:
    """Return the pattern of a cell's line: the method's own, or another for a further tuning or kind of data of it."""
    place = sorted({_variant(other) for other in cells if other.method == cell.method}).index(_variant(cell))
    return _VARIANTS[(place - 1) % len(_VARIANTS)] if place else method_style(cell.method).dashes


def draw_curves(axes: Axes, cells: Sequence[Cell], runs_by_id: Mapping[str, RunRecord], curve: str) -> None:
    """Draw one of :data:`CURVES` over epochs, a line with its band for each cell.

    Args:
        runs_by_id: the cells' runs, as :func:`read_curves` returns them.
    """
    scale, label = CURVES[curve]
    for cell in cells:
        known = [runs_by_id[run.definition.id] for run in cell.counted_runs if run.definition.id in runs_by_id]
        runs = [r.curves[curve] for r in known if not r.diverged and len(r.curves.get(curve, ())) == cell.epochs]
        shade, name = colour(cell.method), cell_label(cell)
        if not runs:
            axes.plot([], [], color=shade, label=name)
            continue
        middle, below, above = middle_and_band(scale * np.array(runs))
        epochs = np.arange(1, len(middle) + 1)
        (line,) = axes.plot(epochs, middle, color=shade, label=name, linewidth=1.2, zorder=3)
        line.set_linestyle(line_style(dashes(cell, cells)))
        seeds = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
        mark(
            line,
            f"{curve}-line",
            name,
            f"{name}: {label} {plain_number(float(f'{middle[-1]:.3g}'))} at the end ({seeds})",
        )
        if len(runs) > 1:
            band = axes.fill_between(epochs, below, above, color=shade, alpha=0.18, linewidth=0)
            mark(band, f"{curve}-band", name)
    axes.set(xlabel="epoch", ylabel=label, yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_labels(axes.yaxis)
    axes.grid(alpha=0.3)


@drawing()
def learning_curves(store: RunStore, cells: Sequence[Cell]) -> Figure:
    """Draw training loss and validation error over epochs: the median over seeds with a band of quantiles.

    Args:
        store: has the curves.
        cells: of one workload, as :func:`cells_of` gives them.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    runs = read_curves(store, cells)
    for axes, curve in zip(panels, CURVES, strict=True):
        draw_curves(axes, cells, runs, curve)
    handles, names = panels[1].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(f"{visible(cells[0].workload)}. {BANDS}", fontsize="small")
    return figure


def panel() -> tuple[Figure, Axes]:
    """Return a figure of one panel, a third of the report wide, so that its letters have the size of the page's."""
    figure = Figure(figsize=(4.1, 3.1), layout="constrained")
    return figure, figure.subplots()


@drawing()
def curve_panel(cells: Sequence[Cell], runs: Mapping[str, RunRecord], curve: str) -> Figure:
    """Draw :func:`draw_curves` for a page, which has the legend."""
    figure, axes = panel()
    draw_curves(axes, cells, runs, curve)
    return figure


@drawing()
def cost_panel(cells: Sequence[Cell]) -> Figure:
    """Draw :func:`cost_plot` for a page, which has the legend."""
    figure, axes = panel()
    draw_cost(axes, cells)
    axes.margins(x=0.1)
    return figure


def draw_cost(axes: Axes, cells: Sequence[Cell]) -> list[tuple[str, tuple[float, float]]]:
    """Draw test error (mean and deviation) against the wall time of a run, a point for each device of a cell.

    Returns:
        The points, with the names of their cells.
    """
    origins = [origin for cell in cells for origin in provenance_groups(cell, ["device_name"])]
    points = [_cost_point(axes, origin, place) for place, origin in enumerate(origins)]
    hollow = "\nhollow: on a GPU" if any(_on_gpu(origin) for origin in origins) else ""
    axes.set(xscale="log", xlabel=f"seconds per run (its share of the pack){hollow}", ylabel="test error (%)")
    plain_labels(axes.xaxis)
    axes.grid(alpha=0.3)
    return points


def _on_gpu(origin: ProvenanceGroup) -> bool:
    return origin.entry("device").startswith("cuda")


def _cost_point(axes: Axes, origin: ProvenanceGroup, place: int) -> tuple[str, tuple[float, float]]:
    """Draw the point of the runs of one device, the ``place``-th of the picture: its name and where it is."""
    cell, seconds = origin.cell, origin.seconds / len(origin.runs)
    name, shade = cell_label(cell), colour(cell.method)
    point, caps, bars = axes.errorbar(
        seconds,
        cell.mean,
        yerr=None if np.isnan(cell.std) else cell.std,
        marker=method_style(cell.method).marker,
        color=shade,
        markerfacecolor="white" if _on_gpu(origin) else shade,
        capsize=3,
    )
    label = (
        f"{name}: test error {format_mean(cell.mean, cell.std)} %, {plain_number(float(f'{seconds:.3g}'))} s per run"
    )
    device = origin.entry("device_name")
    mark(point, f"point-{place}", name, label if device == "-" else f"{label}, {device}")
    for number, part in enumerate((*caps, *bars)):
        mark(part, f"bar-{place}-{number}", name)
    return name, (seconds, cell.mean)


@drawing()
def cost_plot(cells: Sequence[Cell]) -> Figure:
    """Draw test error against the wall time of a run (its share of its pack's), one point per method and device."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, point in draw_cost(axes, cells):
        axes.annotate(name, point, xytext=(6, 4), textcoords="offset points", fontsize="small")
    axes.set(title=visible(cells[0].workload))
    axes.margins(x=0.3)
    return figure


@drawing()
def plot_scaling(rows: Sequence[BenchmarkRow], path: Path) -> None:
    """Draw seconds per member and joint epoch over the pack size, one line per workload and method.

    Args:
        rows: of ``tpbench bench`` with several pack sizes.
        path: the picture; its ending decides the format.

    Raises:
        TpbenchError: it cannot be written.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lines = sorted({(row.workload, row.method) for row in rows})
    for workload, method in lines:
        points = sorted(
            (r.pack, 1 / r.member_epochs_per_second) for r in rows if (r.workload, r.method) == (workload, method)
        )
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{workload} {method}")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="members per pack",
        ylabel="seconds per member and joint epoch",
        title=f"{rows[0].device}, {rows[0].precision}",
    )
    packs = sorted({row.pack for row in rows})
    axes.set_xticks(packs, [str(p) for p in packs])
    axes.minorticks_off()
    plain_labels(axes.yaxis)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    save(figure, path)
