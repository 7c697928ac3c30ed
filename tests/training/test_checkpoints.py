"""Checkpoints by time and by epochs, written in the background; the clock is the tests' own."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import wait_for
from tests.training.test_packs import InterruptedTrainingError, bracket_plan, digits_plan
from tpbench.engine import EpochReport, TpbenchError, get_method
from tpbench.engine import trainer as engine
from tpbench.engine.operations import member_bytes
from tpbench.results import RunRecord, RunStore
from tpbench.search.brackets import Bracket
from tpbench.training.checkpoints import CheckpointWriter
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackSettings
from tpbench.training.processes import pack_into_memory

write_checkpoint = engine.write_checkpoint


class Clock:
    """A clock that the test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "checkpoint"]


def let_write() -> None:
    for thread in threads():
        thread.join(60)


@pytest.fixture(autouse=True)
def _all_end() -> Iterator[None]:
    yield
    assert threads() == []


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions of the checkpoints that are written, which are then written indeed."""
    positions: list[int] = []

    def record(checkpoint: Mapping[str, Any], path: Path, cancelled: Callable[[], bool]) -> None:
        positions.append(checkpoint["position"])
        write_checkpoint(checkpoint, path, cancelled)

    monkeypatch.setattr(engine, "write_checkpoint", record)
    return positions


class SlowWrite:
    """A write in the background that lasts until the test lets it go, or until it is cancelled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, heeds: bool = True, writes: bool = True) -> None:
        self.begun: list[int] = []
        self.go, self.heeds, self.writes = threading.Event(), heeds, writes
        monkeypatch.setattr(engine, "write_checkpoint", self)

    def __call__(self, checkpoint: Mapping[str, Any], path: Path, cancelled: Callable[[], bool] | None = None) -> None:
        if cancelled is None:
            write_checkpoint(checkpoint, path)
            return
        self.begun.append(checkpoint["position"])
        while not self.go.wait(0.001) and not cancelled():
            pass
        if self.writes:
            write_checkpoint(checkpoint, path, cancelled if self.heeds else lambda: False)


def ticking(clock: Clock, seconds: float, until: int | None = None) -> Callable[[EpochReport], None]:
    """Let every epoch take some seconds and each checkpoint be written before the next; interrupt after an epoch."""

    def report(epoch: EpochReport) -> None:
        let_write()
        clock.now += seconds
        if epoch.done == until:
            raise KeyboardInterrupt

    return report


# By time and by epochs.


@pytest.mark.parametrize(
    ("every", "positions"),
    [
        ("60s", [4, 7, 10]),  # epochs end after 0, 25, 50, ... seconds
        ("90s", [5, 9]),
        ("10s", [4, 5, 6, 7, 8, 9, 10, 11]),
        ("5m", []),
        (4, [4, 8]),
    ],
)
def test_none_in_the_first_minute_then_one_per_interval(
    tmp_path: Path, written: list[int], every: int | str, positions: list[int]
) -> None:
    clock = Clock()
    settings = PackSettings(str(tmp_path), checkpoint_every=every)
    PackJob(digits_plan("bp", epochs=12), settings, clock=clock).run(ticking(clock, 25))
    assert written == positions
    assert {record.wall_time_s for record in RunStore(tmp_path).records()} == {11 * 25 / 2}


def test_a_short_pack_writes_none_by_default(tmp_path: Path, written: list[int]) -> None:
    PackJob(digits_plan("bp", epochs=8), PackSettings(str(tmp_path))).run()
    assert written == []
    assert not (tmp_path / "checkpoints").exists()


def test_what_was_trained_before_an_interruption_counts_for_the_first_minute(
    tmp_path: Path, written: list[int]
) -> None:
    clock, plan = Clock(), digits_plan("bp", epochs=12)
    settings = PackSettings(str(tmp_path), checkpoint_every="20s")
    with pytest.raises(KeyboardInterrupt):
        PackJob(plan, settings, clock=clock).run(ticking(clock, 25, until=5))
    assert written == [4, 5]
    PackJob(plan, settings, clock=clock).run(ticking(clock, 25))
    assert written == [4, 5, 7, 8, 9, 10, 11]  # the sixth ends at once


def fake_trainer(position: int, elapsed: float = 0.0) -> Any:
    return SimpleNamespace(position=position, elapsed=elapsed, snapshot=lambda: {"position": position})


def test_the_newest_waits_while_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowWrite(monkeypatch, writes=False)
    with CheckpointWriter(tmp_path / "c.pt", 2, Clock()) as writer:
        for position in range(1, 8):
            writer.after_epoch(fake_trainer(position))
        assert writer.writing
        wait_for(lambda: slow.begun)
        assert slow.begun == [2]
        slow.go.set()
        let_write()
        writer.after_epoch(fake_trainer(9))
        let_write()
        assert slow.begun == [2, 6]


def test_one_by_time_is_copied_once_the_one_before_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, clock = SlowWrite(monkeypatch, writes=False), Clock()
    with CheckpointWriter(tmp_path / "c.pt", "60s", clock) as writer:
        for position in range(1, 8):
            clock.now += 60
            writer.after_epoch(fake_trainer(position, 60.0 * position))
        slow.go.set()
        let_write()
        assert slow.begun == [1]
        clock.now += 1
        writer.after_epoch(fake_trainer(8, 421.0))
        let_write()
        writer.after_epoch(fake_trainer(9, 422.0))
        assert slow.begun == [1, 8]


# The end of the training.


@pytest.mark.parametrize("heeds", [True, False])
def test_no_file_appears_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heeds: bool) -> None:
    """A write in flight is cancelled; one that cannot be is awaited, and its file removed."""
    slow = SlowWrite(monkeypatch, heeds=heeds)
    outcomes = PackJob(digits_plan("bp"), PackSettings(str(tmp_path), checkpoint_every=1)).run()
    assert [outcome.status for outcome in outcomes] == ["finished", "finished"]
    assert slow.begun == [1]
    assert threads() == []
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_pause_writes_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowWrite(monkeypatch, heeds=False)
    job = PackJob(digits_plan("bp", epochs=6), PackSettings(str(tmp_path), checkpoint_every=2))
    job._train(None, until=3)
    assert slow.begun == [2]
    assert torch.load(job.checkpoint_path)["position"] == 3


def test_parts_pause_at_the_rungs_of_packs_that_write_none_by_time(tmp_path: Path) -> None:
    bracket = Bracket(9, 3, "validation_error")
    together = PackJob(bracket_plan(), PackSettings(str(tmp_path / "a")), bracket).run()
    apart = PackJob(bracket_plan(), PackSettings(str(tmp_path / "b")), bracket, 3).run()
    assert [(o.run, o.status, o.epochs) for o in apart] == [(o.run, o.status, o.epochs) for o in together]
    assert list((tmp_path / "b" / "checkpoints").iterdir()) == []


# Interruptions.


def test_an_interrupted_pack_continues_to_equal_curves_also_with_another_interval(
    tmp_path: Path, written: list[int]
) -> None:
    plan, clock = digits_plan("ddtp-rhl", epochs=6), Clock()
    undisturbed = PackJob(plan, PackSettings(str(tmp_path / "a"))).run()
    for every, until in (("60s", 6), (3, 10)):
        settings = PackSettings(str(tmp_path / "b"), checkpoint_every=every)
        with pytest.raises(KeyboardInterrupt):
            PackJob(plan, settings, clock=clock).run(ticking(clock, 25, until))
    assert written == [4, 6, 9]
    done: list[int] = []
    last = PackJob(plan, PackSettings(str(tmp_path / "b")), clock=clock).run(lambda report: done.append(report.done))
    assert last == undisturbed
    assert done[0] == 10
    curves = [{r.definition.id: r.curves for r in RunStore(tmp_path / store).records()} for store in ("a", "b")]
    assert curves[0] == curves[1]


def test_an_interruption_writes_what_was_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowWrite(monkeypatch)
    job = PackJob(digits_plan("bp", epochs=9), PackSettings(str(tmp_path), checkpoint_every=2))

    def stop(report: EpochReport) -> None:
        if report.done == 5:
            slow.go.set()
            raise InterruptedTrainingError

    with pytest.raises(InterruptedTrainingError):
        job.run(stop)
    assert slow.begun == [2, 4]
    assert torch.load(job.checkpoint_path)["position"] == 4


def test_a_second_interruption_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, wait, writers = SlowWrite(monkeypatch), threading.Event.wait, []
    job = PackJob(digits_plan("bp"), PackSettings(str(tmp_path), checkpoint_every=1))

    def interrupt(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread() and not writers:
            writers.extend(threads())
            raise KeyboardInterrupt
        return wait(event, timeout)

    def stop(_: EpochReport) -> None:
        monkeypatch.setattr(threading.Event, "wait", interrupt)
        raise InterruptedTrainingError

    with pytest.raises(KeyboardInterrupt):
        job.run(stop)
    let_write()
    assert slow.begun == [1]
    assert [writer.daemon for writer in writers] == [False]  # torch aborts a process that ends while it writes
    assert list((tmp_path / "checkpoints").iterdir()) == []


# Errors.


def fail(*_: object) -> None:
    raise TpbenchError("no space left")


def test_an_error_of_the_write_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "write_checkpoint", fail)
    done: list[int] = []

    def report(epoch: EpochReport) -> None:
        let_write()
        done.append(epoch.done)

    with pytest.raises(TpbenchError, match="no space left"):
        PackJob(digits_plan("bp", epochs=9), PackSettings(str(tmp_path), checkpoint_every=2)).run(report)
    assert done == [1, 2]
    assert list(RunStore(tmp_path).records()) == []


@pytest.mark.parametrize("interrupted", [True, False])
def test_an_error_that_is_known_after_the_last_epoch_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, interrupted: bool
) -> None:
    """The runs are stored all the same, and an interruption stays one."""
    go = threading.Event()

    def fail_late(_: object, __: Path, cancelled: Callable[[], bool]) -> None:
        while not go.wait(0.001) and not cancelled():
            pass
        fail()

    def stop(epoch: EpochReport) -> None:
        if interrupted and epoch.done == 2:
            go.set()
            raise InterruptedTrainingError

    monkeypatch.setattr(engine, "write_checkpoint", fail_late)
    job = PackJob(digits_plan("bp"), PackSettings(str(tmp_path), checkpoint_every=2))
    if interrupted:
        with pytest.raises(InterruptedTrainingError):
            job.run(stop)
    else:
        assert [outcome.status for outcome in job.run(stop)] == ["finished", "finished"]
    assert len(list(RunStore(tmp_path).records())) == (0 if interrupted else 2)
    assert "no space left" in caplog.text


class FullDisk:
    """A file on a disk that has no room for an array."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, data: bytes) -> int:
        if len(data) > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)

    def flush(self) -> None:
        pass


def test_torch_does_not_hide_that_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tpbench.engine.files.os.fdopen", FullDisk)
    with pytest.raises(TpbenchError, match="No space left"):
        write_checkpoint({"a": torch.zeros(1000)}, tmp_path / "c.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_is_cancelled_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    path, asked = tmp_path / "c.pt", 0
    write_checkpoint({"a": torch.zeros(3)}, path)

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    write_checkpoint({"a": torch.ones(2**23)}, path, cancelled)
    assert torch.equal(torch.load(path)["a"], torch.zeros(3))
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]
    assert asked == 4


# Memory.


@pytest.mark.parametrize("method", ["bp", "dfa", "ddtp-rhl", "ddtp-rhl-rec"])
def test_the_estimate_counts_one_copy(tmp_path: Path, method: str) -> None:
    job = PackJob(digits_plan(method), PackSettings(str(tmp_path)))

    def size(state: Any) -> int:
        return state.nbytes if isinstance(state, torch.Tensor) else sum(map(size, state.values()))

    copied = size(job._trainer(job.missing).snapshot()["pack"]) / 2
    with_copy, without = (
        member_bytes(get_method(method), job.problem, torch.float32, checkpoint=copy) for copy in (True, False)
    )
    assert with_copy - without == pytest.approx(copied, rel=0.01)


# The members of a checkpoint, and those that are missing by now.


def interrupted(job: PackJob, epoch: int) -> None:
    """Train until an epoch, counted over all parts, and lose the process."""

    def stop(report: EpochReport) -> None:
        if report.done == epoch:
            raise InterruptedTrainingError

    with pytest.raises(InterruptedTrainingError):
        job.run(stop)


def epochs_of(job: PackJob) -> list[int]:
    """The epochs that a job reports."""
    done: list[int] = []
    job.run(lambda report: done.append(report.done))
    return done


def curves_of(folder: Path) -> dict[str, Any]:
    return {record.definition.id: record.curves for record in RunStore(folder).records()}


def test_a_run_that_was_stored_meanwhile_does_not_cost_the_checkpoint(tmp_path: Path) -> None:
    settings = PackSettings(str(tmp_path), checkpoint_every=1)
    plan = digits_plan("ddtp-rhl", (0, 1, 2), epochs=2)
    # After the first of two joint epochs; two feedback epochs come before it, and one after.
    interrupted(PackJob(plan, settings), 3)
    PackJob(digits_plan("ddtp-rhl", (1,), epochs=2), settings).run()
    job = PackJob(plan, settings)
    assert [d.seed for d in job.missing] == [0, 2]
    assert epochs_of(job)[0] == 4
    assert list((tmp_path / "checkpoints").iterdir()) == []
    PackJob(plan, PackSettings(str(tmp_path / "alone"))).run()
    assert curves_of(tmp_path) == curves_of(tmp_path / "alone")


def test_a_process_that_is_lost_while_runs_are_stored_costs_no_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, publish = PackSettings(str(tmp_path), checkpoint_every=1), RunStore.publish
    plan, clock = digits_plan("bp", (0, 1, 2), epochs=6), Clock()

    def publish_one(store: RunStore, record: RunRecord, predictions: Any = None) -> Path:
        if record.definition.seed:
            raise InterruptedTrainingError
        return publish(store, record, predictions)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "publish", publish_one)
        with pytest.raises(InterruptedTrainingError):
            PackJob(plan, settings, clock=clock).run(ticking(clock, 30, 99))
    (first,) = RunStore(tmp_path).records()
    done: list[int] = []
    PackJob(plan, settings, clock=clock).run(lambda report: done.append(report.done))
    assert done == [6]
    # Each run has its share of the pack's time, also of the time before.
    others = [run.wall_time_s for run in RunStore(tmp_path).records() if run.definition.seed]
    # Each epoch takes 30 s but the last, which the clock does not see.
    assert others == [pytest.approx(first.wall_time_s, rel=0.21)] * 2


@pytest.mark.parametrize(("parts", "again"), [(2, 1), (2, 2), (4, 1), (4, 2), (4, 4)])
def test_a_part_continues_once_the_others_are_stored(tmp_path: Path, parts: int, again: int) -> None:
    """Also where another process knows nothing of the parts, or not of all."""
    settings, plan = PackSettings(str(tmp_path), checkpoint_every=1), digits_plan("bp", (0, 1, 2, 3), epochs=8)
    interrupted(PackJob(plan, settings, parts=parts), (parts - 1) * 8 + 6)
    assert len(RunStore(tmp_path).ids()) == 4 - 4 // parts
    # The other parts are stored and take no time.
    assert epochs_of(PackJob(plan, settings, parts=again)) == [7, 8]
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_run_that_was_begun_by_itself_does_not_part_a_pack(tmp_path: Path) -> None:
    settings, plan = PackSettings(str(tmp_path), checkpoint_every=1), digits_plan("bp", (0, 1), epochs=4)
    interrupted(PackJob(digits_plan("bp", (0,), epochs=4), settings), 3)
    assert [p.seeds for p in pack_into_memory(PackJob(plan, settings), 2**50).plans] == [(0, 1)]
    assert epochs_of(PackJob(plan, settings)) == [1, 2, 3, 4]
    assert {record.pack_members for record in RunStore(tmp_path).records()} == {2}


def test_a_run_that_the_checkpoint_lacks_begins_anew(tmp_path: Path) -> None:
    settings = PackSettings(str(tmp_path), checkpoint_every=1)
    plan = digits_plan("bp", (0, 1), epochs=4)
    PackJob(digits_plan("bp", (0,), epochs=4), settings).run()
    interrupted(PackJob(plan, settings), 3)
    (record,) = RunStore(tmp_path).records()
    RunStore(tmp_path).path(record.definition.id).unlink()
    assert epochs_of(PackJob(plan, settings)) == [1, 2, 3, 4]


def test_no_checkpoint_stays_of_runs_that_others_have_stored(tmp_path: Path) -> None:
    settings, plan = PackSettings(str(tmp_path), checkpoint_every=1), digits_plan("bp", (0, 1), epochs=4)
    interrupted(PackJob(plan, settings), 3)
    for seed in plan.seeds:
        PackJob(digits_plan("bp", (seed,), epochs=4), settings).run()
    assert epochs_of(PackJob(plan, settings)) == []
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_halves_that_were_begun_go_on_though_more_memory_is_free(tmp_path: Path) -> None:
    settings, plan = PackSettings(str(tmp_path), checkpoint_every=1), digits_plan("bp", (0, 1, 2, 3), epochs=4)
    job = PackJob(plan, settings)
    whole, part = pack_into_memory(job, 2**50), plan.part(slice(2, 4))
    assert [p.seeds for p in whole.plans] == [(0, 1, 2, 3)]
    interrupted(job.with_plan(part), 3)
    begun = pack_into_memory(PackJob(plan, settings), 2**50)
    assert [p.seeds for p in begun.plans] == [(0, 1), (2, 3)]
    assert begun.note == ""
    assert epochs_of(PackJob(begun.plans[1], settings)) == [4]
