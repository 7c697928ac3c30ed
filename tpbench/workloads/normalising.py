"""How stored numbers become a network's inputs: one scale and one shift for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import TpbenchError


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
        lowest, highest = (0.0, 255.0) if whole else (float(stored.min()), float(stored.max()))
        mean, deviation = lowest, highest - lowest
    else:
        mean, deviation = float(stored.mean(dtype=np.float64)), float(stored.std(dtype=np.float64))
    if not deviation > 0:
        raise TpbenchError(f"all numbers of the training images are {mean:g}, so they cannot be normalised")
    return 1 / deviation, -mean / deviation
