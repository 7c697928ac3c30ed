"""The methods of a workload against one baseline, the set of methods that could be the best, and the leaderboard."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tpbench.engine import method_title
from tpbench.results.cells import Cell, CellKey, choose_cells, preferred_cell, seed_ranges, with_label
from tpbench.results.formats import Value, csv_number, csv_text, format_mean, format_table
from tpbench.results.paper import PAPER_WORKLOADS
from tpbench.results.statistics import (
    ALPHA,
    holm,
    max_t,
    permutation_p,
    sampling_error,
    simultaneous_intervals,
)
from tpbench.results.store import RunStore, write_atomically
from tpbench.workloads import WORKLOADS
from tpbench.workloads.workload import known_test_size

BASELINE = "bp"
"""The method that all others are compared with, unless another is chosen."""


@dataclass(frozen=True)
class RankedCell:
    """One cell of a workload against the baseline and against its rivals. Differences in percentage points."""

    cell: Cell
    baseline: Cell | None
    """The baseline's cell; None where the workload has none."""
    tested: str
    """The test against the baseline and its seeds (``max-T, 10 seeds``), ``baseline``, or why there is none."""
    could_be_best: str
    """``yes``: no other method but the baseline is better at 5 %; ``no``; ``open``: not whole, or of other epochs;
    ``no rival``: fewer than two methods beside the baseline are whole; ``baseline``."""
    difference: float = math.nan
    """Mean minus the baseline's over the same seeds; not a number where nothing is tested."""
    low: float = math.nan
    """Lower end of the simultaneous 95 % interval of the difference; not a number where there is none."""
    high: float = math.nan
    p: float = math.nan
    """p of the difference from the baseline: max-T, or Holm's of permutation tests over cells of fewer seeds."""

    @property
    def is_baseline(self) -> bool:
        return self.cell is self.baseline

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    @property
    def differs(self) -> bool:
        """True if the interval does not hold 0; of a cell without an interval, if p is below 5 %."""
        if self.is_baseline:
            return False
        return not self.low <= 0 <= self.high if self.has_interval else self.p < ALPHA

    @property
    def difference_text(self) -> str:
        """The difference with its interval or p, or why there is none."""
        if self.is_baseline or math.isnan(self.difference):
            return "" if self.is_baseline else self.tested
        if self.has_interval:
            return f"{self.difference:+z.2f} [{self.low:+z.2f}, {self.high:+z.2f}]"
        return f"{self.difference:+z.2f} (p {format_p(self.p)}, {self.cell.seeds} seeds)"


def format_p(p: float) -> str:
    """Format a p-value: ``0.032``, ``< 0.001``; one below 5 % is never rounded to it."""
    if p < 0.001:
        return "< 0.001"
    return f"{p:.2g}" if p >= ALPHA or float(f"{p:.2g}") < ALPHA else f"{p:.3g}"


@dataclass(frozen=True)
class Ranking:
    """The cells of one workload on one kind of data: the baseline, the others by test error, those of few seeds."""

    workload: str
    data_label: str
    baseline: str
    """The baseline's method."""
    cells: Sequence[RankedCell]
    rival_p: Mapping[tuple[CellKey, CellKey], float]
    """p of the first cell being worse than the second, one-sided, over all ordered pairs without the baseline."""
    test_samples: int | None = None
    """Number of test samples; None where it is not known."""

    @property
    def title(self) -> str:
        """The workload's title with the label of the data."""
        title = WORKLOADS[self.workload].title if self.workload in WORKLOADS else self.workload
        return with_label(title, self.data_label)

    def of(self, key: CellKey) -> RankedCell | None:
        """Return the entry of a cell."""
        return next((ranked for ranked in self.cells if ranked.cell.key == key), None)

    @property
    def baseline_cell(self) -> Cell | None:
        return self.cells[0].baseline if self.cells else None

    @property
    def could_be_best(self) -> list[RankedCell]:
        """The cells that could be the best apart from the baseline."""
        return [ranked for ranked in self.cells if ranked.could_be_best == "yes"]

    @property
    def test_set(self) -> str:
        """A sentence on the test set's own uncertainty; empty where its size is not known."""
        if self.test_samples is None:
            return ""
        cell = self.baseline_cell or self.cells[0].cell
        return (
            f"Tests and intervals are of these {self.test_samples:,} test samples: their number alone gives an error "
            f"of {cell.mean:.2f} % a standard error of {sampling_error(cell.mean, self.test_samples):.2f} points."
        )


def rank(cells: Iterable[Cell], baseline: str = BASELINE) -> Ranking:
    """Compare the cells of one workload, on one kind of data, with the baseline and with each other.

    Two families of tests with joint sign flips over the seeds that all whole cells share: each whole cell against the
    baseline, two-sided, and all ordered pairs without the baseline, one-sided. Cells of fewer seeds, or of data in
    another order than the baseline's, are tested against the baseline by the unpaired permutation test, with Holm's
    correction. Cells of other epochs than the baseline's are not tested.

    Args:
        cells: of one workload, as :func:`tpbench.results.cells.choose_cells` chooses them.
        baseline: its method; of several tunings the one that :func:`tpbench.results.cells.preferred_cell` chooses.
    """
    group = list(cells)
    base = preferred_cell(cell for cell in group if cell.method == baseline)
    reference = base or _most_common(group)
    whole = [cell for cell in group if cell.whole and _comparable(cell, reference)]
    joint = [cell for cell in whole if cell is not base] if base in whole else []
    rivals = [cell for cell in whole if cell.method != baseline]
    rival_p = _rival_p(rivals)
    beaten = {worse for (worse, _), p in rival_p.items() if p < ALPHA}
    against: dict[CellKey, RankedCell] = {}
    if base and joint:
        differences = np.stack([cell.errors() - base.errors() for cell in joint], axis=1)
        intervals, p_values = simultaneous_intervals(differences), max_t(differences)
        for cell, (low, high), p, mean in zip(joint, intervals, p_values, differences.mean(axis=0), strict=True):
            best = _could_be_best(cell, rivals, beaten, baseline)
            text = f"max-T, {cell.seeds} seeds"
            against[cell.key] = RankedCell(cell, base, text, best, round(float(mean), 10), low, high, float(p))
    others = [cell for cell in group if base and cell is not base and cell.key not in against]
    deals = {cell.key: _permutation(cell, base) for cell in others if base}
    adjusted = holm(deals)
    for cell in group:
        if cell.key in against:
            continue
        best = _could_be_best(cell, rivals, beaten, baseline)
        reason = _untested(cell, base, baseline)
        if cell is base:
            against[cell.key] = RankedCell(cell, base, "baseline", best, 0.0, 0.0, 0.0)
        elif reason or base is None:
            against[cell.key] = RankedCell(cell, base, reason, best)
        else:
            p = adjusted[cell.key]
            text = f"permutation, {cell.seeds} and {base.seeds} seeds"
            against[cell.key] = RankedCell(cell, base, text, best, cell.mean - base.mean, p=p)
    ordered = sorted(against.values(), key=_place)
    first = group[0]
    samples = known_test_size(WORKLOADS[first.workload].data) if first.workload in WORKLOADS else None
    return Ranking(first.workload, first.data_label, baseline, ordered, rival_p, samples)


def _training(cell: Cell) -> tuple[str, int]:
    return cell.fingerprint, cell.epochs


def _most_common(group: Sequence[Cell]) -> Cell:
    """Return a cell of the data and the epochs that most whole cells have."""
    whole = [cell for cell in group if cell.whole] or list(group)
    trainings = [_training(cell) for cell in whole]
    return max(whole, key=lambda cell: (trainings.count(_training(cell)), _training(cell)))


def _comparable(cell: Cell, reference: Cell) -> bool:
    """Return whether seeds of two cells mean the same split and order of samples, for the same epochs."""
    return _training(cell) == _training(reference)


def _rival_p(rivals: Sequence[Cell]) -> dict[tuple[CellKey, CellKey], float]:
    if len(rivals) < 2:
        return {}
    errors = {cell.key: cell.errors() for cell in rivals}
    pairs = list(permutations(errors, 2))
    differences = np.stack([errors[first] - errors[second] for first, second in pairs], axis=1)
    return dict(zip(pairs, map(float, max_t(differences, one_sided=True)), strict=True))


def _could_be_best(cell: Cell, rivals: Sequence[Cell], beaten: Iterable[CellKey], baseline: str) -> str:
    if cell.method == baseline:
        return "baseline"
    if not any(cell is rival for rival in rivals):
        return "open"
    if len({rival.method for rival in rivals}) < 2:
        return "no rival"
    return "no" if cell.key in beaten else "yes"


def _permutation(cell: Cell, base: Cell) -> float:
    testable = cell.testable and base.testable and cell.epochs == base.epochs
    return permutation_p(cell.errors(), base.errors()) if testable else math.nan


def _untested(cell: Cell, base: Cell | None, baseline: str) -> str:
    """Return why a cell is not tested against the baseline; empty where it is."""
    if base is None:
        return f"not tested: no {method_title(baseline)}"
    if cell.epochs != base.epochs:
        return f"not tested: {cell.epochs} epochs, {method_title(baseline)} {base.epochs}"
    for one, whose in ((cell, ""), (base, f" of {method_title(baseline)}")):
        if not one.protocol_seeds:
            return f"not tested: seeds outside the protocol{whose}"
        if not one.testable:
            count = len(one.protocol_seeds)
            return f"not tested: {count} seed{'s' * (count != 1)}{whose}"
    return ""


def _place(ranked: RankedCell) -> tuple[bool, int, bool, float, str, str]:
    cell = ranked.cell
    tier = 0 if ranked.has_interval else 2 if math.isnan(ranked.difference) else 1
    return not ranked.is_baseline, tier, not cell.whole, cell.mean, cell.method, cell.tuning


def rank_all(cells: Mapping[CellKey, Cell], baseline: str = BASELINE) -> list[Ranking]:
    """Return the ranking of every workload and kind of data of a store, the paper's workloads first."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells.values():
        groups[cell.workload, cell.data_label].append(cell)
    order = {name: n for n, name in enumerate(dict.fromkeys([*PAPER_WORKLOADS, *WORKLOADS]))}
    places = sorted(groups, key=lambda place: (order.get(place[0], len(order)), place))
    return [rank(groups[place], baseline) for place in places]


def read_test_samples(store: RunStore, rankings: Iterable[Ranking]) -> list[Ranking]:
    """Return rankings with the number of test samples, where it is not known, from the predictions of a run."""
    filled = []
    for ranking in rankings:
        samples = ranking.test_samples
        if samples is None and ranking.cells:
            predictions = store.predictions(ranking.cells[0].cell.runs[0])
            samples = len(predictions.correct) if predictions else None
        filled.append(replace(ranking, test_samples=samples))
    return filled


COLUMNS = (
    "workload",
    "data",
    "method",
    "tuning",
    "seeds",
    "epochs",
    "test_error_mean",
    "test_error_std",
    "ci_low",
    "ci_high",
    "baseline",
    "difference",
    "low",
    "high",
    "p",
    "differs",
    "could_be_best",
    "tested",
    "validation_error_mean",
    "diverged",
    "precision",
    "marks",
)
"""Columns of a leaderboard, and of ``leaderboard.csv``."""


def leaderboard(store: RunStore, cells: Mapping[CellKey, Cell] | None = None, baseline: str = BASELINE) -> pd.DataFrame:
    """Return every cell of a store: the baseline of a workload first, then by test error, few seeds last.

    Errors are in per cent, differences in percentage points. ``seeds`` are those of mean, interval and test (``0-9``);
    ``ci_low`` and ``ci_high`` are Student's 95 % interval of the mean. ``difference`` is the mean minus the baseline's,
    ``low`` and ``high`` its simultaneous 95 % interval, ``p`` that of max-T (or of the permutation test), ``differs``
    whether the interval excludes 0 (or p is below 5 %), ``tested`` the test or why there is none. ``difference`` and
    ``p`` are empty only where ``tested`` says that nothing was tested, ``low`` and ``high`` only without an interval.

    Args:
        store: that holds the runs.
        cells: those of the store, where they are chosen already.
        baseline: the method that the others are compared with.
    """
    cells = choose_cells(store.summaries()) if cells is None else cells
    rows = [_row(ranked, ranking.baseline) for ranking in rank_all(cells, baseline) for ranked in ranking.cells]
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(ranked: RankedCell, baseline: str) -> dict[str, Any]:
    cell = ranked.cell
    low, high = cell.interval
    return {
        "workload": cell.workload,
        "data": cell.data_label or "exact",
        "method": cell.method,
        "tuning": cell.tuning,
        "seeds": seed_ranges(cell.counted_seeds),
        "epochs": cell.epochs,
        "test_error_mean": cell.mean,
        "test_error_std": cell.std,
        "ci_low": low,
        "ci_high": high,
        "baseline": baseline,
        "difference": ranked.difference,
        "low": ranked.low,
        "high": ranked.high,
        "p": 1.0 if ranked.is_baseline else ranked.p,
        "differs": ranked.differs,
        "could_be_best": ranked.could_be_best,
        "tested": ranked.tested,
        "validation_error_mean": cell.validation,
        "diverged": cell.diverged,
        "precision": cell.precision,
        "marks": "; ".join(cell.marks),
    }


def board_csv(board: pd.DataFrame) -> str:
    """Return a leaderboard as the text of ``leaderboard.csv``."""
    return csv_text(board[list(COLUMNS)], csv_number)


def write_leaderboard(board: pd.DataFrame, store: RunStore, path: Path | None = None) -> Path:
    """Write a leaderboard into a file, ``leaderboard.csv`` in the store's folder by default; returns its path."""
    path = path or store.folder / "leaderboard.csv"
    write_atomically(path, board_csv(board))
    return path


def format_error(cell: Cell) -> str:
    """Format the test error of a cell with its marks: ``2.08 ± 0.06 [without seeds 3-9]``."""
    return format_mean(cell.mean, cell.std) + (f" [{'; '.join(cell.marks)}]" if cell.marks else "")


def ranking_header(ranking: Ranking) -> list[str]:
    """Return the names of the columns of :func:`ranking_values`."""
    title = method_title(ranking.baseline)
    return ["method", "test error (%)", f"minus {title} (points)", f"could be best but {title}", "tuning"]


def ranking_values(ranked: RankedCell) -> list[str | Value]:
    """Return the entries of a row of a workload's table; a difference is bold where its interval excludes 0."""
    best = "" if ranked.could_be_best == "baseline" else ranked.could_be_best
    return [
        method_title(ranked.cell.method),
        format_error(ranked.cell),
        Value(ranked.difference_text, bold=ranked.differs),
        best,
        ranked.cell.tuning,
    ]


def ranking_notes(ranking: Ranking, mark: str = "bold") -> list[str]:
    """Return the legend of a workload's table, of what occurs in it alone, and the test set's own uncertainty.

    Args:
        mark: what a difference that is shown looks like.
    """
    base = method_title(ranking.baseline)
    intervals = any(ranked.has_interval and not ranked.is_baseline for ranked in ranking.cells)
    few = any(ranked.tested.startswith("permutation") for ranked in ranking.cells)
    marked = any(ranked.could_be_best in ("yes", "no") for ranked in ranking.cells)
    legend = ["Test error: mean and sample standard deviation over seeds."]
    if intervals:
        legend.append(
            f"Brackets: 95 % intervals of the differences from {base}, for all methods at once (max-T, joint sign "
            f"flips over the seeds); {mark}: without 0."
        )
    if few:
        legend.append(f"p: exact permutation test where seeds are missing, Holm-corrected; {mark}: below 5 %.")
    if marked:
        legend.append(f"Could be best: no method but {base} is better at 5 % (max-T over all pairs).")
    return [" ".join(legend), *([ranking.test_set] if ranking.test_set else [])]


def render_rankings(rankings: Sequence[Ranking], form: str = "text") -> str:
    """Format a table for each workload as ``text``, ``md`` or ``latex``.

    Raises:
        UsageError: there is no such format.
    """
    mark = "*" if form == "text" else "bold"
    tables = [
        format_table(
            f"{ranking.title}: test error against {method_title(ranking.baseline)}",
            ranking_header(ranking),
            [ranking_values(ranked) for ranked in ranking.cells],
            form,
            "\n".join(ranking_notes(ranking, mark)),
        )
        for ranking in rankings
    ]
    return "\n".join(tables)
