"""Plays workers for the scheduler, in this process: no Ray is started."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tpbench.engine import TpbenchError
from tpbench.results import RunRecord, RunStore
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.scheduler import Scheduler, Timeouts
from tpbench.sweeps.session import ProgressReporter
from tpbench.sweeps.sweep import Admission, Failure, Place, QueuedPack, QueuedSweep
from tpbench.sweeps.trainable import failure_kind
from tpbench.training.pack import PackJob
from tpbench.training.plan import Outcome, PackPlan, PackSettings, define_runs

Train = Callable[[QueuedPack], list[Outcome]]

FINGERPRINT = "0" * 64


def final_sweep(
    name: str, label: str, plan: PackPlan, settings: PackSettings, parts: int, *, on_cluster: bool = False
) -> QueuedSweep:
    """Return a sweep of final runs alone."""
    sweep = QueuedSweep(name, label, settings, on_cluster=on_cluster)
    sweep.train_final(replace(plan, fingerprint=FINGERPRINT), parts)
    return sweep


class OutOfMemoryHereError(Exception):
    """The system ends the process as memory runs out."""


class StalledError(Exception):
    """The process makes no progress."""


class Workers:
    """Plays the workers that a scheduler asks for; packs end in an order of its own.

    Args:
        sweeps: what is trained.
        workers: at most so many.
        seed: of the order in which packs end.
        places: where workers are, by turns; a place holds one worker per entry.
        lacks: by node, what it lacks.
        on_gpus: whether workers have GPUs.
    """

    def __init__(
        self,
        sweeps: Sequence[QueuedSweep],
        workers: int = 2,
        seed: int = 0,
        admission: Admission | None = None,
        places: Sequence[Place] = (),
        lacks: Mapping[str, Mapping[str, str]] | None = None,
        timeouts: Timeouts | None = None,
        on_gpus: bool = False,
    ) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.scheduler = Scheduler(
            sweeps,
            workers,
            workers,
            on_gpus=on_gpus,
            admission=admission,
            say=self.said.append,
            clock=lambda: self.now,
            timeouts=timeouts,
        )
        self.random, self.number = random.Random(seed), 0
        self.places = list(places) or [Place("n1")] * workers
        self.lacks = lacks or {}
        if places:
            self.scheduler.update_nodes({place.node: place.node for place in places})
        self.here = Place()
        """Where a pack ends now."""
        self.taken: dict[str, int] = {}
        self.running: dict[str, QueuedPack] = {}
        self.handed: list[tuple[str, str]] = []
        """The sweeps and packs in the order in which they were handed out."""
        self.where: list[tuple[str, Place]] = []
        """The packs, and where they were handed out."""

    def fill(self) -> None:
        """Start the workers that are wanted and have a place, and give idle ones their packs."""
        scheduler = self.scheduler
        while not scheduler.over:
            self.hand_out()
            for name in scheduler.surplus():
                self.taken.pop(name)
                scheduler.closed(name)
            if not scheduler.wants_slot():
                return
            self.number += 1
            name = f"w{self.number}"
            avoid = scheduler.open(name)
            free = [k for k, p in enumerate(self.places) if k not in self.taken.values() and p.node not in avoid]
            if not free:
                scheduler.closed(name)  # it waits for a place
                return
            self.taken[name] = free[0]
            place = self.places[free[0]]
            scheduler.started(name, place, self.lacks.get(place.node))

    def hand_out(self) -> None:
        """Give idle workers their packs."""
        for slot in self.scheduler.idle:
            pack = self.scheduler.next_pack(slot.name)
            if pack is not None and slot.work is not None:
                self.running[slot.name] = pack
                self.handed.append((slot.work[0].name, pack.key))
                self.where.append((pack.key, self.places[self.taken[slot.name]]))

    def step(self, train: Train) -> bool:
        """One pack ends; False when all is over."""
        self.fill()
        self.now += 1
        if not self.running:
            return not self.scheduler.over
        name = self.random.choice(sorted(self.running))
        pack, self.here = self.running.pop(name), self.places[self.taken[name]]
        try:
            outcomes = train(pack)
        except TpbenchError as error:
            self.scheduler.failed(name, Failure(failure_kind(error), str(error)))
        except ValueError as error:
            self._gone(name, Failure("raised", str(error)))
        except ProcessLookupError:
            self._gone(name, Failure("lost", "its process was lost"))
        except OutOfMemoryHereError:
            self._gone(name, Failure("memory", "out of memory"))
        except StalledError:
            self.now += 10_000
            self.scheduler.stalled()
            self._gone(name, Failure("lost", "its process was ended"))
        else:
            self.scheduler.ended(name, outcomes)
        return True

    def _gone(self, name: str, failure: Failure) -> None:
        self.taken.pop(name)
        self.scheduler.gone(name, failure)

    def run(self, train: Train, steps: int = 10**6) -> list[tuple[str, str]]:
        """Let so many packs end; returns what was handed out."""
        while steps and self.step(train):
            steps -= 1
        return self.handed


def pretend(pack: QueuedPack) -> list[Outcome]:
    """Publish made-up runs whose errors depend on what they are alone."""
    store, outcomes = RunStore(Path(pack.settings.results)), []
    for definition in define_runs(pack.plan, FINGERPRINT, "float32"):
        error = random.Random(definition.id).random()
        curves = {"validation_error": [error], "test_error": [error]}
        store.publish(RunRecord(definition, "", "finished", curves, 1.0, 1, {}, pack.plan.found))
        outcomes.append(Outcome(definition.id, "finished", error, error, epochs=1))
    return outcomes


def train_here(pack: QueuedPack) -> list[Outcome]:
    """Train a pack in this process."""
    return PackJob(pack.plan, pack.settings, pack.bracket, parts=pack.parts).run()


def run_here(
    sweeps: Sequence[QueuedSweep],
    resources: Resources,
    ray_folder: Path,
    board: ProgressReporter,
    *,
    admission: Admission | None = None,
    **_: Any,
) -> None:
    """What :func:`tpbench.sweeps.driver.run_queue` does, in this process."""
    Workers(sweeps, resources.concurrent, admission=admission).run(train_here)
    board.show()


@contextmanager
def no_ray(*_: Any) -> Iterator[None]:
    """In the place of a Ray that runs."""
    yield
