"""What each data set that tpbench knows must look like. Imports no numpy: lists of workloads read no data."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tpbench.engine import unknown


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
