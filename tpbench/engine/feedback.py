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

from tpbench.engine.gauss_newton import apply_factor, root_probabilities
from tpbench.engine.network import Parameters, stream
from tpbench.engine.parts import Architecture, Feedback, Reconstruction
from tpbench.engine.precision import EXACT, Lasting, Products, Scratch, tanh_, tanh_difference_, tanh_slope


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


# The reconstruction losses that train the feedback parameters, and their gradients.
#
# All three send a corrupted activity ``h_i + sigma * noise`` forward and back again; they differ in how far it goes,
# whether the difference correction is applied and how the loss is scaled. Everything is carried as differences from the
# uncorrupted activities, all corrupted layers stacked in one product per layer.


def next_layer_changes(
    forward_parameters: Parameters, state: FeedbackState, slopes: list[Tensor], corruptions: list[Tensor]
) -> list[Tensor]:
    """The change of layer i+1 due to corrupting layer i (entry i - 1), (P, 1, B, n_{i+1}); see ``output_changes``."""
    changes = []
    for i in state.architecture.hidden:
        batch = state.activities[i].shape[:2]
        shape = (batch[0], 1, batch[1], state.architecture.sizes[i + 1])
        change = state.scratch(f"next change {i}", *shape)
        stacked_product(corruptions[i - 1].unsqueeze(1), forward_parameters[f"W{i + 1}"], change, state.products)
        if i + 1 < state.architecture.depth:
            h, slope = state.activities[i + 1].unsqueeze(1), slopes[i + 1].unsqueeze(1)
            tanh_difference_(h, slope, change, state.scratch("workspace", *shape))
        changes.append(change)
    return changes


def change_stacks(state: FeedbackState) -> list[Tensor]:
    """Memory for what :func:`output_changes` moves: entry k - 1 holds the changes of layer k, (P, m, B, n_k).

    At hidden layer k they are those due to corrupting the layers 1 .. k, its own last; at the output those of all
    hidden layers.
    """
    architecture, (members, batch, _) = state.architecture, state.activities[0].shape
    return [
        state.scratch(f"stack {k}", members, min(k, architecture.depth - 1), batch, architecture.sizes[k])
        for k in architecture.layers
    ]


def output_changes(
    forward_parameters: Parameters, state: FeedbackState, slopes: list[Tensor], stacks: list[Tensor]
) -> Tensor:
    """Send the corruption of every hidden layer to the output, all that pass a layer in one product.

    Args:
        forward_parameters: ``W{i}`` of the pack.
        state: the minibatch.
        slopes: ``1 - h_i^2`` of the hidden layers, indexed by layer.
        stacks: of :func:`change_stacks`, with ``sigma * noise`` of hidden layer k as the last change of entry k - 1.

    Returns:
        The change of the output due to corrupting each hidden layer, (P, L-1, B, n_L).
    """
    depth = state.architecture.depth
    for k in range(2, depth + 1):
        arriving = stacks[k - 1][:, : k - 1]
        stacked_product(stacks[k - 2], forward_parameters[f"W{k}"], arriving, state.products)
        if k < depth:
            h, slope = state.activities[k].unsqueeze(1), slopes[k].unsqueeze(1)
            tanh_difference_(h, slope, arriving, state.scratch("workspace", *arriving.shape))
    return stacks[-1]


def source_changes(state: FeedbackState, changes: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What reaches each g_i when the corrupted outputs are sent back, and what g_i makes of it.

    Layer-wise maps get it through the difference-corrected maps above them (Algorithm 2), direct maps at once
    (Algorithm 3).

    Args:
        state: the feedback maps at the minibatch.
        changes: entry i - 1 along dimension 1 is the change of h_L due to corrupting layer i, (P, L-1, B, n_L).

    Returns:
        For each hidden layer i (entry i - 1) the change of phi (P, B, n_source) and of g_i (P, B, n_i).
    """
    hidden = state.architecture.hidden
    found: list[tuple[Tensor, Tensor]] = []
    if state.feedback.direct:
        through_random = sum(state.feedback.through_random(i, state.architecture) for i in hidden)
        shared = state.source_change(1, changes[:, :through_random], "rebuilt") if through_random else changes
        for i in hidden:
            change = (shared if i <= through_random else changes)[:, i - 1 : i]
            found.append((change[:, 0], state.output_change(i, change, "rebuilt")[:, 0]))
        return found
    stack = changes
    for i in reversed(hidden):
        below = state.output_change(i, stack[:, :i], "rebuilt")
        found.insert(0, (stack[:, i - 1], below[:, i - 1]))
        stack = below
    return found


def feedback_gradients(
    loss: Reconstruction,
    state: FeedbackState,
    forward_parameters: Parameters,
    slopes: list[Tensor],
    noise: list[Tensor],
    sigma: Tensor,
    into: Parameters,
) -> Tensor:
    """Reconstruction losses of all hidden layers and their gradients with respect to each g_i's own parameters.

    Args:
        loss: which reconstruction loss.
        state: the feedback maps at the minibatch.
        forward_parameters: ``W{i}``, ``b{i}`` of the pack.
        slopes: ``1 - h_i^2`` of the hidden layers, indexed by layer.
        noise: standard-normal draws of hidden layer i at index i - 1, (P, B, n_i).
        sigma: noise deviation of every member, (P,).
        into: receives the gradients.

    Returns:
        The losses, (P, L-1).
    """
    stacks = change_stacks(state)
    corruptions = [stack[:, -1] for stack in stacks[:-1]]
    for draws, corruption in zip(noise, corruptions, strict=True):
        torch.mul(draws, sigma.view(-1, 1, 1), out=corruption)
    if loss.through_output:
        arrived = output_changes(forward_parameters, state, slopes, stacks)
        if loss.curvature:
            arrived = apply_factor(root_probabilities(state.activities[-1]), arrived)
        changes = source_changes(state, arrived)
    else:
        arriving = next_layer_changes(forward_parameters, state, slopes, corruptions)
        changes = [
            (change[:, 0], state.output_change(i, change, "rebuilt")[:, 0])
            for i, change in zip(state.architecture.hidden, arriving, strict=True)
        ]
    scale = loss.scale(sigma)
    losses = sigma.new_empty(len(sigma), len(corruptions))
    for i in state.architecture.hidden:
        source_change, output_change = changes[i - 1]
        residual = torch.sub(
            output_change, corruptions[i - 1], out=state.scratch("residual", *corruptions[i - 1].shape)
        )
        if not loss.corrected:
            residual.add_(state.value(i)[0]).sub_(state.activities[i])
        weight = scale / residual[0].numel()
        torch.mul(residual.flatten(1).norm(dim=1).square_(), weight, out=losses[:, i - 1])
        residual *= (2 * weight).view(-1, 1, 1)
        state.gradient(i, residual, source_change, output_change, corrected=loss.corrected, into=into)
    return losses
