"""Figures 4 and S3 to S5: the angles of updates over training, from the records of ``tpbench align``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import fill

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tpbench.engine import method_title
from tpbench.engine.errors import visible
from tpbench.reports.alignment_tables import best_dampings, describe_records, mean_of
from tpbench.reports.curves import label_beside, workload_title
from tpbench.reports.style import Axes, Figure, MaxNLocator, drawing, line_style, mark, method_style, points_alone
from tpbench.results.alignments import AlignmentRecord

_WINDOW = 10


def window(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the moving average and deviation over windows of ten measurements."""
    windows = sliding_window_view(values, min(_WINDOW, len(values)))
    return mean_of(windows, -1), windows.std(-1)


ALIGNMENT_NOTE = (
    f"Line: mean over seeds and {_WINDOW} measurements, or all if they are fewer; band: one standard deviation of "
    "these measurements. 90 degrees: no relation; 0: the same direction."
)
"""The meaning of lines and bands."""


Label = tuple[str, tuple[float, float], str]
"""A method's name, the end of its line, and its colour."""


def _curve(axes: Axes, place: str, record: AlignmentRecord, angles: NDArray[np.float64]) -> Label:
    """Draw one line with its band: ``angles`` (measurements, seeds) averaged over seeds."""
    mean, deviation = window(mean_of(angles, 1))
    epochs = np.array(record.steps[len(record.steps) - len(mean) :]) / record.steps_per_epoch
    style, name = method_style(record.method), visible(method_title(record.method))
    dashed, alone = line_style(style.dashes), points_alone(mean)
    (line,) = axes.plot(epochs, mean, color=style.light, linewidth=1.3, linestyle=dashed, **alone)
    mark(line, place, name, f"{name}: {mean[-1]:.0f} degrees at the end")
    band = axes.fill_between(epochs, mean - deviation, mean + deviation, color=style.light, alpha=0.18, linewidth=0)
    mark(band, f"{place}-band", name)
    return name, (float(epochs[-1]), float(mean[-1])), style.light


def _draw_layer(
    records: Sequence[AlignmentRecord], name: str, layer: int, panels: Sequence[Axes]
) -> tuple[list[Label], list[Label]]:
    """Draw the angles of one layer into two panels: with the loss gradient, and with (damped) GNT updates.

    Args:
        records: at least one, all of one setting.
        name: of the figure.
        layer: from 0.
        panels: two.

    Returns:
        The ends of the lines of each panel.
    """
    ends: tuple[list[Label], list[Label]] = ([], [])
    for record in records:
        by_loss, by_target = record.arrays()
        damping = 0.0 if name == "4" else best_dampings(record)[layer]
        ends[0].append(_curve(panels[0], f"loss-{layer}", record, by_loss[:, :, layer]))
        if not math.isnan(damping):
            ends[1].append(
                _curve(panels[1], f"target-{layer}", record, by_target[:, :, record.dampings.index(damping), layer])
            )
    # From one whole epoch to another, so that whole numbers are on the axis.
    first = math.floor(min(r.steps[min(_WINDOW, len(r.steps)) - 1] / r.steps_per_epoch for r in records))
    last = first + 1 + math.floor(max(r.steps[-1] / r.steps_per_epoch for r in records) - first)
    for axes in panels:
        axes.axhline(90, color="0.35", linewidth=0.9, linestyle=":")
        axes.set_ylim(0, max(95, axes.get_ylim()[1]))
        axes.set_yticks([0, 30, 60, 90], ["0°", "30°", "60°", "90°"])
        axes.set_xlim(first, last)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(alpha=0.3)
    panels[1].tick_params(labelleft=False)
    return ends


def _target_title(name: str) -> str:
    return "GNT updates" if name == "4" else "damped GNT updates"


def shown_layers(records: Sequence[AlignmentRecord], name: str) -> list[int]:
    """Return the layers of a figure, from 0: the last hidden one in Fig. 4, all of them in S3 to S5."""
    layers = records[0].layers
    return [layers - 1] if name == "4" else list(range(layers))


def alignment_legend(records: Sequence[AlignmentRecord]) -> list[tuple[str, str, tuple[float, ...]]]:
    """Return name, colour and dashes of each method."""
    styles = [(visible(method_title(record.method)), method_style(record.method)) for record in records]
    return [(name, style.light, style.dashes) for name, style in styles]


@drawing()
def alignment_panel(records: Sequence[AlignmentRecord], name: str, layer: int) -> Figure:
    """Draw one layer of :func:`alignment_figure` for a page, which has the legend."""
    figure = Figure(figsize=(4.1, 1.9))
    # By hand: a layout engine draws every panel once more.
    figure.subplots_adjust(left=0.09, right=0.985, bottom=0.23, top=0.9, wspace=0.08)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw_layer(records, name, layer, panels)
    for axes, title in zip(panels, ("loss gradient", _target_title(name)), strict=True):
        axes.set_title(title, fontsize=8, pad=3)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=8)
    return figure


@drawing()
def alignment_figure(records: Sequence[AlignmentRecord], name: str) -> Figure:
    """Draw Fig. 4 (last hidden layer, undamped GNT) or S3 to S5 (all hidden layers, each method's best damping).

    Args:
        records: at least one, all of one setting.
        name: of the figure.
    """
    shown = shown_layers(records, name)
    height = 2.6 if len(shown) == 1 else 1.9
    figure = Figure(figsize=(8.5, 1.1 + height * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 2, squeeze=False, sharex=True, sharey=True)
    for row, layer in zip(grid, shown, strict=True):
        _, ends = _draw_layer(records, name, layer, row)
        label_beside(row[1], ends, 72 * (height - 0.3), 8)
        row[0].set_ylabel(f"layer {layer + 1}")
    condition = "Condition 2" if name == "4" else "Condition S3"
    grid[0][0].set_title("(a) angle with the loss gradient", fontsize="medium")
    grid[0][1].set_title(f"(b) with {_target_title(name)} ({condition})", fontsize="medium")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    title = f"{workload_title(records[0].workload)}: angles of the weight updates ({describe_records(records)})"
    figure.suptitle(visible(title), fontsize="medium")
    figure.supxlabel(fill(ALIGNMENT_NOTE, 110), fontsize=8)
    return figure
