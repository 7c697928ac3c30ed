"""Training on a GPU against the CPU, float64 and steps that are not captured; on the CPU what can be compared there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tpbench.engine import METHODS, Method, Trainer, example_configuration, load_checkpoint, save_checkpoint
from tpbench.engine.adam import Adam
from tpbench.engine.golden import SHIPPED, GoldenFile, compare_golden_file, golden_files, relative_error
from tpbench.engine.network import stream
from tpbench.engine.parts import Architecture, Convolution, convolutional
from tpbench.engine.precision import ReducedPrecisionMatmul, matmul_policy, slow_bfloat16
from tpbench.engine.step import PackState
from tpbench.engine.trainer import Step, dtype_of, tf32_products
from tpbench.engine.verify import (
    FLOAT32_BOUND,
    FLOAT64_BOUND,
    Check,
    example_trainer,
    fake_gpu,
    trainer_difference,
    verify_device,
)

ON_GPU = [pytest.mark.device, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")]
GPU = pytest.param("cuda", marks=ON_GPU)

CAPTURED_BOUND = {"float32": 1e-6, "bf16": 1e-2}
"""Largest relative difference of an epoch captured as a graph and the same one step by step. The kernels are the same,
but in bf16 a last digit of float32 may round to another operand."""
GRADIENT_BOUND = {"float32": 1e-3, "tf32": 2e-2, "bf16": 5e-2}
"""Largest relative difference of first gradients from float64's, on networks of full width. On a CPU they are within
2e-6 in float32 and 1.1e-2 in bf16."""


def on_gpu(test: Callable[..., None]) -> Callable[..., None]:
    for mark in ON_GPU:
        test = mark(test)
    return test


def finish(*trainers: Trainer) -> None:
    for trainer in trainers:
        while not trainer.done:
            trainer.advance()


# Captured steps.

WIDE = Architecture((80, 72, 70, 66, 5), random_hidden=68)
"""A network whose hidden products are large enough for bf16."""


@on_gpu
@pytest.mark.parametrize("equal", [False, True], ids=["members-differ", "members-equal"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", METHODS)
def test_captured_epochs_are_those_of_single_steps(name: str, precision: str, equal: bool) -> None:
    """Members with equal settings are updated at once on a GPU, so both kinds of packs are compared."""
    method = METHODS[name]
    if not method.allows_cuda_graph([example_configuration(method)]):
        pytest.skip("declared not capturable: it runs step by step")
    if precision == "bf16" and (slow := slow_bfloat16("cuda")):
        pytest.skip(slow)
    size: dict[str, Any] = {"network": WIDE, "batch": 64} if precision == "bf16" else {}
    replayed, stepwise = (
        example_trainer(method, "cuda", precision, equal=equal, cuda_graph=capture, **size) for capture in (True, False)
    )
    finish(replayed, stepwise)
    assert set(replayed.cuda_graphs) == {phase.kind for phase in replayed.phases}
    assert stepwise.cuda_graphs == []
    error, name = trainer_difference(replayed, stepwise)
    assert error <= CAPTURED_BOUND[precision], name


ATOMIC_BOUND = 1e-4
"""Where a position won several windows of a pooling, a GPU adds their errors in no fixed order."""
CONVOLUTIONS = convolutional((2, 6, 5), [Convolution(64), Convolution(66)], [64, 5], random_hidden=68)
CONVOLUTIONAL = [name for name, method in METHODS.items() if not method.refusal(CONVOLUTIONS)]


@on_gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_captured_epochs_of_convolutions_are_those_of_single_steps(name: str, precision: str) -> None:
    if precision == "bf16" and (slow := slow_bfloat16("cuda")):
        pytest.skip(slow)
    replayed, stepwise = (
        example_trainer(METHODS[name], "cuda", precision, network=CONVOLUTIONS, batch=64, cuda_graph=capture)
        for capture in (True, False)
    )
    finish(replayed, stepwise)
    assert set(replayed.cuda_graphs) == {phase.kind for phase in replayed.phases}
    error, name = trainer_difference(replayed, stepwise)
    assert error <= max(CAPTURED_BOUND[precision], ATOMIC_BOUND), name


def test_tf32_is_allowed_in_products_and_convolutions_together() -> None:
    settings: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [setting.allow_tf32 for setting in settings]
    for allowed in (True, False):
        with tf32_products(torch.device("cuda"), allowed=allowed):
            assert [setting.allow_tf32 for setting in settings] == [allowed] * 2
        assert [setting.allow_tf32 for setting in settings] == before


@on_gpu
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_gpu_convolves_as_a_cpu(name: str, precision: str) -> None:
    gpu, cpu = (
        example_trainer(METHODS[name], place, precision, network=CONVOLUTIONS, host_noise=True)
        for place in ("cuda", "cpu")
    )
    finish(gpu, cpu)
    error, name = trainer_difference(gpu, cpu)
    assert error <= (FLOAT64_BOUND if precision == "float64" else FLOAT32_BOUND), name


class Replayed:
    """Stands for :class:`tpbench.engine.trainer.CudaGraphStep` on a CPU: it replays the step itself."""

    def __init__(self, samples: Any, noise: Any, device: Any) -> None:
        self.graph: object = None
        self.calls = 0

    def __call__(self, step: Step, samples: Tensor, noise: Tensor | None) -> None:
        self.calls += 1
        if self.calls == 4:
            self.graph = object()
        step(samples, noise)


@pytest.fixture
def replaying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "cuda_graph_step", Replayed)
    monkeypatch.setattr(Trainer, "uses_cuda_graphs", property(lambda trainer: trainer.cuda_graph))


@pytest.mark.usefixtures("replaying")
def test_a_captured_step_trains_every_minibatch_once() -> None:
    replayed, stepwise = (example_trainer(METHODS["ddtp-linear"], cuda_graph=capture) for capture in (True, False))
    finish(replayed, stepwise)
    assert set(replayed.cuda_graphs) == {"feedback", "joint"}
    assert trainer_difference(replayed, stepwise)[0] == 0


@pytest.mark.usefixtures("replaying")
def test_a_captured_step_does_not_keep_its_trainer() -> None:
    """Python would free both when it looks for cycles; a GPU's memory is needed before."""
    import gc
    import weakref

    gc.disable()
    try:
        trainer = example_trainer(METHODS["dtp"])
        trainer.advance()
        assert trainer.cuda_graphs == ["feedback"]
        reference = weakref.ref(trainer)
        del trainer
        assert reference() is None
    finally:
        gc.enable()


def test_steps_are_captured_on_a_gpu_only_and_where_nothing_is_observed() -> None:
    trainer = example_trainer(METHODS["bp"])
    assert not trainer.uses_cuda_graphs
    trainer.device = torch.device("cuda")
    assert trainer.uses_cuda_graphs
    trainer.cuda_graph = False
    assert not trainer.uses_cuda_graphs
    trainer.cuda_graph, trainer.pack.observer = True, lambda batch, gradients: None
    assert not trainer.uses_cuda_graphs


# The same training on two devices.


@on_gpu
@pytest.mark.parametrize(("precision", "bound"), [("float32", FLOAT32_BOUND), ("float64", FLOAT64_BOUND)])
@pytest.mark.parametrize("name", METHODS)
def test_a_gpu_trains_as_the_cpu_does(name: str, precision: str, bound: float) -> None:
    there, here = (
        example_trainer(METHODS[name], device, precision, host_noise=True, cuda_graph=False)
        for device in ("cuda", "cpu")
    )
    finish(there, here)
    error, where = trainer_difference(there, here)
    assert error <= bound, where


def resume(method: Method, folder: Path, first: str, second: str) -> float:
    """Train on one device, continue its checkpoint on another, and return how much the last epoch differs."""
    straight, other = (example_trainer(method, device, "float64", host_noise=True) for device in (first, second))
    while straight.position < len(straight.phases) - 1:
        straight.advance()
    save_checkpoint(straight, folder / "checkpoint.pt")
    load_checkpoint(other, folder / "checkpoint.pt")
    finish(straight, other)
    return trainer_difference(other, straight)[0]


@on_gpu
@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_is_continued_on_another_device(name: str, first: str, second: str, tmp_path: Path) -> None:
    assert resume(METHODS[name], tmp_path, first, second) <= FLOAT64_BOUND


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_is_continued_bit_for_bit(name: str, tmp_path: Path) -> None:
    assert resume(METHODS[name], tmp_path, "cpu", "cpu") == 0


@pytest.mark.parametrize("part", ["first_moment", "second_moment", "steps"])
def test_all_of_adams_state_matters_after_a_resume(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the comparison between two devices, with its bound, would find that it is lost."""
    restore = Adam.restore

    def restore_without(adam: Adam, state: Mapping[str, Tensor]) -> None:
        restore(adam, {**state, part: torch.zeros_like(state[part])})

    monkeypatch.setattr(Adam, "restore", restore_without)
    assert resume(METHODS["dtp"], tmp_path, "cpu", "cpu") > 1e3 * FLOAT64_BOUND


def test_the_hosts_noise_goes_to_the_device() -> None:
    """Tensors without numbers that claim to be on a GPU refuse those of the CPU."""
    with fake_gpu():
        trainer = example_trainer(METHODS["dtp"], "cuda", "float64", host_noise=True, cuda_graph=False)
        drawn = [noise for noise in trainer._noise(trainer._minibatches()) if noise is not None]
        assert {(noise.device.type, len(noise)) for noise in drawn} == {("cuda", 3)}
        trainer.pack.validated = True
        assert {v.device.type for kind in ("joint", "feedback") for v in trainer.train_epoch(kind).values()} == {"cuda"}


# Precision.

FULL_WIDTH, FULL_BATCH = Architecture((784, 256, 256, 10), random_hidden=512), 128


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let products on a GPU use TF32, or not."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def first_gradients(method: Method, precision: str, device: str) -> dict[str, Tensor]:
    """Return the gradients of the first minibatch of a network of full width.

    Where the device has no fast bfloat16 that is simulated.
    """
    generator, dtype, members = stream(0, "verify device"), dtype_of(precision), 2
    simulated = precision == "bf16" and slow_bfloat16(device)
    pack = PackState(
        method,
        FULL_WIDTH,
        [example_configuration(method)] * members,
        list(range(members)),
        dtype=dtype,
        device=device,
        matmul=ReducedPrecisionMatmul(device, simulated=True) if simulated else matmul_policy(precision, device),
    )
    x, *noise = (
        torch.randn(members, FULL_BATCH, n, generator=generator).to(device, dtype) for n in FULL_WIDTH.sizes[:-1]
    )
    y = torch.randint(0, FULL_WIDTH.sizes[-1], (members, FULL_BATCH), generator=generator).to(device)
    with tf32(precision == "tf32"):
        pack.joint_step(x, y, noise if method.trains_feedback else None)
    groups = [group for group in (pack.forward_gradients, pack.feedback_gradients) if group]
    return {name: group[name] for group in groups for name in group}


def gradient_error(name: str, precision: str, device: str) -> float:
    """Return the largest relative difference of the first gradients from float64's on the same device."""
    gradients, exact = (first_gradients(METHODS[name], p, device) for p in (precision, "float64"))
    return max(relative_error(gradients[array], exact[array]) for array in exact)


@on_gpu
@pytest.mark.parametrize(("precision", "bound"), GRADIENT_BOUND.items())
@pytest.mark.parametrize("name", METHODS)
def test_gradients_on_a_gpu_are_near_those_in_float64(name: str, precision: str, bound: float) -> None:
    assert gradient_error(name, precision, "cuda") <= bound


@pytest.mark.parametrize("name", ["bp", "tp", "ddtp-rhl", "gnt"])
def test_gradients_in_float32_are_near_those_in_float64(name: str) -> None:
    assert 0 < gradient_error(name, "float32", "cpu") < 1e-5


@pytest.mark.parametrize("name", ["bp", "dtp"])
def test_gradients_in_bf16_are_near_those_in_float64(name: str) -> None:
    assert 1e-5 < gradient_error(name, "bf16", "cpu") <= GRADIENT_BOUND["bf16"]


# Golden files and the screen of 'verify device'.


@on_gpu
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("path", golden_files(SHIPPED), ids=lambda path: path.stem)
def test_golden_files_on_a_gpu(path: Path, precision: str) -> None:
    assert compare_golden_file(path, dtype_of(precision), members=2, device="cuda").passed


def test_golden_files_go_to_the_device() -> None:
    golden = GoldenFile(SHIPPED / "ddtp-linear.npz")
    with fake_gpu():
        pack = golden.pack(2, torch.float64, "cuda")
        pack.validated = True
        record = golden.train(pack, 0)
        assert {tensor.device.type for tensor in record.activities} == {"cuda"}


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_screen(device: str) -> None:
    checks = list(verify_device(device))
    assert [check for check in checks if check.passed is False] == []
    golden = [check for check in checks if check.name.startswith("golden file bp,")]
    assert golden[0].name.endswith("float64")
    assert golden[0].passed
    assert len(checks) == (11 if device == "cpu" else 16)


def test_a_check_that_fails_or_raises_is_a_line_of_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = PackState.local_gradients

    def coarse(pack: PackState, *arguments: Any) -> None:
        if pack.dtype == torch.float32:
            raise RuntimeError("CUDA error: an illegal\nmemory access")
        gradients(pack, *arguments)
        pack.forward_gradients["b2"].mul_(1.01)

    monkeypatch.setattr(PackState, "local_gradients", coarse)
    checks = {check.name: check for check in verify_device("cpu")}
    golden = {name.split()[-1]: check for name, check in checks.items() if name.startswith("golden file bp,")}
    assert golden["float64"].passed is False
    assert golden["float32"].result == "RuntimeError: CUDA error: an illegal"
    assert checks["speed"] == Check("speed", "RuntimeError: CUDA error: an illegal", False)


# The comparison itself.


def test_a_difference_of_two_trainers_is_named() -> None:
    def trained() -> Any:
        trainer = example_trainer(METHODS["ddtp-rhl-rec"])
        trainer.advance()
        trainer.advance()
        return trainer

    expected = trained()
    assert trainer_difference(trained(), expected) == (0.0, "all equal")
    changes: dict[str, Callable[[Any], Any]] = {
        "b3": lambda t: t.pack.forward["b3"].mul_(2),
        "feedback S1": lambda t: t.pack.feedback["S1"][2, 0].zero_(),
        "feedback second moment c1": lambda t: t.pack.feedback_adam.second_moment["c1"].fill_(torch.nan),
        "R": lambda t: t.pack.fixed["R"][0].zero_(),
        "steps": lambda t: t.pack.forward_adam.steps[1].add_(1),
        "test_loss": lambda t: t.histories[1].curves["test_loss"].__setitem__(0, 9.0),
        "validation_error": lambda t: t.histories[1].curves["validation_error"].__setitem__(0, 0.99),
        "length of train_loss": lambda t: t.histories[2].curves["train_loss"].append(1.0),
        "members diverged": lambda t: t.stop([1]),
    }
    for where, change in changes.items():
        mine = trained()
        change(mine)
        error, found = trainer_difference(mine, expected)
        assert (found, error > 1e-3) == (where, True)


@pytest.mark.parametrize(
    ("values", "expected", "scale", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0, 0),
        ([1.0, 2.5], [1.0, 2.0], 0, 0.25),
        ([1.0, 2.5], [1.0, 2.0], 5, 0.1),
        ([0.0], [0.0], 0, 0),
        ([1e-9], [0.0], 0, float("inf")),
        ([1e-9], [0.0], 1, 1e-9),
        ([float("nan")], [1.0], 0, float("inf")),
        ([float("inf")], [float("inf")], 0, float("inf")),
        ([], [], 0, 0),
    ],
)
def test_relative_errors(values: list[float], expected: list[float], scale: float, error: float) -> None:
    assert relative_error(torch.tensor(values), torch.tensor(expected), scale) == pytest.approx(error)
