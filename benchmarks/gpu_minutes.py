"""Minutes that cells and searches take on one H100: a model, nothing is measured.

    python benchmarks/gpu_minutes.py                     # every cell of Table S6: ten seeds, published schedule
    python benchmarks/gpu_minutes.py --seeds 7 --methods ddtp-rhl-extra-fb
    python benchmarks/gpu_minutes.py --search --workloads mnist,fashion-mnist --methods field

The steps are those of ``campaign.py``, whose fit and its error are printed first. A cell is one pack. A search is
``--trials 54 --search-epochs 27 --halving 3`` in packs of 18, and ten seeds of its best. Starts of processes and packs
are not counted. The times of CPUs are measured by ``tpbench reproduce --dry-run`` and ``tpbench sweep --dry-run``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from campaign import PackCosts

from tpbench.engine import SCHEDULE, get_method
from tpbench.engine.protocol import Schedule
from tpbench.search.brackets import Bracket
from tpbench.search.spaces import published_configuration
from tpbench.training.choice import CellChoice, choose_all

_TRIALS, _EPOCHS, _FACTOR, _PACK, _FINAL_SEEDS = 54, 27, 3, 18, 10


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
    parser.add_argument("--seeds", type=int, default=_FINAL_SEEDS)
    parser.add_argument("--search", action="store_true", help="searches and their final runs")
    arguments = parser.parse_args()
    costs = PackCosts()
    print(costs.steps.description(), end="\n\n")
    last = "ten seeds, min" if arguments.search else f"{arguments.seeds} seeds, min"
    columns = ["cell", "search, min", last] if arguments.search else ["cell", last]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    total = 0.0
    for cell in choose_all(arguments.workloads, arguments.methods)[0]:
        if arguments.search:
            schedule = cell.workload.feedback_schedule(get_method(cell.method))
            times = [search_seconds(costs, cell), cell_seconds(costs, cell, schedule, _FINAL_SEEDS)]
        else:
            configuration = published_configuration(cell.workload, cell.method)
            times = [cell_seconds(costs, cell, configuration, arguments.seeds)]
        total += sum(times)
        minutes = " | ".join(f"{seconds / 60:.1f}" for seconds in times)
        print(f"| {cell.workload.name} {cell.method} | {minutes} |")
    print(f"\n{total / 3600:.1f} h in all")


if __name__ == "__main__":
    main()
