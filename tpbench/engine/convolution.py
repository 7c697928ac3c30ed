"""Convolution with max-pooling of one member's maps, and what changes and errors do on their way through it.

Maps are (B, C, H, W) tensors whose memory is ordered by row, column and channel ("channels last"): convolution and
above all pooling are several times as fast so. Pooling comes before tanh, which is monotonic: the winners and the
numbers are those of pooling after tanh, on a quarter of the numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from tpbench.engine.parts import Convolution, Map
from tpbench.engine.precision import Workspace

_pool_with_winners = torch.ops.aten.max_pool2d_with_indices.out
_send_to_winners = torch.ops.aten.max_pool2d_with_indices_backward.grad_input


class PoolingMemory:
    """The memory of a pack's convolutional layers: what a forward pass leaves for errors and changes that follow it.

    Args:
        dtype, device: of the maps.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device | str) -> None:
        self.maps, self._positions = Workspace(dtype, device), Workspace(torch.int64, device)
        self._winners: dict[int, Tensor] = {}
        self.before: dict[int, list[Tensor]] = {}
        """By layer, pre-activations before the pooling of every member, (B, C, H, W)."""

    def winners(self, layer: int, members: int, batch: int, shape: Map) -> Tensor:
        """Return where a forward pass writes the winners of a layer's windows, (P, B, C, H', W').

        A winner is a position among rows x columns before the pooling.
        """
        channels, rows, columns = shape
        memory = self._positions(f"winners {layer}", members, batch, rows, columns, channels)
        self._winners[layer] = memory.permute(0, 1, 4, 2, 3)
        return self._winners[layer]

    def winners_of(self, layer: int) -> Tensor:
        """Return the winners that the last forward pass wrote."""
        return self._winners[layer]


def channels_last(maps: Tensor) -> Tensor:
    """Return maps (B, C, H, W) with their memory ordered by row, column and channel."""
    return maps.contiguous(memory_format=torch.channels_last)


def _windows(layer: Convolution) -> tuple[list[int], list[int], list[int], list[int], bool]:
    """Return window, stride, padding, dilation and rounding of the map's size, as torch's kernels take them."""
    return [layer.pool] * 2, [layer.stride] * 2, [layer.pool_padding] * 2, [1, 1], False


def largest_of_windows(maps: Tensor, layer: Convolution) -> Tensor:
    """Return the largest number of each window of maps (B, C, H, W), (B, C, H', W')."""
    if layer.pool == 1:
        return maps
    values: Tensor = max_pool2d(maps, layer.pool, layer.stride, layer.pool_padding)
    return values


def pool(maps: Tensor, layer: Convolution, winners: Tensor, memory: Workspace) -> Tensor:
    """Return the largest number of each window (B, C, H', W'), and write its position; on a tie the first in row order.

    Args:
        maps: (B, C, H, W).
        layer: what pools.
        winners: receives the positions, (B, C, H', W').
        memory: the result lies in it.
    """
    batch, channels, rows, columns = winners.shape
    values = memory(f"pooled {rows}", batch, rows, columns, channels).permute(0, 3, 1, 2)
    # A GPU's kernel takes the order of the results' memory from that of the maps.
    _pool_with_winners(channels_last(maps), *_windows(layer), out=values, indices=winners)
    return values


def send_to_winners(error: Tensor, winners: Tensor, layer: Convolution, shape: Map, memory: Workspace) -> Tensor:
    """Return the error before the pooling: each window's at its winner, added up where one position won several.

    Args:
        error: after the pooling, (B, C, H', W').
        winners: of :func:`pool`.
        layer: what pooled.
        shape: of the maps before the pooling.
        memory: the result (B, C, H, W) lies in it.
    """
    channels, rows, columns = shape
    sent = memory(f"sent {rows}", len(error), rows, columns, channels).permute(0, 3, 1, 2)
    # Of the maps before the pooling torch reads the shape alone.
    _send_to_winners(channels_last(error), sent, *_windows(layer), winners, grad_input=sent)
    return sent


def pooled_change(before: Tensor, winners: Tensor, change: Tensor, layer: Convolution, memory: Workspace) -> Tensor:
    """Return the change of the pooled pre-activations when those before the pooling change, without cancellation.

    Where the winner stays it is the change at the winner. Where another position wins, the difference of the two
    pre-activations comes on top, which is small and subtracted exactly.

    Args:
        before: pre-activations, (B, C, H, W).
        winners: of their pooling, (B, C, H', W').
        change: of the pre-activations, (B, C, H, W).
        layer: what pools.
        memory: working memory.

    Returns:
        The change, (B, C, H', W').
    """
    others = torch.empty_like(winners)
    pool(before + change, layer, others, memory)
    return (_at(before, others) - _at(before, winners)).add_(_at(change, others))


def _at(maps: Tensor, positions: Tensor) -> Tensor:
    """Return maps (B, C, H, W) at positions among rows x columns, (B, C, H', W')."""
    return maps.flatten(2).gather(2, positions.flatten(2)).view(positions.shape)
