"""The report's summary: the best method of each workload, the comparison of the others with it, warnings.

Nothing is computed here that tables and leaderboards do not compute: verdicts are those of
:mod:`tpbench.results.ranking`, warnings the marks of cells and unequal budgets (docs/protocol.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from tpbench.engine import method_title
from tpbench.reports.forest import ForestRow, rank_rows
from tpbench.results.cells import Cell, CellKey
from tpbench.results.formats import format_mean
from tpbench.results.paper import PAPER_WORKLOADS, paper_cell, table_methods
from tpbench.results.ranking import YARDSTICK, Standing, Verdict, detectable_words, eligible, enough
from tpbench.results.runs import FULL_SEEDS
from tpbench.results.statistics import Comparison
from tpbench.results.tables import Column, table_columns


class State(Enum):
    """State of a cell of the paper's table; the value is its label."""

    WHOLE = "whole"
    PARTIAL = "departs from the protocol"
    MISSING = "missing"


@dataclass(frozen=True)
class WorkloadSummary:
    """One workload on one kind of data."""

    column: Column
    rows: Sequence[ForestRow]
    """Its cells with their standings, in the order of the leaderboard."""
    states: Mapping[str, State]
    """State of each cell of Table S6, by method; empty where it has none, and for copies of the data."""

    @property
    def title(self) -> str:
        return self.column.title

    @property
    def best(self) -> ForestRow | None:
        """None where no method but BP has three seeds, none of them diverged."""
        return next((row for row in self.rows if row[1].best), None)

    @property
    def best_title(self) -> str:
        """Label of the best method: BP is the yardstick of the others, and never the best."""
        return "Best but BP" if any(cell.method == YARDSTICK for cell, _ in self.rows) else "Best"

    @property
    def alone(self) -> bool:
        """True: no other method could be the best."""
        return sum(eligible(cell) for cell, _ in self.rows) == 1

    def of(self, verdict: Verdict) -> list[ForestRow]:
        """The cells of which the test against the best said this."""
        return [row for row in self.rows if row[1].verdict is verdict]

    @property
    def not_told_apart(self) -> list[ForestRow]:
        """Tested, without a difference, where one could have shown."""
        return [row for row in self.of(Verdict.NOT_TOLD_APART) if not row[1].silent]

    @property
    def silent(self) -> list[ForestRow]:
        """Tested over so few seeds that no difference, however large, would have shown."""
        return [row for row in self.rows if row[1].silent]

    @property
    def untested(self) -> list[ForestRow]:
        """Could not be tested: few seeds, diverged seeds, or no best."""
        return self.of(Verdict.NOT_TESTED)

    @property
    def departures(self) -> dict[str, list[Cell]]:
        """The cells that depart from the protocol, by how: ``3 seeds``, ``2 diverged``, ``90 epochs``, ``bf16``."""
        found: dict[str, list[Cell]] = defaultdict(list)
        for cell, _ in self.rows:
            for mark in cell.marks:
                found[mark].append(cell)
        return found

    @property
    def unequal(self) -> list[Cell]:
        """Found with another search budget than the best, or trained for other epochs."""
        return [cell for cell, standing in self.rows if standing.unequal]

    def count(self, state: State) -> int:
        """Count the paper's cells in this state."""
        return sum(found is state for found in self.states.values())


def summarise(cells: Mapping[CellKey, Cell], standings: Mapping[CellKey, Standing]) -> list[WorkloadSummary]:
    """The summary of every workload that the paper's table or the store has, the paper's first.

    Args:
        cells: as :func:`tpbench.results.choose_cells` chooses them.
        standings: of all of them.
    """
    groups: dict[tuple[str, str], list[ForestRow]] = defaultdict(list)
    for (workload, label, method), cell in cells.items():
        groups[workload, label].append((cell, standings[workload, label, method]))
    found = []
    for column in table_columns(groups):
        rows = rank_rows(groups.get((column.workload, column.data_label), []))
        found.append(WorkloadSummary(column, rows, {} if column.data_label else _states(column.workload, rows)))
    return found


def _states(workload: str, rows: Iterable[ForestRow]) -> dict[str, State]:
    marks = {cell.method: cell.marks for cell, _ in rows}
    return {
        method: State.MISSING if method not in marks else State.PARTIAL if marks[method] else State.WHOLE
        for method in table_methods("s6")
        if paper_cell(workload, method)
    }


def headline(summaries: Sequence[WorkloadSummary]) -> str:
    """One sentence: which method is best where several could be."""
    best: dict[str, list[str]] = defaultdict(list)
    for summary in summaries:
        if summary.best and not summary.alone:
            best[method_title(summary.best[0].method)].append(summary.title)
    if not best:
        return "No method can be called best yet: that takes three finished seeds of two methods other than BP."
    named = "; ".join(f"{method} on {_listed(titles)}" for method, titles in best.items())
    apart = ", BP apart" if any(summary.best_title != "Best" for summary in summaries) else ""
    return f"Best so far{apart}: {named}."


def completeness(summaries: Sequence[WorkloadSummary]) -> str:
    """Format the share of the paper's table that the store has; empty where it has none of its workloads."""
    # A column of a copy takes the place of the paper's, whose cells are missing all the same.
    cells = sum(len(_states(workload, ())) for workload in PAPER_WORKLOADS)
    whole, partial = (sum(s.count(state) for s in summaries) for state in (State.WHOLE, State.PARTIAL))
    if not whole + partial:
        return ""
    missing = cells - whole - partial
    copies = sum(len(s.rows) for s in summaries if s.column.data_label and s.column.workload in PAPER_WORKLOADS)
    count = "1 cell of a copy of the data does" if copies == 1 else f"{copies} cells of copies of the data do"
    return (
        f"Of the {cells} cells of the paper's Table S6, {whole or 'none'} stand{'s' * (whole == 1)} here by its "
        f"protocol ({FULL_SEEDS} seeds, all epochs, none diverged), {partial or 'none'} with fewer seeds or otherwise; "
        f"{missing or 'none'} {'is' if missing == 1 else 'are'} missing." + f" {count} not count." * bool(copies)
    )


def statements(summary: WorkloadSummary) -> list[tuple[str, list[str]]]:
    """Return the sentences about a workload: pairs of a statement and the methods or words it is about."""
    said = [(summary.best_title, _best_words(summary)), *_passed_over(summary)]
    said += [(title, [words(row) for row in rows]) for title, rows, words in _groups(summary)]
    return [(title, entries) for title, entries in said if entries]


def _best_words(summary: WorkloadSummary) -> list[str]:
    if summary.best is None:
        return ["none can be named: no method but BP has three finished seeds without a diverged one"] * bool(
            summary.rows
        )
    cell, _ = summary.best
    said = [f"{method_title(cell.method)}: {format_mean(cell.mean, cell.std)} %"]
    if summary.alone:
        said.append("the only one that could be")
    lower = next(other for other, standing in summary.rows if eligible(other) and not standing.passed_over)
    if lower.mean < cell.mean:
        # A reader of test errors alone would take it for a mistake.
        said.append(f"by validation error; {method_title(lower.method)} has the lower test error, {lower.mean:.2f} %")
    return said


def _passed_over(summary: WorkloadSummary) -> Iterator[tuple[str, list[str]]]:
    if summary.best is None:
        return
    best, _ = summary.best
    found = [
        f"{method_title(cell.method)} {cell.validation:.2f} % (the best's: {best.validation:.2f} %)"
        for cell, standing in summary.rows
        if standing.passed_over
    ]
    if found:
        yield f"Lower validation error, of fewer than {enough(best.seeds)} seeds", found


def _groups(summary: WorkloadSummary) -> Iterator[tuple[str, list[ForestRow], Callable[[ForestRow], str]]]:
    lower, higher = summary.of(Verdict.LOWER), summary.of(Verdict.HIGHER)
    yield f"Lower error ({_largest_p(lower)})", lower, _difference_words
    yield f"Not told apart ({_would_show(summary.not_told_apart)})", summary.not_told_apart, _name
    yield f"No difference could show ({_shared(summary.silent)})", summary.silent, _name
    yield f"Higher error ({_largest_p(higher)})", higher, _difference_words
    yield "Could not be tested", summary.untested, _untested_words


def _comparisons(rows: Iterable[ForestRow]) -> list[Comparison]:
    return [standing.comparison for _, standing in rows if standing.comparison]


def _largest_p(rows: Iterable[ForestRow]) -> str:
    p = [comparison.p for comparison in _comparisons(rows)]
    return f"p {'at most ' * (len(p) > 1)}{max(p):.2g}" if p else ""


def _would_show(rows: Iterable[ForestRow]) -> str:
    """The smallest and the largest difference that the tests would have shown."""
    found = sorted(_comparisons(rows), key=lambda comparison: comparison.detectable)
    if not found:
        return ""
    least = f"{found[0].detectable:.2f} to "
    most = detectable_words(found[-1])
    return most if most.startswith(least.removesuffix("to ")) else least + most


def _shared(rows: Iterable[ForestRow]) -> str:
    seeds = sorted({comparison.seeds for comparison in _comparisons(rows)})
    return f"{' or '.join(map(str, seeds))} shared seeds"


def _name(row: ForestRow) -> str:
    return method_title(row[0].method)


def _difference_words(row: ForestRow) -> str:
    comparison = row[1].comparison
    return _name(row) + (f" {comparison.difference:+.2f}" if comparison else "")


def _untested_words(row: ForestRow) -> str:
    marks = row[0].marks
    return _name(row) + (f" ({', '.join(marks)})" if marks else "")


def warnings_of(summary: WorkloadSummary) -> list[str]:
    """Return warnings by the rules of docs/protocol.md."""
    said = [f"not by the protocol ({mark}): {_listed(_titles(cells))}" for mark, cells in summary.departures.items()]
    if summary.unequal and summary.best:
        best, costs = summary.best[0], defaultdict(list)
        same_epochs = all(cell.epochs == best.epochs for cell in summary.unequal)
        for cell in summary.unequal:
            costs[_cost(cell, same_epochs)].append(cell)
        others = "; ".join(f"{cost} for {_listed(_titles(cells))}" for cost, cells in costs.items())
        what = "search budgets" if same_epochs else "search budgets or epochs"
        said.append(f"unequal {what}: {_cost(best, same_epochs)} for the best; {others}")
    return said


def _cost(cell: Cell, same_epochs: bool) -> str:
    return f"{cell.budget}" if same_epochs else f"{cell.budget}, trained for {cell.epochs} epochs"


def protocol_words(summary: WorkloadSummary) -> str:
    """``4 of the paper's 10 cells, 3 by its protocol``; of other workloads, that the paper has not got them."""
    if not summary.states:
        return "a copy of the data" if summary.column.workload in PAPER_WORKLOADS else "not in the paper"
    here = len(summary.states) - summary.count(State.MISSING)
    whole = f", {summary.count(State.WHOLE)} by its protocol" if here else ""
    return f"{here} of the paper's {len(summary.states)} cells{whole}"


def _titles(cells: Iterable[Cell]) -> list[str]:
    return [method_title(cell.method) for cell in cells]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
