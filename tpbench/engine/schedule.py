"""The epochs of section B.1 in their order, and what is heard after each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Phase:
    """One epoch of the schedule: joint training, or feedback alone. ``epoch`` counts the joint epochs before it."""

    kind: Literal["joint", "feedback"]
    epoch: int


def schedule(epochs: int, pretrain: int, between: int) -> list[Phase]:
    """The epochs of section B.1: feedback pretraining, then joint epochs with pure feedback epochs between them."""
    phases = [Phase("feedback", 0)] * pretrain
    for epoch in range(epochs):
        phases.append(Phase("joint", epoch))
        if epoch + 1 < epochs:
            phases += [Phase("feedback", epoch + 1)] * between
    return phases


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
