"""Packed search: one Tune trial asks the inner searcher for several suggestions and trains them as one pack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from tpbench.search.journal import Journal, PackEntry
from tpbench.training.packs import Outcome

METRIC = "validation_error"


class PackedSearch(Searcher):
    """Hands out packs of suggestions of an inner searcher, in an order that does not depend on timing.

    Pack n is suggested when, and only when, the inner searcher has been told the results of the packs up to n - lag, in
    their order. With ``lag`` one more than the packs that train at once, all workers are busy while packs take about
    the same time, and the same seed gives the same search on every machine and after every interruption.

    Args:
        inner: makes the inner searcher, anew from its seed.
        journal: what was suggested and how it ended; entries that are there already are replayed.
        trials: suggestions in all.
        pack: members per pack.
        lag: packs in flight or waiting.
    """

    def __init__(self, inner: Callable[[], Searcher], journal: Journal, *, trials: int, pack: int, lag: int) -> None:
        super().__init__(metric=METRIC, mode="min")
        self.inner, self.journal = inner(), journal
        self.trials, self.pack, self.lag = trials, pack, lag
        self._told = 0
        self._running: dict[str, int] = {}
        self._waiting: list[PackEntry] = []
        self._replay()

    def _replay(self) -> None:
        """Bring the inner searcher to where the journal ends; packs without an end are handed out again first."""
        for entry in self.journal.packs:
            self._tell(entry.number)
            suggestions = self._ask(entry.number, len(entry.suggestions))
            if suggestions != entry.suggestions:
                raise RuntimeError(f"replaying pack {entry.number} gave other suggestions than the journal holds")
            if entry.outcomes is None:
                self._waiting.append(entry)

    def _tell(self, number: int) -> bool:
        """Tell the inner searcher what it may know before pack ``number``; False if a result is still to come."""
        while self._told <= number - self.lag:
            entry = self.journal.packs[self._told]
            if entry.outcomes is None:
                return False
            for k in range(len(entry.suggestions)):
                result = {METRIC: entry.outcomes[k].objective} if entry.outcomes else None
                self.inner.on_trial_complete(f"{entry.number}-{k}", result=result, error=result is None)
            self._told += 1
        return True

    def _ask(self, number: int, members: int) -> list[dict[str, float]]:
        suggestions = []
        for k in range(members):
            suggestion = self.inner.suggest(f"{number}-{k}")
            if not isinstance(suggestion, dict):
                raise RuntimeError(f"the searcher gave no suggestion for member {k} of pack {number}")
            suggestions.append({name: float(value) for name, value in suggestion.items()})
        return suggestions

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack; None while it must wait for a result; FINISHED when all trials are handed out."""
        if self._waiting:
            entry = self._waiting.pop(0)
        else:
            left = self.trials - self.journal.suggested_count
            if left <= 0:
                return Searcher.FINISHED
            number = len(self.journal.packs)
            if not self._tell(number):
                return None
            entry = self.journal.suggested(self._ask(number, min(self.pack, left)))
        self._running[trial_id] = entry.number
        return {"pack": entry.number, "suggestions": [dict(s) for s in entry.suggestions]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note a pack's outcomes once; a trial that errored or was lost fails all its suggestions."""
        number = self._running.pop(trial_id, None)
        if number is None:
            return
        outcomes = None if error or not result else result.get("outcomes")
        self.journal.ended(number, [Outcome(**outcome) for outcome in outcomes or []])

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the journal is the state."""
