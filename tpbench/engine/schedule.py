"""The epochs of section B.1 in their order, and what is heard after each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Phase:
    """One epoch of the schedule: joint training, or feedback alone. ``epoch`` counts the joint epochs before it."""

    kind: Literal["joint", "feedback"]
    epoch: int


@dataclass(frozen=True)
class Schedule:
    """The epochs of section B.1: feedback pretraining, then joint epochs with pure feedback epochs between them.

    Nothing of it is stored, so that measurements, which end by the clock, may ask for any number of epochs.
    """

    epochs: int
    """Joint epochs."""
    pretrain: int
    between: int

    def __len__(self) -> int:
        return self.pretrain + self.epochs + self.between * max(self.epochs - 1, 0)

    def __iter__(self) -> Iterator[Phase]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, position: int) -> Phase:
        if not 0 <= position < len(self):
            raise IndexError(f"the schedule has {len(self)} epochs, none at {position}")
        if position < self.pretrain:
            return Phase("feedback", 0)
        epoch, after = divmod(position - self.pretrain, 1 + self.between)
        return Phase("feedback", epoch + 1) if after else Phase("joint", epoch)

    def joint_before(self, position: int) -> int:
        """How many joint epochs lie before a position."""
        return -(-max(position - self.pretrain, 0) // (1 + self.between))


@dataclass(frozen=True)
class EpochReport:
    """What a caller hears after each epoch of a pack."""

    phase: Phase
    done: int
    """Epochs of any kind done so far."""
    total: int
    best_validation_error: float | None
    warnings: tuple[str, ...] = ()
    """What is odd about the rule, said once, after the first joint epoch: hidden layers without any update, numbers
    that were not finite from the start."""
