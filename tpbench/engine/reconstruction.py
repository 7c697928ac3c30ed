"""The reconstruction losses that train the feedback parameters, and their gradients.

All three send a corrupted activity ``h_i + sigma * noise`` forward and back again; they differ in how far it goes,
whether the difference correction is applied and how the loss is scaled. Everything is carried as differences from the
uncorrupted activities, all corrupted layers stacked in one product per layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tpbench.engine.feedback import FeedbackState, stacked_product
from tpbench.engine.network import Parameters
from tpbench.engine.numerics import tanh_difference


@dataclass(frozen=True)
class Reconstruction:
    """A reconstruction loss: ``scale(sigma) * mean over batch and units of (reconstruction - corrupted)^2``."""

    through_output: bool
    """The corrupted activity goes to the output layer (equation 9); otherwise to the next layer (equation 4)."""
    corrected: bool
    """The reconstruction has the difference correction ``+ h_i - g_i(s)``."""
    scale: Callable[[Tensor], Tensor]
    """Scale of the loss as a function of sigma (P,)."""


LAYERWISE = Reconstruction(
    through_output=False, corrected=False, scale=lambda sigma: 1 / sigma.clamp_min(0.02).square()
)
"""DTP's loss (equation 4, Algorithm 1); the authors' code bounds the scale at sigma = 0.02."""
DIFFERENCE = Reconstruction(through_output=True, corrected=True, scale=lambda sigma: 1 / sigma.square())
"""The difference reconstruction loss (equation 9, Algorithms 2-4), its regulariser replaced by weight decay."""
CONTROL = Reconstruction(through_output=True, corrected=False, scale=torch.ones_like)
"""DDTP-control's loss (Algorithm 5): a loop through the output, no difference correction."""


def corrupted_changes(
    forward_parameters: Parameters,
    activities: list[Tensor],
    slopes: list[Tensor],
    corruptions: list[Tensor],
    depth: int,
) -> tuple[list[Tensor], Tensor]:
    """Send the corruption of every hidden layer forward.

    Args:
        forward_parameters: ``W{i}`` of the pack.
        activities: ``h_0 .. h_L``, each (P, B, n_i).
        slopes: ``1 - h_i^2`` of the hidden layers, indexed like ``activities``.
        corruptions: ``sigma * noise`` of hidden layer i at index i - 1, (P, B, n_i).
        depth: L.

    Returns:
        The change of layer i+1 due to corrupting layer i (entry i - 1, (P, B, n_{i+1})), and the change of the output
        due to corrupting each hidden layer, (P, L-1, B, n_L).
    """
    next_changes: list[Tensor] = []
    stack = corruptions[0].unsqueeze(1)
    for k in range(2, depth + 1):
        stack = stacked_product(stack, forward_parameters[f"W{k}"])
        if k < depth:
            tanh_difference(activities[k].unsqueeze(1), slopes[k].unsqueeze(1), stack, out=stack)
        next_changes.append(stack[:, -1])
        if k < depth:
            stack = torch.cat([stack, corruptions[k - 1].unsqueeze(1)], dim=1)
    return next_changes, stack


def source_changes(state: FeedbackState, output_changes: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What reaches each g_i when the corrupted outputs are sent back, and what g_i makes of it.

    Layer-wise maps get it through the difference-corrected maps above them (Algorithm 2), direct maps at once
    (Algorithm 3).

    Args:
        state: the feedback maps at the minibatch.
        output_changes: entry i - 1 along dimension 1 is the change of h_L due to corrupting layer i, (P, L-1, B, n_L).

    Returns:
        For each hidden layer i (entry i - 1) the change of phi (P, B, n_source) and of g_i (P, B, n_i).
    """
    hidden = state.architecture.hidden
    changes: list[tuple[Tensor, Tensor]] = []
    if state.feedback.direct:
        through_random = sum(state.feedback.through_random(i, state.architecture) for i in hidden)
        shared = state.source_change(1, output_changes[:, :through_random]) if through_random else output_changes
        for i in hidden:
            change = (shared if i <= through_random else output_changes)[:, i - 1 : i]
            changes.append((change[:, 0], state.output_change(i, change)[:, 0]))
        return changes
    stack = output_changes
    for i in reversed(hidden):
        below = state.output_change(i, stack[:, :i])
        changes.insert(0, (stack[:, i - 1], below[:, i - 1]))
        stack = below
    return changes


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
    activities = state.activities
    corruptions = [sigma.view(-1, 1, 1) * draws for draws in noise]
    next_changes, output_changes = corrupted_changes(
        forward_parameters, activities, slopes, corruptions, state.architecture.depth
    )
    if loss.through_output:
        changes = source_changes(state, output_changes)
    else:
        changes = [
            (next_changes[i - 1], state.output_change(i, next_changes[i - 1].unsqueeze(1)).squeeze(1))
            for i in state.architecture.hidden
        ]
    scale = loss.scale(sigma)
    losses = []
    for i in state.architecture.hidden:
        source_change, output_change = changes[i - 1]
        residual = output_change - corruptions[i - 1]
        if not loss.corrected:
            residual += state.value(i)[0] - activities[i]
        weight = scale / residual[0].numel()
        losses.append(residual.square().sum(dim=(1, 2)) * weight)
        residual *= (2 * weight).view(-1, 1, 1)
        state.gradient(i, residual, source_change, output_change, corrected=loss.corrected, into=into)
    return torch.stack(losses, dim=1)
