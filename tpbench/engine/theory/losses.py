"""What the difference reconstruction loss trains: Theorem 4, and equation 196 for generalised Gauss-Newton targets."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from tpbench.engine.feedback import FeedbackState, feedback_gradients
from tpbench.engine.gauss_newton import apply_factor, gauss_newton_change, hessian, output_jacobians, root_probabilities
from tpbench.engine.methods import Minibatch, generalised_targets
from tpbench.engine.network import Parameters, cross_entropy, forward, network_layers
from tpbench.engine.parts import DIFFERENCE, DIRECT_LINEAR, GENERALISED, Reconstruction
from tpbench.engine.precision import Workspace, tanh_slope
from tpbench.engine.theory.check import DTYPE, Check, draw, network

_SIZES = (4, 6, 5, 3)
_SIGMA = 1e-6


class Loop:
    """One sample whose activity is corrupted along every direction of every hidden layer.

    The noise rows of layer i are ``sqrt(n_i)`` times the unit vectors (and again, to fill the batch that all layers
    share), so that the batch mean is the exact expectation over white noise of any quadratic function.
    """

    def __init__(self, name: str) -> None:
        self.architecture, self.parameters = network(name, *_SIZES)
        self.batch = self.architecture.sizes[1] * self.architecture.sizes[2]  # a multiple of both widths
        x = draw(f"{name} x", 1, 1, _SIZES[0]).expand(1, self.batch, -1).contiguous()
        self.activities = [x, *(torch.empty(1, self.batch, n, dtype=DTYPE) for n in _SIZES[1:])]
        forward(network_layers(self.architecture), self.parameters, self.activities)
        self.slopes = [x, *(tanh_slope(self.activities[i]) for i in self.architecture.hidden)]
        self.noise = [self._directions(_SIZES[i]) for i in self.architecture.hidden]
        jacobians = output_jacobians(self.parameters, self.slopes, self.architecture.depth)
        self.jacobians = [jacobian[0, 0] for jacobian in jacobians]

    def _directions(self, width: int) -> Tensor:
        directions = torch.eye(width, dtype=DTYPE) * math.sqrt(width)
        return directions.repeat(self.batch // width, 1).unsqueeze(0)

    def state(self, maps: Parameters) -> FeedbackState:
        return FeedbackState(DIRECT_LINEAR, self.architecture, maps, {}, self.activities, Workspace(DTYPE, "cpu"))

    def maps(self, matrices: list[Tensor]) -> Parameters:
        """Direct linear feedback ``Q_i`` of the hidden layers."""
        maps = Parameters(DIRECT_LINEAR.shapes(self.architecture), 1, dtype=DTYPE, device="cpu")
        for i, matrix in zip(self.architecture.hidden, matrices, strict=True):
            maps[f"Q{i}"].copy_(matrix)
            maps[f"c{i}"].zero_()
        return maps

    def stationarity(self, loss: Reconstruction, matrices: list[Tensor], decay: list[float]) -> float:
        """The largest gradient norm over the layers, with weight decay, against the gradient's norm at Q = 0."""
        gradients = [self._gradients(loss, self.maps(m)) for m in (matrices, [torch.zeros_like(m) for m in matrices])]
        worst = 0.0
        for i in self.architecture.hidden:
            total = gradients[0][f"Q{i}"] + decay[i - 1] * matrices[i - 1]
            worst = max(worst, float(total.norm() / gradients[1][f"Q{i}"].norm()))
        return worst

    def _gradients(self, loss: Reconstruction, maps: Parameters) -> Parameters:
        into, sigma = maps.like(), torch.tensor([_SIGMA], dtype=DTYPE)
        feedback_gradients(loss, self.state(maps), self.parameters, self.slopes, self.noise, sigma, into)
        return into


def _damped_inverse(jacobian: Tensor, damping: float) -> Tensor:
    """``J^T (J J^T + damping I)^{-1}``, column by column through the engine's Gauss-Newton targets."""
    outputs = len(jacobian)
    unit = -torch.eye(outputs, dtype=DTYPE).unsqueeze(0)
    spread = jacobian.expand(1, outputs, *jacobian.shape)
    return gauss_newton_change(spread, unit, torch.tensor([damping], dtype=DTYPE))[0].mT


def theorem_4() -> Iterator[Check]:
    """Theorem 4: the loss has its minimum where the feedback's Jacobian is the damped pseudo-inverse (equation 11).

    The engine's loss is a mean over the n_i units and has weight decay wd in place of the regulariser; setting its
    gradient to 0 gives equation 11 with lambda = n_i wd / 2.
    """
    loop = Loop("theorem 4")
    setting = "tanh, 4-6-5-3, one sample, direct linear feedback, sigma = 1e-6"
    for damping in (0.3, 0.0):
        matrices = [_damped_inverse(jacobian, damping) for jacobian in loop.jacobians]
        decay = [2 * damping / _SIZES[i] for i in loop.architecture.hidden]
        value = loop.stationarity(DIFFERENCE, matrices, decay)
        which = "the pseudo-inverse, lambda -> 0" if damping == 0 else f"equation 11, lambda = {damping}"
        yield Check("Theorem 4", f"gradient at {which}, against that at Q = 0", setting, value, upper=1e-5)
    doubled = [2 * _damped_inverse(jacobian, 0.0) for jacobian in loop.jacobians]
    yield Check(
        "Theorem 4",
        "the same at twice the pseudo-inverse, where it must not vanish",
        setting,
        loop.stationarity(DIFFERENCE, doubled, [0.0, 0.0]),
        lower=0.1,
    )


def equation_196() -> Iterator[Check]:
    """Equation 196: with K_L in the loop, the targets are generalised Gauss-Newton targets; H_L is singular here."""
    loop, damping, eta = Loop("equation 196"), 0.2, 1e-3
    curvature = hessian(loop.activities[-1])[0, 0]
    root = root_probabilities(loop.activities[-1])
    # K_L^T applied to the unit vectors, one per row: the rows are those of K_L.
    factor = apply_factor(root[:, :1], torch.eye(_SIZES[-1], dtype=DTYPE).view(1, _SIZES[-1], 1, -1))[0, :, 0]
    error = float((factor @ factor.mT - curvature).norm() / curvature.norm())
    setting = "tanh, 4-6-5-3, one sample, softmax and cross-entropy (H_L singular: K_L by its pseudo-inverse)"
    yield Check("Equation 190", "K_L K_L^T against H_L", setting, error, upper=1e-9)

    inverses = [
        torch.linalg.inv(j.mT @ curvature @ j + damping * torch.eye(j.shape[1], dtype=DTYPE)) for j in loop.jacobians
    ]
    matrices = [inverse @ j.mT @ factor for inverse, j in zip(inverses, loop.jacobians, strict=True)]
    decay = [2 * damping / _SIZES[i] for i in loop.architecture.hidden]
    yield Check(
        "Equation 194",
        f"gradient of the loss at equation 194, lambda = {damping}, against that at Q = 0",
        setting,
        loop.stationarity(GENERALISED, matrices, decay),
        upper=1e-5,
    )

    labels = torch.ones(1, loop.batch, dtype=torch.int64)
    _, _, gradient = cross_entropy(loop.activities[-1], labels)
    batch = Minibatch(
        loop.architecture,
        loop.parameters,
        loop.activities,
        loop.slopes,
        gradient,
        {"eta": torch.tensor([eta], dtype=DTYPE)},
        loop.state(loop.maps(matrices)),
    )
    worst = 0.0
    for target, inverse, jacobian in zip(generalised_targets(batch)[:-1], inverses, loop.jacobians, strict=True):
        wanted = -eta * inverse @ jacobian.mT @ gradient[0, 0]
        worst = max(worst, float((target[0, 0] - wanted).norm() / wanted.norm()))
    yield Check("Equation 196", "the propagated targets against equation 196", setting, worst, upper=1e-9)
