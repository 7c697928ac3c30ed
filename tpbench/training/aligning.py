"""The training of a configuration with a record of how its updates align (the paper's B.2). Needs no Ray."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tpbench.engine import Configuration, TpbenchError, Trainer, get_method
from tpbench.engine.alignment import DAMPINGS, AlignmentLog
from tpbench.results import RunStore, provenance
from tpbench.results.alignments import ALIGNMENTS, AlignmentRecord
from tpbench.results.artifacts import digest
from tpbench.results.location import location
from tpbench.results.store import write_atomically
from tpbench.training.pack import is_out_of_memory
from tpbench.training.plan import PackSettings, define_runs, plan_seeds
from tpbench.training.progress import WARNING, Display
from tpbench.workloads import Workload, load_problem


def _plain(values: Tensor) -> Any:
    """Return angles as nested lists, rounded to a thousandth of a degree; None stands for NaN, which JSON lacks."""

    def clean(value: Any) -> Any:
        if isinstance(value, list):
            return [clean(entry) for entry in value]
        return None if math.isnan(value) else round(value, 3)

    return clean(values.tolist())


def _train(trainer: Trainer) -> None:
    """Train to the end and show the progress."""
    with Display() as view:
        view.start("epochs", len(trainer.phases))
        while not trainer.done:
            report = trainer.advance()
            view.update("epochs", report.done, report.total, report.best_validation_error)
            for warning in report.warnings:
                view.say(f"{WARNING}{warning}")
        view.end("epochs")


def record_alignment(
    workload: Workload,
    method: str,
    configuration: Configuration,
    seeds: tuple[int, ...],
    epochs: int,
    every: int,
    settings: PackSettings,
) -> Path:
    """Train, measure the angles, and write ``alignment/<workload>-<method>-<hash>.json`` in the results folder.

    Args:
        workload: to train on.
        method: name of the learning rule.
        configuration: complete, as of :meth:`tpbench.workloads.Workload.complete`.
        seeds: one member each, which train as one pack.
        epochs: joint epochs.
        every: the angles of every ``every``-th minibatch are measured.
        settings: how and where the training runs.

    Returns:
        The path of the record.

    Raises:
        TpbenchError: a member diverged, memory does not suffice, or the folder cannot be written.
    """
    store = RunStore(location(settings.results))
    # The record is written at the end: a folder that cannot take it should show now.
    store.require_writable()
    settings.obtain(workload)
    problem, dataset = load_problem(workload, settings.data_folder)
    trainer = Trainer(
        get_method(method),
        problem,
        [configuration] * len(seeds),
        list(seeds),
        epochs=epochs,
        precision=settings.precision,
        device=settings.device,
    )
    log = AlignmentLog(every)
    trainer.pack.observer = log
    try:
        _train(trainer)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TpbenchError(
            f"not enough memory to align {len(seeds)} seeds of {method} on {workload.name}: give fewer --seeds "
            f"({error})"
        ) from error
    if len(trainer.alive) < len(seeds):
        raise TpbenchError(f"{method} on {workload.name}: a member diverged, so its angles say nothing")
    record = AlignmentRecord(
        workload.name,
        dataset.label,
        method,
        list(seeds),
        epochs,
        every,
        log.seen // epochs,
        list(DAMPINGS),
        log.steps,
        _plain(torch.stack(log.loss_angles)),
        _plain(torch.stack(log.target_angles)),
        provenance(settings.device, settings.precision, settings.options),
    )
    plan = plan_seeds(workload, method, configuration, seeds, epochs, search_info={})
    ids = [definition.id for definition in define_runs(plan, dataset.fingerprint, settings.precision)]
    name = f"{workload.name}-{method}-{digest([ids, every])[:12]}.json"
    path = location(settings.results) / ALIGNMENTS.folder / name
    write_atomically(path, record.to_json())
    return path
