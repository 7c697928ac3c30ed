"""Table S7: with which damping the updates of every hidden layer align best."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tpbench.engine import TpbenchError, method_title
from tpbench.reports.recorded import find_records, made_with, mean_of, settled_epoch
from tpbench.results.alignments import AlignmentRecord
from tpbench.results.formats import check_format, spell_table
from tpbench.results.paper import paper_dampings

DAMPING_WORKLOAD = "fashion-mnist"
"""Of Table S7."""
DAMPING_COLUMNS = ("method", "layer", "damping", "angle", "paper", "paper_angle")


def _settled_angles(record: AlignmentRecord) -> NDArray[np.float64]:
    """With GNT updates, averaged over seeds and the minibatches of the third epoch: (dampings, hidden layers)."""
    epoch = settled_epoch(record)
    rows = [k for k, step in enumerate(record.steps) if step // record.steps_per_epoch == epoch]
    if not rows:
        raise TpbenchError(
            f"{record.method} on {record.workload}: nothing was measured in epoch {epoch + 1}; use a smaller --every"
        )
    return mean_of(mean_of(record.arrays()[1][rows], 1), 0)


def choose_damping(angles: NDArray[np.float64], dampings: Sequence[float]) -> list[float]:
    """The damping of every hidden layer that aligns best (Table S7).

    Args:
        angles: with GNT updates, in degrees: (len(dampings), L-1).
        dampings: those that were tried; of equal ones the first counts.
    """
    return [dampings[int(k)] for k in np.nan_to_num(angles, nan=180.0).argmin(0)]


def chosen_dampings(record: AlignmentRecord) -> list[float]:
    """The damping of every hidden layer that aligns best in the third epoch (the last one of shorter records).

    Raises:
        TpbenchError: nothing was measured in that epoch.
    """
    return choose_damping(_settled_angles(record), record.dampings)


def _paper_dampings(record: AlignmentRecord) -> list[float] | None:
    """The paper's, where it prints one for every hidden layer of the record."""
    printed = paper_dampings(record.method)
    return printed if printed and len(printed) == len(record.loss_angles[0][0]) else None


def damping_frame(records: Sequence[AlignmentRecord]) -> pd.DataFrame:
    """A row per method and hidden layer (from 1): the chosen damping and the paper's, and at both the angle in degrees.

    Raises:
        TpbenchError: nothing was measured in the third epoch of a record.
    """
    rows = []
    for record in records:
        at = dict(zip(record.dampings, _settled_angles(record).tolist(), strict=True))
        printed = _paper_dampings(record)
        for k, damping in enumerate(chosen_dampings(record)):
            paper = printed[k] if printed else math.nan
            angle = at[paper][k] if paper in at else math.nan
            rows.append((record.method, k + 1, damping, round(at[damping][k], 2), paper, round(angle, 2)))
    return pd.DataFrame(rows, columns=list(DAMPING_COLUMNS))


def damping_table(results: str, form: str) -> str:
    """The table in one of the formats: the chosen damping per method and hidden layer, the paper's in brackets.

    Raises:
        UsageError: there is no such format.
        TpbenchError: there are no records, or one is damaged.
    """
    check_format(form)
    records = find_records(results, DAMPING_WORKLOAD)
    if form == "csv":
        return damping_frame(records).to_csv(index=False, lineterminator="\n")
    body = []
    for record in records:
        found, printed = chosen_dampings(record), _paper_dampings(record)
        beside = [f" ({p:g})" for p in printed] if printed else [""] * len(found)
        body.append([method_title(record.method), *(f"{v:g}{p}" for v, p in zip(found, beside, strict=True))])
    header = ["method", *(f"layer {k + 1}" for k in range(len(body[0]) - 1))]
    note = f"Chosen by the angles in the third epoch on {DAMPING_WORKLOAD} (B.2); records of {made_with(records)}."
    return spell_table("Table S7: best damping (the paper's in brackets)", header, body, form, note)
