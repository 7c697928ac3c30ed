"""Measure the cost of a joint minibatch of every built-in method, relative to BP, for ``tpbench table field``.

    python benchmarks/costs.py            # writes tpbench/results/costs.csv; some minutes on an idle machine

Each method trains a pack of ten on random data of the workload's shape, in turns with BP, one thread, float32. Its
configuration is the published one, or else that of the digits. Fashion-MNIST has the network of MNIST, so its numbers
are the same.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from tpbench.engine import METHODS, TpbenchError, Trainer, get_method
from tpbench.search.spaces import published_configuration, supplied_configuration
from tpbench.workloads import Workload, get_workload
from tpbench.workloads.problems import random_problem

_WORKLOADS = ("digits", "mnist", "mnist-frozen")
_TARGET = Path(__file__).parents[1] / "tpbench" / "results" / "costs.csv"
_PACK, _MINIBATCHES, _ROUNDS = 10, 2, 3


def configuration_of(workload: Workload, method: str) -> dict[str, float]:
    """Return the published configuration of a method, or else that of the digits."""
    try:
        return published_configuration(workload, method)
    except TpbenchError:
        return supplied_configuration(get_workload("digits"), method)[0]


def trainer_of(workload: Workload, method: str) -> Trainer:
    """Return a trainer of a pack on random data, without pure feedback epochs."""
    schedule = {"fb_pretrain_epochs": 0, "fb_epochs_between": 0} if get_method(method).trains_feedback else {}
    configuration = {**configuration_of(workload, method), **schedule}
    return Trainer(
        get_method(method),
        random_problem(workload, _MINIBATCHES),
        [configuration] * _PACK,
        list(range(_PACK)),
        epochs=10**6,
    )


def seconds_of(trainer: Trainer) -> float:
    """Return the time of the minibatches of an epoch."""
    started = perf_counter()
    trainer._train_minibatches("joint")
    return perf_counter() - started


def relative_costs(workload: Workload) -> dict[str, float]:
    """Return the cost of each method that makes sense on a workload, by name."""
    base, costs = trainer_of(workload, "bp"), {"bp": 1.0}
    for method in METHODS:
        if method in costs or workload.refusal(method):
            continue
        trainer = trainer_of(workload, method)
        seconds_of(trainer), seconds_of(base)
        ratios = [seconds_of(trainer) / seconds_of(base) for _ in range(_ROUNDS)]
        costs[method] = median(ratios)
        print(f"{workload.name} {method} {costs[method]:.2f}", file=sys.stderr)
    return costs


def main() -> None:
    """Measure and write the file."""
    torch.set_num_threads(1)
    costs = {name: relative_costs(get_workload(name)) for name in _WORKLOADS}
    costs["fashion-mnist"] = costs["mnist"]
    with _TARGET.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("workload", "method", "cost"))
        writer.writerows(
            (name, method, f"{cost:.2f}") for name, methods in costs.items() for method, cost in methods.items()
        )


if __name__ == "__main__":
    main()
