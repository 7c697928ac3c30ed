"""The theory's checks hold, and notice when the engine is broken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.conftest import Inside
from tpbench.engine import feedback, gauss_newton
from tpbench.engine import gauss_newton as curvature
from tpbench.engine.theory import Check, losses, numbers, targets, updates
from tpbench.engine.theory.check import DTYPE


def test_every_check_holds(tpbench_inside: Inside) -> None:
    result = tpbench_inside("verify", "theory", "--json")
    rows = json.loads(result.stdout)
    assert [row["statement"] for row in rows if not row["passed"]] == []
    assert result.returncode == 0
    names = {row["name"] for row in rows}
    assert {"Lemma 1", "Theorem 2", "Lemma 3", "Theorem 4", "Theorem 5", "Corollary S6.1", "Theorem 6"} <= names
    assert {"Theorem S12", "Equation 196"} <= names


@pytest.mark.parametrize(("value", "passed"), [(0.5, True), (2.0, False), (float("nan"), False)])
def test_a_check_compares(value: float, passed: bool) -> None:
    assert Check("x", "", "", value, 0.0, 1.0).passed is passed


def failed(check: Callable[[], Iterator[Check]]) -> bool:
    return not all(c.passed for c in check())


def replace(patch: pytest.MonkeyPatch, where: list[Any], name: str, change: Callable[[Any], Any]) -> None:
    for module in where:
        patch.setattr(module, name, change(getattr(module, name)))


def test_a_wrong_sign_of_the_targets_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    replace(monkeypatch, [targets], "propagated_targets", lambda f: lambda batch: [-t for t in f(batch)])
    assert failed(targets.lemma_1)
    assert failed(targets.theorem_2)


def test_a_missing_difference_correction_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    state = feedback.FeedbackState
    monkeypatch.setattr(state, "targets", state.uncorrected_targets)
    assert failed(targets.lemma_3)


def test_a_wrong_jacobian_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def transposed(original: Any) -> Any:
        return lambda *a: [torch.flip(j, dims=[-1]) for j in original(*a)]

    replace(monkeypatch, [targets, losses, updates], "output_jacobians", transposed)
    assert failed(targets.lemma_1)
    assert failed(losses.theorem_4)
    assert failed(updates.theorem_5)


def test_targets_that_are_not_gauss_newton_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def transpose(jacobian: torch.Tensor, gradient: torch.Tensor, damping: torch.Tensor) -> torch.Tensor:
        return -(jacobian.mT @ gradient.to(DTYPE).unsqueeze(-1)).squeeze(-1)

    monkeypatch.setattr(updates, "gauss_newton_change", transpose)
    monkeypatch.setattr(losses, "gauss_newton_change", transpose)
    assert failed(updates.theorem_5)
    assert failed(losses.theorem_4)


def test_a_wrong_sign_of_gauss_newton_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = lambda *a: -gauss_newton.gauss_newton_change(*a)  # noqa: E731
    monkeypatch.setattr(updates, "gauss_newton_change", wrong)
    monkeypatch.setattr(numbers, "gauss_newton_change", wrong)
    assert failed(updates.theorem_6)
    assert failed(numbers.random_matrices)


def test_a_reconstruction_without_correction_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tpbench.engine.parts import CONTROL

    monkeypatch.setattr(losses, "DIFFERENCE", CONTROL)
    assert failed(losses.theorem_4)


def test_a_wrong_curvature_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "apply_factor", lambda root, change: root.unsqueeze(1) * change)
    assert failed(losses.equation_196)
    assert curvature.FLOOR < 1e-3


def test_a_difference_by_subtraction_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def subtract(h: torch.Tensor, slope: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.atanh(h) + d) - h

    monkeypatch.setattr(numbers, "tanh_difference_", subtract)
    assert failed(numbers.difference_form)
