"""``tpbench table field``: all rules of a workload, grouped by what they need, with their cost and verdict."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import pandas as pd

from tpbench.engine import TpbenchError, get_method, method_title
from tpbench.engine.parts import NEEDS
from tpbench.results.cells import Cell
from tpbench.results.formats import Value, check_format, csv_number, csv_text, format_table
from tpbench.results.ranking import (
    BASELINE,
    RankedCell,
    Ranking,
    ranking_frame,
    ranking_header,
    ranking_notes,
    ranking_title,
    ranking_values,
)
from tpbench.results.store import RunStore
from tpbench.results.tables import rankings_of

OTHERS = "not declared"
"""The group of rules whose package does not say what they need, or is not installed."""
FIELD_COLUMNS = (
    "workload",
    "data",
    "needs",
    "method",
    "tuning",
    "test_error_mean",
    "difference",
    "low",
    "high",
    "p",
    "differs",
    "could_be_best",
    "tested",
    "cost",
)


def needs_of(method: str) -> str:
    """Return what a rule needs to learn its feedback, one of :data:`tpbench.engine.parts.NEEDS` or :data:`OTHERS`."""
    try:
        return get_method(method).needs or OTHERS
    except TpbenchError:
        return OTHERS


def relative_cost(cell: Cell, base: Cell | None) -> float:
    """Return the time of a joint minibatch over the baseline's; not a number where it was not measured.

    The numbers are those of ``benchmarks/costs.py``: built-in methods, a pack of ten on one CPU thread in float32.
    """
    costs = _costs()
    mine, others = costs.get((cell.workload, cell.method)), base and costs.get((base.workload, base.method))
    return mine / others if mine and others else math.nan


@lru_cache(maxsize=1)
def _costs() -> dict[tuple[str, str], float]:
    """Return the cost of a joint minibatch over BP's, by workload and method."""
    text = files("tpbench.results").joinpath("costs.csv").read_text(encoding="utf-8")
    return {(row["workload"], row["method"]): float(row["cost"]) for row in csv.DictReader(text.splitlines())}


def field_order(ranking: Ranking) -> list[RankedCell]:
    """Return the cells of a workload by what their rules need, within a group as the leaderboard has them."""
    groups = (*NEEDS, OTHERS)
    return sorted(ranking.cells, key=lambda ranked: groups.index(needs_of(ranked.cell.method)))


def field_rows(rankings: Sequence[Ranking]) -> pd.DataFrame:
    """Return one row per cell: the leaderboard's, with what the rule needs and its relative cost."""
    frames = []
    for ranking in rankings:
        ordered = field_order(ranking)
        frame = ranking_frame([ranking]).set_index(["method", "tuning"])
        keys = [(ranked.cell.method, ranked.cell.tuning) for ranked in ordered]
        rows = frame.loc[keys].reset_index()
        rows["needs"] = [needs_of(method) for method, _ in keys]
        rows["cost"] = [relative_cost(ranked.cell, ranked.baseline) for ranked in ordered]
        frames.append(rows[list(FIELD_COLUMNS)])
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(FIELD_COLUMNS))


def field_notes(ranking: Ranking, mark: str = "bold") -> list[str]:
    """Return the legend of a workload's table."""
    base = method_title(ranking.baseline)
    return [
        *ranking_notes(ranking, mark),
        f"Cost: time of a joint minibatch over that of {base}, by benchmarks/costs.py, with the published "
        "configuration or else that of the digits.",
    ]


def render_field(store: RunStore, form: str, baseline: str = BASELINE, tuning: str | None = None) -> str:
    """Format a table for each workload, of one tuning label or all, in one of :data:`tpbench.results.formats.FORMATS`.

    Raises:
        UsageError: there is no such format.
        TpbenchError: the store is empty.
    """
    rankings = rankings_of(store, baseline, tuning)
    if check_format(form) == "csv":
        return csv_text(field_rows(rankings), csv_number)
    mark = "*" if form == "text" else "bold"
    tables = []
    for ranking in rankings:
        header = ["needs", *ranking_header(ranking), "cost"]
        notes = "\n".join(field_notes(ranking, mark))
        tables.append(format_table(ranking_title(ranking), header, _values(ranking), form, notes))
    return "\n".join(tables)


def _values(ranking: Ranking) -> list[list[str | Value]]:
    rows: list[list[str | Value]] = []
    before = ""
    for ranked in field_order(ranking):
        needs, cost = needs_of(ranked.cell.method), relative_cost(ranked.cell, ranked.baseline)
        # A group's name stands once.
        rows.append(
            [needs if needs != before else "", *ranking_values(ranked), "-" if math.isnan(cost) else f"{cost:.1f}"]
        )
        before = needs
    return rows
