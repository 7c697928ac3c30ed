"""The data cache: one checked ``.npz`` per data set, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
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
    chosen_label,
    content_digest,
    digits_arrays,
    find_published,
    fingerprint,
    has_labels,
    plain_labels,
    published_files,
    read_label,
    read_published,
)
from tpbench.workloads.downloads import PATIENCE, download_files, download_hosts
from tpbench.workloads.memory import available_memory
from tpbench.workloads.own_data import own_shape, read_own, stamp_of
from tpbench.workloads.workload import DatasetSpec, Shape, Workload, get_dataset


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, and what results made with it must say about it."""

    name: str
    arrays: Arrays
    fingerprint: str
    label: str
    """Empty for the exact data set; otherwise what kind of copy it is, such as ``JPEG copy``. Copies of unknown content
    are told apart by its digest."""
    source: str


def default_folder() -> Path:
    """``$TPBENCH_DATA``, or ``data`` in tpbench's cache (:func:`tpbench.engine.files.user_cache`).

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


def _mend(spec: DatasetSpec) -> str:
    return (
        f"download it with 'tpbench data get {spec.name}', or take a Keras-style file or torchvision's folder with "
        f"'tpbench data import {spec.name} FILE.npz|FOLDER' (each with the same --data, if you give one)"
    )


def _read_npz(path: Path) -> tuple[Arrays, dict[str, str]]:
    """The arrays of a Keras-style file, and what tpbench wrote beside them if it is a cache file."""
    with ArrayArchive(path, available_memory()) as archive:
        names = [name for name in ARRAY_NAMES if name in archive.names]
        for name in {"y_train", "y_test"} & set(names):
            check_label_type(archive.header(name).dtype, name, str(path))
        found, meta = archive.read(names), {}
        if "tpbench" in archive.names:
            try:
                meta = dict(json.loads(str(archive.read(["tpbench"])["tpbench"])))
            except (ValueError, TypeError, RecursionError) as error:
                raise TpbenchError(f"{path}: damaged: its description is not a mapping") from error
    return plain_labels(found, str(path)), {str(k): str(v) for k, v in meta.items()}


def find(spec: DatasetSpec, folder: Path) -> Path | None:
    """The data set's files in a folder: a cache file, a Keras-style file of that name (``-`` or ``_``), or those that
    torchvision keeps there."""
    for stem in (spec.name, spec.name.replace("-", "_")):
        if is_regular_file(folder / f"{stem}.npz"):
            return folder / f"{stem}.npz"
    found = find_published(spec, folder)
    return None if found == folder and not spec.archive and not has_labels(spec, folder) else found


def is_there(name: str, folder: Path | None = None) -> bool:
    """Return whether a folder holds files of a data set, whole or damaged."""
    return find(get_dataset(name), checked_folder(folder)) is not None


def load(name: str, folder: Path | None = None) -> Dataset:
    """A data set, read from the cache and checked.

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
    spec, folder = get_dataset(name), checked_folder(folder)
    path = find(spec, folder)
    if path is None:
        raise TpbenchError(f"data set '{name}' is not in {folder}: {_mend(spec)}")
    try:
        arrays, meta, source = _read(spec, path)
        found = fingerprint(arrays)
        if meta and meta.get("fingerprint") != found:
            raise TpbenchError(f"{path}: damaged: its contents do not match its fingerprint")
        # What is written there is no proof: anybody can write it.
        label = read_label(spec, content_digest(arrays), source, meta.get("label", ""))
    except MemoryError as error:
        raise TpbenchError(f"{path}: not enough memory to read it") from error
    except TpbenchError as error:
        raise TpbenchError(f"{error}; to mend it, {_mend(spec)}") from error
    return Dataset(name, arrays, found, label, source)


def checked_folder(folder: Path | None) -> Path:
    """The folder of the data sets, if a folder can have that name; None: :func:`default_folder`.

    Raises:
        UsageError: none can.
        TpbenchError: none is named, and there is no cache.
    """
    chosen = folder or default_folder()
    check_name(chosen, "--data" if folder else "TPBENCH_DATA")
    return chosen


def _read(spec: DatasetSpec, path: Path) -> tuple[Arrays, dict[str, str], str]:
    """The checked arrays of what :func:`find` found, what tpbench wrote beside them, and where they come from."""
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
        source: where they came from, for the record.
        label: what kind of copy it is; None: found out from the contents.

    Raises:
        UsageError: the contents do not bear that label.
        TpbenchError: the arrays are not that data set, or the cache cannot be written.
    """
    spec = get_dataset(name)
    check_arrays(arrays, spec, source)
    label = chosen_label(spec, content_digest(arrays), source, label)
    dataset = Dataset(name, arrays, fingerprint(arrays), label, source)
    meta = json.dumps({"fingerprint": dataset.fingerprint, "label": label, "source": source})
    with atomic_write(folder / f"{name}.npz") as file:
        np.savez(file, tpbench=np.array(meta), **arrays)  # type: ignore[arg-type]
    return dataset


def import_file(name: str, path: Path, folder: Path | None = None, label: str | None = None) -> Dataset:
    """Take a data set into the cache.

    Args:
        name: the data set.
        path: a Keras-style ``.npz`` file; or one of the files that its authors publish, or a folder that holds them
            as torchvision keeps them.
        folder: the cache.
        label: what kind of copy it is; None: found out from the contents.

    Raises:
        UsageError: there is no such file or data set, or its contents do not bear the label.
        TpbenchError: the file is damaged or is not that data set; the cache is left as it was.
    """
    spec = get_dataset(name)
    check_name(path, "FILE")
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder")
    found = find_published(spec, path)
    if path.is_dir() and not found:
        raise UsageError(
            f"{path}: this folder does not hold the files of {name} as torchvision keeps them "
            f"({published_files(spec)}); name the folder that torchvision was told, or a Keras-style .npz file"
        )
    if not found:
        require_regular_file(path)
    try:
        if found:
            arrays, source = read_published(spec, found)
        else:
            # A source that no file's name can make another one.
            arrays, source = _read_npz(path)[0], f"file {path.name}"
        return store(name, arrays, checked_folder(folder), source, label)
    except MemoryError as error:
        raise TpbenchError(f"{path}: not enough memory to read it") from error


@lru_cache(maxsize=2)
def _load_once(name: str, folder: Path | None) -> Dataset:
    return load(name, folder)


def load_for(workload: Workload, folder: Path | None = None) -> Dataset:
    """The data of a workload: of a data set from the folder, or of a file of the user's from where the workload says.

    Runs on a workload of the user's are labelled by what the workload and the data are, so that a changed file makes
    another column of a table.

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
    wanted = Shape(workload.data, workload.inputs, workload.outputs, workload.samples)
    if own_shape(path, dataset.arrays) != wanted:
        raise TpbenchError(f"{path}: these are not the data that the workload '{workload.name}' was read with")
    return replace(dataset, name=workload.name)


def own_dataset(path: Path, test: float) -> Dataset:
    """The data of a file of the user's (:func:`tpbench.workloads.own_data.read_own`), read once while it is unchanged.

    Raises:
        TpbenchError: there is no such file, or something in it is not as it must be.
    """
    return _read_own_once(path, test, stamp_of(path))


@lru_cache(maxsize=2)
def _read_own_once(path: Path, test: float, stamp: tuple[int, int]) -> Dataset:
    arrays = read_own(path, test)
    return Dataset(path.stem, arrays, fingerprint(arrays), "", f"file {path.name}")


def obtain(workload: Workload, folder: Path | None = None, *, offline: bool) -> None:
    """Download a workload's data set if it is not in the cache.

    Args:
        folder: as of :func:`load`.
        offline: do nothing; :func:`load` then says how to get it.

    Raises:
        TpbenchError: the download failed; the cache is left as it was.
    """
    name = workload.data
    if name == "digits" or workload.own_file or offline:
        return
    if not find(get_dataset(name), checked_folder(folder)):
        download(name, folder)


def download(name: str, folder: Path | None = None, patience: float = PATIENCE) -> Dataset:
    """Download a data set from where torchvision has it into the cache, and tell of it on standard error.

    Args:
        patience: seconds that a server may take to answer, or to send the next bytes.

    Raises:
        TpbenchError: the download failed; the cache is left as it was.
    """
    if name == "digits":
        return load(name)
    spec, folder = get_dataset(name), checked_folder(folder)
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
