"""The run store: one JSON file per finished run, published atomically and never changed."""

from __future__ import annotations

import difflib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from tpbench.engine import TpbenchError, UsageError, method_names, unknown
from tpbench.engine.errors import reason_of
from tpbench.engine.files import atomic_write, check_name, move_aside, remove_leftovers
from tpbench.results.alignments import read_alignments
from tpbench.results.archives import ArchivedRuns, ArchiveReader
from tpbench.results.location import file_stamps, location, near_folders, read_bytes
from tpbench.results.runs import (
    ENDING,
    ID_PATTERN,
    LARGEST_FILE,
    LARGEST_RUN,
    RUN_NAME,
    NewerFormat,
    Predictions,
    RunRecord,
    predictions_path,
)
from tpbench.results.summaries import KeptSummaries, summarised
from tpbench.workloads import get_workload, is_file, workload_names

# Runs that are read at once, and how many results may wait.
_AT_ONCE = 16
_PART = 128


def read_run(path: Path) -> RunRecord:
    """Read and check one run file; changes nothing.

    Raises:
        OSError: it cannot be read.
        NewerFormat: a newer version wrote it.
        TpbenchError: it is damaged, no file, too large, or holds another run than its name says.
    """
    record = RunRecord.from_json(read_bytes(path, LARGEST_RUN).decode("utf-8", errors="replace"), str(path))
    if record.definition.id != path.stem:
        raise TpbenchError(f"{path}: holds the run {record.definition.id}")
    return record


def read_predictions(path: Path) -> Predictions:
    """Read and check one file of predictions; changes nothing.

    Raises:
        OSError: it cannot be read.
        NewerFormat: a newer version wrote it.
        TpbenchError: it is damaged, or holds those of another run than its name says.
    """
    found = Predictions.from_json(read_bytes(path, LARGEST_FILE).decode("utf-8", errors="replace"), str(path))
    if found.run != path.stem:
        raise TpbenchError(f"{path}: holds the predictions of the run {found.run}")
    return found


@dataclass(frozen=True)
class RunCopy:
    """One copy of a run."""

    record: RunRecord
    place: Path
    """The file or archive that it was read from."""


@dataclass(frozen=True)
class RunCopies:
    """All copies of a run that could be read, files before archives."""

    copies: list[RunCopy]
    problems: list[str]
    """What is wrong with the others."""
    newer: int = 0
    """Of these, files that a newer version wrote."""

    @cached_property
    def _current(self) -> list[RunCopy]:
        """The copies that no other copy supersedes."""
        return [
            copy
            for copy in self.copies
            if not any(other.record.supersedes(copy.record) for other in self.copies if other is not copy)
        ]

    @cached_property
    def record(self) -> RunRecord | None:
        """The run that counts: the first of the copies that were not replaced."""
        if not self._current:
            return None
        versions = len({copy.record.curves_digest for copy in self._current})
        first = self._current[0].record
        return replace(first, versions=versions) if versions > 1 else first

    @property
    def conflict(self) -> str:
        """Names the copies that hold other curves under this id; empty if there are none."""
        if not (self.record and self.record.versions > 1):
            return ""
        first, *others = self._current
        which = [str(c.place) for c in others if c.record.curves_digest != first.record.curves_digest]
        return (
            f"conflict: the run {self.record.definition.id} has other curves in {first.place} than in "
            f"{', '.join(which)}; the first counts, and its cell is marked: delete the wrong file, "
            "or replace the archive that holds a wrong copy"
        )


@dataclass
class RunStore:
    """The runs below ``folder/runs``, and those of the archives (``*.zip``) in the folder.

    Stores of several machines merge by copying files: a run's name is the hash of its definition. Reading changes
    nothing, whatever it finds: what looks damaged may still be on its way.
    """

    folder: Path
    damaged: list[str] = field(default_factory=list)
    """What could not be read and therefore counts as not there, and what contradicts itself, as messages."""

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def path(self, run_id: str) -> Path:
        return self.runs / f"{run_id}.json"

    def predictions_path(self, run_id: str) -> Path:
        """Return where the predictions of a run lie: beside its file."""
        return predictions_path(self.runs, run_id)

    @property
    def replaced(self) -> Path:
        """Where the files of runs go that were trained again with other curves; they are not counted."""
        return self.folder / "replaced"

    @cached_property
    def archived(self) -> ArchivedRuns:
        """The archives' runs, a layer below the files; what the archives hold is looked up once."""
        return self._look_at_archives(file_stamps(self.folder, ".zip"), {})

    def _look_at_archives(self, names: Iterable[str], known: Mapping[str, Sequence[str]]) -> ArchivedRuns:
        found = ArchivedRuns.of((self.folder / name for name in sorted(names)), known)
        for message in found.broken:
            self._note(message, "what it holds counts as not there")
        return found

    @property
    def exists(self) -> bool:
        """Whether there is a store: a folder of runs, or an archive.

        Raises:
            TpbenchError: that cannot be found out.
        """
        try:
            return self.runs.is_dir() or bool(self.archived.holders)
        except TpbenchError:
            raise
        except Exception as error:  # a URL's file system has exceptions of its own
            raise TpbenchError(f"{self.folder}: could not be read ({reason_of(error)})") from error

    @property
    def folder_exists(self) -> bool:
        """Whether the store's folder is there, with runs or without.

        Raises:
            TpbenchError: that cannot be found out.
        """
        try:
            return self.folder.exists()
        except Exception as error:  # a URL's file system has exceptions of its own
            raise TpbenchError(f"{self.folder}: could not be read ({reason_of(error)})") from error

    def __contains__(self, run_id: str) -> bool:
        return self.read(run_id) is not None

    def read(self, run_id: str) -> RunRecord | None:
        """The run of that id, or None if it is not there; a damaged file counts as not there.

        Raises:
            NewerFormat: a newer version wrote its file.
            TpbenchError: it cannot be read.
        """
        with self.archived.opened() as archives:
            return self._noted(self._read(run_id, archives)).record

    def predictions(self, record: RunRecord) -> Predictions | None:
        """Return which test samples a run classifies correctly; None where that was not kept for this training.

        Raises:
            NewerFormat: a newer version wrote them.
            TpbenchError: they cannot be read. What is damaged is named in ``damaged`` and counts as not there.
        """
        with self.archived.opened() as archives:
            return self._predictions(record, archives)

    def all_predictions(self, records: Iterable[RunRecord]) -> Iterator[tuple[RunRecord, Predictions | None]]:
        """Yield runs with their predictions, as :meth:`predictions` reads them; each archive is opened once."""
        with self.archived.opened() as archives:
            for record in records:
                yield record, self._predictions(record, archives)

    def copies(self, run_id: str, archives: ArchiveReader) -> RunCopies:
        """Read every copy of a run; what is wrong with one is among the problems, and nothing is raised or noted."""
        return self._read(run_id, archives, tolerant=True)

    def _predictions(self, record: RunRecord, archives: ArchiveReader) -> Predictions | None:
        run_id = record.definition.id
        readers: list[Callable[[], Predictions | None]] = [partial(read_predictions, self.predictions_path(run_id))]
        readers += [partial(archives.predictions, archive, run_id) for archive in self.archived.holders.get(run_id, [])]
        for reader in readers:
            try:
                found = reader()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except NewerFormat:
                raise
            except TpbenchError as error:
                self._note(str(error), "the run counts as one without predictions")
                continue
            except Exception as error:  # a URL's file system has exceptions of its own
                raise TpbenchError(
                    f"{self.predictions_path(run_id)}: could not be read ({reason_of(error)})"
                ) from error
            if found and found.belongs(record):
                return found
        return None

    def ids(self) -> list[str]:
        """The ids of all runs, in order, whether they can be read or not.

        Raises:
            TpbenchError: the folder cannot be read.
        """
        return self._ids(file_stamps(self.runs, ".json"))

    def _ids(self, files: Iterable[str]) -> list[str]:
        in_files = {name.removesuffix(".json") for name in files if RUN_NAME.fullmatch(name)}
        return sorted(in_files | set(self.archived.holders))

    def records(self) -> Iterator[RunRecord]:
        """All readable runs, in the order of their ids; what is damaged is named in ``damaged``.

        Raises:
            NewerFormat: a newer version wrote one of them.
            TpbenchError: one cannot be read.
        """
        for reading in self._read_all(self.ids()):
            if reading.record:
                yield reading.record

    def summaries(self) -> list[RunRecord]:
        """The same runs as tables need them (:func:`tpbench.results.summaries.summarised`).

        Those that the user's cache knows are not read again.

        Raises:
            NewerFormat, TpbenchError: as :meth:`records`.
        """
        files, archives = file_stamps(self.runs, ".json"), file_stamps(self.folder, ".zip")
        kept = KeptSummaries.of(self.folder, files, archives)
        # Looked at now: what is learnt of an archive must belong to the stamp it has now.
        self.archived = self._look_at_archives(archives, kept.archived_ids)
        for path in self.archived.looked_at:
            kept.learn_archive(path.name, archives[path.name], self.archived.ids_of(path))
        found: dict[str, RunCopies] = {}
        unread = []
        for run_id in self._ids(files):
            copies = self._known_copies(run_id, f"{run_id}.json" in files, kept)
            if copies is None:
                unread.append(run_id)
            else:
                found[run_id] = self._noted(RunCopies(copies, []))
        for run_id, reading in zip(unread, self._read_all(unread), strict=True):
            copies = [RunCopy(summarised(copy.record), copy.place) for copy in reading.copies]
            found[run_id] = RunCopies(copies, reading.problems)
            for copy in copies:
                if copy.place.suffix == ".json":
                    kept.add_file(files.get(copy.place.name, ""), copy.record)
                else:
                    kept.add_archived(copy.place.name, copy.record)
        kept.save()
        return [found[run_id].record for run_id in sorted(found) if found[run_id].record]  # type: ignore[misc]

    def _known_copies(self, run_id: str, in_file: bool, kept: KeptSummaries) -> list[RunCopy] | None:
        """Return the summaries of all copies of a run, or None where the cache does not know one of them."""
        places = [self.path(run_id)] * in_file + self.archived.holders.get(run_id, [])
        copies = []
        for place in places:
            record = kept.file(run_id) if place.suffix == ".json" else kept.archived(place.name, run_id)
            copies += [RunCopy(record, place)] if record else []
        return copies if len(copies) == len(places) else None

    def whole(self, runs: Iterable[RunRecord]) -> Iterator[RunRecord]:
        """The runs of these summaries with their curves, as far as they are still there.

        Raises:
            NewerFormat, TpbenchError: as :meth:`records`.
        """
        for reading in self._read_all([run.definition.id for run in runs]):
            if reading.record:
                yield reading.record

    def _read_all(self, ids: Sequence[str]) -> Iterator[RunCopies]:
        """Read runs, several at once: of files far away, most of the time is spent waiting for each."""
        if not ids:
            return
        with self.archived.opened() as archives, ThreadPoolExecutor(_AT_ONCE) as pool:
            # In parts, so that not all curves are in memory.
            for first in range(0, len(ids), _PART):
                for reading in pool.map(partial(self._read, archives=archives), ids[first : first + _PART]):
                    yield self._noted(reading)

    def _read(self, run_id: str, archives: ArchiveReader, tolerant: bool = False) -> RunCopies:
        """Read the run's file and every copy in the archives below it."""
        path = self.path(run_id)
        readers = [(path, partial(read_run, path))]
        readers += [
            (archive, partial(archives.run, archive, run_id)) for archive in self.archived.holders.get(run_id, [])
        ]
        copies: list[RunCopy] = []
        problems: list[str] = []
        newer = 0
        for place, reader in readers:
            try:
                copies.append(RunCopy(reader(), place))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except NewerFormat as error:
                if tolerant:
                    newer += 1
                    problems.append(str(error))
                elif not copies:
                    raise
            except TpbenchError as error:
                problems.append(str(error))
            except Exception as error:  # a URL's file system has exceptions of its own
                if not tolerant:
                    raise TpbenchError(f"{path}: could not be read ({reason_of(error)})") from error
                problems.append(f"{place}: could not be read ({reason_of(error)})")
        return RunCopies(copies, problems, newer)

    def _noted(self, reading: RunCopies) -> RunCopies:
        for problem in reading.problems:
            self._note(problem, "another copy counts instead" if reading.copies else "it counts as not trained")
        if reading.conflict and reading.conflict not in self.damaged:
            self.damaged.append(reading.conflict)
        return reading

    def _note(self, problem: str, meaning: str) -> None:
        message = f"{problem}; {meaning} (it may still be being copied; reading it changed nothing)"
        if message not in self.damaged:
            self.damaged.append(message)

    def require_writable(self, *folders: str) -> None:
        """Find out before the work, not after it; what killed commands have half-written is removed.

        Args:
            folders: to be written to besides that of the runs.

        Raises:
            TpbenchError: nothing can be written to the store.
        """
        for folder in ("runs", *folders):
            probe = self.folder / folder / f".probe-{secrets.token_hex(8)}"
            with atomic_write(probe) as file:
                file.write(b"probe")
            probe.unlink(missing_ok=True)
        if isinstance(self.folder, Path):
            for place in (self.folder, *self.folder.glob("*/"), *self.folder.glob("sweeps/*/")):
                remove_leftovers(place)

    def publish(self, record: RunRecord, predictions: Predictions | None = None) -> Path:
        """Add a finished run and its predictions; if the run is there already, the old one stays.

        A damaged file of its name is kept aside. Predictions are added to a run that is there if its curves are equal.

        Raises:
            TpbenchError: the store cannot be written; nothing half-written stays behind.
        """
        target = self.path(record.definition.id)
        there, wrong = _look_at(target)
        if wrong and not isinstance(wrong, NewerFormat):
            self._set_aside(target, str(wrong))
        # Before the run: where the run is, its predictions are too.
        if predictions and not _is_other(record, there, wrong):
            self.add_predictions(predictions)
        with atomic_write(target, replace=False) as file:
            file.write(record.to_json().encode())
        # Another process may have written its own predictions in the meantime, of a run that came too late.
        if predictions and not _is_other(record, *_look_at(target)):
            self.add_predictions(predictions)
        return target

    def add_predictions(self, predictions: Predictions) -> None:
        """Write the predictions of a run that is there, or is published next; equal ones stay as they are.

        Raises:
            TpbenchError: the store cannot be written; nothing half-written stays behind.
        """
        path = self.predictions_path(predictions.run)
        try:
            there = read_predictions(path)
            if there == predictions and there.correct.tolist() == predictions.correct.tolist():
                return
        except NewerFormat:
            return
        except Exception:  # none is there, or a damaged one, which is replaced
            pass
        with atomic_write(path) as file:
            file.write(predictions.to_json().encode())

    def replace_run(self, old: RunRecord, record: RunRecord, predictions: Predictions | None) -> RunRecord:
        """Put another training of a run in the place of the one that the store has, whose files go to ``replaced/``.

        The store has the run at every moment. The new one says what it replaced, so that older copies elsewhere
        (archives, other stores) are no conflict.

        Args:
            old: the run as the caller knows it; what lies there by now is what is replaced.
            record: another training of it, from here or from another store.

        Returns:
            The run that was replaced.

        Raises:
            TpbenchError: the store cannot be written.
        """
        run_id = old.definition.id
        old = self.read(run_id) or old
        earlier = [*old.replaces, old.curves_digest]
        if record.supersedes(old):
            # It knows what it replaced elsewhere, and learns what was replaced here before.
            earlier = [*(digest for digest in old.replaces if digest not in record.replaces), *record.replaces]
        new = replace(record, provenance={**record.provenance, "replaces": earlier})
        old_predictions = self.predictions(old)
        # Named by the curves too: a run may be replaced more than once.
        aside = self.replaced / f"{run_id}-{old.curves_digest[:8]}.json"
        with atomic_write(aside, replace=False) as file:
            file.write(old.to_json().encode())
        if old_predictions:
            with atomic_write(aside.with_suffix(ENDING), replace=False) as file:
                file.write(old_predictions.to_json().encode())
        if predictions:
            self.add_predictions(predictions)
        with atomic_write(self.path(run_id)) as file:
            file.write(new.to_json().encode())
        return old

    def _set_aside(self, path: Path, problem: str) -> None:
        aside = set_aside(path, problem)
        if aside:
            self.damaged.append(f"{problem}; it was set aside as {aside.name}, and the run published anew")


def set_aside(path: Path, problem: str) -> Path | None:
    """Give a damaged file another name, which is returned; None if it is not there any more.

    Raises:
        TpbenchError: it could not be renamed.
    """
    try:
        return move_aside(path, ".damaged")
    except FileNotFoundError:
        return None  # another process did it
    except Exception as error:  # a URL's file system has exceptions of its own
        raise TpbenchError(f"{problem}; it could not be set aside ({reason_of(error)})") from error


def _look_at(path: Path) -> tuple[RunRecord | None, TpbenchError | None]:
    """Return the run of a file, or what is wrong with its contents.

    Neither where there is no file, or it cannot be read: writing will tell why.
    """
    try:
        return read_run(path), None
    except TpbenchError as error:
        return None, error
    except Exception:
        return None, None


def _is_other(record: RunRecord, there: RunRecord | None, wrong: TpbenchError | None) -> bool:
    """Return whether what :func:`_look_at` found is another training of the run, or may be one of a newer version."""
    return isinstance(wrong, NewerFormat) or (there is not None and there.curves_digest != record.curves_digest)


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file whole or not at all. Bytes of paths that are no text are written as escapes.

    Raises:
        TpbenchError: it cannot be written.
    """
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def append_line(path: Path, line: str) -> None:
    """Add a line to a small text file; it is on the disk when this returns.

    Object stores cannot append, so there the whole object is written again.

    Raises:
        TpbenchError: it cannot be written.
    """
    if not isinstance(path, Path):
        write_atomically(path, (path.read_text() if path.exists() else "") + line + "\n")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise TpbenchError(f"{path}: could not be written ({error.strerror or error})") from error


# Stores as a person names them, and the names of what they hold.


DEFAULT_STORE = "results"
"""The store where none is named."""


def open_store(results: str) -> RunStore:
    """The store of a folder or URL; a file of that name is a slip of the user's."""
    folder = location(results)
    check_name(folder, "--results")
    if isinstance(folder, Path) and folder.exists() and not folder.is_dir():
        raise UsageError(f"--results '{results}': this is a file, a folder is needed")
    return RunStore(folder)


def read_store(results: str) -> RunStore:
    """The store of commands that only read: where nothing is, the name is a slip.

    Raises:
        UsageError: there is no such folder; the message names what is near.
    """
    store = open_store(results)
    if not store.folder_exists:
        near = near_folders(store.folder)
        hint = f"did you mean {' or '.join(near)}?" if near else "'tpbench sweep' and 'tpbench run' make one"
        raise UsageError(f"--results '{results}': there is no such folder, so it holds no run yet; {hint}")
    return store


def stored_workload(name: str, results: str) -> str:
    """The name that a workload has in a store: it may be given as a file, or be known from what the store holds alone.

    Raises:
        UsageError: there is no such workload; the message names what is near.
    """
    if is_file(name):
        return get_workload(name).name
    known = workload_names()
    if name in known:
        return name
    store = open_store(results)
    found = {record.definition.workload for record in store.summaries()} if store.folder_exists else set()
    if name not in found and store.folder_exists:
        found |= {record.workload for record in read_alignments(store).values()}
    if name not in found:
        raise unknown("workload", name, [*known, *sorted(found)])
    return name


def stored_method(name: str, store: RunStore) -> str:
    """The name of a method that is installed, or of which a store has runs.

    Raises:
        UsageError: there is no such method; the message names what is near.
    """
    known = method_names()
    if name not in known:
        found = {record.definition.method for record in store.summaries()}
        if name not in found:
            raise unknown("method", name, {*known, *found})
    return name


# A run by its id, or by the beginning of it.


_BEGINNING = re.compile(r"[0-9a-f]{8,24}")


def find_record(store: RunStore, text: str) -> RunRecord:
    """The run that an id or at least its first 8 digits name.

    Raises:
        UsageError: there is no such run, or there are several; the message names what is near.
        TpbenchError: it cannot be read.
    """
    wanted = text.strip().lower()
    if not _BEGINNING.fullmatch(wanted):
        raise UsageError(f"run '{text}': write the 24 hex digits that name the run's file, or at least the first 8")
    if ID_PATTERN.fullmatch(wanted) and (record := store.read(wanted)):
        return record
    ids = store.ids()
    found = [run_id for run_id in ids if run_id.startswith(wanted)]
    if len(found) > 1:
        raise UsageError(f"run '{text}': {len(found)} runs begin so: {', '.join(found[:5])}")
    record = store.read(found[0]) if found else None
    if record is None:
        raise UsageError(f"{store.folder} holds no run '{text}'{_hint(wanted, ids, store)}")
    return record


def _hint(wanted: str, ids: list[str], store: RunStore) -> str:
    for message in store.damaged:
        if wanted in message:
            return f" that can be read: {message}"
    beginnings = {run_id[: len(wanted)]: run_id for run_id in ids}
    near = difflib.get_close_matches(wanted, beginnings, n=1, cutoff=0.7)
    return f": did you mean {beginnings[near[0]]}?" if near else "; 'tpbench results export FILE.csv' lists its runs"
