"""Places of trackers: names of files and folders of every kind. With MLflow itself: test_mlflow.py."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tpbench.engine import UsageError
from tpbench.sweeps.jobs import job_command, with_home
from tpbench.training.tracking import Target, format_reason, parse_target, portable_target, resolve_targets

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
    return Target.from_text(target).local_path


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
    reason = format_reason(
        sqlite3.OperationalError(
            "(raised as a result of Query-invoked autoflush; consider no_autoflush)\n"
            "(sqlite3.OperationalError) attempt to write a readonly database\n[SQL: ...]"
        )
    )
    assert "readonly database" in reason
    assert "autoflush" not in reason
    assert len(format_reason(ValueError("x" * 5000))) <= 1000
