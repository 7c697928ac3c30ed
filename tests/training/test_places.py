"""Where trackers keep runs: names of files and folders of every kind, MLflow's own stores, and what may be wrong."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.results.records import record
from tpbench.engine import UsageError
from tpbench.results import RunStore
from tpbench.sweeps.jobs import job_command, with_home
from tpbench.training.tracking.following import prepared, reason_of
from tpbench.training.tracking.stored import track_store
from tpbench.training.tracking.targets import Target, parse_target, portable_target, resolve_targets

ODD = ["what?", "my%20results", "100%", "a#1", "ü é", "lr=0.1,wd=0"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The current folder, with a home in it, and nothing of MLflow's set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def place_of(text: str, results: str = "results") -> str:
    """The path that a target names in the end."""
    (target,) = resolve_targets([text], results)
    return Target.of(target).folder_here


@pytest.mark.parametrize("name", ODD)
def test_the_database_lies_in_the_results_folder_whatever_that_is_called(here: Path, name: str) -> None:
    assert place_of("mlflow", name) == f"{here}/{name}/mlflow.db"
    # What a process has made of it, another reads in the same way.
    (once,) = resolve_targets(["mlflow"], name)
    assert resolve_targets([once], name) == (once,)
    assert portable_target(once) == once


def test_a_home_folder_and_what_is_encoded_are_meant_in_places_too(here: Path) -> None:
    home = here / "home"
    assert place_of("tensorboard:~/tb") == str(home / "tb")
    assert place_of("tensorboard", "~/r") == str(home / "r" / "tensorboard")
    assert place_of("mlflow", "~/r") == str(home / "r" / "mlflow.db")
    assert place_of("mlflow:sqlite:///~/x.db") == str(home / "x.db")
    # http:// may have been forgotten.
    with pytest.raises(UsageError):
        parse_target("mlflow:server/mlflow")
    assert place_of("mlflow:~/mlruns") == str(home / "mlruns")
    assert place_of("mlflow:sqlite:///a%20b.db") == str(here / "a b.db")
    assert place_of("mlflow:sqlite:///a.db?timeout=5") == str(here / "a.db")
    assert str(parse_target("mlflow:sqlite:///a.db?timeout=5")).endswith("?timeout=5")
    for text in ("tensorboard:~no-such-user/x", "mlflow:sqlite:///~no-such-user/x.db"):
        with pytest.raises(UsageError):
            resolve_targets([text], "results")


@pytest.mark.parametrize(
    "text", ["./mlruns", "{here}/mlruns", "file:{here}/mlruns", "file://{here}/mlruns", "file:./mlruns"]
)
def test_mlflows_own_folders_are_taken(here: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    uri = text.format(here=here)
    assert resolve_targets([f"mlflow:{uri}"], "results") == (f"mlflow:file://{here}/mlruns",)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert resolve_targets(["mlflow"], "results") == (f"mlflow:file://{here}/mlruns",)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    assert resolve_targets(["mlflow"], "results") == (f"mlflow:file://{here}/mlruns",)


def test_a_job_gets_the_home_of_who_submits_it(here: Path) -> None:
    home = here / "home"
    words = ["--results=~/r", "--data", "~/d", "--track=tensorboard:~/tb", "mlflow:sqlite:///~/x.db", "--trials", "4"]
    assert [with_home(word) for word in words] == [
        f"--results={home}/r",
        "--data",
        f"{home}/d",
        f"--track=tensorboard:{home}/tb",
        f"mlflow:sqlite:///{home}/x.db",
        "--trials",
        "4",
    ]
    with pytest.raises(UsageError):
        job_command(["digits", "bp"], "/a", None, ["mlflow:./mlruns"])


def test_the_reason_stands_in_the_message() -> None:
    told = reason_of(
        sqlite3.OperationalError(
            "(raised as a result of Query-invoked autoflush; consider no_autoflush)\n"
            "(sqlite3.OperationalError) attempt to write a readonly database\n[SQL: ...]"
        )
    )
    assert "attempt to write a readonly database" in told
    assert "autoflush" not in told
    assert len(reason_of(ValueError("x" * 5000))) <= 1000


# With MLflow itself

Store = Callable[[str], RunStore]


def statuses(client: object, experiment: str = "tpbench") -> list[str]:
    found = client.get_experiment_by_name(experiment)  # type: ignore[attr-defined]
    assert found.lifecycle_stage == "active"
    return [run.data.tags["tpbench.status"] for run in client.search_runs([found.experiment_id])]  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["what?", "my%20results"])
def test_mlflow_writes_where_it_was_told(here: Path, name: str) -> None:
    pytest.importorskip("mlflow")
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
    assert {path.name for path in here.iterdir()} <= {name, "home"}
    assert stat.S_IMODE(database.stat().st_mode) == 0o664
    assert track_store(store, resolve_targets(["mlflow"], name)) == (0, 1)


@pytest.mark.slow
def test_a_deleted_experiment_is_restored_and_said(here: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    store = RunStore(here / "results")
    store.publish(record())
    targets = resolve_targets(["mlflow"], "results")
    said: list[str] = []
    assert track_store(store, targets, said.append) == (1, 0)
    client = mlflow.MlflowClient(tracking_uri=Target.of(targets[0]).place)
    client.delete_experiment(client.get_experiment_by_name("tpbench").experiment_id)
    store.publish(record(seed=1))
    assert said == []
    assert prepared(targets, said.append) == targets
    assert len(said) == 1
    assert track_store(store, targets, said.append)[0] >= 1
    assert len(said) == 1
    assert "finished" in statuses(client)


@pytest.mark.slow
def test_mlflows_file_store_works_or_its_remedy_is_told_in_full(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    store = RunStore(here / "results")
    store.publish(record())
    targets = resolve_targets(["mlflow:./mlruns"], "results")
    said: list[str] = []
    if not prepared(targets, said.append):  # from 3.13 on MLflow refuses it
        assert "migrate-filestore" in said[0]
        assert "MLFLOW_ALLOW_FILE_STORE" in said[0]
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert track_store(store, targets) == (1, 0)
    assert (here / "mlruns").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_database_that_may_only_be_read_is_told_so() -> None:
    pytest.importorskip("mlflow")
    from tpbench.training.tracking.mlflow import require_file

    # Not pytest's own folder, which is private.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mlflow.db")
        require_file(path)
        require_file(path)  # it stays as it is
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (0,)
        path.parent.chmod(0o755)
        path.chmod(0o644)
        os.seteuid(12345)
        try:
            with pytest.raises(sqlite3.OperationalError, match=r"readonly|unable to open"):
                require_file(path)
        finally:
            os.seteuid(0)
