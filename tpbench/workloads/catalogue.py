"""The workloads there are: built in, from installed packages, and from files of the user's (section B.1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpbench.engine import UsageError, unknown
from tpbench.engine.files import is_regular_file, user_path
from tpbench.engine.plugins import Registry
from tpbench.workloads.declaration import declared
from tpbench.workloads.workload import Workload

_MNIST_NETWORK = {"network": [256] * 5, "random_hidden": 1024}

_BUILT_IN: dict[str, dict[str, Any]] = {
    # Not in the paper: small enough to search on a laptop in a minute, and shipped with scikit-learn. Its pixels are 0
    # to 16, which becomes 0 to 1.
    "Digits": {
        "name": "digits",
        "data": "digits",
        "network": [64, 64],
        "random_hidden": 128,
        "normalise": [0.0, 16 / 255],
        "feedback_epochs": {"sleep": [2, 1], "extra": [4, 2]},
        "epochs": 30,
        "batch_size": 32,
        "validation_size": 240,
    },
    "MNIST": {"name": "mnist", "data": "mnist", **_MNIST_NETWORK, "normalise": [0.1307, 0.3081]},
    "MNIST (frozen)": {
        "name": "mnist-frozen",
        "data": "mnist",
        **_MNIST_NETWORK,
        "normalise": [0.1307, 0.3081],
        "trained_layers": [1],
        "feedback_epochs": {"sleep": [10, 0]},
    },
    "Fashion-MNIST": {"name": "fashion-mnist", "data": "fashion-mnist", **_MNIST_NETWORK, "normalise": "unit"},
    "CIFAR10": {
        "name": "cifar10",
        "data": "cifar10",
        "network": [1024] * 3,
        "random_hidden": 2048,
        "normalise": [0.5, 0.5],
        "feedback_epochs": {"sleep": [10, 2]},
        "prune": [6, 0.75],
    },
}


def _built_in(title: str, values: Mapping[str, Any]) -> Workload:
    # The paper's: 5,000 samples of every data set.
    return declared({"validation_size": 5000, **values}, lambda _: f"built-in workload {title}", title=title)


WORKLOADS: dict[str, Workload] = {str(values["name"]): _built_in(title, values) for title, values in _BUILT_IN.items()}


def is_file(name: str) -> bool:
    """Whether the name of a workload is that of a file."""
    return name.lower().endswith((".yaml", ".yml"))


def _read_plugin(name: str, found: object) -> Workload:
    if not isinstance(found, (str, Path)) or not is_file(str(found)):
        raise ValueError("is not the path of a .yaml file")
    workload = read_workload(Path(found))
    if workload.name != name:
        raise ValueError(f"is a workload named '{workload.name}'")
    return workload


PLUGINS = Registry("tpbench.workloads", "workload", WORKLOADS, _read_plugin)
"""The workloads that installed packages add: each entry point is the path of a workload's file."""


def read_workload(path: Path) -> Workload:
    """A workload from a file of the user's (docs/your-own-data.md).

    Raises:
        UsageError: with file and line: what is wrong with it, or with the data that it names.
    """
    from tpbench.workloads.files import read_declaration

    return read_declaration(path, WORKLOADS, get_workload)


def workload_names() -> list[str]:
    """The names of all workloads, the built-in ones first; reads none of the files."""
    return [*WORKLOADS, *PLUGINS.entries()]


def all_workloads() -> dict[str, Workload]:
    """The built-in workloads and those that installed packages add.

    Of a package that is broken a line on standard error tells.
    """
    return PLUGINS.all()


def get_workload(name: str) -> Workload:
    """The workload of that name, or of that file (``.yaml``, ``.yml``).

    Raises:
        UsageError: there is none, and the message names the nearest; or the file is wrong.
        TpbenchError: it is that of an installed package, which is broken.
    """
    if is_file(name):
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
