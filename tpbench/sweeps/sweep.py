"""One sweep as the queue sees it: it says whether it has a pack, hands it out, and hears how it ended."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tpbench.engine import TpbenchError, get_method
from tpbench.results import RunRecord, RunStore
from tpbench.results.location import location
from tpbench.results.networks import has_network
from tpbench.search.definition import SELECTION_SEED, SweepDefinition, SweepFolder
from tpbench.search.halving import Bracket
from tpbench.search.journal import Journal
from tpbench.search.packed import METRIC, PackedSearch
from tpbench.search.spaces import SearchSpace
from tpbench.sweeps.packs import Failure, HandedPack, is_given_up, wants_halves
from tpbench.training.pack import Outcome, PackPlan, PackSettings, define_runs, find_run, outcome_of, plan_seeds
from tpbench.workloads import Workload

# A search of which a larger share of the suggestions could not be trained is not the search that was asked for.
_MOST_FAILURES = 0.1
# Final packs per worker of a campaign.
_WAVES = 4


def _anywhere(key: str) -> bool:
    return True


@dataclass(frozen=True)
class Workers:
    """What the queue knows about its workers when a sweep splits its final runs."""

    count: int
    """That count for final runs: cores, or whole GPUs."""
    unfinished: int = 1
    """Sweeps that are not done."""
    others: int = 0
    """Packs of other sweeps that are in flight or could be."""

    def parts(self, seeds: int) -> int:
        """Packs that so many final seeds are split into: over the workers that are free for them.

        At least two where there are two workers: processes of one thread train more than one of two threads. In a
        campaign about four per worker over all sweeps, so that the last packs are short and nobody waits long for them.
        """
        share = -(-_WAVES * self.count // self.unfinished) if self.unfinished > 1 else self.count
        free = max(self.count - self.others, share, 2)
        return max(1, min(seeds, free)) if self.count > 1 else 1


class FinalRuns:
    """One configuration over its seeds, split into packs of which those are handed out that the store lacks."""

    def __init__(self, plan: PackPlan, fingerprint: str, settings: PackSettings) -> None:
        self.plan, self.fingerprint, self.settings = plan, fingerprint, settings
        self.store = RunStore(location(settings.results))
        self.packs: dict[str, HandedPack] = {}
        self.waiting: list[str] = []

    def records(self) -> list[RunRecord | None]:
        """The run of every seed, None where it is missing."""
        return [find_run(self.store, d) for d in define_runs(self.plan, self.fingerprint, self.settings.precision)]

    def split(self, parts: int) -> None:
        """Make the packs; the same number of parts gives the same packs, so that checkpoints fit."""
        keep, count = self.settings.keep_networks, len(self.plan.seeds)
        known = [record and (not keep or has_network(self.store, record)) for record in self.records()]
        for part in range(parts):
            chosen = slice(part * count // parts, (part + 1) * count // parts)
            if all(known[chosen]):
                continue
            plan = replace(self.plan, seeds=self.plan.seeds[chosen], configurations=self.plan.configurations[chosen])
            key = f"final-{part}"
            self.packs[key] = HandedPack(key, plan, self.settings)
            self.waiting.append(key)


@dataclass
class Progress:
    """How far a part of a sweep is, in its own steps."""

    total: int
    done: int = 0
    running: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Steps of each pack in flight, and the share of them that is done."""

    @property
    def so_far(self) -> float:
        return self.done + sum(steps * min(share, 0.999) for steps, share in self.running.values())


class QueuedSweep:
    """What all sweeps of a queue have: packs in flight, attempts, a state, and a result."""

    def __init__(self, name: str, label: str, settings: PackSettings, *, on_cluster: bool = False) -> None:
        self.name, self.label, self.settings, self.on_cluster = name, label, settings, on_cluster
        self.flying: dict[str, HandedPack] = {}
        self.failures: dict[str, list[Failure]] = defaultdict(list)
        self.failure: str | None = None
        self.priority = 0
        """Sweeps of a lower one are asked first."""
        self.final: FinalRuns | None = None
        self._parts = {"search": 1, "final": 1}
        """How many parts the packs of the search and of the final runs are trained in."""
        self.best_error: float | None = None
        self._begun, self._ended = 0.0, 0.0
        self.search_progress = Progress(0)
        self.final_progress = Progress(0)

    # What the queue asks

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, or nothing can be done."""
        return self.failure is not None or self.done

    @property
    def done(self) -> bool:
        """Whether all final runs are in the store."""
        final = self.final
        return final is not None and not final.waiting and not any(key in final.packs for key in self.flying)

    @property
    def has_final(self) -> bool:
        """Whether a final pack waits."""
        return self.failure is None and self.final is not None and bool(self.final.waiting)

    @property
    def has_search(self) -> bool:
        """Whether a pack of the search waits."""
        return False

    @property
    def potential(self) -> int:
        """Packs that are in flight or could be, for who asks how many workers are free."""
        return (
            0 if self.finished else len(self.flying) + self.has_search + (len(self.final.waiting) if self.final else 0)
        )

    @property
    def waiting(self) -> list[str]:
        """The packs that are made and wait to be handed out, in their order."""
        return [] if self.failure is not None or self.final is None else list(self.final.waiting)

    @property
    def new_packs(self) -> int:
        """Packs that are not made yet and could be handed out now."""
        return 0

    def coming(self, workers: Workers) -> int:
        """Return how many packs may be in flight at once from now on."""
        return 0 if self.finished else len(self.flying) + len(self.waiting)

    def next_pack(self, allowed: Callable[[str], bool] = _anywhere) -> HandedPack | None:
        """Take the next pack: a final one if one waits.

        Args:
            allowed: whether a pack of that key may be handed out to who asks.
        """
        if not self.has_final or self.final is None:
            return None
        key = next(filter(allowed, self.final.waiting), None)
        if key is None:
            return None
        self.final.waiting.remove(key)
        return self._fly(self.final.packs[key], self.final_progress)

    @property
    def seconds(self) -> float:
        """Wall time from the first pack that was handed out to the last that ended."""
        return max(0.0, self._ended - self._begun)

    def _fly(self, pack: HandedPack, progress: Progress) -> HandedPack:
        self._begun = self._begun or time.monotonic()
        pack = replace(pack, parts=min(max(pack.parts, self._parts[self._role]), pack.members))
        self.flying[pack.key] = pack
        progress.running[pack.key] = pack.members, 0.0
        return pack

    @property
    def _role(self) -> str:
        return "search" if self.final is None else "final"

    def report(self, key: str, share: float, best: float | None) -> None:
        """A pack got on."""
        for progress in (self.search_progress, self.final_progress):
            if key in progress.running:
                progress.running[key] = progress.running[key][0], share
        # Of a sweep that searches, what the search reached: the final runs are many of one configuration.
        of_search = key in self.search_progress.running or not self.search_progress.total
        if best is not None and of_search and (self.best_error is None or best < self.best_error):
            self.best_error = best

    def ended(self, key: str, outcomes: list[Outcome], workers: Workers) -> None:
        """A pack was trained; what it published is in the store."""
        self._end_final(key)

    def _end_final(self, key: str) -> None:
        self._ended = time.monotonic()
        pack = self.flying.pop(key)
        self.final_progress.running.pop(key, None)
        self.final_progress.done += pack.members

    def lost(
        self, key: str, failure: Failure, workers: Workers, counts: Callable[[Failure], bool] = lambda failure: True
    ) -> None:
        """Note a failed attempt at a pack: it waits for another one, or is given up.

        Where memory may be the reason, it is trained in halves from now on, and so are those that follow.
        What a rule does wrong it will do again; once it is mended, it is another rule and another sweep.

        Args:
            counts: which of the pack's failures count (:func:`tpbench.sweeps.packs.is_given_up`).
        """
        pack, failures = self.flying[key], self.failures[key]
        failures.append(failure)
        if failure.kind == "rule":
            self.fail(failure.message)
            self.flying.clear()
            return
        if wants_halves(failures):
            # Those that follow would end in the same way.
            self._parts[self._role] = max(self._parts[self._role], min(2 * pack.parts, pack.members))
        if is_given_up(failures, pack.members, on_cluster=self.on_cluster, counts=counts):
            self.give_up(key, failure, workers)
        else:
            self.put_back(key)

    def put_back(self, key: str) -> None:
        """Let a pack that was handed out wait again."""
        self.flying.pop(key)
        for progress in (self.search_progress, self.final_progress):
            progress.running.pop(key, None)
        self.wait_again(key)

    def wait_again(self, key: str) -> None:
        if self.final is not None:
            self.final.waiting.append(key)

    def give_up(self, key: str, failure: Failure, workers: Workers) -> None:
        """A final pack that cannot be trained fails its sweep; the same command tries again."""
        self.interrupt(f"the final runs failed: {failure.message}")

    def interrupt(self, reason: str) -> None:
        """The sweep ends without a result for now; what is in flight is not waited for."""
        self.failure = reason
        self.flying.clear()

    def fail(self, reason: str) -> None:
        """The sweep ends without a result; the others go on."""
        self.failure = reason

    def result(self) -> list[RunRecord]:
        """The final runs, from the store.

        Raises:
            TpbenchError: the sweep failed, or the store lacks one.
        """
        if self.failure:
            raise TpbenchError(self.failure)
        records = self.final.records() if self.final else []
        found = [record for record in records if record]
        if not found or len(found) < len(records):
            raise TpbenchError(f"{self.name} ended without all of its final runs; the same command trains the others")
        return found


class Admission:
    """Lets every sweep begin; :class:`tpbench.sweeps.reproduction.Budget` does not."""

    def allows(self, sweep: QueuedSweep) -> bool:
        """Whether a sweep may hand out packs; changes nothing."""
        return True

    def begin(self, sweep: QueuedSweep) -> None:
        """A sweep hands out a pack."""


class PlainSweep(QueuedSweep):
    """A configuration that is known: final runs alone."""

    def __init__(
        self,
        name: str,
        label: str,
        plan: PackPlan,
        fingerprint: str,
        settings: PackSettings,
        parts: int,
        *,
        on_cluster: bool = False,
    ) -> None:
        super().__init__(name, label, settings, on_cluster=on_cluster)
        self.final = FinalRuns(plan, fingerprint, settings)
        self.final.split(parts)
        missing = sum(pack.members for pack in self.final.packs.values())
        self.final_progress = Progress(len(plan.seeds), len(plan.seeds) - missing)


class SearchedSweep(QueuedSweep):
    """A search of which the best configuration is trained over the final seeds.

    Args:
        definition, workload, space: what is searched.
        folder: where its state is.
        journal: what has been done.
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
        self.definition, self.workload, self.space = definition, workload, space
        # The final runs keep the precision of the sweep, so none of them is a run of such a search.
        self.search_settings = replace(self.settings, precision=definition.searched_in, keep_networks=False)
        self.folder, self.journal, self.accept_failures = folder, journal, accept_failures
        self.constants = {**space.constants, **workload.feedback_schedule(get_method(definition.method))}
        self.search = PackedSearch(
            self._inner, journal, trials=definition.trials, pack=definition.pack, lag=definition.lag
        )
        self.search_progress = Progress(definition.trials, journal.ended_count)
        self.final_progress = Progress(len(definition.seeds))

    def _inner(self) -> Any:
        from ray.tune.search.hyperopt import HyperOptSearch

        seed = self.definition.search_seed
        return HyperOptSearch(self.space.to_hyperopt(), metric=METRIC, mode="min", random_state_seed=seed)

    def begin(self, workers: Workers) -> None:
        """Look where the journal ends; a search that is complete goes on to its final runs at once."""
        if self.journal.final_runs(RunStore(location(self.settings.results))) is not None:
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
    def new_packs(self) -> int:
        return self.search.new_packs if self.has_search else 0

    def coming(self, workers: Workers) -> int:
        if self.finished or self.final is not None:
            return super().coming(workers)
        return max(self.potential, self.journal.parts or workers.parts(len(self.definition.seeds)))

    @property
    def potential(self) -> int:
        if self.finished or self.final is not None:
            return super().potential
        left = -(-(self.definition.trials - self.journal.ended_count) // self.definition.pack)
        return min(self.definition.lag, left) or 1

    def next_pack(self, allowed: Callable[[str], bool] = _anywhere) -> HandedPack | None:
        if final := super().next_pack(allowed):
            return final
        entry = self.search.next_pack(lambda number: allowed(str(number))) if self.has_search else None
        if entry is None:
            return None
        return self._fly(self._search_pack(entry.number, entry.suggestions), self.search_progress)

    def _search_pack(self, number: int, suggestions: Sequence[Mapping[str, float]]) -> HandedPack:
        d = self.definition
        plan = PackPlan(
            self.workload,
            d.method,
            tuple({**s, **self.constants} for s in suggestions),
            (SELECTION_SEED,) * len(suggestions),
            d.epochs,
            prune=True,
            objective=d.objective,
            found=d.found("search"),
            fingerprint=d.fingerprint,
        )
        bracket = Bracket(d.epochs, d.halving, d.objective) if d.halving else None
        return HandedPack(str(number), plan, self.search_settings, bracket)

    def ended(self, key: str, outcomes: list[Outcome], workers: Workers) -> None:
        if self.final is not None:
            self._end_final(key)
        else:
            self._end_search(key, outcomes, workers)

    def _end_search(self, key: str, outcomes: list[Outcome], workers: Workers) -> None:
        # Written first: should the journal be out of reach, the pack is still in flight.
        self.search.end(int(key), outcomes)
        pack = self.flying.pop(key)
        self._ended = time.monotonic()
        self.search_progress.running.pop(key, None)
        self.search_progress.done += pack.members
        if self.search.ended:
            self._begin_final(workers)

    def wait_again(self, key: str) -> None:
        if self.final is not None:
            super().wait_again(key)
        else:
            self.search.again(int(key))

    def give_up(self, key: str, failure: Failure, workers: Workers) -> None:
        if self.final is not None:
            super().give_up(key, failure, workers)
        else:
            self._end_search(key, [], workers)

    def _begin_final(self, workers: Workers) -> None:
        reason = self._why_not()
        if reason:
            # What was said when it happened knows more.
            self.fail(reason if self.accept_failures else self.journal.failure or reason)
            return
        self._train_final(workers)

    def _train_final(self, workers: Workers) -> None:
        best = self.journal.best()
        assert best is not None  # or there were a reason
        d = self.definition
        plan = plan_seeds(
            self.workload, d.method, {**best[0], **self.constants}, d.seeds, d.epochs, d.found("final"), d.fingerprint
        )
        self.final = FinalRuns(plan, d.fingerprint, self.settings)
        if self.journal.parts is None:
            self.journal.split(workers.parts(len(d.seeds)))
        self.final.split(self.journal.parts or 1)
        missing = sum(pack.members for pack in self.final.packs.values())
        self.final_progress.done = len(d.seeds) - missing

    def _why_not(self) -> str | None:
        """Why the search gives nothing to train, if so."""
        d, failed = self.definition, self.journal.failed_count
        message = next((f.message for found in self.failures.values() for f in found), "see Ray's log")
        if failed == d.trials:
            return f"every pack of the search failed: {message}; start another sweep with --fresh"
        if failed > _MOST_FAILURES * d.trials and not self.accept_failures:
            return (
                f"{failed} of {d.trials} configurations could not be trained ({message}); --accept-failures goes on to "
                "the final runs without them, --fresh searches anew"
            )
        if self.journal.best() is None:
            return (
                f"none of the {d.trials} configurations learnt anything ({self.journal.tally()}); start another sweep "
                f"with more --trials, more than {d.epochs} --epochs or another --space{self._prune_advice()}"
            )
        return None

    def _prune_advice(self) -> str:
        epochs, error = self.workload.prune
        if not self.workload.source or error == 1:
            return ""
        return f"; 'prune: [{epochs}, {error:g}]' of its file stops them early, 'prune: [{epochs}, 1]' stops nobody"

    def fail(self, reason: str) -> None:
        super().fail(reason)
        self.journal.fail(reason)

    def close(self) -> None:
        """Note in the journal that the final runs are in the store.

        Raises:
            TpbenchError: they are not.
        """
        if not self.failure and self.journal.final_runs(RunStore(location(self.settings.results))) is None:
            self.journal.finished([self.settled(record) for record in self.result()])

    @staticmethod
    def settled(record: RunRecord) -> Outcome:
        return outcome_of(record.definition.id, record.history)
