"""How many configurations a pack of a search should have: measured on this machine, not guessed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from tpbench.engine import UsageError
from tpbench.training.devices import release_memory, require_gpu
from tpbench.training.pack import is_out_of_memory
from tpbench.workloads import Workload
from tpbench.workloads.benchmark import BenchmarkRow, measure
from tpbench.workloads.memory import free_memory

_SIZES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 2, 4, 8, 16, 32, 64, 128)}
# A larger pack must train a member this much faster, because it also makes the search blinder.
_WORTH = 0.95
# Processes take turns on a GPU, and several train no more than one; with NVIDIA's Multi-Process Service they run at the
# same time (docs/performance.md).
_MOST_PER_GPU = 4
# Share of the memory that packs may take; the data set and the system need the rest.
_MEMORY_SHARE = 0.6


def _measured(workload: Workload, method: str, size: int, device: str, precision: str) -> BenchmarkRow | None:
    """How a pack trains; None if it does not fit. What it took of a GPU is free again: others will train there."""
    try:
        return measure(workload, method, size, device, precision, seconds=0.2)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        if device.startswith("cuda"):
            release_memory(device)


def choose_pack(
    workload: Workload,
    method: str,
    *,
    trials: int,
    concurrent: int,
    threads: int,
    device: str,
    precision: str,
    floor: int = 1,
    sharing: int | None = None,
) -> int:
    """The smallest pack size beyond which members do not get noticeably cheaper.

    Limited so that the search has at least four packs for every worker (all of them have work, and TPE learns from
    results while there is something left to suggest), and by memory.

    Args:
        trials: configurations of the search.
        concurrent: packs that train at once.
        threads: CPU threads of each.
        floor: the smallest size that makes sense, as for a bracket; no more than there are trials.
        sharing: how many of them share one memory; None: all.
    """
    limit = max(1, trials // (4 * concurrent))
    before, chosen, cost = torch.get_num_threads(), 1, float("inf")
    torch.set_num_threads(threads)
    try:
        memory = free_memory(device) * _MEMORY_SHARE / (sharing or concurrent)
        for size in _SIZES[torch.device(device).type]:
            if size > limit:
                break
            row = _measured(workload, method, size, device, precision)
            if row is None or (row.peak_memory or 0) > memory or 1 / row.member_epochs_per_second > _WORTH * cost:
                break
            chosen, cost = size, 1 / row.member_epochs_per_second
    finally:
        torch.set_num_threads(before)
    return max(chosen, min(floor, trials))


@dataclass(frozen=True)
class Sizing:
    """How the members of a search are spread over the machine."""

    pack: int
    packs_per_gpu: int = 1


def has_mps() -> bool:
    """Whether NVIDIA's Multi-Process Service runs on this machine, by its pipe, where its clients look for it."""
    return Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps", "control").exists()


def share_gpu(peak: int | None, free: int, *, trials: int, pack: int, gpus: int) -> int:
    """How many packs of a size may share a GPU that runs them at the same time: as memory holds and there is work for.

    Args:
        peak: bytes that one pack needs; None if it could not be measured.
        free: bytes that are free on the GPU.
    """
    if not peak:
        return 1
    by_memory = int(free * _MEMORY_SHARE / peak)
    by_work = trials // (4 * pack * gpus)
    return max(1, min(_MOST_PER_GPU, by_memory, by_work))


def choose_sizes(
    workload: Workload,
    method: str,
    *,
    trials: int,
    pack: int | None,
    cpus: int,
    gpus: int,
    threads: int,
    device: str,
    precision: str,
    floor: int = 1,
) -> Sizing:
    """Measure on the machine where this runs: the pack size where none was asked for, and packs per GPU.

    Raises:
        TpbenchError: torch cannot use the GPU that this machine was said to have.
    """
    require_gpu(device)
    most = _MOST_PER_GPU if has_mps() else 1
    if pack is None:
        pack = choose_pack(
            workload,
            method,
            trials=trials,
            concurrent=gpus * most or cpus,
            threads=threads,
            device=device,
            precision=precision,
            floor=floor,
            sharing=most if gpus else None,
        )
    if not gpus or most == 1:
        return Sizing(pack)
    row = _measured(workload, method, pack, device, precision)
    peak = row.peak_memory if row else None
    return Sizing(pack, share_gpu(peak, free_memory(device), trials=trials, pack=pack, gpus=gpus))


def parse_pack(text: str) -> int | None:
    """``auto`` (None) or a number.

    Raises:
        UsageError: it is neither.
    """
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 5 and int(text)):
        raise UsageError(f"--pack '{text}': write 'auto' or a number from 1 to 9999")
    return int(text)
