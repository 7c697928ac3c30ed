"""Checks of a learning rule without training it (``tpbench verify method``), and of a device (``verify device``)."""

from __future__ import annotations

import math
import os
import platform
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tpbench
from tpbench.engine.alignment import angles
from tpbench.engine.configuration import SCHEDULE, Hyperparameter
from tpbench.engine.errors import RuleError, TpbenchError
from tpbench.engine.golden import SHIPPED, compare_golden_file, golden_files, relative_error
from tpbench.engine.methods import (
    FEEDBACK_TRAINING,
    FORWARD_ADAM,
    METHODS,
    Method,
    Minibatch,
    Update,
    cross_entropy_loss,
    example_configuration,
)
from tpbench.engine.network import Parameters, stream
from tpbench.engine.parts import Architecture, Convolution, convolutional
from tpbench.engine.precision import forget_constants
from tpbench.engine.problem import Problem
from tpbench.engine.step import MutationGuard, PackState, compute_update, find_non_finite, require_shapes
from tpbench.engine.trainer import Trainer, dtype_of

_NETWORK = Architecture((12, 10, 8, 6, 4), random_hidden=9)
_CONVOLUTIONS = convolutional((2, 5, 6), [Convolution(3, 3), Convolution(4, 3, 2, 2)], [6, 4], random_hidden=9)
_SEEDS, _BATCH, _STEPS = (0, 1, 2), 5, 3
_ANGLE_EPOCHS = 10
FLOAT64_BOUND = 1e-9
"""Largest relative difference in float64: a larger one is another computation, not rounding."""
FLOAT32_BOUND = 1e-4
"""The same in float32 after some epochs. On a CPU the methods are then up to 2.3e-6 from float64."""
_HINT = ": it keeps a state of its own"
_READ_BY_ENGINE = {"lr", "lr_eta", *FORWARD_ADAM, *FEEDBACK_TRAINING, "wd", "clip", "clip_fb", *SCHEDULE}


class _Undecided(Exception):  # noqa: N818 (no error of the rule's)
    """The reason why a check cannot be made on this machine."""


@dataclass(frozen=True)
class Check:
    """A check and its result."""

    name: str
    result: str
    passed: bool | None
    """None where it cannot be decided on this machine, or where something is measured that has no criterion."""


def _run(name: str, check: Callable[[], str], title: str = "") -> Check:
    """Run a check; one that raises has failed, since a rule is somebody else's code and a device may be broken."""
    try:
        return Check(name, check(), True)
    except _Undecided as reason:
        return Check(name, str(reason), None)
    except TpbenchError as error:
        reason_text = str(error).removeprefix(f"{title}: ").removeprefix(f"{title}, ")
    except Exception as error:
        reason_text = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
    return Check(name, reason_text, False)


def verify_method(method: Method) -> Iterator[Check]:
    """Run all checks of a rule on a small network in float64.

    The first ones are of one minibatch; if one of them fails it is the last. Two results at the end have no verdict.
    """
    for name, check in _OF_MINIBATCH:
        result = _run(name, partial(check, method), method.title)
        yield result
        if result.passed is False:
            return
    for name, check in _OF_TRAINING:
        yield _run(name, partial(check, method), method.title)
    for name, check in _INFORMATION:
        result = _run(name, partial(check, method), method.title)
        yield Check(name, result.result, None)


def _vary(hyperparameter: Hyperparameter, value: float, member: int, share: float) -> float:
    """Return the value of a hyperparameter for a member of the test pack; member 0 has ``value`` itself.

    Args:
        hyperparameter: its range is kept.
        value: a valid one.
        member: its number; each goes further, a whole number by a step each.
        share: of ``value`` (or of the way to the end of the range, where that is nearer), how far a member goes.
    """
    if hyperparameter.whole:
        lower, upper = hyperparameter.lower, hyperparameter.upper
        near = [value, *(value + step for step in (1, 2, -1, -2) if lower < value + step < upper)]
        return near[member % len(near)]
    end = min(hyperparameter.upper, value + (abs(value) or 1.0))
    return value + member * share * (end - value)


def member_configurations(method: Method) -> list[dict[str, float]]:
    """Return the configurations of the test pack: no two share a value of any hyperparameter that may differ.

    A rule that takes one member's value for the whole pack is found by that. The shares differ too, so that a quotient
    such as lr_eta / eta does. The feedback schedule is one for all members of a pack.
    """
    configurations = [example_configuration(method) for _ in _SEEDS]
    names = [name for name in method.names if name not in SCHEDULE]
    for k, name in enumerate(names):
        share = 0.1 * (1 - k / (2 * len(names)))
        for member, values in enumerate(configurations):
            values[name] = _vary(method.hyperparameter_specs[name], values[name], member, share)
    return configurations


def _pack(method: Method, seeds: tuple[int, ...] = _SEEDS, network: Architecture = _NETWORK) -> PackState:
    """Return a pack of the test members with these seeds, or of one of them alone."""
    configurations = member_configurations(method)
    chosen = [configurations[_SEEDS.index(seed)] for seed in seeds]
    return PackState(method, network, chosen, list(seeds), dtype=torch.float64)


def _data(pack: PackState, step: int = 0) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return inputs, labels and noise of a pack's members, each one's from its seed alone.

    As in training, the noise is zero after the draws that a member needs.
    """
    seeds, sizes, widths = pack.seeds, pack.architecture.sizes, pack.method.noise_widths(pack.architecture)
    generators = [stream(seed, "verify method", step) for seed in seeds]

    def draw(*shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in generators])

    x = draw(_BATCH, sizes[0])
    labels = [torch.randint(0, sizes[-1], (_BATCH,), generator=g) for g in generators]
    repeats = pack.noise_repeats or [1] * len(seeds)
    noise = []
    for k in range(max(repeats)):
        needed = torch.tensor([k < count for count in repeats]).view(-1, 1, 1)
        noise += [draw(_BATCH, width) * needed for width in widths]
    return x, torch.stack(labels), noise


def _train(pack: PackState, steps: Sequence[int] = range(_STEPS), *, epochs: bool = False) -> PackState:
    """Train a pack on minibatches of these numbers and return it; with ``epochs`` each begins an epoch.

    Where feedback is trained, each minibatch trains it alone first.
    """
    for step in steps:
        if epochs:
            pack.generators = [stream(seed, "rule", step) for seed in pack.seeds]
        x, y, noise = _data(pack, step)
        if pack.method.trains_feedback:
            pack.feedback_step(x, noise, y)
        pack.joint_step(x, y, noise)
    return pack


def _minibatch(method: Method) -> Minibatch:
    pack = _pack(method)
    x, y, _ = _data(pack)
    return pack.minibatch(x, y)


def _check_shapes(method: Method) -> str:
    batch = _minibatch(method)
    output = compute_update(method, batch)
    require_shapes(method, batch, output)
    return f"{_NETWORK.depth} {'errors' if isinstance(output, Update) else 'targets'}, each (members, batch, units)"


def _check_finite(method: Method) -> str:
    batch = _minibatch(method)
    if problem := find_non_finite(batch, compute_update(method, batch)):
        raise RuleError(problem)
    return "all numbers are finite"


def _check_unchanged(method: Method) -> str:
    batch = _minibatch(method)
    watched = MutationGuard(batch)
    compute_update(method, batch)
    watched.require_unchanged(method)
    return "nothing of the minibatch is changed in place"


def _random_states() -> list[object]:
    """Return the states of the random streams that belong to no member: those of torch, numpy and Python."""
    return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()]


def _check_draws(method: Method) -> str:
    """Require that all random numbers come from the members' streams."""
    before = _random_states()
    _train(_pack(method), range(1))
    if _random_states() != before:
        raise RuleError("it draws numbers without batch.draw, which depend on no seed")
    return "no random numbers but those of batch.draw and the phase's noise"


def _check_phase(method: Method) -> str:
    """Run the feedback phase once, with its guard against changes in place, and look for what it changes."""
    if not method.feedback_phase:
        return "declares none"
    pack = _pack(method)
    assert pack.feedback
    before = {name: pack.feedback[name].clone() for name in pack.feedback}
    x, y, noise = _data(pack)
    if method.feedback_phase.alone:
        pack.feedback_step(x, noise, y)
    else:
        pack.joint_step(x, y, noise)
    changed = [name for name, values in before.items() if not torch.equal(values, pack.feedback[name])]
    if not changed:
        how = "changes none of its arrays" if method.feedback_phase.own_step else "writes no gradients"
        raise RuleError(f"its feedback phase {how}")
    if any(not bool(torch.isfinite(pack.feedback[name]).all()) for name in changed):
        raise RuleError("its feedback phase gives numbers that are not finite")
    return f"trains {', '.join(changed)}, and changes nothing else in place"


def _check_repeatable(method: Method) -> str:
    pack = _pack(method)
    x, y, noise = _data(pack)
    batch = pack.minibatch(x, y)
    arrays = pack.feedback.flat.clone() if pack.feedback else None

    def call() -> list[Tensor]:
        if pack.feedback and arrays is not None:
            pack.feedback.flat.copy_(arrays)
        batch.generators = [stream(seed, "rule") for seed in _SEEDS]
        return _results(compute_update(method, batch))

    first = call()
    copies = [values.clone() for values in first]
    second = call()
    given = {values.data_ptr() for values in (batch.output_gradient, *batch.activities, *batch.slopes)}
    for number, (copy, mine, other) in enumerate(zip(copies, first, second, strict=True)):
        i = number % _NETWORK.depth + 1
        if not torch.equal(copy, other):
            raise RuleError(f"the second call gives another result for layer {i}{_HINT}")
        if mine.data_ptr() == other.data_ptr() and mine.data_ptr() not in given:
            raise RuleError(f"the second call writes to the memory of the first one's result for layer {i}")
    if method.feedback_phase:
        phases = [_pack(method) for _ in range(2)]
        for other_pack in phases:
            other_pack.feedback_step(x, noise, y)
        trained = [other_pack.feedback.flat for other_pack in phases if other_pack.feedback]
        if not torch.equal(trained[0], trained[1]):
            raise RuleError(f"the second call of its feedback phase trains otherwise{_HINT}")
    return "the same minibatch gives the same result"


def _results(output: list[Tensor] | Update) -> list[Tensor]:
    """Return all tensors of a rule's targets or update, those of one kind by layer."""
    return [*output.errors, *(output.inputs or ())] if isinstance(output, Update) else list(output)


def _error_of(parameters: Parameters, expected: Parameters) -> float:
    return max(relative_error(parameters[name], expected[name]) for name in expected)


def _check_members(method: Method, network: Architecture = _NETWORK) -> str:
    """Compare members after some steps in a pack with the same ones alone: gradients, feedback and draws."""
    pack = _train(_pack(method, network=network))
    worst, drawn_alike = 0.0, True
    for row, seed in enumerate(_SEEDS):
        alone = _train(_pack(method, (seed,), network))
        drawn_alike &= torch.equal(pack.generators[row].get_state(), alone.generators[0].get_state())
        worst = max(worst, _error_of(pack.forward_gradients.select([row]), alone.forward_gradients))
        if pack.feedback and alone.feedback:
            worst = max(worst, _error_of(pack.feedback.select([row]), alone.feedback))
    if not drawn_alike:
        raise RuleError("a member draws other numbers than alone: let only those draw that need it (draw(members=...))")
    if worst > FLOAT64_BOUND:
        raise RuleError(f"members differ from runs alone by {worst:.1e}: one depends on its pack")
    return f"a pack of {len(_SEEDS)} is {len(_SEEDS)} runs alone (to {worst:.0e})"


def _check_convolutions(method: Method) -> str:
    """Train a network with two convolutions, where the rule is declared to work there."""
    if reason := method.refusal(_CONVOLUTIONS):
        return f"refused there: {reason}"
    _check_updates(method, _CONVOLUTIONS)
    return _check_members(method, _CONVOLUTIONS)


def _check_updates(method: Method, network: Architecture = _NETWORK) -> str:
    idle = _train(_pack(method, network=network)).idle_layers
    if idle:
        raise RuleError(f"no update of hidden layer{'s' * (len(idle) > 1)} {', '.join(map(str, idle))}")
    return "every hidden layer is updated"


class HostTransfer(Exception):  # noqa: N818 (as torch calls its own)
    """A tensor went from the host to the GPU or back in the middle of a step."""


READ_BACK = (DataDependentOutputException, HostTransfer)
"""Errors of a step that needs the host: a number is read back, or a tensor goes there or comes from there."""


class NoTransfers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what a captured graph cannot do and fake tensors can: to go from one device to another."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), more: Any = None) -> Any:
        result = function(*arguments, **(more or {}))
        given = {t.device.type for t in tree_leaves((arguments, more or {})) if isinstance(t, Tensor)}
        made = {t.device.type for t in tree_leaves(result) if isinstance(t, Tensor)}
        # A number of the host may take part in a product on the GPU; it is written into the graph.
        if ("cuda" in given and made - {"cuda"}) or ("cuda" in made and given and "cuda" not in given):
            raise HostTransfer(f"{function} from {', '.join(given)} to {', '.join(made)}")
        return result


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Make all tensors within without numbers, so that they can claim to be on a GPU that does not exist.

    Mixing devices raises an error there, and so does reading a number back to the host.
    """
    forget_constants()
    try:
        with FakeTensorMode():
            yield
    finally:
        # Constants without numbers must not meet real tensors.
        forget_constants()


def _is_missing_gpu(error: BaseException | None) -> bool:
    """Tell if autograd failed for want of a GPU: its engine asks the driver, whatever the tensors are."""
    if torch.cuda.is_available() or not isinstance(error, RuntimeError):
        return False
    autograd = f"{Path(torch.autograd.__file__).parent}{os.sep}"
    return any(frame.filename.startswith(autograd) for frame in traceback.extract_tb(error.__traceback__))


def _check_read_backs(method: Method) -> str:
    configuration = example_configuration(method)
    if not method.allows_cuda_graph([configuration]):
        return "declared not capturable: a GPU runs it step by step"
    with fake_gpu():
        pack = PackState(method, _NETWORK, [configuration] * len(_SEEDS), list(_SEEDS), device="cuda")
        # The first results of a rule are read once, before anything is captured.
        pack.validated = True
        widths = method.noise_widths(_NETWORK) * max(pack.noise_repeats, default=1)
        x, *noise = (torch.empty(len(_SEEDS), _BATCH, n, device="cuda") for n in (_NETWORK.sizes[0], *widths))
        y = torch.empty(len(_SEEDS), _BATCH, dtype=torch.int64, device="cuda")
        try:
            with NoTransfers():  # type: ignore[no-untyped-call]
                pack.joint_step(x, y, noise)
                if method.trains_feedback:
                    pack.feedback_step(x, noise, y)
        except (RuleError, *READ_BACK) as error:
            cause = error.__cause__ if isinstance(error, RuleError) else error
            if isinstance(cause, READ_BACK):
                raise RuleError(
                    f"needs the host in the middle of a step ({cause}): declare capturable=False"
                ) from error
            if _is_missing_gpu(cause):
                raise _Undecided("cannot be told here: it uses torch.autograd, which needs a real GPU") from error
            raise
    return "nothing is read back to the host, so a GPU can replay a step"


def _check_checkpoint(method: Method) -> str:
    straight = _train(_pack(method), epochs=True)
    stopped = _train(_pack(method), range(1), epochs=True)
    resumed = _pack(method)
    resumed.restore(stopped.state())
    _train(resumed, range(1, _STEPS), epochs=True)
    same = torch.equal(straight.forward.flat, resumed.forward.flat)
    if straight.feedback and resumed.feedback:
        same &= torch.equal(straight.feedback.flat, resumed.feedback.flat)
    if not same:
        raise RuleError(f"continued from a checkpoint it trains otherwise{_HINT}")
    return "continued from a checkpoint it trains the same"


def _loss_gradients(pack: PackState, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Return the gradients of a loss by autograd: of W1, b1, W2, ... of every member."""
    h, depth = x, pack.architecture.depth
    arrays = {name: pack.forward[name].clone().requires_grad_() for name in pack.forward}
    for i in pack.architecture.layers:
        h = torch.baddbmm(arrays[f"b{i}"].unsqueeze(1), h, arrays[f"W{i}"].mT)
        h = h.tanh() if i < depth else h
    return list(torch.autograd.grad(loss(h, y).sum(), list(arrays.values())))


def _check_gradient(method: Method) -> str:
    if method.descends is None:
        return "declares no loss that it descends"
    pack = _pack(method)
    x, y, noise = _data(pack)
    gradients = _loss_gradients(pack, x, y, method.descends)
    pack.joint_step(x, y, noise)
    worst = max(relative_error(pack.forward_gradients[n], g) for n, g in zip(pack.forward, gradients, strict=True))
    if worst > FLOAT64_BOUND:
        raise RuleError(f"its updates differ from the gradient of the loss by {worst:.1e}")
    return f"its updates are the gradient of the loss (to {worst:.0e})"


def loss_angles(method: Method) -> list[float]:
    """Return the angles between updates and loss gradient after some training, the means over members, of W1 .. WL.

    That of a layer without updates is nan.

    Raises:
        RuleError: all members diverge.
    """
    trainer = example_trainer(method, precision="float64", network=_NETWORK, equal=True, epochs=_ANGLE_EPOCHS)
    while not trainer.done:
        trainer.advance()
    if not trainer.alive:
        raise RuleError("cannot be measured: it diverges on the test network")
    pack, found = trainer.pack, []

    def measure(batch: Minibatch, gradients: Parameters) -> None:
        assert batch.labels is not None
        expected = _loss_gradients(pack, batch.activities[0], batch.labels, cross_entropy_loss)[::2]
        found.append(torch.stack([angles(gradients[f"W{i}"], expected[i - 1]) for i in _NETWORK.layers]))

    pack.observer = measure
    trainer.train_epoch("joint")
    mean: list[float] = torch.stack(found).mean((0, 2)).tolist()
    return mean


def _measure_angles(method: Method) -> str:
    measured = loss_angles(method)
    text = " ".join("-" if math.isnan(angle) else f"{angle:.0f}°" for angle in measured)
    ascends = any(round(angle) > 90 for angle in measured if not math.isnan(angle))
    return f"{text} with the loss gradient, layer by layer{': ascends?' if ascends else ''}"


def _find_unused(method: Method) -> str:
    """Train a pack whose members differ from the first in one hyperparameter each."""
    names = [
        name for name in method.names if name not in _READ_BY_ENGINE or (name == "sigma" and method.feedback_phase)
    ]
    base = example_configuration(method)
    changed = [{**base, name: _vary(method.hyperparameter_specs[name], base[name], 1, 0.1)} for name in names]
    pack = _train(PackState(method, _NETWORK, [base, *changed], [0] * (1 + len(names)), dtype=torch.float64))
    learnt = [group for group in (pack.forward, pack.feedback) if group]
    same = [
        name
        for row, name in enumerate(names, 1)
        if all(torch.equal(group[array][row], group[array][0]) for group in learnt for array in group)
    ]
    return f"without effect on the test network: {', '.join(same)}" if same else "each has an effect"


_OF_MINIBATCH = (
    ("targets", _check_shapes),
    ("finite", _check_finite),
    ("minibatch", _check_unchanged),
    ("feedback phase", _check_phase),
    ("random numbers", _check_draws),
)
_OF_TRAINING = (
    ("second call", _check_repeatable),
    ("members", _check_members),
    ("updates", _check_updates),
    ("convolutions", _check_convolutions),
    ("read-backs", _check_read_backs),
    ("checkpoint", _check_checkpoint),
    ("gradient", _check_gradient),
)
_INFORMATION = (("hyperparameters", _find_unused), ("angles", _measure_angles))


def verify_device(device: str) -> Iterator[Check]:
    """Check the engine on a device: versions, the golden files of the package, the CPU's numbers, the speed.

    Args:
        device: as torch names it, and there.
    """
    yield Check("machine", _describe(device), None)
    for path in golden_files(SHIPPED):
        for precision in ("float64", "float32"):
            yield _run(f"golden file {path.stem}, {precision}", partial(_check_golden, path, precision, device))
    if device.startswith("cuda"):
        for name in ("bp", "dtp", "ddtp-linear"):
            for precision in ("float64", "float32"):
                check = partial(_check_same_as_cpu, METHODS[name], precision, device)
                yield _run(f"GPU against CPU, {name}, {precision}", check)
    else:
        yield Check("GPU against CPU", "there is no GPU that torch can use", None)
    speed = _run("speed", partial(_measure_speed, device))
    yield Check(speed.name, speed.result, speed.passed and None)


def _describe(device: str) -> str:
    threads = torch.get_num_threads()
    name = f"CPU, {threads} thread{'s' * (threads > 1)}"
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return (
        f"{name}, tpbench {tpbench.__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}"
    )


def _check_golden(path: Path, precision: str, device: str) -> str:
    report = compare_golden_file(path, dtype_of(precision), members=2, device=device)
    result = f"relative error {report.errors[report.worst]:.1e} ({report.worst})"
    if not report.passed:
        raise TpbenchError(result)
    return result


def _check_same_as_cpu(method: Method, precision: str, device: str) -> str:
    trainers = [example_trainer(method, place, precision, host_noise=True) for place in (device, "cpu")]
    for trainer in trainers:
        while not trainer.done:
            trainer.advance()
    error, name = trainer_difference(*trainers)
    result = f"relative error {error:.1e} ({name})"
    if error > (FLOAT64_BOUND if precision == "float64" else FLOAT32_BOUND):
        raise TpbenchError(result)
    return result


def _measure_speed(device: str) -> str:
    """Measure the joint steps per second of a pack of 10 in float32, CUDA graphs included."""
    method, members, batch, seconds = "ddtp-linear", 10, 128, 0.5
    network = Architecture((784, 256, 256, 256, 256, 256, 10))
    trainer = example_trainer(METHODS[method], device, network=network, batch=batch, members=members)
    trainer.train_epoch("joint")
    steps, started, spent = 0, time.perf_counter(), 0.0
    while spent < seconds:
        trainer.train_epoch("joint")
        steps += trainer.problem.training_size // batch
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        spent = time.perf_counter() - started
    layers = "-".join(map(str, network.sizes))
    return f"{steps / spent:.1f} steps/s: {method}, {layers}, pack of {members}, minibatches of {batch}, float32"


def example_trainer(
    method: Method,
    device: str = "cpu",
    precision: str = "float32",
    *,
    network: Architecture | None = None,
    batch: int = 16,
    members: int = 3,
    equal: bool = False,
    epochs: int = 2,
    **more: Any,
) -> Trainer:
    """Return a trainer of joint epochs on made-up points around class centres, with feedback epochs before each.

    An epoch has ten whole minibatches and one of five samples, which is never captured as a CUDA graph. Adam divides by
    the root of a mean square: with a small epsilon, gradients that are zero but for rounding would become steps of full
    size, and two devices would part. So epsilon is 1e-4.

    Args:
        method: a rule.
        device: as torch names it.
        precision: one of :data:`tpbench.engine.PRECISIONS`.
        network: a small one with four layers unless given.
        batch: samples of a minibatch.
        members: of the pack, with the seeds 0, 1, ...
        equal: the members share one learning rate; otherwise that of member p is ``p + 1`` times as large.
        epochs: how many joint ones.
        more: further arguments of :class:`Trainer`.
    """
    network = network or Architecture((20, 24, 16, 12, 5), random_hidden=32)
    generator, validation, test = stream(0, "verify device"), 40, 60
    y = torch.arange(10 * batch + 5 + validation + test) % network.sizes[-1]
    centres = torch.randn(network.sizes[-1], network.sizes[0], generator=generator)
    x = centres[y] + 0.5 * torch.randn(len(y), network.sizes[0], generator=generator)
    problem = Problem(network, x[test:], y[test:], x[:test], y[:test], validation_size=validation, batch_size=batch)
    base = example_configuration(method)
    base |= {"fb_pretrain_epochs": 1, "fb_epochs_between": 1} if method.trains_feedback else {}
    base |= {name: 1e-4 for name in ("epsilon", "epsilon_fb") if name in base}
    base |= {name: 10 * base[name] for name in ("lr", "lr_eta", "lr_fb") if name in base}
    rate = "lr" if "lr" in base else "lr_eta"
    configurations = [{**base, rate: base[rate] * (1 if equal else 1 + p)} for p in range(members)]
    return Trainer(
        method, problem, configurations, range(members), epochs=epochs, precision=precision, device=device, **more
    )


def trainer_difference(one: Trainer, other: Trainer) -> tuple[float, str]:
    """Compare two trainers that should be equal: parameters, moments of Adam and curves.

    Errors of a curve may differ by one sample: where two outputs are nearly equal rounding decides.

    Returns:
        The largest relative difference (:func:`~tpbench.engine.golden.relative_error`) and what differs by it; infinity
        where a member has diverged, or where one trainer has trained longer.
    """
    if one.alive != other.alive or len(one.alive) < len(one.histories):
        return math.inf, "members diverged"
    problem, differences = one.problem, [(0.0, "all equal")]
    samples = {"train": problem.training_size, "validation": problem.validation_size, "test": len(problem.x_test)}
    for mine, theirs in zip(one.histories, other.histories, strict=True):
        for name, values in theirs.curves.items():
            if len(values) != len(mine.curves[name]):
                return math.inf, f"length of {name}"
            curves = [torch.tensor(c, dtype=torch.float64) for c in (mine.curves[name], values)]
            part, _, kind = name.partition("_")
            if kind == "error":
                counts = [torch.round(curve * samples[part]) for curve in curves]
                differs = bool(((counts[0] - counts[1]).abs() > 1).any())
                differences.append((math.inf if differs else 0.0, name))
            else:
                differences.append((relative_error(curves[0], curves[1]), name))
    arrays, expected = _arrays(one.pack), _arrays(other.pack)
    differences += [(relative_error(arrays[name], expected[name]), name) for name in expected]
    return max(differences, key=lambda difference: difference[0])


def _arrays(pack: PackState) -> dict[str, Tensor]:
    """Return all that a pack learns by name."""
    arrays = dict(pack.fixed)
    groups = (("", pack.forward, pack.forward_adam), ("feedback ", pack.feedback, pack.feedback_adam))
    for group, parameters, adam in groups:
        if parameters:
            arrays |= {f"{group}{name}": parameters[name] for name in parameters}
        if adam:
            arrays[f"{group}steps"] = adam.steps
            for kind, moment in (("first", adam.first_moment), ("second", adam.second_moment)):
                arrays |= {f"{group}{kind} moment {name}": moment[name] for name in moment}
    return arrays
