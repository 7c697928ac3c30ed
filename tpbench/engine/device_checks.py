"""The engine on a device against golden numbers, uncaptured steps, the CPU and float64 (``tpbench verify device``).

Each function here makes one comparison and says what it found; :mod:`tpbench.training.device_checks` has the list of
them. The problem is made up and small; learning rates are such that a few epochs learn something.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tpbench.engine.errors import TpbenchError
from tpbench.engine.fixtures import verify_fixture
from tpbench.engine.methods import Method, example_configuration
from tpbench.engine.network import Parameters, stream
from tpbench.engine.parts import Architecture
from tpbench.engine.precision import ReducedPrecisionMatmul, matmul_policy, slow_bfloat16
from tpbench.engine.problem import Problem
from tpbench.engine.step import PackState
from tpbench.engine.trainer import Trainer, dtype_of, load_checkpoint, save_checkpoint

EXACT = 1e-9
"""Largest relative difference in float64: what differs by more is another computation, not rounding."""
CLOSE = 1e-4
"""The same in float32, after some epochs. On a CPU the methods are then up to 2.3e-6 from float64."""
CAPTURED = 1e-6
"""Of an epoch that was captured against the same one uncaptured, in float32: the kernels are the same."""
GRADIENT = {"float32": 1e-3, "tf32": 2e-2, "bf16": 5e-2}
"""Of the first gradients against float64's, on networks of full width. On a CPU they are within 2e-6 in float32 and
1.1e-2 with operands and results in bfloat16 (``benchmarks/precision.py``)."""
CAPTURED_LOWERED = 1e-2
"""As :data:`CAPTURED`, with operands in bfloat16, where a last digit of float32 may round to another number."""

_SEEDS, _BATCH = (0, 1, 2), 16
# So many whole minibatches and a short one, which is never captured.
_MINIBATCHES, _SHORT, _VALIDATION, _TEST = 10, 5, 40, 60
_NETWORK = Architecture((20, 24, 16, 12, 5), random_hidden=32)
# Whose hidden products are large enough for bfloat16.
_WIDE, _WIDE_BATCH = Architecture((80, 72, 70, 66, 5), random_hidden=68), 64
# Feedback epochs before and between, where a method trains feedback: all kinds of epoch, each of them twice.
_EPOCHS = 2
_FULL_WIDTH, _FULL_BATCH = Architecture((784, 256, 256, 10), random_hidden=512), 128


class NotHere(Exception):  # noqa: N818 (no error: the reason why a check does not apply)
    """Why there is nothing to check here."""


@dataclass(frozen=True)
class Found:
    """What a check found; ``passed`` is None where something is measured that has no criterion."""

    text: str
    passed: bool | None = None
    numbers: Mapping[str, float | str | None] = field(default_factory=dict)


class Difference(NamedTuple):
    """The largest relative difference of two packs, and of what; infinite where one has what the other lacks."""

    size: float
    where: str

    def spelled(self) -> str:
        return f"to {self.size:.1e} ({self.where})" if self.size else "bit for bit"


def fixture_on(path: Path, precision: str, device: str) -> Found:
    """A golden file on the device, in packs of two."""
    with _products(precision):
        report = verify_fixture(path, dtype_of(precision), members=2, device=device)
    errors = {quantity: report.errors[quantity] for quantity in report.bounds if quantity in report.errors}
    if not errors:
        raise TpbenchError(f"{path}: nothing in it has a bound")
    worst = max(errors, key=lambda quantity: _size(errors[quantity]))
    return Found(f"to {errors[worst]:.1e} ({worst})", report.passed, {"error": errors[worst]})


def captured_and_not(method: Method, device: str, precision: str = "float32") -> Found:
    """All epochs of a short training with captured steps, and the same ones step by step.

    Of a pack whose members differ, and of one whose members are equal but for their seeds: those a GPU updates at once.
    """
    network, batch = (_WIDE, _WIDE_BATCH) if precision == "bf16" else (_NETWORK, _BATCH)
    found = []
    for equal in (False, True):
        replayed, stepwise = (
            _trainer(method, device, precision, network, batch, equal=equal, cuda_graph=capture)
            for capture in (True, False)
        )
        for pack in (replayed, stepwise):
            _advance(pack, len(pack.phases))
        kinds = {phase.kind for phase in replayed.phases}
        if missing := kinds - set(replayed.cuda_graphs):
            return Found(f"no step of a {' or '.join(sorted(missing))} epoch was captured", False)
        if stepwise.cuda_graphs:
            return Found("the epochs to compare with were captured too", False)
        found.append(difference(replayed, stepwise))
    worst = max(found, key=lambda d: d.size)
    bound = CAPTURED_LOWERED if precision == "bf16" else CAPTURED
    return Found(f"{worst.spelled()}: {', '.join(sorted(kinds))}", worst.size <= bound, {"difference": worst.size})


def same_as_on_cpu(method: Method, precision: str, device: str) -> Found:
    """A short training on the device, step by step, and on the CPU, with the CPU's noise on both."""
    with _one_thread():
        there, here = (
            _trainer(method, place, precision, host_noise=True, cuda_graph=False) for place in (device, "cpu")
        )
        for pack in (there, here):
            _advance(pack, len(pack.phases))
    worst = difference(there, here)
    return Found(
        worst.spelled(), worst.size <= (EXACT if precision == "float64" else CLOSE), {"difference": worst.size}
    )


def resumed(method: Method, first: str, then: str) -> Found:
    """Training on one device, its checkpoint on another, and one further epoch on both; in float64.

    On a single device the epochs must be the same bit for bit.
    """
    with _one_thread(), tempfile.TemporaryDirectory() as folder:
        straight, other = (_trainer(method, place, "float64", host_noise=True) for place in (first, then))
        _advance(straight, len(straight.phases) - 1)
        save_checkpoint(straight, Path(folder) / "checkpoint.pt")
        load_checkpoint(other, Path(folder) / "checkpoint.pt")
        for pack in (straight, other):
            _advance(pack, 1)
    worst = difference(other, straight)
    return Found(worst.spelled(), worst.size <= (EXACT if first != then else 0.0), {"difference": worst.size})


def gradient_error(method: Method, precision: str, device: str) -> Found:
    """The gradients of the first minibatch of a network of full width, against float64's on the same device.

    Where the device has no fast bfloat16 that is simulated.
    """
    given, exact = (_first_gradients(method, p, device) for p in (precision, "float64"))
    worst = max((_relative(given, exact, kind) for kind in given), key=lambda d: d.size)
    return Found(f"{worst.size:.1e} ({worst.where})", worst.size <= GRADIENT[precision], {"error": worst.size})


def difference(one: Trainer, other: Trainer) -> Difference:
    """The largest relative difference of two packs that should be the same: parameters, moments and curves.

    Of arrays relative to their largest number; errors of a curve may differ by one sample besides.
    """
    if one.alive != other.alive or len(one.alive) < len(_SEEDS):
        return Difference(math.inf, "members diverged")
    found = [*_curve_differences(one, other)]
    arrays, expected = _arrays(one.pack), _arrays(other.pack)
    found += [_relative(arrays, expected, name) for name in expected]
    return max(found, key=lambda d: d.size)


def _curve_differences(one: Trainer, other: Trainer) -> Iterator[Difference]:
    problem = one.problem
    samples = {"train": problem.training_size, "validation": problem.validation_size, "test": len(problem.x_test)}
    for mine, theirs in zip(one.histories, other.histories, strict=True):
        for name, values in theirs.curves.items():
            if len(values) != len(mine.curves[name]):
                yield Difference(math.inf, f"length of {name}")
                continue
            part, _, kind = name.partition("_")
            for a, b in zip(mine.curves[name], values, strict=True):
                if kind == "error":
                    # Where two outputs are nearly equal rounding may decide. The losses tell everything else.
                    yield Difference(math.inf if round(abs(a - b) * samples[part]) > 1 else 0.0, name)
                else:
                    yield Difference(_size(abs(a - b) / abs(b)) if a != b else 0.0, name)


def _arrays(pack: PackState) -> dict[str, Tensor]:
    """All that a pack learns by name, on the CPU and in float64."""
    groups = {"": pack.forward, "first moment ": pack.forward_adam.first_moment}
    groups["second moment "] = pack.forward_adam.second_moment
    found = {"steps": pack.forward_adam.steps, **pack.fixed}
    if pack.feedback:
        groups["feedback "] = pack.feedback
    if pack.feedback_adam:
        groups["first feedback moment "] = pack.feedback_adam.first_moment
        groups["second feedback moment "] = pack.feedback_adam.second_moment
        found["feedback steps"] = pack.feedback_adam.steps
    found |= {f"{group}{name}": arrays[name] for group, arrays in groups.items() for name in arrays}
    return {name: values.detach().cpu().double() for name, values in found.items()}


def _relative(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> Difference:
    """How much one array differs, relative to the largest number that it should have."""
    if name not in found or found[name].shape != expected[name].shape:
        return Difference(math.inf, f"{name} of another shape")
    if not expected[name].numel() or torch.equal(found[name], expected[name]):
        return Difference(0.0, name)
    scale = float(expected[name].abs().max())
    return Difference(_size(float((found[name] - expected[name]).abs().max()) / scale if scale else math.inf), name)


def _size(value: float) -> float:
    """What is not a number is as far off as can be."""
    return value if value == value else math.inf


@contextmanager
def _products(precision: str) -> Iterator[None]:
    """Products on a GPU as a precision has them."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32 = before


@contextmanager
def _one_thread() -> Iterator[None]:
    """The CPU's part of a comparison is small: many threads cost it more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _configurations(method: Method, equal: bool) -> list[dict[str, float]]:
    """Of members that differ in their learning rate, or not.

    Adam divides by the root of a mean square: with a small epsilon, gradients that are zero but for rounding would
    become steps of full size, and two devices with different rounding would part.
    """
    schedule = {"fb_pretrain_epochs": 1, "fb_epochs_between": 1} if method.trains_feedback else {}
    base = {**example_configuration(method), **schedule}
    base |= {name: 1e-4 for name in ("epsilon", "epsilon_fb") if name in base}
    base |= {name: 10 * base[name] for name in ("lr", "lr_eta", "lr_fb") if name in base}
    rate = "lr" if "lr" in base else "lr_eta"
    return [{**base, rate: base[rate] * (1 if equal else 1 + seed)} for seed in _SEEDS]


def _trainer(
    method: Method,
    device: str,
    precision: str = "float32",
    network: Architecture = _NETWORK,
    batch: int = _BATCH,
    *,
    equal: bool = False,
    **more: Any,
) -> Trainer:
    """A pack at its beginning, on points around five centres."""
    generator = stream(0, "verify device")
    y = torch.arange(_MINIBATCHES * batch + _SHORT + _VALIDATION + _TEST) % network.sizes[-1]
    centres = torch.randn(network.sizes[-1], network.sizes[0], generator=generator)
    x = centres[y] + 0.5 * torch.randn(len(y), network.sizes[0], generator=generator)
    problem = Problem(
        network, x[_TEST:], y[_TEST:], x[:_TEST], y[:_TEST], validation_size=_VALIDATION, batch_size=batch
    )
    return Trainer(
        method,
        problem,
        _configurations(method, equal),
        _SEEDS,
        epochs=_EPOCHS,
        precision=precision,
        device=device,
        **more,
    )


def _advance(trainer: Trainer, epochs: int) -> None:
    for _ in range(epochs):
        trainer.advance()


def _first_gradients(method: Method, precision: str, device: str) -> dict[str, Tensor]:
    """Of all parameters that train, in float64 on the CPU."""
    generator, dtype = stream(0, "verify device"), dtype_of(precision)
    sizes, members = _FULL_WIDTH.sizes, 2
    lowered = precision == "bf16" and slow_bfloat16(device)
    products = ReducedPrecisionMatmul(device, simulated=True) if lowered else matmul_policy(precision, device)
    pack = PackState(
        method,
        _FULL_WIDTH,
        [example_configuration(method)] * members,
        list(range(members)),
        dtype=dtype,
        device=device,
        matmul=products,
    )
    x, *noise = (torch.randn(members, _FULL_BATCH, n, generator=generator).to(device, dtype) for n in sizes[:-1])
    y = torch.randint(0, sizes[-1], (members, _FULL_BATCH), generator=generator).to(device)
    with _products(precision):
        pack.joint_step(x, y, noise if method.trains_feedback else None)
    return {**_named(pack.forward_gradients), **_named(pack.feedback_gradients)}


def _named(gradients: Parameters | None) -> dict[str, Tensor]:
    return {name: gradients[name].cpu().double() for name in gradients} if gradients else {}
