"""What the targets are: Lemma 1, Theorem 2 and Lemma 3."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tpbench.engine.feedback import FeedbackState
from tpbench.engine.gauss_newton import gauss_newton_change, output_jacobians
from tpbench.engine.methods import Minibatch, propagated_targets
from tpbench.engine.network import Parameters, forward, network_layers, squared_error
from tpbench.engine.parts import LAYERWISE_TANH, Architecture
from tpbench.engine.precision import Workspace, tanh_slope
from tpbench.engine.theory.check import DTYPE, Check, draw, network, relative

_WIDTH, _BATCH = 5, 3


class InverseFeedback:
    """Condition 1: ``g_i`` is the exact inverse of the next layer, so no difference correction is needed."""

    def __init__(self, architecture: Architecture, parameters: Parameters, activities: list[Tensor]) -> None:
        self.architecture, self.parameters, self.activities = architecture, parameters, activities

    def targets(self, output_change: Tensor) -> list[Tensor]:
        depth, target = self.architecture.depth, self.activities[-1] + output_change
        found: list[Tensor] = []
        for i in range(depth, 1, -1):
            before = torch.atanh(target) if i < depth else target
            target = torch.linalg.solve(
                self.parameters[f"W{i}"].unsqueeze(1), (before - self.parameters[f"b{i}"].unsqueeze(1)).unsqueeze(-1)
            ).squeeze(-1)
            found.insert(0, target - self.activities[i - 1])
        return found


def _pass(architecture: Architecture, parameters: Parameters, name: str) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Activities, slopes and output gradient of a minibatch with the squared error."""
    activities = [draw(f"{name} x", 1, _BATCH, architecture.sizes[0])]
    activities += [torch.empty(1, _BATCH, n, dtype=DTYPE) for n in architecture.sizes[1:]]
    forward(network_layers(architecture), parameters, activities)
    _, _, gradient = squared_error(activities[-1], draw(f"{name} y", 1, _BATCH, architecture.sizes[-1]))
    slopes = [activities[0], *(tanh_slope(activities[i]) for i in architecture.hidden)]
    return activities, slopes, gradient


def _propagate(eta: float) -> tuple[list[Tensor], list[Tensor]]:
    """The targets of TP in an invertible network, and the first-order ones of equation 6, from the Jacobians."""
    architecture, parameters = network("invertible", *[_WIDTH] * 4)
    activities, slopes, gradient = _pass(architecture, parameters, "invertible")
    feedback = InverseFeedback(architecture, parameters, activities)
    batch = Minibatch(
        architecture,
        parameters,
        activities,
        slopes,
        gradient,
        {"eta": torch.tensor([eta], dtype=DTYPE)},
        feedback,  # type: ignore[arg-type]
    )
    jacobians = output_jacobians(parameters, slopes, architecture.depth)
    none = torch.zeros(1, dtype=DTYPE)
    expected = [eta * gauss_newton_change(jacobian, gradient, none) for jacobian in jacobians]
    return propagated_targets(batch)[:-1], expected


def _worst(eta: float) -> float:
    return max(relative(mine, wanted) for mine, wanted in zip(*_propagate(eta), strict=True))


def lemma_1() -> Iterator[Check]:
    """Lemma 1: with exact inverses the target update is ``-eta J^{-1} e_L + O(eta^2)`` (equation 6)."""
    small, large = _worst(1e-4), _worst(1e-3)
    setting = f"tanh, {_WIDTH}-{_WIDTH}-{_WIDTH}-{_WIDTH}, exact inverses"
    yield Check("Lemma 1", "first-order error of the target update at eta = 1e-4", setting, small, upper=1e-3)
    # The error is relative to the update, which itself is proportional to eta: the remainder falls 100-fold.
    yield Check(
        "Lemma 1", "remainder falls as eta^2: its ratio for eta 10 times as small", setting, 10 * large / small, 80, 120
    )


def theorem_2() -> Iterator[Check]:
    """Theorem 2: for one sample and the squared error, TP's targets are those of Gauss-Newton on each layer."""
    mine, _ = _propagate(1e-7)
    architecture, parameters = network("invertible", *[_WIDTH] * 4)
    _, slopes, gradient = _pass(architecture, parameters, "invertible")
    worst = 0.0
    for i, jacobian in enumerate(output_jacobians(parameters, slopes, architecture.depth)):
        # The Gauss-Newton step of one layer's activities: the least-squares solution of J dh = -e_L (Lemma S2).
        step = torch.linalg.lstsq(jacobian, -gradient.unsqueeze(-1)).solution.squeeze(-1)
        worst = max(worst, relative(mine[i] / 1e-7, step))
    yield Check(
        "Theorem 2",
        "TP's targets / eta against the least-squares Gauss-Newton step, eta = 1e-7",
        f"tanh, {_WIDTH}-{_WIDTH}-{_WIDTH}-{_WIDTH}, squared error",
        worst,
        upper=1e-5,
    )


def _dtp_error(eta: float) -> float:
    architecture, parameters = network("dtp", 6, 7, 5, 4, 3)
    activities, _, gradient = _pass(architecture, parameters, "dtp")
    maps = Parameters(LAYERWISE_TANH.shapes(architecture), 1, dtype=DTYPE, device="cpu")
    for name in maps:
        maps[name].copy_(0.5 * draw(f"dtp {name}", *maps[name].shape))
    state = FeedbackState(LAYERWISE_TANH, architecture, maps, {}, activities, Workspace(DTYPE, "cpu"))
    mine = state.targets(-eta * gradient)
    worst, product = 0.0, -eta * gradient
    for i in reversed(architecture.hidden):
        g = torch.tanh(activities[i + 1] @ maps[f"Q{i}"].mT + maps[f"c{i}"].unsqueeze(1))
        product = (product @ maps[f"Q{i}"].mT) * (1 - g * g)
        worst = max(worst, relative(mine[i - 1], product))
    return worst


def lemma_3() -> Iterator[Check]:
    """Lemma 3: with the difference correction the target update is ``-eta (product of J_g) e_L + O(eta^2)``."""
    small, large = _dtp_error(1e-4), _dtp_error(1e-3)
    setting = "tanh, 6-7-5-4-3, random layer-wise tanh feedback"
    yield Check("Lemma 3", "first-order error of DTP's target update at eta = 1e-4", setting, small, upper=1e-3)
    yield Check(
        "Lemma 3", "remainder falls as eta^2: its ratio for eta 10 times as small", setting, 10 * large / small, 80, 120
    )
