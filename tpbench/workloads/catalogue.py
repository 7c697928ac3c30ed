"""All workloads: built in (section B.1), from installed packages, and from files of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tpbench.engine import UsageError, unknown
from tpbench.engine.files import is_regular_file, user_path
from tpbench.engine.parts import EXTRA, SLEEP, Convolution
from tpbench.engine.plugins import Registry
from tpbench.workloads.workload import SCHEDULES, Workload, known_shape

_VALIDATION_SIZE = 5000
"""Validation samples of every data set of the paper."""


def _built_in(title: str, name: str, data: str, hidden: Sequence[int], **settings: Any) -> Workload:
    shape = known_shape(data)
    assert shape
    settings = {"validation_size": _VALIDATION_SIZE, **settings}
    return Workload(
        name=name,
        title=title,
        data=data,
        samples=shape.training,
        inputs=shape.inputs,
        outputs=shape.outputs,
        hidden=tuple(hidden),
        image=shape.image if "convolutions" in settings else None,
        **settings,
    )


# Training on the digits. Their pixels are 0 to 16, which becomes 0 to 1.
_DIGITS: dict[str, Any] = {
    "random_hidden": 128,
    "normalise": (0.0, 16 / 255),
    "schedules": {**SCHEDULES, SLEEP: (2, 1), EXTRA: (4, 2)},
    "epochs": 30,
    "batch_size": 32,
    "validation_size": 240,
}

# Not in the paper: the network of its authors' later code, and their training for the table of training losses.
_CIFAR10_CONV = _built_in(
    "CIFAR10 (conv)",
    "cifar10-conv",
    "cifar10",
    [512],
    convolutions=(Convolution(32), Convolution(64)),
    random_hidden=2048,
    normalise=(0.5, 0.5),
    schedules={**SCHEDULES, SLEEP: (10, 1)},
    prune=(6, 0.75),
)

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        # Not in the paper: small enough to search on a laptop in a minute, and shipped with scikit-learn.
        _built_in(
            "Digits",
            "digits",
            "digits",
            [64] * 2,
            **_DIGITS,
        ),
        _built_in(
            "Digits (conv)",
            "digits-conv",
            "digits",
            [64],
            convolutions=(Convolution(8, kernel=3), Convolution(16, kernel=3)),
            **_DIGITS,
        ),
        _built_in("MNIST", "mnist", "mnist", [256] * 5, normalise=(0.1307, 0.3081)),
        # Not in the paper: network and schedule of Meulemans et al. 2021 (deep feedback control).
        _built_in(
            "MNIST (3x256)",
            "mnist-3x256",
            "mnist",
            [256] * 3,
            normalise=(0.1307, 0.3081),
            schedules={**SCHEDULES, SLEEP: (10, 2)},
        ),
        _built_in(
            "MNIST (frozen)",
            "mnist-frozen",
            "mnist",
            [256] * 5,
            normalise=(0.1307, 0.3081),
            trained_layers=(1,),
            schedules={**SCHEDULES, SLEEP: (10, 0)},
        ),
        _built_in("Fashion-MNIST", "fashion-mnist", "fashion-mnist", [256] * 5, normalise="unit"),
        _built_in(
            "CIFAR10",
            "cifar10",
            "cifar10",
            [1024] * 3,
            random_hidden=2048,
            normalise=(0.5, 0.5),
            schedules={**SCHEDULES, SLEEP: (10, 2)},
            prune=(6, 0.75),
        ),
        _CIFAR10_CONV,
        replace(
            _CIFAR10_CONV,
            name="cifar10-conv-loss",
            title="CIFAR10 (conv, all samples)",
            validation_size=0,
            epochs=300,
        ),
    )
}


def is_file(name: str) -> bool:
    """Return whether the name of a workload is that of a file."""
    return name.lower().endswith((".yaml", ".yml"))


def _read_plugin(name: str, value: object) -> Workload:
    if not isinstance(value, (str, Path)) or not is_file(str(value)):
        raise ValueError("is not the path of a .yaml file")
    workload = get_workload(str(value))
    if workload.name != name:
        raise ValueError(f"is a workload named '{workload.name}'")
    return workload


PLUGINS = Registry("tpbench.workloads", "workload", WORKLOADS, _read_plugin)
"""The workloads that installed packages add: each entry point is the path of a workload's file."""


def workload_names() -> list[str]:
    """Return the names of all workloads, the built-in ones first; reads none of the files."""
    return [*WORKLOADS, *PLUGINS.entries()]


def all_workloads() -> dict[str, Workload]:
    """Return the built-in workloads and those of installed packages; warns of a broken package on standard error."""
    return PLUGINS.all()


def get_workload(name: str) -> Workload:
    """Return the workload of that name, or of that file (``.yaml``, ``.yml``).

    Example: ``get_workload("mnist").architecture``

    Raises:
        UsageError: there is none, and the message names the nearest; or the file is wrong.
        TpbenchError: the installed package that adds it is broken.
    """
    if is_file(name):
        # A list of workloads needs neither pydantic nor numpy.
        from tpbench.workloads.declarations import read_workload

        return read_workload(user_path(name))
    if name in WORKLOADS:
        return WORKLOADS[name]
    if name not in PLUGINS.entries():
        if Path(name).suffix == ".npz" and is_regular_file(name):
            raise UsageError(f"'{name}' holds data; a workload is a .yaml file that names them (docs/your-own-data.md)")
        beside = [f"{name}{ending}" for ending in (".yaml", ".yml") if is_regular_file(f"{name}{ending}")]
        if beside:
            raise UsageError(f"unknown workload '{name}': a workload of your own is named by its file, {beside[0]}")
        raise unknown("workload", name, workload_names())
    return PLUGINS.load(name)
