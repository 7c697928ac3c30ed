"""Nodes of a cluster: the needs of sweeps, and the nodes that lack something."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tpbench.engine import TpbenchError, UsageError, method_source
from tpbench.engine.errors import format_bytes
from tpbench.engine.plugins import source_digest
from tpbench.engine.protocol import precision_problem
from tpbench.results.location import location
from tpbench.results.store import write_atomically
from tpbench.sweeps.sweep import ALL_SWEEPS
from tpbench.workloads import Workload, load_problem
from tpbench.workloads.memory import oom_kills

# Seconds that the nodes may take to answer.
_ANSWER = 120.0
# Seconds that one node may take for a small answer.
_SOON = 15.0
# Bytes that must be free for the files of training processes: logs of Ray, and what Python libraries put down for a
# moment. Where a disk is full, processes die without a word.
_FREE_DISK = 200 * 2**20


@dataclass(frozen=True)
class SweepNeeds:
    """The needs of one sweep."""

    name: str
    workload: Workload
    fingerprint: str
    """Fingerprint of its data."""
    method: str
    method_source: str
    precisions: tuple[str, ...]


@dataclass(frozen=True)
class Needs:
    """The needs of all sweeps of a command."""

    sweeps: tuple[SweepNeeds, ...]
    data: str | None
    device: str
    tpbench: str
    """Digest of the driver's own sources."""
    checked_nodes: frozenset[str] = frozenset()
    """Ids of the nodes whose answers are known."""

    @classmethod
    def of(cls, sweeps: Sequence[SweepNeeds], data: str | None, device: str) -> Needs:
        """Return the needs of sweeps whose driver is this process."""
        return cls(tuple(sweeps), data, device, source_digest("tpbench"))


def missing(needs: Needs, *, gpu: bool = False, known: str = "") -> dict[str, str]:
    """Find the needs that the node of this process lacks.

    Args:
        needs: of the sweeps.
        gpu: whether this process has a GPU; without one, precisions on a GPU are not checked.
        known: id of the node; one that was checked already is checked for its GPU alone.

    Returns:
        The reason, by the name of the sweep that cannot be trained here, or :data:`ALL_SWEEPS`.
    """
    lacking: dict[str, str] = {}
    if known not in needs.checked_nodes or not known:
        digest = source_digest("tpbench")
        if digest != needs.tpbench:
            return {ALL_SWEEPS: f"its tpbench is another one (sources {digest}, here {needs.tpbench})"}
        if reason := _lacks_space():
            return {ALL_SWEEPS: reason}
        data = Path(needs.data) if needs.data else None
        fingerprints: dict[str, str] = {}
        for sweep in needs.sweeps:
            if reason := _lacks_sources(sweep, data, fingerprints):
                lacking[sweep.name] = reason
    if gpu or needs.device == "cpu":
        for sweep in needs.sweeps:
            wrong = [
                f"precision {p} {why}"
                for p in sweep.precisions
                if (why := precision_problem(p, needs.device, here=True))
            ]
            if wrong:
                lacking.setdefault(sweep.name, wrong[0])
    return lacking


def _lacks_space() -> str | None:
    """Return the reason if a disk has too little space for the files of a training process, else None."""
    for folder in _temporary_folders():
        with suppress(OSError):
            free = shutil.disk_usage(folder).free
            if free < _FREE_DISK:
                return (
                    f"{folder} has {format_bytes(free)} free; Ray's and temporary files need {format_bytes(_FREE_DISK)}"
                )
    return None


def _temporary_folders() -> list[str]:
    """Return the folders of temporary files on the node of this process: the system's, and that of Ray's session."""
    folders = [tempfile.gettempdir()]
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        with suppress(Exception):  # Ray has no public name for it
            folders.append(ray._private.worker._global_node.get_session_dir_path())
    return folders


def _lacks_sources(sweep: SweepNeeds, data: Path | None, fingerprints: dict[str, str]) -> str | None:
    name = f"{sweep.workload.name} {sweep.workload.source}"
    try:
        source = method_source(sweep.method)
        if name not in fingerprints:
            fingerprints[name] = load_problem(sweep.workload, data)[1].fingerprint
    except (TpbenchError, OSError) as error:
        return str(error)
    fingerprint = fingerprints[name]
    if source != sweep.method_source:
        return f"the source of the method '{sweep.method}' is another one ({source}, here {sweep.method_source})"
    if fingerprint != sweep.fingerprint:
        here = sweep.fingerprint[:8]
        return f"its data of {sweep.workload.name} are others (fingerprint {fingerprint[:8]}, here {here})"
    return None


def nodes() -> list[dict[str, Any]]:
    """Return the nodes of the connected cluster that are alive, as Ray describes them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def node_name(node: Mapping[str, Any]) -> str:
    """Return a node's name for people."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def capable_nodes(share: Mapping[str, float]) -> dict[str, str]:
    """Return the names of the nodes that are large enough for a pack, by id.

    Args:
        share: Ray resources of a pack (:attr:`tpbench.sweeps.cluster.Resources.share`).
    """
    return {
        node["NodeID"]: node_name(node)
        for node in nodes()
        if all(node["Resources"].get(kind.upper(), 0) >= amount for kind, amount in share.items())
    }


def count_places(share: Mapping[str, float], without: Collection[str] = ()) -> int:
    """Return how many workers the nodes of the connected cluster hold, were they free.

    Args:
        share: Ray resources of one worker.
        without: ids of nodes that do not count.
    """
    return sum(
        min(int(node["Resources"].get(kind.upper(), 0) / amount + 1e-9) for kind, amount in share.items())
        for node in nodes()
        if node["NodeID"] not in without
    )


# What Ray puts before the name of a GPU's kind among the resources of a node.
_KIND = "accelerator_type:"


def gpu_kinds(share: Mapping[str, float]) -> dict[str, list[str]]:
    """Return the nodes that are large enough for a pack, by kind of GPU: their ids.

    The kind is empty where packs get no GPU, or Ray does not know it.
    """
    capable, kinds = capable_nodes(share), defaultdict[str, list[str]](list)
    for node in nodes():
        if node["NodeID"] in capable:
            known = sorted(name.removeprefix(_KIND) for name in node["Resources"] if name.startswith(_KIND))
            kinds[known[0] if known and "gpu" in share else ""].append(node["NodeID"])
    return dict(kinds)


def exclude_nodes(avoid: Collection[str]) -> dict[str, str]:
    """Return Ray's label selector that keeps a task off some nodes."""
    return {"ray.io/node-id": f"!in({','.join(sorted(avoid))})"}


def call_on_nodes(
    wanted: Sequence[str], function: Callable[..., Any], *arguments: Any, timeout: float
) -> dict[str, Any]:
    """Call a function on all nodes at once; returns its results, or the exceptions, by node id.

    The processes end afterwards, and keep nothing of the node's memory or GPU.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote, calls = ray.remote(max_calls=1)(function), {}
    for node in wanted:
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        calls[node] = remote.options(num_cpus=0, scheduling_strategy=where, max_retries=0).remote(*arguments)
    if calls:
        ray.wait(list(calls.values()), num_returns=len(calls), timeout=timeout)
    answers: dict[str, Any] = {}
    for node, call in calls.items():
        try:
            answers[node] = ray.get(call, timeout=0)
        except Exception as error:  # a node that went, a package that it lacks, or no answer
            answers[node] = error
    return answers


def _state(results: str, token: str, needs: Needs) -> tuple[str, dict[str, str]]:
    """Read the driver's file on a node and write an answer.

    Returns:
        The answer's name, empty where the node does not share the results folder, and the needs that the node lacks.
    """
    folder, name = location(results) / "checks", f"{token}-{secrets.token_hex(4)}"
    try:
        text = (folder / token).read_text()
    except Exception:
        return "", _unshared(results, "it does not see what the driver wrote there")
    if text != token:
        return "", _unshared(results, "it reads something else than was written")
    try:
        write_atomically(folder / name, name)
    except TpbenchError as error:
        return "", _unshared(results, f"it cannot write there ({error})")
    return name, missing(needs)


def _unshared(results: str, why: str) -> dict[str, str]:
    return {ALL_SWEEPS: f"the results folder {results} is not shared: {why}"}


@dataclass(frozen=True)
class NodeFindings:
    """The state of a cluster's nodes before anything trains."""

    needs: Needs
    """Needs of the sweeps, with the nodes that have answered."""
    lacks: dict[str, dict[str, str]]
    """By node what it lacks, by the name of a sweep or for :data:`ALL_SWEEPS`."""


def ask_nodes(results: str, needs: Needs, wanted: Mapping[str, str], say: Callable[[str], None]) -> NodeFindings:
    """Ask all nodes at once for the needs that they lack. A late one is left out until a worker starts there.

    Args:
        results: absolute path or URL of the results folder; the driver writes there, and each node answers there.
        needs: of the sweeps.
        wanted: the nodes that may train, by id with their names.
        say: shows a line about nodes that are left out.

    Raises:
        UsageError: no node shares the results folder.
        TpbenchError: no node can train anything, or this machine cannot write to the results folder.
    """
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError

    folder, token = location(results) / "checks", secrets.token_hex(16)
    write_atomically(folder / token, token)
    lacks: dict[str, dict[str, str]] = {}
    late, unshared = [], 0
    try:
        for node, answer in call_on_nodes(list(wanted), _state, results, token, needs, timeout=_ANSWER).items():
            if isinstance(answer, Exception):
                # One that left meanwhile is asked by its workers, should it return.
                if isinstance(answer, GetTimeoutError):
                    late.append(node)
                elif isinstance(answer, RayTaskError) or not isinstance(answer, RayError):
                    lacks[node] = {ALL_SWEEPS: f"it could not be asked: {last_line(str(answer))}"}
                continue
            name, lacking = answer
            if name and not (folder / name).exists():
                name, lacking = "", _unshared(results, "this machine does not see what it wrote there")
            unshared += not name
            if lacking:
                lacks[node] = lacking
    finally:
        for path in folder.glob(f"{token}*"):
            path.unlink(missing_ok=True)
    for node in late:
        say(f"node {wanted[node]} has not answered within {_ANSWER:.0f} s: it gets packs when it does")
    if wanted and unshared == len(wanted):
        reason = next(iter(lacks.values()))[ALL_SWEEPS]
        raise UsageError(
            f"{reason} (nodes {', '.join(wanted.values())}); choose a folder that all nodes mount, or a URL such as "
            "s3://bucket/folder"
        )
    if wanted and all(ALL_SWEEPS in lacks.get(node, {}) for node in wanted):
        listed = "; ".join(f"{wanted[node]}: {reasons[ALL_SWEEPS]}" for node, reasons in lacks.items())
        raise TpbenchError(f"no node of the cluster can train: {listed}")
    return NodeFindings(replace(needs, checked_nodes=frozenset(wanted) - frozenset(late)), lacks)


def last_line(traceback: str) -> str:
    """Return the message of an exception that Ray hands on as text."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    return lines[-1] if lines else "unknown error"


def count_oom_kills(node: str) -> int | None:
    """Return the count of processes that the kernel has killed on a node for memory; None if it is unknown."""
    count = call_on_nodes([node], oom_kills, timeout=_SOON).get(node)
    return count if isinstance(count, int) else None


def end_process(pid: int, created: float) -> bool:
    """Kill a process of this machine, unless its number belongs to another one by now."""
    import psutil

    with suppress(psutil.Error, ProcessLookupError):
        if abs(psutil.Process(pid).create_time() - created) < 1:
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def end_remote_process(node: str | None, pid: int, created: float) -> None:
    """Kill a process of a node, without waiting for it; of this machine if no node is given."""
    if node is None:
        end_process(pid, created)
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = NodeAffinitySchedulingStrategy(node, soft=False)
    ray.remote(max_calls=1)(end_process).options(num_cpus=0, scheduling_strategy=where).remote(pid, created)
