"""The paper's theorems as computations: each check runs the engine's own functions and measures a number.

What a check says is only as good as its setting: small random networks in float64. It cannot prove a theorem; it shows
that the engine computes what the theorem is about, and fails when the engine does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tpbench.engine.theory import losses, numbers, targets, updates
from tpbench.engine.theory.check import Check

CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    targets.lemma_1,
    targets.theorem_2,
    targets.lemma_3,
    losses.theorem_4,
    updates.theorem_5,
    updates.difference_target_propagation,
    updates.theorem_6,
    numbers.random_matrices,
    losses.equation_196,
    numbers.difference_form,
)


def verify_theory() -> Iterator[Check]:
    """All checks, in the paper's order."""
    for function in CHECKS:
        yield from function()


__all__ = ["CHECKS", "Check", "verify_theory"]
