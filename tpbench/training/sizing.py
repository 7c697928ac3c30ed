"""The size of a search's packs, measured on this machine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tpbench.engine import get_method
from tpbench.training.devices import release_memory, require_gpu
from tpbench.training.pack import is_out_of_memory
from tpbench.workloads import Workload
from tpbench.workloads.benchmark import BenchmarkRow, measure
from tpbench.workloads.memory import free_memory

# Sizes for CPU cores; on a GPU a step takes nearly as long for one member as for eight.
_CPU_SIZES, _GPU_SIZES = (1, 2, 4, 8, 16), (8, 16, 32, 64, 128)
# Packs that each worker and each search has, at least.
_PACKS_EACH = {"cpu": 4, "cuda": 3}
# The largest share of its former time that a member may take in a larger pack, which learns from fewer results.
_MAX_COST_RATIO = 0.95
# Processes take turns on a GPU, and several train no more than one; with NVIDIA's Multi-Process Service they run at the
# same time (docs/performance.md).
_MAX_PER_GPU = 4
# Share of the memory that packs may take; the data set and the system need the rest.
_MEMORY_SHARE = 0.6


def pack_sizes(trials: int, *, cells: int, concurrent: int, device: str, brackets: Sequence[int] = ()) -> list[int]:
    """Return the sizes that a search's packs may have, in ascending order.

    All workers get some packs, of whichever search, and each search has some: then TPE learns from results while there
    is something left to suggest. The first size is allowed whatever the number of packs.

    Args:
        trials: configurations of the search.
        cells: searches of the command.
        concurrent: packs that train at once.
        device: they train on.
        brackets: sizes that can be halved, in ascending order; empty: the search halves none.
    """
    kind = torch.device(device).type
    each = _PACKS_EACH[kind]

    def enough(size: int) -> bool:
        # A bracket of 18 is worth it wherever the search keeps some of them; which is taken, the workers decide later.
        busy = -(-trials // size) * cells >= each * concurrent or (kind != "cpu" and size in brackets[1:2])
        return busy and trials >= each * size

    if kind == "cpu":
        sizes: Sequence[int] = _CPU_SIZES
        first = max(filter(enough, brackets), default=min(brackets, default=1))
    else:
        sizes = brackets or _GPU_SIZES
        first = sizes[0]
    return [min(first, trials), *(size for size in sizes if size > first and enough(size))]


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


def measure_sizes(
    workload: Workload,
    method: str,
    sizes: Sequence[int],
    *,
    sharing: int,
    threads: int,
    device: str,
    precision: str,
    smallest: int = 1,
) -> dict[int, BenchmarkRow]:
    """Measure pack sizes as long as members get noticeably cheaper and memory holds a pack.

    Args:
        workload: of the search.
        method: of the search.
        sizes: in ascending order. Where the first one does not fit, halves of it are tried.
        sharing: packs that share the memory.
        threads: CPU threads of each.
        device: to measure on.
        precision: of the training.
        smallest: the smallest size that makes sense.

    Returns:
        The measurements by size, in ascending order; empty if not even the smallest fits.
    """
    threads_before, rows = torch.get_num_threads(), dict[int, BenchmarkRow]()
    torch.set_num_threads(threads)
    try:
        memory = free_memory(device) * _MEMORY_SHARE / sharing

        def fitting(size: int) -> BenchmarkRow | None:
            row = _measure_pack(workload, method, size, device, precision)
            return row if row and (row.peak_memory or 0) <= memory else None

        for size in sizes:
            row = fitting(size)
            if not row or (rows and _seconds(row) > _MAX_COST_RATIO * _seconds(list(rows.values())[-1])):
                break
            rows[size] = row
        size = sizes[0] // 2
        while not rows and size >= smallest:
            if row := fitting(size):
                rows[size] = row
            size //= 2
    finally:
        torch.set_num_threads(threads_before)
    return rows


def _seconds(row: BenchmarkRow) -> float:
    """Return the seconds of a member's joint epoch."""
    return 1 / row.member_epochs_per_second


def epoch_seconds(row: BenchmarkRow, workload: Workload, method: str) -> float:
    """Return the seconds of one member's joint epoch, with the feedback epochs that follow it."""
    between = workload.feedback_schedule(get_method(method)).get("fb_epochs_between", 0)
    return _seconds(row) * (1 + between * feedback_share(row))


def guessed_cost(workload: Workload) -> float:
    """Return about how long a member's epoch takes, in seconds, where nothing was measured: by its steps alone."""
    return 1e-3 * math.ceil((workload.samples - workload.validation_size) / workload.batch_size)


def feedback_share(row: BenchmarkRow) -> float:
    """Return how much of a joint epoch a feedback epoch takes.

    That is what the joint one spends on batches, forward pass and feedback, with half of Adam.
    """
    shares = {"batches": 1.0, "forward": 1.0, "feedback": 1.0, "adam": 0.5}
    return sum(factor * row.phases.get(phase, 0.0) for phase, factor in shares.items())


def run_seconds(row: BenchmarkRow, method: str, joint: float, feedback: float) -> float:
    """Return about how long one member of a pack trains, in seconds.

    An evaluation is forward passes over the validation and test samples.

    Args:
        row: the measurement of such a pack's joint step.
        method: its method.
        joint: number of joint epochs.
        feedback: number of epochs of feedback training; they count where the method trains its feedback.
    """
    shares = joint * (1 + 0.3 * row.phases["forward"])
    if get_method(method).trains_feedback:
        shares += feedback * feedback_share(row)
    return _seconds(row) * shares


@dataclass(frozen=True)
class Sizing:
    """The distribution of a search's members over the machine."""

    pack: int
    """Members of a pack."""
    packs_per_gpu: int = 1
    """Packs that share a GPU."""
    costs: Mapping[int, float] = field(default_factory=dict)
    """Seconds of a member's epoch (:func:`epoch_seconds`) by pack size, as far as they were measured: this one, and
    smaller ones that the search could have as well."""

    @property
    def cost(self) -> float:
        """Seconds of a member's epoch; 0: not measured."""
        return self.costs.get(self.pack, 0.0)


def has_mps() -> bool:
    """Return whether NVIDIA's Multi-Process Service runs on this machine, by the pipe that its clients use."""
    return Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps", "control").exists()


def share_gpu(peak: int | None, free: int, *, trials: int, pack: int, gpus: int) -> int:
    """Return how many packs may share a GPU that runs them at the same time, by its memory and by the work.

    Args:
        peak: bytes that one pack needs; None if it could not be measured.
        free: bytes that are free on the GPU.
        trials: configurations of all searches.
        pack: members of a pack.
        gpus: of the cluster.
    """
    if not peak:
        return 1
    by_memory = int(free * _MEMORY_SHARE / peak)
    by_work = trials // (_PACKS_EACH["cuda"] * pack * gpus)
    return max(1, min(_MAX_PER_GPU, by_memory, by_work))


def choose_sizes(
    workload: Workload,
    method: str,
    *,
    trials: int,
    cells: int,
    pack: int | None,
    cpus: int,
    gpus: int,
    threads: int,
    device: str,
    precision: str,
    brackets: Sequence[int] = (),
) -> Sizing:
    """Measure the pack size, its cost and the packs per GPU on the machine where this runs.

    A pack that was asked for is measured on a GPU alone.

    Args:
        workload: of the search.
        method: of the search.
        trials: configurations of the search.
        cells: searches of the command.
        pack: members of a pack; None: they are measured.
        cpus: packs that train at once where there is no GPU.
        gpus: GPUs of the machine or cluster.
        threads: CPU threads of a pack.
        device: to measure on.
        precision: of the training.
        brackets: sizes that can be halved, in ascending order; empty: the search halves none.

    Raises:
        TpbenchError: torch cannot use the GPU that this machine should have.
    """
    require_gpu(device)
    per_gpu = _MAX_PER_GPU if has_mps() else 1
    concurrent = gpus * per_gpu or cpus
    if pack is None:
        sizes = pack_sizes(trials, cells=cells, concurrent=concurrent, device=device, brackets=brackets)
    elif gpus:
        sizes = [pack]
    else:
        return Sizing(pack)
    # A bracket that does not fit is trained in parts: it needs its members.
    smallest = sizes[0] if pack or brackets else 1
    rows = measure_sizes(
        workload,
        method,
        sizes,
        sharing=per_gpu if gpus else concurrent,
        threads=threads,
        device=device,
        precision=precision,
        smallest=smallest,
    )
    costs = {size: epoch_seconds(row, workload, method) for size, row in rows.items()}
    chosen = max(rows, default=smallest)
    if not gpus or per_gpu == 1:
        return Sizing(chosen, costs=costs)
    peak = rows[chosen].peak_memory if chosen in rows else None
    shared = share_gpu(peak, free_memory(device), trials=cells * trials, pack=chosen, gpus=gpus)
    return Sizing(chosen, shared, costs)
