"""How busy a queue keeps its workers: packs that only wait, in place of training.

16 workers, 12 sweeps of 40 configurations in packs of 4, then 10 seeds each; every pack waits 3 to 9 seconds, drawn by
what it holds. Prints the share of worker time between the begin of the first and the end of the last pack in which a
pack runs; the last line is that number. A machine of any size will do: who waits needs no core.

    python benchmarks/occupancy.py
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tpbench.engine import EpochReport
from tpbench.results import RunRecord, RunStore
from tpbench.results.artifacts import digest
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.spaces import space_for
from tpbench.sweeps.cluster import Resources, ray_running
from tpbench.sweeps.driver import run_queue
from tpbench.sweeps.session import ProgressReporter
from tpbench.sweeps.sweep import QueuedPack, SearchedSweep, Workers
from tpbench.training.console import redirect_output
from tpbench.training.plan import Outcome, PackSettings, define_runs
from tpbench.training.progress import PlainView
from tpbench.workloads import get_workload

FINGERPRINT = "0" * 64
METHODS = ("bp", "dfa", "dtp", "dtpdrl", "ddtp-linear", "ddtp-rhl")


def pretend(pack: QueuedPack, report: Callable[[EpochReport], None]) -> list[Outcome]:
    """Wait as long as the pack's contents say, and publish made-up runs."""
    begun = time.time()
    definitions = define_runs(pack.plan, FINGERPRINT, "float32")
    time.sleep(3 + 6 * random.Random(definitions[0].id).random())
    store, outcomes = RunStore(Path(pack.settings.results)), []
    for definition in definitions:
        error = random.Random(definition.id).random()
        curves = {"validation_error": [error], "test_error": [error]}
        store.publish(RunRecord(definition, "", "finished", curves, 1.0, pack.members, {}, pack.plan.found))
        outcomes.append(Outcome(definition.id, "finished", error, error, epochs=1))
    spans = Path(pack.settings.results) / "spans"
    spans.mkdir(exist_ok=True)
    (spans / digest([definitions[0].id, pack.key])[:16]).write_text(f"{begun} {time.time()} {os.getpid()}")
    return outcomes


def sweeps_of(folder: Path, count: int, workers: int, trials: int, seeds: int) -> list[SearchedSweep]:
    """Sweeps of different methods and search seeds, as a campaign begins them."""
    found = []
    for number in range(count):
        method = METHODS[number % len(METHODS)]
        space = space_for(method)
        definition = SweepDefinition(
            "digits",
            method,
            FINGERPRINT,
            space.describe(),
            trials,
            1,
            tuple(range(seeds)),
            number,
            pack=4,
            lag=-(-workers // count) + 1,
        )
        home = SweepFolder(folder / "sweeps" / definition.id)
        home.local.mkdir(parents=True)
        definition, journal = home.begin(definition, {})
        found.append(SearchedSweep(definition, get_workload("digits"), space, home, journal, PackSettings(str(folder))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--sweeps", type=int, default=12)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "runs").mkdir()
        resources = Resources(arguments.workers)
        sweeps = sweeps_of(folder, arguments.sweeps, arguments.workers, arguments.trials, arguments.seeds)
        with redirect_output(folder / "ray.log") as stream, ray_running(resources):
            board = ProgressReporter(PlainView(Console(file=stream), interval=20), sweeps)
            for sweep in sweeps:
                sweep.begin(Workers(arguments.workers, len(sweeps)))
            board.start()
            run_queue(sweeps, resources, folder / "ray", board, train=pretend)
        if failed := [sweep.failure for sweep in sweeps if sweep.failure]:
            sys.exit(f"a sweep failed: {failed[0]}")
        print_spans([Span.read(path) for path in (folder / "spans").glob("*")], arguments.workers)


@dataclass(frozen=True, order=True)
class Span:
    """When a pack ran, in seconds, and in which process."""

    begin: float
    end: float
    process: str

    @classmethod
    def read(cls, path: Path) -> Span:
        begin, end, process = path.read_text().split()
        return cls(float(begin), float(end), process)


def print_spans(spans: list[Span], workers: int) -> None:
    """The share of worker time in which a pack runs, and where the rest went."""
    begin, end = min(s.begin for s in spans), max(s.end for s in spans)
    by_process: dict[str, list[Span]] = defaultdict(list)
    for span in sorted(spans):
        by_process[span.process].append(span)
    before = sum(own[0].begin - begin for own in by_process.values())
    after = sum(end - own[-1].end for own in by_process.values())
    busy = sum(s.end - s.begin for s in spans)
    total = workers * (end - begin)
    between = total - busy - before - after
    print(f"packs {len(spans)} in {len(by_process)} processes, {end - begin:.1f} s from the first to the last")
    print(f"worker time {total:.0f} s: {busy:.0f} busy, {before:.0f} before, {between:.0f} between, {after:.0f} after")
    print(f"occupancy {busy / total:.2f}")


if __name__ == "__main__":
    main()
