"""The reconstruction losses that train the feedback parameters, and their gradients.

All three send a corrupted activity ``h_i + sigma * noise`` forward and back again; they differ in how far it goes,
whether the difference correction is applied and how the loss is scaled. Everything is carried as differences from the
uncorrupted activities, all corrupted layers stacked in one product per layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tpbench.engine.curvature import apply_factor, root_probabilities
from tpbench.engine.feedback import FeedbackState, stacked_product
from tpbench.engine.network import Parameters
from tpbench.engine.numerics import tanh_difference_
from tpbench.engine.parts import Reconstruction


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
