"""Runs in MLflow, read back with its own client. One file: importing MLflow and making its tables takes seconds."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import stat
import tempfile
import threading
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import CONFIGURATION, Inside
from tests.results.records import record
from tests.training.test_packs import InterruptedTrainingError
from tests.training.test_tracking import interrupt_at
from tpbench.engine import METHODS, MemberHistory
from tpbench.results import RunRecord, RunStore
from tpbench.training import tracking
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackPlan, PackSettings
from tpbench.training.tracking import Member, Target, open_tracker, prepare_trackers, resolve_targets, track_store
from tpbench.workloads import WORKLOADS

# Its import takes seconds, also of a worker that runs none of these tests: each test imports it for itself.
if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed: pip install 'tpbench[mlflow]'"),
]

PARAMETERS = {name: CONFIGURATION[name] for name in METHODS["bp"].hyperparameters}


class Experiment:
    """The runs of a results folder in MLflow."""

    def __init__(self, results: Path) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=f"sqlite:///{results}/mlflow.db")
        self.id = self.client.get_experiment_by_name("tpbench").experiment_id

    def runs(self) -> dict[str, Any]:
        """MLflow's runs by tpbench's id; none is there twice."""
        found = self.client.search_runs([self.id])
        assert len({run.data.tags["tpbench.run"] for run in found}) == len(found)
        return {run.data.tags["tpbench.run"]: run for run in found}

    def points(self, run: Any, name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, name)]

    def steps(self, run: Any, name: str) -> list[int]:
        return [step for step, _ in self.points(run, name)]


@dataclass(frozen=True)
class Trained:
    """A pack of two, one of them pruned, that was interrupted and continued."""

    folder: Path
    experiment: Experiment
    before: dict[str, Any]
    """MLflow's runs after the interruption, by tpbench's id."""
    steps_before: list[int]
    after: dict[str, Any]
    pruned: str
    finished: str
    record: RunRecord
    """The store's of the run that finished."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("mlflow")
    results = folder / "results"
    plan = PackPlan(WORKLOADS["digits"], "bp", ({**PARAMETERS, "lr": 1e-9}, PARAMETERS), (0, 0), 8, prune=True)
    settings = PackSettings(str(results), checkpoint_every=2, track=(f"mlflow:sqlite:///{results}/mlflow.db",))
    with pytest.MonkeyPatch.context() as patch:
        for limit in ("_INTERRUPTION_LIMIT", "_LIMIT"):  # a busy machine is no failure
            patch.setattr(tracking, limit, 200.0)
        with pytest.raises(InterruptedTrainingError):
            PackJob(plan, settings).run(interrupt_at(7))
        pruned, finished = (definition.id for definition in PackJob(plan, settings).definitions)
        experiment = Experiment(results)
        before = experiment.runs()
        steps = experiment.steps(before[finished], "test_error")
        assert [outcome.status for outcome in PackJob(plan, settings).run()] == ["pruned", "finished"]
    (kept,) = RunStore(results).records()
    return Trained(folder, experiment, before, steps, experiment.runs(), pruned, finished, kept)


@pytest.fixture
def copied(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """The results of the pack in the current folder, for tests that add to them."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(trained.folder / "results", tmp_path / "results")
    return Experiment(tmp_path / "results")


def test_an_interrupted_run_is_killed_and_has_all_epochs_that_were_reported(trained: Trained) -> None:
    states = {run: (r.info.status, r.data.tags["tpbench.status"]) for run, r in trained.before.items()}
    assert states == {trained.pruned: ("FINISHED", "pruned"), trained.finished: ("KILLED", "training")}
    assert trained.steps_before == list(range(1, 8))  # the checkpoint is of the sixth


def test_a_continued_run_is_the_same_run_with_every_epoch_once(trained: Trained) -> None:
    ids = [{run: r.info.run_id for run, r in runs.items()} for runs in (trained.before, trained.after)]
    assert ids[0] == ids[1]
    run = trained.after[trained.finished]
    assert run.info.status == "FINISHED"
    for name, values in trained.record.curves.items():
        assert sorted(trained.experiment.points(run, name)) == list(enumerate(values, start=1))
    assert trained.experiment.steps(run, "selected_epoch") == [trained.record.history.selected_epoch + 1]


def test_a_run_has_its_name_hyperparameters_and_tags(trained: Trained) -> None:
    run = trained.after[trained.finished]
    assert run.info.run_name == f"digits/bp/seed0/{trained.finished}"
    assert run.data.metrics["selected_test_error"] == trained.record.test_error
    assert {name: float(value) for name, value in run.data.params.items()} == PARAMETERS
    expected = {"tpbench.workload": "digits", "tpbench.status": "finished", "tpbench.data": "exact"}
    assert expected.items() <= run.data.tags.items()


def test_a_pruned_run_has_its_epochs(trained: Trained) -> None:
    steps = trained.experiment.steps(trained.after[trained.pruned], "validation_error")
    assert steps == list(range(1, WORKLOADS["digits"].prune[0] + 1))


def test_results_track_adds_what_is_missing_once(copied: Experiment, tmp_path: Path, tpbench_inside: Inside) -> None:
    for run in (record("dtp", 1), record("dtp", 2, errors=[], status="diverged")):
        RunStore(tmp_path / "results").publish(run)
    for new, known in ((2, 1), (0, 3)):
        ended = tpbench_inside("results", "track", "results", "--track", "mlflow")
        assert ended.stdout == f"{new} runs tracked, {known} there already\n"
    states = sorted((r.info.status, r.data.tags["tpbench.status"]) for r in copied.runs().values())
    assert states == [
        ("FAILED", "diverged"),
        ("FINISHED", "finished"),
        ("FINISHED", "finished"),
        ("FINISHED", "pruned"),
    ]
    assert not (tmp_path / "mlruns").exists()


def test_a_run_that_was_trained_again_has_the_numbers_of_one_training(
    copied: Experiment, trained: Trained, tmp_path: Path
) -> None:
    other = replace(
        trained.record,
        curves={name: [value + 0.01 for value in values] for name, values in trained.record.curves.items()},
        digest_of_curves="",
    )
    targets = [f"mlflow:sqlite:///{tmp_path}/results/mlflow.db"]
    RunStore(tmp_path / "again").publish(other)
    assert track_store(RunStore(tmp_path / "again"), targets) == (1, 0)
    assert track_store(RunStore(tmp_path / "again"), targets) == (0, 1)
    run = copied.runs()[trained.finished]
    for name, values in other.curves.items():
        assert sorted(copied.points(run, name)) == list(enumerate(values, start=1))
    assert run.data.metrics["selected_test_error"] == other.test_error
    # A training that begins anew, as on another device, after feedback that is trained first.
    member, history = Member.from_record(trained.record), trained.record.history
    for first in (0, 1):
        with closing(open_tracker(Target.from_text(targets[0]))) as tracker:
            tracker.update(member, MemberHistory({name: v[:first] for name, v in history.curves.items()}))
    assert copied.steps(copied.runs()[trained.finished], "train_loss") == [1]
    # One that differs later than what was compared, and one that ends before its first epoch.
    late = {name: [*values[:-1], values[-1] + 0.01] for name, values in history.curves.items()}
    for ended in (history, MemberHistory(late, "finished"), MemberHistory({name: [] for name in late}, "diverged")):
        with closing(open_tracker(Target.from_text(targets[0]))) as tracker:
            tracker.update(member, MemberHistory({name: v[:1] for name, v in ended.curves.items()}))
            tracker.update(member, ended)
            assert not tracker.has(member, other.history)
            assert open_tracker(Target.from_text(targets[0])).has(member, ended)
        run = copied.runs()[trained.finished]
        for name, values in ended.curves.items():
            assert sorted(copied.points(run, name)) == list(enumerate(values, start=1))
        assert len(copied.steps(run, "selected_test_error")) == bool(ended.epochs)


def test_a_command_continues_what_is_there(copied: Experiment, tmp_path: Path, tpbench_inside: Inside) -> None:
    (tmp_path / "c.yaml").write_text("".join(f"{name}: {value}\n" for name, value in PARAMETERS.items()))
    arguments = ("run", "digits", "bp", "--config", "c.yaml", "--seeds", "0-1", "--epochs", "8", "--track", "mlflow")
    ended = tpbench_inside(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    runs = copied.runs().values()
    assert sorted(run.data.tags["tpbench.seed"] for run in runs) == ["0", "0", "1"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(len(copied.steps(run, "selected_test_error")) == 1 for run in runs)


def test_a_locked_database_is_waited_for(copied: Experiment, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "results")
    store.publish(record("dtp", 1))
    other = sqlite3.connect(tmp_path / "results" / "mlflow.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(1.0, other.execute, ["ROLLBACK"])
    timer.start()
    assert track_store(store, resolve_targets(["mlflow"], str(tmp_path / "results"))) == (1, 1)
    timer.join()
    other.close()


def test_a_server_that_is_gone_is_noticed_at_once() -> None:
    from tpbench.training import mlflow as adapter

    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            adapter.require_server(f"http://127.0.0.1:{closed.getsockname()[1]}")
    adapter.require_server("sqlite:///a.db")


def test_an_sqlite_file_that_cannot_be_opened_is_noticed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tpbench.training import mlflow as adapter

    monkeypatch.setattr(adapter, "MlflowClient", lambda **_: pytest.fail("MLflow tries for minutes"))
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "text.db").write_text("no database " * 100)
    for name in ("folder.db", "text.db", "text.db/x.db"):
        with pytest.raises((OSError, sqlite3.Error)):
            adapter.MlflowRuns(f"sqlite:///{tmp_path}/{name}")
    adapter.require_file(tmp_path / "new" / "a.db")


# Places


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The current folder, with nothing of MLflow's set."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def statuses(client: MlflowClient, experiment: str = "tpbench") -> list[str]:
    found = client.get_experiment_by_name(experiment)
    assert found.lifecycle_stage == "active"
    return [run.data.tags["tpbench.status"] for run in client.search_runs([found.experiment_id])]


@pytest.mark.parametrize("name", ["what?", "my%20results"])
def test_mlflow_writes_where_it_was_told(here: Path, name: str) -> None:
    store = RunStore(here / name)
    store.publish(record())
    before = os.umask(0o002)
    try:
        assert track_store(store, resolve_targets(["mlflow"], name)) == (1, 0)
    finally:
        os.umask(before)
    database = here / name / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT name FROM experiments WHERE name = 'tpbench'").fetchall()
    # Nothing lies beside it, and the group may write it.
    assert {path.name for path in here.iterdir()} <= {name}
    assert stat.S_IMODE(database.stat().st_mode) == 0o664
    assert track_store(store, resolve_targets(["mlflow"], name)) == (0, 1)


def test_a_deleted_experiment_is_restored_and_said(here: Path) -> None:
    from mlflow import MlflowClient

    store = RunStore(here / "results")
    store.publish(record())
    targets = resolve_targets(["mlflow"], "results")
    said: list[str] = []
    assert track_store(store, targets, said.append) == (1, 0)
    client = MlflowClient(tracking_uri=Target.from_text(targets[0]).place)
    client.delete_experiment(client.get_experiment_by_name("tpbench").experiment_id)
    store.publish(record(seed=1))
    assert said == []
    assert prepare_trackers(targets, said.append) == targets
    assert len(said) == 1
    assert track_store(store, targets, said.append)[0] >= 1
    assert len(said) == 1
    assert "finished" in statuses(client)


def test_mlflows_file_store_works_or_its_remedy_is_told_in_full(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(here / "results")
    store.publish(record())
    targets = resolve_targets(["mlflow:./mlruns"], "results")
    said: list[str] = []
    if not prepare_trackers(targets, said.append):  # from 3.13 on MLflow refuses it
        assert "migrate-filestore" in said[0]
        assert "MLFLOW_ALLOW_FILE_STORE" in said[0]
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert track_store(store, targets) == (1, 0)
    assert (here / "mlruns").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_database_that_may_only_be_read_is_told_so() -> None:
    from tpbench.training import mlflow as adapter

    # Not pytest's own folder, which is private.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mlflow.db")
        adapter.require_file(path)
        adapter.require_file(path)  # it stays as it is
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (0,)
        path.parent.chmod(0o755)
        path.chmod(0o644)
        os.seteuid(12345)
        try:
            with pytest.raises(PermissionError):
                adapter.require_file(path)
        finally:
            os.seteuid(0)
