"""Working memory, matrix products and differences: what a step computes with, and to how many digits.

Section B.1 (Numerical errors) of the paper needs float64 because ``hhat - h`` is formed by subtracting nearly equal
numbers. Nothing here forms it that way: the difference itself is propagated, so float32 keeps float32's relative
precision however small the step of the output target is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod

import numpy as np
import torch
from torch import Tensor

LARGE = 64
"""A product is large if all three of its sizes are at least this: below, speed is not worth losing digits for."""

# Compute capability of the first GPUs with bfloat16 products.
_FAST_GPU = (8, 0)
# No version of a tensor.
_CHANGED = -1
# Below this many numbers, handing parts to threads costs more than it saves.
_PARALLEL_SIZE = 1 << 19


class Workspace:
    """Named buffers that are used again, so that a step allocates nothing once it has run.

    Asking for a name again gives the same memory, so a name belongs to one place in the code. Fresh memory is slow
    twice over on a CPU: the system clears every page of it, and it is in no cache.

    Example:
        ``slope = workspace("slope 1", members, batch, units)``
    """

    def __init__(self, dtype: torch.dtype, device: torch.device | str) -> None:
        self.dtype, self.device = dtype, torch.device(device)
        self._buffers: dict[str, Tensor] = {}
        # A CUDA graph goes on using the memory it was captured with, so a buffer that grows must not be freed.
        self._outgrown: list[Tensor] = []

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return a contiguous tensor of that shape with arbitrary contents."""
        size = prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            if buffer is not None and buffer.is_cuda:
                self._outgrown.append(buffer)
            buffer = torch.empty(size, dtype=self.dtype, device=self.device)
            self._buffers[name] = buffer
        return buffer[:size].view(shape)


@dataclass(frozen=True, slots=True)
class _Cached:
    """An operand of several products of a step: converted once for all of them, and again only if it was changed."""

    tensor: Tensor
    transposed: bool = False

    @property
    def mT(self) -> _Cached:  # noqa: N802 (as torch calls it)
        return _Cached(self.tensor, not self.transposed)

    @property
    def plain(self) -> Tensor:
        return self.tensor.mT if self.transposed else self.tensor


_Operand = Tensor | _Cached


def _plain(operand: _Operand) -> Tensor:
    return operand.plain if isinstance(operand, _Cached) else operand


class MatmulPolicy:
    """The batched matrix products of a step, in the precision of their operands.

    Every operand leads with the member dimension P. Weights have the shape (P, n_out, n_in), activities (P, B, n).
    Differences come as a stack of m, (P, m, B, n). Weights and activities take part in several products of a step,
    so a policy that converts its operands keeps their converted copies until the next step, and on a CPU those of
    parameters from step to step (:meth:`keep`). The gradients of such parameters may wait in the type of the products'
    results until the optimiser takes them (:meth:`gradient_block`), which then writes the new copies.
    """

    @property
    def keeps_copies(self) -> bool:
        """Converted copies of parameters outlive a step (:meth:`keep`)."""
        return False

    def clone(self) -> MatmulPolicy:
        """Return a policy of the same kind with memory of its own."""
        return self

    def begin_step(self) -> None:
        """Forget the operands of the step before."""

    def stand_in(self, rounded: Tensor) -> Tensor:
        """Return an operand of this step that large products read as these bfloat16 numbers; it holds nan itself."""
        raise TypeError("exact products have no rounded operands")

    def forget(self, operands: Iterable[Tensor]) -> None:
        """Forget some operands: an optimiser has changed them, of which torch does not count every change."""

    def keep(self, parameters: Iterable[Tensor], gradients: Iterable[Tensor] = ()) -> None:
        """Name the parameters whose converted copies outlive a step, and the gradients that may be deferred.

        Changes of the parameters that torch does not count must be told: :meth:`write_copy`, :meth:`forget`.

        Args:
            parameters: (P, ...) each.
            gradients: (P, ...) each, of the optimiser that asks for :meth:`gradient_block`. Nothing but
                :meth:`weight_gradient` writes them.
        """

    def keeps(self, parameter: Tensor) -> bool:
        """Return whether the converted copy of a parameter outlives a step."""
        return False

    def gradient_block(self, gradient: Tensor, block: slice) -> Tensor:
        """Return a part of a gradient (P, ...), flattened; the numbers of a deferred one last until the next call."""
        return gradient.view(-1)[block]

    def complete(self, gradients: Iterable[Tensor]) -> None:
        """Write what is deferred to the gradients themselves."""

    def write_copy(self, parameter: Tensor, block: slice, values: Tensor) -> None:
        """Write numbers of a kept parameter that an optimiser has just changed to its converted copy.

        Args:
            parameter: (P, ...).
            block: where they lie in the flattened array.
            values: the numbers.
        """

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
        """Write ``x weight^T + bias`` to ``out``, (P, B, n_out)."""
        if bias is None:
            return self._bmm(_Cached(x), _Cached(weight).mT, out)
        return self._baddbmm(bias.unsqueeze(1), _Cached(x), _Cached(weight).mT, out)

    def add_linear(self, x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        """Add ``x weight^T`` to ``out``, (P, B, n_out)."""
        return self._baddbmm(out, _Cached(x), _Cached(weight).mT, out)

    def linear_difference(self, differences: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        """Write ``difference weight^T`` of all m differences (P, m, B, n_in) to ``out``, (P, m, B, n_out)."""
        members, count, batch, width = differences.shape
        # Slices of a wider stack keep their rows together, so these are views.
        rows = differences.view(members, count * batch, width)
        self._bmm(rows, _Cached(weight).mT, out.view(members, count * batch, weight.shape[1]))
        return out

    def backward(self, error: Tensor, weight: Tensor) -> Tensor:
        """Return ``error weight``, (P, B, n_in), in new memory."""
        return self._bmm(error, _Cached(weight), error.new_empty(*error.shape[:2], weight.shape[2]))

    def weight_gradient(
        self, error: Tensor, x: Tensor, out: Tensor, *, accumulate: bool = False, cache: bool = True
    ) -> Tensor:
        """Write ``error^T x``, summed over the batch, to ``out`` (P, n_out, n_in).

        Args:
            error: (P, B, n_out).
            x: what the weight multiplies, (P, B, n_in).
            out: receives the gradient.
            accumulate: add to what ``out`` holds.
            cache: ``x`` takes part in other products of the step.
        """
        other = _Cached(x) if cache else x
        return self._baddbmm(out, error.mT, other, out) if accumulate else self._bmm(error.mT, other, out)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the convolution of a member's maps with its kernels, in new memory.

        Args:
            x: (B, C, H, W), its memory ordered by row, column and channel as that of all maps here.
            weight: (C', C, k, k) with k odd: stride 1, and zeros around the maps, which keep their size.
            bias: (C'), or none.

        Returns:
            (B, C', H, W).
        """
        return torch.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def kernel_gradient(self, error: Tensor, x: Tensor, out: Tensor) -> Tensor:
        """Write the gradient of the kernels of :meth:`convolve` to ``out`` (C', C, k, k).

        Args:
            error: at the result, (B, C', H, W).
            x: what was convolved, (B, C, H, W).
            out: receives the gradient.
        """
        return out.copy_(_convolution_gradients(error, x, out, kernels=True))

    def convolve_back(self, error: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """Return the error of the maps ``x`` (B, C, H, W) of an error at the result of :meth:`convolve`.

        Args:
            error: (B, C', H, W).
            weight: (C', C, k, k).
            x: maps of the right shape; their numbers are not read.
        """
        return _convolution_gradients(error, x, weight, kernels=False)

    def _bmm(self, a: _Operand, b: _Operand, out: Tensor) -> Tensor:
        return torch.bmm(_plain(a), _plain(b), out=out)

    def _baddbmm(self, summand: Tensor, a: _Operand, b: _Operand, out: Tensor) -> Tensor:
        return torch.baddbmm(summand, _plain(a), _plain(b), out=out)


def _convolution_gradients(error: Tensor, x: Tensor, weight: Tensor, *, kernels: bool) -> Tensor:
    padding = [weight.shape[-1] // 2] * 2
    of_maps, of_kernels, _ = torch.ops.aten.convolution_backward(
        error, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [not kernels, kernels, False]
    )
    gradient: Tensor = of_kernels if kernels else of_maps
    return gradient


EXACT_MATMUL = MatmulPolicy()
"""Products in the precision of their operands."""


class CountingMatmul(MatmulPolicy):
    """Products whose floating-point operations are counted: 2abc for one of (a, b) and (b, c)."""

    def __init__(self) -> None:
        self.operations = 0

    def _bmm(self, a: _Operand, b: _Operand, out: Tensor) -> Tensor:
        self.operations += 2 * out.numel() * _plain(a).shape[2]
        return super()._bmm(a, b, out)

    def _baddbmm(self, summand: Tensor, a: _Operand, b: _Operand, out: Tensor) -> Tensor:
        self.operations += 2 * out.numel() * _plain(a).shape[2]
        return super()._baddbmm(summand, a, b, out)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        self._count(x, weight)
        return super().convolve(x, weight, bias)

    def kernel_gradient(self, error: Tensor, x: Tensor, out: Tensor) -> Tensor:
        self._count(x, out)
        return super().kernel_gradient(error, x, out)

    def convolve_back(self, error: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        self._count(x, weight)
        return super().convolve_back(error, weight, x)

    def _count(self, x: Tensor, weight: Tensor) -> None:
        # Each position of the maps meets each number of the kernels; zeros around the maps count too.
        self.operations += 2 * x.shape[0] * x.shape[2] * x.shape[3] * weight.numel()


@dataclass(slots=True)
class _Copy:
    """The converted copy of an operand, and the version of the operand that it is of."""

    operand: Tensor
    version: int
    lowered: Tensor | None


@dataclass(slots=True)
class _Deferred:
    """A gradient as the sum of products whose results have stayed in bfloat16, flattened; none: its array holds it."""

    gradient: Tensor
    terms: list[Tensor]


class ReducedPrecisionMatmul(MatmulPolicy):
    """Large products of bfloat16 operands, added up in float32; all that is stored for long stays in float32.

    Args:
        device: of the operands.
        simulated: round the operands and multiply them in float32, for a device without fast bfloat16: the same
            numbers but for the order of adding up, and slower than float32.
        rounded: round the results to bfloat16 as well. None: where torch's kernels do so, which is on CPUs.
    """

    def __init__(self, device: torch.device | str, *, simulated: bool = False, rounded: bool | None = None) -> None:
        self.device, self.simulated = torch.device(device), simulated
        self.rounded = self.device.type == "cpu" if rounded is None else rounded
        # Rounded numbers are held in the type that they are multiplied in.
        self._lowered = Workspace(torch.float32 if simulated else torch.bfloat16, device)
        self._bfloat16 = Workspace(torch.bfloat16, device)
        self._results = Workspace(torch.float32, device)
        # By identity of the operand or gradient.
        self._of_step: dict[int, _Copy] = {}
        self._kept: dict[int, _Copy] = {}
        self._deferred: dict[int, _Deferred] = {}

    @property
    def keeps_copies(self) -> bool:
        # The steps of a GPU may be replayed as a CUDA graph: each must convert what it needs by itself.
        return self.device.type == "cpu"

    def clone(self) -> MatmulPolicy:
        return ReducedPrecisionMatmul(self.device, simulated=self.simulated, rounded=self.rounded)

    def begin_step(self) -> None:
        self._of_step.clear()

    def stand_in(self, rounded: Tensor) -> Tensor:
        values = torch.full((), torch.nan, device=self.device).expand(rounded.shape)
        lowered = self._lowered("stand-in", *rounded.shape).copy_(rounded) if self.simulated else rounded
        self._of_step[id(values)] = _Copy(values, values._version, lowered)
        return values

    def forget(self, operands: Iterable[Tensor]) -> None:
        for operand in operands:
            for copies in (self._of_step, self._kept):
                if (entry := copies.get(id(operand))) is not None:
                    # The same memory is filled again.
                    entry.version = _CHANGED

    def keep(self, parameters: Iterable[Tensor], gradients: Iterable[Tensor] = ()) -> None:
        if not self.keeps_copies:
            return
        for parameter in filter(_may_be_large, parameters):
            self._kept[id(parameter)] = _Copy(parameter, _CHANGED, None)
        if self.rounded:
            for gradient in filter(_may_be_large, gradients):
                self._deferred[id(gradient)] = _Deferred(gradient, [])

    def keeps(self, parameter: Tensor) -> bool:
        return id(parameter) in self._kept

    def weight_gradient(
        self, error: Tensor, x: Tensor, out: Tensor, *, accumulate: bool = False, cache: bool = True
    ) -> Tensor:
        deferred = self._deferred.get(id(out))
        if deferred is None or not _is_large(error.mT, x) or (accumulate and not deferred.terms):
            if deferred is not None:
                self.complete([out])
            return super().weight_gradient(error, x, out, accumulate=accumulate, cache=cache)
        if not accumulate:
            deferred.terms.clear()
        name = f"gradient {list(self._deferred).index(id(out))}, {len(deferred.terms)}"
        deferred.terms.append(self._rounded_product(error.mT, _Cached(x) if cache else x, name, out.shape).view(-1))
        return out

    def gradient_block(self, gradient: Tensor, block: slice) -> Tensor:
        deferred = self._deferred.get(id(gradient))
        if deferred is None or not deferred.terms:
            return super().gradient_block(gradient, block)
        first, *others = deferred.terms
        numbers = self._results("block", block.stop - block.start).copy_(first[block])
        for other in others:
            numbers.add_(self._results("other block", len(numbers)).copy_(other[block]))
        return numbers

    def complete(self, gradients: Iterable[Tensor]) -> None:
        for gradient in gradients:
            deferred = self._deferred.get(id(gradient))
            if deferred is not None and deferred.terms:
                flat = gradient.view(-1)
                flat.copy_(self.gradient_block(gradient, slice(0, len(flat))))
                deferred.terms.clear()

    def write_copy(self, parameter: Tensor, block: slice, values: Tensor) -> None:
        entry = self._kept.get(id(parameter))
        # A copy that was out of date before stays so: its version is left as it is.
        if entry is not None and entry.lowered is not None:
            self._fill(entry.lowered.view(-1)[block], values)

    def _bmm(self, a: _Operand, b: _Operand, out: Tensor) -> Tensor:
        if not _is_large(_plain(a), _plain(b)):
            return super()._bmm(a, b, out)
        if self.rounded:
            return out.copy_(self._rounded_product(a, b, "result", out.shape))
        return self._product(a, b, out)

    def _baddbmm(self, summand: Tensor, a: _Operand, b: _Operand, out: Tensor) -> Tensor:
        if not _is_large(_plain(a), _plain(b)):
            return super()._baddbmm(summand, a, b, out)
        if summand is out:
            return out.add_(self._bmm(a, b, self._results("result", *out.shape)))
        return self._bmm(a, b, out).add_(summand)

    def _product(self, a: _Operand, b: _Operand, out: Tensor) -> Tensor:
        """Write the product of the rounded operands to ``out``, float32."""
        left, right = self._lower(a, "left"), self._lower(b, "right")
        if self.simulated:
            return torch.bmm(left, right, out=out)
        return torch.bmm(left, right, out_dtype=torch.float32, out=out)

    def _rounded_product(self, a: _Operand, b: _Operand, name: str, shape: torch.Size) -> Tensor:
        """Return the product of the rounded operands in bfloat16; ``name`` names its memory."""
        memory = self._bfloat16(name, *shape)
        if self.simulated:
            return memory.copy_(self._product(a, b, self._results("product", *shape)))
        return torch.bmm(self._lower(a, "left"), self._lower(b, "right"), out=memory)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not _is_large_convolution(x, weight):
            return super().convolve(x, weight, bias)
        result = super().convolve(self._lower_maps(x), self._lower_maps(weight))
        return self._raise(result) if bias is None else self._raise(result).add_(bias.view(-1, 1, 1))

    def kernel_gradient(self, error: Tensor, x: Tensor, out: Tensor) -> Tensor:
        if not _is_large_convolution(x, out):
            return super().kernel_gradient(error, x, out)
        lowered = _convolution_gradients(
            self._lower_maps(error), self._lower_maps(x), self._lower_maps(out), kernels=True
        )
        return out.copy_(self._raise(lowered))

    def convolve_back(self, error: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        if not _is_large_convolution(x, weight):
            return super().convolve_back(error, weight, x)
        # Of x the shape alone is read.
        shape = x.new_empty(x.shape, dtype=self._lowered.dtype).contiguous(memory_format=torch.channels_last)
        return self._raise(super().convolve_back(self._lower_maps(error), self._lower_maps(weight), shape))

    def _lower_maps(self, values: Tensor) -> Tensor:
        """Round maps or kernels; torch keeps the order of their memory."""
        rounded = values.to(torch.bfloat16)
        return rounded.to(values.dtype) if self.simulated else rounded

    def _raise(self, result: Tensor) -> Tensor:
        """Return the float32 result of a convolution, which torch rounds to its operands' type."""
        if self.simulated and self.rounded:
            result = result.to(torch.bfloat16)
        return result.to(torch.float32)

    def _lower(self, operand: _Operand, name: str) -> Tensor:
        if isinstance(operand, _Cached):
            lowered = self._lower_once(operand.tensor)
            return lowered.mT if operand.transposed else lowered
        # A transposed operand is converted as it lies in memory.
        if operand.mT.is_contiguous() and not operand.is_contiguous():
            return self._cast(operand.mT, name).mT
        return self._cast(operand, name)

    def _lower_once(self, values: Tensor) -> Tensor:
        entry = self._kept.get(id(values)) or self._of_step.setdefault(id(values), _Copy(values, _CHANGED, None))
        if entry.lowered is None:
            if id(values) in self._kept:
                entry.lowered = torch.empty_like(values, dtype=self._lowered.dtype)
            else:
                # In the order of first use, which is the same in each step of a kind: so is the memory.
                entry.lowered = self._lowered(f"operand {len(self._of_step)}", *values.shape)
        if entry.version != values._version:
            self._fill(entry.lowered, values)
            entry.version = values._version
        return entry.lowered

    def _cast(self, values: Tensor, name: str) -> Tensor:
        return self._fill(self._lowered(name, *values.shape), values)

    def _fill(self, memory: Tensor, values: Tensor) -> Tensor:
        return memory.copy_(self._round(values) if self.simulated else values)

    def _round(self, values: Tensor) -> Tensor:
        return self._bfloat16("rounded", *values.shape).copy_(values)


def _may_be_large(array: Tensor) -> bool:
    """Return whether an array of a pack can be an operand, or the result, of a large product."""
    return array.dim() == 3 and min(array.shape[1:]) >= LARGE


def _is_large(a: Tensor, b: Tensor) -> bool:
    return min(a.shape[1], a.shape[2], b.shape[2]) >= LARGE


def _is_large_convolution(x: Tensor, weight: Tensor) -> bool:
    # The channels of the result may be few: there are many positions.
    return min(weight[0].numel(), x.shape[0] * x.shape[2] * x.shape[3]) >= LARGE


def slow_bfloat16(device: str) -> str:
    """Return the reason why bfloat16 products are slow on a device; empty if they are fast or it is not at hand."""
    if device.startswith("cuda"):
        if not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= _FAST_GPU:
            return ""
        return f"{torch.cuda.get_device_name(device)} has no bfloat16 products"
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return ""
    return "this CPU has neither AVX-512 BF16 nor AMX"


def matmul_policy(precision: str, device: torch.device | str) -> MatmulPolicy:
    """Return the matmul policy of a precision (one of :data:`tpbench.engine.PRECISIONS`) on a device."""
    return ReducedPrecisionMatmul(device) if precision == "bf16" else EXACT_MATMUL


@lru_cache(maxsize=1)
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="tpbench")


def in_parallel(task: Callable[[int, int], None], rows: int, size: int) -> None:
    """Run ``task(first, last)`` over parts of ``rows``, on as many threads as torch uses.

    For library calls that release the interpreter but use one thread. The result does not depend on the parts.

    Args:
        task: does the rows ``first <= row < last``.
        rows: their number.
        size: numbers in all; a few are done in one call.
    """
    threads = min(torch.get_num_threads(), rows)
    if threads < 2 or size < _PARALLEL_SIZE:
        task(0, rows)
        return
    bounds = [rows * k // threads for k in range(threads + 1)]
    for part in [_threads(threads).submit(task, a, b) for a, b in pairwise(bounds)]:
        part.result()


def tanh_(x: Tensor) -> Tensor:
    """Apply tanh in place. On a CPU numpy's is several times as fast as torch's, to the same last digit or two."""
    if x.device.type != "cpu":
        return x.tanh_()
    array = x.numpy()

    def part(first: int, last: int) -> None:
        np.tanh(array[first:last], out=array[first:last])

    in_parallel(part, len(array), array.size)
    return x


def tanh_slope(h: Tensor, out: Tensor | None = None) -> Tensor:
    """Return ``1 - h^2``, the slope of tanh where it is h."""
    return torch.addcmul(_one(h.dtype, h.device), h, h, value=-1, out=out)


@lru_cache(maxsize=16)
def _one(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones((), dtype=dtype, device=device)


@lru_cache(maxsize=16)
def _next_above_one(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), 1 + torch.finfo(dtype).eps, dtype=dtype, device=device)


def forget_constants() -> None:
    """Make the constants of each device again when they are next used: those of a fake device hold no numbers."""
    _one.cache_clear()
    _next_above_one.cache_clear()


def tanh_difference_(h: Tensor, slope: Tensor, d: Tensor, buffer: Tensor | None = None) -> Tensor:
    """Replace ``d`` by ``tanh(a + d) - tanh(a)`` where ``h = tanh(a)``, without cancellation.

    Uses the addition theorem: with ``t = tanh(d)`` it is ``t (1 - h^2) / (1 + h t)``.

    Args:
        h: tanh activities, broadcast against ``d``.
        slope: ``1 - h^2``, which the caller has at hand anyway.
        d: change of the pre-activation; becomes the change of the activity.
        buffer: working memory of the shape of ``d``.
    """
    t = tanh_(d)
    # A saturated unit has h = +-1 and slope 0, and the opposite t makes 1 + h t zero too. One eps more than 1
    # makes that 0 / eps = 0, as it should be, and changes nothing else beyond rounding.
    denominator = torch.addcmul(_next_above_one(d.dtype, d.device), h, t, out=buffer)
    return t.mul_(slope).div_(denominator)
