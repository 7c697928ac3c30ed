"""How stored numbers become a network's inputs: one scale and one shift for all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import TpbenchError
from tpbench.workloads.memory import require_memory

if TYPE_CHECKING:
    from tpbench.workloads.cache import Dataset

# Numbers that are looked at in float64 at once: a copy of all of them would take eight times the memory of images.
_CHUNK = 4_000_000


def _parts(stored: NDArray[Any]) -> Iterator[NDArray[Any]]:
    rows = max(1, _CHUNK // max(1, math.prod(stored.shape[1:])))
    for first in range(0, len(stored), rows):
        yield stored[first : first + rows]


def scale_and_shift(normalise: str | tuple[float, float], stored: NDArray[Any]) -> tuple[float, float]:
    """Scale and shift: stored numbers become ``number * scale + shift``.

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
    whole = stored.dtype == np.uint8
    if isinstance(normalise, tuple):
        unit = 255 if whole else 1
        mean, deviation = normalise
        return 1 / unit / deviation, -mean / deviation
    if normalise == "unit":
        mean, highest = (0.0, 255.0) if whole else (float(stored.min()), float(stored.max()))
        deviation = highest - mean
    else:
        with np.errstate(all="ignore"):  # found out below
            mean = sum(float(part.sum(dtype=np.float64)) for part in _parts(stored)) / stored.size
            squares = sum(float(np.square(part.astype(np.float64) - mean).sum()) for part in _parts(stored))
        deviation = math.sqrt(squares / stored.size)
    if not (deviation > 0 and math.isfinite(deviation)):
        what = f"are {mean:g}" if deviation == 0 else "are too large"
        raise TpbenchError(f"all numbers of the training images {what}, so they cannot be normalised")
    return 1 / deviation, -mean / deviation


def normalised(stored: NDArray[Any], scale: float, shift: float) -> NDArray[Any]:
    """Stored floats as inputs, formed in float64: in float32 a large mean would eat their differences.

    Raises:
        TpbenchError: an input is beyond what float32 can square.
    """
    kind = np.dtype(np.float64 if stored.dtype.itemsize == 8 else np.float32)
    require_memory(stored.size * kind.itemsize, "normalising the data")
    made = np.empty(stored.shape, kind)
    done = 0
    for part in _parts(stored):
        with np.errstate(all="ignore"):  # found out below
            values = part.astype(np.float64) * scale + shift
        if not np.abs(values).max() < 1e18:
            raise TpbenchError("some inputs are beyond 1e18 after normalising: give numbers that float32 can square")
        made[done : done + len(part)] = values
        done += len(part)
    return made


def inputs_of(normalise: str | tuple[float, float], dataset: Dataset) -> tuple[dict[str, Any], float, float]:
    """Training and test inputs as rows, and the scale and shift that are left to do when a minibatch is gathered.

    Raises:
        TpbenchError: they cannot be normalised so.
    """
    key = (dataset.fingerprint, normalise)
    if key not in _KEPT:
        made = _make_inputs(normalise, dataset)
        while len(_KEPT) >= _MOST_KEPT:
            _KEPT.pop(next(iter(_KEPT)))
        _KEPT[key] = made
    return _KEPT[key]


_Inputs = tuple[dict[str, Any], float, float]
_KEPT: dict[tuple[str, object], _Inputs] = {}
"""By fingerprint and normalisation: a process trains many packs on the same data, and a command reads a file often."""
_MOST_KEPT = 2


def _make_inputs(normalise: str | tuple[float, float], dataset: Dataset) -> _Inputs:
    images = {
        split: dataset.arrays[f"x_{split}"].reshape(len(dataset.arrays[f"x_{split}"]), -1)
        for split in ("train", "test")
    }
    scale, shift = scale_and_shift(normalise, images["train"])
    if images["train"].dtype.kind != "f":
        return images, scale, shift
    # Floats are normalised once and for all; uint8 stays what takes a quarter of the memory.
    return {split: normalised(rows, scale, shift) for split, rows in images.items()}, 1.0, 0.0
