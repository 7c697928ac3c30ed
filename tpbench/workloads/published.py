"""Data sets as their authors publish them and torchvision keeps them: MNIST's IDX files, CIFAR-10's batches."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import TpbenchError
from tpbench.engine.errors import reason_of
from tpbench.engine.files import is_regular_file
from tpbench.workloads.datasets import Arrays
from tpbench.workloads.labels import DOWNLOADED
from tpbench.workloads.specs import DatasetSpec

_IDX = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
_BATCH_FOLDER = "cifar-10-batches-py"


def published_files(spec: DatasetSpec) -> str:
    """Name the files of a data set, for a message."""
    return spec.archive[0] + f" or {_BATCH_FOLDER}" if spec.archive else ", ".join(_IDX.values())


def find_published(spec: DatasetSpec, place: Path) -> Path | None:
    """Find the files of a data set.

    Args:
        spec: the data set.
        place: the folder that torchvision was told, one below it, or one of the files.

    Returns:
        The folder that holds all of the files, or the archive; None where they are not there.
    """
    if is_regular_file(place):
        if spec.archive:
            return place if place.name == spec.archive[0] else find_published(spec, place.parent)
        return place.parent if _idx_files(place.parent) and place.name.removesuffix(".gz") in _IDX.values() else None
    if spec.archive:
        for folder in (place / _BATCH_FOLDER, place):
            if all(is_regular_file(folder / name) for name, _ in spec.batches):
                return folder
        archive = place / spec.archive[0]
        return archive if is_regular_file(archive) else None
    folders = (place / str(spec.torchvision_name) / "raw", place / "raw", place)
    # Fashion-MNIST's files have the same names: what lies in the other's folder is the other's.
    other = {"MNIST", "FashionMNIST"} - {str(spec.torchvision_name)}
    return next((f for f in folders if _idx_files(f) and not other & set(f.absolute().parts[-2:])), None)


def has_labels(spec: DatasetSpec, folder: Path) -> bool:
    """Return whether the labels in a folder of IDX files are those of the data set, or cannot be read.

    Several data sets have files of the same names; in a folder that no name tells apart, the labels do.
    """
    try:
        labels = _read_idx(_idx_files(folder)["y_train"], (sum(spec.train_counts),), spec.name)
    except (KeyError, TpbenchError, OSError, EOFError, zlib.error):
        return True  # who reads it says what is wrong
    return tuple(np.bincount(labels, minlength=len(spec.train_counts)).tolist()) == tuple(spec.train_counts)


def read_published(spec: DatasetSpec, place: Path) -> tuple[Arrays, str]:
    """Read the files of a data set.

    Args:
        place: as :func:`find_published` returns it.

    Returns:
        The arrays, and their source: :data:`tpbench.workloads.labels.DOWNLOADED` where MD5 sums show that they are
        the authors' own files.

    Raises:
        TpbenchError: a file is damaged or is not of that data set.
    """
    try:
        if spec.archive:
            return _read_batches(spec, place), DOWNLOADED
        return _read_idx_files(spec, place), f"folder {place.name}"
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise TpbenchError(f"{place}: could not be read ({reason_of(error)})") from error


def md5(path: Path) -> str:
    """Return the MD5 sum of a file, which authors publish beside their data."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _idx_files(folder: Path) -> dict[str, Path]:
    """The four files by array, plain or as ``.gz``; empty if one is missing."""
    found = {}
    for array, name in _IDX.items():
        for path in (folder / name, folder / f"{name}.gz"):
            if is_regular_file(path):
                found[array] = path
                break
    return found if len(found) == len(_IDX) else {}


def _read_idx_files(spec: DatasetSpec, folder: Path) -> Arrays:
    files = _idx_files(folder)
    arrays: Arrays = {}
    for split, counts in (("train", spec.train_counts), ("test", spec.test_counts)):
        arrays[f"x_{split}"] = _read_idx(files[f"x_{split}"], (sum(counts), *spec.image_shape), spec.name)
        arrays[f"y_{split}"] = _read_idx(files[f"y_{split}"], (sum(counts),), spec.name)
    return arrays


def _read_idx(path: Path, shape: tuple[int, ...], name: str) -> NDArray[np.uint8]:
    """Read bytes of a known shape; more than that is never unpacked."""
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    size = len(header) + prod(shape)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read(size + 1)
    if len(content) != size or not content.startswith(header):
        raise TpbenchError(f"{path}: damaged or not a file of {name}: it must hold bytes of the shape {shape}")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


class _BatchReader(pickle.Unpickler):
    """Reads a pickled dictionary of arrays and lists, and refuses whatever else a pickle may name.

    Nothing is imported or called by name but what makes an array.
    """

    _ADMITTED = {  # noqa: RUF012 (a constant)
        **{(f"numpy.{core}.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0] for core in ("core", "_core")},
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._ADMITTED[module, name]


def _read_batches(spec: DatasetSpec, place: Path) -> Arrays:
    """Read CIFAR-10's batches: pickles, which are looked into only where their MD5 sums are the published ones."""
    images, labels = [], []
    for (name, wanted), content in zip(spec.batches, _batch_contents(spec, place), strict=True):
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if wanted and found != wanted:
            raise TpbenchError(
                f"{place}: '{name}' is not the file that the authors of {spec.name} publish (its MD5 sum is {found[:8]}"
                f"..., theirs {wanted[:8]}...); of other images, import an .npz file"
            )
        try:
            batch = _BatchReader(io.BytesIO(content), encoding="latin1").load()
            rows = np.asarray(batch["data"], np.uint8).reshape(-1, *_channels_first(spec.image_shape))
            images.append(rows.transpose(0, 2, 3, 1))
            labels.append(np.asarray(batch["labels"], np.uint8))
        except Exception as error:  # an unpickler raises many kinds
            raise TpbenchError(f"{place}: '{name}' is damaged or no batch of {spec.name} ({error})") from error
    return {
        "x_train": np.concatenate(images[:-1]),
        "y_train": np.concatenate(labels[:-1]),
        "x_test": np.ascontiguousarray(images[-1]),
        "y_test": labels[-1],
    }


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[-1], *shape[:-1]


def _batch_contents(spec: DatasetSpec, place: Path) -> list[bytes]:
    if place.is_dir():
        # A file that is larger than a batch has another sum; of one without end only so much is read.
        most = 2 * sum(spec.train_counts) * prod(spec.image_shape)
        return [_read_most(place / name, most) for name, _ in spec.batches]
    archive, wanted = spec.archive or ("", "")
    if wanted and md5(place) != wanted:
        raise TpbenchError(f"{place}: damaged: its MD5 sum is not that of the published {archive}")
    contents = []
    with tarfile.open(place) as tar:
        for name, _ in spec.batches:
            try:
                member = tar.extractfile(f"{_BATCH_FOLDER}/{name}")
            except KeyError:
                member = None
            if member is None:
                raise TpbenchError(f"{place}: holds no {_BATCH_FOLDER}/{name}")
            contents.append(member.read())
    return contents


def _read_most(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most)
