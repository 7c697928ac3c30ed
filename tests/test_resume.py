"""Campaigns that are killed, and continue."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Inside, wait_for
from tests.sweeps.playing import no_ray, run_here
from tests.training.test_tracking import require_curves
from tpbench.options import SweepOptions
from tpbench.search.journal import Journal
from tpbench.sweeps import campaign
from tpbench.training.choice import choose_all
from tpbench.training.plan import PackSettings

pytestmark = pytest.mark.slow

ARGUMENTS = (
    "sweep",
    "digits",
    "ddtp-linear,bp",
    "--trials",
    "6",
    "--pack",
    "2",
    "--epochs",
    "15",
    "--n-seeds",
    "3",
    "--cpus",
    "2",
    "--checkpoint-every",
    "2",
    "--track",
    "tensorboard",
)


def store(folder: Path) -> dict[str, Any]:
    """Every run's definition and numbers, without what differs from one execution to the next."""
    runs = [json.loads(path.read_text()) for path in (folder / "results" / "runs").glob("*.json")]
    return {run["id"]: (run["definition"], run["curves"], run["status"]) for run in runs}


def start(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with (folder / "output").open("ab") as output:
        return subprocess.Popen([sys.executable, "-m", "tpbench", *ARGUMENTS], cwd=folder, stdout=output, stderr=output)


def journal(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("results/sweeps/*/journal.jsonl"))


def packs(folder: Path, ended: bool) -> set[tuple[str, int]]:
    """The packs of the searches that have ended, or that have not."""
    return {
        (path.parent.name, pack.number)
        for path in folder.glob("results/sweeps/*/journal.jsonl")
        for pack in Journal.read(path).packs
        if (pack.outcomes is not None) is ended
    }


def parent(process: int) -> int:
    """The process that started one; the name in front of it may hold anything."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def belongs(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        process = parent(process)
    return False


def capable_nodes(sweep: int) -> list[int]:
    """A sweep's processes that train a pack (not Ray's agents: with one of those the whole node goes)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::ImplicitFunc.train" in path.read_bytes() and belongs(int(path.parent.name), sweep):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@contextlib.contextmanager
def without_ray() -> Iterator[None]:
    """Packs are trained in this process: with one thread, as in Ray's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tpbench.sweeps.driver.run_queue", run_here)
            patch.setattr("tpbench.sweeps.session.ray_running", no_ray)
            yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same campaign without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with without_ray():
        cells, _ = choose_all("digits", "ddtp-linear,bp")
        given = {"trials": 6, "n_seeds": 3, "epochs": 15, "pack": 2, "cpus": 2, "gpus": 0}
        options = SweepOptions.read({"workloads": "digits", "methods": "ddtp-linear,bp", **given})
        results = campaign.run_sweeps(cells, options, PackSettings(str(folder / "results")))
    assert [result.state for result in results] == ["done", "done"]
    return store(folder)


def checkpoints(folder: Path) -> dict[str, int]:
    """The checkpoints of a campaign, and when each was written; one that is just replaced is left out."""
    found = {}
    for path in folder.glob("results/checkpoints/*.pt"):
        with contextlib.suppress(FileNotFoundError):
            found[path.name] = path.stat().st_mtime_ns
    return found


@pytest.mark.timeout(900)  # twice Ray and the campaign twice, on a machine that may be busy
def test_ending_the_driver_killing_a_process_that_trains_and_killing_the_driver_in_the_final_runs_lose_nothing(
    undisturbed: dict[str, Any], tmp_path: Path, tpbench_inside: Inside
) -> None:
    """One campaign, which is started three times: twice with Ray."""
    end_in_the_search(tmp_path, tpbench_inside)
    kept = {p.name: p.read_bytes() for p in tmp_path.glob("results/runs/*.json")}
    kill_a_process_that_trains_and_then_the_driver(tmp_path)
    before = journal(tmp_path).count('"suggested"')

    with without_ray():
        ended = tpbench_inside(*ARGUMENTS)
    assert ended.returncode == 0, ended.stderr
    assert store(tmp_path) == undisturbed
    assert journal(tmp_path).count('"suggested"') == 6 >= before  # no suggestion was asked for twice
    now = {p.name: p.read_bytes() for p in tmp_path.glob("results/runs/*.json")}
    assert {name: now[name] for name in kept} == kept  # no finished run was trained again
    assert tpbench_inside("sweeps").stdout.count(" done ") == 2
    # What was killed between a run's publication and its last event, this completes.
    assert " tracked, " in tpbench_inside("results", "track", "results", "--track", "tensorboard").stdout
    require_curves(tmp_path / "results" / "tensorboard", tmp_path / "results")


def end_in_the_search(folder: Path, tpbench_inside: Inside) -> None:
    process = start(folder)
    wait_for(lambda: b"starting Ray" in (folder / "output").read_bytes(), process)
    second = tpbench_inside(*ARGUMENTS)
    assert second.returncode == 1
    assert "running already" in second.stderr
    assert "running" in tpbench_inside("sweeps").stdout
    wait_for(lambda: '"ended"' in journal(folder), process)
    # Five more packs follow. SIGKILL at any moment of a search: tests/sweeps/test_queue.py.
    process.terminate()
    assert process.wait(timeout=60) == 130
    output = (folder / "output").read_text()
    assert "To continue: tpbench " + " ".join(ARGUMENTS) in output
    assert "Traceback" not in output
    listing = tpbench_inside("sweeps").stdout
    assert "interrupted" in listing
    assert listing.count("tpbench " + " ".join(ARGUMENTS)) == 2


def kill_a_process_that_trains_and_then_the_driver(folder: Path) -> None:
    before, training = checkpoints(folder), list[int]()
    process = start(folder)

    def trains() -> bool:
        # A process has its name only while it trains.
        training[:] = capable_nodes(process.pid) if checkpoints(folder).items() - before.items() else []
        return bool(training)

    wait_for(trains, process)
    in_flight = packs(folder, ended=False)
    assert in_flight
    os.kill(training[0], signal.SIGKILL)
    # The driver goes on, and what was lost is trained again before it is killed in its turn.
    wait_for(lambda: in_flight <= packs(folder, ended=True), process)
    wait_for(lambda: b"final runs" in (folder / "output").read_bytes(), process)
    process.kill()
    process.wait()
