"""``tpbench verify``: what it needs to run, and what it refuses; ``pytest -m`` where Ray is not installed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import WITHOUT_RAY, Inside
from tests.documents import ROOT
from tpbench.engine import (
    AFTER,
    BEFORE,
    LAYERWISE_LINEAR,
    METHODS,
    Architecture,
    FeedbackPhase,
    Hyperparameter,
    Method,
    Minibatch,
    Parameters,
    RuleArray,
    Update,
    aligned_targets,
    example_configuration,
    gradient_targets,
    verify,
)
from tpbench.engine.verify import Check, loss_angles, verify_method

ABSENT = ("ray", "hyperopt", "pandas", "scipy", "psutil", "torchvision", "sklearn", "pyarrow", "matplotlib", "upath")
_BLOCK = "import sys; sys.modules.update(dict.fromkeys({absent!r})); "


def run_without(absent: tuple[str, ...], code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code where these modules cannot be imported."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", _BLOCK.format(absent=absent) + code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={
            **os.environ,
            "HOME": str(folder),
            "PYTHONPATH": paths,
            "COLUMNS": "200",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
    )


def call(*arguments: str) -> str:
    """Return code that runs tpbench's command line."""
    return f"sys.argv[1:] = {arguments!r}; import runpy; runpy.run_module('tpbench', run_name='__main__')"


def test_verify_device_runs_where_torch_is_and_little_else(tmp_path: Path) -> None:
    ended = run_without(ABSENT, call("verify", "device"), tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "steps/s" in ended.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["typer", "rich", "yaml", "pydantic", "torch", "numpy"])
def test_a_missing_library_is_named_in_a_line(tmp_path: Path, missing: str) -> None:
    ended = run_without((missing,), call("verify", "device"), tmp_path)
    assert ended.returncode == 1
    assert f"needs {'pyyaml' if missing == 'yaml' else missing}," in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (("theory",), "pytest -m theory"),
        (("theory", "--json"), "pytest -m theory"),
        (("device", "--device", "cuda"), "pytest -m device"),
        (("device", "--fixtures", "nowhere"), "pytest -m device"),
        (("device", "--methods", "bp"), "pytest -m device"),
        (("device", "--only", "resume"), "pytest -m device"),
        (("device", "--json"), "pytest -m device"),
    ],
)
def test_commands_and_options_that_are_tests_now_are_refused(
    tpbench_inside: Inside, arguments: tuple[str, ...], instead: str
) -> None:
    ended = tpbench_inside("verify", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert instead in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_check_that_fails_ends_the_command_with_1(tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_check_golden", lambda *arguments: 1 / 0)
    ended = tpbench_inside("verify", "device")
    assert ended.returncode == 1
    assert "bp, float64: ZeroDivisionError" in ended.stderr.splitlines()[0]


def test_marked_tests_are_collected_without_ray(tmp_path: Path) -> None:
    """And where little more than pytest, torch, numpy, pyyaml and rich is installed."""
    absent = (*ABSENT, "hypothesis", "typer", "xdist")
    for marker in ("theory", "golden", "device"):
        options = ["-m", marker, "--collect-only", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
        options += ["-c", str(ROOT / "pyproject.toml"), str(ROOT / "tests")]
        ended = run_without(absent, f"import pytest; sys.exit(pytest.main({options!r}))", tmp_path)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        files = {line.partition("::")[0] for line in ended.stdout.splitlines() if "::" in line}
        assert {f"tests/{file}" for file in WITHOUT_RAY[marker]} == files


PLAIN = ("lr", "beta1", "beta2", "epsilon")
COUNT = Hyperparameter("count", "how often", whole=True)
RATE = Hyperparameter("rate", "how much", upper=1.0)
Train = Callable[[Minibatch, list[Tensor], Parameters], None]


def checks_of(method: Method) -> dict[str, Check]:
    return {check.name: check for check in verify_method(method)}


def failed(method: Method) -> set[str]:
    """Return the checks that a rule does not pass; those that measure alone have no verdict."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "_INFORMATION", ())
        return {check.name for check in verify_method(method) if check.passed is False}


def method(rule: Callable[[Minibatch], Any] = gradient_targets, *own: Hyperparameter, **more: Any) -> Method:
    return Method("Mine", "a rule", rule, (*PLAIN, *own), **more)


def own_arrays(architecture: Architecture) -> dict[str, RuleArray]:
    return {f"B{i}": RuleArray((architecture.sizes[i], architecture.sizes[i - 1])) for i in architecture.layers}


def with_phase(train: Train, *own: Hyperparameter, when: str = BEFORE, **more: Any) -> Method:
    """Return backpropagation that also has arrays, whose phase steps by itself."""
    phase = FeedbackPhase(train, when, own_step=True, **more)
    return method(gradient_targets, *own, arrays=own_arrays, feedback_phase=phase, capturable=False)


def arrays_of(batch: Minibatch) -> Parameters:
    assert batch.arrays is not None
    return batch.arrays


def decaying(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    for name in arrays_of(batch):
        arrays_of(batch)[name].mul_(1 - batch.hyperparameters["rate"].view(-1, 1, 1))


def decaying_alike(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    """Takes the first member's rate for all."""
    for name in arrays_of(batch):
        arrays_of(batch)[name].mul_(1 - batch.hyperparameters["rate"][0])


def counting(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    """Goes on as often as the first member says."""
    for _ in range(int(batch.configurations[0]["count"])):
        arrays_of(batch)["B1"].mul_(0.9)


def drawing(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    """Draws for all members, also for those that take no part in this step."""
    arrays_of(batch)["B1"].add_(batch.draw(*arrays_of(batch)["B1"].shape[1:]))


def averaging_noise(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    """Divides by the number of draws that the pack has, not the member."""
    arrays_of(batch)["B1"].add_(torch.stack(noise).mean((0, 2))[:, :, None])


def adding_noise(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    arrays_of(batch)["B1"].add_(torch.stack(noise).sum((0, 2))[:, :, None])


def of_the_width(architecture: Architecture) -> tuple[int, ...]:
    return (architecture.sizes[1],)


@pytest.mark.parametrize("when", [BEFORE, AFTER])
def test_a_phase_whose_numbers_depend_on_the_pack_is_found(when: str) -> None:
    """Finding B-1 of the review, for phases of a rule's own."""
    assert failed(with_phase(decaying, RATE, when=when)) == set()
    assert failed(with_phase(decaying_alike, RATE, when=when)) == {"members"}
    assert failed(with_phase(counting, COUNT, when=when)) == {"members"}
    assert failed(with_phase(decaying, RATE, COUNT, when=when, steps="count")) == set()
    assert failed(with_phase(drawing, when=when)) == set()


def test_members_whose_phases_differ_in_steps_or_draws_get_their_own_noise() -> None:
    """Finding B-1b of the review."""
    assert failed(with_phase(adding_noise, COUNT, noise=of_the_width, steps="count")) == set()
    assert failed(with_phase(adding_noise, COUNT, noise=of_the_width, draws="count")) == set()
    # A phase that draws by itself in each step draws for members that have ended.
    assert failed(with_phase(drawing, COUNT, steps="count")) == {"members"}
    assert failed(with_phase(averaging_noise, COUNT, noise=of_the_width, draws="count")) == {"members"}


def changing(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    decaying_alike(batch, noise, into)
    batch.forward_parameters["W1"].mul_(0.99)


def changing_activities(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    decaying_alike(batch, noise, into)
    batch.activities[2].add_(1)


def nothing(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    """Leaves all arrays as they are."""


@pytest.mark.parametrize("train", [changing, changing_activities, nothing])
def test_a_phase_changes_its_arrays_and_nothing_else(train: Train) -> None:
    assert failed(with_phase(train, RATE)) == {"feedback phase"}


STATE: list[int] = []


def stateful(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    STATE.append(1)
    arrays_of(batch)["B1"].mul_(1 / (1 + len(STATE)))


def test_a_phase_with_a_state_of_its_own_is_found() -> None:
    assert failed(with_phase(stateful)) >= {"second call", "checkpoint"}


def torch_numbers() -> float:
    return float(torch.rand(()))


def numpy_numbers() -> float:
    return float(np.random.rand())


@pytest.mark.parametrize("draw", [torch_numbers, numpy_numbers, random.random])
@pytest.mark.parametrize("in_phase", [False, True])
def test_unseeded_numbers_are_called_so(draw: Callable[[], float], in_phase: bool) -> None:
    def rule(batch: Minibatch) -> list[Tensor]:
        return [target * (1 + draw()) for target in gradient_targets(batch)]

    def train(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
        arrays_of(batch)["B1"].mul_(draw())

    *_, last = verify_method(with_phase(train) if in_phase else method(rule, capturable=False))
    assert (last.name, last.passed) == ("random numbers", False)
    assert "batch.draw" in last.result


BUFFER: dict[int, Tensor] = {}


def errors(batch: Minibatch) -> list[Tensor]:
    """Return dL/da_i of the mean loss."""
    size = batch.output_gradient.shape[1]
    slopes = [*batch.slopes[1:], torch.ones_like(batch.output_gradient)]
    return [target * slope * (-2 / size) for target, slope in zip(gradient_targets(batch), slopes, strict=True)]


def growing(batch: Minibatch) -> Update:
    found = errors(batch)
    first = BUFFER.setdefault(-found[0].numel(), torch.zeros_like(found[0]))
    return Update([first.add_(found[0]), *found[1:]])


@pytest.mark.parametrize(
    ("rule", "checks"),
    [
        (lambda batch: Update(errors(batch)), set()),
        (lambda batch: Update(errors(batch), batch.activities[:-1]), set()),
        (lambda batch: Update(errors(batch)[1:]), {"targets"}),
        (lambda batch: Update(errors(batch), batch.activities), {"targets"}),
        (lambda batch: Update(errors(batch), batch.activities[1:]), {"targets"}),
        (lambda batch: Update([error / 0 for error in errors(batch)]), {"finite"}),
        (lambda batch: Update(batch.output_gradient.mul_(1) is None or errors(batch)), {"minibatch"}),
        (lambda batch: Update([error - error.mean(0) for error in errors(batch)]), {"members"}),
        (lambda batch: Update([error * 0 for error in errors(batch)]), {"updates"}),
        (growing, {"second call", "members", "checkpoint"}),
    ],
)
def test_updates_are_checked_as_targets_are(rule: Callable[[Minibatch], Update], checks: set[str]) -> None:
    BUFFER.clear()
    found = failed(method(rule))
    assert found == checks or found >= checks >= {"second call"}


def test_results_of_two_calls_share_no_memory() -> None:
    buffers: list[Tensor] = []

    def rule(batch: Minibatch) -> Update:
        found = errors(batch)
        if not buffers or buffers[0].shape != found[0].shape:
            buffers[:] = [torch.empty_like(found[0])]
        buffers[0].copy_(found[0])
        return Update([buffers[0], *found[1:]])

    assert failed(method(rule, capturable=False)) == {"second call"}


@pytest.mark.parametrize("name", ["W1", "b2", "Q1", "c2"])
def test_arrays_have_names_of_their_own(name: str) -> None:
    clashing = method(aligned_targets, feedback=LAYERWISE_LINEAR, arrays=lambda architecture: {name: RuleArray((2, 2))})
    (check,) = verify_method(clashing)
    assert check.passed is False
    assert name in check.result


def test_a_hyperparameter_without_effect_is_named() -> None:
    def scaled(batch: Minibatch) -> list[Tensor]:
        return [target * batch.hyperparameters["rate"].view(-1, 1, 1) for target in gradient_targets(batch)]

    check = checks_of(method(scaled, RATE, COUNT))["hyperparameters"]
    assert check.passed is None
    assert "count" in check.result
    assert "rate" not in check.result
    assert "fb_steps" not in checks_of(METHODS["l-drl"])["hyperparameters"].result


def test_a_wrong_sign_is_seen_by_its_angles() -> None:
    """Finding B-5 of the review."""
    assert max(loss_angles(METHODS["bp"])) < 1e-3
    assert max(loss_angles(METHODS["kp"])) < 10
    turned = method(lambda batch: [-target for target in gradient_targets(batch)])
    assert min(loss_angles(turned)) > 179
    check = checks_of(turned)["angles"]
    assert check.passed is None
    assert "180° 180° 180° 180°" in check.result


def differentiating(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    values = arrays_of(batch)["B1"].clone().requires_grad_()
    into["B1"].copy_(torch.autograd.grad(values.square().sum(), values)[0])


def test_autograd_in_a_phase_cannot_be_told_without_a_gpu() -> None:
    arrays = {"arrays": lambda architecture: {"B1": RuleArray((3, 2), trained=True)}}
    feedback_adam = ("lr_fb", "beta1_fb", "beta2_fb", "epsilon_fb", "wd_fb")
    rule = Method(
        "Mine",
        "a rule",
        gradient_targets,
        (*PLAIN, *feedback_adam),
        feedback_phase=FeedbackPhase(differentiating),
        **arrays,
    )
    found = checks_of(rule)
    assert [check for check in found.values() if check.passed is False] == []
    if not torch.cuda.is_available():
        assert found["read-backs"].passed is None


def test_a_hyperparameter_may_give_an_example() -> None:
    """The check of a rule takes it, and so does whatever measures rules."""
    assert Hyperparameter("rate", "how much", upper=1.0).example == 0.5
    given = Hyperparameter("rate", "how much", upper=1.0, example=0.01)
    assert example_configuration(method(gradient_targets, given))["rate"] == 0.01
    assert given == Hyperparameter("rate", "how much", upper=1.0, example=0.01)
    for example in (0.0, 1.0, "much", float("inf")):
        with pytest.raises(ValueError, match="example"):
            Hyperparameter("rate", "how much", upper=1.0, example=example)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="example"):
        Hyperparameter("count", "how often", whole=True, example=1.5)


def needing_matrices(batch: Minibatch) -> list[Tensor]:
    """Backpropagation that takes every weight for a matrix."""
    change = [batch.output_gradient * (-batch.output_gradient.shape[1] / 2)]
    for i in range(batch.architecture.depth, 1, -1):
        error = change[0] if i == batch.architecture.depth else change[0] * batch.slopes[i]
        change.insert(0, error.bmm(batch.forward_parameters[f"W{i}"]))
    return change


def test_a_rule_that_is_declared_to_work_with_convolutions_is_tried_there() -> None:
    assert failed(method(needing_matrices, convolutions=True)) == {"convolutions"}
    assert failed(method(needing_matrices)) == set()
    assert failed(method(convolutions=True)) == set()
