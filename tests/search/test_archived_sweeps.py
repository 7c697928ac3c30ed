"""Sweeps in archives: packed, listed, plotted, exported, checked and merged; nothing of one machine goes along."""

from __future__ import annotations

import json
import shlex
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tpbench
from tests.conftest import Inside
from tests.documents import ROOT
from tests.results.records import archive_of, counts, record
from tests.search.test_trials import DEFINITION, ENDED, OUTCOMES, SUGGESTED, searched
from tpbench.engine import TpbenchError, UsageError
from tpbench.options import SweepOptions
from tpbench.reports.tuning_plots import search_figure, tuning_figure
from tpbench.results import RunStore
from tpbench.results.maintenance import Packed
from tpbench.results.opening import open_source
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.journal import FAILED_ELSEWHERE, Journal
from tpbench.search.listing import check_sweeps, get_sweep, list_sweeps, merge_sweeps, pack_store
from tpbench.search.removal import plan_sweep
from tpbench.search.spaces import space_for
from tpbench.search.tuning import tuning_frames
from tpbench.training.plan import Outcome
from tpbench.workloads import WORKLOADS, Workload, get_workload

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
    assert json.loads(packed[SWEEP]) == json.loads((store.folder / SWEEP).read_bytes())
    *events, failure = packed[JOURNAL].splitlines()
    assert events == (store.folder / JOURNAL).read_bytes().splitlines()[:5]
    assert json.loads(failure) == {"event": "failed", "reason": FAILED_ELSEWHERE}
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


def test_of_copies_the_longest_counts_and_of_equal_ones_the_folder(store: RunStore, archived: RunStore) -> None:
    finish_pack(store.folder)
    pack_store(store, archived.folder / "b.zip")
    clone = RunStore(archived.folder)
    assert get_sweep(clone, NAME).archive == clone.folder / "b.zip"
    assert len(tpbench.load_trials(clone.folder)) == 12
    assert check_sweeps(clone).problems == []
    (clone.folder / "c.zip").write_bytes((clone.folder / "a.zip").read_bytes())
    searched(clone.folder, NAME)
    assert get_sweep(RunStore(clone.folder), NAME).archive == clone.folder / "b.zip"
    for path in clone.folder.glob("*.zip"):
        path.unlink()
    pack_store(RunStore(clone.folder), clone.folder / "a.zip")
    assert get_sweep(RunStore(clone.folder), NAME).archive is None
    assert len(list_sweeps(RunStore(clone.folder))) == 1


def test_a_shorter_folder_hides_no_longer_archive(store: RunStore, tmp_path: Path, tpbench_inside: Inside) -> None:
    searched(tmp_path / "clone", NAME)
    finish_pack(store.folder)
    pack_store(store, tmp_path / "clone" / "long.zip")
    clone = RunStore(tmp_path / "clone")
    [status] = list_sweeps(clone)
    assert (status.searched, status.archive) == (12, "long.zip")
    assert len(tpbench.load_trials(clone.folder)) == 12
    curves, _, _ = tuning_frames(clone)
    assert curves[curves.kind == "observed"].trials.max() == 12
    check = check_sweeps(clone)
    assert (check.valid, check.wrong, len(check.conflicts)) == (1, [], 1)
    assert "long.zip" in check.conflicts[0]
    merge_sweeps(clone, RunStore(tmp_path / "into"))
    assert len(tpbench.load_trials(tmp_path / "into")) == 12
    assert plan_sweep(clone, NAME).folders == [clone.folder / "sweeps" / NAME]
    with SweepFolder(clone.folder / "sweeps" / NAME).lock():
        assert list_sweeps(clone)[0].state == "running"
        with pytest.raises(TpbenchError, match="at work"):
            plan_sweep(clone, NAME)
    # As the check and the list say: then the folder has all events.
    assert advised(status.reason) == ["results", "merge", str(clone.folder / "long.zip"), str(clone.folder)]
    assert tpbench_inside(*advised(status.reason)).returncode == 0
    assert get_sweep(clone, NAME).archive is None
    assert (list_sweeps(clone)[0].searched, check_sweeps(clone).problems) == (12, [])


def test_an_archive_stands_in_for_a_damaged_folder(archived: RunStore, tpbench_inside: Inside) -> None:
    folder = searched(archived.folder, NAME)
    folder.journal_path.write_text("{\n")
    [status] = list_sweeps(archived)
    assert (status.searched, status.archive) == (8, "a.zip")
    assert str(folder.journal_path) in status.reason
    assert len(check_sweeps(archived).wrong) == 1
    # Nothing that is damaged is overwritten.
    [conflict] = merge_sweeps(open_source(str(archived.folder / "a.zip")), archived).conflicts
    assert str(folder.folder) in conflict
    assert folder.journal_path.read_text() == "{\n"


def advised(reason: str) -> list[str]:
    """The arguments of the tpbench command that a message has in quotes."""
    return shlex.split(reason.split("'")[-2])[1:]


def test_the_command_of_an_archived_sweep_copies_it_into_the_store(archived: RunStore, tpbench_inside: Inside) -> None:
    [status] = list_sweeps(archived)
    ended = tpbench_inside(*advised(status.reason))
    assert ended.returncode == 0, ended.stderr
    assert counts(ended.stdout) == [0, 1, 1, 0]
    assert get_sweep(archived, NAME).archive is None
    assert counts(tpbench_inside(*advised(status.reason)).stdout) == [0, 1, 0, 1]


def test_merge_leaves_a_sweep_that_is_done_in_its_archive(tmp_path: Path) -> None:
    final = ENDED["outcomes"][0] | {"run": record().definition.id}  # type: ignore[index]
    write_archive(tmp_path / "a.zip", json.dumps(DEFINITION.plain()), {"event": "final", "outcomes": [final]})
    merged = merge_sweeps(open_source(str(tmp_path / "a.zip")), RunStore(tmp_path))
    assert (merged.new, merged.known) == (0, 1)
    assert not (tmp_path / "sweeps").exists()


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


def test_copies_agree_that_were_measured_on_other_machines(store: RunStore, archived: RunStore) -> None:
    path = store.folder / SWEEP
    path.write_text(json.dumps({**json.loads(path.read_text()), "cost": 0.25, "packs_per_gpu": 2}))
    pack_store(store, archived.folder / "b.zip")
    assert check_sweeps(RunStore(archived.folder)).problems == []
    assert not {"cost", "packs_per_gpu"} & json.loads(entries(archived.folder / "b.zip")[SWEEP]).keys()


def test_a_sweep_whose_copies_disagree_keeps_no_run_from_being_packed(
    store: RunStore, archived: RunStore, tmp_path: Path
) -> None:
    finish_pack(store.folder)
    pack_store(store, archived.folder / "b.zip")
    other = searched(archived.folder, NAME)
    Journal.open(other.journal_path).end_pack(2, [])
    clone = RunStore(archived.folder)
    assert pack_store(clone, tmp_path / "c.zip") == Packed(runs=1, predictions=0, alignments=0, sweeps=0)
    [message] = clone.damaged
    assert str(other.folder) in message
    assert str(archived.folder / "b.zip") in message


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
    assert len(entries(tmp_path / "a.zip")[JOURNAL].splitlines()) == 7


def test_a_damaged_sweep_is_left_out_of_a_pack_and_named(store: RunStore, tmp_path: Path) -> None:
    (store.folder / JOURNAL).write_text("{\n")
    assert pack_store(store, tmp_path / "a.zip").sweeps == 0
    assert any(f"{JOURNAL}:1: " in message for message in store.damaged)


def test_only_known_fields_of_valid_files_are_packed(store: RunStore, tmp_path: Path) -> None:
    with (store.folder / JOURNAL).open("a") as file:
        file.write(json.dumps({"event": "split", "packs": 1, "where": str(tmp_path)}) + "\n")
    assert pack_store(store, tmp_path / "a.zip").sweeps == 1
    assert json.loads(entries(tmp_path / "a.zip")[JOURNAL].splitlines()[-1]) == {"event": "split", "packs": 1}
    definition = {**DEFINITION.plain(), "command": str(tmp_path)}
    (store.folder / SWEEP).write_text(json.dumps(definition))
    store.damaged.clear()
    assert pack_store(store, tmp_path / "b.zip").sweeps == 0
    assert [SWEEP in message for message in store.damaged] == [True]
    assert check_sweeps(store).valid == 0


def test_the_archive_of_the_repository_is_valid() -> None:
    check = check_sweeps(RunStore(Path(__file__).parents[2] / "results"))
    assert check.valid >= 1
    assert check.problems == []


def test_merge_overwrites_no_event_of_a_worker(
    store: RunStore, archived: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker adds an event and ends between the comparison of the copies and the lock."""
    into = RunStore(tmp_path / "into")
    merge_sweeps(archived, into)
    finish_pack(store.folder)
    lock = SweepFolder.lock

    def after_a_worker(sweep: SweepFolder) -> Any:
        Journal.open(sweep.journal_path).end_pack(2, [])
        return lock(sweep)

    monkeypatch.setattr(SweepFolder, "lock", after_a_worker)
    merged = merge_sweeps(store, into)
    assert (merged.longer, merged.known, len(merged.conflicts)) == (0, 0, 1)
    assert Journal.read(into.folder / JOURNAL).packs[2].outcomes == []


# --- sweeps that are continued in another store ---


@pytest.mark.parametrize("own_space", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seeds": (3, 4), "search_seed": 5, "objective": "train_loss", "halving": 3, "search_precision": "bf16"},
        {"seeds": (7,), "precision": "float64"},
    ],
)
def test_a_merged_sweep_has_a_command_that_continues_it(
    tmp_path: Path, tpbench_inside: Inside, own_space: bool, changes: dict[str, Any]
) -> None:
    space = space_for("bp").describe()
    if own_space:
        space |= {"lr": ["log_uniform", 1e-06, 0.5], "beta1": ["choice", 0.5, 0.9], "beta2": ["constant", 0.99]}
    definition = replace(DEFINITION, workload="digits", space=space, **{"seeds": tuple(range(10)), **changes})
    name = definition.id
    searched(tmp_path / "results", name, definition)
    pack_store(RunStore(tmp_path / "results"), tmp_path / "a.zip")
    assert tpbench_inside("results", "merge", "a.zip", "into").returncode == 0
    [status] = list_sweeps(RunStore(Path("into")))
    shown = tpbench_inside("sweeps", "--results", "into").stdout
    assert status.command in shown.splitlines()
    words = shlex.split(status.command)
    assert words[:4] == ["tpbench", "sweep", "digits", "bp"]
    assert words[-2:] == ["--results", "into"]
    file = f"into/sweeps/{name}/space.yaml"
    assert ("--space" in words, (tmp_path / file).exists()) == (own_space, own_space)
    # The options find the sweep by its id.
    plain = definition.options("digits", file if own_space else "")
    options = SweepOptions.read({name: value for name, value in plain.items() if name != "command"})
    wanted = SweepDefinition.of(
        options,
        WORKLOADS["digits"],
        "bp",
        definition.fingerprint,
        space_for("bp", tmp_path / file if own_space else None).describe(),
    )
    assert wanted.id == name
    for flag, value in (("--seeds", {(3, 4): "3-4", (7,): "7-7"}.get(definition.seeds)), ("--trials", "12")):
        assert (words[words.index(flag) + 1] if flag in words else None) == value


def test_a_merged_sweep_of_another_name_has_a_reason_in_place_of_a_command(archived: RunStore, tmp_path: Path) -> None:
    """A command finds a sweep by the name of its folder."""
    merge_sweeps(archived, RunStore(tmp_path / "into"))
    [status] = list_sweeps(RunStore(tmp_path / "into"))
    assert status.command == ""
    assert DEFINITION.id in status.reason


def test_a_failed_sweep_stays_failed_where_it_is_merged(tmp_path: Path, tpbench_inside: Inside) -> None:
    definition = replace(DEFINITION, space=space_for("bp").describe())
    source = searched(tmp_path / "results", definition.id, definition)
    into = RunStore(tmp_path / "into")
    merge_sweeps(RunStore(tmp_path / "results"), into)
    assert list_sweeps(into)[0].state == "interrupted"
    Journal.open(source.journal_path).fail(f"{tmp_path}: no such folder")
    assert merge_sweeps(RunStore(tmp_path / "results"), into).longer == 1
    [status] = list_sweeps(into)
    assert status.state == "failed"
    assert status.reason.startswith(FAILED_ELSEWHERE)
    assert "tpbench sweep mnist bp" in status.reason
    # A failure is no event of the search: it keeps no copy from being an extension of another.
    other = searched(tmp_path / "other", definition.id, definition)
    finish_pack_of(other)
    assert merge_sweeps(RunStore(tmp_path / "other"), into).longer == 1
    assert list_sweeps(into)[0].state == "interrupted"


def finish_pack_of(sweep: SweepFolder) -> None:
    Journal.open(sweep.journal_path).end_pack(2, OUTCOMES)


@pytest.fixture
def own(tmp_path: Path) -> tuple[SweepFolder, Workload]:
    """A sweep on a workload of a user's own data, which lie somewhere on this machine."""
    rng = np.random.default_rng(0)
    (tmp_path / "private").mkdir()
    np.savez(
        tmp_path / "private" / "mine.npz",
        **{f"x_{split}": rng.random((40, 3)).astype(np.float32) for split in ("train", "test")},
        **{f"y_{split}": np.arange(40) % 2 for split in ("train", "test")},
    )
    file = tmp_path / "private" / "mine.yaml"
    file.write_text("name: mine\ndata: mine.npz\nnetwork: [4]\nbatch_size: 4\nnormalise: [1.0e-5, 0.5]\n")
    workload = get_workload(str(file))
    definition = replace(DEFINITION, workload="mine", space=space_for("bp").describe(), workload_source=workload.source)
    sweep = searched(tmp_path / "results", definition.id, definition)
    sweep.keep_workload(workload)
    return sweep, workload


def test_the_workload_of_a_sweep_goes_along_without_the_place_of_its_data(
    own: tuple[SweepFolder, Workload], tmp_path: Path, tpbench_inside: Inside
) -> None:
    sweep, workload = own
    pack_store(RunStore(sweep.results), tmp_path / "a.zip")
    assert not any(str(tmp_path).encode() in content for content in entries(tmp_path / "a.zip").values())
    for source in (tmp_path / "a.zip", sweep.results):
        into = tmp_path / f"into-{source.name}"
        ended = tpbench_inside("results", "merge", str(source), str(into))
        assert ended.returncode == 0, ended.stderr
        merged = get_sweep(RunStore(into), sweep.folder.name)
        assert json.loads(merged.workload_copy.read_text())["data"] == "mine.npz"
        [status] = list_sweeps(RunStore(into))
        assert shlex.split(status.command)[2] == str(merged.workload_copy)
        # As the error of a missing file says: the data lie beside the declaration.
        shutil.copy(tmp_path / "private" / "mine.npz", merged.folder)
        assert get_workload(str(merged.workload_copy)).source == workload.source


def test_a_damaged_copy_of_a_workload_is_left_out_and_named(own: tuple[SweepFolder, Workload], tmp_path: Path) -> None:
    sweep, _ = own
    for content in (
        '{"name": "mine"}',
        "name: mine",
        json.dumps({"name": "mine", "data": str(tmp_path), "network": [4]}),
    ):
        sweep.workload_copy.write_text(content)
        store = RunStore(sweep.results)
        assert pack_store(store, tmp_path / "a.zip").sweeps == 1
        assert [str(sweep.workload_copy) in message for message in store.damaged] == [True]
        assert f"sweeps/{sweep.folder.name}/workload.yaml" not in entries(tmp_path / "a.zip")
        assert len(check_sweeps(store).wrong) == 1
        assert len(merge_sweeps(store, RunStore(tmp_path / "into")).problems) == 1
    # Without it there is no command, but a reason.
    [status] = list_sweeps(RunStore(tmp_path / "into"))
    assert (status.command, bool(status.reason)) == ("", True)


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


def test_a_search_that_learnt_nothing_says_so_where_it_is_merged(tmp_path: Path) -> None:
    """No command to repeat it: the journal is whole and has the reason."""
    folder = SweepFolder(tmp_path / "results" / "sweeps" / DEFINITION.id)
    folder.begin(replace(DEFINITION, trials=2), {})
    journal = Journal.open(folder.journal_path)
    journal.add_pack([{"lr": 1e-3}, {"lr": 1e-2}])
    journal.end_pack(0, [Outcome("a" * 24, "pruned", 0.9, 0.9)] * 2)
    journal.fail("none of them learnt anything")
    merge_sweeps(RunStore(tmp_path / "results"), RunStore(tmp_path / "into"))
    [status] = list_sweeps(RunStore(tmp_path / "into"))
    assert (status.state, status.command) == ("failed", "")
    assert not status.reason.startswith(FAILED_ELSEWHERE)


def test_a_failed_sweep_of_this_machine_keeps_its_reason(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "results" / "sweeps" / DEFINITION.id)
    folder.begin(replace(DEFINITION, trials=2), {})
    journal = Journal.open(folder.journal_path)
    journal.add_pack([{"lr": 1e-3}, {"lr": 1e-2}])
    journal.end_pack(0, [])
    journal.fail("every pack failed: out of memory")
    [status] = list_sweeps(RunStore(tmp_path / "results"))
    assert status.reason == "every pack failed: out of memory"
    merge_sweeps(RunStore(tmp_path / "results"), RunStore(tmp_path / "into"))
    [merged] = list_sweeps(RunStore(tmp_path / "into"))
    assert merged.state == "failed"
    assert "learnt" not in merged.reason
