"""What a Ray trial does: train one pack and report, or wait at the gate."""

from __future__ import annotations

import json
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
from tpbench.sweeps.gate import wait
from tpbench.sweeps.packs import HandedPack
from tpbench.training.devices import give_back_memory, require_gpu
from tpbench.training.packs import Outcome, PackJob, PackSettings

Train = Callable[[HandedPack, Callable[[EpochReport], None]], list[Outcome]]
"""Trains a pack: :func:`train_job`, or what a benchmark puts in its place."""

# Seconds between a trial's reports, of one pack that trains and of many.
_REPORT_INTERVAL, _REPORT_INTERVAL_OF_MANY, _MANY = 1.0, 5.0, 50


def train_job(pack: HandedPack, report: Callable[[EpochReport], None]) -> list[Outcome]:
    """Train a pack for real."""
    return PackJob(pack.plan, pack.settings, pack.bracket).run(report)


def run_trial(
    config: Mapping[str, Any], *, gate: Any, train: Train, threads: int, workers: int, patience: float
) -> None:
    """One trial.

    Args:
        config: ``job`` (:class:`HandedPack` as JSON), or ``workers`` and ``round`` of a wait.
        gate: handle of the gate.
        train: trains a pack.
        threads: CPU threads of this trial.
        workers: packs that train at once.
        patience: seconds to wait before a failure of the node's is reported.
    """
    # A trial's process is Tune's, which trains nothing else in it.
    collect_rarely()
    if "job" not in config:
        wait(gate, workers=config["workers"], round_seen=config["round"])
        tune.report({"share": 1.0})
        return
    import torch

    torch.set_num_threads(threads)
    pack = HandedPack.from_json(config["job"])
    begun = time.monotonic()
    try:
        _check_folder(pack.settings, patience)
        require_gpu(pack.settings.device)
        outcomes = train(pack, _reporter(workers))
    except TpbenchError as error:
        # What the node or the store lacks is told; anything else is raised, and its process is not used again.
        if failure_kind(error) == "node":
            time.sleep(max(0.0, patience - (time.monotonic() - begun)))
        tune.report({"share": 1.0, "failed": str(error), "node": _node(), "kind": failure_kind(error)})
        return
    finally:
        if pack.settings.device.startswith("cuda"):
            # The process lives on, and others share the GPU.
            give_back_memory(pack.settings.device)
    best = min((outcome.validation_error for outcome in outcomes), default=None)
    tune.report({"share": 1.0, "best": best, "outcomes": json.dumps([asdict(o) for o in outcomes])})


def failure_kind(error: TpbenchError) -> str:
    """Whose fault an error is, as :class:`tpbench.sweeps.packs.Failure` has it."""
    return "rule" if isinstance(error, RuleError) else "node"


def _reporter(workers: int) -> Callable[[EpochReport], None]:
    interval = _REPORT_INTERVAL if workers < _MANY else _REPORT_INTERVAL_OF_MANY
    last = time.monotonic()

    def report(epoch: EpochReport) -> None:
        # Tune takes some milliseconds per report, and waits for each; nobody watches faster than this.
        nonlocal last
        if time.monotonic() - last >= interval or epoch.warnings:
            last = time.monotonic()
            # Not "done": that word is Tune's, and would end the trial.
            share, best = epoch.done / epoch.total, epoch.best_validation_error
            tune.report({"share": share, "best": best, "warnings": list(epoch.warnings)})

    return report


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


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
