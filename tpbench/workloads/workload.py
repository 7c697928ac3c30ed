"""What a workload is: data set, network and what is trained; workloads know nothing of methods beyond schedules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from tpbench.engine import HYPERPARAMETERS, SCHEDULE, Architecture, Method, check_configuration, unknown

_NEED_ALL_LAYERS = ("dfa", "fa")
"""Methods whose fixed feedback works only if all forward parameters can align with it (section 4)."""

_NO_CONTENT = ("name", "title", "data", "samples", "source")
"""What a workload is called and where its data lie; the data themselves have a fingerprint of their own."""


@dataclass(frozen=True)
class Workload:
    """One workload, checked and complete (:func:`tpbench.workloads.declarations.declared`)."""

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
    """``standard``, ``unit``, ``none``, or mean and deviation (:mod:`tpbench.workloads.own_data`)."""
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
        checked = check_configuration(given, method.described.values(), optional, where)
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


# What each data set that tpbench knows must look like. Imports no numpy: lists of workloads read no data.


@dataclass(frozen=True)
class DatasetSpec:
    """The published shape of a data set; a file that departs from it is not that data set."""

    name: str
    image_shape: tuple[int, ...]
    train_counts: tuple[int, ...]
    """Training samples of each class."""
    test_counts: tuple[int, ...]
    torchvision_name: str | None = None
    megabytes: int = 0
    """Of the files that torchvision downloads."""
    content: str | None = None
    """:func:`content_digest` of the exact data set, where it is known."""
    known_copies: tuple[tuple[str, str], ...] = ()
    """Content digests of inexact copies, and what results made with them are labelled."""
    archive: tuple[str, str] | None = None
    """Name and MD5 sum of the archive that its authors publish, where the data set is one archive of batches."""
    batches: tuple[tuple[str, str], ...] = ()
    """Name and MD5 sum of each file of the archive; the last is the test set."""

    @property
    def classes(self) -> int:
        return len(self.train_counts)


DATASETS = {
    d.name: d
    for d in (
        DatasetSpec(
            "mnist",
            (28, 28),
            (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
            (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
            "MNIST",
            12,
            "f771933d03a86cc5f6899b91d168d95717c342a985562a4a2b5d8d2517a4cb24",
        ),
        DatasetSpec(
            "fashion-mnist",
            (28, 28),
            (6000,) * 10,
            (1000,) * 10,
            "FashionMNIST",
            31,
            "4de292442a22996b5d72c79883ebd803d1eb19709f86b3eb7c24b5f4c7be93a1",
        ),
        DatasetSpec(
            "cifar10",
            (32, 32, 3),
            (5000,) * 10,
            (1000,) * 10,
            "CIFAR10",
            170,
            known_copies=(("7024887175e814710e94a62f74e92abe6bc2710c44485d280b3b112669b63ee1", "JPEG copy"),),
            archive=("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
            batches=(
                ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
                ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                ("data_batch_4", "634d18415352ddfa80567beed471001a"),
                ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
                ("test_batch", "40351d587109b95175f43aff81a1287e"),
            ),
        ),
    )
}


DIGITS_TRAINING = 1437
"""Of scikit-learn's 1,797 digits."""


def get_dataset(name: str) -> DatasetSpec:
    """The data set of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]


@dataclass(frozen=True)
class Shape:
    """What a network must fit, and where the data are."""

    data: str
    """As :attr:`tpbench.workloads.workload.Workload.data`."""
    inputs: int
    """Numbers per sample."""
    outputs: int
    """Classes."""
    training: int
    """Training samples, validation samples among them."""


def known_shape(data: str) -> Shape | None:
    """The shape of a data set that tpbench knows; None of a file of the user's."""
    if data == "digits":
        return Shape(data, 64, 10, DIGITS_TRAINING)
    if data not in DATASETS:
        return None
    spec = DATASETS[data]
    return Shape(data, prod(spec.image_shape), spec.classes, sum(spec.train_counts))
