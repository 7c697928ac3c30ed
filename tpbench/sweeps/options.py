"""What a sweep was asked for, on the command line or from Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tpbench.engine import UsageError, unknown
from tpbench.results.runs import DEFAULT_OBJECTIVE, FULL_SEEDS, OBJECTIVES
from tpbench.search.halving import check_factor
from tpbench.sweeps.cluster import Resources, choose_resources
from tpbench.training.seeds import parse_seeds
from tpbench.training.sizing import parse_pack


def choose_final_seeds(count: int | None, seeds: str | None) -> tuple[int, ...]:
    """The seeds of a sweep's final runs: so many from 0 on, or those that are named (SEEDS, in any order).

    Raises:
        UsageError: both are given, or the seeds are written wrongly.
    """
    if seeds is None:
        return tuple(range(FULL_SEEDS if count is None else count))
    if count is not None:
        raise UsageError("--seeds says how many final runs there are, --final-seeds which: give one of them")
    return tuple(sorted(parse_seeds(seeds)))


@dataclass(frozen=True)
class SweepOptions:
    """What ``tpbench sweep`` was asked for; it holds for each sweep of a campaign."""

    trials: int
    seeds: tuple[int, ...]
    """Of the final runs."""
    epochs: int | None
    space: Path | None
    search_seed: int
    pack: int | None
    """Members per pack; None: measured."""
    resources: Resources
    fresh: bool = False
    """Start another sweep though there is one."""
    objective: str = DEFAULT_OBJECTIVE
    halving: int = 0
    accept_failures: bool = False
    search_precision: str = ""
    """Of the search alone; empty: that of all of the sweep."""


def choose_options(
    trials: int,
    *,
    seeds: int | None,
    final_seeds: str | None,
    epochs: int | None,
    space: Path | None,
    objective: str,
    halving: int,
    cpus: int | None,
    gpus: int | None,
    address: str | None,
    pack: str,
    search_seed: int,
    fresh: bool,
    accept_failures: bool,
    search_precision: str | None,
) -> SweepOptions:
    """Check the options of a sweep that can be checked before its cells are looked at.

    Args:
        seeds, final_seeds: as :func:`choose_final_seeds` takes them.
        pack: ``auto`` or a number.

    Raises:
        UsageError: one is wrong.
    """
    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    return SweepOptions(
        trials,
        choose_final_seeds(seeds, final_seeds),
        epochs,
        space,
        search_seed,
        parse_pack(pack),
        choose_resources(cpus, gpus, address),
        fresh,
        objective,
        check_factor(halving),
        accept_failures,
        search_precision or "",
    )
