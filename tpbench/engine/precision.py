"""Working memory that is used again: a step allocates nothing once it has run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Protocol

import numpy as np
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


# The batched matrix products of a step: exact, or with the operands of the large ones in bfloat16.


LARGE = 64
"""A product is large if all three of its sizes are at least this: below, it costs nothing worth losing digits for."""

_FAST_GPU = (8, 0)


@dataclass(frozen=True, slots=True)
class Lasting:
    """An operand of several products of a step, converted once for all of them, and anew if it was changed since."""

    tensor: Tensor
    transposed: bool = False

    @property
    def mT(self) -> Lasting:  # noqa: N802 (as torch calls it)
        return Lasting(self.tensor, not self.transposed)

    @property
    def plain(self) -> Tensor:
        """The operand as a tensor."""
        return self.tensor.mT if self.transposed else self.tensor


Operand = Tensor | Lasting


def _plain(operand: Operand) -> Tensor:
    return operand.plain if isinstance(operand, Lasting) else operand


class Products:
    """Products in the precision of their operands."""

    def anew(self) -> Products:
        """Products of the same kind with memory of their own."""
        return self

    def begin(self) -> None:
        """A step begins, with tensors of its own: nothing of the one before lasts."""

    def bmm(self, a: Operand, b: Operand, out: Tensor) -> Tensor:
        """``out = a b``, (P, m, k) times (P, k, n)."""
        return torch.bmm(_plain(a), _plain(b), out=out)

    def baddbmm(self, summand: Tensor, a: Operand, b: Operand, out: Tensor) -> Tensor:
        """``out = summand + a b``; ``out`` may be the summand."""
        return torch.baddbmm(summand, _plain(a), _plain(b), out=out)


EXACT = Products()


class LoweredProducts(Products):
    """Large products of bfloat16 operands, added up in float32; everything that is kept stays in float32.

    Args:
        device: of the operands.
        simulated: round the operands and multiply them in float32, for what has no fast bfloat16: the same numbers but
            for the order of adding up, and slower than float32.
        rounded: whether results are rounded to bfloat16 as well, as torch's CPU kernels do, which know no other; None:
            where they do.
    """

    def __init__(self, device: torch.device | str, *, simulated: bool = False, rounded: bool | None = None) -> None:
        self.device, self.simulated = torch.device(device), simulated
        self.rounded = self.device.type == "cpu" if rounded is None else rounded
        # Rounded numbers are held in the type that they are multiplied in.
        self._lowered = Scratch(torch.float32 if simulated else torch.bfloat16, device)
        self._rounded = Scratch(torch.bfloat16, device)
        self._results = Scratch(torch.float32, device)
        self._lasting: dict[int, tuple[Tensor, int, Tensor]] = {}
        """By identity: the operand, the version that was converted, and what it became."""

    def anew(self) -> Products:
        return LoweredProducts(self.device, simulated=self.simulated, rounded=self.rounded)

    def begin(self) -> None:
        self._lasting.clear()

    def bmm(self, a: Operand, b: Operand, out: Tensor) -> Tensor:
        if not _is_large(_plain(a), _plain(b)):
            return super().bmm(a, b, out)
        left, right = self._lower(a, "left"), self._lower(b, "right")
        if self.simulated:
            torch.bmm(left, right, out=out)
            return out.copy_(self._round(out)) if self.rounded else out
        if not self.rounded:
            return torch.bmm(left, right, out_dtype=torch.float32, out=out)
        return out.copy_(torch.bmm(left, right, out=self._rounded("result", *out.shape)))

    def baddbmm(self, summand: Tensor, a: Operand, b: Operand, out: Tensor) -> Tensor:
        if not _is_large(_plain(a), _plain(b)):
            return super().baddbmm(summand, a, b, out)
        return torch.add(summand, self.bmm(a, b, self._results("result", *out.shape)), out=out)

    def _lower(self, operand: Operand, name: str) -> Tensor:
        if isinstance(operand, Lasting):
            lowered = self._lower_lasting(operand.tensor)
            return lowered.mT if operand.transposed else lowered
        # A transposed operand is converted as it lies in memory.
        if operand.mT.is_contiguous() and not operand.is_contiguous():
            return self._cast(operand.mT, name).mT
        return self._cast(operand, name)

    def _lower_lasting(self, values: Tensor) -> Tensor:
        kept = self._lasting.get(id(values))
        if kept is None:
            # In the order of first use, which is the same in each step of a kind: so is the memory.
            lowered = self._cast(values, f"lasting {len(self._lasting)}")
        else:
            _, version, lowered = kept
            if version == values._version:
                return lowered
            self._fill(lowered, values)
        self._lasting[id(values)] = values, values._version, lowered
        return lowered

    def _cast(self, values: Tensor, name: str) -> Tensor:
        return self._fill(self._lowered(name, *values.shape), values)

    def _fill(self, memory: Tensor, values: Tensor) -> Tensor:
        return memory.copy_(self._round(values) if self.simulated else values)

    def _round(self, values: Tensor) -> Tensor:
        return self._rounded("rounded", *values.shape).copy_(values)


def slow_bfloat16(device: str) -> str:
    """Why products of bfloat16 operands are slow on a device; empty if they are fast, or the device is not at hand."""
    if device.startswith("cuda"):
        if not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= _FAST_GPU:
            return ""
        return f"{torch.cuda.get_device_name(device)} has no bfloat16 products"
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return ""
    return "this CPU has neither AVX-512 BF16 nor AMX"


def products_of(precision: str, device: torch.device | str) -> Products:
    """How a pack of that precision (one of :data:`tpbench.engine.PRECISIONS`) multiplies."""
    return LoweredProducts(device) if precision == "bf16" else EXACT


def _is_large(a: Tensor, b: Tensor) -> bool:
    return min(a.shape[1], a.shape[2], b.shape[2]) >= LARGE


# Difference-form arithmetic and the output losses.
#
# Section B.1 (Numerical errors) of the paper needs float64 because ``hhat - h`` is formed by subtracting nearly equal
# numbers. Nothing here ever forms it that way: the difference itself is propagated, so float32 keeps float32's relative
# precision however small the output target step is.


# Below this many numbers, handing parts to threads costs more than it saves.
_PARALLEL_SIZE = 1 << 19


@lru_cache(maxsize=1)
def _workers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="tpbench")


def in_parallel(task: Callable[[int, int], None], rows: int, size: int) -> None:
    """Run ``task(first, last)`` over parts of ``rows``, on as many threads as torch uses.

    For library calls that let go of the interpreter but use one thread; what is computed does not depend on the parts.

    Args:
        task: does the rows ``first <= row < last``.
        rows: how many there are.
        size: numbers in all; few are done at once.
    """
    threads = min(torch.get_num_threads(), rows)
    if threads < 2 or size < _PARALLEL_SIZE:
        task(0, rows)
        return
    bounds = [rows * k // threads for k in range(threads + 1)]
    for part in [_workers(threads).submit(task, a, b) for a, b in pairwise(bounds)]:
        part.result()


def tanh_(x: Tensor) -> Tensor:
    """tanh in place. On a CPU numpy's is several times as fast as torch's, to the same last digit or two."""
    if x.device.type != "cpu":
        return x.tanh_()
    array = x.numpy()

    def part(first: int, last: int) -> None:
        np.tanh(array[first:last], out=array[first:last])

    in_parallel(part, len(array), array.size)
    return x


def tanh_slope(h: Tensor, out: Tensor | None = None) -> Tensor:
    """``1 - h^2``, the slope of tanh where it is h."""
    return torch.addcmul(_one(h.dtype, h.device), h, h, value=-1, out=out)


@lru_cache(maxsize=16)
def _one(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones((), dtype=dtype, device=device)


@lru_cache(maxsize=16)
def _one_and_a_bit(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), 1 + torch.finfo(dtype).eps, dtype=dtype, device=device)


def forget_constants() -> None:
    """Make the constants of each device anew: what was made among tensors without numbers has none."""
    _one.cache_clear()
    _one_and_a_bit.cache_clear()


def tanh_difference_(h: Tensor, slope: Tensor, d: Tensor, workspace: Tensor | None = None) -> Tensor:
    """``tanh(a + d) - tanh(a)`` from ``h = tanh(a)``, without cancellation, in place of ``d``.

    Uses the addition theorem: with ``t = tanh(d)`` it is ``t (1 - h^2) / (1 + h t)``.

    Args:
        h: tanh activities, broadcast against ``d``.
        slope: ``1 - h^2``, which the caller has at hand anyway.
        d: change of the pre-activation; becomes the change of the activity.
        workspace: of the shape of ``d``.
    """
    t = tanh_(d)
    # A saturated unit has h = +-1 and slope 0, and the opposite t makes 1 + h t zero too. The last bit more than 1
    # makes that 0 / eps = 0, as it should be, and changes nothing else beyond rounding.
    denominator = torch.addcmul(_one_and_a_bit(d.dtype, d.device), h, t, out=workspace)
    return t.mul_(slope).div_(denominator)


class Loss(Protocol):
    """An output loss: what the network is trained on and what counts as an error."""

    def __call__(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :func:`cross_entropy`."""


def cross_entropy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax and cross-entropy as one output loss (equation 161).

    The gradient ``p - l`` is formed as ``-(sum of the other probabilities)`` for the labelled class, because ``p - 1``
    loses all digits once the network is sure of its answer.

    Args:
        outputs: linear outputs ``h_L`` of shape (P, B, n_L).
        labels: class labels of shape (P, B), int64.

    Returns:
        The loss of every sample (P, B), whether each is misclassified (P, B), and the gradient of the *mean* loss over
        the batch with respect to ``h_L`` (P, B, n_L).
    """
    index = labels.unsqueeze(-1)
    log_probabilities = torch.log_softmax(outputs, dim=-1)
    losses = -log_probabilities.gather(-1, index).squeeze(-1)
    gradient = log_probabilities.exp()
    gradient.scatter_(-1, index, 0.0)
    gradient.scatter_(-1, index, -gradient.sum(-1, keepdim=True))
    gradient.div_(outputs.shape[-2])
    wrong = outputs.argmax(-1) != labels
    return losses, wrong, gradient


def squared_error(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Half the squared L2 distance to the label vector: the regression loss of the toy experiments (section B.3).

    Args:
        outputs: linear outputs ``h_L`` of shape (P, B, n_L).
        labels: target vectors of shape (P, B, n_L).

    Returns:
        As :func:`cross_entropy`; the "error" of a sample is its squared distance, since nothing is classified.
    """
    difference = outputs - labels
    squared = difference.square().sum(-1)
    return squared / 2, squared, difference / outputs.shape[-2]
