"""What ``tpbench run`` does: one configuration over seeds, without Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench.results import RunRecord
from tpbench.results.location import file_stamps
from tpbench.results.networks import FOLDER
from tpbench.training.choice import CellChoice
from tpbench.training.console import interruptible
from tpbench.training.devices import limited_threads, release_memory
from tpbench.training.pack import PackJob, PackPlan, PackSettings, format_missing_networks, plan_seeds
from tpbench.training.processes import Progress, Report, pack_into_memory, train_side_by_side
from tpbench.training.progress import WARNING, Display, View
from tpbench.training.tracking import prepare_trackers
from tpbench.workloads import obtain
from tpbench.workloads.memory import free_memory

if TYPE_CHECKING:
    from tpbench.engine import EpochReport

_AGAIN = "their networks: these are trained again, and a network is kept if the curves come out the same"


def run_seeds(
    cell: CellChoice,
    configuration: Mapping[str, float],
    found: Mapping[str, Any],
    seeds: tuple[int, ...],
    epochs: int | None,
    settings: PackSettings,
    *,
    note: str = "",
    progress: bool = True,
) -> list[RunRecord]:
    """Train one configuration over seeds, as one pack or as one per core; shows the epochs.

    Args:
        found: how the configuration was found (:mod:`tpbench.results.budgets`).
        epochs: None: the workload's.
        note: said first.
        progress: whether anything is shown.
    """
    epochs = epochs or cell.workload.epochs
    obtain(cell.workload, Path(settings.data) if settings.data else None, offline=settings.offline)
    plan = plan_seeds(cell.workload, cell.method, configuration, seeds, epochs, found)
    job = PackJob(plan, settings)
    with interruptible(settings.command), Display(progress=progress) as view:
        if note:
            view.say(note)
        if job.finished:
            without = f", {len(job.without_network)} without {_AGAIN}" if job.without_network else ""
            if job.without_predictions:
                without += f", {len(job.without_predictions)} without predictions: these are trained again"
            view.say(f"{len(job.finished)} of {len(seeds)} runs are in {settings.results} already{without}")
        if job.missing:
            job.store.require_writable(*[FOLDER] * settings.keep_networks)
            job.settings = replace(settings, track=prepare_trackers(settings.track, view.say))
            with limited_threads():
                _train(job, epochs, view)
            view.end("epochs")
        ended = PackJob(plan, settings)
        if ended.without_network:
            view.say(format_missing_networks(len(ended.without_network)))
        if job.without_predictions:
            view.say(_format_again(job, ended))
    return [record for record in ended.records() if record]


def _format_again(job: PackJob, ended: PackJob) -> str:
    """Say what became of the runs that were trained again for their predictions."""
    done = job.without_predictions - ended.without_predictions
    same = sum(job.finished[i].curves_digest == ended.finished[i].curves_digest for i in done)
    words = f"predictions were added to {same} runs, whose curves came out equal"
    if other := len(done) - same:
        words += (
            f"; {other} came out with other curves (another processor, device or version) and replace the old files, "
            "which are in 'replaced' in the results folder"
        )
    if ended.without_predictions:
        words += f"; {len(ended.without_predictions)} are still without"
    return words


def _continues(job: PackJob, plans: Sequence[PackPlan]) -> bool:
    """Whether one of a job's parts has a checkpoint."""
    if not file_stamps(job.checkpoint_path.parent, ".pt"):
        return False  # a look at a folder; each part's own name takes another reading of its data
    parts = [job] if len(plans) == 1 else [PackJob(plan, job.settings) for plan in plans]
    return any(part.checkpoint_path.exists() for part in parts)


def _train(job: PackJob, epochs: int, view: View) -> None:
    # This process may have used the GPU before: what torch keeps of it for itself is free for the runs.
    release_memory(job.settings.device)
    packing = pack_into_memory(job, free_memory(job.settings.device))
    plans = packing.plans
    if packing.note:
        view.say(packing.note)
    shares: dict[int, float] = {}
    # Where it goes on from a checkpoint, the first report tells.
    started = not _continues(job, plans)
    if started:
        view.start("epochs", epochs)
    said: set[str] = set()

    def show(number: int, share: float, best: float | None, warnings: Iterable[str]) -> None:
        nonlocal started
        for warning in dict.fromkeys(warnings):
            if warning not in said:
                said.add(warning)
                view.say(f"{WARNING}{warning}")
        shares[number] = share
        done = epochs * sum(shares.values()) / len(plans)
        if not started and len(shares) >= packing.at_once:
            started = True
            view.start("epochs", epochs, int(done))
        if started:
            view.update("epochs", done, epochs, best)

    known: dict[int, float] = {}

    def report(number: int, progress: Progress) -> None:
        if progress.best is not None:
            known[number] = progress.best
        show(number, progress.done / progress.total, min(known.values(), default=None), progress.warnings)

    def report_epoch(number: int, epoch: EpochReport) -> None:
        report(number, Progress(epoch.done, epoch.total, epoch.best_validation_error, epoch.warnings))

    for first in range(0, len(plans), packing.at_once):
        if packing.at_once == 1:
            part = PackJob(plans[first], job.settings) if len(plans) > 1 else job
            part.run(partial(report_epoch, first))
        else:
            together = plans[first : first + packing.at_once]
            train_side_by_side(together, job.settings, partial(_shifted, report, first))


def _shifted(report: Report, first: int, number: int, progress: Progress) -> None:
    """Report progress of a plan that is one of several, which begin with that number."""
    report(first + number, progress)
