"""The packs of one plan side by side in several processes of one thread each, without Ray."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
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


# Not multiprocessing: it would run the script that called again, from its top, in each process.
_CHILD = (
    "import json, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); task = json.loads(sys.stdin.readline()); "
    "sys.path[:] = task['path']; from tpbench.training.processes import work; work(task)"
)


def train_side_by_side(plans: list[PackPlan], settings: PackSettings, report: Callable[[int, Progress], None]) -> None:
    """Train plans, each in a process of its own; what they finish is in the store.

    Args:
        report: hears the number of a plan and how far it is.

    Raises:
        TpbenchError: one of them failed; the others are trained to their end first.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(_process(plan, settings)) for plan in plans]
        messages: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        for number, worker in enumerate(workers):
            threading.Thread(target=_listen, args=(number, worker, messages.put), daemon=True).start()
        errors, open_ends = {}, len(workers)
        while open_ends:
            number, line = messages.get()
            if not line:
                open_ends -= 1
                continue
            said = json.loads(line)
            if "error" in said:
                errors[number] = said["error"]
            else:
                report(number, Progress(**{**said, "warnings": tuple(said["warnings"])}))
        lost = [worker.returncode for n, worker in enumerate(workers) if worker.wait() and n not in errors]
    if errors or lost:
        raise TpbenchError(next(iter(errors.values()), f"a training process ended with code {lost[0] if lost else 0}"))


@contextmanager
def _process(plan: PackPlan, settings: PackSettings) -> Iterator[subprocess.Popen[str]]:
    """A process that trains a plan; it is over when this is."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    task = {"path": sys.path, "plan": plan.plain(), "settings": asdict(settings), "parent": os.getpid()}
    try:
        if process.stdin:
            with suppress(BrokenPipeError):  # it has ended, and its exit code tells
                print(json.dumps(task), file=process.stdin, flush=True)
        yield process
    finally:
        process.terminate()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def _listen(number: int, process: subprocess.Popen[str], hear: Callable[[tuple[int, str]], None]) -> None:
    """Hand on what a process says, line by line; nothing when it ended."""
    with suppress(ValueError):  # its pipe was closed, for the work was interrupted
        for line in process.stdout or ():
            hear((number, line))
    hear((number, ""))


def work(task: Mapping[str, Any]) -> None:
    """One process: Ctrl-C is the parent's to handle; when the parent is gone, so is this."""
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    # What a package's rule prints is no message.
    os.dup2(2, 1)
    torch.set_num_threads(1)

    def say(**words: Any) -> None:
        print(json.dumps(words), file=messages)

    def report(epoch: Any) -> None:
        if os.getppid() != task["parent"]:
            os._exit(1)
        say(done=epoch.done, total=epoch.total, best=epoch.best_validation_error, warnings=epoch.warnings)

    try:
        PackJob(PackPlan.from_plain(task["plan"]), PackSettings(**task["settings"])).run(report)
    except TpbenchError as error:
        say(error=str(error))
