"""Looking after stores: check every file, merge stores, export their runs as a table."""

from __future__ import annotations

import lzma
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from tpbench.engine import TpbenchError, UsageError
from tpbench.engine.files import atomic_write
from tpbench.results.location import location
from tpbench.results.runs import ID_PATTERN, percent
from tpbench.results.store import RunStore, read_run

# Bytes; the longest real run files have a fiftieth of it.
_LARGEST_RUN = 4_000_000

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


def pack_store(store: RunStore, path: Path) -> int:
    """Write the whole runs of a store into one compressed archive, the same bytes for the same runs; returns how many.

    Raises:
        TpbenchError: the file cannot be written.
    """
    count = 0
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for record in store.records():
            # A fixed date: what is in the archive, and nothing else, decides its bytes.
            entry = zipfile.ZipInfo(f"runs/{record.definition.id}.json", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_LZMA
            archive.writestr(entry, record.to_json())
            count += 1
    return count


@contextmanager
def open_source(text: str) -> Iterator[RunStore]:
    """A store to read: a folder, a URL, or an archive of :func:`pack_store`.

    Raises:
        UsageError: the archive is none, or holds files that are no runs.
    """
    folder = location(text)
    if not (isinstance(folder, Path) and folder.is_file()):
        yield RunStore(folder)
        return
    with tempfile.TemporaryDirectory(prefix="tpbench-runs-") as name:
        store = RunStore(Path(name))
        store.runs.mkdir()
        try:
            with zipfile.ZipFile(folder) as archive:
                for entry in archive.infolist():
                    run_id = entry.filename.removeprefix("runs/").removesuffix(".json")
                    # Names in archives may point anywhere: only those of runs are taken.
                    if not ID_PATTERN.fullmatch(run_id) or entry.file_size > _LARGEST_RUN:
                        raise UsageError(f"{text}: holds '{entry.filename}', which is no run file")
                    store.path(run_id).write_bytes(archive.read(entry))
        except (zipfile.BadZipFile, OSError, NotImplementedError, lzma.LZMAError, EOFError) as error:
            raise UsageError(f"{text}: not a readable archive of runs ({error})") from error
        yield store


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
