"""A user's own data: an ``.npz`` file with images or features and labels; and the normalisation of all data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import TpbenchError
from tpbench.engine.arrays import ArrayArchive
from tpbench.engine.errors import shorten
from tpbench.engine.files import require_regular_file
from tpbench.engine.splits import first_of_each_class, loses_class
from tpbench.workloads.datasets import ARRAY_NAMES, check_label_type
from tpbench.workloads.memory import available_memory, require_memory
from tpbench.workloads.workload import Shape, image_of

if TYPE_CHECKING:
    from tpbench.workloads.cache import Dataset

_UNSPLIT = ("x", "y")
_MAX_CLASSES = 100_000


def read_own(path: Path, test: float) -> dict[str, NDArray[Any]]:
    """Read the four arrays of a file: images uint8 or float as they are stored, labels flat int64.

    Args:
        path: the file: ``x_train``, ``y_train``, ``x_test``, ``y_test``; or ``x`` and ``y``.
        test: share of the samples of ``x`` and ``y`` that are the test set, the same samples on every machine.

    Raises:
        TpbenchError: there is no such file, or an array in it is wrong.
    """
    try:
        arrays = _arrays(path)
        if set(_UNSPLIT) <= set(arrays):
            arrays = _split(arrays["x"], arrays["y"], test, path)
        elif test:
            raise TpbenchError(f"{path}: has a test set of its own: leave out 'test: {test:g}'")
        _check(arrays, path)
    except MemoryError as error:
        raise TpbenchError(f"{path}: not enough memory for these data") from error
    return arrays


def own_shape(path: Path, arrays: dict[str, NDArray[Any]]) -> Shape:
    """Return the sizes that a network for the arrays of a file must fit."""
    images, classes = arrays["x_train"], int(arrays["y_train"].max()) + 1
    return Shape(str(path), prod(images.shape[1:]), classes, len(images), image_of(images.shape[1:]))


def stamp_of(path: Path) -> tuple[int, int, int]:
    """Return a file's times and size, which change when it is written anew, also by a copy that keeps the time.

    Raises:
        UsageError: there is no such file, it is no regular file, or no file can have that name.
    """
    status = require_regular_file(path)
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the four or the two arrays of a file, images as stored and labels flat."""
    with ArrayArchive(path, available_memory()) as archive:
        four, two = (set(names) <= set(archive.names) for names in (ARRAY_NAMES, _UNSPLIT))
        if four == two:
            both = "it holds both" if four else f"it holds {shorten(', '.join(archive.names[:9]), 200) or 'nothing'}"
            raise TpbenchError(f"{path}: needs the arrays {', '.join(ARRAY_NAMES)}, or x and y; {both}")
        names = ARRAY_NAMES if four else _UNSPLIT
        for name in names:
            if name.startswith("y"):
                check_label_type(archive.header(name).dtype, name, str(path))
        stored = archive.read(names)
    return {
        name: _labels(array, name, path) if name.startswith("y") else _images(array, name, path)
        for name, array in stored.items()
    }


def _images(array: NDArray[Any], name: str, path: Path) -> NDArray[Any]:
    if not (array.dtype == np.uint8 or (array.dtype.kind == "f" and array.dtype.itemsize <= 8)):
        raise TpbenchError(
            f"{path}: '{name}' must be uint8 (0 to 255) or a float of at most 64 bits, got {array.dtype}; "
            "'.astype(numpy.float32)' makes one of it"
        )
    if array.ndim < 2 or 0 in array.shape:
        raise TpbenchError(f"{path}: '{name}' must have the shape (samples, ...), got {array.shape}")
    # The same bytes on every machine.
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    if array.dtype.kind == "f" and not np.isfinite(plain).all():
        raise TpbenchError(f"{path}: '{name}' holds numbers that are not finite")
    return plain


def _labels(array: NDArray[Any], name: str, path: Path) -> NDArray[Any]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not len(array):
        raise TpbenchError(f"{path}: '{name}' must have the shape (samples,) or (samples, 1), got {array.shape}")
    if array.min() < 0 or array.max() >= _MAX_CLASSES:
        outlier = array.min() if array.min() < 0 else array.max()
        raise TpbenchError(f"{path}: '{name}' holds the label {outlier}; labels are 0, 1, ... without a gap")
    return np.ascontiguousarray(array, dtype="<i8")


def _split(x: NDArray[Any], y: NDArray[Any], test: float, path: Path) -> dict[str, NDArray[Any]]:
    if len(x) != len(y):
        raise TpbenchError(f"{path}: 'x' has {len(x)} samples and 'y' {len(y)}")
    if not test:
        raise TpbenchError(f"{path}: holds x and y: say which share of them is the test set, such as 'test: 0.2'")
    count = round(test * len(x))
    if not 0 < count < len(x):
        raise TpbenchError(f"{path}: a test set of {test:g} of {len(x)} samples leaves none on one side")
    # The split is part of the data, as for the digits: no seed of a run changes it.
    order = np.random.default_rng(0).permutation(len(x))
    if loses_class(y, order[count:]):
        order = first_of_each_class(order, y)
        if loses_class(y, order[count:]):
            classes = np.count_nonzero(np.bincount(y))
            raise TpbenchError(
                f"{path}: a test set of {test:g} of {len(x)} samples leaves too few to train on for {classes} classes; "
                f"tpbench makes this split: choose a smaller 'test', or store {', '.join(ARRAY_NAMES)}"
            )
    testing, training = np.sort(order[:count]), np.sort(order[count:])
    require_memory(x.nbytes, f"{path}: splitting it")
    return {"x_train": x[training], "y_train": y[training], "x_test": x[testing], "y_test": y[testing]}


def _check(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    for split in ("train", "test"):
        if len(arrays[f"x_{split}"]) != len(arrays[f"y_{split}"]):
            lengths = len(arrays[f"x_{split}"]), len(arrays[f"y_{split}"])
            raise TpbenchError(f"{path}: 'x_{split}' has {lengths[0]} samples and 'y_{split}' {lengths[1]}")
    train, test = arrays["x_train"], arrays["x_test"]
    if (train.dtype, train.shape[1:]) != (test.dtype, test.shape[1:]):
        kinds = " and ".join(f"{x.dtype} {x.shape[1:]}" for x in (train, test))
        raise TpbenchError(f"{path}: training and test samples must be of one kind, got {kinds}")
    counts = np.bincount(arrays["y_train"])
    if len(counts) < 2:
        raise TpbenchError(f"{path}: 'y_train' holds one class; there is nothing to learn")
    for missing in np.flatnonzero(counts == 0)[:1]:
        hint = "; subtract 1 from all labels" if missing == 0 and (counts[1:] > 0).all() else ""
        raise TpbenchError(
            f"{path}: no training sample has the label {missing}, though labels go to {len(counts) - 1}{hint}"
        )
    if arrays["y_test"].max() >= len(counts):
        raise TpbenchError(f"{path}: 'y_test' holds the label {arrays['y_test'].max()}, which no training sample has")


# --- normalisation: one scale and one shift for all numbers ---


# Numbers that become float64 at once: a copy of all of them would take eight times the memory of uint8 images.
_CHUNK = 4_000_000


def _parts(stored: NDArray[Any]) -> Iterator[NDArray[Any]]:
    rows = max(1, _CHUNK // max(1, math.prod(stored.shape[1:])))
    for first in range(0, len(stored), rows):
        yield stored[first : first + rows]


def scale_and_shift(normalise: str | tuple[float, float], stored: NDArray[Any]) -> tuple[float, float]:
    """Return the scale and the shift that normalise: stored numbers become ``number * scale + shift``.

    Args:
        normalise: a mean and a deviation, those of uint8 images in units of 0..1 as torchvision has them and of floats
            in their own; ``unit``: uint8 0..255, or the range of the training floats, becomes 0..1; ``standard``: the
            mean and deviation of all numbers of the training images; ``none``.
        stored: the training images, validation samples among them.

    Raises:
        TpbenchError: all numbers are equal, so that there is no range or deviation.
    """
    if normalise == "none":
        return 1.0, 0.0
    is_image = stored.dtype == np.uint8
    if isinstance(normalise, tuple):
        unit = 255 if is_image else 1
        mean, deviation = normalise
        return 1 / unit / deviation, -mean / deviation
    if normalise == "unit":
        mean, highest = (0.0, 255.0) if is_image else (float(stored.min()), float(stored.max()))
        deviation = highest - mean
    else:
        with np.errstate(all="ignore"):  # checked below
            mean = sum(float(part.sum(dtype=np.float64)) for part in _parts(stored)) / stored.size
            squares = sum(float(np.square(part.astype(np.float64) - mean).sum()) for part in _parts(stored))
        # Of equal numbers the mean may be off by a rounding.
        deviation = math.sqrt(squares / stored.size) if stored.min() < stored.max() else 0.0
    if not (deviation > 0 and math.isfinite(deviation)):
        what = f"are {mean:g}" if deviation == 0 else "are too large"
        raise TpbenchError(f"all numbers of the training images {what}, so they cannot be normalised")
    return 1 / deviation, -mean / deviation


def normalised(stored: NDArray[Any], scale: float, shift: float) -> NDArray[Any]:
    """Return stored floats as inputs, formed in float64: in float32 a large mean would swallow their differences.

    Raises:
        TpbenchError: an input is beyond what float32 can square.
    """
    kind = np.dtype(np.float64 if stored.dtype.itemsize == 8 else np.float32)
    require_memory(stored.size * kind.itemsize, "normalising the data")
    inputs = np.empty(stored.shape, kind)
    done = 0
    for part in _parts(stored):
        with np.errstate(all="ignore"):  # checked below
            values = part.astype(np.float64) * scale + shift
        if not np.abs(values).max() < 1e18:
            raise TpbenchError("some inputs are beyond 1e18 after normalising: give numbers that float32 can square")
        inputs[done : done + len(part)] = values
        done += len(part)
    return inputs


@lru_cache(maxsize=2)
def inputs_of(normalise: str | tuple[float, float], dataset: Dataset) -> tuple[dict[str, Any], float, float]:
    """Return training and test inputs as rows, with the scale and shift still to apply when a minibatch is gathered.

    A process trains many packs on the same data, and a command reads a file often: the last results are kept.

    Raises:
        TpbenchError: the data cannot be normalised so.
    """
    images = {
        split: dataset.arrays[f"x_{split}"].reshape(len(dataset.arrays[f"x_{split}"]), -1)
        for split in ("train", "test")
    }
    scale, shift = scale_and_shift(normalise, images["train"])
    if images["train"].dtype.kind != "f":
        return images, scale, shift
    # Floats are normalised here, once; uint8 images stay as they are, in a quarter of the memory.
    return {split: normalised(rows, scale, shift) for split, rows in images.items()}, 1.0, 0.0
