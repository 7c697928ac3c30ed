"""The run store: one JSON file per finished run, published atomically and never changed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tpbench.engine import TpbenchError
from tpbench.engine.files import atomic_write
from tpbench.results.runs import RunRecord


def read_run(path: Path) -> RunRecord:
    """Read and check one run file; changes nothing.

    Raises:
        OSError: it cannot be read.
        TpbenchError: it is damaged, or holds another run than its name says.
    """
    record = RunRecord.from_json(path.read_bytes().decode("utf-8", errors="replace"), str(path))
    if record.definition.id != path.stem:
        raise TpbenchError(f"{path}: holds the run {record.definition.id}")
    return record


@dataclass
class RunStore:
    """The runs below ``folder/runs``.

    Stores of several machines merge by copying files: a run's name is the hash of its definition.
    """

    folder: Path
    damaged: list[str] = field(default_factory=list)
    """What :meth:`records` could not read, as messages."""

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def path(self, run_id: str) -> Path:
        return self.runs / f"{run_id}.json"

    def __contains__(self, run_id: str) -> bool:
        return self.read(run_id) is not None

    def read(self, run_id: str) -> RunRecord | None:
        """The run of that id, or None if it is not there; a damaged file is set aside and counts as not there."""
        path = self.path(run_id)
        try:
            return read_run(path)
        except FileNotFoundError:
            return None
        except TpbenchError as error:
            self._set_aside(path, str(error))
            return None
        except Exception as error:  # a URL's file system has exceptions of its own
            reason = getattr(error, "strerror", None) or error
            raise TpbenchError(f"{path}: could not be read ({reason})") from error

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = path.with_suffix(".damaged")
        try:
            path.rename(aside)
            self.damaged.append(f"{reason}; it was set aside as {aside.name} and counts as not trained")
        except OSError:
            self.damaged.append(f"{reason}; it counts as not trained")

    def records(self) -> Iterator[RunRecord]:
        """All readable runs, in the order of their ids; what is damaged is set aside and named in ``damaged``."""
        if not self.runs.is_dir():
            return
        for path in sorted(self.runs.glob("*.json")):
            record = self.read(path.stem)
            if record:
                yield record

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
        """Add a finished run; if it is there already, the old one stays.

        Raises:
            TpbenchError: the store cannot be written; nothing half-written stays behind.
        """
        target = self.path(record.definition.id)
        with atomic_write(target, replace=False) as file:
            file.write(record.to_json().encode())
        return target


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
