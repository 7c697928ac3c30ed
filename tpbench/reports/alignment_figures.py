"""Figures 4 and S3 to S5: the angles of updates over training, from the records of ``tpbench align``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tpbench.engine import method_title
from tpbench.engine.errors import visible
from tpbench.reports.alignment_tables import best_dampings, describe_records, mean_of
from tpbench.reports.style import Axes, Figure, drawing, line_style, method_style
from tpbench.results.alignments import AlignmentRecord

_WINDOW = 10


def window(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the moving average and deviation over windows of ten measurements."""
    windows = sliding_window_view(values, min(_WINDOW, len(values)))
    return mean_of(windows, -1), windows.std(-1)


def _curve(axes: Axes, record: AlignmentRecord, angles: NDArray[np.float64]) -> None:
    """Draw one line with its band: ``angles`` (measurements, seeds) averaged over seeds."""
    mean, deviation = window(mean_of(angles, 1))
    epochs = np.array(record.steps[len(record.steps) - len(mean) :]) / record.steps_per_epoch
    style, name = method_style(record.method), visible(method_title(record.method))
    axes.plot(epochs, mean, color=style.light, label=name, linewidth=1.2, linestyle=line_style(style.dashes))
    axes.fill_between(epochs, mean - deviation, mean + deviation, color=style.light, alpha=0.2, linewidth=0)


@drawing()
def alignment_figure(records: Sequence[AlignmentRecord], name: str) -> Figure:
    """Draw Fig. 4 (last hidden layer, undamped GNT) or S3 to S5 (all hidden layers, each method's best damping).

    Args:
        records: at least one, all of one setting.
        name: of the figure.
    """
    layers = records[0].layers
    shown = [layers - 1] if name == "4" else list(range(layers))
    figure = Figure(figsize=(10, 0.8 + 2.7 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 2, squeeze=False, sharex=True)
    for record in records:
        by_loss, by_target = record.arrays()
        dampings = [0.0] * layers if name == "4" else best_dampings(record)
        for row, layer in zip(grid, shown, strict=True):
            _curve(row[0], record, by_loss[:, :, layer])
            if not math.isnan(dampings[layer]):
                _curve(row[1], record, by_target[:, :, record.dampings.index(dampings[layer]), layer])
    for row, layer in zip(grid, shown, strict=True):
        row[0].set(ylabel=f"layer {layer + 1}: angle (degrees)")
        for axes in row:
            axes.axhline(90, color="0.6", linewidth=0.8, linestyle=":")
            axes.set_ylim(0, None)
    condition = "GNT updates (Condition 2)" if name == "4" else "damped GNT updates (Condition S3)"
    grid[0][0].set_title("(a) with the loss gradient")
    grid[0][1].set_title(f"(b) with the {condition}")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize="small")
    title = f"Angles of the weight updates on {records[0].workload} ({describe_records(records)})"
    figure.suptitle(visible(title), fontsize="medium")
    return figure
