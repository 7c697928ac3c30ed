"""How a run's configuration was found, and what that cost: the part of a run's file that says whether a pair is fair.

``found`` of a run is a mapping with

- ``by``: ``published`` (the authors' configuration), ``file`` (of the user's), ``python`` (given to ``tpbench.run``) or
  ``search``;
- of a search: ``sweep`` (its id), ``trials``, ``epochs``, ``objective``, ``space`` (digest of the search space),
  ``halving`` (the factor, where packs were brackets), ``search_precision`` (where it is not the run's own), ``role``
  (``search`` for a run that the search itself trained, ``final`` for the runs of the chosen configuration) and
  ``seeds``, those of the final runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEFAULT_OBJECTIVE = "validation_error"
OBJECTIVES = (DEFAULT_OBJECTIVE, "validation_loss", "train_loss")
"""The curves of which a search can minimise the lowest value."""

PUBLISHED: Mapping[str, Any] = {"by": "published"}
FROM_FILE: Mapping[str, Any] = {"by": "file"}
FROM_PYTHON: Mapping[str, Any] = {"by": "python"}


def by_search(
    sweep: str,
    trials: int,
    epochs: int,
    space: str,
    role: str,
    seeds: Sequence[int],
    objective: str = DEFAULT_OBJECTIVE,
    halving: int = 0,
    precision: str = "",
) -> dict[str, Any]:
    """``found`` of a run that a sweep trained.

    Args:
        sweep: the sweep's id.
        trials, epochs: configurations of the search, and joint epochs of each.
        space: digest of the search space.
        role: ``search`` or ``final``.
        seeds: of the final runs.
        objective: the curve that was minimised.
        halving: factor of a search in which packs are brackets; 0: none.
        precision: of the search, where it is not that of the run.
    """
    found = {
        "by": "search",
        "role": role,
        "sweep": sweep,
        "trials": trials,
        "epochs": epochs,
        "objective": objective,
        "space": space,
        "seeds": list(seeds),
    }
    # Left out where they say nothing, so that the files of older versions read the same.
    later = {"halving": halving, "search_precision": precision}
    return {**found, **{name: value for name, value in later.items() if value}}


def retold(found: Mapping[str, Any], trained: str, wanted: str) -> dict[str, Any]:
    """``found`` of a run as one of another precision, with the same configuration, has to tell it.

    Args:
        found: of a run.
        trained, wanted: the precision of that run, and of the other.
    """
    told = {name: value for name, value in found.items() if name != "search_precision"}
    if found.get("by") != "search":
        return told
    searched = found.get("search_precision", trained)
    return {**told, "search_precision": searched} if searched != wanted else told


@dataclass(frozen=True)
class Budget:
    """What finding a configuration cost, as far as comparing methods fairly needs it."""

    by: str
    """``published``, ``file``, ``python``, ``search`` or ``unknown``."""
    trials: int = 0
    epochs: int = 0
    objective: str = ""
    halving: int = 0
    """The factor of a search with halving; 0: none."""
    precision: str = ""
    """Of the search, where the runs have another."""

    def __str__(self) -> str:
        if self.by != "search":
            return self.by
        objective = "" if self.objective == DEFAULT_OBJECTIVE else f", {self.objective}"
        halving = f", halving {self.halving}" if self.halving else ""
        precision = f" in {self.precision}" if self.precision else ""
        return f"search {self.trials} x {self.epochs} epochs{precision}{halving}{objective}"


UNKNOWN = Budget("unknown")


def budget_of(found: Mapping[str, Any]) -> Budget:
    """The budget that ``found`` of a run tells."""
    by = found.get("by")
    if by == "search":
        return Budget(
            by,
            int(found.get("trials", 0)),
            int(found.get("epochs", 0)),
            str(found.get("objective", "")),
            int(found.get("halving", 0)),
            str(found.get("search_precision", "")),
        )
    return Budget(str(by)) if by in ("published", "file", "python") else UNKNOWN


def from_search(found: Mapping[str, Any], role: str) -> bool:
    """Whether a sweep trained the run in this role."""
    return found.get("by") == "search" and found.get("role") == role


def same_budget(first: Budget, second: Budget) -> bool | None:
    """Whether two configurations were found at the same cost; None where that is not known of both.

    Nobody knows what finding a configuration in a user's file cost.
    """
    if not {first.by, second.by} <= {"published", "search"}:
        return None
    return first == second
