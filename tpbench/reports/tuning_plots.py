"""Plots of searches: the trials of one of them, and the tuning curves of all searches of a workload."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tpbench.engine import TpbenchError, method_names, method_title
from tpbench.engine.errors import visible
from tpbench.reports.curves import OTHERS_COLOUR, TITLE_WIDTH, label_beside, panel, workload_title
from tpbench.reports.style import (
    Axes,
    Bbox,
    Figure,
    MaxNLocator,
    colour,
    drawing,
    log_scale,
    mark,
    plain_number,
    points_alone,
)
from tpbench.results.cells import place_in
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
        """One row for each: its hyperparameters and ``error``, the lowest of the curve that the search minimises."""
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
    log_scale(axes, "y", error)
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
        log_scale(axes, "x", values)
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


_AS_RANDOM_DRAW = (
    "As a random draw it counts with its error at the stop (100 % if it diverged or failed), and at least with the "
    "worst finished one."
)
TUNING_NOTE = (
    "Solid: the lowest validation error so far, in the order of suggestion. Dashed: the expected best of as many "
    "random trials of the search. Dotted: the same, drawn with replacement (Dodge et al. 2019). A trial that was "
    f"stopped costs its epochs and is never the best. {_AS_RANDOM_DRAW}"
)
"""The lines of tuning curves."""
MAX_IN_PANEL = 8
"""Of more searches each has a panel of its own."""
MULTIPLES_NOTE = (
    f"With more than {MAX_IN_PANEL} searches each has a panel, without the dotted line. Grey: the lowest validation "
    "error so far of the others."
)
"""The panels of many searches."""
SPREAD_TITLE = "Random trials: number, and quantiles of validation error (%)"
SPREAD_NOTE = "Unfinished trials were stopped, and rank last; a dash: the quantile falls among them."
TUNING_AXES = {"trials": "trials", "member_epochs": "epochs trained, over all trials"}
"""The panels of tuning curves: column of the frame, and label of the axis."""
_ERROR = "best validation error (%)"
_LINES: dict[str, dict[str, Any]] = {
    OBSERVED: {"linestyle": "-", "linewidth": 1.6, "drawstyle": "steps-post", "zorder": 4},
    WITHOUT: {"linestyle": "--", "linewidth": 1.1},
    WITH: {"linestyle": ":", "linewidth": 1.1},
}
_IN_MULTIPLES = {OBSERVED: "best so far", WITHOUT: "expected best of as many random trials"}
"""The lines in a panel of one search, and their entries in the legend."""
_COLUMNS = 4
"""Panels side by side in the figure of many searches."""
# Of the searches of one method, which share its colour.
_MARKERS = ("", "o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Search:
    """One search in a plot of tuning curves."""

    sweep: str
    label: str
    title: str
    """As the label, without the tuning where all searches of the plot have the same."""
    style: dict[str, Any]
    """Colour of the method, and a marker that tells its searches apart."""


@dataclass(frozen=True)
class TuningPlot:
    """Tuning curves of all searches of one workload, as :func:`tpbench.search.tuning.tuning_frames` gives them."""

    workload: str
    curves: pd.DataFrame
    spread: pd.DataFrame

    @property
    def multiples(self) -> bool:
        """True if each search has a panel of its own."""
        return len(self.spread) > MAX_IN_PANEL

    @property
    def tuning(self) -> str | None:
        """The tuning that all searches have; None where they differ."""
        tunings = set(self.spread["search"])
        return str(tunings.pop()) if len(tunings) == 1 else None

    @cached_property
    def searches(self) -> list[Search]:
        """The searches in the order of the table of methods."""
        order = method_names()
        rows = sorted(
            self.spread.to_dict("records"),
            key=lambda row: (place_in(order, row["method"]), row["sweep"]),
        )
        budgets = Counter((row["method"], row["search"]) for row in rows)
        number = Counter[str]()
        searches = []
        for row in rows:
            sweep, method = row["sweep"], row["method"]
            name, tuning, ending = method_title(method), f", {row['search']}", ""
            if budgets[method, row["search"]] > 1:
                # Of another seed or space: the digits at the end of the sweep's name differ.
                ending = f" ({sweep.removeprefix(f'{self.workload}-{method}-')})"
            label, title = f"{name}{tuning}{ending}", f"{name}{tuning * (self.tuning is None)}{ending}"
            marker = _MARKERS[number[method] % len(_MARKERS)]
            style = {"color": colour(method), "marker": marker, "markersize": 4}
            searches.append(Search(sweep, visible(label), visible(title), style))
            number[method] += 1
        return searches

    @cached_property
    def drawn(self) -> list[Search]:
        """The searches that have a curve: those with a finished trial."""
        finished = set(self.curves.dropna(subset="validation_error")["sweep"])
        return [search for search in self.searches if search.sweep in finished]

    @property
    def unfinished_note(self) -> list[str]:
        """A line about the searches without a curve; empty where each has one."""
        others = [search.label for search in self.searches if search not in self.drawn]
        return [f"No trial was trained to its end, so there is no curve: {'; '.join(others)}."] if others else []

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
    for search in plot.drawn:
        axes.plot([], [], label=search.label, **search.style)
        if end := _draw_lines(axes, plot, search, column, _LINES, search.style).get(OBSERVED):
            ends.append((search.label.replace(", ", "\n", 1), end, search.style["color"]))
    axes.set(xlabel=TUNING_AXES[column], ylabel=_ERROR)
    _set_scales(axes, plot, column)
    axes.grid(alpha=0.3)
    return ends


def _points(plot: TuningPlot, search: Search, column: str, kind: str) -> tuple[NDArray[np.float64], ...]:
    """Return the places and errors of a curve; empty where there is none."""
    rows = plot.curves[(plot.curves["sweep"] == search.sweep) & (plot.curves["kind"] == kind)]
    return tuple(rows[[column, "validation_error"]].dropna().to_numpy(dtype=float).T)


def _draw_lines(
    axes: Axes, plot: TuningPlot, search: Search, column: str, kinds: Iterable[str], style: Mapping[str, Any]
) -> dict[str, tuple[float, float]]:
    """Draw the curves of one search and return the ends of those that it has."""
    ends = {}
    for kind in kinds:
        x, y = _points(plot, search, column, kind)
        if not len(x):
            continue
        alone = {} if style.get("marker") else points_alone(y)
        (line,) = axes.plot(x, y, **{"markevery": 0.2, **style, **alone}, **_LINES[kind])
        ends[kind] = float(x[-1]), float(y[-1])
        end = f"{y[-1]:.2f} % after {plain_number(ends[kind][0])} {'trials' if column == 'trials' else 'epochs'}"
        mark(line, f"{column}-{[*_LINES].index(kind)}", search.label, f"{search.label}, {kind}: {end}")
    return ends


def _set_scales(axes: Axes, plot: TuningPlot, column: str) -> None:
    """Make the axes logarithmic."""
    drawn = plot.curves.dropna(subset=[column, "validation_error"])
    log_scale(axes, "x", drawn[column])
    errors = drawn["validation_error"]
    log_scale(axes, "y", errors, measured=errors[drawn["kind"] == OBSERVED])


def draw_multiples(figure: Figure, plot: TuningPlot, column: str, columns: int) -> None:
    """Draw a panel for each search: its curves in colour, the lowest error so far of the others in grey.

    Args:
        figure: gets the panels.
        plot: of a workload.
        column: a key of :data:`TUNING_AXES`.
        columns: panels side by side.
    """
    behind = [_steps(*_points(plot, search, column, OBSERVED)) for search in plot.searches]
    first: Axes | None = None
    count = len(behind)
    for place, search in enumerate(plot.searches):
        axes = figure.add_subplot(-(-count // columns), columns, place + 1, sharex=first, sharey=first)
        first = first or axes
        others = np.concatenate(behind[:place] + behind[place + 1 :])
        alone = points_alone(others[:, 1])
        axes.plot(*others.T, color=OTHERS_COLOUR, linewidth=0.6, drawstyle="steps-post", **alone)
        _draw_lines(axes, plot, search, column, _IN_MULTIPLES, {"color": search.style["color"]})
        if not len(_points(plot, search, "trials", OBSERVED)[0]):
            axes.text(0.5, 0.6, "no finished trial", transform=axes.transAxes, ha="center", fontsize=7.5)
        axes.set_title(fill(search.title, TITLE_WIDTH), fontsize=7.5, pad=2, loc="left")
        axes.tick_params(labelsize=7.5, labelbottom=place + columns >= count, labelleft=place % columns == 0)
        axes.grid(alpha=0.3)
    assert first is not None
    _set_scales(first, plot, column)
    first.minorticks_off()
    figure.supxlabel(TUNING_AXES[column], fontsize=9)
    figure.supylabel(_ERROR, fontsize=9)


def _steps(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the points where a falling curve changes, its end, and a gap behind it, as rows of x and y."""
    if not len(x):
        return np.empty((0, 2))
    kept = np.diff(y, prepend=np.nan, append=np.nan)[:-1] != 0
    kept[-1] = True
    return np.vstack([np.column_stack([x, y])[kept], [x[-1], np.nan]])


@drawing()
def tuning_panel(plot: TuningPlot, column: str) -> Figure:
    """Draw one of :data:`TUNING_AXES` for a page; many searches as panels, two of them side by side."""
    if plot.multiples:
        lines = max(fill(search.title, TITLE_WIDTH).count("\n") + 1 for search in plot.searches)
        height = 0.45 + (1.0 + 0.13 * lines) * -(-len(plot.searches) // 2)
        figure = Figure(figsize=(4.1, height), layout="constrained")
        draw_multiples(figure, plot, column, 2)
        return figure
    figure, axes = panel()
    label_beside(axes, draw_tuning(axes, plot, column), 170, 7.5)
    axes.tick_params(labelsize=8)
    return figure


@drawing()
def tuning_figure(store: RunStore, workload: str) -> Figure:
    """Draw a workload's tuning curves over trials and over epochs, and the quantiles of the random trials below.

    The panels stand one above the other, so that a narrow screen shows letters that can be read. Many searches get a
    panel each, over trials alone and without the quantiles.

    Raises:
        TpbenchError: the store has no search on it with results.
    """
    curves, spread, notes = tuning_frames(store, [workload])
    if spread.empty:
        also = "".join(f"; {note}" for note in notes)
        raise TpbenchError(
            f"{store.folder} holds no search on {workload} with results; "
            f"'tpbench sweep {shlex.quote(workload)} METHOD' makes one{also}"
        )
    plot = TuningPlot(workload, curves, spread)
    if plot.multiples:
        return _multiples_figure(plot, notes)
    header, rows = plot.table()
    text = [fill(visible(line), 92) for line in (TUNING_NOTE, SPREAD_NOTE, *plot.unfinished_note, *notes)]
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


def _multiples_figure(plot: TuningPlot, notes: Sequence[str]) -> Figure:
    """Draw the tuning curves of many searches over trials, with a legend of the kinds of lines that occur."""
    kinds = set(plot.curves.dropna(subset="validation_error")["kind"])
    tuning = f" ({plot.tuning})" if plot.tuning else ""
    text = [f"{workload_title(plot.workload)}: tuning curves of {len(plot.searches)} searches{tuning}."]
    if plot.spread["unfinished"].any():
        text.append("A trial that was stopped is never the best.")
        if WITHOUT in kinds:
            text.append(_AS_RANDOM_DRAW)
    text.append("tpbench.load_tuning has the curves over epochs and the quantiles of random trials.")
    lines = [fill(visible(line), 30 * _COLUMNS) for line in (" ".join(text), *notes)]
    rows, height = -(-len(plot.searches) // _COLUMNS), 0.6 + 0.13 * sum(line.count("\n") + 1 for line in lines)
    figure = Figure(figsize=(0.5 + 2 * _COLUMNS, height + 1.25 * rows), layout="constrained")
    draw_multiples(figure, plot, "trials", _COLUMNS)
    entries = {label: {"color": "black", **_LINES[kind]} for kind, label in _IN_MULTIPLES.items() if kind in kinds}
    entries["best so far of the other searches"] = {"color": OTHERS_COLOUR}
    # Not the handles of a panel, whose lines have the colour of one method.
    handles = [figure.axes[0].plot([], [], label=label, **style)[0] for label, style in entries.items()]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        title="\n".join(lines),
        title_fontsize=8,
        fontsize=8,
        frameon=False,
    )
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
