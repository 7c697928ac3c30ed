"""GPUs that are played: Ray counts them, torch sees them, and the CPU trains in their place. Not a test.

A folder says how they are, to every process: the file ``unusable`` (torch cannot use them), ``exclusive`` (a GPU takes
one process at a time, as in NVIDIA's EXCLUSIVE_PROCESS mode) and ``mps/control`` (the Multi-Process Service runs).
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import torch

from tests.sweeps.playing import pretend
from tpbench.engine import EpochReport
from tpbench.sweeps import sizes
from tpbench.sweeps.sizes import SizeRequest
from tpbench.sweeps.sweep import QueuedPack
from tpbench.training import sizing
from tpbench.training.pack import PackJob
from tpbench.training.plan import Outcome

FOLDER = "TPBENCH_TESTS_PLAYED_GPUS"
"""The variable that names the folder, which Ray's processes inherit."""
BUSY = "CUDA error: CUDA-capable device(s) is/are busy or unavailable"
MEMORY = 80 * 2**30

_contexts: dict[str, TextIO] = {}
"""By GPU, what this process has open until it ends: the context that CUDA makes, and keeps."""
_measure = sizes._measure


def folder() -> Path:
    return Path(os.environ[FOLDER])


def usable() -> bool:
    return not (folder() / "unusable").exists()


def visible() -> list[str]:
    """Return the GPUs that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [gpu for gpu in named.split(",") if gpu]


def install() -> None:
    """Let torch and the measurement of sizes see the GPUs, for the rest of this process."""
    for owner, name, value in stand_ins():
        setattr(owner, name, value)
    os.environ["CUDA_MPS_PIPE_DIRECTORY"] = str(folder() / "mps")


def stand_ins() -> Iterator[tuple[Any, str, Any]]:
    yield torch.cuda, "is_available", usable
    yield sizing, "measure", measure
    yield sizing, "free_memory", lambda device: MEMORY


def measure(workload: object, method: str, size: int, *_: Any, **__: Any) -> Any:
    """Play a measurement: a member takes a GiB, and costs less the larger the pack."""
    open_context()
    return type("Row", (), {"peak_memory": size * 2**30, "member_epochs_per_second": float(size), "phases": {}})()


def open_context() -> None:
    """Make the context of this process on its GPU.

    Raises:
        RuntimeError: the GPU is another process's.
    """
    alone = (folder() / "exclusive").exists() and not sizing.has_mps()
    for gpu in visible() if alone else ():
        if gpu not in _contexts:
            file = (folder() / f"gpu-{gpu}").open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(BUSY) from None
            _contexts[gpu] = file


@contextmanager
def taken(gpu: str) -> Iterator[None]:
    """Let another program have a GPU meanwhile."""
    with (folder() / f"gpu-{gpu}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_free(gpu: str) -> bool:
    """Return whether no process has a context on a GPU."""
    try:
        with taken(gpu):
            return True
    except BlockingIOError:
        return False


class Training:
    """Makes up the runs of a pack, in the place of :func:`tpbench.sweeps.trainable.train_job`.

    A worker sees the GPUs from when it receives this.

    Args:
        processes: number of them that must train before a pack ends.
    """

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes

    def __reduce__(self) -> Any:
        return _installed, (self.processes,)

    def __call__(self, pack: QueuedPack, report: Callable[[EpochReport], None]) -> list[Outcome]:
        if pack.settings.device != "cpu":
            open_context()
        note = {"pid": os.getpid(), "visible": visible(), "device": pack.settings.device}
        notes = Path(pack.settings.results, "packs")
        with notes.open("a") as file:
            print(json.dumps(note), file=file)
        until = time.monotonic() + 120
        while len({one["pid"] for one in noted(notes)}) < self.processes and time.monotonic() < until:
            time.sleep(0.1)
        return pretend(pack)


def noted(notes: Path) -> list[dict[str, Any]]:
    """Return the process, GPUs and device of every pack of a results folder's file ``packs``."""
    return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def _installed(processes: int) -> Training:
    install()
    return Training(processes)


def measure_with_played_gpus(mailbox: Any, one: SizeRequest) -> Any:
    """Measure sizes as :func:`tpbench.sweeps.sizes._measure`, in a process of Ray's that sees the GPUs."""
    install()
    return _measure(mailbox, one)


def train_on_the_cpu(pack: QueuedPack) -> list[Outcome]:
    """Train a pack in this process."""
    return PackJob(pack.plan, replace(pack.settings, device="cpu"), pack.bracket, parts=pack.parts).run()
