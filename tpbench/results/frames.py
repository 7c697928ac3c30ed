"""Data frames of runs, curves and predictions, and files that they are exported to."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from tpbench.engine import CURVES, TpbenchError
from tpbench.engine.configuration import flatten
from tpbench.engine.files import atomic_write
from tpbench.results.formats import csv_text, export_format
from tpbench.results.runs import Predictions, RunRecord, percent
from tpbench.results.store import RunStore

EXPORT_COLUMNS = (
    "id",
    "workload",
    "data",
    "method",
    "seed",
    "epochs",
    "protocol",
    "status",
    "selected_epoch",
    "train_error",
    "validation_error",
    "test_error",
    "precision",
    "method_source",
    "workload_source",
    "wall_time_s",
    "pack_members",
)
"""Columns of every export; those of hyperparameters, search info and provenance follow."""


def export_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Return one row per run; errors in per cent at the selected epoch.

    Hyperparameters are the columns ``hp_*``, search info ``found_*`` and provenance ``from_*``. One with a number for
    each layer has the columns ``hp_lr_1``, ``hp_lr_2`` and so on.
    """
    rows = []
    for record in records:
        d, history = record.definition, record.history
        rows.append(
            {
                "id": d.id,
                "workload": d.workload,
                "data": record.data_label or "exact",
                "method": d.method,
                "seed": d.seed,
                "epochs": d.epochs,
                "protocol": d.protocol,
                "status": record.status,
                "selected_epoch": history.selected_epoch,
                "train_error": percent(history.at_selected("train_error")),
                "validation_error": percent(record.validation_error),
                "test_error": percent(record.test_error),
                "precision": record.precision,
                "method_source": d.method_source,
                "workload_source": d.workload_source,
                "wall_time_s": record.wall_time_s,
                "pack_members": record.pack_members,
                **{f"hp_{name}": value for name, value in flatten(d.configuration).items()},
                # A list, such as that of the final seeds, becomes one cell.
                **{
                    f"found_{name}": " ".join(map(str, value)) if isinstance(value, list) else value
                    for name, value in record.search_info.items()
                },
                **{f"from_{name}": str(value) for name, value in record.provenance.items()},
            }
        )
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=EXPORT_COLUMNS)
    # A run without any epoch would turn the others' into decimals.
    return frame.astype({"selected_epoch": "Int64"})


def partial_searches(frame: pd.DataFrame, supplied: Collection[str] = ()) -> str:
    """Return the searches of which not every trial is among the runs of a frame, as ``NAME (8 of 12)``, with commas.

    Trials that were stopped early have no run.

    Args:
        frame: as :func:`export_frame` gives it.
        supplied: sweeps of the configurations that come with tpbench; those without any trial here are no search of
            the user's.
    """
    if not {"found_role", "found_sweep", "found_trials"} <= set(frame.columns):
        return ""
    found = frame[frame["found_sweep"].fillna("") != ""]
    there = found[found["found_role"] == "search"].groupby("found_sweep").size()
    trials = found.groupby("found_sweep")["found_trials"].max()
    return ", ".join(
        f"{sweep} ({there.get(sweep, 0)} of {count:.0f})"
        for sweep, count in trials.items()
        if there.get(sweep, 0) < count and (sweep in there or sweep not in supplied)
    )


def export_runs(store: RunStore, path: Path, form: str, supplied: Collection[str] = ()) -> tuple[int, str]:
    """Write the runs of a store as one table, in one of the formats of exports.

    Returns how many, and the searches of which not every trial is among them, as of :func:`partial_searches`.

    Raises:
        UsageError: there is no such format, or the file's name says another.
        TpbenchError: the file cannot be written, or the format cannot hold what runs say; an earlier file stays.
    """
    form = export_format(path, form)
    frame = export_frame(store.records())
    write_frame(frame, path, form)
    return len(frame), partial_searches(frame, supplied)


def write_frame(frame: pd.DataFrame, path: Path, form: str) -> None:
    """Write a data frame in one of the formats of exports, whole or not at all.

    Raises:
        TpbenchError: the file cannot be written.
    """
    content = csv_text(frame).encode(errors="backslashreplace") if form == "csv" else _parquet(frame, path)
    with atomic_write(path) as file:
        file.write(content)


def _parquet(frame: pd.DataFrame, path: Path) -> bytes:
    """Return a frame as Parquet, whose columns have one type each, and whole numbers 64 bits.

    Raises:
        TpbenchError: it cannot hold them.
    """
    from pyarrow import ArrowException  # type: ignore[import-untyped]

    buffer = io.BytesIO()
    try:
        frame.to_parquet(buffer, index=False)
    except (ArrowException, OverflowError, UnicodeError, TypeError, ValueError) as error:
        reason = (str(error.args[0] if error.args else "").strip().splitlines() or [type(error).__name__])[0]
        raise TpbenchError(
            f"{path}: Parquet cannot hold what these runs say ({reason}); CSV can: name a file that ends in .csv"
        ) from error
    return buffer.getvalue()


CURVE_COLUMNS = ("run", "workload", "data", "method", "seed", "epoch", "curve", "value")
"""Columns of :func:`curves_frame`."""

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
"""Columns of :func:`predictions_frame`."""

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
    """Return :func:`export_frame` with types, and epochs from 1 as those of curves."""
    frame = export_frame(records).astype(_RUN_TYPES)
    return frame.assign(selected_epoch=frame["selected_epoch"] + 1)


def predictions_frame(runs: Iterable[tuple[RunRecord, Predictions | None]]) -> pd.DataFrame:
    """Return one row per run with predictions; ``attrs["without"]`` counts the others."""
    rows, without = [], 0
    for record, predictions in runs:
        if predictions is None:
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
                "test_error": percent(1.0 - float(predictions.correct.mean())),
                "correct": predictions.correct,
            }
        )
    frame = pd.DataFrame(rows, columns=PREDICTION_COLUMNS)
    frame.attrs["without"] = without
    return frame


def curves_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Return one row per run, curve and epoch (from 1); errors are fractions, as in the run's file."""
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
