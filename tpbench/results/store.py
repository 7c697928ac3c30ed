"""The store of runs, alignment records and networks: files that are published atomically and never changed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from tpbench.engine import TpbenchError
from tpbench.engine.files import atomic_write, remove_leftovers
from tpbench.results.archives import ArchivedRuns, ArchiveReader
from tpbench.results.artifacts import Artifact, ArtifactKind, Copies, Copy, NewerFormat, quarantine
from tpbench.results.location import Unreadable, file_stamps, io_errors
from tpbench.results.networks import NETWORKS, TrainedNetwork, WrongNetwork, read_network
from tpbench.results.runs import PREDICTIONS, RUNS, Predictions, RunRecord, from_search, tuning_budget
from tpbench.results.summaries import SummaryCache, summarised

A = TypeVar("A", bound=Artifact)

# Files that are read at once, and how many results may wait.
_AT_ONCE = 16
_PART = 128
_MISSING = (FileNotFoundError, NotADirectoryError)


@dataclass
class RunStore:
    """The artifacts of a folder, and of the archives (``*.zip``) in it, which are a layer below its files.

    Stores of several machines merge by copying files: a run's name is the hash of its definition. Reading changes
    nothing, whatever lies there: a file that looks damaged may still be being copied.

    Example:
        ``RunStore(Path("results")).records()``
    """

    folder: Path
    damaged: list[str] = field(default_factory=list)
    """Messages about files that cannot be read and count as missing, and about copies that disagree."""

    @property
    def runs(self) -> Path:
        """The folder of runs and predictions."""
        return self.folder / RUNS.folder

    def path(self, run_id: str) -> Path:
        """Return the place of a run's file."""
        return RUNS.path(self.folder, run_id)

    def predictions_path(self, run_id: str) -> Path:
        """Return the place of a run's predictions."""
        return PREDICTIONS.path(self.folder, run_id)

    @property
    def replaced(self) -> Path:
        """The folder of runs that were trained again with other curves; they are not counted."""
        return self.folder / "replaced"

    @cached_property
    def archived(self) -> ArchivedRuns:
        """The runs of the archives, which are listed once."""
        return self._list_archives(file_stamps(self.folder, ".zip"), {})

    def _list_archives(self, files: Iterable[str], known: Mapping[str, Sequence[str]]) -> ArchivedRuns:
        archived = ArchivedRuns.of((self.folder / name for name in sorted(files)), known)
        for message in archived.broken:
            self._note(message, "what it holds counts as missing")
        return archived

    @property
    def exists(self) -> bool:
        """True if there is a folder of runs, or an archive of some.

        Raises:
            TpbenchError: the folder cannot be read.
        """
        with io_errors(self.folder):
            return self.runs.is_dir() or bool(self.archived.holders)

    @property
    def folder_exists(self) -> bool:
        """True if there is the store's folder, with runs or without.

        Raises:
            TpbenchError: it cannot be read.
        """
        with io_errors(self.folder):
            return self.folder.exists()

    # Reading

    def is_same_folder(self, other: RunStore) -> bool:
        """Return whether both are of one folder, also where a link leads to it."""
        places = [store.folder.resolve() if isinstance(store.folder, Path) else store.folder for store in (self, other)]
        return str(places[0]) == str(places[1])

    def read(self, run_id: str) -> RunRecord | None:
        """Read a run; None if it is missing. A damaged file counts as missing.

        Raises:
            NewerFormat: a newer version wrote its file.
            TpbenchError: it cannot be read.
        """
        with self.archived.opened() as archives:
            return _counted(self._noted(self._copies(RUNS, run_id, archives)))

    def read_copy(self, kind: ArtifactKind[A], name: str) -> A | None:
        """Read an artifact of any kind, as :meth:`read` reads a run."""
        with self.archived.opened() as archives:
            return self._noted(self._copies(kind, name, archives)).value

    def read_all(self, kind: ArtifactKind[A]) -> Iterator[tuple[str, A]]:
        """Yield names and values of all valid artifacts of a kind, by name; damaged ones are named in ``damaged``.

        Raises:
            NewerFormat: a newer version wrote one of them.
            TpbenchError: one, or the folder, cannot be read.
        """
        with self.archived.opened() as archives:
            names = self.names(kind, archives)
        for copies in self._read_each(kind, names):
            if copies.value:
                yield copies.name, copies.value

    def names(self, kind: ArtifactKind[A], archives: ArchiveReader) -> list[str]:
        """Return the names of all artifacts of a kind in files and archives, in order.

        Raises:
            TpbenchError: the folder, or an archive, cannot be read.
        """
        names = set(kind.names_in(self.folder))
        if kind.folder == RUNS.folder:
            names |= set(self.archived.holders)
        elif kind.archived:
            names |= {name for archive in self.archived.readable for name in archives.names(kind, archive)}
        return sorted(names)

    def copies(self, kind: ArtifactKind[A], name: str, archives: ArchiveReader) -> Copies[A]:
        """Read every copy of an artifact; problems of copies are returned, and nothing is raised or noted."""
        return self._copies(kind, name, archives, tolerant=True)

    def _copies(self, kind: ArtifactKind[A], name: str, archives: ArchiveReader, tolerant: bool = False) -> Copies[A]:
        path = kind.path(self.folder, name)
        readers: list[tuple[Callable[[], A | None], Path]] = [(partial(kind.read, path), path)]
        readers += [(partial(archives.read, kind, place, name), place) for place in self._archives_of(kind, name)]
        copies: list[Copy[A]] = []
        problems: list[str] = []
        newer = 0
        for reader, place in readers:
            try:
                with io_errors(place, passing=_MISSING):
                    value = reader()
                copies += [Copy(value, place)] if value else []
            except _MISSING:
                continue
            except NewerFormat as error:
                if tolerant:
                    newer += 1
                    problems.append(str(error))
                elif not copies:
                    raise
            except Unreadable as error:
                # Of a record or of predictions that cannot be read, the others count.
                if kind is RUNS and not tolerant:
                    raise
                problems.append(str(error))
            except TpbenchError as error:
                problems.append(str(error))
        return Copies(kind, name, copies, problems, newer)

    def _archives_of(self, kind: ArtifactKind[A], name: str) -> list[Path]:
        if not kind.archived:
            return []
        return self.archived.holders.get(name, []) if kind.folder == RUNS.folder else self.archived.readable

    def _noted(self, copies: Copies[A]) -> Copies[A]:
        missing = "it counts as not trained" if copies.kind.title == RUNS.title else "it counts as missing"
        for problem in copies.problems:
            self._note(problem, "another copy counts instead" if copies.copies else missing)
        if copies.conflict and copies.conflict not in self.damaged:
            self.damaged.append(copies.conflict)
        return copies

    def _note(self, problem: str, meaning: str) -> None:
        message = f"{problem}; {meaning} (it may still be being copied; reading it changed nothing)"
        if message not in self.damaged:
            self.damaged.append(message)

    def _read_each(self, kind: ArtifactKind[A], names: Sequence[str]) -> Iterator[Copies[A]]:
        """Read artifacts, several at once: of files far away, most of the time is spent waiting for each."""
        if not names:
            return
        with self.archived.opened() as archives, ThreadPoolExecutor(_AT_ONCE) as pool:
            # In parts, so that not all curves are in memory.
            for first in range(0, len(names), _PART):
                part = names[first : first + _PART]
                for copies in pool.map(partial(self._copies, kind, archives=archives), part):
                    yield self._noted(copies)

    # Runs

    def ids(self) -> list[str]:
        """Return the ids of all runs, in order, whether they can be read or not.

        Raises:
            TpbenchError: the folder cannot be read.
        """
        return self._ids(file_stamps(self.runs, RUNS.suffix))

    def _ids(self, files: Mapping[str, str]) -> list[str]:
        return sorted(RUNS.valid_names(files) | set(self.archived.holders))

    def records(self) -> Iterator[RunRecord]:
        """Yield all valid runs, in the order of their ids; damaged ones are named in ``damaged``.

        Raises:
            NewerFormat: a newer version wrote one of them.
            TpbenchError: one cannot be read.
        """
        yield from self._records(self.ids())

    def with_curves(self, summaries: Iterable[RunRecord]) -> Iterator[RunRecord]:
        """Yield the runs of these summaries with all their curves, as far as they are still there.

        Raises:
            NewerFormat, TpbenchError: as :meth:`records`.
        """
        yield from self._records([run.definition.id for run in summaries])

    def _records(self, ids: Sequence[str]) -> Iterator[RunRecord]:
        for copies in self._read_each(RUNS, ids):
            if record := _counted(copies):
                yield record

    def summaries(self) -> list[RunRecord]:
        """Return the same runs as tables need them (:func:`tpbench.results.summaries.summarised`).

        Those that the user's cache knows are not read again.

        Raises:
            NewerFormat, TpbenchError: as :meth:`records`.
        """
        files, archives = file_stamps(self.runs, RUNS.suffix), file_stamps(self.folder, ".zip")
        cache = SummaryCache.of(self.folder, {**files, **archives})
        # Listed now: what the cache keeps of an archive must belong to the stamp it has now.
        self.archived = self._list_archives(archives, cache.ids)
        for path in self.archived.readable:
            cache.add_ids(path.name, self.archived.ids_of(path))
        summaries: dict[str, RunRecord | None] = {}
        unread = []
        for run_id in self._ids(files):
            places = [self.path(run_id)] * (f"{run_id}.json" in files) + self.archived.holders.get(run_id, [])
            cached = [Copy(summary, place) for place in places if (summary := cache.summary(place.name, run_id))]
            if len(cached) == len(places):
                summaries[run_id] = _counted(self._noted(Copies(RUNS, run_id, cached, [])))
            else:
                unread.append(run_id)
        for copies in self._read_each(RUNS, unread):
            short = [Copy(summarised(copy.value), copy.place) for copy in copies.copies]
            summaries[copies.name] = _counted(replace(copies, copies=short))
            for copy in short:
                cache.add(copy.place.name, copy.value)
        cache.save()
        return [summary for _, summary in sorted(summaries.items()) if summary]

    def predictions(self, record: RunRecord) -> Predictions | None:
        """Read the predictions of a run; None where this training of it left none.

        Raises:
            NewerFormat: a newer version wrote them.
            TpbenchError: they cannot be read. Damaged ones are named in ``damaged`` and count as missing.
        """
        [(_, predictions)] = self.all_predictions([record])
        return predictions

    def all_predictions(self, records: Iterable[RunRecord]) -> Iterator[tuple[RunRecord, Predictions | None]]:
        """Yield runs with their predictions, as :meth:`predictions` reads them; each archive is opened once."""
        with self.archived.opened() as archives:
            for record in records:
                copies = self._copies(PREDICTIONS, record.definition.id, archives)
                found = next((copy.value for copy in copies.copies if copy.value.belongs(record)), None)
                for problem in copies.problems if found is None else ():
                    self._note(problem, "the run counts as one without predictions")
                yield record, found

    # Writing

    def require_writable(self, *folders: str) -> None:
        """Check that the store can be written before the work begins; half-written files of killed commands go.

        Args:
            folders: to be written to besides that of the runs.

        Raises:
            TpbenchError: nothing can be written to the store.
        """
        for folder in (RUNS.folder, *folders):
            probe = self.folder / folder / f".probe-{secrets.token_hex(8)}"
            with atomic_write(probe) as file:
                file.write(b"probe")
            probe.unlink(missing_ok=True)
        if isinstance(self.folder, Path):
            for place in (self.folder, *self.folder.glob("*/"), *self.folder.glob("sweeps/*/")):
                remove_leftovers(place)

    def publish(self, record: RunRecord, predictions: Predictions | None = None) -> Path:
        """Add a finished run and its predictions; if the run is there already, the old one stays.

        A damaged file of its name is quarantined. Predictions are added to a run that is there if its curves are equal.

        Raises:
            TpbenchError: the store cannot be written; nothing half-written stays behind.
        """
        path = self.path(record.definition.id)
        there, problem = _inspect(RUNS, path)
        self._quarantine_damaged(path, problem)
        # Before the run: where the run is, its predictions are too. Those of another process, of the same moment, stay.
        if predictions and not _is_other(record, there, problem):
            self.add_predictions(predictions, replace=there is not None)
        with atomic_write(path, replace=False) as file:
            file.write(RUNS.encode(record))
        # Another process may have written its own predictions in the meantime, of a run that came too late.
        if predictions and not _is_other(record, *_inspect(RUNS, path)):
            self.add_predictions(predictions)
        return path

    def publish_copy(self, kind: ArtifactKind[A], name: str, value: A) -> None:
        """Add an artifact of any kind under its name; a valid file of that name stays, a damaged one is quarantined.

        Raises:
            TpbenchError: the store cannot be written; nothing half-written stays behind.
        """
        path = kind.path(self.folder, name)
        self._quarantine_damaged(path, _inspect(kind, path)[1])
        with atomic_write(path, replace=False) as file:
            file.write(kind.encode(value))

    def _quarantine_damaged(self, path: Path, problem: TpbenchError | None) -> None:
        if problem and not isinstance(problem, NewerFormat) and (aside := quarantine(path, str(problem))):
            self.damaged.append(f"{problem}; it was set aside as {aside.name}, and published anew")

    def add_predictions(self, predictions: Predictions, *, replace: bool = True) -> None:
        """Write the predictions of a run that is there, or is published next; equal ones stay as they are.

        Args:
            predictions: to be written.
            replace: whether others may be replaced; otherwise those that are there stay.

        Raises:
            TpbenchError: the store cannot be written; nothing half-written stays behind.
        """
        path = self.predictions_path(predictions.run)
        there, problem = _inspect(PREDICTIONS, path)
        if isinstance(problem, NewerFormat):
            return
        if there and there == predictions and there.correct.tolist() == predictions.correct.tolist():
            return
        with atomic_write(path, replace=replace) as file:
            file.write(PREDICTIONS.encode(predictions))

    def replace_run(self, old: RunRecord, record: RunRecord, predictions: Predictions | None) -> None:
        """Put another training of a run in the place of the one that the store has: run, predictions and network.

        The old files go to ``replaced/``. The store has the run at every moment. The new one says what it replaced, so
        that older copies elsewhere (archives, other stores) are no conflict.

        Args:
            old: the run as the caller knows it; the training that lies there by now is replaced.
            record: another training of it, from here or from another store.
            predictions: of the new training.

        Raises:
            TpbenchError: the store cannot be read or written.
        """
        run_id = old.definition.id
        old = self.read(run_id) or old
        earlier = [*old.replaces, old.curves_digest]
        if record.supersedes(old):
            # It knows what it replaced elsewhere, and learns what was replaced here before.
            earlier = [*(digest for digest in old.replaces if digest not in record.replaces), *record.replaces]
        new = replace(record, provenance={**record.provenance, "replaces": earlier})
        there, _ = _inspect(RUNS, self.path(run_id))
        # The file may be another training, which the copy of an archive replaced.
        trainings = {each.curves_digest: each for each in (there, old) if each}
        network = None
        for digest, each in trainings.items():
            # Named by the curves too: a run may be replaced more than once.
            stem = f"{run_id}-{digest[:8]}"
            self._write_replaced(RUNS, stem, each)
            self._write_replaced(PREDICTIONS, stem, self.predictions(each))
            own = self._network(each)
            self._write_replaced(NETWORKS, stem, own)
            network = own or network
        if predictions:
            self.add_predictions(predictions)
        with atomic_write(self.path(run_id)) as file:
            file.write(RUNS.encode(new))
        if network:
            NETWORKS.path(self.folder, run_id).unlink(missing_ok=True)

    def _network(self, record: RunRecord) -> TrainedNetwork | None:
        with suppress(WrongNetwork):
            network = read_network(self, record.definition.id)
            return network if network and network.belongs(record) else None
        return None

    def _write_replaced(self, kind: ArtifactKind[A], stem: str, value: A | None) -> None:
        if value:
            with atomic_write(self.replaced / f"{stem}{kind.suffix}", replace=False) as file:
                file.write(kind.encode(value))


def _counted(copies: Copies[RunRecord]) -> RunRecord | None:
    """Return the run that counts of some copies, with the number of its versions.

    Copies with equal curves may name several origins of the configuration; the best known one counts.
    """
    if not (first := copies.value):
        return None
    equal = [copy.value for copy in copies.current if copy.value.curves_digest == first.curves_digest]
    run = min(equal, key=lambda run: (from_search(run.search_info, "search"), tuning_budget(run.search_info).rank))
    versions = len({copy.value.curves_digest for copy in copies.current})
    return replace(run, versions=versions) if versions > 1 else run


def _inspect(kind: ArtifactKind[A], path: Path) -> tuple[A | None, TpbenchError | None]:
    """Return the artifact of a file, or the damage of its contents.

    Neither where there is no file, or it cannot be read: writing will fail for the same reason.
    """
    try:
        return kind.read(path), None
    except TpbenchError as error:
        return None, error
    except Exception:
        return None, None


def _is_other(record: RunRecord, there: RunRecord | None, problem: TpbenchError | None) -> bool:
    """Return whether a file that was inspected is another training of the run, or may be one of a newer version."""
    return isinstance(problem, NewerFormat) or (there is not None and there.curves_digest != record.curves_digest)


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
    with io_errors(path, f"{path}: could not be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # The next line would be glued to half a line.
            with suppress(OSError):
                os.truncate(path, size)
            raise
