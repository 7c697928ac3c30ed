"""Working memory that is used again: a step allocates nothing once it has run."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor


class Scratch:
    """Named buffers. Asking for a name again gives the same memory, so a name belongs to one place in the code.

    Fresh memory is slow twice over on a CPU: the system clears every page of it, and it is in no cache.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device | str) -> None:
        self.dtype, self.device = dtype, torch.device(device)
        self._buffers: dict[str, Tensor] = {}
        # A captured CUDA graph goes on using the memory it has seen, so a buffer that grows must not be freed.
        self._outgrown: list[Tensor] = []

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A contiguous tensor of that shape with arbitrary contents."""
        size = prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            if buffer is not None and buffer.is_cuda:
                self._outgrown.append(buffer)
            buffer = torch.empty(size, dtype=self.dtype, device=self.device)
            self._buffers[name] = buffer
        return buffer[:size].view(shape)
