"""What a joint step costs on a GPU, and which kernels it spends that on.

    python benchmarks/kernels.py [--workload mnist] [--methods bp,dtp,ddtp-rhl] [--packs 10,100] [--top 12]

Of every pack the fastest of four epochs of 100 minibatches of made-up data, without their evaluation: the step, and how
long the host took to launch it. Once with members of equal settings, as the seeds of one configuration are, and once
with different ones, as in a search. Then the kernels of the first, longest first (torch's profiler). On a CPU there
are times alone.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import torch

from tpbench.engine import Trainer, example_configuration, get_method
from tpbench.training.devices import choose_device
from tpbench.workloads import get_workload
from tpbench.workloads.benchmark import synchronize
from tpbench.workloads.problems import random_problem
from tpbench.workloads.workload import Workload

STEPS = 100


class Times(NamedTuple):
    """Milliseconds per step."""

    step: float
    host: float


def pack_of(workload: Workload, method: str, members: int, differ: bool, device: str) -> Trainer:
    """A pack that has run two epochs, so that its steps are captured."""
    rule = get_method(method)
    base = example_configuration(rule)
    # Of both optimisers, where there are two.
    varied = {name: value for name, value in base.items() if differ and name.startswith("epsilon")}
    configurations = [{**base, **{n: v * (1 + p / 100) for n, v in varied.items()}} for p in range(members)]
    problem = random_problem(workload, STEPS)
    trainer = Trainer(rule, problem, configurations, list(range(members)), epochs=10**6, device=device)
    trainer.advance()
    trainer.advance()
    return trainer


def times(trainer: Trainer, device: str) -> Times:
    """The fastest of four epochs."""
    found = []
    for _ in range(4):
        synchronize(device)
        started = time.perf_counter()
        trainer.train_epoch("joint")
        launched = time.perf_counter()
        synchronize(device)
        found.append(Times(*(1e3 * (then - started) / STEPS for then in (time.perf_counter(), launched))))
    return min(found)


def kernels(trainer: Trainer, device: str, top: int) -> list[str]:
    """A line on all of them together, and one for each of the longest."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        trainer.train_epoch("joint")
        synchronize(device)
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_device_time_total)
    busy, count = sum(row.self_device_time_total for row in rows) / STEPS, sum(row.count for row in rows) / STEPS
    return [
        f"    busy for {busy:.0f} us in {count:.0f} kernels; us per step, how often, us each:",
        *(
            f"    {row.self_device_time_total / STEPS:7.1f} {row.count / STEPS:6.1f} "
            f"{row.self_device_time_total / row.count:7.1f}  {row.key[:100]}"
            for row in rows[:top]
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="mnist")
    parser.add_argument("--methods", default="bp,dtp,ddtp-linear,ddtp-rhl")
    parser.add_argument("--packs", default="10,100")
    parser.add_argument("--top", type=int, default=12)
    arguments = parser.parse_args()
    workload, device = get_workload(arguments.workload), choose_device("auto")
    for method in arguments.methods.split(","):
        for members in map(int, arguments.packs.split(",")):
            for differ in (False, True):
                trainer = pack_of(workload, method, members, differ, device)
                found, settings = times(trainer, device), "different" if differ else "equal"
                name = f"{method}, pack of {members}, {settings} settings"
                print(f"{name}: {found.step:.3f} ms/step, host {found.host:.3f}", flush=True)
                if device != "cpu" and not differ:
                    print("\n".join(kernels(trainer, device, arguments.top)), flush=True)


if __name__ == "__main__":
    main()
