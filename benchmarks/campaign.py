"""A campaign on a GPU cluster, simulated: the real scheduler, sizes and sweeps against a clock of their own.

    python benchmarks/campaign.py                        # sweep all all on 8 nodes of 8 H100
    python benchmarks/campaign.py --halving 3 --faults gpu,spot --checkpoint-bandwidth 2
    python benchmarks/campaign.py --rules add40e1 --halving 3     # the rules of commit add40e1, whatever the code has
    python benchmarks/campaign.py --pack 18 --parts 2 --order longest --halving 3
    python benchmarks/campaign.py --campaigns 2          # two users with equal commands

Nothing trains, and neither Ray nor a GPU is used. Real are ``Scheduler``, ``SearchedSweep`` with ``PackedSearch`` and
its journal (in memory), brackets, and the choice of pack size and lag (``campaign._choose_sizes``). Configurations are
drawn at random in place of HyperOpt. Ray's part is played: a worker gets any free GPU that it may have.

The time of a pack is fitted to steps that were measured on an H100 (``h100.csv``, from docs/notebook.md) with what a
step asks of a GPU (``launches.csv``, counted by ``launches.py``). The fit and its error are printed first. Assumed are
the seconds of a process' start, of a pack's start and of a size's measurement, which are options.

Not simulated: TPE, divergence and pruning (which make searches shorter), delays of Ray (0.2 to 1 s per pack), the time
of a CUDA graph's capture, a file system that is slow for other reasons than its bandwidth.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import math
import random
import sys
import tempfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from scipy.optimize import nnls

from tpbench.engine import MemberHistory, TpbenchError, get_method
from tpbench.engine.network import network_layers
from tpbench.engine.protocol import Schedule
from tpbench.engine.trainer import evaluation_chunk
from tpbench.options import SweepOptions
from tpbench.search.brackets import Bracket
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.journal import Journal
from tpbench.search.packed_tpe import METRIC
from tpbench.search.spaces import Range, SearchSpace, spaces_for
from tpbench.sweeps import campaign
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.scheduler import Timeouts, make_scheduler
from tpbench.sweeps.session import Session
from tpbench.sweeps.sharing import Registry
from tpbench.sweeps.sweep import Failure, Place, QueuedPack, QueuedSweep, SearchedSweep, Workers
from tpbench.training import sizing
from tpbench.training.choice import CellChoice, choose_all
from tpbench.training.plan import Outcome, PackSettings
from tpbench.workloads import Workload
from tpbench.workloads.benchmark import BenchmarkRow
from tpbench.workloads.workload import known_test_size

HERE = Path(__file__).parent
FINGERPRINT = "0" * 64
_GIB, _MIB = 2**30, 2**20
# What the data sheet of an H100 SXM allows, as in launches.py.
_OPERATIONS, _BYTES, _LAUNCH = 66.9e12, 3.35e12, 2e-6
_GPU_MEMORY = 80 * _GIB


# The cost of a pack


@dataclass(frozen=True)
class StepWork:
    """What one step asks of a GPU; operations and bytes are of one member."""

    launches: int
    draws: float
    """Draws of noise per member, outside the CUDA graph."""
    operations: float
    bytes: float

    def terms(self, members: int) -> tuple[float, float, float]:
        """Return what the step's time is a sum of, in seconds: one, launches, operations and bytes of a data sheet."""
        outside = members * self.draws + 2 if self.draws else 1
        sheet = members * (self.operations / _OPERATIONS + self.bytes / _BYTES)
        return 1.0, (self.launches + outside) * _LAUNCH, sheet


class StepTimes:
    """The seconds of a step of any method, workload and pack size on an H100.

    ``seconds = a + b * launches + c * (operations + bytes)``, fitted by relative least squares without negative
    coefficients to the measured steps.

    Args:
        folder: of ``launches.csv`` and ``h100.csv``.
    """

    def __init__(self, folder: Path = HERE) -> None:
        self.work: dict[tuple[str, str, str], StepWork] = {}
        for row in _read(folder / "launches.csv"):
            self.work[row["workload"], row["method"], row["phase"]] = StepWork(
                int(row["launches"]), float(row["draws"]), 1e9 * float(row["gflop"]), _MIB * float(row["mib"])
            )
        rows = _read(folder / "h100.csv")
        self._measured = [row for row in rows if "kernels.py" in row["command"]]
        beside = {int(r["processes"]): float(r["milliseconds"]) for r in rows if "MPS" in r["command"]}
        self._processes = sorted(beside)
        self._slowdowns = [beside[k] / beside[1] for k in self._processes]
        terms = np.array([self.work[r["workload"], r["method"], "joint"].terms(int(r["pack"])) for r in self._measured])
        self._terms, self._seconds = terms, np.array([1e-3 * float(row["milliseconds"]) for row in self._measured])
        self.coefficients = self._fit(range(len(terms)))

    def _fit(self, rows: Sequence[int]) -> Any:
        chosen = list(rows)
        return nnls(self._terms[chosen] / self._seconds[chosen, None], np.ones(len(chosen)))[0]

    def seconds(self, workload: str, method: str, phase: str, members: int) -> float:
        """Return the seconds of a step that a pack does alone on its GPU."""
        return float(np.dot(self.coefficients, self.work[workload, method, phase].terms(members)))

    def slowdown(self, processes: int) -> float:
        """Return how many times longer a step takes where so many processes share the GPU under MPS."""
        return 1.0 if processes < 2 else float(np.interp(processes, self._processes, self._slowdowns))

    @cached_property
    def errors(self) -> list[float]:
        """Relative deviations from the measured steps."""
        return list(self._terms @ self.coefficients / self._seconds - 1)

    @cached_property
    def left_out_errors(self) -> list[float]:
        """Relative deviations of the fits without the step in question."""
        every = range(len(self._seconds))
        fits = [self._fit([other for other in every if other != row]) for row in every]
        return [float(self._terms[row] @ fits[row] / self._seconds[row] - 1) for row in every]

    def description(self) -> str:
        a, b, c = self.coefficients

        def largest(errors: Sequence[float]) -> str:
            sizes = [abs(error) for error in errors]
            return f"{max(sizes):.0%} at most, {median(sizes):.0%} in the median"

        return (
            f"a step takes {1e3 * a:.3f} ms + {b:.2f} x launches (2 us each) + {c:.2f} x (operations + bytes of the "
            f"data sheet); off the {len(self._seconds)} measured ones by {largest(self.errors)}; "
            f"where the step is left out of the fit by {largest(self.left_out_errors)}"
        )


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parameter_bytes(workload: Workload, method: str) -> tuple[int, int]:
    """Return the bytes of a member in a checkpoint (values, Adam's moments, right or wrong), and of its parameters."""
    rule, architecture = get_method(method), workload.architecture
    trained = workload.trained_layers or architecture.layers
    layers = {layer.index: sum(map(math.prod, layer.shapes.values())) for layer in network_layers(architecture)}
    numbers = sum(layers.values()) + 2 * sum(layers[index] for index in trained)
    parameters = sum(layers.values())
    if rule.feedback:
        feedback = sum(map(math.prod, rule.feedback.shapes(architecture).values()))
        fixed = sum(map(math.prod, rule.feedback.fixed_shapes(architecture).values()))
        numbers += (3 if rule.trains_feedback else 1) * feedback + fixed
        parameters += feedback + fixed
    return 4 * numbers + (known_test_size(workload.data) or 0), 4 * parameters


@dataclass(frozen=True)
class Timeline:
    """The epochs of a pack that trains alone on its GPU: after each its time, and its members."""

    ends: tuple[float, ...]
    """Seconds from the pack's first epoch to the end of each."""
    members: tuple[int, ...]
    """Members that go on after each epoch."""

    @property
    def seconds(self) -> float:
        return self.ends[-1]


class PackCosts:
    """Times of packs, and bytes of their checkpoints."""

    def __init__(self, steps: StepTimes | None = None) -> None:
        self.steps = steps or StepTimes()
        self._timelines: dict[tuple[Any, ...], Timeline] = {}
        self._bytes: dict[tuple[str, str], int] = {}

    def of(self, pack: QueuedPack) -> Timeline:
        """Return the timeline of a pack."""
        plan = pack.plan
        return self.timeline(plan.workload, plan.method, plan.epochs, pack.members, pack.bracket, pack.parts)

    def timeline(
        self, workload: Workload, method: str, epochs: int, members: int, bracket: Bracket | None = None, parts: int = 1
    ) -> Timeline:
        """Return the timeline of so many members, which train in parts one after the other."""
        key = (workload.name, method, epochs, members, bracket, parts)
        if key not in self._timelines:
            self._timelines[key] = self._timeline(workload, method, epochs, members, bracket, parts)
        return self._timelines[key]

    def _timeline(
        self, workload: Workload, method: str, epochs: int, members: int, bracket: Bracket | None, parts: int
    ) -> Timeline:
        schedule = workload.feedback_schedule(get_method(method)).values() or (0, 0)
        stops = Counter(bracket.stopped(_flat_curves(range(members), bracket), epochs).values()) if bracket else {}
        seconds, alive, ends, counts = 0.0, members, [], []
        for phase in Schedule(epochs, *schedule):
            seconds += parts * self.epoch(workload, method, phase.kind, math.ceil(alive / parts))
            if phase.kind == "joint":
                alive -= stops.get(phase.epoch + 1, 0)
            ends.append(seconds)
            counts.append(alive)
        return Timeline(tuple(ends), tuple(counts))

    def epoch(self, workload: Workload, method: str, kind: str, members: int) -> float:
        """Return the seconds of an epoch, with its evaluation if it is a joint one."""
        name, samples = workload.name, workload.samples - workload.validation_size
        seconds = math.ceil(samples / workload.batch_size) * self.steps.seconds(name, method, kind, members)
        if kind == "joint":
            evaluated = (workload.validation_size, known_test_size(workload.data) or 0)
            chunks = sum(math.ceil(n / evaluation_chunk(workload.architecture)) for n in evaluated)
            seconds += chunks * self.steps.seconds(name, method, "evaluation", members)
        return seconds

    def member_bytes(self, workload: Workload, method: str) -> int:
        """Return the bytes of one member's part of a checkpoint."""
        key = (workload.name, method)
        if key not in self._bytes:
            self._bytes[key] = parameter_bytes(workload, method)[0]
        return self._bytes[key]


def _flat_curves(errors: Sequence[float], bracket: Bracket) -> list[MemberHistory]:
    """Return histories of members whose errors are the same after every epoch."""
    names = {"validation_error", bracket.curve}
    return [MemberHistory({name: [float(error)] * bracket.epochs for name in names}) for error in errors]


# The sweeps


class RandomSearcher:
    """Draws configurations at random in HyperOpt's place; like TPE's they depend on every result so far."""

    # HyperOpt's own suggestions are random before it has so many trials, and before there is any result.
    first = 20

    def __init__(self, ranges: Mapping[str, Range], seed: int) -> None:
        self.ranges, self.random = ranges, random.Random(seed)
        self.suggested = self.results = self.at_random = 0

    def suggest(self, trial_id: str) -> dict[str, float]:
        """Draw a configuration."""
        self.at_random += self.suggested < self.first or not self.results
        self.suggested += 1
        return {name: self._draw(values) for name, values in self.ranges.items() if values.constant is None}

    def _draw(self, values: Range) -> float:
        if values.choice:
            return self.random.choice(values.choice)
        lower, upper = values.values
        if values.uniform:
            return self.random.uniform(lower, upper)
        return math.exp(self.random.uniform(math.log(lower), math.log(upper)))

    def on_trial_complete(self, trial_id: str, result: Mapping[str, float] | None = None, error: bool = False) -> None:
        """Take a result, on which all that is drawn later depends."""
        self.results += result is not None
        value = result[METRIC] if result else None
        self.random = random.Random(f"{self.random.random()} {trial_id} {value}")


class MemoryJournal(Journal):
    """A journal that is not written to a disk."""

    def _write(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self._apply(event)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """All events in their order."""
        return []


class SimulatedSweep(SearchedSweep):
    """A sweep whose configurations are drawn at random."""

    searcher: RandomSearcher | None = None

    def _inner(self) -> Any:
        self.searcher = RandomSearcher(self.space.ranges, self.definition.search_seed)
        return self.searcher

    @property
    def random_share(self) -> float:
        """Share of the suggestions that HyperOpt would have drawn at random."""
        return self.searcher.at_random / self.definition.trials if self.searcher else 0.0

    def seconds_left(self, costs: PackCosts) -> float:
        """Return about how many seconds of one GPU the sweep still needs."""
        d = self.definition
        searched = self.journal.ended_count
        pack = costs.timeline(self.workload, d.method, d.epochs, d.pack, d.bracket).seconds
        finals, parts = len(d.seeds), self.journal.parts or 1
        final = parts * costs.timeline(self.workload, d.method, d.epochs, math.ceil(finals / parts)).seconds
        left = 1 - self.final_progress.done / finals
        return (d.trials - searched) / d.pack * pack + left * final


@dataclass(frozen=True)
class Rules:
    """Rules in place of those of the code."""

    add40e1: bool = False
    """Those of commit add40e1: sizes by the trials of one sweep, lag by the number of sweeps, final seeds split as on
    CPUs, idle workers until the end, the sweeps' own order, checkpoints every 5 epochs."""
    pack: int | None = None
    lag: int | None = None
    parts: int | None = None
    longest_first: bool = False

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Split final seeds by these rules within a ``with`` block."""
        with ExitStack() as stack:
            if self.parts:
                stack.enter_context(patch.object(Workers, "parts", lambda workers, seeds: min(self.parts or 1, seeds)))
            elif self.add40e1:
                stack.enter_context(patch.object(Workers, "parts", _parts_of_add40e1))
            yield

    @property
    def checkpoint_every(self) -> str:
        """Epochs or seconds between two checkpoints, where the command line does not say."""
        return "5" if self.add40e1 else str(SweepOptions.model_fields["checkpoint_every"].default)

    def timeouts(self) -> Timeouts | None:
        """Return those of the scheduler; None: the code's."""
        return Timeouts(idle=None) if self.add40e1 else None


def _parts_of_add40e1(workers: Workers, seeds: int) -> int:
    share = -(-4 * workers.count // workers.unfinished) if workers.unfinished > 1 else workers.count
    return max(1, min(seeds, max(workers.count - workers.others, share, 2))) if workers.count > 1 else 1


class SilentView:
    """Shows nothing."""

    def start(self, name: str, total: int, done: int = 0) -> None: ...
    def update(self, name: str, done: float, total: int, best: float | None) -> None: ...
    def end(self, name: str) -> None: ...
    def say(self, message: str) -> None: ...


class ModelledSizes:
    """Stands in for measurements of pack sizes on a GPU."""

    def __init__(self, costs: PackCosts, *, mps: bool) -> None:
        self.costs, self.mps, self.count = costs, mps, 0

    def measure(self, workload: Workload, method: str, size: int, device: str, precision: str) -> BenchmarkRow:
        """Return a measurement of a pack as :func:`tpbench.workloads.benchmark.measure` would."""
        self.count += 1
        step = self.costs.steps.seconds(workload.name, method, "joint", size)
        steps = math.ceil((workload.samples - workload.validation_size) / workload.batch_size)
        # Values, gradients and two moments.
        peak = 4 * size * parameter_bytes(workload, method)[1]
        rate = size / (step * steps)
        phases = {}
        if get_method(method).trains_feedback:
            phases["feedback"] = self.costs.steps.seconds(workload.name, method, "feedback", size) / step
        return BenchmarkRow(
            workload.name, method, size, device, precision, step, rate, 0, 0, 0.0, 1.0, 0.0, phases, peak
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let :mod:`tpbench.training.sizing` measure with the model."""
        stand_ins: dict[str, Callable[..., Any]] = {
            "_measure_pack": self.measure,
            "free_memory": lambda device: _GPU_MEMORY,
            "has_mps": lambda: self.mps,
            "require_gpu": lambda device: None,
        }
        with ExitStack() as stack:
            for name, stand_in in stand_ins.items():
                stack.enter_context(patch.object(sizing, name, stand_in))
            yield


def make_sweeps(
    cells: Sequence[CellChoice],
    options: SweepOptions,
    resources: Resources,
    folder: Path,
    costs: PackCosts,
    sizes: ModelledSizes,
    rules: Rules,
) -> tuple[list[SimulatedSweep], Resources]:
    """Return the sweeps of a command and its resources, as :func:`tpbench.sweeps.campaign.run_sweeps` begins them."""
    settings = PackSettings(str(folder), device="cuda")
    spaces = spaces_for((cell.workload.name, cell.method) for cell in cells)
    planned = [_plan(cell, space, options, folder) for cell, space in zip(cells, spaces, strict=True)]
    if rules.add40e1:
        planned = [_size_of_add40e1(one, resources, len(planned), costs) for one in planned]
    else:
        session = Session(SilentView(), settings, resources, planned[0].folder)
        with sizes.in_place():
            planned = campaign._choose_sizes(planned, options, session)
        resources = session.resources
    if rules.lag:
        planned = [replace(one, definition=replace(one.definition, lag=rules.lag)) for one in planned]
    if rules.pack:
        planned = [replace(one, definition=replace(one.definition, pack=rules.pack)) for one in planned]
    sweeps = [
        SimulatedSweep(
            one.definition,
            one.cell.workload,
            one.space,
            one.folder,
            MemoryJournal(one.folder.journal_path),
            settings,
            on_cluster=bool(resources.address),
        )
        for one in planned
    ]
    for sweep in sweeps:
        sweep.begin(Workers(resources.gpus, len(sweeps), sum(o.potential for o in sweeps if o is not sweep)))
    return sweeps, resources


def _plan(cell: CellChoice, space: SearchSpace, options: SweepOptions, folder: Path) -> campaign.PlannedSweep:
    definition = SweepDefinition.of(options, cell.workload, cell.method, FINGERPRINT, space.describe())
    return campaign.PlannedSweep(cell, space, definition, SweepFolder(folder / "sweeps" / definition.id))


def _size_of_add40e1(
    one: campaign.PlannedSweep, resources: Resources, sweeps: int, costs: PackCosts
) -> campaign.PlannedSweep:
    d, workers = one.definition, resources.concurrent
    pack, cost = 1, math.inf
    for size in (1, 2, 4, 8, 16, 32, 64, 128):
        smaller, cost = cost, costs.steps.seconds(d.workload, d.method, "joint", size) / size
        if size > max(1, d.trials // (4 * workers)) or cost > 0.95 * smaller:
            break
        pack = size
    if d.halving:
        floor = d.halving**2
        floor *= d.halving if d.trials >= 4 * workers * d.halving * floor else 1
        pack = max(pack, min(floor, d.trials))
    return replace(one, definition=replace(d, pack=pack, lag=-(-workers // sweeps) + 1))


# The cluster


@dataclass(frozen=True)
class Faults:
    """The faults of a cluster."""

    gpu: bool = False
    """The first GPU breaks every pack."""
    node: bool = False
    """All GPUs of the first node do."""
    spot: float | None = None
    """Minutes between two losses of a node; the first comes after half of them."""
    replaced: float = 5.0
    """Minutes until another node takes a lost one's place."""
    late: float | None = None
    """Minutes after which the second half of the nodes joins; None: all are there at the start."""
    breaks_after: float = 12.0
    """Seconds after which a broken GPU breaks a pack."""


@dataclass(frozen=True)
class Checkpoints:
    """The rule by which packs write checkpoints to a folder that all nodes share."""

    epochs: int = 5
    """Epochs of any kind between two; 0: by time."""
    seconds: float = 0.0
    """Seconds between two, and before the first; 0 as well: none."""
    bandwidth: float = math.inf
    """Bytes per second of the folder, for all together."""
    own_thread: bool = False
    """The training goes on meanwhile."""

    @classmethod
    def parse(cls, every: str, bandwidth: float | None, *, own_thread: bool) -> Checkpoints:
        """Read ``5`` (epochs), ``60s`` or ``0`` (none)."""
        epochs, seconds = (0, float(every[:-1])) if every.endswith("s") else (int(every), 0.0)
        return cls(epochs, seconds, bandwidth * _GIB if bandwidth else math.inf, own_thread)

    def next(self, timeline: Timeline, position: int) -> int:
        """Return the number of epochs after which the next one is due, or the pack ends."""
        end = len(timeline.ends)
        if self.epochs:
            return min(end, position - position % self.epochs + self.epochs)
        if not self.seconds:
            return end
        since = timeline.ends[position - 1] if position else 0.0
        return min(end, bisect_left(timeline.ends, since + self.seconds) + 1)


@dataclass(frozen=True)
class Span:
    """One attempt at a pack."""

    campaign: int
    sweep: str
    key: str
    members: int
    gpu: str
    begin: float
    end: float
    result: str
    """``ended``, or the kind of failure."""
    lost: float = 0.0
    """Seconds whose training is lost."""
    waited: float = 0.0
    """Seconds for checkpoints."""

    @property
    def seconds(self) -> float:
        return self.end - self.begin


class Hold(NamedTuple):
    """A worker's time on a GPU."""

    gpu: str
    begin: float
    end: float


@dataclass(eq=False)
class Gpu:
    """A GPU and its workers."""

    node: str
    index: int
    broken: bool = False
    workers: list[Worker] = field(default_factory=list)
    training: list[Attempt] = field(default_factory=list)
    """Attempts that train now: they share it."""

    @property
    def name(self) -> str:
        return f"{self.node}/{self.index}"


@dataclass(eq=False)
class Worker:
    """A process that trains one pack after the other, or waits for a place."""

    name: str
    command: Command
    avoid: frozenset[str]
    gpu: Gpu | None = None
    since: float = 0.0
    """The time when it got its GPU."""
    attempt: Attempt | None = None
    ended: bool = False


@dataclass(eq=False)
class Attempt:
    """A pack on a worker."""

    worker: Worker
    sweep: QueuedSweep
    pack: QueuedPack
    timeline: Timeline
    begin: float
    position: int
    """Epochs that are trained."""
    target: int = 0
    """Epochs after which it stops next."""
    left: float = 0.0
    """Seconds of a GPU of its own until then, as of ``paced_at``."""
    paced_at: float = 0.0
    version: int = 0
    """Number of times that its pace has changed."""
    saved_at: float = 0.0
    """The time of the state that another attempt would continue from."""
    writing_until: float = 0.0
    waited: float = 0.0
    over: bool = False


@dataclass(eq=False)
class Command:
    """A campaign: one user's command, with a scheduler of its own."""

    number: int
    sweeps: list[SimulatedSweep]
    resources: Resources
    rules: Rules
    begin: float = 0.0
    end: float | None = None
    workers: dict[str, Worker] = field(default_factory=dict)
    saved: dict[tuple[str, str], int] = field(default_factory=dict)
    """Epochs in the checkpoint of a pack, by sweep and key."""
    said: list[str] = field(default_factory=list)

    def start(self, clock: Callable[[], float]) -> None:
        """Make the scheduler."""
        self.scheduler = make_scheduler(
            self.sweeps, self.resources, timeouts=self.rules.timeouts(), say=self.said.append, clock=clock
        )


class Simulation:
    """Plays Ray and the GPUs for the schedulers of one campaign or more.

    Args:
        nodes: of the cluster.
        gpus_per_node: GPUs of each.
        commands: the campaigns.
        costs: of their packs.
        faults: of the cluster.
        checkpoints: the rule by which they are written.
        seed: of the nodes that are lost, and of the packs' pace.
        start_seconds: for a worker's process.
        pack_seconds: for the start of a pack and its data.
        jitter: relative; the time of every pack is longer or shorter by up to this.
    """

    look = 10.0
    """Seconds between two looks of a driver at the nodes and at silent workers, as in driver.py."""

    def __init__(
        self,
        nodes: int,
        gpus_per_node: int,
        commands: Sequence[Command],
        costs: PackCosts,
        *,
        faults: Faults | None = None,
        checkpoints: Checkpoints | None = None,
        seed: int = 0,
        start_seconds: float = 8.0,
        pack_seconds: float = 3.0,
        jitter: float = 0.0,
    ) -> None:
        self.commands, self.costs, self.gpus_per_node = list(commands), costs, gpus_per_node
        self.faults, self.checkpoints = faults or Faults(), checkpoints or Checkpoints()
        self.random = random.Random(seed)
        self.start_seconds, self.pack_seconds, self.jitter = start_seconds, pack_seconds, jitter
        self.now = 0.0
        self.gpus: dict[str, list[Gpu]] = {}
        """The GPUs of each node that is there."""
        self.registry = Registry(lambda: self.now)
        """Divides the GPUs among the campaigns."""
        self.pending: list[Worker] = []
        """Workers without a place, in the order in which they were asked for."""
        self.spans: list[Span] = []
        self.holds: list[Hold] = []
        self.checkpoint_bytes = self.checkpoint_count = self.nodes_lost = self.stalled = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = self._node_numbers = 0
        self._folder_free = 0.0
        for number in range(nodes):
            late = self.faults.late is not None and number >= (nodes + 1) // 2
            self._at(60 * (self.faults.late or 0) if late else 0.0, self._join)
        if self.faults.spot:
            self._at(30 * self.faults.spot, self._lose_node)
        for command in self.commands:
            self._at(command.begin, partial(self._begin_command, command))

    def run(self) -> Simulation:
        """Let all happen until every campaign is over."""
        while any(command.end is None for command in self.commands):
            self.now, _, event = heapq.heappop(self._events)
            event()
        return self

    @property
    def wall(self) -> float:
        """Seconds to the end of the last campaign."""
        return max(command.end or 0.0 for command in self.commands)

    def _at(self, time: float, event: Callable[[], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (time, self._numbers, event))

    # Nodes

    def _join(self) -> None:
        self._node_numbers += 1
        number = self._node_numbers
        broken = [number == 1 and (self.faults.node or (self.faults.gpu and k == 0)) for k in range(self.gpus_per_node)]
        name = f"node-{number}"
        self.gpus[name] = [Gpu(name, index, is_broken) for index, is_broken in enumerate(broken)]
        self._place()

    def _lose_node(self) -> None:
        self._at(self.now + 60 * (self.faults.spot or 0), self._lose_node)
        if not self.gpus:  # all wait to be replaced
            return
        name = self.random.choice(sorted(self.gpus))
        self.nodes_lost += 1
        for gpu in self.gpus.pop(name):
            for worker in list(gpu.workers):
                self._end_worker(worker, Failure("gone", "its node was lost"))
        self._at(self.now + 60 * self.faults.replaced, self._join)
        self._settle_all()

    # Workers

    def _begin_command(self, command: Command) -> None:
        command.start(lambda: self.now)
        self._look(command)

    def _look(self, command: Command) -> None:
        """Do what the driver does every few seconds."""
        if command.end is not None:
            return
        scheduler = command.scheduler
        for worker in command.workers.values():
            if worker.attempt:
                scheduler.progress(worker.name, worker.attempt.position / len(worker.attempt.timeline.ends), None)
        self.stalled += len(scheduler.stalled())
        if command.resources.address:
            scheduler.update_nodes({node: node for node in self.gpus})
            self._report(command)
        self._at(self.now + self.look, partial(self._look, command))
        self._settle(command)
        self._place()

    def _report(self, command: Command) -> None:
        """Report to the registry, as the driver's thread does, and follow its limit."""
        scheduler, share = command.scheduler, command.resources.share
        report = {"kind": "GPU", "unit": share["gpu"], "cores": share["cpu"], "planned": 0.0}
        report |= {"held": scheduler.held, "wanted": scheduler.wanted}
        report["size"] = sum(len(gpus) for gpus in self.gpus.values())
        scheduler.limit = self.registry.report(str(command.number), report)["limit"]

    def _settle_all(self) -> None:
        for command in self.commands:
            self._settle(command)
        self._place()

    def _settle(self, command: Command) -> None:
        """Hand out packs, end workers that are not needed, and ask for more, as SweepQueue and Tune do."""
        if command.end is not None or command.begin > self.now:
            return
        scheduler = command.scheduler
        if command.rules.longest_first:
            for sweep in command.sweeps:
                sweep.priority = -round(sweep.seconds_left(self.costs))
        for slot in scheduler.idle:
            if (pack := scheduler.next_pack(slot.name)) and slot.work:
                self._begin_pack(command.workers[slot.name], slot.work[0], pack)
        for name in scheduler.withdrawn():
            self._end_worker(command.workers[name])
        for name in scheduler.surplus():
            self._end_worker(command.workers[name])
        if scheduler.over:
            command.end = self.now
            self.registry.leave(str(command.number))
            for worker in list(command.workers.values()):
                self._end_worker(worker)
            return
        while scheduler.wants_slot():
            self._numbers += 1
            name = f"w{self._numbers}"
            worker = command.workers[name] = Worker(name, command, scheduler.open(name))
            self.pending.append(worker)

    def _place(self) -> None:
        """Give waiting workers free GPUs."""
        for worker in list(self.pending):
            capacity = worker.command.resources.packs_per_gpu
            free = (
                gpu
                for node, gpus in self.gpus.items()
                if node not in worker.avoid
                for gpu in gpus
                if len(gpu.workers) < capacity
            )
            if gpu := next(free, None):
                self.pending.remove(worker)
                worker.gpu, worker.since = gpu, self.now
                gpu.workers.append(worker)
                worker.command.scheduler.runs(worker.name)
                self._at(self.now + self.start_seconds, partial(self._started, worker))

    def _started(self, worker: Worker) -> None:
        if worker.ended or worker.gpu is None:
            return
        gpu = worker.gpu
        worker.command.scheduler.started(worker.name, Place(gpu.node, str(gpu.index), gpu.node))
        self._settle(worker.command)
        self._place()

    def _end_worker(self, worker: Worker, failure: Failure | None = None) -> None:
        """End a worker's process, with the failure of its pack if it has one."""
        if worker.ended:
            return
        worker.ended = True
        command = worker.command
        del command.workers[worker.name]
        if worker in self.pending:
            self.pending.remove(worker)
        if attempt := worker.attempt:
            self._stop(attempt, failure.kind if failure else "stopped", self.now - attempt.saved_at)
        if worker.gpu:
            worker.gpu.workers.remove(worker)
            self.holds.append(Hold(worker.gpu.name, worker.since, self.now))
        if failure:
            command.scheduler.gone(worker.name, failure)
        else:
            command.scheduler.closed(worker.name)

    # Packs

    def _begin_pack(self, worker: Worker, sweep: QueuedSweep, pack: QueuedPack) -> None:
        assert worker.gpu is not None
        assert worker.attempt is None
        timeline = self.costs.of(pack)
        position = worker.command.saved.get((sweep.name, pack.key), 0)
        attempt = worker.attempt = Attempt(worker, sweep, pack, timeline, self.now, position, saved_at=self.now)
        worker.command.scheduler.took(worker.name)
        if worker.gpu.broken:
            self._at(self.now + self.faults.breaks_after, partial(self._break, attempt))
        else:
            self._at(self.now + self.pack_seconds, partial(self._train, attempt))

    def _break(self, attempt: Attempt) -> None:
        if not attempt.over:
            self._end_worker(attempt.worker, Failure("raised", "CUDA error"))
            self._settle_all()

    def _train(self, attempt: Attempt) -> None:
        """Train until the next checkpoint or the end."""
        gpu = attempt.worker.gpu
        if attempt.over or gpu is None:
            return
        ends = attempt.timeline.ends
        attempt.target = self.checkpoints.next(attempt.timeline, attempt.position)
        attempt.left = ends[attempt.target - 1] - (ends[attempt.position - 1] if attempt.position else 0.0)
        attempt.left *= 1 + self.jitter * self.random.uniform(-1, 1)
        with self._pace_changes(gpu):
            gpu.training.append(attempt)

    @contextmanager
    def _pace_changes(self, gpu: Gpu) -> Iterator[None]:
        """Bring the attempts that train on a GPU up to date before and after their number changes."""
        slow = self.costs.steps.slowdown(len(gpu.training))
        for attempt in gpu.training:
            attempt.left -= (self.now - attempt.paced_at) / slow
        yield
        slow = self.costs.steps.slowdown(len(gpu.training))
        for attempt in gpu.training:
            attempt.paced_at = self.now
            attempt.version += 1
            self._at(self.now + max(0.0, attempt.left) * slow, partial(self._reach, attempt, attempt.version))

    def _reach(self, attempt: Attempt, version: int) -> None:
        """Note that an attempt has come to its next checkpoint, or its end."""
        if attempt.over or attempt.version != version:
            return
        self._pause(attempt)
        attempt.position = attempt.target
        if attempt.position < len(attempt.timeline.ends):
            self._write_checkpoint(attempt)
            return
        worker, command = attempt.worker, attempt.worker.command
        self._stop(attempt, "ended")
        command.saved.pop((attempt.sweep.name, attempt.pack.key), None)
        command.scheduler.ended(worker.name, outcomes_of(attempt.sweep, attempt.pack))
        self._settle(command)
        self._place()

    def _pause(self, attempt: Attempt) -> None:
        gpu = attempt.worker.gpu
        if gpu and attempt in gpu.training:
            with self._pace_changes(gpu):
                gpu.training.remove(attempt)

    def _stop(self, attempt: Attempt, result: str, lost: float = 0.0) -> None:
        """End an attempt and note its span."""
        self._pause(attempt)
        worker = attempt.worker
        assert worker.gpu is not None
        attempt.over, worker.attempt = True, None
        self.spans.append(
            Span(
                worker.command.number,
                attempt.sweep.name,
                attempt.pack.key,
                attempt.pack.members,
                worker.gpu.name,
                attempt.begin,
                self.now,
                result,
                lost,
                attempt.waited,
            )
        )

    def _write_checkpoint(self, attempt: Attempt) -> None:
        """Write a checkpoint: one after the other, as the folder's bandwidth is that of all together."""
        own_thread = self.checkpoints.own_thread
        if own_thread and attempt.writing_until > self.now:
            self._train(attempt)  # the last one is still being written
            return
        plan = attempt.pack.plan
        size = attempt.timeline.members[attempt.position - 1] * self.costs.member_bytes(plan.workload, plan.method)
        self.checkpoint_bytes += size
        self.checkpoint_count += 1
        until = self._folder_free = max(self.now, self._folder_free) + size / self.checkpoints.bandwidth
        attempt.writing_until = until
        self._at(until, partial(self._written, attempt, attempt.position, self.now))
        if own_thread:
            self._train(attempt)

    def _written(self, attempt: Attempt, position: int, when: float) -> None:
        if attempt.over:
            return
        attempt.worker.command.saved[attempt.sweep.name, attempt.pack.key] = position
        attempt.saved_at = when
        if not self.checkpoints.own_thread:
            attempt.waited += self.now - when
            self._train(attempt)


def outcomes_of(sweep: QueuedSweep, pack: QueuedPack) -> list[Outcome]:
    """Return made-up outcomes, which depend on the pack's configurations alone."""
    errors = [
        random.Random(f"{sweep.name} {sorted(configuration.items())} {seed}").random()
        for configuration, seed in zip(pack.plan.configurations, pack.plan.seeds, strict=True)
    ]
    epochs = pack.plan.epochs
    stopped = pack.bracket.stopped(_flat_curves(errors, pack.bracket), epochs) if pack.bracket else {}
    return [
        Outcome(
            f"{pack.key}-{member}",
            "stopped" if member in stopped else "finished",
            error,
            error,
            epochs=stopped.get(member, epochs),
        )
        for member, error in enumerate(errors)
    ]


# The report


@dataclass(frozen=True)
class Report:
    """The numbers of a simulation. Times are hours of one GPU unless they are minutes of wall time."""

    wall_minutes: float
    busy: float
    """A pack is on a GPU."""
    search: float
    final: float
    held: float
    """A worker is on a GPU."""
    nodes_held: float
    """A worker is on the GPU's node, which an autoscaler cannot take."""
    occupancy: float
    """Share of all GPUs' wall time in which they are busy."""
    lost: float
    """Training that failures took, back to the last checkpoint."""
    checkpoint_gib: float
    checkpoints: int
    checkpoint_wait: float
    packs: int
    attempts_failed: int
    by_kind: dict[str, int]
    nodes_lost: int
    sweeps: int
    sweeps_failed: int
    random_share: float
    """Of the suggestions, the mean over all searches."""
    random_share_largest: float
    pack_sizes: list[int]
    lags: list[int]
    measurements: int
    measuring_minutes: float
    """For the measurements of pack sizes, one after the other; before the first pack, no part of the wall time."""
    walls: list[float]
    """Minutes of each campaign."""
    shares: list[float]
    """Each campaign's share of the busy time while all of them run, from two packs after the last one's begin on."""
    share_range: tuple[float, float]
    """The smallest and the largest share of a campaign in a window of that time as long as two packs."""
    failures: list[str]


def report(simulation: Simulation, sizes: ModelledSizes, measure_seconds: float) -> Report:
    """Sum up a simulation."""
    s, gpus = simulation, max(1, sum(map(len, simulation.gpus.values())))
    spans, sweeps = s.spans, [sweep for command in s.commands for sweep in command.sweeps]
    busy = sum(span.seconds for span in spans)
    kinds = Counter(span.result for span in spans if span.result != "ended")
    random_shares = [sweep.random_share for sweep in sweeps]
    return Report(
        s.wall / 60,
        busy / 3600,
        sum(span.seconds for span in spans if not span.key.startswith("final")) / 3600,
        sum(span.seconds for span in spans if span.key.startswith("final")) / 3600,
        sum(hold.end - hold.begin for hold in s.holds) / 3600,
        node_seconds(s.holds) * s.gpus_per_node / 3600,
        busy / (gpus * s.wall),
        sum(span.lost for span in spans) / 3600,
        s.checkpoint_bytes / _GIB,
        s.checkpoint_count,
        sum(span.waited for span in spans) / 3600,
        len(spans) - kinds.total(),
        kinds.total(),
        dict(kinds),
        s.nodes_lost,
        len(sweeps),
        sum(sweep.failure is not None for sweep in sweeps),
        fmean(random_shares),
        max(random_shares),
        sorted({sweep.definition.pack for sweep in sweeps}),
        sorted({sweep.definition.lag for sweep in sweeps}),
        sizes.count,
        sizes.count * measure_seconds / 60,
        [((command.end or 0.0) - command.begin) / 60 for command in s.commands],
        *shares(s),
        [f"{sweep.name}: {sweep.failure}" for sweep in sweeps if sweep.failure],
    )


def node_seconds(holds: Sequence[Hold]) -> float:
    """Return the seconds in which a node has a worker, summed over the nodes."""
    total = 0.0
    until: dict[str, float] = {}
    for hold in sorted(holds, key=lambda hold: hold.begin):
        node = hold.gpu.partition("/")[0]
        begin = max(hold.begin, until.get(node, 0.0))
        total += max(0.0, hold.end - begin)
        until[node] = max(hold.end, until.get(node, 0.0))
    return total


def shares(simulation: Simulation) -> tuple[list[float], tuple[float, float]]:
    """Return each campaign's share of the busy time while all of them run, and the least and most within a while.

    Two packs of median length after the last one's begin are left out: until then packs end that began before it.
    """
    length = 2 * median(span.seconds for span in simulation.spans)
    begin = max(command.begin for command in simulation.commands) + length
    end = max(begin, min(command.end or 0.0 for command in simulation.commands))
    windows = [
        _shares_within(simulation, begin + k * length, begin + (k + 1) * length)
        for k in range(int((end - begin) / length))
    ]
    every = [share for window in windows for share in window] or [0.0]
    return _shares_within(simulation, begin, end), (min(every), max(every))


def _shares_within(simulation: Simulation, begin: float, end: float) -> list[float]:
    busy = [0.0] * len(simulation.commands)
    for span in simulation.spans:
        busy[span.campaign] += max(0.0, min(span.end, end) - max(span.begin, begin))
    return [each / sum(busy) for each in busy] if sum(busy) else busy


def format_report(r: Report) -> str:
    """Return the numbers as lines for people."""

    def span(numbers: list[int]) -> str:
        return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"

    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(r.by_kind.items()))
    lines = [
        f"wall {r.wall_minutes:.1f} min; GPU hours: busy {r.busy:.1f} (search {r.search:.1f}, final {r.final:.1f}), "
        f"held {r.held:.1f}, on nodes with a worker {r.nodes_held:.1f}; occupancy {r.occupancy:.2f}",
        f"packs {r.packs} of {span(r.pack_sizes)} with lag {span(r.lags)}; attempts wasted {r.attempts_failed}"
        + (f" ({kinds})" if kinds else "")
        + f", {r.lost:.2f} GPU h of training lost with them; nodes lost {r.nodes_lost}; "
        f"sweeps failed {r.sweeps_failed} of {r.sweeps}",
        f"checkpoints {r.checkpoints} of {r.checkpoint_gib:.1f} GiB in all, {r.checkpoint_wait:.2f} GPU h of waiting",
        f"random suggestions {r.random_share:.0%} on average, {r.random_share_largest:.0%} at most; sizes measured "
        f"{r.measurements}, {r.measuring_minutes:.1f} min before the first pack if one after the other",
    ]
    if len(r.walls) > 1:
        each = ", ".join(f"{w:.1f} min with {share:.0%}" for w, share in zip(r.walls, r.shares, strict=True))
        least, most = r.share_range
        lines.append(f"campaigns: {each} of the busy time while all run; {least:.0%} to {most:.0%} during two packs")
    return "\n".join([*lines, *r.failures])


# The command


def choose_cells(text: str) -> list[CellChoice]:
    """Read ``all``, or pairs such as ``mnist:bp,cifar10:all``."""
    if text == "all":
        return choose_all("all", "all")[0]
    pairs = [name.partition(":") for name in text.split(",")]
    return [cell for workload, _, method in pairs for cell in choose_all(workload, method or "all")[0]]


def simulate(arguments: argparse.Namespace, costs: PackCosts | None = None) -> tuple[Simulation, Report]:
    """Simulate what a command line asks for; returns the simulation and its numbers."""
    a, costs = arguments, costs or PackCosts()
    gpus = a.nodes * a.gpus_per_node
    names = set(filter(None, a.faults.split(",")))
    if unknown := names - {"gpu", "node", "spot", "late"}:
        raise SystemExit(f"--faults: {', '.join(sorted(unknown))}: choose from gpu, node, spot, late")
    faults = Faults(
        "gpu" in names,
        "node" in names,
        a.spot_minutes if "spot" in names else None,
        a.replace_minutes,
        a.late_minutes if "late" in names else None,
    )
    rules = Rules(a.rules == "add40e1", a.pack, a.lag, a.parts, a.order == "longest")
    sizes = ModelledSizes(costs, mps=a.mps)
    # One node is this machine, more are a cluster.
    address = "auto" if a.nodes > 1 else None
    with tempfile.TemporaryDirectory() as folder, rules.in_force():
        commands = []
        for number in range(a.campaigns):
            options = SweepOptions(
                workloads="all",
                methods="all",
                trials=a.trials,
                epochs=a.epochs,
                halving=a.halving,
                n_seeds=a.seeds,
                search_seed=a.seed + number,
                pack=a.pack or "auto",
                address=address,
            )
            resources = Resources(gpus, gpus, address=address, node_cpus=a.gpus_per_node)
            sweeps, resources = make_sweeps(
                choose_cells(a.cells), options, resources, Path(folder) / str(number), costs, sizes, rules
            )
            commands.append(Command(number, sweeps, resources, rules, begin=60 * a.apart * number))
        simulation = Simulation(
            a.nodes,
            a.gpus_per_node,
            commands,
            costs,
            faults=faults,
            checkpoints=Checkpoints.parse(
                a.checkpoint_every or rules.checkpoint_every, a.checkpoint_bandwidth, own_thread=a.checkpoint_thread
            ),
            seed=a.seed,
            start_seconds=a.start_seconds,
            pack_seconds=a.pack_seconds,
            jitter=a.jitter,
        ).run()
    return simulation, report(simulation, sizes, a.measure_seconds)


def positive(text: str) -> int:
    """Return a whole number from 1.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"'{text}': give a whole number from 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("--nodes", type=positive, default=8, help="1: this machine, without a cluster")
    p.add_argument("--gpus-per-node", type=positive, default=8)
    p.add_argument("--cells", default="all", help="all, or mnist:bp,cifar10:all")
    p.add_argument("--trials", type=positive, default=100)
    p.add_argument("--epochs", type=positive, help="joint epochs; those of the workloads")
    p.add_argument("--seeds", type=positive, default=10)
    p.add_argument("--halving", type=int, default=0)
    p.add_argument("--seed", type=int, default=0, help="of searches and faults")
    p.add_argument("--campaigns", type=positive, default=1, help="equal ones, which share the cluster")
    p.add_argument("--apart", type=float, default=0.0, help="minutes between the begins of two campaigns")
    p.add_argument("--mps", action="store_true", help="NVIDIA's Multi-Process Service runs")
    rules = p.add_argument_group("rules")
    rules.add_argument("--rules", choices=("code", "add40e1"), default="code")
    rules.add_argument("--pack", type=positive, help="members of a search pack")
    rules.add_argument("--lag", type=positive, help="packs of a search in flight or waiting")
    rules.add_argument("--parts", type=positive, help="packs of the final seeds")
    rules.add_argument("--order", choices=("code", "longest"), default="code", help="longest: most work left first")
    faults = p.add_argument_group("faults")
    faults.add_argument("--faults", default="", help="gpu, node, spot, late, with commas")
    faults.add_argument("--spot-minutes", type=float, default=19.0, help="between two losses of a node")
    faults.add_argument("--replace-minutes", type=float, default=5.0, help="until a lost node's successor joins")
    faults.add_argument("--late-minutes", type=float, default=5.0, help="until the second half of the nodes joins")
    files = p.add_argument_group("checkpoints")
    files.add_argument("--checkpoint-bandwidth", type=float, help="GiB/s for all together; unlimited")
    files.add_argument("--checkpoint-every", help="epochs, seconds (60s), or 0: none; as the code or the rules have it")
    files.add_argument("--checkpoint-thread", action="store_true", help="training goes on meanwhile")
    times = p.add_argument_group("assumed times")
    times.add_argument("--start-seconds", type=float, default=8.0, help="of a worker's process")
    times.add_argument("--pack-seconds", type=float, default=3.0, help="of a pack's start and data")
    times.add_argument("--measure-seconds", type=float, default=4.0, help="of measuring one pack size")
    times.add_argument("--jitter", type=float, default=0.0, help="relative, of a pack's time")
    p.add_argument("--json", action="store_true")
    return p


def main() -> None:
    arguments = parser().parse_args()
    costs = PackCosts()
    try:
        simulation, numbers = simulate(arguments, costs)
    except (TpbenchError, ValueError) as error:
        sys.exit(f"error: {str(error).splitlines()[0]}")
    if arguments.json:
        print(json.dumps(asdict(numbers)))
        return
    print(costs.steps.description())
    print(format_report(numbers))
    for command in simulation.commands:
        for line in command.said:
            print(f"said: {line}")


if __name__ == "__main__":
    main()
