"""``tpbench sweep --dry-run``: how long sweeps would take on this machine, from steps that are measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from tpbench.engine import SCHEDULE, TpbenchError, UsageError, get_method
from tpbench.engine.protocol import Schedule
from tpbench.options import SweepOptions
from tpbench.search.brackets import bracket_sizes
from tpbench.search.configurations import search_inputs
from tpbench.search.definition import SELECTION_SEED, SweepDefinition, sweep_status
from tpbench.sweeps.campaign import PlannedSweep, plan_sweep
from tpbench.sweeps.cluster import Resources, choose_resources
from tpbench.sweeps.session import on_device
from tpbench.sweeps.sweep import Workers
from tpbench.training.choice import CellChoice
from tpbench.training.plan import PackSettings
from tpbench.training.sizing import measure_sizes, pack_sizes, run_seconds

if TYPE_CHECKING:
    import pandas as pd

    from tpbench.workloads.benchmark import BenchmarkRow


@dataclass(frozen=True)
class SweepEstimate:
    """The time that a sweep still takes, in seconds of one worker: a CPU core or a GPU.

    Not counted are starts of processes, runs that diverge or are pruned, those of other sweeps that the store has, and
    other programs on the machine.
    """

    cell: CellChoice
    pack: int
    """Members of a pack of the search."""
    configurations: int
    """Those that the search has yet to try."""
    search_seconds: float
    seeds: int
    """Final runs that are missing."""
    final_seconds: float

    @property
    def seconds(self) -> float:
        """Search and final runs together."""
        return self.search_seconds + self.final_seconds

    def shortest(self, workers: int) -> float:
        """Return the least seconds that so many workers take: the final runs wait for the search."""
        packs = -(-self.configurations // self.pack)
        return self.search_seconds / max(1, min(workers, packs)) + self.final_seconds / max(1, min(workers, self.seeds))


@dataclass(frozen=True)
class SweepPlan:
    """The sweeps of a command before they begin."""

    sweeps: Sequence[SweepEstimate]
    left: Sequence[str]
    """A line for each reason why others cannot be trained here."""
    workers: int
    """CPU cores or GPUs that train."""
    on_gpus: bool

    @property
    def seconds(self) -> float:
        """Seconds of one worker."""
        return sum(one.seconds for one in self.sweeps)

    @property
    def shortest(self) -> float:
        """The least seconds on all workers."""
        return max([self.seconds / self.workers, *(one.shortest(self.workers) for one in self.sweeps)])

    def frame(self) -> pd.DataFrame:
        """Return one row per sweep."""
        import pandas as pd

        names = ("pack", "configurations", "search_seconds", "seeds", "final_seconds")
        rows = [
            (one.cell.workload.name, one.cell.method, *(getattr(one, name) for name in names)) for one in self.sweeps
        ]
        return pd.DataFrame(rows, columns=["workload", "method", *names])


def estimate_sweeps(
    cells: Sequence[CellChoice], options: SweepOptions, settings: PackSettings, say: Callable[[str], None]
) -> SweepPlan:
    """Measure how long sweeps would take on this machine; nothing is trained, downloaded or written.

    Args:
        cells: what would be searched.
        options: of ``tpbench sweep``.
        settings: how packs would be trained.
        say: shows a line.

    Raises:
        UsageError: a search space or known configuration is wrong, the device cannot do a precision, or the sweeps
            would run on a cluster.
    """
    if options.address:
        reason = "a dry run measures this machine, not a cluster: make it on one of the nodes, without an address"
        raise UsageError(reason, parameter="address", value=options.address)
    inputs, resources = search_inputs(cells, options), choose_resources(options.cpus, options.gpus, None)
    settings = on_device(replace(settings, offline=True), resources, options.searched_in)
    left: dict[tuple[str, str], list[str]] = defaultdict(list)
    sweeps = []
    for cell, one in zip(cells, inputs, strict=True):
        try:
            planned = plan_sweep(cell, one, options, settings)
            say(f"measuring {cell.workload.name} {cell.method}")
            sweeps.append(_estimate(planned, len(cells), options, settings, resources))
        except UsageError:
            raise
        except TpbenchError as error:
            left[cell.workload.name, str(error)].append(cell.method)
    lines = [f"{name} {', '.join(methods)}: {reason}" for (name, reason), methods in left.items()]
    return SweepPlan(sweeps, lines, resources.concurrent, bool(resources.gpus))


def _work_left(one: PlannedSweep, settings: PackSettings) -> tuple[int, int]:
    """Return how many configurations and final seeds a sweep has yet to train.

    Raises:
        TpbenchError: it is damaged or has failed.
    """
    d, store = one.definition, settings.store
    if not one.folder.exists:
        return d.trials, len(d.seeds) - _found_by_search(d, settings)
    status = sweep_status(one.folder, store=store)
    if status.state in ("damaged", "failed"):
        raise TpbenchError(f"the sweep {one.name} is {status.state}: {status.reason}")
    if status.state == "done":
        return 0, settings.missing_networks(one.folder.read_journal().final_runs(store) or [])
    configurations = d.trials - status.searched
    found = _found_by_search(d, settings) if configurations else 0
    return configurations, len(d.seeds) - max(status.seeds_done, found)


def _found_by_search(d: SweepDefinition, settings: PackSettings) -> int:
    """Return how many of the final runs the search itself trains: its best one, where that is trained as they are."""
    same = d.searched_in == d.precision and d.trial_epochs == d.epochs and SELECTION_SEED in d.seeds
    return int(same and not settings.keep_networks)


def _estimate(
    one: PlannedSweep, cells: int, options: SweepOptions, settings: PackSettings, resources: Resources
) -> SweepEstimate:
    """Measure packs of the search and of the final runs."""
    d, workload, method, on_gpus = one.definition, one.cell.workload, one.cell.method, bool(resources.gpus)
    configurations, seeds = _work_left(one, settings)
    pack = one.folder.read().pack if one.folder.exists else options.pack_size
    brackets = bracket_sizes(d.halving, on_gpus=on_gpus)
    workers = resources.concurrent
    sizes = pack_sizes(d.trials, cells=cells, concurrent=workers, device=settings.device, brackets=brackets)
    schedule = workload.feedback_schedule(get_method(method))
    pretrain, between = (schedule.get(name, 0) for name in SCHEDULE)

    @cache
    def largest(precision: str, *sizes: int) -> tuple[int, BenchmarkRow]:
        """Return the size that a sweep would choose, or what fits of it, and its measurement."""
        rows = measure_sizes(
            workload,
            method,
            sizes,
            sharing=workers,
            threads=int(resources.share["cpu"]),
            device=settings.device,
            precision=precision,
        )
        if not rows:
            raise TpbenchError("not even one member fits into the memory")
        return max(rows.items())

    of_search, of_final = 0.0, 0.0
    if configurations:
        pack, row = largest(d.searched_in, *([min(pack, d.trials)] if pack else sizes))
        bracket = replace(d, pack=pack).bracket
        before = pretrain - between  # none follows the last joint epoch
        for members, epochs in bracket.stretches(pack) if bracket else [(pack, d.trial_epochs)]:
            # On a GPU a step takes nearly as long for a few members as for all.
            row = largest(d.searched_in, members)[1] if on_gpus else row
            of_search += members * run_seconds(row, method, epochs, before + between * epochs)
            before = 0
    if seeds:
        parts = Workers(workers, cells, workers if cells > 1 else 0, on_gpus).parts(len(d.seeds))
        row = largest(d.precision, -(-len(d.seeds) // parts))[1]
        of_final = run_seconds(row, method, d.epochs, Schedule(d.epochs, pretrain, between).feedback_epochs)
    pack = pack or sizes[0]
    return SweepEstimate(one.cell, pack, configurations, configurations / pack * of_search, seeds, seeds * of_final)
