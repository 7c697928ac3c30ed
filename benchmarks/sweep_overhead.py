"""What Ray adds to a sweep: its wall time against the time that its packs trained. python benchmarks/sweep_overhead.py

Trains digits for so many epochs that a pack takes about 30 s or longer on 2 cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

epochs = sys.argv[1] if len(sys.argv) > 1 else "400"
with tempfile.TemporaryDirectory() as folder:
    command = [
        sys.executable, "-m", "tpbench.cli", "sweep", "digits", "ddtp-linear", "--trials", "8", "--pack", "2",
        "--seeds", "3", "--epochs", epochs, "--cpus", "2", "--results", folder,
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    runs = [json.loads(path.read_text()) for path in Path(folder).glob("runs/*.json")]
search = [run["wall_time_s"] for run in runs if run["definition"]["seed"] == 0]
final = [run["wall_time_s"] for run in runs if run["definition"]["seed"] != 0]
# Two packs train at once in the search, the final pack alone.
training = sum(search) / 2 + sum(final)
print(f"packs of 2 took {2 * sum(search) / len(search):.0f} s; wall {wall:.1f} s, training {training:.1f} s,", end=" ")
print(f"overhead {100 * (wall / training - 1):.1f} % with {wall - training:.1f} s of start-up and hand-over")
