"""The run store: one JSON file per finished run, published atomically and never changed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from tpbench.engine import TpbenchError
from tpbench.engine.files import atomic_write, move_aside, remove_leftovers
from tpbench.results.archives import ArchivedRuns
from tpbench.results.location import file_stamps, read_bytes
from tpbench.results.runs import NewerFormat, RunRecord
from tpbench.results.summaries import KeptSummaries, summarised

# Runs that are read at once, and how many results may wait.
_AT_ONCE = 16
_PART = 128


def read_run(path: Path) -> RunRecord:
    """Read and check one run file; changes nothing.

    Raises:
        OSError: it cannot be read.
        NewerFormat: a newer version wrote it.
        TpbenchError: it is damaged, or holds another run than its name says.
    """
    record = RunRecord.from_json(read_bytes(path).decode("utf-8", errors="replace"), str(path))
    if record.definition.id != path.stem:
        raise TpbenchError(f"{path}: holds the run {record.definition.id}")
    return record


@dataclass(frozen=True)
class _Reading:
    """What became of reading one run."""

    record: RunRecord | None
    place: Path | None
    """The file or archive that it was read from."""
    problems: list[str]
    """What is wrong with the copies before it."""


@dataclass
class RunStore:
    """The runs below ``folder/runs``, and those of the archives (``*.zip``) in the folder.

    Stores of several machines merge by copying files: a run's name is the hash of its definition. Reading changes
    nothing, whatever it finds: what looks damaged may still be on its way.
    """

    folder: Path
    damaged: list[str] = field(default_factory=list)
    """What could not be read and therefore counts as not there, as messages."""

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def path(self, run_id: str) -> Path:
        return self.runs / f"{run_id}.json"

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
            raise TpbenchError(f"{self.folder}: could not be read ({_reason(error)})") from error

    @property
    def folder_exists(self) -> bool:
        """Whether the store's folder is there, with runs or without.

        Raises:
            TpbenchError: that cannot be found out.
        """
        try:
            return self.folder.exists()
        except Exception as error:  # a URL's file system has exceptions of its own
            raise TpbenchError(f"{self.folder}: could not be read ({_reason(error)})") from error

    def __contains__(self, run_id: str) -> bool:
        return self.read(run_id) is not None

    def read(self, run_id: str) -> RunRecord | None:
        """The run of that id, or None if it is not there; a damaged file counts as not there.

        Raises:
            NewerFormat: a newer version wrote its file.
            TpbenchError: it cannot be read.
        """
        with self.archived.opened() as read_archived:
            return self._noted(self._read(run_id, read_archived)).record

    def ids(self) -> list[str]:
        """The ids of all runs, in order, whether they can be read or not.

        Raises:
            TpbenchError: the folder cannot be read.
        """
        return self._ids(file_stamps(self.runs, ".json"))

    def _ids(self, files: Iterable[str]) -> list[str]:
        return sorted({name.removesuffix(".json") for name in files} | set(self.archived.holders))

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
        found: dict[str, RunRecord | None] = {}
        for run_id in self._ids(files):
            first, *_ = self.archived.holders.get(run_id, [self.folder])
            in_file = f"{run_id}.json" in files
            found[run_id] = kept.file(run_id) if in_file else kept.archived(first.name, run_id)
        for reading in self._read_all([run_id for run_id, known in found.items() if known is None]):
            if reading.record and reading.place:
                summary = found[reading.record.definition.id] = summarised(reading.record)
                if reading.place.suffix == ".json":
                    kept.add_file(files.get(reading.place.name, ""), summary)
                else:
                    kept.add_archived(reading.place.name, summary)
        kept.save()
        return [summary for summary in found.values() if summary]

    def whole(self, runs: Iterable[RunRecord]) -> Iterator[RunRecord]:
        """The runs of these summaries with their curves, as far as they are still there.

        Raises:
            NewerFormat, TpbenchError: as :meth:`records`.
        """
        for reading in self._read_all([run.definition.id for run in runs]):
            if reading.record:
                yield reading.record

    def _read_all(self, ids: Sequence[str]) -> Iterator[_Reading]:
        """Read runs, several at once: of files far away, most of the time is spent waiting for each."""
        if not ids:
            return
        with self.archived.opened() as read_archived, ThreadPoolExecutor(_AT_ONCE) as pool:
            # In parts, so that not all curves are in memory.
            for first in range(0, len(ids), _PART):
                part = ids[first : first + _PART]
                for reading in pool.map(partial(self._read, read_archived=read_archived), part):
                    yield self._noted(reading)

    def _read(self, run_id: str, read_archived: Callable[[Path, str], RunRecord]) -> _Reading:
        """The run's file, or the first whole copy in the archives below it."""
        path = self.path(run_id)
        readers = [(path, partial(read_run, path))]
        readers += [
            (archive, partial(read_archived, archive, run_id)) for archive in self.archived.holders.get(run_id, [])
        ]
        problems: list[str] = []
        for place, reader in readers:
            try:
                return _Reading(reader(), place, problems)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except NewerFormat:
                raise
            except TpbenchError as error:
                problems.append(str(error))
            except Exception as error:  # a URL's file system has exceptions of its own
                raise TpbenchError(f"{path}: could not be read ({_reason(error)})") from error
        return _Reading(None, None, problems)

    def _noted(self, reading: _Reading) -> _Reading:
        for problem in reading.problems:
            self._note(problem, "an archive's copy counts instead" if reading.record else "it counts as not trained")
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

    def publish(self, record: RunRecord) -> Path:
        """Add a finished run; if it is there already, the old one stays. A damaged file of its name is kept aside.

        Raises:
            TpbenchError: the store cannot be written; nothing half-written stays behind.
        """
        target = self.path(record.definition.id)
        if problem := _damage(target):
            self._set_aside(target, problem)
        with atomic_write(target, replace=False) as file:
            file.write(record.to_json().encode())
        return target

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
        raise TpbenchError(f"{problem}; it could not be set aside ({_reason(error)})") from error


def _damage(path: Path) -> str:
    """What is wrong with the contents of a run file that is there, or nothing."""
    try:
        read_run(path)
    except NewerFormat:
        return ""
    except TpbenchError as error:
        return str(error)
    except Exception:  # it is not there; or it cannot be read, and writing will tell why
        return ""
    return ""


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file whole or not at all.

    Raises:
        TpbenchError: it cannot be written.
    """
    with atomic_write(path) as file:
        file.write(text.encode())


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
