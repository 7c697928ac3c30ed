"""Difference-form arithmetic and the output losses.

Section B.1 (Numerical errors) of the paper needs float64 because ``hhat - h`` is formed by subtracting nearly equal
numbers. Nothing here ever forms it that way: the difference itself is propagated, so float32 keeps float32's relative
precision however small the output target step is.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


def tanh_difference(h: Tensor, slope: Tensor, d: Tensor, out: Tensor | None = None) -> Tensor:
    """``tanh(a + d) - tanh(a)`` from ``h = tanh(a)``, without cancellation.

    Uses the addition theorem: with ``t = tanh(d)`` it is ``t (1 - h^2) / (1 + h t)``.

    Args:
        h: tanh activities.
        slope: ``1 - h^2``, which the caller has at hand anyway.
        d: change of the pre-activation; broadcast against ``h``.
        out: where to write the result; may be ``d`` itself.

    Returns:
        The change of the activity, shaped like ``d``.
    """
    t = torch.tanh(d, out=out)
    # A saturated unit has h = +-1 and slope 0; the opposite t makes 1 + h t zero too. 0 / tiny is 0, as it should.
    denominator = torch.mul(h, t).add_(1.0).clamp_min_(torch.finfo(d.dtype).tiny)
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
