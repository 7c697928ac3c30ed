"""Counts of the floating-point operations and bytes that a step needs, from the method's declaration alone."""

from __future__ import annotations

from math import prod

import torch

from tpbench.engine.methods import Method, aligned_targets, gauss_newton_targets, gradient_targets
from tpbench.engine.network import network_layers
from tpbench.engine.noise import minibatches_at_once
from tpbench.engine.parts import Architecture, Feedback
from tpbench.engine.problem import Problem
from tpbench.engine.trainer import EVALUATION_CHUNK


def joint_operations(method: Method, architecture: Architecture, batch: int, trained: tuple[int, ...]) -> int:
    """Count the floating-point operations of the matrix products of one joint step of one member.

    A product of (a, b) and (b, c) counts 2abc. Element-wise work, the optimiser and random numbers count nothing, so
    the achieved rate is a lower bound of the machine's.
    """
    sizes, depth = architecture.sizes, architecture.depth
    count = sum(sizes[i] * sizes[i - 1] for i in architecture.layers)
    count += sum(sizes[i] * sizes[i - 1] for i in trained)
    count += _target_operations(method, architecture)
    if method.reconstruction and method.feedback:
        loss, feedback = method.reconstruction, method.feedback
        if loss.through_output:
            # At layer k the corruptions of the layers 1 .. k travel together.
            count += sum(k * sizes[k] * sizes[k + 1] for k in range(1, depth))
        else:
            count += sum(sizes[k] * sizes[k + 1] for k in range(1, depth))
        count += _back_operations(feedback, architecture, stacked=loss.through_output)
        count += _gradient_operations(feedback, architecture, corrected=loss.corrected)
        if not (loss.corrected or feedback.squash):
            # The loss needs g_i itself; the targets of a linear map do without.
            count += _map_operations(feedback, architecture)
    return 2 * batch * count


def _target_operations(method: Method, architecture: Architecture) -> int:
    sizes = architecture.sizes
    if method.targets in (gradient_targets, aligned_targets):
        return sum(sizes[i] * sizes[i - 1] for i in range(2, architecture.depth + 1))
    if method.targets is gauss_newton_targets:
        # The Jacobians' products; the solves are counted as the J J^T products they are made of.
        products = sum(sizes[-1] * sizes[i] * sizes[i - 1] for i in range(2, architecture.depth))
        return products + sum(sizes[-1] ** 2 * sizes[i] for i in architecture.hidden)
    if not method.feedback:
        return 0
    # A tanh map is evaluated and then carries the change; a linear one carries the change alone.
    passes = 2 if method.feedback.squash else 1
    return passes * _map_operations(method.feedback, architecture) + _recurrence(method.feedback, architecture)


def _recurrence(feedback: Feedback, architecture: Architecture) -> int:
    """Count S_i h_i, once per evaluation of g_i, or once for its gradient."""
    return sum(architecture.sizes[i] ** 2 for i in architecture.hidden if feedback.has_recurrence(i, architecture))


def _map_operations(feedback: Feedback, architecture: Architecture) -> int:
    """Count one pass through all g_i from one source: R once, then every Q_i."""
    count = sum(architecture.sizes[i] * feedback.source_size(i, architecture) for i in architecture.hidden)
    if any(feedback.through_random(i, architecture) for i in architecture.hidden):
        count += architecture.random_hidden * architecture.sizes[-1]
    return count


def _back_operations(feedback: Feedback, architecture: Architecture, *, stacked: bool) -> int:
    """Count the way of every layer's corrupted activity back to it."""
    sizes = architecture.sizes
    if not feedback.direct:
        return sum((k if stacked else 1) * sizes[k] * sizes[k + 1] for k in architecture.hidden)
    count = 0
    for i in architecture.hidden:
        count += sizes[i] * feedback.source_size(i, architecture)
        if feedback.through_random(i, architecture):
            count += architecture.random_hidden * sizes[-1]
    return count


def _gradient_operations(feedback: Feedback, architecture: Architecture, *, corrected: bool) -> int:
    """Count dQ_i (twice where g_i is tanh and both g_i(s~) and g_i(s) count) and dS_i."""
    products = 2 if corrected and feedback.squash else 1
    count = sum(products * architecture.sizes[i] * feedback.source_size(i, architecture) for i in architecture.hidden)
    return count + _recurrence(feedback, architecture)


def step_bytes(method: Method, architecture: Architecture, batch: int, trained: tuple[int, ...], element: int) -> int:
    """Return the bytes that a joint step of one member moves at least.

    Adam reads and writes each parameter's value, gradient and two moments (4 reads, 3 writes); the weights are read
    once per pass, and every activity is written and read once.

    Args:
        element: bytes of a number.
    """
    forward = sum(architecture.sizes[i] * architecture.sizes[i - 1] for i in trained)
    total = sum(architecture.sizes[i] * architecture.sizes[i - 1] for i in architecture.layers)
    feedback = 0
    if method.feedback and method.trains_feedback:
        shapes = method.feedback.shapes(architecture).values()
        feedback = sum(shape[0] * shape[1] if len(shape) == 2 else shape[0] for shape in shapes)
    activities = 2 * batch * sum(architecture.sizes)
    return element * (7 * (forward + feedback) + total + feedback + activities)


def member_bytes(
    method: Method, problem: Problem, dtype: torch.dtype, device: str = "cpu", *, keep: bool = False
) -> int:
    """Return the bytes that one member of a pack takes while it trains, roughly: the data that all share not counted.

    Counted are its parameters, their gradients and Adam's moments, the activities of a minibatch with their targets and
    feedback, those of the samples that are evaluated at once, noise, and its sample numbers.

    Args:
        method: the learning rule; arrays that a package's rule makes are not counted.
        problem: network and data.
        dtype: of all numbers.
        device: where it trains.
        keep: the network of the selected epoch is kept beside the one that trains.
    """
    architecture, batch = problem.architecture, problem.batch_size
    sizes, hidden = architecture.sizes, architecture.hidden
    shapes = [shape for layer in network_layers(architecture) for shape in layer.shapes.values()]
    forward, feedback = sum(map(prod, shapes)), 0
    numbers = 4 * forward
    if method.feedback:
        feedback = sum(map(prod, method.feedback.shapes(architecture).values()))
        numbers += (4 if method.trains_feedback else 1) * feedback
        if method.feedback.random_hidden:
            feedback += architecture.random_hidden * (sizes[-1] + 1)
            numbers += architecture.random_hidden * (sizes[-1] + 1)
    if keep:
        numbers += forward + feedback
    units = sum(sizes[i] for i in hidden)
    # Inputs as they are gathered and as they are scaled; activities, slopes and targets.
    rows = max(batch, min(EVALUATION_CHUNK, max(problem.validation_size, len(problem.x_test))))
    numbers += rows * (2 * sizes[0] + units + 3 * sizes[-1]) + 3 * batch * units
    if method.targets is gauss_newton_targets:
        # Jacobians in float64, and as much again of intermediate results.
        numbers += 6 * batch * sizes[-1] * units
    if method.feedback:
        wide = architecture.random_hidden if method.feedback.random_hidden else 0
        numbers += batch * (3 * units + 5 * wide)
        if method.reconstruction:
            # Corruptions that travel, those of all layers below together, on their way there and back.
            travelling = [
                min(k, len(hidden)) if method.reconstruction.through_output else 1 for k in architecture.layers
            ]
            stacked = sum(m * n for m, n in zip(travelling, sizes[1:], strict=True))
            numbers += batch * (2 * stacked + 2 * units + len(hidden) * wide)
            numbers += minibatches_at_once(batch * units, torch.device(device)) * batch * units
    # Sample numbers of the splits, and of an epoch's order before and after it is stacked.
    return int(numbers * dtype.itemsize + 4 * 8 * len(problem.x_train))
