"""One Ray Tune run over the packs of several sweeps."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.exceptions import RayTaskError
from ray.tune import PlacementGroupFactory

from tpbench.engine import TpbenchError
from tpbench.engine.errors import format_bytes
from tpbench.sweeps.cluster import WAITING, Resources, format_waiting, restored_environment
from tpbench.sweeps.mailbox import open_mailbox
from tpbench.sweeps.nodes import (
    NodeFindings,
    call_on_nodes,
    capable_nodes,
    count_oom_kills,
    end_remote_process,
    exclude_nodes,
    last_line,
    missing,
)
from tpbench.sweeps.queue import METRIC, SweepQueue, WorkerRequests
from tpbench.sweeps.scheduler import Timeouts, make_scheduler
from tpbench.sweeps.session import ProgressReporter
from tpbench.sweeps.sharing import ClusterShare, Membership
from tpbench.sweeps.sweep import ALL_SWEEPS, Admission, Failure, QueuedPack, QueuedSweep
from tpbench.sweeps.trainable import Train, run_worker, train_job
from tpbench.training.console import log_level
from tpbench.training.processes import memory_of_plan
from tpbench.training.progress import WARNING, in_notebook
from tpbench.workloads import load_problem
from tpbench.workloads.memory import oom_kills

# Seconds for which a node of a cluster keeps a pack that it cannot train: a mount may take a while.
_PATIENCE = 30.0
# Seconds between two looks at the cluster's nodes, and at workers that make no progress.
_LOOK = 10.0
# Such intervals without a look after which the driver itself was late.
_LATE = 3
# Such intervals between two lines about the campaign's part of a cluster.
_LINES = 6
# Workers in a row that could not be started, after which the run ends.
_STARTS = 5


class QueueCallback(tune.Callback):
    """Passes reports and failures of workers from Tune to the queue and the progress reporter.

    Args:
        queue: receives them.
        reporter: shows them.
        resources: of the run.
        nodes: the state of a cluster's nodes.
        membership: of the campaigns of the cluster.
    """

    def __init__(
        self,
        queue: SweepQueue,
        reporter: ProgressReporter,
        resources: Resources | None = None,
        nodes: NodeFindings | None = None,
        membership: Membership | None = None,
    ) -> None:
        self.queue, self.reporter, self.resources, self.nodes = queue, reporter, resources, nodes
        self.membership = membership
        self._share, self._problem = ClusterShare(), ""
        """The campaign's part of the cluster, and the reason why it is unknown, as they were shown last."""
        self._shared_at = -math.inf
        self.trials: dict[str, Any] = {}
        """Trials that have not ended, by id."""
        self._seen = 0
        self._looked = self._waiting_since = time.monotonic()
        self._failed_starts = 0
        self._shown = False
        self._asked_new_at = -math.inf
        self._kills: dict[str, tuple[float, int | None]] = {}
        """By node, the time of the last question how many processes the kernel has killed there, and the answer."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its callbacks for restoring, but sweeps are restored from their journals."""
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
        sweep = self.queue.handle_report(trial.trial_id, result)
        if sweep and "failed" in result:
            self.reporter.say(f"{sweep.label}, pack {key}: {result['failed']}")
        if sweep:
            self.reporter.warn(sweep, result.get("warnings") or ())
        self.reporter.show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.trials.pop(trial.trial_id, None)
        self.reporter.show()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._handle_error(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Look for events that Tune has no callback for: errors, stalled workers, a busy cluster."""
        self.trials.update({trial.trial_id: trial for trial in trials[self._seen :]})
        self._seen = len(trials)
        for trial in [t for t in self.trials.values() if t.status == t.TERMINATED]:
            self.trials.pop(trial.trial_id)
        for trial in [t for t in self.trials.values() if t.status == t.ERROR]:
            self._handle_error(trial)
        self.follow_limit()
        now = time.monotonic()
        interval = min(_LOOK, self.queue.scheduler.timeouts.epoch / 2)
        if now - self._looked < interval:
            return
        # A driver that was stopped, or waited for a mount, has received nothing.
        self.queue.scheduler.paused(max(0.0, now - self._looked - _LATE * interval))
        self._looked = now
        for trial in self.trials.values():
            if trial.status == trial.RUNNING:
                self.queue.scheduler.runs(trial.trial_id)
        self._end_stalled_workers()
        self._show_waiting(now)
        if self._on_cluster and self.resources:
            self.queue.scheduler.update_nodes(capable_nodes(self.resources.share))
        self.queue.hand_out()
        self.report_need()
        self.reporter.show()

    def follow_limit(self) -> None:
        """Let the scheduler have as many workers as are the campaign's part of the cluster, and show what is new."""
        if self.membership is None:
            return
        share, problem = self.membership.share, self.membership.problem
        if share.limit != self.queue.scheduler.limit:
            self.queue.scheduler.limit = share.limit
            self.queue.hand_out()
        # What other campaigns can use changes with their packs.
        late = time.monotonic() - self._shared_at > _LINES * _LOOK
        if share.others != self._share.others or (late and share.line != self._share.line):
            self.reporter.say(share.line or "has the cluster to itself again")
            self._share, self._shared_at = share, time.monotonic()
        if problem and not self._problem:
            self.reporter.say(f"{WARNING}the cluster is not divided between campaigns: {problem}")
        self._problem = problem

    def report_need(self) -> None:
        """Note how many workers the campaign has and could use, for the registry of the cluster."""
        if self.membership is None or self.resources is None:
            return
        scheduler = self.queue.scheduler
        lacking = {node for node, reasons in scheduler.lacking.items() if ALL_SWEEPS in reasons}
        self.membership.update(self.resources.share, scheduler.held, scheduler.wanted, lacking)

    def _end_stalled_workers(self) -> None:
        for slot, message in self.queue.stalled():
            about = self.queue.about.get(slot.name)
            if about and slot.place:
                self.reporter.say(f"{slot.place.name}, process {about['pid']} is ended: {message}")
                end_remote_process(about["node"] if self._on_cluster else None, about["pid"], about["created"])
            elif (trial := self.trials.get(slot.name)) and (actor := trial.temporary_state.ray_actor):
                self.reporter.say(f"a process is ended: {message}")
                ray.kill(actor)

    def _show_waiting(self, now: float) -> None:
        """Show that no worker has a place, and why, once for each time that this happens."""
        if any(slot.place or slot.running for slot in self.queue.scheduler.slots.values()):
            self._shown, self._waiting_since = False, now
            return
        if self._shown or not self._on_cluster or now - self._waiting_since < WAITING:
            return
        self._shown = True
        share = self.resources.share if self.resources else {}
        self.reporter.say(format_waiting(share, len(self.queue.scheduler.slots)))

    def _handle_error(self, trial: Any) -> None:
        self.trials.pop(trial.trial_id, None)
        slot = self.queue.scheduler.slots.get(trial.trial_id)
        failure = self._with_cause(failure_of(trial), trial.trial_id)
        if slot and slot.work and not slot.leaving:
            sweep, pack = slot.work
            where = f" on {slot.place.name}" if slot.place and self._on_cluster else ""
            self.reporter.say(f"{sweep.label}, pack {pack.key}{where}: {failure.message}; Ray's log says more")
        starting = slot is not None and slot.place is None
        self.queue.lost(trial.trial_id, failure)
        if starting:
            self._failed_starts += 1
            self._ask_new_nodes()
            if self._failed_starts >= _STARTS and not any(s.work for s in self.queue.scheduler.slots.values()):
                for sweep in self.queue.scheduler.unfinished:
                    sweep.interrupt(f"no training process could be started: {failure.message}")
        self.reporter.show()

    def _ask_new_nodes(self) -> None:
        """Find the node on which no worker can be started: one that joined since, or never answered."""
        now = time.monotonic()
        if self.nodes is None or self.resources is None or now - self._asked_new_at < _LOOK:
            return
        self._asked_new_at = now
        scheduler, needs = self.queue.scheduler, self.nodes.needs
        known = {*needs.checked_nodes, *scheduler.lacking, *(s.place.node for s in scheduler.slots.values() if s.place)}
        new = [node for node in capable_nodes(self.resources.share) if node not in known]
        for node, answer in call_on_nodes(new, missing, needs, timeout=_LOOK).items():
            if isinstance(answer, RayTaskError):
                reason = f"no process of tpbench can be started there: {last_line(str(answer))}"
                scheduler.lacks(node, {ALL_SWEEPS: reason})
        scheduler.stop_without_nodes()

    def _with_cause(self, failure: Failure, trial_id: str) -> Failure:
        """Return the failure of a lost process with its cause: its node is gone, or the kernel killed it for memory."""
        about = self.queue.about.get(trial_id)
        if failure.kind != "lost" or about is None:
            return failure
        if self._on_cluster:
            share = self.resources.share if self.resources else {}
            if about["node"] not in capable_nodes(share):
                return Failure("gone", "its node was lost")
        kills = self._kills_on(about["node"])
        if kills is None or kills <= about["oom_kills"]:
            return failure
        for other in self.queue.about.values():
            if other["node"] == about["node"]:
                other["oom_kills"] = min(kills, other["oom_kills"] + 1)  # this kill has been reported
        slot = self.queue.scheduler.slots.get(trial_id)
        needed = memory_of(slot.work[1]) if slot and slot.work else None
        needs = f"about {format_bytes(needed)} are needed" if needed else "it needs more"
        return Failure(
            "memory",
            f"out of memory: the system killed its process; {format_bytes(about['memory'])} were free before, {needs}",
        )

    def _kills_on(self, node: str) -> int | None:
        """Return the count of processes that the kernel has killed on a node; asked once in a while, as all wait."""
        if not self._on_cluster:
            return oom_kills()
        when, kills = self._kills.get(node, (-math.inf, None))
        if time.monotonic() - when > _LOOK:
            kills = count_oom_kills(node)
            self._kills[node] = time.monotonic(), kills
        return kills


def memory_of(pack: QueuedPack) -> int | None:
    """Return about how many bytes of the machine's memory a pack takes; None where that is not known."""
    if pack.settings.device != "cpu":
        return None
    data = Path(pack.settings.data) if pack.settings.data else None
    try:
        problem = load_problem(pack.plan.workload, data)[0]
        return memory_of_plan(pack.plan, pack.settings, problem, members=math.ceil(pack.members / pack.parts))
    except TpbenchError:
        return None


class NoTuneReporter(tune.ProgressReporter):
    """Suppresses Tune's own table in a notebook, for which Tune clears the cell even with verbosity 0."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
        """Print nothing."""


class StopWhenOver(tune.Stopper):
    """Ends the Tune run when all packs are trained, though workers may still wait for a place or be stuck."""

    def __init__(self, queue: SweepQueue) -> None:
        self.queue = queue

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its stoppers too."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.queue.over


_MEMORY_OF_NODE = re.compile(r"was ([\d.]+ ?[kMGT]?i?B)(?: used)? / ([\d.]+ ?[kMGT]?i?B)")

_EXIT_CODE = re.compile(r"exits with an exit code ([1-9]\d*)")


def failure_of(trial: Any) -> Failure:
    """Return the reason why a trial ended, from the files that Tune wrote in the driver's own folder."""
    error: Any = None
    try:
        if trial.pickled_error_file and Path(trial.pickled_error_file).exists():
            error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        text = Path(trial.error_file).read_text(errors="replace") if trial.error_file else ""
    except Exception as unreadable:  # of an exception whose class this process lacks, too
        text = f"{type(unreadable).__name__}: {unreadable}"
    text = text or str(error or "")
    if "OutOfMemoryError" in type(error).__name__ or "low on memory" in text:
        amounts = _MEMORY_OF_NODE.search(text)
        there = f"{amounts[1]} of {amounts[2]} were taken" if amounts else "the node had too little"
        return Failure("memory", f"out of memory: Ray's memory monitor ended its process; {there}, it needs more")
    if isinstance(error, RayTaskError) or (error is None and "Traceback" in text):
        return Failure("raised", format_cause(getattr(error, "cause", None)) or last_line(text))
    if "node has died" in text or "node was terminated" in text:
        return Failure("gone", "its node was lost")
    if code := _EXIT_CODE.search(text):
        return Failure("raised", f"its process ended itself with exit code {code[1]}")
    if getattr(error, "actor_init_failed", False):
        return Failure("raised", last_line(text))
    return Failure("lost", "its process was lost")


def format_cause(cause: object) -> str:
    """Return the kind and the first line of an exception; empty where there is none."""
    if not isinstance(cause, Exception):
        return ""
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__


def run_queue(
    sweeps: Sequence[QueuedSweep],
    resources: Resources,
    ray_folder: Path,
    reporter: ProgressReporter,
    *,
    train: Train = train_job,
    admission: Admission | None = None,
    nodes: NodeFindings | None = None,
    membership: Membership | None = None,
    timeouts: Timeouts | None = None,
) -> None:
    """Train all packs of all sweeps; Ray must be connected.

    Args:
        sweeps: what is trained; afterwards each is done or holds its failure.
        resources: for all of them together.
        ray_folder: a folder of this machine for Tune's own files, which go at the end.
        reporter: shows the progress.
        train: trains a pack.
        admission: which sweeps may begin.
        nodes: the state of a cluster's nodes.
        membership: of the campaigns of the cluster; None: it is not shared.
        timeouts: of the scheduler.
    """
    mailbox, workers = open_mailbox(), resources.concurrent
    share = resources.share
    scheduler = make_scheduler(sweeps, resources, admission=admission, timeouts=timeouts, say=reporter.say)
    if resources.address:
        scheduler.update_nodes(capable_nodes(share))
    for node, lacks in (nodes.lacks if nodes else {}).items():
        scheduler.lacks(node, lacks)
    scheduler.stop_without_nodes()
    if reporter.state:
        reporter.state.scheduler = scheduler
    queue = SweepQueue(scheduler, lambda worker, job: mailbox.put.remote(worker, job))
    callback = QueueCallback(queue, reporter, resources, nodes, membership)
    callback.report_need()
    callback.follow_limit()
    # Read when the run begins: with a searcher of one's own Tune would ask for one trial at a time, and a cluster grow
    # by one node at a time. Some may wait for places that are never free. The experiment's state is in the journals.
    pending = {"TUNE_MAX_PENDING_TRIALS_PG": str(4 * workers), "TUNE_GLOBAL_CHECKPOINT_S": "inf"}
    trainable = tune.with_parameters(
        run_worker,
        mailbox=mailbox,
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
            scheduler=WorkerRequests(queue),
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
            stop=StopWhenOver(queue),
            # The scheduler requeues packs by itself: on other nodes, and not for ever.
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[callback],
            progress_reporter=NoTuneReporter() if in_notebook() else None,
        ),
    )
    try:
        # Results are in the journals and the store: that Tune finds none in its own files is no news.
        quiet = log_level(logging.ERROR, "ray.tune.analysis.experiment_analysis")
        with restored_environment(*pending), quiet, _uncounted_callbacks():
            os.environ.update(pending)
            if not scheduler.over:
                tuner.fit()
        reporter.show()
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)


@contextmanager
def _uncounted_callbacks() -> Iterator[None]:
    """Keep Tune from counting callbacks for Ray's usage report: it imports MLflow for it, which takes a second.

    The function is private to Ray: with a version that lacks it, that second is spent.
    """
    module: Any = None
    with suppress(ImportError):
        module = import_module("ray.air._internal.usage")
    before = getattr(module, "tag_callbacks", None)
    if before is None:
        yield
        return
    module.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        module.tag_callbacks = before


def _place_for(config: Mapping[str, Any], share: Mapping[str, float]) -> PlacementGroupFactory:
    """Return the resources of a worker, with the nodes that it must avoid."""
    bundle = {kind.upper(): amount for kind, amount in share.items()}
    avoid = config.get("avoid") or ()
    if not avoid:
        return PlacementGroupFactory([bundle])
    return PlacementGroupFactory([bundle], bundle_label_selector=[exclude_nodes(avoid)])


def _trial_name(trial: Any) -> str:
    return f"worker-{trial.trial_id}"
