"""Measure steps of the convolutional network of CIFAR-10, beside the prototype of ../shared/conv.md.

    OMP_NUM_THREADS=1 python benchmarks/convolution.py [--pack 10] [--steps 3] [--precision float32] [--methods bp,dfa]

Prints CPU seconds per step of a pack, the best of several, and the rate of a 2048 x 2048 product on the same machine in
the same run: times compare between machines after they are multiplied by their rates.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from tpbench.engine import METHODS, Convolution, convolutional, example_configuration
from tpbench.engine.operations import joint_operations
from tpbench.engine.precision import matmul_policy
from tpbench.engine.step import PHASES, Clock, PackState

NETWORK = convolutional((3, 32, 32), [Convolution(32), Convolution(64)], [512, 10], random_hidden=2048)
BATCH = 128


def product_rate(dtype: torch.dtype) -> float:
    """Return the GFLOP/s of a product of 2048 x 2048 matrices, the best of several."""
    a = torch.randn(2048, 2048).to(dtype)
    out = torch.empty_like(a)
    return 2 * 2048**3 / best(lambda: torch.mm(a, a, out=out), 8) / 1e9


def best(run: Callable[[], object], times: int) -> float:
    """Return the CPU seconds of the fastest of several runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(times):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="bp,dfa,ddtp-linear,ddtp-control,ddtp-rhl,drtp,dkp")
    parser.add_argument("--pack", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--phases", action="store_true", help="also the shares of a step's phases")
    options = parser.parse_args()
    rate = product_rate(torch.bfloat16 if options.precision == "bf16" else torch.float32)
    print(f"{options.precision}, pack of {options.pack}; a product of 2048 x 2048 runs at {rate:.0f} GFLOP/s")
    print("| step | CPU s per step | per member | GFLOP per member | share of the product's rate |")
    print("|---|---|---|---|---|")
    members, generator = options.pack, torch.Generator().manual_seed(0)
    x = torch.randn(members, BATCH, NETWORK.sizes[0], generator=generator)
    y = torch.randint(0, NETWORK.sizes[-1], (members, BATCH), generator=generator)
    for name in options.methods.split(","):
        rule = METHODS[name]
        configuration = example_configuration(rule)
        pack = PackState(
            rule,
            NETWORK,
            [configuration] * members,
            list(range(members)),
            matmul=matmul_policy(options.precision, "cpu"),
        )
        widths = rule.noise_widths(NETWORK)

        def joint(pack: PackState = pack, widths: tuple[int, ...] = widths) -> None:
            # Drawing the noise belongs to a step.
            noise = [torch.randn(members, BATCH, n, generator=generator) for n in widths]
            pack.joint_step(x, y, noise or None)

        seconds = best(joint, options.steps)
        work = joint_operations(rule, NETWORK, BATCH, tuple(NETWORK.layers)) / 1e9
        share = work * members / seconds / rate
        print(f"| {name} | {seconds:.2f} | {seconds / members:.3f} | {work:.1f} | {share:.0%} |", flush=True)
        if options.phases:
            pack.clock = Clock(pack.device)
            joint()
            print({phase: round(pack.clock.seconds[phase], 3) for phase in PHASES}, flush=True)
            pack.clock = Clock()
        if rule.reconstruction:

            def alone(pack: PackState = pack, widths: tuple[int, ...] = widths) -> None:
                noise = [torch.randn(members, BATCH, n, generator=generator) for n in widths]
                pack.feedback_step(x, noise)

            seconds = best(alone, options.steps)
            print(f"| {name}, feedback alone | {seconds:.2f} | {seconds / members:.3f} | | |", flush=True)


if __name__ == "__main__":
    main()
