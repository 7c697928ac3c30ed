"""Plots of searches: what one of them saw, and the tuning curves of all searches of a workload."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from tpbench.engine import TpbenchError, method_names, method_title
from tpbench.engine.errors import visible
from tpbench.reports.curves import panel
from tpbench.reports.style import Axes, Bbox, Figure, colour, drawing, mark, plain_labels, plain_number
from tpbench.results.store import RunStore
from tpbench.search.listing import get_sweep, scored_configurations, trials_frame
from tpbench.search.tuning import OBSERVED, QUANTILES, WITH, WITHOUT, tuning_frames

# With fewer trials a forest says nothing.
_FEWEST = 8


def search_frame(store: RunStore, sweep: str) -> pd.DataFrame:
    """Return one row per configuration of a sweep's search: its hyperparameters and ``error``, in order.

    ``error`` is the lowest validation error in per cent, or of another curve that the search minimises.

    Raises:
        UsageError: there is no such sweep.
        TpbenchError: its search has no results yet, or is damaged.
    """
    trials, _ = trials_frame(store, sweep)
    frame = scored_configurations(trials)
    if frame.empty:
        raise TpbenchError(f"the sweep {sweep} has no results yet")
    return frame


def importance(frame: pd.DataFrame) -> pd.Series[float] | None:
    """Return the share of each hyperparameter in a random forest that predicts the error; None with too few trials.

    Permutation importance, negative values as 0, scaled to a sum of 1. It speaks of the configurations that TPE chose,
    which crowd where the error is low.
    """
    inputs = frame.drop(columns="error")
    inputs = inputs.loc[:, inputs.nunique() > 1]
    if len(frame) < _FEWEST or inputs.empty or frame["error"].nunique() < 2:
        return None
    # Slow to import, and small searches have no importance.
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    forest = RandomForestRegressor(200, random_state=0, min_samples_leaf=2).fit(inputs, frame["error"])
    result = permutation_importance(forest, inputs, frame["error"], n_repeats=20, random_state=0)
    shares = pd.Series(result["importances_mean"], index=inputs.columns).clip(lower=0)
    return (shares / shares.sum() if shares.sum() else shares).sort_values()


def _position(values: pd.Series[float]) -> np.ndarray:
    """Return values as heights from 0 to 1, logarithmic where they span more than a factor of 5."""
    numbers = values.to_numpy(dtype=float)
    if numbers.min() > 0 and numbers.max() / numbers.min() > 5:
        numbers = np.log(numbers)
    span = np.ptp(numbers)
    return (numbers - numbers.min()) / span if span else np.full(len(numbers), 0.5)


@drawing()
def search_figure(store: RunStore, sweep: str) -> Figure:
    """Draw three panels: error over trials, parallel coordinates (dark: low error), importance."""
    frame, definition = search_frame(store, sweep), get_sweep(store, sweep).read()
    figure = Figure(figsize=(12, 8), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    history, shares = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    trials = np.arange(1, len(frame) + 1)
    history.plot(trials, frame["error"], "o", color="#56B4E9", markersize=4, label="configuration")
    history.plot(trials, frame["error"].cummin(), color="#0072B2", label="best so far")
    label = definition.score_label
    history.set(xlabel="trial", ylabel=label)
    history.legend(fontsize="small")
    shares_of = importance(frame)
    if shares_of is None:
        shares.text(
            0.5, 0.5, f"importance needs {_FEWEST} trials", ha="center", va="center", transform=shares.transAxes
        )
        shares.set_axis_off()
    else:
        shares.barh([visible(str(name)) for name in shares_of.index], list(shares_of), color="#009E73")
        shares.set(xlabel="importance (forest, permutation)")
    parallel = figure.add_subplot(grid[1, :])
    columns = [*frame.columns.drop("error"), "error"]
    heights = np.stack([_position(frame[c]) for c in columns], 1)
    ranks = frame["error"].rank(pct=True)
    for row, rank in sorted(zip(heights, ranks, strict=True), key=lambda pair: -pair[1]):
        parallel.plot(row, color="#0072B2", alpha=float(1 - 0.9 * rank), linewidth=1)
    names = [f"{visible(str(c))}\n{frame[c].min():.3g}\nto {frame[c].max():.3g}" for c in columns]
    parallel.set_xticks(range(len(columns)), names, fontsize="small")
    scale = "each from its lowest to its highest value (logarithmic beyond a factor of 5)"
    parallel.set(yticks=[], title=f"parallel coordinates, {scale}; dark: low error")
    figure.suptitle(f"{visible(sweep)}: {len(frame)} configurations{definition.caption}")
    return figure


TUNING_NOTE = (
    "Solid: the lowest validation error so far, in the order of suggestion. Dashed: the expected best of as many "
    "random trials of the search; dotted: drawn with replacement (Dodge et al. 2019). A trial that did not come to its "
    "end costs its epochs and is never the best; a random draw of it counts with its error at the stop (100 % if it "
    "diverged or failed), or with the worst that came to the end if that is higher."
)
"""The lines of tuning curves."""
SPREAD_TITLE = "Random trials: number, and quantiles of validation error (%)"
SPREAD_NOTE = "Unfinished trials did not come to their end, and rank last; a dash: the quantile falls among them."
TUNING_AXES = {"trials": "trials", "member_epochs": "epochs trained, over all trials"}
"""The panels of tuning curves: column of the frame, and label of the axis."""
_LINES: dict[str, dict[str, Any]] = {
    OBSERVED: {"linestyle": "-", "linewidth": 1.6, "drawstyle": "steps-post", "zorder": 4},
    WITHOUT: {"linestyle": "--", "linewidth": 1.1},
    WITH: {"linestyle": ":", "linewidth": 1.1},
}
# Of the searches of one method, which share its colour.
_MARKERS = ("", "o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Search:
    """One search in a plot of tuning curves."""

    sweep: str
    label: str
    style: dict[str, Any]
    """Colour of the method, and a marker that tells its searches apart."""


@dataclass(frozen=True)
class TuningPlot:
    """Tuning curves of all searches of one workload, as :func:`tpbench.search.tuning.tuning_frames` gives them."""

    workload: str
    curves: pd.DataFrame
    spread: pd.DataFrame

    @cached_property
    def searches(self) -> list[Search]:
        """The searches in the order of the table of methods."""
        order = method_names()
        rows = sorted(
            self.spread.to_dict("records"),
            key=lambda row: (order.index(row["method"]) if row["method"] in order else len(order), row["sweep"]),
        )
        budgets = Counter((row["method"], row["search"]) for row in rows)
        number = Counter[str]()
        searches = []
        for row in rows:
            sweep, method = row["sweep"], row["method"]
            label = f"{method_title(method)}, {row['search']}"
            if budgets[method, row["search"]] > 1:
                # Of another seed or space: the digits at the end of the sweep's name differ.
                label += f" ({sweep.removeprefix(f'{self.workload}-{method}-')})"
            marker = _MARKERS[number[method] % len(_MARKERS)]
            searches.append(Search(sweep, visible(label), {"color": colour(method), "marker": marker, "markersize": 4}))
            number[method] += 1
        return searches

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows of the quantiles of random trials."""
        header = ["search", "random", "unfinished", *(f"{100 * share:.0f} %" for share in QUANTILES)]
        spread = self.spread.set_index("sweep")
        rows = []
        for search in self.searches:
            row = spread.loc[search.sweep]
            values = [row[f"q{100 * share:.0f}"] for share in QUANTILES]
            numbers = ["-" if np.isnan(value) else f"{value:.2f}" for value in values]
            rows.append([search.label, str(row["random"]), str(row["unfinished"]), *numbers])
        return header, rows


def tuning_plots(store: RunStore) -> tuple[list[TuningPlot], list[str]]:
    """Return the tuning curves of every workload of a store that has searches, and lines about those left out."""
    curves, spread, notes = tuning_frames(store)
    plots = [
        TuningPlot(name, curves[curves["workload"] == name], spread[spread["workload"] == name])
        for name in sorted(spread["workload"].unique())
    ]
    return plots, notes


def draw_tuning(axes: Axes, plot: TuningPlot, column: str) -> None:
    """Draw the tuning curves of a workload over one of :data:`TUNING_AXES`."""
    for search in plot.searches:
        axes.plot([], [], label=search.label, **search.style)
        of_search = plot.curves[plot.curves["sweep"] == search.sweep].dropna(subset=[column, "validation_error"])
        for place, (kind, style) in enumerate(_LINES.items()):
            rows = of_search[of_search["kind"] == kind]
            if rows.empty:
                continue
            (line,) = axes.plot(rows[column], rows["validation_error"], markevery=0.2, **search.style, **style)
            end = f"{rows['validation_error'].iloc[-1]:.2f} % after {plain_number(float(rows[column].iloc[-1]))}"
            words = f"{search.label}, {kind}: {end} {'trials' if column == 'trials' else 'epochs'}"
            mark(line, f"{column}-{place}", search.label, words)
    axes.set(xscale="log", yscale="log", xlabel=TUNING_AXES[column], ylabel="best validation error (%)")
    plain_labels(axes.xaxis)
    plain_labels(axes.yaxis)
    axes.grid(alpha=0.3)


@drawing()
def tuning_panel(plot: TuningPlot, column: str) -> Figure:
    """Draw one of :data:`TUNING_AXES` for a page, which has the legend."""
    figure, axes = panel()
    draw_tuning(axes, plot, column)
    return figure


@drawing()
def tuning_figure(store: RunStore, workload: str) -> Figure:
    """Draw a workload's tuning curves over trials and over epochs, and the quantiles of the random trials below.

    The panels stand one above the other, so that a narrow screen shows letters that can be read.

    Raises:
        TpbenchError: the store has no search on it with results.
    """
    curves, spread, notes = tuning_frames(store, workload)
    if spread.empty:
        also = "".join(f"; {note}" for note in notes)
        raise TpbenchError(
            f"{store.folder} holds no search on {workload} with results; 'tpbench sweep {workload} METHOD' "
            f"makes one{also}"
        )
    plot = TuningPlot(workload, curves, spread)
    header, rows = plot.table()
    text = [fill(visible(line), 92) for line in (TUNING_NOTE, SPREAD_NOTE, *notes)]
    lines = sum(part.count("\n") + 1 for part in text)
    heights = [2.4, 2.4, 0.3 + 0.18 * len(rows)]
    figure = Figure(figsize=(5, sum(heights) + 0.9 + 0.18 * len(rows) + 0.11 * lines), layout="constrained")
    *panels, below = figure.subplots(3, 1, height_ratios=heights)
    for axes, column in zip(panels, TUNING_AXES, strict=True):
        draw_tuning(axes, plot, column)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        title=f"{visible(workload)}: tuning curves",
        fontsize="small",
        frameon=False,
    )
    _draw_table(below, header, rows)
    figure.supxlabel("\n".join(text), fontsize=6.5, x=0.02, ha="left")
    return figure


def _draw_table(axes: Axes, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    axes.set_axis_off()
    axes.set_title(SPREAD_TITLE, fontsize="small")
    widths = [0.4, 0.09, 0.13, *[0.38 / len(QUANTILES)] * len(QUANTILES)]
    # As wide as the panels with their labels.
    table = axes.table(
        [[*row] for row in rows],
        colLabels=[*header],
        colWidths=widths,
        bbox=Bbox.from_extents(-0.12, 0, 1, 1),
        edges="open",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(6.5)
    for (_, column), cell in table.get_celld().items():
        cell.set_text_props(ha="left" if column == 0 else "right")
