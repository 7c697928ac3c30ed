"""Archives of what stores hold, as ``tpbench results pack`` writes them: read without unpacking, never changed."""

from __future__ import annotations

import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import IO, BinaryIO, cast

from tpbench.engine import TpbenchError, UsageError
from tpbench.results.location import open_file
from tpbench.results.runs import ENDING, ID_PATTERN, LARGEST_FILE, LARGEST_RUN, Predictions, RunRecord

_ENTRY = re.compile(rf"runs/({ID_PATTERN.pattern})\.json")
_PREDICTIONS = re.compile(rf"runs/({ID_PATTERN.pattern}){re.escape(ENDING)}")
_OTHERS = re.compile(r"__MACOSX/.*|(?:.*/)?\._[^/]*|(?:.*/)?\.DS_Store|.*/", re.DOTALL)
"""What file managers add to the archives that they write, and folders."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)
"""How entries may be compressed: of these, only as much is unpacked as an entry says that it holds."""
_LARGEST_LIST = 64_000_000
"""Bytes of an archive's list of entries: that of some 400,000 runs with their predictions."""
_CHUNK = 1 << 20


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
        record = RunRecord.from_json(self._text(path, name, LARGEST_RUN), f"{path}: {name}")
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
        if not any(pattern.fullmatch(name) for pattern in (_ENTRY, _PREDICTIONS, others, _OTHERS)):
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
    with open_file(path) as file, zipfile.ZipFile(cast(IO[bytes], _Bounded(file))) as archive:
        yield archive


class _Bounded:
    """A file that refuses to be read at once where that is much: so zipfile reads an archive's list of entries."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable, self.close = file.seek, file.tell, file.seekable, file.close

    def read(self, size: int = -1) -> bytes:
        if size > _LARGEST_LIST:
            raise ValueError("it has too many entries")
        return self._file.read(size)


def archived_texts(path: Path, names: re.Pattern[str], largest: int) -> Iterator[tuple[str, str | TpbenchError]]:
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
    return entry_bytes(archive, path, name, largest).decode("utf-8", errors="replace")


def entry_bytes(archive: zipfile.ZipFile, path: Path, name: str, largest: int) -> bytes:
    """The contents of an entry, of which no more is unpacked than it says, and than such an entry can hold.

    :mod:`zipfile` unpacks as much as one read of LZMA or bzip2 makes, whatever the entry says: gigabytes, of a few kB.

    Args:
        archive: holds it.
        path: the archive's, for the message.
        name: the entry's.
        largest: bytes that such an entry can hold.

    Raises:
        TpbenchError: it is larger, compressed in another way, or damaged.
    """
    entry = archive.getinfo(name)
    if entry.file_size > largest or entry.compress_size > largest + _CHUNK:
        raise TpbenchError(f"{path}: {name}: larger than such a file can be")
    if entry.compress_type not in _METHODS:
        raise TpbenchError(f"{path}: {name}: compressed in a way that is not read: only deflate and LZMA are")
    try:
        content = _unpacked(archive, entry)
        if len(content) != entry.file_size or zlib.crc32(content) != entry.CRC:
            raise ValueError("its contents are not those that the archive tells")
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise TpbenchError(f"{path}: {name}: damaged ({error})") from error
    return content


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """At most one byte more than the entry says that it holds."""
    # The bytes as they lie in the archive: those of an entry that is not compressed.
    packed = copy(entry)
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, entry.compress_size
    del packed.CRC
    limit = entry.file_size + 1
    with archive.open(packed) as file:
        if entry.compress_type == zipfile.ZIP_STORED:
            return b"".join(iter(partial(file.read, _CHUNK), b""))
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            unpack: Callable[[bytes, int], bytes] = zlib.decompressobj(-zlib.MAX_WBITS).decompress
        else:
            unpack = _lzma_decompressor(file, limit).decompress
        content = bytearray()
        while len(content) < limit and (data := file.read(_CHUNK)):
            content += unpack(data, limit - len(content))
        return bytes(content)


def _lzma_decompressor(file: IO[bytes], limit: int) -> lzma.LZMADecompressor:
    """Of an entry, which begins with its filter: a version (2 bytes), the length of what follows (2), and that (5)."""
    header = file.read(9)
    length, packed, dictionary = struct.unpack("<2xHBL", header) if len(header) == 9 else (0, 255, 0)
    if length != 5 or packed >= 9 * 5 * 5:
        raise ValueError("its LZMA filter is none")
    # No more of the dictionary is used than there is content: it would be taken from memory at once.
    filters = [
        {
            "id": lzma.FILTER_LZMA1,
            "lc": packed % 9,
            "lp": packed // 9 % 5,
            "pb": packed // 45,
            "dict_size": min(max(dictionary, 4096), max(limit, 4096)),
        }
    ]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except TpbenchError:
        raise
    except Exception as error:  # zipfile has many for a damaged file, and a URL's file system its own
        raise TpbenchError(f"{path}: not a readable archive ({error})") from error
