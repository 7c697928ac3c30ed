"""On CUDA: a step captured once as a graph and replayed, so that the host launches one thing per minibatch; and small
things of a step side by side."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor | None], None]
"""Trains the minibatch of these sample numbers (P, B) with this noise (P, B * units of the hidden layers), in float32;
reads nothing back to the host."""

# Steps that run as usual before the capture, so that all memory and all library handles exist.
_WARM_UP = 3
# Streams for what runs side by side: more than that a GPU hardly runs at once.
_SIDE_BY_SIDE = 16


@lru_cache(maxsize=16)
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures on a device: cuBLAS keeps working memory, up to 32 MiB, for every stream it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=16)
def _streams(device: torch.device) -> list[torch.cuda.Stream]:
    """For what runs side by side on a device."""
    return [torch.cuda.Stream(device) for _ in range(_SIDE_BY_SIDE)]  # type: ignore[no-untyped-call]


def side_by_side(tasks: Sequence[Callable[[], object]], device: torch.device) -> None:
    """Run tasks none of which touches what another writes, nor allocates: on a GPU at the same time, also in a graph.

    Whatever is launched before is done when they begin, and they are done before whatever is launched after.
    """
    # A GPU that is not there (tpbench.engine.verify.fake_gpu) has no streams.
    if len(tasks) < 2 or device.type != "cuda" or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for task in tasks:
            task()
        return
    current, streams = torch.cuda.current_stream(device), _streams(device)[: len(tasks)]
    for stream in streams:
        stream.wait_stream(current)
    for number, task in enumerate(tasks):
        with torch.cuda.stream(streams[number % len(streams)]):
            task()
    for stream in streams:
        current.wait_stream(stream)


class CapturedStep:
    """Replays a function of a minibatch's sample numbers and noise on a CUDA device.

    The first calls run the function as it is, on a side stream as capture demands; then it is captured. Everything it
    touches must stay where it is: parameters, optimiser states and accumulators are updated in place, and the inputs
    are copied into buffers of its own. Capturing runs nothing, so every call trains its minibatch exactly once.

    The function is given with every call and not kept: it belongs to a trainer that holds this object, and the two
    would keep each other, with all their memory on the GPU, until Python looks for cycles.

    Args:
        samples: shape of the sample numbers, (P, B).
        noise: shape of the noise, (P, B * units); None if there is none.
        device: a CUDA device.
    """

    def __init__(
        self,
        samples: tuple[int, ...],
        noise: tuple[int, ...] | None,
        device: torch.device,
    ) -> None:
        self.device = device
        self.samples = torch.empty(samples, dtype=torch.int64, device=device)
        self.noise = None if noise is None else torch.empty(noise, dtype=torch.float32, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0

    def take(self, samples: Tensor, noise: Tensor | None) -> None:
        """Copy a minibatch to where the graph looks for it."""
        self.samples.copy_(samples)
        if self.noise is not None and noise is not None:
            self.noise.copy_(noise)

    def __call__(self, step: Step, samples: Tensor, noise: Tensor | None) -> None:
        """Train one minibatch; ``step`` is the same function every time."""
        # Streams and captures belong to the current device, which need not be that of the pack.
        with torch.cuda.device(self.device):
            self._train(step, samples, noise)

    def _train(self, step: Step, samples: Tensor, noise: Tensor | None) -> None:
        self.take(samples, noise)
        if self.calls == _WARM_UP:
            self._capture(step)
        self.calls += 1
        if self.graph is not None:
            self.graph.replay()
            return
        side = _side_stream(self.device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step(self.samples, self.noise)
        torch.cuda.current_stream().wait_stream(side)

    def _capture(self, step: Step) -> None:
        """Make the graph; where a library refuses, steps go on as they are."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=_side_stream(self.device)):
                step(self.samples, self.noise)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = (str(error).strip() or "-").splitlines()[0]
            logging.getLogger(__name__).warning("the steps are not replayed as a CUDA graph: %s", reason)
            return
        self.graph = graph
