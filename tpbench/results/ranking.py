"""Ranking of the methods of one workload against the best of them, and the leaderboard."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pandas as pd

from tpbench.engine import method_title
from tpbench.results.cells import Cell, CellKey, choose_cells, compare_cells, workload_label
from tpbench.results.formats import csv_number, csv_text, format_mean, format_table
from tpbench.results.paper import PAPER_WORKLOADS, paper_cell
from tpbench.results.runs import same_budget
from tpbench.results.statistics import FEWEST, Comparison, compare_with_printed, corrected
from tpbench.results.store import RunStore, write_atomically
from tpbench.workloads import WORKLOADS

YARDSTICK = "bp"
"""Never the best, as in the paper: it is what the others are measured by. It is tested against the best like them."""

ENOUGH = (9, 6)
"""Seeds that the best has where any method has so many: paired with nine, sign-flip tests of twelve methods can show
differences after Holm's correction (12 * 2 / 2^9 < 0.05), with six that of one, with fewer none. One cell of three
seeds, as the best, would leave its whole workload not told apart."""
ENOUGH_WORDS = "{0} seeds or more (where none has {0}: {1}; where none has {1}: {2})".format(*ENOUGH, FEWEST)


class Verdict(Enum):
    """Outcome of a test against the best; the value is the mark in tables."""

    BEST = ""
    NOT_TOLD_APART = "="
    HIGHER = ">"
    LOWER = "<"
    NOT_TESTED = "?"


@dataclass(frozen=True)
class Standing:
    """One cell against the best of its workload."""

    best: bool
    comparison: Comparison | None
    """Comparison with the best, Holm-corrected over the methods of the workload.

    None for the best itself, and where nothing could be tested: fewer than three seeds, diverged seeds, or no best.
    """
    unequal: bool = False
    """True if the best was found with another budget of search, or trained for other epochs."""
    passed_over: bool = False
    """True if its validation error is lower than the best's, but of too few seeds (:data:`ENOUGH`)."""

    @property
    def p(self) -> float:
        """p of the comparison; not a number where nothing was tested."""
        return self.comparison.p if self.comparison else math.nan

    @property
    def verdict(self) -> Verdict:
        if self.best:
            return Verdict.BEST
        if self.comparison is None or not self.comparison.tested:
            return Verdict.NOT_TESTED
        if not self.comparison.shown:
            return Verdict.NOT_TOLD_APART
        return Verdict.HIGHER if self.comparison.difference > 0 else Verdict.LOWER

    @property
    def silent(self) -> bool:
        """True if it is not told apart and, at the corrected level, no difference would have shown."""
        return (
            self.verdict is Verdict.NOT_TOLD_APART
            and self.comparison is not None
            and math.isinf(self.comparison.detectable)
        )

    @property
    def words(self) -> str:
        """The verdict in words."""
        if self.verdict is Verdict.BEST:
            return "best"
        if self.comparison is None or self.verdict is Verdict.NOT_TESTED:
            return "could not be tested"
        if self.verdict is Verdict.NOT_TOLD_APART:
            seeds = f"{self.comparison.seeds} seeds" if self.comparison.test != "Welch" else "unpaired"
            return f"not told apart ({seeds}; {detectable_words(self.comparison)})"
        return f"{self.verdict.name.lower()}, p {self.p:.2g}"


def detectable_words(comparison: Comparison) -> str:
    """Return in words the difference that a test would have shown."""
    if math.isinf(comparison.detectable):
        return "no difference would show"
    return f"{comparison.detectable:.2f} would show"


def eligible(cell: Cell) -> bool:
    """Return whether a cell can be the best: not BP, three seeds, none of them diverged."""
    return cell.can_be_best and cell.method != YARDSTICK


def best_of(cells: Iterable[Cell]) -> Cell | None:
    """Return the method with the lowest mean *validation* error of those with enough seeds (:data:`ENOUGH`), BP aside.

    Chosen by test error, the best would look better than it is to the tests against it. Diverged seeds exclude a cell.
    """
    able = [cell for cell in cells if eligible(cell)]
    most = max((cell.seeds for cell in able), default=0)
    whole = [cell for cell in able if cell.seeds >= enough(most)]
    return min(whole, key=lambda cell: (cell.validation, cell.mean, cell.method), default=None)


def enough(seeds: int) -> int:
    """Return the seeds that the best needs where the method with the most has so many."""
    return next((least for least in ENOUGH if seeds >= least), FEWEST)


def standings(cells: Iterable[Cell]) -> dict[str, Standing]:
    """Compare each method of one workload, on one kind of data, with the best of them."""
    group = list(cells)
    best = best_of(group)
    if best is None:
        return {cell.method: Standing(False, None) for cell in group}
    tested = {cell.method: compare_cells(cell, best) for cell in group if cell.can_be_best and cell is not best}
    found = corrected(tested)
    return {
        cell.method: Standing(
            cell is best,
            found.get(cell.method),
            same_budget(cell.budget, best.budget) is False or cell.epochs != best.epochs,
            eligible(cell) and cell.validation < best.validation,
        )
        for cell in group
    }


def all_standings(cells: Mapping[CellKey, Cell]) -> dict[CellKey, Standing]:
    """Return the standing of every cell of a store among those of its workload and data."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for (workload, label, _), cell in cells.items():
        groups[workload, label].append(cell)
    return {
        (workload, label, method): standing
        for (workload, label), group in groups.items()
        for method, standing in standings(group).items()
    }


COLUMNS = (
    "workload",
    "data",
    "method",
    "seeds",
    "epochs",
    "test_error_mean",
    "test_error_std",
    "ci_low",
    "ci_high",
    "p_best",
    "validation_error_mean",
    "diverged",
    "paper_mean",
    "paper_std",
    "p_paper",
    "budget",
    "marks",
)
"""Columns of ``leaderboard.csv``."""


def leaderboard(store: RunStore, cells: Mapping[CellKey, Cell] | None = None) -> pd.DataFrame:
    """Return every cell of a store, best first within its workload; errors in per cent.

    ``ci_low`` and ``ci_high`` are the interval of the mean; ``p_best`` is p of the test against the best method of the
    workload (:func:`tpbench.results.ranking.best_of`) after Holm's correction, ``p_paper`` that of Welch's test
    against the paper's cell, ``budget`` how the configuration was found. Beyond :data:`COLUMNS`, ``verdict`` and
    ``against_best`` say in a mark and in words what the test against the best said, ``test`` and ``detectable`` which
    it was and what it would have shown, and ``unequal`` whether the best's configuration was found at another cost.

    Cells without diverged seeds come first, then those with, then those of fewer than three finished seeds.

    Args:
        store: that holds the runs.
        cells: those of the store, where they are chosen already.
    """
    cells = choose_cells(store.summaries()) if cells is None else cells
    found = all_standings(cells)
    frame = pd.DataFrame([_row(cell, found[cell.key]) for cell in cells.values()], columns=[*COLUMNS, *_FURTHER])
    order = {name: n for n, name in enumerate(dict.fromkeys([*PAPER_WORKLOADS, *WORKLOADS]))}
    frame["order"] = frame["workload"].map(lambda name: order.get(name, len(order)))
    keys = ["order", "workload", "data", "tier", "test_error_mean", "method"]
    return frame.sort_values(keys, na_position="last").drop(columns=["order", "tier"]).reset_index(drop=True)


_FURTHER = ("verdict", "against_best", "test", "detectable", "unequal", "ranked", "tier")


def _row(cell: Cell, standing: Standing) -> dict[str, Any]:
    low, high = cell.interval
    printed = paper_cell(cell.workload, cell.method)
    paper, comparison = printed or (math.nan, math.nan), standing.comparison
    testable = printed and cell.can_be_best
    return {
        "workload": cell.workload,
        "data": cell.data_label or "exact",
        "method": cell.method,
        "seeds": cell.seeds,
        "epochs": cell.epochs,
        "test_error_mean": cell.mean,
        "test_error_std": cell.std,
        "ci_low": low,
        "ci_high": high,
        "p_best": standing.p,
        "validation_error_mean": cell.validation,
        "diverged": cell.diverged,
        "paper_mean": paper[0],
        "paper_std": paper[1],
        "p_paper": compare_with_printed(cell.errors(), paper) if testable else math.nan,
        "verdict": standing.verdict.value,
        "against_best": standing.words,
        "test": comparison.test if comparison else "",
        "detectable": comparison.detectable if comparison else math.nan,
        "budget": str(cell.budget),
        "unequal": standing.unequal,
        "marks": ", ".join(cell.marks),
        "ranked": cell.ranked,
        "tier": cell.tier,
    }


def board_csv(board: pd.DataFrame) -> str:
    """Return a leaderboard as the text of ``leaderboard.csv``."""
    return csv_text(board[list(COLUMNS)], csv_number)


def write_leaderboard(board: pd.DataFrame, store: RunStore, path: Path | None = None) -> Path:
    """Write a leaderboard into a file, ``leaderboard.csv`` in the store's folder by default; returns its path."""
    path = path or store.folder / "leaderboard.csv"
    write_atomically(path, board_csv(board))
    return path


BOARD_NOTE = (
    "Best first by test error; the best that the others are tested against is the method but BP with the lowest "
    f"validation error of those with {ENOUGH_WORDS}"
    ". =: not told apart from it; >, <: higher, lower error than its (p < 0.05); ?: could not be tested (fewer than "
    "three seeds, or diverged ones). Tests: exact sign-flip permutation over up to 12 shared seeds, paired t-test "
    "above, Welch's where fewer than three are shared; Holm-corrected; 'would show': the difference that the test "
    "shows four times in five (power 0.8). #: found with another search budget than the best, or trained for other "
    "epochs. Diverged seeds do not enter the mean; cells with them come after those without, cells of fewer than "
    "three seeds last. Interval: 95 %, Student's t (bootstrap from 20 seeds). The rules: docs/protocol.md."
)


def format_error(row: Mapping[Hashable, Any]) -> str:
    """Format the test error of a leaderboard's row with its marks."""
    verdict = f" {row['verdict']}" if row["verdict"] else ""
    unequal = " #" if row["unequal"] else ""
    marks = f" [{row['marks']}]" if row["marks"] else ""
    return format_mean(row["test_error_mean"], row["test_error_std"]) + verdict + unequal + marks


def format_interval(row: Mapping[Hashable, Any]) -> str:
    """Format the interval of a leaderboard's row."""
    return "-" if math.isnan(row["ci_low"]) else f"{row['ci_low']:.2f} to {row['ci_high']:.2f}"


_SHOWN = (
    "workload",
    "method",
    "seeds",
    "epochs",
    "test error (%)",
    "95 % interval",
    "against the best",
    "configuration from",
    "paper",
)


def render_leaderboard(frame: pd.DataFrame, form: str = "text") -> str:
    """Format a leaderboard in one of :data:`tpbench.results.formats.FORMATS`.

    Raises:
        UsageError: there is no such format.
    """
    if form == "csv":
        return board_csv(frame)
    rows = [
        [
            workload_label(row),
            method_title(row["method"]),
            str(row["seeds"]),
            str(row["epochs"]),
            format_error(row),
            format_interval(row),
            row["against_best"],
            row["budget"],
            format_mean(row["paper_mean"], row["paper_std"]),
        ]
        for row in frame.to_dict("records")
    ]
    return format_table("Leaderboard: test error (%), best first", _SHOWN, rows, form, BOARD_NOTE)
