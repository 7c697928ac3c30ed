"""The paper's theorems, computed with the engine's own functions on small random networks in float64.

A test cannot prove a theorem. It shows that the engine computes what the theorem is about, and fails where it does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tpbench.engine.alignment import angles
from tpbench.engine.configuration import Configuration
from tpbench.engine.feedback import FeedbackState, feedback_gradients
from tpbench.engine.gauss_newton import (
    FLOOR,
    apply_factor,
    gauss_newton_change,
    output_jacobians,
    root_probabilities,
)
from tpbench.engine.golden import relative_error
from tpbench.engine.methods import METHODS, Minibatch, generalised_targets, propagated_targets
from tpbench.engine.network import (
    Parameters,
    cross_entropy,
    forward,
    forward_parameters,
    network_layers,
    squared_error,
    stream,
)
from tpbench.engine.parts import (
    DIFFERENCE,
    DIRECT_LINEAR,
    GENERALISED,
    LAYERWISE_TANH,
    Architecture,
    Feedback,
    Reconstruction,
)
from tpbench.engine.precision import Workspace, tanh_difference_, tanh_slope
from tpbench.engine.step import PackState

pytestmark = pytest.mark.theory

DTYPE = torch.float64
UNDAMPED = torch.zeros(1, dtype=DTYPE)


def draw(name: str, *shape: int) -> Tensor:
    """Return standard-normal numbers, the same every time."""
    return torch.randn(shape, generator=stream(0, name), dtype=DTYPE)


def make_network(name: str, *sizes: int) -> tuple[Architecture, Parameters]:
    """Return a network of one member with weights ``N(0, 1 / fan_in)`` and biases of about 0.1."""
    architecture = Architecture(sizes)
    parameters = forward_parameters(network_layers(architecture), 1, dtype=DTYPE, device="cpu")
    for i in architecture.layers:
        shape = (1, sizes[i], sizes[i - 1])
        parameters[f"W{i}"].copy_(draw(f"{name} W{i}", *shape) / sizes[i - 1] ** 0.5)
        parameters[f"b{i}"].copy_(0.1 * draw(f"{name} b{i}", 1, sizes[i]))
    return architecture, parameters


def angle(one: Tensor, other: Tensor) -> float:
    """Return the angle between two tensors taken as vectors, in degrees."""
    return float(angles(one.unsqueeze(0), other.unsqueeze(0)))


def cosine(one: Tensor, other: Tensor) -> float:
    """Return the cosine of the angle between two tensors taken as vectors."""
    return float(torch.sum(one * other) / (one.norm() * other.norm()))


def relative_norm(difference: Tensor, whole: Tensor) -> float:
    return float(difference.norm() / whole.norm())


# Lemma 1 and Theorem 2: networks with exact inverses as feedback.

INVERTIBLE, BATCH = (5, 5, 5, 5), 3


class InverseFeedback:
    """Feedback of Condition 1: ``g_i`` is the exact inverse of the next layer; no difference correction is needed."""

    def __init__(self, architecture: Architecture, parameters: Parameters, activities: list[Tensor]) -> None:
        self.architecture, self.parameters, self.activities = architecture, parameters, activities

    def targets(self, output_change: Tensor) -> list[Tensor]:
        depth, target = self.architecture.depth, self.activities[-1] + output_change
        changes: list[Tensor] = []
        for i in range(depth, 1, -1):
            before = torch.atanh(target) if i < depth else target
            right = (before - self.parameters[f"b{i}"].unsqueeze(1)).unsqueeze(-1)
            target = torch.linalg.solve(self.parameters[f"W{i}"].unsqueeze(1), right).squeeze(-1)
            changes.insert(0, target - self.activities[i - 1])
        return changes


@dataclass
class Pass:
    """A network at a minibatch with the squared error."""

    architecture: Architecture
    parameters: Parameters
    activities: list[Tensor]
    slopes: list[Tensor]
    gradient: Tensor

    @classmethod
    def make(cls, name: str, *sizes: int) -> Pass:
        architecture, parameters = make_network(name, *sizes)
        activities = [draw(f"{name} x", 1, BATCH, sizes[0])]
        activities += [torch.empty(1, BATCH, n, dtype=DTYPE) for n in sizes[1:]]
        forward(network_layers(architecture), parameters, activities)
        _, _, gradient = squared_error(activities[-1], draw(f"{name} y", 1, BATCH, sizes[-1]))
        slopes = [activities[0], *(tanh_slope(activities[i]) for i in architecture.hidden)]
        return cls(architecture, parameters, activities, slopes, gradient)

    @property
    def jacobians(self) -> list[Tensor]:
        return output_jacobians(self.parameters, self.slopes, self.architecture.depth)

    def propagated(self, eta: float) -> list[Tensor]:
        """Return TP's target differences of the hidden layers with exact inverses."""
        hyperparameters = {"eta": torch.tensor([eta], dtype=DTYPE)}
        feedback = InverseFeedback(self.architecture, self.parameters, self.activities)
        batch = Minibatch(
            self.architecture,
            self.parameters,
            self.activities,
            self.slopes,
            self.gradient,
            hyperparameters,
            feedback,  # type: ignore[arg-type]
        )
        return propagated_targets(batch)[:-1]


def lemma_1_error(eta: float) -> float:
    """Return the error of TP's targets against equation 6, ``-eta J^{-1} e_L``, from the Jacobians."""
    at = Pass.make("invertible", *INVERTIBLE)
    expected = [eta * gauss_newton_change(jacobian, at.gradient, UNDAMPED) for jacobian in at.jacobians]
    return max(relative_error(mine, wanted) for mine, wanted in zip(at.propagated(eta), expected, strict=True))


def test_lemma_1_targets_with_exact_inverses_are_first_order_newton() -> None:
    small, large = lemma_1_error(1e-4), lemma_1_error(1e-3)
    assert small <= 1e-3
    # Relative to an update that is proportional to eta: a remainder of order eta^2 falls tenfold.
    assert 8 <= large / small <= 12


def test_theorem_2_targets_are_gauss_newton_steps_of_each_layer() -> None:
    at = Pass.make("invertible", *INVERTIBLE)
    for mine, jacobian in zip(at.propagated(1e-7), at.jacobians, strict=True):
        # The least-squares solution of J dh = -e_L (Lemma S2).
        step = torch.linalg.lstsq(jacobian, -at.gradient.unsqueeze(-1)).solution.squeeze(-1)
        assert relative_error(mine / 1e-7, step) <= 1e-5


def lemma_3_error(eta: float) -> float:
    """Return the error of DTP's targets against ``-eta (product of J_g) e_L``, for random feedback."""
    at = Pass.make("dtp", 6, 7, 5, 4, 3)
    maps = Parameters(LAYERWISE_TANH.shapes(at.architecture), 1, dtype=DTYPE, device="cpu")
    for name in maps:
        maps[name].copy_(0.5 * draw(f"dtp {name}", *maps[name].shape))
    state = FeedbackState(LAYERWISE_TANH, at.architecture, maps, {}, at.activities, Workspace(DTYPE, "cpu"))
    mine, worst, product = state.targets(-eta * at.gradient), 0.0, -eta * at.gradient
    for i in reversed(at.architecture.hidden):
        g = torch.tanh(at.activities[i + 1] @ maps[f"Q{i}"].mT + maps[f"c{i}"].unsqueeze(1))
        product = (product @ maps[f"Q{i}"].mT) * (1 - g * g)
        worst = max(worst, relative_error(mine[i - 1], product))
    return worst


def test_lemma_3_difference_correction_gives_products_of_feedback_jacobians() -> None:
    small, large = lemma_3_error(1e-4), lemma_3_error(1e-3)
    assert small <= 1e-3
    assert 8 <= large / small <= 12


# Theorem 4 and equation 196: the difference reconstruction loss.

LOOP_SIZES, SIGMA = (4, 6, 5, 3), 1e-6


class Loop:
    """A sample whose activity is corrupted along every direction of every hidden layer.

    The noise rows of layer i are ``sqrt(n_i)`` times the unit vectors (and again, to fill the batch that all layers
    share), so that the batch mean is the exact expectation over white noise of any quadratic function.
    """

    def __init__(self, name: str) -> None:
        self.architecture, self.parameters = make_network(name, *LOOP_SIZES)
        self.batch = LOOP_SIZES[1] * LOOP_SIZES[2]  # a multiple of both widths
        x = draw(f"{name} x", 1, 1, LOOP_SIZES[0]).expand(1, self.batch, -1).contiguous()
        self.activities = [x, *(torch.empty(1, self.batch, n, dtype=DTYPE) for n in LOOP_SIZES[1:])]
        forward(network_layers(self.architecture), self.parameters, self.activities)
        self.slopes = [x, *(tanh_slope(self.activities[i]) for i in self.architecture.hidden)]
        self.noise = [self._directions(LOOP_SIZES[i]) for i in self.architecture.hidden]
        jacobians = output_jacobians(self.parameters, self.slopes, self.architecture.depth)
        self.jacobians = [jacobian[0, 0] for jacobian in jacobians]

    def _directions(self, width: int) -> Tensor:
        return (torch.eye(width, dtype=DTYPE) * math.sqrt(width)).repeat(self.batch // width, 1).unsqueeze(0)

    def state(self, maps: Parameters) -> FeedbackState:
        return FeedbackState(DIRECT_LINEAR, self.architecture, maps, {}, self.activities, Workspace(DTYPE, "cpu"))

    def maps(self, matrices: list[Tensor]) -> Parameters:
        """Return direct linear feedback with these ``Q_i`` of the hidden layers."""
        maps = Parameters(DIRECT_LINEAR.shapes(self.architecture), 1, dtype=DTYPE, device="cpu")
        for i, matrix in zip(self.architecture.hidden, matrices, strict=True):
            maps[f"Q{i}"].copy_(matrix)
            maps[f"c{i}"].zero_()
        return maps

    def decay(self, damping: float) -> list[float]:
        """Return the weight decay of each layer that stands for the damping lambda.

        The engine's loss is a mean over the n_i units and has weight decay wd in place of the regulariser; setting its
        gradient to 0 gives equation 11 with lambda = n_i wd / 2.
        """
        return [2 * damping / LOOP_SIZES[i] for i in self.architecture.hidden]

    def gradient_norm(self, loss: Reconstruction, matrices: list[Tensor], damping: float) -> float:
        """Return the largest gradient norm over the layers, with weight decay, relative to that at Q = 0."""
        gradients = [self._gradients(loss, self.maps(m)) for m in (matrices, [torch.zeros_like(m) for m in matrices])]
        return max(
            relative_norm(gradients[0][f"Q{i}"] + decay * matrix, gradients[1][f"Q{i}"])
            for i, matrix, decay in zip(self.architecture.hidden, matrices, self.decay(damping), strict=True)
        )

    def _gradients(self, loss: Reconstruction, maps: Parameters) -> Parameters:
        into, sigma = maps.like(), torch.tensor([SIGMA], dtype=DTYPE)
        feedback_gradients(loss, self.state(maps), self.parameters, self.slopes, self.noise, sigma, into)
        return into


def damped_inverse(jacobian: Tensor, damping: float) -> Tensor:
    """Return ``J^T (J J^T + damping I)^{-1}``, column by column through the engine's Gauss-Newton targets."""
    outputs = len(jacobian)
    unit = -torch.eye(outputs, dtype=DTYPE).unsqueeze(0)
    spread = jacobian.expand(1, outputs, *jacobian.shape)
    return gauss_newton_change(spread, unit, torch.tensor([damping], dtype=DTYPE))[0].mT


@pytest.mark.parametrize("damping", [0.3, 0.0])
def test_theorem_4_loss_is_least_at_the_damped_pseudo_inverse(damping: float) -> None:
    """Equation 11; without damping the pseudo-inverse itself."""
    loop = Loop("theorem 4")
    matrices = [damped_inverse(jacobian, damping) for jacobian in loop.jacobians]
    assert loop.gradient_norm(DIFFERENCE, matrices, damping) <= 1e-5


def test_theorem_4_gradient_does_not_vanish_elsewhere() -> None:
    loop = Loop("theorem 4")
    doubled = [2 * damped_inverse(jacobian, 0.0) for jacobian in loop.jacobians]
    assert loop.gradient_norm(DIFFERENCE, doubled, 0.0) >= 0.1


class GeneralisedLoop(Loop):
    """A loop with the factor K_L of the curvature of softmax and cross-entropy in it; H_L is singular."""

    DAMPING = 0.2

    def __init__(self) -> None:
        super().__init__("equation 196")
        p = torch.softmax(self.activities[-1], dim=-1)[0, 0]
        self.curvature = torch.diag(p) - p.outer(p)
        root, outputs = root_probabilities(self.activities[-1]), LOOP_SIZES[-1]
        # K_L^T applied to the unit vectors, one per row: the rows are those of K_L.
        units = torch.eye(outputs, dtype=DTYPE).view(1, outputs, 1, -1)
        self.factor = apply_factor(root[:, :1], units)[0, :, 0]
        self.inverses = [
            torch.linalg.inv(j.mT @ self.curvature @ j + self.DAMPING * torch.eye(j.shape[1], dtype=DTYPE))
            for j in self.jacobians
        ]
        self.matrices = [inverse @ j.mT @ self.factor for inverse, j in zip(self.inverses, self.jacobians, strict=True)]


def test_equation_190_factor_of_the_curvature() -> None:
    loop = GeneralisedLoop()
    assert relative_error(loop.factor @ loop.factor.mT, loop.curvature) <= 1e-9
    assert FLOOR < 1e-3


def test_equation_194_loss_is_least_at_generalised_gauss_newton_feedback() -> None:
    loop = GeneralisedLoop()
    assert loop.gradient_norm(GENERALISED, loop.matrices, loop.DAMPING) <= 1e-5


def test_equation_196_targets_are_generalised_gauss_newton_targets() -> None:
    loop, eta = GeneralisedLoop(), 1e-3
    labels = torch.ones(1, loop.batch, dtype=torch.int64)
    _, _, gradient = cross_entropy(loop.activities[-1], labels)
    batch = Minibatch(
        loop.architecture,
        loop.parameters,
        loop.activities,
        loop.slopes,
        gradient,
        {"eta": torch.tensor([eta], dtype=DTYPE)},
        loop.state(loop.maps(loop.matrices)),
    )
    for target, inverse, jacobian in zip(generalised_targets(batch)[:-1], loop.inverses, loop.jacobians, strict=True):
        assert relative_error(target[0, 0], -eta * inverse @ jacobian.mT @ gradient[0, 0]) <= 1e-9


# Theorems 5 and 6: linear networks.

LINEAR = Feedback(direct=False, squash=False)
GNT: Configuration = {"lr": 1.0, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "damping": 0.0}


@dataclass
class LinearNetwork:
    """A linear network at a minibatch: the engine's parts with all slopes 1."""

    pack: PackState
    x: Tensor
    y: Tensor

    @classmethod
    def make(cls, name: str, sizes: tuple[int, ...], batch: int) -> LinearNetwork:
        pack = PackState(METHODS["gnt"], Architecture(sizes), [GNT], [0], dtype=DTYPE)
        for i in pack.architecture.layers:
            pack.forward[f"W{i}"].copy_(draw(f"{name} W{i}", 1, sizes[i], sizes[i - 1]) / sizes[i - 1] ** 0.5)
        return cls(pack, draw(f"{name} x", 1, batch, sizes[0]), draw(f"{name} y", 1, batch, sizes[-1]))

    @property
    def depth(self) -> int:
        return self.pack.architecture.depth

    def activities(self) -> list[Tensor]:
        activities = [self.x]
        for i in self.pack.architecture.layers:
            activities.append(activities[-1] @ self.pack.forward[f"W{i}"].mT + self.pack.forward[f"b{i}"].unsqueeze(1))
        return activities

    def slopes(self, activities: list[Tensor]) -> list[Tensor]:
        return [activities[0], *(torch.ones_like(activities[i]) for i in self.pack.architecture.hidden)]

    def output_gradient(self) -> Tensor:
        return squared_error(self.activities()[-1], self.y)[2]

    def gauss_newton_updates(self) -> list[Tensor]:
        """Return ``dW_i`` of GNT with learning rate 1 (Condition 2); the output's Jacobian is the identity."""
        jacobians = output_jacobians(self.pack.forward, self.slopes(self.activities()), self.depth)
        outputs = torch.eye(self.y.shape[-1], dtype=DTYPE).expand(1, self.x.shape[1], -1, -1)
        gradient = self.output_gradient()
        return self.updates([gauss_newton_change(jacobian, gradient, UNDAMPED) for jacobian in [*jacobians, outputs]])

    def updates(self, targets: list[Tensor]) -> list[Tensor]:
        """Return ``dW_i`` that the engine's local gradients give for these targets, with learning rate 1."""
        activities = self.activities()
        self.pack.local_gradients(activities, self.slopes(activities), targets)
        return [-self.pack.forward_gradients[f"W{i}"][0].clone() for i in self.pack.architecture.layers]

    def loss_gradients(self) -> list[Tensor]:
        """Return ``dL/dW_i`` by the chain rule."""
        activities, above = self.activities(), self.output_gradient()
        gradients: list[Tensor] = []
        for i in range(self.depth, 0, -1):
            gradients.insert(0, (above.mT @ activities[i - 1])[0])
            above = above @ self.pack.forward[f"W{i}"]
        return gradients

    def output_map(self, i: int) -> Tensor:
        """Return ``dh_L / dvec(W_i)`` of the first sample, (n_L, n_i n_{i-1})."""
        # Multiplied out here, not taken from the engine, so that an error there shows.
        jacobian = torch.eye(self.y.shape[-1], dtype=DTYPE)
        for k in range(self.depth, i, -1):
            jacobian = jacobian @ self.pack.forward[f"W{k}"][0]
        return torch.kron(jacobian, self.activities()[i - 1][0, 0].view(1, -1))


def test_theorem_5_gauss_newton_updates_have_the_least_norm() -> None:
    """In a contracting linear network, among all updates that move the output along -e_L."""
    net = LinearNetwork.make("theorem 5", (8, 7, 5, 4, 3), 1)
    error = net.output_gradient()[0, 0]
    for i, update in enumerate(net.gauss_newton_updates(), start=1):
        matrix = net.output_map(i)
        moved = matrix @ update.flatten()
        assert cosine(moved, -error) >= 1 - 1e-9
        assert relative_norm(update.flatten() - torch.linalg.pinv(matrix) @ moved, update) <= 1e-9


def test_corollary_s6_1_part_of_an_update_of_dtp_does_nothing() -> None:
    """DTP's feedback, trained with white noise, is the pseudo-inverse of each layer; it moves the output along -e_L."""
    net = LinearNetwork.make("theorem 5", (12, 10, 8, 6, 2), 1)
    maps = Parameters(LINEAR.shapes(net.pack.architecture), 1, dtype=DTYPE, device="cpu")
    for i in net.pack.architecture.hidden:
        maps[f"Q{i}"].copy_(torch.linalg.pinv(net.pack.forward[f"W{i + 1}"]))
        maps[f"c{i}"].zero_()
    state = FeedbackState(LINEAR, net.pack.architecture, maps, {}, net.activities(), Workspace(DTYPE, "cpu"))
    change = -net.output_gradient()
    null_space_shares = []
    updates = net.updates([*state.targets(change), change])
    for i, (update, least) in enumerate(zip(updates, net.gauss_newton_updates(), strict=True), start=1):
        matrix = net.output_map(i)
        moved = matrix @ update.flatten()
        assert cosine(moved, change[0, 0]) >= 1 - 1e-9
        assert float(update.norm() / least.norm()) >= 1 - 1e-9
        null_space_shares.append(relative_norm(update.flatten() - torch.linalg.pinv(matrix) @ moved, update))
    assert null_space_shares[0] >= 0.5
    # Of the last hidden layer.
    assert null_space_shares[-2] <= 1e-9


def test_theorem_6_updates_are_within_90_degrees_of_the_gradient() -> None:
    for k in range(200):
        sizes = [(4, 6, 3), (5, 3, 4, 2), (3, 7, 2, 5)][k % 3]
        net = LinearNetwork.make(f"theorem 6 {k}", sizes, 1 + k % 4)
        for update, gradient in zip(net.gauss_newton_updates(), net.loss_gradients(), strict=True):
            assert angle(update, -gradient) <= 90


def test_theorem_6_gauss_newton_targets_converge() -> None:
    net = LinearNetwork.make("theorem 6", (4, 6, 5, 2), 12)
    solution = torch.linalg.lstsq(net.x[0], net.y[0]).solution
    best = float(squared_error((net.x[0] @ solution).unsqueeze(0), net.y)[0].mean())
    for _ in range(1000):
        for i, update in enumerate(net.gauss_newton_updates(), start=1):
            net.pack.forward[f"W{i}"].add_(0.2 * update)
    reached = float(squared_error(net.activities()[-1], net.y)[0].mean())
    assert -1e-9 <= reached / best - 1 <= 1e-6


# Section A.4 and section B.1.


# Measured beforehand: mean angle in degrees at each n/m. The bounds leave a fifth.
@pytest.mark.parametrize(
    ("ratio", "upper"), [(1, 90.0), *((n, 1.2 * a) for n, a in ((3, 36), (10, 19), (30, 11), (100, 5.7), (1000, 1.8)))]
)
def test_theorem_s12_pseudo_inverses_of_wide_random_matrices_are_near_their_transposes(
    ratio: int, upper: float
) -> None:
    outputs, matrices, total = 10, 5, 0.0
    for k in range(matrices):
        jacobian = draw(f"random matrix {ratio} {k}", 1, outputs, outputs, ratio * outputs)[:, :1]
        inverse = gauss_newton_change(
            jacobian.expand(-1, outputs, -1, -1), -torch.eye(outputs, dtype=DTYPE)[None], UNDAMPED
        )
        total += angle(inverse[0], jacobian[0, 0])
    assert total / matrices <= upper


@pytest.mark.parametrize("scale", [1e-3, 1e-5, 1e-7, 1e-9])
def test_section_b_1_differences_keep_float32_precise(scale: float) -> None:
    a, d = draw("difference a", 1, 1000), scale * draw("difference d", 1, 1000)
    h = torch.tanh(a)
    exact = tanh_difference_(h, tanh_slope(h), d.clone())
    h32, d32 = torch.tanh(a.float()), d.float()
    carried = tanh_difference_(h32, tanh_slope(h32), d32.clone()).double()
    assert relative_norm(carried - exact, exact) <= 1e-6
    if scale == 1e-9:
        subtracted = (torch.tanh(a.float() + d32) - h32).double()
        assert relative_norm(subtracted - exact, exact) >= 0.5
