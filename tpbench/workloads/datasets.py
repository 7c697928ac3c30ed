"""The arrays of data sets: checked and fingerprinted; and those of the digits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import TpbenchError
from tpbench.workloads.specs import DIGITS_TRAINING, DatasetSpec

Arrays = dict[str, NDArray[Any]]
"""``x_train``, ``y_train``, ``x_test``, ``y_test``, the layout that Keras made common. All uint8, but for a file of the
user's, whose images may be floats and whose labels are int64."""

ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")


def check_label_type(kind: np.dtype[Any], name: str, where: str) -> None:
    """Refuse labels that are no integers, and say how they become some.

    Raises:
        TpbenchError: they are of another type.
    """
    if kind.kind in "iu":
        return
    texts = {"U": name, "S": name, "O": f"{name}.astype(str)"}
    if kind.kind not in texts:
        raise TpbenchError(
            f"{where}: '{name}' must hold integers, got {kind}; '.astype(int)' makes whole numbers of it"
        )
    what = "Python objects, which are never loaded," if kind.kind == "O" else "text"
    raise TpbenchError(
        f"{where}: '{name}' holds {what} where labels are whole numbers (0, 1, ...): "
        f"'names, {name} = numpy.unique({texts[kind.kind]}, return_inverse=True)' makes them"
    )


def plain_labels(arrays: Mapping[str, NDArray[Any]], where: str) -> Arrays:
    """Labels of any integer type, flat or as a column (Keras writes both), as flat uint8; images stay as they are.

    Raises:
        TpbenchError: labels are no integers, or out of range.
    """
    plain = dict(arrays)
    for name in plain.keys() & {"y_train", "y_test"}:
        labels = plain[name]
        check_label_type(labels.dtype, name, where)
        for outlier in labels[(labels < 0) | (labels > 255)].flat[:1]:
            raise TpbenchError(f"{where}: '{name}' holds the label {outlier}, which no class has")
        column = labels.ndim == 2 and labels.shape[1] == 1
        plain[name] = (labels[:, 0] if column else labels).astype(np.uint8)
    return plain


def check_arrays(arrays: Arrays, spec: DatasetSpec, where: str) -> None:
    """Check names, types, shapes, labels and class counts.

    Raises:
        TpbenchError: the first thing that is wrong, with the place ``where``.
    """
    for name in ARRAY_NAMES:
        if name not in arrays:
            raise TpbenchError(
                f"{where}: the array '{name}' is missing; a Keras-style file has {', '.join(ARRAY_NAMES)}"
            )
        if arrays[name].dtype != np.uint8:
            raise TpbenchError(f"{where}: '{name}' must be uint8, got {arrays[name].dtype}")
    for split, counts in (("train", spec.train_counts), ("test", spec.test_counts)):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        expected = (sum(counts), *spec.image_shape)
        if images.shape != expected:
            raise TpbenchError(f"{where}: 'x_{split}' must have the shape {expected}, got {images.shape}")
        if labels.shape != expected[:1]:
            raise TpbenchError(f"{where}: 'y_{split}' must have the shape {expected[:1]}, got {labels.shape}")
        if labels.max() >= spec.classes:
            raise TpbenchError(f"{where}: 'y_{split}' holds the label {labels.max()}; there are {spec.classes} classes")
        found = tuple(np.bincount(labels, minlength=spec.classes).tolist())
        if found != counts:
            raise TpbenchError(f"{where}: 'y_{split}' has {found} samples per class, {spec.name} has {counts}")


def fingerprint(arrays: Arrays) -> str:
    """SHA-256 over names, types, shapes and bytes of the four arrays: what data a run was trained on."""
    digest = hashlib.sha256()
    for name in ARRAY_NAMES:
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def content_digest(arrays: Arrays) -> str:
    """SHA-256 of the set of labelled images of each split, whatever their order."""
    digest = hashlib.sha256()
    for split in ("train", "test"):
        images = arrays[f"x_{split}"].reshape(len(arrays[f"x_{split}"]), -1)
        rows = np.concatenate([images, arrays[f"y_{split}"][:, None]], axis=1)
        for sample in sorted(hashlib.sha256(row.data).digest() for row in rows):
            digest.update(sample)
    return digest.hexdigest()


def digits_arrays() -> Arrays:
    """scikit-learn's 1,797 images of 8 x 8 pixels in 0..16; a fixed fifth of them is the test set."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.data.astype(np.uint8), digits.target.astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:-DIGITS_TRAINING], order[-DIGITS_TRAINING:]
    return {"x_train": images[train], "y_train": labels[train], "x_test": images[test], "y_test": labels[test]}
