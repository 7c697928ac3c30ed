"""``tpbench reproduce``: the paper's cells that a store lacks, with the published configurations."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tpbench.engine import SCHEDULE, TpbenchError, method_source
from tpbench.engine.protocol import Schedule, precision_problem
from tpbench.results import RunStore, leaderboard, paper_table, render, write_leaderboard
from tpbench.results.paper import ERROR_TABLES, PAPER_WORKLOADS, table_methods
from tpbench.results.runs import PUBLISHED
from tpbench.results.store import write_atomically
from tpbench.search.definition import SweepFolder
from tpbench.search.spaces import published_configuration
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.nodes import SweepNeeds
from tpbench.sweeps.session import Session, for_workers, training_session
from tpbench.sweeps.sweep import Admission, QueuedSweep, Workers
from tpbench.training.choice import CellChoice
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackSettings, plan_seeds
from tpbench.training.progress import WARNING, View
from tpbench.training.sizing import run_seconds
from tpbench.workloads import get_workload, load_problem
from tpbench.workloads.benchmark import measure

# A cell is split over so large a part of the workers: about two others train beside it.
_CELLS_AT_ONCE = 8


@dataclass(frozen=True)
class PlannedCell:
    """A cell that a store lacks, in part or whole."""

    cell: CellChoice
    configuration: dict[str, float]
    seeds: tuple[int, ...]
    """Those that are missing."""
    all_seeds: tuple[int, ...]
    seconds: float
    """Estimate for all of them together on this machine."""

    @property
    def name(self) -> str:
        return f"{self.cell.workload.name} {self.cell.method}"


def estimate(cell: CellChoice, configuration: dict[str, float], members: int, settings: PackSettings) -> float:
    """Return the seconds of a pack's training, from a short measurement of its joint step.

    What only a cluster's nodes can compute in is measured in float32 here.
    """
    precision = "float32" if precision_problem(settings.precision, settings.device) else settings.precision
    row = measure(cell.workload, cell.method, members, settings.device, precision, seconds=0.3)
    epochs = cell.workload.epochs
    schedule = Schedule(epochs, *(int(configuration.get(name, 0)) for name in SCHEDULE))
    return members * run_seconds(row, cell.method, epochs, schedule.feedback_epochs)


def missing_seeds(
    cell: CellChoice, configuration: dict[str, float], seeds: Sequence[int], settings: PackSettings
) -> tuple[int, ...]:
    """Return the seeds whose run is not in the store."""
    plan = plan_seeds(cell.workload, cell.method, configuration, seeds, cell.workload.epochs, PUBLISHED)
    return tuple(definition.seed for definition in PackJob(plan, settings).missing)


def plan(
    table: str,
    workloads: Sequence[str] | None,
    methods: Sequence[str] | None,
    seeds: tuple[int, ...],
    settings: PackSettings,
) -> tuple[list[PlannedCell], list[str]]:
    """Return the cells to train, cheapest first, and a line for each reason why others cannot be trained here.

    Raises:
        UsageError: there is no such table, workload or method.
    """
    known, planned = table_methods(table), []
    left: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in workloads or PAPER_WORKLOADS:
        rules = [method for method in methods or known if not get_workload(name).refusal(method)]
        try:
            # Once per data set: a download that failed would fail again for the next method.
            settings.obtain(get_workload(name))
        except TpbenchError as error:
            left[name, str(error)] += rules
            continue
        for method in rules:
            cell = CellChoice.of(name, method)
            try:
                configuration = published_configuration(cell.workload, method)
                missing = missing_seeds(cell, configuration, seeds, settings)
            except TpbenchError as error:
                left[name, str(error)].append(method)
                continue
            if missing:
                seconds = estimate(cell, configuration, len(missing), settings)
                planned.append(PlannedCell(cell, configuration, missing, seeds, seconds))
    lines = [f"{name} {', '.join(without)}: {reason}" for (name, reason), without in left.items()]
    return sorted(planned, key=lambda c: c.seconds), lines


@dataclass(frozen=True)
class TrainedCell:
    """A cell that was trained, left because the budget did not suffice, or failed."""

    planned: PlannedCell
    seconds: float | None
    """None: left, or failed."""
    failure: str | None = None
    diverged: int = 0
    """Seeds whose numbers became non-finite."""
    unkept: int = 0
    """Seeds whose networks were to be kept and were not."""


class TimeBudget(Admission):
    """Admits a cell if its estimate fits into the rest of a time, beside the cells that have begun."""

    def __init__(self, seconds: float, estimates: Mapping[str, float]) -> None:
        self.seconds, self.estimates = seconds, estimates
        self.started = time.monotonic()
        self.begun: dict[str, QueuedSweep] = {}

    def allows(self, sweep: QueuedSweep) -> bool:
        """Return whether a cell may hand out packs; one that has begun may go on."""
        if sweep.name in self.begun:
            return True
        open_ends = sum(self._left(other) for other in self.begun.values() if not other.finished)
        left = self.seconds - (time.monotonic() - self.started) - open_ends
        return self.estimates[sweep.name] <= left

    def _left(self, sweep: QueuedSweep) -> float:
        progress = sweep.final_progress
        return self.estimates[sweep.name] * (1 - progress.so_far / progress.total)

    def begin(self, sweep: QueuedSweep) -> None:
        self.begun[sweep.name] = sweep


def reproduce(
    cells: Sequence[PlannedCell], budget: float | None, settings: PackSettings, resources: Resources
) -> list[TrainedCell]:
    """Train cells through one queue; tables are written anew after each.

    Args:
        cells: as :func:`plan` gives them.
        budget: seconds; the cells are trained in their order while they fit. None: all, the longest first.
        settings: how packs are trained.
        resources: what they may use.

    Raises:
        TpbenchError: the store cannot be written, another process reproduces into it, or Ray does not start.
    """
    settings = for_workers(settings)
    store = settings.store
    settings.require_writable()
    folder = SweepFolder(store.folder / "sweeps" / "reproduce")
    with training_session([folder], settings, resources) as session:
        sweeps = [_sweep(cell, session) for cell in cells]
        estimates = {sweep.name: cell.seconds for sweep, cell in zip(sweeps, cells, strict=True)}
        session.ask_nodes([_needs(sweep, settings) for sweep in sweeps])
        admission = TimeBudget(budget, estimates) if budget is not None else None
        for place, (sweep, cell) in enumerate(zip(sweeps, cells, strict=True)):
            # With a budget the cells that surely fit, without one those that would end last.
            sweep.priority = place if admission else 0
            sweep.seed_seconds = cell.seconds / len(cell.seeds)
        session.train(sweeps, admission, lambda sweep: _write_tables(store, session.view))
    return [
        TrainedCell(
            cell,
            sweep.seconds if sweep.done else None,
            sweep.failure,
            sum(record.diverged for record in sweep.result()) if sweep.done else 0,
            settings.missing_networks(sweep.result()) if sweep.done else 0,
        )
        for cell, sweep in zip(cells, sweeps, strict=True)
    ]


def _needs(sweep: QueuedSweep, settings: PackSettings) -> SweepNeeds:
    assert sweep.final is not None  # there is nothing else
    plan = sweep.final.plan
    source = method_source(plan.method)
    return SweepNeeds(sweep.name, plan.workload, plan.fingerprint, plan.method, source, (settings.precision,))


def _sweep(cell: PlannedCell, session: Session) -> QueuedSweep:
    """Return a cell as the queue takes it: final runs without a search.

    It is split by its seeds and the workers alone, so that an interrupted one continues from its checkpoints.
    """
    workload, settings, resources = cell.cell.workload, session.settings, session.resources
    _, dataset = load_problem(workload, settings.data_folder)
    runs = plan_seeds(
        workload,
        cell.cell.method,
        cell.configuration,
        cell.all_seeds,
        workload.epochs,
        PUBLISHED,
        dataset.fingerprint,
    )
    on_gpus = bool(resources.gpus)
    others = _CELLS_AT_ONCE if on_gpus else resources.cpus
    workers = Workers(resources.gpus or resources.cpus, _CELLS_AT_ONCE, others, on_gpus)
    parts = workers.parts(len(cell.all_seeds))
    name = f"{workload.name}-{cell.cell.method}"
    sweep = QueuedSweep(name, cell.name, settings, on_cluster=bool(resources.address))
    sweep.train_final(runs, parts)
    return sweep


def _write_tables(store: RunStore, view: View) -> None:
    """Write ``leaderboard.csv`` and the tables of errors (``table_1.md``, ...) of a store into its folder.

    The runs are stored by now, so an error is shown and not raised.
    """
    try:
        write_leaderboard(leaderboard(store), store)
        for table in ERROR_TABLES:
            write_atomically(store.folder / f"table_{table}.md", render(paper_table(store, table), "md"))
    except (TpbenchError, OSError) as error:
        view.say(f"{WARNING}the tables were not written: {error}")
