"""What a joint step of every method asks of a GPU, counted on tensors that claim to be on one, and what bounds it.

    python benchmarks/launches.py [--workload mnist] [--packs 10,100] [--methods NAMES]
    python benchmarks/launches.py --csv > benchmarks/launches.csv

Every operator that is no view counts as one launch; copies are counted among them and by themselves. Bytes are those
that the operators read and write, one by one: what an L2 cache keeps is moved less often. Nothing is measured: times
are what the data sheet of an H100 SXM allows (66.9 TFLOP/s in float32 without tensor cores, 3.35 TB/s) and 2
microseconds for a launch of a captured graph, about what the smallest kernels took on one (``benchmarks/kernels.py``).

``--csv`` prints what ``benchmarks/campaign.py`` needs of every workload and method: launches, draws of noise, GFLOP and
MiB of a joint step, of a step that trains the feedback alone, and of the evaluation of a chunk of samples. The last
three are of one member.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tpbench.engine import all_methods, example_configuration, get_method
from tpbench.engine.noise import minibatches_at_once
from tpbench.engine.operations import joint_operations
from tpbench.engine.step import PackState
from tpbench.engine.trainer import evaluation_chunk
from tpbench.engine.verify import fake_gpu
from tpbench.workloads import get_workload, workload_names
from tpbench.workloads.workload import Workload

OPERATIONS, BYTES, LAUNCH = 66.9e12, 3.35e12, 2e-6
_COPIES = ("copy_", "_to_copy", "clone")
# They allocate, and launch nothing.
_EMPTY = ("empty", "empty_strided", "empty_like", "new_empty")


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that reach a device, and the bytes of their tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: Counter[str] = Counter()
        self.bytes = 0
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), more: Any = None) -> Any:
        result = function(*arguments, **(more or {}))
        name = function.overloadpacket.__name__
        if function.namespace == "aten" and not function.is_view and name not in _EMPTY:
            self.launches[name] += 1
            self.bytes += _moved(function, arguments, more or {}, result)
            if count_operations := flop_registry.get(function.overloadpacket):
                self.operations += count_operations(*arguments, **(more or {}), out_val=result)
        return result


def _moved(function: Any, arguments: Any, more: Any, result: Any) -> int:
    """Bytes that an operator reads and writes; what it changes in place it does both with."""
    tensors = {id(t): t for t in tree_leaves((arguments, more, result)) if isinstance(t, Tensor)}
    given = [
        *zip(function._schema.arguments, arguments, strict=False),
        *((argument, more[argument.name]) for argument in function._schema.arguments if argument.name in more),
    ]
    changed = [
        t
        for argument, value in given
        if argument.alias_info and argument.alias_info.is_write and not argument.is_out
        for t in tree_leaves(value)
        if isinstance(t, Tensor)
    ]
    return sum(t.numel() * t.element_size() for t in [*tensors.values(), *changed])


JOINT, FEEDBACK, EVALUATION = "joint", "feedback", "evaluation"


def count(workload: Workload, method: str, members: int, phase: str = JOINT) -> Counting:
    """One step of a pack on a GPU that is not there.

    Args:
        workload: the network and its minibatches.
        method: the method's name.
        members: of the pack.
        phase: a joint step, one that trains the feedback alone, or the evaluation of a chunk of samples.
    """
    rule, sizes, batch = get_method(method), workload.architecture.sizes, workload.batch_size
    with fake_gpu():
        pack = PackState(
            rule,
            workload.architecture,
            [example_configuration(rule)] * members,
            list(range(members)),
            trained=workload.trained_layers,
            device="cuda",
            # Tensors without numbers have no weights either.
            initialise=False,
        )
        pack.validated = True
        rows = evaluation_chunk(workload.architecture) if phase == EVALUATION else batch
        x = torch.empty(members, rows, sizes[0], device="cuda")
        y = torch.zeros(members, rows, dtype=torch.int64, device="cuda")
        widths = rule.noise_widths(workload.architecture) * max(pack.noise_repeats, default=1)
        noise = [torch.empty(members, batch, width, device="cuda") for width in widths]

        def step() -> None:
            if phase == JOINT:
                pack.joint_step(x, y, noise)
            elif phase == FEEDBACK:
                pack.feedback_step(x, noise, y)
            else:
                pack.loss(pack.propagate(x)[-1], y)

        # The first step makes constants and working memory.
        step()
        counted = Counting()
        with counted:
            step()
    return counted


def minibatches_per_draw(workload: Workload) -> int:
    """Minibatches whose noise is drawn by one call for each member."""
    units = sum(workload.architecture.sizes[i] for i in workload.architecture.hidden)
    return minibatches_at_once(workload.batch_size * units, torch.device("cuda"))


CSV_COLUMNS = ("workload", "method", "phase", "launches", "draws", "gflop", "mib")
# Members that are counted together; what all of a pack share is next to nothing.
_COUNTED = 2


def csv_rows(workload: Workload, method: str) -> list[tuple[str | int | float, ...]]:
    """One row for each phase of a method, as CSV_COLUMNS names its entries."""
    rule, rows = get_method(method), []
    own = rule.feedback_phase
    alone = rule.trains_feedback and (own is None or own.alone)
    for phase in (JOINT, FEEDBACK, EVALUATION) if alone else (JOINT, EVALUATION):
        counted = count(workload, method, _COUNTED, phase)
        draws = (
            1 / minibatches_per_draw(workload)
            if rule.noise_widths(workload.architecture) and phase != EVALUATION
            else 0.0
        )
        gflop, mib = counted.operations / _COUNTED / 1e9, counted.bytes / _COUNTED / 2**20
        launches = sum(counted.launches.values())
        rows.append((workload.name, method, phase, launches, f"{draws:.4f}", f"{gflop:.4f}", f"{mib:.3f}"))
    return rows


def print_csv() -> None:
    """Print the rows of every workload and method."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for workload in map(get_workload, workload_names()):
        for method in all_methods():
            if not workload.refusal(method):
                writer.writerows(csv_rows(workload, method))
                sys.stdout.flush()


COLUMNS = (
    "pack",
    "launches",
    "Adam's",
    "copies",
    "outside",
    "GFLOP",
    "MiB",
    "ms by operations",
    "by bytes",
    "by launches",
    "bound",
)


def row(workload: Workload, method: str, members: int) -> tuple[str, ...]:
    """One entry for each of the columns."""
    counted, rule = count(workload, method, members), get_method(method)
    at_once = minibatches_per_draw(workload)
    # Noise, and the copies of sample numbers and noise to where the graph reads them.
    outside = (members / at_once + 2) if rule.trains_feedback else 1
    launches, copies = sum(counted.launches.values()), sum(counted.launches[name] for name in _COPIES)
    trained = workload.trained_layers or tuple(workload.architecture.layers)
    operations = members * joint_operations(rule, workload.architecture, workload.batch_size, trained)
    times = {"operations": operations / OPERATIONS, "bytes": counted.bytes / BYTES}
    times["launches"] = (launches + outside) * LAUNCH
    return (
        str(members),
        str(launches),
        str(counted.launches["_fused_adam_"]),
        str(copies),
        f"{outside:.0f}",
        f"{operations / 1e9:.0f}",
        f"{counted.bytes / 2**20:.0f}",
        *(f"{1e3 * seconds:.2f}" for seconds in times.values()),
        max(times, key=lambda name: times[name]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="mnist")
    parser.add_argument("--packs", default="10,100")
    parser.add_argument("--methods")
    parser.add_argument("--csv", action="store_true")
    arguments = parser.parse_args()
    if arguments.csv:
        print_csv()
        return
    workload = get_workload(arguments.workload)
    names = arguments.methods.split(",") if arguments.methods else all_methods()
    packs = [int(size) for size in arguments.packs.split(",")]
    print("| method |", " | ".join(COLUMNS), "|")
    print("|---" * (1 + len(COLUMNS)) + "|")
    for method in names:
        if not workload.refusal(method):
            columns = zip(*(row(workload, method, members) for members in packs), strict=True)
            print(f"| {method} |", " | ".join(" / ".join(dict.fromkeys(column)) for column in columns), "|", flush=True)


if __name__ == "__main__":
    main()
