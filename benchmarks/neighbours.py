"""Measure a training step beside other busy processes, by the number of threads.

    python benchmarks/neighbours.py [--workload mnist] [--method bp] [--pack 10] [--neighbours 0,1,2,3]

Six ways to train a pack take turns: one thread, two threads as torch starts them, two threads that wait asleep
(``OMP_WAIT_POLICY=passive``), two that spin more briefly (``GOMP_SPINCOUNT``; torch's
is 300000), and two processes of one thread with half
of the pack each. The neighbours compute without a pause, on one thread each. Needs no data; half a minute of start-up
and a minute for each number of neighbours.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from tpbench.engine import Trainer, example_configuration, get_method
from tpbench.workloads import get_workload
from tpbench.workloads.problems import random_problem

_SPINNING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_STEPS = 5


@dataclass(frozen=True)
class Variant:
    """A way to train a pack."""

    name: str
    threads: int
    processes: int = 1
    environment: tuple[tuple[str, str], ...] = ()


VARIANTS = (
    Variant("1 thread", 1),
    Variant("2 threads", 2),
    Variant("2 threads, passive", 2, environment=(("OMP_WAIT_POLICY", "passive"),)),
    Variant("2 threads, 1000 spins", 2, environment=(("GOMP_SPINCOUNT", "1000"),)),
    Variant("2 threads, 10000 spins", 2, environment=(("GOMP_SPINCOUNT", "10000"),)),
    Variant("2 processes", 1, processes=2),
)


def serve(workload: str, method: str, pack: int, threads: int) -> None:
    """Train for as many seconds as each line of standard input says; print steps, wall and CPU seconds."""
    torch.set_num_threads(threads)
    rule = get_method(method)
    trainer = Trainer(
        rule,
        random_problem(get_workload(workload), _STEPS),
        [example_configuration(rule)] * pack,
        list(range(pack)),
        epochs=10**6,
    )
    trainer.advance()
    print("ready", flush=True)
    for line in sys.stdin:
        steps, cpu, started = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - started < float(line):
            trainer._train_minibatches("joint")
            steps += _STEPS
        print(steps, time.perf_counter() - started, time.process_time() - cpu, flush=True)


def start(variant: Variant, workload: str, method: str, pack: int) -> list[subprocess.Popen[str]]:
    """Start the processes of a variant; they are ready when this returns."""
    unset = {name: value for name, value in os.environ.items() if name not in (*_SPINNING, "OMP_NUM_THREADS")}
    environment = {**unset, "OMP_NUM_THREADS": str(variant.threads), **dict(variant.environment)}
    members = pack // variant.processes
    words = [sys.executable, __file__, "--serve", workload, method, str(members), str(variant.threads)]
    processes = [
        subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(variant.processes)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    return processes


def step_times(processes: list[subprocess.Popen[str]], seconds: float) -> tuple[float, float]:
    """Return the wall and CPU time of a step of the whole pack, in milliseconds."""
    for process in processes:
        print(seconds, file=process.stdin, flush=True)
    rate, cpu, steps = 0.0, 0.0, 0.0
    for process in processes:
        assert process.stdout is not None
        count, wall, used = map(float, process.stdout.readline().split())
        # A process trains a part of the pack.
        rate += count / wall / len(processes)
        cpu, steps = cpu + used, steps + count / len(processes)
    return 1e3 / rate, 1e3 * cpu / steps


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Let some processes compute without a pause."""
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workload", default="mnist")
    parser.add_argument("--method", default="bp")
    parser.add_argument("--pack", type=int, default=10)
    parser.add_argument("--neighbours", default="0,1,2,3")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    processes = {v.name: start(v, options.workload, options.method, options.pack) for v in VARIANTS}
    try:
        print("| neighbours |", " | ".join(f"{name}: ms" for name in processes), "| CPU ms of each |")
        print("|---" * (len(processes) + 2) + "|")
        for count in map(int, options.neighbours.split(",")):
            with busy(count):
                rounds = [
                    {name: step_times(of, options.seconds) for name, of in processes.items()}
                    for _ in range(options.rounds)
                ]
            wall, cpu = ([median(r[name][k] for r in rounds) for name in processes] for k in (0, 1))
            print(
                f"| {count} |",
                " | ".join(f"{value:.1f}" for value in wall),
                "|",
                ", ".join(f"{value:.0f}" for value in cpu),
                "|",
                flush=True,
            )
    finally:
        for process in [process for of in processes.values() for process in of]:
            process.kill()
            process.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
