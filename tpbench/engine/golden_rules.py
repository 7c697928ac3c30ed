"""Golden files of the field's rules: three steps each, made with code of other authors.

Every step is compared from the file's own state before it (``init``, ``after1``, ``after2``) and with the file's noise:
activities, targets, and the gradients of all arrays. Parameters after a step are compared where the authors' optimiser
is Adam. The authors scale some gradients otherwise; the factors stand in :data:`RULE_FILES`, and the docstrings of
:mod:`tpbench.engine.field_rules` say why. Files whose network or loss the engine does not have are named with the
reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tpbench.engine.configuration import Configuration
from tpbench.engine.field_rules import controller_gradients, mirror_weights, train_local_difference
from tpbench.engine.golden import GoldenReport, read_golden_arrays, relative_error
from tpbench.engine.methods import METHODS, Minibatch, Update, example_configuration
from tpbench.engine.parts import Architecture
from tpbench.engine.step import PackState, compute_update

STATES = ("init", "after1", "after2", "afterN")
"""The states before the first step, after it, after the second and after the third."""

# An array that is zero in exact arithmetic is compared on this scale.
_ZERO_SCALE = 1e-6

NOT_COVERED = {
    "dfc": "updates in continuous time; the engine has the steady state",
    "dfc-ss": "the steady state by simulation; the engine has the analytical one",
    "dfc-ss-plain": "the steady state by simulation; the engine has the analytical one",
    "fa-sigmoid": "sigmoid units and a loss of binary cross-entropies",
    "fw-dtp-bn": "batch normalisation",
    "kolen-pollack": "sigmoid units and a loss of binary cross-entropies",
    "l-drl": "ELU units, and feedback with the activation before the affine map",
    "l-drl-shibuya": "another gradient of the loss that is called L-DRL there",
    "pepita": "ReLU units and dropout",
    "pepita-notebook": "ReLU units and dropout",
    "weight-mirror": "sigmoid units and a loss of binary cross-entropies",
}
"""Golden files that the engine cannot compute, with the reason."""


class RuleSteps:
    """A golden file of a rule, with what its comparison needs.

    Args:
        path: the file.
        dtype, members, device: of the packs that are compared; all members are alike.
    """

    def __init__(self, path: Path, dtype: torch.dtype, members: int, device: torch.device | str) -> None:
        self.arrays, meta = read_golden_arrays(path)
        self.architecture = Architecture(tuple(int(n) for n in meta["sizes"]))
        self.given: dict[str, Any] = dict(meta["hyperparameters"])
        self.batch = int(meta["batch_size"])
        self.dtype, self.members, self.device = dtype, members, torch.device(device)
        self.errors: dict[str, float] = {}

    def tensor(self, name: str) -> Tensor:
        """Return an array of the file as it is."""
        return torch.from_numpy(self.arrays[name])

    def of_members(self, values: Tensor) -> Tensor:
        """Return values for every member, in the precision of the pack."""
        values = values.to(self.device)
        values = values.to(self.dtype) if values.is_floating_point() else values
        return values.expand(self.members, *values.shape).contiguous()

    def minibatch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of a step."""
        return self.of_members(self.tensor("x_all")[step]), self.of_members(self.tensor("y_all")[step])

    def compare(self, quantity: str, values: Tensor, expected: Tensor, scale: float = 0.0) -> None:
        """Note the error of a quantity, if it is the largest so far."""
        error = relative_error(values, expected, scale)
        self.errors[quantity] = max(self.errors.get(quantity, 0.0), error)


Arrays = Callable[[RuleSteps, str, int], Mapping[str, Tensor]]


@dataclass(frozen=True)
class RuleFile:
    """The way in which a golden file is compared."""

    method: str
    arrays: Arrays = lambda steps, state, step: {}
    """The arrays of the method at a state, by name, of the file."""
    hyperparameters: Callable[[RuleSteps], Configuration] = lambda steps: {}
    """Those of the method that matter, from the file's."""
    weight_factor: Callable[[int], float] = lambda batch: 1.0
    """The file's weight gradients over the engine's, of the batch size."""
    bias_factor: Callable[[int], float] = lambda batch: 1.0
    feedback: Callable[[RuleSteps, PackState, Minibatch, int], None] | None = None
    """Compares what trains the feedback in a step."""
    noise: Callable[[RuleSteps, int], list[Tensor]] | None = None
    """The noise of a step; the steps are then chained by the method's own Adam, and its parameters compared."""
    forward_state: bool = False
    """The forward update uses the arrays after the step."""


def compare_rule_file(
    path: Path, precision: torch.dtype, members: int = 1, device: torch.device | str = "cpu"
) -> GoldenReport:
    """Compare every number of a rule's golden file that the engine computes.

    Args:
        path: the ``.npz`` file; its name says which rule it is of.
        precision: of the pack, float64 or float32.
        members: number of identical members of the pack; each is compared.
        device: of the pack.

    Raises:
        TpbenchError: the file cannot be read or lacks an array.
    """
    if path.stem in NOT_COVERED:
        return GoldenReport(path.name, path.stem, {}, {}, NOT_COVERED[path.stem])
    rule, steps = RULE_FILES[path.stem], RuleSteps(path, precision, members, device)
    for step in range(3):
        _compare_step(rule, steps, step)
    if rule.noise:
        _compare_chain(rule, steps, rule.noise)
    return GoldenReport(path.name, rule.method, steps.errors, rule_bounds(precision))


def rule_bounds(dtype: torch.dtype) -> dict[str, float]:
    """Return the bounds of relative errors, of the README of these files."""
    if dtype == torch.float64:
        return dict.fromkeys(("activities", "targets", "gradients", "first step", "last step"), 1e-9)
    return {"activities": 3e-6, "targets": 3e-6, "gradients": 3e-6, "first step": 1e-6, "last step": 1e-6}


def _pack(rule: RuleFile, steps: RuleSteps, state: str, arrays_state: str, step: int) -> PackState:
    """Return a pack at a state of the file, with the arrays of another one where that is asked for."""
    method = METHODS[rule.method]
    configuration = {**example_configuration(method), **rule.hyperparameters(steps)}
    pack = PackState(
        method,
        steps.architecture,
        [configuration] * steps.members,
        [0] * steps.members,
        dtype=steps.dtype,
        device=steps.device,
    )
    for i in steps.architecture.layers:
        pack.forward[f"W{i}"].copy_(steps.tensor(f"{state}/W{i}"))
        bias = f"{state}/b{i}"
        pack.forward[f"b{i}"].copy_(steps.tensor(bias) if bias in steps.arrays else torch.zeros(()))
    if pack.feedback:
        pack.feedback.flat.zero_()
        for name, values in rule.arrays(steps, arrays_state, step).items():
            pack.feedback[name].copy_(values)
    return pack


def _compare_step(rule: RuleFile, steps: RuleSteps, step: int) -> None:
    state = STATES[step]
    pack = _pack(rule, steps, state, state, step)
    batch = pack.minibatch(*steps.minibatch(step))
    for i in steps.architecture.hidden:
        steps.compare("activities", batch.activities[i], steps.tensor(f"s{step}/h{i}"))
    if rule.feedback:
        rule.feedback(steps, pack, batch, step)
    if rule.forward_state:
        pack = _pack(rule, steps, state, STATES[step + 1], step)
        batch = pack.minibatch(*steps.minibatch(step))
    output = compute_update(pack.method, batch)
    if isinstance(output, Update):
        pack.error_gradients(batch.activities, output)
    else:
        _compare_targets(steps, batch, output, step)
        pack.local_gradients(batch.activities, batch.slopes, output)
    factors = {"W": rule.weight_factor(steps.batch), "b": rule.bias_factor(steps.batch)}
    for i in steps.architecture.layers:
        for kind, factor in factors.items():
            if (name := f"s{step}/d{kind}{i}") in steps.arrays:
                steps.compare("gradients", pack.forward_gradients[f"{kind}{i}"] * factor, steps.tensor(name))


def _compare_targets(steps: RuleSteps, batch: Minibatch, targets: list[Tensor], step: int) -> None:
    for i in steps.architecture.hidden:
        if (name := f"s{step}/hhat{i}") in steps.arrays:
            difference = steps.tensor(name) - steps.tensor(f"s{step}/h{i}")
            steps.compare("targets", targets[i - 1], difference)


def _compare_chain(rule: RuleFile, steps: RuleSteps, noise: Callable[[RuleSteps, int], list[Tensor]]) -> None:
    """Train the three steps one after the other, with the method's own Adam, and compare all parameters."""
    pack = _pack(rule, steps, "init", "init", 0)
    for step, state in enumerate(STATES[1:]):
        pack.joint_step(*steps.minibatch(step), noise(steps, step) or None)
        groups = [parameters for parameters in (pack.forward, pack.feedback) if parameters]
        for parameters in groups:
            for name in parameters:
                if f"{state}/{name}" in steps.arrays:
                    quantity = "first step" if step == 0 else "last step"
                    steps.compare(quantity, parameters[name], steps.tensor(f"{state}/{name}"))


# What the files call the arrays of the rules.


def _weights_below(steps: RuleSteps, state: str, step: int) -> dict[str, Tensor]:
    """``D{i}`` of Kolen-Pollack: the file has Q from layer i + 1 to layer i."""
    return {
        f"D{i}": steps.tensor(f"{state}/Q{i - 1}").mT - steps.tensor(f"{state}/W{i}")
        for i in steps.architecture.layers[1:]
    }


def _fixed(steps: RuleSteps, state: str, step: int, *, mine: str, name: str, transposed: bool) -> dict[str, Tensor]:
    """Fixed matrices of the layers 2 .. L; ``B`` stands in the place of W_i, the engine's Q_{i-1} of its transpose."""
    arrays = {}
    for i in steps.architecture.layers[1:]:
        values = steps.tensor(f"{name}{i}")
        values = values[step].abs() if values.dim() == 3 else values
        arrays[f"{mine}{i - 1 if transposed else i}"] = values.mT if transposed else values
    return arrays


def _feedback_maps(steps: RuleSteps, state: str, step: int) -> dict[str, Tensor]:
    names = [f"{kind}{i}" for kind in "Qc" for i in steps.architecture.hidden]
    return {name: steps.tensor(f"{state}/{name}") for name in names if f"{state}/{name}" in steps.arrays}


def _mirrors(steps: RuleSteps, state: str, step: int) -> dict[str, Tensor]:
    return _feedback_maps(steps, "mirrored0" if state == "init" else state, step)


def _controller(steps: RuleSteps, state: str, step: int) -> dict[str, Tensor]:
    layers = steps.architecture.layers
    squares = sum(float(steps.tensor(f"init/Q{i}").square().sum()) for i in layers)
    arrays = {f"Q{i}": steps.tensor(f"{state}/Q{i}") for i in layers}
    return {**arrays, "C": torch.tensor([squares], dtype=torch.float64)}


def _controller_settings(steps: RuleSteps) -> dict[str, float]:
    given, clip = steps.given, float(steps.given["clip_grad_norm"])
    same = ("beta1", "beta2", "epsilon", "lr_fb", "beta1_fb", "beta2_fb", "epsilon_fb", "k_p_fb", "sigma_output_fb")
    return {
        **{name: given[name] for name in same},
        "lr_eta": given["lr"],
        "eta": given["target_stepsize"],
        "damping_dfc": given["alpha_di"],
        "leak_fb": given["alpha_fb"],
        "dt_fb": given["dt_di_fb"],
        "tau_fb": given["time_constant_ratio_fb"],
        "tau_apical_fb": given["apical_time_constant_fb"],
        "times_fb": given["tmax_di_fb"],
        "sigma": given["sigma_fb"],
        "wd_fb": given["feedback_wd"],
        "hwd_fb": max(given["homeostatic_wd_fb"], 0.0),
        "frozen_output_fb": int(given["freeze_fb_weights_output"]),
        # Without clipping: a bound that no gradient reaches.
        "clip": clip if clip > 0 else 1e5,
    }


def _controller_noise(steps: RuleSteps, step: int) -> list[Tensor]:
    times = range(int(steps.given["tmax_di_fb"]) - 1)
    return [steps.of_members(steps.tensor(f"noise{i}")[step, k]) for k in times for i in steps.architecture.layers]


def _compare_controller(steps: RuleSteps, pack: PackState, batch: Minibatch, step: int) -> None:
    assert pack.feedback_gradients is not None
    pack.feedback_gradients.flat.zero_()
    controller_gradients(batch, _controller_noise(steps, step), pack.feedback_gradients)
    for i in steps.architecture.layers:
        steps.compare("gradients", pack.feedback_gradients[f"Q{i}"], steps.tensor(f"s{step}/dQ{i}"))


def _compare_mirrors(steps: RuleSteps, pack: PackState, batch: Minibatch, step: int) -> None:
    """Compare what the mirrors add after the step, with the weights that the step has changed."""
    rule = RULE_FILES["weight-mirror-tanh"]
    after = _pack(rule, steps, STATES[step + 1], STATES[step + 1], step)
    assert after.feedback is not None
    after.feedback.flat.zero_()
    # Uniform numbers as the normal ones that the rule makes them of.
    uniform = [steps.tensor(f"noise{i}")[step] for i in steps.architecture.hidden]
    noise = [steps.of_members(torch.special.ndtri(values)) for values in uniform]
    mirror_weights(after.minibatch(*steps.minibatch(step)), noise, after.forward_gradients)
    for i in steps.architecture.hidden:
        steps.compare("gradients", after.feedback[f"Q{i}"], steps.tensor(f"s{step}/dQ{i}"))


def _local_difference_noise(steps: RuleSteps, step: int, k: int, sample: int) -> list[Tensor]:
    """Return the noise of an iteration; zeros for layers that have had all of theirs."""
    counts, hidden = steps.given["K"], steps.architecture.hidden

    def draws(name: str, i: int) -> Tensor:
        values = steps.tensor(f"{name}{i}")[step]
        active = k < counts[i - 1]
        return steps.of_members(values[k, sample] if active else torch.zeros_like(values[0, sample]))

    return [draws("noise_x", i) for i in hidden] + [draws("noise_y", i) for i in hidden]


def _compare_local_differences(steps: RuleSteps, pack: PackState, batch: Minibatch, step: int) -> None:
    """Compare the gradients of every iteration; between them the feedback takes the authors' SGD steps.

    The momentum of an iteration is that of the file's own gradients before it, over all steps.
    """
    given, into = steps.given, pack.feedback_gradients
    assert into is not None
    assert pack.feedback is not None
    samples = int(given["noise_samples"])
    momentum = _momentum_before(steps, step)
    for k in range(max(given["K"])):
        total = {name: torch.zeros_like(into[name]) for name in into}
        for sample in range(samples):
            into.flat.zero_()
            batch = pack.minibatch(*steps.minibatch(step))
            train_local_difference(batch, _local_difference_noise(steps, step, k, sample), into)
            total = {name: total[name] + into[name].clone() / samples for name in into}
        for name in into:
            i = int(name[1:])
            if k >= given["K"][i - 1]:
                continue
            expected = steps.tensor(f"s{step}/d{name}")[k]
            steps.compare("gradients", total[name], expected, _ZERO_SCALE if name[0] == "c" else 0.0)
            momentum[name] = given["momentum_fb"] * momentum[name] + expected
            pack.feedback[name].sub_((given["lr_fb"][i - 1] * momentum[name]).to(pack.feedback[name]))


def _momentum_before(steps: RuleSteps, step: int) -> dict[str, Tensor]:
    momentum = {}
    for i in steps.architecture.hidden:
        for kind in "Qc":
            buffer = torch.zeros_like(steps.tensor(f"init/{kind}{i}"))
            for earlier in range(step):
                for gradient in steps.tensor(f"s{earlier}/d{kind}{i}"):
                    buffer = steps.given["momentum_fb"] * buffer + gradient
            momentum[f"{kind}{i}"] = buffer
    return momentum


def _sign_adam(steps: RuleSteps) -> dict[str, float]:
    beta1, beta2 = steps.given["betas"]
    return {
        "lr": steps.given["lr"],
        "beta1": beta1,
        "beta2": beta2,
        "epsilon": 1e-8,
        "wd": steps.given["weight_decay"],
    }


def _batch(batch: int) -> float:
    return float(batch)


_CONTROLLED = RuleFile(
    "dfc-ssa",
    _controller,
    _controller_settings,
    feedback=_compare_controller,
    noise=_controller_noise,
    forward_state=True,
)

RULE_FILES = {
    # dW there is a sum over the batch, db a mean.
    "kolen-pollack-tanh": RuleFile("kp", _weights_below, weight_factor=_batch),
    "weight-mirror-tanh": RuleFile(
        "wm",
        _mirrors,
        lambda steps: {"wm_rate": steps.given["mirror_lr"], "wm_decay": 0.0},
        weight_factor=_batch,
        feedback=_compare_mirrors,
    ),
    "usf": RuleFile("usf"),
    "frsf": RuleFile(
        "frsf", partial(_fixed, mine="M", name="M", transposed=False), _sign_adam, noise=lambda steps, step: []
    ),
    "brsf": RuleFile("brsf", partial(_fixed, mine="M", name="M", transposed=False)),
    "fa-biotorch": RuleFile("fa", partial(_fixed, mine="Q", name="B", transposed=True)),
    # The local losses of DFA here have the factor 2 / B of equation 2.
    "dfa-biotorch": RuleFile(
        "dfa",
        partial(_fixed, mine="Q", name="B", transposed=True),
        weight_factor=lambda batch: batch / 2,
        bias_factor=lambda batch: batch / 2,
    ),
    # dW there is a sum over the batch, and the loss of the output target too.
    "fw-dtp": RuleFile(
        "fw-dtp", _feedback_maps, lambda steps: {"eta": steps.given["stepsize"] * steps.batch}, weight_factor=_batch
    ),
    # The local loss there has the factor 1/2, and the loss of the output target is a sum.
    "l-drl-tanh": RuleFile(
        "l-drl",
        _feedback_maps,
        lambda steps: {
            "eta": steps.given["beta"] * steps.batch,
            "sigma": steps.given["sigma"],
            "fb_steps": steps.given["K"],
        },
        weight_factor=lambda batch: 0.5,
        bias_factor=lambda batch: 0.5,
        feedback=_compare_local_differences,
        forward_state=True,
    ),
    **dict.fromkeys(("dfc-ssa", "dfc-ssa-plain"), _CONTROLLED),
    "pepita-tanh": RuleFile("pepita", lambda steps, state, step: {"F": steps.tensor("F")}),
}
"""The golden files that are compared, by the names of the files."""
