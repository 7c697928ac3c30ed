"""The sizes of a network. Imports no torch, so that lists of workloads need none."""

from __future__ import annotations

from dataclasses import dataclass


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
