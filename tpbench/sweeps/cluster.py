"""Ray as a sweep uses it: started on this machine, or a cluster that is there; and what must be true of its nodes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tpbench.engine import TpbenchError, UsageError
from tpbench.results.location import is_url
from tpbench.sweeps.environment import ray_environment
from tpbench.sweeps.local_ray import (
    SESSIONS,
    ended_with_its_processes,
    impatient,
    loopback_only,
    private_folder,
    require_loopback,
    write_token,
)
from tpbench.sweeps.module_path import job_config
from tpbench.sweeps.nodes import nodes
from tpbench.training.console import install_interrupt_handlers
from tpbench.training.devices import usable_cpus

# Seconds without any place on a cluster after which a person wants to know what a sweep waits for.
WAITING = 40.0


@dataclass(frozen=True)
class Resources:
    """What a sweep may use, of this machine or of a cluster."""

    cpus: int
    gpus: int = 0
    packs_per_gpu: int = 1
    """Packs that share one GPU (:func:`tpbench.training.sizing.share_gpu`)."""
    address: str | None = None
    """Of a running cluster; None: Ray is started on this machine for the length of the sweep."""
    node_cpus: int | None = None
    """CPU cores of the largest node of a cluster: no process can have more."""

    @property
    def concurrent(self) -> int:
        """Packs that train at once: some per GPU, or one per core."""
        return max(1, self.gpus * self.packs_per_gpu) if self.gpus else self.cpus

    def per_pack(self, concurrent: int) -> dict[str, float]:
        """Ray resources of one pack when so many train at once; never more than one GPU."""
        cpus = max(1, min(self.cpus // concurrent, self.node_cpus or self.cpus))
        if not self.gpus:
            return {"cpu": cpus}
        # The nodes with the GPUs may be those with few cores; a pack on a GPU hardly needs them.
        return {"cpu": 1 if self.address else cpus, "gpu": min(1.0, self.gpus / concurrent)}


def check_address(address: str | None) -> str | None:
    """An address as ``--address`` takes it: ``auto`` or ``HOST:PORT``.

    Raises:
        UsageError: it is none of these.
    """
    if address is None or address == "auto":
        return address
    found = re.fullmatch(r"([A-Za-z0-9.\-]+|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})", address)
    if not found or not 0 < int(found.group(2)) < 65536:
        outside = address.startswith(("http", "ray:"))
        hint = "; from outside a cluster, 'tpbench submit' takes its http://HEAD:8265" if outside else ""
        raise UsageError(f"--address '{address}': write 'auto' or HOST:PORT{hint}")
    return address


def choose_resources(cpus: int | None, gpus: int | None, address: str | None) -> Resources:
    """What the command line asked for; what it left open is all of this machine, or found out at the cluster.

    Raises:
        UsageError: there are fewer GPUs here, or the address is none.
    """
    if check_address(address):
        return Resources(cpus or 0, -1 if gpus is None else gpus, address=address)
    available = torch.cuda.device_count()
    if gpus and gpus > available:
        raise UsageError(f"--gpus {gpus}: torch sees {available} here")
    return Resources(cpus or usable_cpus(), available if gpus is None else gpus)


def require_cluster_path(folder: str, option: str = "--results") -> None:
    """A folder for a sweep whose driver runs on the cluster.

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
    """What an exception of Ray's says first: its messages about tokens are whole paragraphs."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].strip() if lines else type(error).__name__


_VERSIONS = re.compile(r"Version mismatch:.*?Ray: (\S+)\s+Python: (\S+).*?Ray: (\S+)\s+Python: (\S+)", re.DOTALL)


def versions_differ(error: Exception, address: str) -> str | None:
    """Ray's six lines about a cluster of other versions as one line; None if the error is another one."""
    found = _VERSIONS.search(str(error))
    if not found:
        return None
    ray, python, our_ray, our_python = found.groups()
    return (
        f"the cluster at {address} runs Ray {ray} with Python {python}, this machine Ray {our_ray} with Python "
        f"{our_python}: both must be the same, Python's last number too"
    )


def require_no_other_ray(resources: Resources) -> None:
    """A process has one Ray: where it is connected to one already, it can train on that one alone.

    Raises:
        UsageError: it is connected, and a Ray of the sweep's own was asked for.
    """
    ray = sys.modules.get("ray")
    if resources.address or ray is None or not ray.is_initialized():
        return
    if ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        return  # a task of a cluster
    raise UsageError(
        "this process is connected to Ray already: give --address auto to train on that Ray, or call ray.shutdown() "
        "first"
    )


@contextmanager
def ray_running(resources: Resources, say: Callable[[str], None] = print) -> Iterator[None]:
    """Ray for the length of a sweep; its token authentication stays as Ray sets it up.

    Args:
        resources: what it may use, or which cluster it is.
        say: tells a person what takes long.

    Raises:
        UsageError: this process is connected to another Ray.
        TpbenchError: it cannot be started, or the cluster cannot be reached.
    """
    require_no_other_ray(resources)
    with _place_of(resources) as folder, ray_environment(write_token(folder) if folder else None):
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
            with ended_with_its_processes(folder) if folder else nullcontext():
                ray.shutdown()


def _place_of(resources: Resources) -> AbstractContextManager[Path | None]:
    """Return the folder of a Ray that is started here, which goes afterwards; of one that is there none."""
    ray = sys.modules.get("ray")
    there = resources.address or (ray is not None and ray.is_initialized())
    return nullcontext() if there else private_folder()


def _start(resources: Resources, folder: Path | None, say: Callable[[str], None]) -> None:
    """Connect to the cluster, or start Ray for this machine alone, in that folder."""
    import ray

    if folder:
        require_loopback()
    try:
        with impatient(say):
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
            # What the system refuses, it refuses again. A time-out and a lost connection are of OSError's kinds too.
            final = isinstance(error, OSError) and not isinstance(error, (TimeoutError, ConnectionError))
            advice = "" if final else ". The machine may be busy: the same command or call goes on where it was"
            raise TpbenchError(f"Ray did not start: {reason}{advice}") from None
        if differ := versions_differ(error, resources.address):
            raise TpbenchError(differ) from None
        raise TpbenchError(
            f"the cluster at {resources.address} could not be reached: {reason}. Is it up, and does this machine have "
            "its token ('ray get-auth-token' on the head prints it; put it into ~/.ray/auth_token here)?"
        ) from None


def cluster_resources(wanted: Resources) -> Resources:
    """What the connected cluster has, where ``wanted`` leaves it open (0 CPUs, -1 GPUs).

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
    """The address of the connected cluster's head."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def waits_for(share: Mapping[str, float], workers: int) -> str:
    """Say that nothing of a sweep has a place on the connected cluster yet, and what of it others hold.

    Args:
        share: Ray resources of one worker, as of :meth:`Resources.per_pack`.
        workers: how many of them wait.
    """
    import ray

    kind, name = ("GPU", "GPUs") if share.get("gpu") else ("CPU", "cores")
    has, free = (found.get(kind, 0) for found in (ray.cluster_resources(), ray.available_resources()))
    wanted = max(1.0, workers * share[kind.lower()])
    return (
        f"the sweep waits for {wanted:g} {name}: of the {has:g} of the cluster, {has - free:g} are held by others; it "
        "begins as soon as one is free"
    )


def result_of(
    call: Any,
    share: Mapping[str, float],
    say: Callable[[str], None],
    begun: Callable[[], bool],
    seconds: float = WAITING,
) -> Any:
    """Wait for a task of Ray's, and say what it waits for when it has not begun after so many seconds."""
    import ray

    done, _ = ray.wait([call], timeout=seconds)
    if not done and not begun():
        free = ray.available_resources()
        # Its process may be about to start: only where there is no place it waits.
        if any(free.get(kind.upper(), 0) < amount for kind, amount in share.items()):
            say(waits_for(share, 1))
    return ray.get(call)
