"""What Ray adds to a sweep: wall time in which no pack trained. python benchmarks/sweep_overhead.py [EPOCHS] [TRIALS]

Trains digits for so many epochs that a pack takes about half a minute on 2 cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Rates that all learn, so that no pack is stopped early and goes uncounted.
SPACE = """methods: [bp]
hyperparameters:
  lr: {log_uniform: [1.0e-3, 1.0e-2]}
  beta1: {constant: 0.9}
  beta2: {constant: 0.99}
  epsilon: {constant: 1.0e-8}
"""

epochs, trials = (sys.argv[1:] + ["1000", "16"][len(sys.argv) - 1 :])[:2]
with tempfile.TemporaryDirectory() as folder:
    space = Path(folder) / "space.yaml"
    space.write_text(SPACE)
    command = [
        sys.executable, "-m", "tpbench.cli", "sweep", "digits", "bp", "--trials", trials, "--pack", "2", "--seeds", "4",
        "--epochs", epochs, "--cpus", "2", "--space", str(space), "--results", folder,
    ]  # fmt: skip
    started = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ended = time.time()
    packs = set()
    for path in Path(folder).glob("runs/*.json"):
        run, end = json.loads(path.read_text()), path.stat().st_mtime
        packs.add((end - run["wall_time_s"] * run["pack_members"], end))

# The union of the intervals in which packs trained.
busy, until = 0.0, started
for begin, end in sorted(packs):
    busy += max(0.0, end - max(begin, until))
    until = max(until, end)
wall, first = ended - started, min(packs)[0] - started
print(
    f"packs took up to {max(e - b for b, e in packs):.0f} s; wall {wall:.1f} s, no pack trained for "
    f"{wall - busy:.1f} s of it ({100 * (wall - busy) / wall:.1f} %), {first:.1f} s of these before the first"
)
