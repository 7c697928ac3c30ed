"""Archives in a store's folder: a layer below its files."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.results.records import archive_of, counts, of_newer_format, record
from tpbench.results import RunStore, paper_table, render
from tpbench.results import store as module
from tpbench.results.artifacts import NewerFormat
from tpbench.results.maintenance import check_store
from tpbench.results.runs import PUBLISHED, RUNS


def seeds(store: RunStore) -> list[int]:
    return [run.definition.seed for run in store.records()]


@pytest.fixture
def clone(tmp_path: Path) -> RunStore:
    """A store without a folder of runs: two archives that share a run, one of other things, and no archive at all."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "a.zip").write_bytes(archive_of(record(seed=0), record(seed=1)))
    (folder / "b.zip").write_bytes(archive_of(record(seed=1), record(seed=2)))
    (folder / "alignment.zip").write_bytes(archive_of(others={"alignment/x.json": "{}", "runs/x.json": "{}"}))
    (folder / "empty.zip").mkdir()
    return RunStore(folder)


def test_a_store_reads_the_archives_in_its_folder(clone: RunStore) -> None:
    ids = [run.definition.id for run in clone.records()]
    assert ids == sorted(record(seed=s).definition.id for s in range(3))
    assert all(clone.read(run_id) for run_id in ids)
    assert clone.read(record(seed=2).definition.id) == record(seed=2)
    assert clone.read(record(seed=3).definition.id) is None
    assert not clone.damaged
    assert not clone.runs.exists()


def test_the_clone_of_a_repository_has_its_tables(clone: RunStore) -> None:
    assert "2.33" not in render(paper_table(RunStore(clone.folder / "nothing"), "s6"), "md")
    (clone.folder / "c.zip").write_bytes(
        archive_of(*(record(seed=s, errors=[0.0133], found=PUBLISHED) for s in range(3, 10)))
    )
    for archive in ("a", "b"):
        (clone.folder / f"{archive}.zip").unlink()
    assert "2.33" in render(paper_table(RunStore(clone.folder), "s6"), "md")


def test_files_win_over_archives_and_mix_with_them(clone: RunStore) -> None:
    clone.publish(record(seed=1, errors=[0.4]))
    clone.publish(record(seed=7))
    assert sorted(seeds(clone)) == [0, 1, 2, 7]
    assert clone.read(record(seed=1).definition.id) == record(seed=1, errors=[0.4])


def test_an_archive_stands_in_for_a_damaged_file(clone: RunStore) -> None:
    path = clone.publish(record(seed=1))
    path.write_text("{")
    assert clone.read(record(seed=1).definition.id)
    assert "another copy" in clone.damaged[0]


def test_a_broken_archive_is_a_warning_and_a_problem_of_check(clone: RunStore, tpbench_inside: Inside) -> None:
    whole = (clone.folder / "a.zip").read_bytes()
    (clone.folder / "a.zip").write_bytes(whole[: len(whole) // 2])
    assert sorted(seeds(clone)) == [1, 2]
    assert "a.zip" in clone.damaged[0]
    shown = tpbench_inside("table", "s6")
    assert shown.returncode == 0
    assert shown.stderr.count("warning: ") == 1
    checked = tpbench_inside("results", "check")
    assert checked.returncode == 1
    assert counts(checked.stdout)[:2] == [2, 1]
    assert "a.zip" in checked.stderr


def test_a_damaged_entry_costs_that_run_alone(clone: RunStore) -> None:
    entry = f"runs/{record(seed=5).definition.id}.json"
    (clone.folder / "c.zip").write_bytes(archive_of(record(seed=6), others={entry: record(seed=6).to_json()}))
    assert sorted(seeds(clone)) == [0, 1, 2, 6]
    assert f"c.zip: {entry}: " in clone.damaged[0]
    found = check_store(RunStore(clone.folder))[RUNS]
    assert found.valid == 4
    assert [entry in message and "c.zip" in message for message in found.wrong] == [True]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_flipped_bytes_in_an_archive_are_one_message(tmp_path: Path, compression: int) -> None:
    path, run = tmp_path / "a.zip", record(errors=[0.1] * 50)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"runs/{run.definition.id}.json", run.to_json())
    content = bytearray(path.read_bytes())
    for place in range(120, len(content) // 2, 7):
        content[place] ^= 0x55
    path.write_bytes(content)
    store = RunStore(tmp_path)
    assert list(store.records()) == []
    assert len(store.damaged) == 1


def test_too_large_an_entry_is_not_read(clone: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUNS", replace(RUNS, largest=10))
    assert list(clone.records()) == []
    assert "larger" in clone.damaged[0]


def test_a_newer_format_in_an_archive_is_an_error(clone: RunStore) -> None:
    newer = record(seed=8)
    entry = f"runs/{newer.definition.id}.json"
    (clone.folder / "c.zip").write_bytes(archive_of(others={entry: of_newer_format(newer)}))
    with pytest.raises(NewerFormat, match=rf"c\.zip: {entry}: "):
        list(clone.records())
    found = check_store(clone)[RUNS]
    assert (found.valid, found.newer, len(found.wrong)) == (3, 1, 1)


def test_archives_alone_merge_and_pack(clone: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    assert counts(tpbench_inside("results", "merge", "results", "into").stdout) == [3, 0]
    assert counts(tpbench_inside("results", "merge", "results/a.zip", "results").stdout) == [0, 2]
    clone.publish(record(seed=9))
    assert counts(tpbench_inside("results", "pack", "results/a.zip").stdout) == [4]
    (clone.folder / "b.zip").unlink()
    assert sorted(seeds(RunStore(clone.folder))) == [0, 1, 2, 9]
    assert tpbench_inside("results", "merge", "results/empty.zip", "into").returncode == 2


def test_pack_does_not_replace_an_archive_of_the_store_that_it_could_not_read(
    clone: RunStore, tpbench_inside: Inside
) -> None:
    entry = f"runs/{record(seed=5).definition.id}.json"
    for content in (
        b"broken",
        archive_of(others={"alignment/x.json": "{}"}),
        archive_of(others={entry: "{}"}),
        archive_of(others={entry: of_newer_format(record(seed=5))}),
    ):
        (clone.folder / "a.zip").write_bytes(content)
        result = tpbench_inside("results", "pack", "results/a.zip")
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        assert (clone.folder / "a.zip").read_bytes() == content


@pytest.mark.parametrize("target", ["all.zip", "other/all.zip", "other/ALL.ZIP"])
def test_pack_does_not_replace_a_file_that_holds_more(
    target: str, clone: RunStore, tpbench_inside: Inside, tmp_path: Path
) -> None:
    """Also in the store's own folder, where only files that end in ``.zip`` are read."""
    other = RunStore(tmp_path / "other")
    other.publish(record(seed=7))
    packed = tmp_path / target
    assert tpbench_inside("results", "pack", "all.zip").returncode == 0
    before = (tmp_path / "all.zip").read_bytes()
    packed.write_bytes(before)
    result = tpbench_inside("results", "pack", target, "--results", "other")
    if target == "other/all.zip":
        # A layer of the store, so all of it is written.
        assert counts(result.stdout) == [4]
        return
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {target}: ")
    assert counts(result.stderr)[0] == 3
    assert packed.read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "other").iterdir() if path.is_file()) == (
        [packed.name] if packed.parent == other.folder else []
    )
    # As it says: merged first, nothing is lost.
    assert tpbench_inside("results", "merge", target, "other").returncode == 0
    assert counts(tpbench_inside("results", "pack", target, "--results", "other").stdout) == [4]


def test_pack_does_not_replace_what_it_has_otherwise_or_cannot_read(
    clone: RunStore, tpbench_inside: Inside, tmp_path: Path
) -> None:
    run = f"runs/{record(seed=0).definition.id}.json"
    retrained = replace(record(seed=0), wall_time_s=9.0)
    for content, message in (
        (archive_of(retrained), "would lose 1 of its"),
        (archive_of(others={run: "{}"}), "replacing the archive would lose it; write to another file"),
        (archive_of(others={"alignment/x.json": "{}"}), "replacing the archive would lose it; write to another file"),
        (archive_of(others={run: of_newer_format(record(seed=0))}), "write to another file"),
        (archive_of(others={"thesis.tex": "years of work"}), "holds 'thesis.tex', which is neither"),
        (b"years of work", "backup.zip"),
    ):
        (tmp_path / "backup.zip").write_bytes(content)
        result = tpbench_inside("results", "pack", "backup.zip")
        assert result.returncode == 2
        assert message in result.stderr
        assert (tmp_path / "backup.zip").read_bytes() == content


def test_a_run_in_an_archive_is_not_trained_again(clone: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "bp.yaml").write_text("lr: 1.0e-3\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1.0e-8\n")
    arguments = ("run", "digits", "bp", "--config", "bp.yaml", "--seeds", "0", "--epochs", "1")
    assert tpbench_inside(*arguments, "--results", "first").returncode == 0
    tpbench_inside("results", "pack", "results/d.zip", "--results", "first")
    assert counts(tpbench_inside(*arguments).stdout)[:2] == [1, 1]
