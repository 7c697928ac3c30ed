"""Files of other programs in a store, links and pipes in the place of files, and archives that unpack to much."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.results.records import alignment_record, archive_of, keep_alignments, record
from tests.results.test_location import memory  # noqa: F401 (a fixture)
from tpbench.engine import TpbenchError
from tpbench.results import RunStore
from tpbench.results import archives as module
from tpbench.results.alignments import ALIGNMENTS
from tpbench.results.archives import entry_bytes
from tpbench.results.location import read_bytes
from tpbench.results.maintenance import check_store, merge_stores
from tpbench.results.runs import LARGEST_RUN, RUNS

OTHERS = (
    "._{}.json",
    "{} 2.json",
    "{} (conflicted copy).json",
    "{}.json.bak",
    ".{}-x.part",
    "{}~.json",
    ".DS_Store",
    "notes.json",
    "._{}.damaged",
    "{}-conflict.damaged",
)
"""Names that file managers and synchronising programs give."""
MAGIC = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X"


def with_others(store: RunStore) -> None:
    """Three runs, and files of other programs beside each."""
    for seed in range(3):
        path = store.publish(record(seed=seed))
        for name in OTHERS:
            (store.runs / name.format(path.stem)).write_bytes(MAGIC)
    (store.folder / "._runs.zip").write_bytes(MAGIC)
    (store.folder / "alignment").mkdir(parents=True, exist_ok=True)
    (store.folder / "alignment" / "._a.json").write_bytes(MAGIC)
    for folder in ("checks", "sweeps", "sweeps/notes", "__MACOSX"):
        (store.folder / folder).mkdir(parents=True, exist_ok=True)
        (store.folder / folder / f"{record().definition.id}.json").write_bytes(MAGIC)


def test_files_of_other_programs_are_neither_counted_nor_named(
    tmp_path: Path,
    memory: Path,  # noqa: F811
    tpbench_inside: Inside,
) -> None:
    for store in (RunStore(tmp_path / "results"), RunStore(memory)):
        with_others(store)
        assert len(list(store.records())) == len(RunStore(store.folder).summaries()) == len(store.ids()) == 3
        assert not store.damaged
        found = check_store(RunStore(store.folder))[RUNS]
        assert (found.valid, found.wrong) == (3, [])
    for command in (
        ("leaderboard",),
        ("results", "check"),
        ("results", "merge", "results", "into"),
        ("results", "pack", "a.zip"),
        ("sweeps",),
        ("report",),
    ):
        ended = tpbench_inside(*command)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_what_was_set_aside_is_still_named(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    (store.folder / "runs").mkdir()
    for name in (f"{'0' * 24}.damaged", f"{'0' * 24}-2.damaged"):
        (store.runs / name).write_text("{")
    assert len(check_store(store)[RUNS].wrong) == 2


def test_an_archive_of_a_file_manager_merges(tmp_path: Path, tpbench_inside: Inside) -> None:
    runs = [record(seed=seed) for seed in range(2)]
    others: dict[str, bytes | str] = {"runs/": "", "__MACOSX/": "", "runs/.DS_Store": MAGIC, ".DS_Store": MAGIC}
    others |= {f"__MACOSX/runs/._{run.definition.id}.json": MAGIC for run in runs}
    others |= {f"runs/._{run.definition.id}.json": MAGIC for run in runs}
    (tmp_path / "finder.zip").write_bytes(archive_of(*runs, others=others))
    merged = tpbench_inside("results", "merge", "finder.zip", "into")
    assert (merged.returncode, merged.stderr) == (0, "")
    assert sorted(path.stem for path in (tmp_path / "into" / "runs").iterdir()) == sorted(r.definition.id for r in runs)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def nothing(path: Path) -> None:
    path.symlink_to("not-there")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8_000_000_000)


ODD: dict[str, Callable[[Path], None]] = {"loop": loop, "link": nothing, "pipe": os.mkfifo, "sparse": sparse}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_what_is_no_file_is_named_and_passed_over(
    tmp_path: Path, tpbench_inside: Inside, make: Callable[[Path], None]
) -> None:
    store = RunStore(tmp_path / "results")
    store.publish(record(seed=0))
    odd = store.path(record(seed=1).definition.id)
    keep_alignments(store.folder, alignment_record("digits", "dtp", [0.0, 1.0]))
    sweep = store.folder / "sweeps" / "digits-bp-12345678"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text("{}")
    for folder in ("networks",):
        (store.folder / folder).mkdir()
    make(odd)
    make(store.folder / "a.zip")
    make(store.folder / "alignment" / "digits-bp-0123456789ab.json")
    make(store.folder / "networks" / f"{record().definition.id}.safetensors")
    for name in ("journal.jsonl", "command", "lock"):
        make(sweep / name)
    for command in (
        ("leaderboard",),
        ("results", "merge", "results", "into"),
        ("results", "export", "x.csv"),
        ("table", "s6"),
    ):
        ended = tpbench_inside(*command)
        assert ended.returncode == 0, ended.stderr
        assert odd.name in ended.stderr
        assert "a.zip" in ended.stderr
    for quiet in (("sweeps",), ("report",), ("table", "angles")):
        assert tpbench_inside(*quiet).returncode == 0
    checked = tpbench_inside("results", "check")
    assert checked.returncode == 1
    assert all(name in checked.stderr for name in (odd.name, "a.zip", "digits-bp-0123456789ab.json", "safetensors"))
    # A run that is trained gets its name, and what had it stays.
    store.publish(record(seed=1))
    assert store.read(odd.stem) == record(seed=1)
    assert len([path for path in store.runs.iterdir() if path.suffix == ".damaged"]) == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_a_sweep_whose_definition_is_no_file_is_damaged_and_the_others_are_listed(
    tmp_path: Path, tpbench_inside: Inside, make: Callable[[Path], None]
) -> None:
    folder = tmp_path / "results" / "sweeps"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    (folder / "a" / "sweep.json").write_text("{}")
    make(folder / "b" / "sweep.json")
    listed = tpbench_inside("sweeps")
    assert listed.returncode == 0
    assert "damaged" in listed.stdout


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TpbenchError, match="not a"):
        read_bytes(tmp_path)
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", 5) == b"12345"
    with pytest.raises(TpbenchError, match="larger"):
        read_bytes(tmp_path / "x", 4)


# --- archives that unpack to much ---

HUGE = 64_000_000
"""Twice what little_memory allows."""
RUN = record()
ENTRY = RUNS.entry(RUN.definition.id)


@cache
def lzma_entry(size: int, dictionary: int | None = None) -> bytes:
    """Return the bytes in a zip of an entry of zeros that is compressed by LZMA."""
    packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "preset": 1}])
    parts = [packer.compress(bytes(1_000_000)) for _ in range(size // 1_000_000)]
    return struct.pack("<BBHBL", 9, 4, 5, 93, dictionary or 1 << 20) + b"".join(parts) + packer.flush()


@cache
def deflated(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(size // 1_000_000)) + packer.flush()


@cache
def bzipped(size: int) -> bytes:
    packer = bz2.BZ2Compressor()
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(size // 1_000_000)) + packer.flush()


def zip_of(name: str, packed: bytes, method: int, claimed: int) -> bytes:
    """A zip of one entry that says what one likes of what it holds."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(name, packed)
        archive.filelist[0].file_size = claimed
        archive.filelist[0].compress_type = method
    return file.getvalue()


BOMBS = {
    "lzma": (lzma_entry, zipfile.ZIP_LZMA),
    "deflate": (deflated, zipfile.ZIP_DEFLATED),
    "bzip2": (bzipped, zipfile.ZIP_BZIP2),
}


@pytest.fixture
def little_memory() -> Iterator[None]:
    """The test takes less than 32 MB."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32_000_000


@pytest.mark.parametrize("claimed", [1000, 3_999_999, LARGEST_RUN + 1])
@pytest.mark.parametrize("kind", BOMBS)
def test_an_entry_is_unpacked_no_further_than_it_says(
    tmp_path: Path, kind: str, claimed: int, request: pytest.FixtureRequest
) -> None:
    pack, method = BOMBS[kind]
    content = zip_of(ENTRY, pack(HUGE), method, claimed)
    assert len(content) < 2_000_000
    (tmp_path / "a.zip").write_bytes(content)
    request.getfixturevalue("little_memory")
    store = RunStore(tmp_path)
    assert list(store.records()) == []
    assert len(store.damaged) == 1
    assert ENTRY in store.damaged[0]
    assert len(check_store(RunStore(tmp_path))[RUNS].wrong) == 1
    with pytest.raises(TpbenchError):
        merge_stores(RunStore(tmp_path / "absent"), store)


@pytest.mark.parametrize("kind", BOMBS)
def test_so_are_the_entries_of_alignment_records(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    pack, method = BOMBS[kind]
    (tmp_path / "a.zip").write_bytes(zip_of("alignment/x.json", pack(HUGE), method, 1000))
    request.getfixturevalue("little_memory")
    found = check_store(RunStore(tmp_path))[ALIGNMENTS]
    assert (found.valid, len(found.wrong)) == (0, 1)
    assert "x.json" in found.wrong[0]


def test_a_dictionary_that_an_entry_claims_is_not_taken_from_memory(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    content = bytearray(archive_of(RUN))
    place = 30 + len(ENTRY) + 5
    assert struct.unpack_from("<L", content, place) == (1 << 23,)
    struct.pack_into("<L", content, place, 2**32 - 1)
    (tmp_path / "a.zip").write_bytes(content)
    request.getfixturevalue("little_memory")
    assert list(RunStore(tmp_path).records()) == [RUN]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_what_is_whole_is_read_as_it_was_written(tmp_path: Path, method: int, size: int) -> None:
    text = "".join(map(str, range(size)))[:size]
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("x", text)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert entry_bytes(archive, tmp_path / "a.zip", "x", size) == text.encode()
        if size:
            with pytest.raises(TpbenchError):
                entry_bytes(archive, tmp_path / "a.zip", "x", size - 1)


@pytest.mark.parametrize(
    "header", [b"", b"\x09\x04\x05\x00", b"\x09\x04\x06\x00\x5d\x00\x00\x10\x00\x00", b"\xff" * 20]
)
def test_a_damaged_filter_is_damage_of_that_entry(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of(ENTRY, header, zipfile.ZIP_LZMA, 1000))
    store = RunStore(tmp_path)
    assert list(store.records()) == []
    assert ENTRY in store.damaged[0]


def test_the_list_of_entries_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(archive_of(*(record(seed=seed) for seed in range(20))))
    assert len(RunStore(tmp_path).ids()) == 20
    monkeypatch.setattr(module, "_LARGEST_LIST", 1000)
    store = RunStore(tmp_path)
    assert store.ids() == []
    assert "too many" in store.damaged[0]
