"""Epochs of a whole trainer on a GPU that does not exist: what a GPU would refuse is refused there too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tpbench.engine import Configuration, Problem, Trainer, example_configuration
from tpbench.engine.methods import Method
from tpbench.engine.trainer import CudaGraphStep, Step
from tpbench.engine.verify import NoTransfers, fake_gpu


class DryStep(CudaGraphStep):
    """A captured step that runs as it is, and lets nothing in it go between host and GPU."""

    def __call__(self, step: Step, samples: Tensor, noise: Tensor | None) -> None:
        self.take(samples, noise)
        with NoTransfers():  # type: ignore[no-untyped-call]
            step(self.samples, self.noise)


class DryTrainer(Trainer):
    """A trainer whose generators are the host's."""

    cuda_graph_step = DryStep

    def _generators(self) -> list[torch.Generator]:
        return [self._stream(p, "noise") for p in self.alive]


def dry_run(
    method: Method,
    problem: Problem,
    members: int,
    precision: str = "float32",
    configurations: Sequence[Configuration] | None = None,
) -> int:
    """Train a feedback epoch, if the method has any, and a joint epoch, and evaluate; leave out the read at the end.

    Returns:
        How many kinds of steps were captured: 2, 1, or 0 for a method that no graph can hold.

    Raises:
        RuntimeError: a number is read back, tensors of two devices meet, and the like.
    """
    configurations = configurations or [example_configuration(method)] * members
    seeds = list(range(members))
    with fake_gpu():
        arrays = {name: getattr(problem, name) for name in ("x_train", "y_train", "x_test", "y_test")}
        empty = {name: torch.empty(values.shape, dtype=values.dtype) for name, values in arrays.items()}
        data = replace(problem, **empty)
        trainer = DryTrainer(method, data, configurations, seeds, epochs=1, device="cuda", precision=precision)
        # A rule's first results are read once, before anything is captured.
        trainer.pack.validated = True
        if method.trains_feedback:
            trainer.train_epoch("feedback")
        trainer.train_epoch("joint")
        trainer.pack.largest()
        return len(trainer._graphs)
