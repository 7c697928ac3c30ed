"""What ``results remove`` deletes, and what stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.results.records import archive_of, record
from tests.results.test_predictions import bits
from tpbench.engine import TpbenchError, UsageError
from tpbench.results import RunStore
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.journal import Journal
from tpbench.search.removal import plan_checkpoints, plan_runs, plan_sweep
from tpbench.training.plan import Outcome


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    made = RunStore(tmp_path / "results")
    for seed in range(3):
        run = record(seed=seed, found={"by": "search", "role": "search", "sweep": definition().id})
        made.publish(run, bits(run))
    return made


def definition(trials: int = 2) -> SweepDefinition:
    return SweepDefinition("mnist", "bp", "f" * 64, {}, 2, 1, (0,), 0, trials, 1)


def sweep(store: RunStore, name: str, *seeds: int) -> SweepFolder:
    """A sweep whose journal names the runs of these seeds."""
    folder = SweepFolder(store.folder / "sweeps" / name)
    (folder.folder / "sweep.json").parent.mkdir(parents=True)
    (folder.folder / "sweep.json").write_text(json.dumps(definition(len(seeds)).plain()))
    journal = Journal.open(folder.journal_path)
    journal.add_pack([{"lr": 1e-3} for _ in seeds])
    journal.end_pack(0, [Outcome(record(seed=seed).definition.id, "finished", 0.1, 0.1) for seed in seeds])
    return folder


def files(store: RunStore) -> set[str]:
    return {path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file()}


def of_seed(seed: int) -> set[str]:
    run_id = record(seed=seed).definition.id
    return {f"runs/{run_id}.json", f"runs/{run_id}.bits"}


def test_runs_go_with_their_predictions_when_yes_is_said(store: RunStore, tpbench_inside: Inside) -> None:
    before, run_id = files(store), record(seed=1).definition.id
    assert tpbench_inside("results", "remove", run_id[:10]).returncode == 0
    assert files(store) == before
    assert tpbench_inside("results", "remove", run_id[:10], "--yes").returncode == 0
    assert files(store) == before - of_seed(1)
    assert tpbench_inside("results", "remove", run_id, "--yes").returncode == 2
    assert tpbench_inside("results", "remove").returncode == 2


def test_what_an_archive_holds_stays(store: RunStore) -> None:
    (store.folder / "a.zip").write_bytes(archive_of(record(seed=1), record(seed=7)))
    content = (store.folder / "a.zip").read_bytes()
    removal = plan_runs(RunStore(store.folder), [record(seed=seed).definition.id for seed in (1, 7)])
    assert len(removal.lines) == 1
    assert len(removal.staying) == 2
    removal.carry_out()
    assert (store.folder / "a.zip").read_bytes() == content
    assert not of_seed(1) & files(store)


def test_a_sweep_goes_with_its_runs_but_not_with_those_of_others(store: RunStore) -> None:
    first = sweep(store, "mnist-bp-one", 0, 1)
    sweep(store, "mnist-bp-two", 1)
    removal = plan_sweep(store, "mnist-bp-one")
    assert len(removal.staying) == 1
    removal.carry_out()
    assert not first.folder.exists()
    left = files(store)
    assert not of_seed(0) & left
    assert of_seed(1) | of_seed(2) <= left
    with pytest.raises(UsageError):
        plan_sweep(store, "mnist-bp-one")


def test_a_sweep_at_work_is_not_removed(store: RunStore) -> None:
    folder = sweep(store, "mnist-bp-one", 0)
    before = files(store)
    with folder.lock(), pytest.raises(TpbenchError):
        plan_sweep(store, "mnist-bp-one")
    with folder.lock():
        with pytest.raises(TpbenchError):
            plan_runs(store, [record(seed=0).definition.id])
        with pytest.raises(TpbenchError):
            plan_checkpoints(store)
        assert plan_runs(store, [record(seed=1).definition.id]).lines
    assert before <= files(store)


@pytest.mark.parametrize("locked", [0, 1])
def test_a_run_of_two_sweeps_stays_while_one_of_them_is_at_work(store: RunStore, locked: int) -> None:
    folders = [sweep(store, "mnist-bp-one", 0, 1), sweep(store, "mnist-bp-two", 1, 2)]
    with folders[locked].lock(), pytest.raises(TpbenchError):
        plan_runs(store, [record(seed=1).definition.id])
    assert len(plan_runs(store, [record(seed=1).definition.id]).staying) == 2


def test_a_run_that_a_sweep_only_found_stays(store: RunStore) -> None:
    store.publish(record(seed=5))
    sweep(store, "mnist-bp-one", 0, 5)
    plan_sweep(store, "mnist-bp-one").carry_out()
    left = files(store)
    assert f"runs/{record(seed=5).definition.id}.json" in left
    assert not of_seed(0) & left


def test_a_damaged_run_and_predictions_without_a_run_can_be_removed(store: RunStore) -> None:
    ids = [record(seed=seed).definition.id for seed in (0, 1)]
    store.path(ids[0]).write_text("{}")
    store.path(ids[1]).unlink()
    plan_runs(RunStore(store.folder), [f"runs/{ids[0]}.json", ids[1]]).carry_out()
    assert not (of_seed(0) | of_seed(1)) & files(store)


def test_predictions_beside_an_archived_run_stay_with_it(store: RunStore) -> None:
    run_id = record(seed=1).definition.id
    (store.folder / "a.zip").write_bytes(archive_of(record(seed=1)))
    store.path(run_id).unlink()
    removal = plan_runs(RunStore(store.folder), [run_id])
    assert (removal.files, removal.lines) == ([], [])


def test_a_copy_of_other_curves_that_would_count_is_told(store: RunStore) -> None:
    (store.folder / "a.zip").write_bytes(archive_of(record(seed=1, errors=[0.5, 0.1])))
    (line,) = plan_runs(RunStore(store.folder), [record(seed=1).definition.id]).staying
    assert "OTHER CURVES" in line


def test_of_a_sweep_with_a_damaged_journal_the_runs_stay(store: RunStore) -> None:
    folder = sweep(store, "mnist-bp-one", 0)
    folder.journal_path.write_text("{}\n")
    plan_sweep(store, "mnist-bp-one").carry_out()
    assert not folder.folder.exists()
    assert of_seed(0) <= files(store)


def test_checkpoints_go_all_at_once(store: RunStore, tpbench_inside: Inside) -> None:
    assert not plan_checkpoints(store).lines
    (store.folder / "checkpoints").mkdir()
    (store.folder / "checkpoints" / "a.pt").write_bytes(b"x" * 1000)
    assert tpbench_inside("results", "remove", "--checkpoints", "--yes").returncode == 0
    assert list((store.folder / "checkpoints").iterdir()) == []
