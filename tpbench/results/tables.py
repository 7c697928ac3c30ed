"""The paper's tables, computed from a store alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from tpbench.results.cells import Cell, CellKey, choose_cells, labelled, protocol_epochs
from tpbench.results.paper import PAPER_WORKLOADS, paper_cell, table_methods
from tpbench.results.standings import Standing, Verdict, all_standings
from tpbench.results.statistics import Overall, compare_with_printed, overall
from tpbench.results.store import RunStore
from tpbench.workloads import WORKLOADS


@dataclass(frozen=True)
class Entry:
    """One entry of a table, ready to be spelled in any format."""

    cell: Cell | None
    paper: tuple[float, float] | None
    standing: Standing | None = None
    """To the best of the column; None where there is no cell."""

    @property
    def best(self) -> bool:
        return self.standing is not None and self.standing.best

    @property
    def verdict(self) -> Verdict | None:
        """What the test against the best said; None where there is no cell."""
        return self.standing.verdict if self.standing else None

    @property
    def p_paper(self) -> float:
        """p of Welch's test against the paper's cell; not a number where seeds are few or diverged."""
        if self.cell is None or self.paper is None or not self.cell.can_be_best:
            return math.nan
        return compare_with_printed(self.cell.errors(), self.paper)

    @property
    def marks(self) -> list[str]:
        """How the entry departs from the paper's protocol."""
        return self.cell.marks if self.cell else []

    @property
    def difference(self) -> float | None:
        """Measured mean minus the paper's, in percentage points."""
        return None if self.cell is None or self.paper is None else self.cell.mean - self.paper[0]

    @property
    def deviations(self) -> float | None:
        """The difference in standard deviations of the paper's cell."""
        return None if self.difference is None or not self.paper else self.difference / self.paper[1]


@dataclass(frozen=True)
class Column:
    """One column of a table: a workload as trained on one kind of data."""

    workload: str
    data_label: str

    @property
    def title(self) -> str:
        title = WORKLOADS[self.workload].title if self.workload in WORKLOADS else self.workload
        return labelled(title, self.data_label)


@dataclass(frozen=True)
class ErrorTable:
    """Methods x workloads, each entry beside the paper's."""

    title: str
    rows: list[str]
    columns: list[Column]
    entries: Mapping[tuple[str, Column], Entry]
    others: tuple[str, ...] = ()
    """Methods of the store that the paper's table has not."""

    def column(self, column: Column) -> dict[str, Entry]:
        """The entries of a column that have a cell, by method."""
        found = {method: self.entries[method, column] for method in self.rows}
        return {method: entry for method, entry in found.items() if entry.cell}

    @property
    def against_paper(self) -> list[tuple[Column, Entry]]:
        """The cells of the exact data sets and the protocol's epochs that the paper has too."""
        return [
            (column, entry)
            for (_, column), entry in self.entries.items()
            if entry.cell
            and entry.paper
            and not column.data_label
            and entry.cell.epochs == protocol_epochs(column.workload)
        ]

    @property
    def overall(self) -> Overall:
        """All of these cells against the paper's at once."""
        return overall((e.difference, e.p_paper) for _, e in self.against_paper if e.difference is not None)


def paper_table(store: RunStore, table: str) -> ErrorTable:
    """One of :data:`tpbench.results.paper.ERROR_TABLES` with what the store holds.

    Raises:
        UsageError: there is no such table.
    """
    return paper_table_of(choose_cells(store.summaries()), table)


def paper_table_of(chosen: Mapping[CellKey, Cell], table: str) -> ErrorTable:
    """:func:`paper_table` of a store whose cells were chosen already."""
    rows = table_methods(table)
    cells = {key: cell for key, cell in chosen.items() if cell.method in rows}
    found = all_standings(cells)
    columns = columns_of({(workload, label) for workload, label, _ in cells})
    entries: dict[tuple[str, Column], Entry] = {}
    for column in columns:
        for method in rows:
            key = (column.workload, column.data_label, method)
            # A copy of the data is compared with the paper too, but its column says that it is a copy.
            entries[method, column] = Entry(cells.get(key), paper_cell(column.workload, method), found.get(key))
    others = tuple(sorted({method for _, _, method in chosen} - set(rows)))
    return ErrorTable(f"Table {table.upper()}: test error (%)", rows, columns, entries, others)


def columns_of(pairs: Iterable[tuple[str, str]]) -> list[Column]:
    """The paper's workloads, each followed by the copies of its data that were used; then workloads of our own.

    Args:
        pairs: workload and data label of what there is.
    """
    used = {Column(workload, label) for workload, label in pairs}
    columns = []
    for workload in PAPER_WORKLOADS:
        copies = sorted((c for c in used if c.workload == workload and c.data_label), key=lambda c: c.data_label)
        exact = Column(workload, "")
        columns += [exact, *copies] if exact in used or not copies else copies
    return columns + sorted((c for c in used if c.workload not in PAPER_WORKLOADS), key=lambda c: c.title)


def table_rows(table: ErrorTable) -> pd.DataFrame:
    """One row per entry with plain numbers: what ``--format csv`` writes, and ``marks``, how it departs."""
    rows = []
    for method in table.rows:
        for column in table.columns:
            entry = table.entries[method, column]
            cell, paper = entry.cell, entry.paper
            rows.append(
                {
                    "workload": column.workload,
                    "data": column.data_label or "exact",
                    "method": method,
                    "seeds": cell.seeds if cell else 0,
                    "epochs": cell.epochs if cell else None,
                    "test_error_mean": cell.mean if cell else None,
                    "test_error_std": cell.std if cell else None,
                    "diverged": cell.diverged if cell else None,
                    "paper_mean": paper[0] if paper else None,
                    "paper_std": paper[1] if paper else None,
                    "difference": entry.difference,
                    "difference_in_deviations": entry.deviations,
                    "p_paper": entry.p_paper,
                    "best": entry.best,
                    "p_best": entry.standing.p if entry.standing else None,
                    **_test_columns(entry),
                    "precision": cell.precision if cell else None,
                    "configuration_from": str(cell.budget) if cell else None,
                    "marks": ", ".join(entry.marks),
                }
            )
    return pd.DataFrame(rows).astype({"epochs": "Int64", "diverged": "Int64"})


def _test_columns(entry: Entry) -> dict[str, object]:
    """Against the best: what the test said, which it was, and what it would have shown."""
    standing = entry.standing
    comparison = standing.comparison if standing else None
    return {
        "against_best": standing.verdict.name.lower() if standing else None,
        "test": comparison.test if comparison else None,
        "detectable": comparison.detectable if comparison else None,
        "unequal": standing.unequal if standing else None,
    }
