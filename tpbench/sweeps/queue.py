"""One queue of packs for all sweeps of a command, as a Searcher of Ray Tune."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher

from tpbench.engine import TpbenchError
from tpbench.sweeps.packs import Failure, HandedPack
from tpbench.sweeps.sweep import Admission, QueuedSweep, Workers
from tpbench.training.packs import Outcome

METRIC = "share"

Opener = Callable[[int], None]


class SweepQueue(Searcher):
    """Asks the sweeps in turn for their next pack: final packs first, then who has fewest packs in flight.

    There is no barrier anywhere: while one sweep waits for results, others train. What a sweep suggests depends on its
    own results in their order alone, so the turn in which sweeps are asked changes no result. Sweeps of a lower
    ``priority`` come first.

    Args:
        sweeps: all of the command, in its order.
        workers: packs that train at once.
        final_workers: how many of them final seeds are worth splitting over (cores, or whole GPUs).
        open_gate: lets workers go that wait because there was nothing to train; is told how often it was called.
        admission: which sweeps may begin.
        most: trials that Tune may hold at once; None: twice the workers. A cluster starts as many as it has place for,
            or buys the place.
    """

    def __init__(
        self, sweeps: Sequence[QueuedSweep], workers: int, final_workers: int, open_gate: Opener,
        admission: Admission | None = None, most: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(metric=METRIC, mode="max")
        self.sweeps, self.count, self.final_workers = list(sweeps), workers, final_workers
        self.open_gate, self.admission = open_gate, admission or Admission()
        self.most = most or 2 * workers
        # No more processes than there can be packs.
        packs = sum(max(sweep.potential, sweep.final_progress.total) for sweep in sweeps if not sweep.finished)
        self._to_warm = min(workers, packs)
        self.live: dict[str, tuple[QueuedSweep, str] | None] = {}
        """The packs that Tune holds, by trial; None: a trial that waits at the gate."""
        self._errored: set[str] = set()
        self._warmed, self._round, self._named = 0, 0, 0
        self._broken: Exception | None = None

    @property
    def unfinished(self) -> list[QueuedSweep]:
        return [sweep for sweep in self.sweeps if not sweep.finished]

    def workers(self, sweep: QueuedSweep) -> Workers:
        """What a sweep may know when it splits its final runs."""
        others = sum(other.potential for other in self.sweeps if other is not sweep)
        return Workers(self.final_workers, max(1, len(self.unfinished)), others)

    # What Tune calls

    def suggest(self, trial_id: str) -> dict[str, Any] | Any:
        """The next pack; a wait at the gate or None while there is none; FINISHED when all sweeps are."""
        if self._broken:
            raise self._broken
        if self._warmed < self._to_warm > 1:
            self._warmed += 1
            return self._wait(trial_id, self._to_warm)
        if not self._going:
            self.release()
            return Searcher.FINISHED
        if len(self.live) >= self.most:
            return None
        for sweep in self._in_turn():
            pack = self._next_pack(sweep)
            if pack:
                self.admission.begin(sweep)
                self.live[trial_id] = sweep, pack.key
                return {"sweep": sweep.name, "pack": pack.key, "job": pack.to_json()}
        if not self._going:
            self.release()
            return Searcher.FINISHED
        waiting = sum(place is None for place in self.live.values())
        if waiting == len(self.live) and not self._ready():
            # Nothing in flight and nothing to hand out: waiting would last for ever.
            raise RuntimeError(f"the queue stands still; unfinished: {[s.name for s in self.unfinished]}")
        # One that waits behind each worker keeps its process; more would only occupy Tune.
        return self._wait(trial_id, None) if waiting < self.count else None

    @staticmethod
    def _next_pack(sweep: QueuedSweep) -> HandedPack | None:
        """The next pack of a sweep; what goes wrong in one is no reason to stop the others."""
        try:
            return sweep.next_pack()
        except Exception as error:
            sweep.fail(f"{type(error).__name__}: {error}" if not isinstance(error, TpbenchError) else str(error))
            return None

    @property
    def _going(self) -> bool:
        """Whether anything is in flight or may still be handed out."""
        return any(sweep.flying or self.admission.allows(sweep) for sweep in self.unfinished)

    def _ready(self) -> bool:
        return any(s.has_final or s.has_search for s in self.unfinished if self.admission.allows(s))

    def release(self) -> None:
        """Let workers go that wait at the gate."""
        self._round += 1
        self.open_gate(self._round)

    def _wait(self, trial_id: str, workers: int | None) -> dict[str, Any]:
        self.live[trial_id] = None
        self._named += 1
        return {"sweep": "", "pack": f"wait-{self._named}", "workers": workers, "round": self._round}

    def _in_turn(self) -> Iterable[QueuedSweep]:
        ready = [s for s in self.unfinished if (s.has_final or s.has_search) and self.admission.allows(s)]
        return sorted(ready, key=lambda sweep: (not sweep.has_final, sweep.priority, len(sweep.flying)))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial ended; one that errored is settled when Tune tells the callback what the error was."""
        if error:
            self._errored.add(trial_id)
            return
        self._guarded(trial_id, lambda place: self._settle(place, result or {}))

    def _settle(self, place: tuple[QueuedSweep, str], result: Mapping[str, Any]) -> None:
        sweep, key = place
        workers = self.workers(sweep)
        if "outcomes" in result:
            outcomes = [Outcome(**outcome) for outcome in _loads(result["outcomes"])]
            sweep.ended(key, outcomes, workers)
        else:
            message = str(result.get("failed", "its process ended without a result"))
            kind = str(result.get("kind", "node")) if "failed" in result else "lost"
            sweep.lost(key, Failure(kind, message, str(result.get("node", ""))), workers)

    def errored(self, trial_id: str, failure: Failure) -> None:
        """A trial's process raised or went; Tune does not restart it, the queue hands the pack out again."""
        self._errored.discard(trial_id)
        self._guarded(trial_id, lambda place: place[0].lost(place[1], failure, self.workers(place[0])))

    def _guarded(self, trial_id: str, settle: Callable[[tuple[QueuedSweep, str]], None]) -> None:
        """Settle a trial; it stays in flight until that is written down.

        Tune would take an exception for the trial's own and go on without ever hearing of it again, so the next
        suggestion raises it.
        """
        if trial_id not in self.live:
            return
        place = self.live[trial_id]
        try:
            if place is not None and not place[0].failure:
                settle(place)
            elif place is not None:
                place[0].flying.pop(place[1], None)
            self.live.pop(trial_id)
        except Exception as error:
            self._broken = error
        if self._ready() or not self._going:
            self.release()

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journals are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the journals are the state."""


def _loads(text: str) -> list[dict[str, Any]]:
    import json

    return list(json.loads(text))
