"""Train small packs with one checkout of tpbench. ``compare.py`` and ``curves.py`` run it, in a process per checkout.

    python benchmarks/child.py TREE curves [--methods NAMES] [--epochs N]
    python benchmarks/child.py TREE epoch WORKLOAD METHOD [--steps N] [--precision NAME]
    python benchmarks/child.py TREE store FOLDER RUNS

No other part of the comparison depends on the Python interface of the checkout. Where the interface changed, give the
older checkout a child of its own (``--old-child``).
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

VALUES: dict[Any, float] = {
    "lr": 1e-3,
    "lr_eta": 3e-5,
    "eta": 0.05,
    "beta1": 0.9,
    "beta2": 0.99,
    "epsilon": 1e-8,
    "lr_fb": 1e-4,
    "beta1_fb": 0.9,
    "beta2_fb": 0.999,
    "epsilon_fb": 1e-8,
    "sigma": 0.05,
    "wd_fb": 1e-5,
    "damping": 0.1,
}
# One epoch of each, so that the curves depend on the training of feedback alone too.
SCHEDULE = {"fb_pretrain_epochs": 1, "fb_epochs_between": 1}
SEEDS = (0, 1)
PACK = 10
# Test samples of mnist and cifar10. An epoch evaluates on all of them.
TEST_SAMPLES = 10_000


def curves(methods: list[str], epochs: int) -> dict[str, Any]:
    """Train a pack of two seeds of each method on digits and return all that the trainer recorded.

    Methods that train feedback are trained a second time with epochs of feedback alone.

    Returns:
        By method and seed, the status and the curves. Every number is a hex float, one per epoch.
    """
    import torch

    from tpbench.engine import Trainer, get_method
    from tpbench.workloads import get_workload, load_problem

    torch.set_num_threads(1)
    problem, _ = load_problem(get_workload("digits"))
    recorded: dict[str, Any] = {}
    for name in methods:
        method = get_method(name)
        values: dict[Any, float] = {key: VALUES[key] for key in method.hyperparameters}
        cells = {name: values}
        if method.trains_feedback:
            cells[f"{name}, feedback epochs"] = {**values, **SCHEDULE}
        for cell, configuration in cells.items():
            trainer = Trainer(method, problem, [configuration] * len(SEEDS), list(SEEDS), epochs=epochs)
            while not trainer.done:
                trainer.advance()
            recorded[cell] = {
                str(seed): {
                    "status": history.status,
                    **{curve: [number.hex() for number in numbers] for curve, numbers in history.curves.items()},
                }
                for seed, history in zip(SEEDS, trainer.histories, strict=True)
            }
    return recorded


def epoch_seconds(workload_name: str, method_name: str, steps: int, precision: str) -> float:
    """Measure joint training of a pack of ten on made-up data.

    An epoch is shortened to a few steps, and its evaluation in proportion. The first epoch, which allocates memory, is
    not counted.

    Returns:
        Seconds of an epoch of the workload's full length, per member. The median of four short epochs.
    """
    import torch

    from tpbench.engine import Problem, Trainer, get_method
    from tpbench.workloads import get_workload

    workload, method = get_workload(workload_name), get_method(method_name)
    batch, inputs = workload.batch_size, workload.architecture.sizes[0]
    full = workload.samples - workload.validation_size
    share = steps * batch / full
    validation, test = math.ceil(share * workload.validation_size), math.ceil(share * TEST_SAMPLES)
    generator = torch.Generator().manual_seed(0)
    count = steps * batch + validation
    x = torch.randint(0, 256, (count + test, inputs), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, workload.architecture.sizes[-1], (len(x),), generator=generator)
    problem = Problem(workload.architecture, x[:count], y[:count], x[count:], y[count:], validation, batch, 1 / 255)
    configuration: dict[Any, float] = {key: VALUES[key] for key in method.hyperparameters}
    trainer = Trainer(method, problem, [configuration] * PACK, list(range(PACK)), epochs=1000, precision=precision)
    trainer.advance()
    times = []
    for _ in range(4):
        started = time.perf_counter()
        trainer.advance()
        times.append(time.perf_counter() - started)
    return median(times) / share / PACK


def fill_store(tree: Path, folder: str, runs: int) -> int:
    """Make a store of made-up runs with the checkout's ``benchmarks/store.py``. Returns how many runs it holds."""
    from tpbench.results import RunStore

    count: int = runpy.run_path(str(tree / "benchmarks" / "store.py"))["fill"](RunStore(Path(folder)), runs)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    tasks = parser.add_subparsers(dest="task", required=True)
    task = tasks.add_parser("curves")
    task.add_argument("--methods", required=True)
    task.add_argument("--epochs", type=int, default=5)
    task = tasks.add_parser("epoch")
    task.add_argument("workload")
    task.add_argument("method")
    task.add_argument("--steps", type=int)
    task.add_argument("--precision", default="float32")
    task = tasks.add_parser("store")
    task.add_argument("folder")
    task.add_argument("runs", type=int)
    options = parser.parse_args()
    tree = options.tree.resolve()
    sys.path.insert(0, str(tree))
    import tpbench

    if not Path(tpbench.__file__).is_relative_to(tree):
        sys.exit(f"{tree} holds no tpbench: {tpbench.__file__} was imported")
    if options.task == "curves":
        print(json.dumps(curves(options.methods.split(","), options.epochs)))
    elif options.task == "epoch":
        steps = options.steps or (5 if options.workload == "cifar10" else 20)
        print(epoch_seconds(options.workload, options.method, steps, options.precision))
    else:
        print(fill_store(tree, options.folder, options.runs))


if __name__ == "__main__":
    main()
