"""The table of workloads: data set, network and what is trained (section B.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tpbench.engine import SCHEDULE, Architecture, Method, check_configuration, unknown
from tpbench.engine.parts import EXTRA, JOINT, SLEEP


@dataclass(frozen=True)
class Workload:
    """What is trained on what; workloads know nothing of methods beyond the kinds of schedule."""

    name: str
    title: str
    """The paper's name of it."""
    dataset: str
    architecture: Architecture
    schedules: dict[str, tuple[int, int]]
    """For each kind of schedule: epochs of feedback pretraining, and of pure feedback training between joint epochs."""
    affine: tuple[float, float]
    """Scale and shift: stored pixels become ``pixel * scale + shift``."""
    epochs: int = 100
    batch_size: int = 128
    validation_size: int = 5000
    trained_layers: tuple[int, ...] | None = None
    prune: tuple[int, float] = (6, 0.6)
    """The authors' rule for searches: stop a run whose training error after so many epochs is above this."""
    excluded_methods: tuple[str, ...] = field(default=())
    """Methods that make no sense here (DFA needs all forward parameters to align, section 4)."""

    def feedback_schedule(self, method: Method) -> dict[str, int]:
        """What B.1 fixes of a configuration: epochs that train the feedback alone; empty if none is trained."""
        if not method.trains_feedback:
            return {}
        pretrain, between = self.schedules[method.schedule]
        return {"fb_pretrain_epochs": pretrain, "fb_epochs_between": between}

    def complete(self, method: Method, given: Mapping[str, object], where: str = "configuration") -> dict[str, float]:
        """A checked configuration with the workload's schedule where it names none.

        Raises:
            UsageError: a hyperparameter is unknown, missing or out of range.
        """
        optional = SCHEDULE if method.trains_feedback else ()
        checked = check_configuration(given, method.hyperparameters, optional, where)
        return {**checked, **{k: v for k, v in self.feedback_schedule(method).items() if k not in checked}}


def _standardised(mean: float, deviation: float) -> tuple[float, float]:
    """Pixels in 0..255 to ``(pixel / 255 - mean) / deviation``."""
    return 1 / 255 / deviation, -mean / deviation


_MNIST_NETWORK = Architecture((784, 256, 256, 256, 256, 256, 10), random_hidden=1024)
_MNIST_SCHEDULES = {JOINT: (0, 0), SLEEP: (6, 1), EXTRA: (10, 4)}

WORKLOADS = {
    w.name: w
    for w in (
        # Not in the paper: small enough to search on a laptop in a minute, and shipped with scikit-learn.
        Workload(
            "digits", "Digits", "digits", Architecture((64, 64, 64, 10), random_hidden=128),
            {JOINT: (0, 0), SLEEP: (2, 1), EXTRA: (4, 2)}, (1 / 16, 0.0), epochs=30, batch_size=32,
            validation_size=240,
        ),
        Workload(
            "mnist", "MNIST", "mnist", _MNIST_NETWORK, _MNIST_SCHEDULES, _standardised(0.1307, 0.3081),
        ),
        Workload(
            "mnist-frozen", "MNIST (frozen)", "mnist", _MNIST_NETWORK, {JOINT: (0, 0), SLEEP: (10, 0), EXTRA: (10, 4)},
            _standardised(0.1307, 0.3081), trained_layers=(1,), excluded_methods=("dfa",),
        ),
        Workload(
            "fashion-mnist", "Fashion-MNIST", "fashion-mnist", _MNIST_NETWORK, _MNIST_SCHEDULES,
            _standardised(0.0, 1.0),
        ),
        Workload(
            "cifar10", "CIFAR10", "cifar10", Architecture((3072, 1024, 1024, 1024, 10), random_hidden=2048),
            {JOINT: (0, 0), SLEEP: (10, 2), EXTRA: (10, 4)}, _standardised(0.5, 0.5), prune=(6, 0.75),
        ),
    )
}  # fmt: skip


def get_workload(name: str) -> Workload:
    """The workload of that name.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    if name not in WORKLOADS:
        raise unknown("workload", name, WORKLOADS)
    return WORKLOADS[name]
