"""What ``tpbench run`` and ``tpbench sweep`` do, between the command line and the code that trains."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tpbench.engine import UsageError, get_method
from tpbench.engine.errors import InterruptedWork
from tpbench.results import RunStore, choose_cells
from tpbench.results.location import absolute, location
from tpbench.sweeps.definition import SweepDefinition, SweepFolder
from tpbench.sweeps.driver import Resources, Sweep, SweepResult
from tpbench.sweeps.packs import Outcome, PackJob, PackSettings, plan_seeds
from tpbench.sweeps.progress import Display
from tpbench.sweeps.quiet import noise_to
from tpbench.sweeps.sizing import choose_pack
from tpbench.sweeps.spaces import load_configuration, published_configuration, space_for
from tpbench.workloads import Workload, get_workload, load_problem


@contextmanager
def interruptible(command: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM (which SLURM sends before its limit) end the work with the command that continues it.

    Raises:
        InterruptedWork: one of the two came.
    """
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedWork(f"interrupted; what was finished is stored. To continue: {command}") from None
    finally:
        signal.signal(signal.SIGTERM, handler)


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


def find_configuration(cell: CellChoice, config: str, results: str) -> dict[str, float]:
    """``published``, ``best`` (of the store) or a file.

    Raises:
        UsageError: there is no such configuration.
    """
    if config == "published":
        return published_configuration(cell.workload, cell.method)
    if config == "best":
        cells = choose_cells(RunStore(location(results)).records())
        found = [c for (w, _, m), c in cells.items() if (w, m) == (cell.workload.name, cell.method)]
        if not found:
            raise UsageError(f"{results} holds no run of {cell.method} on {cell.workload.name} to take the best from")
        return dict(found[0].runs[0].definition.configuration)
    path = Path(config)
    if not path.is_file():
        raise UsageError(f"--config '{config}': neither 'published', 'best' nor a file")
    return load_configuration(cell.workload, cell.method, path)


def run_seeds(
    cell: CellChoice,
    configuration: Mapping[str, float],
    seeds: tuple[int, ...],
    epochs: int | None,
    settings: PackSettings,
) -> list[Outcome]:
    """Train one configuration over seeds as one pack, without Ray; shows the epochs."""
    epochs = epochs or cell.workload.epochs
    job = PackJob(plan_seeds(cell.workload.name, cell.method, configuration, seeds, epochs), settings)
    with interruptible(settings.command), Display() as view:
        skipped = len(seeds) - len(job.missing)
        if skipped:
            view.say(f"{skipped} of {len(seeds)} runs are in {settings.results} already")
        if job.missing:
            view.start("epochs", epochs)
        outcomes = job.run(lambda r: view.update("epochs", epochs * r.done / r.total, epochs, r.best_validation_error))
        view.end("epochs")
    return outcomes


@dataclass(frozen=True)
class SweepOptions:
    """What ``tpbench sweep`` was asked for."""

    trials: int
    seeds: int
    epochs: int | None
    space: Path | None
    search_seed: int
    pack: int | None
    """Members per pack; None: measured."""
    resources: Resources
    fresh: bool = False
    """Start another sweep though there is one."""


def machine_cpus() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measured_pack(cell: CellChoice, options: SweepOptions, settings: PackSettings) -> int:
    concurrent = options.resources.concurrent
    return choose_pack(
        cell.workload, cell.method, trials=options.trials, concurrent=concurrent,
        threads=int(options.resources.per_pack(concurrent)["cpu"]), device=settings.device,
        precision=settings.precision,
    )  # fmt: skip


def run_sweep(cell: CellChoice, options: SweepOptions, settings: PackSettings) -> SweepResult:
    """Search, then train the final runs; Ray's own output goes to a log file whose path is printed.

    Raises:
        UsageError: the search space is wrong.
        TpbenchError: the data set is missing, or the sweep failed.
    """
    space = space_for(cell.method, options.space)
    data = Path(settings.data) if settings.data else None
    _, dataset = load_problem(cell.workload, data)
    # Ray's workers run elsewhere: they need paths that do not depend on the current folder.
    settings = replace(settings, results=absolute(settings.results), data=str(data.resolve()) if data else None)
    wanted = SweepDefinition(
        cell.workload.name, cell.method, dataset.fingerprint, space.describe(), options.trials,
        options.epochs or cell.workload.epochs, tuple(range(options.seeds)), options.search_seed, options.pack or 1,
        # One more than train at once: a worker that gets done finds its next pack waiting, and Tune keeps its process.
        options.resources.concurrent + 1,
    )  # fmt: skip
    folder = SweepFolder.latest(location(settings.results) / "sweeps", wanted.id, fresh=options.fresh)
    if options.pack is None and not folder.exists:
        wanted = replace(wanted, pack=_measured_pack(cell, options, settings))
    with folder.lock(), interruptible(settings.command), noise_to(folder.log) as stream, Display(stream) as view:
        definition, journal = folder.begin(wanted, settings.command)
        trials = f"{definition.trials} configurations in packs of {definition.pack}"
        view.say(f"sweep {definition.id}: {trials}, then {len(definition.seeds)} seeds")
        view.say(f"Ray's log: {folder.log}")
        return Sweep(definition, space, folder, journal, settings, options.resources, view).run()
