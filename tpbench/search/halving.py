"""A search pack as a bracket: its worst members stop at rungs (design: "A pack is a bracket")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tpbench.engine import MemberHistory, UsageError

RUNGS = 2


def rung_epochs(epochs: int, factor: int) -> list[int]:
    """Joint epochs at which a bracket is halved: ``epochs / factor^2`` and ``epochs / factor``, rounded, at least 1.

    Rungs that fall together or on the last epoch count once, or not at all.
    """
    found = {max(1, round(epochs / factor**power)) for power in range(1, RUNGS + 1)}
    return sorted(epoch for epoch in found if epoch < epochs)


def check_factor(factor: int) -> int:
    """0 (no halving) or a factor from 2 to 10.

    Raises:
        UsageError: it is neither.
    """
    if factor and not 2 <= factor <= 10:
        raise UsageError(f"--halving {factor}: write a factor from 2 to 10 (3 is usual), or leave it out")
    return factor


@dataclass(frozen=True)
class Bracket:
    """Says which members of a pack stop: a :class:`tpbench.training.pack.StopRule`."""

    epochs: int
    """Joint epochs of those that reach the end."""
    factor: int
    objective: str
    """The curve whose lowest value so far is compared."""

    @property
    def name(self) -> str:
        """Names the rule, for the pack's checkpoint."""
        return f"halving {self.factor} {self.objective}"

    @property
    def rungs(self) -> list[int]:
        """Joint epochs after which members stop."""
        return rung_epochs(self.epochs, self.factor)

    def stopped(self, histories: Sequence[MemberHistory], epoch: int) -> dict[int, int]:
        """Members that are stopped by this joint epoch, and at which: of each rung all but the best.

        What a member did after it was stopped is not looked at, so that runs which the store has from elsewhere compete
        as if they were trained here. Ties are decided by the order of suggestion.

        Args:
            histories: of all members of the pack in the order of their suggestion.
            epoch: joint epochs done.
        """
        out: dict[int, int] = {}
        for number, rung in enumerate(rung_epochs(self.epochs, self.factor), start=1):
            if rung > epoch:
                break
            racing = [m for m, history in enumerate(histories) if m not in out and history.epochs >= rung]
            racing.sort(key=lambda m: (min(histories[m].curves[self.objective][:rung]), m))
            kept = max(1, round(len(histories) / self.factor**number))
            out |= dict.fromkeys(racing[kept:], rung)
        return out


def pack_floor(factor: int, trials: int, workers: int) -> int:
    """The smallest pack that can be halved twice; ``factor`` times as many where every worker still gets four packs."""
    smallest = int(factor**RUNGS)
    return factor * smallest if trials >= 4 * workers * factor * smallest else smallest
