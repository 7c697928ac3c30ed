"""``tpbench sweep``: one sweep or several, through one queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median

from tpbench.engine import TpbenchError, get_method
from tpbench.options import SweepOptions
from tpbench.results import RunRecord, RunStore, leaderboard, write_leaderboard
from tpbench.results.cells import Cell
from tpbench.search.brackets import bracket_sizes
from tpbench.search.configurations import SearchInput, search_inputs
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.spaces import SearchSpace
from tpbench.sweeps.cluster import Resources, choose_resources, require_no_other_ray
from tpbench.sweeps.nodes import SweepNeeds
from tpbench.sweeps.session import Session, for_workers, on_device, training_session
from tpbench.sweeps.sizes import SizeRequest, measure_here, measure_on_nodes, share_workers
from tpbench.sweeps.sweep import QueuedSweep, SearchedSweep, Workers
from tpbench.training.choice import CellChoice
from tpbench.training.console import process_lock
from tpbench.training.plan import PackSettings, format_missing_networks, require_precision
from tpbench.training.progress import WARNING, View
from tpbench.training.sizing import Sizing, guessed_cost
from tpbench.workloads import load_problem


@dataclass(frozen=True)
class SweepResult:
    """The end of one sweep."""

    cell: CellChoice
    name: str
    tried: int
    """Configurations of the search that ended."""
    best_error: float | None
    """Lowest validation error of the search, a fraction."""
    records: list[RunRecord]
    """The final runs, one per seed; none if it failed."""
    seconds: float
    failure: str | None = None

    @property
    def state(self) -> str:
        """``failed`` or ``done``."""
        return "failed" if self.failure else "done"


def require_success(results: Sequence[SweepResult]) -> None:
    """Raise an error that names the sweeps which failed.

    Raises:
        TpbenchError: one or more did; what the others trained is in the store.
    """
    failed = [f"{one.name}: {one.failure}" for one in results if one.failure]
    if failed and len(results) == 1:
        raise TpbenchError(f"the sweep {results[0].name} has failed: {results[0].failure}")
    if failed:
        raise TpbenchError(f"{len(failed)} of {len(results)} sweeps have failed; {'; '.join(failed)}")


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep before it begins."""

    cell: CellChoice
    space: SearchSpace
    definition: SweepDefinition
    folder: SweepFolder

    @property
    def name(self) -> str:
        return self.folder.folder.name

    @property
    def needs(self) -> SweepNeeds:
        d = self.definition
        precisions = tuple(dict.fromkeys((d.precision, d.searched_in)))
        return SweepNeeds(self.name, self.cell.workload, d.fingerprint, d.method, d.method_source, precisions)


def run_sweeps(
    cells: Sequence[CellChoice], options: SweepOptions, settings: PackSettings, *, progress: bool = True
) -> list[SweepResult]:
    """Search and train the final runs of every cell through one queue; one that fails does not stop the others.

    Ray's own output goes to a log file whose path is printed.

    Args:
        cells: what is searched.
        options: of ``tpbench sweep``.
        settings: how packs are trained.
        progress: whether anything is shown.

    Returns:
        The results, in the order of the cells.

    Raises:
        UsageError: a search space or known configuration is wrong, the device cannot do a precision, or the nodes of
            the cluster do not share the results folder.
        TpbenchError: a data set is missing, or a sweep is running already.
    """
    inputs = search_inputs(cells, options)
    settings, resources = for_workers(settings), choose_resources(options.cpus, options.gpus, options.address)
    # A sweep in another thread has a Ray of its own, which is gone when this one's turn comes.
    with process_lock():
        require_no_other_ray(resources)
        if not resources.address:
            # Refused before anything is downloaded.
            settings = on_device(settings, resources, options.searched_in)
        planned = [plan_sweep(cell, one, options, settings) for cell, one in zip(cells, inputs, strict=True)]
        folders = [one.folder for one in planned]
        with training_session(
            folders, settings, resources, searched_in=options.searched_in, progress=progress
        ) as session:
            session.ask_nodes([one.needs for one in planned])
            planned = _choose_sizes(planned, options, session)
            sweeps = [_begin(one, options, session) for one in planned]
            count = session.resources.gpus or session.resources.cpus
            for sweep in sweeps:
                others = sum(other.potential for other in sweeps if other is not sweep)
                sweep.begin(Workers(count, len(sweeps), others, on_gpus=bool(session.resources.gpus)))
            session.train(sweeps, on_end=_close)
            _write_leaderboard(session.settings.store, session.view)
            results = [_result(one, sweep) for one, sweep in zip(planned, sweeps, strict=True)]
            for one, result in zip(planned, results, strict=True):
                if shown := other_label(one.definition, result.records):
                    session.view.say(
                        f"{one.name}: runs of its best configuration were in the store before; tables show them as "
                        f"'{shown}', not as '{one.definition.label}'"
                    )
            if missing := session.settings.missing_networks(record for one in results for record in one.records):
                session.view.say(format_missing_networks(missing))
            return results


def plan_sweep(cell: CellChoice, searched: SearchInput, options: SweepOptions, settings: PackSettings) -> PlannedSweep:
    """Return a sweep whose data and search space are checked; nothing is written.

    Raises:
        UsageError: the search space is wrong.
        TpbenchError: the data set is missing.
    """
    space = searched.space
    settings.obtain(cell.workload)
    _, dataset = load_problem(cell.workload, settings.data_folder)
    definition = SweepDefinition.of(
        options, cell.workload, cell.method, dataset.fingerprint, space.describe(), searched.known
    )
    space.of_network(get_method(cell.method), cell.workload.architecture).to_hyperopt()
    folder = SweepFolder.latest(settings.store.folder / "sweeps", definition.id, fresh=options.fresh)
    return PlannedSweep(cell, space, definition, folder)


def _choose_sizes(planned: list[PlannedSweep], options: SweepOptions, session: Session) -> list[PlannedSweep]:
    """Give new sweeps their pack size and lag, and the session how many packs share a GPU: one number for all.

    Nothing is measured for a sweep that was begun, unless it comes to GPUs for the first time.
    """
    resources = session.resources
    known = {one.name: one.folder.read() for one in planned if one.folder.exists}
    packs = {
        one.name: known[one.name].pack if one.name in known else options.pack_size
        for one in planned
        if one.name not in known or (resources.gpus and not known[one.name].packs_per_gpu)
    }
    sizes = _measure_sizes([one for one in planned if one.name in packs], packs, len(planned), session)
    for one in planned:
        if one.name not in sizes:
            d = known[one.name]
            sizes[one.name] = Sizing(d.pack, d.packs_per_gpu, {d.pack: d.cost} if d.cost else {})
    per_gpu = min((size.packs_per_gpu for size in sizes.values()), default=1)
    session.resources = resources = replace(resources, packs_per_gpu=max(1, per_gpu))
    # A command that names the pack size gives the same searches each time: no lag depends on a measurement then.
    measured = options.pack_size is None
    ordered = [sizes[one.name] for one in planned]
    guesses = [guessed_cost(one.cell.workload) for one in planned]
    # Guesses hold among themselves; beside measurements they are made as large.
    ratios = [size.cost / guess for size, guess in zip(ordered, guesses, strict=True) if measured and size.cost]
    scale = median(ratios) if ratios else 1.0
    costs = [
        (measured and size.costs) or {size.pack: scale * guess} for size, guess in zip(ordered, guesses, strict=True)
    ]
    shares = share_workers([one.definition for one in planned], costs, resources.concurrent)
    chosen = []
    for one, size, (pack, lag) in zip(planned, ordered, shares, strict=True):
        definition = known.get(one.name) or replace(one.definition, pack=pack, lag=lag)
        # A definition that is there stays as it is; what was measured now is good for the order of sweeps.
        cost = definition.cost or size.costs.get(definition.pack, 0.0)
        per_gpu = size.packs_per_gpu if resources.gpus else 0
        chosen.append(replace(one, definition=replace(definition, cost=cost, packs_per_gpu=per_gpu)))
    if len(known) < len(planned) and (message := format_idle([one.definition for one in chosen], resources)):
        session.view.say(message)
    return chosen


def format_idle(definitions: Sequence[SweepDefinition], resources: Resources) -> str:
    """Return a line if searches cannot use so many GPUs; empty if they can, or there is none."""
    packs, at_once = sum(d.pack_count for d in definitions), sum(min(d.lag, d.pack_count) for d in definitions)
    gpus, used = resources.gpus, -(-at_once // resources.packs_per_gpu)
    if used >= gpus:
        return ""
    return f"{packs} packs of the search for {gpus} GPUs, {at_once} at the same time: {gpus - used} GPUs stay idle"


def _measure_sizes(
    new: Sequence[PlannedSweep], packs: Mapping[str, int | None], cells: int, session: Session
) -> dict[str, Sizing]:
    """Measure the sizes of sweeps: here one after the other, or at the same time on the nodes of the cluster.

    Args:
        new: the sweeps.
        packs: by the name of a sweep its members per pack; None: measured.
        cells: sweeps of the command.
        session: with the resources.

    Raises:
        TpbenchError: no node can measure a sweep.
    """
    resources, requests = session.resources, []
    for one in new:
        d = one.definition
        arguments = {
            "trials": d.trials,
            "cells": cells,
            "pack": packs[one.name],
            "cpus": resources.cpus,
            "gpus": resources.gpus,
            "threads": int(resources.share["cpu"]),
            "device": session.settings.device,
            "precision": d.searched_in,
            "brackets": bracket_sizes(d.halving, on_gpus=bool(resources.gpus)),
        }
        requests.append(SizeRequest(one.name, one.cell, arguments))
    if session.findings is None:
        return measure_here(requests, session.view.say)
    return measure_on_nodes(requests, resources.share, session.findings, session.view.say)


def _begin(one: PlannedSweep, options: SweepOptions, session: Session) -> SearchedSweep:
    """Begin a sweep or continue it, and print a line about it."""
    settings = session.settings
    definition, journal = one.folder.begin(one.definition, settings.options)
    if options.pack_size not in (None, definition.pack):
        session.view.say(
            f"{one.name} was begun with packs of {definition.pack}: --pack {options.pack} is not used; --fresh starts "
            "another sweep"
        )
    one.folder.keep_workload(one.cell.workload)
    # One file need not have a space for all of them.
    session.view.say(definition.announcement(one.space.path.name if options.space else ""))
    sweep = SearchedSweep(
        definition,
        one.cell.workload,
        one.space,
        one.folder,
        journal,
        settings,
        accept_failures=options.accept_failures,
        on_cluster=bool(options.address),
    )
    best = journal.best()
    if best and (known := settings.store.read(best[1].run)):
        # Older versions took sweeps of every precision for one and the same.
        require_precision(known, definition.searched_in, settings.store)
    return sweep


def _close(sweep: QueuedSweep) -> None:
    """Note in a sweep's journal that its final runs are there; its result holds what is wrong with it."""
    if isinstance(sweep, SearchedSweep):
        with suppress(TpbenchError):
            sweep.close()


def _result(one: PlannedSweep, sweep: SearchedSweep) -> SweepResult:
    records, failure = [], sweep.failure
    try:
        records = sweep.result()
    except TpbenchError as error:
        failure = str(error)
    best = sweep.journal.best()
    return SweepResult(
        one.cell,
        sweep.name,
        sweep.journal.ended_count,
        best[1].validation_error if best else None,
        records,
        sweep.seconds,
        failure,
    )


def other_label(definition: SweepDefinition, finals: Sequence[RunRecord]) -> str:
    """Return the tuning label of a sweep's final runs in tables; empty if it is the sweep's own, or there are none.

    A run keeps the origin that it was stored with: of the authors' configuration, or of another search.
    """
    if not finals:
        return ""
    shown = Cell(definition.workload, definition.method, "", tuple(finals)).tuning
    return "" if shown == definition.label else shown


def _write_leaderboard(store: RunStore, view: View) -> None:
    """Write ``leaderboard.csv``; the runs are trained and stored by now, so an error is shown and not raised."""
    try:
        write_leaderboard(leaderboard(store), store)
    except (TpbenchError, OSError) as error:
        view.say(f"{WARNING}leaderboard.csv was not written: {error}")
