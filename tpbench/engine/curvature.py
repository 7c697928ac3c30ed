"""The loss's curvature at the output, for generalised Gauss-Newton targets (appendix D).

For softmax with cross-entropy ``H_L = diag(p) - p p^T = K_L K_L^T``. The paper takes K_L from an SVD; here it is
``K_L = diag(sqrt p) - p sqrt(p)^T``, which has the same product and needs none (two such factors differ by an
orthogonal matrix, which the feedback path takes up). H_L is singular, because the probabilities add up to 1, so K_L has
no inverse: its pseudo-inverse stands for it. That loses nothing: ``e_L = p - l`` lies in the range of H_L, where
``K_L^+ e_L = e_L / sqrt p`` solves ``K_L x = e_L`` exactly and with the least norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-6
"""Probabilities below this count as this, or ``e_L / sqrt p`` would grow without bound where the network is surely
wrong."""


def root_probabilities(outputs: Tensor) -> Tensor:
    """``sqrt p`` of the softmax of linear outputs (P, B, n_L)."""
    return torch.softmax(outputs, dim=-1).clamp_min(FLOOR).sqrt()


def apply_factor(root: Tensor, change: Tensor) -> Tensor:
    """``K_L^T`` times a change of the outputs (equation 191).

    Args:
        root: ``sqrt p``, (P, B, n_L).
        change: (P, m, B, n_L).
    """
    root = root.unsqueeze(1)
    return root * (change - (root.square() * change).sum(-1, keepdim=True))


def apply_inverse_factor(root: Tensor, gradient: Tensor) -> Tensor:
    """``K_L^+ e_L`` (equation 195), (P, B, n_L)."""
    return gradient / root


def hessian(outputs: Tensor) -> Tensor:
    """``H_L`` of every sample, (P, B, n_L, n_L)."""
    p = torch.softmax(outputs, dim=-1)
    return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
