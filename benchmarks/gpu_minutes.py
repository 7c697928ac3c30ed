"""Minutes that cells and searches take on one H100: a model, nothing is measured.

    python benchmarks/gpu_minutes.py                     # every cell of Table S6: ten seeds, published schedule
    python benchmarks/gpu_minutes.py --seeds 7 --methods ddtp-rhl-extra-fb
    python benchmarks/gpu_minutes.py --search --workloads mnist,fashion-mnist --methods field

The steps are those of ``campaign.py``, whose fit and its error are printed first. A cell is one pack. A search is
``--trials 54 --search-epochs 27 --halving 3`` in packs of 18. Starts of processes and packs
are not counted. The times of CPUs are measured by ``tpbench reproduce --dry-run`` and ``tpbench sweep --dry-run``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from campaign import PackCosts

from tpbench.engine import SCHEDULE, TpbenchError, get_method
from tpbench.engine.protocol import Schedule
from tpbench.search.brackets import Bracket
from tpbench.search.spaces import published_configuration
from tpbench.training.choice import CellChoice, choose_all

_TRIALS, _EPOCHS, _FACTOR, _PACK = 54, 27, 3, 18


def cell_seconds(costs: PackCosts, cell: CellChoice, schedule: Mapping[str, float], seeds: int) -> float:
    """Return the seconds of so many runs as one pack."""
    trains = get_method(cell.method).trains_feedback
    pretrain, between = (int(schedule.get(name, 0)) if trains else 0 for name in SCHEDULE)
    phases = Schedule(cell.workload.epochs, pretrain, between)
    return sum(costs.epoch(cell.workload, cell.method, phase.kind, seeds) for phase in phases)


def search_seconds(costs: PackCosts, cell: CellChoice) -> float:
    """Return the seconds of a search's packs, one after the other."""
    bracket = Bracket(_EPOCHS, _FACTOR, "validation_error")
    return _TRIALS / _PACK * costs.timeline(cell.workload, cell.method, _EPOCHS, _PACK, bracket).seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", default="all")
    parser.add_argument("--methods", default="all")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--search", action="store_true", help="searches and their final runs")
    arguments = parser.parse_args()
    costs = PackCosts()
    try:
        cells, left = choose_all(arguments.workloads, arguments.methods)
    except TpbenchError as error:
        sys.exit(f"error: {error}")
    print(costs.steps.description(), end="\n\n")
    columns = ["cell", *["search, min"] * arguments.search, f"{arguments.seeds} seeds, min"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    total = 0.0
    for cell in cells:
        try:
            if arguments.search:
                schedule: Mapping[str, float] = cell.workload.feedback_schedule(get_method(cell.method))
                times = [search_seconds(costs, cell)]
            else:
                schedule, times = published_configuration(cell.workload, cell.method), []
            times.append(cell_seconds(costs, cell, schedule, arguments.seeds))
        except (TpbenchError, KeyError) as error:
            left.append(f"{cell.workload.name} {cell.method}: {error}")
            continue
        total += sum(times)
        minutes = " | ".join(f"{seconds / 60:.1f}" for seconds in times)
        print(f"| {cell.workload.name} {cell.method} | {minutes} |")
    print(f"\n{total / 3600:.1f} h in all")
    for line in left:
        print(f"left out: {line}", file=sys.stderr)


if __name__ == "__main__":
    main()
