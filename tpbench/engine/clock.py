"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

PHASES = ("batches", "forward", "targets", "gradients", "feedback", "adam")
"""batches: gathering and noise; forward: activities and loss; targets: hhat; gradients: of the forward parameters;
feedback: reconstruction losses and their gradients; adam: both optimisers."""


class Clock:
    """Measures phases where it is asked to; costs nothing where it is not.

    Args:
        device: of the pack; a GPU is waited for at the end of each phase.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def _measured(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[phase] += time.perf_counter() - started

    def __call__(self, phase: str) -> AbstractContextManager[None]:
        """A ``with`` block that counts towards a phase."""
        return self._measured(phase) if self.device else nullcontext()
