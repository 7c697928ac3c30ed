"""The feedback maps g_i.

Every map of the paper is one member of the family

    g_i(s, h_i) = t(Q_i phi(s) + S_i h_i + c_i)

with the source s = h_{i+1} (layer-wise) or h_L (direct), phi the identity or the fixed random hidden layer
tanh(R s + d), t the identity or tanh, and S_i present only in the recurrent map (section B.1, equations 62-65).
A map is therefore a declaration; the functions below work for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from tpbench.engine.network import Architecture, Parameters, stream
from tpbench.engine.numerics import tanh_difference


@dataclass(frozen=True)
class Feedback:
    """A feedback map g_i: which layer it reads and what it is made of."""

    direct: bool
    """Reads the output layer; otherwise the next layer."""
    squash: bool
    """tanh around the affine map."""
    random_hidden: bool = False
    """A fixed tanh layer (R, d) between the output and Q_i; the last hidden layer is reached without it."""
    recurrent: bool = False
    """S_i h_i is added, except for the last hidden layer."""

    def through_random(self, i: int, architecture: Architecture) -> bool:
        """Whether g_i reads the random hidden layer.

        The authors' DDTP-RHL sends the output target to the last hidden layer directly, and the published numbers were
        made with that (golden/README.md), so the map of layer L-1 is ``tanh(Q h_L + c)``.
        """
        return self.random_hidden and i < architecture.depth - 1

    def shapes(self, architecture: Architecture) -> dict[str, tuple[int, ...]]:
        """Shapes of the trained arrays ``Q{i}``, ``c{i}`` and, if recurrent, ``S{i}``."""
        shapes: dict[str, tuple[int, ...]] = {}
        for i in architecture.hidden:
            size = architecture.sizes[i]
            shapes[f"Q{i}"] = (size, self.source_size(i, architecture))
            shapes[f"c{i}"] = (size,)
            if self.has_recurrence(i, architecture):
                shapes[f"S{i}"] = (size, size)
        return shapes

    def has_recurrence(self, i: int, architecture: Architecture) -> bool:
        return self.recurrent and i < architecture.depth - 1

    def source_size(self, i: int, architecture: Architecture) -> int:
        """The width of what Q_i multiplies."""
        if self.through_random(i, architecture):
            return architecture.random_hidden
        return architecture.sizes[-1] if self.direct else architecture.sizes[i + 1]

    def fixed_arrays(self, architecture: Architecture, seeds: list[int]) -> dict[str, Tensor]:
        """``R`` (P, n_rhl, n_L) and ``d`` (P, n_rhl) of every seed, as torch initialises Linear."""
        if not self.random_hidden:
            return {}
        if not architecture.random_hidden:
            raise ValueError("this method needs the width of a random hidden feedback layer; the workload names none")
        outputs, bound = architecture.sizes[-1], 1.0 / sqrt(architecture.sizes[-1])
        weights, biases = [], []
        for seed in seeds:
            generator = stream(seed, "random hidden layer")
            shape = (architecture.random_hidden, outputs + 1)
            draws = (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) * bound
            weights.append(draws[:, :outputs])
            biases.append(draws[:, outputs])
        return {"R": torch.stack(weights), "d": torch.stack(biases)}


LAYERWISE_TANH = Feedback(direct=False, squash=True)
DIRECT_LINEAR = Feedback(direct=True, squash=False)
DIRECT_RANDOM_HIDDEN = Feedback(direct=True, squash=True, random_hidden=True)
DIRECT_RECURRENT = Feedback(direct=True, squash=True, random_hidden=True, recurrent=True)


def stacked_product(stack: Tensor, weight: Tensor) -> Tensor:
    """``stack`` (P, m, B, n) times ``weight`` (P, k, n) transposed, (P, m, B, k): one product for all m changes."""
    members, changes, batch, width = stack.shape
    product = torch.bmm(stack.reshape(members, changes * batch, width), weight.mT)
    return product.view(members, changes, batch, weight.shape[1])


class FeedbackState:
    """The feedback maps of a pack evaluated at one minibatch, ready to carry differences.

    Args:
        feedback: the kind of map.
        architecture: the network.
        parameters: ``Q{i}``, ``c{i}``, ``S{i}`` of the pack.
        fixed: ``R`` (P, n_rhl, n_L) and ``d`` (P, n_rhl) where the map has them.
        activities: ``h_0 .. h_L``, each (P, B, n_i).
    """

    def __init__(
        self,
        feedback: Feedback,
        architecture: Architecture,
        parameters: Parameters,
        fixed: Mapping[str, Tensor],
        activities: list[Tensor],
    ) -> None:
        self.feedback, self.architecture = feedback, architecture
        self.parameters, self.fixed, self.activities = parameters, fixed, activities
        self._values: dict[int, tuple[Tensor, Tensor]] = {}
        self._random: tuple[Tensor, Tensor] | None = None

    def random_layer(self) -> tuple[Tensor, Tensor]:
        """``u = tanh(R h_L + d)`` (P, B, n_rhl) and ``1 - u^2``, shared by all maps."""
        if self._random is None:
            u = torch.baddbmm(self.fixed["d"].unsqueeze(1), self.activities[-1], self.fixed["R"].mT).tanh_()
            self._random = u, 1 - u.square()
        return self._random

    def source(self, i: int) -> Tensor:
        """phi(s) of layer i: what Q_i multiplies, (P, B, n_source)."""
        if self.feedback.through_random(i, self.architecture):
            return self.random_layer()[0]
        return self.activities[-1] if self.feedback.direct else self.activities[i + 1]

    def value(self, i: int) -> tuple[Tensor, Tensor]:
        """g_i at the activities (P, B, n_i) and the slope of its outer nonlinearity there."""
        if i not in self._values:
            bias = self.parameters[f"c{i}"].unsqueeze(1)
            g = torch.baddbmm(bias, self.source(i), self.parameters[f"Q{i}"].mT)
            if self.feedback.has_recurrence(i, self.architecture):
                g.baddbmm_(self.activities[i], self.parameters[f"S{i}"].mT)
            if self.feedback.squash:
                g.tanh_()
                self._values[i] = g, 1 - g.square()
            else:
                self._values[i] = g, g.new_ones(())
        return self._values[i]

    def source_change(self, i: int, change: Tensor) -> Tensor:
        """The change of phi when s changes by ``change`` (P, m, B, n_s)."""
        if not self.feedback.through_random(i, self.architecture):
            return change
        u, slope = self.random_layer()
        through = stacked_product(change, self.fixed["R"])
        return tanh_difference(u.unsqueeze(1), slope.unsqueeze(1), through, out=through)

    def output_change(self, i: int, source_change: Tensor) -> Tensor:
        """The change of g_i (P, m, B, n_i) when phi changes by ``source_change`` (P, m, B, n_source)."""
        change = stacked_product(source_change, self.parameters[f"Q{i}"])
        if self.feedback.squash:
            g, slope = self.value(i)
            tanh_difference(g.unsqueeze(1), slope.unsqueeze(1), change, out=change)
        return change

    def targets(self, output_change: Tensor) -> list[Tensor]:
        """Target differences ``hhat_i - h_i`` of the hidden layers i = 1 .. L-1 (Algorithms 1-5, equation 8).

        Args:
            output_change: ``hhat_L - h_L`` (P, B, n_L).

        Returns:
            A list whose entry i - 1 is the difference of layer i, (P, B, n_i). The difference correction is implied:
            ``g(hhat) - g(h)`` *is* the change of g.
        """
        differences: list[Tensor] = [output_change] * self.architecture.depth
        change = output_change.unsqueeze(1)
        shared: Tensor | None = None
        for i in reversed(self.architecture.hidden):
            if not self.feedback.direct:
                change = self.output_change(i, change)
                differences[i - 1] = change.squeeze(1)
                continue
            if self.feedback.through_random(i, self.architecture):
                shared = self.source_change(i, change) if shared is None else shared
                differences[i - 1] = self.output_change(i, shared).squeeze(1)
            else:
                differences[i - 1] = self.output_change(i, change).squeeze(1)
        return differences[:-1]

    def gradient(self, i: int, residual: Tensor, source_change: Tensor, output_change: Tensor, *, corrected: bool,
                 into: Parameters) -> None:  # fmt: skip
        """Gradient of ``sum(residual * (change of g_i))`` with respect to g_i's own parameters, written to ``into``.

        With ``corrected`` the reconstruction is ``g_i(s~) + h_i - g_i(s)`` and both terms count; without it only
        ``g_i(s~)`` does. Both are formed from differences: the tanh slopes at s~ and s differ by
        ``-dg (2 g + dg)`` with dg the change of g_i.

        Args:
            residual: derivative of the loss with respect to the reconstruction, (P, B, n_i).
            source_change: change of phi, (P, B, n_source).
            output_change: change of g_i, (P, B, n_i).
            corrected: whether the loss has the difference correction.
            into: receives the gradients of ``Q{i}``, ``c{i}`` and ``S{i}``.
        """
        source = self.source(i)
        at_change, at_rest = residual, None
        if self.feedback.squash:
            g, slope = self.value(i)
            slope_change = output_change * torch.add(output_change, g, alpha=2)
            at_change = residual * (slope - slope_change)
            at_rest = residual.mul(slope_change).neg_()
        weight_gradient = into[f"Q{i}"]
        if not corrected:
            torch.bmm(at_change.mT, source + source_change, out=weight_gradient)
            at_rest = at_change
        else:
            torch.bmm(at_change.mT, source_change, out=weight_gradient)
            if at_rest is not None:
                weight_gradient.baddbmm_(at_rest.mT, source)
        if at_rest is None:
            into[f"c{i}"].zero_()
            return
        torch.sum(at_rest, dim=1, out=into[f"c{i}"])
        if self.feedback.has_recurrence(i, self.architecture):
            torch.bmm(at_rest.mT, self.activities[i], out=into[f"S{i}"])
