"""Looking after stores: check every file, merge stores, export their runs as a table."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from tpbench.engine import TpbenchError, UsageError
from tpbench.engine.files import atomic_write, check_name
from tpbench.results.alignments import ENTRY, FOLDER, read_alignments, stored_alignments
from tpbench.results.archives import ArchiveReader, entry_name, predictions_entry, runs_of_archive
from tpbench.results.formats import csv_text, export_format
from tpbench.results.location import file_stamps, location
from tpbench.results.networks import has_network, keep_network, network_ids, read_network, replace_training
from tpbench.results.runs import ENDING, ID_PATTERN, NewerFormat, Predictions, RunRecord, digest, percent
from tpbench.results.store import RunStore, read_predictions

if TYPE_CHECKING:
    import pandas as pd

_ASIDE = re.compile(rf"({ID_PATTERN.pattern})(-\d+)?\.damaged")
"""The names of damaged runs that were set aside."""


@dataclass(frozen=True)
class StoreCheck:
    """The state of every file of a store."""

    whole: int
    """Runs that can be read."""
    predicted: int
    """Of these, runs with predictions."""
    wrong: list[str]
    """What is the matter with files and archives, a line each."""
    newer: int
    """Files among them that a newer version wrote: nothing is wrong with these."""
    conflicts: list[str]
    """Runs of which two copies have different curves, a line each."""


def check_store(store: RunStore) -> StoreCheck:
    """Read every run file and archive, and every file of predictions. Changes nothing."""
    wrong: list[str] = []
    if not store.exists:
        return StoreCheck(0, 0, list(store.archived.broken), 0, [])
    whole: dict[str, dict[str, float | None]] = {}
    predicted: set[str] = set()
    newer = 0
    conflicts = []
    with store.archived.opened() as archives:
        for run_id in store.ids():
            found = store.copies(run_id, archives)
            wrong += found.problems
            newer += found.newer
            if found.record:
                whole[run_id] = {copy.record.curves_digest: copy.record.test_error for copy in found.copies}
            if found.conflict:
                conflicts.append(found.conflict)
        for run_id, where, reader in _prediction_readers(store, archives):
            try:
                predictions = reader()
                if not predictions or run_id not in whole:
                    continue
                error, known = 1.0 - float(predictions.correct.mean()), whole[run_id].get(predictions.curves)
                if known is None:
                    wrong.append(f"{where}: comes from another training of the run; it does not count")
                elif abs(error - known) > 1e-9:
                    wrong.append(
                        f"{where}: {100 * error:.4g} % of its samples are wrong, where the run has {100 * known:.4g} %"
                    )
                else:
                    predicted.add(run_id)
            except TpbenchError as error:
                wrong.append(str(error))
                newer += isinstance(error, NewerFormat)
            except Exception as error:  # a URL's file system has exceptions of its own
                wrong.append(f"{where}: could not be read ({error})")
    wrong += store.archived.broken
    # What was set aside and trained again since is nobody's concern any more.
    aside = [
        store.runs / name
        for name in sorted(file_stamps(store.runs, ".damaged"))
        if (of := _ASIDE.fullmatch(name)) and of[1] not in whole
    ]
    wrong += [f"{path}: set aside as damaged earlier" for path in aside]
    return StoreCheck(len(whole), len(predicted), wrong, newer, conflicts)


def _prediction_readers(
    store: RunStore, archives: ArchiveReader
) -> Iterator[tuple[str, str, Callable[[], Predictions | None]]]:
    """Yield the run's id, the place and a reader of every file and archive entry of predictions."""
    for name in sorted(file_stamps(store.runs, ENDING)):
        if ID_PATTERN.fullmatch(run_id := name.removesuffix(ENDING)):
            path = store.predictions_path(run_id)
            yield run_id, str(path), partial(read_predictions, path)
    for run_id, places in sorted(store.archived.holders.items()):
        for place in places:
            name = f"{place}: {predictions_entry(run_id)}"
            yield run_id, name, partial(archives.predictions, place, run_id)


@dataclass(frozen=True)
class Packed:
    """What an archive was written from."""

    runs: int
    predictions: int
    alignments: int


def pack_store(store: RunStore, path: Path) -> Packed:
    """Write the runs of a store, their predictions and the alignment records into one compressed archive.

    The same ones make the same bytes.

    Raises:
        UsageError: there is such a file, and something of it would be lost, or it is no such archive.
        TpbenchError: the file cannot be written, or the store holds two versions of a run.
    """
    held, written = _held(path), dict[str, _Entry]()
    predictions = 0
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for record, bits in store.all_predictions(store.records()):
            run_id = record.definition.id
            if record.versions > 1:
                raise TpbenchError(
                    f"{store.folder} holds {record.versions} versions of the run {run_id}, and an archive has one of "
                    "each: 'tpbench results check' names them; delete what is wrong"
                )
            text = record.to_json()
            _add(archive, entry_name(run_id), text)
            written[entry_name(run_id)] = _Entry(digest(text), record.curves_digest, record.replaces)
            if bits:
                text = bits.to_json()
                _add(archive, predictions_entry(run_id), text)
                written[predictions_entry(run_id)] = _Entry(digest(text), bits.curves, record.replaces)
                predictions += 1
        runs = len(written) - predictions
        for name, alignment in read_alignments(store).items():
            text = alignment.to_json()
            _add(archive, f"{FOLDER}/{name}", text)
            written[f"{FOLDER}/{name}"] = _Entry(digest(text))
        # Last, as it is about what was written; nothing is replaced before this block ends.
        _require_kept(path, held, written, store)
    return Packed(runs, predictions, len(written) - runs - predictions)


@dataclass(frozen=True)
class _Entry:
    """An entry of an archive, for comparison with another of the same name."""

    content: str
    """Digest of its text."""
    curves: str = ""
    """Digest of the curves of the run that it belongs to."""
    replaces: tuple[str, ...] = ()
    """Digests of the curves of the run's earlier trainings."""

    def supersedes(self, old: _Entry) -> bool:
        """Return whether this is of a later training than another entry (:meth:`RunRecord.supersedes`)."""
        return old.curves in self.replaces and len(self.replaces) > len(old.replaces)

    def keeps(self, old: _Entry) -> bool:
        """Return whether nothing of another entry is lost: it is the same, or of an earlier training."""
        return self.content == old.content or self.supersedes(old)


def _add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    # A fixed date: what is in the archive, and nothing else, decides its bytes.
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_LZMA
    archive.writestr(entry, text)


def _held(path: Path) -> dict[str, _Entry]:
    """Return the entries of a file that is about to be replaced; none where there is no file.

    Raises:
        UsageError: it is no archive of a store, or something of it is damaged.
    """
    if not path.is_file():
        return {}
    archive = _store_of_archive(path)
    try:
        return dict(_entries(archive))
    except TpbenchError as error:
        raise UsageError(f"{error}: replacing the archive would lose it; write to another file") from error


def _require_kept(path: Path, held: Mapping[str, _Entry], written: Mapping[str, _Entry], store: RunStore) -> None:
    """Check that everything that the file held was written again.

    Raises:
        UsageError: something of it is missing, or another in the store.
    """

    def kept(name: str, entry: _Entry) -> bool:
        # Predictions of an earlier training go with it, also where the later one has none.
        run = written.get(f"{name.removesuffix(ENDING)}.json") if name.endswith(ENDING) else None
        return (name in written and written[name].keeps(entry)) or (run is not None and run.supersedes(entry))

    if lost := sum(name not in written and not kept(name, entry) for name, entry in held.items()):
        merge = f"tpbench results merge {quote(str(path))} {quote(str(store.folder))}"
        raise UsageError(
            f"{path}: replacing it would lose {lost} of its runs, predictions and alignment records, which "
            f"{store.folder} has not: merge it into that store first ({merge}), or write to another file"
        )
    if other := sum(name in written and not kept(name, entry) for name, entry in held.items()):
        raise UsageError(
            f"{path}: replacing it would lose {other} of its runs, predictions and alignment records, which are others "
            f"in {store.folder}, under the same names; write to another file"
        )


def _entries(store: RunStore) -> Iterator[tuple[str, _Entry]]:
    """Yield the entries of an archive by name.

    Raises:
        TpbenchError: something of it is damaged, or of a newer version.
    """
    with store.archived.opened() as archives:
        for run_id, (path, *_) in store.archived.holders.items():
            record = archives.run(path, run_id)
            yield entry_name(run_id), _Entry(digest(record.to_json()), record.curves_digest, record.replaces)
            if bits := archives.predictions(path, run_id):
                yield predictions_entry(run_id), _Entry(digest(bits.to_json()), bits.curves, record.replaces)
    found = stored_alignments(store)
    for problem in found.damaged.values():
        raise TpbenchError(problem[0])
    yield from ((f"{FOLDER}/{name}", _Entry(digest(record.to_json()))) for name, record in found.records.items())


def open_source(text: str) -> RunStore:
    """A store to read: a folder, a URL, or an archive of :func:`pack_store`.

    Raises:
        UsageError: the archive is none, or holds files that are neither runs nor alignment records.
    """
    folder = location(text)
    check_name(folder, "the store")
    return _store_of_archive(folder) if isinstance(folder, Path) and folder.is_file() else RunStore(folder)


def _store_of_archive(path: Path) -> RunStore:
    """A store without a folder of its own, whose only layer is the archive."""
    store = RunStore(path)
    store.archived = runs_of_archive(path, ENTRY)
    return store


@dataclass(frozen=True)
class Merged:
    """What became of the runs of a store that was merged into another."""

    new: int = 0
    known: int = 0
    """There already with the same curves."""
    predictions: int = 0
    """Predictions that were added to known runs."""
    replaced: int = 0
    """Runs of the target that a run of the source had replaced (``tpbench run --again``)."""
    conflicts: tuple[str, ...] = ()
    """Runs that have other curves in the target, a line each; the target's stay."""


def merge_stores(source: RunStore, target: RunStore) -> Merged:
    """Copy every valid run of one store into another, with its predictions.

    Raises:
        UsageError: the source is no store.
        TpbenchError: the target cannot be written.
    """
    if not source.exists and not read_alignments(source):
        broken = "".join(f"; {message}" for message in source.archived.broken)
        raise UsageError(
            f"{source.folder} is no store: it holds neither runs nor alignment records, nor an archive of them{broken}"
        )
    new = known = added = replaced = 0
    conflicts = []
    for record, bits in source.all_predictions(source.records()):
        there = target.read(record.definition.id)
        if record.versions > 1:
            conflicts.append(
                f"conflict: {source.folder} holds {record.versions} versions of the run {record.definition.id}; none "
                "was copied: 'tpbench results check' names them"
            )
        elif there is None:
            target.publish(record, bits)
            new += 1
        elif there.disagrees(record):
            conflicts.append(
                f"conflict: the run {record.definition.id} ({record.definition.workload} {record.definition.method}, "
                f"seed {record.definition.seed}) has other curves in {target.folder} than in {source.folder}; the "
                "former stays. One of them was made by other code, data or hardware: delete what is wrong "
                "('tpbench results remove')"
            )
        elif record.supersedes(there):
            replace_training(target, there, record, bits)
            replaced += 1
        else:
            known += 1
            if bits and bits.belongs(there) and target.predictions(there) is None:
                target.add_predictions(bits)
                added += 1
    return Merged(new, known, added, replaced, tuple(conflicts))


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
"""Of every export; the hyperparameters and origins of its runs follow."""


def export_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per run: definition, hyperparameters as ``hp_*``, errors in per cent at the selected epoch, origin."""
    import pandas as pd

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
                "train_error": percent(history.at_selected("train_error") if "train_error" in record.curves else None),
                "validation_error": percent(record.validation_error),
                "test_error": percent(record.test_error),
                "precision": record.precision,
                "method_source": d.method_source,
                "workload_source": d.workload_source,
                "wall_time_s": record.wall_time_s,
                "pack_members": record.pack_members,
                **{f"hp_{name}": float(value) for name, value in d.configuration.items()},
                **{f"found_{name}": _flat(value) for name, value in record.found.items()},
                **{f"from_{name}": str(value) for name, value in record.provenance.items()},
            }
        )
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=EXPORT_COLUMNS)


def _flat(value: object) -> object:
    """A list, such as that of the final seeds, as one word of a table."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def partial_searches(frame: pd.DataFrame) -> str:
    """The searches of which not every trial is among the runs of a frame: ``NAME (8 of 12)``, with commas between them.

    Trials that were stopped early have no run.

    Args:
        frame: as :func:`export_frame` gives it.
    """
    if not {"found_role", "found_sweep", "found_trials"} <= set(frame.columns):
        return ""
    found = frame[frame["found_sweep"].fillna("") != ""]
    there = found[found["found_role"] == "search"].groupby("found_sweep").size()
    trials = found.groupby("found_sweep")["found_trials"].max()
    return ", ".join(
        f"{sweep} ({there.get(sweep, 0)} of {count:.0f})"
        for sweep, count in trials.items()
        if there.get(sweep, 0) < count
    )


def export_runs(store: RunStore, path: Path, form: str) -> tuple[int, str]:
    """Write the runs of a store as one table, in one of the formats of exports.

    Returns how many, and the searches of which not every trial is among them.

    Raises:
        UsageError: there is no such format, or the file's name says another.
        TpbenchError: the file cannot be written, or the format cannot hold what runs say; an earlier file stays.
    """
    form = export_format(path, form)
    frame = export_frame(store.records())
    write_frame(frame, path, form)
    return len(frame), partial_searches(frame)


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
