"""A search pack as a bracket: its worst members stop at rungs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tpbench.engine import MemberHistory

RUNGS = 2


def rung_epochs(epochs: int, factor: int) -> list[int]:
    """Return the joint epochs at which a bracket is halved: ``epochs / factor^2`` and ``epochs / factor``, rounded.

    A rung is at least 1. Rungs that fall together count once, one on the last epoch not at all.
    """
    rungs = {max(1, round(epochs / factor**power)) for power in range(1, RUNGS + 1)}
    return sorted(epoch for epoch in rungs if epoch < epochs)


@dataclass(frozen=True)
class Bracket:
    """Successive halving within a pack: a :class:`tpbench.training.plan.StopRule`."""

    epochs: int
    """Joint epochs of those that reach the end."""
    factor: int
    curve: str
    """The one whose lowest value so far is compared."""

    @property
    def name(self) -> str:
        """Name of the rule, for the pack's checkpoint."""
        return f"halving {self.factor} {self.curve}"

    @property
    def rungs(self) -> list[int]:
        """Joint epochs after which members stop."""
        return rung_epochs(self.epochs, self.factor)

    def stretches(self, members: int) -> list[tuple[int, int]]:
        """Return how many of so many members train between rungs, and for how many epochs, if none leaves before."""
        going, done, found = members, 0, []
        for number, rung in enumerate(self.rungs, start=1):
            found.append((going, rung - done))
            going, done = max(1, round(members / self.factor**number)), rung
        return [*found, (going, self.epochs - done)]

    def share(self, members: int) -> float:
        """Return the share of all epochs that so many members train, if none of them diverges or is pruned."""
        return sum(going * epochs for going, epochs in self.stretches(members)) / (members * self.epochs)

    def stopped(self, histories: Sequence[MemberHistory], epoch: int) -> dict[int, int]:
        """Return the members that are stopped by a joint epoch, each with its rung: all but the best of each rung.

        A member's epochs after its rung do not count, so that runs which the store has already compete as if they were
        trained here. Ties are decided by the order of suggestion.

        Args:
            histories: of all members of the pack in the order of their suggestion.
            epoch: joint epochs done.
        """
        out: dict[int, int] = {}
        for number, rung in enumerate(rung_epochs(self.epochs, self.factor), start=1):
            if rung > epoch:
                break
            racing = [m for m, history in enumerate(histories) if m not in out and history.epochs >= rung]
            racing.sort(key=lambda m: (min(histories[m].curves[self.curve][:rung]), m))
            count = max(1, round(len(histories) / self.factor**number))
            out |= dict.fromkeys(racing[count:], rung)
        return out


def bracket_sizes(factor: int, *, on_gpus: bool) -> tuple[int, ...]:
    """Return sizes of packs that can be halved twice, in ascending order; none where the factor is 0.

    On CPU cores members hardly get cheaper in larger packs, on a GPU they do.
    """
    if not factor:
        return ()
    smallest = int(factor**RUNGS)
    return tuple(smallest * multiple for multiple in ((1, 2, 4, 8) if on_gpus else (1, factor)))
