"""Cells: the runs that stand for an entry of workload x method, their statistics and provenance (docs/protocol.md)."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import pandas as pd

from tpbench.engine import installed_source
from tpbench.results.runs import (
    DEFAULT_PRECISION,
    FULL_SEEDS,
    UNKNOWN_BUDGET,
    RunRecord,
    TuningBudget,
    from_search,
    percent,
    tuning_budget,
)
from tpbench.results.statistics import FEWEST, Comparison, compare_paired, compare_unpaired, mean_interval
from tpbench.workloads import DATASETS, WORKLOADS

CellKey = tuple[str, str, str]
"""Workload, data label and method."""

_KNOWN_COPIES = frozenset(label for spec in DATASETS.values() for _, label in spec.known_copies)
_ENDS_IN_CONTENT = re.compile(r".* [0-9a-f]{8}")


def with_label(name: str, data_label: str) -> str:
    """Return a name with the label of a copy of its data in brackets; the exact data set has none."""
    return f"{name} ({data_label})" if data_label else name


def workload_label(row: Mapping[Hashable, Any]) -> str:
    """Return the workload of a row of a leaderboard or comparison with the label of its data."""
    return with_label(row["workload"], "" if row["data"] == "exact" else row["data"])


def column_labels(records: Iterable[RunRecord]) -> dict[tuple[str, str], str]:
    """Return the labels of the data that runs were trained on, by fingerprint and label in their files.

    Labels of unknown copies end in a digest of the content. Those of older versions do not: they take over the label of
    a newer run on the same data, or end in the data's fingerprint.
    """
    pairs = {
        (record.definition.fingerprint, record.data_label)
        for record in records
        if not record.definition.workload_source
    }
    with_content = {fingerprint: label for fingerprint, label in sorted(pairs) if _ENDS_IN_CONTENT.fullmatch(label)}
    return {(fingerprint, label): _column_label(fingerprint, label, with_content) for fingerprint, label in pairs}


def _column_label(fingerprint: str, label: str, with_content: Mapping[str, str]) -> str:
    if not label or label in _KNOWN_COPIES or _ENDS_IN_CONTENT.fullmatch(label):
        return label
    kind = "unverified copy" if label.strip().lower() == "exact" else label
    return with_content.get(fingerprint, f"{kind} {fingerprint[:8]}")


def protocol_epochs(workload: str) -> int | None:
    """Return the joint epochs of a built-in workload's protocol; None of another."""
    return WORKLOADS[workload].epochs if workload in WORKLOADS else None


@dataclass(frozen=True)
class Cell:
    """The runs that stand for one entry: one configuration, epochs, precision and data; one run per seed."""

    workload: str
    method: str
    data_label: str
    runs: tuple[RunRecord, ...]
    sources: int = 1
    """Number of versions of the method's source in the store; the cell is of one of them."""

    @property
    def key(self) -> CellKey:
        return self.workload, self.data_label, self.method

    @property
    def workload_title(self) -> str:
        """The workload's name with the label of the data."""
        return with_label(self.workload, self.data_label)

    @property
    def seeds(self) -> int:
        return len(self.runs)

    @property
    def epochs(self) -> int:
        return self.runs[0].definition.epochs

    @property
    def protocol_epochs(self) -> int | None:
        """The joint epochs of the workload's protocol; None where they are unknown."""
        own = self.runs[0].workload.get("epochs")
        return own if type(own) is int else protocol_epochs(self.workload)

    @property
    def precision(self) -> str:
        return self.runs[0].precision

    @property
    def source(self) -> str:
        """Digest of the method's source; empty for a built-in one."""
        return _source_digest(self.runs[0].definition.method_source)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data."""
        return self.runs[0].definition.fingerprint

    @property
    def diverged(self) -> int:
        """Runs whose numbers became non-finite."""
        return sum(run.diverged for run in self.runs)

    @property
    def ranked(self) -> bool:
        """True if enough seeds finished for tests; other cells are listed last and not tested."""
        return self.seeds - self.diverged >= FEWEST

    @property
    def can_be_best(self) -> bool:
        """True if the cell is ranked and no seed diverged: the mean of survivors is not comparable."""
        return self.ranked and not self.diverged

    @property
    def tier(self) -> int:
        """Sort priority in lists: 0 if no seed diverged, 1 if some did, 2 if too few seeds finished."""
        return 0 if self.can_be_best else 1 if self.ranked else 2

    @cached_property
    def budget(self) -> TuningBudget:
        """Tuning budget of the configuration; unknown where the runs differ in it."""
        known = {tuning_budget(run.search_info) for run in self.runs if run.search_info}
        return known.pop() if len(known) == 1 else UNKNOWN_BUDGET

    def errors(self, curve: str = "test_error") -> pd.Series[float]:
        """Return a curve at each run's selected epoch in per cent, by seed; missing where the run diverged."""
        return self._errors[curve]

    @cached_property
    def _errors(self) -> Mapping[str, pd.Series[float]]:
        return {
            curve: pd.Series(self._by_seed(curve), dtype=float).sort_index()
            for curve in ("test_error", "validation_error")
        }

    def _by_seed(self, curve: str) -> dict[int, float]:
        return {
            run.definition.seed: percent(None if run.diverged else run.history.at_selected(curve)) for run in self.runs
        }

    @property
    def mean(self) -> float:
        """Mean test error in per cent over the seeds that did not diverge."""
        return float(self.errors().mean())

    @property
    def std(self) -> float:
        """Sample standard deviation of the test error in per cent; not a number for a single seed."""
        return float(self.errors().std(ddof=1))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean in per cent; not numbers where too few seeds finished."""
        return mean_interval(self.errors()) if self.ranked else (math.nan, math.nan)

    @property
    def validation(self) -> float:
        """Mean validation error in per cent at the selected epochs."""
        # Without pandas: a search leaves thousands of candidates, which are compared by this.
        known = [error for error in self._by_seed("validation_error").values() if not math.isnan(error)]
        return fmean(known) if known else math.nan

    @property
    def marks(self) -> list[str]:
        """Departures from the protocol: fewer seeds, other epochs, another precision, diverged runs.

        Besides: several sources of the method in the store, several versions of a run.
        """
        marks = []
        if self.seeds < FULL_SEEDS:
            marks.append(f"{self.seeds} seed{'s' * (self.seeds != 1)}")
        if self.epochs != (self.protocol_epochs or self.epochs):
            marks.append(f"{self.epochs} epoch{'s' * (self.epochs != 1)}")
        if self.precision != DEFAULT_PRECISION:
            marks.append(self.precision)
        if self.diverged:
            marks.append(f"{self.diverged} diverged")
        if self.sources > 1:
            marks.append(f"1 of {self.sources} sources")
        if (versions := max(run.versions for run in self.runs)) > 1:
            marks.append(f"{versions} versions")
        return marks


def _source_digest(source: str) -> str:
    """Return the digest of a source, written "distribution version digest": a new version alone changes nothing."""
    return source.rpartition(" ")[2]


def _variant(record: RunRecord) -> Hashable:
    """Return the values that the runs of one candidate share."""
    d = record.definition
    configuration = tuple(sorted((name, float(value)) for name, value in d.configuration.items()))
    source = _source_digest(d.method_source)
    return configuration, d.epochs, d.fingerprint, d.protocol, record.precision, source, d.workload_source


def _final(runs: list[RunRecord]) -> list[RunRecord]:
    """Return runs without the search's own one where its seed is none of the final seeds."""
    finals = [set(run.search_info.get("seeds", ())) for run in runs if from_search(run.search_info, "final")]
    if not finals:
        return runs
    seeds = set().union(*finals)
    return [run for run in runs if not from_search(run.search_info, "search") or run.definition.seed in seeds]


def _by_seed(runs: Iterable[RunRecord]) -> tuple[RunRecord, ...]:
    """Return one run per seed, in order. There may be two: the oldest versions named runs of all precisions alike."""
    first: dict[int, RunRecord] = {}
    for run in sorted(runs, key=lambda run: (run.definition.precision != run.precision, run.definition.id)):
        first.setdefault(run.definition.seed, run)
    return tuple(first[seed] for seed in sorted(first))


def candidates(records: Iterable[RunRecord]) -> dict[CellKey, list[Cell]]:
    """Return all cells that could stand for each entry, best choice first.

    They differ in configuration, epochs, precision or data.
    """
    groups: dict[CellKey, dict[Hashable, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    runs = list(records)
    labels = column_labels(runs)
    for record in runs:
        d = record.definition
        # A workload of the user's says in its label what it and its data are.
        label = record.data_label if d.workload_source else labels[d.fingerprint, record.data_label]
        groups[d.workload, label, d.method][_variant(record)].append(record)
    cells_by_key = {}
    for (workload, label, method), variants in groups.items():
        cells = [Cell(workload, method, label, _by_seed(_final(variant))) for variant in variants.values()]
        cells_by_key[workload, label, method] = sorted(_of_one_source(method, cells), key=_preference)
    return cells_by_key


def _of_one_source(method: str, cells: list[Cell]) -> list[Cell]:
    """Keep the candidates of one version of the method's source: versions must not compete by their errors.

    That of the installed package; otherwise the one with most of the protocol's seeds, then the first by its digest.
    """
    seeds: dict[str, int] = defaultdict(int)
    for cell in cells:
        known = sum(0 <= run.definition.seed < FULL_SEEDS for run in cell.runs)
        seeds[cell.source] = max(seeds[cell.source], known)
    if len(seeds) < 2:
        return cells
    known_here = installed_source(method)
    installed = None if known_here is None else _source_digest(known_here)
    chosen = min(seeds, key=lambda source: (source != installed, -seeds[source], source))
    return [replace(cell, sources=len(seeds)) for cell in cells if cell.source == chosen]


def choose_cells(records: Iterable[RunRecord]) -> dict[CellKey, Cell]:
    """Choose the cell of every (workload, data label, method) in a store: the candidate nearest to the protocol.

    A cell is of one source of its method (:func:`_of_one_source`). Of candidates with at least three finished seeds,
    epochs decide first (the workload's own, then the nearest below, then those above), then seeds (up to the protocol's
    10), then fewer diverged seeds, then the precision (float32 first), then the lower mean *validation* error, so that
    no choice looks at the test set. A candidate of fewer seeds, such as a run of a search, stands for a method only
    where nothing else does.
    """
    return {key: cells[0] for key, cells in candidates(records).items()}


def _preference(cell: Cell) -> tuple[bool, bool, int, int, int, int, bool, float, str]:
    full = cell.protocol_epochs or cell.epochs
    kind = 0 if cell.epochs == full else 1 if cell.epochs < full else 2
    searched = all(from_search(run.search_info, "search") for run in cell.runs)
    # Not-a-number sorts nowhere: a cell without any finished seed comes last.
    validation = cell.validation
    known = validation if validation == validation else float("inf")
    distance = abs(cell.epochs - full)
    seeds = -min(cell.seeds, FULL_SEEDS)
    other = cell.precision != DEFAULT_PRECISION
    return not cell.ranked, searched, kind, distance, seeds, cell.diverged, other, known, cell.runs[0].definition.id


def compare_cells(first: Cell, second: Cell) -> Comparison:
    """Test two cells: paired by seed where they share data and three seeds, otherwise by Welch's test.

    A seed means the same split and order of samples only on the same data. Cells with few or diverged seeds are not
    tested.
    """
    if not (first.can_be_best and second.can_be_best):
        differences = (first.errors() - second.errors()).dropna()
        return Comparison(len(differences), first.mean - second.mean)
    if first.fingerprint == second.fingerprint:
        paired = compare_paired(first.errors(), second.errors())
        if paired.tested:
            return paired
    return compare_unpaired(first.errors(), second.errors())


_NAMES = ("command", "commit", "device_name", "device", "threads", "precision", "torch")


@dataclass(frozen=True)
class ProvenanceGroup:
    """Runs of one cell that one command made on one kind of machine."""

    cell: Cell
    runs: tuple[RunRecord, ...]

    @property
    def seeds(self) -> str:
        return ", ".join(str(run.definition.seed) for run in self.runs)

    @property
    def seconds(self) -> float:
        """Wall time of all runs in seconds: their shares of the time of their packs."""
        return sum(run.wall_time_s for run in self.runs)

    @property
    def hardware(self) -> str:
        """The processor's name; on a CPU with the number of threads."""
        threads = f", {self.entry('threads')} threads" if self.entry("device") == "cpu" else ""
        return self.entry("device_name") + threads.replace(", 1 threads", ", 1 thread")

    def entry(self, name: str) -> str:
        """Return an entry of the runs' provenance on one line, ``-`` where there is none."""
        return " ".join(str(self.runs[0].provenance.get(name) or "-").split())


def provenance_groups(cell: Cell, names: Sequence[str] = _NAMES) -> list[ProvenanceGroup]:
    """Return the runs of a cell, grouped by these entries of their provenance."""
    groups: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for run in cell.runs:
        groups[tuple(str(run.provenance.get(name)) for name in names)].append(run)
    return [ProvenanceGroup(cell, tuple(runs)) for runs in groups.values()]
