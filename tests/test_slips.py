"""Slips show before the work, and what is offered is what is checked."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import CONFIGURATION, Inside
from tests.results.records import record
from tpbench.engine import METHODS, TpbenchError, UsageError
from tpbench.engine.errors import InterruptedWork
from tpbench.engine.files import check_target
from tpbench.reports import FIGURES, PLOTS
from tpbench.results import RunStore
from tpbench.results.formats import EXPORT_FORMATS, FORMATS
from tpbench.results.paper import TABLES, table_methods
from tpbench.sweeps import jobs
from tpbench.training import aligning
from tpbench.training.devices import DEVICES, choose_device
from tpbench.workloads import WORKLOADS, benchmark
from tpbench.workloads.datasets import digits_arrays


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "results")
    store.publish(record("bp"))
    return store


def test_what_there_is_is_said_alike_everywhere(tpbench_inside: Inside) -> None:
    for command, choices in (("table", TABLES), ("figure", FIGURES), ("plot", PLOTS)):
        assert "|".join(choices) in tpbench_inside(command, "--help").stdout
    for arguments, choices in (
        (("table", "2"), TABLES),
        (("figure", "x9"), FIGURES),
        (("plot", "x9", "mnist"), PLOTS),
        (("table", "1", "--format", "x9"), FORMATS),
        (("results", "export", "a", "--format", "x9"), EXPORT_FORMATS),
        (("run", "digits", "bp", "--device", "x9"), DEVICES),
    ):
        ended = tpbench_inside(*arguments)
        assert ended.returncode == 2
        assert f"there are {', '.join(sorted(choices))}" in ended.stderr
    for table in ("1", "s6"):
        assert table_methods(table)


READING = [
    ("table", "1"),
    ("table", "s7"),
    ("leaderboard",),
    ("compare", "bp", "dtp"),
    ("figure", "4"),
    ("plot", "cost", "mnist"),
    ("plot", "search", "x"),
    ("report",),
    ("sweeps",),
    ("results", "check"),
    ("results", "pack", "a.zip"),
    ("results", "export", "a.csv"),
]


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_needs_a_store_and_names_what_is_near(
    tpbench_inside: Inside, store: RunStore, tmp_path: Path, command: tuple[str, ...]
) -> None:
    ended = tpbench_inside(*command, "--results", "resluts")
    assert ended.returncode == 2
    assert "there is no such folder" in ended.stderr
    assert "did you mean 'results'?" in ended.stderr
    assert not (tmp_path / "resluts").exists()


def test_a_store_under_another_name_is_near_too(tpbench_inside: Inside, tmp_path: Path) -> None:
    RunStore(tmp_path / "mine").publish(record())
    assert "did you mean 'mine'?" in tpbench_inside("leaderboard").stderr


WRITING = [
    (("bench", "--workloads", "digits", "--methods", "bp", "--seconds", "3600", "--plot"), ".png"),
    (("figure", "2", "--output"), ".png"),
    (("plot", "curves", "mnist", "--output"), ".svg"),
    (("report", "--output"), ".html"),
    (("results", "pack"), ".zip"),
    (("results", "export"), ".csv"),
    (("leaderboard", "--write"), ".csv"),
]


@pytest.mark.parametrize(("command", "ending"), WRITING, ids=lambda value: str(value))
def test_where_a_file_cannot_be_written_shows_before_the_work(
    tpbench_inside: Inside,
    store: RunStore,
    tmp_path: Path,
    command: tuple[str, ...],
    ending: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(*arguments: Any, **options: Any) -> None:
        raise AssertionError("it was begun")

    for place in (
        "tpbench.workloads.benchmark.measure_all",
        "tpbench.reports.paper_figures.make_figure",
        "tpbench.results.leaderboard",
        "tpbench.reports.curves.learning_curves",
        "tpbench.reports.page.make_report",
        "tpbench.search.listing.pack_store",
        "tpbench.results.frames.export_runs",
    ):
        monkeypatch.setattr(place, work)
    (tmp_path / "file").write_text("")
    (tmp_path / f"folder{ending}").mkdir()
    blocked = tpbench_inside(*command, f"file/below{ending}")
    assert (blocked.returncode, "could not be written" in blocked.stderr) == (1, True), blocked
    folder = tpbench_inside(*command, f"folder{ending}")
    assert (folder.returncode, "this is a folder" in folder.stderr) == (2, True), folder


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (("bench", "--plot", "a.xyz"), ".png"),
        (("figure", "2", "--output", "a.docx"), ".svg"),
        (("report", "--output", "a.pdf"), ".html"),
        (("results", "pack", "a.csv"), ".zip"),
        (("leaderboard", "--write=a.md"), ".csv"),
        (("results", "export", "a.xlsx"), "--format csv or parquet"),
        (("results", "export", "a.parquet", "--format", "csv"), "'a.parquet' is named as parquet"),
    ],
)
def test_a_name_that_says_something_else_is_refused(
    tpbench_inside: Inside, store: RunStore, command: tuple[str, ...], word: str
) -> None:
    ended = tpbench_inside(*command)
    assert ended.returncode == 2
    assert word in ended.stderr


def test_an_export_is_what_its_name_says(tpbench_inside: Inside, store: RunStore, tmp_path: Path) -> None:
    assert tpbench_inside("results", "export", "new/runs.parquet").returncode == 0
    assert (tmp_path / "new" / "runs.parquet").read_bytes().startswith(b"PAR1")
    assert tpbench_inside("results", "export", "runs.data", "--format", "csv").returncode == 0
    assert (tmp_path / "runs.data").read_text().startswith("id,")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TpbenchError, match="Permission denied"):
        check_target(tmp_path / "new" / "a.png")
    tmp_path.chmod(0o700)


def test_numbers_are_printed_though_the_picture_fails(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    ended = tpbench_inside("bench", "--workloads", "digits", "--methods", "bp", "--seconds", "0.01", "--plot", "a.png")
    assert "digits" in ended.stdout
    assert (ended.returncode, "a.png: could not be written (full)" in ended.stderr) == (1, True)


def test_only_gpus_that_are_there_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [choose_device(name) for name in ("auto", "cuda", "cuda:0", "cpu")] == ["cuda", "cuda", "cuda:0", "cpu"]
    with pytest.raises(UsageError, match="'cuda:7' was asked for, but torch sees cuda:0 alone"):
        choose_device("cuda:7")
    for wrong in ("cuda:-1", "cuda:", "cuda:x", "mps"):
        with pytest.raises(UsageError, match="unknown device"):
            choose_device(wrong)


def test_a_submitted_sweep_takes_its_space_along(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, dict[str, str]]] = []

    class Client:
        def submit_job(self, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]) -> str:
            folder = Path(runtime_env["working_dir"])
            sent.append((entrypoint, {path.name: path.read_text() for path in folder.glob("*.yaml")}))
            return "job"

    monkeypatch.setattr(jobs, "_client", lambda address: Client())
    (tmp_path / "my space.yaml").write_text(
        yaml.safe_dump(
            {
                "methods": ["bp"],
                "hyperparameters": {
                    "lr": {"log_uniform": [1e-4, 1e-2]},
                    "beta1": {"constant": 0.9},
                    "beta2": {"constant": 0.99},
                    "epsilon": {"constant": 1e-8},
                },
            }
        )
    )
    common = ("submit", "digits", "bp", "--address", "http://head:8265", "--results", "/shared/results")
    for space in (("--space", "my space.yaml"), ("--space=my space.yaml",)):
        assert tpbench_inside(*common, *space, "--data", "/shared/data").returncode == 0
        line, files = sent.pop()
        assert "my space" not in line
        assert "space.yaml --data /shared/data --address auto" in line
        assert files == {"space.yaml": (tmp_path / "my space.yaml").read_text()}
    relative = tpbench_inside(*common, "--data", "data")
    assert (relative.returncode, "--data 'data': the sweep runs on the cluster" in relative.stderr) == (2, True)
    absent = tpbench_inside(*common, "--space", "absent.yaml")
    assert (absent.returncode, "absent.yaml: could not be read" in absent.stderr) == (2, True)
    assert not sent


def test_an_interrupted_alignment_says_that_it_starts_anew(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However the tests were started.
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(aligning.Trainer, "advance", lambda self: signal.raise_signal(signal.SIGTERM))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({k: CONFIGURATION[k] for k in METHODS["bp"].hyperparameters}))
    ended = tpbench_inside("align", "digits", "bp", "--config", "c.yaml", "--epochs", "1")
    signal.signal(signal.SIGTERM, before)
    assert ended.returncode == InterruptedWork.exit_code
    assert "nothing is kept. To start anew: tpbench align digits bp" in ended.stderr


def test_benchmarks_count_the_steps_of_the_papers_split() -> None:
    assert {name: WORKLOADS[name].samples for name in ("mnist", "fashion-mnist", "cifar10", "digits")} == {
        "mnist": 60_000,
        "fashion-mnist": 60_000,
        "cifar10": 50_000,
        "digits": len(digits_arrays()["x_train"]),
    }
    row = benchmark.measure(WORKLOADS["digits"], "bp", 1, "cpu", "float32", seconds=0.01)
    assert row.member_epochs_per_second == pytest.approx(1 / (row.step_seconds * 38))
