"""Difference-form arithmetic and the output losses.

Section B.1 (Numerical errors) of the paper needs float64 because ``hhat - h`` is formed by subtracting nearly equal
numbers. Nothing here ever forms it that way: the difference itself is propagated, so float32 keeps float32's relative
precision however small the output target step is.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

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
