"""The feedback maps g_i.

Every map of the paper is one member of the family

    g_i(s, h_i) = t(Q_i phi(s) + S_i h_i + c_i)

with the source s = h_{i+1} (layer-wise) or h_L (direct), phi the identity or the fixed random hidden layer
tanh(R s + d), t the identity or tanh, and S_i present only in the recurrent map (section B.1, equations 62-65).
A map is therefore a declaration (:class:`tpbench.engine.parts.Feedback`); what stands below works for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor

from tpbench.engine.architecture import Architecture
from tpbench.engine.network import Parameters, stream
from tpbench.engine.numerics import tanh_, tanh_difference_, tanh_slope
from tpbench.engine.parts import Feedback
from tpbench.engine.products import EXACT, Lasting, Products
from tpbench.engine.scratch import Scratch


def fixed_arrays(feedback: Feedback, architecture: Architecture, seeds: list[int]) -> dict[str, Tensor]:
    """``R`` (P, n_rhl, n_L) and ``d`` (P, n_rhl) of every seed, as torch initialises Linear."""
    if not feedback.random_hidden:
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


def stacked_product(stack: Tensor, weight: Tensor, out: Tensor, products: Products = EXACT) -> Tensor:
    """``stack`` (P, m, B, n) times ``weight`` (P, k, n) transposed into ``out`` (P, m, B, k), all m changes at once."""
    members, changes, batch, width = stack.shape
    # Slices of a wider stack keep their rows together, so these are views.
    rows = stack.view(members, changes * batch, width)
    products.bmm(rows, Lasting(weight).mT, out.view(members, changes * batch, weight.shape[1]))
    return out


class FeedbackState:
    """The feedback maps of a pack evaluated at one minibatch, ready to carry differences.

    Args:
        feedback: the kind of map.
        architecture: the network.
        parameters: ``Q{i}``, ``c{i}``, ``S{i}`` of the pack.
        fixed: ``R`` (P, n_rhl, n_L) and ``d`` (P, n_rhl) where the map has them.
        activities: ``h_0 .. h_L``, each (P, B, n_i).
        scratch: working memory; what the methods below return lies in it and lasts until the next minibatch.
        products: how matrices are multiplied.
    """

    def __init__(
        self,
        feedback: Feedback,
        architecture: Architecture,
        parameters: Parameters,
        fixed: Mapping[str, Tensor],
        activities: list[Tensor],
        scratch: Scratch,
        products: Products = EXACT,
    ) -> None:
        self.feedback, self.architecture = feedback, architecture
        self.parameters, self.fixed, self.activities = parameters, fixed, activities
        self.scratch, self.products = scratch, products
        self._values: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._calls = 0
        self._random: tuple[Tensor, Tensor] | None = None

    def random_layer(self) -> tuple[Tensor, Tensor]:
        """``u = tanh(R h_L + d)`` (P, B, n_rhl) and ``1 - u^2``, shared by all maps."""
        if self._random is None:
            members, batch, _ = self.activities[-1].shape
            shape = (members, batch, self.architecture.random_hidden)
            u = self.scratch("random layer", *shape)
            weight, source = Lasting(self.fixed["R"]).mT, Lasting(self.activities[-1])
            self.products.baddbmm(self.fixed["d"].unsqueeze(1), source, weight, u)
            tanh_(u)
            self._random = u, tanh_slope(u, out=self.scratch("random layer slope", *shape))
        return self._random

    def source(self, i: int) -> Tensor:
        """phi(s) of layer i: what Q_i multiplies, (P, B, n_source)."""
        if self.feedback.through_random(i, self.architecture):
            return self.random_layer()[0]
        return self.activities[-1] if self.feedback.direct else self.activities[i + 1]

    def value(self, i: int) -> tuple[Tensor, Tensor | None]:
        """g_i at the activities (P, B, n_i), and the slope of its tanh there if it has one."""
        if i not in self._values:
            g = self.scratch(f"g{i}", *self.activities[i].shape)
            bias = self.parameters[f"c{i}"].unsqueeze(1)
            self.products.baddbmm(bias, Lasting(self.source(i)), Lasting(self.parameters[f"Q{i}"]).mT, g)
            if self.feedback.has_recurrence(i, self.architecture):
                self.products.baddbmm(g, Lasting(self.activities[i]), Lasting(self.parameters[f"S{i}"]).mT, g)
            slope = None
            if self.feedback.squash:
                slope = tanh_slope(tanh_(g), out=self.scratch(f"g{i} slope", *g.shape))
            self._values[i] = g, slope
        return self._values[i]

    def source_change(self, i: int, change: Tensor, name: str) -> Tensor:
        """The change of phi when s changes by ``change`` (P, m, B, n_s); ``name`` names its memory."""
        if not self.feedback.through_random(i, self.architecture):
            return change
        u, slope = self.random_layer()
        shape = (*change.shape[:-1], self.architecture.random_hidden)
        memory = self.scratch(f"{name} random change", *shape)
        through = stacked_product(change, self.fixed["R"], memory, self.products)
        workspace = self.scratch("workspace", *shape)
        return tanh_difference_(u.unsqueeze(1), slope.unsqueeze(1), through, workspace)

    def output_change(self, i: int, source_change: Tensor, name: str) -> Tensor:
        """The change of g_i (P, m, B, n_i) when phi changes by ``source_change`` (P, m, B, n_source)."""
        shape = (*source_change.shape[:-1], self.architecture.sizes[i])
        memory = self.scratch(f"{name} change {i}", *shape)
        change = stacked_product(source_change, self.parameters[f"Q{i}"], memory, self.products)
        if self.feedback.squash:
            g, slope = self.value(i)
            assert slope is not None
            tanh_difference_(g.unsqueeze(1), slope.unsqueeze(1), change, self.scratch("workspace", *shape))
        return change

    def _name(self) -> str:
        """Names memory: a rule that asks for targets twice keeps both answers."""
        self._calls += 1
        return "target" if self._calls == 1 else f"target {self._calls}"

    def targets(self, output_change: Tensor) -> list[Tensor]:
        """Target differences ``hhat_i - h_i`` of the hidden layers i = 1 .. L-1 (Algorithms 1-5, equation 8).

        Args:
            output_change: ``hhat_L - h_L`` (P, B, n_L).

        Returns:
            A list whose entry i - 1 is the difference of layer i, (P, B, n_i). The difference correction is implied:
            ``g(hhat) - g(h)`` *is* the change of g.
        """
        differences: list[Tensor] = [output_change] * self.architecture.depth
        change, name = output_change.unsqueeze(1), self._name()
        shared: Tensor | None = None
        for i in reversed(self.architecture.hidden):
            source = change
            if self.feedback.through_random(i, self.architecture):
                shared = self.source_change(i, change, name) if shared is None else shared
                source = shared
            below = self.output_change(i, source, name)
            differences[i - 1] = below.squeeze(1)
            change = change if self.feedback.direct else below
        return differences[:-1]

    def uncorrected_targets(self, output_change: Tensor) -> list[Tensor]:
        """``hhat_i - h_i`` of plain target propagation, ``hhat_i = g_i(hhat_{i+1})``, for layer-wise maps (equation 3).

        It is the difference-corrected change plus the reconstruction error ``g_i(h_{i+1}) - h_i``, which the maps below
        pass on.
        """
        differences: list[Tensor] = [output_change] * self.architecture.depth
        change, name = output_change, self._name()
        for i in reversed(self.architecture.hidden):
            moved = self.output_change(i, change.unsqueeze(1), name)[:, 0]
            change = moved.add_(self.value(i)[0]).sub_(self.activities[i])
            differences[i - 1] = change
        return differences[:-1]

    def gradient(
        self,
        i: int,
        residual: Tensor,
        source_change: Tensor,
        output_change: Tensor,
        *,
        corrected: bool,
        into: Parameters,
    ) -> None:
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
            assert slope is not None
            slope_change = torch.add(output_change, g, alpha=2, out=self.scratch("slope change", *g.shape))
            slope_change.mul_(output_change)
            at_change = torch.sub(slope, slope_change, out=self.scratch("at change", *g.shape)).mul_(residual)
            at_rest = slope_change.mul_(residual).neg_()
        weight_gradient = into[f"Q{i}"]
        if corrected:
            self.products.bmm(at_change.mT, source_change, weight_gradient)
            if at_rest is not None:
                self.products.baddbmm(weight_gradient, at_rest.mT, Lasting(source), weight_gradient)
        else:
            moved = torch.add(source, source_change, out=self.scratch("moved source", *source.shape))
            self.products.bmm(at_change.mT, moved, weight_gradient)
            at_rest = at_change
        if at_rest is None:
            into[f"c{i}"].zero_()
            return
        torch.sum(at_rest, dim=1, out=into[f"c{i}"])
        if self.feedback.has_recurrence(i, self.architecture):
            self.products.bmm(at_rest.mT, Lasting(self.activities[i]), into[f"S{i}"])
