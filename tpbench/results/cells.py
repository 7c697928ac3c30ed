"""Cells: the runs that stand for an entry of workload x method, their statistics and provenance (docs/protocol.md)."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import installed_source, method_title
from tpbench.engine.configuration import flatten
from tpbench.results.runs import (
    DEFAULT_PRECISION,
    FULL_SEEDS,
    RunRecord,
    TuningBudget,
    from_search,
    percent,
    tuning_budget,
    weakest_budget,
)
from tpbench.results.statistics import MIN_SEEDS, mean_interval
from tpbench.results.store import RunStore
from tpbench.workloads import DATASETS, WORKLOADS

CellKey = tuple[str, str, str, str]
"""Workload, data label, method and tuning label."""
PROTOCOL_SEEDS = (range(FULL_SEEDS), range(1, FULL_SEEDS + 1))
"""Seeds of a whole cell: the protocol's, or those without the seed of the search and one more."""

_KNOWN_COPIES = frozenset(label for spec in DATASETS.values() for _, label in spec.known_copies)
_ENDS_IN_CONTENT = re.compile(r".* [0-9a-f]{8}")


def with_label(name: str, data_label: str) -> str:
    """Return a name with the label of a copy of its data in brackets; the exact data set has none."""
    return f"{name} ({data_label})" if data_label else name


def title_of(workload: str) -> str:
    """Return the title of a workload; of one in a file its name."""
    return WORKLOADS[workload].title if workload in WORKLOADS else workload


def place_in(order: Sequence[str], name: str) -> int:
    """Return the place of a name in an order: behind all others where it is not in it."""
    return order.index(name) if name in order else len(order)


def workload_label(row: Mapping[Hashable, Any]) -> str:
    """Return the workload of a row of a leaderboard or comparison with the label of its data."""
    return with_label(row["workload"], "" if row["data"] == "exact" else row["data"])


def column_labels(records: Iterable[RunRecord]) -> dict[tuple[str, str], str]:
    """Return the labels of the data that runs were trained on, by fingerprint and label in their files.

    Labels of unknown copies end in a digest of the content. Those of older versions do not: they take over the label of
    a newer run on the same data, or end in the data's fingerprint. A known copy has its name, whatever other runs on
    the same data say.
    """
    pairs = {
        (record.definition.fingerprint, record.data_label)
        for record in records
        if not record.definition.workload_source
    }
    with_content = {fingerprint: label for fingerprint, label in sorted(pairs) if _ENDS_IN_CONTENT.fullmatch(label)}
    with_content |= {fingerprint: label for fingerprint, label in pairs if label in _KNOWN_COPIES}
    return {(fingerprint, label): _column_label(fingerprint, label, with_content) for fingerprint, label in pairs}


def _column_label(fingerprint: str, label: str, with_content: Mapping[str, str]) -> str:
    if not label or (_ENDS_IN_CONTENT.fullmatch(label) and with_content[fingerprint] not in _KNOWN_COPIES):
        return label
    kind = "unverified copy" if label.strip().lower() == "exact" else label
    return with_content.get(fingerprint, f"{kind} {fingerprint[:8]}")


def protocol_epochs(workload: str) -> int | None:
    """Return the joint epochs of a built-in workload's protocol; None of another."""
    return WORKLOADS[workload].epochs if workload in WORKLOADS else None


def seed_ranges(seeds: Iterable[int]) -> str:
    """Format seeds: ``0-2, 5, 7-9``."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _seed_words(seeds: Collection[int]) -> str:
    return f"seed{'s' * (len(seeds) != 1)} {seed_ranges(seeds)}"


def chance_error(run: RunRecord) -> float:
    """Return the error of guessing in per cent, which a diverged seed counts as: 100 where the classes are unknown."""
    own = run.workload.get("outputs")
    name = run.definition.workload
    classes = own if type(own) is int and own > 0 else WORKLOADS[name].outputs if name in WORKLOADS else math.inf
    return 100 * (1 - 1 / classes)


@dataclass(frozen=True)
class Cell:
    """The runs that stand for one entry: one configuration, epochs, precision and data; one run per seed.

    Mean, deviation and interval are over the counted seeds, and so are tests. A diverged seed counts as guessing.
    """

    workload: str
    method: str
    data_label: str
    runs: tuple[RunRecord, ...]
    """One per seed, also of seeds outside the protocol."""
    sources: int = 1
    """Number of versions of the method's source in the store; the cell is of one of them."""
    configurations: int = 1
    """Number of configurations of the method in the store with this tuning label; the cell is of one of them."""
    trials: int = 0
    """Number of trials of all searches behind those configurations; 0: of none, or of one."""
    tunings: int = 1
    """Number of tuning labels of the method on this workload; each has a cell of its own."""
    shared_seeds: tuple[int, ...] = ()
    """Seeds that all whole cells of the workload share (:func:`share_seeds`); empty: not known, or not whole."""

    @property
    def key(self) -> CellKey:
        return self.workload, self.data_label, self.method, self.tuning

    @property
    def workload_title(self) -> str:
        """The workload's name with the label of the data."""
        return with_label(self.workload, self.data_label)

    @property
    def title(self) -> str:
        """The method's name, with the tuning label where it has several."""
        return f"{method_title(self.method)}, {self.tuning}" if self.tunings > 1 else method_title(self.method)

    @cached_property
    def budget(self) -> TuningBudget:
        """Tuning budget: the least known of the runs of the protocol's seeds, or of all where it has none.

        A search's own run says nothing beside others: a trial is the same run whichever search met it first.
        """
        seeds = self.all_seeds & {*PROTOCOL_SEEDS[0], *PROTOCOL_SEEDS[1]} or self.all_seeds
        return weakest_budget(map(tuning_budget, _origins(run for run in self.runs if run.definition.seed in seeds)))

    @property
    def tuning(self) -> str:
        """The tuning label: ``published``, ``100 x 100``, ``file``, ..."""
        return str(self.budget)

    @cached_property
    def all_seeds(self) -> frozenset[int]:
        """Seeds of all runs."""
        return frozenset(run.definition.seed for run in self.runs)

    @cached_property
    def protocol_seeds(self) -> tuple[int, ...]:
        """The seeds of the protocol that the cell has: of 0 to 9, or 1 to 10 if those are whole and the others not."""
        first, second = (tuple(seed for seed in seeds if seed in self.all_seeds) for seeds in PROTOCOL_SEEDS)
        return second if len(second) == FULL_SEEDS > len(first) else first

    @property
    def whole(self) -> bool:
        """True if the cell has the seeds 0 to 9, or 1 to 10."""
        return len(self.protocol_seeds) == FULL_SEEDS

    @property
    def counted_seeds(self) -> tuple[int, ...]:
        """Seeds of mean, interval and test; those outside the protocol only where there are no others."""
        return self.shared_seeds or self.protocol_seeds or tuple(sorted(self.all_seeds))

    @property
    def testable(self) -> bool:
        """True if the cell has at least three of the protocol's seeds."""
        return len(self.protocol_seeds) >= MIN_SEEDS

    @cached_property
    def counted_runs(self) -> tuple[RunRecord, ...]:
        """The runs of the counted seeds, in their order."""
        by_seed = {run.definition.seed: run for run in self.runs}
        return tuple(by_seed[seed] for seed in self.counted_seeds)

    @property
    def seeds(self) -> int:
        """Number of counted seeds."""
        return len(self.counted_seeds)

    @property
    def epochs(self) -> int:
        return self.runs[0].definition.epochs

    @property
    def protocol_epochs(self) -> int | None:
        """The joint epochs of the workload's protocol; None where they are unknown."""
        own = self.runs[0].workload.get("epochs")
        return own if type(own) is int else protocol_epochs(self.workload)

    @property
    def validated(self) -> bool:
        """True if its runs have a validation set; without one there is no test error to compare."""
        return all(run.validated for run in self.runs)

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
        """Counted runs whose numbers became non-finite."""
        return sum(run.diverged for run in self.counted_runs)

    def errors(self) -> NDArray[np.floating[Any]]:
        """Return each counted run's test error in per cent (seeds,); a diverged seed is at chance."""
        return np.array([_error(run, "test_error") for run in self.counted_runs], dtype=float)

    def errors_of(self, seeds: Iterable[int]) -> NDArray[np.floating[Any]]:
        """Return test errors in per cent of some of the cell's seeds, in their order."""
        by_seed = {run.definition.seed: run for run in self.runs}
        return np.array([_error(by_seed[seed], "test_error") for seed in seeds], dtype=float)

    @cached_property
    def mean(self) -> float:
        """Mean test error in per cent."""
        return float(self.errors().mean())

    @cached_property
    def std(self) -> float:
        """Sample standard deviation of the test error in per cent; not a number for a single seed."""
        return float(self.errors().std(ddof=1)) if self.seeds > 1 else math.nan

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean in per cent; not numbers with fewer than three seeds."""
        return mean_interval(self.errors())

    @cached_property
    def validation(self) -> float:
        """Mean validation error in per cent at the selected epochs; chance without a validation set."""
        return fmean(_error(run, "validation_error") for run in self.counted_runs)

    @property
    def by_protocol(self) -> bool:
        """True if the cell has the protocol's epochs and precision; of seeds :attr:`whole` tells."""
        return self.epochs == (self.protocol_epochs or self.epochs) and self.precision == DEFAULT_PRECISION

    @property
    def marks(self) -> list[str]:
        """Departures from the protocol, as a table prints them in brackets, and the choices behind the cell."""
        marks = self._seed_marks()
        if self.epochs != (self.protocol_epochs or self.epochs):
            marks.append(f"{self.epochs} epoch{'s' * (self.epochs != 1)}")
        if self.precision != DEFAULT_PRECISION:
            marks.append(self.precision)
        if self.diverged:
            marks.append(f"{self.diverged} of {self.seeds} diverged")
        if self.sources > 1:
            marks.append(f"1 of {self.sources} sources")
        if self.configurations > 1:
            marks.append(f"1 of {self.configurations} configurations")
            if self.trials:
                marks.append(f"{self.trials} trials")
        if (versions := max(run.versions for run in self.runs)) > 1:
            marks.append(f"{versions} versions")
        return marks

    def _seed_marks(self) -> list[str]:
        if not self.protocol_seeds:
            return [f"{_seed_words(self.all_seeds)}, outside the protocol"]
        marks = []
        if not self.whole:
            marks.append(f"without {_seed_words(set(PROTOCOL_SEEDS[0]) - self.all_seeds)}")
        elif self.seeds < FULL_SEEDS:
            marks.append(f"over {_seed_words(self.counted_seeds)}")
        # A whole cell of nine counted seeds lacks 0 or 10, and says so already.
        nine = self.whole and self.seeds < FULL_SEEDS
        if others := self.all_seeds.difference(self.counted_seeds, *(PROTOCOL_SEEDS if nine else ())):
            marks.append(f"not counted: {_seed_words(others)}")
        return marks


def _origins(runs: Iterable[RunRecord]) -> list[Mapping[str, Any]]:
    """Return the search infos of runs; those of a search's own runs only where there are no others."""
    infos = [run.search_info for run in runs]
    return [info for info in infos if not from_search(info, "search")] or infos


def _error(run: RunRecord, curve: str) -> float:
    """Return a curve of a run at its selected epoch in per cent; chance where the run diverged or lacks the curve."""
    error = None if run.diverged else run.history.at_selected(curve)
    return chance_error(run) if error is None else percent(error)


def share_seeds(cells: Mapping[CellKey, Cell]) -> dict[CellKey, Cell]:
    """Let the whole cells of a workload, of one order of its data and number of epochs, count the seeds they share.

    These are ten, or nine where some cells have the seeds 0 to 9 and others 1 to 10.
    """
    groups: dict[Hashable, list[Cell]] = defaultdict(list)
    for cell in cells.values():
        if cell.whole:
            groups[cell.workload, cell.data_label, cell.fingerprint, cell.epochs].append(cell)
    shared: dict[CellKey, tuple[int, ...]] = {}
    for whole in groups.values():
        common = frozenset.intersection(*(cell.all_seeds for cell in whole))
        # Nine seeds are of both kinds.
        kinds = [*PROTOCOL_SEEDS, sorted(set(PROTOCOL_SEEDS[0]) & set(PROTOCOL_SEEDS[1]))]
        seeds = next(tuple(kind) for kind in kinds if common.issuperset(kind))
        shared |= {cell.key: seeds for cell in whole}
    return {key: replace(cell, shared_seeds=shared.get(cell.key, ())) for key, cell in cells.items()}


def _source_digest(source: str) -> str:
    """Return the digest of a source, written "distribution version digest": a new version alone changes nothing."""
    return source.rpartition(" ")[2]


def _variant(record: RunRecord) -> Hashable:
    """Return the values that the runs of one candidate share."""
    d = record.definition
    configuration = tuple(sorted(flatten(d.configuration).items()))
    source = _source_digest(d.method_source)
    return configuration, d.epochs, d.fingerprint, d.protocol, record.precision, source, d.workload_source


def _final(runs: list[RunRecord]) -> list[RunRecord]:
    """Return runs without the search's own one where its seed is none of the final seeds."""
    finals = [set(run.search_info.get("seeds", ())) for run in runs if from_search(run.search_info, "final")]
    if not finals:
        return runs
    seeds = set().union(*finals)
    return [run for run in runs if not from_search(run.search_info, "search") or run.definition.seed in seeds]


def one_per_seed(runs: Iterable[RunRecord]) -> tuple[RunRecord, ...]:
    """Return one run per seed, in order.

    There may be two: the oldest versions named runs of all precisions alike, and older ones knew no split by class,
    which a run has where the other split would lose a class.
    """

    def older(run: RunRecord) -> tuple[bool, bool, str]:
        return run.definition.precision != run.precision, not run.definition.split, run.definition.id

    first: dict[int, RunRecord] = {}
    for run in sorted(runs, key=older):
        first.setdefault(run.definition.seed, run)
    return tuple(first[seed] for seed in sorted(first))


def _variants(records: Iterable[RunRecord]) -> dict[tuple[str, str, str], list[Cell]]:
    """Return the cells of each workload, data label and method: of all its configurations, sources and so on."""
    groups: dict[tuple[str, str, str], dict[Hashable, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    runs = list(records)
    labels = column_labels(runs)
    for record in runs:
        d = record.definition
        # A workload of the user's says in its label what it and its data are.
        label = record.data_label if d.workload_source else labels[d.fingerprint, record.data_label]
        groups[d.workload, label, d.method][_variant(record)].append(record)
    return {
        (workload, label, method): [
            Cell(workload, method, label, one_per_seed(_final(variant))) for variant in variants.values()
        ]
        for (workload, label, method), variants in groups.items()
    }


def tuning_labels(records: Iterable[RunRecord], workloads: Collection[str] | None = None) -> set[str]:
    """Return the tuning labels of cells with a validation set.

    Args:
        workloads: of the cells; None: all.
    """
    variants = _variants(records)
    return {
        cell.tuning
        for (workload, _, _), cells in variants.items()
        for cell in cells
        if cell.validated and (workloads is None or workload in workloads)
    }


def candidates(records: Iterable[RunRecord], tuning: str | None = None) -> dict[CellKey, list[Cell]]:
    """Return all cells that could stand for each entry, best choice first.

    They have one tuning label, and differ in configuration, epochs, precision or data.

    Args:
        tuning: only cells with this label, as if there were no others; None: all.
    """
    cells_by_key: dict[CellKey, list[Cell]] = {}
    for (workload, label, method), cells in _variants(records).items():
        by_tuning: dict[str, list[Cell]] = defaultdict(list)
        for cell in _of_one_source(method, [cell for cell in cells if tuning in (None, cell.tuning)]):
            by_tuning[cell.tuning].append(cell)
        for its_tuning, alike in by_tuning.items():
            ordered = sorted((replace(cell, tunings=len(by_tuning)) for cell in alike), key=_preference)
            cells_by_key[workload, label, method, its_tuning] = ordered
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


def choose_cells(records: Iterable[RunRecord], tuning: str | None = None) -> dict[CellKey, Cell]:
    """Choose the cell of every (workload, data label, method, tuning label) in a store.

    Of the candidates of one label those with three of the protocol's seeds come first, then the workload's own epochs
    (then the nearest below, then those above), then most of the protocol's seeds, then float32, then the lower mean
    *validation* error, so that no choice looks at the test set, then the first id. Runs that a search itself trained
    stand for a method only where nothing else does. A cell is of one source of its method (:func:`_of_one_source`), and
    says how many configurations it was chosen from.

    Args:
        tuning: only the cells with this tuning label, as if there were no others; None: all.
    """
    return share_seeds({key: _counted(alike) for key, alike in candidates(records, tuning).items()})


def _counted(alike: Sequence[Cell]) -> Cell:
    """Return the first candidate with the number of those that it was chosen from, and of their trials.

    The trials of one search are not counted as configurations: its label has their number. A search without final runs
    counts as one.
    """
    chosen = alike[0]
    if _searched(chosen):
        return chosen
    rivals = [
        cell
        for cell in alike
        if not _searched(cell) and (cell.epochs, cell.precision) == (chosen.epochs, chosen.precision)
    ]
    searches, lost = _searches(rivals), _searches(cell for cell in alike if _searched(cell))
    count = len(rivals) + len(lost.keys() - searches.keys())
    return replace(chosen, configurations=count, trials=sum({**searches, **lost}.values())) if count > 1 else chosen


def _searches(cells: Iterable[Cell]) -> dict[str, int]:
    """Return the number of trials of the searches behind some cells, by sweep."""
    infos = [info for cell in cells for info in _origins(cell.runs) if info.get("by") == "search"]
    return {str(info.get("sweep")): tuning_budget(info).trials for info in infos}


def _searched(cell: Cell) -> bool:
    """Return whether a search itself trained all runs of a candidate."""
    return all(from_search(run.search_info, "search") for run in cell.runs)


def _preference(cell: Cell) -> tuple[bool, bool, int, int, int, bool, float, str]:
    seeds, other = -len(cell.protocol_seeds), cell.precision != DEFAULT_PRECISION
    first = min(run.definition.id for run in cell.runs)
    return not cell.testable, _searched(cell), *_epochs_off(cell), seeds, other, cell.validation, first


def _epochs_off(cell: Cell) -> tuple[int, int]:
    """Return sort keys of a cell's epochs: the workload's own, then the nearest below, then those above."""
    full = cell.protocol_epochs or cell.epochs
    return 0 if cell.epochs == full else 1 if cell.epochs < full else 2, abs(cell.epochs - full)


def preferred_cell(cells: Iterable[Cell]) -> Cell | None:
    """Return the cell that stands for a method with several tuning labels; None where there are none.

    Cells of three seeds come first, then the workload's epochs, float32, whole cells, the best known tuning, and the
    larger search.
    """

    def key(cell: Cell) -> tuple[Any, ...]:
        other, tuning = cell.precision != DEFAULT_PRECISION, (cell.budget.rank, -cell.budget.trials, cell.tuning)
        return not cell.testable, *_epochs_off(cell), other, not cell.whole, *tuning

    return min(cells, key=key, default=None)


def read_curves(store: RunStore, cells: Iterable[Cell]) -> dict[str, RunRecord]:
    """Return the counted runs of cells that the store still has, with their curves, by id; all are read together."""
    runs = store.with_curves(run for cell in cells for run in cell.counted_runs)
    return {run.definition.id: run for run in runs}


_NAMES = ("command", "commit", "device_name", "device", "threads", "precision", "torch")


@dataclass(frozen=True)
class ProvenanceGroup:
    """Runs of one cell that one command made on one kind of machine."""

    cell: Cell
    runs: tuple[RunRecord, ...]

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


def provenance_groups(
    cell: Cell, names: Sequence[str] = _NAMES, runs: Sequence[RunRecord] | None = None
) -> list[ProvenanceGroup]:
    """Return the runs of a cell, all or these, grouped by these entries of their provenance."""
    groups: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for run in cell.runs if runs is None else runs:
        groups[tuple(str(run.provenance.get(name)) for name in names)].append(run)
    return [ProvenanceGroup(cell, tuple(runs)) for runs in groups.values()]
