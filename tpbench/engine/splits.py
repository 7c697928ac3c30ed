"""Random splits that leave no class out of the training samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def loses_class(labels: NDArray[Any], kept: NDArray[Any]) -> bool:
    """Return whether a class has samples, and none among those that are kept.

    Args:
        labels: (N,) whole numbers from 0.
        kept: numbers of samples.
    """
    return bool((np.bincount(labels[kept], minlength=int(labels.max()) + 1) < (np.bincount(labels) > 0)).any())


def first_of_each_class(order: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Reorder samples so that any number of first ones has of each class its share, and the last of each come last.

    Args:
        order: (N,) the numbers of all samples in a random order, in which those of a class stay.
        labels: (N,) whole numbers from 0.

    Returns:
        The numbers in the new order. The first N minus the number of classes leave at least one sample of each class.
    """
    of_class = labels[order]
    sizes = np.bincount(labels)
    # Samples by class; in it, as they are ordered.
    by_class = np.argsort(of_class, kind="stable")
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(order), np.int64)
    rank[by_class] = np.arange(len(order)) - np.repeat(starts, sizes)
    share = (rank + 0.5) / sizes[of_class]
    share[rank == sizes[of_class] - 1] = np.inf
    return order[np.argsort(share, kind="stable")]
