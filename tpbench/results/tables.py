"""The paper's tables, computed from a store alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from tpbench.results.cells import FULL_SEEDS, Cell, choose_cells, labelled
from tpbench.results.paper import paper_cell, table_methods
from tpbench.results.statistics import LEVEL, against_best, compare_with_printed
from tpbench.results.store import RunStore
from tpbench.workloads import WORKLOADS

PAPER_WORKLOADS = ("mnist", "mnist-frozen", "fashion-mnist", "cifar10")


@dataclass(frozen=True)
class Entry:
    """One entry of a table, ready to be spelled in any format."""

    cell: Cell | None
    paper: tuple[float, float] | None
    best: bool = False
    p_best: float = math.nan
    """Holm-adjusted p of the paired test against the column's best method except BP; not a number if none was made."""

    @property
    def tied(self) -> bool:
        """Whether the runs do not tell the method from the best."""
        return self.p_best >= LEVEL

    @property
    def p_paper(self) -> float:
        """p of Welch's test against the paper's cell."""
        if self.cell is None or self.paper is None:
            return math.nan
        return compare_with_printed(self.cell.errors(), self.paper)

    @property
    def marks(self) -> list[str]:
        """What the entry lacks of the paper's protocol: fewer seeds or epochs, diverged runs."""
        if self.cell is None:
            return []
        marks = []
        if self.cell.seeds < FULL_SEEDS:
            marks.append(f"{self.cell.seeds} seed{'s' * (self.cell.seeds > 1)}")
        full = WORKLOADS[self.cell.workload].epochs if self.cell.workload in WORKLOADS else self.cell.epochs
        if self.cell.epochs < full:
            marks.append(f"{self.cell.epochs} epoch{'s' * (self.cell.epochs > 1)}")
        if self.cell.diverged:
            marks.append(f"{self.cell.diverged} diverged")
        return marks

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


def paper_table(store: RunStore, table: str) -> ErrorTable:
    """Table ``1`` or ``s6`` with what the store holds.

    Raises:
        UsageError: there is no such table.
    """
    rows = table_methods(table)
    cells = choose_cells(store.records())
    columns = _columns(cells, rows)
    entries: dict[tuple[str, Column], Entry] = {}
    for column in columns:
        found = {method: cells.get((column.workload, column.data_label, method)) for method in rows}
        best = _best(found)
        p = _against_best(found, best)
        for method in rows:
            # A copy of the data is compared with the paper too, but its column says that it is a copy.
            entries[method, column] = Entry(
                found[method], paper_cell(column.workload, method), method == best, p.get(method, math.nan)
            )
    return ErrorTable(f"Table {table.upper()}: test error (%)", rows, columns, entries)


def _columns(cells: Mapping[tuple[str, str, str], Cell], rows: Sequence[str]) -> list[Column]:
    """The paper's workloads, each followed by the copies of its data that were used; then workloads of our own."""
    used = {Column(workload, label) for workload, label, method in cells if method in rows}
    columns = []
    for workload in PAPER_WORKLOADS:
        copies = sorted((c for c in used if c.workload == workload and c.data_label), key=lambda c: c.data_label)
        exact = Column(workload, "")
        columns += [exact, *copies] if exact in used or not copies else copies
    return columns + sorted((c for c in used if c.workload not in PAPER_WORKLOADS), key=lambda c: c.title)


def _best(found: Mapping[str, Cell | None]) -> str | None:
    """The method with the lowest mean test error, BP aside, as the paper marks it."""
    means = {m: c.mean for m, c in found.items() if c and m != "bp" and not math.isnan(c.mean)}
    return min(means, key=lambda method: means[method]) if means else None


def _against_best(found: Mapping[str, Cell | None], best: str | None) -> dict[str, float]:
    """Holm-adjusted p of every method but BP against the best one."""
    if best is None:
        return {}
    return against_best({m: c.errors() for m, c in found.items() if c and m != "bp"}, best)


def table_rows(table: ErrorTable) -> pd.DataFrame:
    """One row per entry with plain numbers: what ``--format csv`` writes."""
    rows = []
    for method in table.rows:
        for column in table.columns:
            entry = table.entries[method, column]
            cell, paper = entry.cell, entry.paper
            rows.append(
                {
                    "workload": column.workload, "data": column.data_label or "exact", "method": method,
                    "seeds": cell.seeds if cell else 0, "epochs": cell.epochs if cell else None,
                    "test_error_mean": cell.mean if cell else None, "test_error_std": cell.std if cell else None,
                    "diverged": cell.diverged if cell else None,
                    "paper_mean": paper[0] if paper else None, "paper_std": paper[1] if paper else None,
                    "difference": entry.difference, "difference_in_deviations": entry.deviations,
                    "p_paper": entry.p_paper, "best": entry.best, "p_best": entry.p_best,
                }
            )  # fmt: skip
    return pd.DataFrame(rows).astype({"epochs": "Int64", "diverged": "Int64"})
