"""Packed TPE: several suggestions of HyperOpt at a time, which are trained as one pack."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tpbench.engine import TpbenchError
from tpbench.search.journal import Journal, PackEntry

if TYPE_CHECKING:
    from ray.tune.search import Searcher

METRIC = "score"
RANDOM_FIRST = 20
"""TPE draws at random until so many suggestions count: all but those that it knows to have failed."""
# Relative; the spaces are sampled in float64.
_ROUNDING = 1e-9


class PackedSearch:
    """Hands out packs of suggestions of an inner searcher, in an order that does not depend on timing.

    Pack n is suggested when, and only when, the inner searcher has the results of the packs up to n - max_pending, in
    their order. With ``max_pending`` one more than the packs that train at once, all workers are busy while packs take
    about the same time, and the same seed gives the same search whatever the timing and after every interruption.

    The journal is replayed before the first new pack: a campaign of forty sweeps begins with one sweep.
    It may have been written on a processor of another kind, whose suggestions differ in the last bit.

    Args:
        inner: makes the inner searcher, anew from its seed.
        journal: of suggestions and outcomes; entries that are there already are replayed.
        trials: suggestions in all.
        pack: members per pack.
        max_pending: packs in flight or waiting.
    """

    def __init__(
        self, inner: Callable[[], Searcher], journal: Journal, *, trials: int, pack: int, max_pending: int
    ) -> None:
        self._make = inner
        self._inner: Searcher | None = None
        self.journal, self.trials, self.pack, self.max_pending = journal, trials, pack, max_pending
        self._reported = 0
        self._waiting = [entry for entry in journal.packs if entry.outcomes is None]

    @property
    def ended(self) -> bool:
        """True if all suggestions have been made and have ended."""
        return self.journal.ended_count >= self.trials

    @property
    def may_suggest(self) -> bool:
        """True if :meth:`next_pack` would give a pack; it costs nothing."""
        return bool(self._waiting or self.new_packs)

    @property
    def waiting(self) -> list[int]:
        """Numbers of the packs that were suggested and wait to be handed out: again, or after an interruption."""
        return [entry.number for entry in self._waiting]

    @property
    def new_packs(self) -> int:
        """Number of packs that may be suggested now, one after the other without a result between them."""
        left = -(-(self.trials - self.journal.suggested_count) // self.pack)
        packs = self.journal.packs
        oldest = next((k for k in range(self._reported, len(packs)) if packs[k].outcomes is None), len(packs))
        return max(0, min(left, oldest + self.max_pending - len(packs)))

    def next_pack(self, allowed: Callable[[int], bool] = lambda number: True) -> PackEntry | None:
        """Return the next pack, after the journal has it; None while it must wait, or when all are out.

        Args:
            allowed: tells whether a pack that waits may be handed out; a new one always may.
        """
        for entry in self._waiting:
            if allowed(entry.number):
                self._waiting.remove(entry)
                return entry
        if not self.new_packs:
            return None
        inner, number = self._replayed(), len(self.journal.packs)
        self._report(inner, number)
        members = min(self.pack, self.trials - self.journal.suggested_count)
        return self.journal.add_pack(self._ask(inner, number, members))

    def requeue(self, number: int) -> None:
        """Let a pack wait for another attempt."""
        self._waiting.append(self.journal.packs[number])

    def _replayed(self) -> Searcher:
        """Return the inner searcher after a replay of the journal.

        Raises:
            TpbenchError: it does not suggest what the journal holds.
        """
        if self._inner is None:
            inner = self._make()
            for entry in self.journal.packs:
                self._report(inner, entry.number)
                if not _same(self._ask(inner, entry.number, len(entry.suggestions)), entry.suggestions):
                    raise TpbenchError(
                        f"{self.journal.path}: the searcher gives other suggestions for pack {entry.number} than the "
                        "journal holds, so this search cannot go on: it was begun with another version of hyperopt or "
                        "numpy, or the journal was changed. Go on with that version; or --fresh searches anew"
                    )
            self._inner = inner
        return self._inner

    def _report(self, inner: Searcher, number: int) -> None:
        """Report to the inner searcher the results that it has before pack ``number``."""
        while self._reported <= number - self.max_pending:
            entry = self.journal.packs[self._reported]
            for k, score in enumerate(_scores(entry)):
                result = None if score is None else {METRIC: score}
                inner.on_trial_complete(f"{entry.number}-{k}", result=result, error=result is None)
            self._reported += 1

    def _ask(self, inner: Searcher, number: int, members: int) -> list[dict[str, float]]:
        suggestions = []
        for k in range(members):
            suggestion = inner.suggest(f"{number}-{k}")
            if not isinstance(suggestion, dict):
                raise RuntimeError(f"the searcher gave no suggestion for member {k} of pack {number}")
            suggestions.append({name: float(value) for name, value in suggestion.items()})
        return suggestions


def _scores(entry: PackEntry) -> list[float | None]:
    """Return what TPE is told about the members of a pack that has ended: scores, and None of those that failed."""
    values = [outcome.score for outcome in entry.outcomes or []] or [math.inf] * len(entry.suggestions)
    # TPE cannot place an infinite loss; it takes the trial for one that failed.
    return [value if math.isfinite(value) else None for value in values]


def random_first(trials: int, pack: int, max_pending: int) -> int:
    """Return how many suggestions TPE makes without any result, or draws at random, if all packs succeed.

    Args:
        trials: suggestions in all.
        pack: members per pack.
        max_pending: as of :class:`PackedSearch`.
    """
    return min(trials, max(RANDOM_FIRST, pack * max_pending))


def random_trials(packs: Sequence[PackEntry], max_pending: int, known: int = 0) -> list[bool]:
    """Return for each suggestion of a search, in order, whether TPE drew it at random from the space.

    Args:
        packs: of the journal.
        max_pending: as of :class:`PackedSearch`: TPE knows the results of the packs up to ``n - max_pending``.
        known: number of configurations that were given to the search. They come first, are not random, and count among
            the suggestions that TPE waits for.
    """
    random: list[bool] = []
    failed = 0
    for number, entry in enumerate(packs):
        if number >= max_pending:
            failed += _scores(packs[number - max_pending]).count(None)
        for _ in entry.suggestions:
            random.append(known <= len(random) < RANDOM_FIRST + failed)
    return random


def _same(some: list[dict[str, float]], others: list[dict[str, float]]) -> bool:
    """Return whether suggestions are equal but for rounding: processors differ in the last bit of an exponential."""
    return len(some) == len(others) and all(
        one.keys() == other.keys() and all(math.isclose(one[name], other[name], rel_tol=_ROUNDING) for name in one)
        for one, other in zip(some, others, strict=True)
    )
