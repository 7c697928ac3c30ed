"""What the parameter updates are in linear networks: Theorem 5 and its corollaries, Theorem 6."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tpbench.engine.configuration import Configuration
from tpbench.engine.feedback import FeedbackState
from tpbench.engine.gauss_newton import gauss_newton_change, output_jacobians
from tpbench.engine.methods import METHODS
from tpbench.engine.network import Parameters, squared_error
from tpbench.engine.parts import Architecture, Feedback
from tpbench.engine.precision import Workspace
from tpbench.engine.step import PackState
from tpbench.engine.theory.check import DTYPE, Check, cosine, degrees, draw

_LINEAR = Feedback(direct=False, squash=False)
_CONFIGURATION: Configuration = {"lr": 1.0, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "damping": 0.0}


@dataclass
class LinearNetwork:
    """A linear network at a minibatch: the engine's parts with all slopes 1."""

    pack: PackState
    x: Tensor
    y: Tensor

    @classmethod
    def make(cls, name: str, sizes: tuple[int, ...], batch: int) -> LinearNetwork:
        pack = PackState(METHODS["gnt"], Architecture(sizes), [_CONFIGURATION], [0], dtype=DTYPE)
        for i in pack.architecture.layers:
            pack.forward[f"W{i}"].copy_(draw(f"{name} W{i}", 1, sizes[i], sizes[i - 1]) / sizes[i - 1] ** 0.5)
        return cls(pack, draw(f"{name} x", 1, batch, sizes[0]), draw(f"{name} y", 1, batch, sizes[-1]))

    @property
    def depth(self) -> int:
        return self.pack.architecture.depth

    def activities(self) -> list[Tensor]:
        found = [self.x]
        for i in self.pack.architecture.layers:
            found.append(found[-1] @ self.pack.forward[f"W{i}"].mT + self.pack.forward[f"b{i}"].unsqueeze(1))
        return found

    def slopes(self, activities: list[Tensor]) -> list[Tensor]:
        return [activities[0], *(torch.ones_like(activities[i]) for i in self.pack.architecture.hidden)]

    def output_gradient(self) -> Tensor:
        return squared_error(self.activities()[-1], self.y)[2]

    def jacobians(self) -> list[Tensor]:
        """``dh_L/dh_i`` of the hidden layers, and the identity for the output."""
        activities = self.activities()
        found = output_jacobians(self.pack.forward, self.slopes(activities), self.depth)
        outputs = torch.eye(self.y.shape[-1], dtype=DTYPE).expand(1, self.x.shape[1], -1, -1)
        return [*found, outputs]

    def gauss_newton_updates(self) -> list[Tensor]:
        """``dW_i`` of GNT with learning rate 1 (Condition 2)."""
        gradient, none = self.output_gradient(), torch.zeros(1, dtype=DTYPE)
        return self.updates([gauss_newton_change(jacobian, gradient, none) for jacobian in self.jacobians()])

    def updates(self, targets: list[Tensor]) -> list[Tensor]:
        """``dW_i`` that the engine's local gradients give for these targets, with learning rate 1."""
        activities = self.activities()
        self.pack.local_gradients(activities, self.slopes(activities), targets)
        return [-self.pack.forward_gradients[f"W{i}"][0].clone() for i in self.pack.architecture.layers]

    def loss_gradients(self) -> list[Tensor]:
        """``dL/dW_i`` by the chain rule."""
        activities, above = self.activities(), self.output_gradient()
        found: list[Tensor] = []
        for i in range(self.depth, 0, -1):
            found.insert(0, (above.mT @ activities[i - 1])[0])
            above = above @ self.pack.forward[f"W{i}"]
        return found

    def output_map(self, i: int) -> Tensor:
        """``dh_L / dvec(W_i)`` of the first sample, (n_L, n_i n_{i-1})."""
        # Multiplied out here, not taken from the engine, so that an error there shows.
        jacobian = torch.eye(self.y.shape[-1], dtype=DTYPE)
        for k in range(self.depth, i, -1):
            jacobian = jacobian @ self.pack.forward[f"W{k}"][0]
        return torch.kron(jacobian, self.activities()[i - 1][0, 0].view(1, -1))


def theorem_5() -> Iterator[Check]:
    """Theorem 5: GNT's updates of a contracting linear network have the least norm that moves h_L along -e_L."""
    net = LinearNetwork.make("theorem 5", (8, 7, 5, 4, 3), 1)
    error, along = net.output_gradient()[0, 0], 1.0
    worst = 0.0
    for i, update in enumerate(net.gauss_newton_updates(), start=1):
        matrix = net.output_map(i)
        moved = matrix @ update.flatten()
        along = min(along, cosine(moved, -error))
        least = torch.linalg.pinv(matrix) @ moved
        worst = max(worst, float((update.flatten() - least).norm() / update.norm()))
    setting = "linear, 8-7-5-4-3, one sample"
    yield Check("Theorem 5", "cosine of the output's movement with -e_L, worst layer", setting, along, lower=1 - 1e-9)
    yield Check("Theorem 5", "distance of the update from the minimum-norm one", setting, worst, upper=1e-9)


def difference_target_propagation() -> Iterator[Check]:
    """Corollary S6.1: DTP also moves the output along -e_L, but part of its update does nothing.

    DTP's feedback, trained with white noise, is the pseudo-inverse of each layer.
    """
    net = LinearNetwork.make("theorem 5", (12, 10, 8, 6, 2), 1)
    state = FeedbackState(
        _LINEAR, net.pack.architecture, _pseudo_inverses(net), {}, net.activities(), Workspace(DTYPE, "cpu")
    )
    change = -net.output_gradient()
    updates = net.updates([*state.targets(change), change])
    error = net.output_gradient()[0, 0]
    along, shares, norms = 1.0, [], []
    for i, (update, best) in enumerate(zip(updates, net.gauss_newton_updates(), strict=True), start=1):
        matrix = net.output_map(i)
        moved = matrix @ update.flatten()
        along = min(along, cosine(moved, -error))
        useful = torch.linalg.pinv(matrix) @ moved
        shares.append(float((update.flatten() - useful).norm() / update.norm()))
        norms.append(float(update.norm() / best.norm()))
    setting = "linear, 12-10-8-6-2, one sample, layer-wise pseudo-inverses as feedback"
    yield Check("Corollary S6.1", "cosine of the output's movement with -e_L", setting, along, lower=1 - 1e-9)
    yield Check("Corollary S6.1", "norm against GNT's, the smallest ratio", setting, min(norms), lower=1 - 1e-9)
    yield Check("Corollary S6.1", "null-space share of the first layer's update", setting, shares[0], lower=0.5)
    yield Check("Corollary S6.1", "null-space share of the last hidden layer's update", setting, shares[-2], upper=1e-9)


def _pseudo_inverses(net: LinearNetwork) -> Parameters:
    maps = Parameters(_LINEAR.shapes(net.pack.architecture), 1, dtype=DTYPE, device="cpu")
    for i in net.pack.architecture.hidden:
        maps[f"Q{i}"].copy_(torch.linalg.pinv(net.pack.forward[f"W{i + 1}"]))
        maps[f"c{i}"].zero_()
    return maps


def theorem_6() -> Iterator[Check]:
    """Theorem 6: in linear networks GNT's updates lie within 90 degrees of the loss gradient, and it converges."""
    widest, count = 0.0, 0
    for k in range(200):
        sizes = [(4, 6, 3), (5, 3, 4, 2), (3, 7, 2, 5)][k % 3]
        net = LinearNetwork.make(f"theorem 6 {k}", sizes, 1 + k % 4)
        gradients = net.loss_gradients()
        for update, gradient in zip(net.gauss_newton_updates(), gradients, strict=True):
            widest = max(widest, degrees(update, -gradient))
            count += 1
    yield Check(
        "Theorem 6",
        f"largest of {count} angles between update and loss gradient, degrees",
        "linear, three architectures (with bottlenecks), minibatches of 1 to 4",
        widest,
        upper=90.0,
    )
    net = LinearNetwork.make("theorem 6", (4, 6, 5, 2), 12)
    solution = torch.linalg.lstsq(net.x[0], net.y[0]).solution
    best = float(squared_error((net.x[0] @ solution).unsqueeze(0), net.y)[0].mean())
    for _ in range(1000):
        for i, update in enumerate(net.gauss_newton_updates(), start=1):
            net.pack.forward[f"W{i}"].add_(0.2 * update)
    reached = float(squared_error(net.activities()[-1], net.y)[0].mean())
    yield Check(
        "Theorem 6",
        "loss after 1000 steps over the least-squares optimum, minus 1",
        "linear, 4-6-5-2, 12 samples",
        reached / best - 1,
        -1e-9,
        1e-6,
    )
