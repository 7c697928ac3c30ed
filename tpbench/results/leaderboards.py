"""The leaderboard: every cell of a store, best first."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tpbench.engine import method_title
from tpbench.results.cells import Cell, CellKey, choose_cells, workload_words
from tpbench.results.formats import csv_number, csv_text, spell, spell_table
from tpbench.results.paper import PAPER_WORKLOADS, paper_cell
from tpbench.results.standings import ENOUGH_WORDS, Standing, all_standings
from tpbench.results.statistics import compare_with_printed
from tpbench.results.store import RunStore, write_atomically
from tpbench.workloads import WORKLOADS

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
"""Of ``leaderboard.csv``."""


def leaderboard(store: RunStore) -> pd.DataFrame:
    """Every cell of a store, best first within its workload; errors in per cent.

    ``ci_low`` and ``ci_high`` are the interval of the mean; ``p_best`` is p of the test against the best method of the
    workload (:func:`tpbench.results.standings.best_of`) after Holm's correction, ``p_paper`` that of Welch's test
    against the paper's cell, ``budget`` how the configuration was found. Beyond :data:`COLUMNS`, ``verdict`` and
    ``against_best`` say in a mark and in words what the test against the best said, ``test`` and ``detectable`` which
    it was and what it would have shown, and ``unequal`` whether the best's configuration was found at another cost.

    Cells without diverged seeds come first, then those with, then those of fewer than three finished seeds.
    """
    return leaderboard_of(choose_cells(store.summaries()))


def leaderboard_of(cells: Mapping[CellKey, Cell]) -> pd.DataFrame:
    """:func:`leaderboard` of a store whose cells were chosen already."""
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
    """A leaderboard as the text of ``leaderboard.csv``."""
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


def error_words(row: Mapping[Hashable, Any]) -> str:
    """The test error of a leaderboard's row with its marks."""
    verdict = f" {row['verdict']}" if row["verdict"] else ""
    unequal = " #" if row["unequal"] else ""
    marks = f" [{row['marks']}]" if row["marks"] else ""
    return spell(row["test_error_mean"], row["test_error_std"]) + verdict + unequal + marks


def interval_words(row: Mapping[Hashable, Any]) -> str:
    """The interval of a leaderboard's row."""
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
    """A leaderboard in one of :data:`tpbench.results.formats.FORMATS`.

    Raises:
        UsageError: there is no such format.
    """
    if form == "csv":
        return board_csv(frame)
    rows = [
        [
            workload_words(row),
            method_title(row["method"]),
            str(row["seeds"]),
            str(row["epochs"]),
            error_words(row),
            interval_words(row),
            row["against_best"],
            row["budget"],
            spell(row["paper_mean"], row["paper_std"]),
        ]
        for row in frame.to_dict("records")
    ]
    return spell_table("Leaderboard: test error (%), best first", _SHOWN, rows, form, BOARD_NOTE)
