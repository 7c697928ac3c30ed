"""Difference-form arithmetic and the output losses."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import CONFIGURATION
from tpbench.engine import Architecture, get_method
from tpbench.engine.network import cross_entropy, squared_error
from tpbench.engine.precision import tanh_difference_
from tpbench.engine.step import PackState


def difference(a: float, d: float, dtype: torch.dtype) -> float:
    h = torch.tanh(torch.tensor([a], dtype=dtype))
    return float(tanh_difference_(h, 1 - h.square(), torch.tensor([d], dtype=dtype)))


@given(st.floats(-2, 2), st.floats(-1, 1))
def test_tanh_difference_equals_the_difference_of_tanhs(a: float, d: float) -> None:
    exact = float(torch.tanh(torch.tensor(a + d).double()) - torch.tanh(torch.tensor(a).double()))
    direct = float(
        torch.tanh(torch.tensor(a, dtype=torch.float64) + d) - torch.tanh(torch.tensor(a, dtype=torch.float64))
    )
    assert abs(difference(a, d, torch.float64) - direct) < 1e-14
    assert abs(difference(a, d, torch.float32) - exact) < 1e-6 * max(abs(exact), 1)


@given(st.floats(-2, 2), st.floats(-12, -3))
def test_float32_keeps_its_relative_precision_however_small_the_change(a: float, exponent: float) -> None:
    d = 10.0**exponent
    exact = difference(float(torch.tensor(a)), float(torch.tensor(d)), torch.float64)
    assert abs(difference(a, d, torch.float32) - exact) < 3e-6 * abs(exact)


@given(st.sampled_from([-1.0, 1.0]), st.floats(-50, 50))
def test_a_saturated_unit_gives_a_finite_change(sign: float, d: float) -> None:
    h = torch.tensor([sign])
    assert tanh_difference_(h, 1 - h.square(), torch.tensor([d])).isfinite().all()


@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 10_000))
def test_cross_entropy_gradient_is_autograds(batch: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(2, batch, classes, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(classes, (2, batch), generator=generator)
    losses, wrong, gradient = cross_entropy(outputs, labels)
    (expected,) = torch.autograd.grad(losses.mean(dim=1).sum(), outputs)
    torch.testing.assert_close(gradient.detach(), expected)
    assert torch.equal(wrong, outputs.argmax(-1) != labels)


def test_cross_entropy_gradient_keeps_its_digits_when_the_network_is_sure() -> None:
    outputs = torch.tensor([[[20.0, 0.0, 1.0]]])
    labels = torch.tensor([[0]])
    exact = cross_entropy(outputs.double(), labels)[2]
    torch.testing.assert_close(cross_entropy(outputs, labels)[2].double(), exact, rtol=1e-6, atol=0)
    naive = torch.softmax(outputs, -1)[0, 0, 0] - 1
    assert abs(float(naive) / float(exact[0, 0, 0]) - 1) > 1e-3  # what is avoided


def test_squared_error_gradient_is_autograds() -> None:
    outputs = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randn(2, 4, 3, dtype=torch.float64)
    losses, _, gradient = squared_error(outputs, labels)
    (expected,) = torch.autograd.grad(losses.mean(dim=1).sum(), outputs)
    torch.testing.assert_close(gradient.detach(), expected)


def naive_targets(pack: PackState, activities: list[torch.Tensor], eta_gradient: torch.Tensor) -> list[torch.Tensor]:
    """dtpdrl's target updates as the text writes them: targets first, then the subtraction."""
    h, target = activities, activities[-1] - eta_gradient
    assert pack.feedback is not None
    updates = []
    for i in reversed(pack.architecture.hidden):
        weight, bias = pack.feedback[f"Q{i}"].mT, pack.feedback[f"c{i}"].unsqueeze(1)
        target = torch.tanh(target @ weight + bias) + h[i] - torch.tanh(h[i + 1] @ weight + bias)
        updates.insert(0, target - h[i])
    return updates


def test_float32_difference_form_keeps_the_target_update_where_the_naive_form_loses_it() -> None:
    architecture = Architecture((12, 40, 40, 40, 10))
    configuration = {**CONFIGURATION, "eta": 1.0}
    packs = {
        dtype: PackState(get_method("dtpdrl"), architecture, [configuration], [0], dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    }
    x = torch.randn(1, 16, 12, generator=torch.Generator().manual_seed(0))
    gradient = torch.randn(1, 16, 10, generator=torch.Generator().manual_seed(1))
    gradient *= 1e-7 / gradient.norm(dim=-1, keepdim=True)  # |eta e_L| = 1e-7

    def updates(dtype: torch.dtype) -> list[torch.Tensor]:
        pack = packs[dtype]
        state = pack._feedback_state(pack.propagate(x.to(dtype)))
        assert state is not None
        return state.targets(-gradient.to(dtype))

    exact, mine = updates(torch.float64), updates(torch.float32)
    pack = packs[torch.float32]
    naive = naive_targets(pack, pack.propagate(x), gradient)
    for truth, kept, lost in zip(exact, mine, naive, strict=True):
        assert float((kept.double() - truth).norm() / truth.norm()) < 1e-5
        assert float((lost.double() - truth).norm() / truth.norm()) > 0.1
