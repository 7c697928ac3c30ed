"""On CUDA: a step captured once as a graph and replayed, so that the host launches one thing per minibatch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Steps that run as usual before the capture, so that all memory and all library handles exist.
_WARM_UP = 3


class CapturedStep:
    """Replays a function of a minibatch's sample numbers and noise on a CUDA device.

    The first calls run the function as it is, on a side stream as capture demands; then it is captured. Everything it
    touches must stay where it is: parameters, optimiser states and accumulators are updated in place, and the inputs
    are copied into buffers of its own. Capturing runs nothing, so every call trains its minibatch exactly once.

    Args:
        step: trains a minibatch; returns nothing and reads nothing back to the host.
        samples: shape of the sample numbers, (P, B).
        noise: shape of the noise, (P, B * units); None if there is none.
        device: a CUDA device.
    """

    def __init__(
        self,
        step: Callable[[Tensor, Tensor | None], None],
        samples: tuple[int, ...],
        noise: tuple[int, ...] | None,
        device: torch.device,
    ) -> None:
        self.step = step
        self.samples = torch.empty(samples, dtype=torch.int64, device=device)
        self.noise = None if noise is None else torch.empty(noise, dtype=torch.float32, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0

    def take(self, samples: Tensor, noise: Tensor | None) -> None:
        """Copy a minibatch to where the graph looks for it."""
        self.samples.copy_(samples)
        if self.noise is not None and noise is not None:
            self.noise.copy_(noise)

    def __call__(self, samples: Tensor, noise: Tensor | None) -> None:
        """Train one minibatch."""
        self.take(samples, noise)
        if self.graph is None and self.calls >= _WARM_UP:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.step(self.samples, self.noise)
            self.graph = graph
        self.calls += 1
        if self.graph is not None:
            self.graph.replay()
            return
        side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.step(self.samples, self.noise)
        torch.cuda.current_stream().wait_stream(side)
