"""The run store: one JSON file per finished run, published atomically and never changed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tpbench.engine import TpbenchError
from tpbench.results.runs import RunRecord


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
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            text = ""
        except OSError as error:
            raise TpbenchError(f"{path}: could not be read ({error.strerror or error})") from error
        try:
            record = RunRecord.from_json(text, str(path))
            if record.definition.id != run_id:
                raise TpbenchError(f"{path}: holds the run {record.definition.id}")
        except TpbenchError as error:
            self._set_aside(path, str(error))
            return None
        return record

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = path.with_suffix(".damaged")
        try:
            path.replace(aside)
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

    def publish(self, record: RunRecord) -> Path:
        """Add a finished run; if it is there already, the old one stays.

        Raises:
            TpbenchError: the store cannot be written; nothing half-written stays behind.
        """
        target = self.path(record.definition.id)
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            descriptor, part = tempfile.mkstemp(dir=self.runs, prefix=".", suffix=".part")
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(record.to_json())
                    file.flush()
                    os.fsync(file.fileno())
                _publish_once(part, target)
            finally:
                Path(part).unlink(missing_ok=True)
        except OSError as error:
            raise TpbenchError(f"{target}: the run could not be stored ({error.strerror or error})") from error
        return target


def _publish_once(part: str, target: Path) -> None:
    """Give a finished file its name without replacing one that is there."""
    os.chmod(part, 0o644)
    try:
        os.link(part, target)
    except FileExistsError:
        pass
    except OSError:
        # File systems without hard links: the contents are determined by the name, so replacing is harmless.
        os.replace(part, target)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file whole or not at all.

    Raises:
        TpbenchError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise TpbenchError(f"{path}: could not be written ({error.strerror or error})") from error
