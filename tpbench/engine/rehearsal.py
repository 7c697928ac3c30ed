"""Steps and epochs on tensors that claim to be on a GPU and hold no numbers: what it would refuse is refused here too.

Mixing devices is an error there, and so is reading anything back to the host, which no CUDA graph can do.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tpbench.engine.errors import RuleError
from tpbench.engine.methods import Method, example_configuration
from tpbench.engine.precision import forget_constants
from tpbench.engine.problem import Problem
from tpbench.engine.trainer import CudaGraphStep, Step, Trainer

DEVICE = "cuda"


class DeviceCrossing(Exception):  # noqa: N818 (as torch calls its own)
    """A tensor went from the host to the GPU or back in the middle of a step."""


READ_BACK = (DataDependentOutputException, DeviceCrossing)
"""What is raised where a step needs the host: a number is read back, or a tensor goes there or comes from there."""


class _NoCrossings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fake tensors go from device to device as they like; a captured graph cannot."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), more: Any = None) -> Any:
        result = function(*arguments, **(more or {}))
        given = {t.device.type for t in tree_leaves((arguments, more or {})) if isinstance(t, torch.Tensor)}
        made = {t.device.type for t in tree_leaves(result) if isinstance(t, torch.Tensor)}
        # A number of the host may take part in a product on the GPU; it is written into the graph.
        if (DEVICE in given and made - {DEVICE}) or (DEVICE in made and given and DEVICE not in given):
            raise DeviceCrossing(f"{function} from {', '.join(given)} to {', '.join(made)}")
        return result


class NeedsGpu(Exception):  # noqa: N818 (no error of the rule's)
    """The rehearsal cannot tell: the rule does what tensors without numbers do on a real GPU alone."""


@contextmanager
def rehearsing() -> Iterator[None]:
    """Whatever tensors are made within hold no numbers."""
    forget_constants()
    try:
        with FakeTensorMode():
            yield
    finally:
        # What was kept of them would meet real tensors.
        forget_constants()


class _RehearsedStep(CudaGraphStep):
    """Runs the step and lets nothing in it cross between host and GPU."""

    def __call__(self, step: Step, samples: Tensor, noise: Tensor | None) -> None:
        self.take(samples, noise)
        with _NoCrossings():  # type: ignore[no-untyped-call]
            step(self.samples, self.noise)


class _RehearsedTrainer(Trainer):
    """A trainer on a GPU that is not there: its generators are the host's."""

    cuda_graph_step = _RehearsedStep

    def _generators(self) -> list[torch.Generator]:
        return [self._stream(p, "noise") for p in self.alive]

    @property
    def kinds_of_steps(self) -> int:
        """How many of them would be captured."""
        return len(self._graphs)


def _without_numbers(problem: Problem) -> Problem:
    """The problem with data of the same shapes that the mode in force makes."""

    def empty(data: Tensor) -> Tensor:
        return torch.empty(data.shape, dtype=data.dtype)

    return replace(
        problem,
        x_train=empty(problem.x_train),
        y_train=empty(problem.y_train),
        x_test=empty(problem.x_test),
        y_test=empty(problem.y_test),
    )


def _is_missing_gpu(error: BaseException | None) -> bool:
    """Whether autograd failed for want of a GPU: its engine asks the driver, whatever the tensors are."""
    if torch.cuda.is_available() or not isinstance(error, RuntimeError):
        return False
    autograd = f"{Path(torch.autograd.__file__).parent}{os.sep}"
    return any(frame.filename.startswith(autograd) for frame in traceback.extract_tb(error.__traceback__))


def rehearse(method: Method, problem: Problem, members: int, precision: str = "float32") -> int:
    """A feedback epoch, where the method has any, and a joint epoch with its evaluation, up to the one read at the end.

    Returns:
        How many kinds of steps were captured: 2, 1, or 0 for a method that no graph can hold.

    Raises:
        DataDependentOutputException, DeviceCrossing: the host is needed (:data:`READ_BACK`).
        NeedsGpu: the rule uses autograd, and there is no GPU here.
        RuntimeError: tensors of several devices meet, and the like.
    """
    configurations, seeds = [example_configuration(method)] * members, list(range(members))
    with rehearsing():
        trainer = _RehearsedTrainer(
            method, _without_numbers(problem), configurations, seeds, epochs=1, device=DEVICE, precision=precision
        )
        # It looks at a rule's first results once, before anything is captured.
        trainer.pack.validated = True
        try:
            if method.trains_feedback:
                trainer.train_epoch("feedback")
            trainer.train_epoch("joint")
        except RuleError as error:
            if isinstance(error.__cause__, READ_BACK):
                raise error.__cause__ from None
            if _is_missing_gpu(error.__cause__):
                raise NeedsGpu("the rule uses torch.autograd: only a machine with a GPU can tell") from error
            raise
        return trainer.kinds_of_steps
