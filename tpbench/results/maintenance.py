"""Looking after stores: check every file, merge stores, export their runs as a table."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from tpbench.engine import TpbenchError, UsageError
from tpbench.engine.files import atomic_write
from tpbench.results.alignments import ENTRY, FOLDER, read_alignments, stored_alignments
from tpbench.results.archives import entry_name, runs_of_archive
from tpbench.results.formats import csv_text, export_format
from tpbench.results.location import location
from tpbench.results.networks import has_network, keep_network, network_ids, read_network
from tpbench.results.runs import NewerFormat, RunRecord, digest, percent
from tpbench.results.store import RunStore, read_run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class StoreCheck:
    """What a look at every file of a store found."""

    whole: int
    """Runs that can be read."""
    wrong: list[str]
    """What is the matter with files and archives, a line each."""
    newer: int
    """Files among them that a newer version wrote: nothing is wrong with these."""


def check_store(store: RunStore) -> StoreCheck:
    """Read every run file and archive. Changes nothing."""
    whole: set[str] = set()
    wrong: list[str] = []
    newer = 0
    if not store.exists:
        return StoreCheck(0, list(store.archived.broken), 0)
    with store.archived.opened() as read_archived:
        readers = [(path.stem, partial(read_run, path)) for path in sorted(store.runs.glob("*.json"))]
        for run_id, archives in sorted(store.archived.holders.items()):
            readers += [(run_id, partial(read_archived, archive, run_id)) for archive in archives]
        for run_id, reader in readers:
            try:
                reader()
                whole.add(run_id)
            except TpbenchError as error:
                wrong.append(str(error))
                newer += isinstance(error, NewerFormat)
            except Exception as error:  # a URL's file system has exceptions of its own
                wrong.append(f"{store.path(run_id)}: could not be read ({error})")
    wrong += store.archived.broken
    # What was set aside and trained again since is nobody's concern any more.
    aside = [
        path for path in sorted(store.runs.glob("*.damaged")) if path.name.split(".")[0].split("-")[0] not in whole
    ]
    return StoreCheck(len(whole), [*wrong, *(f"{path}: set aside as damaged earlier" for path in aside)], newer)


def pack_store(store: RunStore, path: Path) -> tuple[int, int]:
    """Write the whole runs and alignment records of a store into one compressed archive; returns how many of each.

    The same ones make the same bytes.

    Raises:
        UsageError: there is such a file, and something of it would be lost, or it is no such archive.
        TpbenchError: the file cannot be written.
    """
    held, written = _held(path), dict[str, str]()
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for record in store.records():
            _add(archive, entry_name(record.definition.id), record.to_json(), written)
        runs = len(written)
        for name, alignment in read_alignments(store).items():
            _add(archive, f"{FOLDER}/{name}", alignment.to_json(), written)
        # Last, as it is about what was written; nothing is replaced before this block ends.
        _require_kept(path, held, written, store)
    return runs, len(written) - runs


def _add(archive: zipfile.ZipFile, name: str, text: str, written: dict[str, str]) -> None:
    # A fixed date: what is in the archive, and nothing else, decides its bytes.
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_LZMA
    archive.writestr(entry, text)
    written[name] = digest(text)


def _held(path: Path) -> dict[str, str]:
    """What a file that is about to be replaced holds, as :func:`_digests` says; nothing where there is none."""
    if not path.is_file():
        return {}
    archive = _store_of_archive(path)
    try:
        return dict(_digests(archive))
    except TpbenchError as error:
        raise UsageError(f"{error}: replacing the archive would lose it; write to another file") from error


def _require_kept(path: Path, held: Mapping[str, str], written: Mapping[str, str], store: RunStore) -> None:
    """All that the file held must have been written again."""
    if lost := sum(name not in written for name in held):
        merge = f"tpbench results merge {quote(str(path))} {quote(str(store.folder))}"
        raise UsageError(
            f"{path}: replacing it would lose {lost} of its runs and alignment records, which {store.folder} has not: "
            f"merge it into that store first ({merge}), or write to another file"
        )
    if other := sum(written[name] != digest for name, digest in held.items()):
        raise UsageError(
            f"{path}: replacing it would lose {other} of its runs and alignment records, which are others in "
            f"{store.folder}, under the same names; write to another file"
        )


def _digests(archive: RunStore) -> Iterator[tuple[str, str]]:
    """What an archive holds, by the names of its entries.

    Raises:
        TpbenchError: something of it is damaged, or of a newer version.
    """
    with archive.archived.opened() as read_archived:
        for run_id, (path, *_) in archive.archived.holders.items():
            yield entry_name(run_id), digest(read_archived(path, run_id).to_json())
    found = stored_alignments(archive)
    for problem in found.damaged.values():
        raise TpbenchError(problem[0])
    yield from ((f"{FOLDER}/{name}", digest(record.to_json())) for name, record in found.records.items())


def open_source(text: str) -> RunStore:
    """A store to read: a folder, a URL, or an archive of :func:`pack_store`.

    Raises:
        UsageError: the archive is none, or holds files that are neither runs nor alignment records.
    """
    folder = location(text)
    return _store_of_archive(folder) if isinstance(folder, Path) and folder.is_file() else RunStore(folder)


def _store_of_archive(path: Path) -> RunStore:
    """A store without a folder of its own, whose only layer is the archive."""
    store = RunStore(path)
    store.archived = runs_of_archive(path, ENTRY)
    return store


def merge_stores(source: RunStore, target: RunStore) -> tuple[int, int]:
    """Copy every whole run of one store into another; returns how many were new and how many were there.

    Raises:
        UsageError: the source is no store.
        TpbenchError: the target cannot be written.
    """
    if not source.exists and not read_alignments(source):
        broken = "".join(f"; {message}" for message in source.archived.broken)
        raise UsageError(
            f"{source.folder} is no store: it holds neither runs nor alignment records, nor an archive of them{broken}"
        )
    new = known = 0
    for record in source.records():
        if record.definition.id in target:
            known += 1
        else:
            target.publish(record)
            new += 1
    return new, known


def merge_networks(source: RunStore, target: RunStore) -> tuple[int, list[str]]:
    """Copy the networks of a store that has been merged into another, to the runs that they belong to.

    Returns how many were copied, and what is the matter with others, a line each.

    Raises:
        TpbenchError: the target cannot be written.
    """
    copied, problems = 0, []
    for run_id in network_ids(source):
        record = target.read(run_id)
        if record is None or has_network(target, record):
            continue
        try:
            network = read_network(source, run_id)
        except TpbenchError as error:
            problems.append(f"{error}; it was not copied")
            continue
        if network and network.belongs(record):
            keep_network(target, network)
            copied += 1
        elif network:
            problems.append(f"the network of {run_id} was not copied: the run in {target.folder} has other curves")
    return copied, problems


EXPORT_COLUMNS = (
    "id", "workload", "data", "method", "seed", "epochs", "protocol", "status", "selected_epoch", "train_error",
    "validation_error", "test_error", "precision", "method_source", "workload_source", "wall_time_s", "pack_members",
)  # fmt: skip
"""Of every export; the hyperparameters and origins of its runs follow."""


def export_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per run: definition, hyperparameters as ``hp_*``, errors in per cent at the selected epoch, origin."""
    import pandas as pd

    rows = []
    for record in records:
        d, history = record.definition, record.history
        rows.append(
            {
                "id": d.id, "workload": d.workload, "data": record.data_label or "exact", "method": d.method,
                "seed": d.seed, "epochs": d.epochs, "protocol": d.protocol, "status": record.status,
                "selected_epoch": history.selected_epoch,
                "train_error": percent(history.at_selected("train_error") if "train_error" in record.curves else None),
                "validation_error": percent(record.validation_error), "test_error": percent(record.test_error),
                "precision": record.precision, "method_source": d.method_source,
                "workload_source": d.workload_source,
                "wall_time_s": record.wall_time_s, "pack_members": record.pack_members,
                **{f"hp_{name}": float(value) for name, value in d.configuration.items()},
                **{f"found_{name}": _flat(value) for name, value in record.found.items()},
                **{f"from_{name}": str(value) for name, value in record.provenance.items()},
            }
        )  # fmt: skip
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=EXPORT_COLUMNS)


def _flat(value: object) -> object:
    """A list, such as that of the final seeds, as one word of a table."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def export_runs(store: RunStore, path: Path, form: str) -> int:
    """Write the runs of a store as one table, in one of the formats of exports; returns how many.

    Raises:
        UsageError: there is no such format, or the file's name says another.
        TpbenchError: the file cannot be written, or the format cannot hold what runs say; an earlier file stays.
    """
    form = export_format(path, form)
    frame = export_frame(store.records())
    with atomic_write(path) as file:
        file.write(csv_text(frame).encode() if form == "csv" else _parquet(frame, path))
    return len(frame)


def _parquet(frame: pd.DataFrame, path: Path) -> bytes:
    """Its columns have one type each, and whole numbers 64 bits."""
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
