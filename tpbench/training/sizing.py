"""The size of a search's packs, measured on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from tpbench.training.devices import release_memory, require_gpu
from tpbench.training.pack import is_out_of_memory
from tpbench.workloads import Workload
from tpbench.workloads.benchmark import BenchmarkRow, measure
from tpbench.workloads.memory import free_memory

_SIZES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 2, 4, 8, 16, 32, 64, 128)}
# The largest share of its former time that a member may take in a larger pack, which learns from fewer results.
_MAX_COST_RATIO = 0.95
# Processes take turns on a GPU, and several train no more than one; with NVIDIA's Multi-Process Service they run at the
# same time (docs/performance.md).
_MAX_PER_GPU = 4
# Share of the memory that packs may take; the data set and the system need the rest.
_MEMORY_SHARE = 0.6


def _measure_pack(workload: Workload, method: str, size: int, device: str, precision: str) -> BenchmarkRow | None:
    """Return the speed and memory of a pack, or None if it does not fit; its memory on a GPU is free again."""
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
    """Return the smallest pack size beyond which members do not get noticeably cheaper.

    The size is limited by memory, and so that every worker gets at least four packs: then all have work, and TPE learns
    from results while there is something left to suggest.

    Args:
        workload: of the search.
        method: of the search.
        trials: configurations of the search.
        concurrent: packs that train at once.
        threads: CPU threads of each.
        device: to measure on.
        precision: of the training.
        floor: the smallest size that makes sense, as for a bracket; no more than there are trials.
        sharing: how many of them share one memory; None: all.
    """
    limit = max(1, trials // (4 * concurrent))
    threads_before, chosen, cost = torch.get_num_threads(), 1, float("inf")
    torch.set_num_threads(threads)
    try:
        memory = free_memory(device) * _MEMORY_SHARE / (sharing or concurrent)
        for size in _SIZES[torch.device(device).type]:
            if size > limit:
                break
            row = _measure_pack(workload, method, size, device, precision)
            if row is None or (row.peak_memory or 0) > memory:
                break
            smaller, cost = cost, 1 / row.member_epochs_per_second
            if cost > _MAX_COST_RATIO * smaller:
                break
            chosen = size
    finally:
        torch.set_num_threads(threads_before)
    return max(chosen, min(floor, trials))


@dataclass(frozen=True)
class Sizing:
    """The distribution of a search's members over the machine."""

    pack: int
    """Members of a pack."""
    packs_per_gpu: int = 1
    """Packs that share a GPU."""


def has_mps() -> bool:
    """Return whether NVIDIA's Multi-Process Service runs on this machine, by the pipe that its clients use."""
    return Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps", "control").exists()


def share_gpu(peak: int | None, free: int, *, trials: int, pack: int, gpus: int) -> int:
    """Return how many packs may share a GPU that runs them at the same time, by its memory and by the work.

    Args:
        peak: bytes that one pack needs; None if it could not be measured.
        free: bytes that are free on the GPU.
        trials: configurations of the search.
        pack: members of a pack.
        gpus: of the cluster.
    """
    if not peak:
        return 1
    by_memory = int(free * _MEMORY_SHARE / peak)
    by_work = trials // (4 * pack * gpus)
    return max(1, min(_MAX_PER_GPU, by_memory, by_work))


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
    """Measure the pack size and the packs per GPU on the machine where this runs.

    Args:
        workload: of the search.
        method: of the search.
        trials: configurations of the search.
        pack: members of a pack; None: they are measured.
        cpus: packs that train at once where there is no GPU.
        gpus: GPUs of the machine or cluster.
        threads: CPU threads of a pack.
        device: to measure on.
        precision: of the training.
        floor: the smallest pack that makes sense.

    Raises:
        TpbenchError: torch cannot use the GPU that this machine should have.
    """
    require_gpu(device)
    per_gpu = _MAX_PER_GPU if has_mps() else 1
    if pack is None:
        pack = choose_pack(
            workload,
            method,
            trials=trials,
            concurrent=gpus * per_gpu or cpus,
            threads=threads,
            device=device,
            precision=precision,
            floor=floor,
            sharing=per_gpu if gpus else None,
        )
    if not gpus or per_gpu == 1:
        return Sizing(pack)
    row = _measure_pack(workload, method, pack, device, precision)
    peak = row.peak_memory if row else None
    return Sizing(pack, share_gpu(peak, free_memory(device), trials=trials, pack=pack, gpus=gpus))
