"""Workloads from YAML files of the user's."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from pathlib import Path

import numpy as np

from tpbench.engine import TpbenchError, UsageError, unknown
from tpbench.engine.errors import shown
from tpbench.engine.files import user_path
from tpbench.engine.splits import loses_class
from tpbench.workloads.cache import load_for, own_dataset
from tpbench.workloads.catalogue import is_file
from tpbench.workloads.declaration import declared
from tpbench.workloads.normalising import inputs_of
from tpbench.workloads.own_data import own_shape
from tpbench.workloads.reading import YamlReader
from tpbench.workloads.specs import DATASETS, Shape
from tpbench.workloads.workload import Workload

_RESERVED = ("all", "exact")
_RULES: dict[tuple[str, int, int], str] = {}
"""What :func:`split_rule` found, by fingerprint, validation samples and seed."""
KNOWN = ("digits", *DATASETS)


def read_declaration(path: Path, taken: Container[str], find: Callable[[str], Workload]) -> Workload:
    """A workload from a file.

    Args:
        path: of the YAML file; the data that it names lie beside it, or at an absolute path.
        taken: names of the built-in workloads.
        find: the workload of a name, for ``like``.

    Raises:
        UsageError: what is wrong with the file or with its data, with file and line.
    """
    reader = YamlReader(path)
    root = reader.compose()
    parts = reader.mapping(root, "a workload")
    values = {key: reader.plain(value) for key, (_, value) in parts.items()}

    def place(key: str) -> str:
        """Of a key that is not written its value comes from what the workload is like, or belongs to the data."""
        written = next((k for k in (key, "like", "data") if k in parts), None)
        return f"{path}:{parts[written][0].start_mark.line + 1 if written else 1}"

    def shape_of(data: str, test: float) -> Shape:
        try:
            # Not resolved: a link may be what all machines of a cluster have in common.
            file = Path(os.path.abspath(path.parent / user_path(data)))  # noqa: PTH100
        except TpbenchError as error:
            raise UsageError(f"{place('data')}: {error}") from error
        if file.suffix != ".npz":
            raise UsageError(
                f"{place('data')}: data must be an .npz file or a data set: {unknown('data set', data, KNOWN)}"
            )
        try:
            return own_shape(file, own_dataset(file, test).arrays)
        except TpbenchError as error:
            raise UsageError(f"{place('data')}: {error}") from error

    name = values.get("name")
    if isinstance(name, str) and (name in taken or name in _RESERVED):
        raise UsageError(f"{place('name')}: the name '{name}' is taken; a workload of your own needs another")
    workload = declared(values, place, base=_base(values.get("like"), place, find), shape_of=shape_of)
    if workload.own_file:
        try:
            dataset = load_for(workload)
            inputs_of(workload.normalise, dataset)
        except TpbenchError as error:
            raise UsageError(f"{place('normalise')}: {error}") from error
        labels = dataset.arrays["y_train"]
        classes = np.count_nonzero(np.bincount(labels))
        if workload.validation_size > len(labels) - classes:
            raise UsageError(
                f"{place('validation_size')}: {workload.validation_size} validation samples of {len(labels)} leave "
                f"too few to train on for {classes} classes"
            )
    return workload


BY_CLASS = "by class"
"""How the validation samples of a seed are drawn whose random ones would be all samples of a class."""


def split_rule(workload: Workload, seed: int) -> str:
    """Return how a seed's validation samples are drawn: :data:`BY_CLASS`, or empty for at random.

    Only of a user's own data they may be drawn by class (:attr:`tpbench.engine.Problem.keeps_classes`).

    Raises:
        TpbenchError: the data are missing or damaged.
    """
    if not workload.own_file:
        return ""
    dataset = load_for(workload)
    key = dataset.fingerprint, workload.validation_size, seed
    if key not in _RULES:
        import torch

        from tpbench.engine.network import stream

        labels = dataset.arrays["y_train"]
        order = torch.randperm(len(labels), generator=stream(seed, "split"))
        lost = loses_class(labels, order[workload.validation_size :].numpy())
        _RULES[key] = BY_CLASS if lost else ""
    return _RULES[key]


def _base(like: object, place: Callable[[str], str], find: Callable[[str], Workload]) -> Workload | None:
    if like is None:
        return None
    try:
        if not isinstance(like, str) or is_file(like):
            raise UsageError(f"like must name a workload, such as mnist, got {shown(like)}")
        return find(like)
    except TpbenchError as error:
        raise UsageError(f"{place('like')}: {error}") from error
