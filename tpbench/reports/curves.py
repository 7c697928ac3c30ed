"""Learning curves and cost of a workload's methods, drawn from the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import multimode
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import TpbenchError, method_names, method_title
from tpbench.engine.errors import visible
from tpbench.reports.style import (
    Axes,
    Figure,
    FuncFormatter,
    MaxNLocator,
    colour,
    drawing,
    line_style,
    log_scale,
    mark,
    method_style,
    plain_number,
    points_alone,
)
from tpbench.results import Cell, RunStore, choose_cells
from tpbench.results.cells import ProvenanceGroup, place_in, provenance_groups, read_curves, title_of, with_label
from tpbench.results.formats import count_of, format_mean
from tpbench.results.runs import FULL_SEEDS, RunRecord
from tpbench.results.tables import PUBLISHED

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

    from tpbench.workloads.benchmark import BenchmarkRow

Values = NDArray[np.floating]

CURVES = {"train_loss": (1.0, "training loss"), "validation_error": (100.0, "validation error (%)")}
"""The curves in the plots: factor of the values, and label of the axis."""
BANDS = (
    f"Line: median over seeds; band: between their 10 % and 90 % quantiles, or from the lowest to the highest "
    f"of fewer than {FULL_SEEDS} seeds; grey: medians of the others. Diverged seeds are left out."
)
_VARIANTS: tuple[tuple[float, ...], ...] = ((9, 3), (9, 3, 3, 3), (3, 3), (1, 3), (9, 3, 1, 3, 1, 3))
"""Patterns of the second and further tunings of a method, in units of the line's width: dashes and gaps."""
_VARIANT_MARKERS = ("P", "X", "*", "p", "h")
"""Markers of the second and further tunings of a method; no method has one of them."""
OTHERS_COLOUR = "#c8c8c8"
"""Colour of the others' curves behind that of a panel."""


def cells_of(store: RunStore, workload: str, tuning: str | None = None) -> list[Cell]:
    """Return all cells of a workload, in the order of the table of methods.

    Args:
        tuning: only those with this tuning label; None: all.

    Raises:
        TpbenchError: there are none.
    """
    cells = [c for c in choose_cells(store.summaries(), tuning).values() if c.workload == workload]
    if not cells:
        raise TpbenchError(f"{store.folder} holds no run of {workload} yet")
    return sort_by_method(cells)


def sort_by_method(cells: Iterable[Cell]) -> list[Cell]:
    """Sort cells of one workload by the order of the table of methods, of one method as :func:`_variant` says."""
    order = method_names()
    return sorted(cells, key=lambda c: (place_in(order, c.method), _variant(c)))


def _variant(cell: Cell) -> tuple[str, int, str]:
    """Return the key that cells of one method differ in: the exact data and the published configuration first."""
    return cell.data_label, cell.budget.rank, cell.tuning


def cell_label(cell: Cell, cells: Iterable[Cell] = ()) -> str:
    """Format method, tuning, kind of data and number of diverged seeds, which are not in the picture.

    Args:
        cell: of a picture.
        cells: of the picture; the label has the epochs that differ from those of most.
    """
    usual = multimode(other.epochs for other in cells)
    epochs = f", {count_of(cell.epochs, 'epoch')}" if usual and cell.epochs != max(usual) else ""
    gone = f", {cell.diverged} of {cell.seeds} diverged" if cell.diverged else ""
    return visible(with_label(cell.title, cell.data_label)) + epochs + gone


def name_tunings(cells: Iterable[Cell]) -> list[Cell]:
    """Let every cell of a picture name its tuning where several are in it, also of methods that have one."""
    found = list(cells)
    several = len({cell.tuning for cell in found}) > 1
    return [replace(cell, tunings=max(2, cell.tunings)) if several else cell for cell in found]


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


def _place(cell: Cell, cells: Sequence[Cell]) -> int:
    """Return the number of a cell among the tunings and kinds of data of its method: 0 is the first."""
    return sorted({_variant(other) for other in cells if other.method == cell.method}).index(_variant(cell))


def dashes(cell: Cell, cells: Sequence[Cell]) -> tuple[float, ...]:
    """Return the pattern of a cell's line: the method's own, or another for a further tuning or kind of data of it."""
    place = _place(cell, cells)
    return _VARIANTS[(place - 1) % len(_VARIANTS)] if place else method_style(cell.method).dashes


def marker(cell: Cell, cells: Sequence[Cell]) -> str:
    """Return the marker of a cell: the method's own, or another for a further tuning or kind of data of it."""
    place = _place(cell, cells)
    return _VARIANT_MARKERS[(place - 1) % len(_VARIANT_MARKERS)] if place else method_style(cell.method).marker


def workload_title(name: str) -> str:
    """Return the title of a workload; of one in a file its name."""
    return visible(title_of(name))


def _title_of(cells: Sequence[Cell]) -> str:
    """Return the title of a picture of cells of one workload: with their tuning, unless rows name theirs."""
    tunings = {cell.tuning for cell in cells}
    tuned = f", {visible(*tunings)}" if len(tunings) == 1 and not tunings <= {PUBLISHED, "unknown"} else ""
    return workload_title(cells[0].workload) + tuned


def label_beside(
    axes: Axes, labels: Sequence[tuple[str, tuple[float, float], str]], height: float, size: float = 8.0
) -> None:
    """Write names to the right of a panel, each with a line to its point, moved apart where they would overlap.

    Called when everything is drawn and the limits are set.

    Args:
        axes: the panel.
        labels: name, point in the panel's data, and colour of the line; a point that is no number has no label.
        height: of the panel in points, about.
        size: of the letters in points.
    """
    from scipy.optimize import isotonic_regression

    labels = [label for label in labels if np.isfinite(label[1]).all()]
    if not labels:
        return
    axes.get_ylim()  # Brings the limits up to date.
    to_axes = axes.transScale + axes.transLimits
    ordered = sorted(labels, key=lambda label: to_axes.transform(label[1])[1])
    wanted = np.array([to_axes.transform(point)[1] for _, point, _ in ordered])
    half = np.array([name.count("\n") + 1 for name, _, _ in ordered]) * 0.6 * size / height
    offsets = np.concatenate([[0.0], np.cumsum(half[1:] + half[:-1])])
    # The least squared shift with which neighbours keep their distance.
    places = np.clip(isotonic_regression(wanted - offsets).x, 0, max(0, 1 - offsets[-1])) + offsets
    for (name, point, shade), place in zip(ordered, places, strict=True):
        axes.annotate(
            name,
            point,
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            fontsize=size,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": shade, "linewidth": 0.7, "shrinkA": 1, "relpos": (0, 0.5)},
        )


@dataclass(frozen=True)
class CellCurve:
    """A curve of one cell over epochs: the median over seeds and the band around it."""

    cell: Cell
    seeds: int
    middle: Values
    below: Values
    above: Values


def cell_curves(cells: Sequence[Cell], runs_by_id: Mapping[str, RunRecord], curve: str) -> list[CellCurve]:
    """Return one of :data:`CURVES` for each cell that has it.

    Args:
        cells: of one workload.
        runs_by_id: the cells' runs, as :func:`read_curves` returns them.
        curve: a key of :data:`CURVES`.
    """
    curves = []
    for cell in cells:
        known = [runs_by_id[run.definition.id] for run in cell.counted_runs if run.definition.id in runs_by_id]
        values = [r.curves[curve] for r in known if not r.diverged and len(r.curves.get(curve, ())) == cell.epochs]
        if values:
            curves.append(CellCurve(cell, len(values), *middle_and_band(CURVES[curve][0] * np.array(values))))
    return curves


def draw_curves(
    parent: Figure | SubFigure, cells: Sequence[Cell], curves: Sequence[CellCurve], curve: str, columns: int
) -> None:
    """Draw a panel per cell over epochs: its line and band in colour, the medians of the others in grey.

    Args:
        parent: the figure, or the part of it, that gets the panels.
        cells: of the workload, which share the line styles.
        curves: as :func:`cell_curves` returns them; at least one.
        curve: a key of :data:`CURVES`.
        columns: panels side by side.
    """
    label, count = CURVES[curve][1], len(curves)
    columns = min(columns, count)
    behind = [_thinned(one.middle) for one in curves]
    first: Axes | None = None
    for place, (one, panel_title) in enumerate((c, fill(cell_label(c.cell, cells), TITLE_WIDTH)) for c in curves):
        axes = parent.add_subplot(-(-count // columns), columns, place + 1, sharex=first, sharey=first)
        first = first or axes
        _draw_panel(axes, one, [pair for other, pair in enumerate(behind) if other != place], cells, curve)
        axes.set_title(panel_title, fontsize=7.5, pad=2, loc="left")
        axes.tick_params(labelsize=7.5, labelbottom=place + columns >= count, labelleft=place % columns == 0)
    assert first is not None
    first.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    log_scale(first, "y", np.concatenate([part for one in curves for part in (one.below, one.middle, one.above)]))
    first.minorticks_off()
    parent.supxlabel("epoch", fontsize=9)
    parent.supylabel(label, fontsize=9)


TITLE_WIDTH = 29
"""Characters in a line of a panel's title."""


def _thinned(middle: Values) -> tuple[Values, Values]:
    """Return about thirty epochs of a median and a gap behind them: in a page it stands in every panel but one."""
    places = np.unique(np.linspace(0, len(middle) - 1, 30).round().astype(int))
    return np.append(places + 1, places[-1] + 1), np.append(middle[places], np.nan)


def _draw_panel(
    axes: Axes, one: CellCurve, others: Sequence[tuple[Values, Values]], cells: Sequence[Cell], curve: str
) -> None:
    shade, name, label = colour(one.cell.method), cell_label(one.cell, cells), CURVES[curve][1]
    if others:
        places, middles = (np.concatenate(part) for part in zip(*others, strict=True))
        axes.plot(places, middles, color=OTHERS_COLOUR, linewidth=0.7, **points_alone(middles))
    epochs = np.arange(1, len(one.middle) + 1)
    (line,) = axes.plot(
        epochs, one.middle, color=shade, label=name, linewidth=1.3, zorder=3, **points_alone(one.middle)
    )
    line.set_linestyle(line_style(dashes(one.cell, cells)))
    end = plain_number(float(f"{one.middle[-1]:.3g}"))
    mark(line, f"{curve}-line", name, f"{name}: {label} {end} at the end ({one.seeds} seed{'s' * (one.seeds > 1)})")
    if one.seeds > 1:
        band = axes.fill_between(epochs, one.below, one.above, color=shade, alpha=0.25, linewidth=0, zorder=2)
        mark(band, f"{curve}-band", name)
    axes.grid(alpha=0.3)


@drawing()
def learning_curves(store: RunStore, cells: Sequence[Cell]) -> Figure:
    """Draw validation error and training loss over epochs, each as a panel per cell.

    Args:
        store: has the curves.
        cells: of one workload, as :func:`cells_of` gives them.

    Raises:
        TpbenchError: no run has a curve.
    """
    runs = read_curves(store, cells)
    drawn = {curve: found for curve in reversed(CURVES) if (found := cell_curves(cells, runs, curve))}
    if not drawn:
        title = workload_title(cells[0].workload)
        raise TpbenchError(f"no run of {title} in {store.folder} came to its end, so there is no curve to draw")
    columns = min(4, max(map(len, drawn.values())))
    heights = [0.35 + 1.25 * -(-len(found) // columns) for found in drawn.values()]
    figure = Figure(figsize=(max(4.2, 0.5 + 2.1 * columns), 0.5 + sum(heights)), layout="constrained")
    figure.suptitle(fill(f"{_title_of(cells)}. {BANDS}", 24 * (columns + 1)), fontsize=8)
    parts = figure.subfigures(len(drawn), 1, height_ratios=heights, squeeze=False).flat
    for part, (curve, found) in zip(parts, drawn.items(), strict=True):
        draw_curves(part, cells, found, curve, columns)
    return figure


def panel(height: float = 3.1) -> tuple[Figure, Axes]:
    """Return a figure of one panel, a third of the report wide, so that its letters have the size of the page's."""
    figure = Figure(figsize=(4.1, height), layout="constrained")
    return figure, figure.subplots()


@drawing()
def curve_panel(cells: Sequence[Cell], curves: Sequence[CellCurve], curve: str) -> Figure:
    """Draw :func:`draw_curves` for a page: two panels side by side, which a narrow screen can still show."""
    columns = min(2, len(curves))
    lines = max(fill(cell_label(one.cell, cells), TITLE_WIDTH).count("\n") + 1 for one in curves)
    rows, title = -(-len(curves) // columns), 0.05 + 0.13 * lines
    height = 0.45 + (0.95 + title) * rows
    # Margins in inches, set by hand: a layout engine draws every panel once more.
    figure = Figure(figsize=(4.1, height))
    figure.subplots_adjust(
        left=0.72 / 4.1,
        right=4.05 / 4.1,
        bottom=0.45 / height,
        top=1 - title / height,
        hspace=(title + 0.1) / 0.85,
        wspace=0.08,
    )
    draw_curves(figure, cells, curves, curve, columns)
    return figure


@drawing()
def cost_panel(cells: Sequence[Cell]) -> Figure:
    """Draw :func:`draw_cost` for a page."""
    figure, axes = panel(max(3.1, 0.3 * len(cells)))
    draw_cost(axes, cells, figure.get_figheight())
    return figure


def draw_cost(axes: Axes, cells: Sequence[Cell], height: float) -> None:
    """Draw test error (mean and deviation) against the wall time of a run.

    A cell has a named point for each device, and on a CPU for each number of threads.

    Args:
        axes: the panel.
        cells: of one workload.
        height: of the figure in inches.
    """
    groups = [_cost_groups(cell) for cell in cells]
    points = [(origin, len(group) > 1) for group in groups for origin in group]
    labels = [_cost_point(axes, origin, place, cells, several) for place, (origin, several) in enumerate(points)]
    hollow = "\nhollow: on a GPU" if any(_on_gpu(origin) for origin, _ in points) else ""
    axes.set(xlabel=f"seconds per run{hollow}", ylabel="test error (%)")
    seconds = [point[0] for _, point, _ in labels]
    log_scale(axes, "x", seconds)
    # At least a factor of 2, so that a small difference looks small.
    low, high, least = min(seconds), max(seconds), 2**0.5
    middle = (low * high) ** 0.5
    axes.set_xlim(min(low / 1.25, middle / least), max(high * 1.25, middle * least))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    label_beside(axes, labels, 72 * (height - 0.7), 7.5)


def _cost_groups(cell: Cell) -> list[ProvenanceGroup]:
    """Return the runs of a cell whose time counts, by device, and those of a CPU by threads.

    They are those of its mean. A diverged run ended early, and counts only where all have.
    """
    counted = [run for run in cell.counted_runs if not run.diverged] or cell.counted_runs
    devices = provenance_groups(cell, ["device_name"], counted)
    parts = ([one] if _on_gpu(one) else provenance_groups(cell, ["threads"], one.runs) for one in devices)
    return [part for group in parts for part in group]


_SHORTEST_S = 1e-3
"""The left end of the axis of cost, which is logarithmic: shorter runs stand there, also those without a time."""


def _on_gpu(origin: ProvenanceGroup) -> bool:
    return origin.entry("device").startswith("cuda")


def _cost_point(
    axes: Axes, origin: ProvenanceGroup, place: int, cells: Sequence[Cell], several: bool
) -> tuple[str, tuple[float, float], str]:
    """Draw a point and return its label, place and colour.

    Args:
        axes: the panel.
        origin: the runs of the point.
        place: its number in the picture.
        cells: of the picture.
        several: its cell has other points too.
    """
    cell, seconds = origin.cell, origin.seconds / len(origin.runs)
    place_on_axis = max(seconds, _SHORTEST_S)
    name, shade = cell_label(cell, cells), colour(cell.method)
    point, caps, bars = axes.errorbar(
        place_on_axis,
        cell.mean,
        yerr=None if np.isnan(cell.std) else cell.std,
        marker=marker(cell, cells),
        color=shade,
        markerfacecolor="white" if _on_gpu(origin) else shade,
        capsize=3,
    )
    label = (
        f"{name}: test error {format_mean(cell.mean, cell.std)} %, {plain_number(float(f'{seconds:.3g}'))} s per run"
    )
    device, threads = origin.entry("device_name"), origin.entry("threads")
    on_threads = "" if _on_gpu(origin) or threads == "-" else f", {threads} thread{'s' * (threads != '1')}"
    mark(point, f"point-{place}", name, label if device == "-" else f"{label}, {device}{on_threads}")
    for number, part in enumerate((*caps, *bars)):
        mark(part, f"bar-{place}-{number}", name)
    return fill(name + on_threads * several, TITLE_WIDTH), (place_on_axis, cell.mean), shade


COST_NOTE = (
    "Point: mean test error over the seeds of all devices; bar: one standard deviation. Seconds: a run's share of its "
    "pack's, on one device; those of runs that diverged count only where all have."
)
"""The meaning of the points of the cost."""


@drawing()
def cost_plot(cells: Sequence[Cell]) -> Figure:
    """Draw test error against the wall time of a run (its share of its pack's), as :func:`draw_cost` does."""
    cells, height = name_tunings(cells), max(4.2, 0.3 * len(cells))
    figure = Figure(figsize=(6.5, height), layout="constrained")
    axes = figure.subplots()
    draw_cost(axes, cells, height - 0.6)
    axes.set_title(_title_of(cells))
    figure.supxlabel(fill(COST_NOTE, 110), fontsize=7)
    return figure


@drawing()
def scaling_figure(rows: Sequence[BenchmarkRow]) -> Figure:
    """Draw seconds per member and joint epoch over the pack size, one line per workload, method and precision.

    Args:
        rows: of ``tpbench bench`` with several pack sizes.
    """
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    workloads, precisions = (
        list(dict.fromkeys(values)) for values in zip(*((r.workload, r.precision) for r in rows), strict=True)
    )
    packs, labels = sorted({row.pack for row in rows}), []
    for workload, method, precision in sorted({(row.workload, row.method, row.precision) for row in rows}):
        points = sorted(
            (r.pack, 1 / r.member_epochs_per_second)
            for r in rows
            if (r.workload, r.method, r.precision) == (workload, method, precision)
        )
        style, variant = method_style(method), workloads.index(workload) + precisions.index(precision)
        pattern = _VARIANTS[(variant - 1) % len(_VARIANTS)] if variant else style.dashes
        axes.plot(*zip(*points, strict=True), marker=style.marker, color=style.light, linestyle=line_style(pattern))
        several = [workload_title(workload)] * (len(workloads) > 1) + [precision] * (len(precisions) > 1)
        labels.append((", ".join([visible(method_title(method)), *several]), points[-1], style.light))
    place = "CPU" if rows[0].device.startswith("cpu") else f"GPU ({rows[0].device})"
    title = ", ".join([*([workload_title(workloads[0])] if len(workloads) == 1 else []), place, *precisions])
    axes.set(xlabel="members per pack", ylabel="seconds per member and joint epoch", title=title)
    axes.set_xscale("log")
    axes.set_xticks(packs, [str(p) for p in packs])
    axes.minorticks_off()
    seconds = [1 / row.member_epochs_per_second for row in rows]
    # Ticks 1, 2, 4, 8: also a narrow range has two of them.
    axes.set_yscale("log", base=2)
    axes.set_ylim(2 ** np.floor(np.log2(min(seconds))), 2 ** np.ceil(np.log2(max(seconds))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, position: plain_number(value)))
    axes.grid(alpha=0.3)
    label_beside(axes, labels, 220, 9)
    return figure
