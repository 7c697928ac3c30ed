"""Plots of a search: error over trials, parallel coordinates, importance of hyperparameters."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tpbench.engine import TpbenchError
from tpbench.engine.errors import visible
from tpbench.reports.style import Figure, drawing
from tpbench.results.location import location
from tpbench.results.store import RunStore
from tpbench.search.definition import SweepFolder
from tpbench.search.listing import scored_configurations, trials_frame

# With fewer trials a forest says nothing.
_FEWEST = 8


def search_frame(results: str, sweep: str) -> pd.DataFrame:
    """One row per configuration of a sweep's search: its hyperparameters and ``error``, in order.

    ``error`` is the lowest validation error in per cent, or of another curve that the search minimises.

    Raises:
        UsageError: there is no such sweep.
        TpbenchError: its search has no results yet, or is damaged.
    """
    trials, _ = trials_frame(RunStore(location(results)), sweep)
    frame = scored_configurations(trials)
    if frame.empty:
        raise TpbenchError(f"the sweep {sweep} has no results yet")
    return frame


def importance(frame: pd.DataFrame) -> pd.Series[float] | None:
    """Share of each hyperparameter in what a random forest uses to predict the error; None with too few trials.

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
    """Values as heights from 0 to 1, logarithmic where they span more than a factor of 5."""
    numbers = values.to_numpy(dtype=float)
    if numbers.min() > 0 and numbers.max() / numbers.min() > 5:
        numbers = np.log(numbers)
    span = np.ptp(numbers)
    return (numbers - numbers.min()) / span if span else np.full(len(numbers), 0.5)


@drawing()
def search_figure(results: str, sweep: str) -> Figure:
    """Three panels: error over trials, parallel coordinates (dark: low error), importance."""
    frame, definition = search_frame(results, sweep), SweepFolder(location(results) / "sweeps" / sweep).read()
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
