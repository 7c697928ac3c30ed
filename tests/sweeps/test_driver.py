"""The scheduler with the real Ray Tune: what workers die of, and who makes no progress."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.sweeps.test_queue import pretend
from tests.sweeps.test_scheduler import plain
from tpbench.engine import EpochReport, TpbenchError
from tpbench.engine.schedule import Phase
from tpbench.sweeps.board import Board
from tpbench.sweeps.cluster import Resources, ray_running
from tpbench.sweeps.nodes import Needs
from tpbench.sweeps.packs import HandedPack
from tpbench.sweeps.scheduler import Patience
from tpbench.sweeps.sweep import PlainSweep
from tpbench.training.pack import Outcome

if TYPE_CHECKING:
    from tpbench.sweeps.driver import NodeFindings

pytestmark = pytest.mark.slow

Report = Callable[[EpochReport], None]


class Lines:
    """A view that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def start(self, name: str, total: int, done: int = 0) -> None:
        pass

    def update(self, name: str, done: float, total: int, best: float | None) -> None:
        pass

    def end(self, name: str) -> None:
        pass


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with ray_running(Resources(2)):
        yield


def run(
    folder: Path,
    train: Callable[[HandedPack, Report], list[Outcome]],
    *,
    seeds: int = 2,
    parts: int = 2,
    patience: Patience | None = None,
    nodes: NodeFindings | None = None,
) -> tuple[PlainSweep, list[str]]:
    """Final runs of made-up packs, through Tune."""
    from tpbench.sweeps.driver import run_queue

    (folder / "runs").mkdir(parents=True)
    one, view = plain(folder, seeds=seeds, parts=parts, on_cluster=False), Lines()
    run_queue([one], Resources(2), folder / "ray", Board(view, [one]), train=train, patience=patience, nodes=nodes)
    return one, view.said


def attempts(folder: Path, pack: HandedPack) -> int:
    """How often a pack was begun, this time included."""
    path = folder / f"{pack.key}-begun"
    with path.open("a") as file:
        print(pack.parts, file=file)
    return len(path.read_text().split())


def boom(folder: Path, pack: HandedPack, report: Report) -> list[Outcome]:
    attempts(folder, pack)
    raise ValueError("boom: the second line\nsays more")


def test_what_raises_is_told_in_its_own_words_and_tried_three_times(ray: None, tmp_path: Path) -> None:
    one, said = run(tmp_path / "results", partial(boom, tmp_path), seeds=1, parts=1)
    assert one.failure is not None
    assert "ValueError: boom: the second line" in one.failure
    assert len((tmp_path / "final-0-begun").read_text().split()) == 3
    assert sum("boom" in line for line in said) == 4  # of each attempt, and of the sweep


def lacking(pack: HandedPack, report: Report) -> list[Outcome]:
    raise TpbenchError("data set 'digits' is not in /mnt")


def test_what_the_only_machine_lacks_is_told_in_its_own_words(ray: None, tmp_path: Path) -> None:
    one, _ = run(tmp_path / "results", lacking)
    assert one.failure == "data set 'digits' is not in /mnt"


def killed_twice(folder: Path, pack: HandedPack, report: Report) -> list[Outcome]:
    if attempts(folder, pack) <= 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return pretend(pack)


def test_a_process_that_is_lost_twice_is_followed_by_halves(ray: None, tmp_path: Path) -> None:
    one, _ = run(tmp_path / "results", partial(killed_twice, tmp_path), seeds=4, parts=1)
    assert one.done
    assert (tmp_path / "final-0-begun").read_text().split() == ["1", "1", "2"]


def killed_once(folder: Path, pack: HandedPack, report: Report) -> list[Outcome]:
    if attempts(folder, pack) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return pretend(pack)


def test_where_the_kernel_says_that_it_killed_for_memory_one_loss_is_enough(
    ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tpbench.sweeps.driver.oom_kills", lambda: 10**9)
    one, said = run(tmp_path / "results", partial(killed_once, tmp_path), seeds=4, parts=1)
    assert one.done
    assert (tmp_path / "final-0-begun").read_text().split() == ["1", "2"]
    assert any("GiB" in line for line in said)


def stopped_once(folder: Path, pack: HandedPack, report: Report) -> list[Outcome]:
    if attempts(folder, pack) == 1 and pack.key == "final-0":
        time.sleep(1.1)
        report(EpochReport(Phase("joint", 0), 1, 4, None))
        os.kill(os.getpid(), signal.SIGSTOP)
    return pretend(pack)


def test_a_process_that_makes_no_progress_is_named_and_ended(ray: None, tmp_path: Path) -> None:
    train = partial(stopped_once, tmp_path)
    one, said = run(tmp_path / "results", train, patience=Patience(silence=2.0))
    assert one.done
    assert len((tmp_path / "final-0-begun").read_text().split()) == 2
    assert sum("no progress" in line for line in said) == 1


@dataclass(frozen=True)
class StoppingNeeds(Needs):
    """Stops the first process that looks at them."""

    folder: str = ""

    def __getattribute__(self, name: str) -> Any:
        if name == "asked":
            with suppress(FileExistsError):
                (Path(self.folder) / "stopped").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGSTOP)
        return super().__getattribute__(name)


def test_a_process_that_hangs_before_it_says_anything_is_ended(ray: None, tmp_path: Path) -> None:
    from tpbench.sweeps.driver import NodeFindings

    known = Needs.of([], None, "cpu")
    needs = StoppingNeeds(known.sweeps, None, "cpu", known.tpbench, folder=str(tmp_path))
    one, said = run(
        tmp_path / "results", quick, patience=Patience(silence=8.0), nodes=NodeFindings(needs, {}), seeds=1, parts=1
    )
    assert one.done
    assert (tmp_path / "stopped").exists()
    assert sum("no progress" in line for line in said) == 1


def quick(pack: HandedPack, report: Report) -> list[Outcome]:
    return pretend(pack)


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
