"""Time two checkouts of tpbench against each other, alternating, as ratios.

    python benchmarks/compare.py OLD NEW [CELL ...] [--pairs 5] [--at-least 0.95]
    python benchmarks/compare.py OLD NEW --commands [--runs 5000]

A cell is WORKLOAD:METHOD, for joint training of a pack of ten. To compare with an older commit:
``git worktree add /tmp/old COMMIT``. ``--precision`` and ``--old-precision`` compare precisions, also of one checkout
with itself. Where the Python interface of a checkout is another one, ``--old-child`` and ``--new-child`` name its
version of ``benchmarks/child.py``. Compare times of one run of this script only. Exit code 1: a ratio (old time over
new time) is below ``--at-least``.

``--commands`` times commands that train nothing instead: ``import tpbench``, ``tpbench --help`` and ``tpbench
leaderboard`` of a made-up store, from its second time on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

CELLS = (
    *(f"mnist:{method}" for method in ("bp", "dfa", "dtp", "dtpdrl", "ddtp-linear", "ddtp-rhl")),
    *(f"cifar10:{method}" for method in ("bp", "ddtp-linear", "ddtp-rhl")),
)
CHILD = Path(__file__).with_name("child.py")
_MAIN = "from tpbench.cli import main; main()"


@dataclass(frozen=True)
class Checkout:
    """A checkout of tpbench, and the script that runs it."""

    tree: Path
    child: Path

    def run(self, *arguments: str) -> str:
        """Run the child. Returns the last word that it printed."""
        done = subprocess.run(
            [sys.executable, str(self.child), str(self.tree), *arguments], stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            sys.exit(f"{self.child} failed with {self.tree}: {' '.join(arguments)}")
        return done.stdout.split()[-1]

    def seconds(self, *arguments: str) -> float:
        """Run the child. Returns the time that it measured."""
        return float(self.run(*arguments))

    def python(self, folder: Path, *arguments: str) -> float:
        """Run Python with this checkout's package. Returns the seconds it took from start to end."""
        environment = {**os.environ, "PYTHONPATH": str(self.tree), "TPBENCH_CACHE": str(folder / "cache")}
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - started


def paired(old: Callable[[], float], new: Callable[[], float], pairs: int) -> tuple[float, float, float]:
    """Measure both, in turn. Returns the medians of old and new, and the median over the pairs of old / new."""
    times = [(old(), new()) for _ in range(pairs)]
    before, after = (median(column) for column in zip(*times, strict=True))
    return before, after, median(a / b for a, b in times)


def compare_epochs(
    old: Checkout, new: Checkout, cells: list[str], pairs: int, steps: int | None, precisions: tuple[str, str]
) -> dict[str, float]:
    """Print the time per member epoch of each cell, in the precisions of old and new. Returns the ratios."""
    more = [] if steps is None else ["--steps", str(steps)]
    ratios = {}
    for cell in cells:
        arguments = ["epoch", *cell.split(":"), *more, "--precision"]
        sides = [partial(side.seconds, *arguments, name) for side, name in zip((old, new), precisions, strict=True)]
        before, after, ratio = paired(*sides, pairs)
        ratios[cell] = ratio
        print(f"{cell}: {before:.3f} -> {after:.3f} s per member epoch, {ratio:.3f} times", flush=True)
    return ratios


def compare_commands(old: Checkout, new: Checkout, runs: int, pairs: int) -> dict[str, float]:
    """Print the time of commands that train nothing. Returns the ratios."""
    ratios = {}
    with tempfile.TemporaryDirectory() as temporary:
        folders = []
        for side in ("old", "new"):
            folders.append(Path(temporary) / side)
            folders[-1].mkdir()
        store = str(Path(temporary) / "results")
        made = old.run("store", store, str(runs))
        commands = {
            "import tpbench": ("-c", "import tpbench"),
            "tpbench --help": ("-c", _MAIN, "--help"),
            f"tpbench leaderboard of {made} runs": ("-c", _MAIN, "leaderboard", "--results", store),
        }
        for name, arguments in commands.items():
            # The first time fills caches, those of compiled Python among them.
            first = [side.python(folder, *arguments) for side, folder in zip((old, new), folders, strict=True)]
            before, after, ratio = paired(
                partial(old.python, folders[0], *arguments), partial(new.python, folders[1], *arguments), pairs
            )
            ratios[name] = ratio
            print(
                f"{name}: {before:.2f} -> {after:.2f} s, {ratio:.3f} times (the first time "
                f"{first[0]:.2f} -> {first[1]:.2f} s)",
                flush=True,
            )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"default: {' '.join(CELLS)}")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, help="steps of a short epoch; default: 20, and 5 of cifar10")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--old-precision", help="default: that of --precision")
    parser.add_argument("--at-least", type=float, default=0.0, help="ratio below which a cell is too slow")
    parser.add_argument("--old-child", type=Path, default=CHILD)
    parser.add_argument("--new-child", type=Path, default=CHILD)
    parser.add_argument("--commands", action="store_true")
    parser.add_argument("--runs", type=int, default=5000, help="runs of the made-up store")
    options = parser.parse_args()
    old = Checkout(options.old.resolve(), options.old_child.resolve())
    new = Checkout(options.new.resolve(), options.new_child.resolve())
    if options.commands:
        ratios = compare_commands(old, new, options.runs, options.pairs)
    else:
        precisions = (options.old_precision or options.precision, options.precision)
        ratios = compare_epochs(old, new, options.cells or list(CELLS), options.pairs, options.steps, precisions)
    slow = [name for name, ratio in ratios.items() if ratio < options.at_least]
    if slow:
        sys.exit(f"below {options.at_least}: {', '.join(slow)}")


if __name__ == "__main__":
    main()
