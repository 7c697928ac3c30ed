"""What a Ray trial does: it says where it is, and trains the packs that it is handed at the gate."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune

from tpbench.engine import EpochReport, RuleError, TpbenchError
from tpbench.engine.collector import collect_rarely
from tpbench.results import RunStore
from tpbench.results.location import location
from tpbench.search.definition import SweepFolder
from tpbench.sweeps.gate import END, take
from tpbench.sweeps.nodes import Needs, missing
from tpbench.sweeps.packs import HandedPack
from tpbench.training.devices import release_memory, require_gpu
from tpbench.training.pack import Outcome, PackJob, PackSettings
from tpbench.workloads.memory import available_memory, oom_kills

Train = Callable[[HandedPack, Callable[[EpochReport], None]], list[Outcome]]
"""Trains a pack: :func:`train_job`, or what a benchmark puts in its place."""

# Seconds between a trial's reports, of one pack that trains and of many.
_REPORT_INTERVAL, _REPORT_INTERVAL_OF_MANY, _MANY = 1.0, 5.0, 50


def train_job(pack: HandedPack, report: Callable[[EpochReport], None]) -> list[Outcome]:
    """Train a pack for real."""
    return PackJob(pack.plan, pack.settings, pack.bracket, parts=pack.parts).run(report)


def run_worker(
    config: Mapping[str, Any],
    *,
    gate: Any,
    train: Train,
    threads: int,
    workers: int,
    patience: float,
    needs: Needs | None = None,
) -> None:
    """Train one pack after the other until the gate says that it is enough.

    What the node or the store lacks is reported; anything else that goes wrong is raised, and the process is not used
    again.

    Args:
        config: ``worker``, the name under which the gate knows it.
        gate: handle of the gate.
        train: trains a pack.
        threads: CPU threads of this trial.
        workers: packs that train at once.
        patience: seconds to wait before a failure of the node's is reported.
        needs: what the sweeps need of a node; None: it is known to be there.
    """
    # A trial's process is Tune's, which trains nothing else in it.
    collect_rarely()
    import torch

    torch.set_num_threads(threads)
    tune.report({"share": 0.0, "started": json.dumps(_about(needs))})
    while (job := take(gate, config["worker"])) != END:
        if job is None:
            tune.report({"share": 0.0, "asks": True})
            continue
        tune.report({"share": 0.0, "took": json.dumps(_memory())})
        tune.report(_trained(job, train, workers, patience))


def _about(needs: Needs | None) -> dict[str, Any]:
    """What the scheduler wants to know about this process and its node."""
    import psutil
    import ray

    context = ray.get_runtime_context()
    gpus = ",".join(str(gpu) for gpu in ray.get_gpu_ids())
    node = str(context.get_node_id())
    return {
        "node": node,
        "gpu": gpus,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "created": psutil.Process().create_time(),
        **_memory(),
        "lacks": missing(needs, gpu=bool(gpus), known=node) if needs else {},
    }


def _memory() -> dict[str, int]:
    """Return what tells later whether memory ran out."""
    return {"memory": available_memory(), "oom_kills": oom_kills()}


def _trained(job: str, train: Train, workers: int, patience: float) -> dict[str, Any]:
    """Train a pack; returns what is reported of it."""
    pack = HandedPack.from_json(job)
    begun = time.monotonic()
    try:
        _check_folder(pack.settings, patience)
        require_gpu(pack.settings.device)
        outcomes = train(pack, _reporter(workers))
    except TpbenchError as error:
        if failure_kind(error) == "node":
            time.sleep(max(0.0, patience - (time.monotonic() - begun)))
        return {"share": 1.0, "failed": str(error), "kind": failure_kind(error)}
    finally:
        if pack.settings.device.startswith("cuda"):
            # The process lives on, and others share the GPU.
            release_memory(pack.settings.device)
    best = min((outcome.validation_error for outcome in outcomes), default=None)
    return {"share": 1.0, "best": best, "outcomes": json.dumps([asdict(o) for o in outcomes])}


def failure_kind(error: TpbenchError) -> str:
    """Whose fault an error is, as :class:`tpbench.sweeps.packs.Failure` has it."""
    return "rule" if isinstance(error, RuleError) else "node"


def _reporter(workers: int) -> Callable[[EpochReport], None]:
    interval = _REPORT_INTERVAL if workers < _MANY else _REPORT_INTERVAL_OF_MANY
    reported = ended = time.monotonic()
    longest = 0.0

    def report(epoch: EpochReport) -> None:
        # Tune takes some milliseconds per report, and waits for each; nobody watches faster than this.
        nonlocal reported, ended, longest
        now = time.monotonic()
        longest, ended = max(longest, now - ended), now
        if now - reported >= interval or epoch.warnings:
            reported = now
            # Not "done": that word is Tune's, and would end the trial.
            share, best = epoch.done / epoch.total, epoch.best_validation_error
            tune.report({"share": share, "best": best, "epoch": longest, "warnings": list(epoch.warnings)})

    return report


def _check_folder(settings: PackSettings, patience: float) -> None:
    """Nodes join a cluster while a sweep runs: each must see the results folder before it trains into another one.

    Raises:
        TpbenchError: it does not, after some patience.
    """
    folder = location(settings.results)
    until = time.monotonic() + patience
    while not _sees(folder, settings.sweep):
        if time.monotonic() > until:
            raise TpbenchError(
                f"a node of the cluster does not see the results folder {settings.results}: choose a folder that all "
                "nodes mount, or a URL such as s3://bucket/folder"
            )
        time.sleep(1.0)


def _sees(folder: Any, sweep: str | None) -> bool:
    if sweep:
        return SweepFolder(folder / "sweeps" / sweep).exists
    # Buckets have no folders that could be missing.
    return not isinstance(folder, Path) or RunStore(folder).runs.is_dir()
