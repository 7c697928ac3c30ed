"""Sweeps on GPUs that are played: every decision about them, by the real code and the real Ray, on the CPU."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import wait_for
from tests.sweeps import played_gpus, playing
from tests.sweeps.played_gpus import BUSY, Training, is_free, noted, taken
from tests.sweeps.playing import Workers, no_ray, pretend, run_here
from tests.sweeps.starting import ray_started
from tests.sweeps.test_queue import journals, stored, sweep
from tests.sweeps.test_sizes import findings, requests
from tpbench.engine import TpbenchError
from tpbench.options import SweepOptions
from tpbench.search.definition import SweepFolder
from tpbench.sweeps import campaign, sizes
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.session import ProgressReporter
from tpbench.sweeps.sizes import SizeRequest, measure_on_nodes
from tpbench.sweeps.sweep import SearchedSweep
from tpbench.training.choice import CellChoice, choose_all
from tpbench.training.plan import PackSettings
from tpbench.training.sizing import Sizing


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that says how the GPUs are."""
    folder = tmp_path_factory.mktemp("gpus")
    (folder / "mps").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(played_gpus.FOLDER, str(folder))
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        yield folder


@pytest.fixture
def state(played: Path) -> Iterator[Path]:
    """The folder of the GPUs, which are usable, shared and without MPS again afterwards."""
    # A process of the test before may still be ending.
    wait_for(lambda: is_free("0") and is_free("1"))
    yield played
    for name in ("unusable", "exclusive", "mps/control"):
        (played / name).unlink(missing_ok=True)


# Without Ray: the command


@pytest.fixture
def command(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, SweepFolder]]:
    """``tpbench sweep`` on a machine with two GPUs, of one method for one epoch; returns its output and its folder."""
    for owner, name, value in played_gpus.stand_ins():
        monkeypatch.setattr(owner, name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(state / "mps"))
    monkeypatch.setattr("tpbench.sweeps.driver.run_queue", run_here)
    monkeypatch.setattr("tpbench.sweeps.session.ray_running", no_ray)
    monkeypatch.setattr(playing, "train_here", played_gpus.train_on_the_cpu)

    def call(name: str, **options: object) -> tuple[str, SweepFolder]:
        values = {"workloads": "digits", "methods": "bp", "trials": 6, "seeds": [0, 1], "epochs": 1, "cpus": 1}
        cells, _ = choose_all("digits", "bp")
        capfd.readouterr()
        campaign.run_sweeps(cells, SweepOptions.read({**values, **options}), PackSettings(str(tmp_path / name)))
        (folder,) = (tmp_path / name / "sweeps").iterdir()
        text = re.sub(r"\d+(\.\d+)? s\b|about .*left", "", capfd.readouterr().out)
        return text.replace(str(tmp_path / name), ""), SweepFolder(folder)

    return call


Command = Callable[..., tuple[str, SweepFolder]]


def test_a_sweep_on_a_gpu_is_that_on_a_cpu(command: Command, tmp_path: Path) -> None:
    on_cpu, on_gpu = command("cpu", pack=2, gpus=0), command("gpu", pack=2, gpus=1)
    assert on_cpu[0] == on_gpu[0]
    # What was measured on the GPU alone.
    assert on_cpu[1].read() == replace(on_gpu[1].read(), packs_per_gpu=0, cost=0.0)
    assert journals(tmp_path / "cpu") == journals(tmp_path / "gpu")
    assert stored(tmp_path / "cpu").keys() == stored(tmp_path / "gpu").keys()
    assert len(stored(tmp_path / "gpu")) == 7  # six of the search, one of which is the final run of seed 0


@pytest.mark.parametrize(
    ("gpus", "mps", "pack", "lag"),
    [(1, False, 32, 1), (2, False, 16, 3), (1, True, 8, 5), (2, True, 8, 5)],
    ids=["one", "two", "one with MPS", "two with MPS"],
)
def test_packs_and_lag_follow_from_the_gpus(
    command: Command, state: Path, gpus: int, mps: bool, pack: int, lag: int
) -> None:
    (state / "mps/control").touch() if mps else None
    _, folder = command("results", trials=96, gpus=gpus)
    assert (folder.read().pack, folder.read().lag) == (pack, lag)


def test_a_gpu_that_torch_cannot_use_ends_the_command_before_anything_trains(
    command: Command, state: Path, tmp_path: Path
) -> None:
    (state / "unusable").touch()
    with pytest.raises(TpbenchError, match="sees no GPU on node"):
        command("results", gpus=1)
    assert not (tmp_path / "results" / "runs").exists()


# With Ray: where packs train, and what their processes see


class Lines:
    """A view that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def start(self, *_: object) -> None: ...

    update = end = start


@pytest.fixture(scope="module")
def ray_with_gpus(played: Path) -> Iterator[None]:
    """Ray of this machine with two GPUs, which it counts and does not look for."""
    with ray_started(Resources(2, 2)):
        yield


Trained = tuple[SearchedSweep, list[dict[str, Any]], list[str]]
Train = Callable[..., Trained]


@pytest.fixture
def train(ray_with_gpus: None, state: Path, tmp_path: Path) -> Train:
    """Train a sweep with these resources; returns it, the notes of its packs and the lines."""

    def call(name: str, resources: Resources, processes: int = 1) -> Trained:
        from tpbench.sweeps.driver import run_queue

        (tmp_path / name / "runs").mkdir(parents=True)
        one, view = sweep(tmp_path / name), Lines()
        device = "cuda" if resources.gpus else "cpu"
        for settings in ("settings", "search_settings"):
            setattr(one, settings, replace(getattr(one, settings), device=device))
        run_queue([one], resources, tmp_path / "ray", ProgressReporter(view, [one]), train=Training(processes))  # type: ignore[arg-type]
        return one, noted(tmp_path / name / "packs"), view.said

    return call


def measure_on_ray(gpus: int, monkeypatch: pytest.MonkeyPatch) -> Sizing:
    """Measure the sizes of a search of 400 configurations, where a GPU is free."""
    monkeypatch.setattr(sizes, "_measure", played_gpus.measure_with_played_gpus)
    arguments = {"trials": 400, "cells": 1, "pack": None, "cpus": 2, "gpus": gpus, "threads": 1}
    request = SizeRequest(
        "digits", CellChoice.of("digits", "bp"), {**arguments, "device": "cuda", "precision": "float32"}
    )
    found = measure_on_nodes([request], Resources(2, gpus).share, findings(), lambda line: None)
    return found["digits"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_measures_at_the_same_time(ray_with_gpus: None, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On cores alone, and with real measurements."""
    # On a busy machine the processes may take longer to start than is waited for a place.
    monkeypatch.setattr(sizes, "warn_without_place", lambda *_: None)
    said: list[str] = []
    found = measure_on_nodes(requests("one", "other", gpus=0), {"cpu": 1.0}, findings(), said.append)
    assert set(found) == {"one", "other"}
    assert all(size.pack >= 1 and size.cost > 0 for size in found.values())
    assert len(said) == 1


@pytest.mark.slow
def test_the_sizing_process_gives_the_gpu_back_and_the_sweep_is_that_on_a_cpu(
    train: Train, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its GPU takes one process at a time: one that lives on would be in the way of the first pack."""
    (state / "exclusive").touch()
    assert measure_on_ray(1, monkeypatch).pack == 32
    wait_for(lambda: is_free("0") and is_free("1"))
    on_gpu, packs, said = train("gpu", Resources(2, 1))
    on_cpu = sweep(tmp_path / "cpu")
    worker = Workers([on_cpu], 1)
    others = worker.run(pretend)
    assert on_gpu.done
    assert on_cpu.done
    assert {(tuple(note["visible"]), note["device"]) for note in packs} in [{(("0",), "cuda")}, {(("1",), "cuda")}]
    assert said == worker.said
    assert stored(tmp_path / "gpu") == stored(tmp_path / "cpu")
    assert journals(tmp_path / "gpu") == journals(tmp_path / "cpu")
    assert len(packs) == len(others)


@pytest.mark.slow
def test_every_worker_has_a_gpu_of_its_own(train: Train, state: Path) -> None:
    (state / "exclusive").touch()
    one, packs, said = train("results", Resources(2, 2), processes=2)
    assert one.done
    by_process = {(note["pid"], *note["visible"]) for note in packs}
    assert len(by_process) == 2
    assert {gpu for _, gpu in by_process} == {"0", "1"}
    assert said == []


@pytest.mark.slow
def test_with_mps_packs_share_a_gpu_by_fractions(train: Train, state: Path) -> None:
    (state / "exclusive").touch()  # as NVIDIA advises with MPS
    (state / "mps/control").touch()
    one, packs, said = train("results", Resources(2, 1, packs_per_gpu=2), processes=2)
    assert one.done
    assert len({note["pid"] for note in packs}) == 2
    assert len({tuple(note["visible"]) for note in packs}) == 1
    assert said == []


@pytest.mark.slow
def test_a_worker_whose_gpu_torch_cannot_use_names_it(train: Train, state: Path) -> None:
    (state / "unusable").touch()
    one, packs, _ = train("results", Resources(2, 1))
    assert one.failure is not None
    assert "sees no GPU on node" in one.failure
    assert packs == []
    assert one.journal.failed_count == 0


@pytest.mark.slow
def test_a_gpu_that_another_program_has_costs_few_attempts_and_no_sweep(train: Train, state: Path) -> None:
    (state / "exclusive").touch()
    with taken("0"):
        one, packs, said = train("results", Resources(2, 2))
    assert one.done
    assert {tuple(note["visible"]) for note in packs} == {("1",)}
    # None at all where the other GPU's worker was fast enough.
    assert sum(BUSY in line for line in said) <= 3
