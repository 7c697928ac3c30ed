"""Alignment records in stores and in their archives."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.results.records import alignment_record, keep_alignments
from tpbench.engine import TpbenchError
from tpbench.results import RunStore
from tpbench.results.alignments import AlignmentRecord, check_alignments, read_alignments
from tpbench.results.maintenance import pack_store


def alignment(method: str = "dtp", epochs: int = 3) -> AlignmentRecord:
    return alignment_record("digits", method, [0.0, 1.0], epochs=epochs)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Two records in files."""
    folder = tmp_path / "results"
    keep_alignments(folder, alignment("dtp"), alignment("dfa"))
    return RunStore(folder)


def test_an_archive_of_records_stands_for_their_files(store: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    written = tpbench_inside("results", "pack", "clone/alignment.zip")
    assert "0 runs and 2 alignment records written" in written.stdout
    clone = tmp_path / "clone"
    assert read_alignments(clone) == read_alignments(store.folder) == [alignment("dfa"), alignment("dtp")]
    assert tpbench_inside("figure", "s3", "--workload", "digits", "--results", "clone").returncode == 0
    first = (clone / "alignment.zip").read_bytes()
    pack_store(RunStore(clone), clone / "alignment.zip")
    assert (clone / "alignment.zip").read_bytes() == first


def test_the_file_counts_where_an_archive_has_one_of_its_name(store: RunStore) -> None:
    pack_store(store, store.folder / "a.zip")
    keep_alignments(store.folder, alignment(epochs=5))
    assert [r.epochs for r in read_alignments(store.folder)] == [3, 5]


def test_merge_copies_the_records_that_are_new(store: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    pack_store(store, tmp_path / "records.zip")
    keep_alignments(tmp_path / "into", alignment(epochs=5))
    merged = tpbench_inside("results", "merge", "records.zip", "into")
    assert merged.returncode == 0, merged.stderr
    assert "0 runs copied, 0 there already" in merged.stdout
    assert "1 alignment record copied, 1 there already" in merged.stdout
    assert [r.epochs for r in read_alignments(tmp_path / "into")] == [3, 5]
    assert tpbench_inside("results", "merge", "results", "into").returncode == 0


def test_check_names_every_damaged_copy(store: RunStore, tpbench_inside: Inside) -> None:
    pack_store(store, store.folder / "a.zip")
    path = store.folder / "alignment" / "digits-dtp-0123456789ab.json"
    path.write_text(path.read_text().replace("31.0", "31.5"))
    with zipfile.ZipFile(store.folder / "b.zip", "w") as archive:
        archive.writestr("alignment/other.json", "{}")
    (store.folder / "c.zip").write_bytes(b"no archive")
    found = check_alignments(store.folder)
    assert found.whole == 2
    assert ["digits-dtp" in found.wrong[0], "b.zip: alignment/other.json" in found.wrong[1]] == [True, True]
    checked = tpbench_inside("results", "check")
    assert checked.returncode == 1
    assert "2 alignment records whole, 2 damaged" in checked.stdout
    assert checked.stderr.count("c.zip") == 1
    with pytest.raises(TpbenchError, match=r"c\.zip: not a readable archive"):
        read_alignments(store.folder)
    (store.folder / "c.zip").unlink()
    with pytest.raises(TpbenchError, match=r"digits-dtp.*do not match its checksum"):
        read_alignments(store.folder)


def test_what_is_damaged_is_left_out_of_an_archive_with_a_warning(store: RunStore, tpbench_inside: Inside) -> None:
    path = store.folder / "alignment" / "digits-dtp-0123456789ab.json"
    path.write_text("{")
    packed = tpbench_inside("results", "pack", "packed.zip")
    assert "0 runs and 1 alignment record written" in packed.stdout
    assert path.name in packed.stderr
    with zipfile.ZipFile(store.folder / "a.zip", "w") as archive:
        archive.writestr(f"alignment/{path.name}", "{")
    before = (store.folder / "a.zip").read_bytes()
    refused = tpbench_inside("results", "pack", "results/a.zip")
    assert refused.returncode == 2
    assert "replacing the archive would lose it" in refused.stderr
    assert (store.folder / "a.zip").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["alignment/../x.json", "alignment/.x.json", "alignment/a/b.json", "alignment\\x.json"]
)
def test_an_entry_cannot_leave_its_folder(tmp_path: Path, tpbench_inside: Inside, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, alignment().to_json())
    refused = tpbench_inside("results", "merge", "a.zip", "into")
    assert refused.returncode == 2
    assert "which is no run file" in refused.stderr
