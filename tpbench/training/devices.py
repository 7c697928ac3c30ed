"""The devices and CPU cores that a training may use."""

from __future__ import annotations

import gc
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tpbench.engine.errors import TpbenchError, UsageError, unknown
from tpbench.workloads.memory import group_folders, read_number, read_text

DEVICES = ("auto", "cpu", "cuda", "cuda:N")
"""``auto`` is the GPU if there is one; N counts from 0."""


def choose_device(wanted: str) -> str:
    """Return the device to train on, as torch names it.

    Args:
        wanted: one of :data:`DEVICES`.

    Raises:
        UsageError: there is no such device, or not here.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if count else "cpu"
    if wanted == "cpu":
        return wanted
    match = re.fullmatch(r"cuda(?::([0-9]{1,4}))?", wanted)
    if not match:
        raise unknown("device", wanted, DEVICES)
    if not count:
        raise UsageError(f"device '{wanted}' was asked for, but torch sees no GPU here; use --device cpu")
    if match[1] and int(match[1]) >= count:
        there = "cuda:0 alone" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise UsageError(f"device '{wanted}' was asked for, but torch sees {there} here")
    return wanted


def require_gpu(device: str) -> None:
    """Check that torch can use the GPU of this node; its driver may be too old.

    Raises:
        TpbenchError: torch cannot use it; with the reason and the node.
    """
    import torch

    if not device.startswith("cuda") or torch.cuda.is_available():
        return
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        reason = "it gives no reason"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
    built = f"torch {torch.__version__}, for CUDA {torch.version.cuda}" if torch.version.cuda else torch.__version__
    raise TpbenchError(f"torch sees no GPU on node {socket.gethostname()}: {reason} ({built})")


def release_memory(device: str) -> None:
    """Free objects in reference cycles, and on a GPU the memory that torch keeps in its cache."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


# Controllers and folders of Linux's cgroups: version 2, and the two places where version 1 has its CPU controller.
_MOUNTS = (("", "sys/fs/cgroup"), ("cpu", "sys/fs/cgroup/cpu"), ("cpu", "sys/fs/cgroup/cpu,cpuacct"))


@dataclass(frozen=True)
class CpuLimit:
    """The cores that a process may use, of those that the machine has."""

    usable: int
    cores: int
    """Cores of the machine."""
    reason: str = ""
    """The reason why the process may not use the others: ``affinity`` or ``cgroup quota``; empty: it may."""

    def __str__(self) -> str:
        return f"{self.usable} of {self.cores} cores: {self.reason}" if self.reason else str(self.usable)


def cpu_limit(root: Path = Path("/")) -> CpuLimit:
    """Return the number of cores that this process may use, and the reason where these are not all.

    Linux binds a process to cores (its affinity) and limits the time that a group of processes gets (the quota of its
    cgroup, as a container's ``--cpus``). The smallest limit counts, rounded down, but at least one core.

    Args:
        root: where ``proc`` and ``sys`` lie; systems without them have no limit but the machine's.
    """
    cores = os.cpu_count() or 1
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    quota = min(_quotas(root), default=float("inf"))
    if quota < bound:
        return CpuLimit(max(1, int(quota)), cores, "cgroup quota")
    return CpuLimit(bound, cores, "affinity" if bound < cores else "")


def usable_cpus() -> int:
    """Return how many CPU cores this process may use."""
    return cpu_limit().usable


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas of this process's cgroups, in cores; groups without a limit are passed over."""
    for controller, mount in _MOUNTS:
        for folder in group_folders(root, controller, mount):
            if controller:
                quota, period = (read_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            else:
                # "200000 100000", or "max 100000".
                words = read_text(folder / "cpu.max").split()
                quota, period = map(int, words) if len(words) == 2 and all(map(str.isdecimal, words)) else (None, None)
            if quota and period:
                yield quota / period


@contextmanager
def limited_threads(most: int | None = None) -> Iterator[None]:
    """Let torch use no more threads than these, or than usable cores, within the block.

    torch itself counts the cores that a process is bound to and does not know of quotas. A number in
    ``OMP_NUM_THREADS`` stays.
    """
    import torch

    before, limit = torch.get_num_threads(), usable_cpus() if most is None else most
    if not os.environ.get("OMP_NUM_THREADS") and limit < before:
        torch.set_num_threads(limit)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
