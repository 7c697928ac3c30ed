"""Workloads: data sets, their download, import and cache, preprocessing and splits. They know nothing of sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tpbench.engine.startup import lazily
from tpbench.workloads.catalogue import WORKLOADS, all_workloads, get_workload, is_file, workload_names
from tpbench.workloads.specs import DATASETS
from tpbench.workloads.workload import Workload

if TYPE_CHECKING:
    from tpbench.engine import Problem
    from tpbench.workloads.cache import Dataset, default_folder, download, import_file, load, obtain

_CACHE = "tpbench.workloads.cache"

# Data sets need numpy, which a list of workloads does not.
__getattr__ = lazily(
    globals(),
    {
        "Dataset": _CACHE,
        "default_folder": _CACHE,
        "download": _CACHE,
        "import_file": _CACHE,
        "load": _CACHE,
        "obtain": _CACHE,
    },
)

__all__ = [
    "DATASETS",
    "WORKLOADS",
    "Dataset",
    "Workload",
    "all_workloads",
    "default_folder",
    "download",
    "get_workload",
    "import_file",
    "is_file",
    "load",
    "load_problem",
    "obtain",
    "workload_names",
]


def load_problem(workload: Workload, folder: Path | None = None) -> tuple[Problem, Dataset]:
    """A workload's problem for the engine, and the data set it was made from; a process reads each data set once.

    Raises:
        TpbenchError: the data are missing or damaged, or are not those that the workload was made for.
    """
    import torch

    from tpbench.engine import Problem
    from tpbench.workloads.cache import load_for
    from tpbench.workloads.normalising import inputs_of

    dataset = load_for(workload, folder)
    images, scale, shift = inputs_of(workload.normalise, dataset)
    problem = Problem(
        workload.architecture,
        x_train=torch.from_numpy(images["train"]),
        y_train=torch.from_numpy(dataset.arrays["y_train"]).long(),
        x_test=torch.from_numpy(images["test"]),
        y_test=torch.from_numpy(dataset.arrays["y_test"]).long(),
        validation_size=workload.validation_size,
        batch_size=workload.batch_size,
        scale=scale,
        shift=shift,
        trained_layers=workload.trained_layers,
        keeps_classes=workload.own_file is not None,
    )
    return problem, dataset
