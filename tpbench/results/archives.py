"""Archives of what stores hold, as ``tpbench results pack`` writes them: read without unpacking, never changed."""

from __future__ import annotations

import lzma
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, cast

from tpbench.engine import TpbenchError, UsageError
from tpbench.results.predictions import ENDING, LARGEST_FILE, Predictions
from tpbench.results.runs import ID_PATTERN, RunRecord

_ENTRY = re.compile(rf"runs/({ID_PATTERN.pattern})\.json")
_PREDICTIONS = re.compile(rf"runs/({ID_PATTERN.pattern}){re.escape(ENDING)}")
# Bytes; the longest real run files have a fiftieth of it.
_LARGEST_RUN = 4_000_000


def entry_name(run_id: str) -> str:
    """The name of a run's file inside an archive."""
    return f"runs/{run_id}.json"


def predictions_entry(run_id: str) -> str:
    """Return the name of a run's predictions inside an archive."""
    return f"runs/{run_id}{ENDING}"


@dataclass
class ArchivedRuns:
    """The runs of some archives as one layer, of which only the lists of contents are held in memory."""

    holders: dict[str, list[Path]] = field(default_factory=dict)
    """The archives that hold a run, by its id, the first by name first."""
    broken: list[str] = field(default_factory=list)
    """Archives that cannot be read, as messages."""
    looked_at: list[Path] = field(default_factory=list)
    """Those that could be."""

    @classmethod
    def of(cls, paths: Iterable[Path], known: Mapping[str, Sequence[str]] = MappingProxyType({})) -> ArchivedRuns:
        """Look at archives. What is in them beside runs, and archives of other things, are left alone.

        Args:
            paths: the archives.
            known: by an archive's file name the ids of its runs, where it need not be opened to know them.
        """
        found = cls()
        for path in paths:
            try:
                ids = known[path.name] if path.name in known else _ids(path)
            except TpbenchError as error:
                found.broken.append(str(error))
                continue
            found.looked_at.append(path)
            for run_id in ids:
                found.holders.setdefault(run_id, []).append(path)
        return found

    def ids_of(self, path: Path) -> list[str]:
        """The ids of the runs in one of the archives."""
        return [run_id for run_id, paths in self.holders.items() if path in paths]

    @contextmanager
    def opened(self) -> Iterator[ArchiveReader]:
        """Open archives for reading: each once, when something of it is first asked for."""
        with ExitStack() as stack:
            yield ArchiveReader(stack)


class ArchiveReader:
    """Reads entries of archives, in any thread; made by :meth:`ArchivedRuns.opened`."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self._zips, self._opening = stack, dict[Path, zipfile.ZipFile](), Lock()

    def run(self, path: Path, run_id: str) -> RunRecord:
        """Read the run of that id.

        Raises:
            NewerFormat: a newer version wrote it.
            TpbenchError: the entry is damaged; the message names both.
        """
        name = entry_name(run_id)
        record = RunRecord.from_json(self._text(path, name, _LARGEST_RUN), f"{path}: {name}")
        if record.definition.id != run_id:
            raise TpbenchError(f"{path}: {name}: holds the run {record.definition.id}")
        return record

    def predictions(self, path: Path, run_id: str) -> Predictions | None:
        """Read the predictions of that run; None where the archive holds none.

        Raises:
            NewerFormat, TpbenchError: as :meth:`run`.
        """
        name = predictions_entry(run_id)
        with _readable(path):
            if name not in self._open(path).NameToInfo:
                return None
        found = Predictions.from_json(self._text(path, name, LARGEST_FILE), f"{path}: {name}")
        if found.run != run_id:
            raise TpbenchError(f"{path}: {name}: holds the predictions of the run {found.run}")
        return found

    def _text(self, path: Path, name: str, largest: int) -> str:
        with _readable(path):
            return _entry_text(self._open(path), path, name, largest)

    def _open(self, path: Path) -> zipfile.ZipFile:
        with self._opening:
            if path not in self._zips:
                self._zips[path] = self._stack.enter_context(_open(path))
            return self._zips[path]


def runs_of_archive(path: Path, others: re.Pattern[str]) -> ArchivedRuns:
    """The runs of an archive that holds nothing else, but entries of such names.

    Raises:
        UsageError: it cannot be read, or holds other files.
    """
    try:
        names = _names(path)
    except TpbenchError as error:
        raise UsageError(str(error)) from error
    for name in names:
        if not (_ENTRY.fullmatch(name) or _PREDICTIONS.fullmatch(name) or others.fullmatch(name)):
            raise UsageError(f"{path}: holds '{name}', which is neither a run nor an alignment record")
    return ArchivedRuns.of([path])


def _ids(path: Path) -> list[str]:
    """The ids of the runs in an archive, each once."""
    return list(dict.fromkeys(entry.group(1) for name in _names(path) if (entry := _ENTRY.fullmatch(name))))


def _names(path: Path) -> list[str]:
    with _readable(path), _open(path) as archive:
        return archive.namelist()


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip at a path or URL; of the latter, only the parts that are asked for are fetched."""
    with path.open("rb") as file, zipfile.ZipFile(cast(Any, file)) as archive:
        yield archive


def archived_texts(
    path: Path, names: re.Pattern[str], largest: int
) -> Iterator[tuple[str, str | TpbenchError]]:  # fmt: skip
    """The entries of an archive that have such names, of at most so many bytes each, or why one cannot be read.

    Raises:
        TpbenchError: it is no archive, or damaged.
    """
    with _readable(path), _open(path) as archive:
        for name in filter(names.fullmatch, dict.fromkeys(archive.namelist())):
            try:
                with _readable(path):
                    text: str | TpbenchError = _entry_text(archive, path, name, largest)
            except TpbenchError as error:
                text = error
            yield name, text


def _entry_text(archive: zipfile.ZipFile, path: Path, name: str, largest: int) -> str:
    entry = archive.getinfo(name)
    if entry.file_size > largest:
        raise TpbenchError(f"{path}: {name}: larger than such a file can be")
    try:
        return archive.read(entry).decode("utf-8", errors="replace")
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise TpbenchError(f"{path}: {name}: damaged ({error})") from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except TpbenchError:
        raise
    except Exception as error:  # zipfile has many for a damaged file, and a URL's file system its own
        raise TpbenchError(f"{path}: not a readable archive ({error})") from error
