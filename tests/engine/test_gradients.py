"""Every hand-written gradient against autograd on the definitions as the paper writes them (float64)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import CONFIGURATION
from tpbench.engine import METHODS, Architecture
from tpbench.engine.gauss_newton import gauss_newton_change
from tpbench.engine.methods import generalised_targets, uncorrected_targets
from tpbench.engine.network import cross_entropy
from tpbench.engine.step import PackState, StepRecord

TRAINED = [name for name, method in METHODS.items() if method.reconstruction]

architectures = st.builds(
    lambda sizes, wide: Architecture(tuple(sizes), wide),
    st.lists(st.integers(2, 6), min_size=3, max_size=5),
    st.integers(3, 8),
)


class Reference:
    """One member written out naively, layer by layer, with no difference form."""

    def __init__(self, name: str, pack: PackState, member: int, x: Tensor, noise: list[Tensor]) -> None:
        self.method, self.pack, self.architecture = METHODS[name], pack, pack.architecture
        self.w = {n: pack.forward[n][member].clone() for n in pack.forward}
        self.q = {n: pack.feedback[n][member].clone().requires_grad_() for n in pack.feedback or ()}
        self.fixed = {n: v[member] for n, v in pack.fixed.items()}
        self.depth, self.configuration = self.architecture.depth, pack.configurations[member]
        self.noise = [n[member] for n in noise]
        self.h = [x[member]]
        for i in self.architecture.layers:
            self.h.append(self.layer(i, self.h[-1]))

    def layer(self, i: int, h: Tensor) -> Tensor:
        a = h @ self.w[f"W{i}"].T + self.w[f"b{i}"]
        return torch.tanh(a) if i < self.depth else a

    def g(self, i: int, source: Tensor) -> Tensor:
        feedback = self.method.feedback
        assert feedback is not None
        last = i == self.depth - 1
        if feedback.random_hidden and not last:
            source = torch.tanh(source @ self.fixed["R"].T + self.fixed["d"])
        a = source @ self.q[f"Q{i}"].T + self.q[f"c{i}"]
        if feedback.recurrent and not last:
            a = a + self.h[i] @ self.q[f"S{i}"].T
        return torch.tanh(a) if feedback.squash else a

    def back(self, i: int, output: Tensor) -> Tensor:
        """g-bar-diff_{L,i}: send an output activity back to layer i with the difference correction."""
        assert self.method.feedback is not None
        if self.method.targets is uncorrected_targets:
            for k in range(self.depth - 1, i - 1, -1):
                output = self.g(k, output)
            return output
        if self.method.feedback.direct:
            return self.g(i, output) + self.h[i] - self.g(i, self.h[-1])
        value = output
        for k in range(self.depth - 1, i - 1, -1):
            value = self.g(k, value) + self.h[k] - self.g(k, self.h[k + 1])
        return value

    def factor(self) -> Tensor:
        """K_L of every sample with K_L K_L^T = H_L, the Hessian of the cross-entropy (appendix D)."""
        p = torch.softmax(self.h[-1], dim=-1)
        root = p.sqrt()
        k = torch.diag_embed(root) - p.unsqueeze(2) * root.unsqueeze(1)
        torch.testing.assert_close(k @ k.mT, torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1))
        return k

    def output_target(self, gradient: Tensor, eta: float) -> Tensor:
        if self.method.targets is generalised_targets:
            gradient = (torch.linalg.pinv(self.factor()) @ gradient.unsqueeze(2)).squeeze(2)
        return self.h[-1] - eta * gradient

    def reconstruction_loss(self, i: int) -> Tensor:
        loss, sigma = self.method.reconstruction, self.configuration["sigma"]
        assert loss is not None
        corrupted = self.h[i] + sigma * self.noise[i - 1]
        if not loss.through_output:
            reconstruction = self.g(i, self.layer(i + 1, corrupted))
            return ((reconstruction - corrupted) ** 2).mean() / max(sigma, 0.02) ** 2
        output = corrupted
        for k in range(i + 1, self.depth + 1):
            output = self.layer(k, output)
        if loss.curvature:
            output = self.h[-1] + ((output - self.h[-1]).unsqueeze(1) @ self.factor()).squeeze(1)
        reconstruction = self.back(i, output) if loss.corrected else self.g(i, output)
        return ((reconstruction - corrupted) ** 2).mean() / (sigma**2 if loss.corrected else 1.0)


def train_one_step(name: str, architecture: Architecture, seed: int) -> tuple[PackState, StepRecord, list[Reference]]:
    """A pack of two different members, one step; the references are of before the step."""
    configurations = [CONFIGURATION, {**CONFIGURATION, "sigma": 0.01, "eta": 0.2}]
    pack = PackState(METHODS[name], architecture, configurations, [seed, seed + 1], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for parameters in filter(None, (pack.forward, pack.feedback)):
        parameters.flat.add_(0.1 * torch.randn(parameters.flat.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(2, 5, architecture.sizes[0], generator=generator, dtype=torch.float64)
    y = torch.randint(architecture.sizes[-1], (2, 5), generator=generator)
    noise = [
        torch.randn(2, 5, architecture.sizes[i], generator=generator, dtype=torch.float64) for i in architecture.hidden
    ]
    references = [Reference(name, pack, member, x, noise) for member in range(2)]
    record = pack.joint_step(x, y, noise if METHODS[name].trains_feedback else None)
    return pack, record, references


@pytest.mark.parametrize("name", TRAINED)
@settings(max_examples=15)
@given(architectures, st.integers(0, 1000))
def test_feedback_gradients(name: str, architecture: Architecture, seed: int) -> None:
    pack, record, references = train_one_step(name, architecture, seed)
    assert pack.feedback_gradients is not None
    assert record.reconstruction_losses is not None
    for member, reference in enumerate(references):
        for i in architecture.hidden:
            loss = reference.reconstruction_loss(i)
            torch.testing.assert_close(
                record.reconstruction_losses[member, i - 1], loss.detach(), rtol=1e-8, atol=1e-12
            )
            own = {n: v for n, v in reference.q.items() if int(n[1:]) == i}
            gradients = torch.autograd.grad(loss, list(own.values()), allow_unused=True, materialize_grads=True)
            for n, expected in zip(own, gradients, strict=True):
                torch.testing.assert_close(pack.feedback_gradients[n][member], expected, rtol=1e-7, atol=1e-9)


# The targets of dtp-lee are stated in test_field_rules.py.
@pytest.mark.parametrize("name", [*(name for name in TRAINED if name != "dtp-lee"), "dfa"])
@settings(max_examples=10)
@given(architectures, st.integers(0, 1000))
def test_targets(name: str, architecture: Architecture, seed: int) -> None:
    _, record, references = train_one_step(name, architecture, seed)
    eta = [1.0 if name == "dfa" else r.configuration["eta"] for r in references]
    for member, reference in enumerate(references):
        gradient = -record.targets[-1][member] / eta[member]
        for i in architecture.hidden:
            expected = reference.back(i, reference.output_target(gradient, eta[member])) - reference.h[i]
            torch.testing.assert_close(record.targets[i - 1][member], expected.detach(), rtol=1e-8, atol=1e-13)


@settings(max_examples=15)
@given(architectures, st.integers(0, 1000))
def test_backpropagation(architecture: Architecture, seed: int) -> None:
    configuration = {k: CONFIGURATION[k] for k in METHODS["bp"].hyperparameters}
    pack = PackState(METHODS["bp"], architecture, [configuration] * 2, [seed, seed + 1], dtype=torch.float64)
    x = torch.randn(2, 5, architecture.sizes[0], dtype=torch.float64)
    y = torch.randint(architecture.sizes[-1], (2, 5))
    weights = {n: pack.forward[n].clone().requires_grad_() for n in pack.forward}
    h = x
    for i in architecture.layers:
        h = h @ weights[f"W{i}"].mT + weights[f"b{i}"].unsqueeze(1)
        h = torch.tanh(h) if i < architecture.depth else h
    loss = cross_entropy(h, y)[0].mean(dim=1).sum()
    expected = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    pack.joint_step(x, y, None)
    for n, gradient in expected.items():
        torch.testing.assert_close(pack.forward_gradients[n], gradient)


@settings(max_examples=15)
@given(architectures, st.integers(0, 1000), st.sampled_from([0.0, 1e-3, 1.0]))
def test_gauss_newton_targets(architecture: Architecture, seed: int, damping: float) -> None:
    configuration = {k: CONFIGURATION[k] for k in METHODS["gnt"].hyperparameters} | {"damping": damping}
    pack = PackState(METHODS["gnt"], architecture, [configuration], [seed], dtype=torch.float64)
    x = torch.randn(1, 3, architecture.sizes[0], dtype=torch.float64)
    y = torch.randint(architecture.sizes[-1], (1, 3))
    weights = {n: pack.forward[n][0].clone() for n in pack.forward}
    record = pack.joint_step(x, y, None)
    gradient = cross_entropy(record.activities[-1], y)[2][0]
    outputs = architecture.sizes[-1]
    for i in architecture.hidden:

        def rest(h: Tensor, first: int = i + 1) -> Tensor:
            for k in range(first, architecture.depth + 1):
                h = h @ weights[f"W{k}"].T + weights[f"b{k}"]
                h = torch.tanh(h) if k < architecture.depth else h
            return h

        for b in range(3):
            jacobian = torch.autograd.functional.jacobian(rest, record.activities[i][0, b])
            if damping:
                system = jacobian @ jacobian.T + damping * torch.eye(outputs, dtype=torch.float64)
                expected = -jacobian.T @ torch.linalg.solve(system, gradient[b])
            else:
                expected = -torch.linalg.pinv(jacobian) @ gradient[b]
            torch.testing.assert_close(record.targets[i - 1][0, b], expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(record.targets[-1][0], -gradient / (1 + damping))


def test_a_member_that_is_no_number_does_not_end_its_pack_without_damping() -> None:
    generator = torch.Generator().manual_seed(3)
    jacobian = torch.randn(3, 4, 2, 5, generator=generator, dtype=torch.float64)
    gradient = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    whole = gauss_newton_change(jacobian, gradient, torch.zeros(3))
    for value in (torch.nan, torch.inf):
        jacobian[1, 2, 0, 3] = value
        change = gauss_newton_change(jacobian, gradient, torch.zeros(3))
        assert torch.equal(change[[0, 2]], whole[[0, 2]])
        assert change[1].isfinite().all(-1).tolist() == [True, True, False, True]


def test_a_damping_that_float32_does_not_know_is_none() -> None:
    architecture = Architecture((6, 8, 2, 7, 5))
    x = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    targets = []
    for damping in (0.0, 1e-46):
        configuration = {k: CONFIGURATION[k] for k in METHODS["gnt"].hyperparameters} | {"damping": damping}
        pack = PackState(METHODS["gnt"], architecture, [configuration], [0])
        targets.append([t.clone() for t in pack.joint_step(x, torch.tensor([[0, 1, 2, 3]]), None).targets])
    for none, underflown in zip(*targets, strict=True):
        assert torch.equal(none, underflown)


def test_gauss_newton_targets_behind_a_bottleneck_are_the_same_in_float32() -> None:
    architecture = Architecture((6, 8, 2, 7, 5))  # J_1 has rank 2 of 5
    configuration = {k: CONFIGURATION[k] for k in METHODS["gnt"].hyperparameters} | {"damping": 0.0}
    x = torch.randn(1, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([[0, 1, 2, 3]])
    targets = []
    for dtype in (torch.float64, torch.float32):
        pack = PackState(METHODS["gnt"], architecture, [configuration], [0], dtype=dtype)
        targets.append(pack.joint_step(x.to(dtype), y, None).targets)
    for exact, mine in zip(*targets, strict=True):
        assert float((mine.double() - exact).norm() / exact.norm()) < 1e-4
