"""What a test error becomes when it is averaged over minibatches, as the authors' code does.

    python benchmarks/minibatch_average.py networks STORE [--data DIR]    # of kept networks (run --keep-networks)
    python benchmarks/minibatch_average.py paper STORE                    # what it makes of a store's cells

The authors' ``test`` adds up the accuracies of the minibatches of 128 and divides by their number. The last minibatch
of 10,000 test samples has 16, in the data set's order, and weighs as much as any other: each of its samples 8 times as
much as another one. ``networks`` measures both means. ``paper`` compares the cells of MNIST and Fashion-MNIST with the
paper's as they are, and as they would be if in every run so many of the last 16 samples were wrong (all numbers of
errors staying as they are): an estimate, as runs do not say which samples were wrong.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

import tpbench
from tpbench.results.opening import read_store
from tpbench.results.runs import FULL_SEEDS
from tpbench.results.statistics import compare_with_printed, overall
from tpbench.results.tables import paper_table
from tpbench.workloads import get_workload
from tpbench.workloads.cache import load_for

BATCH = 128
SAMPLES = 10_000
WHOLE, LAST = divmod(SAMPLES, BATCH)
WORKLOADS = ("mnist", "mnist-frozen", "fashion-mnist")


def networks(store: str, data: Path | None) -> None:
    """Both means, in per cent, of every network that a store keeps."""
    print("| workload | method | seed | all samples | over minibatches | difference | wrong of the last minibatch |")
    print("|---" * 7 + "|")
    runs = tpbench.load_runs(store).sort_values(["workload", "method", "seed"])
    for run in runs.itertuples():
        network = tpbench.load_network(store, str(run.id))
        arrays = load_for(get_workload(str(run.workload)), data).arrays
        with torch.no_grad():
            found = network(torch.from_numpy(arrays["x_test"]).float()).argmax(1)
        wrong = 100 * (found != torch.from_numpy(arrays["y_test"]).long()).double()
        parts = wrong.split(BATCH)
        every, batches = float(wrong.mean()), float(torch.stack([part.mean() for part in parts]).mean())
        if not math.isclose(every, float(str(run.test_error)), abs_tol=0.001):
            raise SystemExit(f"error: run {run.id} has a test error of {run.test_error} %, its network here {every} %")
        last = f"{int((parts[-1] > 0).sum())} of {len(parts[-1])}"
        means = f"{every:.2f} | {batches:.2f} | {batches - every:+.3f}"
        print(f"| {run.workload} | {run.method} | {run.seed} | {means} | {last} |")


class PaperCell(NamedTuple):
    """The errors of a cell's seeds in per cent, and the paper's mean and deviation."""

    workload: str
    errors: pd.Series[float]
    printed: tuple[float, float]


def averaged(errors: pd.Series[float], wrong: float) -> pd.Series[float]:
    """Means over minibatches of errors over all samples, in per cent, with ``wrong`` errors in the last one."""
    count = errors / 100 * SAMPLES
    return 100 * ((count - wrong) / BATCH + wrong / LAST) / (WHOLE + 1)


def cells_of(store: str) -> list[PaperCell]:
    """Those that the line below a table counts, of these data sets."""
    return [
        PaperCell(column.workload, entry.cell.errors(), entry.paper)
        for column, entry in paper_table(read_store(store), "s6").against_paper
        if entry.cell and entry.paper and column.workload in WORKLOADS and not math.isnan(entry.p_paper)
    ]


def against(cells: list[PaperCell], mean: Callable[[pd.Series[float]], pd.Series[float]]) -> str:
    """Mean difference in points, how many lie above the paper, how many differ, and all together."""
    errors = [mean(cell.errors) for cell in cells]
    gaps = [float(found.mean()) - cell.printed[0] for found, cell in zip(errors, cells, strict=True)]
    tests = [compare_with_printed(found, cell.printed) for found, cell in zip(errors, cells, strict=True)]
    found = overall(zip(gaps, tests, strict=True))
    return f"{sum(gaps) / len(gaps):+.3f} | {found.above} of {found.tested} | {found.differing} | {found.p:.2g}"


def paper(store: str) -> None:
    """A store's cells of the exact data sets against the paper's, with either mean."""
    cells = cells_of(store)
    if not cells:
        raise SystemExit(f"error: {store} has no cell that can be compared with the paper's")
    titles = "mean difference from the paper | above it | differ (p < 0.05) | all together p (Stouffer) |"
    print(f"| data set | test error over | {titles}")
    print("|---" * 6 + "|")
    for workload in (*WORKLOADS, "all"):
        some = [cell for cell in cells if workload in (cell.workload, "all")]
        if some:
            print(f"| {workload} | all samples | {against(some, lambda errors: errors)} |")
            print(f"| {workload} | minibatches, all {LAST} right | {against(some, partial(averaged, wrong=0))} |")
    print(f"\n| wrong of the last {LAST} in every run | {titles}")
    print("|---" * 5 + "|")
    for wrong in (0.0, 0.25, 0.5, 1.0):
        print(f"| {wrong:g} | {against(cells, partial(averaged, wrong=wrong))} |")
    print(f"\ncorrelation of two methods' errors over the seeds, mean of all pairs that share {FULL_SEEDS} seeds:")
    for workload in WORKLOADS:
        columns = {place: cell.errors for place, cell in enumerate(cells) if cell.workload == workload}
        if len(columns) > 1:
            correlations = pd.DataFrame(columns).corr(min_periods=FULL_SEEDS).to_numpy()
            pairs = correlations[np.triu_indices(len(columns), 1)]
            if not np.isnan(pairs).all():
                print(f"{workload}: {np.nanmean(pairs):+.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["networks", "paper"])
    parser.add_argument("store")
    parser.add_argument("--data", type=Path)
    chosen = parser.parse_args()
    try:
        if chosen.what == "networks":
            networks(chosen.store, chosen.data)
        else:
            paper(chosen.store)
    except tpbench.TpbenchError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
