"""What a store holds as data frames."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from tpbench.engine import CURVES
from tpbench.results.maintenance import export_frame
from tpbench.results.runs import Predictions, RunRecord, percent

CURVE_COLUMNS = ("run", "workload", "data", "method", "seed", "epoch", "curve", "value")
"""Of :func:`curves_frame`."""

PREDICTION_COLUMNS = (
    "id",
    "workload",
    "data",
    "method",
    "seed",
    "epochs",
    "fingerprint",
    "selected_epoch",
    "test_error",
    "correct",
)
"""Of :func:`predictions_frame`."""

_RUN_TYPES = {
    "seed": "int64",
    "epochs": "int64",
    "protocol": "int64",
    "pack_members": "int64",
    "selected_epoch": "Int64",
    "train_error": "float64",
    "validation_error": "float64",
    "test_error": "float64",
    "wall_time_s": "float64",
}


def runs_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """:func:`tpbench.results.maintenance.export_frame` with types, and epochs from 1 as those of curves."""
    frame = export_frame(records).astype(_RUN_TYPES)
    return frame.assign(selected_epoch=frame["selected_epoch"] + 1)


def predictions_frame(runs: Iterable[tuple[RunRecord, Predictions | None]]) -> pd.DataFrame:
    """Return one row per run with predictions; ``attrs["without"]`` counts the others."""
    rows, without = [], 0
    for record, found in runs:
        if found is None:
            without += 1
            continue
        d = record.definition
        rows.append(
            {
                "id": d.id,
                "workload": d.workload,
                "data": record.data_label or "exact",
                "method": d.method,
                "seed": d.seed,
                "epochs": d.epochs,
                "fingerprint": d.fingerprint,
                "selected_epoch": (record.history.selected_epoch or 0) + 1,
                "test_error": percent(1.0 - float(found.correct.mean())),
                "correct": found.correct,
            }
        )
    frame = pd.DataFrame(rows, columns=PREDICTION_COLUMNS)
    frame.attrs["without"] = without
    return frame


def curves_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per run, curve and epoch (from 1): losses and errors as the run's file has them, errors as fractions."""
    heads, parts = [], []
    for record in records:
        d = record.definition
        for curve in CURVES:
            if values := record.curves.get(curve):
                heads.append((d.id, d.workload, record.data_label or "exact", d.method, d.seed, curve))
                parts.append(np.asarray(values, dtype=np.float64))
    frame = pd.DataFrame(heads, columns=["run", "workload", "data", "method", "seed", "curve"])
    lengths = [len(part) for part in parts]
    frame = frame.loc[frame.index.repeat(lengths)].reset_index(drop=True)
    frame["epoch"] = np.concatenate([np.arange(1, length + 1) for length in lengths]) if parts else []
    frame["value"] = np.concatenate(parts) if parts else []
    return frame[list(CURVE_COLUMNS)].astype({"seed": "int64", "epoch": "int64", "value": "float64"})
