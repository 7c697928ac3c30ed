"""The tables of the report: leaderboard, the paper's tables, where the runs come from."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from tpbench.engine import method_title
from tpbench.reports.parts import Fold, PageEntry, PageTable, Section, number
from tpbench.results import Cell
from tpbench.results.cells import CellKey, provenance_groups, workload_label
from tpbench.results.formats import format_mean
from tpbench.results.ranking import BOARD_NOTE, format_error, format_interval
from tpbench.results.tables import FOOTNOTE, ErrorTable, entry_lines, notes

_READ = "How to read this table"


def leaderboard_section(board: pd.DataFrame) -> Section:
    """All cells, best first."""
    rows = []
    for row in board.to_dict("records"):
        verdict, _, more = str(row["against_best"]).partition(" (")
        p_paper = "" if math.isnan(row["p_paper"]) else f"p {row['p_paper']:.2g}"
        interval = "" if math.isnan(row["ci_low"]) else format_interval(row)
        rows.append(
            [
                PageEntry(workload_label(row)),
                PageEntry(method_title(row["method"]), loose=True),
                PageEntry(format_error(row), _known(row["test_error_mean"]), interval),
                PageEntry(verdict, _known(row["p_best"]), more.removesuffix(")")),
                number(row["seeds"], ".0f", f"{row['epochs']} epochs"),
                PageEntry(row["budget"], loose=True),
                PageEntry(format_mean(row["paper_mean"], row["paper_std"]), _known(row["paper_mean"]), p_paper),
            ]
        )
    columns = ["workload", "method", "test error (%)", "against the best", "seeds", "configuration from", "paper"]
    note = "Below the test error its 95 % interval, below the paper's value p of Welch's test against it (n = 10)."
    return Section(
        "leaderboard",
        "Leaderboard",
        tables=[PageTable("Test error, best first", columns, rows)],
        folds=[Fold(_READ, [f"{BOARD_NOTE} {note}"])],
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _paper_table(table: ErrorTable) -> PageTable:
    rows = []
    for method in table.rows:
        entries = [PageEntry(method_title(method))]
        for column in table.columns:
            entry = table.entries[method, column]
            measured, paper = entry_lines(entry)
            mean = entry.cell.mean if entry.cell else math.nan
            entries.append(PageEntry(measured, _known(mean), paper, best=entry.best))
        rows.append(entries)
    return PageTable(table.title, ["method", *(c.title for c in table.columns)], rows)


def paper_section(tables: Mapping[str, ErrorTable], folded: bool) -> Section:
    """The tables of errors beside the paper's numbers: the whole one, and the shorter one in a fold.

    Args:
        folded: whether the whole one is in a fold too, as where the store has nothing of it.
    """
    fewer = "Fewer methods are tested here, so the correction for their number is smaller."
    shorter = Fold(
        "Table 1, the part of it that the paper's text shows", [fewer, *notes(tables["1"])], [_paper_table(tables["1"])]
    )
    read = Fold(f"{_READ}, and what must be said of all of it", [FOOTNOTE, *notes(tables["s6"])])
    whole = _paper_table(tables["s6"])
    if folded:
        return Section("tables", "The paper's table", folds=[Fold(whole.caption, [], [whole]), read, shorter])
    return Section("tables", "The paper's table", tables=[whole], folds=[read, shorter])


def provenance_section(cells: Mapping[CellKey, Cell]) -> Section:
    """Where the cells of the tables come from: one row per cell and command."""
    rows = []
    for cell in cells.values():
        configuration = ", ".join(f"{k} {v:.4g}" for k, v in cell.runs[0].definition.configuration.items())
        for origin in provenance_groups(cell):
            rows.append(
                [
                    PageEntry(cell.workload_title),
                    PageEntry(method_title(cell.method)),
                    PageEntry(origin.seeds),
                    number(origin.seconds, ".0f"),
                    PageEntry(origin.entry("command"), long=True),
                    PageEntry(origin.entry("commit")[:12]),
                    PageEntry(origin.hardware),
                    PageEntry(origin.entry("precision")),
                    PageEntry(origin.entry("torch")),
                    PageEntry(configuration, long=True),
                ]
            )
    columns = [
        "workload",
        "method",
        "seeds",
        "seconds",
        "command",
        "commit",
        "processor",
        "precision",
        "torch",
        "configuration",
    ]
    table = PageTable("Origin of the runs", columns, rows)
    return Section("provenance", "Provenance", folds=[Fold("What made each cell", [], [table], printed=False)])
