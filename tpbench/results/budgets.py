"""How a run's configuration was found, and what that cost: the part of a run's file that says whether a pair is fair.

``found`` of a run is a mapping with

- ``by``: ``published`` (the authors' configuration), ``file`` (of the user's) or ``search``;
- of a search: ``sweep`` (its id), ``trials``, ``epochs``, ``objective`` and ``space`` (digest of the search space),
  ``role``: ``search`` for a run that the search itself trained and ``final`` for the runs of the chosen configuration,
  and ``seeds``: those of the final runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PUBLISHED: Mapping[str, Any] = {"by": "published"}
FROM_FILE: Mapping[str, Any] = {"by": "file"}


def by_search(
    sweep: str,
    trials: int,
    epochs: int,
    space: str,
    role: str,
    seeds: Sequence[int],
    objective: str = "validation_error",
) -> dict[str, Any]:
    """``found`` of a run that a sweep trained.

    Args:
        sweep: the sweep's id.
        trials, epochs: configurations of the search, and joint epochs of each.
        space: digest of the search space.
        role: ``search`` or ``final``.
        seeds: of the final runs.
    """
    return {
        "by": "search", "role": role, "sweep": sweep, "trials": trials, "epochs": epochs, "objective": objective,
        "space": space, "seeds": list(seeds),
    }  # fmt: skip
