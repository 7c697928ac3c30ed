"""Data sets: their arrays, checks and fingerprints, the labels of copies, and the files that their authors publish."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import unicodedata
import zlib
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import TpbenchError, UsageError
from tpbench.engine.errors import reason_of
from tpbench.engine.files import is_regular_file
from tpbench.workloads.workload import DATASETS, DIGITS_TRAINING, DatasetSpec

Arrays = dict[str, NDArray[Any]]
"""``x_train``, ``y_train``, ``x_test``, ``y_test``, the layout that Keras made common. All are uint8; in a
user's own file images may be floats, and labels are int64."""

ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")


def check_label_type(kind: np.dtype[Any], name: str, where: str) -> None:
    """Refuse labels that are no integers, with a recipe that makes integers of them.

    Raises:
        TpbenchError: the labels are of another type.
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
    """Turn labels of any integer type, flat or as a column (Keras writes both), into flat uint8; keep the images.

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
    """Check the names, types, shapes, labels and class counts of a data set's arrays.

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
        present = tuple(np.bincount(labels, minlength=spec.classes).tolist())
        if present != counts:
            raise TpbenchError(f"{where}: 'y_{split}' has {present} samples per class, {spec.name} has {counts}")


def fingerprint(arrays: Arrays) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of the four arrays, which identifies the data of a run."""
    digest = hashlib.sha256()
    for name in ARRAY_NAMES:
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def content_digest(arrays: Arrays) -> str:
    """Return the SHA-256 of the set of labelled images of each split; their order does not change it."""
    digest = hashlib.sha256()
    for split in ("train", "test"):
        images = arrays[f"x_{split}"].reshape(len(arrays[f"x_{split}"]), -1)
        rows = np.concatenate([images, arrays[f"y_{split}"][:, None]], axis=1)
        for sample in sorted(hashlib.sha256(row.data).digest() for row in rows):
            digest.update(sample)
    return digest.hexdigest()


def digits_arrays() -> Arrays:
    """Return scikit-learn's 1,797 images of 8 x 8 pixels in 0..16; a fixed fifth of them is the test set."""
    # Its file alone: to import scikit-learn takes most of a second in every process.
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise TpbenchError("the workload digits needs scikit-learn: pip install scikit-learn")
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    try:
        samples = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except (OSError, ValueError) as error:
        raise TpbenchError(
            f"the digits of this scikit-learn cannot be read ({reason_of(error)}); install it again: "
            "pip install --force-reinstall scikit-learn"
        ) from error
    images, labels = samples[:, :-1], samples[:, -1]
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:-DIGITS_TRAINING], order[-DIGITS_TRAINING:]
    return {"x_train": images[train], "y_train": labels[train], "x_test": images[test], "y_test": labels[test]}


# --- labels of copies: the content decides, people only add to it ---


DOWNLOADED = "torchvision"
"""The source of the files that torchvision downloads, checked by their MD5 sums; no imported file gets it."""
_UNVERIFIED = "unverified copy"
_MAX_LABEL = 40


def choose_label(spec: DatasetSpec, digest: str, source: str, wanted: str | None) -> str:
    """Return the label of an imported copy of a data set; empty for the exact one.

    Args:
        spec: the data set.
        digest: of the copy's content (:func:`content_digest`).
        source: the copy's origin.
        wanted: the user's label; None: by the content alone.

    Raises:
        UsageError: the content decides on another label, or no label can be so.
    """
    known = _known_label(spec, digest, source)
    if known is None:
        label = _UNVERIFIED if wanted is None else wanted.strip(" ").removesuffix(_mark(digest))
        if problem := _problem(label):
            raise UsageError(f"--label '{_printable(label)}': {problem}")
        return label + _mark(digest)
    if wanted is not None and (_normal(wanted) or "exact") != (_normal(known) or "exact"):
        what = "the exact data set, which needs no label" if not known else f"the {known}, and is labelled so"
        raise UsageError(f"--label '{_printable(wanted)}': by its content this is {what}")
    return known


def stored_label(spec: DatasetSpec, digest: str, source: str, written: str) -> str:
    """Return the label of a file in the data folder; the label ``written`` in it counts only for unknown content."""
    known = _known_label(spec, digest, source)
    if known is not None:
        return known
    label = written.removesuffix(_mark(digest))
    return (_UNVERIFIED if _problem(label) else label) + _mark(digest)


def _mark(digest: str) -> str:
    """Return the end of a label, which differs between copies of different content."""
    return f" {digest[:8]}"


def _known_label(spec: DatasetSpec, digest: str, source: str) -> str | None:
    """Return the label that the content alone decides: empty if exact, None if the content is unknown."""
    for known, label in spec.known_copies:
        if digest == known:
            return label
    if digest == spec.content or (spec.content is None and source == DOWNLOADED):
        return ""
    return None


def _problem(label: str) -> str:
    """Return the reason why a copy of unknown content cannot have a label; empty if it can."""
    reserved = {"", "exact", *(_normal(known) for spec in DATASETS.values() for _, known in spec.known_copies)}
    if not label.isprintable():
        return "a label is printable text"
    if len(label) > _MAX_LABEL:
        return f"a label has at most {_MAX_LABEL} characters"
    if _normal(label) in reserved or _normal(label).split(" ")[0] == "exact":
        return "the content of the file decides that, and these are other data"
    return ""


def _normal(label: str) -> str:
    """Return a label without differences of case, blanks or width."""
    return " ".join(unicodedata.normalize("NFKC", label).split()).casefold()


def _printable(label: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in label)[: 2 * _MAX_LABEL]


# --- published files: MNIST's IDX files, CIFAR-10's batches ---


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
        place: torchvision's root folder, one below it, or one of the files.

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
    # Fashion-MNIST's files have the same names; the folder tells the two apart.
    other = {"MNIST", "FashionMNIST"} - {str(spec.torchvision_name)}
    return next((f for f in folders if _idx_files(f) and not other & set(f.absolute().parts[-2:])), None)


def has_labels(spec: DatasetSpec, folder: Path) -> bool:
    """Return whether the labels in a folder of IDX files are those of the data set, or cannot be read.

    Several data sets have files of the same names; in a folder that no name tells apart, the labels do.
    """
    try:
        labels = _read_idx(_idx_files(folder)["y_train"], (sum(spec.train_counts),), spec.name)
    except (KeyError, TpbenchError, OSError, EOFError, zlib.error):
        return True  # the error follows when the file is read
    return tuple(np.bincount(labels, minlength=len(spec.train_counts)).tolist()) == tuple(spec.train_counts)


def read_published(spec: DatasetSpec, place: Path) -> tuple[Arrays, str]:
    """Read the files of a data set.

    Args:
        place: as :func:`find_published` returns it.

    Returns:
        The arrays, and their source: :data:`tpbench.workloads.datasets.DOWNLOADED` where MD5 sums show that they are
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
    """Return the four files by array, plain or as ``.gz``; empty if one is missing."""
    places = ((array, folder / f"{name}{ending}") for array, name in _IDX.items() for ending in (".gz", ""))
    files = {array: path for array, path in places if is_regular_file(path)}
    return files if len(files) == len(_IDX) else {}


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
    """Reads a pickled dictionary of arrays and lists; imports and calls nothing but numpy's array constructors."""

    _ALLOWED = {  # noqa: RUF012 (a constant)
        **{(f"numpy.{core}.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0] for core in ("core", "_core")},
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._ALLOWED[module, name]


def _read_batches(spec: DatasetSpec, place: Path) -> Arrays:
    """Read CIFAR-10's batches: pickles, which are opened only if their MD5 sums are the published ones."""
    images, labels = [], []
    for (name, wanted), content in zip(spec.batches, _batch_contents(spec, place), strict=True):
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if wanted and digest != wanted:
            raise TpbenchError(
                f"{place}: '{name}' is not the file that the authors of {spec.name} publish (its MD5 sum is "
                f"{digest[:8]}..., theirs {wanted[:8]}...); of other images, import an .npz file"
            )
        try:
            batch = _BatchReader(io.BytesIO(content), encoding="latin1").load()
            rows = np.asarray(batch["data"], np.uint8).reshape(-1, spec.image_shape[-1], *spec.image_shape[:-1])
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


def _batch_contents(spec: DatasetSpec, place: Path) -> list[bytes]:
    if place.is_dir():
        # A file that is larger than a batch has another sum; a device file has no end.
        limit = 2 * sum(spec.train_counts) * prod(spec.image_shape)
        return [_read_at_most(place / name, limit) for name, _ in spec.batches]
    archive, wanted = spec.archive or ("", "")
    if wanted and md5(place) != wanted:
        raise TpbenchError(f"{place}: damaged: its MD5 sum is not that of the published {archive}")
    contents = []
    with tarfile.open(place) as tar:
        for name, _ in spec.batches:
            member = None
            with suppress(KeyError):
                member = tar.extractfile(f"{_BATCH_FOLDER}/{name}")
            if member is None:
                raise TpbenchError(f"{place}: holds no {_BATCH_FOLDER}/{name}")
            contents.append(member.read())
    return contents


def _read_at_most(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)
