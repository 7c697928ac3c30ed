"""The scheduler as a Searcher of Ray Tune: every trial is a worker, which trains one pack after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray import cloudpickle
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from tpbench.sweeps.mailbox import END
from tpbench.sweeps.scheduler import Scheduler, Slot
from tpbench.sweeps.sweep import Failure, Place, QueuedSweep
from tpbench.training.plan import Outcome

METRIC = "share"

Put = Callable[[str, bytes], None]


class SweepQueue(Searcher):
    """Gives Tune a trial for every worker that the scheduler wants, and the scheduler the workers' reports.

    Args:
        scheduler: decides.
        put: puts a job for a worker into the mailbox.
    """

    def __init__(self, scheduler: Scheduler, put: Put) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.scheduler, self.put = scheduler, put
        self.about: dict[str, dict[str, Any]] = {}
        """The report of each worker at its start."""
        self.withdrawn: list[str] = []
        """Workers that are to be withdrawn before they have a place."""
        self._broken: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles it to restore an experiment, but sweeps are restored from their journals."""
        return {}

    @property
    def over(self) -> bool:
        """True if Tune may stop."""
        return self._broken is None and self.scheduler.over

    # What Tune calls

    def suggest(self, trial_id: str) -> dict[str, Any] | Any:
        """Give Tune a worker to start; None while there are enough, FINISHED when all is trained."""
        if self._broken:
            raise self._broken
        if self.scheduler.over:
            return Searcher.FINISHED
        if not self.scheduler.wants_slot():
            return None
        return {"worker": trial_id, "avoid": sorted(self.scheduler.open(trial_id))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note that a worker ended; the callback is given the error of one that failed."""
        if not error:
            with self._guarded():
                self.scheduler.closed(trial_id)

    def handle_report(self, trial_id: str, result: Mapping[str, Any]) -> QueuedSweep | None:
        """Take a worker's report; returns the sweep that it is about."""
        slot = self.scheduler.slots.get(trial_id)
        sweep = slot.work[0] if slot and slot.work else None
        with self._guarded():
            if "started" in result:
                about = self.about[trial_id] = json.loads(result["started"])
                place = Place(about["node"], about["gpu"], self.scheduler.hosts.get(about["node"], about["host"]))
                self.scheduler.started(trial_id, place, about["lacks"])
            elif "asks" in result and slot and (slot.work or slot.leaving):
                self.put(trial_id, cloudpickle.dumps(slot.work[1]) if slot.work else END)  # the mailbox was lost
            elif "took" in result:
                self.about.setdefault(trial_id, {}).update(json.loads(result["took"]))
                self.scheduler.took(trial_id)
            elif "outcomes" in result:
                outcomes = [Outcome(**outcome) for outcome in json.loads(result["outcomes"])]
                self.scheduler.ended(trial_id, outcomes)
            elif "failed" in result:
                self.scheduler.failed(trial_id, Failure(str(result["kind"]), str(result["failed"])))
            elif "asks" not in result:
                self.scheduler.progress(trial_id, result["share"], result.get("best"), result.get("epoch"))
            self.hand_out()
        return sweep

    def lost(self, trial_id: str, failure: Failure) -> None:
        """Note that a worker's process raised or was lost; its pack is handed out again."""
        with self._guarded():
            self.scheduler.gone(trial_id, failure)
            self.hand_out()

    def stalled(self) -> list[tuple[Slot, str]]:
        """Find workers that make no progress (:meth:`Scheduler.stalled`)."""
        slots: list[tuple[Slot, str]] = []
        with self._guarded():
            slots = self.scheduler.stalled()
        return slots

    def hand_out(self) -> None:
        """Give idle workers their packs, and end those that are not needed."""
        with self._guarded():
            for slot in self.scheduler.idle:
                if pack := self.scheduler.next_pack(slot.name):
                    self.put(slot.name, cloudpickle.dumps(pack))
            self.withdrawn += self.scheduler.withdrawn()
            for name in self.scheduler.surplus():
                self.put(name, END)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Keep an exception for the next suggestion, which ends the run with it.

        Tune would take it for the trial's own and go on without another report of it.
        """
        try:
            yield
        except Exception as error:
            self._broken = self._broken or error

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the journals are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the journals are the state."""


class WorkerRequests(FIFOScheduler):
    """Tune's own order of trials, which also withdraws workers that are not needed before they have a place.

    Args:
        queue: names them.
    """

    def __init__(self, queue: SweepQueue) -> None:
        super().__init__()
        self.queue = queue

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its schedulers too."""
        return {}

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Choose the next trial, after those that are withdrawn were stopped."""
        names, self.queue.withdrawn = self.queue.withdrawn, []
        for trial in (tune_controller.get_trial(name) for name in names):
            if trial is not None and trial.status == trial.PENDING:
                tune_controller.stop_trial(trial)
            elif trial is not None:
                self.queue.scheduler.keep(trial.trial_id)
        return super().choose_trial_to_run(tune_controller)
