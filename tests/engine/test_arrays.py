"""The reader of .npz files: what is refused, in one line and without taking memory for it."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tpbench.engine.arrays import ArrayArchive
from tpbench.engine.errors import TpbenchError, UsageError
from tpbench.engine.files import require_regular_file


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


def header(text: str, version: int = 1) -> bytes:
    """A member that is a header alone."""
    form = "<H" if version == 1 else "<I"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(form, len(text)) + text.encode()


def of_shape(shape: str, kind: str = "<f8") -> bytes:
    return header(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n")


def archive(path: Path, content: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("x.npy", content)
    return path


def read(path: Path, free: int | None = None) -> np.ndarray[Any, Any]:
    with ArrayArchive(path, free) as file:
        return file.read(["x"])["x"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0),
        np.zeros((0, 3)),
        np.array(5),
        np.array("text"),
        np.asfortranarray(np.eye(3)),
        np.array([1], ">i2"),
    ],
)
def test_numbers_and_text_are_read(tmp_path: Path, array: np.ndarray[Any, Any], method: int) -> None:
    found = read(archive(tmp_path / "a.npz", npy(array), method))
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


def encrypted(path: Path) -> Path:
    """An archive that says that its member is encrypted."""
    content = bytearray(archive(path, npy(np.arange(3))).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    return path


def flipped(path: Path) -> Path:
    """Numbers that do not match their sum."""
    content = archive(path, npy(np.arange(100.0))).read_bytes()
    where = content.index(b"PK\x01\x02") - 50
    path.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
    return path


def states_size(path: Path, size: int) -> Path:
    """A small archive that states that its member is large, as the member's header does."""
    content = bytearray(archive(path, of_shape(f"({size // 8},)") + bytes(64), zipfile.ZIP_DEFLATED).read_bytes())
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(magic) + offset
        content[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    return path


BRACKETS = "{'descr': " + "(" * 3000 + ", 'fortran_order': False, 'shape': (1,)}"
FAULTS: dict[str, Callable[[Path], object]] = {
    "bare array": lambda path: path.write_bytes(npy(np.zeros(3))),
    "no archive": lambda path: path.write_bytes(b"hello"),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(archive(path, npy(np.zeros(30))).read_bytes()[:-30]),
    "encrypted": encrypted,
    "flipped": flipped,
    "bzip2": lambda path: archive(path, npy(np.zeros(3)), zipfile.ZIP_BZIP2),
    "lzma": lambda path: archive(path, npy(np.zeros(3)), zipfile.ZIP_LZMA),
    "no array": lambda path: archive(path, b"hello"),
    "empty member": lambda path: archive(path, b""),
    "cut header": lambda path: archive(path, npy(np.zeros(3))[:40]),
    "torn header": lambda path: archive(path, header("{'descr': '<f8', 'shape': (")),
    "brackets": lambda path: archive(path, header(BRACKETS)),
    "import in header": lambda path: archive(path, header("{'descr': __import__('os').system('true')}")),
    "long header": lambda path: archive(path, header(" " * 10**6, 2)),
    "version": lambda path: archive(path, header("{}", 3)),
    "longer than its header": lambda path: archive(path, npy(np.zeros(3)) + b"x"),
    "cut numbers": lambda path: archive(path, npy(np.zeros(3))[:-1]),
    "10^10 numbers": lambda path: archive(path, of_shape("(10000000000,)")),
    "2^63 numbers": lambda path: archive(path, of_shape("(9223372036854775808,)")),
    "2^64 times 2^64": lambda path: archive(path, of_shape(f"({2**64}, {2**64})")),
    "negative": lambda path: archive(path, of_shape("(-1, -8)") + bytes(64)),
    "3 GB of 200 bytes": lambda path: states_size(path, 3 * 2**30),
    "objects": lambda path: archive(path, npy(np.array([{"a": 1}], dtype=object))),
    "no member of that name": lambda path: np.savez(path, y=np.zeros(3)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_one_line_and_takes_no_memory(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "a.npz"
    FAULTS[fault](path)
    tracemalloc.start()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with pytest.raises(TpbenchError) as caught:
                read(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert type(caught.value) is TpbenchError
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))
    assert str(path) in str(caught.value)
    assert not warned


def test_more_than_is_free_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", npy(np.zeros(10**6)), zipfile.ZIP_DEFLATED)
    assert read(path, 8 * 10**6).shape == (10**6,)
    tracemalloc.start()
    try:
        with pytest.raises(TpbenchError):
            read(path, 8 * 10**6 - 1)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_all_arrays_count_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(100), y=np.zeros(100))
    with ArrayArchive(tmp_path / "a.npz", 1000) as file:
        assert file.read(["x"])["x"].shape == (100,)
        with pytest.raises(TpbenchError):
            file.read(["x", "y"])


def test_what_does_not_fit_into_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    path = archive(tmp_path / "a.npz", npy(np.zeros(3)))
    monkeypatch.setattr(np.lib.format, "read_array", full)
    with pytest.raises(TpbenchError, match="memory"):
        read(path)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


OTHERS: dict[str, Callable[[Path], object]] = {
    "named pipe": make_fifo,
    "link to a named pipe": lambda path: (make_fifo(path.with_name("pipe")), path.symlink_to("pipe")),
    "folder": lambda path: path.mkdir(),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_file_is_refused_without_a_wait(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    OTHERS[kind](path)
    for reader in (require_regular_file, ArrayArchive):
        with pytest.raises(UsageError) as caught:
            reader(path)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800", "/".join(["x" * 200] * 100)])
def test_names_that_no_file_has_are_refused_in_a_short_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_regular_file(tmp_path / name)
    assert len(str(caught.value)) < 500


def test_checksums_are_looked_at(tmp_path: Path) -> None:
    """Also of an array without numbers, whose last byte is that of its header."""
    content = bytearray(archive(tmp_path / "a.npz", npy(np.zeros(0))).read_bytes())
    at = content.index(b"PK\x01\x02") + 16
    assert struct.unpack_from("<I", content, at)[0] == zlib.crc32(npy(np.zeros(0)))
    content[at] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(TpbenchError):
        read(tmp_path / "a.npz")
