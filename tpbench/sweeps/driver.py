"""One Ray Tune run over the packs of several sweeps."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.exceptions import RayTaskError
from ray.tune import PlacementGroupFactory

from tpbench.engine import TpbenchError
from tpbench.engine.errors import format_bytes
from tpbench.sweeps.board import Board
from tpbench.sweeps.cluster import WAITING, Resources, waits_for
from tpbench.sweeps.environment import kept_environment
from tpbench.sweeps.gate import open_gate
from tpbench.sweeps.nodes import Needs, end_process_of, last_line, missing, not_on, on_nodes, oom_kills_of, trainers
from tpbench.sweeps.packs import ALL_SWEEPS, Failure, HandedPack
from tpbench.sweeps.queue import METRIC, SweepQueue
from tpbench.sweeps.scheduler import Patience, Scheduler
from tpbench.sweeps.sweep import Admission, QueuedSweep
from tpbench.sweeps.trainable import Train, run_worker, train_job
from tpbench.training.console import log_level
from tpbench.training.processes import memory_of_plan
from tpbench.training.progress import in_notebook
from tpbench.workloads import load_problem
from tpbench.workloads.memory import oom_kills

# Seconds for which a node of a cluster keeps a pack that it cannot train: a mount may take a while.
_PATIENCE = 30.0
# Seconds after which an idle worker of a cluster gives its place back.
_IDLE = 60.0
# Seconds between two looks at the cluster's nodes, and at workers that make no progress.
_LOOK = 10.0
# Such intervals without a look after which the driver itself was late.
_LATE = 3
# Workers in a row that could not be started, after which the run ends.
_STARTS = 5


@dataclass(frozen=True)
class NodeFindings:
    """What was found out about the nodes of a cluster before anything trains."""

    needs: Needs
    lacks: Mapping[str, Mapping[str, str]]
    """What each node lacks, as :meth:`Scheduler.started` takes it."""


class QueueCallback(tune.Callback):
    """Hands on to the queue and the board what Tune alone hears: what workers report, and what they die of.

    Args:
        queue: hears it.
        board: shows it.
        resources: of the run.
        nodes: what was found out about the nodes of a cluster.
    """

    def __init__(
        self, queue: SweepQueue, board: Board, resources: Resources | None = None, nodes: NodeFindings | None = None
    ) -> None:
        self.queue, self.board, self.resources, self.nodes = queue, board, resources, nodes
        self.trials: dict[str, Any] = {}
        """Those that have not ended, by id."""
        self._seen = 0
        self._looked = self._waiting_since = time.monotonic()
        self._failed_starts = 0
        self._told = False
        self._asked_new = -math.inf
        self._kills: dict[str, tuple[float, int | None]] = {}
        """By node, when it was asked how many processes the kernel has killed there, and its answer."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks to restore an experiment; sweeps are restored from their journals instead."""
        return {}

    @property
    def _on_cluster(self) -> bool:
        return bool(self.resources and self.resources.address)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **_: Any
    ) -> None:
        if "started" in result:
            self._failed_starts = 0
        slot = self.queue.scheduler.slots.get(trial.trial_id)
        key = slot.work[1].key if slot and slot.work else ""
        sweep = self.queue.heard(trial.trial_id, result)
        if sweep and "failed" in result:
            self.board.say(f"{sweep.label}, pack {key}: {result['failed']}")
        if sweep:
            self.board.warn(sweep, result.get("warnings") or ())
        self.board.show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.trials.pop(trial.trial_id, None)
        self.board.show()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._errored(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Look after what Tune tells nobody: errors, workers that make no progress, a cluster that is busy."""
        self.trials.update({trial.trial_id: trial for trial in trials[self._seen :]})
        self._seen = len(trials)
        for trial in [t for t in self.trials.values() if t.status == t.TERMINATED]:
            self.trials.pop(trial.trial_id)
        for trial in [t for t in self.trials.values() if t.status == t.ERROR]:
            self._errored(trial)
        now = time.monotonic()
        interval = min(_LOOK, self.queue.scheduler.patience.silence / 2)
        if now - self._looked < interval:
            return
        # A driver that was stopped, or waited for a mount, has heard nobody.
        self.queue.scheduler.paused(max(0.0, now - self._looked - _LATE * interval))
        self._looked = now
        for trial in self.trials.values():
            if trial.status == trial.RUNNING:
                self.queue.scheduler.runs(trial.trial_id)
        self._end_silent()
        self._say_what_is_waited_for(now)
        if self._on_cluster and self.resources:
            self.queue.scheduler.see_nodes(trainers(self.resources.per_pack(self.resources.concurrent)))
        self.queue.hand_out()
        self.board.show()

    def _end_silent(self) -> None:
        for slot, message in self.queue.silent():
            about = self.queue.about.get(slot.name)
            if about and slot.place:
                self.board.say(f"{slot.place.name}, process {about['pid']} is ended: {message}")
                end_process_of(about["node"] if self._on_cluster else None, about["pid"], about["created"])
            elif (trial := self.trials.get(slot.name)) and (actor := trial.temporary_state.ray_actor):
                self.board.say(f"a process is ended: {message}")
                ray.kill(actor)

    def _say_what_is_waited_for(self, now: float) -> None:
        """Say once that no worker has a place, and why, each time that this is so."""
        if any(slot.place or slot.running for slot in self.queue.scheduler.slots.values()):
            self._told, self._waiting_since = False, now
            return
        if self._told or not self._on_cluster or now - self._waiting_since < WAITING:
            return
        self._told = True
        share = self.resources.per_pack(self.resources.concurrent) if self.resources else {}
        self.board.say(waits_for(share, len(self.queue.scheduler.slots)))

    def _errored(self, trial: Any) -> None:
        self.trials.pop(trial.trial_id, None)
        slot = self.queue.scheduler.slots.get(trial.trial_id)
        failure = self._with_evidence(failure_of(trial), trial.trial_id)
        if slot and slot.work and not slot.leaving:
            sweep, pack = slot.work
            where = f" on {slot.place.name}" if slot.place and self._on_cluster else ""
            self.board.say(f"{sweep.label}, pack {pack.key}{where}: {failure.message}; Ray's log says more")
        starting = slot is not None and slot.place is None
        self.queue.lost(trial.trial_id, failure)
        if starting:
            self._failed_starts += 1
            self._ask_new_nodes()
            if self._failed_starts >= _STARTS and not any(s.work for s in self.queue.scheduler.slots.values()):
                self._give_up(failure)
        self.board.show()

    def _ask_new_nodes(self) -> None:
        """Find the node on which no worker can be started: one that joined since, or never answered."""
        now = time.monotonic()
        if self.nodes is None or self.resources is None or now - self._asked_new < _LOOK:
            return
        self._asked_new = now
        scheduler, needs = self.queue.scheduler, self.nodes.needs
        known = {*needs.asked, *scheduler.lacking, *(s.place.node for s in scheduler.slots.values() if s.place)}
        new = [node for node in trainers(self.resources.per_pack(self.resources.concurrent)) if node not in known]
        for node, answer in on_nodes(new, missing, needs, timeout=_LOOK).items():
            if isinstance(answer, RayTaskError):
                reason = f"no process of tpbench can be started there: {last_line(str(answer))}"
                scheduler.lacks(node, {ALL_SWEEPS: reason})
        scheduler.stop_without_nodes()

    def _give_up(self, failure: Failure) -> None:
        for sweep in self.queue.scheduler.unfinished:
            sweep.interrupt(f"no training process could be started: {failure.message}")

    def _with_evidence(self, failure: Failure, trial_id: str) -> Failure:
        """A process that was lost as its node is gone, or as the kernel killed it when memory ran out."""
        about = self.queue.about.get(trial_id)
        if failure.kind != "lost" or about is None:
            return failure
        if self._on_cluster:
            share = self.resources.per_pack(self.resources.concurrent) if self.resources else {}
            if about["node"] not in trainers(share):
                return Failure("gone", "its node was lost")
        kills = self._kills_on(about["node"])
        if kills is None or kills <= about["oom_kills"]:
            return failure
        for other in self.queue.about.values():
            if other["node"] == about["node"]:
                other["oom_kills"] = min(kills, other["oom_kills"] + 1)  # this kill is told
        slot = self.queue.scheduler.slots.get(trial_id)
        needed = memory_of(slot.work[1]) if slot and slot.work else None
        needs = f"about {format_bytes(needed)} are needed" if needed else "it needs more"
        return Failure(
            "memory",
            f"out of memory: the system killed its process; {format_bytes(about['memory'])} were free before, {needs}",
        )

    def _kills_on(self, node: str) -> int | None:
        """Return how many processes the kernel has killed on a node; a node is asked once in a while, as all wait."""
        if not self._on_cluster:
            return oom_kills()
        asked, kills = self._kills.get(node, (-math.inf, None))
        if time.monotonic() - asked > _LOOK:
            kills = oom_kills_of(node)
            self._kills[node] = time.monotonic(), kills
        return kills


def memory_of(pack: HandedPack) -> int | None:
    """Return about how many bytes of the machine's memory a pack takes; None where that is not known."""
    if pack.settings.device != "cpu":
        return None
    data = Path(pack.settings.data) if pack.settings.data else None
    try:
        problem = load_problem(pack.plan.workload, data)[0]
        return memory_of_plan(pack.plan, pack.settings, problem, members=math.ceil(pack.members / pack.parts))
    except TpbenchError:
        return None


class SilentReporter(tune.ProgressReporter):
    """Tune's own table in a notebook, which it would clear a cell for however quiet it is told to be."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
        """Nothing."""


class WhenOver(tune.Stopper):
    """Ends the Tune run when all packs are trained, though workers may still wait for a place or be stuck."""

    def __init__(self, queue: SweepQueue) -> None:
        self.queue = queue

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as of the callback."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.queue.over


_MEMORY_OF_NODE = re.compile(r"was ([\d.]+ ?[kMGT]?i?B)(?: used)? / ([\d.]+ ?[kMGT]?i?B)")

_EXIT_CODE = re.compile(r"exits with an exit code ([1-9]\d*)")


def failure_of(trial: Any) -> Failure:
    """What a trial of Tune's died of, from the files that Tune wrote in the driver's own folder."""
    error: Any = None
    try:
        if trial.pickled_error_file and Path(trial.pickled_error_file).exists():
            error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        text = Path(trial.error_file).read_text(errors="replace") if trial.error_file else ""
    except Exception as unreadable:  # of an exception whose class this process lacks, too
        text = f"{type(unreadable).__name__}: {unreadable}"
    text = text or str(error or "")
    if "OutOfMemoryError" in type(error).__name__ or "low on memory" in text:
        found = _MEMORY_OF_NODE.search(text)
        there = f"{found[1]} of {found[2]} were taken" if found else "the node had too little"
        return Failure("memory", f"out of memory: Ray's memory monitor ended its process; {there}, it needs more")
    if isinstance(error, RayTaskError) or (error is None and "Traceback" in text):
        return Failure("raised", spell_cause(getattr(error, "cause", None)) or last_line(text))
    if "node has died" in text or "node was terminated" in text:
        return Failure("gone", "its node was lost")
    if code := _EXIT_CODE.search(text):
        return Failure("raised", f"its process ended itself with exit code {code[1]}")
    if getattr(error, "actor_init_failed", False):
        return Failure("raised", last_line(text))
    return Failure("lost", "its process was lost")


def spell_cause(cause: object) -> str:
    """The kind and the first line of an exception; empty where there is none."""
    if not isinstance(cause, Exception):
        return ""
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__


def run_queue(
    sweeps: Sequence[QueuedSweep],
    resources: Resources,
    ray_folder: Path,
    board: Board,
    *,
    train: Train = train_job,
    admission: Admission | None = None,
    nodes: NodeFindings | None = None,
    patience: Patience | None = None,
) -> None:
    """Train all packs of all sweeps; Ray must be connected.

    Args:
        sweeps: what is trained; afterwards each is done or says why not.
        resources: what they may use together.
        ray_folder: a folder of this machine for Tune's own files, which go at the end.
        board: shows the progress.
        train: trains a pack.
        admission: which sweeps may begin.
        nodes: what was found out about the nodes of a cluster.
        patience: for how long the scheduler waits for what may not come.
    """
    gate, workers = open_gate(), resources.concurrent
    share = resources.per_pack(workers)
    scheduler = Scheduler(
        sweeps,
        workers,
        resources.gpus or resources.cpus,
        admission=admission,
        # On this machine Ray was given what may be used. A cluster starts whatever it has place for.
        most=workers + max(1, workers // 8) if resources.address else None,
        patience=patience or Patience(idle=_IDLE if resources.address else None),
        say=board.say,
    )
    if resources.address:
        scheduler.see_nodes(trainers(share))
    for node, lacks in (nodes.lacks if nodes else {}).items():
        scheduler.lacks(node, lacks)
    scheduler.stop_without_nodes()
    queue = SweepQueue(scheduler, lambda worker, job: gate.hand.remote(worker, job))
    # Read when the run begins: with a searcher of one's own Tune would ask for one trial at a time, and a cluster grow
    # by one node at a time. Some may wait for places that are never free. The experiment's state is in the journals.
    pending = {"TUNE_MAX_PENDING_TRIALS_PG": str(4 * workers), "TUNE_GLOBAL_CHECKPOINT_S": "inf"}
    trainable = tune.with_parameters(
        run_worker,
        gate=gate,
        train=train,
        threads=int(share["cpu"]),
        workers=workers,
        patience=_PATIENCE if resources.address else 0.0,
        needs=nodes.needs if nodes else None,
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, lambda config: _place_for(config, share)),
        tune_config=tune.TuneConfig(
            search_alg=queue,
            metric=METRIC,
            mode="max",
            num_samples=-1,
            reuse_actors=False,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="queue",
            storage_path=str(ray_folder.resolve()),
            verbose=0,
            stop=WhenOver(queue),
            # The scheduler hands packs out again by itself: elsewhere, and not for ever.
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[QueueCallback(queue, board, resources, nodes)],
            progress_reporter=SilentReporter() if in_notebook() else None,
        ),
    )
    try:
        # Results are in the journals and the store: that Tune finds none in its own files is no news.
        with kept_environment(*pending), log_level(logging.ERROR, "ray.tune.analysis.experiment_analysis"):
            os.environ.update(pending)
            if not scheduler.over:
                tuner.fit()
        board.show()
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)


def _place_for(config: Mapping[str, Any], share: Mapping[str, float]) -> PlacementGroupFactory:
    """What a worker needs, on a node where it is of use."""
    bundle = {kind.upper(): amount for kind, amount in share.items()}
    avoid = config.get("avoid") or ()
    if not avoid:
        return PlacementGroupFactory([bundle])
    return PlacementGroupFactory([bundle], bundle_label_selector=[not_on(avoid)])


def _trial_name(trial: Any) -> str:
    return f"worker-{trial.trial_id}"
