"""Gradients and Adam layer by layer against member by member: a pack of ten, one thread.

    python benchmarks/order.py [--rounds 7]

The gradients of all weights of a workload's network, and one Adam step, on made-up numbers. ``layers``: the products of
all members of a layer at once, one layer after the other, then Adam. ``members``: product and Adam of one member's
matrix after the other, with one gradient in memory. In bf16 the results become float32 and the changed weights are
written in bfloat16 too: after all products (``layers``), before the next member's product (``members``), or by Adam, a
block at a time (``deferred``, what the engine does). The orders take turns; times are the best of the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from tpbench.engine.adam import AdamSettings, update
from tpbench.workloads import get_workload

_PACK, _BLOCK = 10, 1 << 18
_SETTINGS = AdamSettings(1e-3, 0.9, 0.99, 1e-8)


class Pack:
    """Weights, gradients and moments of the large layers of a workload, and operands of their gradients."""

    def __init__(self, workload: str) -> None:
        declared = get_workload(workload)
        sizes, batch = declared.architecture.sizes[:-1], declared.batch_size
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        self.inputs = [torch.randn(_PACK, batch, n) for _, n in shapes]
        self.errors = [torch.randn(_PACK, batch, n) for n, _ in shapes]
        self.weights, self.gradients, self.first, self.second = (
            [torch.zeros(_PACK, *shape) for shape in shapes] for _ in range(4)
        )
        self.step = torch.ones(())
        self.low_inputs, self.low_errors, self.low_weights, self.low_gradients = (
            [values.bfloat16() for values in arrays]
            for arrays in (self.inputs, self.errors, self.weights, self.gradients)
        )
        self.one = torch.zeros(max(weight[0].numel() for weight in self.weights))
        self.low_one = self.one.bfloat16()

    def adam(self, k: int, part: int | slice, gradient: Tensor) -> None:
        """Update a part of the members of layer k, of its flattened arrays where it is a slice."""
        arrays = [buffer[k] for buffer in (self.weights, self.first, self.second)]
        weight, first, second = (a.view(-1)[part] if isinstance(part, slice) else a[part] for a in arrays)
        update([[weight], [gradient], [first], [second]], [self.step], _SETTINGS)

    def layers(self) -> None:
        for k, gradient in enumerate(self.gradients):
            torch.bmm(self.errors[k].mT, self.inputs[k], out=gradient)
        for p in range(_PACK):
            for k, gradient in enumerate(self.gradients):
                self.adam(k, p, gradient[p])

    def members(self) -> None:
        for p in range(_PACK):
            for k, weight in enumerate(self.weights):
                gradient = self.one[: weight[0].numel()].view(weight[0].shape)
                self.adam(k, p, torch.mm(self.errors[k][p].T, self.inputs[k][p], out=gradient))

    def layers_bf16(self) -> None:
        for k, gradient in enumerate(self.gradients):
            gradient.copy_(torch.bmm(self.low_errors[k].mT, self.low_inputs[k], out=self.low_gradients[k]))
        for p in range(_PACK):
            for k, gradient in enumerate(self.gradients):
                self.adam(k, p, gradient[p])
        for weight, lowered in zip(self.weights, self.low_weights, strict=True):
            lowered.copy_(weight)

    def members_bf16(self) -> None:
        for p in range(_PACK):
            for k, weight in enumerate(self.weights):
                gradient, result = (a[: weight[0].numel()].view(weight[0].shape) for a in (self.one, self.low_one))
                torch.mm(self.low_errors[k][p].T, self.low_inputs[k][p], out=result)
                self.adam(k, p, gradient.copy_(result))
                self.low_weights[k][p].copy_(weight[p])

    def deferred_bf16(self) -> None:
        for k, gradient in enumerate(self.low_gradients):
            torch.bmm(self.low_errors[k].mT, self.low_inputs[k], out=gradient)
        for p in range(_PACK):
            for k, weight in enumerate(self.weights):
                size = weight[0].numel()
                for start in range(p * size, (p + 1) * size, _BLOCK):
                    block = slice(start, min(start + _BLOCK, (p + 1) * size))
                    gradient = self.one[: block.stop - start].copy_(self.low_gradients[k].view(-1)[block])
                    self.adam(k, block, gradient)
                    self.low_weights[k].view(-1)[block].copy_(weight.view(-1)[block])


def best(tasks: list[Callable[[], None]], rounds: int) -> list[float]:
    """Return the best time of each task in milliseconds; they take turns, after a first time that is not counted."""
    times: list[list[float]] = [[] for _ in tasks]
    for _ in range(rounds + 1):
        for task, column in zip(tasks, times, strict=True):
            started = time.perf_counter()
            task()
            column.append(1e3 * (time.perf_counter() - started))
    return [min(column[1:]) for column in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| workload | precision | layers, ms | members, ms | deferred, ms |")
    print("|---|---|---|---|---|")
    for workload in ("mnist", "cifar10"):
        pack = Pack(workload)
        plain = best([pack.layers, pack.members], rounds)
        lowered = best([pack.layers_bf16, pack.members_bf16, pack.deferred_bf16], rounds)
        for name, times in (("float32", plain), ("bf16", lowered)):
            print(f"| {workload} | {name} |", " | ".join(f"{t:.1f}" for t in times), "|", flush=True)


if __name__ == "__main__":
    main()
