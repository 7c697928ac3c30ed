"""The report's summary: of each workload, which methods could be the best and which differ from the baseline.

Nothing is computed here that tables and leaderboards do not compute: the tests are those of
:mod:`tpbench.results.ranking`, warnings the marks of cells (docs/protocol.md).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

from tpbench.engine import method_title
from tpbench.results.cells import Cell
from tpbench.results.paper import PAPER_WORKLOADS, paper_cell, table_methods
from tpbench.results.ranking import RankedCell, Ranking
from tpbench.results.runs import FULL_SEEDS
from tpbench.results.tables import PUBLISHED


class State(Enum):
    """State of a cell of the paper's table; the value is its label."""

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


def headline(rankings: Sequence[Ranking]) -> str:
    """Return one sentence on the methods that could be the best; empty where no workload has two rivals."""
    parts = [
        f"{_listed(list(dict.fromkeys(method_title(row.cell.method) for row in ranking.could_be_best)))} "
        f"on {ranking.title}"
        for ranking in rankings
        if ranking.could_be_best
    ]
    apart = next((f", {method_title(ranking.baseline)} apart" for ranking in rankings if ranking.baseline_cell), "")
    return f"Could be the best{apart}: {'; '.join(parts)}." if parts else ""


def completeness(rankings: Sequence[Ranking]) -> str:
    """Format the share of the paper's table that the store has; empty where it has none of its workloads."""
    states = [state for workload in PAPER_WORKLOADS for state in paper_states(rankings, workload).values()]
    whole, partial, missing = (states.count(state) for state in State)
    if not whole + partial:
        return ""
    copies = [cell for workload in PAPER_WORKLOADS for cell in _published(rankings, workload) if cell.data_label]
    count = "1 cell of a copy of the data does" if len(copies) == 1 else f"{len(copies)} cells of copies of the data do"
    return (
        f"Of the {len(states)} cells of the paper's Table S6, {whole or 'none'} stand{'s' * (whole == 1)} here by its "
        f"protocol (published configuration, {FULL_SEEDS} seeds, all epochs, none diverged), {partial or 'none'} with "
        f"fewer seeds or otherwise; {missing or 'none'} {'is' if missing == 1 else 'are'} missing."
        + f" {count} not count."
        * bool(copies)
    )


def protocol_words(ranking: Ranking, states: Mapping[str, State]) -> str:
    """``4 of the paper's 10 cells, 3 by its protocol``; of other workloads, that the paper has not got them."""
    if ranking.workload not in PAPER_WORKLOADS:
        return "not in the paper"
    if ranking.data_label:
        return "a copy of the data"
    count = Counter(states.values())
    here = len(states) - count[State.MISSING]
    return f"{here} of the paper's {len(states)} cells" + f", {count[State.WHOLE]} by its protocol" * bool(here)


def statements(ranking: Ranking) -> list[tuple[str, list[str]]]:
    """Return the sentences about a workload: pairs of a statement and the methods that it is about."""
    base = method_title(ranking.baseline)
    paired = [row for row in ranking.cells if row.has_interval and not row.is_baseline]
    permuted = [row for row in ranking.cells if not (row.has_interval or math.isnan(row.p))]
    untested: dict[str, list[str]] = defaultdict(list)
    for row in ranking.cells:
        if row.tested.startswith("not tested: "):
            untested[row.tested.removeprefix("not tested: ")].append(row.cell.title)
    apart = f", {base} apart" if ranking.baseline_cell else ""
    groups = [
        (f"Could be the best{apart}", [row.cell.title for row in ranking.could_be_best]),
        (f"Better than {base}", [_with_difference(row) for row in paired if row.differs and row.difference < 0]),
        (f"Worse than {base}", [_with_difference(row) for row in paired if row.differs and row.difference > 0]),
        (f"Not shown to differ from {base}", [row.cell.title for row in paired if not row.differs]),
        ("Permutation test", [_with_difference(row) for row in permuted]),
        ("Not tested", [f"{'; '.join(names)} ({reason})" for reason, names in untested.items()]),
    ]
    return [(title, entries) for title, entries in groups if entries]


def _with_difference(row: RankedCell) -> str:
    return f"{row.cell.title} {row.difference_text}"


def warnings_of(ranking: Ranking) -> list[str]:
    """Return departures from the protocol, with the cells that have them, and the tunings where they differ."""
    departures: dict[str, list[str]] = defaultdict(list)
    for row in ranking.cells:
        for mark in row.cell.marks:
            # Cells with missing seeds have a statement of their own.
            if row.cell.whole or "seed" not in mark:
                departures[mark].append(row.cell.title)
    warnings = [f"{mark}: {'; '.join(titles)}" for mark, titles in departures.items()]
    tunings = Counter(row.cell.tuning for row in ranking.cells)
    if len(tunings) > 1:
        counts = ", ".join(f"{tuning} ({count})" for tuning, count in tunings.most_common())
        warnings.append(f"tunings differ (number of cells): {counts}")
    return warnings


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
