"""Learning curves and cost of a workload's methods, drawn from the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from tpbench.engine import TpbenchError, method_names, method_title
from tpbench.reports.style import colour, plain_powers
from tpbench.results import Cell, RunStore, choose_cells
from tpbench.results.cells import labelled

_LINES = ("-", "--", ":", "-.")


def cells_of(store: RunStore, workload: str) -> list[Cell]:
    """The cells of a workload, in the order of the table of methods.

    Raises:
        TpbenchError: there are none.
    """
    cells = [c for c in choose_cells(store.summaries()).values() if c.workload == workload]
    if not cells:
        raise TpbenchError(f"{store.folder} holds no run of {workload} yet")
    return in_order(cells)


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Cells of one workload in the order of the table of methods."""
    order = method_names()
    return sorted(cells, key=lambda c: (order.index(c.method) if c.method in order else len(order), c.data_label))


def name_of(cell: Cell) -> str:
    """Method, what kind of data copy it was trained on, and how many of its seeds are not in the picture."""
    gone = f", {cell.diverged} of {cell.seeds} diverged" if cell.diverged else ""
    return labelled(method_title(cell.method), cell.data_label) + gone


def _with_curves(store: RunStore, cells: Sequence[Cell]) -> list[Cell]:
    """The same cells with the runs' curves, as far as the runs are still there; all are read together."""
    runs = {run.definition.id: run for run in store.whole(run for cell in cells for run in cell.runs)}
    return [
        replace(cell, runs=tuple(runs[run.definition.id] for run in cell.runs if run.definition.id in runs))
        for cell in cells
    ]


def learning_curves(store: RunStore, cells: Sequence[Cell]) -> Figure:
    """Mean training loss and validation error over epochs, with the standard deviation over seeds as a band.

    Args:
        store: has the curves.
        cells: of one workload, as :func:`cells_of` gives them.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    cells = _with_curves(store, cells)
    data = sorted({cell.data_label for cell in cells})
    for axes, curve, scale, label in (
        (panels[0], "train_loss", 1.0, "training loss"), (panels[1], "validation_error", 100.0, "validation error (%)"),
    ):  # fmt: skip
        for cell in cells:
            runs = [
                r.curves[curve] for r in cell.runs if not r.diverged and len(r.curves.get(curve, ())) == cell.epochs
            ]
            if not runs:
                axes.plot([], [], color=colour(cell.method), label=name_of(cell))
                continue
            values = scale * np.array(runs)
            epochs, mean = np.arange(1, values.shape[1] + 1), values.mean(0)
            axes.plot(
                epochs, mean, color=colour(cell.method), label=name_of(cell), linewidth=1.2,
                # A method on several kinds of data has one colour, and a line of its own for each.
                linestyle=_LINES[data.index(cell.data_label) % len(_LINES)],
            )  # fmt: skip
            if len(runs) > 1:
                deviation = values.std(0, ddof=1)
                axes.fill_between(
                    epochs, mean - deviation, mean + deviation, color=colour(cell.method), alpha=0.2, linewidth=0
                )
        axes.set(xlabel="epoch", ylabel=label, yscale="log")
        plain_powers(axes.yaxis)
        axes.grid(alpha=0.3)
    handles, names = panels[1].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(f"{cells[0].workload}: mean and standard deviation over seeds", fontsize="medium")
    return figure


def cost_plot(cells: Sequence[Cell]) -> Figure:
    """Test error against the wall time of a run (its share of its pack's), one point per method."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for cell in cells:
        seconds = float(np.mean([run.wall_time_s for run in cell.runs]))
        error = None if np.isnan(cell.std) else cell.std
        axes.errorbar(seconds, cell.mean, yerr=error, marker="o", color=colour(cell.method), capsize=3)
        axes.annotate(name_of(cell), (seconds, cell.mean), xytext=(6, 4), textcoords="offset points", fontsize="small")
    axes.set(
        xscale="log", xlabel="seconds per run (its share of the pack)", ylabel="test error (%)", title=cells[0].workload
    )
    plain_powers(axes.xaxis)
    axes.margins(x=0.3)
    axes.grid(alpha=0.3)
    return figure
