"""The data cache: one checked ``.npz`` per data set, written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from tpbench.engine import TpbenchError, UsageError
from tpbench.engine.arrays import ArrayArchive
from tpbench.engine.errors import visible
from tpbench.engine.files import (
    atomic_write,
    check_name,
    is_regular_file,
    require_regular_file,
    user_cache,
    user_path,
)
from tpbench.workloads.datasets import (
    ARRAY_NAMES,
    DOWNLOADED,
    Arrays,
    check_arrays,
    check_label_type,
    choose_label,
    content_digest,
    digits_arrays,
    find_published,
    fingerprint,
    has_labels,
    plain_labels,
    published_files,
    read_published,
    stored_label,
)
from tpbench.workloads.downloads import PATIENCE, download_files, download_hosts
from tpbench.workloads.memory import available_memory
from tpbench.workloads.own_data import own_shape, read_own, stamp_of
from tpbench.workloads.workload import DatasetSpec, Shape, Workload, get_dataset


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, with the label and fingerprint that its results carry."""

    name: str
    arrays: Arrays = field(compare=False)
    fingerprint: str
    label: str
    """Empty for the exact data set; otherwise the kind of copy, such as ``JPEG copy``. The labels of copies of unknown
    content end in a digest."""
    source: str


def default_folder() -> Path:
    """Return ``$TPBENCH_DATA``, or ``data`` in tpbench's cache (:func:`tpbench.engine.files.user_cache`).

    Raises:
        TpbenchError: there is neither.
    """
    chosen = os.environ.get("TPBENCH_DATA")
    if chosen:
        return user_path(chosen)
    try:
        return user_cache() / "data"
    except TpbenchError as error:
        raise TpbenchError(f"{error}, or name the folder of the data sets with --data or TPBENCH_DATA") from error


def _remedy(spec: DatasetSpec) -> str:
    return (
        f"download it with 'tpbench data get {spec.name}', or take a Keras-style file or torchvision's folder with "
        f"'tpbench data import {spec.name} FILE.npz|FOLDER' (each with the same --data, if you give one)"
    )


def _read_npz(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Return the arrays of a Keras-style file, and the metadata of a cache file."""
    with ArrayArchive(path, available_memory()) as archive:
        names = [name for name in ARRAY_NAMES if name in archive.names]
        for name in {"y_train", "y_test"} & set(names):
            check_label_type(archive.header(name).dtype, name, str(path))
        arrays, meta = archive.read(names), {}
        if "tpbench" in archive.names:
            try:
                meta = dict(json.loads(str(archive.read(["tpbench"])["tpbench"])))
            except (ValueError, TypeError, RecursionError) as error:
                raise TpbenchError(f"{path}: damaged: its description is not a mapping") from error
    return plain_labels(arrays, str(path)), {str(k): str(v) for k, v in meta.items()}


def find(spec: DatasetSpec, folder: Path) -> Path | None:
    """Return the place of a data set in a folder; None where it is not there.

    It is a cache file, a Keras-style file of that name (``-`` or ``_``), or torchvision's folder or archive.
    """
    for stem in (spec.name, spec.name.replace("-", "_")):
        if is_regular_file(folder / f"{stem}.npz"):
            return folder / f"{stem}.npz"
    place = find_published(spec, folder)
    return None if place == folder and not spec.archive and not has_labels(spec, folder) else place


def has_files(name: str, folder: Path | None = None) -> bool:
    """Return whether a folder holds files of a data set, valid or damaged."""
    return find(get_dataset(name), data_folder(folder)) is not None


def load(name: str, folder: Path | None = None) -> Dataset:
    """Read a data set from the cache and check it.

    Example: ``load("mnist").arrays["x_train"].shape``

    Args:
        name: ``digits`` (ships with scikit-learn), ``mnist``, ``fashion-mnist`` or ``cifar10``.
        folder: the cache, or a folder that torchvision has filled; None: :func:`default_folder`.

    Raises:
        UsageError: there is no such data set.
        TpbenchError: it is not in the cache, or its file is damaged; the message names the file and the remedy.
    """
    if name == "digits":
        arrays = digits_arrays()
        return Dataset(name, arrays, fingerprint(arrays), "", "scikit-learn")
    spec, folder = get_dataset(name), data_folder(folder)
    path = find(spec, folder)
    if path is None:
        raise TpbenchError(f"data set '{name}' is not in {folder}: {_remedy(spec)}")
    try:
        arrays, meta, source = _read(spec, path)
        digest = fingerprint(arrays)
        if meta and meta.get("fingerprint") != digest:
            raise TpbenchError(f"{path}: damaged: its contents do not match its fingerprint")
        # The label in the file is no proof: any program can write one.
        label = stored_label(spec, content_digest(arrays), source, meta.get("label", ""))
    except MemoryError as error:
        raise TpbenchError(f"{path}: not enough memory to read it") from error
    except TpbenchError as error:
        raise TpbenchError(f"{error}; to mend it, {_remedy(spec)}") from error
    return Dataset(name, arrays, digest, label, source)


def data_folder(folder: Path | None) -> Path:
    """Return the folder of the data sets, after a check of its name; None: :func:`default_folder`.

    Raises:
        UsageError: no folder can have that name.
        TpbenchError: no folder is named, and there is no cache.
    """
    chosen = folder or default_folder()
    check_name(chosen, "--data" if folder else "TPBENCH_DATA")
    return chosen


def _read(spec: DatasetSpec, path: Path) -> tuple[Arrays, dict[str, str], str]:
    """Return the checked arrays at a place of :func:`find`, the metadata of a cache file, and the source."""
    meta: dict[str, str] = {}
    if path.suffix == ".npz":
        arrays, meta = _read_npz(path)
        source = meta.get("source", "file")
    else:
        arrays, source = read_published(spec, path)
    check_arrays(arrays, spec, str(path))
    return arrays, meta, source


def store(name: str, arrays: Arrays, folder: Path, source: str, label: str | None = None) -> Dataset:
    """Check arrays and publish them as the cache file of a data set, atomically.

    Args:
        name: the data set.
        arrays: its four arrays.
        folder: the cache.
        source: their origin, for the record.
        label: the kind of copy; None: by the contents.

    Raises:
        UsageError: the contents do not bear that label.
        TpbenchError: the arrays are not that data set, or the cache cannot be written.
    """
    spec = get_dataset(name)
    check_arrays(arrays, spec, source)
    label = choose_label(spec, content_digest(arrays), source, label)
    dataset = Dataset(name, arrays, fingerprint(arrays), label, source)
    meta = json.dumps({"fingerprint": dataset.fingerprint, "label": label, "source": source})
    with atomic_write(folder / f"{name}.npz") as file:
        np.savez(file, tpbench=np.array(meta), **arrays)  # type: ignore[arg-type]
    return dataset


def import_file(name: str, path: Path, folder: Path | None = None, label: str | None = None) -> Dataset:
    """Import a data set into the cache.

    Args:
        name: the data set.
        path: a Keras-style ``.npz`` file; or one of the files that its authors publish, or a folder that holds them
            as torchvision keeps them.
        folder: the cache.
        label: the kind of copy; None: by the contents.

    Raises:
        UsageError: there is no such file or data set, or its contents do not bear the label.
        TpbenchError: the file is damaged or is not that data set; the cache is left as it was.
    """
    spec = get_dataset(name)
    check_name(path, "FILE")
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder")
    place = find_published(spec, path)
    if path.is_dir() and not place:
        raise UsageError(
            f"{path}: this folder does not hold the files of {name} as torchvision keeps them "
            f"({published_files(spec)}); name torchvision's root folder, or a Keras-style .npz file"
        )
    if not place:
        require_regular_file(path)
    try:
        if place:
            arrays, source = read_published(spec, place)
        else:
            # The prefix keeps a file named "torchvision" from passing for a download.
            arrays, source = _read_npz(path)[0], f"file {path.name}"
        return store(name, arrays, data_folder(folder), source, label)
    except MemoryError as error:
        raise TpbenchError(f"{path}: not enough memory to read it") from error


@lru_cache(maxsize=2)
def _load_once(name: str, folder: Path | None) -> Dataset:
    return load(name, folder)


def load_for(workload: Workload, folder: Path | None = None) -> Dataset:
    """Return the data of a workload: a data set from the folder, or the user's file that the workload names.

    The label of a user's workload holds a digest of workload and data, so that a changed file makes another column of a
    table.

    Raises:
        TpbenchError: the data are missing or damaged, or are not those that the workload was made for.
    """
    own = workload.own_file
    dataset = _load_own(workload, own) if own else _load_once(workload.data, folder)
    if not workload.source:
        return dataset
    mark = hashlib.sha256(f"{workload.source} {dataset.fingerprint}".encode()).hexdigest()[:8]
    label = ", ".join(filter(None, (dataset.label, f"file {mark}")))
    return replace(dataset, label=label)


def _load_own(workload: Workload, path: Path) -> Dataset:
    if not is_regular_file(path):
        raise TpbenchError(
            f"{path}: the data of the workload '{workload.name}' are not there; every machine that trains must see the "
            "file under this path"
        )
    dataset = own_dataset(path, workload.test)
    shape = own_shape(path, dataset.arrays)
    # Flat rows have the image that the workload's file says; a fully connected network takes any.
    image = shape.image and workload.image
    expected = Shape(workload.data, workload.inputs, workload.outputs, workload.samples, image)
    if replace(shape, image=shape.image if image else None) != expected:
        raise TpbenchError(f"{path}: these are not the data that the workload '{workload.name}' was read with")
    return replace(dataset, name=workload.name)


def own_dataset(path: Path, test: float) -> Dataset:
    """Return the data of a user's file (:func:`tpbench.workloads.own_data.read_own`), read once while it is unchanged.

    Raises:
        TpbenchError: there is no such file, or an array in it is wrong.
    """
    return _read_own_once(path, test, stamp_of(path))


@lru_cache(maxsize=2)
def _read_own_once(path: Path, test: float, stamp: tuple[int, int, int]) -> Dataset:
    arrays = read_own(path, test)
    return Dataset(path.stem, arrays, fingerprint(arrays), "", f"file {path.name}")


def obtain(workload: Workload, folder: Path | None = None, *, offline: bool) -> None:
    """Download a workload's data set if it is not in the cache.

    Args:
        folder: as of :func:`load`.
        offline: do nothing; the error of :func:`load` then names the remedy.

    Raises:
        TpbenchError: the download failed; the cache is left as it was.
    """
    name = workload.data
    if name == "digits" or workload.own_file or offline:
        return
    if not find(get_dataset(name), data_folder(folder)):
        download(name, folder)


def download(name: str, folder: Path | None = None, patience: float = PATIENCE) -> Dataset:
    """Download a data set from torchvision's addresses into the cache, with a line on standard error.

    Args:
        patience: seconds that a server may take to answer, or to send the next bytes.

    Raises:
        TpbenchError: the download failed; the cache is left as it was.
    """
    if name == "digits":
        return load(name)
    spec, folder = get_dataset(name), data_folder(folder)
    print(
        f"downloading {name} ({spec.megabytes} MB) from {download_hosts(spec)} to {visible(str(folder))}",
        file=sys.stderr,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-download-") as root:
            started = time.monotonic()
            download_files(spec, Path(root), patience)
            print(f"{name}: downloaded in {time.monotonic() - started:.0f} s", file=sys.stderr)
            place = find_published(spec, Path(root))
            if place is None:
                raise TpbenchError(f"{name}: torchvision names other files than {published_files(spec)}")
            arrays, _ = read_published(spec, place)
            return store(name, arrays, folder, DOWNLOADED)
    except OSError as error:
        raise TpbenchError(
            f"{folder}: could not be written ({error.strerror or error}): choose another folder with --data or "
            "TPBENCH_DATA"
        ) from error
