"""Workloads: a data set, a network and how much of it is trained; and the known data sets, without their data.

Imports no numpy: lists of workloads read no data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from tpbench.engine import (
    HYPERPARAMETERS,
    SCHEDULE,
    Architecture,
    Method,
    UsageError,
    check_configuration,
    get_method,
    unknown,
)
from tpbench.engine.parts import EXTRA, JOINT, SLEEP, Convolution, convolutional

_NO_CONTENT = ("name", "title", "data", "samples", "source")
"""Names and places, which change no result; the data themselves have a fingerprint of their own."""
_OF_CONVOLUTIONS = ("convolutions", "image")
"""Fields that are left out of the content of a fully connected network: its digests are those of older versions."""

Image = tuple[int, int, int]
"""Rows, columns and channels of a sample, the order in which data sets store them."""

SCHEDULES: Mapping[str, tuple[int, int]] = {JOINT: (0, 0), SLEEP: (6, 1), EXTRA: (10, 4)}
"""The paper's schedules for most of its data sets (section B.1)."""


@dataclass(frozen=True)
class Workload:
    """A data set, a network and which of its layers are trained; checked and complete.

    The defaults are the paper's for most of its data sets.
    """

    name: str
    title: str
    """The paper's name for it; for a workload from a file its name."""
    data: str
    """A known data set, or the absolute path of an ``.npz`` file."""
    samples: int
    """Training samples of the data, validation samples among them."""
    inputs: int
    """Numbers per sample."""
    outputs: int
    """Classes."""
    hidden: tuple[int, ...]
    """Widths of the fully connected hidden layers."""
    validation_size: int
    """Samples that select an epoch; 0: all samples train, and the last epoch counts."""
    normalise: str | tuple[float, float] = "standard"
    """``standard``, ``unit``, ``none``, or mean and deviation (:func:`tpbench.workloads.own_data.scale_and_shift`)."""
    random_hidden: int = 1024
    """Width of the fixed random hidden feedback layer of the RHL methods."""
    batch_size: int = 128
    epochs: int = 100
    trained_layers: tuple[int, ...] | None = None
    """None: all."""
    schedules: Mapping[str, tuple[int, int]] = field(default_factory=lambda: dict(SCHEDULES))
    """For each kind of schedule: epochs of feedback pretraining, and of pure feedback training between joint epochs."""
    prune: tuple[int, float] = (6, 0.6)
    """The authors' rule for searches: stop a run whose training error after so many epochs is above this."""
    test: float = 0.0
    """Share of the samples of an own file that are its test set; 0: the file has one."""
    source: str = ""
    """Digest of the content of a workload's file; empty for a built-in workload."""
    convolutions: tuple[Convolution, ...] = ()
    """The hidden layers before the fully connected ones."""
    image: Image | None = None
    """Shape of a sample; None for a network without convolutions."""

    @property
    def own_file(self) -> Path | None:
        """The user's file that holds the data; None for a known data set."""
        return Path(self.data) if self.data.endswith(".npz") else None

    @property
    def architecture(self) -> Architecture:
        """The network's layers."""
        if not self.image:
            return Architecture((self.inputs, *self.hidden, self.outputs), random_hidden=self.random_hidden)
        rows, columns, channels = self.image
        widths = (*self.hidden, self.outputs)
        return convolutional((channels, rows, columns), self.convolutions, widths, self.random_hidden)

    def refusal(self, method: str) -> str:
        """Return the reason why a method cannot be trained here, in a line; empty if it can.

        It needs all layers, where some are frozen (section 4); or its feedback cannot pass through a convolution.

        Raises:
            UsageError: there is no such method.
        """
        chosen = get_method(method)
        if self.trained_layers and (chosen.fixed_feedback or chosen.needs_all_layers):
            return "the rule works only where all layers train"
        return chosen.refusal(self.architecture)

    def feedback_schedule(self, method: Method) -> dict[str, int]:
        """Return the epochs that train a method's feedback alone (section B.1), as hyperparameters.

        Empty for a method without trained feedback.
        """
        if not method.trains_feedback:
            return {}
        pretrain, between = self.schedules[method.schedule]
        return {"fb_pretrain_epochs": pretrain, "fb_epochs_between": between}

    def complete(self, method: Method, given: Mapping[str, object], where: str = "configuration") -> dict[str, Any]:
        """Check a configuration and fill in the workload's schedule where it names none.

        Raises:
            UsageError: a hyperparameter is unknown, missing or out of range, or a list of it has not as many numbers as
                the network has layers.
        """
        optional = [HYPERPARAMETERS[name] for name in SCHEDULE] if method.trains_feedback else []
        entries = method.entries(self.architecture)
        checked = check_configuration(given, method.hyperparameter_specs.values(), optional, where, entries)
        idle = [name for name in SCHEDULE if method.trains_with_weights and checked.get(name)]
        if idle:
            raise UsageError(
                f"{where}: {idle[0]} must be 0, as {method.title} trains its feedback together with the weights only"
            )
        return {**checked, **{k: v for k, v in self.feedback_schedule(method).items() if k not in checked}}

    def plain(self) -> dict[str, Any]:
        """Return all fields as plain data, which travels to any process."""
        return {**asdict(self), "schedules": {name: list(epochs) for name, epochs in self.schedules.items()}}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Workload:
        """Return the workload of :meth:`plain`, also after it was JSON."""
        fields = dict(plain)
        for name in ("hidden", "trained_layers", "prune", "normalise", "image"):
            if isinstance(fields.get(name), list):
                fields[name] = tuple(fields[name])
        fields["convolutions"] = tuple(Convolution(**layer) for layer in fields.get("convolutions", ()))
        fields["schedules"] = {name: tuple(epochs) for name, epochs in fields["schedules"].items()}
        return cls(**fields)

    def content(self) -> dict[str, Any]:
        """Return the fields that change the numbers of runs; the data have a fingerprint of their own."""
        left_out = _NO_CONTENT if self.convolutions else (*_NO_CONTENT, *_OF_CONVOLUTIONS)
        return {name: value for name, value in self.plain().items() if name not in left_out}

    def content_digest(self) -> str:
        """Return 16 hex digits of the SHA-256 over :meth:`content`; the spelling of a file does not change it."""
        text = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def declaration(self) -> dict[str, Any]:
        """Return the keys of a file that declares this workload, without its name."""
        keys: dict[str, Any] = {
            "data": self.data,
            "network": [*map(_plain_convolution, self.convolutions), *self.hidden],
            "validation_size": self.validation_size,
            "normalise": self.normalise if isinstance(self.normalise, str) else list(self.normalise),
            "trained_layers": list(self.trained_layers) if self.trained_layers else None,
            "feedback_epochs": {kind: list(pair) for kind, pair in self.schedules.items() if kind != JOINT},
            "prune": list(self.prune),
        }
        keys |= {key: getattr(self, key) for key in ("random_hidden", "batch_size", "epochs")}
        keys |= {"image": list(self.image)} if self.image else {}
        return {**keys, "test": self.test} if self.test else keys

    def to_yaml(self) -> str:
        """Return a file that declares this workload: JSON, which is YAML in which no name looks like a number."""
        return json.dumps({"name": self.name, **self.declaration()}, indent=1) + "\n"


def _plain_convolution(layer: Convolution) -> dict[str, int]:
    """Return the entry of a convolution in the ``network`` of a workload's file."""
    return {"conv": layer.channels, "kernel": layer.kernel, "pool": layer.pool, "stride": layer.stride}


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
    """Size of the files that torchvision downloads."""
    content: str | None = None
    """:func:`tpbench.workloads.datasets.content_digest` of the exact data set, where it is known."""
    known_copies: tuple[tuple[str, str], ...] = ()
    """Content digests of inexact copies, and the labels of results made with them."""
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
"""Training samples among scikit-learn's 1,797 digits."""


DIGITS_TEST = 360
"""Test samples among them."""


def get_dataset(name: str) -> DatasetSpec:
    """Return the data set of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]


@dataclass(frozen=True)
class Shape:
    """The sizes of a data set, which a network must fit."""

    data: str
    """A known data set, or the absolute path of an ``.npz`` file."""
    inputs: int
    """Numbers per sample."""
    outputs: int
    """Classes."""
    training: int
    """Training samples, validation samples among them."""
    image: Image | None = None
    """Shape of a sample; None where samples are no images."""


def image_of(shape: tuple[int, ...]) -> Image | None:
    """Return rows, columns and channels of samples of a shape; None where they are no images."""
    if len(shape) == 2:
        return shape[0], shape[1], 1
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None


def known_shape(data: str) -> Shape | None:
    """Return the shape of a known data set; None for any other name."""
    if data == "digits":
        return Shape(data, 64, 10, DIGITS_TRAINING, (8, 8, 1))
    if data not in DATASETS:
        return None
    spec = DATASETS[data]
    inputs, image = prod(spec.image_shape), image_of(spec.image_shape)
    return Shape(data, inputs, spec.classes, sum(spec.train_counts), image)


def known_test_size(data: str) -> int | None:
    """Return the number of test samples of a known data set; None for any other name."""
    if data == "digits":
        return DIGITS_TEST
    return sum(DATASETS[data].test_counts) if data in DATASETS else None
