"""Angles between the updates of a method and the loss gradient or Gauss-Newton targets' updates (section B.2).

The "update" is the gradient of the local losses, before the optimiser, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tpbench.engine.gauss_newton import gauss_newton_change
from tpbench.engine.methods import Minibatch, gradient_targets
from tpbench.engine.network import Parameters

DAMPINGS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""The damping constants that section B.2 tries; 0 is the undamped GNT of Condition 2."""


def angles(one: Tensor, other: Tensor) -> Tensor:
    """Return the angles in degrees (P,) between the matrices of every member, (P, m, n) each."""
    one, other = one.flatten(1).double(), other.flatten(1).double()
    norms = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(other, dim=1)
    cosine = (one * other).sum(1) / norms
    return torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))


def weight_gradient(batch: Minibatch, layer: int, change: Tensor) -> Tensor:
    """Return ``dL_i/dW_i`` of the local loss whose target lies ``change`` (P, B, n_i) away, up to its scale."""
    chosen = batch.layers[layer - 1]
    into = Parameters(chosen.shapes, len(change), dtype=change.dtype, device=change.device)
    slope = batch.slopes[layer] if chosen.squash else None
    chosen.gradient(-change, slope, batch.activities[layer - 1], into, pooling=batch.pooling)
    return into[chosen.weight]


def null_space_share(jacobian: Tensor, slope: Tensor, gradient: Tensor) -> Tensor:
    """Return the share of a weight update that cannot change the output, for a minibatch of one sample (Fig. 2).

    Args:
        jacobian: ``dh_L/dh_i``, (P, n_L, n_i).
        slope: ``1 - h_i^2``, (P, n_i).
        gradient: the update of ``W_i``, (P, n_i, n_{i-1}): for one sample it is an outer product with h_{i-1}.

    Returns:
        Norm of the part in the null space of ``dh_L/dW_i`` over the norm of the update, (P,).
    """
    through = jacobian.double() * slope.double().unsqueeze(1)
    gradient = gradient.double()
    useful = torch.linalg.pinv(through) @ (through @ gradient)
    rest, norms = (gradient - useful).flatten(1), torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    share: Tensor = torch.linalg.vector_norm(rest, dim=1) / norms
    return share


@dataclass
class AlignmentLog:
    """Watches the steps of a pack (``PackState.observer``) and measures every ``every``-th minibatch.

    The lists hold one entry per measurement: ``steps`` its minibatch, ``loss_angles`` a tensor (P, L-1) of degrees, and
    ``target_angles`` one (P, len(dampings), L-1).
    """

    every: int
    dampings: tuple[float, ...] = DAMPINGS
    seen: int = 0
    steps: list[int] = field(default_factory=list)
    loss_angles: list[Tensor] = field(default_factory=list)
    target_angles: list[Tensor] = field(default_factory=list)

    def __call__(self, batch: Minibatch, gradients: Parameters) -> None:
        """Measure a minibatch with its local gradients, before any parameter changes, if its turn has come."""
        if self.seen % self.every == 0:
            self.steps.append(self.seen)
            self.measure(batch, gradients)
        self.seen += 1

    def measure(self, batch: Minibatch, gradients: Parameters) -> None:
        """Append one measurement."""
        hidden = batch.architecture.hidden
        # The references are exact, whatever precision the pack has.
        loss_targets = gradient_targets(replace(batch, matmul=None))
        self.loss_angles.append(
            torch.stack(
                [angles(gradients[f"W{i}"], weight_gradient(batch, i, loss_targets[i - 1])) for i in hidden], 1
            ).cpu()
        )
        jacobians = batch.jacobians()
        members, rows = batch.output_gradient.shape[0], []
        for damping in self.dampings:
            damped = torch.full((members,), damping, dtype=torch.float64, device=batch.output_gradient.device)
            row = []
            for i in hidden:
                change = gauss_newton_change(jacobians[i - 1], batch.output_gradient, damped)
                row.append(angles(gradients[f"W{i}"], weight_gradient(batch, i, change)))
            rows.append(torch.stack(row, 1))
        self.target_angles.append(torch.stack(rows, 1).cpu())
