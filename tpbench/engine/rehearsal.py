"""Steps on tensors that claim to be on a GPU and hold no numbers: what a GPU would refuse is refused here too.

Mixing devices is an error there, and so is reading anything back to the host, which no CUDA graph can do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tpbench.engine.architecture import Architecture
from tpbench.engine.methods import Method, example_configuration
from tpbench.engine.numerics import forget_constants
from tpbench.engine.step import PackState

DEVICE = "cuda"

READ_BACK = DataDependentOutputException
"""What is raised where a step reads a number back to the host."""


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


def rehearse_step(method: Method, architecture: Architecture, members: int, batch: int) -> None:
    """One joint step of a pack, and one of its feedback alone where that is trained.

    Raises:
        DataDependentOutputException: a number is read back to the host.
        RuntimeError: tensors of several devices meet, and the like.
    """
    with rehearsing():
        pack = PackState(
            method, architecture, [example_configuration(method)] * members, list(range(members)), device=DEVICE
        )
        # It looks at its first results once, before anything is captured.
        pack.targets_checked = True
        x = torch.rand(members, batch, architecture.sizes[0], device=DEVICE)
        y = torch.randint(0, architecture.sizes[-1], (members, batch), device=DEVICE)
        noise = [torch.randn(members, batch, architecture.sizes[i], device=DEVICE) for i in architecture.hidden]
        pack.joint_step(x, y, noise if method.trains_feedback else None)
        if method.trains_feedback:
            pack.feedback_step(x, noise)
