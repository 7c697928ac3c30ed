"""The packs of one plan side by side in several processes of one thread each, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from tpbench.engine import TpbenchError, get_method
from tpbench.engine.operations import joint_operations
from tpbench.training.packs import PackJob, PackPlan, PackSettings

# A process imports torch and reads the data for some seconds: less work than this is done sooner by one.
_WORTH_SECONDS = 60.0
# Operations per second of one core, roughly: it only decides what is small.
_RATE = 5e10


@dataclass(frozen=True)
class Progress:
    """How far a pack in a process is, in epochs of any kind."""

    done: int
    total: int
    best: float | None
    warnings: tuple[str, ...] = ()


def parts_of(job: PackJob) -> list[PackPlan]:
    """The plan split over the cores that torch may use, or whole where that would not pay.

    Two processes of one thread train more members per second than one of two threads. All seeds of the plan decide how
    it is split, not those that are missing, so that the same command makes the same parts again.
    """
    plan, count = job.plan, len(job.plan.seeds)
    parts = min(torch.get_num_threads(), count)
    if parts < 2 or job.settings.device != "cpu" or _seconds(job) < _WORTH_SECONDS:
        return [plan]
    missing = {definition.id for definition in job.missing}
    slices = [slice(k * count // parts, (k + 1) * count // parts) for k in range(parts)]
    return [
        replace(plan, seeds=plan.seeds[s], configurations=plan.configurations[s])
        for s in slices
        if missing & {definition.id for definition in job.definitions[s]}
    ]


def _seconds(job: PackJob) -> float:
    problem = job.problem
    step = joint_operations(get_method(job.plan.method), problem.architecture, problem.batch_size, problem.trained)
    steps = problem.training_size / problem.batch_size * job.plan.epochs * len(job.plan.seeds)
    return step * steps / _RATE


def train_side_by_side(plans: list[PackPlan], settings: PackSettings, report: Callable[[int, Progress], None]) -> None:
    """Train plans, each in a process of its own; what they finish is in the store.

    Args:
        report: hears the number of a plan and how far it is.

    Raises:
        TpbenchError: one of them failed; the others are trained to their end first.
    """
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    workers = [
        context.Process(target=_work, args=(number, plan, settings, messages, os.getpid()), daemon=True)
        for number, plan in enumerate(plans)
    ]
    for worker in workers:
        worker.start()
    errors: dict[int, str] = {}
    try:
        while any(worker.is_alive() for worker in workers) or not messages.empty():
            try:
                number, what = messages.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(what, str):
                errors[number] = what
            else:
                report(number, what)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    lost = [n for n, worker in enumerate(workers) if worker.exitcode and n not in errors]
    if errors or lost:
        raise TpbenchError(
            next(
                iter(errors.values()), f"a training process ended with code {workers[lost[0]].exitcode if lost else 0}"
            )
        )


def _work(number: int, plan: PackPlan, settings: PackSettings, messages: Any, parent: int) -> None:
    """One process: Ctrl-C is the parent's to handle; when the parent is gone, so is this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)

    def report(epoch: Any) -> None:
        if os.getppid() != parent:
            os._exit(1)
        messages.put((number, Progress(epoch.done, epoch.total, epoch.best_validation_error, epoch.warnings)))

    try:
        PackJob(plan, settings).run(report)
    except TpbenchError as error:
        messages.put((number, str(error)))
