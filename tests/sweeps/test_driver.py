"""The scheduler with the real Ray Tune: what workers die of, and who makes no progress."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.sweeps.dying import KILLED_FOR_MEMORY, LACKS, STOPPED, StoppingNeeds, attempts, train
from tests.sweeps.starting import ray_started
from tests.sweeps.test_scheduler import plain
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.nodes import Needs
from tpbench.sweeps.scheduler import Timeouts
from tpbench.sweeps.session import ProgressReporter
from tpbench.sweeps.sweep import QueuedSweep

# Six processes start and five of them die before the first test begins.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Lines:
    """A view that keeps what is said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)
        if "no progress" in message:
            (self.folder / STOPPED).unlink()

    def start(self, name: str, total: int, done: int = 0) -> None:
        pass

    def update(self, name: str, done: float, total: int, best: float | None) -> None:
        pass

    def end(self, name: str) -> None:
        pass


@dataclass(frozen=True)
class PatienceWithTheLiving:
    """A second while a process is stopped and for ever else: a busy machine ends no process that is well."""

    folder: Path
    first_epoch: float = 3600.0
    other_node: float = 120.0
    replacement: float = 300.0
    idle: None = None

    @property
    def epoch(self) -> float:
        return 1.0 if (self.folder / STOPPED).exists() else 3600.0


@dataclass(frozen=True)
class Queue:
    """What came of a queue."""

    folder: Path
    sweeps: dict[str, QueuedSweep]
    said: list[str]
    counted: list[object]
    """The callbacks that Tune has counted for Ray's report of use."""


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    """Five sweeps one after the other on one worker, whose process dies five times."""
    from tpbench.sweeps.driver import run_queue
    from tpbench.sweeps.nodes import NodeFindings

    folder, sweeps = tmp_path_factory.mktemp("driver"), {}
    for name, seeds in (("raises", 1), ("lacks", 1), ("lost", 2), ("memory", 2), ("stops", 1)):
        (folder / name / "runs").mkdir(parents=True)
        sweeps[name] = plain(folder / name, seeds, 1, name, on_cluster=False)
    counted: list[object] = []
    view, known = Lines(folder), Needs.of([], None, "cpu")
    needs = StoppingNeeds(known.sweeps, None, "cpu", known.tpbench, folder=str(folder))

    def oom_kills() -> int:
        killed = (folder / KILLED_FOR_MEMORY).exists()
        (folder / KILLED_FOR_MEMORY).unlink(missing_ok=True)
        return 10**9 if killed else 0

    with pytest.MonkeyPatch.context() as patch, ray_started(Resources(1)):
        patch.setattr("tpbench.sweeps.driver.oom_kills", oom_kills)
        patch.setattr("tpbench.sweeps.driver._LOOK", 0.5)
        patch.setattr("ray.air._internal.usage._count_callbacks", counted.append)
        run_queue(
            list(sweeps.values()),
            Resources(1),
            folder / "ray",
            ProgressReporter(view, list(sweeps.values())),
            train=train,
            timeouts=PatienceWithTheLiving(folder),  # type: ignore[arg-type]
            nodes=NodeFindings(needs, {}),
        )
        # Two workers, of which one has a place: as on a cluster, where others could use it.
        (folder / "waits" / "runs").mkdir(parents=True)
        sweeps["waits"] = plain(folder / "waits", 2, 2, "waits", on_cluster=False)
        run_queue(
            [sweeps["waits"]],
            Resources(2),
            folder / "ray",
            ProgressReporter(view, [sweeps["waits"]]),
            train=train,
            timeouts=Timeouts(idle=60),
        )
    return Queue(folder, sweeps, view.said, counted)


def test_callbacks_are_not_counted_as_mlflow_would_be_imported_for_it(queue: Queue) -> None:
    from ray.air._internal import usage

    assert queue.counted == []
    assert usage.tag_callbacks.__module__ == usage.__name__  # put back


def test_what_raises_is_told_in_its_own_words_and_tried_again(queue: Queue) -> None:
    assert queue.sweeps["raises"].done
    assert attempts(queue.folder / "raises") == ["1", "1"]
    (told,) = [line for line in queue.said if "boom" in line]
    assert "ValueError: boom: the second" in told
    assert "says more\n" not in told


def test_what_the_only_machine_lacks_is_told_in_its_own_words(queue: Queue) -> None:
    assert queue.sweeps["lacks"].failure == LACKS


def test_a_pack_whose_process_is_lost_is_handed_out_again(queue: Queue) -> None:
    assert queue.sweeps["lost"].done
    assert attempts(queue.folder / "lost") == ["1", "1"]


def test_where_the_kernel_says_that_it_killed_for_memory_halves_follow(queue: Queue) -> None:
    assert queue.sweeps["memory"].done
    assert attempts(queue.folder / "memory") == ["1", "2"]
    assert sum("GiB" in line for line in queue.said) == 1


def test_a_process_that_makes_no_progress_is_named_and_ended(queue: Queue) -> None:
    assert queue.sweeps["stops"].done
    assert attempts(queue.folder / "stops") == ["1", "1"]
    assert sum("no progress" in line and "its pack" in line for line in queue.said) == 1


def test_a_process_that_hangs_before_it_says_anything_is_ended(queue: Queue) -> None:
    assert (queue.folder / "hung").exists()
    assert sum("no progress" in line and "its pack" not in line for line in queue.said) == 1


def test_no_worker_waits_for_a_place_while_the_last_pack_trains(queue: Queue) -> None:
    assert queue.sweeps["waits"].done
    assert [int((queue.folder / "waits" / f"pending-{n}").read_text()) for n in (1, 0)] == [1, 0]


OF_RAY = """Failure # 1 (occurred at 2026-11-29_14-38-56)
Task was killed due to the node running low on memory.
Memory on the node (IP: 10.0.0.7, ID: 5d) where the task was running was 27.57GB / 28.80GB (0.957407), which exceeds the
memory usage threshold of 0.95. Ray killed this worker (ID: 5d) because it was the most recently scheduled task
"""
OF_TASKS = (
    "1 worker(s) were killed due to the node running low on memory. Memory was 3.86GB used / 28.80GB limit (0.16)"
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (OF_RAY, "memory"),
        (OF_TASKS, "memory"),
        ("The actor died unexpectedly.\nThe actor is dead because its node has died. Node Id: 5d", "gone"),
        ("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR", "lost"),
        ("Worker exit type: USER_ERROR Worker exit detail: Worker exits with an exit code 3.", "raised"),
        ("Traceback (most recent call last):\n  x\nModuleNotFoundError: No module named 'sklearn'", "raised"),
        ("", "lost"),
    ],
)
def test_what_ray_says_of_a_process_that_is_gone(tmp_path: Path, text: str, kind: str) -> None:
    from tpbench.sweeps.driver import failure_of

    (tmp_path / "error.txt").write_text(text)
    trial = SimpleNamespace(pickled_error_file=None, error_file=str(tmp_path / "error.txt"))
    failure = failure_of(trial)
    assert failure.kind == kind
    assert ("28.80GB" in failure.message) == (kind == "memory")
