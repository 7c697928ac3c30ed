"""The file that says what a campaign does now: written by its driver, read by the list of sweeps and the report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.sweeps.playing import Workers, final_sweep, no_ray, pretend, run_here
from tpbench.engine import TpbenchError
from tpbench.options import SweepOptions
from tpbench.reports.live import LiveReader
from tpbench.results import RunStore
from tpbench.search.campaigns import REPRODUCTION, read_campaigns
from tpbench.search.definition import SweepFolder
from tpbench.sweeps import session
from tpbench.sweeps.campaign import run_sweeps
from tpbench.sweeps.scheduler import Scheduler
from tpbench.sweeps.session import StateFile
from tpbench.sweeps.sweep import Failure, Place, QueuedSweep
from tpbench.training.choice import choose_all
from tpbench.training.plan import PackSettings, plan_seeds
from tpbench.workloads import get_workload

OPTIONS = {"command": "reproduce", "workloads": "digits"}


@pytest.fixture
def cell(tmp_path: Path) -> QueuedSweep:
    """Four seeds of one configuration, in two packs."""
    settings = PackSettings(str(tmp_path), device="cpu", options=OPTIONS)
    plan = plan_seeds(get_workload("digits"), "bp", {"lr": 1e-3}, tuple(range(4)), 1, {"by": "published"})
    sweep = final_sweep("digits-bp", "digits bp", plan, settings, 2)
    sweep.seed_seconds = 5.0
    return sweep


def test_a_campaign_tells_its_packs_places_and_failures(cell: QueuedSweep, tmp_path: Path) -> None:
    folder, places = (
        SweepFolder(tmp_path / "sweeps" / REPRODUCTION),
        [Place("n1", host="host1"), Place("n2", "0", "host2")],
    )
    state = StateFile(folder, cell.settings, [cell])
    with folder.lock():
        workers = Workers([cell], 2, places=places)
        state.scheduler = workers.scheduler
        workers.fill()
        names = sorted(workers.running)
        workers.scheduler.progress(names[1], 0.5, 0.25)
        state.write(at_once=True)
        (campaign,) = read_campaigns(RunStore(tmp_path))
        assert campaign.running
        known = campaign.state
        assert (known.command, known.device, known.workers, known.work_done, known.work_left) == (
            cell.settings.command,
            "cpu",
            2,
            5.0,
            15.0,
        )
        assert [(p.sweep, p.pack, p.members, p.share, p.place) for p in known.packs] == [
            ("digits-bp", "final-0", 2, 0.0, "host1"),
            ("digits-bp", "final-1", 2, 0.5, "host2, GPU 0"),
        ]
        (progress,) = known.sweeps
        assert (progress.trials, progress.seeds, progress.trained, progress.in_flight) == (0, 4, 0, 1.0)
        (one,) = LiveReader(RunStore(tmp_path)).read().sweeps
        assert (one.state, one.bars[0].total, one.bars[0].running) == ("running", 4, 1.0)

        workers.scheduler.gone(names[0], Failure("lost", "its process was lost"))
        state.write(at_once=True)
        (failed,) = read_campaigns(RunStore(tmp_path))[0].state.failures
        assert (failed.sweep, failed.kind, failed.count, failed.place) == ("digits-bp", "lost", 1, "host1")
    # Its driver was killed: what it was at is no more true.
    (one,) = LiveReader(RunStore(tmp_path)).read().sweeps
    assert (one.state, one.command) == ("interrupted", cell.settings.command)
    workers = Workers([cell], 2)
    state.scheduler = workers.scheduler
    cell.put_back("final-1")
    workers.run(pretend)
    state.close()
    (ended,) = read_campaigns(RunStore(tmp_path))
    assert (ended.state.packs, ended.state.workers, ended.state.work_left) == ([], 0, 0.0)
    assert [(one.done, one.trained) for one in ended.state.sweeps] == [(True, 4)]


def test_it_is_written_every_few_seconds_and_never_in_the_way(
    cell: QueuedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(session, "time", SimpleNamespace(time=lambda: now[0]))
    written: list[float] = []
    monkeypatch.setattr(session, "write_campaign", lambda folder, state: written.append(state.written))
    state = StateFile(SweepFolder(tmp_path / "sweeps" / REPRODUCTION), cell.settings, [cell])
    for now[0] in (1000.0, 1001.0, 1002.9, 1003.1, 1004.0):
        state.write()
    assert written == [1000.0, 1003.1]

    def full(*_: object) -> None:
        raise TpbenchError("the disk is full")

    monkeypatch.setattr(session, "write_campaign", full)
    state.close()


def test_a_campaign_leaves_its_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[int] = []
    original = Scheduler.ended

    def ended(self: Scheduler, *rest: object) -> None:
        (campaign,) = read_campaigns(RunStore(tmp_path))
        states.append(len(campaign.state.sweeps) * campaign.running)
        original(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("tpbench.sweeps.driver.run_queue", run_here)
    monkeypatch.setattr("tpbench.sweeps.session.ray_running", no_ray)
    monkeypatch.setattr(Scheduler, "ended", ended)
    options = {"workloads": "digits", "methods": "bp,dfa", "trials": 2, "seeds": [1], "epochs": 1, "pack": 2}
    cells, _ = choose_all("digits", "bp,dfa")
    run_sweeps(cells, SweepOptions.read({**options, "cpus": 2, "gpus": 0}), PackSettings(str(tmp_path)))
    assert states == [2] * 4  # the search and the final run of each
    (campaign,) = read_campaigns(RunStore(tmp_path))
    assert not campaign.running
    assert [(one.done, one.tried, one.trained, one.failure) for one in campaign.state.sweeps] == [
        (True, 2, 1, None)
    ] * 2
    assert campaign.state.work_left == 0.0
    live = LiveReader(RunStore(tmp_path)).read()
    assert (live.running, dict(live.counts)) == (False, {"done": 2})
