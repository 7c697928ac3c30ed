"""Why parameters are laid out by array: weight gradients written into contiguous and into strided memory.

python benchmarks/layout.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch


def rate(work: Callable[[], object], operations: float) -> float:
    """GFLOP/s, the median of 40 calls."""
    times = []
    for _ in range(42):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return operations / median(times[2:]) / 1e9


members, batch = 10, 128
for rows, columns in ((256, 784), (256, 256), (1024, 3072), (1024, 1024), (256, 1024)):
    error, source = torch.randn(members, batch, rows), torch.randn(members, batch, columns)
    flat = torch.zeros(members, rows * columns + 7168)
    strided = flat[:, : rows * columns].view(members, rows, columns)
    contiguous = torch.zeros(members, rows, columns)
    count = 2 * members * batch * rows * columns
    by_member = rate(lambda e=error, s=source, o=strided: torch.bmm(e.mT, s, out=o), count)
    by_array = rate(lambda e=error, s=source, o=contiguous: torch.bmm(e.mT, s, out=o), count)
    print(f"{rows} x {columns}: {by_member:.0f} by member, {by_array:.0f} by array, ratio {by_array / by_member:.2f}")
