"""What a reviewer asks of a cell and of two methods: intervals, tests, power. The rules stand in docs/protocol.md."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

LEVEL = 0.05
"""Below this (after Holm's correction where several are tested) a difference counts as one."""
POWER = 0.8
"""With which a difference is said to be one that would have shown."""
FEWEST = 3
"""Fewer seeds than this say nothing about a deviation: such a cell takes part in no test."""
EXACT = 12
"""Up to so many pairs all 2^n flips of their signs are tried, instead of assuming a normal distribution."""
# Student's interval needs normal errors, the bootstrap many of them: it covers 70 % instead of 95 at three seeds.
_BOOTSTRAP_FROM = 20
# Per cent. A run's error is a count over its samples, so smaller differences are rounding.
_SAME = 1e-9


def mean_interval(errors: pd.Series[float], level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the mean: Student's t below 20 seeds, bootstrap (BCa, 10,000 resamples) from there on.

    Returns:
        Lower and upper end in per cent; not a number where there are fewer than three values.
    """
    values = errors.dropna().to_numpy(dtype=float)
    if len(values) < FEWEST:
        return math.nan, math.nan
    # The spread of errors that differ by rounding alone underflows in BCa's acceleration.
    if np.ptp(values) < _SAME:
        return float(values[0]), float(values[0])
    if len(values) < _BOOTSTRAP_FROM:
        half = float(special.stdtrit(len(values) - 1, (1 + level) / 2)) * values.std(ddof=1) / math.sqrt(len(values))
        return float(values.mean() - half), float(values.mean() + half)
    generator = np.random.default_rng(0)
    # Slow to import, and few cells have so many seeds.
    from scipy import stats

    found = stats.bootstrap((values,), np.mean, confidence_level=level, n_resamples=10_000, rng=generator)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


@dataclass(frozen=True)
class Comparison:
    """Two methods. Errors in per cent; ``difference`` is the first minus the second."""

    seeds: int
    """That both have."""
    difference: float
    """Of the means over shared seeds, or of the two means where those are too few."""
    deviation: float = math.nan
    """Sample standard deviation of the paired differences."""
    p: float = math.nan
    """Two-sided; not a number where nothing could be tested."""
    test: str = ""
    """``sign-flip``, ``paired t`` or ``Welch``; empty where nothing could be tested."""
    detectable: float = math.nan
    """The smallest difference that this test would have shown with power 0.8 at 5 %; infinite if none."""

    @property
    def tested(self) -> bool:
        return not math.isnan(self.p)

    @property
    def shown(self) -> bool:
        """Whether a difference was found."""
        return self.p < LEVEL

    def seeds_for(self, difference: float) -> int | None:
        """Shared seeds with which a paired test finds a difference of this size four times in five.

        From the observed deviation of the differences; None where that is unknown, or beyond a million.
        """
        if not self.deviation > 0:
            return FEWEST if self.deviation == 0 else None
        return _seeds_for(abs(difference) / self.deviation)


# scipy.special has what scipy.stats would say, and takes a quarter of its time to import.
def _two_sided(t: float, freedom: float) -> float:
    """p of Student's t."""
    return 2 * float(special.stdtr(freedom, -abs(t)))


def _noncentrality(freedom: float) -> float:
    """How many standard errors a difference must be for a two-sided t-test to find it with power 0.8."""
    critical = special.stdtrit(freedom, 1 - LEVEL / 2)
    # The other tail adds nothing where the power is 0.8.
    return float(special.nctdtrinc(freedom, 1 - POWER, critical))


def _seeds_for(effect: float) -> int | None:
    """The smallest number of pairs whose t-test has power 0.8 for a difference of so many deviations."""

    def enough(pairs: int) -> bool:
        return effect * math.sqrt(pairs) >= _noncentrality(pairs - 1)

    low, high = FEWEST - 1, FEWEST
    while not enough(high):
        low, high = high, 2 * high
        if high > 2_000_000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _sign_flip(differences: NDArray[np.floating[Any]]) -> float:
    """Two-sided p of the exact permutation test: how many of all 2^n flips of signs give so large a mean or larger.

    It assumes only that without a difference either sign is as likely, so ties and counts do not disturb it.
    """
    observed = abs(differences.sum())
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(differences) - 1)))
    # By symmetry the first sign can stay: every sum and its negative count alike.
    sums = np.abs(differences[0] + signs @ differences[1:])
    return float(np.mean(sums >= observed - _SAME))


def compare_paired(first: pd.Series[float], second: pd.Series[float]) -> Comparison:
    """Compare by seed: runs of one seed share split and data order, so their differences vary less than they do.

    Up to 12 pairs the exact sign-flip permutation test, and also beyond where all differences are equal; the paired
    t-test otherwise.

    Args:
        first, second: errors in per cent, indexed by seed; missing where a run diverged.
    """
    paired = (first - second).dropna().to_numpy(dtype=float)
    count = len(paired)
    if count < FEWEST:
        return Comparison(count, float(paired.mean()) if count else math.nan)
    mean, deviation = float(paired.mean()), float(paired.std(ddof=1))
    equal = deviation < _SAME
    detectable = 0.0 if equal else _noncentrality(count - 1) * deviation / math.sqrt(count)
    # All signs alike is the most extreme flip there is: with five pairs even that has p = 2 / 32.
    if 2.0 ** (1 - count) >= LEVEL:
        detectable = math.inf
    if count <= EXACT:
        return Comparison(count, mean, 0.0 if equal else deviation, _sign_flip(paired), "sign-flip", detectable)
    if equal:  # the t-test knows no p for them; only the two flips of all signs reach such a mean
        p = 1.0 if abs(mean) < _SAME else 2.0 ** (1 - count)
        return Comparison(count, mean, 0.0, p, "sign-flip", detectable)
    return Comparison(
        count, mean, deviation, _two_sided(mean / deviation * math.sqrt(count), count - 1), "paired t", detectable
    )


def compare_unpaired(first: pd.Series[float], second: pd.Series[float]) -> Comparison:
    """Welch's test of two methods that share too few seeds, or were trained on differently ordered data."""
    one, other = first.dropna(), second.dropna()
    shared = len(one.index.intersection(other.index))
    difference = float(one.mean() - other.mean())
    if min(len(one), len(other)) < FEWEST:
        return Comparison(shared, difference)
    found = _welch(one, float(other.mean()), float(other.std(ddof=1)), len(other))
    return Comparison(shared, difference, p=found[0], test="Welch", detectable=found[1])


def _welch(values: pd.Series[float], mean: float, deviation: float, count: int) -> tuple[float, float]:
    """p of Welch's test against a sample of which mean, deviation and size are known; and what it would have shown."""
    spread, size = float(values.std(ddof=1)), len(values)
    parts = spread**2 / size, deviation**2 / count
    error = math.sqrt(sum(parts))
    if error < _SAME:
        return (1.0 if abs(float(values.mean()) - mean) < _SAME else 0.0), 0.0
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (size - 1) + parts[1] ** 2 / (count - 1))
    p = _two_sided((float(values.mean()) - mean) / error, freedom)
    return p, _noncentrality(freedom) * error


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction over the tests that could be made; the others stay not a number."""
    known = sorted((value, name) for name, value in p.items() if not math.isnan(value))
    adjusted, largest = dict(p), 0.0
    for rank, (value, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        adjusted[name] = largest
    return adjusted


def corrected(found: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The same comparisons with Holm's correction over all of them."""
    adjusted = holm({name: comparison.p for name, comparison in found.items()})
    return {name: replace(comparison, p=adjusted[name]) for name, comparison in found.items()}


def compare_with_printed(errors: pd.Series[float], printed: tuple[float, float], seeds: int = 10) -> float:
    """Two-sided p of Welch's test against a mean and deviation that the paper prints.

    Returns:
        Not a number with fewer than three values.
    """
    values = errors.dropna()
    if len(values) < FEWEST:
        return math.nan
    return _welch(values, printed[0], printed[1], seeds)[0]


@dataclass(frozen=True)
class Overall:
    """Many cells against the paper's at once: over many, some differ by chance."""

    tested: int
    differing: int
    """With p < 0.05, not corrected."""
    p: float
    """Stouffer's combined p, two-sided, of signed differences; not a number if none was tested."""
    above: int
    """Cells whose mean error lies above the paper's."""

    @property
    def expected(self) -> float:
        """How many would differ by chance alone."""
        return LEVEL * self.tested


def overall(tests: Iterable[tuple[float, float]]) -> Overall:
    """Combine tests against the paper.

    Args:
        tests: difference and two-sided p of each; those without a p are left out.
    """
    known = [(difference, p) for difference, p in tests if not math.isnan(p)]
    if not known:
        return Overall(0, 0, math.nan, 0)
    # Signed, so that cells above the paper and cells below it speak against each other.
    scores = [math.copysign(min(-float(special.ndtri(p / 2)), 40.0), difference) for difference, p in known]
    combined = 2 * float(special.ndtr(-abs(sum(scores)) / math.sqrt(len(scores))))
    return Overall(len(known), sum(p < LEVEL for _, p in known), min(1.0, combined), sum(d > 0 for d, _ in known))
