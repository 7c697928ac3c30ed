"""The synthetic student-teacher regression data of the toy experiments (section B.3)."""

from __future__ import annotations

import math

import torch

from tpbench.engine import Architecture, Problem
from tpbench.engine.network import squared_error, stream

HIDDEN_LAYERS, HIDDEN_UNITS = 4, 1000


def teacher_problem(
    student: Architecture,
    *,
    seed: int = 0,
    training: int = 1000,
    validation: int = 200,
    test: int = 200,
    batch_size: int = 1,
) -> Problem:
    """Random inputs sent through a random ReLU network with 4 hidden layers of 1000 units.

    The paper names neither the number of samples nor the scale of the teacher's weights; here they are drawn from
    N(0, 2 / fan_in), which keeps the activity's size from layer to layer, and the targets have deviation 1.

    Args:
        student: its input and output widths are the teacher's.
        seed: of the teacher and of the inputs.
        training, validation, test: samples.
        batch_size: 1 in the toy experiments.
    """
    generator, count = stream(seed, "teacher"), training + validation + test
    x = torch.randn(count, student.sizes[0], generator=generator, dtype=torch.float64)
    h = x
    widths = [*[HIDDEN_UNITS] * HIDDEN_LAYERS, student.sizes[-1]]
    for k, width in enumerate(widths):
        weight = torch.randn(width, h.shape[1], generator=generator, dtype=torch.float64) * math.sqrt(2 / h.shape[1])
        h = h @ weight.T
        if k < HIDDEN_LAYERS:
            h = h.relu()
    y = h / h.std(0)
    kept = training + validation
    return Problem(
        student,
        x[:kept],
        y[:kept],
        x[kept:],
        y[kept:],
        validation_size=validation,
        batch_size=batch_size,
        loss=squared_error,
    )
