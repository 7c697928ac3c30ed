"""``tpbench reproduce``: the paper's cells that a store lacks, cheapest first, with the published configurations."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tpbench.engine import TpbenchError, UsageError, check_device_precision, get_method, method_source
from tpbench.engine.protocol import why_not
from tpbench.results import RunStore, leaderboard, paper_table, render, write_leaderboard
from tpbench.results.budgets import PUBLISHED
from tpbench.results.location import absolute, location
from tpbench.results.networks import FOLDER
from tpbench.results.paper import ERROR_TABLES, PAPER_WORKLOADS, table_methods
from tpbench.results.store import write_atomically
from tpbench.search.definition import SweepFolder
from tpbench.search.spaces import published_configuration
from tpbench.sweeps.board import Board
from tpbench.sweeps.cluster import Resources, cluster_resources, head_address, ray_running
from tpbench.sweeps.last_words import last_words
from tpbench.sweeps.nodes import Needs, SweepNeeds, ask_nodes, trainers
from tpbench.sweeps.sweep import Admission, PlainSweep, QueuedSweep, Workers
from tpbench.training.choice import CellChoice
from tpbench.training.console import interruptible, redirect_output
from tpbench.training.pack import PackJob, PackSettings, count_missing_networks, plan_seeds
from tpbench.training.progress import WARNING, Display, View
from tpbench.training.tracking import environment_warning, prepare_trackers
from tpbench.workloads import get_workload, load_problem, obtain
from tpbench.workloads.benchmark import measure

# A cell is split over so large a part of the workers: about two others train beside it.
_CELLS_AT_ONCE = 8
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_budget(text: str) -> float:
    """``2h``, ``90m``, ``1.5h`` or ``300s`` in seconds.

    Raises:
        UsageError: it is none of these.
    """
    found = re.fullmatch(rf"([0-9]{{1,6}}(?:\.[0-9]{{1,3}})?)([{''.join(_UNITS)}])", text.strip())
    if not found or float(found[1]) == 0:
        raise UsageError(f"--budget '{text}': write a time such as 2h, a number and one of {', '.join(_UNITS)}")
    return float(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True)
class PlannedCell:
    """A cell that a store lacks, in part or whole."""

    cell: CellChoice
    configuration: dict[str, float]
    seeds: tuple[int, ...]
    """Those that are missing."""
    all_seeds: tuple[int, ...]
    seconds: float
    """What they will take together on this machine."""

    @property
    def name(self) -> str:
        return f"{self.cell.workload.name} {self.cell.method}"


def estimate(cell: CellChoice, configuration: dict[str, float], members: int, settings: PackSettings) -> float:
    """Seconds of a whole training of a pack, from a short measurement of its joint step.

    A feedback epoch is what a joint one spends on batches, forward pass and feedback, with half of Adam; an evaluation
    is forward passes over the validation and test samples. What only a cluster's nodes can compute in is measured in
    float32 here.
    """
    precision = "float32" if why_not(settings.precision, settings.device) else settings.precision
    row = measure(cell.workload, cell.method, members, settings.device, precision, seconds=0.3)
    joint = members / row.member_epochs_per_second
    share = row.phases["batches"] + row.phases["forward"] + row.phases["feedback"] + row.phases["adam"] / 2
    epochs = cell.workload.epochs
    pretrain, between = (int(configuration.get(n, 0)) for n in ("fb_pretrain_epochs", "fb_epochs_between"))
    feedback = (pretrain + between * (epochs - 1)) * share if get_method(cell.method).trains_feedback else 0.0
    evaluation = epochs * row.phases["forward"] * 0.3
    return joint * (epochs + feedback + evaluation)


def missing_seeds(
    cell: CellChoice, configuration: dict[str, float], seeds: Sequence[int], settings: PackSettings
) -> tuple[int, ...]:
    """The seeds whose run is not in the store."""
    plan = plan_seeds(cell.workload, cell.method, configuration, seeds, cell.workload.epochs, PUBLISHED)
    return tuple(definition.seed for definition in PackJob(plan, settings).missing)


def plan(
    table: str, workloads: Sequence[str] | None, methods: Sequence[str] | None, seeds: int, settings: PackSettings
) -> tuple[list[PlannedCell], list[str]]:
    """The cells to train, cheapest first, and a line for each reason why others cannot be trained here.

    Raises:
        UsageError: there is no such table, workload or method.
    """
    known, planned = table_methods(table), []
    left: dict[tuple[str, str], list[str]] = defaultdict(list)
    data = Path(settings.data) if settings.data else None
    for name in workloads or PAPER_WORKLOADS:
        rules = [method for method in methods or known if method not in get_workload(name).excluded_methods]
        try:
            # Once per data set: a download that failed would fail again for the next method.
            obtain(get_workload(name), data, offline=settings.offline)
        except TpbenchError as error:
            left[name, str(error)] += rules
            continue
        for method in rules:
            cell = CellChoice.of(name, method)
            try:
                configuration = published_configuration(cell.workload, method)
                missing = missing_seeds(cell, configuration, range(seeds), settings)
            except TpbenchError as error:
                left[name, str(error)].append(method)
                continue
            if missing:
                seconds = estimate(cell, configuration, len(missing), settings)
                planned.append(PlannedCell(cell, configuration, missing, tuple(range(seeds)), seconds))
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


class Budget(Admission):
    """Begins no cell whose estimate does not fit into what is left of a time, beside the cells that have begun."""

    def __init__(self, seconds: float, estimates: Mapping[str, float]) -> None:
        self.seconds, self.estimates = seconds, estimates
        self.started = time.monotonic()
        self.begun: dict[str, QueuedSweep] = {}

    def allows(self, sweep: QueuedSweep) -> bool:
        """Whether a cell may hand out packs; what has begun may go on."""
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
    """Train cells through one queue, in their order, while the budget lasts; tables are written anew after each.

    Raises:
        TpbenchError: the store cannot be written, another process reproduces into it, or Ray does not start.
    """
    data = str(Path(settings.data).resolve()) if settings.data else None
    settings = replace(settings, results=absolute(settings.results), data=data)
    store = RunStore(location(settings.results))
    store.require_writable(*[FOLDER] * settings.keep_networks)
    folder = SweepFolder(store.folder / "sweeps" / "reproduce")
    with ExitStack() as stack:
        name_head = stack.enter_context(last_words(settings.command))
        unsafe = stack.enter_context(folder.lock())
        stack.enter_context(interruptible(settings.command))
        view = stack.enter_context(Display(stack.enter_context(redirect_output(folder.log))))
        if unsafe:
            view.say(f"{WARNING}{unsafe}")
        settings = replace(settings, track=prepare_trackers(settings.track, view.say))
        stack.enter_context(ray_running(resources, view.say))
        if resources.address:
            name_head(head_address())
            if odd := environment_warning(settings.track):
                view.say(f"{WARNING}{odd}")
            resources = cluster_resources(resources)
        if resources.gpus:
            settings = replace(settings, device="cuda")
        check_device_precision(settings.precision, settings.device, here=not resources.address)
        sweeps = [_sweep(cell, settings, resources, place) for place, cell in enumerate(cells)]
        estimates = {sweep.name: cell.seconds for sweep, cell in zip(sweeps, cells, strict=True)}
        board = Board(view, sweeps, on_end=lambda sweep: _write_tables(store, view))
        board.start()
        from tpbench.sweeps.driver import NodeFindings, run_queue

        admission = Budget(budget, estimates) if budget is not None else None
        findings = None
        if resources.address:
            needs = Needs.of([_needs(sweep, settings) for sweep in sweeps], settings.data, settings.device)
            wanted = trainers(resources.per_pack(resources.concurrent))
            answers = ask_nodes(settings.results, needs, wanted, view.say)
            findings = NodeFindings(replace(needs, asked=answers.asked), answers.lacks)
        run_queue(sweeps, resources, folder.ray, board, admission=admission, nodes=findings)
    return [
        TrainedCell(
            cell,
            sweep.seconds if sweep.done else None,
            sweep.failure,
            _diverged(sweep),
            count_missing_networks(store, sweep.result()) if settings.keep_networks and sweep.done else 0,
        )
        for cell, sweep in zip(cells, sweeps, strict=True)
    ]


def _needs(sweep: PlainSweep, settings: PackSettings) -> SweepNeeds:
    assert sweep.final is not None  # a plain sweep is nothing else
    plan = sweep.final.plan
    source = method_source(plan.method)
    return SweepNeeds(sweep.name, plan.workload, sweep.final.fingerprint, plan.method, source, (settings.precision,))


def _diverged(sweep: PlainSweep) -> int:
    return sum(record.diverged for record in sweep.result()) if sweep.done else 0


def _sweep(cell: PlannedCell, settings: PackSettings, resources: Resources, place: int) -> PlainSweep:
    """A cell as the queue takes it: final runs without a search.

    It is split by its seeds and the workers alone, so that an interrupted one finds its checkpoints again.
    """
    workload, method = cell.cell.workload, cell.cell.method
    _, dataset = load_problem(workload, Path(settings.data) if settings.data else None)
    plan = plan_seeds(workload, method, cell.configuration, cell.all_seeds, workload.epochs, PUBLISHED)
    count = resources.gpus or resources.cpus
    parts = Workers(count, unfinished=_CELLS_AT_ONCE, others=count).parts(len(cell.all_seeds))
    sweep = PlainSweep(
        f"{workload.name}-{method}",
        cell.name,
        plan,
        dataset.fingerprint,
        settings,
        parts,
        on_cluster=bool(resources.address),
    )
    sweep.priority = place
    return sweep


def _write_tables(store: RunStore, view: View) -> None:
    """The runs are stored by now, so what goes wrong is only said."""
    try:
        write_tables(store)
    except (TpbenchError, OSError) as error:
        view.say(f"{WARNING}the tables were not written: {error}")


def write_tables(store: RunStore) -> None:
    """``leaderboard.csv`` and the tables of errors (``table_1.md``, ...) of a store, in its folder."""
    write_leaderboard(leaderboard(store), store)
    for table in ERROR_TABLES:
        write_atomically(store.folder / f"table_{table}.md", render(paper_table(store, table), "md"))
