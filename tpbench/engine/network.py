"""The forward parameters of a pack, the forward pass and the initialisation.

Every array has a leading member dimension P. The parameters of one kind (forward or feedback) of a whole pack lie in
one flat (P, N) buffer with a named view per array, so that the optimiser is one pass over memory per member.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor

from tpbench.engine.numerics import tanh_

# Offsets of the arrays in a flat buffer are multiples of this many elements, so that vector loads stay aligned.
_ALIGNMENT = 16


@dataclass(frozen=True)
class Architecture:
    """Sizes of a fully connected network: ``sizes[0]`` inputs, tanh hidden layers, ``sizes[-1]`` linear outputs.

    ``random_hidden`` is the width of the fixed random hidden feedback layer of the DDTP-RHL methods (section B.1).
    """

    sizes: tuple[int, ...]
    random_hidden: int = 0

    def __post_init__(self) -> None:
        if len(self.sizes) < 3 or min(self.sizes) < 1:
            raise ValueError(f"a network needs an input, at least one hidden and an output layer, got {self.sizes}")
        if self.random_hidden < 0:
            raise ValueError(f"random_hidden must not be negative, got {self.random_hidden}")

    @property
    def depth(self) -> int:
        """L, the number of layers with parameters; layer L is the output."""
        return len(self.sizes) - 1

    @property
    def hidden(self) -> range:
        """The hidden layers 1 .. L-1."""
        return range(1, self.depth)

    @property
    def layers(self) -> range:
        """The layers 1 .. L."""
        return range(1, self.depth + 1)

    def forward_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of ``W{i}`` (n_i, n_{i-1}) and ``b{i}`` (n_i)."""
        shapes: dict[str, tuple[int, ...]] = {}
        for i in self.layers:
            shapes[f"W{i}"] = (self.sizes[i], self.sizes[i - 1])
            shapes[f"b{i}"] = (self.sizes[i],)
        return shapes


class Parameters:
    """Named arrays of a pack in one flat buffer: ``flat`` is (P, N), ``self[name]`` a view of shape (P, ...)."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], members: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.shapes = dict(shapes)
        offsets: dict[str, int] = {}
        total = 0
        for name, shape in self.shapes.items():
            offsets[name] = total
            total += -(-prod(shape) // _ALIGNMENT) * _ALIGNMENT
        self._offsets = offsets
        self.flat = torch.zeros(members, total, dtype=dtype, device=device)
        self._views = {
            name: self.flat[:, offsets[name] : offsets[name] + prod(shape)].view(members, *shape)
            for name, shape in self.shapes.items()
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def __contains__(self, name: str) -> bool:
        return name in self._views

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    @property
    def members(self) -> int:
        return self.flat.shape[0]

    def span(self, names: list[str]) -> Tensor:
        """The part of ``flat`` that holds exactly the named arrays, which must lie side by side."""
        order = list(self.shapes)
        first = order.index(names[0])
        if order[first : first + len(names)] != names:
            raise ValueError(f"the arrays {names} do not lie side by side in {order}")
        last = first + len(names)
        end = self._offsets[order[last]] if last < len(order) else self.flat.shape[1]
        return self.flat[:, self._offsets[names[0]] : end]

    def like(self) -> Parameters:
        """A buffer of the same layout filled with zeros, for gradients."""
        return Parameters(self.shapes, self.members, dtype=self.flat.dtype, device=self.flat.device)

    def select(self, members: list[int]) -> Parameters:
        """A new buffer that holds a copy of the named members only."""
        chosen = Parameters(self.shapes, len(members), dtype=self.flat.dtype, device=self.flat.device)
        chosen.flat.copy_(self.flat[members])
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


def forward(parameters: Parameters, activities: list[Tensor], depth: int) -> None:
    """Propagate ``activities[0]`` (P, B, n_0) forward (equation 1), writing ``activities[1..depth]`` in place.

    Hidden layers are tanh, layer ``depth`` is linear.
    """
    for i in range(1, depth + 1):
        bias, weight = parameters[f"b{i}"].unsqueeze(1), parameters[f"W{i}"]
        torch.baddbmm(bias, activities[i - 1], weight.mT, out=activities[i])
        if i < depth:
            tanh_(activities[i])
