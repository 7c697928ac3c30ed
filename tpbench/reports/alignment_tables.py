"""Tables of alignment: the records they are made from, the best dampings (Table S7) and the mean angles."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tpbench.engine import TpbenchError, method_names, method_title
from tpbench.results.alignments import AlignmentRecord, read_alignments
from tpbench.results.formats import check_format, count_of, csv_text, format_table
from tpbench.results.paper import paper_dampings
from tpbench.results.store import RunStore

Setting = tuple[str, str, int]
"""Workload, kind of data (empty: exact), hidden layers: what records must share to be compared."""


def alignment_records(store: RunStore) -> dict[Setting, list[AlignmentRecord]]:
    """Return the records of installed methods by setting: of each method the longest, in the order of the methods.

    Damaged ones are named in ``store.damaged``.

    Raises:
        TpbenchError: the store cannot be read.
    """
    by_setting: dict[Setting, dict[str, AlignmentRecord]] = defaultdict(dict)
    for record in read_alignments(store).values():
        best = by_setting[record.workload, record.data_label, record.layers]
        known = best.get(record.method)
        if known is None or (record.epochs, len(record.seeds)) > (known.epochs, len(known.seeds)):
            best[record.method] = record
    names = method_names()
    chosen = {setting: [best[m] for m in names if m in best] for setting, best in by_setting.items()}
    return {setting: records for setting, records in chosen.items() if records}


def select_workload(known: Mapping[Setting, list[AlignmentRecord]], workload: str) -> list[AlignmentRecord]:
    """Return the records of a workload in the setting with most methods; an empty list where there are none."""
    candidates = [item for item in known.items() if item[0][0] == workload]
    return min(candidates, key=lambda item: (-len(item[1]), item[0]))[1] if candidates else []


def find_records(store: RunStore, workload: str) -> list[AlignmentRecord]:
    """Return the records of a workload in a store, as :func:`select_workload` chooses them.

    Raises:
        TpbenchError: there are none.
    """
    records = select_workload(alignment_records(store), workload)
    if not records:
        raise TpbenchError(
            f"{store.folder} holds no alignment record of {workload} and an installed method; make some: "
            f"tpbench align {workload} METHOD"
        )
    return records


def reference_rows(record: AlignmentRecord, *, later: bool) -> list[int]:
    """Return the rows of a record that were measured in its third epoch, or in the last one of shorter records.

    In the third epoch the activation functions are partly in their nonlinear range (section B.2).

    Args:
        record: with all its rows.
        later: whether those of the epochs that follow are returned too.
    """
    first = min(2, record.epochs - 1)
    epochs = [step // record.steps_per_epoch for step in record.steps]
    return [row for row, epoch in enumerate(epochs) if epoch == first or (later and epoch > first)]


def describe_records(records: Sequence[AlignmentRecord]) -> str:
    """Format the seeds, epochs and kind of data of some records."""
    labels = {r.data_label for r in records if r.data_label}
    parts = [_count({len(r.seeds) for r in records}, "seed"), _count({r.epochs for r in records}, "epoch")]
    return ", ".join([*parts, *labels])


def _count(numbers: set[int], what: str) -> str:
    few, many = min(numbers), max(numbers)
    return count_of(few, what) if few == many else f"{few} to {many} {what}s"


def mean_of(values: NDArray[np.float64], axes: int | tuple[int, ...]) -> NDArray[np.float64]:
    """Return the mean over some dimensions without missing numbers; not a number where all are missing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axes))


DAMPING_WORKLOAD = "fashion-mnist"
"""The workload of Table S7."""
DAMPING_TITLE = "Table S7: best damping (the paper's in brackets)"
DAMPING_COLUMNS = ("method", "layer", "damping", "paper", "angle", "paper_angle")


def _reference_angles(record: AlignmentRecord) -> NDArray[np.float64]:
    """Return the angles with GNT updates, averaged over seeds and the third epoch: (dampings, hidden layers).

    Not numbers where nothing was measured in that epoch.
    """
    rows = reference_rows(record, later=False)
    return mean_of(mean_of(record.arrays()[1][rows], 1), 0)


def choose_damping(angles: NDArray[np.float64], dampings: Sequence[float]) -> list[float]:
    """Return the damping of every hidden layer that aligns best (Table S7); not a number where no angle is one.

    Args:
        angles: with GNT updates, in degrees: (len(dampings), L-1).
        dampings: those that were tried; of equal ones the first counts.
    """
    best = np.nan_to_num(angles, nan=math.inf).argmin(0)
    return [math.nan if np.isnan(angles[:, i]).all() else dampings[int(k)] for i, k in enumerate(best)]


def best_dampings(record: AlignmentRecord) -> list[float]:
    """Return the damping of every hidden layer that aligns best in the third epoch (the last one of shorter records).

    Not a number where nothing was measured in that epoch.
    """
    return choose_damping(_reference_angles(record), record.dampings)


def _paper_dampings(record: AlignmentRecord) -> list[float] | None:
    """Return the paper's dampings, where it prints one for every hidden layer of the record."""
    printed = paper_dampings(record.method)
    return printed if printed and len(printed) == record.layers else None


def damping_frame(records: Sequence[AlignmentRecord]) -> pd.DataFrame:
    """Return a row per method and hidden layer (from 1): damping, the paper's, and the angles with them (degrees)."""
    rows = []
    for record in records:
        at = dict(zip(record.dampings, _reference_angles(record).tolist(), strict=True))
        printed = _paper_dampings(record) or [math.nan] * record.layers
        for k, (damping, paper) in enumerate(zip(best_dampings(record), printed, strict=True)):
            angles = (at[d][k] if d in at else math.nan for d in (damping, paper))
            rows.append((record.method, k + 1, damping, paper, *angles))
    return pd.DataFrame(rows, columns=list(DAMPING_COLUMNS))


def damping_note(records: Sequence[AlignmentRecord]) -> str:
    """Return the note below the table: how dampings are chosen, and from which records."""
    return (
        f"Chosen by the angles in the third epoch (the last one of shorter records) on {DAMPING_WORKLOAD} (B.2); "
        f"records of {describe_records(records)}."
    )


def damping_table(store: RunStore, form: str) -> str:
    """Format the table of dampings: the chosen damping per method and hidden layer, the paper's in brackets.

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
        printed = [f" ({damping:g})" for damping in _paper_dampings(record) or ()] or [""] * record.layers
        chosen = ["-" if math.isnan(damping) else f"{damping:g}" for damping in best_dampings(record)]
        body.append([method_title(record.method), *map(str.__add__, chosen, printed)])
    header = ["method", *(f"layer {k + 1}" for k in range(records[0].layers))]
    return format_table(DAMPING_TITLE, header, body, form, damping_note(records))


ANGLE_COLUMNS = (
    "workload",
    "data",
    "method",
    "seeds",
    "epochs",
    "layer",
    "damping",
    "loss_angle",
    "target_angle",
    "damped_target_angle",
)
ANGLE_TITLE = "Angles of the updates (degrees): with the loss gradient / with damped GNT updates"
ANGLE_NOTE = (
    "Means over minibatches and seeds from the third epoch on (in the last one of shorter records), of every hidden "
    "layer. Of several records of a method the longest counts; the damping is the layer's best, chosen as for Table S7 "
    "(Condition S3). 90: no relation. In csv also without damping (Condition 2)."
)


def angle_frame(store: RunStore) -> pd.DataFrame:
    """Return the mean angles from the third epoch on (in the last epoch of shorter records), in degrees.

    One row per workload, kind of data, method and hidden layer (from 1): with the loss gradient, with GNT updates
    (Condition 2), and with damped ones (Condition S3) of the layer's best damping.

    Raises:
        TpbenchError: the store cannot be read.
    """
    rows = [row for records in alignment_records(store).values() for record in records for row in _angle_rows(record)]
    return pd.DataFrame(rows, columns=list(ANGLE_COLUMNS))


def _angle_rows(record: AlignmentRecord) -> list[dict[str, object]]:
    rows = reference_rows(record, later=True)
    by_loss, by_target = (mean_of(values[rows], (0, 1)) for values in record.arrays())
    common = {
        "workload": record.workload,
        "data": record.data_label or "exact",
        "method": record.method,
        "seeds": len(record.seeds),
        "epochs": record.epochs,
    }
    at = dict(zip(record.dampings, by_target.tolist(), strict=True))
    return [
        {
            **common,
            "layer": layer + 1,
            "damping": damping,
            "loss_angle": float(by_loss[layer]),
            "target_angle": at[0.0][layer],
            "damped_target_angle": math.nan if math.isnan(damping) else at[damping][layer],
        }
        for layer, damping in enumerate(best_dampings(record))
    ]


def angle_table(store: RunStore, form: str) -> str:
    """Format the mean angles: a row per method, a column per hidden layer.

    Raises:
        UsageError: there is no such format.
        TpbenchError: there are no records.
    """
    check_format(form)
    frame = angle_frame(store)
    if frame.empty:
        raise TpbenchError(
            f"{store.folder} holds no alignment record of an installed method; make some: tpbench align WORKLOAD METHOD"
        )
    if form == "csv":
        return csv_text(frame.round(dict.fromkeys(ANGLE_COLUMNS[-3:], 2)))
    layers = int(frame["layer"].max())
    body = []
    for (workload, data, method, seeds, epochs), part in frame.groupby(list(ANGLE_COLUMNS[:5]), sort=False):
        angles = [
            f"{_format_angle(a)} / {_format_angle(b)}"
            for a, b in zip(part["loss_angle"], part["damped_target_angle"], strict=True)
        ]
        label = str(workload) if data == "exact" else f"{workload} ({data})"
        body.append(
            [label, method_title(str(method)), str(seeds), str(epochs), *angles, *[""] * (layers - len(angles))]
        )
    header = ["workload", "method", "seeds", "epochs", *(f"layer {k + 1}" for k in range(layers))]
    return format_table(ANGLE_TITLE, header, body, form, ANGLE_NOTE)


def _format_angle(angle: float) -> str:
    return "-" if math.isnan(angle) else f"{angle:.1f}"
