"""The batched matrix products of a step: exact, or with the operands of the large ones in bfloat16."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tpbench.engine.scratch import Scratch

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
