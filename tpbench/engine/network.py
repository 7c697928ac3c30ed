"""The forward parameters of a pack, the forward pass and the initialisation.

Every array has a leading member dimension P. The parameters of one kind (forward or feedback) of a whole pack lie in
one buffer with a named view per array.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor

from tpbench.engine.precision import EXACT, Lasting, Products, tanh_

# Offsets of the arrays in a buffer are multiples of this many elements, so that vector loads stay aligned.
_ALIGNMENT = 16


class Parameters:
    """Named arrays of a pack in one buffer: ``self[name]`` has the shape (P, ...) and is contiguous.

    The buffer is ordered by array, not by member as design.md has it: the products that write gradients run 10 to 20 %
    faster into contiguous arrays (``benchmarks/layout.py``), and the fused optimiser takes a member's arrays as a list.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], members: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.shapes, self.members = dict(shapes), members
        offsets, total = [], 0
        for shape in self.shapes.values():
            offsets.append(total)
            total += -(-members * prod(shape) // _ALIGNMENT) * _ALIGNMENT
        self.flat = torch.zeros(total, dtype=dtype, device=device)
        self._views = {
            name: self.flat[start : start + members * prod(shape)].view(members, *shape)
            for start, (name, shape) in zip(offsets, self.shapes.items(), strict=True)
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def member(self, p: int) -> Tensor:
        """All numbers of one member as one vector, a copy."""
        return torch.cat([view[p].flatten() for view in self._views.values()])

    def largest(self) -> Tensor:
        """The largest magnitude of every member (P,); not finite if one of its numbers is not."""
        norms = [torch.linalg.vector_norm(v.flatten(1), torch.inf, dim=1) for v in self._views.values()]
        return torch.stack(norms).sum(dim=0)

    def like(self, names: Iterable[str] | None = None) -> Parameters:
        """A buffer of the same layout filled with zeros, for gradients; or for the named arrays only."""
        shapes = {name: self.shapes[name] for name in names or self.shapes}
        return Parameters(shapes, self.members, dtype=self.flat.dtype, device=self.flat.device)

    def select(self, members: list[int]) -> Parameters:
        """A new buffer that holds a copy of the named members only."""
        chosen = Parameters(self.shapes, len(members), dtype=self.flat.dtype, device=self.flat.device)
        for name, view in self._views.items():
            chosen[name].copy_(view[members])
        return chosen


def stream(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """The random stream of one seed for one purpose (and one epoch).

    Streams are made anew from (seed, purpose, index), never carried along: what a seed draws does not depend on the
    pack it runs in, nor on whether training was interrupted.
    """
    words = [seed & 0xFFFFFFFF, seed >> 32, index, *purpose.encode()]
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def xavier_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Xavier-normal weights (fan_out, fan_in) in float64; the same numbers whatever precision the pack has."""
    fan_out, fan_in = shape
    return torch.randn(shape, generator=generator, dtype=torch.float64) * sqrt(2.0 / (fan_in + fan_out))


def initialise(parameters: Parameters, seeds: list[int], purpose: str) -> None:
    """Xavier-normal matrices and zero vectors for every member (section B.1), each from its own seed's stream."""
    for member, seed in enumerate(seeds):
        generator = stream(seed, purpose)
        for name, shape in parameters.shapes.items():
            if len(shape) == 2:
                parameters[name][member] = xavier_normal(shape, generator).to(parameters.flat)
            else:
                parameters[name][member] = 0.0


def forward(parameters: Parameters, activities: list[Tensor], depth: int, products: Products = EXACT) -> None:
    """Propagate ``activities[0]`` (P, B, n_0) forward (equation 1), writing ``activities[1..depth]`` in place.

    Hidden layers are tanh, layer ``depth`` is linear.
    """
    for i in range(1, depth + 1):
        bias, weight = parameters[f"b{i}"].unsqueeze(1), Lasting(parameters[f"W{i}"])
        products.baddbmm(bias, Lasting(activities[i - 1]), weight.mT, activities[i])
        if i < depth:
            tanh_(activities[i])
