"""The reader of ``.npz`` files: numbers alone, checked before memory is taken for them."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tpbench.engine.errors import TpbenchError, format_bytes, shorten
from tpbench.engine.files import require_regular_file, shown_path

# numpy writes these. Others can make gigabytes of a few bytes before a reader can stop.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Deflate makes at most so many bytes of one.
_LARGEST_RATIO = 1032

_HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class ArrayHeader:
    """Shape and type of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes that the array takes in memory."""
        return prod(self.shape) * self.dtype.itemsize


class ArrayArchive:
    """An ``.npz`` file that is open for reading.

    Every fault of the file is a :class:`TpbenchError` of one line: it is no archive, encrypted, cut, damaged, or holds
    something else than numbers and text. Python objects are never loaded.

    Args:
        path: the file.
        free: bytes that its arrays may take together; None: as many as there are.

    Raises:
        UsageError: there is no such file, or it is none (a folder, a named pipe, ...).
        TpbenchError: it is no ``.npz`` file.

    Example:
        ``with ArrayArchive(path) as archive: arrays = archive.read(archive.names)``
    """

    def __init__(self, path: Path, free: int | None = None) -> None:
        self.shown, self._free = shown_path(path), free
        self._size = require_regular_file(path).st_size
        with self._as_one_error():
            if _is_bare_array(path):
                raise ValueError("it holds one bare array, not an .npz archive")
            self._archive = zipfile.ZipFile(path)
        # numpy calls the member 'x.npy' x.
        self._members = {info.filename.removesuffix(".npy"): info for info in self._archive.infolist()}

    def __enter__(self) -> ArrayArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()

    @property
    def names(self) -> list[str]:
        """The names of the arrays."""
        return list(self._members)

    def header(self, name: str) -> ArrayHeader:
        """Return type and shape of an array without reading it.

        Raises:
            TpbenchError: there is no such array, or it is damaged.
        """
        with self._as_one_error(), self._open(name) as stream:
            return self._header(name, stream)

    def read(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Read arrays by name.

        Raises:
            TpbenchError: one is missing, damaged or no array of numbers or text, or they need more memory than is free.
        """
        headers = {name: self.header(name) for name in names}
        needed = sum(header.nbytes for header in headers.values())
        if self._free is not None and needed > self._free:
            free = format_bytes(self._free)
            raise TpbenchError(f"{self.shown}: its arrays need {format_bytes(needed)} of memory, {free} are free")
        arrays = {}
        for name, header in headers.items():
            if header.dtype.hasobject:
                raise TpbenchError(
                    f"{self.shown}: damaged or not an .npz file ('{shorten(name, 60)}' holds Python objects, which are "
                    "never loaded; save numbers)"
                )
            try:
                with self._as_one_error(), self._open(name) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
            except MemoryError as error:
                raise TpbenchError(
                    f"{self.shown}: not enough memory for '{shorten(name, 60)}' ({format_bytes(header.nbytes)})"
                ) from error
        return arrays

    def _open(self, name: str) -> IO[bytes]:
        member = self._members.get(name)
        if member is None:
            raise ValueError(f"the array '{name}' is missing")
        if member.flag_bits & 1:
            raise ValueError("it is encrypted")
        if member.compress_type not in _METHODS:
            raise ValueError("it is compressed in a way that numpy does not write")
        if member.compress_size > self._size or member.file_size > _LARGEST_RATIO * member.compress_size:
            raise ValueError(f"'{name}' cannot have the size that the archive states")
        return self._archive.open(member)

    def _header(self, name: str, stream: IO[bytes]) -> ArrayHeader:
        """Read the header of an array and compare what it claims with the size of the member."""
        try:
            read = _HEADERS[np.lib.format.read_magic(stream)]
            with warnings.catch_warnings():  # Python warns of odd spellings in headers
                warnings.simplefilter("ignore")
                shape, _, dtype = read(stream)
        except KeyError:
            raise ValueError(f"'{name}' is of a version of numpy's format that holds no plain numbers") from None
        except MemoryError:  # Python's parser, of brackets within brackets
            raise ValueError(f"the header of '{name}' is damaged") from None
        header = ArrayHeader(shape, dtype)
        # Of objects, a pickle of any size follows.
        fits = dtype.hasobject or stream.tell() + header.nbytes == self._members[name].file_size
        if not fits or any(length < 0 for length in shape):
            raise ValueError(f"'{name}' is not as large as its header says")
        return header

    @contextmanager
    def _as_one_error(self) -> Iterator[None]:
        """Turn the errors of zipfile, zlib, numpy and its header's parser into one line."""
        try:
            yield
        except (TpbenchError, MemoryError):
            raise
        except Exception as error:
            reason = " ".join((str(error) or type(error).__name__).split())
            raise TpbenchError(f"{self.shown}: damaged or not an .npz file ({shorten(reason, 200)})") from error


def _is_bare_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"
