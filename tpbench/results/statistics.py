"""What a reviewer asks of a cell and of two methods: intervals, paired tests, power; by scipy and statsmodels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.05
"""Below this (after Holm's correction where several are tested) a difference counts as one."""
# Fewer pairs than this say nothing about a deviation.
_FEWEST = 3
# Per cent. A run's error is a count over its samples, so smaller differences are rounding.
_SAME = 1e-9


def bootstrap_interval(errors: pd.Series[float], level: float = 0.95) -> tuple[float, float]:
    """Bootstrap confidence interval of the mean (BCa, 10,000 resamples, always the same ones).

    Returns:
        Lower and upper end in per cent; not a number where there are fewer than three values.
    """
    values = errors.dropna().to_numpy(dtype=float)
    if len(values) < _FEWEST:
        return math.nan, math.nan
    # The spread of errors that differ by rounding alone underflows in BCa's acceleration.
    if np.ptp(values) < _SAME:
        return float(values[0]), float(values[0])
    generator = np.random.default_rng(0)
    found = stats.bootstrap((values,), np.mean, confidence_level=level, n_resamples=10_000, rng=generator)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


@dataclass(frozen=True)
class Comparison:
    """Two methods on the seeds that both have. Errors in per cent; ``difference`` is the first minus the second."""

    seeds: int
    difference: float
    deviation: float
    """Sample standard deviation of the differences."""
    p: float
    """Two-sided paired t-test; not a number with fewer than three seeds."""

    @property
    def seeds_needed(self) -> int | None:
        """Seeds with which a paired test finds a difference of this size four times in five (two-sided, 5 %).

        None where that is unknown, or beyond a million.
        """
        if not (self.deviation > 0 and abs(self.difference) > 0):
            return None
        from statsmodels.stats.power import TTestPower

        effect = abs(self.difference) / self.deviation
        if effect > 10:
            return 3  # the solver needs more than one degree of freedom
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            needed = float(np.squeeze(TTestPower().solve_power(effect, power=0.8, alpha=LEVEL)))
        return max(3, math.ceil(needed)) if math.isfinite(needed) and needed < 1e6 else None


def compare_paired(first: pd.Series[float], second: pd.Series[float]) -> Comparison:
    """Compare by seed: runs of one seed share split and data order, so their differences vary less than they do.

    Args:
        first, second: errors in per cent, indexed by seed.
    """
    differences = (first - second).dropna()
    count = len(differences)
    if count < _FEWEST:
        return Comparison(count, float(differences.mean()) if count else math.nan, math.nan, math.nan)
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if deviation < 1e-9:  # one and the same difference, but for rounding
        return Comparison(count, mean, 0.0, 1.0 if abs(mean) < 1e-9 else 0.0)
    return Comparison(count, mean, deviation, float(stats.ttest_1samp(differences, 0.0).pvalue))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction over the tests that could be made; the others stay not a number."""
    from statsmodels.stats.multitest import multipletests

    known = {name: value for name, value in p.items() if not math.isnan(value)}
    if not known:
        return dict(p)
    adjusted = multipletests(list(known.values()), method="holm")[1]
    return {**p, **dict(zip(known, map(float, adjusted), strict=True))}


def against_best(errors: Mapping[str, pd.Series[float]], best: str) -> dict[str, float]:
    """Holm-adjusted p of every method against the best one of a workload.

    The best is the one with the lowest mean test error, so these tests are kinder to it than fresh seeds would be.
    """
    others = {name: compare_paired(series, errors[best]).p for name, series in errors.items() if name != best}
    return holm(others)


def compare_with_printed(errors: pd.Series[float], printed: tuple[float, float], seeds: int = 10) -> float:
    """Two-sided p of Welch's test against a mean and deviation that the paper prints.

    Returns:
        Not a number with fewer than three values.
    """
    values = errors.dropna()
    if len(values) < _FEWEST:
        return math.nan
    deviation = float(values.std(ddof=1))
    result = stats.ttest_ind_from_stats(
        float(values.mean()), deviation, len(values), printed[0], printed[1], seeds, equal_var=False
    )
    return float(result.pvalue)
