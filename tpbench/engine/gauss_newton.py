"""Gauss-Newton targets, damped and not, and the loss's curvature at the output.

The targets are those of section 3.4 (Conditions 2 and S3). The curvature belongs to generalised Gauss-Newton targets
(appendix D): for softmax with cross-entropy ``H_L = diag(p) - p p^T = K_L K_L^T``. The paper takes K_L from an SVD;
here it is ``K_L = diag(sqrt p) - p sqrt(p)^T``, which has the same product and needs none (two such factors differ by
an orthogonal matrix, which the feedback path takes up). H_L is singular, because the probabilities add up to 1, so K_L
has no inverse: its pseudo-inverse stands for it. That loses nothing: ``e_L = p - l`` lies in the range of H_L, where
``K_L^+ e_L = e_L / sqrt p`` solves ``K_L x = e_L`` exactly and with the least norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tpbench.engine.network import Parameters

FLOOR = 1e-6
"""Probabilities below this count as this, or ``e_L / sqrt p`` would grow without bound where the network is surely
wrong."""


def output_jacobians(
    forward_parameters: Parameters,
    slopes: list[Tensor],
    depth: int,
    send_back: Callable[[int, Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """Return ``J_i = d h_L / d h_i`` of every sample for the hidden layers i = 1 .. L-1, in float64.

    Whatever the precision of the pack: behind a bottleneck J has exact zeros among its singular values, which float32
    products would turn into small numbers that a pseudo-inverse then blows up. The h_i of a convolutional layer lies
    after its pooling.

    Args:
        forward_parameters: ``W{i}`` of the pack.
        slopes: ``1 - h_i^2`` of the hidden layers, indexed by layer, each (P, B, n_i).
        depth: L.
        send_back: returns the errors of h_{i-1} (P, B n_L, n_{i-1}) of i and errors of layer i's pre-activations, both
            in float64, the rows of a sample together; None: every W_i is a matrix.

    Returns:
        Entry i - 1 is J_i, (P, B, n_L, n_i): one batched product per layer, all samples and outputs at once.
    """
    members, batch, _ = slopes[1].shape
    last = forward_parameters[f"W{depth}"].double()
    jacobian = last.unsqueeze(1).expand(-1, batch, -1, -1)
    jacobians = [jacobian]
    for i in range(depth - 1, 1, -1):
        scaled = (jacobian * slopes[i].unsqueeze(2)).reshape(members, -1, slopes[i].shape[2])
        back = send_back(i, scaled) if send_back else torch.bmm(scaled, forward_parameters[f"W{i}"].double())
        jacobian = back.view(members, batch, last.shape[1], -1)
        jacobians.insert(0, jacobian)
    return jacobians


def gauss_newton_change(
    jacobian: Tensor, output_gradient: Tensor, damping: Tensor, undamped: Sequence[bool] | None = None
) -> Tensor:
    """Return ``-J^T (J J^T + damping I)^{-1} e_L`` per sample (equation 163), the pseudo-inverse without damping.

    Equation 12 is the case without damping. The small systems are solved in float64: J J^T squares the condition
    number of J.

    Args:
        jacobian: J_i, (P, B, n_L, n_i), float64.
        output_gradient: ``dL/dh_L``, (P, B, n_L).
        damping: Tikhonov damping of every member, (P,), not negative.
        undamped: one truth value per member: its damping is 0; None: read from the device.

    Returns:
        ``hhat_i - h_i``, (P, B, n_i), in the precision of ``output_gradient``.
    """
    zero = (damping == 0).tolist() if undamped is None else list(undamped)
    if not any(zero):
        return _damped_change(jacobian, output_gradient, damping)
    if all(zero):
        return _undamped_change(jacobian, output_gradient)
    change = output_gradient.new_empty(*jacobian.shape[:2], jacobian.shape[3])
    without, damped = [p for p, z in enumerate(zero) if z], [p for p, z in enumerate(zero) if not z]
    change[without] = _undamped_change(jacobian[without], output_gradient[without])
    change[damped] = _damped_change(jacobian[damped], output_gradient[damped], damping[damped])
    return change


def _damped_change(jacobian: Tensor, output_gradient: Tensor, damping: Tensor) -> Tensor:
    identity = torch.eye(jacobian.shape[2], dtype=jacobian.dtype, device=jacobian.device)
    system = jacobian @ jacobian.mT + damping.double().view(-1, 1, 1, 1) * identity
    # Not solve(), which looks whether the system is singular and for that waits for the GPU. A damped one is not, but
    # for rounding: a damping of less than 1e-15 of what J J^T has is lost there, as it is with solve().
    solved, _ = torch.linalg.solve_ex(system, output_gradient.double().unsqueeze(-1))
    change: Tensor = jacobian.mT @ solved
    return -change.squeeze(-1).to(output_gradient)


def _undamped_change(jacobian: Tensor, output_gradient: Tensor) -> Tensor:
    # pinv() raises for the whole pack if one member's numbers have become non-finite.
    finite = jacobian.isfinite().all(-1).all(-1)
    inverse = torch.linalg.pinv(jacobian.masked_fill(~finite[..., None, None], 0))
    change: Tensor = (inverse @ output_gradient.double().unsqueeze(-1)).squeeze(-1)
    return -change.masked_fill(~finite.unsqueeze(-1), torch.nan).to(output_gradient)


def root_probabilities(outputs: Tensor) -> Tensor:
    """Return ``sqrt p`` of the softmax of linear outputs (P, B, n_L)."""
    return torch.softmax(outputs, dim=-1).clamp_min(FLOOR).sqrt()


def apply_factor(root: Tensor, change: Tensor) -> Tensor:
    """Return ``K_L^T`` times a change of the outputs (equation 191).

    Args:
        root: ``sqrt p``, (P, B, n_L).
        change: (P, m, B, n_L).
    """
    root = root.unsqueeze(1)
    return root * (change - (root.square() * change).sum(-1, keepdim=True))


def apply_inverse_factor(root: Tensor, gradient: Tensor) -> Tensor:
    """Return ``K_L^+ e_L`` (equation 195), (P, B, n_L)."""
    return gradient / root
