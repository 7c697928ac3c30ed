"""Workers: Ray trials that train one pack after the other.

A worker is a trial of Tune's that lasts: it reports its place, and waits for one pack after the other. So the scheduler
knows the place before it chooses the pack, and a process that has imported torch is used for the next one.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tpbench.engine import EpochReport, RuleError, TpbenchError
from tpbench.engine.startup import collect_rarely
from tpbench.results import RunStore
from tpbench.search.definition import SweepFolder
from tpbench.sweeps.mailbox import END, wait_for_job
from tpbench.sweeps.nodes import Needs, missing
from tpbench.sweeps.sweep import QueuedPack
from tpbench.training.devices import release_memory, require_gpu
from tpbench.training.pack import PackJob
from tpbench.training.plan import Outcome, PackSettings
from tpbench.workloads.memory import available_memory, oom_kills

# Ray reads its environment when it is imported, which is set later than this is: it is imported in functions.

Train = Callable[[QueuedPack, Callable[[EpochReport], None]], list[Outcome]]
"""Trains a pack: :func:`train_job`, or what a benchmark puts in its place."""

# Seconds between a trial's reports, of one pack that trains and of many.
_REPORT_INTERVAL, _REPORT_INTERVAL_OF_MANY, _MANY = 1.0, 5.0, 50


def train_job(pack: QueuedPack, report: Callable[[EpochReport], None]) -> list[Outcome]:
    """Train a pack and publish its runs."""
    return PackJob(pack.plan, pack.settings, pack.bracket, parts=pack.parts).run(report)


def run_worker(
    config: Mapping[str, Any],
    *,
    mailbox: Any,
    train: Train,
    threads: int,
    workers: int,
    patience: float,
    needs: Needs | None = None,
) -> None:
    """Train one pack after the other until the mailbox holds the end.

    A :class:`TpbenchError` is reported; any other exception is raised, and ends the process.

    Args:
        config: ``worker``, its name.
        mailbox: its handle.
        train: trains a pack.
        threads: CPU threads of this trial.
        workers: number of packs that train at once.
        patience: seconds to wait before a failure of the node's is reported.
        needs: of the sweeps; None: the node is known to have them.
    """
    from ray import tune

    # A trial's process is Tune's, which trains nothing else in it.
    collect_rarely()
    import torch

    torch.set_num_threads(threads)
    tune.report({"share": 0.0, "started": json.dumps(_about(needs))})
    while (job := wait_for_job(mailbox, config["worker"])) != END:
        if job is None:
            tune.report({"share": 0.0, "asks": True})
            continue
        tune.report({"share": 0.0, "took": json.dumps(_memory())})
        tune.report(_train_and_report(job, train, workers, patience))


def _about(needs: Needs | None) -> dict[str, Any]:
    """Return what the scheduler must know about this process and its node."""
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
    """Return the numbers from which it follows later whether memory ran out."""
    return {"memory": available_memory(), "oom_kills": oom_kills()}


def _train_and_report(job: bytes, train: Train, workers: int, patience: float) -> dict[str, Any]:
    """Train a pack; returns its report."""
    from ray import cloudpickle

    pack: QueuedPack = cloudpickle.loads(job)
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
    """Return the kind of an error, as :class:`tpbench.sweeps.sweep.Failure` has it: ``rule`` or ``node``."""
    return "rule" if isinstance(error, RuleError) else "node"


def _reporter(workers: int) -> Callable[[EpochReport], None]:
    from ray import tune

    interval = _REPORT_INTERVAL if workers < _MANY else _REPORT_INTERVAL_OF_MANY
    reported = ended = time.monotonic()
    longest = 0.0

    def report(epoch: EpochReport) -> None:
        # Tune takes some milliseconds per report, and waits for each; and a person reads no faster than this.
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
    """Check that this node sees the results folder: nodes join a cluster while a sweep runs.

    Raises:
        TpbenchError: it does not, after some patience.
    """
    store, until = settings.store, time.monotonic() + patience
    while not _sees(store, settings.sweep):
        if time.monotonic() > until:
            raise TpbenchError(
                f"a node of the cluster does not see the results folder {settings.results}: choose a folder that all "
                "nodes mount, or a URL such as s3://bucket/folder"
            )
        time.sleep(1.0)


def _sees(store: RunStore, sweep: str | None) -> bool:
    if sweep:
        return SweepFolder(store.folder / "sweeps" / sweep).exists
    # Buckets have no folders that could be missing.
    return not isinstance(store.folder, Path) or store.runs.is_dir()
