"""Table S7: with which damping the updates of every hidden layer align best."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tpbench.engine import method_title
from tpbench.reports.recorded import find_records, made_with, mean_of, measured_in, settled_epoch
from tpbench.results.alignments import AlignmentRecord
from tpbench.results.formats import check_format, csv_text, format_table
from tpbench.results.paper import paper_dampings
from tpbench.results.store import RunStore

DAMPING_WORKLOAD = "fashion-mnist"
"""Of Table S7."""
DAMPING_TITLE = "Table S7: best damping (the paper's in brackets)"
DAMPING_COLUMNS = ("method", "layer", "damping", "paper", "angle", "paper_angle")


def _settled_angles(record: AlignmentRecord) -> NDArray[np.float64]:
    """With GNT updates, averaged over seeds and the minibatches of the third epoch: (dampings, hidden layers).

    Not numbers where nothing was measured in that epoch.
    """
    rows = measured_in(record, [settled_epoch(record)])
    return mean_of(mean_of(record.arrays()[1][rows], 1), 0)


def choose_damping(angles: NDArray[np.float64], dampings: Sequence[float]) -> list[float]:
    """The damping of every hidden layer that aligns best (Table S7); not a number where no angle is one.

    Args:
        angles: with GNT updates, in degrees: (len(dampings), L-1).
        dampings: those that were tried; of equal ones the first counts.
    """
    best = np.nan_to_num(angles, nan=math.inf).argmin(0)
    return [math.nan if np.isnan(angles[:, i]).all() else dampings[int(k)] for i, k in enumerate(best)]


def chosen_dampings(record: AlignmentRecord) -> list[float]:
    """The damping of every hidden layer that aligns best in the third epoch (the last one of shorter records).

    Not a number where nothing was measured in that epoch.
    """
    return choose_damping(_settled_angles(record), record.dampings)


def _paper_dampings(record: AlignmentRecord) -> list[float] | None:
    """The paper's, where it prints one for every hidden layer of the record."""
    printed = paper_dampings(record.method)
    return printed if printed and len(printed) == record.layers else None


def damping_frame(records: Sequence[AlignmentRecord]) -> pd.DataFrame:
    """A row per method and hidden layer (from 1): damping, the paper's, and the angles with them (degrees)."""
    rows = []
    for record in records:
        at = dict(zip(record.dampings, _settled_angles(record).tolist(), strict=True))
        printed = _paper_dampings(record) or [math.nan] * record.layers
        for k, (damping, paper) in enumerate(zip(chosen_dampings(record), printed, strict=True)):
            angles = (at[d][k] if d in at else math.nan for d in (damping, paper))
            rows.append((record.method, k + 1, damping, paper, *angles))
    return pd.DataFrame(rows, columns=list(DAMPING_COLUMNS))


def damping_note(records: Sequence[AlignmentRecord]) -> str:
    """What the table was chosen from."""
    return (
        f"Chosen by the angles in the third epoch (the last one of shorter records) on {DAMPING_WORKLOAD} (B.2); "
        f"records of {made_with(records)}."
    )


def damping_table(store: RunStore, form: str) -> str:
    """The table in one of the formats: the chosen damping per method and hidden layer, the paper's in brackets.

    Raises:
        UsageError: there is no such format.
        TpbenchError: there are no records.
    """
    check_format(form)
    records = find_records(store, DAMPING_WORKLOAD)
    if form == "csv":
        return csv_text(damping_frame(records).round({"angle": 2, "paper_angle": 2}))
    body = []
    for record in records:
        found, printed = chosen_dampings(record), _paper_dampings(record)
        words = ["-" if math.isnan(value) else f"{value:g}" for value in found]
        beside = [f" ({p:g})" for p in printed] if printed else [""] * len(found)
        body.append([method_title(record.method), *(word + p for word, p in zip(words, beside, strict=True))])
    header = ["method", *(f"layer {k + 1}" for k in range(records[0].layers))]
    return format_table(DAMPING_TITLE, header, body, form, damping_note(records))
