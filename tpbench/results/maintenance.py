"""Looking after stores: check every file, merge stores, export their runs as a table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tpbench.engine import TpbenchError, UsageError
from tpbench.results.runs import percent
from tpbench.results.store import RunStore, read_run

EXPORT_FORMATS = ("csv", "parquet")


def check_store(store: RunStore) -> tuple[int, list[str]]:
    """Read every run file; returns how many are whole and what is wrong with the others. Changes nothing."""
    whole, wrong = 0, []
    for path in sorted(store.runs.glob("*.json")):
        try:
            read_run(path)
            whole += 1
        except TpbenchError as error:
            wrong.append(str(error))
        except Exception as error:  # a URL's file system has exceptions of its own
            wrong.append(f"{path}: could not be read ({error})")
    wrong += [f"{path}: set aside as damaged earlier" for path in sorted(store.runs.glob("*.damaged"))]
    return whole, wrong


def merge_stores(source: RunStore, target: RunStore) -> tuple[int, int]:
    """Copy every whole run of one store into another; returns how many were new and how many were there.

    Raises:
        UsageError: the source is no store.
        TpbenchError: the target cannot be written.
    """
    if not source.runs.is_dir():
        raise UsageError(f"{source.folder} is no run store: it has no folder 'runs'")
    new = known = 0
    for record in source.records():
        if record.definition.id in target:
            known += 1
        else:
            target.publish(record)
            new += 1
    return new, known


def export_frame(store: RunStore) -> pd.DataFrame:
    """One row per run: definition, hyperparameters as ``hp_*``, errors in per cent at the selected epoch, origin."""
    rows = []
    for record in store.records():
        d, history = record.definition, record.history
        rows.append(
            {
                "id": d.id, "workload": d.workload, "data": record.data_label or "exact", "method": d.method,
                "seed": d.seed, "epochs": d.epochs, "protocol": d.protocol, "status": record.status,
                "selected_epoch": history.selected_epoch,
                "train_error": percent(history.at_selected("train_error") if "train_error" in record.curves else None),
                "validation_error": percent(record.validation_error), "test_error": percent(record.test_error),
                "wall_time_s": record.wall_time_s, "pack_members": record.pack_members,
                **{f"hp_{name}": float(value) for name, value in d.configuration.items()},
                **{f"from_{name}": str(value) for name, value in record.provenance.items()},
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def export_runs(store: RunStore, path: Path, form: str) -> int:
    """Write the runs of a store as one table; returns how many.

    Raises:
        UsageError: there is no such format.
        TpbenchError: the file cannot be written.
    """
    if form not in EXPORT_FORMATS:
        raise UsageError(f"unknown format '{form}': there are {', '.join(EXPORT_FORMATS)}")
    frame = export_frame(store)
    try:
        if form == "csv":
            frame.to_csv(path, index=False, lineterminator="\n")
        else:
            frame.to_parquet(path, index=False)
    except OSError as error:
        raise TpbenchError(f"{path}: could not be written ({error.strerror or error})") from error
    return len(frame)
