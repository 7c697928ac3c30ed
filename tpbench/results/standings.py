"""How the methods of one workload stand to the best of them: the rule that tables, leaderboard and report share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile

from tpbench.results.budgets import same_budget
from tpbench.results.cells import Cell, CellKey, compare_cells
from tpbench.results.statistics import Comparison, corrected

YARDSTICK = "bp"
"""Never the best, as in the paper: it is what the others are measured by. It is tested against the best like them."""


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
    """Whether its validation error is lower than the best's, but of too few seeds for a test against it."""

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
        """Not told apart by a test that no difference, however large, would have moved."""
        return self.verdict is Verdict.NOT_TOLD_APART and self.comparison is not None and not self.comparison.can_show

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


def candidates(cells: Iterable[Cell]) -> list[Cell]:
    """The cells that can be the best, by mean *validation* error: not BP, with three seeds, none of them diverged.

    Ordered by test error, the best would look better than it is to the tests against it.
    """
    able = [cell for cell in cells if cell.can_be_best and cell.method != YARDSTICK]
    return sorted(able, key=lambda cell: (cell.validation, cell.mean, cell.method))


def best_of(cells: Iterable[Cell]) -> Cell | None:
    """The first candidate against which some test could show a difference; where there is none, the first.

    Against a cell of few seeds no test could: as the best it would silence the whole workload.
    """
    return _best_and_tests(list(cells))[0]


def _best_and_tests(group: Sequence[Cell]) -> tuple[Cell | None, dict[str, Comparison]]:
    able = candidates(group)
    for cell in able:
        found = _tests_against(cell, group)
        if any(comparison.can_show for comparison in found.values()):
            return cell, found
    return (able[0], _tests_against(able[0], group)) if able else (None, {})


def _tests_against(best: Cell, group: Iterable[Cell]) -> dict[str, Comparison]:
    return corrected(
        {cell.method: compare_cells(cell, best) for cell in group if cell.can_be_best and cell is not best}
    )


def standings(cells: Iterable[Cell]) -> dict[str, Standing]:
    """How each method of one workload, on one kind of data, stands to the best of them."""
    group = list(cells)
    best, found = _best_and_tests(group)
    if best is None:
        return {cell.method: Standing(False, None) for cell in group}
    passed = {cell.method for cell in takewhile(lambda cell: cell is not best, candidates(group))}
    return {
        cell.method: Standing(
            cell is best, found.get(cell.method),
            same_budget(cell.budget, best.budget) is False or cell.epochs != best.epochs, cell.method in passed,
        )
        for cell in group
    }  # fmt: skip


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
