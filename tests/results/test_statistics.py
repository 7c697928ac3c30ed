"""Tests and intervals, with the reference values of scipy and of enumeration."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from tpbench.results.statistics import (
    ALPHA,
    Agreement,
    agreement,
    first_epoch,
    holm,
    max_t,
    mcnemar,
    mean_interval,
    minibatch_mean,
    overall_shift,
    permutation_p,
    sampling_error,
    sign_flips,
    simultaneous_intervals,
)

Floats = NDArray[np.float64]

A = np.array([2.05, 1.98, 2.11, 2.03, 1.95, 2.08])
B = np.array([2.10, 2.07, 2.09, 2.16, 2.01, 2.20])
BEST = np.array([2.00, 2.05, 1.95, 2.02, 1.98, 2.03])
OTHERS = np.array(
    [
        [2.01, 2.03, 1.99, 2.02, 2.00, 2.01],
        [2.10, 2.12, 2.05, 2.15, 2.06, 2.11],
        [2.06, 2.04, 2.03, 2.05, 2.07, 2.02],
    ]
).T
"""Test errors of three methods (seeds, methods), to be compared with BEST."""

# Differences in hundredths: (seeds, methods).
counts = st.integers(1, 4).flatmap(
    lambda k: st.lists(st.lists(st.integers(-30, 30), min_size=k, max_size=k), min_size=2, max_size=6)
)
errors = st.lists(st.integers(0, 10_000), min_size=3, max_size=25).map(lambda counts: np.array(counts) / 100)


# Intervals of one mean


@pytest.mark.parametrize("seeds", [3, 10, 19, 20, 50])
def test_the_interval_of_a_mean_is_students_at_any_number_of_seeds(seeds: int) -> None:
    values = np.random.default_rng(seeds).exponential(2.0, seeds)
    expected = stats.t.interval(0.95, seeds - 1, values.mean(), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30)
@given(errors)
@example(np.array([0.0, 0.0, 5e-223]))
def test_the_interval_holds_the_mean(values: Floats) -> None:
    low, high = mean_interval(values)
    assert low <= values.mean() + 1e-9
    assert values.mean() - 1e-9 <= high


def test_the_interval_of_the_paired_difference_is_that_of_the_review() -> None:
    assert mean_interval(A - B) == pytest.approx((-0.1293061, -0.0140273), abs=1e-6)


def test_fewer_than_three_values_have_no_interval() -> None:
    assert all(map(math.isnan, mean_interval([1.0, 2.0])))
    assert all(map(math.isnan, mean_interval([])))
    assert mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


# Max-T


def test_max_t_has_the_reference_values() -> None:
    differences = OTHERS - BEST[:, None]
    assert max_t(differences) == pytest.approx([0.75, 0.03125, 0.15625], abs=1e-6)
    raw = [float(max_t(differences[:, [k]])[0]) for k in range(3)]
    assert raw == pytest.approx([0.75, 0.03125, 0.125], abs=1e-6)
    assert list(holm(dict(enumerate(raw))).values()) == pytest.approx([0.75, 0.09375, 0.25], abs=1e-6)


def test_a_single_difference_gets_the_sign_flip_test() -> None:
    assert max_t((A - B)[:, None]) == pytest.approx([0.0625], abs=1e-6)


@settings(max_examples=25)
@given(st.lists(st.integers(-30, 30), min_size=3, max_size=8))
def test_the_sign_flip_test_is_that_of_scipy(counts: list[int]) -> None:
    differences = np.array(counts) / 100
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=10**6, vectorized=True
    )
    assert max_t(differences[:, None]) == pytest.approx([expected.pvalue])


def naive_max_t(counts: list[list[int]], *, one_sided: bool) -> list[float]:
    """Step-down max-T by its definition, in whole numbers: t grows with sign(sum) * sum^2 / (sum of squares)."""
    columns = list(zip(*counts, strict=True))
    squares = [sum(value**2 for value in column) for column in columns]

    def statistic(k: int, signs: tuple[int, ...]) -> Fraction:
        total = sum(sign * value for sign, value in zip(signs, columns[k], strict=True))
        part = Fraction(total**2, squares[k]) if squares[k] else Fraction(0)
        return -part if one_sided and total < 0 else part

    flips = list(itertools.product((1, -1), repeat=len(counts)))
    observed = [statistic(k, (1,) * len(counts)) for k in range(len(columns))]
    order = sorted(range(len(columns)), key=lambda k: -observed[k])
    p, largest = [0.0] * len(columns), 0.0
    for place, k in enumerate(order):
        left = order[place:]
        share = sum(max(statistic(j, signs) for j in left) >= observed[k] for signs in flips) / len(flips)
        p[k] = largest = max(largest, share)
    return p


@pytest.mark.parametrize("one_sided", [False, True])
@settings(max_examples=40)
@given(counts)
def test_max_t_is_its_definition_with_ties_and_zeros(one_sided: bool, counts: list[list[int]]) -> None:
    differences = np.array(counts) / 100
    assert max_t(differences, one_sided=one_sided) == pytest.approx(naive_max_t(counts, one_sided=one_sided))


@settings(max_examples=40)
@given(counts)
def test_corrected_p_is_at_least_the_raw_one_and_falls_with_the_statistic(counts: list[list[int]]) -> None:
    differences = np.array(counts) / 100
    p = max_t(differences)
    raw = np.array([max_t(differences[:, [k]])[0] for k in range(len(p))])
    assert np.all(p >= raw - 1e-12)
    lengths = np.linalg.norm(differences, axis=0)
    cosine = np.divide(np.abs(differences.sum(axis=0)), lengths, out=np.zeros(len(p)), where=lengths > 0)
    # Equal statistics but for rounding may stand in any order.
    assert all(p[a] <= p[b] + 1e-12 for a in range(len(p)) for b in range(len(p)) if cosine[a] > cosine[b] + 1e-9)


def test_forty_bad_methods_hide_no_difference_of_many_deviations() -> None:
    """Holm's correction of the same sign-flip tests cannot show any difference over ten seeds."""
    differences = 5 + np.random.default_rng(0).normal(0, 0.1, (10, 40))
    assert max_t(differences) == pytest.approx(np.full(40, 2 / 1024))
    raw = {k: float(max_t(differences[:, [k]])[0]) for k in range(40)}
    assert min(holm(raw).values()) == pytest.approx(0.078125)
    assert all(low > 4 for low, _ in simultaneous_intervals(differences))


def test_methods_without_a_difference_cost_a_large_difference_nothing() -> None:
    generator = np.random.default_rng(1)
    differences = np.column_stack([generator.normal(0, 1, (10, 25)), 3 + generator.normal(0, 0.1, 10)])
    assert max_t(differences)[-1] == pytest.approx(2 / 1024)


def test_a_large_difference_in_the_same_direction_takes_nothing_away() -> None:
    """Thirteen seeds, twelve differences of 0.1 and one of 5: a t-test has p 0.23."""
    differences = np.array([0.1] * 12 + [5.0])
    assert stats.ttest_1samp(differences, 0).pvalue > 0.2
    assert max_t(differences[:, None]) == pytest.approx([2 / 2**13])


@pytest.mark.parametrize("seeds", [3, 9, 10])
def test_equal_differences_have_the_smallest_p_that_so_many_seeds_allow(seeds: int) -> None:
    """A t-test would divide by zero."""
    differences = np.full((seeds, 1), 0.01)
    assert max_t(differences) == pytest.approx([2 / 2**seeds])
    assert simultaneous_intervals(differences) == [pytest.approx((0.01, 0.01))]


@pytest.mark.parametrize("size", [0.0, 1e-13, -1e-12])
def test_rounding_is_no_difference(size: float) -> None:
    beside = np.random.default_rng(0).normal(1, 0.1, 10)
    differences = np.column_stack([np.full(10, size), beside])
    assert max_t(differences) == pytest.approx([1.0, 2 / 1024])
    (low, high), _ = simultaneous_intervals(differences)
    assert low <= 0 <= high


def test_beyond_eighteen_seeds_random_flips_stand_for_all() -> None:
    assert sign_flips(18).shape == (2**18, 18)
    assert np.all(sign_flips(18).sum(axis=0) == 0)
    assert sign_flips(19).shape == (100_001, 19)
    assert np.all(sign_flips(19)[0] == 1)
    counts = np.random.default_rng(2).integers(-50, 100, 19)
    sums = np.zeros(1)
    for count in counts:
        sums = np.concatenate([sums + count, sums - count])
    exact = np.mean(np.abs(sums) >= abs(counts.sum()))
    found = max_t(counts[:, None] / 100)
    assert found[0] == pytest.approx(exact, abs=0.003)
    assert found == max_t(counts[:, None] / 100)


def test_no_differences_have_no_p() -> None:
    assert max_t(np.empty((10, 0))).shape == (0,)
    assert simultaneous_intervals(np.empty((10, 0))) == []


# Simultaneous intervals


def test_the_quantile_is_that_of_the_largest_t_over_all_flips() -> None:
    differences = OTHERS - BEST[:, None]
    centred = differences - differences.mean(axis=0)
    largest = [
        np.max(np.abs(stats.ttest_1samp(np.array(signs)[:, None] * centred, 0).statistic))
        for signs in itertools.product((1, -1), repeat=6)
    ]
    found = simultaneous_intervals(differences)
    standard_errors = stats.sem(differences)
    factors = [(high - low) / 2 / error for (low, high), error in zip(found, standard_errors, strict=True)]
    assert factors == pytest.approx([factors[0]] * 3)
    # The quantile lies between two values, and is interpolated.
    below, above = np.sort(largest)[[int(0.95 * 63), int(0.95 * 63) + 1]]
    assert below <= factors[0] <= above


@settings(max_examples=40)
@given(counts)
def test_simultaneous_intervals_hold_the_means_and_widen_with_the_family(counts: list[list[int]]) -> None:
    differences = np.array(counts) / 100
    found = simultaneous_intervals(differences)
    for k, (low, high) in enumerate(found):
        assert low <= differences[:, k].mean() + 1e-9
        assert differences[:, k].mean() - 1e-9 <= high
        ((alone_low, alone_high),) = simultaneous_intervals(differences[:, [k]])
        assert high - low >= alone_high - alone_low - 1e-9 or math.isinf(alone_high)


def test_size_and_coverage_are_those_promised() -> None:
    """3,000 stores of eight methods without a difference from the baseline, ten seeds each."""
    generator = np.random.default_rng(29)
    stores = generator.normal(0, 1, (3_000, 10, 9))
    rejected = covered = 0
    for errors in stores:
        differences = errors[:, 1:] - errors[:, :1]
        rejected += bool(max_t(differences).min() < ALPHA)
        covered += all(low <= 0 <= high for low, high in simultaneous_intervals(differences))
    assert rejected / len(stores) == pytest.approx(0.05, abs=0.01)
    assert 0.93 <= covered / len(stores) <= 0.97


def test_of_equal_rules_one_is_rarely_called_worse() -> None:
    generator = np.random.default_rng(30)
    pairs = list(itertools.permutations(range(7), 2))
    stores = generator.normal(0, 1, (1_000, 10, 7))
    rejected = sum(
        bool(max_t(np.stack([errors[:, a] - errors[:, b] for a, b in pairs], axis=1), one_sided=True).min() < ALPHA)
        for errors in stores
    )
    assert rejected / len(stores) < 0.065


# Cells of few seeds


def test_the_unpaired_permutation_test_has_the_reference_value() -> None:
    assert permutation_p(A, B) == pytest.approx(0.0909091, abs=1e-6)
    assert math.isnan(permutation_p(A[:2], B))


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 20), min_size=3, max_size=5),
    st.lists(st.integers(0, 20), min_size=3, max_size=5),
)
def test_the_unpaired_permutation_test_is_that_of_scipy(first: list[int], second: list[int]) -> None:
    one, other = np.array(first) / 100, np.array(second) / 100

    def statistic(a: Any, b: Any, axis: int) -> Any:
        # A two-sided p by the size of the difference, as the groups are of different sizes; ties but for rounding.
        return np.round(np.abs(np.mean(a, axis=axis) - np.mean(b, axis=axis)), 9)

    expected = stats.permutation_test(
        (one, other), statistic, vectorized=True, n_resamples=10**6, alternative="greater"
    )
    assert permutation_p(one, other) == pytest.approx(expected.pvalue)
    assert permutation_p(one, other) == pytest.approx(permutation_p(other, one))


def test_constant_groups_are_dealt_like_others() -> None:
    """Welch's test would divide by zero."""
    assert permutation_p([2.0] * 3, [2.01] * 3) == pytest.approx(2 / 20)
    assert permutation_p([2.0] * 3, [2.0] * 3) == 1.0


def test_large_groups_are_dealt_at_random() -> None:
    generator = np.random.default_rng(3)
    one, other = generator.normal(0, 1, 15), generator.normal(0.6, 1, 15)
    expected = stats.ttest_ind(one, other).pvalue
    assert permutation_p(one, other) == pytest.approx(expected, abs=0.01)
    assert permutation_p(one, other) == permutation_p(one, other)


def test_holm_has_the_reference_values_and_leaves_out_tests_that_were_not_made() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.002, "e": math.nan})
    assert [found[name] for name in "abcd"] == pytest.approx([0.03, 0.06, 0.06, 0.008], abs=1e-6)
    assert math.isnan(found["e"])
    assert holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0.001, 0.5))
def test_holm_rejects_step_by_step(p: list[float], level: float) -> None:
    rejected = 0
    for rank, value in enumerate(sorted(p)):
        if (len(p) - rank) * value > level:
            break
        rejected += 1
    found = holm(dict(enumerate(p)))
    assert sum(value <= level for value in found.values()) == rejected


# Against the paper


def agreement_by_scipy(values: Floats, printed: tuple[float, float], seeds: int) -> Agreement:
    """Agreement by scipy's Welch tests: an interval, and two one-sided tests at ±5 %."""
    mean, deviation = printed

    def welch(shift: float, alternative: Literal["less", "greater"]) -> float:
        return float(
            stats.ttest_ind_from_stats(
                values.mean(),
                values.std(ddof=1),
                len(values),
                mean + shift,
                deviation,
                seeds,
                equal_var=False,
                alternative=alternative,
            ).pvalue
        )

    parts = values.var(ddof=1) / len(values), deviation**2 / seeds
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(values) - 1) + parts[1] ** 2 / (seeds - 1))
    low, high = stats.t.interval(0.95, freedom, values.mean() - mean, math.sqrt(sum(parts)))
    margin = 0.05 * mean
    equal = max(welch(-margin, "greater"), welch(margin, "less")) < 0.05
    outside = low > margin or high < -margin
    within = "yes" if equal else "no" if outside else "open"
    return Agreement(100 * (values.mean() - mean) / mean, 100 * low / mean, 100 * high / mean, within)


@settings(max_examples=200)
@given(
    st.lists(st.integers(180, 220), min_size=3, max_size=10).filter(lambda counts: len(set(counts)) > 1),
    st.integers(180, 220),
    st.integers(1, 30),
)
def test_agreement_is_that_of_two_one_sided_welch_tests(counts: list[int], mean: int, deviation: int) -> None:
    values, printed = np.array(counts) / 100, (mean / 100, deviation / 100)
    found, expected = agreement(values, printed), agreement_by_scipy(values, printed, 10)
    assert (found.difference, found.low, found.high) == pytest.approx(
        (expected.difference, expected.low, expected.high), abs=1e-6
    )
    assert found.within == expected.within


def test_agreement_is_yes_no_or_open() -> None:
    spread = np.array([-0.02, 0.02] * 5)
    assert agreement(2.0 + spread, (2.0, 0.03)).within == "yes"
    assert agreement(2.3 + spread, (2.0, 0.03)).within == "no"
    assert agreement(2.0 + 20 * spread, (2.0, 0.5)).within == "open"
    # Not told apart from the paper is not agreement: three seeds, p = 0.9.
    few = agreement([1.9, 2.0, 2.1], (2.01, 0.1))
    assert few.low < 0 < few.high
    assert few.within == "open"


def test_agreement_of_constant_values_and_of_two_seeds() -> None:
    assert agreement([2.0] * 3, (2.0, 0.0)) == Agreement(0.0, 0.0, 0.0, "yes")
    assert agreement([2.2] * 3, (2.0, 0.0)).within == "no"
    two = agreement([2.0, 2.0], (2.0, 0.1))
    assert two.within == "open"
    assert math.isnan(two.low)


def made_up_cells(
    generator: np.random.Generator, shift: float, seeds: int = 10
) -> list[tuple[Floats, tuple[float, float]]]:
    """Eight cells whose errors are larger than the paper's by this shift (0.01: 1 %); seeds have noise in common."""
    truth = np.linspace(2, 12, 8)
    common = generator.normal(0, 0.02, seeds)
    cells = []
    for error in truth:
        ours = error * (1 + shift) * (1 + common + generator.normal(0, 0.03, seeds))
        theirs = error * (1 + generator.normal(0, 0.036, seeds))
        cells.append((ours, (float(theirs.mean()), float(theirs.std(ddof=1)))))
    return cells


def test_the_overall_shift_covers_a_made_up_one() -> None:
    generator = np.random.default_rng(4)
    found = [overall_shift(made_up_cells(generator, 0.02)) for _ in range(120)]
    covered = np.mean([shift.low <= 2 <= shift.high for shift in found if shift])
    assert 0.85 <= covered <= 0.99
    assert np.mean([shift.difference for shift in found if shift]) == pytest.approx(2, abs=0.2)
    assert np.mean([shift.low > 0 for shift in found if shift]) > 0.5


def test_the_overall_shift_is_the_same_every_time_and_resamples_seeds_jointly() -> None:
    cells = made_up_cells(np.random.default_rng(5), 0.0)
    found = overall_shift(cells)
    assert found
    assert found == overall_shift(cells)
    assert found.cells == 8
    assert found.difference == pytest.approx(100 * np.mean([ours.mean() / mean - 1 for ours, (mean, _) in cells]))
    # The same errors, but with no seed in common: the shared noise of a seed averages out.
    shuffled = [(np.random.default_rng(k).permutation(ours), printed) for k, (ours, printed) in enumerate(cells)]
    apart = overall_shift(shuffled)
    assert apart
    assert apart.high - apart.low < 0.85 * (found.high - found.low)
    assert overall_shift([]) is None


# Right and wrong of each test sample


def test_the_mean_over_minibatches_weighs_a_short_last_one_more() -> None:
    correct = np.array([True, True, True, False, True, True, True, True, True, False])
    assert minibatch_mean(correct, 4) == pytest.approx(100 * (1 / 4 + 0 / 4 + 1 / 2) / 3)
    assert minibatch_mean(correct, 5) == pytest.approx(20.0)
    assert minibatch_mean(correct, 100) == pytest.approx(20.0)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 45))
def test_the_mean_over_minibatches_is_that_of_a_loop(correct: list[bool], batch: int) -> None:
    parts = [correct[start : start + batch] for start in range(0, len(correct), batch)]
    expected = 100 * sum(part.count(False) / len(part) for part in parts) / len(parts)
    assert minibatch_mean(np.array(correct), batch) == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_exact_binomial_test_of_the_samples_that_differ(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(column) for column in zip(*pairs, strict=True))
    found = mcnemar(first, second)
    assert (found.first_only, found.second_only) == (pairs.count((True, False)), pairs.count((False, True)))
    differing = found.first_only + found.second_only
    expected = stats.binomtest(found.first_only, differing, 0.5).pvalue if differing else 1.0
    assert found.p == pytest.approx(expected)
    assert mcnemar(second, first).p == found.p


def test_the_standard_error_from_the_number_of_test_samples() -> None:
    assert sampling_error(2.03, 10_000) == pytest.approx(0.141, abs=5e-4)
    draws = np.random.default_rng(6).binomial(400, 0.1, 20_000) / 4
    assert sampling_error(10.0, 400) == pytest.approx(draws.std(), rel=0.02)
    assert sampling_error(0.0, 100) == 0.0


# Epochs


def test_the_first_epoch_that_reaches_a_target() -> None:
    curve = [0.9, 0.3, 0.5, 0.2]
    assert first_epoch(curve, lambda error: error <= 0.3) == 2
    assert first_epoch(curve, lambda error: error < 0.3) == 4
    assert first_epoch(curve, lambda error: error < 0.1) is None
    assert first_epoch([], lambda error: True) is None
