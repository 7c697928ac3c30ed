"""``tpbench table loss``: the training loss at the end of training, methods x workloads."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from tpbench.engine import TpbenchError, method_title
from tpbench.results.cells import Cell, choose_cells
from tpbench.results.formats import check_format, csv_text, mean_and_deviation, spell_table
from tpbench.results.paper import table_methods
from tpbench.results.store import RunStore
from tpbench.results.tables import columns_of

Row = Mapping[Hashable, Any]

TITLE = "Training loss of the last epoch"

NOTE = (
    "Mean and sample standard deviation over seeds of the training loss of the last epoch (mean over its minibatches "
    "as they were trained); diverged seeds do not enter it. [n seeds], [n epochs], [n diverged]: departs from the "
    "protocol."
)


def final_losses(store: RunStore, cell: Cell) -> list[float]:
    """The training loss of the last epoch of each run of a cell that did not diverge, by seed."""
    curves = [run.curves.get("train_loss") for run in store.whole(cell.runs) if not run.diverged]
    return [curve[-1] for curve in curves if curve]


def loss_rows(store: RunStore) -> pd.DataFrame:
    """One row per cell of a store, in the order of Table S6."""
    order = table_methods("s6")
    rows = []
    for cell in choose_cells(store.summaries()).values():
        losses = final_losses(store, cell)
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
    frame = pd.DataFrame(rows, columns=[*_COLUMNS, "marks"])
    place = {method: number for number, method in enumerate(order)}
    frame["place"] = frame["method"].map(lambda method: place.get(method, len(order)))
    return frame.sort_values(["place", "method", "workload", "data"]).drop(columns="place").reset_index(drop=True)


_COLUMNS = ("workload", "data", "method", "seeds", "epochs", "diverged", "train_loss_mean", "train_loss_std")


def loss_table(store: RunStore, form: str) -> str:
    """The table in one of the formats.

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
    columns = columns_of({(workload, label) for _, workload, label in found})
    rows = [
        [method_title(method), *(_entry(found.get((method, c.workload, c.data_label))) for c in columns)]
        for method in dict.fromkeys(method for method, _, _ in found)
    ]
    return spell_table(TITLE, ["method", *(c.title for c in columns)], rows, form, NOTE)


def _label(row: Row) -> str:
    return "" if row["data"] == "exact" else str(row["data"])


def _entry(row: Row | None) -> str:
    """``0.0123 ± 0.0011``: losses span orders of magnitude, so three digits that count."""
    if row is None:
        return "missing"
    mean, deviation = row["train_loss_mean"], row["train_loss_std"]
    words = "-" if math.isnan(mean) else f"{mean:.3g}" if math.isnan(deviation) else f"{mean:.3g} ± {deviation:.2g}"
    return words + (f" [{row['marks']}]" if row["marks"] else "")
