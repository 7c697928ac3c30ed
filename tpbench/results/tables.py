"""The paper's tables and that of training losses, computed from a store, and their formats."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tpbench.engine import TpbenchError, method_title
from tpbench.engine.errors import visible
from tpbench.results.cells import Cell, CellKey, choose_cells, protocol_epochs, provenance_groups, with_label
from tpbench.results.formats import (
    Value,
    check_format,
    csv_number,
    csv_text,
    format_mean,
    format_table,
    markdown,
    markdown_code,
    markdown_rows,
    mean_and_deviation,
)
from tpbench.results.paper import PAPER_WORKLOADS, paper_cell, table_methods
from tpbench.results.ranking import ENOUGH_WORDS, Standing, Verdict, all_standings
from tpbench.results.runs import same_budget
from tpbench.results.statistics import LEVEL, Overall, compare_with_printed, overall
from tpbench.results.store import RunStore
from tpbench.workloads import WORKLOADS


@dataclass(frozen=True)
class Entry:
    """One entry of a table."""

    cell: Cell | None
    paper: tuple[float, float] | None
    standing: Standing | None = None
    """Comparison with the best of the column; None where there is no cell."""

    @property
    def best(self) -> bool:
        return self.standing is not None and self.standing.best

    @property
    def p_paper(self) -> float:
        """p of Welch's test against the paper's cell; not a number where seeds are few or diverged."""
        if self.cell is None or self.paper is None or not self.cell.can_be_best:
            return math.nan
        return compare_with_printed(self.cell.errors(), self.paper)

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
        return with_label(title, self.data_label)


@dataclass(frozen=True)
class ErrorTable:
    """Methods x workloads, each entry beside the paper's."""

    title: str
    rows: list[str]
    columns: list[Column]
    entries: Mapping[tuple[str, Column], Entry]
    others: tuple[str, ...] = ()
    """Methods of the store that are not in the paper's table."""

    def column(self, column: Column) -> dict[str, Entry]:
        """Return the entries of a column that have a cell, by method."""
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


def paper_table(store: RunStore, table: str, chosen: Mapping[CellKey, Cell] | None = None) -> ErrorTable:
    """Return one of :data:`tpbench.results.paper.ERROR_TABLES` from the runs of a store.

    Args:
        store: that holds the runs.
        table: its name.
        chosen: the store's cells, where they are known already.

    Raises:
        UsageError: there is no such table.
    """
    chosen = choose_cells(store.summaries()) if chosen is None else chosen
    rows = table_methods(table)
    cells = {key: cell for key, cell in chosen.items() if cell.method in rows}
    found = all_standings(cells)
    columns = table_columns({(workload, label) for workload, label, _ in cells})
    entries: dict[tuple[str, Column], Entry] = {}
    for column in columns:
        for method in rows:
            key = (column.workload, column.data_label, method)
            # A copy of the data is compared with the paper too, but its column says that it is a copy.
            entries[method, column] = Entry(cells.get(key), paper_cell(column.workload, method), found.get(key))
    others = tuple(sorted({method for _, _, method in chosen} - set(rows)))
    return ErrorTable(f"Table {table.upper()}: test error (%)", rows, columns, entries, others)


def table_columns(pairs: Iterable[tuple[str, str]]) -> list[Column]:
    """Return columns: the paper's workloads, each followed by the copies of its data that were used; then others.

    Args:
        pairs: workload and data label of each cell.
    """
    used = {Column(workload, label) for workload, label in pairs}
    columns = []
    for workload in PAPER_WORKLOADS:
        copies = sorted((c for c in used if c.workload == workload and c.data_label), key=lambda c: c.data_label)
        exact = Column(workload, "")
        columns += [exact, *copies] if exact in used or not copies else copies
    return columns + sorted((c for c in used if c.workload not in PAPER_WORKLOADS), key=lambda c: c.title)


def table_rows(table: ErrorTable) -> pd.DataFrame:
    """Return one row per entry with plain numbers, as ``--format csv`` writes them, and its departures (``marks``)."""
    rows = []
    for method in table.rows:
        for column in table.columns:
            entry = table.entries[method, column]
            cell, paper, standing = entry.cell, entry.paper, entry.standing
            comparison = standing.comparison if standing else None
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
                    "p_best": standing.p if standing else None,
                    "against_best": standing.verdict.name.lower() if standing else None,
                    "test": comparison.test if comparison else None,
                    "detectable": comparison.detectable if comparison else None,
                    "unequal": standing.unequal if standing else None,
                    "precision": cell.precision if cell else None,
                    "configuration_from": str(cell.budget) if cell else None,
                    "marks": ", ".join(cell.marks) if cell else "",
                }
            )
    return pd.DataFrame(rows).astype({"epochs": "Int64", "diverged": "Int64"})


def entry_lines(entry: Entry) -> tuple[str, str]:
    """Format an entry in two lines: the measured value, and the paper's with the difference."""
    measured = _measured(entry)
    if entry.paper is None:
        return measured, "paper: /"
    return measured, f"paper: {format_mean(*entry.paper)}{_difference(entry)}"


def _measured(entry: Entry) -> str:
    if entry.cell is None or entry.standing is None:
        return "missing"
    text = format_mean(entry.cell.mean, entry.cell.std)
    if entry.standing.verdict.value:
        text += f" {entry.standing.verdict.value}"
    comparison = entry.standing.comparison
    if comparison and entry.standing.verdict is Verdict.NOT_TOLD_APART:
        text += " (-)" if entry.standing.silent else f" ({comparison.detectable:.2f})"
    if entry.standing.unequal:
        text += " #"
    return text + (f" [{', '.join(entry.cell.marks)}]" if entry.cell.marks else "")


def _difference(entry: Entry) -> str:
    if entry.difference is None or entry.deviations is None or math.isnan(entry.difference):
        return ""
    mark = "?" if math.isnan(entry.p_paper) else "*" if entry.p_paper < LEVEL else "~"
    return f" ({entry.difference:+.2f}, {entry.deviations:+.1f} sd) {mark}"


FOOTNOTE = (
    "Mean and sample standard deviation over seeds of the test error (%) at the epoch with the lowest validation "
    "error; diverged seeds do not enter it. Bold, or (best): the lowest mean validation error of the methods with "
    f"{ENOUGH_WORDS}"
    ", BP aside. Against the best: = (d) not told apart, where d is the difference that the test would show four "
    "times in five (-: none, with so few seeds); >, < higher, lower error (p < 0.05); ? could not be tested (fewer "
    "than three seeds, diverged seeds). Tests: exact sign-flip permutation over shared seeds (paired t-test beyond "
    "12), Welch's where fewer than three are shared, Holm-corrected. #: found with another search budget than the "
    "best, or trained for other epochs. Below: the paper's value, the difference, also in standard deviations (sd) of "
    "the paper's cell; * differs from it (Welch's test from its printed mean, deviation and n = 10, p < 0.05, not "
    "corrected for the number of cells), ~ does not, ? could not be tested. [n seeds], [n epochs], [n diverged]: "
    "departs from the protocol's 10 seeds and its number of epochs. The rules: docs/protocol.md."
)


def against_paper(table: ErrorTable) -> str:
    """Return the cells against the paper's together, in a sentence; empty where none could be tested."""
    found = table.overall
    if not found.tested:
        return ""
    return (
        f"Against the paper: {found.differing} of {found.tested} cells of full length differ (p < 0.05; "
        f"{found.expected:.1f} expected by chance alone); {found.above} lie above it; all together p = "
        f"{found.p:.2g} (Stouffer). tpbench's errors are over all test samples, the paper's are means over "
        "minibatches: on MNIST and Fashion-MNIST lower by some 1 % of the error, an estimate (docs/protocol.md)."
    )


def notes(table: ErrorTable) -> list[str]:
    """Return notes on the whole table: its cells against the paper's together, and unequal search budgets."""
    lines = [summary] if (summary := against_paper(table)) else []
    lines += [line for column in table.columns if (line := _budgets(table, column))]
    if table.others:
        lines.append(
            f"In this store but not in the paper's table (see 'tpbench leaderboard'): {', '.join(table.others)}."
        )
    return lines


def _budgets(table: ErrorTable, column: Column) -> str:
    """Return the tuning budgets of a column where they differ."""
    cells = {method: entry.cell for method, entry in table.column(column).items() if entry.cell}
    if all(same_budget(one.budget, other.budget) is not False for one in cells.values() for other in cells.values()):
        return ""
    found = "; ".join(f"{method_title(method)}: {cell.budget}" for method, cell in cells.items())
    return f"Search budgets differ on {column.title}, so its differences are not those of the rules alone: {found}."


_PROVENANCE = ("cell", "n", "epochs", "time", "hardware", "torch", "commit", "configuration from", "command")


def _provenance_lines(table: ErrorTable) -> list[str]:
    """Return the provenance of the cells: a row per cell, more where several commands or machines made it."""
    found = [table.entries[method, column].cell for column in table.columns for method in table.rows]
    rows = []
    for origin in (group for cell in found if cell for group in provenance_groups(cell)):
        values = (
            f"{origin.cell.workload_title} {origin.cell.method}",
            len(origin.runs),
            origin.cell.epochs,
            f"{origin.seconds / 60:.0f} min",
            origin.hardware,
            origin.entry("torch"),
            origin.entry("commit")[:12],
            origin.cell.budget,
        )
        rows.append([*(markdown(str(value)) for value in values), markdown_code(origin.entry("command"))])
    return markdown_rows(_PROVENANCE, rows) if rows else []


def render(table: ErrorTable, form: str) -> str:
    """Format a table in one of :data:`tpbench.results.formats.FORMATS`; in Markdown with the provenance of its cells.

    Raises:
        UsageError: there is no such format.
    """
    if check_format(form) == "csv":
        return csv_text(table_rows(table), csv_number)
    rows: list[list[str | Value]] = []
    for method in table.rows:
        entries = [table.entries[method, column] for column in table.columns]
        rows.append([method_title(method), *(Value(*entry_lines(entry), entry.best) for entry in entries)])
    header = ["method", *(column.title for column in table.columns)]
    # A line each: names from files begin no other one.
    text = format_table(table.title, header, rows, form, "\n".join(map(visible, [FOOTNOTE, *notes(table)])))
    return text + "\n".join(["", *_provenance_lines(table), ""]) if form == "md" else text


# ``tpbench table loss``: the training loss at the end of training, methods x workloads.


Row = Mapping[Hashable, Any]

TITLE = "Training loss of the last epoch"

NOTE = (
    "Mean and sample standard deviation over seeds of the training loss of the last epoch (mean over its minibatches "
    "as they were trained); diverged seeds do not enter it. [n seeds], [n epochs], [n diverged]: departs from the "
    "protocol."
)


_LOSS_COLUMNS = (
    "workload",
    "data",
    "method",
    "seeds",
    "epochs",
    "diverged",
    "train_loss_mean",
    "train_loss_std",
    "marks",
)


def loss_rows(store: RunStore) -> pd.DataFrame:
    """Return one row per cell of a store, in the order of Table S6."""
    order = table_methods("s6")

    def place(cell: Cell) -> tuple[int, str, str, str]:
        number = order.index(cell.method) if cell.method in order else len(order)
        return number, cell.method, cell.workload, cell.data_label or "exact"

    rows = []
    for cell in sorted(choose_cells(store.summaries()).values(), key=place):
        curves = [run.curves.get("train_loss") for run in store.with_curves(cell.runs) if not run.diverged]
        losses = [curve[-1] for curve in curves if curve]
        mean, deviation = mean_and_deviation(losses) if losses else (math.nan, math.nan)
        rows.append(
            {
                "workload": cell.workload,
                "data": cell.data_label or "exact",
                "method": cell.method,
                "seeds": cell.seeds,
                "epochs": cell.epochs,
                "diverged": cell.diverged,
                "train_loss_mean": mean,
                "train_loss_std": deviation,
                "marks": ", ".join(cell.marks),
            }
        )
    return pd.DataFrame(rows, columns=_LOSS_COLUMNS)


def loss_table(store: RunStore, form: str) -> str:
    """Format the table of training losses.

    Raises:
        UsageError: there is no such format.
        TpbenchError: the store is empty.
    """
    frame = loss_rows(store)
    if frame.empty:
        raise TpbenchError(f"{store.folder} holds no run yet; train some with 'tpbench sweep' or 'tpbench run'")
    if check_format(form) == "csv":
        return csv_text(frame, "%.6g")
    found = {(str(r["method"]), str(r["workload"]), _label(r)): r for r in frame.to_dict("records")}
    columns = table_columns({(workload, label) for _, workload, label in found})
    rows = [
        [method_title(method), *(_entry(found.get((method, c.workload, c.data_label))) for c in columns)]
        for method in dict.fromkeys(method for method, _, _ in found)
    ]
    return format_table(TITLE, ["method", *(c.title for c in columns)], rows, form, NOTE)


def _label(row: Row) -> str:
    return "" if row["data"] == "exact" else str(row["data"])


def _entry(row: Row | None) -> str:
    """``0.0123 ± 0.0011``: losses span orders of magnitude, so three digits that count."""
    if row is None:
        return "missing"
    mean, deviation = row["train_loss_mean"], row["train_loss_std"]
    text = "-" if math.isnan(mean) else f"{mean:.3g}" if math.isnan(deviation) else f"{mean:.3g} ± {deviation:.2g}"
    return text + (f" [{row['marks']}]" if row["marks"] else "")
