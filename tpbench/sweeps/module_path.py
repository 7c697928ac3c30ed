"""The module path of Ray's workers: the driver's own, without its current folder.

Ray puts the driver's current folder in front of everything, so that a file ``torch.py`` there would be what its workers
import as torch, and a folder ``tpbench`` what they train with.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tpbench

# Where Ray describes the job that this process is, to the driver of a submitted one.
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class _Final(list[str]):
    """A list that Ray does not extend by the current folder and that of the script."""

    def extend(self, more: Iterable[str]) -> None:
        """Add nothing."""


def job_config(address: str | None) -> Any:
    """Return Ray's configuration of a job whose workers find modules where the driver does.

    Args:
        address: of the cluster; None: Ray is started on this machine. The nodes of a cluster have an installation of
            their own, so that only what lies outside the driver's is named to them.
    """
    from ray.job_config import JobConfig

    path = driver_path() if address is None else [entry for entry in driver_path() if not _is_installed(entry)]
    # The code of a submitted job comes with it.
    if _SUBMITTED in os.environ:
        path = []
    # Ray puts one after the other in front.
    config = JobConfig()
    config._py_driver_sys_path = _Final(reversed(path))
    return config


def driver_path() -> list[str]:
    """Return this process's module path without the current folder that Python puts in front of it.

    A current folder that the path names in another place stays there. So does the folder of tpbench itself, at the end
    if it was found in the current folder alone.
    """
    # Python passes over what is no text there.
    path = [entry for entry in sys.path if isinstance(entry, str)]
    if path and _is_current(path[0]):
        path = path[1:]
    path = [entry for entry in path if entry]
    own = Path(tpbench.__file__).resolve().parent.parent
    if not any(Path(entry).resolve() == own for entry in path):
        path.append(str(own))
    return path


def _is_current(entry: str) -> bool:
    try:
        return not entry or Path(entry).resolve() == Path.cwd().resolve()
    except OSError:  # the folder is gone
        return False


def _is_installed(entry: str) -> bool:
    """Whether an entry belongs to an installation of Python, of which a node has its own."""
    folders = {
        *sysconfig.get_paths().values(),
        *site.getsitepackages(),
        site.getusersitepackages(),
        sys.base_prefix,
        sys.prefix,
        sys.exec_prefix,
    }
    found = Path(entry).resolve()
    if not {"site-packages", "dist-packages"}.isdisjoint(found.parts):
        return True
    return any(found.is_relative_to(Path(folder).resolve()) for folder in folders)
