"""What ``tpbench run`` and ``tpbench sweep`` do, between the command line and the code that trains."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tpbench.engine import TpbenchError, UsageError, get_method, method_source
from tpbench.results import RunStore, leaderboard, write_leaderboard
from tpbench.results.commands import continuing
from tpbench.results.location import absolute, location
from tpbench.results.runs import FULL_SEEDS
from tpbench.sweeps.cluster import Resources, check_shared, cluster_resources, nodes, ray_running, require_cluster_path
from tpbench.sweeps.continuing import continues
from tpbench.sweeps.definition import SweepDefinition, SweepFolder
from tpbench.sweeps.driver import Sweep, SweepResult
from tpbench.sweeps.packs import Outcome, PackJob, PackSettings, parse_seeds, plan_seeds
from tpbench.sweeps.progress import Display, View
from tpbench.sweeps.quiet import noise_to
from tpbench.sweeps.signals import interruptible
from tpbench.sweeps.sizing import Sizing, choose_sizes
from tpbench.sweeps.spaces import SearchSpace, space_for
from tpbench.workloads import Workload, get_workload, load_problem, obtain


@dataclass(frozen=True)
class CellChoice:
    """A workload and a method that go together."""

    workload: Workload
    method: str

    @classmethod
    def of(cls, workload: str, method: str) -> CellChoice:
        """Check both names.

        Raises:
            UsageError: one is unknown, or the method makes no sense on the workload.
        """
        found = get_workload(workload)
        get_method(method)
        if method in found.excluded_methods:
            raise UsageError(
                f"{method} cannot be trained on {workload}: all its forward parameters must be trained (section 4)"
            )
        return cls(found, method)


def run_seeds(
    cell: CellChoice,
    configuration: Mapping[str, float],
    found: Mapping[str, Any],
    seeds: tuple[int, ...],
    epochs: int | None,
    settings: PackSettings,
) -> list[Outcome]:
    """Train one configuration over seeds as one pack, without Ray; shows the epochs.

    Args:
        found: how the configuration was found (:mod:`tpbench.results.budgets`).
        epochs: None: the workload's.
    """
    epochs = epochs or cell.workload.epochs
    obtain(cell.workload.dataset, Path(settings.data) if settings.data else None, offline=settings.offline)
    job = PackJob(plan_seeds(cell.workload.name, cell.method, configuration, seeds, epochs, found), settings)
    with interruptible(settings.command), Display() as view:
        skipped = len(seeds) - len(job.missing)
        if skipped:
            view.say(f"{skipped} of {len(seeds)} runs are in {settings.results} already")
        if job.missing:
            job.store.require_writable()
            view.start("epochs", epochs)
        outcomes = job.run(lambda r: view.update("epochs", epochs * r.done / r.total, epochs, r.best_validation_error))
        view.end("epochs")
    return outcomes


def choose_final_seeds(count: int | None, seeds: str | None) -> tuple[int, ...]:
    """The seeds of a sweep's final runs: so many from 0 on, or those that are named (SEEDS, in any order).

    Raises:
        UsageError: both are given, or the seeds are written wrongly.
    """
    if seeds is None:
        return tuple(range(FULL_SEEDS if count is None else count))
    if count is not None:
        raise UsageError("--seeds says how many final runs there are, --final-seeds which: give one of them")
    return tuple(sorted(parse_seeds(seeds)))


@dataclass(frozen=True)
class SweepOptions:
    """What ``tpbench sweep`` was asked for."""

    trials: int
    seeds: tuple[int, ...]
    """Of the final runs."""
    epochs: int | None
    space: Path | None
    search_seed: int
    pack: int | None
    """Members per pack; None: measured."""
    resources: Resources
    fresh: bool = False
    """Start another sweep though there is one."""


def _sizes(cell: CellChoice, options: SweepOptions, settings: PackSettings) -> Sizing:
    """Measured here, or on a node of the cluster that trains."""
    resources = options.resources
    share = resources.per_pack(resources.concurrent)
    arguments: dict[str, Any] = {
        "trials": options.trials, "pack": options.pack, "cpus": resources.cpus, "gpus": resources.gpus,
        "threads": int(share["cpu"]), "device": settings.device, "precision": settings.precision,
    }  # fmt: skip
    if not resources.address:
        return choose_sizes(cell.workload.name, cell.method, **arguments)
    import ray

    task = ray.remote(choose_sizes).options(num_cpus=share["cpu"], num_gpus=share.get("gpu", 0))
    found: Sizing = ray.get(task.remote(cell.workload.name, cell.method, **arguments))
    return found


def _definition(cell: CellChoice, options: SweepOptions, space: SearchSpace, settings: PackSettings) -> SweepDefinition:
    data = Path(settings.data) if settings.data else None
    obtain(cell.workload.dataset, data, offline=settings.offline)
    _, dataset = load_problem(cell.workload, data)
    return SweepDefinition(
        cell.workload.name, cell.method, dataset.fingerprint, space.describe(), options.trials,
        options.epochs or cell.workload.epochs, options.seeds, options.search_seed, options.pack or 1, lag=1,
        precision=settings.precision, method_source=method_source(cell.method),
    )  # fmt: skip


def run_sweep(cell: CellChoice, options: SweepOptions, settings: PackSettings) -> SweepResult:
    """Search, then train the final runs; Ray's own output goes to a log file whose path is printed.

    Raises:
        UsageError: the search space is wrong, or the nodes of the cluster do not share the results folder.
        TpbenchError: the data set is missing, or the sweep failed.
    """
    if (options.resources.address or "").startswith("ray://"):
        return _run_through_client(cell, options, settings)
    space = space_for(cell.method, options.space)
    data = Path(settings.data) if settings.data else None
    wanted = _definition(cell, options, space, settings)
    # Ray's workers run elsewhere: they need paths that do not depend on the current folder.
    settings = replace(settings, results=absolute(settings.results), data=str(data.resolve()) if data else None)
    folder = SweepFolder.latest(location(settings.results) / "sweeps", wanted.id, fresh=options.fresh)
    with ExitStack() as stack:
        unsafe = stack.enter_context(folder.lock())
        folder.require_promising()
        stack.enter_context(interruptible(continues(settings.command)))
        stream = stack.enter_context(noise_to(folder.log))
        view = stack.enter_context(Display(stream))
        if unsafe:
            view.say(f"warning: {unsafe}")
        return _run_locked(cell, options, replace(settings, sweep=folder.folder.name), space, folder, wanted, view)


def _run_through_client(cell: CellChoice, options: SweepOptions, settings: PackSettings) -> SweepResult:
    """Ray's client connects from outside: the sweep itself runs as a task of the cluster, and sees its folders.

    Raises:
        UsageError: the results folder could not be meant for the cluster.
    """
    require_cluster_path(settings.results)
    inside = replace(options, resources=replace(options.resources, address="auto"))
    with interruptible(continues(settings.command)), ray_running(options.resources):
        import ray

        task = ray.remote(run_sweep).options(num_cpus=0, max_retries=0).remote(cell, inside, settings)
        try:
            result: SweepResult = ray.get(task)
        except KeyboardInterrupt:
            ray.cancel(task)
            raise
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, TpbenchError):
                raise error.cause from None
            raise
        return result


def _run_locked(
    cell: CellChoice, options: SweepOptions, settings: PackSettings, space: SearchSpace, folder: SweepFolder,
    wanted: SweepDefinition, view: View,
) -> SweepResult:  # fmt: skip
    address = options.resources.address
    with ray_running(options.resources, view.say) if address else nullcontext():
        if address:
            view.say(f"cluster {address}: {len(nodes())} nodes")
            check_shared(settings.results)
            options = replace(options, resources=cluster_resources(options.resources))
        if options.resources.gpus:
            settings = replace(settings, device="cuda")
        if not folder.exists or options.resources.gpus:
            sizes = _sizes(cell, options, settings)
            resources = replace(options.resources, packs_per_gpu=sizes.packs_per_gpu)
            # One more than train at once: a worker that gets done finds its next pack waiting, and Tune keeps its
            # process.
            wanted = replace(wanted, pack=sizes.pack, lag=resources.concurrent + 1)
            options = replace(options, resources=resources)
        definition, journal = folder.begin(wanted, continuing(settings.command))
        trials = f"{definition.trials} configurations in packs of {definition.pack}"
        view.say(f"sweep {definition.id}: {trials}, then {len(definition.seeds)} seeds")
        view.say(f"Ray's log: {folder.log}")
        sweep = Sweep(definition, space, folder, journal, settings, options.resources, view)
        with ray_running(options.resources, view.say) if not (address or sweep.done) else nullcontext():
            result = sweep.run()
        return replace(result, warnings=_write_board(sweep.store))


def _write_board(store: RunStore) -> tuple[str, ...]:
    """Write ``leaderboard.csv``; what went wrong, for the runs are trained and stored by now."""
    try:
        write_leaderboard(leaderboard(store), store)
    except (TpbenchError, OSError) as error:
        return (f"leaderboard.csv was not written: {error}",)
    return ()
