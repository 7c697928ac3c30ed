"""The methods of a workload against one baseline, the set of methods that could be the best, and the leaderboard."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tpbench.engine import UsageError, method_title
from tpbench.results.cells import Cell, CellKey, choose_cells, preferred_cell, seed_ranges, title_of, with_label
from tpbench.results.formats import Value, csv_number, csv_text, format_interval, format_mean, format_table
from tpbench.results.paper import PAPER_WORKLOADS, reference_numbers
from tpbench.results.runs import RunRecord
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
    """``yes``: no other method but the baseline is better at 5 %; ``no``: one is, or seeds diverged; ``open``: not
    whole, or of other epochs; ``no rival``: fewer than two methods beside the baseline are whole; ``baseline``."""
    difference: float = math.nan
    """Mean minus the baseline's over the same seeds; not a number of the baseline, and where nothing is tested."""
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
        """True if the difference is shown: p is below 5 %."""
        return self.p < ALPHA

    @property
    def shown(self) -> str:
        """``yes`` or ``no``: whether a difference is shown; ``not tested`` or ``baseline``."""
        if self.is_baseline:
            return "baseline"
        return "not tested" if math.isnan(self.p) else "yes" if self.differs else "no"

    @property
    def difference_text(self) -> str:
        """The difference with its interval or p, or why there is none."""
        if self.is_baseline or math.isnan(self.difference):
            return "" if self.is_baseline else self.tested
        if self.has_interval:
            return f"{self.difference:+z.2f} {format_interval(self.low, self.high, 2)}"
        order = f", {OTHER_ORDER}" if OTHER_ORDER in self.tested else ""
        return f"{self.difference:+z.2f} (p {format_p(self.p)}, {self.cell.seeds} seeds{order})"


OTHER_ORDER = "data in another order"
"""Words of a cell whose data are in another order than the baseline's: its seeds are other samples."""


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
    tuning: str | None = None
    """The tuning label that all cells have because only such cells were asked for; None: all were."""

    @property
    def place(self) -> tuple[str, str]:
        """Workload and kind of data."""
        return self.workload, self.data_label

    @property
    def title(self) -> str:
        """The workload's title with the label of the data, and that of the tuning where it is one alone."""
        return with_label(title_of(self.workload), self.data_label) + (f", {self.tuning}" if self.tuning else "")

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


def rank(cells: Iterable[Cell], baseline: str = BASELINE, tuning: str | None = None) -> Ranking:
    """Compare the cells of one workload, on one kind of data, with the baseline and with each other.

    Two families of tests with joint sign flips over the seeds that all whole cells share: each whole cell against the
    baseline, two-sided, and all ordered pairs without the baseline, one-sided. Flips of a few diverged seeds, which are
    far out, are no rare event: cells with such seeds are tested in a family of all, the others in one of their own, so
    that the former never hide a difference of the latter. Cells of fewer seeds, or of data in another order than the
    baseline's, are tested against the baseline by the unpaired permutation test, with Holm's correction. Cells of other
    epochs than the baseline's are not tested against it.

    Args:
        cells: of one workload, as :func:`tpbench.results.cells.choose_cells` chooses them.
        baseline: its method; of several tunings the one that :func:`tpbench.results.cells.preferred_cell` chooses.
        tuning: label of the cells, where only such cells were chosen.
    """
    group = list(cells)
    base = preferred_cell(cell for cell in group if cell.method == baseline)
    rivals = _rivals(group, baseline)
    rival_p = _rival_p([cell for cell in rivals if not cell.diverged])
    best = _could_be_best(group, rivals, {worse for (worse, _), p in rival_p.items() if p < ALPHA}, baseline)
    if base:
        against = {**_test_few(group, base, best), **_test_jointly(group, base, best)}
        against[base.key] = RankedCell(base, base, "baseline", best[base.key])
    else:
        missing = f"not tested: no {method_title(baseline)}"
        against = {cell.key: RankedCell(cell, None, missing, best[cell.key]) for cell in group}
    first = group[0]
    samples = known_test_size(WORKLOADS[first.workload].data) if first.workload in WORKLOADS else None
    ordered = sorted(against.values(), key=_place)
    return Ranking(first.workload, first.data_label, baseline, ordered, rival_p, samples, tuning)


def _training(cell: Cell) -> tuple[str, int]:
    """Return what seeds must share to mean the same: data and their order, and epochs."""
    return cell.fingerprint, cell.epochs


def _rivals(group: Sequence[Cell], baseline: str) -> list[Cell]:
    """Return the whole cells of other methods than the baseline, of the training that most of them have.

    The protocol's epochs come first.
    """
    whole = [cell for cell in group if cell.whole and cell.method != baseline]
    trainings = [_training(cell) for cell in whole]
    places = {_training(cell): (cell.by_protocol, trainings.count(_training(cell))) for cell in whole}
    reference = max(places, key=lambda training: (places[training], training), default=None)
    return [cell for cell in whole if _training(cell) == reference]


def _rival_p(rivals: Sequence[Cell]) -> dict[tuple[CellKey, CellKey], float]:
    if len(rivals) < 2:
        return {}
    errors = {cell.key: cell.errors() for cell in rivals}
    pairs = list(permutations(errors, 2))
    differences = np.stack([errors[first] - errors[second] for first, second in pairs], axis=1)
    return dict(zip(pairs, map(float, max_t(differences, one_sided=True)), strict=True))


def _could_be_best(
    group: Sequence[Cell], rivals: Sequence[Cell], beaten: Collection[CellKey], baseline: str
) -> dict[CellKey, str]:
    alone = len({rival.method for rival in rivals}) < 2
    able = {rival.key for rival in rivals}
    words = {}
    for cell in group:
        if cell.method == baseline:
            words[cell.key] = "baseline"
        elif cell.key not in able:
            words[cell.key] = "open"
        elif alone:
            words[cell.key] = "no rival"
        else:
            words[cell.key] = "no" if cell.diverged or cell.key in beaten else "yes"
    return words


def _test_jointly(group: Sequence[Cell], base: Cell, best: Mapping[CellKey, str]) -> dict[CellKey, RankedCell]:
    """Test the whole cells that share data and epochs with a whole baseline."""
    cells = [cell for cell in group if cell.whole and cell is not base and _training(cell) == _training(base)]
    if not base.whole:
        return {}
    ranked = {}
    for family in (cells, [cell for cell in cells if not cell.diverged]):
        if not family:
            continue
        differences = np.stack([cell.errors() - base.errors() for cell in family], axis=1)
        numbers = zip(simultaneous_intervals(differences), max_t(differences), differences.mean(axis=0), strict=True)
        for cell, ((low, high), p, mean) in zip(family, numbers, strict=True):
            tested = f"max-T, {cell.seeds} seeds"
            difference = round(float(mean), 10)
            ranked[cell.key] = RankedCell(cell, base, tested, best[cell.key], difference, low, high, float(p))
    return ranked


def _test_few(group: Sequence[Cell], base: Cell, best: Mapping[CellKey, str]) -> dict[CellKey, RankedCell]:
    """Test the other cells by the unpaired permutation test, as far as they can be."""
    cells = [
        cell
        for cell in group
        if cell is not base and not (base.whole and cell.whole and _training(cell) == _training(base))
    ]
    reasons = {cell.key: _untested(cell, base) for cell in cells}
    tested = {cell.key: permutation_p(cell.errors(), base.errors()) for cell in cells if not reasons[cell.key]}
    adjusted = holm(tested)
    ranked = {}
    for cell in cells:
        if reason := reasons[cell.key]:
            ranked[cell.key] = RankedCell(cell, base, reason, best[cell.key])
            continue
        order = f", {OTHER_ORDER}" if cell.fingerprint != base.fingerprint else ""
        text = f"permutation, {cell.seeds} and {base.seeds} seeds{order}"
        difference = round(cell.mean - base.mean, 10)
        ranked[cell.key] = RankedCell(cell, base, text, best[cell.key], difference, p=adjusted[cell.key])
    return ranked


def _untested(cell: Cell, base: Cell) -> str:
    """Return why a cell is not tested against the baseline; empty where it is."""
    title = method_title(base.method)
    if cell.epochs != base.epochs:
        return f"not tested: {cell.epochs} epoch{'s' * (cell.epochs != 1)}, {title} {base.epochs}"
    for one, whose in ((cell, ""), (base, f" of {title}")):
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


def require_validated(records: Iterable[RunRecord], workloads: Collection[str] | None = None) -> None:
    """Check that there are test errors to compare: not of runs alone that were trained without a validation set.

    Args:
        records: all runs of a store.
        workloads: those that are compared, each of which needs test errors; None: any.

    Raises:
        UsageError: there are runs of a workload, and all of them lack a validation set.
    """
    validated: dict[str, bool] = defaultdict(bool)
    for record in records:
        validated[record.definition.workload] |= record.validated
    chosen = {name: known for name, known in validated.items() if workloads is None or name in workloads}
    lacking = [name for name, known in chosen.items() if not known]
    if lacking and (workloads is not None or len(lacking) == len(chosen)):
        raise UsageError(
            f"the runs of {', '.join(lacking)} have no validation set, so their test errors are not compared; "
            f"'tpbench table loss {lacking[0]}' has their training losses"
        )


def rank_all(cells: Mapping[CellKey, Cell], baseline: str = BASELINE, tuning: str | None = None) -> list[Ranking]:
    """Return the ranking of every workload and kind of data of a store, the paper's workloads first.

    Cells without a validation set are left out.

    Args:
        cells: as :func:`tpbench.results.cells.choose_cells` chooses them.
        baseline: the method that the others are compared with.
        tuning: label of the cells, where only such cells were chosen.
    """
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells.values():
        if cell.validated:
            groups[cell.workload, cell.data_label].append(cell)
    order = {name: n for n, name in enumerate(dict.fromkeys([*PAPER_WORKLOADS, *WORKLOADS]))}
    places = sorted(groups, key=lambda place: (order.get(place[0], len(order)), place))
    return [rank(groups[place], baseline, tuning) for place in places]


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


def leaderboard(store: RunStore) -> pd.DataFrame:
    """Return every cell of a store: the baseline of a workload first, then by test error, few seeds last.

    Errors are in per cent, differences in percentage points. ``seeds`` are those of mean, interval and test (``0-9``);
    ``ci_low`` and ``ci_high`` are Student's 95 % interval of the mean. ``difference`` is the mean minus the baseline's,
    ``low`` and ``high`` its simultaneous 95 % interval, ``p`` that of max-T (or of the permutation test), ``differs``
    whether p is below 5 % (``yes``, ``no``, ``not tested`` or ``baseline``), ``tested`` the test or why there is none.
    Numbers are empty where ``tested`` names no test that gives them: a permutation test has no interval.
    """
    return ranking_frame(rank_all(choose_cells(store.summaries())))


def ranking_frame(rankings: Iterable[Ranking]) -> pd.DataFrame:
    """Return the rows of :func:`leaderboard` of these workloads."""
    rows = [_row(ranked, ranking.baseline) for ranking in rankings for ranked in ranking.cells]
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
        "p": ranked.p,
        "differs": ranked.shown,
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


def ranking_title(ranking: Ranking) -> str:
    """Return the title of a workload's table."""
    base = method_title(ranking.baseline)
    if ranking.baseline_cell is None:
        return f"{ranking.title}: test error; there is no run of {base}" + " tuned so" * bool(ranking.tuning)
    return f"{ranking.title}: test error against {ranking.baseline_cell.title}"


def ranking_header(ranking: Ranking) -> list[str]:
    """Return the names of the columns of :func:`ranking_values`."""
    base = method_title(ranking.baseline)
    apart = f", {base} apart" if ranking.baseline_cell else ""
    return ["method", "test error (%)", f"minus {base} (points)", f"could be best{apart}", "tuning"]


def ranking_values(ranked: RankedCell) -> list[str | Value]:
    """Return the entries of a row of a workload's table; a difference is bold where it is shown."""
    best = "" if ranked.could_be_best == "baseline" else ranked.could_be_best
    return [
        method_title(ranked.cell.method),
        format_error(ranked.cell),
        Value(ranked.difference_text, bold=ranked.differs),
        best,
        ranked.cell.tuning,
    ]


def ranking_notes(ranking: Ranking, mark: str = "bold") -> list[str]:
    """Return the legend of a workload's table, a line for each mark that occurs in it, and the test set's uncertainty.

    Args:
        mark: what a difference that is shown looks like.
    """
    base, cells = method_title(ranking.baseline), ranking.cells
    tests = {ranked.tested.partition(",")[0] for ranked in cells}
    words = {ranked.could_be_best for ranked in cells}
    legend = ["Test error: mean and sample standard deviation over seeds."]
    legend += tuning_note(ranking.tuning, {ranked.cell.tuning for ranked in cells})
    if "max-T" in tests:
        legend.append(
            f"Intervals: 95 %, of the differences from {base}, for all methods at once (max-T, joint sign flips over "
            "the seeds)."
        )
    if "permutation" in tests:
        other = any(OTHER_ORDER in ranked.tested for ranked in cells)
        where = "where seeds are missing or the data are in another order" if other else "where seeds are missing"
        legend.append(f"p: exact permutation test {where}, Holm-corrected.")
        legend += _powerless(ranking)
    if any(ranked.differs for ranked in cells):
        legend.append(f"{mark.capitalize()}: a difference is shown (p below 5 %).")
    if {"yes", "no"} & words:
        legend.append(f"Could be best: no method but {base} is better at 5 % (max-T over all pairs).")
    if "open" in words:
        legend.append("Open: seeds or epochs are missing; such rows stand last.")
    if "no rival" in words:
        legend.append(f"No rival: fewer than two methods beside {base} have all seeds.")
    if any(ranked.cell.marks for ranked in cells):
        legend.append(BRACKETS)
    return [*legend, *_published(cells), *([ranking.test_set] if ranking.test_set else [])]


def tuning_note(tuning: str | None, tunings: Collection[str]) -> list[str]:
    """Return a sentence on the tuning labels that are tested together; none where there is one, and it is all.

    Args:
        tuning: the label that alone was asked for; None: all were.
        tunings: labels of the rows.
    """
    if tuning:
        return [f"Only configurations tuned as '{tuning}', also in the tests."]
    if len(set(tunings)) < 2:
        return []
    labels = ", ".join(f"'{each}'" for each in sorted(set(tunings)))
    return [f"Rows of all tunings are tested together; --tuning tests one alone: {labels}."]


BRACKETS = "In brackets after an error: departures from the protocol."
"""Note of tables whose cells have marks."""


def _published(cells: Iterable[RankedCell]) -> list[str]:
    """Return a sentence on the numbers that packages bring for the methods of these cells."""
    published = {
        method_title(cell.method): format_mean(*numbers)
        for cell in (ranked.cell for ranked in cells)
        if not cell.data_label and (numbers := reference_numbers(cell.method).get(cell.workload))
    }
    listed = ", ".join(f"{title} {numbers}" for title, numbers in published.items())
    return [f"Published test errors, which packages bring: {listed}."] if listed else []


def _powerless(ranking: Ranking) -> list[str]:
    """Return a sentence on permutation tests of so few seeds that, as corrected, no difference can be shown."""
    base = ranking.baseline_cell
    few = [ranked.cell for ranked in ranking.cells if ranked.tested.startswith("permutation")]
    if base is None or not few:
        return []
    # Equal groups have a mirror image with as large a difference.
    least = holm(
        {cell.key: (1 + (cell.seeds == base.seeds)) / math.comb(cell.seeds + base.seeds, cell.seeds) for cell in few}
    )
    rows = f", and {len(few)} such rows," if len(few) > 1 else ""
    return [
        f"With {seeds} and {base.seeds} seeds{rows} no p is below {p:.2g}."
        for seeds, p in sorted({(cell.seeds, least[cell.key]) for cell in few})
        if p >= ALPHA
    ]


def render_rankings(rankings: Sequence[Ranking], form: str = "text") -> str:
    """Format a table for each workload as ``text``, ``md`` or ``latex``.

    Raises:
        UsageError: there is no such format.
    """
    mark = "*" if form == "text" else "bold"
    tables = [
        format_table(
            ranking_title(ranking),
            ranking_header(ranking),
            [ranking_values(ranked) for ranked in ranking.cells],
            form,
            "\n".join(ranking_notes(ranking, mark)),
        )
        for ranking in rankings
    ]
    return "\n".join(tables)
