"""Two checkouts of tpbench against each other, alternating, as ratios: python benchmarks/compare.py OLD NEW [CELL ...]

A cell is WORKLOAD:METHOD. To compare with an older commit: git worktree add /tmp/old COMMIT
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median

CHILD = """
import sys, time, torch
sys.path.insert(0, sys.argv[1])
from tpbench.engine import Problem, Trainer, get_method
from tpbench.workloads import WORKLOADS
workload, method, pack = WORKLOADS[sys.argv[2]], get_method(sys.argv[3]), 10
values = dict(lr=1e-3, lr_eta=3e-5, eta=.05, beta1=.9, beta2=.99, epsilon=1e-8, lr_fb=1e-4, beta1_fb=.9,
              beta2_fb=.999, epsilon_fb=1e-8, sigma=.05, wd_fb=1e-5, damping=.1)
steps = 5 if sys.argv[2] == "cifar10" else 20
x = torch.randint(0, 256, (128 * (steps + 1), workload.architecture.sizes[0]), dtype=torch.uint8)
y = torch.randint(0, 10, (len(x),))
problem = Problem(workload.architecture, x, y, x[:128], y[:128], 128, 128, 1 / 255)
configuration = {name: values[name] for name in method.hyperparameters}
trainer = Trainer(method, problem, [configuration] * pack, list(range(pack)), epochs=1000)
trainer.advance()
times = []
for _ in range(4):
    started = time.perf_counter()
    trainer.advance()
    times.append((time.perf_counter() - started) / steps)
print(sorted(times)[1])
"""


def step_time(tree: str, cell: str) -> float:
    """Seconds of a joint step of a pack of 10 in a process of its own."""
    output = subprocess.run(
        [sys.executable, "-c", CHILD, tree, *cell.split(":")], capture_output=True, text=True, check=True
    )
    return float(output.stdout.split()[-1])


old, new, *cells = sys.argv[1:]
for cell in cells or ["mnist:bp", "mnist:dtp", "mnist:ddtp-linear", "mnist:ddtp-rhl", "mnist:dtpdrl"]:
    pairs = [(step_time(old, cell), step_time(new, cell)) for _ in range(3)]
    before, after = median(a for a, _ in pairs), median(b for _, b in pairs)
    ratio = median(a / b for a, b in pairs)
    print(
        f"{cell}: {1000 * before:.1f} -> {1000 * after:.1f} ms per step of a pack of 10, {ratio:.2f} times", flush=True
    )
