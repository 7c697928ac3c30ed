"""Workloads: data sets, their download, import and cache, preprocessing and splits. They know nothing of sweeps."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tpbench.engine.lazy import lazily
from tpbench.workloads.catalogue import WORKLOADS, Workload, get_workload

if TYPE_CHECKING:
    from tpbench.engine import Problem
    from tpbench.workloads.cache import Dataset, default_folder, download, import_file, load, obtain
    from tpbench.workloads.datasets import DATASETS

_CACHE = "tpbench.workloads.cache"

# Data sets need numpy, which a list of workloads does not.
__getattr__ = lazily(
    globals(),
    {
        "DATASETS": "tpbench.workloads.datasets",
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
    "default_folder",
    "download",
    "get_workload",
    "import_file",
    "load",
    "load_problem",
    "obtain",
]


@lru_cache(maxsize=2)
def _load_cached(name: str, folder: Path | None) -> Dataset:
    from tpbench.workloads.cache import load

    return load(name, folder)


def load_problem(workload: Workload, folder: Path | None = None) -> tuple[Problem, Dataset]:
    """A workload's problem for the engine, and the data set it was made from; a process reads each data set once."""
    import torch

    from tpbench.engine import Problem

    dataset = _load_cached(workload.dataset, folder)
    images = {
        split: dataset.arrays[f"x_{split}"].reshape(len(dataset.arrays[f"x_{split}"]), -1)
        for split in ("train", "test")
    }
    problem = Problem(
        workload.architecture,
        x_train=torch.from_numpy(images["train"]),
        y_train=torch.from_numpy(dataset.arrays["y_train"]).long(),
        x_test=torch.from_numpy(images["test"]),
        y_test=torch.from_numpy(dataset.arrays["y_test"]).long(),
        validation_size=workload.validation_size,
        batch_size=workload.batch_size,
        scale=workload.affine[0],
        shift=workload.affine[1],
        trained_layers=workload.trained_layers,
    )
    return problem, dataset
