"""From runs to cells: which runs stand for a workload x method entry, and their statistics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from tpbench.results.runs import RunRecord, canonical_json, percent

FULL_SEEDS = 10


def labelled(name: str, data_label: str) -> str:
    """A name, and in brackets what kind of data copy it stands for; the exact data set has no label."""
    return f"{name} ({data_label})" if data_label else name


@dataclass(frozen=True)
class Cell:
    """The runs that stand for one entry: one configuration, one number of epochs, several seeds."""

    workload: str
    method: str
    data_label: str
    runs: tuple[RunRecord, ...]

    @property
    def workload_title(self) -> str:
        """The workload's name, and what kind of data copy it was trained on."""
        return labelled(self.workload, self.data_label)

    @property
    def seeds(self) -> int:
        return len(self.runs)

    @property
    def epochs(self) -> int:
        return self.runs[0].definition.epochs

    @property
    def diverged(self) -> int:
        """Runs whose numbers became non-finite."""
        return sum(run.status == "diverged" for run in self.runs)

    def errors(self, curve: str = "test_error") -> pd.Series[float]:
        """A curve at each run's selected epoch in per cent, by seed; missing where no epoch was finished."""
        values = {run.definition.seed: percent(run.history.at_selected(curve)) for run in self.runs}
        return pd.Series(values, dtype=float).sort_index()

    @property
    def mean(self) -> float:
        """Mean test error in per cent."""
        return float(self.errors().mean())

    @property
    def std(self) -> float:
        """Sample standard deviation of the test error in per cent; not a number for a single seed."""
        return float(self.errors().std(ddof=1))


def choose_cells(records: Iterable[RunRecord]) -> dict[tuple[str, str, str], Cell]:
    """The cell of every (workload, data label, method) in a store.

    A store may hold several configurations of a method: the runs of a search have one seed each, the final ones ten.
    The configuration with most seeds stands for the method; then the one trained for more epochs; then the one with
    the lower mean *validation* error, so that no choice looks at the test set.
    """
    groups: dict[tuple[str, str, str], dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        d = record.definition
        variant = canonical_json([dict(d.configuration), d.epochs, d.fingerprint, d.protocol])
        groups[d.workload, record.data_label, d.method][variant].append(record)
    cells = {}
    for (workload, label, method), variants in groups.items():
        candidates = [
            Cell(workload, method, label, tuple(sorted(runs, key=lambda run: run.definition.seed)))
            for runs in variants.values()
        ]
        cells[workload, label, method] = min(candidates, key=_preference)
    return cells


def _preference(cell: Cell) -> tuple[int, int, float, str]:
    validation = float(cell.errors("validation_error").mean())
    # Not-a-number sorts nowhere: a cell without any finished epoch comes last.
    known = validation if validation == validation else float("inf")
    return -cell.seeds, -cell.epochs, known, cell.runs[0].definition.id
