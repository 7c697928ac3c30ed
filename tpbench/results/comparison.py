"""``tpbench compare``: two methods of a store, paired by seed, on every workload that both were trained on."""

from __future__ import annotations

import math

import pandas as pd

from tpbench.results.cells import choose_cells
from tpbench.results.statistics import LEVEL, compare_paired
from tpbench.results.store import RunStore


def verdict(difference: float, p: float, first: str, second: str) -> str:
    """One line for a person."""
    if math.isnan(p):
        return "too few shared seeds to tell"
    if p >= LEVEL:
        return "no difference shown"
    return f"{first if difference < 0 else second} is better"


def compare_methods(store: RunStore, first: str, second: str, workload: str | None = None) -> pd.DataFrame:
    """One row per workload (and kind of data) with both methods; errors in per cent.

    ``difference`` is the first method minus the second over shared seeds, ``p`` that of the paired t-test, and
    ``seeds_needed`` how many seeds would show a difference of this size (power 0.8, two-sided 5 %).
    """
    cells = choose_cells(store.records())
    rows = []
    for (name, label, method), cell in sorted(cells.items()):
        other = cells.get((name, label, second))
        if method != first or other is None or (workload and name != workload):
            continue
        found = compare_paired(cell.errors(), other.errors())
        rows.append(
            {
                "workload": name, "data": label or "exact", "first_mean": cell.mean, "first_std": cell.std,
                "second_mean": other.mean, "second_std": other.std, "shared_seeds": found.seeds,
                "difference": found.difference, "p": found.p, "seeds_needed": found.seeds_needed,
                "same_epochs": cell.epochs == other.epochs,
                "verdict": verdict(found.difference, found.p, first, second),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
