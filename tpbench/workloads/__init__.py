"""Workloads: data sets, their download, import and cache, preprocessing and splits. They know nothing of sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpbench.engine.startup import lazily
from tpbench.workloads.catalogue import WORKLOADS, all_workloads, get_workload, is_file, workload_names
from tpbench.workloads.workload import DATASETS, Workload

if TYPE_CHECKING:
    from tpbench.workloads.cache import Dataset, default_folder, download, import_file, load, obtain
    from tpbench.workloads.problems import load_problem

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
        "load_problem": "tpbench.workloads.problems",
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
