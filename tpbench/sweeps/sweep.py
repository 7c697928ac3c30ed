"""A sweep in the queue: its packs, the failures of their attempts, its state and its result."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tpbench.engine import TpbenchError, get_method
from tpbench.engine.configuration import unflatten
from tpbench.results import RunRecord
from tpbench.search.brackets import Bracket
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.journal import Journal, format_ends
from tpbench.search.packed_tpe import METRIC, RANDOM_FIRST, PackedSearch
from tpbench.search.spaces import SearchSpace
from tpbench.training.plan import Outcome, PackPlan, PackSettings, define_runs, find_run, outcome_of, plan_seeds
from tpbench.training.sizing import guessed_cost
from tpbench.workloads import Workload

ALL_SWEEPS = ""
"""Stands for every sweep where a node lacks what all of them need."""


@dataclass(frozen=True)
class QueuedPack:
    """One pack of a sweep, in plain data so that it travels to any process."""

    key: str
    """Its name within its sweep: ``12``, or ``final-0``."""
    plan: PackPlan
    settings: PackSettings
    bracket: Bracket | None = None
    parts: int = 1
    """Number of parts that its members are trained in, one after the other, where memory does not hold all at once."""

    @property
    def members(self) -> int:
        return len(self.plan.seeds)


@dataclass(frozen=True)
class Place:
    """The place of a worker."""

    node: str = ""
    """Id of the node."""
    gpu: str = ""
    """The GPU that the worker has; empty: none."""
    host: str = field(default="", compare=False)
    """Name of the node for people."""

    @property
    def name(self) -> str:
        """Name of the place in a message."""
        where = self.host or self.node[:8] or "here"
        return f"{where}, GPU {self.gpu}" if self.gpu else where


@dataclass(frozen=True)
class Failure:
    """One attempt at a pack that failed.

    Attributes:
        kind: ``node``: the node lacks something (folder, data set, package, precision, memory for a single run);
            ``rule``: a package's learning rule is wrong; ``raised``: the training raised; ``lost``: the process ended;
            ``gone``: the node was lost; ``memory``: the system ended the process because memory ran out;
            ``stalled``: the process made no progress and was ended.
        message: one line.
        place: of the worker.
    """

    kind: str
    message: str
    place: Place = Place()


# Attempts at a pack by kind of failure. A rule that raises does so each time. Nodes of a cluster come and go (spot
# instances), which is no fault of the pack's: it continues from its checkpoint.
_ATTEMPTS = {"rule": 1, "raised": 3, "stalled": 3, "lost": 4, "gone": 50}
_LOST_ON_A_CLUSTER = 10
_LOSSES_BEFORE_HALVING = 2


def should_abandon(
    failures: Sequence[Failure], members: int, *, on_cluster: bool, counts: Callable[[Failure], bool] = lambda f: True
) -> bool:
    """Return whether a pack has failed too often to be handed out again.

    Args:
        failures: of all attempts at it.
        members: of the pack. A process that is lost without a known cause may have run out of memory: the pack gets as
            many attempts more as it can be halved.
        on_cluster: nodes of a cluster come and go.
        counts: tells which failures count: not those of a node that breaks every pack.
    """
    limits = {**_ATTEMPTS, "lost": _LOST_ON_A_CLUSTER if on_cluster else _ATTEMPTS["lost"]}
    limits["lost"] += math.ceil(math.log2(max(members, 1)))
    kinds = [failure.kind for failure in failures if counts(failure)]
    return any(kinds.count(kind) >= limit for kind, limit in limits.items())


def should_halve(failures: Sequence[Failure]) -> bool:
    """Return whether the last failure of a pack is a reason to train its members in smaller parts.

    Either memory ran out by the system's report, or the process was lost a second time without a known cause.
    """
    lost = sum(failure.kind == "lost" for failure in failures)
    return failures[-1].kind == "memory" or (failures[-1].kind == "lost" and lost >= _LOSSES_BEFORE_HALVING)


# Largest share of suggestions that could not be trained with which a search still counts.
_MOST_FAILURES = 0.1
# Final packs per worker of a campaign.
_WAVES = 4
# Final packs of a sweep on GPUs, at most.
_GPU_PARTS = 2


def _anywhere(key: str) -> bool:
    return True


@dataclass(frozen=True)
class Workers:
    """The workers of a queue as a sweep knows them when it splits its final runs."""

    count: int
    """Number of those that final runs are split over: cores, or whole GPUs."""
    unfinished: int = 1
    """Number of sweeps that are not done."""
    others: int = 0
    """Number of packs of other sweeps that are in flight or could be."""
    on_gpus: bool = False
    """True if final runs are split over GPUs."""

    def parts(self, seeds: int) -> int:
        """Return the number of packs that final seeds are split into: over the workers that are free for them.

        At least two where there are two cores: processes of one thread train more than one of two threads. In a
        campaign about four per core over all sweeps, so that the last packs are short. A pack of few seeds takes a GPU
        nearly as long as one of all: they are split only over GPUs that no other sweep needs, into few packs.
        """
        if self.on_gpus:
            return max(1, min(seeds, self.count - self.others, _GPU_PARTS))
        share = -(-_WAVES * self.count // self.unfinished) if self.unfinished > 1 else self.count
        free = max(self.count - self.others, share, 2)
        return max(1, min(seeds, free)) if self.count > 1 else 1


class FinalRuns:
    """One configuration over its seeds, split into packs. Packs whose runs the store has are not handed out.

    Args:
        plan: all seeds.
        settings: how its packs are trained.
        parts: number of packs; the same number gives the same packs, so that checkpoints fit.
    """

    def __init__(self, plan: PackPlan, settings: PackSettings, parts: int) -> None:
        self.plan, self.settings = plan, settings
        self.packs: dict[str, QueuedPack] = {}
        known = [record and not settings.missing_networks([record]) for record in self.records()]
        for part, chosen in enumerate(plan.slices(parts)):
            if not all(known[chosen]):
                some = replace(plan, seeds=plan.seeds[chosen], configurations=plan.configurations[chosen])
                self.packs[f"final-{part}"] = QueuedPack(f"final-{part}", some, settings)
        self.waiting = list(self.packs)

    def records(self) -> list[RunRecord | None]:
        """Return the run of every seed, None where it is missing."""
        definitions = define_runs(self.plan, self.plan.fingerprint, self.settings.precision)
        store = self.settings.store
        return [find_run(store, definition) for definition in definitions]


@dataclass
class Progress:
    """Progress of a search or of final runs, in configurations or seeds."""

    total: int
    done: int = 0
    running: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Steps of each pack in flight, and the share of them that is done."""

    @property
    def so_far(self) -> float:
        """Steps that are done, with parts of those in flight."""
        return self.done + sum(steps * min(share, 0.999) for steps, share in self.running.values())


class QueuedSweep:
    """A sweep of a queue: packs in flight, failed attempts, a state and a result. Without a search: final runs alone.

    Args:
        name: unique within the queue.
        label: for people.
        settings: how its packs are trained.
        on_cluster: whether it is trained on a cluster.
    """

    def __init__(self, name: str, label: str, settings: PackSettings, *, on_cluster: bool = False) -> None:
        self.name, self.label, self.settings, self.on_cluster = name, label, settings, on_cluster
        self.in_flight: dict[str, QueuedPack] = {}
        self.failures: dict[str, list[Failure]] = defaultdict(list)
        self.failure: str | None = None
        self.priority = 0
        """Sweeps of a lower one get workers first."""
        self.seed_seconds = 0.0
        """Estimated seconds of a worker for one final run; 0: not known."""
        self.final: FinalRuns | None = None
        self._parts = 1
        """Number of parts that packs of the search, or of the final runs, are trained in."""
        self.best_error: float | None = None
        self._begun, self._ended = 0.0, 0.0
        self.search_progress = Progress(0)
        self.final_progress = Progress(0)

    # State

    @property
    def finished(self) -> bool:
        """True if nothing is left to do, or nothing can be done."""
        return self.failure is not None or self.done

    @property
    def done(self) -> bool:
        """True if all final runs are in the store."""
        final = self.final
        return final is not None and not final.waiting and not any(key in final.packs for key in self.in_flight)

    @property
    def has_final(self) -> bool:
        """True if a final pack waits."""
        return self.failure is None and self.final is not None and bool(self.final.waiting)

    @property
    def has_search(self) -> bool:
        """True if the search has a pack to hand out."""
        return False

    @property
    def remaining(self) -> float:
        """Estimated seconds of one worker for all that has not ended."""
        return self.seed_seconds * (self.final_progress.total - self.final_progress.done)

    @property
    def untrained(self) -> float:
        """Estimated seconds of one worker for all that is not trained; of packs in flight, for what is left of them."""
        if self.finished:
            return 0.0
        return self.remaining - self._step_seconds * (self.progress.so_far - self.progress.done)

    @property
    def _step_seconds(self) -> float:
        """Estimated seconds of one worker for a step of :attr:`progress`."""
        return self.seed_seconds

    @property
    def potential(self) -> int:
        """Number of packs that are in flight or could be."""
        if self.finished:
            return 0
        return len(self.in_flight) + self.has_search + (len(self.final.waiting) if self.final else 0)

    @property
    def waiting(self) -> list[str]:
        """Keys of the packs that wait to be handed out, in their order."""
        return [] if self.failure is not None or self.final is None else list(self.final.waiting)

    @property
    def new_packs(self) -> int:
        """Number of packs that could be made and handed out now."""
        return 0

    def max_in_flight(self, workers: Workers) -> int:
        """Return the number of packs that may be in flight at once from now on."""
        return 0 if self.finished else len(self.in_flight) + len(self.waiting)

    def next_pack(self, allowed: Callable[[str], bool] = _anywhere) -> QueuedPack | None:
        """Take the next pack: a final one if one waits.

        Args:
            allowed: tells whether the worker may have a pack of that key.
        """
        key = next(filter(allowed, self.final.waiting if self.final and self.failure is None else ()), None)
        if key is None or self.final is None:
            return None
        self.final.waiting.remove(key)
        return self._start(self.final.packs[key])

    @property
    def seconds(self) -> float:
        """Wall time from the first pack that was handed out to the last that ended."""
        return max(0.0, self._ended - self._begun)

    @property
    def progress(self) -> Progress:
        """Progress of the part that is trained now: of the search, or of the final runs."""
        return self.search_progress if self.final is None else self.final_progress

    def train_final(self, plan: PackPlan, parts: int) -> None:
        """Let the final runs wait, those that the store lacks.

        Args:
            plan: all seeds.
            parts: number of packs that they are split into.
        """
        self.final, self._parts = FinalRuns(plan, self.settings, parts), 1
        missing = sum(pack.members for pack in self.final.packs.values())
        self.final_progress = Progress(len(plan.seeds), len(plan.seeds) - missing)

    def _start(self, pack: QueuedPack) -> QueuedPack:
        self._begun = self._begun or time.monotonic()
        pack = replace(pack, parts=min(max(pack.parts, self._parts), pack.members))
        self.in_flight[pack.key] = pack
        self.progress.running[pack.key] = pack.members, 0.0
        return pack

    def report(self, key: str, share: float, best: float | None) -> None:
        """Note the progress of a pack: the share of it that is trained, and its lowest validation error."""
        running = self.progress.running
        if key in running:
            running[key] = running[key][0], share
        self._note_best(best)

    def _note_best(self, best: float | None) -> None:
        """Keep the lowest validation error: with a search, that of the search, as final runs have one configuration."""
        of_search = self.final is None or not self.search_progress.total
        if best is not None and of_search and (self.best_error is None or best < self.best_error):
            self.best_error = best

    def ended(self, key: str, outcomes: list[Outcome], workers: Workers) -> None:
        """Note that a pack was trained; its runs are in the store."""
        # A short pack reports its first epochs alone before it ends.
        self._note_best(min((outcome.validation_error for outcome in outcomes), default=None))
        self._ended = time.monotonic()
        self.progress.done += self.in_flight.pop(key).members
        self.progress.running.pop(key, None)

    def lost(
        self, key: str, failure: Failure, workers: Workers, counts: Callable[[Failure], bool] = lambda failure: True
    ) -> None:
        """Note a failed attempt at a pack: it is requeued or abandoned.

        Where memory may be the reason, it is trained in halves from now on, and so are those that follow.
        An error of a rule is repeated by every pack; a mended rule is another rule and another sweep.

        Args:
            counts: tells which of the pack's failures count (:func:`tpbench.sweeps.sweep.should_abandon`).
        """
        pack, failures = self.in_flight[key], self.failures[key]
        failures.append(failure)
        if failure.kind == "rule":
            self.fail(failure.message)
            self.in_flight.clear()
            return
        if should_halve(failures):
            # Those that follow would end in the same way.
            self._parts = max(self._parts, min(2 * pack.parts, pack.members))
        if should_abandon(failures, pack.members, on_cluster=self.on_cluster, counts=counts):
            self.abandon(key, failure, workers)
        else:
            self.put_back(key)

    def put_back(self, key: str) -> None:
        """Take a pack that was handed out back into the queue."""
        self.in_flight.pop(key)
        self.progress.running.pop(key, None)
        self.requeue(key)

    def requeue(self, key: str) -> None:
        """Let a pack wait for another attempt."""
        if self.final is not None:
            self.final.waiting.append(key)

    def abandon(self, key: str, failure: Failure, workers: Workers) -> None:
        """Give up a pack. A final pack fails its sweep; the same command tries again."""
        self.interrupt(f"the final runs failed: {failure.message}")

    def interrupt(self, reason: str) -> None:
        """End the sweep without a result for now; packs in flight are not waited for."""
        self.failure = reason
        self.in_flight.clear()

    def fail(self, reason: str) -> None:
        """End the sweep without a result; the others go on."""
        self.failure = reason

    def result(self) -> list[RunRecord]:
        """Return the final runs, from the store.

        Raises:
            TpbenchError: the sweep failed, or the store lacks one.
        """
        if self.failure:
            raise TpbenchError(self.failure)
        records = self.final.records() if self.final else []
        present = [record for record in records if record]
        if not present or len(present) < len(records):
            raise TpbenchError(f"{self.name} ended without all of its final runs; the same command trains the others")
        return present


class Admission:
    """Rule for which sweeps may begin: here, all of them."""

    def allows(self, sweep: QueuedSweep) -> bool:
        """Return whether a sweep may hand out packs; changes nothing."""
        return True

    def begin(self, sweep: QueuedSweep) -> None:
        """Note that a sweep hands out a pack."""


class SearchedSweep(QueuedSweep):
    """A search whose best configuration is trained over the final seeds.

    Args:
        definition, workload, space: of the search.
        folder: of its state.
        journal: of that folder.
        settings: how packs are trained.
        accept_failures: go on to the final runs though many suggestions could not be trained.
    """

    def __init__(
        self,
        definition: SweepDefinition,
        workload: Workload,
        space: SearchSpace,
        folder: SweepFolder,
        journal: Journal,
        settings: PackSettings,
        *,
        accept_failures: bool = False,
        on_cluster: bool = False,
    ) -> None:
        name = folder.folder.name
        super().__init__(
            name, f"{definition.workload} {definition.method}", replace(settings, sweep=name), on_cluster=on_cluster
        )
        self.definition, self.workload, method = definition, workload, get_method(definition.method)
        self.space = space.of_network(method, workload.architecture)
        # The final runs keep the precision of the sweep, so none of them is a run of such a search.
        self.search_settings = self.settings.for_search(definition.searched_in)
        self.folder, self.journal, self.accept_failures = folder, journal, accept_failures
        self.constants = {**space.constants, **workload.feedback_schedule(method)}
        self.search = PackedSearch(
            self._inner, journal, trials=definition.trials, pack=definition.pack, max_pending=definition.lag
        )
        self.search_progress = Progress(definition.trials, journal.ended_count)
        self.final_progress = Progress(len(definition.seeds))
        cost = definition.cost or guessed_cost(workload)
        self.seed_seconds = cost * definition.epochs
        self._trial_seconds = definition.search_seconds(cost, 1)

    def _inner(self) -> Any:
        from ray.tune.search.hyperopt import HyperOptSearch

        return HyperOptSearch(
            self.space.to_hyperopt(),
            metric=METRIC,
            mode="min",
            # HyperOpt takes them as they are, in their order, before it draws anything.
            points_to_evaluate=[dict(known) for known in self.definition.start] or None,
            n_initial_points=RANDOM_FIRST,
            random_state_seed=self.definition.search_seed,
        )

    def begin(self, workers: Workers) -> None:
        """Continue where the journal ends; a complete search goes on to its final runs at once."""
        if self.journal.final_runs(self.settings.store) is not None:
            self._train_final(workers)
            return
        known = self.journal.best()
        self.best_error = known[1].validation_error if known else None
        if self.search.ended:
            self._begin_final(workers)

    @property
    def has_search(self) -> bool:
        return self.failure is None and self.final is None and self.search.may_suggest

    @property
    def waiting(self) -> list[str]:
        if self.failure is not None or self.final is not None:
            return super().waiting
        return [str(number) for number in self.search.waiting]

    @property
    def remaining(self) -> float:
        searching = 0 if self.final is not None else self.definition.trials - self.journal.ended_count
        return super().remaining + self._trial_seconds * searching

    @property
    def _step_seconds(self) -> float:
        return self._trial_seconds if self.final is None else self.seed_seconds

    @property
    def new_packs(self) -> int:
        return self.search.new_packs if self.has_search else 0

    def max_in_flight(self, workers: Workers) -> int:
        if self.finished or self.final is not None:
            return super().max_in_flight(workers)
        return max(self.potential, self.journal.parts or workers.parts(len(self.definition.seeds)))

    @property
    def potential(self) -> int:
        if self.finished or self.final is not None:
            return super().potential
        left = -(-(self.definition.trials - self.journal.ended_count) // self.definition.pack)
        return min(self.definition.lag, left) or 1

    def next_pack(self, allowed: Callable[[str], bool] = _anywhere) -> QueuedPack | None:
        if final := super().next_pack(allowed):
            return final
        entry = self.search.next_pack(lambda number: allowed(str(number))) if self.has_search else None
        if entry is None:
            return None
        return self._start(self._search_pack(entry.number, entry.suggestions))

    def _search_pack(self, number: int, suggestions: Sequence[Mapping[str, float]]) -> QueuedPack:
        d = self.definition
        plan = d.search_plan(self.workload, [self._complete(s) for s in suggestions])
        return QueuedPack(str(number), plan, self.search_settings, d.bracket)

    def _complete(self, suggestion: Mapping[str, float]) -> dict[str, Any]:
        """Return the whole configuration of a suggestion."""
        entries = get_method(self.definition.method).entries(self.workload.architecture)
        return unflatten({**suggestion, **self.constants}, entries)

    def ended(self, key: str, outcomes: list[Outcome], workers: Workers) -> None:
        searching = self.final is None
        if searching:
            # Written first: should the journal be out of reach, the pack is still in flight.
            self.journal.end_pack(int(key), outcomes)
        super().ended(key, outcomes, workers)
        if searching and self.search.ended:
            try:
                self._begin_final(workers)
            except TpbenchError as error:
                # The journal has the pack's end; a run that cannot be read is this sweep's error, not the others'.
                self.fail(str(error))

    def requeue(self, key: str) -> None:
        """Let a pack wait for another attempt."""
        if self.final is not None:
            super().requeue(key)
        else:
            self.search.requeue(int(key))

    def abandon(self, key: str, failure: Failure, workers: Workers) -> None:
        if self.final is not None:
            super().abandon(key, failure, workers)
        else:
            self.ended(key, [], workers)

    def _begin_final(self, workers: Workers) -> None:
        reason = self._failure_reason()
        if reason:
            # The message of that time names the cause.
            self.fail(reason if self.accept_failures else self.journal.failure or reason)
            return
        self._train_final(workers)

    def _train_final(self, workers: Workers) -> None:
        best = self.journal.best()
        assert best is not None  # or there were a reason
        d = self.definition
        plan = plan_seeds(
            self.workload,
            d.method,
            self._complete(best[0]),
            d.seeds,
            d.epochs,
            d.found("final"),
            d.fingerprint,
            d.method_source,
        )
        if self.journal.parts is None:
            self.journal.split(workers.parts(len(d.seeds)))
        self.train_final(plan, self.journal.parts or 1)

    def _failure_reason(self) -> str | None:
        """Return the reason why the search gives nothing to train; None if it does."""
        d, failed = self.definition, self.journal.failed_count
        message = next((f.message for of in self.failures.values() for f in of), "see Ray's log")
        if failed == d.trials:
            return f"every pack of the search failed: {message}; start another sweep with --fresh"
        if failed > _MOST_FAILURES * d.trials and not self.accept_failures:
            return (
                f"{failed} of {d.trials} configurations could not be trained ({message}); --accept-failures goes on to "
                "the final runs without them, --fresh searches anew"
            )
        if self.journal.best() is None:
            epochs = "--search-epochs" if d.search_epochs else "--epochs"
            ends = format_ends(self.journal.ends())
            return (
                f"none of the {d.trials} configurations learnt anything ({ends}); start another sweep "
                f"with more --trials, more than {d.trial_epochs} {epochs} or another --space{self._prune_advice()}"
            )
        return None

    def _prune_advice(self) -> str:
        epochs, error = self.workload.prune
        if not self.workload.source or error == 1:
            return ""
        return f"; 'prune: [{epochs}, {error:g}]' of its file stops them early, 'prune: [{epochs}, 1]' stops none"

    def fail(self, reason: str) -> None:
        super().fail(reason)
        self.journal.fail(reason)

    def close(self) -> None:
        """Note in the journal that the final runs are in the store.

        Raises:
            TpbenchError: they are not.
        """
        if not self.failure and self.journal.final_runs(self.settings.store) is None:
            self.journal.finish([outcome_of(record.definition.id, record.history) for record in self.result()])
