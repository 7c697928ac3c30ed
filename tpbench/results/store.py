"""The run store: one JSON file per finished run, published atomically and never changed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from tpbench.engine import TpbenchError
from tpbench.engine.files import atomic_write, move_aside
from tpbench.results.archives import ArchivedRuns, archives_in
from tpbench.results.runs import NewerFormat, RunRecord


def read_run(path: Path) -> RunRecord:
    """Read and check one run file; changes nothing.

    Raises:
        OSError: it cannot be read.
        NewerFormat: a newer version wrote it.
        TpbenchError: it is damaged, or holds another run than its name says.
    """
    record = RunRecord.from_json(path.read_bytes().decode("utf-8", errors="replace"), str(path))
    if record.definition.id != path.stem:
        raise TpbenchError(f"{path}: holds the run {record.definition.id}")
    return record


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
        try:
            found = ArchivedRuns.of(archives_in(self.folder))
        except Exception as error:  # a URL's file system has exceptions of its own
            raise TpbenchError(f"{self.folder}: could not be read ({_reason(error)})") from error
        for message in found.broken:
            self._note(message, "its runs count as not trained")
        return found

    @property
    def exists(self) -> bool:
        """Whether there is a store: a folder of runs, or an archive."""
        return self.runs.is_dir() or bool(self.archived.holders)

    def __contains__(self, run_id: str) -> bool:
        return self.read(run_id) is not None

    def read(self, run_id: str) -> RunRecord | None:
        """The run of that id, or None if it is not there; a damaged file counts as not there.

        Raises:
            NewerFormat: a newer version wrote its file.
            TpbenchError: it cannot be read.
        """
        with self.archived.opened() as read_archived:
            return self._read(run_id, read_archived)

    def records(self) -> Iterator[RunRecord]:
        """All readable runs, in the order of their ids; what is damaged is named in ``damaged``.

        Raises:
            NewerFormat: a newer version wrote one of them.
            TpbenchError: one cannot be read.
        """
        ids = set(self.archived.holders)
        if self.runs.is_dir():
            ids |= {path.stem for path in self.runs.glob("*.json")}
        with self.archived.opened() as read_archived:
            for run_id in sorted(ids):
                record = self._read(run_id, read_archived)
                if record:
                    yield record

    def _read(self, run_id: str, read_archived: Callable[[Path, str], RunRecord]) -> RunRecord | None:
        """The run's file, or the first whole copy in the archives below it."""
        path = self.path(run_id)
        readers = [partial(read_run, path)]
        readers += [partial(read_archived, archive, run_id) for archive in self.archived.holders.get(run_id, [])]
        found, problems = None, []
        while readers and not found:
            try:
                found = readers.pop(0)()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except NewerFormat:
                raise
            except TpbenchError as error:
                problems.append(str(error))
            except Exception as error:  # a URL's file system has exceptions of its own
                raise TpbenchError(f"{path}: could not be read ({_reason(error)})") from error
        for problem in problems:
            self._note(problem, "an archive's copy counts instead" if found else "it counts as not trained")
        return found

    def _note(self, problem: str, meaning: str) -> None:
        message = f"{problem}; {meaning} (it may still be being copied; reading it changed nothing)"
        if message not in self.damaged:
            self.damaged.append(message)

    def require_writable(self) -> None:
        """Find out before the work, not after it.

        Raises:
            TpbenchError: nothing can be written to the store.
        """
        probe = self.runs / f".probe-{secrets.token_hex(8)}"
        with atomic_write(probe) as file:
            file.write(b"probe")
        probe.unlink(missing_ok=True)

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
        try:
            aside = move_aside(path, ".damaged")
        except FileNotFoundError:
            return  # another process did it
        except Exception as error:  # a URL's file system has exceptions of its own
            raise TpbenchError(f"{problem}; it could not be set aside ({_reason(error)})") from error
        self.damaged.append(f"{problem}; it was set aside as {aside.name}, and the run published anew")


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
