"""Comparisons on a device: each fails when what it looks at is broken. There is no GPU here, so some is played."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.test_fixtures import altered
from tpbench.engine import METHODS, Trainer, device_checks
from tpbench.engine.adam import Adam
from tpbench.engine.device_checks import (
    EXACT,
    Difference,
    captured_and_not,
    difference,
    fixture_on,
    gradient_error,
    resumed,
    same_as_on_cpu,
)
from tpbench.engine.fixtures import Fixture
from tpbench.engine.precision import ReducedPrecisionMatmul
from tpbench.engine.rehearsal import rehearsing
from tpbench.engine.step import PackState
from tpbench.engine.trainer import Step


class Replayed:
    """Plays :class:`tpbench.engine.trainer.CudaGraphStep` on a CPU: what is replayed is the step itself."""

    stale, ever = False, True

    def __init__(self, samples: Any, noise: Any, device: Any) -> None:
        self.graph: object = None
        self.calls = 0
        self.noise: Tensor | None = None

    def __call__(self, step: Step, samples: Tensor, noise: Tensor | None) -> None:
        self.calls += 1
        if self.calls == 4 and self.ever:
            self.graph = object()
            self.noise = None if noise is None else noise.clone()
        step(samples, self.noise if self.graph and self.stale else noise)


class Stale(Replayed):
    """As if the noise had not been copied to where the graph reads it."""

    stale = True


class Never(Replayed):
    ever = False


def play(monkeypatch: pytest.MonkeyPatch, kind: type[Replayed], captures: Any) -> None:
    monkeypatch.setattr(Trainer, "cuda_graph_step", kind)
    monkeypatch.setattr(Trainer, "captures", property(captures))


def asked(trainer: Trainer) -> bool:
    return trainer.capture


@pytest.mark.parametrize(
    ("kind", "captures", "passed", "text"),
    [
        (Replayed, asked, True, "bit for bit: feedback, joint"),
        (Stale, asked, False, "to "),
        (Never, asked, False, "no step of a feedback or joint epoch was captured"),
        (Replayed, lambda trainer: False, False, "no step of a feedback or joint epoch was captured"),
        (Replayed, lambda trainer: True, False, "the epochs to compare with were captured too"),
    ],
)
def test_captured_epochs(
    monkeypatch: pytest.MonkeyPatch, kind: type[Replayed], captures: Any, passed: bool, text: str
) -> None:
    play(monkeypatch, kind, captures)
    found = captured_and_not(METHODS["ddtp-linear"], "cpu")
    assert found.passed is passed
    assert found.text.startswith(text)


def test_what_is_captured_does_not_keep_its_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would free both when it looks for cycles; a GPU's memory is needed before."""
    import gc
    import weakref

    play(monkeypatch, Replayed, asked)
    gc.disable()
    try:
        trainer = device_checks._trainer(METHODS["dtp"], "cpu")
        trainer.advance()
        assert trainer.cuda_graphs == ["feedback"]
        gone = weakref.ref(trainer)
        del trainer
        assert gone() is None
    finally:
        gc.enable()


def test_steps_are_captured_on_a_gpu_only_and_where_nobody_looks() -> None:
    trainer = device_checks._trainer(METHODS["bp"], "cpu")
    assert not trainer.uses_cuda_graphs
    trainer.device = torch.device("cuda")
    assert trainer.uses_cuda_graphs
    trainer.capture = False
    assert not trainer.uses_cuda_graphs
    trainer.capture, trainer.pack.observer = True, lambda batch, gradients: None
    assert not trainer.uses_cuda_graphs


def otherwise(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """The first pack, which is that of the device, starts from other weights."""
    make, made = device_checks._trainer, []

    def slightly_other(*arguments: Any, **more: Any) -> Trainer:
        made.append(make(*arguments, **more))
        if len(made) == 1:
            made[0].pack.forward["W2"].mul_(factor)
        return made[-1]

    monkeypatch.setattr(device_checks, "_trainer", slightly_other)


@pytest.mark.parametrize(
    ("precision", "factor", "passed"),
    [
        ("float64", 1, True),
        ("float64", 1 + 1e-7, False),
        ("float32", 1, True),
        ("float32", 1 + 1e-6, True),
        ("float32", 1 + 1e-2, False),
    ],
)
def test_a_device_that_computes_otherwise_is_noticed(
    monkeypatch: pytest.MonkeyPatch, precision: str, factor: float, passed: bool
) -> None:
    otherwise(monkeypatch, factor)
    assert same_as_on_cpu(METHODS["dfa"], precision, "cpu").passed is passed


@pytest.mark.parametrize("name", ["bp", "ddtp-rhl", "gnt"])
def test_resumed(name: str) -> None:
    found = resumed(METHODS[name], "cpu", "cpu")
    assert (found.passed, found.text) == (True, "bit for bit")


@pytest.mark.parametrize("forgotten", ["first_moment", "second_moment", "steps"])
def test_a_resume_that_forgets_is_noticed(monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    restore = Adam.restore

    def forgetful(adam: Adam, state: Mapping[str, Tensor]) -> None:
        restore(adam, {**state, forgotten: torch.zeros_like(state[forgotten])})

    monkeypatch.setattr(Adam, "restore", forgetful)
    found = resumed(METHODS["dtp"], "cpu", "cpu")
    assert found.passed is False
    # Between two devices it would be noticed too.
    assert found.numbers["difference"] > 1e3 * EXACT  # type: ignore[operator]


def test_a_resume_that_begins_anew_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "restore", lambda trainer, checkpoint: None)
    found = resumed(METHODS["bp"], "cpu", "cpu")
    assert (found.passed, found.numbers["difference"]) == (False, float("inf"))


def trained() -> Trainer:
    trainer = device_checks._trainer(METHODS["ddtp-rhl-rec"], "cpu")
    trainer.advance()
    trainer.advance()
    return trainer


def test_whatever_differs_is_named() -> None:
    expected = trained()
    assert difference(trained(), expected) == Difference(0.0, difference(trained(), expected).where)
    for where, change in {
        "b3": lambda t: t.pack.forward["b3"].mul_(2),
        "feedback S1": lambda t: t.pack.feedback["S1"][2, 0].zero_(),
        "second feedback moment c1": lambda t: t.pack.feedback_adam.second_moment["c1"].fill_(torch.nan),
        "R": lambda t: t.pack.fixed["R"][0].zero_(),
        "steps": lambda t: t.pack.forward_adam.steps[1].add_(1),
        "test_loss": lambda t: t.histories[1].curves["test_loss"].__setitem__(0, 9.0),
        "validation_error": lambda t: t.histories[1].curves["validation_error"].__setitem__(0, 0.99),
        "length of train_loss": lambda t: t.histories[2].curves["train_loss"].append(1.0),
        "members diverged": lambda t: t.stop([1]),
    }.items():
        mine = trained()
        change(mine)
        found = difference(mine, expected)
        assert found.where == where
        assert found.size > 1e-3


@pytest.mark.parametrize("name", ["bp", "tp", "ddtp-rhl", "gnt"])
def test_gradients_in_float32(name: str) -> None:
    found = gradient_error(METHODS[name], "float32", "cpu")
    assert found.passed
    assert 0 < found.numbers["error"] < 1e-5  # type: ignore[operator]


def test_gradients_that_depend_on_the_precision_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = PackState.local_gradients

    def coarse(pack: PackState, *arguments: Any) -> None:
        gradients(pack, *arguments)
        if pack.dtype == torch.float32:
            pack.forward_gradients["b2"].mul_(1.01)

    monkeypatch.setattr(PackState, "local_gradients", coarse)
    found = gradient_error(METHODS["dfa"], "float32", "cpu")
    assert found.passed is False
    assert "b2" in found.text


def test_products_are_what_they_were_before() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    found = gradient_error(METHODS["bp"], "tf32", "cpu")
    # On a CPU it is float32.
    assert found.passed
    assert torch.backends.cuda.matmul.allow_tf32 is before


def test_wrong_products_in_bfloat16_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checks, "slow_bfloat16", lambda device: "slow")
    assert gradient_error(METHODS["dtp"], "bf16", "cpu").passed
    lower = ReducedPrecisionMatmul._lower
    monkeypatch.setattr(ReducedPrecisionMatmul, "_lower", lambda self, operand, name: 2 * lower(self, operand, name))
    assert gradient_error(METHODS["dtp"], "bf16", "cpu").passed is False


@pytest.mark.data
@pytest.mark.parametrize(("precision", "factor"), [("float64", 1 + 1e-8), ("float32", 1.001)])
def test_fixtures(shared_data: Path, tmp_path: Path, precision: str, factor: float) -> None:
    source = shared_data / "golden" / "ddtp-rhl.npz"
    assert fixture_on(source, precision, "cpu").passed
    wrong = altered(source, tmp_path / "wrong.npz", "s0/dW2", factor)
    assert fixture_on(wrong, precision, "cpu").passed is False


@pytest.mark.data
def test_fixtures_go_to_the_device(shared_data: Path) -> None:
    """Tensors without numbers that claim to be on a GPU refuse those of the CPU."""
    fixture = Fixture(shared_data / "golden" / "ddtp-rhl.npz")
    with rehearsing():
        pack = fixture.pack(2, torch.float64, "cuda")
        pack.validated = True
        record = fixture.run_step(pack, 0)
        assert {tensor.device.type for tensor in (*record.activities, *pack.fixed.values())} == {"cuda"}


def test_the_hosts_noise_goes_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checks, "_MINIBATCHES", 1)
    with rehearsing():
        trainer = device_checks._trainer(METHODS["dtp"], "cuda", "float64", host_noise=True, cuda_graph=False)
        drawn = [noise for noise in trainer._noise(trainer._minibatches()) if noise is not None]
        assert [(noise.device.type, len(noise)) for noise in drawn] == [("cuda", 3)] * 2
        trainer.pack.validated = True
        assert trainer.train_epoch("joint") == 2
        assert trainer.train_epoch("feedback") == 2
