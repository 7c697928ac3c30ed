"""Every method on tensors that claim to be on a GPU; an error there is one on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.engine.dry_run import dry_run
from tests.engine.test_field_rules import RULES
from tpbench.engine import (
    METHODS,
    PRECISIONS,
    Architecture,
    Convolution,
    Minibatch,
    Problem,
    RuleError,
    Trainer,
    convolutional,
    example_configuration,
)
from tpbench.engine import trainer as capture
from tpbench.engine.methods import Method, gradient_targets
from tpbench.engine.step import PackState
from tpbench.engine.trainer import CudaGraphStep
from tpbench.engine.verify import READ_BACK


def wide(problem: Problem, architecture: Architecture) -> Problem:
    """Return a problem that bf16 lowers products of, with one full minibatch and one of 44 samples.

    Args:
        problem: one with 60 samples for validation.
        architecture: one with layers of 64 units or more.
    """
    x, y = problem.x_train[:168], problem.y_train[:168]
    return replace(problem, architecture=architecture, x_train=x, y_train=y, batch_size=64)


# The rules of the field in float32 are in test_a_fake_gpu_trains_a_pack_of_unlike_members.
@pytest.mark.parametrize(
    ("method", "precision"),
    [
        *((method, "float32") for method in METHODS if method not in RULES),
        *((method, "bf16") for method in METHODS),
        *(("ddtp-rhl", precision) for precision in PRECISIONS if precision not in ("float32", "bf16")),
    ],
)
def test_an_epoch_is_read_once_at_its_end(method: str, precision: str, small_problem: Problem) -> None:
    if precision == "bf16" and not torch._C._dispatch_has_kernel_for_dispatch_key("aten::bmm.dtype_out", "Meta"):
        pytest.skip("this torch cannot fake its product of bfloat16 operands into float32")
    rule = METHODS[method]
    problem = wide(small_problem, Architecture((6, 66, 65, 64, 3), random_hidden=64))
    assert dry_run(rule, problem, 3, precision) == (0 if rule.capturable is False else 1 + rule.trains_feedback)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("method", ["bp", "ddtp-linear", "ddtp-rhl", "drtp", "dkp"])
def test_an_epoch_of_convolutions_is_read_once_at_its_end(method: str, precision: str, small_problem: Problem) -> None:
    if precision == "bf16" and not torch._C._dispatch_has_kernel_for_dispatch_key("aten::bmm.dtype_out", "Meta"):
        pytest.skip("this torch cannot fake its product of bfloat16 operands into float32")
    rule = METHODS[method]
    network = convolutional((1, 2, 3), [Convolution(64, 3, 1, 1), Convolution(66)], [64, 3], random_hidden=64)
    assert dry_run(rule, wide(small_problem, network), 3, precision) == 1 + rule.trains_feedback


def test_the_built_in_methods_can_be_captured_but_the_one_that_draws() -> None:
    refused = {name for name, rule in METHODS.items() if not rule.allows_cuda_graph([example_configuration(rule)] * 2)}
    assert refused == {"brsf"}


@pytest.mark.parametrize("damping", [0.0, 1e-46])
def test_undamped_gauss_newton_targets_are_not_captured(damping: float) -> None:
    """The SVD of a pseudo-inverse reads back whether it converged, which fake tensors do not show."""
    damped = example_configuration(METHODS["gnt"])
    assert not METHODS["gnt"].allows_cuda_graph([damped, {**damped, "damping": damping}])


def test_a_pack_stays_uncaptured_when_the_member_leaves_for_whose_sake_it_is() -> None:
    """Its rule may draw, which it could not do from one minibatch to the next."""
    damped = example_configuration(METHODS["gnt"])
    pack = PackState(METHODS["gnt"], Architecture((5, 4, 3, 2)), [damped, {**damped, "damping": 0.0}], [0, 1])
    assert not pack.allows_cuda_graph
    assert not pack.select([0]).allows_cuda_graph


def reading(batch: Minibatch) -> list[Tensor]:
    return [target * (1 if target.abs().max().item() else 2) for target in gradient_targets(batch)]


def from_the_host(batch: Minibatch) -> list[Tensor]:
    return [target * torch.ones(2, 1, 1).to(target.device) for target in gradient_targets(batch)]


@pytest.mark.parametrize("targets", [reading, from_the_host])
def test_an_epoch_that_needs_the_host_is_noticed(targets: object, small_problem: Problem) -> None:
    rule: Method = replace(METHODS["bp"], targets=targets)  # type: ignore[arg-type]
    with pytest.raises(RuleError) as raised:
        dry_run(rule, small_problem, 2)
    assert isinstance(raised.value.__cause__, READ_BACK)


@pytest.mark.parametrize("place", ["_train_joint", "_evaluate"])
def test_a_number_read_in_the_engine_is_noticed(
    place: str, small_problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(Trainer, place)

    def read(self: Trainer, *given: object) -> object:
        float(self.pack.forward.flat.sum())
        return original(self, *given)

    monkeypatch.setattr(Trainer, place, read)
    with pytest.raises(READ_BACK):
        dry_run(METHODS["bp"], small_problem, 2)


def test_a_tensor_of_the_host_in_a_step_is_noticed(small_problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PackState.local_gradients

    def mixing(self: PackState, activities: list[Tensor], slopes: list[Tensor], targets: list[Tensor]) -> None:
        original(self, activities, slopes, [target + torch.ones(2, 1, 1) for target in targets])

    monkeypatch.setattr(PackState, "local_gradients", mixing)
    with pytest.raises(RuntimeError, match=r"device"):
        dry_run(METHODS["bp"], small_problem, 2)


@pytest.mark.parametrize("method", ["ddtp-rhl", "gnt"])
def test_a_dry_run_leaves_nothing_behind(method: str, small_problem: Problem) -> None:
    """Constants of tensors without numbers would poison what is real."""
    dry_run(METHODS[method], small_problem, 2)
    trainer = Trainer(METHODS[method], small_problem, [example_configuration(METHODS[method])], [0], epochs=1)
    trainer.advance()
    assert trainer.histories[0].status in ("training", "finished")
    assert bool(trainer.pack.largest().isfinite().all())


class RefusedGraph:
    """A capture that a library in it does not allow."""

    def __init__(self, error: type[RuntimeError]) -> None:
        self.error = error

    def __enter__(self) -> None:
        pass

    def __exit__(self, *caught: object) -> None:
        raise self.error("not permitted")


@pytest.mark.parametrize(("error", "trains"), [(RuntimeError, True), (torch.OutOfMemoryError, False)])
def test_steps_go_on_where_a_capture_is_refused(
    error: type[RuntimeError], trains: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: RefusedGraph(error))
    monkeypatch.setattr(capture, "_side_stream", lambda device: None)
    captured = CudaGraphStep((1, 2), None, torch.device("cpu"))
    captured.calls = capture._WARM_UP
    if not trains:
        # Memory is found by halving the pack.
        with pytest.raises(torch.OutOfMemoryError):
            captured._capture(lambda samples, noise: None)
        return
    captured._capture(lambda samples, noise: None)
    assert captured.graph is None
    assert "CUDA graph: not permitted" in caplog.text
