"""Comparison of two methods of a store on every workload that both were trained on (``tpbench compare``)."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping
from typing import Any

import pandas as pd

from tpbench.engine import UsageError
from tpbench.results.cells import Cell, choose_cells, compare_cells, workload_label
from tpbench.results.formats import format_mean, format_table
from tpbench.results.runs import same_budget
from tpbench.results.statistics import Comparison, corrected
from tpbench.results.store import RunStore

_BUDGETS = {True: "same", False: "differ", None: "unknown"}


COLUMNS = (
    "workload",
    "data",
    "first_mean",
    "first_std",
    "first_seeds",
    "first_diverged",
    "second_mean",
    "second_std",
    "second_seeds",
    "second_diverged",
    "shared_seeds",
    "difference",
    "test",
    "p",
    "p_holm",
    "detectable",
    "seeds_for",
    "same_epochs",
    "budgets",
    "first_budget",
    "second_budget",
    "first_marks",
    "second_marks",
    "verdict",
)
"""Columns of :func:`compare_methods`."""


def verdict(first: Cell, second: Cell, comparison: Comparison) -> str:
    """Return the verdict in words, from a comparison that is corrected for the number of workloads."""
    diverged = [f"{c.diverged} of {c.seeds} seeds of {c.method} diverged" for c in (first, second) if c.diverged]
    if diverged:
        return f"not decided: {', '.join(diverged)}"
    if not comparison.tested:
        return "too few seeds to test"
    if not comparison.shown:
        return "not told apart"
    return f"{first.method if comparison.difference < 0 else second.method} is better"


def compare_methods(
    store: RunStore, first: str, second: str, workloads: Collection[str] | None = None, detect: float | None = None
) -> pd.DataFrame:
    """Return one row per workload (and kind of data) with both methods; errors in per cent.

    ``difference`` is the first method minus the second; ``test`` says which test gave ``p``, ``p_holm`` corrects it for
    the workloads whose tests can show anything. ``detectable`` is the smallest difference that the test would have
    shown with power 0.8, ``seeds_for`` the shared seeds with which a difference of ``detect`` points would show (None
    without ``detect``).

    Args:
        workloads: only these, and corrected for their number; None: all.

    Raises:
        UsageError: both are the same method.
    """
    if first == second:
        raise UsageError(f"'{first}' stands twice: name two methods to compare")
    cells = choose_cells(store.summaries())
    pairs = {
        (name, label): (cell, cells[name, label, second])
        for (name, label, method), cell in sorted(cells.items())
        if method == first and (name, label, second) in cells and (workloads is None or name in workloads)
    }
    tests = {" ".join(key): compare_cells(*pair) for key, pair in pairs.items()}
    adjusted = corrected(tests)
    rows = [_row(*pair, tests[" ".join(key)], adjusted[" ".join(key)], detect) for key, pair in pairs.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(first: Cell, second: Cell, found: Comparison, adjusted: Comparison, detect: float | None) -> dict[str, Any]:
    return {
        "workload": first.workload,
        "data": first.data_label or "exact",
        "first_mean": first.mean,
        "first_std": first.std,
        "first_seeds": first.seeds,
        "first_diverged": first.diverged,
        "second_mean": second.mean,
        "second_std": second.std,
        "second_seeds": second.seeds,
        "second_diverged": second.diverged,
        "shared_seeds": found.seeds,
        "difference": found.difference,
        "test": found.test,
        "p": found.p,
        "p_holm": adjusted.p,
        "detectable": adjusted.detectable,
        "seeds_for": adjusted.seeds_for(detect) if detect else None,
        "same_epochs": first.epochs == second.epochs,
        "budgets": _BUDGETS[same_budget(first.budget, second.budget)],
        "first_budget": str(first.budget),
        "second_budget": str(second.budget),
        "first_marks": ", ".join(first.marks),
        "second_marks": ", ".join(second.marks),
        "verdict": verdict(first, second, adjusted),
    }


def comparison_note(first: str, second: str, *, several: bool) -> str:
    """Return the note below a comparison of one workload or of several."""
    note = (
        f"Test error (%). difference: {first} - {second}. would show: the difference that this test shows four "
        "times in five (power 0.8)."
    )
    return note + (" The verdict corrects for the number of workloads (Holm)." if several else "")


def render_comparison(frame: pd.DataFrame, first: str, second: str, detect: float | None) -> str:
    """Format the rows of :func:`compare_methods` for the terminal."""
    several = len(frame) > 1
    header = ["workload", first, second, "shared seeds", "difference", "test", "p", *(["p (Holm)"] if several else [])]
    header += ["would show", *([f"seeds for {detect:g}"] if detect else []), "verdict"]
    rows = []
    for row in frame.to_dict("records"):
        line = [
            workload_label(row),
            _side(row, "first"),
            _side(row, "second"),
            str(row["shared_seeds"]),
            _number(row["difference"], "+.2f"),
            row["test"] or "-",
            _number(row["p"], ".2g"),
            *([_number(row["p_holm"], ".2g")] if several else []),
            "none" if math.isinf(row["detectable"]) else _number(row["detectable"], ".2f"),
        ]
        if detect:
            line.append("-" if pd.isna(row["seeds_for"]) else str(int(row["seeds_for"])))
        rows.append([*line, "; ".join([row["verdict"], *_reservations(row)])])
    return format_table(
        f"{first} against {second}", header, rows, "text", comparison_note(first, second, several=several)
    )


def _side(row: Mapping[Hashable, Any], which: str) -> str:
    marks = f" [{row[f'{which}_marks']}]" if row[f"{which}_marks"] else ""
    return format_mean(row[f"{which}_mean"], row[f"{which}_std"]) + marks


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _reservations(row: Mapping[Hashable, Any]) -> list[str]:
    """Return reasons for which a pair is not compared fairly."""
    reasons = [] if row["same_epochs"] else ["trained for different numbers of epochs"]
    if row["budgets"] == _BUDGETS[False]:
        reasons.append(f"search budgets differ ({row['first_budget']}; {row['second_budget']})")
    return reasons
