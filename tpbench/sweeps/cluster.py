"""Ray as a sweep uses it: resources, its start or a cluster, its environment and the module path of its workers."""

from __future__ import annotations

import importlib
import os
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import tpbench
from tpbench.engine import TpbenchError, UsageError
from tpbench.engine.startup import SPINS, wait_briefly
from tpbench.results.location import is_url
from tpbench.sweeps.local_ray import (
    SESSIONS,
    end_ray_processes,
    loopback_only,
    private_folder,
    require_loopback,
    warn_if_slow,
    write_token,
)
from tpbench.sweeps.nodes import nodes
from tpbench.training.console import install_interrupt_handlers
from tpbench.training.devices import usable_cpus

# Seconds without any place on a cluster after which a line says what a sweep waits for.
WAITING = 40.0


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs that a sweep may use, of this machine or of a cluster."""

    cpus: int
    gpus: int = 0
    packs_per_gpu: int = 1
    """Packs that share one GPU (:func:`tpbench.training.sizing.share_gpu`)."""
    address: str | None = None
    """Address of a running cluster; None: Ray is started on this machine for the length of the sweep."""
    node_cpus: int | None = None
    """CPU cores of the largest node of a cluster: no process can have more."""

    @property
    def concurrent(self) -> int:
        """Number of packs that train at once: some per GPU, or one per core."""
        return max(1, self.gpus * self.packs_per_gpu) if self.gpus else self.cpus

    @property
    def share(self) -> dict[str, float]:
        """Ray resources of one of the packs that train at once: ``cpu`` and, with GPUs, at most one ``gpu``."""
        concurrent = self.concurrent
        cpus = max(1, min(self.cpus // concurrent, self.node_cpus or self.cpus))
        if not self.gpus:
            return {"cpu": cpus}
        # The nodes with the GPUs may be those with few cores; a pack on a GPU hardly needs them.
        return {"cpu": 1 if self.address else cpus, "gpu": min(1.0, self.gpus / concurrent)}


def check_address(address: str | None) -> str | None:
    """Return a cluster's address if it is ``auto`` or ``HOST:PORT``.

    Raises:
        UsageError: it is none of these.
    """
    if address is None or address == "auto":
        return address
    match = re.fullmatch(r"([A-Za-z0-9.\-]+|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})", address)
    if not match or not 0 < int(match.group(2)) < 65536:
        outside = address.startswith(("http", "ray:"))
        hint = "; from outside a cluster, 'tpbench submit' takes its http://HEAD:8265" if outside else ""
        raise UsageError(f"write 'auto' or HOST:PORT{hint}", parameter="address", value=address)
    return address


def choose_resources(cpus: int | None, gpus: int | None, address: str | None) -> Resources:
    """Return the resources that were asked for. The rest is all of this machine, or is read from the cluster later.

    Raises:
        UsageError: there are fewer GPUs here, or the address is none.
    """
    if check_address(address):
        return Resources(cpus or 0, -1 if gpus is None else gpus, address=address)
    available = torch.cuda.device_count()
    if gpus and gpus > available:
        raise UsageError(f"torch sees {available} here", parameter="gpus", value=gpus)
    return Resources(cpus or usable_cpus(), available if gpus is None else gpus)


def require_cluster_path(folder: str, option: str = "--results") -> None:
    """Check the folder of a sweep whose driver runs on the cluster.

    Raises:
        UsageError: it depends on the folder of this process.
    """
    if not (is_url(folder) or Path(folder).is_absolute()):
        url = ", or a URL such as s3://bucket/folder" if option == "--results" else ""
        raise UsageError(
            f"{option} '{folder}': the sweep runs on the cluster, in a folder of its own; give an absolute path that "
            f"all its nodes share{url}"
        )


def first_sentence(error: Exception) -> str:
    """Return the first sentence of an exception: Ray's messages about tokens are whole paragraphs."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].strip() if lines else type(error).__name__


_VERSIONS = re.compile(r"Version mismatch:.*?Ray: (\S+)\s+Python: (\S+).*?Ray: (\S+)\s+Python: (\S+)", re.DOTALL)


def version_mismatch(error: Exception, address: str) -> str | None:
    """Return Ray's six lines about a cluster of other versions as one line; None if the error is another one."""
    match = _VERSIONS.search(str(error))
    if not match:
        return None
    ray, python, our_ray, our_python = match.groups()
    return (
        f"the cluster at {address} runs Ray {ray} with Python {python}, this machine Ray {our_ray} with Python "
        f"{our_python}: both must be the same, Python's last number too"
    )


def require_no_other_ray(resources: Resources) -> None:
    """Check that this process is not connected to a Ray already: it can have one alone.

    Raises:
        UsageError: it is connected, and the sweep needs a Ray of its own.
    """
    if resources.address or not _connected():
        return
    import ray

    if ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        return  # a task of a cluster
    raise UsageError(
        "this process is connected to Ray already: give --address auto to train on that Ray, or call ray.shutdown() "
        "first"
    )


@contextmanager
def ray_running(resources: Resources, say: Callable[[str], None] = print) -> Iterator[None]:
    """Start Ray, or connect to a cluster, for the length of a sweep. Token authentication stays as Ray sets it up.

    Args:
        resources: what it may use, or which cluster it is.
        say: shows a line about what takes long.

    Raises:
        UsageError: this process is connected to another Ray.
        TpbenchError: it cannot be started, or the cluster cannot be reached.
    """
    require_no_other_ray(resources)
    # The folder of a Ray that is started here, which is removed afterwards.
    own = nullcontext() if resources.address or _connected() else private_folder()
    with own as folder, ray_environment(write_token(folder) if folder else None):
        import ray

        if ray.is_initialized():  # that of whoever called, or inside a task of the cluster: not ours to end
            yield
            return
        try:
            _start(resources, folder, say)
            # Ray has taken SIGTERM for itself; it shall end the sweep as Ctrl-C does.
            install_interrupt_handlers()
            yield
        finally:
            # Where it did not start, processes may be left all the same.
            with end_ray_processes(folder) if folder else nullcontext():
                ray.shutdown()


def _start(resources: Resources, folder: Path | None, say: Callable[[str], None]) -> None:
    """Connect to the cluster, or start Ray for this machine alone, in that folder."""
    import ray

    if folder:
        require_loopback()
    try:
        with warn_if_slow(say):
            if folder:
                with loopback_only() as node_address:
                    # "local": a cluster that happens to run on this machine is not ours to use.
                    ray.init(
                        "local",
                        num_cpus=resources.cpus,
                        num_gpus=resources.gpus,
                        include_dashboard=False,
                        log_to_driver=False,
                        _temp_dir=str(folder / SESSIONS),
                        _node_ip_address=node_address,
                        job_config=job_config(None),
                    )
            else:
                ray.init(address=resources.address, log_to_driver=False, job_config=job_config(resources.address))
    except Exception as error:
        reason = first_sentence(error)
        if not resources.address:
            # An error of the system comes again. A time-out and a lost connection are of OSError's kinds too.
            final = isinstance(error, OSError) and not isinstance(error, (TimeoutError, ConnectionError))
            advice = "" if final else ". The machine may be busy: the same command or call goes on where it was"
            raise TpbenchError(f"Ray did not start: {reason}{advice}") from None
        if message := version_mismatch(error, resources.address):
            raise TpbenchError(message) from None
        raise TpbenchError(
            f"the cluster at {resources.address} could not be reached: {reason}. Is it up, and does this machine have "
            "its token ('ray get-auth-token' on the head prints it; put it into ~/.ray/auth_token here)?"
        ) from None


def cluster_resources(wanted: Resources) -> Resources:
    """Return the resources with those of the connected cluster where they are open (0 CPUs, -1 GPUs).

    A cluster that grows on demand has few nodes at first: there, ``--cpus`` and ``--gpus`` say what to plan for.
    """
    import ray

    has = ray.cluster_resources()
    cpus = wanted.cpus or int(has.get("CPU", 0))
    gpus = int(has.get("GPU", 0)) if wanted.gpus < 0 else wanted.gpus
    if not cpus:
        raise TpbenchError("the cluster has no CPUs yet; if it grows on demand, say how many to plan for with --cpus")
    largest = max((int(node["Resources"].get("CPU", 0)) for node in nodes()), default=0)
    return replace(wanted, cpus=cpus, gpus=gpus, node_cpus=largest or None)


def head_address() -> str:
    """Return the address of the connected cluster's head."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def format_waiting(share: Mapping[str, float], workers: int) -> str:
    """Return a line that no worker of a sweep has a place on the connected cluster, and how much of it is taken.

    Args:
        share: Ray resources of one worker (:attr:`Resources.share`).
        workers: how many of them wait.
    """
    import ray

    kind, name = ("GPU", "GPUs") if share.get("gpu") else ("CPU", "cores")
    has, free = (amounts.get(kind, 0) for amounts in (ray.cluster_resources(), ray.available_resources()))
    wanted = max(1.0, workers * share[kind.lower()])
    return (
        f"the sweep waits for {wanted:g} {name}: of the {has:g} of the cluster, {has - free:g} are held by others; it "
        "begins as soon as one is free"
    )


def warn_without_place(
    calls: Sequence[Any],
    share: Mapping[str, float],
    say: Callable[[str], None],
    begun: Callable[[], bool],
) -> None:
    """Wait for the first of several tasks of Ray's, and show a line if none of them has a place after a while.

    Args:
        calls: Ray's references to their results.
        share: Ray resources of each.
        say: shows the line.
        begun: tells whether one of them runs.
    """
    import ray

    done, _ = ray.wait(list(calls), timeout=WAITING)
    if not done and not begun():
        free = ray.available_resources()
        # Its process may be about to start: only where there is no place it waits.
        if any(free.get(kind.upper(), 0) < amount for kind, amount in share.items()):
            say(format_waiting(share, 1))


# The environment that Ray reads

# No loggers of Tune's own, and Ctrl-C reaches us.
_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Some versions of Tune import MLflow, where it is installed, and MLflow reports its use.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# Ray chooses this by itself where it starts a cluster, but not where it joins one.
_AUTHENTICATION = {"RAY_AUTH_MODE": "token"}
# Where a Ray finds its token: a local one has its own.
_TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
# What Ray itself sets when it starts and leaves behind.
_BY_RAY = ("RAY_USAGE_STATS_ENABLED", "PYTHONBREAKPOINT")
# Ray's processes need their docstrings, which 2 takes away. Without it they also find their modules compiled.
_OPTIMIZE = "PYTHONOPTIMIZE"


def prepare_environment() -> None:
    """Set the variables that Ray reads. Those that the user has set stay; so does a connected Ray."""
    wanted = _TUNE if _connected() else {**_TUNE, **_AUTHENTICATION}
    os.environ.update({name: os.environ.get(name, value) for name, value in wanted.items()})
    # For the workers of a Ray that is started now.
    wait_briefly()
    _read_again()


@contextmanager
def restored_environment(*names: str) -> Iterator[None]:
    """Restore environment variables at the end of a ``with`` block."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def ray_environment(token: Path | None = None) -> Iterator[None]:
    """Set the environment of a sweep (:func:`prepare_environment`), which may be one of several in its process.

    Args:
        token: the file with the token of a Ray that is started for it; None: it joins one.
    """
    try:
        with restored_environment(*_TUNE, *_AUTHENTICATION, *_TOKEN, *_BY_RAY, _OPTIMIZE, SPINS):
            if token:
                os.environ.pop("RAY_AUTH_TOKEN", None)
                os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
                if os.environ.get(_OPTIMIZE, "").strip() not in ("", "0", "1"):
                    del os.environ[_OPTIMIZE]
            prepare_environment()
            yield
    finally:
        _read_again()


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized())


def _read_again() -> None:
    """Let Ray read its authentication again: it does so when it is imported, and keeps the token.

    A Ray that is started now reads the environment: both must say the same, or they never find each other.
    """
    if "ray" in sys.modules and not _connected():
        core: Any = importlib.import_module("ray._raylet")
        core.Config.initialize("")  # as Ray itself does where it switches authentication on
        core.AuthenticationTokenLoader.instance().reset_cache()


# The module path of Ray's workers. Ray puts the driver's current folder in front of everything: a file ``torch.py``
# there would be what its workers import as torch, and a folder ``tpbench`` what they train with.

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
    if it lies in the current folder alone.
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
    """Return whether an entry belongs to an installation of Python, of which a node has its own."""
    folders = {
        *sysconfig.get_paths().values(),
        *site.getsitepackages(),
        site.getusersitepackages(),
        sys.base_prefix,
        sys.prefix,
        sys.exec_prefix,
    }
    path = Path(entry).resolve()
    if not {"site-packages", "dist-packages"}.isdisjoint(path.parts):
        return True
    return any(path.is_relative_to(Path(folder).resolve()) for folder in folders)
