"""``tpbench doctor``: the state of this installation, with a remedy for each fault."""

from __future__ import annotations

import importlib
import os
import platform
import shlex
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tpbench import __version__
from tpbench.engine import TpbenchError
from tpbench.engine.errors import format_bytes
from tpbench.results import RunStore
from tpbench.results.maintenance import check_store
from tpbench.results.runs import PREDICTIONS, RUNS
from tpbench.sweeps.jobs import check_jobs_address, cluster_version
from tpbench.sweeps.local_ray import default_folder as default_folder_of_ray
from tpbench.sweeps.local_ray import (
    fits_sockets,
    folder_variable,
    owner_of,
    short_parent,
    temporary_folder,
    unusable_reason,
)
from tpbench.training.devices import cpu_limit
from tpbench.workloads import DATASETS, default_folder, load
from tpbench.workloads.cache import has_files
from tpbench.workloads.memory import free_memory

# Name of a package for pip, the module that is imported, and its use. Without the other packages the command line does
# not start.
_PACKAGES = {
    "numpy": ("numpy", "everything needs it"),
    "pandas": ("pandas", "tables need it"),
    "scipy": ("scipy.stats", "tables need it"),
    "pyarrow": ("pyarrow", "exports and 'tpbench sweep' need it"),
    "matplotlib": ("matplotlib.figure", "plots and reports need it"),
    "torchvision": ("torchvision.datasets", "'tpbench data get' needs it"),
    "scikit-learn": ("sklearn.datasets", "the workload digits needs it"),
    "ray": ("ray.tune", "'tpbench sweep' needs it"),
    "hyperopt": ("hyperopt", "'tpbench sweep' needs it"),
}


@dataclass(frozen=True)
class Finding:
    """A part of the installation; ``remedy`` is empty where nothing is wrong."""

    subject: str
    state: str
    remedy: str = ""
    fatal: bool = False
    """True if sweeps cannot work, or are open to strangers, until it is mended."""


def examine(results: Path, data: Path | None, address: str | None = None) -> Iterator[Finding]:
    """Examine versions, devices, memory, the data cache, the store, Ray's authentication and a cluster."""
    yield Finding("python", platform.python_version())
    yield from _packages()
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    yield Finding("GPUs", ", ".join(names) or "none: packs train on the CPU")
    yield Finding("CPUs", str(cpu_limit()))
    free = free_memory("cpu")
    low = "a cifar10 ddtp-rhl pack of 10 needs about 3 GiB: choose a smaller --pack" if free < 3 * 2**30 else ""
    yield Finding("free memory", format_bytes(free), low)
    yield from _datasets(data)
    yield from _store(results)
    disabled = os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled"
    yield Finding(
        "Ray authentication",
        "switched off by RAY_AUTH_MODE" if disabled else "token",
        "unset RAY_AUTH_MODE: whoever reaches the cluster's ports can run code on it" if disabled else "",
    )
    yield from _token_file()
    yield _ray_folder()
    if address:
        yield from _cluster(address)


def _ray_folder() -> Finding:
    """Examine the place of Ray's folder: its name must be short, and this user must be able to write there."""
    parent = temporary_folder()
    if not fits_sockets(parent):
        short = short_parent()
        if short:
            return Finding("Ray's folder", f"{parent} has too long a name for sockets: one in {short} is used instead")
        remedy = "set RAY_TMPDIR to a folder with a short name that can be written"
        return Finding("Ray's folder", f"{parent} has too long a name for sockets", remedy, fatal=True)
    if why := unusable_reason(parent):
        return Finding("Ray's folder", parent, why, fatal=True)
    others = Path(default_folder_of_ray())
    if others.exists() and not os.access(others, os.W_OK | os.X_OK):
        remedy = f"sweeps do without it; for a Ray that you start yourself, set {folder_variable()} to another folder"
        return Finding("Ray's folder", f"in {parent}; {others} belongs to {owner_of(others)}", remedy)
    return Finding("Ray's folder", f"in {parent}")


def _token_file() -> Iterator[Finding]:
    """Examine who may read Ray's token: Ray writes it with the plain umask, and its readers can run code."""
    try:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        mode = path.stat().st_mode & 0o777
    except (OSError, RuntimeError):  # there is none, or no home
        return
    others = bool(mode & 0o077)
    yield Finding(
        "Ray's token",
        f"{path} (mode {mode:o})",
        f"others may read it and run code on the cluster: chmod 600 {path}, and make another token if they might have"
        if others
        else "",
    )


def _packages() -> Iterator[Finding]:
    yield Finding("tpbench", __version__)
    yield Finding("torch", version("torch"))
    for name, (module, reason) in _PACKAGES.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            yield Finding(name, "not installed", f"pip install {name} ({reason})", fatal=True)
            continue
        why = _import_error(module)
        broken = f"it cannot be imported ({why}): pip install --upgrade {name} ({reason})" if why else ""
        yield Finding(name, installed, broken, fatal=bool(why))


def _import_error(module: str) -> str:
    """Return the error of an import in a line; empty where it succeeds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a broken package does
        first = str(error).strip().partition("\n")[0]
        return f"{type(error).__name__}: {first}" if first else type(error).__name__
    return ""


def _datasets(data: Path | None) -> Iterator[Finding]:
    try:
        yield Finding("data folder", str(data or default_folder()))
    except TpbenchError as error:
        yield Finding("data folder", "none", str(error))
        return
    for name in DATASETS:
        try:
            yield Finding(f"data set {name}", load(name, data).label or "exact")
        except TpbenchError as error:
            yield Finding(f"data set {name}", "damaged" if has_files(name, data) else "not downloaded yet", str(error))


def _store(results: Path) -> Iterator[Finding]:
    store = RunStore(results)
    found = check_store(store, [PREDICTIONS])
    damaged = sum(len(check.wrong) - check.newer for check in found.values())
    newer = sum(check.newer for check in found.values())
    check = shlex.join(["tpbench", "results", "check", "--results", str(results)])
    remedy, fatal = f"the files to train again are named by: {check}" if damaged else "", False
    if newer:
        remedy = "; ".join(filter(None, ["update tpbench, which reads the others then", remedy]))
    if isinstance(results, Path):
        existing = next(folder for folder in (results, *results.resolve().parents) if folder.exists())
        if not os.access(existing, os.W_OK):
            remedy, fatal = f"{existing} cannot be written: choose another folder with --results", True
    noted = f", {newer} of a newer version" if newer else ""
    yield Finding(f"store {results}", f"{found[RUNS].valid} runs, {damaged} damaged files{noted}", remedy, fatal)


def _cluster(address: str) -> Iterator[Finding]:
    """Examine a cluster through its dashboard: authentication, exposure to the network, version."""
    from urllib.parse import urlsplit

    import requests

    check_jobs_address(address)
    try:
        # Without the token on purpose.
        stranger = requests.get(f"{address.rstrip('/')}/api/jobs/", timeout=10, allow_redirects=False)
    except requests.RequestException as error:
        yield Finding(f"cluster {address}", "cannot be reached", f"is it up? ({type(error).__name__})", fatal=True)
        return
    open_to_all = stranger.status_code not in (401, 403)
    yield Finding(
        f"cluster {address}",
        "runs without token authentication" if open_to_all else "asks for its token",
        "start its nodes with RAY_AUTH_MODE=token: whoever reaches its ports can run code on it" if open_to_all else "",
        fatal=open_to_all,
    )
    host = urlsplit(address).hostname or ""
    loopback = host == "localhost" or host.startswith("127.") or host == "::1"
    yield Finding(
        "its dashboard",
        "loopback" if loopback else f"reached at {host}",
        "" if loopback else "bind it to loopback (Ray's default) and reach it through 'ssh -L 8265:127.0.0.1:8265'",
    )
    try:
        theirs = cluster_version(address)
    except TpbenchError as error:
        yield Finding("its Ray", "unknown", str(error))
        return
    ours = version("ray")
    yield Finding("its Ray", theirs, "" if theirs == ours else f"this machine has {ours}: use the same on both")
