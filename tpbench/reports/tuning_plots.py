"""Plots of searches: the trials of one of them, and the tuning curves of all searches of a workload."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tpbench.engine import TpbenchError, method_names, method_title
from tpbench.engine.errors import visible
from tpbench.reports.curves import label_beside, panel, workload_title
from tpbench.reports.style import Axes, Bbox, Figure, MaxNLocator, colour, drawing, mark, plain_labels, plain_number
from tpbench.results.store import RunStore
from tpbench.search.definition import SweepDefinition
from tpbench.search.listing import get_sweep, scored_configurations, trials_frame
from tpbench.search.spaces import is_published, published_configuration
from tpbench.search.tuning import OBSERVED, QUANTILES, WITH, WITHOUT, tuning_frames
from tpbench.workloads import WORKLOADS

# With fewer trials no share can be told from chance.
_FEWEST = 8
_THIRDS = 3
_PANELS = 2
_STOPPED = {"stopped", "pruned"}


def search_frame(store: RunStore, sweep: str) -> pd.DataFrame:
    """Return one row per configuration of a sweep's search: its hyperparameters and ``error``, in order.

    ``error`` is the lowest validation error in per cent, or of another curve that the search minimises.

    Raises:
        UsageError: there is no such sweep.
        TpbenchError: its search has no results yet, or is damaged.
    """
    return read_search(store, sweep).configurations


@dataclass(frozen=True)
class SearchTrials:
    """The trials of one search that have a score."""

    definition: SweepDefinition
    trials: pd.DataFrame
    """As :func:`tpbench.search.listing.trials_frame` gives them."""
    published: Mapping[str, float]
    """The published configuration; empty where there is none."""

    @property
    def configurations(self) -> pd.DataFrame:
        """Their hyperparameters and ``error``."""
        return scored_configurations(self.trials)

    @property
    def best(self) -> int | None:
        """The row of the best trial, the first of equals; None where none was trained to its end."""
        finished = self.trials.loc[self.trials["state"] == "finished", "objective"]
        return None if finished.empty else int(finished.index[int(finished.argmin())])


def read_search(store: RunStore, sweep: str) -> SearchTrials:
    """Return the trials of a sweep's search that have a score.

    Raises:
        UsageError: there is no such sweep.
        TpbenchError: its search has no results yet, or is damaged.
    """
    definition, (trials, _) = get_sweep(store, sweep).read(), trials_frame(store, sweep)
    trials = trials[np.isfinite(trials["objective"])].reset_index(drop=True)
    if trials.empty:
        raise TpbenchError(f"the sweep {sweep} has no results yet")
    workload, published = WORKLOADS.get(definition.workload), {}
    if workload and not definition.workload_source and is_published(workload, definition.method):
        published = published_configuration(workload, definition.method)
    return SearchTrials(definition, trials, published)


def importance(frame: pd.DataFrame) -> pd.Series[float] | None:
    """Return the share of each hyperparameter in the error, in ascending order; None with too few trials.

    The share (epsilon squared of Kruskal and Wallis, less what chance gives, from 0) is that of the variance of the
    error's ranks which thirds of the hyperparameter's values explain. So it also sees that values in the middle are
    best. It takes hyperparameters one at a time, and speaks of the configurations that TPE chose, which crowd where the
    error is low.
    """
    inputs = frame.drop(columns="error")
    inputs = inputs.loc[:, inputs.nunique() > 1]
    count, ranks = len(frame), frame["error"].rank()
    if count < _FEWEST or inputs.empty or ranks.nunique() < 2:
        return None
    total = float(((ranks - ranks.mean()) ** 2).sum())
    shares = {}
    for name, values in inputs.items():
        thirds = values if values.nunique() <= _THIRDS else np.ceil(_THIRDS * values.rank(method="average", pct=True))
        groups = ranks.groupby(thirds)
        between = float((groups.size() * (groups.mean() - ranks.mean()) ** 2).sum())
        shares[name] = max(0.0, 1 - (1 - between / total) * (count - 1) / (count - groups.ngroups))
    return pd.Series(shares, dtype=float).sort_values()


SEARCH_NOTE = (
    "First: error over trials. Next: error against the hyperparameters that matter most. Hollow: stopped before the "
    "end of its training."
)
"""The panels of a search."""


def importance_note(shares: pd.Series[float] | None) -> str:
    """Return a line about the importance of hyperparameters."""
    if shares is None:
        return f"The importance of hyperparameters needs {_FEWEST} trials."
    listed = ", ".join(f"{visible(str(name))} {100 * share:.0f} %" for name, share in shares[::-1].items())
    return f"Share of the error's ranks that thirds of each hyperparameter's values explain: {listed}."


def _shown_hyperparameters(frame: pd.DataFrame, shares: pd.Series[float] | None) -> list[str]:
    """Return the names of the two most important hyperparameters; without importance the first two that vary."""
    if shares is not None:
        return [str(name) for name in shares.index[::-1][:_PANELS]]
    return [str(name) for name in frame.columns.drop("error") if frame[name].nunique() > 1][:_PANELS]


def _draw_errors(axes: Axes, search: SearchTrials, x: NDArray[np.float64]) -> None:
    """Draw a point per trial: filled, hollow where it was stopped, a cross where it diverged; a star is the best."""
    trials, shade = search.trials, colour(search.definition.method)
    stopped, finished = trials["state"].isin(_STOPPED).to_numpy(), (trials["state"] == "finished").to_numpy()
    error = trials["objective"].to_numpy()
    styles: list[tuple[NDArray[np.bool_], str, dict[str, Any]]] = [
        (finished, "trained to the end", {"marker": "o", "color": shade}),
        (stopped, "stopped early", {"marker": "o", "color": shade, "markerfacecolor": "white"}),
        (~finished & ~stopped, "diverged", {"marker": "x", "color": shade}),
    ]
    for rows, label, style in styles:
        if rows.any():
            axes.plot(x[rows], error[rows], linestyle="", markersize=4.5, alpha=0.8, label=label, **style)
    if (best := search.best) is not None:
        axes.plot(
            x[best],
            error[best],
            linestyle="",
            marker="*",
            markersize=13,
            color="#ffd400",
            markeredgecolor="black",
            label="best",
            zorder=5,
        )
    if error.min() > 0:
        axes.set_yscale("log")
        plain_labels(axes.yaxis)
    axes.set_ylabel(search.definition.score_label)
    axes.grid(alpha=0.3)


def draw_history(axes: Axes, search: SearchTrials) -> None:
    """Draw the error over trials, the lowest so far, and the end of TPE's random start."""
    trials = search.trials
    number = trials["trial"].to_numpy(dtype=float) + 1
    _draw_errors(axes, search, number)
    lowest = trials["objective"].where(trials["state"] == "finished").cummin().ffill()
    axes.plot(number, lowest, drawstyle="steps-post", color="0.3", linewidth=1.2, label="lowest so far", zorder=1)
    random = number[trials["random"].to_numpy()]
    if len(random) and random[-1] < number[-1]:
        axes.axvline(random[-1] + 0.5, color="0.4", linestyle=":", label="end of the random start")
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def draw_hyperparameter(axes: Axes, search: SearchTrials, name: str) -> None:
    """Draw the error against one hyperparameter: a logarithmic axis where the search's is, places for a choice."""
    kind, *bounds = search.definition.space.get(name, ["uniform"])
    values = search.configurations[name].to_numpy(dtype=float)
    published = search.published.get(name)
    if kind == "choice":
        choices = sorted({*(float(bound) for bound in bounds if isinstance(bound, int | float)), *values})
        # Side by side, so that trials of one value do not hide each other.
        spread = (search.trials["trial"].to_numpy() % 9 - 4) * 0.05
        values = np.searchsorted(choices, values) + spread
        published = choices.index(published) if published in choices else None
    _draw_errors(axes, search, values)
    if published is not None:
        axes.axvline(published, color="0.4", linestyle="--", linewidth=1.2, label="published", zorder=1)
    if kind == "choice":
        axes.set_xticks(range(len(choices)), [plain_number(choice) for choice in choices])
    elif kind == "log_uniform":
        axes.set_xscale("log")
        plain_labels(axes.xaxis)
    axes.set_xlabel(visible(name))


def _above(axes: Axes) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1),
        ncols=2,
        fontsize=7.5,
        frameon=False,
        handletextpad=0.3,
        borderpad=0,
    )


@drawing()
def search_panels(search: SearchTrials, shares: pd.Series[float] | None) -> list[Figure]:
    """Draw the panels of :func:`search_figure` for a page, each alone."""
    history, axes = panel()
    draw_history(axes, search)
    _above(axes)
    figures = [history]
    for name in _shown_hyperparameters(search.configurations, shares):
        figure, axes = panel()
        draw_hyperparameter(axes, search, name)
        _above(axes)
        figures.append(figure)
    return figures


@drawing()
def search_figure(store: RunStore, sweep: str) -> Figure:
    """Draw the error over trials and against the two most important hyperparameters."""
    search = read_search(store, sweep)
    shares = importance(search.configurations)
    names = _shown_hyperparameters(search.configurations, shares)
    figure = Figure(figsize=(3.6 * (1 + len(names)), 4), layout="constrained")
    history, *others = figure.subplots(1, 1 + len(names), sharey=True, squeeze=False)[0]
    draw_history(history, search)
    for axes, name in zip(others, names, strict=True):
        draw_hyperparameter(axes, search, name)
        axes.set_ylabel("")
    handles = {
        label: handle
        for axes in (history, *others)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    title = f"{workload_title(search.definition.workload)}, {method_title(search.definition.method)}"
    caption = f"{len(search.trials)} configurations{search.definition.caption} ({sweep})"
    figure.legend(
        [*handles.values()],
        [*handles],
        loc="outside upper center",
        title=visible(f"{title}: {caption}"),
        ncols=len(handles),
        fontsize="small",
        frameon=False,
    )
    width = 45 * (1 + len(names)) + 20
    figure.supxlabel("\n".join(fill(text, width) for text in (SEARCH_NOTE, importance_note(shares))), fontsize=7.5)
    return figure


TUNING_NOTE = (
    "Solid: the lowest validation error so far, in the order of suggestion. Dashed: the expected best of as many "
    "random trials of the search. Dotted: the same, drawn with replacement (Dodge et al. 2019). A trial that was "
    "stopped costs its epochs and is never the best. As a random draw it counts with its error at the stop (100 % if "
    "it diverged or failed), and at least with the worst finished one."
)
"""The lines of tuning curves."""
SPREAD_TITLE = "Random trials: number, and quantiles of validation error (%)"
SPREAD_NOTE = "Unfinished trials were stopped, and rank last; a dash: the quantile falls among them."
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


def draw_tuning(axes: Axes, plot: TuningPlot, column: str) -> list[tuple[str, tuple[float, float], str]]:
    """Draw the tuning curves of a workload over one of :data:`TUNING_AXES`.

    Returns:
        Label, end and colour of the solid line of each search.
    """
    ends = []
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
            if kind == OBSERVED:
                point = float(rows[column].iloc[-1]), float(rows["validation_error"].iloc[-1])
                ends.append((search.label.replace(", ", "\n", 1), point, search.style["color"]))
    axes.set(xlabel=TUNING_AXES[column], ylabel="best validation error (%)")
    shown = plot.curves.dropna(subset=[column, "validation_error"])
    for axis, values, scale in (
        (axes.xaxis, shown[column], axes.set_xscale),
        (axes.yaxis, shown["validation_error"], axes.set_yscale),
    ):
        if (values > 0).any():
            scale("log")
            plain_labels(axis)
    axes.grid(alpha=0.3)
    return ends


@drawing()
def tuning_panel(plot: TuningPlot, column: str) -> Figure:
    """Draw one of :data:`TUNING_AXES` for a page."""
    figure, axes = panel()
    label_beside(axes, draw_tuning(axes, plot, column), 170, 7.5)
    axes.tick_params(labelsize=8)
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
            f"{store.folder} holds no search on {workload} with results; "
            f"'tpbench sweep {shlex.quote(workload)} METHOD' makes one{also}"
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
        title=f"{workload_title(workload)}: tuning curves",
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
