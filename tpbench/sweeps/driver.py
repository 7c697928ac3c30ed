"""One Ray Tune run over a queue of sweeps."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from tpbench.sweeps.board import Board
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.environment import kept_environment
from tpbench.sweeps.gate import open_gate
from tpbench.sweeps.packs import Failure
from tpbench.sweeps.queue import METRIC, SweepQueue
from tpbench.sweeps.sweep import Admission, QueuedSweep
from tpbench.sweeps.trainable import Train, run_trial, train_job
from tpbench.training.loggers import quieter
from tpbench.training.progress import in_notebook

# Seconds for which a node of a cluster keeps a pack that it cannot train: a mount may take a while, and a worker that
# fails at once would be handed one pack after the other.
_PATIENCE = 30.0
# Seconds after which a pack that has no place takes that of one that waits at the gate: at first, and at most where it
# does not help at once.
_STARVED, _STARVED_MOST = 1.0, 60.0


class QueueCallback(tune.Callback):
    """Hands on to the queue and the view what Tune alone hears: progress, errors, what started."""

    def __init__(self, queue: SweepQueue, board: Board) -> None:
        self.queue, self.board = queue, board
        self.trials: dict[str, Any] = {}
        """Those that have not ended, by id."""
        self._seen = 0
        self._starving_since: float | None = None
        self._starved = _STARVED

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks to restore an experiment; sweeps are restored from their journals instead."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **_: Any
    ) -> None:
        place = self.queue.live.get(trial.trial_id)
        if place:
            place[0].report(place[1], result["share"], result.get("best"))
            self.board.warn(place[0], result.get("warnings") or ())
            self.board.show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.trials.pop(trial.trial_id, None)
        self.board.show()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._errored(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """A worker that could not be reset ends its trial without telling the searcher or a callback.

        So all trials are looked at until they have ended; Tune's list only grows.
        """
        self.trials.update({trial.trial_id: trial for trial in trials[self._seen :]})
        self._seen = len(trials)
        for trial in [t for t in self.trials.values() if t.status == t.TERMINATED]:
            self.trials.pop(trial.trial_id)
        for trial in [t for t in self.trials.values() if t.status == t.ERROR]:
            self._errored(trial)
        self._feed(time.monotonic())

    def _feed(self, now: float) -> None:
        """Tune chooses whom it starts: where a node has gone, one that waits may have the place of a pack."""
        alive = [(trial, self.queue.live.get(trial.trial_id)) for trial in self.trials.values()]
        starved = any(place and trial.status == trial.PENDING for trial, place in alive)
        if not (starved and any(place is None and trial.status == trial.RUNNING for trial, place in alive)):
            self._starving_since, self._starved = None, _STARVED
        elif self._starving_since is None:
            self._starving_since = now
        elif now - self._starving_since > self._starved:
            self._starving_since, self._starved = now, min(2 * self._starved, _STARVED_MOST)
            self.queue.release()

    def _errored(self, trial: Any) -> None:
        self.trials.pop(trial.trial_id, None)
        place = self.queue.live.get(trial.trial_id)
        failure = failure_of(trial)
        if place:
            self.board.say(f"{place[0].label}, pack {place[1]}: {failure.message}; Ray's log says more")
        self.queue.errored(trial.trial_id, failure)
        self.board.show()


class SilentReporter(tune.ProgressReporter):
    """Tune's own table in a notebook, which it would clear a cell for however quiet it is told to be."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
        """Nothing."""


def failure_of(trial: Any) -> Failure:
    """What a trial of Tune's died of."""
    from ray.exceptions import RayTaskError

    try:
        error = trial.get_pickled_error()
    except Exception as unreadable:  # Tune's own file, on this machine
        error = unreadable
    if isinstance(error, RayTaskError):
        return Failure("raised", last_line(str(error)))
    return Failure("lost", "its process was lost")


def last_line(traceback: str) -> str:
    """The message of an exception that Ray hands on as text."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    return lines[-1].split(": ", 1)[-1] if lines else "unknown error"


def run_queue(
    sweeps: Sequence[QueuedSweep], resources: Resources, ray_folder: Path, board: Board, *, train: Train = train_job,
    admission: Admission | None = None,
) -> None:  # fmt: skip
    """Train all packs of all sweeps; Ray must be connected.

    Args:
        sweeps: what is trained; afterwards each is done or says why not.
        resources: what they may use together.
        ray_folder: a folder of this machine for Tune's own files, which go at the end.
        board: shows the progress.
        train: trains a pack.
        admission: which sweeps may begin.
    """
    gate, workers = open_gate(), resources.concurrent
    final_workers = resources.gpus or resources.cpus
    # On this machine Ray was given what may be used. A cluster starts whatever it has place for.
    most = workers + max(1, workers // 8) if resources.address else None
    queue = SweepQueue(sweeps, workers, final_workers, lambda count: gate.open.remote(count), admission, most)
    # One shape for all packs, or Tune could not keep their processes.
    share = resources.per_pack(workers)
    # Read when the run begins: with a searcher of one's own Tune would ask for one trial at a time, and a cluster grow
    # by one node at a time. The experiment's state is in the journals.
    pending = {"TUNE_MAX_PENDING_TRIALS_PG": str(2 * workers), "TUNE_GLOBAL_CHECKPOINT_S": "inf"}
    trainable = tune.with_parameters(
        run_trial, gate=gate, train=train, threads=int(share["cpu"]), workers=workers,
        patience=_PATIENCE if resources.address else 0.0,
    )  # fmt: skip
    tuner = tune.Tuner(
        tune.with_resources(trainable, share),
        tune_config=tune.TuneConfig(
            search_alg=queue, metric=METRIC, mode="max", num_samples=-1, reuse_actors=True,
            trial_name_creator=_trial_name, trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="queue", storage_path=str(ray_folder.resolve()), verbose=0,
            # The queue hands packs out again by itself: elsewhere, and not for ever.
            failure_config=tune.FailureConfig(max_failures=0), callbacks=[QueueCallback(queue, board)],
            progress_reporter=SilentReporter() if in_notebook() else None,
        ),
    )  # fmt: skip
    try:
        # Results are in the journals and the store: that Tune finds none in its own files is no news.
        with kept_environment(*pending), quieter(logging.ERROR, "ray.tune.analysis.experiment_analysis"):
            os.environ.update(pending)
            tuner.fit()
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)


def _trial_name(trial: Any) -> str:
    return f"{trial.config.get('sweep')}-{trial.config.get('pack')}-{trial.trial_id}".strip("-")
