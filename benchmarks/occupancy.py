"""How busy a queue keeps its workers: packs that only wait, in place of training.

16 workers, 12 sweeps of 40 configurations in packs of 4, then 10 seeds each; every pack waits 3 to 9 seconds, drawn by
what it holds. Prints the share of worker time between the begin of the first and the end of the last pack in which a
pack runs; the last line is that number. A machine of any size will do: who waits needs no core.

    python benchmarks/occupancy.py
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tpbench.engine import EpochReport
from tpbench.results import RunRecord, RunStore
from tpbench.results.runs import digest
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.spaces import space_for
from tpbench.sweeps.board import Board
from tpbench.sweeps.cluster import Resources, ray_running
from tpbench.sweeps.driver import run_queue
from tpbench.sweeps.packs import HandedPack
from tpbench.sweeps.quiet import noise_to
from tpbench.sweeps.sweep import SearchedSweep, Workers
from tpbench.training.packs import Outcome, PackSettings, define_runs
from tpbench.training.progress import PlainView

FINGERPRINT = "0" * 64
METHODS = ("bp", "dfa", "dtp", "dtpdrl", "ddtp-linear", "ddtp-rhl")


def pretend(pack: HandedPack, report: Callable[[EpochReport], None]) -> list[Outcome]:
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
    (spans / digest([definitions[0].id, pack.key])[:16]).write_text(f"{begun} {time.time()}")
    return outcomes


def sweeps_of(folder: Path, count: int, workers: int, trials: int, seeds: int) -> list[SearchedSweep]:
    """Sweeps of different methods and search seeds, as a campaign begins them."""
    found = []
    for number in range(count):
        method = METHODS[number % len(METHODS)]
        space = space_for(method)
        definition = SweepDefinition(
            "digits", method, FINGERPRINT, space.describe(), trials, 1, tuple(range(seeds)), number, pack=4,
            lag=-(-workers // count) + 1,
        )  # fmt: skip
        home = SweepFolder(folder / "sweeps" / definition.id)
        home.local.mkdir(parents=True)
        definition, journal = home.begin(definition, "benchmark")
        found.append(SearchedSweep(definition, space, home, journal, PackSettings(str(folder))))
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
        with noise_to(folder / "ray.log") as stream, ray_running(resources):
            board = Board(PlainView(Console(file=stream), interval=20), sweeps)
            for sweep in sweeps:
                sweep.begin(Workers(arguments.workers, len(sweeps)))
            board.start()
            run_queue(sweeps, resources, folder / "ray", board, train=pretend)
        if failed := [sweep.failure for sweep in sweeps if sweep.failure]:
            sys.exit(f"a sweep failed: {failed[0]}")
        spans = [tuple(map(float, path.read_text().split())) for path in (folder / "spans").glob("*")]
        begin, end = min(b for b, _ in spans), max(e for _, e in spans)
        busy = sum(e - b for b, e in spans)
        print(f"packs {len(spans)}, {end - begin:.1f} s from the first to the last, {busy:.0f} s of work")
        print(f"occupancy {busy / (arguments.workers * (end - begin)):.2f}")


if __name__ == "__main__":
    main()
