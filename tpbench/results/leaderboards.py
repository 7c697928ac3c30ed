"""The leaderboard: every cell of a store, best first."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table as RichTable

from tpbench.engine import method_title
from tpbench.results.cells import Cell, choose_cells, labelled
from tpbench.results.paper import paper_cell
from tpbench.results.rendering import draw, spell
from tpbench.results.statistics import LEVEL, against_best, bootstrap_interval, compare_with_printed
from tpbench.results.store import RunStore, write_atomically
from tpbench.results.tables import PAPER_WORKLOADS
from tpbench.workloads import WORKLOADS


def leaderboard(store: RunStore) -> pd.DataFrame:
    """Every cell of a store, best first within its workload; errors in per cent.

    ``ci_low`` and ``ci_high`` are the bootstrap interval of the mean; ``p_best`` is the Holm-adjusted p of the paired
    test against the best method of the workload, ``p_paper`` that of Welch's test against the paper's cell.
    """
    rows = []
    cells = list(choose_cells(store.records()).values())
    p_best = _p_best(cells)
    for cell in cells:
        low, high = bootstrap_interval(cell.errors())
        printed = paper_cell(cell.workload, cell.method)
        paper = printed or (math.nan, math.nan)
        rows.append(
            {
                "workload": cell.workload, "data": cell.data_label or "exact", "method": cell.method,
                "seeds": cell.seeds, "epochs": cell.epochs,
                "test_error_mean": cell.mean, "test_error_std": cell.std,
                "ci_low": low, "ci_high": high, "p_best": p_best.get(_key(cell), math.nan),
                "validation_error_mean": float(cell.errors("validation_error").mean()),
                "diverged": cell.diverged, "paper_mean": paper[0], "paper_std": paper[1],
                "p_paper": compare_with_printed(cell.errors(), printed) if printed else math.nan,
            }
        )  # fmt: skip
    columns = [
        "workload", "data", "method", "seeds", "epochs", "test_error_mean", "test_error_std", "ci_low", "ci_high",
        "p_best", "validation_error_mean", "diverged", "paper_mean", "paper_std", "p_paper",
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    order = {name: n for n, name in enumerate([*PAPER_WORKLOADS, *WORKLOADS])}
    frame["order"] = frame["workload"].map(lambda name: order.get(name, len(order)))
    frame = frame.sort_values(["order", "workload", "data", "test_error_mean", "method"], na_position="last")
    return frame.drop(columns="order").reset_index(drop=True)


def _key(cell: Cell) -> tuple[str, str, str]:
    return cell.workload, cell.data_label, cell.method


def _p_best(cells: Sequence[Cell]) -> dict[tuple[str, str, str], float]:
    """Holm-adjusted p of every cell against the best of its workload, on the same data."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if not math.isnan(cell.mean):
            groups[cell.workload, cell.data_label].append(cell)
    found: dict[tuple[str, str, str], float] = {}
    for (workload, label), group in groups.items():
        best = min(group, key=lambda cell: (cell.mean, cell.method)).method
        p = against_best({cell.method: cell.errors() for cell in group}, best)
        found |= {(workload, label, method): value for method, value in p.items()}
    return found


def write_leaderboard(board: pd.DataFrame, store: RunStore) -> Path:
    """Write ``leaderboard.csv`` into a store's folder; returns its path."""
    path = store.folder / "leaderboard.csv"
    write_atomically(path, board.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    return path


BOARD_NOTE = (
    "=: statistically tied with the best (paired t-test over shared seeds, Holm-corrected, p >= 0.05). "
    "Interval: bootstrap (BCa) of the mean."
)


def workload_words(row: Mapping[Hashable, Any]) -> str:
    """The workload of a row of a leaderboard or comparison, and what kind of data copy it was trained on."""
    return labelled(row["workload"], "" if row["data"] == "exact" else row["data"])


def error_words(row: Mapping[Hashable, Any]) -> str:
    """The test error of a leaderboard's row, marked where it is tied with the best."""
    return spell(row["test_error_mean"], row["test_error_std"]) + (" =" if row["p_best"] >= LEVEL else "")


def interval_words(row: Mapping[Hashable, Any]) -> str:
    """The bootstrap interval of a leaderboard's row."""
    return "-" if math.isnan(row["ci_low"]) else f"{row['ci_low']:.2f} to {row['ci_high']:.2f}"


def render_leaderboard(frame: pd.DataFrame) -> str:
    """The leaderboard for the terminal."""
    drawn = RichTable(title="Leaderboard: test error (%), best first", caption=BOARD_NOTE, caption_justify="left")
    for name in ("workload", "method", "seeds", "epochs", "test error", "95 % interval", "paper"):
        drawn.add_column(name)
    for row in frame.to_dict("records"):
        diverged = f" ({row['diverged']} diverged)" if row["diverged"] else ""
        drawn.add_row(
            workload_words(row), method_title(row["method"]), str(row["seeds"]), str(row["epochs"]),
            error_words(row) + diverged, interval_words(row), spell(row["paper_mean"], row["paper_std"]),
        )  # fmt: skip
    return draw(drawn)
