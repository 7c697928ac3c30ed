"""What ``tpbench run`` does: one configuration over seeds, without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpbench.engine import EpochReport
from tpbench.results import RunRecord
from tpbench.training.choice import CellChoice
from tpbench.training.packs import PackJob, PackSettings, plan_seeds
from tpbench.training.processes import Progress, parts_of, train_side_by_side
from tpbench.training.progress import WARNING, Display, View
from tpbench.training.signals import interruptible
from tpbench.workloads import obtain


def run_seeds(
    cell: CellChoice, configuration: Mapping[str, float], found: Mapping[str, Any], seeds: tuple[int, ...],
    epochs: int | None, settings: PackSettings, *, note: str = "", progress: bool = True,
) -> list[RunRecord]:  # fmt: skip
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
        skipped = len(seeds) - len(job.missing)
        if skipped:
            view.say(f"{skipped} of {len(seeds)} runs are in {settings.results} already")
        if job.missing:
            job.store.require_writable()
            view.start("epochs", epochs)
            _train(job, epochs, view)
            view.end("epochs")
    return [record for record in PackJob(plan, settings).records() if record]


def _train(job: PackJob, epochs: int, view: View) -> None:
    plans = parts_of(job)
    if len(plans) == 1:

        def shown(r: EpochReport) -> None:
            view.update("epochs", epochs * r.done / r.total, epochs, r.best_validation_error)
            for warning in r.warnings:
                view.say(f"{WARNING}{warning}")

        job.run(shown)
        return
    seen: dict[int, Progress] = {}
    said: set[str] = set()

    def report(number: int, progress: Progress) -> None:
        seen[number] = progress
        for warning in set(progress.warnings) - said:
            said.add(warning)
            view.say(f"{WARNING}{warning}")
        share = sum(p.done / p.total for p in seen.values()) / len(plans)
        known = [p.best for p in seen.values() if p.best is not None]
        view.update("epochs", epochs * share, epochs, min(known, default=None))

    train_side_by_side(plans, job.settings, report)
