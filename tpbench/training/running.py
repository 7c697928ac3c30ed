"""The training of one configuration over seeds, for ``tpbench run``. Needs no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tpbench.results import RunRecord
from tpbench.training.choice import CellChoice
from tpbench.training.console import interruptible
from tpbench.training.devices import limited_threads, release_memory
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackPlan, PackSettings, format_missing_networks, plan_seeds
from tpbench.training.processes import PackProgress, pack_into_memory, train_side_by_side
from tpbench.training.progress import WARNING, Display, View
from tpbench.training.tracking import prepare_trackers
from tpbench.workloads.memory import free_memory

if TYPE_CHECKING:
    from tpbench.engine import Configuration, EpochReport

_RETRAINED = "their networks: these are trained again, and a network is kept if the curves come out the same"


def run_seeds(
    cell: CellChoice,
    configuration: Configuration,
    search_info: Mapping[str, Any],
    seeds: tuple[int, ...],
    epochs: int | None,
    settings: PackSettings,
    *,
    note: str = "",
    progress: bool = True,
) -> list[RunRecord]:
    """Train one configuration over seeds, as one pack or as one per core, and return the runs.

    Args:
        cell: workload and method.
        configuration: complete, as of :meth:`tpbench.workloads.Workload.complete`.
        search_info: the search behind the configuration (:mod:`tpbench.results.runs`).
        seeds: one run each; runs that the store has are not trained.
        epochs: joint epochs; None: the workload's.
        settings: how and where they are trained.
        note: printed first.
        progress: show the progress.

    Raises:
        InterruptedWork: Ctrl-C, SIGTERM or SIGHUP ended the work.
        UsageError, TpbenchError: as :class:`tpbench.training.pack.PackJob` raises them.
    """
    epochs = epochs or cell.workload.epochs
    settings.obtain(cell.workload)
    plan = plan_seeds(cell.workload, cell.method, configuration, seeds, epochs, search_info)
    job = PackJob(plan, settings)
    with interruptible(settings.command), Display(progress=progress) as view:
        if note:
            view.say(note)
        if job.finished:
            without = f", {len(job.without_network)} without {_RETRAINED}" if job.without_network else ""
            if job.without_predictions:
                without += f", {len(job.without_predictions)} without predictions: these are trained again"
            view.say(f"{len(job.finished)} of {len(seeds)} runs are in {settings.results} already{without}")
        if job.missing:
            settings.require_writable()
            job.settings = replace(settings, track=prepare_trackers(settings.track, view.say))
            with limited_threads():
                _train(job, epochs, view)
            view.end("epochs")
        else:
            job.remove_checkpoints()
        ended = job.with_plan(plan)
        if ended.without_network:
            view.say(format_missing_networks(len(ended.without_network)))
        if job.without_predictions:
            view.say(_format_retrained(job, ended))
    return [record for record in ended.records() if record]


def _format_retrained(job: PackJob, ended: PackJob) -> str:
    """Return a message on the runs that were trained again for their predictions.

    Args:
        job: as it was before the training.
        ended: the same job after it.
    """
    done = job.without_predictions - ended.without_predictions
    same = sum(job.finished[i].curves_digest == ended.finished[i].curves_digest for i in done)
    message = f"predictions were added to {same} runs, whose curves came out equal"
    if other := len(done) - same:
        message += (
            f"; {other} came out with other curves (another processor, device or version) and replace the old files, "
            "which are in 'replaced' in the results folder"
        )
    if ended.without_predictions:
        message += f"; {len(ended.without_predictions)} are still without"
    return message


def _has_checkpoint(job: PackJob, plans: Sequence[PackPlan]) -> bool:
    """Return whether one of a job's parts continues from a checkpoint."""
    return bool(job.checkpoint_names()) and any(_job_of(job, plan, plans).checkpoint_path.exists() for plan in plans)


def _job_of(job: PackJob, plan: PackPlan, plans: Sequence[PackPlan]) -> PackJob:
    """Return the job of one of the plans that a job is split into."""
    return job if len(plans) == 1 else job.with_plan(plan)


class _ProgressSum:
    """The progress of a job from that of its parts, shown in a view.

    Args:
        view: shows it.
        epochs: joint epochs of the job.
        parts: how many parts the job is trained in.
        at_once: parts that train at the same time.
    """

    def __init__(self, view: View, epochs: int, parts: int, at_once: int) -> None:
        self.view, self.epochs, self.parts, self.at_once = view, epochs, parts, at_once
        self.started = False
        self._progress: dict[int, PackProgress | EpochReport] = {}
        self._best: dict[int, float] = {}
        self._warnings: set[str] = set()

    def start(self, done: int = 0) -> None:
        """Show the job with some joint epochs done."""
        self.started = True
        self.view.start("epochs", self.epochs, done)

    def update(self, number: int, progress: PackProgress | EpochReport, *, first: int = 0) -> None:
        """Show the progress of one part; a warning is shown once, however many parts give it.

        Args:
            number: of the part, counted from ``first``.
            progress: of the part.
            first: the part that trains side by side with others under number 0.
        """
        number += first
        for warning in progress.warnings:
            if warning not in self._warnings:
                self._warnings.add(warning)
                self.view.say(f"{WARNING}{warning}")
        self._progress[number] = progress
        if progress.best_validation_error is not None:
            self._best[number] = progress.best_validation_error
        done = self.epochs * sum(part.done / part.total for part in self._progress.values()) / self.parts
        # Parts that continue from checkpoints have a common beginning once each has reported.
        if not self.started and len(self._progress) >= self.at_once:
            self.start(int(done))
        if self.started:
            self.view.update("epochs", done, self.epochs, min(self._best.values(), default=None))


def _train(job: PackJob, epochs: int, view: View) -> None:
    """Train a job in as many parts as cores and memory demand."""
    # torch keeps GPU memory that this process no longer uses; it is free for the runs.
    release_memory(job.settings.device)
    packing = pack_into_memory(job, free_memory(job.settings.device))
    plans, at_once = packing.plans, packing.at_once
    if packing.note:
        view.say(packing.note)
    total = _ProgressSum(view, epochs, len(plans), at_once)
    if not _has_checkpoint(job, plans):
        total.start()
    with limited_threads(packing.threads):
        for first in range(0, len(plans), at_once):
            if at_once == 1:
                _job_of(job, plans[first], plans).run(partial(total.update, first))
            else:
                train_side_by_side(plans[first : first + at_once], job.settings, partial(total.update, first=first))
