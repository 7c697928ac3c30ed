"""Alignment records in stores and in their archives."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.results.records import alignment_record, counts, keep_alignments, record
from tpbench.engine import TpbenchError
from tpbench.results import RunStore
from tpbench.results.alignments import ALIGNMENTS, AlignmentRecord, read_alignments
from tpbench.results.artifacts import with_checksum
from tpbench.results.maintenance import check_store
from tpbench.search.listing import pack_store


def alignment(method: str = "dtp", epochs: int = 3) -> AlignmentRecord:
    return alignment_record("digits", method, [0.0, 1.0], epochs=epochs)


def records(folder: Path) -> list[AlignmentRecord]:
    return list(read_alignments(RunStore(folder)).values())


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Two records in files."""
    folder = tmp_path / "results"
    keep_alignments(folder, alignment("dtp"), alignment("dfa"))
    return RunStore(folder)


def test_an_archive_of_records_stands_for_their_files(store: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    written = tpbench_inside("results", "pack", "clone/alignment.zip")
    assert counts(written.stdout) == [0, 2]
    clone = tmp_path / "clone"
    assert records(clone) == records(store.folder) == [alignment("dfa"), alignment("dtp")]
    assert tpbench_inside("figure", "s3", "--workload", "digits", "--results", "clone").returncode == 0
    first = (clone / "alignment.zip").read_bytes()
    pack_store(RunStore(clone), clone / "alignment.zip")
    assert (clone / "alignment.zip").read_bytes() == first


def test_the_file_counts_where_an_archive_has_one_of_its_name(store: RunStore) -> None:
    pack_store(store, store.folder / "a.zip")
    keep_alignments(store.folder, alignment(epochs=5))
    assert [r.epochs for r in records(store.folder)] == [3, 5]


def test_merge_copies_the_records_that_are_new(store: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    pack_store(store, tmp_path / "records.zip")
    keep_alignments(tmp_path / "into", alignment("dtp"))
    merged = tpbench_inside("results", "merge", "records.zip", "into")
    assert merged.returncode == 0, merged.stderr
    assert counts(merged.stdout) == [0, 0, 1, 1]
    assert len(records(tmp_path / "into")) == 2
    assert tpbench_inside("results", "merge", "results", "into").returncode == 0


def test_damaged_copies_are_named_and_whole_ones_count(store: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    pack_store(store, store.folder / "a.zip")
    path = store.folder / "alignment" / "digits-dtp-0123456789ab.json"
    path.write_text(path.read_text().replace("31.0", "31.5"))
    with zipfile.ZipFile(store.folder / "b.zip", "w") as archive:
        archive.writestr("alignment/other.json", "{}")
        archive.writestr("alignment/x\n.json", "{}")
    (store.folder / "c.zip").write_bytes(b"no archive")
    fresh = RunStore(store.folder)
    found = read_alignments(fresh)
    assert list(found) == ["digits-dfa-0123456789ab", "digits-dtp-0123456789ab"]
    assert found[path.stem] == alignment("dtp")
    assert [name in message for name, message in zip(["c.zip", path.name, "other"], fresh.damaged, strict=True)]
    assert ["another copy" in message for message in fresh.damaged] == [False, True, False]
    assert len(check_store(fresh)[ALIGNMENTS].wrong) == 2
    checked = tpbench_inside("results", "check")
    assert checked.returncode == 1
    assert counts(checked.stdout)[-2:] == [2, 2]
    for command in (
        ("table", "angles"),
        ("figure", "s3", "--workload", "digits"),
        ("results", "merge", "results", "into"),
    ):
        done = tpbench_inside(*command)
        assert done.returncode == 0
        assert [done.stderr.count(name) for name in ("c.zip", "digits-dtp", "other.json")] == [1, 1, 1]
    assert counts(done.stdout)[-2:] == [2, 0]
    # Nothing that is whole is lost where an archive is written anew.
    assert counts(tpbench_inside("results", "pack", "results/a.zip").stdout) == [0, 2]


def test_an_archive_whose_records_cannot_be_read_is_not_replaced(store: RunStore, tpbench_inside: Inside) -> None:
    with zipfile.ZipFile(store.folder / "a.zip", "w") as archive:
        archive.writestr("alignment/digits-dtp-0123456789ab.json", "{")
    before = (store.folder / "a.zip").read_bytes()
    refused = tpbench_inside("results", "pack", "results/a.zip")
    assert refused.returncode == 2
    assert "a.zip" in refused.stderr
    assert (store.folder / "a.zip").read_bytes() == before


def test_merge_mends_a_damaged_record(store: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    keep_alignments(tmp_path / "into", alignment("dtp"))
    path = tmp_path / "into" / "alignment" / "digits-dtp-0123456789ab.json"
    path.write_text("{")
    assert counts(tpbench_inside("results", "merge", "results", "into").stdout)[-2:] == [2, 0]
    assert records(tmp_path / "into") == [alignment("dfa"), alignment("dtp")]
    assert path.with_suffix(".damaged").read_text() == "{"


def test_a_broken_archive_alone_is_named(store: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a.zip").write_bytes(b"no archive")
    refused = tpbench_inside("results", "merge", "from", "results")
    assert refused.returncode == 2
    assert "a.zip" in refused.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": "x"},
        {"steps_per_epoch": 0},
        {"steps": []},
        {"steps": [0]},
        {"dampings": [1.0]},
        {"seeds": [0]},
        {"data_label": None},
        {"loss_angles": [[1.0], [1.0, 2.0]]},
        {"target_angles": []},
        {"format": 0},
        {"more": 1},
    ],
)
def test_what_no_table_can_show_is_damaged(change: dict[str, object]) -> None:
    body = {"format": 1, **asdict(alignment()), **change}
    with pytest.raises(TpbenchError, match=r"x\.json: "):
        AlignmentRecord.from_json(json.dumps(with_checksum(body)), "x.json")


def test_a_newer_format_is_no_damage(store: RunStore, tpbench_inside: Inside) -> None:
    newer = json.dumps(with_checksum({"format": 2, "angles": []}))
    (store.folder / "alignment" / "digits-bp-0123456789ab.json").write_text(newer)
    for command in (("table", "angles"), ("results", "check")):
        told = tpbench_inside(*command)
        assert told.returncode == 1
        assert "newer" in told.stderr


def test_a_report_says_that_it_shows_no_angles(store: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    store.publish(record())
    newer = json.dumps(with_checksum({"format": 2, "angles": []}))
    (store.folder / "alignment" / "digits-bp-0123456789ab.json").write_text(newer)
    assert tpbench_inside("report", "--output", "page.html").returncode == 0
    page = (tmp_path / "page.html").read_text()
    assert "newer" in page


@pytest.mark.parametrize(
    "name", ["alignment/../x.json", "alignment/.x.json", "alignment/a/b.json", "alignment/\x1b.json"]
)
def test_an_entry_cannot_leave_its_folder(tmp_path: Path, tpbench_inside: Inside, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(f"alignment/{name}", alignment().to_json())
    refused = tpbench_inside("results", "merge", "a.zip", "into")
    assert refused.returncode == 2
    assert "neither" in refused.stderr


def test_records_that_disagree_are_named(tmp_path: Path, tpbench_inside: Inside) -> None:
    mine = alignment_record("mnist", "dtp", [1.0])
    other = replace(mine, loss_angles=[[[angle + 5 for angle in row] for row in step] for step in mine.loss_angles])
    for name, made in (("a", mine), ("b", other)):
        keep_alignments(tmp_path / name, made)
        (tmp_path / name / "runs").mkdir()
    for source, target in (("a", "b"), ("b", "a")):
        before = {path: path.read_bytes() for path in (tmp_path / target / "alignment").iterdir()}
        assert tpbench_inside("results", "merge", source, target).returncode == 1
        assert {path: path.read_bytes() for path in (tmp_path / target / "alignment").iterdir()} == before
    pack_store(RunStore(tmp_path / "b"), tmp_path / "a" / "b.zip")
    assert len(check_store(RunStore(tmp_path / "a"))[ALIGNMENTS].conflicts) == 1
