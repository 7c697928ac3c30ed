"""Make the engine's problems: of a workload's data, of random data, and of a random teacher network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tpbench.engine.splits import loses_class
from tpbench.workloads.cache import Dataset, load_for
from tpbench.workloads.own_data import inputs_of, scale_and_shift
from tpbench.workloads.workload import Workload

if TYPE_CHECKING:
    from tpbench.engine import Architecture, Problem

BY_CLASS = "by class"
"""The split of a seed whose random validation samples would be all samples of a class."""
TEACHER_LAYERS, TEACHER_UNITS = 4, 1000

_split_rules: dict[tuple[str, int, int], str] = {}
"""Results of :func:`split_rule` by fingerprint, validation samples and seed."""


def load_problem(workload: Workload, folder: Path | None = None) -> tuple[Problem, Dataset]:
    """Return a workload's problem for the engine, and its data set; a process reads each data set once.

    Args:
        workload: the workload.
        folder: the data folder; None: :func:`tpbench.workloads.default_folder`.

    Raises:
        TpbenchError: the data are missing or damaged, or are not those that the workload was made for.
    """
    import torch

    from tpbench.engine import Problem

    dataset = load_for(workload, folder)
    images, scale, shift = inputs_of(workload.normalise, dataset)
    problem = Problem(
        workload.architecture,
        x_train=torch.from_numpy(images["train"]),
        y_train=torch.from_numpy(dataset.arrays["y_train"]).long(),
        x_test=torch.from_numpy(images["test"]),
        y_test=torch.from_numpy(dataset.arrays["y_test"]).long(),
        validation_size=workload.validation_size,
        batch_size=workload.batch_size,
        scale=scale,
        shift=shift,
        trained_layers=workload.trained_layers,
        keeps_classes=workload.own_file is not None,
    )
    return problem, dataset


def split_rule(workload: Workload, seed: int) -> str:
    """Return how a seed's validation samples are drawn: :data:`BY_CLASS`, or empty for at random.

    Only a user's own data may be drawn by class (:attr:`tpbench.engine.Problem.keeps_classes`).

    Raises:
        TpbenchError: the data are missing or damaged.
    """
    if not workload.own_file:
        return ""
    dataset = load_for(workload)
    key = dataset.fingerprint, workload.validation_size, seed
    if key not in _split_rules:
        import torch

        from tpbench.engine.network import stream

        labels = dataset.arrays["y_train"]
        order = torch.randperm(len(labels), generator=stream(seed, "split"))
        lost = loses_class(labels, order[workload.validation_size :].numpy())
        _split_rules[key] = BY_CLASS if lost else ""
    return _split_rules[key]


def random_problem(workload: Workload, steps: int) -> Problem:
    """Return random data of a workload's shape, for measuring.

    Args:
        workload: the workload.
        steps: whole minibatches of an epoch; one more each is there to validate and to test.
    """
    import torch

    from tpbench.engine import Problem

    generator = torch.Generator().manual_seed(0)
    count = workload.batch_size * (steps + 1)
    sizes = workload.architecture.sizes
    x = torch.randint(0, 256, (count, sizes[0]), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, sizes[-1], (count,), generator=generator)
    few = slice(0, workload.batch_size)
    return Problem(
        workload.architecture,
        x,
        y,
        x[few],
        y[few],
        workload.batch_size,
        workload.batch_size,
        *scale_and_shift(workload.normalise, x.numpy()),
        trained_layers=workload.trained_layers,
    )


def teacher_problem(student: Architecture) -> Problem:
    """Return the regression problem of the toy experiments (section B.3), in minibatches of one sample.

    The targets are the outputs of a random ReLU network with 4 hidden layers of 1000 units for random inputs. The paper
    names neither the number of samples nor the scale of the teacher's weights; here they are drawn from N(0, 2 /
    fan_in), which keeps the activity's size from layer to layer, and the targets have deviation 1.

    Args:
        student: its input and output widths are the teacher's.
    """
    import torch

    from tpbench.engine import Problem
    from tpbench.engine.network import squared_error, stream

    training, validation, test = 1000, 200, 200
    generator, seen = stream(0, "teacher"), training + validation
    x = torch.randn(seen + test, student.sizes[0], generator=generator, dtype=torch.float64)
    h = x
    widths = [*[TEACHER_UNITS] * TEACHER_LAYERS, student.sizes[-1]]
    for k, width in enumerate(widths):
        weight = torch.randn(width, h.shape[1], generator=generator, dtype=torch.float64) * math.sqrt(2 / h.shape[1])
        h = h @ weight.T
        if k < TEACHER_LAYERS:
            h = h.relu()
    y = h / h.std(0)
    return Problem(
        student,
        x[:seen],
        y[:seen],
        x[seen:],
        y[seen:],
        validation_size=validation,
        batch_size=1,
        loss=squared_error,
    )
