"""Measure the speed of packs on random data of a workload's shape, so that no data set is needed."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from tpbench.engine import Trainer, example_configuration, get_method
from tpbench.engine.operations import joint_operations, step_bytes
from tpbench.engine.step import PHASES, Clock
from tpbench.engine.trainer import dtype_of
from tpbench.workloads.problems import random_problem
from tpbench.workloads.workload import Workload


@dataclass(frozen=True)
class BenchmarkRow:
    """One measurement. Times are seconds, rates operations per second, memory bytes."""

    workload: str
    method: str
    pack: int
    device: str
    precision: str
    step_seconds: float
    member_epochs_per_second: float
    """Joint epochs of one member, evaluation not counted."""
    operations_per_member_step: int
    bytes_per_member_step: int
    rate: float
    product_rate: float
    """Rate of a 2048 x 2048 product in the same process."""
    fraction: float
    """rate / product_rate"""
    phases: dict[str, float]
    """Share of each phase."""
    peak_memory: int | None


def product_rate(precision: str, device: str) -> float:
    """Return the operations per second of a square matrix product: the median of several, as for the steps."""
    size, seconds = 2048, 0.5
    a = torch.randn(size, size, device=device).to(torch.bfloat16 if precision == "bf16" else dtype_of(precision))
    b = torch.randn_like(a)
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / median(times)


def synchronize(device: str) -> None:
    """Wait until a GPU has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _reset_peak(device: str) -> bool:
    """Start measuring peak memory anew; False where the system cannot."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak(device: str) -> int | None:
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(match[1]) * 1024 if match else None


def measure(
    workload: Workload, method: str, pack: int, device: str, precision: str, *, seconds: float = 2.0
) -> BenchmarkRow:
    """Measure joint training of one pack: the median step of several short epochs, and the share of each phase.

    Args:
        workload: its shape is taken, not its data.
        method: the method's name.
        pack: members.
        device: as torch names it.
        precision: of the training.
        seconds: of measuring, at least.
    """
    on_gpu = device.startswith("cuda")
    rule, steps = get_method(method), 100 if on_gpu else 5
    configuration, problem = example_configuration(rule), random_problem(workload, steps)
    # By a step of its own, which is no part of the peak memory.
    operations = joint_operations(rule, workload.architecture, workload.batch_size, problem.trained)
    resettable = _reset_peak(device)
    trainer = Trainer(
        rule,
        problem,
        [configuration] * pack,
        list(range(pack)),
        epochs=10**6,
        precision=precision,
        device=device,
    )
    trainer.advance()
    clock = Clock(torch.device(device))
    if not on_gpu:
        trainer.pack.clock = clock
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        before, started = sum(clock.seconds.values()), time.perf_counter()
        trainer.advance()
        # Timing phases keeps a GPU from replaying its graph: there the epoch is timed, its small evaluation with it.
        spent = time.perf_counter() - started if on_gpu else sum(clock.seconds.values()) - before
        times.append(spent / steps)
    step = median(times)
    if on_gpu:
        trainer.pack.clock = clock
        trainer.advance()
    total = sum(clock.seconds.values())
    element = dtype_of(precision).itemsize
    steps_per_epoch = math.ceil((workload.samples - workload.validation_size) / workload.batch_size)
    peak = product_rate(precision, device)
    return BenchmarkRow(
        workload.name,
        method,
        pack,
        device,
        precision,
        step,
        pack / (step * steps_per_epoch),
        operations,
        step_bytes(rule, workload.architecture, workload.batch_size, problem.trained, element),
        operations * pack / step,
        peak,
        operations * pack / step / peak,
        {name: clock.seconds[name] / total for name in PHASES},
        _peak(device) if resettable else None,
    )


def measure_all(
    cells: Iterable[tuple[Workload, str]], packs: list[int], device: str, precisions: list[str], seconds: float
) -> Iterator[BenchmarkRow]:
    """Yield every combination of workload and method, as it is measured; its precisions directly after each other."""
    for workload, method in cells:
        for pack in packs:
            for precision in precisions:
                yield measure(workload, method, pack, device, precision, seconds=seconds)
