"""What a Ray trial does: train one pack and report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from ray import tune

from tpbench.engine import EpochReport, TpbenchError
from tpbench.results.location import location
from tpbench.sweeps.definition import SweepFolder
from tpbench.sweeps.packs import PackJob, PackPlan, PackSettings

# Seconds between a trial's reports.
_REPORT_INTERVAL = 1.0


def train_pack(config: Mapping[str, Any], *, plan: PackPlan, settings: PackSettings, constants: Mapping[str, float],
               threads: int) -> None:  # fmt: skip
    """Train the suggestions of a trial as one pack.

    Args:
        config: ``suggestions``, one set of hyperparameters per member of the pack.
        plan: workload, method, epochs and seeds; its seeds are cycled over the suggestions.
        settings: where and how.
        constants: hyperparameters that are not searched, and the schedule.
        threads: CPU threads of this trial.
    """
    torch.set_num_threads(threads)
    configurations = tuple({**s, **constants} for s in config["suggestions"])
    seeds = tuple(plan.seeds[k % len(plan.seeds)] for k in range(len(configurations)))
    plan = replace(plan, configurations=configurations, seeds=seeds)

    last = time.monotonic()

    def report(epoch: EpochReport) -> None:
        # Tune takes some milliseconds per report, and waits for each; nobody watches faster than this.
        nonlocal last
        if time.monotonic() - last < _REPORT_INTERVAL:
            return
        last = time.monotonic()
        # Not "done": that word is Tune's, and would end the trial.
        share = epoch.done / epoch.total
        tune.report({"share": share, "best": epoch.best_validation_error})

    try:
        _check_folder(settings)
        outcomes = PackJob(plan, settings).run(report)
    except TpbenchError as error:
        tune.report({"share": 1.0, "best": None, "failed": str(error)})
        return
    best = min(outcome.objective for outcome in outcomes)
    tune.report({"share": 1.0, "best": best, "outcomes": [asdict(outcome) for outcome in outcomes]})


def _check_folder(settings: PackSettings) -> None:
    """Nodes join a cluster while a sweep runs: each must see the sweep's folder before it trains into another one.

    Raises:
        TpbenchError: it does not.
    """
    if settings.sweep and not SweepFolder(location(settings.results) / "sweeps" / settings.sweep).exists:
        raise TpbenchError(
            f"a node of the cluster does not see the results folder {settings.results}: choose a folder that all nodes "
            "mount, or a URL such as s3://bucket/folder"
        )
