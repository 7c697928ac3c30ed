"""Sweeps in archives: packed, listed, plotted, exported, checked and merged; nothing of one machine goes along."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import tpbench
from tests.conftest import Inside
from tests.documents import ROOT
from tests.results.records import archive_of, counts, record
from tests.search.test_trials import DEFINITION, ENDED, OUTCOMES, SUGGESTED, searched
from tpbench.engine import TpbenchError, UsageError
from tpbench.reports.tuning_plots import search_figure, tuning_figure
from tpbench.results import RunStore
from tpbench.results.maintenance import Packed, pack_store
from tpbench.results.opening import open_source
from tpbench.search.journal import Journal
from tpbench.search.listing import check_sweeps, get_sweep, list_sweeps, merge_sweeps
from tpbench.search.removal import plan_sweep

NAME = "mnist-bp-1"
JOURNAL, SWEEP = f"sweeps/{NAME}/journal.jsonl", f"sweeps/{NAME}/sweep.json"


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A store with one run and one sweep, which failed once and has options of this machine."""
    results = tmp_path / "results"
    sweep = searched(results, NAME)
    (sweep.folder / "options.json").write_text(json.dumps({"data": str(tmp_path / "data")}))
    Journal.open(sweep.journal_path).fail(f"{tmp_path}/data: no such folder")
    RunStore(results).publish(record())
    return RunStore(results)


@pytest.fixture
def archived(store: RunStore, tmp_path: Path) -> RunStore:
    """A store whose only content is the archive of that store."""
    (tmp_path / "clone").mkdir()
    pack_store(store, tmp_path / "clone" / "a.zip")
    return RunStore(tmp_path / "clone")


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_archive(path: Path, definition: str, *lines: object) -> None:
    journal = "".join(f"{json.dumps(line)}\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive_of(record(), others={SWEEP: definition, JOURNAL: journal}))


def finish_pack(results: Path) -> None:
    Journal.open(results / JOURNAL).end_pack(2, OUTCOMES)


def test_pack_takes_journals_along_without_anything_of_one_machine(store: RunStore, tmp_path: Path) -> None:
    with (store.folder / JOURNAL).open("a") as file:
        file.write('{"event": "ended", "pa')  # a crash cut it short
    assert pack_store(store, tmp_path / "a.zip") == Packed(runs=1, predictions=0, alignments=0, sweeps=1)
    packed = entries(tmp_path / "a.zip")
    assert {name for name in packed if name.startswith("sweeps/")} == {SWEEP, JOURNAL}
    assert packed[SWEEP] == (store.folder / SWEEP).read_bytes()
    assert len(packed[JOURNAL].splitlines()) == 5
    assert not any(str(tmp_path).encode() in content for content in packed.values())
    before = (tmp_path / "a.zip").read_bytes()
    pack_store(store, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == before


def test_archived_sweeps_are_listed_exported_and_plotted(
    store: RunStore, archived: RunStore, tpbench_inside: Inside
) -> None:
    [status] = list_sweeps(archived)
    assert (status.id, status.state, status.searched, status.archive) == (NAME, "interrupted", 8, "a.zip")
    assert not status.command
    assert str(archived.folder / "a.zip") in status.reason
    assert tpbench.load_trials(archived.folder).equals(tpbench.load_trials(store.folder))
    search_figure(archived, NAME)
    tuning_figure(archived, "mnist")
    assert "archived" in tpbench_inside("sweeps", "--results", "clone").stdout
    [shown] = json.loads(tpbench_inside("sweeps", "--json", "--results", "clone").stdout)
    assert shown["archive"] == "a.zip"
    for command in (("plot", "search", NAME), ("plot", "tuning", "mnist"), ("report",)):
        ended = tpbench_inside(*command, "--results", "clone")
        assert ended.returncode == 0, ended.stderr
    assert not (archived.folder / "sweeps").exists()


def test_an_archived_sweep_whose_final_runs_are_there_is_done(tmp_path: Path) -> None:
    run = record()
    final = ENDED["outcomes"][0] | {"run": run.definition.id}  # type: ignore[index]
    write_archive(
        tmp_path / "a.zip",
        json.dumps(DEFINITION.plain()),
        SUGGESTED,
        ENDED,
        {"event": "split", "packs": 1},
        {"event": "final", "outcomes": [final]},
    )
    [status] = list_sweeps(RunStore(tmp_path))
    assert (status.state, status.archive) == ("done", "a.zip")


def test_a_folder_counts_before_an_archive_and_of_archives_the_longest(store: RunStore, archived: RunStore) -> None:
    finish_pack(store.folder)
    pack_store(store, archived.folder / "b.zip")
    clone = RunStore(archived.folder)
    assert get_sweep(clone, NAME).archive == clone.folder / "b.zip"
    assert len(tpbench.load_trials(clone.folder)) == 12
    assert check_sweeps(clone).problems == []
    (clone.folder / "c.zip").write_bytes((clone.folder / "a.zip").read_bytes())
    searched(clone.folder, NAME)
    assert get_sweep(RunStore(clone.folder), NAME).archive is None
    assert len(list_sweeps(RunStore(clone.folder))) == 1


def test_a_damaged_journal_in_an_archive_is_named_by_check(tmp_path: Path, tpbench_inside: Inside) -> None:
    path = tmp_path / "results" / "a.zip"
    definition = json.dumps(DEFINITION.plain())
    for content, where in (
        ((definition, SUGGESTED, {"event": "ended", "pack": 7, "outcomes": []}), f"{JOURNAL}:2: "),
        ((definition, SUGGESTED, 5), f"{JOURNAL}:2: "),
        (("{}", SUGGESTED), f"{SWEEP}: "),
        (("[]", SUGGESTED), f"{SWEEP}: "),
    ):
        write_archive(path, *content)
        check = check_sweeps(RunStore(path.parent))
        assert check.valid == 0
        [message] = check.wrong
        assert f"a.zip: {where}" in message
        assert "--fresh" not in message
        ended = tpbench_inside("results", "check")
        assert ended.returncode == 1
        assert "a.zip" in ended.stderr
        assert [status.state for status in list_sweeps(RunStore(path.parent))] == ["damaged"]
    path.write_bytes(archive_of(others={JOURNAL: json.dumps(SUGGESTED) + "\n"}))
    assert len(check_sweeps(RunStore(path.parent)).wrong) == 1


def test_a_journal_that_is_too_large_is_not_read(archived: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from tpbench.results import sweep_files

    monkeypatch.setitem(sweep_files.LARGEST, "journal.jsonl", 10)
    [message] = check_sweeps(archived).wrong
    assert "a.zip" in message
    assert "larger" in message


@pytest.mark.parametrize("name", ["..", "../x", "a/b", ".hidden", "a\\b", "", "a" * 300])
def test_a_name_that_leads_elsewhere_is_no_sweep(tmp_path: Path, name: str, tpbench_inside: Inside) -> None:
    """A store leaves such entries alone; merge and pack refuse the archive, as with any other file."""
    results = tmp_path / "results"
    results.mkdir()
    definition = json.dumps(DEFINITION.plain())
    (results / "a.zip").write_bytes(archive_of(record(), others={f"sweeps/{name}/sweep.json": definition}))
    assert list_sweeps(RunStore(results)) == []
    assert tpbench_inside("results", "merge", "results", "into").returncode == 0
    assert not (tmp_path / "into" / "sweeps").exists()
    assert tpbench_inside("results", "merge", "results/a.zip", "into").returncode == 2
    assert tpbench_inside("results", "pack", "results/a.zip").returncode == 2


def test_a_sweep_whose_folder_no_archive_can_name_is_left_out_and_named(store: RunStore, tmp_path: Path) -> None:
    (store.folder / "sweeps" / NAME).rename(store.folder / "sweeps" / "my own")
    assert pack_store(store, tmp_path / "a.zip").sweeps == 0
    assert any("my own" in message for message in store.damaged)


def test_merge_brings_sweeps_from_archives_and_folders(
    store: RunStore, archived: RunStore, tpbench_inside: Inside, tmp_path: Path
) -> None:
    for source in ("clone/a.zip", "clone", "results"):
        into = f"into-{source.replace('/', '-')}"
        ended = tpbench_inside("results", "merge", source, into)
        assert ended.returncode == 0, ended.stderr
        assert counts(ended.stdout) == [1, 0, 1, 0]
        assert tpbench.load_trials(tmp_path / into).equals(tpbench.load_trials(store.folder))
        assert not (tmp_path / into / "sweeps" / NAME / "options.json").exists()
        assert counts(tpbench_inside("results", "merge", source, into).stdout) == [0, 1, 0, 1]


def test_an_archive_of_sweeps_alone_is_merged(store: RunStore, tmp_path: Path, tpbench_inside: Inside) -> None:
    content = {SWEEP: (store.folder / SWEEP).read_bytes(), JOURNAL: (store.folder / JOURNAL).read_bytes()}
    (tmp_path / "s.zip").write_bytes(archive_of(others=content))
    assert tpbench_inside("results", "merge", "s.zip", "into").returncode == 0
    assert len(tpbench.load_trials(tmp_path / "into")) == 8


def test_merge_keeps_the_longer_of_two_journals(store: RunStore, archived: RunStore, tmp_path: Path) -> None:
    into = RunStore(tmp_path / "into")
    merge_sweeps(archived, into)
    finish_pack(store.folder)
    merged = merge_sweeps(store, into)
    assert (merged.new, merged.longer, merged.known, merged.conflicts) == (0, 1, 0, [])
    assert len(tpbench.load_trials(into.folder)) == 12
    merged = merge_sweeps(open_source(str(archived.folder / "a.zip")), into)
    assert (merged.new, merged.longer, merged.known, merged.conflicts) == (0, 0, 1, [])
    assert len(tpbench.load_trials(into.folder)) == 12


def test_merge_names_sweeps_in_conflict_and_changes_neither(
    store: RunStore, archived: RunStore, tmp_path: Path, tpbench_inside: Inside
) -> None:
    other = searched(tmp_path / "into", NAME)
    finish_pack(store.folder)
    Journal.open(other.journal_path).end_pack(2, [])
    before = other.journal_path.read_bytes()
    [conflict] = merge_sweeps(store, RunStore(tmp_path / "into")).conflicts
    assert NAME in conflict
    assert other.journal_path.read_bytes() == before
    assert tpbench_inside("results", "merge", "results", "into").returncode == 1
    (other.folder / "sweep.json").write_text(json.dumps(replace(DEFINITION, pack=2).plain()))
    assert len(merge_sweeps(archived, RunStore(tmp_path / "into")).conflicts) == 1


def test_merge_leaves_a_sweep_at_work_alone(store: RunStore, archived: RunStore, tmp_path: Path) -> None:
    into = RunStore(tmp_path / "into")
    merge_sweeps(archived, into)
    finish_pack(store.folder)
    with get_sweep(into, NAME).lock(), pytest.raises(TpbenchError, match="running"):
        merge_sweeps(store, into)
    assert len(tpbench.load_trials(into.folder)) == 8


def test_check_names_copies_of_a_sweep_that_disagree(store: RunStore, archived: RunStore, tmp_path: Path) -> None:
    searched(archived.folder, NAME)
    assert check_sweeps(archived).problems == []
    Journal.open(archived.folder / JOURNAL).end_pack(2, [])
    finish_pack(store.folder)
    pack_store(store, archived.folder / "b.zip")
    check = check_sweeps(RunStore(archived.folder))
    assert check.valid == 1
    assert [("b.zip" in message, "a.zip" in message) for message in check.conflicts] == [(True, False)]
    with pytest.raises(TpbenchError):
        pack_store(RunStore(archived.folder), tmp_path / "c.zip")
    assert not (tmp_path / "c.zip").exists()


def test_pack_refuses_to_lose_a_journal(store: RunStore, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    finish_pack(store.folder)
    pack_store(store, path)
    before = path.read_bytes()
    without = RunStore(tmp_path / "without")
    without.publish(record())
    shorter = searched(tmp_path / "shorter", NAME)
    RunStore(tmp_path / "shorter").publish(record())
    for other in (without, RunStore(tmp_path / "shorter")):
        with pytest.raises(UsageError):
            pack_store(other, path)
        assert path.read_bytes() == before
    # As it says: merged first, nothing is lost.
    merge_sweeps(open_source(str(path)), RunStore(tmp_path / "shorter"))
    assert shorter.exists
    assert pack_store(RunStore(tmp_path / "shorter"), path).sweeps == 1
    assert entries(path)[JOURNAL] == zipped(before, tmp_path)[JOURNAL]


def zipped(content: bytes, folder: Path) -> dict[str, bytes]:
    (folder / "before.zip").write_bytes(content)
    return entries(folder / "before.zip")


def test_a_longer_journal_replaces_the_one_of_an_archive(store: RunStore, tmp_path: Path) -> None:
    pack_store(store, tmp_path / "a.zip")
    finish_pack(store.folder)
    assert pack_store(store, tmp_path / "a.zip").sweeps == 1
    assert len(entries(tmp_path / "a.zip")[JOURNAL].splitlines()) == 6


def test_a_damaged_sweep_is_left_out_of_a_pack_and_named(store: RunStore, tmp_path: Path) -> None:
    (store.folder / JOURNAL).write_text("{\n")
    assert pack_store(store, tmp_path / "a.zip").sweeps == 0
    assert any(f"{JOURNAL}:1: " in message for message in store.damaged)


def test_an_archived_sweep_is_not_removed(archived: RunStore) -> None:
    with pytest.raises(UsageError, match="archives are never changed"):
        plan_sweep(archived, NAME)


def test_the_shell_completes_archived_sweeps(archived: RunStore) -> None:
    from types import SimpleNamespace

    from tpbench.cli.app import complete_plotted

    context = SimpleNamespace(params={"kind": "search", "results": str(archived.folder)})
    assert complete_plotted(context, "mnist-b") == [NAME]  # type: ignore[arg-type]


COMMITTED = "mnist-ddtp-linear-ce3e265d"


def test_the_committed_sweep_of_an_older_version_has_its_id_still() -> None:
    definition = get_sweep(RunStore(ROOT / "results"), COMMITTED).read()
    assert definition.id == COMMITTED
    assert definition.trial_epochs == definition.epochs == 27
