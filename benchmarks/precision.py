"""What bfloat16 operands do: to the gradients of the first step of every method, and to some epochs of training.

    python benchmarks/precision.py gradients
    python benchmarks/precision.py epochs --data DIR [--methods bp,dtp] [--seeds 5] [--epochs 10]

``epochs`` trains the published configurations in float32 and with bfloat16 operands, each seed with the same weights,
split, order and noise, and compares them in pairs. A machine without fast bfloat16 simulates it: operands and results
are rounded as torch's CPU kernels round them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from scipy.stats import ttest_rel
from torch import Tensor

from tpbench.engine import (
    METHODS,
    Architecture,
    Trainer,
    example_configuration,
    get_method,
    load_checkpoint,
    save_checkpoint,
)
from tpbench.engine.network import Parameters
from tpbench.engine.precision import EXACT_MATMUL, MatmulPolicy, ReducedPrecisionMatmul, slow_bfloat16
from tpbench.engine.step import PackState
from tpbench.results.formats import mean_and_deviation
from tpbench.search.spaces import published_configuration
from tpbench.workloads import get_workload, load_problem

# As mnist's network, whose hidden products are all large.
_NETWORK, _BATCH = Architecture((784, *[256] * 5, 10), random_hidden=256), 128


def _draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _first_step(method: str, dtype: torch.dtype, products: MatmulPolicy) -> list[Parameters]:
    """The gradients of one joint step on made-up data: of the forward parameters, and of the feedback if it trains."""
    rule = get_method(method)
    pack = PackState(rule, _NETWORK, [example_configuration(rule)], [0], dtype=dtype, matmul=products)
    labels = torch.randint(0, 10, (1, _BATCH), generator=torch.Generator().manual_seed(1))
    noise = [_draw(i, 1, _BATCH, _NETWORK.sizes[i]).to(dtype) for i in _NETWORK.hidden]
    pack.joint_step(_draw(0, 1, _BATCH, 784).to(dtype), labels, noise if rule.trains_feedback else None)
    return [found for found in (pack.forward_gradients, pack.feedback_gradients) if found]


def _worst(found: Parameters, exact: Parameters) -> float:
    """The largest relative error of an array, in the 2-norm."""
    norms = {name: float(exact[name].norm()) for name in exact}
    return max(float((found[name].double() - exact[name]).norm()) / norm for name, norm in norms.items() if norm)


def gradients() -> None:
    kinds: dict[str, MatmulPolicy] = {
        "float32": EXACT_MATMUL,
        "bf16, results float32 (GPU)": ReducedPrecisionMatmul("cpu", simulated=True, rounded=False),
        "bf16, results bfloat16 (CPU)": ReducedPrecisionMatmul("cpu", simulated=True, rounded=True),
    }
    print("largest relative error of the first step's gradients against float64, forward / feedback")
    print("| method |", " | ".join(kinds), "|")
    print("|---" * (len(kinds) + 1) + "|")
    for method in METHODS:
        exact = _first_step(method, torch.float64, EXACT_MATMUL)
        cells = []
        for kind in kinds.values():
            found = _first_step(method, torch.float32, kind.clone())
            cells.append(" / ".join(f"{_worst(mine, theirs):.1e}" for mine, theirs in zip(found, exact, strict=True)))
        print(f"| {method} |", " | ".join(cells), "|")


def _errors(
    workload: str, method: str, products: MatmulPolicy, seeds: int, epochs: int, data: Path, keep: Path
) -> tuple[list[float], list[float]]:
    """The last validation and test errors of every seed in per cent; what was trained already is read from ``keep``."""
    name = f"{workload}-{method}-{epochs}-{seeds}-{'float32' if products is EXACT_MATMUL else 'bf16'}"
    done = keep / f"{name}.json"
    if not done.exists():
        declared = get_workload(workload)
        problem, _ = load_problem(declared, data)
        configuration = published_configuration(declared, method)
        trainer = Trainer(
            get_method(method),
            problem,
            [configuration] * seeds,
            list(range(seeds)),
            epochs=epochs,
            precision="float32" if products is EXACT_MATMUL else "bf16",
            matmul=products.clone(),
        )
        checkpoint = keep / f"{name}.pt"
        if checkpoint.exists():
            load_checkpoint(trainer, checkpoint)
        while not trainer.done:
            trainer.advance()
            save_checkpoint(trainer, checkpoint)
        curves = [history.curves for history in trainer.histories]
        done.write_text(json.dumps([[c[kind][-1] for c in curves] for kind in ("validation_error", "test_error")]))
        checkpoint.unlink(missing_ok=True)
    validation, test = json.loads(done.read_text())
    return [100 * e for e in validation], [100 * e for e in test]


def compare(arguments: argparse.Namespace, keep: Path) -> Iterator[str]:
    kind = ReducedPrecisionMatmul("cpu", simulated=bool(slow_bfloat16("cpu")))
    yield f"bfloat16 is {'simulated' if kind.simulated else 'real'} here; errors after {arguments.epochs} epochs (%)"
    yield "| method | curve | float32 | bf16 | difference, paired | p (t test) |"
    yield "|---|---|---|---|---|---|"
    for method in arguments.methods.split(","):
        found = [
            _errors(arguments.workload, method, products, arguments.seeds, arguments.epochs, arguments.data, keep)
            for products in (EXACT_MATMUL, kind)
        ]
        for curve, exact, lowered in zip(("validation", "test"), *found, strict=True):
            spelled = [f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in map(mean_and_deviation, (exact, lowered))]
            mean, deviation = mean_and_deviation([b - a for a, b in zip(exact, lowered, strict=True)])
            p = ttest_rel(lowered, exact).pvalue
            yield f"| {method} | {curve} | {' | '.join(spelled)} | {mean:+.2f} ± {deviation:.2f} | {p:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("gradients", "epochs"))
    parser.add_argument("--workload", default="mnist")
    parser.add_argument("--methods", default="bp,dtp,ddtp-linear")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--keep", type=Path, help="Where what is trained stays, to go on after a stop.")
    arguments = parser.parse_args()
    if arguments.what == "gradients":
        gradients()
        return
    with tempfile.TemporaryDirectory() as name:
        keep = arguments.keep or Path(name)
        keep.mkdir(parents=True, exist_ok=True)
        for line in compare(arguments, keep):
            print(line, flush=True)


if __name__ == "__main__":
    main()
