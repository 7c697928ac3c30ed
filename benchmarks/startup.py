"""Measure where a small campaign's time goes: imports, sizes, Ray's start, its workers, training, Ray's end.

    python benchmarks/startup.py [--rounds 3] [--pack 4] [--checkout DIR ...]

Each round runs the sweeps of ``make demo`` in a new process and an empty folder. Several checkouts take turns, so that
a change is compared with what was before. Prints the median seconds of each part, in their order. Needs about 20
seconds a run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

_SWEEP = ["sweep", "digits", "bp,dfa,ddtp-linear", "--trials", "8", "--epochs", "10", "--n-seeds", "10"]
_MARKS, _STARTED = "TPBENCH_STARTUP_MARKS", "TPBENCH_STARTUP_BEGAN"


class Marks:
    """The times at which parts of a campaign ended, in the process that runs it."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.times: dict[str, float] = {}

    def set(self, part: str, *, first: bool = False) -> None:
        """Note that a part ends now; the last time counts, or the first one."""
        if not (first and part in self.times):
            self.times[part] = time.time() - self.began

    def after(self, owner: Any, name: str, part: str) -> None:
        """Note the end of each call of a function."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            try:
                return function(*arguments, **named)
            finally:
                self.set(part)

        setattr(owner, name, timed)


def watch_queue(marks: Marks) -> None:
    """Note when the driver has asked for a worker, and when the first one has a pack and the last has ended."""
    from ray.tune import Tuner

    from tpbench.sweeps.queue import SweepQueue

    marks.set("import Ray Tune and the driver")
    suggest, report = SweepQueue.suggest, SweepQueue.handle_report

    def suggest_timed(self: SweepQueue, trial_id: str) -> Any:
        marks.set("start Ray Tune", first=True)
        return suggest(self, trial_id)

    def report_timed(self: SweepQueue, trial_id: str, result: Any) -> Any:
        if "took" in result:
            marks.set("start the first worker", first=True)
        return report(self, trial_id, result)

    SweepQueue.suggest, SweepQueue.handle_report = suggest_timed, report_timed  # type: ignore[method-assign]
    marks.after(Tuner, "fit", "search and final runs")


def run_watched(arguments: list[str]) -> None:
    """Run a command of tpbench in this process, and write the marks."""
    marks = Marks(float(os.environ[_STARTED]))
    import torch  # noqa: F401

    marks.set("import torch")
    from tpbench.cli import main
    from tpbench.sweeps import campaign, cluster

    marks.set("import tpbench")
    # An older checkout has the older name.
    planning = "plan_sweep" if hasattr(campaign, "plan_sweep") else "_plan"
    for name, part in ((planning, "read data and spaces"), ("_choose_sizes", "measure sizes")):
        marks.after(campaign, name, part)
    start: Callable[..., None] = cluster._start

    def start_timed(*given: Any) -> None:
        marks.set("import Ray")
        start(*given)
        marks.set("start Ray")
        watch_queue(marks)

    cluster._start = start_timed
    marks.after(campaign, "_write_leaderboard", "end Ray")
    sys.argv = ["tpbench", *arguments]
    try:
        main()
    finally:
        marks.set("results")
        Path(os.environ[_MARKS]).write_text(json.dumps(marks.times), encoding="utf-8")


def measure(checkout: Path, pack: str) -> dict[str, float]:
    """Return the seconds of each part of one campaign, and the time until its process has ended."""
    with tempfile.TemporaryDirectory(prefix="tpbench-startup-") as folder:
        words = [*_SWEEP, "--pack", pack, "--results", f"{folder}/results"]
        began, marks = time.time(), Path(folder, "marks.json")
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout.resolve()),
            _STARTED: str(began),
            _MARKS: str(marks),
        }
        subprocess.run(
            [sys.executable, __file__, "--run", *words], env=environment, stdout=subprocess.DEVNULL, check=True
        )
        total = time.time() - began
        times = sorted(json.loads(marks.read_text(encoding="utf-8")).items(), key=lambda item: item[1])
    parts, before = {}, 0.0
    for part, seconds in [*times, ("end of the process", total)]:
        parts[part], before = seconds - before, seconds
    return {**parts, "all": total}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pack", default="4", help="as of 'tpbench sweep'; auto measures sizes")
    parser.add_argument("--checkout", type=Path, action="append", help="a folder that holds tpbench")
    options = parser.parse_args()
    checkouts = options.checkout or [Path(__file__).parents[1]]
    runs: dict[Path, list[dict[str, float]]] = {checkout: [] for checkout in checkouts}
    for _ in range(options.rounds):
        for checkout in checkouts:
            runs[checkout].append(measure(checkout, options.pack))
            print(f"{checkout}: {runs[checkout][-1]['all']:.1f} s", file=sys.stderr, flush=True)
    print("| part |", " | ".join(f"{checkout.resolve().name}: s" for checkout in checkouts), "|")
    print("|---" * (len(checkouts) + 1) + "|")
    for part in runs[checkouts[0]][0]:
        print(f"| {part} |", " | ".join(f"{median(r[part] for r in runs[c]):.1f}" for c in checkouts), "|")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run_watched(sys.argv[2:])
    else:
        main()
