"""Time leaderboard, table and report on a made-up store of a whole paper's searches, the first and the second time.

    python benchmarks/store.py [--runs 5000] [--folder DIR]

Each command is a process of its own; the summaries lie in a cache folder of their own, empty the first time.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tpbench.engine import CURVES, method_names
from tpbench.results import RunDefinition, RunRecord, RunStore
from tpbench.results.runs import search_info
from tpbench.workloads import WORKLOADS

COMMANDS = (("leaderboard",), ("table", "s6"), ("report", "--output", "report.html"))
_PAPER = ("mnist", "mnist-frozen", "fashion-mnist", "cifar10")
_NAMES = ("lr", "lr_eta", "eta", "beta1", "beta2", "epsilon", "lr_fb", "beta1_fb", "beta2_fb", "sigma", "wd_fb")
_ORIGIN = {
    "tpbench": "0.1.0",
    "commit": "0" * 40,
    "command": "tpbench sweep mnist ddtp-rhl --trials 100",
    "device": "cuda",
    "device_name": "NVIDIA H100 80GB HBM3",
    "threads": 16,
    "precision": "float32",
    "system": "Linux x86_64",
    "python": "3.11.7",
    "torch": "2.11.0",
    "numpy": "2.4.0",
}


def made_up(workload: str, method: str, number: int, seed: int, role: str, chance: random.Random) -> RunRecord:
    """A run of a search (``number`` of its configuration) or of its final seeds, with curves as long as real ones."""
    configuration = {name: chance.random() for name in _NAMES} if role == "search" else dict.fromkeys(_NAMES, 0.123)
    epochs = WORKLOADS[workload].epochs
    level = chance.uniform(0.02, 0.2)
    curves = {name: [level + chance.random() / (epoch + 5) for epoch in range(epochs)] for name in CURVES}
    definition = RunDefinition(workload, "f" * 64, method, configuration, seed, epochs)
    found = search_info(f"{workload}-{method}", 100, epochs, "5" * 64, role, tuple(range(10)))
    return RunRecord(definition, "", "finished", curves, 100 + number, 10, _ORIGIN, found)


def fill(store: RunStore, runs: int) -> int:
    """Search runs and ten final runs of every cell of the paper, about ``runs`` in all; returns how many."""
    chance = random.Random(0)
    cells = [(w, m) for w in _PAPER for m in method_names() if not WORKLOADS[w].refusal(m)]
    searched = max(1, round(runs / len(cells)) - 10)
    store.runs.mkdir(parents=True, exist_ok=True)
    for workload, method in cells:
        records = [made_up(workload, method, n, 0, "search", chance) for n in range(searched)]
        records += [made_up(workload, method, n, n, "final", chance) for n in range(10)]
        for record in records:
            # Without publish(), which waits for the disk.
            store.path(record.definition.id).write_text(record.to_json())
    return len(cells) * (searched + 10)


def measure(command: tuple[str, ...], folder: Path, cache: Path) -> tuple[float, float]:
    """Seconds of user time and of wall time of a command on the store."""
    environment = {**os.environ, "TPBENCH_CACHE": str(cache)}
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(
        [sys.executable, "-m", "tpbench", *command, "--results", str(folder / "results")],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="made, or used again; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        store = RunStore(folder / "results")
        if not store.exists:
            print(f"{fill(store, options.runs)} runs made")
        size = sum(path.stat().st_size for path in store.runs.iterdir())
        print(f"{size / 1e6:.0f} MB; seconds of user time (wall time)")
        for command in COMMANDS:
            cache = Path(tempfile.mkdtemp(dir=temporary))
            times = [measure(command, folder, cache) for _ in range(2)]
            print(f"{command[0]}: " + ", then ".join(f"{user:.2f} ({wall:.2f})" for user, wall in times))


if __name__ == "__main__":
    main()
