"""``tpbench sweep``: one sweep or several, through one queue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from tpbench.engine import RuleError, TpbenchError
from tpbench.options import SweepOptions
from tpbench.results import RunRecord, RunStore, leaderboard, write_leaderboard
from tpbench.search.configurations import SearchInput, search_inputs
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.spaces import SearchSpace
from tpbench.sweeps.cluster import choose_resources, require_no_other_ray, wait_for_task
from tpbench.sweeps.nodes import SweepNeeds, capable_nodes, exclude_nodes
from tpbench.sweeps.session import Session, for_workers, on_device, training_session
from tpbench.sweeps.sweep import ALL_SWEEPS, SearchedSweep, Workers
from tpbench.sweeps.trainable import open_mailbox
from tpbench.training.choice import CellChoice
from tpbench.training.console import process_lock
from tpbench.training.plan import PackSettings, format_missing_networks, require_precision
from tpbench.training.progress import WARNING, View
from tpbench.training.sizing import Sizing, choose_sizes
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
class _PlannedSweep:
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
        planned = [_plan(cell, one, options, settings) for cell, one in zip(cells, inputs, strict=True)]
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
                sweep.begin(Workers(count, len(sweeps), others))
            session.train(sweeps)
            for sweep in sweeps:
                # Its result holds what is wrong with it.
                with suppress(TpbenchError):
                    sweep.close()
            _write_leaderboard(session.settings.store, session.view)
            results = [_result(one, sweep) for one, sweep in zip(planned, sweeps, strict=True)]
            if missing := session.settings.missing_networks(record for one in results for record in one.records):
                session.view.say(format_missing_networks(missing))
            return results


def _plan(cell: CellChoice, searched: SearchInput, options: SweepOptions, settings: PackSettings) -> _PlannedSweep:
    """Check the data of a sweep before anything trains."""
    space = searched.space
    settings.obtain(cell.workload)
    _, dataset = load_problem(cell.workload, settings.data_folder)
    definition = SweepDefinition.of(
        options, cell.workload, cell.method, dataset.fingerprint, space.describe(), searched.known
    )
    space.to_hyperopt()
    folder = SweepFolder.latest(settings.store.folder / "sweeps", definition.id, fresh=options.fresh)
    return _PlannedSweep(cell, space, definition, folder)


def _choose_sizes(planned: list[_PlannedSweep], options: SweepOptions, session: Session) -> list[_PlannedSweep]:
    """Give sweeps that are new their pack size, and the session how many packs share a GPU: one number for all."""
    resources, sized, per_gpu = session.resources, [], []
    for one in planned:
        if one.folder.exists and not resources.gpus:
            sized.append(one)
            continue
        # A sweep that was begun keeps its pack size.
        pack = one.folder.read().pack if one.folder.exists else options.pack_size
        if pack is None and len(planned) > 1:
            session.view.say(f"measuring pack sizes: {one.cell.workload.name} {one.cell.method}")
        sizes = _measure_sizes(one, pack, options, session)
        per_gpu.append(sizes.packs_per_gpu)
        sized.append(replace(one, definition=replace(one.definition, pack=sizes.pack)))
    session.resources = replace(resources, packs_per_gpu=min(per_gpu, default=1))
    # One more than a sweep's share of the workers: a worker that ends its pack finds the next one waiting. Fixed now,
    # so that the same command gives the same searches whatever the timing.
    pending = -(-session.resources.concurrent // len(planned)) + 1
    return [replace(one, definition=replace(one.definition, lag=pending)) for one in sized]


def _measure_sizes(one: _PlannedSweep, pack: int | None, options: SweepOptions, session: Session) -> Sizing:
    """Measure the sizes of a sweep here, or on a node of the cluster that can train it.

    Nothing is measured on nodes that lack what the sweep needs; what a node turns out to lack is added to the session's
    findings.

    Args:
        one: the sweep.
        pack: its members per pack; None: measured.
        options: of the command.
        session: with the resources.

    Raises:
        TpbenchError: no node can.
    """
    resources, share = session.resources, session.resources.share
    arguments: dict[str, Any] = {
        "trials": options.trials,
        "pack": pack,
        "cpus": resources.cpus,
        "gpus": resources.gpus,
        "threads": int(share["cpu"]),
        "device": session.settings.device,
        "precision": one.definition.searched_in,
        "floor": one.definition.smallest_pack(resources.concurrent),
    }
    if session.findings is None:
        return choose_sizes(one.cell.workload, one.cell.method, **arguments)
    lacks = session.findings.lacks
    while True:
        reasons = {node: of[key] for node, of in lacks.items() for key in (ALL_SWEEPS, one.name) if key in of}
        hosts = capable_nodes(share)
        if hosts and hosts.keys() <= reasons.keys():
            listed = "; ".join(f"{host}: {reasons[node]}" for node, host in hosts.items())
            raise TpbenchError(f"{one.name}: no node of the cluster can train it ({listed})")
        node, sizes = _measure_on_cluster(one.cell, arguments, share, session.view.say, reasons)
        if isinstance(sizes, Sizing):
            return sizes
        lacks.setdefault(node, {})[one.name] = sizes
        session.view.say(f"node {hosts.get(node, node[:8])} gets no packs of {one.name}: {sizes}")


def _measure_on_cluster(
    cell: CellChoice,
    arguments: Mapping[str, Any],
    share: Mapping[str, float],
    say: Callable[[str], None],
    avoid: Collection[str],
) -> tuple[str, Sizing | str]:
    """Measure on a node of the cluster; returns its id, and the sizes or what it lacks."""
    import ray

    mailbox = open_mailbox()
    # Its process ends with it: one that lives on would keep the GPU.
    where = {"label_selector": exclude_nodes(avoid)} if avoid else {}
    task = ray.remote(max_calls=1)(_measure).options(num_cpus=share["cpu"], num_gpus=share.get("gpu", 0), **where)
    call = task.remote(mailbox, cell, arguments)
    try:
        measured: tuple[str, Sizing | str] = wait_for_task(
            call, share, say, lambda: bool(ray.get(mailbox.take.remote(_SIZING)))
        )
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TpbenchError):
            raise error.cause from error
        raise
    return measured


_SIZING = "sizing"


def _measure(mailbox: Any, cell: CellChoice, arguments: Mapping[str, Any]) -> tuple[str, Sizing | str]:
    """Measure on the node where this runs, and leave word that it has begun."""
    import ray

    mailbox.put.remote(_SIZING, b"begun")
    node = str(ray.get_runtime_context().get_node_id())
    try:
        return node, choose_sizes(cell.workload, cell.method, **arguments)
    except RuleError:
        raise  # the same everywhere
    except TpbenchError as error:
        return node, str(error)


def _begin(one: _PlannedSweep, options: SweepOptions, session: Session) -> SearchedSweep:
    """Begin a sweep or continue it, and print a line about it."""
    settings = session.settings
    definition, journal = one.folder.begin(one.definition, settings.options)
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


def _result(one: _PlannedSweep, sweep: SearchedSweep) -> SweepResult:
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


def _write_leaderboard(store: RunStore, view: View) -> None:
    """Write ``leaderboard.csv``; the runs are trained and stored by now, so an error is shown and not raised."""
    try:
        write_leaderboard(leaderboard(store), store)
    except (TpbenchError, OSError) as error:
        view.say(f"{WARNING}leaderboard.csv was not written: {error}")
