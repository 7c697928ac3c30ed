"""Archives of what stores hold, as ``tpbench results pack`` writes them: read without unpacking, never changed."""

from __future__ import annotations

import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import IO, Any, BinaryIO, TypeVar, cast

from tpbench.engine import TpbenchError, UsageError
from tpbench.results.alignments import ALIGNMENTS
from tpbench.results.artifacts import Artifact, ArtifactKind
from tpbench.results.location import io_errors, open_file
from tpbench.results.runs import PREDICTIONS, RUNS
from tpbench.results.sweep_files import sweeps_of_entries

A = TypeVar("A", bound=Artifact)

ARCHIVED_KINDS: tuple[ArtifactKind[Any], ...] = (RUNS, PREDICTIONS, ALIGNMENTS)
"""Kinds of artifacts that archives hold."""
_OTHERS = re.compile(r"__MACOSX/.*|(?:.*/)?\._[^/]*|(?:.*/)?\.DS_Store|.*/", re.DOTALL)
"""Entries that file managers add to archives, and folders."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)
"""Compressions of entries that are read: those that can be unpacked up to a given size."""
_LARGEST_LIST = 64_000_000
"""Bytes of an archive's list of entries; some 400,000 runs with their predictions have as many."""
_CHUNK = 1 << 20


@dataclass
class ArchivedRuns:
    """The runs of some archives as one layer; only the lists of contents are held in memory."""

    holders: dict[str, list[Path]] = field(default_factory=dict)
    """Archives that hold a run, by its id, in the order of their names."""
    broken: list[str] = field(default_factory=list)
    """Archives that cannot be read, as messages."""
    readable: list[Path] = field(default_factory=list)
    """The other archives."""

    @classmethod
    def of(cls, paths: Iterable[Path], known: Mapping[str, Sequence[str]] = MappingProxyType({})) -> ArchivedRuns:
        """List the runs of archives. Other entries, and archives of other things, are left alone.

        Args:
            paths: the archives.
            known: ids of an archive's runs by its file name, where it need not be opened.
        """
        runs = cls()
        for path in paths:
            try:
                ids = known[path.name] if path.name in known else RUNS.names_of_entries(_names(path))
            except TpbenchError as error:
                runs.broken.append(str(error))
                continue
            runs.readable.append(path)
            for run_id in ids:
                runs.holders.setdefault(run_id, []).append(path)
        return runs

    def ids_of(self, path: Path) -> list[str]:
        """Return the ids of the runs in one of the archives."""
        return [run_id for run_id, paths in self.holders.items() if path in paths]

    @contextmanager
    def opened(self) -> Iterator[ArchiveReader]:
        """Open archives for reading: each once, when something of it is first asked for."""
        with ExitStack() as stack:
            yield ArchiveReader(stack)


class ArchiveReader:
    """A reader of archives' entries, in any thread; made by :meth:`ArchivedRuns.opened`."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self._zips, self._opening = stack, dict[Path, zipfile.ZipFile](), Lock()

    def names(self, kind: ArtifactKind[A], path: Path) -> list[str]:
        """Return the names of an archive's entries of a kind, each once.

        Raises:
            TpbenchError: the archive cannot be read.
        """
        return kind.names_of_entries(self.entries(path))

    def entries(self, path: Path) -> list[str]:
        """Return the names of all entries of an archive.

        Raises:
            TpbenchError: the archive cannot be read.
        """
        with _readable(path):
            return self._open(path).namelist()

    def content(self, path: Path, entry: str, largest: int) -> bytes | None:
        """Return the contents of an entry; None where the archive has none of that name.

        Args:
            path: the archive's.
            entry: its name.
            largest: bytes that such an entry can hold.

        Raises:
            TpbenchError: it is damaged; the message names archive and entry.
        """
        with _readable(path):
            archive = self._open(path)
            return entry_bytes(archive, path, entry, largest) if entry in archive.NameToInfo else None

    def read(self, kind: ArtifactKind[A], path: Path, name: str) -> A | None:
        """Read an entry; None where the archive has none of that name.

        Raises:
            NewerFormat: a newer version wrote it.
            TpbenchError: it is damaged; the message names archive and entry.
        """
        entry = kind.entry(name)
        content = self.content(path, entry, kind.largest)
        return None if content is None else kind.parse(content, f"{path}: {entry}", name)

    def _open(self, path: Path) -> zipfile.ZipFile:
        with self._opening:
            if path not in self._zips:
                self._zips[path] = self._stack.enter_context(_open(path))
            return self._zips[path]


def runs_of_archive(path: Path, kinds: Collection[ArtifactKind[Any]]) -> ArchivedRuns:
    """Return the runs of an archive that holds artifacts of these kinds and sweeps alone.

    Raises:
        UsageError: it cannot be read, or holds other files.
    """
    try:
        entries = _names(path)
    except TpbenchError as error:
        raise UsageError(str(error)) from error
    for entry in entries:
        known = _OTHERS.fullmatch(entry) or sweeps_of_entries([entry])
        if not known and not any(kind.names_of_entries([entry]) for kind in kinds):
            raise UsageError(f"{path}: holds '{entry}', which is neither a run, an alignment record nor a sweep")
    return ArchivedRuns.of([path])


def _names(path: Path) -> list[str]:
    with _readable(path), _open(path) as archive:
        return archive.namelist()


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip at a path or URL; of the latter, only the parts that are read are fetched."""
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


def entry_bytes(archive: zipfile.ZipFile, path: Path, name: str, largest: int) -> bytes:
    """Return the contents of an entry, of which no more is unpacked than it claims and than such an entry can hold.

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
            raise ValueError("its contents do not match its checksum")
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise TpbenchError(f"{path}: {name}: damaged ({error})") from error
    return content


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Unpack at most one byte more than the entry claims to hold."""
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
    """Return the decompressor of an entry; it begins with version (2 bytes), length of the filter (2), filter (5)."""
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


def _readable(path: Path) -> AbstractContextManager[None]:
    # A damaged archive is no unreadable one: its runs count as missing.
    return io_errors(path, f"{path}: not a readable archive", raised=TpbenchError)
