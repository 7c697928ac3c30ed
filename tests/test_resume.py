"""Campaigns that are killed, and continue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Inside
from tests.sweeps.playing import no_ray, run_here
from tpbench.sweeps import campaign
from tpbench.sweeps.cluster import Resources
from tpbench.training.choice import choose_all
from tpbench.training.packs import PackSettings

pytestmark = pytest.mark.slow

ARGUMENTS = (
    "sweep", "digits", "ddtp-linear,bp", "--trials", "6", "--pack", "2", "--seeds", "3", "--epochs", "15",
    "--checkpoint-every", "2", "--cpus", "2",
)  # fmt: skip


def store(folder: Path) -> dict[str, Any]:
    """Every run's definition and numbers, without what differs from one execution to the next."""
    runs = [json.loads(path.read_text()) for path in (folder / "results" / "runs").glob("*.json")]
    return {run["id"]: (run["definition"], run["curves"], run["status"]) for run in runs}


def start(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tpbench.cli", *ARGUMENTS], cwd=folder, stdout=output, stderr=output
        )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the sweep ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def journal(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("results/sweeps/*/journal.jsonl"))


def parent(process: int) -> int:
    """The process that started one; the name in front of it may hold anything."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def belongs(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        process = parent(process)
    return False


def trainers(sweep: int) -> list[int]:
    """A sweep's processes that train a pack (not Ray's agents: with one of those the whole node goes)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::ImplicitFunc.train" in path.read_bytes() and belongs(int(path.parent.name), sweep):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same campaign without Ray, in this process: one thread per pack, as there."""
    folder, threads = tmp_path_factory.mktemp("undisturbed"), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tpbench.sweeps.driver.run_queue", run_here)
        patch.setattr(campaign, "ray_running", no_ray)
        cells, _ = choose_all("digits", "ddtp-linear,bp")
        options = campaign.SweepOptions(6, (0, 1, 2), 15, None, 0, 2, Resources(2))
        results = campaign.run_sweeps(cells, options, PackSettings(str(folder / "results")))
    torch.set_num_threads(threads)
    assert [result.state for result in results] == ["done", "done"]
    return store(folder)


def test_ending_the_driver_in_search_and_killing_it_in_the_final_runs_loses_nothing(
    undisturbed: dict[str, Any], tmp_path: Path, tpbench_inside: Inside
) -> None:
    process = start(tmp_path)
    wait_for(lambda: b"starting Ray" in (tmp_path / "output").read_bytes(), process)
    second = tpbench_inside(*ARGUMENTS)
    assert second.returncode == 1
    assert "is running already" in second.stderr
    assert "running" in tpbench_inside("sweeps").stdout
    wait_for(lambda: '"ended"' in journal(tmp_path), process)
    # Five more packs follow. SIGKILL at any moment of a search: tests/sweeps/test_queue.py.
    process.terminate()
    assert process.wait(timeout=60) == 130
    output = (tmp_path / "output").read_text()
    assert "To continue: tpbench " + " ".join(ARGUMENTS) in output
    assert "Traceback" not in output
    kept = {p.name: p.read_bytes() for p in tmp_path.glob("results/runs/*.json")}
    listing = tpbench_inside("sweeps").stdout
    assert "interrupted" in listing
    assert listing.count("tpbench " + " ".join(ARGUMENTS)) == 2

    process = start(tmp_path)
    wait_for(lambda: b"final runs" in (tmp_path / "output").read_bytes(), process)
    process.kill()
    process.wait()
    before = journal(tmp_path).count('"suggested"')

    assert start(tmp_path).wait(timeout=240) == 0, (tmp_path / "output").read_text()
    assert store(tmp_path) == undisturbed
    assert journal(tmp_path).count('"suggested"') == 6 >= before  # no suggestion was asked for twice
    now = {p.name: p.read_bytes() for p in tmp_path.glob("results/runs/*.json")}
    assert {name: now[name] for name in kept} == kept  # no finished run was trained again
    assert tpbench_inside("sweeps").stdout.count(" done ") == 2


def test_killing_a_process_that_trains_costs_epochs_only(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(lambda: bool(list(tmp_path.glob("results/checkpoints/*.pt")) and trainers(process.pid)), process)
    os.kill(trainers(process.pid)[0], signal.SIGKILL)
    assert process.wait(timeout=240) == 0, (tmp_path / "output").read_text()
    assert store(tmp_path) == undisturbed
