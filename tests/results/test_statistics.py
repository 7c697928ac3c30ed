"""Intervals, tests and power: the rules of docs/protocol.md."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from tpbench.results.statistics import (
    compare_paired,
    compare_unpaired,
    compare_with_printed,
    corrected,
    holm,
    mean_interval,
    overall,
)

errors = st.lists(st.floats(0, 100), min_size=3, max_size=25).map(lambda v: pd.Series(v, dtype=float))


@settings(max_examples=30)
@given(errors)
@example(pd.Series([0.0, 0.0, 5e-223]))
def test_the_interval_holds_the_mean(values: pd.Series[float]) -> None:
    low, high = mean_interval(values)
    assert low <= values.mean() + 1e-9
    assert values.mean() - 1e-9 <= high
    assert mean_interval(values) == (low, high)  # always the same resamples


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_covers_as_often_as_it_says(seeds: int) -> None:
    generator = np.random.default_rng(1)
    samples = generator.normal(2.0, 0.1, (500, seeds))
    intervals = [mean_interval(pd.Series(sample)) for sample in samples]
    covered = np.mean([low <= 2.0 <= high for low, high in intervals])
    assert covered >= 0.93


def test_from_twenty_seeds_the_interval_is_bootstrapped() -> None:
    values = pd.Series(np.random.default_rng(0).normal(2.0, 0.1, 20) ** 4)
    student = stats.t.interval(0.95, 19, values.mean(), stats.sem(values))
    assert mean_interval(values) != pytest.approx(student)
    assert mean_interval(values[:19]) == pytest.approx(
        stats.t.interval(0.95, 18, values[:19].mean(), stats.sem(values[:19]))
    )


def test_few_values_give_no_interval() -> None:
    assert all(map(math.isnan, mean_interval(pd.Series([1.0, 2.0]))))
    assert mean_interval(pd.Series([2.0, 2.0, 2.0])) == (2.0, 2.0)


def test_a_comparison_pairs_by_seed() -> None:
    first = pd.Series([2.0, 3.0, 4.0, 9.0], index=[0, 1, 2, 7])
    second = pd.Series([3.9, 1.8, 2.9, 5.0], index=[2, 0, 1, 8])
    found = compare_paired(first, second)
    assert (found.seeds, found.test) == (3, "sign-flip")
    assert found.difference == pytest.approx(0.4 / 3)


def test_equal_differences_of_three_seeds_show_nothing() -> None:
    """Three seeds, each one test image apart: a t-test would say p = 0."""
    first = pd.Series([2.01, 2.11, 2.31])
    found = compare_paired(first, first - 0.01)
    assert found.p == pytest.approx(2 / 8)
    assert math.isinf(found.detectable)  # no difference could have shown with three seeds


@given(st.lists(st.integers(-30, 30), min_size=3, max_size=8))
def test_the_sign_flip_test_counts_all_flips(counts: list[int]) -> None:
    differences = pd.Series(counts, dtype=float) / 100
    found = compare_paired(differences, differences * 0)
    flips = [abs(np.dot(signs, counts)) >= abs(sum(counts)) for signs in itertools.product((1, -1), repeat=len(counts))]
    assert found.p == pytest.approx(np.mean(flips))


def test_above_twelve_pairs_the_t_test_takes_over_unless_all_differences_are_equal() -> None:
    generator = np.random.default_rng(0)
    first, second = (pd.Series(generator.normal(2.0, 0.1, 13)) for _ in range(2))
    found = compare_paired(first, second)
    assert found.test == "paired t"
    assert found.p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    equal = compare_paired(first + 0.01, first)
    assert equal.test == "sign-flip"
    assert equal.p == pytest.approx(2 / 2**13)


@pytest.mark.parametrize("seeds", [6, 12, 13])
def test_no_test_finds_more_by_chance_than_it_says(seeds: int) -> None:
    generator = np.random.default_rng(100 + seeds)
    counts = generator.integers(190, 210, (400, 2, seeds)) / 100
    p = [compare_paired(pd.Series(a), pd.Series(b)).p for a, b in counts]
    assert np.mean(np.array(p) < 0.05) < 0.08


def test_a_comparison_of_equal_runs_is_no_difference() -> None:
    same = pd.Series([1.0, 2.0, 3.0])
    assert compare_paired(same, same).p == 1.0
    assert not compare_paired(same[:2], same[:2]).tested
    assert compare_paired(same, pd.Series([1.0], index=[9])).seeds == 0
    long = pd.Series(np.arange(15.0))
    assert compare_paired(long, long).p == 1.0


def test_diverged_seeds_are_no_pairs() -> None:
    found = compare_paired(pd.Series([1.0, math.nan, 3.0, 4.0]), pd.Series([1.0, 2.0, math.nan, 4.0]))
    assert (found.seeds, found.tested) == (2, False)


def test_methods_that_share_no_seeds_are_compared_by_welch() -> None:
    first, second = pd.Series([1.0, 1.2, 1.1]), pd.Series([2.0, 2.3, 2.1, 2.2], index=[5, 6, 7, 8])
    found = compare_unpaired(first, second)
    assert found.test == "Welch"
    assert found.p == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue)
    assert not compare_unpaired(first[:2], second).tested


def power(effect: float, pairs: int) -> float:
    critical = stats.t.ppf(0.975, pairs - 1)
    noncentral = stats.nct(pairs - 1, effect * pairs**0.5)
    return float(1 - noncentral.cdf(critical) + noncentral.cdf(-critical))


def test_power_beyond_twelve_pairs_is_that_of_the_t_test() -> None:
    generator = np.random.default_rng(3)
    found = compare_paired(pd.Series(generator.normal(2.0, 0.1, 15)), pd.Series(generator.normal(2.0, 0.1, 15)))
    assert power(found.detectable / found.deviation, 15) == pytest.approx(0.8, abs=1e-4)
    for difference in (0.02, 0.05, 0.1):
        needed = found.seeds_for(difference)
        assert needed is not None
        effect = difference / found.deviation
        assert power(effect, needed) >= 0.8
        assert power(effect, needed - 1) < 0.8
    assert found.seeds_for(1e-9) is None
    assert compare_unpaired(pd.Series([1.0]), pd.Series([2.0])).seeds_for(0.1) is None


@pytest.mark.parametrize("seeds", [6, 7, 10])
def test_the_detectable_difference_is_detected_four_times_in_five(seeds: int) -> None:
    generator = np.random.default_rng(50 + seeds)
    zero = pd.Series(np.zeros(seeds))
    base = compare_paired(pd.Series(generator.normal(0, 0.1, seeds)), zero)
    effect = base.detectable / base.deviation
    found = [compare_paired(pd.Series(generator.normal(effect, 1.0, seeds)), zero) for _ in range(200)]
    assert 0.73 < np.mean([f.shown for f in found]) < 0.87


def test_too_few_seeds_are_never_said_to_show_something() -> None:
    """Five pairs have p = 2 / 32 at best, and under Holm's correction over seven methods even eight have not enough."""
    for count, family in ((5, 1), (8, 7)):
        first = pd.Series(np.arange(count, dtype=float) ** 2)
        tests = corrected({str(k): compare_paired(first, first * 0 + k) for k in range(family)})
        assert all(math.isinf(found.detectable) for found in tests.values())
    first = pd.Series(np.arange(10, dtype=float))
    precise = compare_paired(first, first + 0.001 * (first % 2))
    assert precise.seeds_for(100.0) == 6
    assert compare_paired(first, first).seeds_for(0.1) == 6
    assert corrected({str(k): precise for k in range(7)})["0"].seeds_for(100.0) == 9


def test_constant_groups_are_dealt_anew_instead_of_tested_by_welch() -> None:
    first, second = pd.Series([2.0] * 3), pd.Series([2.01] * 3, index=[5, 6, 7])
    found = compare_unpaired(first, second)
    assert (found.test, found.p) == ("permutation", pytest.approx(2 / 20))
    assert math.isinf(found.detectable)
    assert compare_unpaired(first, second - 0.01).p == 1.0


def test_holm_corrects_the_smallest_most() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": math.nan, "d": 0.03})
    assert found["a"] == pytest.approx(0.03)
    assert found["d"] == pytest.approx(0.06)
    assert found["b"] == pytest.approx(0.06)
    assert math.isnan(found["c"])
    assert holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0.001, 0.5))
def test_holm_rejects_step_by_step(p: list[float], level: float) -> None:
    rejected = 0
    for rank, value in enumerate(sorted(p)):
        if (len(p) - rank) * value > level:
            break
        rejected += 1
    found = holm({str(k): value for k, value in enumerate(p)})
    assert sum(value <= level for value in found.values()) == rejected


def test_the_printed_cell_is_compared_by_welch() -> None:
    values = pd.Series([2.0, 2.1, 2.2, 1.9])
    expected = stats.ttest_ind_from_stats(2.05, values.std(ddof=1), 4, 1.98, 0.14, 10, equal_var=False).pvalue
    assert compare_with_printed(values, (1.98, 0.14)) == pytest.approx(expected)
    assert math.isnan(compare_with_printed(values[:2], (1.98, 0.14)))


def test_many_cells_are_judged_together() -> None:
    found = overall([(0.1, 0.03), (0.2, 0.4), (-0.1, 0.5), (0.3, math.nan)])
    assert (found.tested, found.differing, found.above) == (3, 1, 2)
    assert found.expected == pytest.approx(0.15)
    scores = [stats.norm.isf(0.015), stats.norm.isf(0.2), -stats.norm.isf(0.25)]
    assert found.p == pytest.approx(2 * stats.norm.sf(sum(scores) / 3**0.5))
    one_sided = stats.combine_pvalues([0.015, 0.2, 0.75], method="stouffer").pvalue
    assert found.p == pytest.approx(2 * one_sided)
    assert overall([]).tested == 0
    assert math.isfinite(overall([(1.0, 0.0), (-1.0, 1e-300)]).p)
