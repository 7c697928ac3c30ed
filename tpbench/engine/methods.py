"""The table of methods: how targets are made x feedback map x reconstruction loss x training schedule.

A new rule is one feedback map, target rule or loss, and one line in :data:`METHODS`. Installed packages add methods
through the entry-point group ``tpbench.methods``: each entry point is a :class:`Method`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

import torch
from torch import Tensor

from tpbench.engine.curvature import apply_inverse_factor, root_probabilities
from tpbench.engine.errors import TpbenchError, unknown
from tpbench.engine.feedback import (
    DIRECT_LINEAR,
    DIRECT_RANDOM_HIDDEN,
    DIRECT_RECURRENT,
    LAYERWISE_TANH,
    Feedback,
    FeedbackState,
)
from tpbench.engine.gauss_newton import gauss_newton_change, output_jacobians
from tpbench.engine.network import Architecture, Parameters
from tpbench.engine.reconstruction import CONTROL, DIFFERENCE, GENERALISED, LAYERWISE, Reconstruction
from tpbench.engine.sources import plugin_source

FORWARD_ADAM = ("beta1", "beta2", "epsilon")
FEEDBACK_TRAINING = ("lr_fb", "beta1_fb", "beta2_fb", "epsilon_fb", "sigma", "wd_fb")

# Schedules of section B.1: a workload says how many epochs SLEEP and EXTRA are.
JOINT = "joint"
"""Feedback parameters, if trained, are trained in the joint epochs alone."""
SLEEP = "sleep"
"""Feedback pretraining, and pure feedback epochs between the joint epochs."""
EXTRA = "extra"
"""The longer pretraining and pure feedback epochs of the "extra FB" methods."""


@dataclass
class Minibatch:
    """What a target rule may use: a pack after the forward pass of one minibatch.

    ``activities[i]`` is h_i (P, B, n_i), ``slopes[i]`` is ``1 - h_i^2`` of the hidden layers (entry 0 is unused),
    ``output_gradient`` is dL/dh_L of the mean loss over the batch (P, B, n_L), and ``hyperparameters`` holds a (P,)
    tensor for every hyperparameter of the method.
    """

    architecture: Architecture
    forward_parameters: Parameters
    activities: list[Tensor]
    slopes: list[Tensor]
    output_gradient: Tensor
    hyperparameters: dict[str, Tensor]
    feedback: FeedbackState | None = None


TargetRule = Callable[[Minibatch], list[Tensor]]
"""Gives ``hhat_i - h_i`` of the layers 1 .. L, entry i - 1 of shape (P, B, n_i)."""


def propagated_targets(batch: Minibatch) -> list[Tensor]:
    """Output target of equation 2, sent back through the feedback maps with the difference correction."""
    if batch.feedback is None:
        raise ValueError("propagated targets need a feedback map")
    change = batch.output_gradient
    if "eta" in batch.hyperparameters:
        change = change * batch.hyperparameters["eta"].view(-1, 1, 1)
    change = -change
    return [*batch.feedback.targets(change), change]


def generalised_targets(batch: Minibatch) -> list[Tensor]:
    """As :func:`propagated_targets`, from the output target ``h_L - eta K_L^{-1} e_L`` (equation 195).

    The output layer itself keeps the target of equation 2: K_L belongs to the feedback path alone.
    """
    plain = -batch.output_gradient * batch.hyperparameters["eta"].view(-1, 1, 1)
    if batch.feedback is None:
        raise ValueError("propagated targets need a feedback map")
    change = apply_inverse_factor(root_probabilities(batch.activities[-1]), plain)
    return [*batch.feedback.targets(change), plain]


def uncorrected_targets(batch: Minibatch) -> list[Tensor]:
    """Plain target propagation: ``hhat_i = g_i(hhat_{i+1})`` without the difference correction (equation 3)."""
    if batch.feedback is None:
        raise ValueError("propagated targets need a feedback map")
    change = -batch.output_gradient * batch.hyperparameters["eta"].view(-1, 1, 1)
    return [*batch.feedback.uncorrected_targets(change), change]


def gradient_targets(batch: Minibatch) -> list[Tensor]:
    """Backpropagation written as targets: ``hhat_i - h_i = -(B/2) dL/dh_i`` gives the local loss BP's gradient."""
    differences = [batch.output_gradient * (-batch.output_gradient.shape[1] / 2)]
    for i in range(batch.architecture.depth, 1, -1):
        above = differences[0] if i == batch.architecture.depth else differences[0] * batch.slopes[i]
        differences.insert(0, torch.bmm(above, batch.forward_parameters[f"W{i}"]))
    return differences


def gauss_newton_targets(batch: Minibatch) -> list[Tensor]:
    """The Gauss-Newton target method (Conditions 2 and S3) with stepsize 1; at the output J is the identity."""
    damping = batch.hyperparameters["damping"]
    jacobians = output_jacobians(batch.forward_parameters, batch.slopes, batch.architecture.depth)
    changes = [gauss_newton_change(jacobian, batch.output_gradient, damping) for jacobian in jacobians]
    return [*changes, -batch.output_gradient / (1 + damping).view(-1, 1, 1)]


@dataclass(frozen=True)
class Method:
    """A learning rule, declared."""

    title: str
    """The paper's name of it."""
    summary: str
    targets: TargetRule
    hyperparameters: tuple[str, ...]
    feedback: Feedback | None = None
    reconstruction: Reconstruction | None = None
    schedule: str = JOINT
    capturable: bool = True
    """Whether a step can be captured as a CUDA graph: the target rule reads nothing back to the host."""

    def __post_init__(self) -> None:
        if self.reconstruction and not self.feedback:
            raise ValueError(f"{self.title}: a reconstruction loss needs a feedback map")
        if self.feedback and self.feedback.direct and self.reconstruction and not self.reconstruction.through_output:
            raise ValueError(f"{self.title}: a direct feedback map cannot be trained with a layer-wise loss")

    @property
    def trains_feedback(self) -> bool:
        return self.reconstruction is not None


def _target_propagation(
    title: str, summary: str, feedback: Feedback, loss: Reconstruction, schedule: str = SLEEP,
    targets: TargetRule = propagated_targets,
) -> Method:  # fmt: skip
    hyperparameters = ("lr_eta", *FORWARD_ADAM, *FEEDBACK_TRAINING, "eta")
    return Method(title, summary, targets, hyperparameters, feedback, loss, schedule)


METHODS: dict[str, Method] = {
    "bp": Method("BP", "backpropagation", gradient_targets, ("lr", *FORWARD_ADAM)),
    "dfa": Method(
        "DFA", "direct feedback alignment: fixed random direct feedback", propagated_targets, ("lr", *FORWARD_ADAM),
        DIRECT_LINEAR,
    ),
    "tp": _target_propagation(
        "TP", "target propagation without the difference correction", LAYERWISE_TANH, LAYERWISE, JOINT,
        uncorrected_targets,
    ),
    "dtp": _target_propagation(
        "DTP", "difference target propagation, layer-wise loss", LAYERWISE_TANH, LAYERWISE, JOINT
    ),
    "dtp-pretrained": _target_propagation(
        "DTP (pre-trained)", "DTP with the feedback schedule of the new methods", LAYERWISE_TANH, LAYERWISE
    ),
    "dtpdrl": _target_propagation(
        "DTPDRL", "DTP trained with the difference reconstruction loss", LAYERWISE_TANH, DIFFERENCE
    ),
    "ddtp-linear": _target_propagation(
        "DDTP-linear", "direct linear feedback, difference reconstruction loss", DIRECT_LINEAR, DIFFERENCE
    ),
    "ddtp-rhl": _target_propagation(
        "DDTP-RHL", "direct feedback through a random hidden layer", DIRECT_RANDOM_HIDDEN, DIFFERENCE
    ),
    "ddtp-rhl-extra-fb": _target_propagation(
        "DDTP-RHL (extra FB)", "DDTP-RHL with extra feedback epochs", DIRECT_RANDOM_HIDDEN, DIFFERENCE, EXTRA
    ),
    "ddtp-rhl-rec": _target_propagation(
        "DDTP-RHL (rec.)", "DDTP-RHL with recurrent feedback", DIRECT_RECURRENT, DIFFERENCE
    ),
    "ddtp-rhl-rec-extra-fb": _target_propagation(
        "DDTP-RHL (rec. and extra FB)", "DDTP-RHL with recurrent feedback and extra feedback epochs",
        DIRECT_RECURRENT, DIFFERENCE, EXTRA,
    ),
    "ddtp-control": _target_propagation(
        "DDTP-control", "DDTP-linear without the difference correction in its loss", DIRECT_LINEAR, CONTROL
    ),
    "dtpdrl-ggn": _target_propagation(
        "DTPDRL (GGN)", "DTPDRL with generalised Gauss-Newton targets", LAYERWISE_TANH, GENERALISED, SLEEP,
        generalised_targets,
    ),
    "ddtp-linear-ggn": _target_propagation(
        "DDTP-linear (GGN)", "DDTP-linear with generalised Gauss-Newton targets", DIRECT_LINEAR, GENERALISED, SLEEP,
        generalised_targets,
    ),
    "ddtp-rhl-ggn": _target_propagation(
        "DDTP-RHL (GGN)", "DDTP-RHL with generalised Gauss-Newton targets", DIRECT_RANDOM_HIDDEN, GENERALISED, SLEEP,
        generalised_targets,
    ),
    "gnt": Method(
        "GNT", "Gauss-Newton targets, damped or not", gauss_newton_targets, ("lr", *FORWARD_ADAM, "damping"),
        capturable=False,
    ),
}  # fmt: skip

ENTRY_POINT_GROUP = "tpbench.methods"


@dataclass(frozen=True)
class Installed:
    """What installed packages add."""

    methods: dict[str, Method]
    entries: dict[str, EntryPoint]
    """Where each comes from."""
    broken: dict[str, str]
    """Why others cannot be used, by name."""


@lru_cache(maxsize=1)
def installed_methods() -> Installed:
    """The methods of installed packages, looked up once per process; each that is broken costs a warning, no more."""
    found = Installed({}, {}, {})
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            method = _load(entry, {*METHODS, *found.methods})
        except TpbenchError as error:
            found.broken.setdefault(entry.name, str(error))
            print(f"warning: {error}; the others can be used", file=sys.stderr)
        else:
            found.methods[entry.name], found.entries[entry.name] = method, entry
    return found


def _load(entry: EntryPoint, taken: Collection[str]) -> Method:
    """The method of an entry point.

    Raises:
        TpbenchError: its package cannot be imported, or adds something else than a new method.
    """
    whose = f"the method '{entry.name}' of the package '{entry.dist.name if entry.dist else entry.module}'"
    if entry.name in taken:
        raise TpbenchError(f"{whose} cannot be used: that name is taken")
    try:
        method = entry.load()
    except (Exception, SystemExit) as error:  # whatever a module may do when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TpbenchError(f"{whose} cannot be used ({reason})") from error
    if not isinstance(method, Method):
        raise TpbenchError(f"{whose} cannot be used: {entry.value} is not a tpbench.engine.Method")
    return method


def all_methods() -> dict[str, Method]:
    """The built-in methods and those that installed packages add (entry-point group ``tpbench.methods``)."""
    return {**METHODS, **installed_methods().methods}


def method_title(name: str) -> str:
    """The paper's name of a method; of one that is not installed here, the name itself."""
    methods = all_methods()
    return methods[name].title if name in methods else name


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        UsageError: there is none; the message names the nearest.
        TpbenchError: it is that of an installed package, which is broken.
    """
    methods = all_methods()
    if name not in methods and name in installed_methods().broken:
        raise TpbenchError(installed_methods().broken[name])
    if name not in methods:
        raise unknown("method", name, methods)
    return methods[name]


def method_source(name: str) -> str:
    """Whose code a method is: empty for a built-in one, else what :func:`plugin_source` says of its package.

    Raises:
        UsageError: there is no such method.
        TpbenchError: the source of its package cannot be found.
    """
    get_method(name)
    if name in METHODS:
        return ""
    return plugin_source(installed_methods().entries[name])
