"""What one check reports, and the small networks they share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tpbench.engine.alignment import angles
from tpbench.engine.network import Parameters, forward_parameters, network_layers, stream
from tpbench.engine.parts import Architecture

DTYPE = torch.float64


@dataclass(frozen=True)
class Check:
    """One measured statement: it holds if ``lower <= value <= upper``."""

    name: str
    statement: str
    setting: str
    value: float
    lower: float = -float("inf")
    upper: float = float("inf")

    @property
    def passed(self) -> bool:
        # A value that is not a number fails both comparisons.
        return self.lower <= self.value <= self.upper

    @property
    def criterion(self) -> str:
        """The bounds as a person reads them."""
        if self.lower == -float("inf"):
            return f"<= {self.upper:g}"
        if self.upper == float("inf"):
            return f">= {self.lower:.10g}"
        return f"{self.lower:g} to {self.upper:g}"


def draw(name: str, *shape: int) -> Tensor:
    """Standard-normal numbers of a check: the same ones every time."""
    return torch.randn(shape, generator=stream(0, name), dtype=DTYPE)


def network(name: str, *sizes: int, gain: float = 1.0) -> tuple[Architecture, Parameters]:
    """A network of one member with weights ``N(0, gain^2 / fan_in)`` and biases of 0.1."""
    architecture = Architecture(sizes)
    parameters = forward_parameters(network_layers(architecture), 1, dtype=DTYPE, device="cpu")
    for i in architecture.layers:
        shape = (1, sizes[i], sizes[i - 1])
        parameters[f"W{i}"].copy_(draw(f"{name} W{i}", *shape) * gain / sizes[i - 1] ** 0.5)
        parameters[f"b{i}"].copy_(0.1 * draw(f"{name} b{i}", 1, sizes[i]))
    return architecture, parameters


def relative(mine: Tensor, expected: Tensor) -> float:
    """``|mine - expected| / |expected|``."""
    return float((mine - expected).norm() / expected.norm())


def degrees(one: Tensor, other: Tensor) -> float:
    """The angle between two tensors taken as vectors."""
    return float(angles(one.unsqueeze(0), other.unsqueeze(0)))


def cosine(one: Tensor, other: Tensor) -> float:
    """Cosine of the angle between two tensors taken as vectors."""
    return float(torch.sum(one * other) / (one.norm() * other.norm()))
