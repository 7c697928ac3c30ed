"""The noise that corrupts activities in feedback training, drawn for several minibatches at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from tpbench.engine.precision import Workspace, in_parallel

# Numbers of one member that are drawn by one call. On a GPU each call is a launch, so that many are worth their memory
# (4 MiB per member); a CPU would only push them out of its caches. It does not depend on the pack: on a GPU the numbers
# depend on how many are drawn at once.
_BLOCK = {"cpu": 1 << 16, "cuda": 1 << 20}

# torch's CPU generator makes normal numbers in groups of this size, and starts a new group in each call.
_GROUP = 16


def device_generators(generators: Sequence[torch.Generator], device: torch.device) -> list[torch.Generator]:
    """Return generators of the same seeds on the device; on a GPU they give other numbers than on the CPU."""
    if device.type == "cpu":
        return list(generators)
    return [torch.Generator(device).manual_seed(generator.initial_seed()) for generator in generators]


def minibatches_at_once(numbers: int, device: torch.device) -> int:
    """Return for how many minibatches the noise is drawn by one call.

    Args:
        numbers: of one member and minibatch.
        device: where they are drawn; on a CPU only what gives the same numbers as single draws is drawn at once.
    """
    if device.type == "cpu" and numbers % _GROUP:
        return 1
    return max(1, _BLOCK.get(device.type, _BLOCK["cuda"]) // numbers)


def draw_noise(
    batches: Sequence[int],
    units: int,
    generators: Sequence[torch.Generator],
    memory: Workspace,
    repeats: Sequence[int] = (),
) -> Iterator[Tensor]:
    """Draw standard-normal numbers for every minibatch of an epoch, in float32 whatever the precision of the pack.

    Args:
        batches: how many samples each minibatch has.
        units: numbers per sample: of all hidden layers together, or of one step of a feedback phase.
        generators: one per member, on the device of the memory.
        memory: float32; each item lies in it and lasts until the next.
        repeats: one per member, how often it needs so many numbers in each minibatch; empty: once. A member draws no
            more than it needs, so that its numbers do not depend on the others.

    Yields:
        The noise of the next minibatch, (P, repeats * B * units) of the largest number of repeats; each member's from
        its own generator, zeros where it needs none.
    """
    if repeats:
        yield from _draw_repeats(batches, units, generators, memory, repeats)
        return
    for batch, same in groupby(batches):
        remaining, numbers = len(list(same)), batch * units
        while remaining:
            count = min(remaining, minibatches_at_once(numbers, memory.device))
            block = memory("noise", len(generators), count * numbers)
            _fill(block, generators)
            yield from torch.split(block, numbers, dim=1)
            remaining -= count


def _draw_repeats(
    batches: Sequence[int],
    units: int,
    generators: Sequence[torch.Generator],
    memory: Workspace,
    repeats: Sequence[int],
) -> Iterator[Tensor]:
    """Draw the noise of one minibatch after the other, of each member as often as it needs."""
    for batch in batches:
        block = memory("noise", len(generators), max(repeats) * batch * units)
        for row, generator, count in zip(block, generators, repeats, strict=True):
            row[: count * batch * units].normal_(generator=generator)
            row[count * batch * units :].zero_()
        yield block


def _fill(block: Tensor, generators: Sequence[torch.Generator]) -> None:
    def fill(first: int, last: int) -> None:
        for row, generator in zip(block[first:last], generators[first:last], strict=True):
            row.normal_(generator=generator)

    in_parallel(fill, len(generators), block.numel())


def by_layer(noise: Tensor, units: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    """Split the noise of a minibatch (P, B * sum of units) into (P, B, n) for each n of ``units``."""
    batch = noise.shape[1] // sum(units)
    parts = torch.split(noise.to(dtype), [batch * n for n in units], dim=1)
    return [part.view(-1, batch, n) for part, n in zip(parts, units, strict=True)]
