"""The report's first screen: the verdict of each cell, a sentence for each workload, and what is missing.

Nothing is computed here that tables and leaderboards do not compute: the tests are those of
:mod:`tpbench.results.ranking`, warnings the marks of cells (docs/protocol.md).
"""

from __future__ import annotations

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain, repeat

from tpbench.engine import method_title
from tpbench.results.cells import PROTOCOL_SEEDS, Cell, seed_ranges
from tpbench.results.formats import count_of, format_interval
from tpbench.results.paper import PAPER_WORKLOADS, paper_cell, table_methods
from tpbench.results.ranking import RankedCell, Ranking, format_p
from tpbench.results.runs import from_search
from tpbench.results.statistics import MARGIN
from tpbench.results.tables import PUBLISHED, ErrorTable, OverviewRow, overview_cells


class State(Enum):
    """State of a cell of the paper's table."""

    WHOLE = "whole"
    PARTIAL = "departs from the protocol"
    MISSING = "missing"


def paper_states(rankings: Iterable[Ranking], workload: str) -> dict[str, State]:
    """Return the state of each cell of a column of Table S6, by method, from the published cells on the exact data."""
    states = {method: State.MISSING for method in table_methods("s6") if paper_cell(workload, method)}
    for cell in _published(rankings, workload):
        if not cell.data_label and cell.method in states:
            full = cell.whole and cell.by_protocol and not cell.diverged
            states[cell.method] = State.WHOLE if full else State.PARTIAL
    return states


def _published(rankings: Iterable[Ranking], workload: str) -> list[Cell]:
    cells = (ranked.cell for ranking in rankings if ranking.workload == workload for ranked in ranking.cells)
    return [cell for cell in cells if cell.tuning == PUBLISHED]


# The matrix of methods and workloads


class Verdict(Enum):
    """Result of a cell of the matrix. The value is its sign, so that it can be read without colour."""

    BASELINE = "\N{BLACK CIRCLE}"
    BEST = "\N{CHECK MARK}"
    BETTER = "\N{BLACK DOWN-POINTING TRIANGLE}"
    WORSE = "\N{BLACK UP-POINTING TRIANGLE}"
    SAME = "\N{ALMOST EQUAL TO}"
    UNTESTED = "?"
    MISSING = "\N{EN DASH}"
    OUTSIDE = " "
    """No cell of the paper's and none of the store: nothing is missing."""

    def meaning(self, baseline: str) -> str:
        """Return what the sign says, for the legend and for screen readers; empty where there is nothing to say."""
        return {
            Verdict.BASELINE: "baseline",
            Verdict.BEST: f"could be the best, {baseline} apart",
            Verdict.BETTER: f"better than {baseline} (shown at 5 %)",
            Verdict.WORSE: f"worse than {baseline} (shown at 5 %)",
            Verdict.SAME: f"not shown to differ from {baseline}",
            Verdict.UNTESTED: "not tested",
            Verdict.MISSING: "missing",
            Verdict.OUTSIDE: "",
        }[self]


@dataclass(frozen=True)
class MatrixCell:
    """One cell of the matrix."""

    verdicts: tuple[Verdict, ...]
    """The first gives the colour."""
    error: str = ""
    detail: str = ""
    """The difference from the baseline, and departures from the protocol."""


def matrix(rankings: Sequence[Ranking]) -> list[tuple[str, list[MatrixCell]]]:
    """Return the rows of the matrix: the method's title and a cell for each workload.

    The title names the tuning, unless it is that of all cells or the published one.
    """
    rows = overview_cells(rankings)
    alone = len({row.tuning for row in rows}) == 1
    return [
        (
            method_title(row.method) + f", {row.tuning}" * (not alone and row.tuning != PUBLISHED),
            [_matrix_cell(row, number, ranking) for number, ranking in enumerate(rankings)],
        )
        for row in rows
    ]


def _matrix_cell(row: OverviewRow, number: int, ranking: Ranking) -> MatrixCell:
    if number not in row.cells:
        missing = row.tuning == PUBLISHED and not ranking.data_label and paper_cell(ranking.workload, row.method)
        return MatrixCell((Verdict.MISSING if missing else Verdict.OUTSIDE,))
    ranked = row.cells[number]
    cell = ranked.cell
    details = [] if cell.whole else [count_of(cell.seeds, "seed")]
    details += [_OUTSIDE] if not cell.protocol_seeds else []
    details += [mark for mark in cell.marks if cell.whole or not _names_seeds(mark)]
    if reason := _reason(ranked):
        # Such as "2 epochs, BP 100", of which the first part is a departure too.
        details = [*reason.split(", "), *details]
    elif not ranked.is_baseline:
        details.insert(0, f"{ranked.difference:+z.2f}")
    return MatrixCell(verdicts(ranked), f"{cell.mean:.2f}", ", ".join(dict.fromkeys(details)))


def verdicts(ranked: RankedCell) -> tuple[Verdict, ...]:
    """Return the verdicts on a cell: whether it could be the best, and how it stands to the baseline."""
    if ranked.is_baseline:
        return (Verdict.BASELINE,)
    if math.isnan(ranked.p):
        against = Verdict.UNTESTED
    elif ranked.differs:
        against = Verdict.WORSE if ranked.difference > 0 else Verdict.BETTER
    else:
        against = Verdict.SAME
    if ranked.could_be_best != "yes":
        return (against,)
    return (against, Verdict.BEST) if against is Verdict.BETTER else (Verdict.BEST, against)


_OUTSIDE = "seeds outside the protocol"


def _permuted(row: RankedCell) -> bool:
    """Return whether a cell has the test of few seeds."""
    return not (row.has_interval or math.isnan(row.p))


def _reason(row: RankedCell) -> str:
    """Return why a cell is not tested against the baseline; empty where it is, and of the baseline."""
    return "" if row.is_baseline or not math.isnan(row.difference) else row.tested.removeprefix("not tested: ")


def _names_seeds(mark: str) -> bool:
    """Return whether a mark names the seeds that a cell lacks, or has in place of the protocol's."""
    return mark.startswith(("without seed", "seed"))


def _departures(row: RankedCell) -> list[str]:
    """Return the marks of a cell, without those on seeds that :func:`few_seeds` counts."""
    counted = _permuted(row) or _reason(row) in (count_of(row.cell.seeds, "seed"), _OUTSIDE)
    return [mark for mark in row.cell.marks if not (counted and _names_seeds(mark))]


# Sentences


def verdict_sentence(ranking: Ranking) -> str:
    """Return the result of a workload's tests against the baseline: those of all seeds, or of fewer where none has all.

    A second sentence names the methods that could be the best, unless they are those that are not shown to differ, and
    a third those whose tests of fewer seeds stand below.
    """
    base = ranking.baseline_cell
    title = method_title(ranking.baseline)
    others = [row for row in ranking.cells if not row.is_baseline]
    tested = [row for row in others if row.has_interval] or [row for row in others if not math.isnan(row.p)]
    same = [_name(row.cell) for row in tested if not row.differs]
    # The baseline's error stands beside its first mention.
    names = chain([f"{title} ({base.mean:.2f} %)"] if base else [], repeat(title))
    parts = []
    if same:
        parts.append(f"{listed(same)} {'is' if len(same) == 1 else 'are'} not shown to differ from {next(names)}")
    for word, sign in (("better", -1), ("worse", 1)):
        rows = [row for row in tested if row.differs and sign * row.difference > 0]
        if rows:
            first, *more = rows
            more_words = [f"{_name(row.cell)} by {_size(row)}" for row in more]
            parts.append(listed([f"{_name(first.cell)} is {word} than {next(names)} by {_size(first)}", *more_words]))
    if base is None or not others:
        text = f"There is no run of {title} to compare with." if base is None else f"Only {title} has run."
    elif not tested:
        text = f"Nothing is tested against {title} yet."
    else:
        text = "; ".join(parts) + "."
    best = [_name(row.cell) for row in ranking.could_be_best]
    if best and set(best) != set(same):
        if base and not tested:
            text += f" Among the others, {listed(best)} could be the best."
        else:
            text += f" {listed(best)} could be the best{f', {title} apart' * bool(base)}."
    fewer = [_name(row.cell) for row in others if _permuted(row) and row not in tested]
    if fewer:
        text += f" {listed(fewer)} {'is' if len(fewer) == 1 else 'are'} tested with fewer seeds, below."
    return text


def _name(cell: Cell) -> str:
    """Return the method's name, with the tuning in brackets where it has several and this is not the published one."""
    other = cell.tunings > 1 and cell.tuning != PUBLISHED
    return method_title(cell.method) + f" ({cell.tuning})" * other


def _size(row: RankedCell) -> str:
    """Format the size of a difference with its interval or p: ``0.41 [0.22, 0.59]``."""
    sign = math.copysign(1, row.difference)
    size = f"{abs(row.difference):.2f}"
    if row.has_interval:
        low, high = sorted((sign * row.low, sign * row.high))
        # A bound that is rounded to 0 keeps its sign, which tells whether 0 lies inside.
        return f"{size} [{low:.2f}, {high:.2f}]"
    return f"{size} (p {format_p(row.p)}, {row.cell.seeds} seeds)"


def few_seeds(ranking: Ranking) -> list[tuple[str, list[str]]]:
    """Return the cells without all seeds: pairs of a statement and the cells that it is about."""
    permuted = [row for row in ranking.cells if _permuted(row)]
    untested: dict[str, list[str]] = defaultdict(list)
    for row in ranking.cells:
        if reason := _reason(row):
            untested[reason].append(row.cell.title)
    groups = [
        ("Fewer seeds", [f"{row.cell.title} {row.difference_text}" for row in permuted]),
        ("Not tested", [f"{'; '.join(names)} ({reason})" for reason, names in untested.items()]),
    ]
    return [(title, entries) for title, entries in groups if entries]


def missing_runs(
    ranking: Ranking, supplied: Collection[str] = (), everything: Iterable[Cell] | None = None
) -> list[str]:
    """Return the commands that train the missing seeds of cells, with the configuration that each cell has.

    Cells of which no command names the configuration are left out.

    Args:
        ranking: of the workload.
        supplied: sweeps of the configurations that come with tpbench.
        everything: all cells of the store, where the ranking has one tuning alone.
    """
    cells, commands = [row.cell for row in ranking.cells], []
    rivals = cells if everything is None else list(everything)
    for cell in cells:
        option = _configuration_option(cell, rivals, supplied)
        missing = set(PROTOCOL_SEEDS[0]) - cell.all_seeds
        if option is not None and cell.by_protocol and not cell.whole and missing:
            names = shlex.join([cell.workload, cell.method])
            commands.append(f"tpbench run {names}{option} --seeds {seed_ranges(missing).replace(' ', '')}")
    return commands


def _configuration_option(cell: Cell, rivals: Iterable[Cell], supplied: Collection[str]) -> str | None:
    """Return the option of ``tpbench run`` that names a cell's configuration, or None."""
    if cell.tuning == PUBLISHED:
        return ""
    first = cell.runs[0]
    if cell.budget.by != "search" or first.definition.workload_source:
        return None
    if first.search_info.get("sweep") in supplied:
        return ""
    if all(from_search(run.search_info, "search") for run in cell.runs):
        # The sweep itself trains the final runs.
        return None
    # ``best`` is the configuration of a method with the lowest validation error.
    same = (cell.workload, cell.data_label, cell.method)
    alike = [other for other in rivals if (other.workload, other.data_label, other.method) == same]
    best = min(alike, key=lambda other: (other.diverged > 0, not other.testable, other.validation))
    return " --config best" if cell.key == best.key and cell.configurations == 1 else None


def missing_methods(ranking: Ranking) -> list[str]:
    """Return the methods of the paper's column that have no run with the published configuration.

    None of a ranking of another tuning alone, which says nothing of them.
    """
    if ranking.data_label or ranking.workload not in PAPER_WORKLOADS or ranking.tuning not in (None, PUBLISHED):
        return []
    states = paper_states([ranking], ranking.workload)
    return [method_title(method) for method, state in states.items() if state is State.MISSING]


def warnings_of(ranking: Ranking) -> list[str]:
    """Return departures from the protocol, with the cells that have them, and the tunings where they differ."""
    departures: dict[str, list[str]] = defaultdict(list)
    for row in ranking.cells:
        for mark in _departures(row):
            departures[mark].append(row.cell.title)
    warnings = [f"{mark}: {'; '.join(titles)}" for mark, titles in departures.items()]
    tunings = Counter(row.cell.tuning for row in ranking.cells)
    if len(tunings) > 1:
        counts = ", ".join(f"{tuning} ({count})" for tuning, count in tunings.most_common())
        warnings.append(f"tunings differ (number of cells): {counts}")
    return warnings


def reproduction(rankings: Sequence[Ranking], table: ErrorTable) -> str:
    """Return the share of Table S6 that the store has and how it agrees; empty where the store has none of it."""
    states = [state for workload in PAPER_WORKLOADS for state in paper_states(rankings, workload).values()]
    whole, partial, missing = (states.count(state) for state in State)
    if not whole + partial:
        return ""
    text = (
        f"Of the {len(states)} cells of the paper's Table S6, {whole or 'none'} {_verb(whole, 'stand')} here by its "
        f"protocol, {partial or 'none'} with fewer seeds or otherwise; {missing or 'none'} {_verb(missing, 'are')} "
        "missing."
    )
    within = Counter(found.within for found in table.agreements)
    if compared := sum(within.values()):
        text += (
            f" Of {count_of(compared, 'cell')} of three seeds or more, {within['yes'] or 'none'} "
            f"{_verb(within['yes'], 'are')} shown to be within ±{MARGIN:g} % of the paper's error, "
            f"{within['no'] or 'none'} outside, and {within['open'] or 'none'} {_verb(within['open'], 'are')} open."
        )
    if shift := table.shift:
        side = "above" if shift.difference > 0 else "below"
        text += (
            f" The mean error of {shift.cells} cells with all seeds is {abs(shift.difference):.1f} % {side} the "
            f"paper's {format_interval(shift.low, shift.high, 1)}."
        )
    return text


def _verb(count: int, plural: str) -> str:
    return {"are": "is"}.get(plural, f"{plural}s") if count == 1 else plural


def listed(names: Sequence[str]) -> str:
    """Join names: ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def legend(rows: Iterable[tuple[str, Sequence[MatrixCell]]], baseline: str) -> Mapping[Verdict, str]:
    """Return the verdicts that occur in a matrix with their meanings."""
    occurring = {verdict for _, cells in rows for cell in cells for verdict in cell.verdicts}
    title = method_title(baseline)
    return {verdict: verdict.meaning(title) for verdict in Verdict if verdict in occurring and verdict.meaning(title)}
