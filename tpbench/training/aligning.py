"""Train a configuration and record how its updates align (B.2). Needs no Ray."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tpbench.engine import TpbenchError, Trainer, get_method
from tpbench.engine.alignment import DAMPINGS, AlignmentLog
from tpbench.results import RunStore, provenance
from tpbench.results.location import location
from tpbench.results.runs import digest, sealed, unsealed
from tpbench.results.store import write_atomically
from tpbench.training.packs import PackSettings, define_runs, out_of_memory, plan_seeds
from tpbench.training.progress import WARNING, Display
from tpbench.workloads import Workload, load_problem, obtain

FORMAT = 1


@dataclass(frozen=True)
class AlignmentRecord:
    """The angles of one method on one workload, in degrees; one row per measured minibatch."""

    workload: str
    data_label: str
    method: str
    seeds: list[int]
    epochs: int
    every: int
    steps_per_epoch: int
    """Joint minibatches of one epoch."""
    dampings: list[float]
    steps: list[int]
    loss_angles: list[Any]
    """(measurements, seeds, hidden layers)"""
    target_angles: list[Any]
    """(measurements, seeds, dampings, hidden layers)"""
    provenance: Mapping[str, Any]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Both kinds of angles as tensors; not a number where an update was zero."""
        # As floats, numpy reads None as not a number.
        loss, target = (torch.from_numpy(np.array(v, dtype=float)) for v in (self.loss_angles, self.target_angles))
        return loss, target


def _plain(values: Tensor) -> Any:
    """Nested lists of numbers rounded to a thousandth of a degree; None for what is not a number (JSON has none)."""

    def clean(v: Any) -> Any:
        if isinstance(v, list):
            return [clean(x) for x in v]
        return None if math.isnan(v) else round(v, 3)

    return clean(values.tolist())


def _train(trainer: Trainer) -> None:
    with Display() as view:
        view.start("epochs", len(trainer.phases))
        while not trainer.done:
            report = trainer.advance()
            view.update("epochs", report.done, report.total, report.best_validation_error)
            for warning in report.warnings:
                view.say(f"{WARNING}{warning}")
        view.end("epochs")


def record_alignment(
    workload: Workload, method: str, configuration: Mapping[str, float], seeds: tuple[int, ...], epochs: int,
    every: int, settings: PackSettings,
) -> Path:  # fmt: skip
    """Train, measure, and write ``alignment/<workload>-<method>-<hash>.json`` in the results folder.

    Raises:
        TpbenchError: a member diverged, or the folder cannot be written.
    """
    # The record is written at the end: what stands in its way should show now.
    RunStore(location(settings.results)).require_writable()
    data = Path(settings.data) if settings.data else None
    obtain(workload, data, offline=settings.offline)
    problem, dataset = load_problem(workload, data)
    trainer = Trainer(
        get_method(method), problem, [configuration] * len(seeds), list(seeds), epochs=epochs,
        precision=settings.precision, device=settings.device,
    )  # fmt: skip
    log = AlignmentLog(every)
    trainer.pack.observer = log
    try:
        _train(trainer)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise TpbenchError(
            f"not enough memory to align {len(seeds)} seeds of {method} on {workload.name}: give fewer --seeds "
            f"({error})"
        ) from error
    if len(trainer.alive) < len(seeds):
        raise TpbenchError(f"{method} on {workload.name}: a member diverged, so its angles say nothing")
    record = AlignmentRecord(
        workload.name, dataset.label, method, list(seeds), epochs, every, log.seen // epochs, list(DAMPINGS), log.steps,
        _plain(torch.stack(log.loss_angles)), _plain(torch.stack(log.target_angles)),
        provenance(settings.device, settings.precision, settings.command),
    )  # fmt: skip
    plan = plan_seeds(workload, method, configuration, seeds, epochs, found={})
    ids = [definition.id for definition in define_runs(plan, dataset.fingerprint, settings.precision)]
    name = f"{workload.name}-{method}-{digest([ids, every])[:12]}.json"
    path = location(settings.results) / "alignment" / name
    write_atomically(path, json.dumps(sealed({"format": FORMAT, **asdict(record)})) + "\n")
    return path


def read_alignments(results: Path) -> list[AlignmentRecord]:
    """All records of a results folder, by name.

    Raises:
        TpbenchError: one is damaged.
    """
    found = []
    for path in sorted((results / "alignment").glob("*.json")):
        try:
            body = unsealed(path.read_text(encoding="utf-8"))
            if body.pop("format") != FORMAT:
                raise ValueError("it has another format")
            found.append(AlignmentRecord(**body))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TpbenchError(
                f"{path}: not a valid alignment record ({error}); delete it and make it again"
            ) from error
    return found
