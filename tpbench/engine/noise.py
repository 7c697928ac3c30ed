"""The noise that corrupts activities in feedback training, drawn for several minibatches at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from tpbench.engine.precision import Scratch, in_parallel

# Numbers of one member that are drawn by one call. On a GPU each call is a launch, so that many are worth their memory
# (4 MiB per member); a CPU would only push them out of its caches. It does not depend on the pack: on a GPU the numbers
# depend on how many are drawn at once.
_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 20}

# torch's CPU generator makes normal numbers in groups of so many, and starts a group anew in each call.
_GROUP = 16


def device_generators(generators: Sequence[torch.Generator], device: torch.device) -> list[torch.Generator]:
    """Generators of the same seeds on the device; on a GPU they give other numbers than on the CPU."""
    if device.type == "cpu":
        return list(generators)
    return [torch.Generator(device).manual_seed(generator.initial_seed()) for generator in generators]


def minibatches_at_once(numbers: int, device: torch.device) -> int:
    """For how many minibatches the noise is drawn at once.

    Args:
        numbers: of one member and minibatch.
        device: where they are drawn; on a CPU only what gives the same numbers as single draws is drawn at once.
    """
    if device.type == "cpu" and numbers % _GROUP:
        return 1
    return max(1, _AT_ONCE.get(device.type, _AT_ONCE["cuda"]) // numbers)


def draw_noise(
    batches: Sequence[int], units: int, generators: Sequence[torch.Generator], memory: Scratch
) -> Iterator[Tensor]:
    """Standard-normal numbers for every minibatch of an epoch, in float32 whatever the precision of the pack.

    Args:
        batches: how many samples each minibatch has.
        units: of all hidden layers together.
        generators: one per member, on the device of the memory.
        memory: float32; what is yielded lies in it and lasts until the next is asked for.

    Yields:
        The noise of the next minibatch, (P, B * units); each member's from its own generator.
    """
    for batch, same in groupby(batches):
        left, numbers = len(list(same)), batch * units
        while left:
            count = min(left, minibatches_at_once(numbers, memory.device))
            block = memory("noise", len(generators), count * numbers)
            _fill(block, generators)
            yield from torch.split(block, numbers, dim=1)
            left -= count


def _fill(block: Tensor, generators: Sequence[torch.Generator]) -> None:
    def fill(first: int, last: int) -> None:
        for row, generator in zip(block[first:last], generators[first:last], strict=True):
            row.normal_(generator=generator)

    in_parallel(fill, len(generators), block.numel())
