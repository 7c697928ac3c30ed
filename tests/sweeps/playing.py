"""Plays Ray Tune for the queue, in this process: no Ray is started."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from tpbench.engine import TpbenchError
from tpbench.sweeps.board import Board
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.packs import Failure, HandedPack
from tpbench.sweeps.queue import SweepQueue
from tpbench.sweeps.sweep import Admission, QueuedSweep
from tpbench.sweeps.trainable import failure_kind
from tpbench.training.packs import Outcome, PackJob

Train = Callable[[HandedPack], list[Outcome]]


class Tune:
    """Plays Tune: asks for trials while workers are free, and lets them end in an order of its own."""

    def __init__(
        self, sweeps: Sequence[QueuedSweep], workers: int = 2, seed: int = 0,
        admission: Admission | None = None,
    ) -> None:  # fmt: skip
        self.opened = 0
        self.queue = SweepQueue(sweeps, workers, workers, self.open, admission)
        self.workers, self.random, self.number = workers, random.Random(seed), 0
        self.running: dict[str, dict[str, Any]] = {}
        self.handed: list[tuple[str, str]] = []
        self.finished = False

    def open(self, count: int) -> None:
        """The gate."""
        self.opened = count

    def fill(self) -> None:
        """Ask for trials until the queue gives none."""
        while not self.finished and len(self.running) < 2 * self.workers:
            self.number += 1
            found = self.queue.suggest(f"t{self.number}")
            if found is None:
                return
            if found == Searcher.FINISHED:
                self.finished = True
                return
            self.running[f"t{self.number}"] = found
            if "job" in found:
                self.handed.append((found["sweep"], found["pack"]))

    def packs(self) -> list[str]:
        return sorted(trial for trial, config in self.running.items() if "job" in config)

    def step(self, train: Train) -> bool:
        """One trial ends; False when all is over."""
        self.fill()
        # Who waits at the gate goes when it opens, or when all that start have arrived.
        for trial in [t for t, config in self.running.items() if "job" not in config]:
            self.running.pop(trial)
            self.queue.on_trial_complete(trial, {"share": 1.0})
        if not self.packs():
            self.fill()
            return not self.finished
        trial = self.random.choice(self.packs())
        config = self.running.pop(trial)
        try:
            outcomes = train(HandedPack.from_json(config["job"]))
        except TpbenchError as error:
            kind = failure_kind(error)
            self.queue.on_trial_complete(trial, {"failed": str(error), "node": "n1", "kind": kind})
        except ValueError as error:
            self.queue.on_trial_complete(trial, error=True)
            self.queue.errored(trial, Failure("raised", str(error)))
        except ProcessLookupError:
            self.queue.on_trial_complete(trial, error=True)
            self.queue.errored(trial, Failure("lost", "its process was lost"))
        else:
            self.queue.on_trial_complete(trial, {"outcomes": json.dumps([vars(o) for o in outcomes])})
        return True

    def run(self, train: Train, steps: int = 10**6) -> list[tuple[str, str]]:
        while steps and self.step(train):
            steps -= 1
        return self.handed


def train_here(pack: HandedPack) -> list[Outcome]:
    """Train a pack in this process."""
    return PackJob(pack.plan, pack.settings, pack.bracket).run()


def run_here(
    sweeps: Sequence[QueuedSweep], resources: Resources, ray_folder: Path, board: Board, *,
    admission: Admission | None = None, **_: Any,
) -> None:  # fmt: skip
    """What :func:`tpbench.sweeps.driver.run_queue` does, in this process."""
    Tune(sweeps, resources.concurrent, admission=admission).run(train_here)
    board.show()


@contextmanager
def no_ray(*_: Any) -> Iterator[None]:
    """In the place of a Ray that runs."""
    yield
