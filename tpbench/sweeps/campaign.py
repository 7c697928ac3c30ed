"""What ``tpbench sweep`` does: one sweep or several, through one queue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tpbench.engine import RuleError, TpbenchError, check_device_precision, method_source
from tpbench.results import RunRecord, RunStore, leaderboard, write_leaderboard
from tpbench.results.budgets import DEFAULT_OBJECTIVE
from tpbench.results.location import absolute, from_here, location
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.halving import pack_floor
from tpbench.search.spaces import SearchSpace, spaces_for
from tpbench.sweeps.board import Board
from tpbench.sweeps.cluster import (
    Resources,
    cluster_resources,
    head_address,
    ray_running,
    require_no_other_ray,
    result_of,
)
from tpbench.sweeps.gate import open_gate
from tpbench.sweeps.last_words import last_words
from tpbench.sweeps.nodes import Needs, SweepNeeds, ask_nodes, nodes, not_on, trainers
from tpbench.sweeps.options import SweepOptions
from tpbench.sweeps.packs import ALL_SWEEPS
from tpbench.sweeps.sweep import SearchedSweep, Workers
from tpbench.training.choice import CellChoice
from tpbench.training.console import interruptible, process_lock, redirect_output
from tpbench.training.pack import PackSettings, count_missing_networks, format_missing_networks, require_precision
from tpbench.training.progress import WARNING, Display, View
from tpbench.training.sizing import Sizing, choose_sizes
from tpbench.training.tracking import environment_warning, prepare_trackers
from tpbench.workloads import load_problem, obtain


@dataclass(frozen=True)
class SweepResult:
    """How one sweep ended."""

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
        return "failed" if self.failure else "done"


def require_success(results: Sequence[SweepResult]) -> None:
    """Say which sweeps failed.

    Raises:
        TpbenchError: one or more did; what the others trained is in the store.
    """
    failed = [f"{one.name}: {one.failure}" for one in results if one.failure]
    if failed and len(results) == 1:
        raise TpbenchError(f"the sweep {results[0].name} has failed: {results[0].failure}")
    if failed:
        raise TpbenchError(f"{len(failed)} of {len(results)} sweeps have failed; {'; '.join(failed)}")


@dataclass(frozen=True)
class _Wanted:
    """A sweep before it begins."""

    cell: CellChoice
    space: SearchSpace
    definition: SweepDefinition
    folder: SweepFolder


def _wanted(cell: CellChoice, space: SearchSpace, options: SweepOptions, settings: PackSettings) -> _Wanted:
    """Check the space and the data of a sweep before anything trains."""
    data = Path(settings.data) if settings.data else None
    obtain(cell.workload, data, offline=settings.offline)
    _, dataset = load_problem(cell.workload, data)
    definition = SweepDefinition(
        cell.workload.name,
        cell.method,
        dataset.fingerprint,
        space.describe(),
        options.trials,
        options.epochs or cell.workload.epochs,
        options.seeds,
        options.search_seed,
        options.pack or 1,
        lag=1,
        precision=settings.precision,
        method_source=method_source(cell.method),
        workload_source=cell.workload.source,
        objective=options.objective,
        halving=options.halving,
        # Asking for what holds anyway makes no other sweep.
        search_precision=options.search_precision if options.search_precision != settings.precision else "",
    )
    space.to_hyperopt()
    folder = SweepFolder.latest(location(settings.results) / "sweeps", definition.id, fresh=options.fresh)
    return _Wanted(cell, space, definition, folder)


def run_sweeps(
    cells: Sequence[CellChoice], options: SweepOptions, settings: PackSettings, *, progress: bool = True
) -> list[SweepResult]:
    """Search and train the final runs of every cell through one queue; one that fails does not stop the others.

    Ray's own output goes to a log file whose path is printed.

    Raises:
        UsageError: a search space is wrong, the device cannot do a precision, or the nodes of the cluster do not share
            the results folder.
        TpbenchError: a data set is missing, or a sweep is running already.
    """
    # Ray's workers run elsewhere: they need paths that do not depend on the current folder.
    data = str(Path(settings.data).resolve()) if settings.data else None
    settings = replace(settings, results=absolute(settings.results), data=data)
    # A sweep in another thread has a Ray of its own, which is gone when this one's turn comes.
    with process_lock():
        return _run_alone(cells, options, settings, progress)


def _run_alone(
    cells: Sequence[CellChoice], options: SweepOptions, settings: PackSettings, progress: bool
) -> list[SweepResult]:
    require_no_other_ray(options.resources)
    if not options.resources.address:
        settings = _on_device(options, settings)
    spaces = spaces_for((cell.method for cell in cells), options.space)
    wanted = [_wanted(cell, spaces[cell.method], options, settings) for cell in cells]
    with ExitStack() as stack:
        name_head = stack.enter_context(last_words(settings.command))
        unsafe = [stack.enter_context(one.folder.lock()) for one in wanted]
        stack.enter_context(interruptible(settings.command))
        stream = stack.enter_context(redirect_output(wanted[0].folder.log))
        view = stack.enter_context(Display(stream, progress=progress))
        for warning in filter(None, unsafe):
            view.say(f"{WARNING}{warning}")
        settings = replace(settings, track=prepare_trackers(settings.track, view.say))
        return _run_locked(wanted, options, settings, view, name_head)


def _on_device(options: SweepOptions, settings: PackSettings) -> PackSettings:
    """The settings with the device that the packs get, which must know the precisions that were asked for.

    What a cluster's nodes cannot do they say themselves, when sizes are measured on one.
    """
    device, here = "cuda" if options.resources.gpus else "cpu", not options.resources.address
    check_device_precision(settings.precision, device, here=here)
    if options.search_precision:
        check_device_precision(options.search_precision, device, "search precision", here=here)
    return replace(settings, device=device)


def _run_locked(
    wanted: list[_Wanted], options: SweepOptions, settings: PackSettings, view: View, name_head: Callable[[str], None]
) -> list[SweepResult]:
    address = options.resources.address
    with ray_running(options.resources, view.say) if address else nullcontext():
        if address:
            name_head(head_address())
            view.say(f"cluster {address}: {len(nodes())} nodes")
            if odd := environment_warning(settings.track):
                view.say(f"{WARNING}{odd}")
            options = replace(options, resources=cluster_resources(options.resources))
            settings = _on_device(options, settings)
        findings = _ask_nodes(wanted, options, settings, view) if address else None
        wanted, resources = _size(wanted, options, settings, view, findings.lacks if findings else {})
        sweeps = [_begin(one, options, settings, view) for one in wanted]
        _train(sweeps, resources, wanted[0].folder, view, findings)
        for sweep in sweeps:
            # What is wrong with one, its result says.
            with suppress(TpbenchError):
                sweep.close()
        _write_board(RunStore(location(settings.results)), view)
        results = [_result(one, sweep) for one, sweep in zip(wanted, sweeps, strict=True)]
        if settings.keep_networks:
            store = RunStore(location(settings.results))
            if count := count_missing_networks(store, (record for one in results for record in one.records)):
                view.say(format_missing_networks(count))
        return results


def _ask_nodes(wanted: list[_Wanted], options: SweepOptions, settings: PackSettings, view: View) -> Any:
    """What the nodes of the cluster lack for these sweeps (:class:`tpbench.sweeps.driver.NodeFindings`)."""
    from tpbench.sweeps.driver import NodeFindings

    resources = options.resources
    needs = Needs.of(
        [
            SweepNeeds(
                one.folder.folder.name,
                one.cell.workload,
                one.definition.fingerprint,
                one.cell.method,
                one.definition.method_source,
                tuple(dict.fromkeys((one.definition.precision, one.definition.searched_in))),
            )
            for one in wanted
        ],
        settings.data,
        settings.device,
    )
    answers = ask_nodes(settings.results, needs, trainers(resources.per_pack(resources.concurrent)), view.say)
    return NodeFindings(replace(needs, asked=answers.asked), answers.lacks)


Lacks = dict[str, dict[str, str]]
"""By node what it lacks, by the name of a sweep or for ``ALL_SWEEPS``."""


def _size(
    wanted: list[_Wanted], options: SweepOptions, settings: PackSettings, view: View, lacks: Lacks
) -> tuple[list[_Wanted], Resources]:
    """Pack sizes of the sweeps that are new, and how many packs of any share a GPU: one number for all.

    Nothing is measured on nodes that lack what the sweep needs; what a node turns out to lack is added to ``lacks``.
    """
    resources, sized, share = options.resources, [], []
    for one in wanted:
        if one.folder.exists and not resources.gpus:
            sized.append(one)
            continue
        # A sweep that was begun keeps its pack size.
        pack = one.folder.read().pack if one.folder.exists else options.pack
        if pack is None and len(wanted) > 1:
            view.say(f"measuring pack sizes: {one.cell.workload.name} {one.cell.method}")
        name = one.folder.folder.name
        sizes = _sizes(one.cell, replace(options, pack=pack), settings, view.say, name, lacks)
        share.append(sizes.packs_per_gpu)
        sized.append(replace(one, definition=replace(one.definition, pack=sizes.pack)))
    resources = replace(resources, packs_per_gpu=min(share, default=1))
    # One more than a sweep's share of the workers: who gets done finds the next pack waiting. Fixed now, so that the
    # same command gives the same searches whatever the timing.
    lag = -(-resources.concurrent // len(wanted)) + 1
    return [replace(one, definition=replace(one.definition, lag=lag)) for one in sized], resources


def _sizes(
    cell: CellChoice, options: SweepOptions, settings: PackSettings, say: Callable[[str], None], name: str, lacks: Lacks
) -> Sizing:
    """Measure here, or on a node of the cluster that can train the sweep of that name.

    Raises:
        TpbenchError: no node can.
    """
    resources = options.resources
    share = resources.per_pack(resources.concurrent)
    floor = pack_floor(options.halving, options.trials, resources.concurrent) if options.halving else 1
    arguments: dict[str, Any] = {
        "trials": options.trials,
        "pack": options.pack,
        "cpus": resources.cpus,
        "gpus": resources.gpus,
        "threads": int(share["cpu"]),
        "device": settings.device,
        "precision": options.search_precision or settings.precision,
        "floor": floor,
    }
    if not resources.address:
        return choose_sizes(cell.workload, cell.method, **arguments)
    while True:
        reasons = {node: found[key] for node, found in lacks.items() for key in (ALL_SWEEPS, name) if key in found}
        hosts = trainers(share)
        if hosts and hosts.keys() <= reasons.keys():
            told = "; ".join(f"{host}: {reasons[node]}" for node, host in hosts.items())
            raise TpbenchError(f"{name}: no node of the cluster can train it ({told})")
        node, measured = _sizes_on_a_node(cell, arguments, share, say, reasons)
        if isinstance(measured, Sizing):
            return measured
        lacks.setdefault(node, {})[name] = measured
        say(f"node {hosts.get(node, node[:8])} gets no packs of {name}: {measured}")


def _sizes_on_a_node(
    cell: CellChoice,
    arguments: Mapping[str, Any],
    share: Mapping[str, float],
    say: Callable[[str], None],
    avoid: Collection[str],
) -> tuple[str, Sizing | str]:
    """Measure on a node of the cluster; returns its id, and the sizes or what it lacks."""
    import ray

    gate = open_gate()
    # Its process ends with it: one that lives on would keep the GPU.
    where = {"label_selector": not_on(avoid)} if avoid else {}
    task = ray.remote(max_calls=1)(_measure).options(num_cpus=share["cpu"], num_gpus=share.get("gpu", 0), **where)
    call = task.remote(gate, cell, arguments)
    try:
        found: tuple[str, Sizing | str] = result_of(call, share, say, lambda: bool(ray.get(gate.take.remote(_SIZING))))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TpbenchError):
            raise error.cause from error
        raise
    return found


_SIZING = "sizing"


def _measure(gate: Any, cell: CellChoice, arguments: Mapping[str, Any]) -> tuple[str, Sizing | str]:
    """Runs on a node, and says at the gate that it does."""
    import ray

    gate.hand.remote(_SIZING, "begun")
    node = str(ray.get_runtime_context().get_node_id())
    try:
        return node, choose_sizes(cell.workload, cell.method, **arguments)
    except RuleError:
        raise  # the same everywhere
    except TpbenchError as error:
        return node, str(error)


def _begin(one: _Wanted, options: SweepOptions, settings: PackSettings, view: View) -> SearchedSweep:
    definition, journal = one.folder.begin(one.definition, settings.command)
    one.folder.keep_workload(one.cell.workload)
    trials = f"{definition.trials} configurations in packs of {definition.pack}"
    searched = f", searched in {definition.search_precision}" if definition.search_precision else ""
    halving = f", halved by {definition.halving}" if definition.halving else ""
    objective = f", by {definition.objective}" if definition.objective != DEFAULT_OBJECTIVE else ""
    seeds = f"{len(definition.seeds)} seed{'s' * (len(definition.seeds) != 1)}"
    # The other precision goes without saying only where the search has the same.
    final = f" in {definition.precision}" if searched else ""
    # One file need not have a space for all of them.
    space = f" of {one.space.path.name}" if options.space else ""
    view.say(f"sweep {definition.id}: {trials}{space}{searched}{halving}{objective}, then {seeds}{final}")
    sweep = SearchedSweep(
        definition,
        one.cell.workload,
        one.space,
        one.folder,
        journal,
        settings,
        accept_failures=options.accept_failures,
        on_cluster=bool(options.resources.address),
    )
    best = journal.best()
    if best and (known := RunStore(location(settings.results)).read(best[1].run)):
        # Older versions took sweeps of every precision for one and the same.
        require_precision(known, definition.searched_in, RunStore(location(settings.results)))
    return sweep


def _train(
    sweeps: list[SearchedSweep], resources: Resources, folder: SweepFolder, view: View, findings: Any = None
) -> None:
    """Look where each sweep stands, and train what is left; where nothing is, no Ray is started."""
    count = resources.gpus or resources.cpus
    for sweep in sweeps:
        sweep.begin(Workers(count, len(sweeps), sum(other.potential for other in sweeps if other is not sweep)))
    board = Board(view, sweeps)
    if all(sweep.finished for sweep in sweeps):
        board.show()
        return
    view.say(f"starting Ray; its log: {from_here(folder.log)}")
    with ray_running(resources, view.say) if not resources.address else nullcontext():
        from tpbench.sweeps.driver import run_queue

        board.start()
        run_queue(sweeps, resources, folder.ray, board, nodes=findings)


def _result(one: _Wanted, sweep: SearchedSweep) -> SweepResult:
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


def _write_board(store: RunStore, view: View) -> None:
    """Write ``leaderboard.csv``; the runs are trained and stored by now, so what goes wrong is only said."""
    try:
        write_leaderboard(leaderboard(store), store)
    except (TpbenchError, OSError) as error:
        view.say(f"{WARNING}leaderboard.csv was not written: {error}")
