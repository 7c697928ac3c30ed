"""Feedback maps g_i: the targets that they send back, and the losses that train them.

Every map of the paper is one member of the family

    g_i(s, h_i) = t(Q_i phi(s) + S_i h_i + c_i)

with the source s = h_{i+1} (layer-wise) or h_L (direct), phi the identity or the fixed random hidden layer
tanh(R s + d), t the identity or tanh, and S_i present only in the recurrent map (section B.1, equations 62-65).
A map is therefore a declaration (:class:`tpbench.engine.parts.Feedback`), and so is a reconstruction loss
(:class:`tpbench.engine.parts.Reconstruction`). This module computes with both.

All reconstruction losses send a corrupted activity ``h_i + sigma * noise`` forward and back again. They differ in how
far it goes, whether the difference correction is applied and how the loss is scaled. Everything is carried as
differences from the uncorrupted activities, all corrupted layers stacked in one product per layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tpbench.engine.convolution import PoolingMemory
from tpbench.engine.errors import RuleError
from tpbench.engine.gauss_newton import apply_factor, root_probabilities
from tpbench.engine.network import Parameters, network_layers, stream, xavier_normal
from tpbench.engine.parts import Architecture, Draw, Feedback, Reconstruction, of_layer
from tpbench.engine.precision import EXACT_MATMUL, MatmulPolicy, Workspace, tanh_, tanh_difference_, tanh_slope

if TYPE_CHECKING:
    from tpbench.engine.configuration import Configuration
    from tpbench.engine.methods import Method


def initialise_arrays(
    parameters: Parameters,
    method: Method,
    architecture: Architecture,
    seeds: Sequence[int],
    configurations: Sequence[Configuration],
    forward: Parameters,
) -> None:
    """Draw the arrays of the feedback map and of the rule's own, each member's from its own streams.

    Without an initialiser of its own a matrix is Xavier-normal and a vector zero (section B.1). The arrays of the map
    share one stream; each of the rule's own has another.

    Args:
        parameters: the arrays, which are written.
        method, architecture: what they belong to.
        seeds, configurations: of the members.
        forward: the initial forward parameters.

    Raises:
        RuleError: an initialiser returns another shape.
    """
    own = method.arrays(architecture) if method.arrays else {}
    for member, (seed, configuration) in enumerate(zip(seeds, configurations, strict=True)):
        shared = stream(seed, "feedback weights")
        known = {name: forward[name][member].double().cpu() for name in forward} if own else {}
        for name, shape in parameters.shapes.items():
            generator = stream(seed, f"array {name}") if name in own else shared
            draw = own[name].initialise if name in own else method.initialise_feedback if len(shape) == 2 else None
            if draw is not None:
                values = draw(Draw(shape, generator, configuration, known))
                if not isinstance(values, torch.Tensor) or tuple(values.shape) != tuple(shape):
                    given = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
                    raise RuleError(
                        f"{method.title}: the initial values of its array {name} are {given}, not a tensor of {shape}"
                    )
            else:
                values = xavier_normal(shape, generator) if len(shape) == 2 else torch.zeros(shape)
            parameters[name][member] = values
            if own:
                known[name] = values


def fixed_arrays(feedback: Feedback, architecture: Architecture, seeds: Sequence[int]) -> dict[str, Tensor]:
    """Draw ``R`` (P, n_rhl, n_L) and ``d`` (P, n_rhl) of every seed, as torch initialises Linear."""
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


class FeedbackState:
    """The feedback maps of a pack evaluated at one minibatch, ready to carry differences.

    Args:
        feedback: the kind of map.
        architecture: the network.
        parameters: ``Q{i}``, ``c{i}``, ``S{i}`` of the pack.
        fixed: ``R`` (P, n_rhl, n_L) and ``d`` (P, n_rhl) where the map has them.
        activities: ``h_0 .. h_L``, each (P, B, n_i).
        workspace: working memory; the tensors that methods return lie in it and last until the next minibatch.
        matmul: multiplies matrices.
        pooling: what the convolutional layers kept of the forward pass.
    """

    def __init__(
        self,
        feedback: Feedback,
        architecture: Architecture,
        parameters: Parameters,
        fixed: Mapping[str, Tensor],
        activities: list[Tensor],
        workspace: Workspace,
        matmul: MatmulPolicy = EXACT_MATMUL,
        pooling: PoolingMemory | None = None,
    ) -> None:
        self.feedback, self.architecture, self.pooling = feedback, architecture, pooling
        self.parameters, self.fixed, self.activities = parameters, fixed, activities
        self.workspace, self.matmul = workspace, matmul
        self._values: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._calls = 0
        self._random: tuple[Tensor, Tensor] | None = None

    def random_layer(self) -> tuple[Tensor, Tensor]:
        """Return ``u = tanh(R h_L + d)`` (P, B, n_rhl) and ``1 - u^2``, shared by all maps."""
        if self._random is None:
            members, batch, _ = self.activities[-1].shape
            shape = (members, batch, self.architecture.random_hidden)
            u = self.workspace("random layer", *shape)
            self.matmul.linear(self.activities[-1], self.fixed["R"], self.fixed["d"], u)
            tanh_(u)
            self._random = u, tanh_slope(u, out=self.workspace("random layer slope", *shape))
        return self._random

    def source(self, i: int) -> Tensor:
        """Return phi(s) of layer i, which Q_i multiplies, (P, B, n_source)."""
        if self.feedback.through_random(i, self.architecture):
            return self.random_layer()[0]
        return self.activities[-1] if self.feedback.direct else self.activities[i + 1]

    def value(self, i: int) -> tuple[Tensor, Tensor | None]:
        """Return g_i at the activities (P, B, n_i), and the slope of its tanh there if it has one."""
        if i not in self._values:
            g = self.workspace(f"g{i}", *self.activities[i].shape)
            bias = self.parameters[f"c{i}"] if self.feedback.has_bias(i, self.architecture) else None
            self.matmul.linear(self.source(i), self.parameters[f"Q{i}"], bias, g)
            if self.feedback.has_recurrence(i, self.architecture):
                self.matmul.add_linear(self.activities[i], self.parameters[f"S{i}"], g)
            slope = None
            if self.feedback.squash:
                slope = tanh_slope(tanh_(g), out=self.workspace(f"g{i} slope", *g.shape))
            self._values[i] = g, slope
        return self._values[i]

    def source_difference(self, i: int, change: Tensor, name: str) -> Tensor:
        """Return the change of phi when s changes by ``change`` (P, m, B, n_s); ``name`` names its memory."""
        if not self.feedback.through_random(i, self.architecture):
            return change
        u, slope = self.random_layer()
        out = self.workspace(f"{name} random change", *change.shape[:-1], self.architecture.random_hidden)
        self.matmul.linear_difference(change, self.fixed["R"], out)
        return self._tanh_difference(u, slope, out)

    def difference(self, i: int, source_change: Tensor, name: str) -> Tensor:
        """Return the change of g_i (P, m, B, n_i) when phi changes by ``source_change`` (P, m, B, n_source)."""
        out = self.workspace(f"{name} change {i}", *source_change.shape[:-1], self.architecture.sizes[i])
        self.matmul.linear_difference(source_change, self.parameters[f"Q{i}"], out)
        if self.feedback.squash:
            g, slope = self.value(i)
            assert slope is not None
            self._tanh_difference(g, slope, out)
        return out

    def _tanh_difference(self, h: Tensor, slope: Tensor, change: Tensor) -> Tensor:
        buffer = self.workspace("tanh difference", *change.shape)
        return tanh_difference_(h.unsqueeze(1), slope.unsqueeze(1), change, buffer)

    def memory_name(self) -> str:
        """Return a name for memory: a rule that asks for targets twice keeps both answers."""
        self._calls += 1
        return "target" if self._calls == 1 else f"target {self._calls}"

    def targets(self, output_change: Tensor) -> list[Tensor]:
        """Return target differences ``hhat_i - h_i`` of the hidden layers i = 1 .. L-1 (Algorithms 1-5, equation 8).

        Args:
            output_change: ``hhat_L - h_L`` (P, B, n_L).

        Returns:
            A list whose entry i - 1 is the difference of layer i, (P, B, n_i). The difference correction is implied:
            ``g(hhat) - g(h)`` *is* the change of g.
        """
        differences: list[Tensor] = [output_change] * self.architecture.depth
        change, name = output_change.unsqueeze(1), self.memory_name()
        shared: Tensor | None = None
        for i in reversed(self.architecture.hidden):
            source = change
            if self.feedback.through_random(i, self.architecture):
                shared = self.source_difference(i, change, name) if shared is None else shared
                source = shared
            below = self.difference(i, source, name)
            differences[i - 1] = below.squeeze(1)
            change = change if self.feedback.direct else below
        return differences[:-1]

    def uncorrected_targets(self, output_change: Tensor) -> list[Tensor]:
        """Return ``hhat_i - h_i`` of plain target propagation, ``hhat_i = g_i(hhat_{i+1})``, for layer-wise maps.

        It is the difference-corrected change plus the reconstruction error ``g_i(h_{i+1}) - h_i``, which the maps below
        pass on (equation 3).
        """
        differences: list[Tensor] = [output_change] * self.architecture.depth
        change, name = output_change, self.memory_name()
        for i in reversed(self.architecture.hidden):
            moved = self.difference(i, change.unsqueeze(1), name)[:, 0]
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
        accumulate: bool = False,
    ) -> None:
        """Write the gradient of ``sum(residual * (change of g_i))`` with respect to g_i's own parameters.

        With ``corrected`` the reconstruction is ``g_i(s~) + h_i - g_i(s)`` and both terms count; without it only
        ``g_i(s~)`` does. Both are formed from differences: the tanh slopes at s~ and s differ by
        ``-dg (2 g + dg)`` with dg the change of g_i.

        Args:
            i: the hidden layer.
            residual: derivative of the loss with respect to the reconstruction, (P, B, n_i).
            source_change: change of phi, (P, B, n_source).
            output_change: change of g_i, (P, B, n_i).
            corrected: the loss has the difference correction.
            into: receives the gradients of ``Q{i}``, ``c{i}`` and ``S{i}``.
            accumulate: add to the gradients that ``into`` holds.
        """
        source, weight_gradient = self.source(i), into[f"Q{i}"]
        at_change, at_rest = residual, None
        if self.feedback.squash:
            g, slope = self.value(i)
            assert slope is not None
            slope_change = torch.add(output_change, g, alpha=2, out=self.workspace("slope change", *g.shape))
            slope_change.mul_(output_change)
            at_change = torch.sub(slope, slope_change, out=self.workspace("at change", *g.shape)).mul_(residual)
            at_rest = slope_change.mul_(residual).neg_()
        if corrected:
            self.matmul.weight_gradient(at_change, source_change, weight_gradient, accumulate=accumulate, cache=False)
            if at_rest is not None:
                self.matmul.weight_gradient(at_rest, source, weight_gradient, accumulate=True)
        else:
            moved = torch.add(source, source_change, out=self.workspace("moved source", *source.shape))
            self.matmul.weight_gradient(at_change, moved, weight_gradient, accumulate=accumulate, cache=False)
            at_rest = at_change
        if not self.feedback.has_bias(i, self.architecture):
            return
        if at_rest is None:
            if not accumulate:
                into[f"c{i}"].zero_()
            return
        if accumulate:
            into[f"c{i}"].add_(at_rest.sum(dim=1))
        else:
            torch.sum(at_rest, dim=1, out=into[f"c{i}"])
        if self.feedback.has_recurrence(i, self.architecture):
            self.matmul.weight_gradient(at_rest, self.activities[i], into[f"S{i}"], accumulate=accumulate)


def feedback_gradients(
    loss: Reconstruction,
    state: FeedbackState,
    forward_parameters: Parameters,
    slopes: list[Tensor],
    noise: list[Tensor],
    sigma: Tensor,
    into: Parameters,
) -> Tensor:
    """Compute the reconstruction losses of all hidden layers and write their gradients for each g_i's own parameters.

    Args:
        loss: which reconstruction loss.
        state: the feedback maps at the minibatch.
        forward_parameters: ``W{i}``, ``b{i}`` of the pack.
        slopes: ``1 - h_i^2`` of the hidden layers, indexed by layer.
        noise: standard-normal draws of hidden layer i at index i - 1, (P, B, n_i).
        sigma: noise deviation of every member, (P,), or of each of its hidden layers, (P, L-1).
        into: receives the gradients.

    Returns:
        The losses, (P, L-1).
    """
    stacks = _difference_stacks(state)
    corruptions = [stack[:, -1] for stack in stacks[:-1]]
    for i, draws, corruption in zip(state.architecture.hidden, noise, corruptions, strict=True):
        torch.mul(draws, of_layer(sigma, i).view(-1, 1, 1), out=corruption)
    if loss.through_output:
        arrived = _send_to_output(forward_parameters, state, slopes, stacks)
        if loss.curvature:
            arrived = apply_factor(root_probabilities(state.activities[-1]), arrived)
        changes = _send_back(state, arrived)
    else:
        arriving = _send_to_next_layer(forward_parameters, state, slopes, corruptions)
        changes = [
            (change[:, 0], state.difference(i, change, "rebuilt")[:, 0])
            for i, change in zip(state.architecture.hidden, arriving, strict=True)
        ]
    scale = loss.scale(sigma)
    losses = sigma.new_empty(len(sigma), len(corruptions))
    for i in state.architecture.hidden:
        source_change, output_change = changes[i - 1]
        residual = state.workspace("residual", *corruptions[i - 1].shape)
        torch.sub(output_change, corruptions[i - 1], out=residual)
        if not loss.corrected:
            residual.add_(state.value(i)[0]).sub_(state.activities[i])
        weight = of_layer(scale, i) / residual[0].numel()
        torch.mul(residual.flatten(1).norm(dim=1).square_(), weight, out=losses[:, i - 1])
        residual *= (2 * weight).view(-1, 1, 1)
        state.gradient(i, residual, source_change, output_change, corrected=loss.corrected, into=into)
    return losses


def _difference_stacks(state: FeedbackState) -> list[Tensor]:
    """Return memory for corruptions on their way to the output, entry k - 1 for the changes of layer k (P, m, B, n_k).

    At hidden layer k they are those due to corrupting the layers 1 .. k, its own last; at the output those of all
    hidden layers.
    """
    architecture, (members, batch, _) = state.architecture, state.activities[0].shape
    return [
        state.workspace(f"stack {k}", members, min(k, architecture.depth - 1), batch, architecture.sizes[k])
        for k in architecture.layers
    ]


def _send_to_next_layer(
    forward_parameters: Parameters, state: FeedbackState, slopes: list[Tensor], corruptions: list[Tensor]
) -> list[Tensor]:
    """Return the change of layer i+1 due to corrupting layer i (entry i - 1), (P, 1, B, n_{i+1})."""
    changes = []
    for layer in network_layers(state.architecture)[1:]:
        i = layer.index
        h, slope = state.activities[i], slopes[i] if layer.squash else None
        out = state.workspace(f"next change {i}", h.shape[0], 1, h.shape[1], layer.units)
        corruption = corruptions[i - 2].unsqueeze(1)
        layer.difference(forward_parameters, corruption, h, slope, out, state.workspace, state.matmul, state.pooling)
        changes.append(out)
    return changes


def _send_to_output(
    forward_parameters: Parameters, state: FeedbackState, slopes: list[Tensor], stacks: list[Tensor]
) -> Tensor:
    """Send the corruption of every hidden layer to the output, all that pass a layer in one product.

    Args:
        forward_parameters: ``W{i}`` of the pack.
        state: the minibatch.
        slopes: ``1 - h_i^2`` of the hidden layers, indexed by layer.
        stacks: of :func:`_difference_stacks`, with the corruption of hidden layer k as the last change of entry k - 1.

    Returns:
        The change of the output due to corrupting each hidden layer, (P, L-1, B, n_L).
    """
    for layer in network_layers(state.architecture)[1:]:
        k = layer.index
        h, slope = state.activities[k], slopes[k] if layer.squash else None
        arriving = stacks[k - 1][:, : k - 1]
        layer.difference(
            forward_parameters, stacks[k - 2], h, slope, arriving, state.workspace, state.matmul, state.pooling
        )
    return stacks[-1]


def _send_back(state: FeedbackState, changes: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Send changes of the output back to each g_i.

    Layer-wise maps get them through the difference-corrected maps above them (Algorithm 2), direct maps at once
    (Algorithm 3).

    Args:
        state: the feedback maps at the minibatch.
        changes: entry i - 1 along dimension 1 is the change of h_L due to corrupting layer i, (P, L-1, B, n_L).

    Returns:
        For each hidden layer i (entry i - 1) the change of phi (P, B, n_source) and of g_i (P, B, n_i).
    """
    hidden = state.architecture.hidden
    pairs: list[tuple[Tensor, Tensor]] = []
    if state.feedback.direct:
        through_random = sum(state.feedback.through_random(i, state.architecture) for i in hidden)
        shared = state.source_difference(1, changes[:, :through_random], "rebuilt") if through_random else changes
        for i in hidden:
            change = (shared if i <= through_random else changes)[:, i - 1 : i]
            pairs.append((change[:, 0], state.difference(i, change, "rebuilt")[:, 0]))
        return pairs
    stack = changes
    for i in reversed(hidden):
        below = state.difference(i, stack[:, :i], "rebuilt")
        pairs.insert(0, (stack[:, i - 1], below[:, i - 1]))
        stack = below
    return pairs
