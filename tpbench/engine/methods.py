"""The table of methods: how targets are made x feedback map x reconstruction loss x training schedule.

A new rule is one feedback map, target rule or loss, and one line in :data:`METHODS`. Installed packages add methods
through the entry-point group ``tpbench.methods``: each entry point is a :class:`Method`. Imports no torch before a rule
is used, so that lists of methods need none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from tpbench.engine.errors import TpbenchError, unknown
from tpbench.engine.parts import (
    CONTROL,
    DIFFERENCE,
    DIRECT_LINEAR,
    DIRECT_RANDOM_HIDDEN,
    DIRECT_RECURRENT,
    EXTRA,
    GENERALISED,
    JOINT,
    LAYERWISE,
    LAYERWISE_TANH,
    SLEEP,
    Feedback,
    Reconstruction,
)
from tpbench.engine.sources import plugin_source

if TYPE_CHECKING:
    from torch import Tensor

    from tpbench.engine.architecture import Architecture
    from tpbench.engine.feedback import FeedbackState
    from tpbench.engine.network import Parameters

FORWARD_ADAM = ("beta1", "beta2", "epsilon")
FEEDBACK_TRAINING = ("lr_fb", "beta1_fb", "beta2_fb", "epsilon_fb", "sigma", "wd_fb")


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


TargetRule = Callable[[Minibatch], "list[Tensor]"]
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
    from tpbench.engine.curvature import apply_inverse_factor, root_probabilities

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
        differences.insert(0, above.bmm(batch.forward_parameters[f"W{i}"]))
    return differences


def gauss_newton_targets(batch: Minibatch) -> list[Tensor]:
    """The Gauss-Newton target method (Conditions 2 and S3) with stepsize 1; at the output J is the identity."""
    from tpbench.engine.gauss_newton import gauss_newton_change, output_jacobians

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


@lru_cache(maxsize=4)
def _plugins_on(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """The entry points of the packages on a module search path, by name; looking at all packages takes its time."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in METHODS or entry.name in found:
            _warn(f"{_whose(entry)} cannot be used: that name is taken")
        else:
            found[entry.name] = entry
    return found


def _plugins() -> dict[str, EntryPoint]:
    return _plugins_on(tuple(sys.path))


def _whose(entry: EntryPoint) -> str:
    return f"the method '{entry.name}' of the package '{entry.dist.name if entry.dist else entry.module}'"


@lru_cache(maxsize=100)
def _warn(problem: str) -> None:
    """Once per process: a broken package costs its own method and a line, no more."""
    print(f"warning: {problem}; the others can be used", file=sys.stderr)


@lru_cache(maxsize=100)
def _load(entry: EntryPoint) -> Method:
    """The method of an entry point.

    Raises:
        TpbenchError: its package cannot be imported, or adds something else than a method.
    """
    try:
        method = entry.load()
    except (Exception, SystemExit) as error:  # whatever a module may do when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TpbenchError(f"{_whose(entry)} cannot be used ({reason})") from error
    if not isinstance(method, Method):
        raise TpbenchError(f"{_whose(entry)} cannot be used: {entry.value} is not a tpbench.engine.Method")
    return method


def forget_plugins() -> None:
    """Look for installed packages anew, for who installs some while this process runs."""
    for remembered in (_plugins_on, _warn, _load):
        remembered.cache_clear()


def method_names() -> list[str]:
    """The names of all methods, the built-in ones first; imports none of the packages that add some."""
    return [*METHODS, *_plugins()]


def all_methods() -> dict[str, Method]:
    """The built-in methods and those that installed packages add (entry-point group ``tpbench.methods``).

    Of a package that is broken a line on standard error tells.
    """
    found = dict(METHODS)
    for name, entry in _plugins().items():
        try:
            found[name] = _load(entry)
        except TpbenchError as error:
            _warn(str(error))
    return found


def method_title(name: str) -> str:
    """The paper's name of a method; of one that is not installed here, or broken, the name itself."""
    try:
        return get_method(name).title
    except TpbenchError:
        return name


def get_method(name: str) -> Method:
    """The method of that name; of the packages that add methods, only its own is imported.

    Raises:
        UsageError: there is none; the message names the nearest.
        TpbenchError: it is that of an installed package, which is broken.
    """
    if name in METHODS:
        return METHODS[name]
    plugins = _plugins()
    if name not in plugins:
        raise unknown("method", name, method_names())
    return _load(plugins[name])


def method_source(name: str) -> str:
    """Whose code a method is: empty for a built-in one, else what :func:`plugin_source` says of its package.

    Raises:
        UsageError: there is no such method.
        TpbenchError: the source of its package cannot be found.
    """
    get_method(name)
    return "" if name in METHODS else plugin_source(_plugins()[name])
