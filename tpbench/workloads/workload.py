"""What a workload is: data set, network and what is trained; workloads know nothing of methods beyond schedules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tpbench.engine import HYPERPARAMETERS, SCHEDULE, Architecture, Method, check_configuration

_NEED_ALL_LAYERS = ("dfa", "fa")
"""Methods whose fixed feedback works only if all forward parameters can align with it (section 4)."""

_NO_CONTENT = ("name", "title", "data", "samples", "source")
"""What a workload is called and where its data lie; the data themselves have a fingerprint of their own."""


@dataclass(frozen=True)
class Workload:
    """One workload, checked and complete (:func:`tpbench.workloads.declaration.declared`)."""

    name: str
    title: str
    """The paper's name of it; of one from a file its name."""
    data: str
    """A data set that tpbench knows, or the absolute path of an ``.npz`` file."""
    samples: int
    """Training samples of the data, validation samples among them."""
    inputs: int
    outputs: int
    hidden: tuple[int, ...]
    random_hidden: int
    """Width of the fixed random hidden feedback layer of the RHL methods."""
    normalise: str | tuple[float, float]
    """``standard``, ``unit``, ``none``, or mean and deviation (:mod:`tpbench.workloads.normalising`)."""
    batch_size: int
    validation_size: int
    """Samples."""
    epochs: int
    trained_layers: tuple[int, ...] | None
    """None: all."""
    schedules: Mapping[str, tuple[int, int]]
    """For each kind of schedule: epochs of feedback pretraining, and of pure feedback training between joint epochs."""
    prune: tuple[int, float]
    """The authors' rule for searches: stop a run whose training error after so many epochs is above this."""
    test: float = 0.0
    """Share of the samples of an own file that are its test set; 0: the file has one."""
    source: str = ""
    """Digest of what a file of the user's says; empty for a built-in workload."""

    @property
    def own_file(self) -> Path | None:
        """The file of the user's that holds the data; None where they are a data set that tpbench knows."""
        return Path(self.data) if self.data.endswith(".npz") else None

    @property
    def architecture(self) -> Architecture:
        return Architecture((self.inputs, *self.hidden, self.outputs), random_hidden=self.random_hidden)

    @property
    def excluded_methods(self) -> tuple[str, ...]:
        """Methods that make no sense here."""
        return _NEED_ALL_LAYERS if self.trained_layers else ()

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
        optional = [HYPERPARAMETERS[name] for name in SCHEDULE] if method.trains_feedback else []
        checked = check_configuration(given, method.hyperparameter_specs.values(), optional, where)
        return {**checked, **{k: v for k, v in self.feedback_schedule(method).items() if k not in checked}}

    def plain(self) -> dict[str, Any]:
        """Everything as plain data, which travels to any process."""
        return {**asdict(self), "schedules": {name: list(epochs) for name, epochs in self.schedules.items()}}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Workload:
        """What :meth:`plain` gave, also after it was JSON."""
        fields = dict(plain)
        for name in ("hidden", "trained_layers", "prune", "normalise"):
            if isinstance(fields[name], list):
                fields[name] = tuple(fields[name])
        fields["schedules"] = {name: tuple(epochs) for name, epochs in fields["schedules"].items()}
        return cls(**fields)

    def content(self) -> dict[str, Any]:
        """What changes the numbers of its runs, besides the data."""
        return {name: value for name, value in self.plain().items() if name not in _NO_CONTENT}

    def content_digest(self) -> str:
        """16 hex digits of the SHA-256 over :meth:`content`: of what a file says, not of how it says it."""
        text = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
