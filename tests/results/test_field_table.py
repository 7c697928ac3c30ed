"""The table of the field: groups by what rules need, costs, and stores that lack something."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from tests.results.records import record, store_of
from tpbench.engine import FIELD_METHODS, METHODS
from tpbench.engine.parts import NEEDS
from tpbench.results.cells import choose_cells
from tpbench.results.field_table import OTHERS, field_order, needs_of, relative_cost, render_field
from tpbench.results.ranking import Ranking, rank_all


def ranking(*methods: str) -> Ranking:
    records = [
        record(method, seed, [0.05 + 0.01 * k + 0.001 * seed], workload="digits")
        for k, method in enumerate(methods)
        for seed in range(10)
    ]
    (found,) = rank_all(choose_cells(records))
    return found


def test_every_rule_says_what_it_needs() -> None:
    assert {needs_of(method) for method in METHODS} == set(NEEDS)
    assert needs_of("no-such-method") == OTHERS
    assert set(FIELD_METHODS) < set(METHODS)


def test_rules_stand_in_groups_within_which_the_leaderboard_orders() -> None:
    found = ranking("bp", "dfa", "pepita", "kp", "dtp", "fa", "no-such-method")
    assert [row.cell.method for row in field_order(found)] == [
        *("bp", "kp", "dtp", "pepita"),
        *("dfa", "fa", "no-such-method"),
    ]


def test_costs_are_relative_to_the_baseline() -> None:
    cells = {row.cell.method: row.cell for row in ranking("bp", "dfa", "dtp", "no-such-method").cells}
    assert relative_cost(cells["bp"], cells["bp"]) == 1
    against_bp, against_dfa = (relative_cost(cells["dtp"], cells[base]) for base in ("bp", "dfa"))
    assert against_dfa == pytest.approx(against_bp / relative_cost(cells["dfa"], cells["bp"]))
    assert pd.isna(relative_cost(cells["no-such-method"], cells["bp"]))
    assert pd.isna(relative_cost(cells["dtp"], None))


@pytest.mark.parametrize("methods", [("bp", "kp"), ("kp", "no-such-method")])
def test_every_form_takes_stores_without_a_baseline_and_unknown_rules(methods: tuple[str, ...], tmp_path: Path) -> None:
    store = store_of(tmp_path, [run for row in ranking(*methods).cells for run in row.cell.runs])
    frame = pd.read_csv(io.StringIO(render_field(store, "csv")))
    assert sorted(frame.method) == sorted(methods)
    assert frame.needs.notna().all()
    for form in ("text", "md", "latex"):
        assert "Kolen-Pollack" in render_field(store, form)
