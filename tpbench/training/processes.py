"""A plan split over the cores and the memory, and its parts side by side in processes of one thread each. No Ray."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from tpbench.engine import EpochReport, Problem, TpbenchError, get_method
from tpbench.engine.errors import format_bytes
from tpbench.engine.operations import joint_operations, member_bytes
from tpbench.engine.trainer import dtype_of
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackPlan, PackSettings

# A process imports torch and reads the data for some seconds: one process does less work than this sooner than two.
_MIN_SECONDS = 60.0
# Rough operations per second of one core, to tell small work from large.
_OPERATIONS_PER_SECOND = 5e10
# Threads of one process wait for each other some dozen times in a step: they gain nothing in a shorter one, and beside
# other busy processes every wait may take a time slice of the system.
_MIN_THREADED_STEP = 5e-3
# Bytes that a process takes before it has read any data: Python, torch and its libraries.
_PROCESS_BYTES = 300 * 2**20


@dataclass(frozen=True)
class PackProgress:
    """The progress of a pack."""

    done: int
    """Epochs of any kind."""
    total: int
    """Epochs of any kind."""
    best_validation_error: float | None
    """The lowest validation error so far, from 0 to 1; None: not known."""
    warnings: tuple[str, ...] = ()


ProgressCallback = Callable[[int, PackProgress], None]
"""Called with the number of a plan and its progress."""


def _split_over_cores(job: PackJob, step: float) -> list[slice]:
    """Return the members that train together.

    Two processes of one thread train more members per second than one of two threads, and lose less beside other busy
    processes. All seeds of the plan decide how it is split, not those that are missing, so that the same command makes
    the same parts again.

    Args:
        step: seconds that one core needs for a step of all seeds.
    """
    parts = min(torch.get_num_threads(), len(job.plan.seeds))
    if parts < 2 or job.settings.device != "cpu" or step * _count_steps(job) < _MIN_SECONDS:
        return job.plan.slices(1)
    return [members for members in job.plan.slices(parts) if _missing(job, members)]


def _threads_of(job: PackJob, step: float, at_once: int) -> int:
    """Return the CPU threads of a process that trains beside others, or alone."""
    if at_once > 1:
        return 1
    cores = torch.get_num_threads()
    return cores if job.settings.device != "cpu" or step >= _MIN_THREADED_STEP else 1


def _missing(job: PackJob, members: slice) -> int:
    """Return how many of some members are to be trained."""
    return len({definition.id for definition in job.missing} & {d.id for d in job.definitions[members]})


@dataclass(frozen=True)
class Packing:
    """The parts of a plan that fit into the free memory."""

    plans: list[PackPlan]
    at_once: int
    """Plans that train at the same time, each in a process of its own if they are several."""
    threads: int = 1
    """CPU threads of each process."""
    note: str = ""
    """A message for the user; empty where everything fits."""


def pack_into_memory(job: PackJob, free: int) -> Packing:
    """Split a plan over the cores, and further where the memory does not hold that.

    Args:
        job: the plan, and which of its runs are missing.
        free: bytes that training may take.

    Raises:
        TpbenchError: there is not enough for a single run.
    """
    settings = job.settings
    member, data = _member_memory(job.plan, settings, job.problem), _data_memory(job.problem)
    rounded = _rounded_memory(settings, job.problem)

    def overhead(processes: int) -> int:
        """Return the bytes that a process needs besides its members; this process has torch and the data already."""
        return rounded + (_PROCESS_BYTES + data if processes > 1 else data * (settings.device != "cpu"))

    if free < overhead(1) + member:
        raise TpbenchError(
            f"a single run of {job.plan.method} on {job.plan.workload.name} needs about "
            f"{format_bytes(member + overhead(1))} of memory, and {format_bytes(free)} are free"
        )
    # The time of a step is estimated by doing one, which needs the memory of a run.
    step = _estimate_step(job) if settings.device == "cpu" and torch.get_num_threads() > 1 else 0.0
    parts = _split_over_cores(job, step)
    at_once = len(parts)
    while at_once > 1 and free / at_once < overhead(at_once) + member:
        at_once -= 1
    room = int((free / at_once - overhead(at_once)) / member)
    threads = _threads_of(job, step, at_once)
    begun = job.checkpoint_names()
    halves = [half for members in parts for half in _halves(job, members, room, begun)]
    plans = [job.plan.part(members) for members in halves]
    if at_once == len(parts) and all(_held(job, members, begun) <= room for members in parts):
        return Packing(plans, at_once, threads)
    wanted = len(job.missing) * member + len(parts) * overhead(len(parts))
    return Packing(
        plans,
        at_once,
        threads,
        f"{len(job.missing)} runs at once need about {format_bytes(wanted)} of memory, and {format_bytes(free)} are "
        f"free: they are trained in {len(plans)} parts, {at_once} at a time",
    )


def memory_of_plan(plan: PackPlan, settings: PackSettings, problem: Problem, members: int) -> int:
    """Return about how many bytes a process takes that trains some members of a plan at once."""
    data = _data_memory(problem) + _rounded_memory(settings, problem)
    return _PROCESS_BYTES + data + members * _member_memory(plan, settings, problem)


def _member_memory(plan: PackPlan, settings: PackSettings, problem: Problem) -> int:
    method, dtype = get_method(plan.method), dtype_of(settings.precision)
    # A GPU's checkpoints are copied to the host's memory.
    on_device = settings.device == "cpu"
    counts = [method.noise_repeats(configuration) for configuration in plan.configurations]
    return member_bytes(
        method,
        problem,
        dtype,
        settings.device,
        keep=settings.keep_networks,
        checkpoint=on_device,
        repeats=max(counts, default=1),
        lowered=_lowers(settings),
    )


def _lowers(settings: PackSettings) -> bool:
    return settings.precision == "bf16" and settings.device == "cpu"


def _rounded_memory(settings: PackSettings, problem: Problem) -> int:
    """Return the bytes of the inputs in bfloat16, which a CPU's process keeps beside those that are stored."""
    return problem.x_train.numel() * torch.bfloat16.itemsize if _lowers(settings) else 0


def _data_memory(problem: Problem) -> int:
    return sum(t.nbytes for t in (problem.x_train, problem.y_train, problem.x_test, problem.y_test))


def _halves(job: PackJob, members: slice, room: int, begun: Set[str]) -> Iterator[slice]:
    """Halve a part until no half has more members to train than there is room; those with none are left out.

    What an interrupted command has begun in smaller halves goes on in these: another split could not continue it.

    Args:
        job: the plan, and which of its runs are missing.
        members: the part.
        room: members that fit.
        begun: names of all checkpoints.
    """
    if _held(job, members, begun) <= room and not (begun and _begun_in_halves(job, members, begun)):
        if _missing(job, members):
            yield members
        return
    middle = (members.start + members.stop) // 2
    yield from _halves(job, slice(members.start, middle), room, begun)
    yield from _halves(job, slice(middle, members.stop), room, begun)


def _held(job: PackJob, members: slice, begun: Set[str]) -> int:
    """Return how many members a part has in memory: those to be trained, or all that its checkpoint may hold."""
    missing = _missing(job, members)
    return members.stop - members.start if missing and job.part_path(members).name in begun else missing


def _begun_in_halves(job: PackJob, members: slice, begun: Set[str]) -> bool:
    """Return whether there are checkpoints of a part's halves, or of theirs, and none of the part itself."""
    if members.stop - members.start < 2 or job.part_path(members).name in begun:
        return False
    middle = (members.start + members.stop) // 2
    halves = slice(members.start, middle), slice(middle, members.stop)
    return any(job.part_path(half).name in begun or _begun_in_halves(job, half, begun) for half in halves)


def _estimate_step(job: PackJob) -> float:
    """Return roughly how many seconds one core needs for a step of all seeds."""
    problem, method, configuration = job.problem, get_method(job.plan.method), job.plan.configurations[0]
    step = joint_operations(method, problem.architecture, problem.batch_size, problem.trained, configuration)
    return step * len(job.plan.seeds) / _OPERATIONS_PER_SECOND


def _count_steps(job: PackJob) -> float:
    """Return the joint steps of a job."""
    return job.problem.training_size / job.problem.batch_size * job.plan.epochs


# Not multiprocessing: each process would run the user's script from its top.
# The parent handles Ctrl-C and the end of a terminal, and ends its processes itself.
_CHILD = (
    "import json, signal, sys; "
    "[signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)]; "
    "task = json.loads(sys.stdin.readline()); "
    "sys.path[:] = task['path']; from tpbench.engine.startup import collect_rarely; collect_rarely(); "
    "from tpbench.training.processes import train_for_parent; train_for_parent(task)"
)
# Seconds that a process has to close its trackers and end; it waits a little less for the trackers.
_END_SECONDS = 8.0


def train_side_by_side(plans: list[PackPlan], settings: PackSettings, report: ProgressCallback) -> None:
    """Train plans, each in a process of its own that publishes its runs.

    Args:
        plans: trained at the same time.
        settings: of all of them.
        report: called after every epoch of a plan.

    Raises:
        TpbenchError: one of them failed; the others are trained to their end first.
    """
    with _processes(plans, settings) as workers:
        messages: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        for number, worker in enumerate(workers):
            threading.Thread(target=_listen, args=(number, worker, messages.put), daemon=True).start()
        errors, running = {}, len(workers)
        while running:
            number, line = messages.get()
            if not line:
                running -= 1
                continue
            message = json.loads(line)
            if "error" in message:
                errors[number] = message["error"]
            else:
                report(number, PackProgress(**{**message, "warnings": tuple(message["warnings"])}))
        lost = [worker.returncode for n, worker in enumerate(workers) if worker.wait() and n not in errors]
    if errors or lost:
        raise TpbenchError(next(iter(errors.values()), f"a training process ended with code {lost[0] if lost else 0}"))


@contextmanager
def _processes(plans: list[PackPlan], settings: PackSettings) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a process for each plan; all of them have ended after the block."""
    workers: list[subprocess.Popen[str]] = []
    try:
        for plan in plans:
            workers.append(_start())
            _send_task(workers[-1], plan, settings)
        yield workers
    finally:
        _end(workers)


def _start() -> subprocess.Popen[str]:
    # Without -P a json.py in the current folder would be imported instead of the standard library's.
    command = [sys.executable, "-P", "-c", _CHILD]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")


def _send_task(process: subprocess.Popen[str], plan: PackPlan, settings: PackSettings) -> None:
    # Python ignores entries that are no text.
    path = [str(folder) for folder in sys.path if isinstance(folder, str)]
    task = {"path": path, "plan": plan.plain(), "settings": asdict(settings), "parent": os.getpid()}
    if process.stdin:
        with suppress(BrokenPipeError):  # it has ended already; its exit code is read later
            print(json.dumps(task), file=process.stdin, flush=True)


def _end(workers: list[subprocess.Popen[str]]) -> None:
    """Terminate processes, and kill those that have not ended after a while."""
    try:
        for worker in workers:
            worker.terminate()
        until = time.monotonic() + _END_SECONDS
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


def _listen(number: int, process: subprocess.Popen[str], put: Callable[[tuple[int, str]], None]) -> None:
    """Put the lines that a process prints into a queue, with its number; an empty line when it has ended."""
    with suppress(ValueError):  # the work was interrupted, and the pipe closed
        for line in process.stdout or ():
            put((number, line))
    put((number, ""))


def _exit_in_order(number: int, _: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the end
    raise SystemExit(128 + number)


def train_for_parent(task: Mapping[str, Any]) -> None:
    """Train one plan in a process of its own, and print progress or an error as lines of JSON.

    The process ends in good order, its trackers closed, when the parent terminates it or has ended.

    Args:
        task: as :func:`_send_task` sends it.
    """
    signal.signal(signal.SIGTERM, _exit_in_order)
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    # The parent reads messages alone; what a package's rule prints goes to standard error.
    os.dup2(2, 1)
    torch.set_num_threads(1)

    def send(**message: Any) -> None:
        print(json.dumps(message), file=messages)

    def report(epoch: EpochReport) -> None:
        if os.getppid() != task["parent"]:
            raise SystemExit(1)
        send(**{field.name: getattr(epoch, field.name) for field in fields(PackProgress)})

    try:
        PackJob(PackPlan.from_plain(task["plan"]), PackSettings(**task["settings"])).run(report)
    except TpbenchError as error:
        send(error=str(error))
