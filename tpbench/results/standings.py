"""How the methods of one workload stand to the best of them: the rule that tables, leaderboard and report share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from tpbench.results.budgets import same_budget
from tpbench.results.cells import Cell, CellKey, compare_cells
from tpbench.results.statistics import FEWEST, Comparison, corrected

YARDSTICK = "bp"
"""Never the best, as in the paper: it is what the others are measured by. It is tested against the best like them."""

ENOUGH = (9, 6)
"""Seeds that the best has where any method has so many: paired with nine, sign-flip tests of twelve methods can show
differences after Holm's correction (12 * 2 / 2^9 < 0.05), with six that of one, with fewer none. One cell of three
seeds, as the best, would leave its whole workload not told apart."""
ENOUGH_WORDS = "{0} seeds or more (where none has {0}: {1}; where none has {1}: {2})".format(*ENOUGH, FEWEST)


class Verdict(Enum):
    """What a test against the best said; the value is the mark in tables."""

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
    """With the best, Holm-corrected over the methods of the workload; None for the best itself, and where nothing could
    be tested: fewer than three seeds, diverged seeds, or no best."""
    unequal: bool = False
    """Whether the best was found with another budget of search, or trained for other epochs."""
    passed_over: bool = False
    """Whether its validation error is lower than the best's, but of too few seeds (:data:`ENOUGH`)."""

    @property
    def p(self) -> float:
        """Not a number where nothing was tested."""
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
        """Not told apart where, at the corrected level, no difference would have shown."""
        return (
            self.verdict is Verdict.NOT_TOLD_APART
            and self.comparison is not None
            and math.isinf(self.comparison.detectable)
        )

    @property
    def words(self) -> str:
        """The verdict as a person reads it."""
        if self.verdict is Verdict.BEST:
            return "best"
        if self.comparison is None or self.verdict is Verdict.NOT_TESTED:
            return "could not be tested"
        if self.verdict is Verdict.NOT_TOLD_APART:
            seeds = f"{self.comparison.seeds} seeds" if self.comparison.test != "Welch" else "unpaired"
            return f"not told apart ({seeds}; {detectable_words(self.comparison)})"
        return f"{self.verdict.name.lower()}, p {self.p:.2g}"


def detectable_words(comparison: Comparison) -> str:
    """What a test's silence is worth: the difference that it would have shown."""
    if math.isinf(comparison.detectable):
        return "no difference would show"
    return f"{comparison.detectable:.2f} would show"


def eligible(cell: Cell) -> bool:
    """Whether a cell stands for election as the best: not BP, with three seeds, none of them diverged."""
    return cell.can_be_best and cell.method != YARDSTICK


def best_of(cells: Iterable[Cell]) -> Cell | None:
    """The method with the lowest mean *validation* error of those with enough seeds (:data:`ENOUGH`), BP aside.

    Chosen by test error, the best would look better than it is to the tests against it. Diverged seeds exclude a cell.
    """
    able = [cell for cell in cells if eligible(cell)]
    most = max((cell.seeds for cell in able), default=0)
    whole = [cell for cell in able if cell.seeds >= enough(most)]
    return min(whole, key=lambda cell: (cell.validation, cell.mean, cell.method), default=None)


def enough(seeds: int) -> int:
    """How many seeds the best needs where the method with the most has so many."""
    return next((least for least in ENOUGH if seeds >= least), FEWEST)


def standings(cells: Iterable[Cell]) -> dict[str, Standing]:
    """How each method of one workload, on one kind of data, stands to the best of them."""
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
    """The standing of every cell of a store among those of its workload and data."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for (workload, label, _), cell in cells.items():
        groups[workload, label].append(cell)
    return {
        (workload, label, method): standing
        for (workload, label), group in groups.items()
        for method, standing in standings(group).items()
    }
