"""Comparison of two methods of a store on every workload that both were trained on, and of two runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tpbench.engine import TpbenchError, UsageError, method_title
from tpbench.results.cells import Cell, choose_cells, preferred_cell, seed_ranges, with_label, workload_label
from tpbench.results.formats import csv_number, csv_text, format_interval, format_mean, format_table
from tpbench.results.ranking import (
    BASELINE,
    BRACKETS,
    OTHER_ORDER,
    RankedCell,
    Ranking,
    format_p,
    rank_all,
    require_validated,
    tuning_note,
)
from tpbench.results.runs import RunRecord, percent
from tpbench.results.statistics import ALPHA, mcnemar
from tpbench.results.store import RunStore

COLUMNS = (
    "workload",
    "data",
    "first_tuning",
    "first_mean",
    "first_std",
    "first_seeds",
    "first_diverged",
    "second_tuning",
    "second_mean",
    "second_std",
    "second_seeds",
    "second_diverged",
    "difference",
    "low",
    "high",
    "p",
    "family",
    "tested",
    "first_marks",
    "second_marks",
    "verdict",
)
"""Columns of :func:`compare_methods`."""


def compare_methods(
    store: RunStore,
    first: str,
    second: str,
    workloads: Collection[str] | None = None,
    baseline: str = BASELINE,
    tuning: str | None = None,
) -> pd.DataFrame:
    """Return one row per workload, kind of data and tuning label of two methods.

    Where one of them is the baseline, ``p``, ``low`` and ``high`` are those of its family: all methods of the workload
    against the baseline. Otherwise ``p`` is that of all ordered pairs without the baseline, one-sided, for the method
    with the lower mean being better. ``difference`` is the first minus the second, in percentage points.

    A tuning label that both methods have is compared within itself: its families are those of the leaderboard of that
    label. Methods without a label in common are compared as the leaderboard of all labels tests them: with the best
    known one of each, or every cell of one with the baseline's.

    ``frame.attrs["notes"]`` says which tunings were tested together.

    Args:
        workloads: only these; None: all.
        baseline: the method that others are compared with.
        tuning: only cells with this tuning label, also in the families of tests; None: all.

    Raises:
        UsageError: both are the same method, or the runs of a workload have no validation set.
    """
    if first == second:
        raise UsageError(f"'{first}' stands twice: name two methods to compare")
    records = store.summaries()
    require_validated(records, workloads)
    rows: list[dict[str, Any]] = []
    together: set[str] = set()
    of_label: dict[str, list[Ranking]] = {}
    apart = False
    for ranking in rank_all(choose_cells(records, tuning), baseline, tuning):
        if workloads is not None and ranking.workload not in workloads:
            continue
        labels = _labels_in_common(ranking, first, second) if tuning is None else []
        for label in labels:
            if label not in of_label:
                of_label[label] = rank_all(choose_cells(records, label), baseline, label)
        by_label = [one for label in labels for one in of_label[label] if one.place == ranking.place]
        for one in by_label or [ranking]:
            pairs = list(_pairs(one, first, second))
            rows += [_row(one, *pair) for pair in pairs]
            tunings = {ranked.cell.tuning for ranked in one.cells}
            if pairs and len(tunings) > 1:
                together |= tunings
        apart |= bool(by_label)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame.attrs["notes"] = [_APART] * apart + tuning_note(tuning, together)
    return frame


_APART = "A tuning that both have is compared within itself, also in the tests, as with --tuning."


def _labels_in_common(ranking: Ranking, first: str, second: str) -> list[str]:
    """Return the tuning labels that two methods have in common, the best known first; none where all have one label."""
    ranks: list[dict[str, int]] = [
        {ranked.cell.tuning: ranked.cell.budget.rank for ranked in ranking.cells if ranked.cell.method == name}
        for name in (first, second)
    ]
    if len({ranked.cell.tuning for ranked in ranking.cells}) < 2:
        return []
    return sorted(ranks[0].keys() & ranks[1].keys(), key=lambda label: (ranks[0][label], label))


def _pairs(ranking: Ranking, first: str, second: str) -> Iterator[tuple[RankedCell, RankedCell]]:
    """Yield the cells of two methods: those with one tuning label, or the best known of each.

    Where one of them is the baseline, all cells of the other with the baseline's one that the ranking tests against.
    """
    ones, others = ([ranked for ranked in ranking.cells if ranked.cell.method == name] for name in (first, second))
    if not (ones and others):
        return
    if ranking.baseline in (first, second):
        ones, others = (
            [ranked for ranked in side if name != ranking.baseline or ranked.is_baseline]
            for name, side in ((first, ones), (second, others))
        )
        yield from product(ones, others)
        return
    alike = [(one, other) for one, other in product(ones, others) if one.cell.tuning == other.cell.tuning]
    yield from alike or [(_preferred(ones), _preferred(others))]


def _preferred(side: Sequence[RankedCell]) -> RankedCell:
    best = preferred_cell(ranked.cell for ranked in side)
    return next(ranked for ranked in side if ranked.cell is best)


def _row(ranking: Ranking, one: RankedCell, other: RankedCell) -> dict[str, Any]:
    first, second = one.cell, other.cell
    difference, low, high, p, family, tested = _tested(ranking, one, other)
    return {
        "workload": first.workload,
        "data": first.data_label or "exact",
        **_side("first", first),
        **_side("second", second),
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "family": family,
        "tested": tested,
        "first_marks": "; ".join(first.marks),
        "second_marks": "; ".join(second.marks),
        "verdict": _verdict(first, second, difference, p, tested),
    }


def _side(name: str, cell: Cell) -> dict[str, Any]:
    return {
        f"{name}_tuning": cell.tuning,
        f"{name}_mean": cell.mean,
        f"{name}_std": cell.std,
        f"{name}_seeds": seed_ranges(cell.counted_seeds),
        f"{name}_diverged": cell.diverged,
    }


def _tested(ranking: Ranking, one: RankedCell, other: RankedCell) -> tuple[float, float, float, float, str, str]:
    """Return difference, interval, p, family and test of two cells of a workload."""
    if one.is_baseline or other.is_baseline:
        ranked = one if other.is_baseline else other
        difference, low, high = ranked.difference, ranked.low, ranked.high
        if one.is_baseline:
            difference, low, high = -difference, -high, -low
        family = _NONE if math.isnan(ranked.p) else f"{_AGAINST} {method_title(ranking.baseline)}"
        return difference, low, high, ranked.p, family, ranked.tested
    first, second = one.cell, other.cell
    keys = first.key, second.key
    if keys not in ranking.rival_p:
        return math.nan, math.nan, math.nan, math.nan, _NONE, f"not tested: {_obstacle(first, second)}"
    difference = round(first.mean - second.mean, 10)
    p = ranking.rival_p[keys if difference > 0 else keys[::-1]]
    return difference, math.nan, math.nan, p, _PAIRS, f"max-T, {first.seeds} seeds"


_AGAINST, _PAIRS, _NONE = "against", "all pairs", "none"


def _obstacle(first: Cell, second: Cell) -> str:
    """Return why two cells are no pair of the family of all pairs."""
    for cell in (first, second):
        if not cell.whole:
            return f"{cell.title} lacks seeds"
        if cell.diverged:
            return f"{cell.diverged} of {cell.seeds} seeds of {cell.title} diverged"
    if first.epochs != second.epochs:
        return f"{first.epochs} and {second.epochs} epochs"
    return f"{OTHER_ORDER}, or other epochs than most methods"


def _verdict(first: Cell, second: Cell, difference: float, p: float, tested: str) -> str:
    if math.isnan(difference):
        return tested
    if not p < ALPHA:
        return "no difference shown"
    return f"{(first if difference < 0 else second).method} is better"


def comparison_notes(frame: pd.DataFrame, first: str, second: str) -> list[str]:
    """Return the notes below a comparison, a line for each test and mark that occurs in it."""
    lines = [f"Test error (%), mean and sample standard deviation. Difference: {first} - {second}, in points."]
    lines += frame.attrs.get("notes", [])
    against = frame[frame["family"].str.startswith(_AGAINST)]
    if against["tested"].str.startswith("max-T").any():
        lines.append("Against the baseline: p and 95 % interval of all methods of the workload at once (max-T).")
    if against["tested"].str.startswith("permutation").any():
        lines.append("p without an interval: exact permutation test of cells that lack seeds, Holm-corrected.")
    if (frame["family"] == _PAIRS).any():
        lines.append("All pairs: p of all ordered pairs of methods but the baseline, one-sided (max-T).")
    if frame["first_marks"].any() or frame["second_marks"].any():
        lines.append(BRACKETS)
    return lines


def render_comparison(frame: pd.DataFrame, first: str, second: str, form: str = "text") -> str:
    """Format the rows of :func:`compare_methods`.

    Raises:
        UsageError: there is no such format.
    """
    if form == "csv":
        return csv_text(frame, csv_number)
    header = ["workload", first, second, "difference", "p", "tuning", "verdict"]
    rows = []
    for row in frame.to_dict("records"):
        tunings = dict.fromkeys((row["first_tuning"], row["second_tuning"]))
        rows.append(
            [
                workload_label(row),
                _error(row, "first"),
                _error(row, "second"),
                _difference(row),
                "-" if math.isnan(row["p"]) else format_p(row["p"]),
                " / ".join(tunings),
                row["verdict"],
            ]
        )
    title = f"{method_title(first)} against {method_title(second)}"
    return format_table(title, header, rows, form, "\n".join(comparison_notes(frame, first, second)))


def _error(row: Mapping[Hashable, Any], which: str) -> str:
    marks = f" [{row[f'{which}_marks']}]" if row[f"{which}_marks"] else ""
    return format_mean(row[f"{which}_mean"], row[f"{which}_std"]) + marks


def _difference(row: Mapping[Hashable, Any]) -> str:
    if math.isnan(row["difference"]):
        return "-"
    interval = "" if math.isnan(row["low"]) else f" {format_interval(row['low'], row['high'], 2)}"
    return f"{row['difference']:+z.2f}{interval}"


# Two runs


def _correct(store: RunStore, first: RunRecord, second: RunRecord) -> list[NDArray[np.bool_]]:
    """Return which test samples each of two runs classifies correctly (test samples,)."""
    if first.definition.id == second.definition.id:
        raise UsageError(f"'{first.definition.id}' stands twice: name two runs to compare")
    for record in (first, second):
        require_validated([record], [record.definition.workload])
    if first.definition.fingerprint != second.definition.fingerprint:
        raise UsageError("these runs were tested on other samples: compare runs of one data set")
    correct = []
    for record, predictions in store.all_predictions([first, second]):
        if predictions is None:
            diverged = record.history.selected_epoch is None
            reason = "it diverged in its first epoch" if diverged else "'tpbench run ... --again' trains it for them"
            raise TpbenchError(f"the run {record.definition.id} has no predictions of each test sample: {reason}")
        correct.append(predictions.correct)
    return correct


RUN_COLUMNS = (
    *(f"{which}{name}" for which in ("first", "second") for name in ("", "_workload", "_method", "_seed", "_epochs")),
    "data",
    "first_status",
    "second_status",
    "first_error",
    "second_error",
    "difference",
    "first_only",
    "second_only",
    "samples",
    "p",
)
"""Columns of :func:`runs_comparison`."""

RUN_NOTE = (
    "Only this one right: test samples that the other run classifies wrongly.\n"
    "McNemar's exact test is of these two trainings on these samples: methods are compared over seeds."
)
"""Notes below a comparison of two runs."""


def runs_comparison(store: RunStore, first: RunRecord, second: RunRecord) -> pd.DataFrame:
    """Compare two runs sample by sample with McNemar's test, from their predictions.

    Returns:
        One row: both runs, their test errors in per cent, and the samples that they differ in. ``difference`` is the
        first error minus the second, in percentage points.

    Raises:
        UsageError: they are the same run, of other test samples, or without a validation set.
        TpbenchError: one of them has no predictions.
    """
    correct = _correct(store, first, second)
    test = mcnemar(*correct)
    row: dict[str, Any] = {"data": first.data_label or "exact", "first_only": test.first_only}
    row |= {"second_only": test.second_only, "samples": len(correct[0]), "p": test.p}
    for which, record in (("first", first), ("second", second)):
        definition = record.definition
        row |= {
            which: definition.id,
            f"{which}_workload": definition.workload,
            f"{which}_method": definition.method,
            f"{which}_seed": definition.seed,
            f"{which}_epochs": definition.epochs,
            f"{which}_status": record.status,
            f"{which}_error": percent(record.test_error),
        }
    row["difference"] = row["first_error"] - row["second_error"]
    return pd.DataFrame([row], columns=RUN_COLUMNS)


def render_runs(frame: pd.DataFrame, form: str = "text") -> str:
    """Format the row of :func:`runs_comparison`.

    Raises:
        UsageError: there is no such format.
    """
    if form == "csv":
        return csv_text(frame, csv_number)
    row = frame.iloc[0]
    rows = []
    for which in ("first", "second"):
        mark = "" if row[f"{which}_status"] == "finished" else f" [{row[f'{which}_status']}]"
        workload = with_label(row[f"{which}_workload"], "" if row["data"] == "exact" else row["data"])
        numbers = [f"{row[f'{which}_error']:.2f}{mark}", str(row[f"{which}_only"])]
        title, seed = method_title(row[f"{which}_method"]), str(row[f"{which}_seed"])
        rows.append([row[which], workload, title, seed, *numbers])
    header = ["run", "workload", "method", "seed", "test error (%)", "only this one right"]
    samples, p = f"{row['samples']:,}", format_p(row["p"])
    result = f"Difference: {row['difference']:+.2f} points over {samples} test samples; p {p}."
    return format_table("Two runs, sample by sample", header, rows, form, f"{result}\n{RUN_NOTE}")
