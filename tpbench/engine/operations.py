"""Counts of the floating-point operations and bytes that a step needs."""

from __future__ import annotations

from math import prod

import torch

from tpbench.engine.configuration import Configuration
from tpbench.engine.field_rules import controlled_update
from tpbench.engine.methods import Method, example_configuration, gauss_newton_targets
from tpbench.engine.network import ConvolutionLayer, network_layers, stream
from tpbench.engine.noise import minibatches_at_once
from tpbench.engine.parts import Architecture
from tpbench.engine.precision import CountingMatmul
from tpbench.engine.problem import Problem
from tpbench.engine.step import PackState
from tpbench.engine.trainer import evaluation_chunk


def joint_operations(
    method: Method,
    architecture: Architecture,
    batch: int,
    trained: tuple[int, ...],
    configuration: Configuration | None = None,
) -> int:
    """Count the floating-point operations of the matrix products of one joint step of one member, by doing one.

    Element-wise work, the optimiser, random numbers and products that a rule makes without
    :meth:`~tpbench.engine.methods.Minibatch.product` count nothing, so the achieved rate is a lower bound of the
    machine's.

    Args:
        configuration: of the member; None: an example, which a package's rule may refuse.
    """
    matmul, sizes = CountingMatmul(), architecture.sizes
    chosen = configuration or example_configuration(method)
    pack = PackState(method, architecture, [chosen], [0], trained=trained, matmul=matmul)
    generator = stream(0, "operations")
    widths = method.noise_widths(architecture) * max(pack.noise_repeats, default=1)
    x, *noise = (torch.randn(1, batch, units, generator=generator) for units in (sizes[0], *widths))
    pack.joint_step(x, torch.zeros(1, batch, dtype=torch.int64), noise or None)
    if method.targets is not gauss_newton_targets:
        return matmul.operations
    # The Jacobians' products; the solves are counted as the J J^T products they are made of.
    products = sum(sizes[-1] * sizes[i] * sizes[i - 1] for i in range(2, architecture.depth))
    return matmul.operations + 2 * batch * (products + sum(sizes[-1] ** 2 * sizes[i] for i in architecture.hidden))


def step_bytes(method: Method, architecture: Architecture, batch: int, trained: tuple[int, ...], element: int) -> int:
    """Return the bytes that a joint step of one member moves at least.

    Adam reads and writes each parameter's value, gradient and two moments (4 reads, 3 writes); the weights are read
    once per pass, and every activity is written and read once.

    Args:
        element: bytes of a number.
    """
    weights = {layer.index: prod(layer.shapes[layer.weight]) for layer in network_layers(architecture)}
    forward, total = sum(weights[i] for i in trained), sum(weights.values())
    feedback = sum(map(prod, method.array_shapes(architecture).values())) if method.trains_feedback else 0
    before = [prod(layer.before) for layer in network_layers(architecture) if isinstance(layer, ConvolutionLayer)]
    activities = 2 * batch * (sum(architecture.sizes) + sum(before))
    return element * (7 * (forward + feedback) + total + feedback + activities)


def member_bytes(
    method: Method,
    problem: Problem,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    keep: bool = False,
    checkpoint: bool = False,
    repeats: int = 1,
    lowered: bool = False,
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
        checkpoint: a checkpoint is copied on this device before it is written.
        repeats: how often a minibatch needs the noise of the feedback phase.
        lowered: a CPU multiplies in bfloat16, and keeps its copies of the parameters and their gradients.
    """
    architecture, batch = problem.architecture, problem.batch_size
    sizes, hidden = architecture.sizes, architecture.hidden
    forward = sum(prod(shape) for layer in network_layers(architecture) for shape in layer.shapes.values())
    feedback, fixed = sum(map(prod, method.array_shapes(architecture).values())), 0
    if method.feedback:
        fixed = sum(map(prod, method.feedback.fixed_shapes(architecture).values()))
    numbers = 4 * forward + (4 if method.trains_feedback else 1) * feedback + fixed
    if keep:
        numbers += forward + feedback + fixed
    if checkpoint:
        # Parameters and moments; the gradients are in none.
        numbers += 3 * forward + (3 if method.trains_feedback else 1) * feedback + fixed
    if lowered:
        # Half as many bytes as a number of the pack; the gradient of a tanh map is the sum of two products.
        numbers += (2 * forward + (3 if method.trains_feedback else 1) * feedback + fixed) // 2
    units = sum(sizes[i] for i in hidden)
    # Inputs as they are gathered and as they are scaled; activities, slopes and targets.
    rows = max(batch, min(evaluation_chunk(architecture), max(problem.validation_size, len(problem.x_test))))
    numbers += rows * (2 * sizes[0] + units + 3 * sizes[-1]) + 3 * batch * units
    for layer in network_layers(architecture):
        if isinstance(layer, ConvolutionLayer):
            # Winners of the pooling, 8 bytes each, and pre-activations, of the first layer for a moment only.
            numbers += batch * (8 // dtype.itemsize * layer.units + prod(layer.before))
    if method.targets in (gauss_newton_targets, controlled_update):
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
    if noise := repeats * batch * sum(method.noise_widths(architecture)):
        at_once = 1 if repeats > 1 else minibatches_at_once(noise, torch.device(device))
        numbers += at_once * noise
    if method.feedback_phase:
        # The arrays of one step of the phase, and noise in the precision of the pack.
        numbers += 6 * batch * sum(sizes[1:]) + (noise if dtype != torch.float32 else 0)
    # Sample numbers of the splits, and of an epoch's order before and after it is stacked.
    return int(numbers * dtype.itemsize + 4 * 8 * len(problem.x_train))
