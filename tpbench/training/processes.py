"""The packs of one plan side by side in several processes of one thread each, without Ray."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from tpbench.engine import Problem, TpbenchError, get_method
from tpbench.engine.errors import format_bytes
from tpbench.engine.operations import joint_operations, member_bytes
from tpbench.engine.training import dtype_of
from tpbench.training.pack import PackJob, PackPlan, PackSettings

# A process imports torch and reads the data for some seconds: less work than this is done sooner by one.
_WORTH_SECONDS = 60.0
# Operations per second of one core, roughly: it only decides what is small.
_RATE = 5e10
# What a process takes before it has read any data: Python, torch and its libraries.
_PROCESS_BYTES = 300 * 2**20


@dataclass(frozen=True)
class Progress:
    """How far a pack in a process is, in epochs of any kind."""

    done: int
    total: int
    best: float | None
    warnings: tuple[str, ...] = ()


Report = Callable[[int, Progress], None]
"""Hears the number of a plan and how far it is."""


def _split_over_cores(job: PackJob) -> list[slice]:
    """Return the members that train together.

    Two processes of one thread train more members per second than one of two threads. All seeds of the plan decide how
    it is split, not those that are missing, so that the same command makes the same parts again.
    """
    count = len(job.plan.seeds)
    parts = min(torch.get_num_threads(), count)
    if parts < 2 or job.settings.device != "cpu" or _seconds(job) < _WORTH_SECONDS:
        return [slice(0, count)]
    slices = [slice(k * count // parts, (k + 1) * count // parts) for k in range(parts)]
    return [members for members in slices if _missing(job, members)]


def _part(job: PackJob, members: slice) -> PackPlan:
    return replace(job.plan, seeds=job.plan.seeds[members], configurations=job.plan.configurations[members])


def _missing(job: PackJob, members: slice) -> int:
    """Return how many of some members are to be trained."""
    return len({definition.id for definition in job.missing} & {d.id for d in job.definitions[members]})


@dataclass(frozen=True)
class Packing:
    """How a plan is trained in the memory that is free."""

    plans: list[PackPlan]
    at_once: int
    """Plans that train at the same time, each in a process of its own if they are several."""
    note: str = ""
    """What a person should know; empty where everything fits."""


def pack_into_memory(job: PackJob, free: int) -> Packing:
    """Split a plan over the cores, and further where the memory does not hold that.

    Args:
        job: the plan, and which of its runs are missing.
        free: bytes that training may take.

    Raises:
        TpbenchError: there is not enough for a single run.
    """
    parts, settings = _split_over_cores(job), job.settings
    member, data = _member_memory(job.plan, settings, job.problem), _data_memory(job.problem)

    def besides(processes: int) -> int:
        """Bytes that a process needs besides its members: this one has imported torch and read the data already."""
        return _PROCESS_BYTES + data if processes > 1 else data * (settings.device != "cpu")

    at_once = len(parts)
    while at_once > 1 and free / at_once < besides(at_once) + member:
        at_once -= 1
    room = int((free / at_once - besides(at_once)) / member)
    if room < 1:
        raise TpbenchError(
            f"a single run of {job.plan.method} on {job.plan.workload.name} needs about "
            f"{format_bytes(member + besides(1))} of memory, and {format_bytes(free)} are free"
        )
    halves = [half for members in parts for half in _halves(job, members, room)]
    plans = [_part(job, members) for members in halves]
    if halves == parts and at_once == len(parts):
        return Packing(plans, at_once)
    wanted = len(job.missing) * member + len(parts) * besides(len(parts))
    return Packing(
        plans,
        at_once,
        f"{len(job.missing)} runs at once need about {format_bytes(wanted)} of memory, and {format_bytes(free)} are "
        f"free: they are trained in {len(plans)} parts, {at_once} at a time",
    )


def memory_of_plan(plan: PackPlan, settings: PackSettings, problem: Problem, members: int) -> int:
    """Return about how many bytes a process takes that trains some members of a plan at once."""
    return _PROCESS_BYTES + _data_memory(problem) + members * _member_memory(plan, settings, problem)


def _member_memory(plan: PackPlan, settings: PackSettings, problem: Problem) -> int:
    method, dtype = get_method(plan.method), dtype_of(settings.precision)
    return member_bytes(method, problem, dtype, settings.device, keep=settings.keep_networks)


def _data_memory(problem: Problem) -> int:
    return sum(t.nbytes for t in (problem.x_train, problem.y_train, problem.x_test, problem.y_test))


def _halves(job: PackJob, members: slice, room: int) -> Iterator[slice]:
    """Halve a part until no half has more members to train than there is room; those with none are left out."""
    if _missing(job, members) <= room:
        if _missing(job, members):
            yield members
        return
    middle = (members.start + members.stop) // 2
    yield from _halves(job, slice(members.start, middle), room)
    yield from _halves(job, slice(middle, members.stop), room)


def _seconds(job: PackJob) -> float:
    problem = job.problem
    step = joint_operations(get_method(job.plan.method), problem.architecture, problem.batch_size, problem.trained)
    steps = problem.training_size / problem.batch_size * job.plan.epochs * len(job.plan.seeds)
    return step * steps / _RATE


# Not multiprocessing: it would run the script that called again, from its top, in each process.
# Ctrl-C and the end of a terminal are the parent's to handle, who then asks its processes to end.
_CHILD = (
    "import json, signal, sys; "
    "[signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)]; "
    "task = json.loads(sys.stdin.readline()); "
    "sys.path[:] = task['path']; from tpbench.engine.collector import collect_rarely; collect_rarely(); "
    "from tpbench.training.processes import work; work(task)"
)
# Seconds in which a process that was asked to end closes its trackers, which it waits for a little less.
_PATIENCE = 8.0


def train_side_by_side(plans: list[PackPlan], settings: PackSettings, report: Report) -> None:
    """Train plans, each in a process of its own; what they finish is in the store.

    Raises:
        TpbenchError: one of them failed; the others are trained to their end first.
    """
    with _processes(plans, settings) as workers:
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
def _processes(plans: list[PackPlan], settings: PackSettings) -> Iterator[list[subprocess.Popen[str]]]:
    """A process for each plan; all of them are over when this is."""
    workers: list[subprocess.Popen[str]] = []
    try:
        for plan in plans:
            workers.append(_started())
            _hand(workers[-1], plan, settings)
        yield workers
    finally:
        _end(workers)


def _started() -> subprocess.Popen[str]:
    # Without -P it would take its first modules from the current folder, whatever lies there.
    command = [sys.executable, "-P", "-c", _CHILD]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")


def _hand(process: subprocess.Popen[str], plan: PackPlan, settings: PackSettings) -> None:
    # Python passes over what is no text there.
    path = [str(folder) for folder in sys.path if isinstance(folder, str)]
    task = {"path": path, "plan": plan.plain(), "settings": asdict(settings), "parent": os.getpid()}
    if process.stdin:
        with suppress(BrokenPipeError):  # it has ended, and its exit code tells
            print(json.dumps(task), file=process.stdin, flush=True)


def _end(workers: list[subprocess.Popen[str]]) -> None:
    """Ask processes to end, and make them after a while."""
    try:
        for worker in workers:
            worker.terminate()
        until = time.monotonic() + _PATIENCE
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.0, until - time.monotonic()))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe:
                    pipe.close()


def _listen(number: int, process: subprocess.Popen[str], hear: Callable[[tuple[int, str]], None]) -> None:
    """Hand on what a process says, line by line; nothing when it ended."""
    with suppress(ValueError):  # its pipe was closed, for the work was interrupted
        for line in process.stdout or ():
            hear((number, line))
    hear((number, ""))


def _end_in_order(number: int, _: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough
    raise SystemExit(128 + number)


def work(task: Mapping[str, Any]) -> None:
    """One process; it ends in good order, its trackers closed, when the parent asks for it or is gone."""
    signal.signal(signal.SIGTERM, _end_in_order)
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    # What a package's rule prints is no message.
    os.dup2(2, 1)
    torch.set_num_threads(1)

    def say(**words: Any) -> None:
        print(json.dumps(words), file=messages)

    def report(epoch: Any) -> None:
        if os.getppid() != task["parent"]:
            raise SystemExit(1)
        say(done=epoch.done, total=epoch.total, best=epoch.best_validation_error, warnings=epoch.warnings)

    try:
        PackJob(PackPlan.from_plain(task["plan"]), PackSettings(**task["settings"])).run(report)
    except TpbenchError as error:
        say(error=str(error))
