"""What a test error becomes when it is averaged over minibatches, as the authors' code does.

    python benchmarks/minibatch_average.py networks STORE [--data DIR]    # of kept networks (run --keep-networks)
    python benchmarks/minibatch_average.py paper STORE                    # what it makes of a store's cells

The authors' ``test`` adds up the accuracies of the minibatches of 128 and divides by their number. The last minibatch
of 10,000 test samples has 16, in the data set's order, and weighs as much as any other: each of its samples 8 times as
much as another one. ``networks`` measures both means; ``paper`` compares all cells with the paper's as they are, and as
they would be if these 16 samples were classified rightly, as they are by the networks that were measured.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import tpbench
from tpbench.results.opening import read_store
from tpbench.results.statistics import compare_with_printed, overall
from tpbench.results.tables import paper_table
from tpbench.workloads import get_workload
from tpbench.workloads.cache import load_for

BATCH = 128
SAMPLES = 10_000


def networks(store: str, data: Path | None) -> None:
    """Both means, in per cent, of every network that a store keeps."""
    print("| workload | method | seed | all samples | over minibatches | difference | wrong of the last minibatch |")
    print("|---" * 7 + "|")
    runs = tpbench.load_runs(store).sort_values(["workload", "method", "seed"])
    for run in runs.itertuples():
        arrays = load_for(get_workload(str(run.workload)), data).arrays
        network = tpbench.load_network(store, str(run.id))
        with torch.no_grad():
            found = network(torch.from_numpy(arrays["x_test"]).float()).argmax(1)
        wrong = 100 * (found != torch.from_numpy(arrays["y_test"]).long()).double()
        parts = wrong.split(BATCH)
        every, batches = float(wrong.mean()), float(torch.stack([part.mean() for part in parts]).mean())
        last = f"{int((parts[-1] > 0).sum())} of {len(parts[-1])}"
        means = f"{every:.2f} | {batches:.2f} | {batches - every:+.3f}"
        print(f"| {run.workload} | {run.method} | {run.seed} | {means} | {last} |")


def _line(name: str, cells: list[tuple[pd.Series[float], tuple[float, float]]]) -> str:
    differences = [float(errors.mean()) - printed[0] for errors, printed in cells]
    tests = [(gap, compare_with_printed(*cell)) for gap, cell in zip(differences, cells, strict=True)]
    found = overall(tests)
    mean = sum(differences) / len(differences)
    return f"| {name} | {mean:+.3f} | {found.above} of {found.tested} | {found.differing} | {found.p:.2g} |"


def paper(store: str) -> None:
    """A store's cells of the exact data sets against the paper's, with either mean."""
    whole = SAMPLES // BATCH
    # If the last minibatch has no error, all errors lie in the whole ones.
    factor = SAMPLES / (whole * BATCH) * whole / math.ceil(SAMPLES / BATCH)
    table = paper_table(read_store(store), "s6")
    by_workload: dict[str, list[tuple[pd.Series[float], tuple[float, float]]]] = {}
    for (_, column), entry in table.entries.items():
        if entry.cell and entry.paper and not column.data_label:
            by_workload.setdefault(column.workload, []).append((entry.cell.errors(), entry.paper))
    cells = [cell for found in by_workload.values() for cell in found]
    print(f"the factor of an error: {factor:.4f}\n")
    print("| test error | mean difference from the paper | above it | differ (p < 0.05) | all together p (Stouffer) |")
    print("|---" * 5 + "|")
    print(_line("over all samples", cells))
    print(_line("over minibatches, the last one right", [(errors * factor, printed) for errors, printed in cells]))
    print("\ncorrelation of two methods' errors over the seeds, mean of all pairs:")
    for workload, found in by_workload.items():
        correlations = pd.DataFrame({place: errors for place, (errors, _) in enumerate(found)}).corr().to_numpy()
        print(f"{workload}: {correlations[np.triu_indices(len(found), 1)].mean():+.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["networks", "paper"])
    parser.add_argument("store")
    parser.add_argument("--data", type=Path)
    chosen = parser.parse_args()
    if chosen.what == "networks":
        networks(chosen.store, chosen.data)
    else:
        paper(chosen.store)


if __name__ == "__main__":
    main()
