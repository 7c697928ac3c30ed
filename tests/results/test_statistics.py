"""Intervals, paired tests and power."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from tpbench.results.statistics import (
    against_best,
    bootstrap_interval,
    compare_paired,
    compare_with_printed,
    holm,
)

errors = st.lists(st.floats(0, 100), min_size=3, max_size=12).map(lambda v: pd.Series(v, dtype=float))


@given(errors)
@example(pd.Series([0.0, 0.0, 5e-223]))
def test_the_interval_holds_the_mean(values: pd.Series[float]) -> None:
    low, high = bootstrap_interval(values)
    assert low <= values.mean() + 1e-9
    assert values.mean() - 1e-9 <= high
    assert bootstrap_interval(values) == (low, high)  # always the same resamples


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(60):
        low, high = bootstrap_interval(pd.Series(generator.normal(2.0, 0.1, 10)))
        hits += low <= 2.0 <= high
    assert 48 <= hits <= 60


def test_few_values_give_no_interval() -> None:
    assert all(map(math.isnan, bootstrap_interval(pd.Series([1.0, 2.0]))))
    assert bootstrap_interval(pd.Series([2.0, 2.0, 2.0])) == (2.0, 2.0)


def test_a_comparison_pairs_by_seed() -> None:
    first = pd.Series([2.0, 3.0, 4.0, 9.0], index=[0, 1, 2, 7])
    second = pd.Series([3.9, 1.8, 2.9, 5.0], index=[2, 0, 1, 8])
    found = compare_paired(first, second)
    assert found.seeds == 3
    assert found.difference == pytest.approx(0.4 / 3)
    assert found.p == pytest.approx(stats.ttest_rel([2.0, 3.0, 4.0], [1.8, 2.9, 3.9]).pvalue)


def test_a_comparison_of_equal_runs_is_no_difference() -> None:
    same = pd.Series([1.0, 2.0, 3.0])
    assert compare_paired(same, same).p == 1.0
    assert compare_paired(same, same).seeds_needed is None
    assert math.isnan(compare_paired(same[:2], same[:2]).p)
    assert compare_paired(same, pd.Series([1.0], index=[9])).seeds == 0


def test_power_is_that_of_the_paired_test() -> None:
    found = compare_paired(pd.Series([1.0, 2.0, 3.0, 4.0]), pd.Series([0.0, 2.0, 2.0, 4.0]))
    needed = found.seeds_needed
    assert needed is not None
    effect = found.difference / found.deviation

    def power(n: int) -> float:
        critical = stats.t.ppf(0.975, n - 1)
        noncentral = stats.nct(n - 1, effect * n**0.5)
        return float(1 - noncentral.cdf(critical) + noncentral.cdf(-critical))

    assert power(needed) >= 0.8 > power(needed - 1)


def test_holm_corrects_the_smallest_most() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": math.nan, "d": 0.03})
    assert found["a"] == pytest.approx(0.03)
    assert found["d"] == pytest.approx(0.06)
    assert found["b"] == pytest.approx(0.06)
    assert math.isnan(found["c"])
    assert holm({}) == {}


def test_a_method_as_good_as_the_best_is_tied() -> None:
    generator = np.random.default_rng(0)
    base = pd.Series(generator.normal(2.0, 0.1, 10))
    found = against_best(
        {"best": base, "near": base + generator.normal(0.01, 0.1, 10), "far": base + 1 + generator.normal(0, 0.1, 10)},
        "best",
    )
    assert found["near"] > 0.05 > found["far"]
    assert "best" not in found


def test_the_printed_cell_is_compared_by_welch() -> None:
    values = pd.Series([2.0, 2.1, 2.2, 1.9])
    expected = stats.ttest_ind_from_stats(2.05, values.std(ddof=1), 4, 1.98, 0.14, 10, equal_var=False).pvalue
    assert compare_with_printed(values, (1.98, 0.14)) == pytest.approx(expected)
    assert math.isnan(compare_with_printed(values[:2], (1.98, 0.14)))
