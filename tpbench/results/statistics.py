"""Statistics of cells and of pairs of methods: intervals, tests, power. The rules stand in docs/protocol.md."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

LEVEL = 0.05
"""Significance level, after Holm's correction where several differences are tested."""
POWER = 0.8
"""Power of the differences that a test would have shown."""
FEWEST = 3
"""Smallest number of seeds of a cell that is tested."""
EXACT = 12
"""Largest number of pairs of the exact sign-flip test, which tries all 2^n flips of signs."""
# Student's interval needs normal errors, the bootstrap many of them: it covers 70 % instead of 95 at three seeds.
_BOOTSTRAP_FROM = 20
# Per cent. A run's error is a count over its samples, so smaller differences are rounding.
_SAME = 1e-9


def mean_interval(errors: pd.Series[float], level: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of the mean: Student's t below 20 seeds, else bootstrap (BCa, 10,000 resamples).

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
    """Comparison of two methods. Errors in per cent; ``difference`` is the first minus the second."""

    seeds: int
    """Number of seeds that both have."""
    difference: float
    """Difference of the means over shared seeds, or of the two means where those are too few."""
    deviation: float = math.nan
    """Sample standard deviation of the paired differences."""
    p: float = math.nan
    """Two-sided p; not a number where nothing could be tested."""
    test: str = ""
    """``sign-flip``, ``paired t``, ``Welch`` or ``permutation``; empty where nothing could be tested."""
    error: float = math.nan
    """Standard error of the difference."""
    freedom: float = math.nan
    """Degrees of freedom of a t-test."""
    family: int = 1
    """Number of tests of Holm's correction."""

    @property
    def tested(self) -> bool:
        return not math.isnan(self.p)

    @property
    def shown(self) -> bool:
        """True if a difference was found."""
        return self.p < LEVEL

    @property
    def hopeless(self) -> bool:
        """True if not even an uncorrected test can show anything, as a sign-flip test of fewer than six pairs."""
        return self.test == "sign-flip" and _smallest_p(self.seeds) >= LEVEL

    @property
    def detectable(self) -> float:
        """The smallest difference that this test would have shown with power 0.8; infinite if none.

        At 5 % divided by the number of tests that it is corrected for: the level that a single difference must reach.
        """
        if not self.tested or self.test == "permutation":
            return math.inf if self.tested else math.nan
        level = LEVEL / self.family
        if self.test == "sign-flip":
            return _sign_flip_effect(self.seeds, level) * self.deviation if self.deviation else self._one_image(level)
        return _noncentrality(self.freedom, level) * self.error

    def _one_image(self, level: float) -> float:
        """Return the detectable difference where all differences are equal: 0 if they are enough, or infinity."""
        return 0.0 if _smallest_p(self.seeds) < level else math.inf

    def seeds_for(self, difference: float) -> int | None:
        """Return the shared seeds with which the paired test finds a difference of this size four times in five.

        From the observed deviation of the differences; None where that is unknown, or beyond a million.
        """
        if math.isnan(self.deviation):
            return None
        # Without any deviation every difference is a very large one.
        return _seeds_for(abs(difference) / self.deviation if self.deviation else 1e9, LEVEL / self.family)


# scipy.special has what scipy.stats would say, and takes a quarter of its time to import.
def _two_sided(t: float, freedom: float) -> float:
    """Return p of Student's t."""
    return 2 * float(special.stdtr(freedom, -abs(t)))


@lru_cache(maxsize=1000)
def _noncentrality(freedom: float, level: float = LEVEL) -> float:
    """Return the difference in standard errors that a two-sided t-test finds with power 0.8."""
    critical = special.stdtrit(freedom, 1 - level / 2)
    # The other tail adds nothing where the power is 0.8.
    return float(special.nctdtrinc(freedom, 1 - POWER, critical))


@lru_cache(maxsize=1000)
def _sign_flip_effect(pairs: int, level: float = LEVEL) -> float:
    """Return the mean, in deviations, of normal differences that the sign-flip test finds with power 0.8.

    By simulation, always of the same 1,000 samples; infinite where even equal signs are not rare enough.
    """
    if pairs > EXACT:
        return _noncentrality(pairs - 1, level) / math.sqrt(pairs)
    if _smallest_p(pairs) >= level:
        return math.inf
    noise, signs = np.random.default_rng(0).normal(size=(1000, pairs)), _signs(pairs)

    def missing(effect: float) -> float:
        sums = np.abs((noise + effect) @ signs.T)
        return float(np.mean(np.mean(sums >= sums[:, :1] - _SAME, axis=1) < level)) - POWER

    low, high = 0.0, 1.0
    while missing(high) < 0:
        low, high = high, 2 * high
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if missing(middle) < 0 else (low, middle)
    return high


def _seeds_for(effect: float, level: float) -> int | None:
    """Return the smallest number of pairs with which a mean of so many deviations shows with power 0.8."""

    def enough(pairs: int) -> bool:
        return effect >= _sign_flip_effect(pairs, level)

    for pairs in range(FEWEST, EXACT + 1):
        if enough(pairs):
            return pairs
    low, high = EXACT, EXACT + 1
    while not enough(high):
        low, high = high, 2 * high
        if high > 2_000_000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@lru_cache(maxsize=16)
def _signs(pairs: int) -> NDArray[np.floating[Any]]:
    """Return all flips of signs that keep the first: a sum and its negative count alike. The first row flips none."""
    return np.array([(1.0, *rest) for rest in itertools.product((1.0, -1.0), repeat=pairs - 1)])


def _smallest_p(pairs: int) -> float:
    """Return the smallest p of the sign-flip test: 2 of all 2^n flips reach the mean of differences of one sign."""
    return 2.0 ** (1 - pairs)


def _sign_flip(differences: NDArray[np.floating[Any]]) -> float:
    """Return two-sided p of the exact permutation test: the share of 2^n flips of signs with so large a mean.

    It assumes only that without a difference either sign is as likely, so ties and counts do not disturb it.
    """
    sums = np.abs(_signs(len(differences)) @ differences)
    return float(np.mean(sums >= sums[0] - _SAME))


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
    if deviation < _SAME:
        deviation = 0.0
    error = deviation / math.sqrt(count)
    if count <= EXACT:
        return Comparison(count, mean, deviation, _sign_flip(paired), "sign-flip", error, count - 1)
    if not deviation:  # the t-test knows no p for them; only the two flips of all signs reach such a mean
        p = 1.0 if abs(mean) < _SAME else _smallest_p(count)
        return Comparison(count, mean, deviation, p, "sign-flip", error, count - 1)
    return Comparison(count, mean, deviation, _two_sided(mean / error, count - 1), "paired t", error, count - 1)


def compare_unpaired(first: pd.Series[float], second: pd.Series[float]) -> Comparison:
    """Compare by Welch's test two methods that share too few seeds, or were trained on differently ordered data.

    Where neither varies, Welch's test has no p: the exact permutation test of two groups of constants then.
    """
    one, other = first.dropna(), second.dropna()
    shared = len(one.index.intersection(other.index))
    difference = float(one.mean() - other.mean())
    if min(len(one), len(other)) < FEWEST:
        return Comparison(shared, difference)
    p, error, freedom = _welch(one, float(other.mean()), float(other.std(ddof=1)), len(other))
    if not math.isnan(p):
        return Comparison(shared, difference, p=p, test="Welch", error=error, freedom=freedom)
    # Of all ways to deal the values into two groups so large, only this one, and its mirror image, differ so much.
    ways = math.comb(len(one) + len(other), len(one)) / (1 + (len(one) == len(other)))
    p = 1.0 if abs(difference) < _SAME else 1 / ways
    return Comparison(shared, difference, p=p, test="permutation")


def _welch(values: pd.Series[float], mean: float, deviation: float, count: int) -> tuple[float, float, float]:
    """Compare by Welch's test with a sample of which mean, deviation and size are known.

    Returns:
        p, standard error and degrees of freedom; not numbers where neither sample varies.
    """
    spread, size = float(values.std(ddof=1)), len(values)
    parts = spread**2 / size, deviation**2 / count
    error = math.sqrt(sum(parts))
    if error < _SAME:
        return math.nan, math.nan, math.nan
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (size - 1) + parts[1] ** 2 / (count - 1))
    return _two_sided((float(values.mean()) - mean) / error, freedom), error, freedom


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return p with Holm's correction over the tests that could be made; the others stay not a number."""
    known = sorted((value, name) for name, value in p.items() if not math.isnan(value))
    adjusted, largest = dict(p), 0.0
    for rank, (value, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        adjusted[name] = largest
    return adjusted


def corrected(found: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """Return the comparisons with Holm's correction over all but sign-flip tests that could never show anything.

    A test whose smallest possible p is too large adds no false findings, so the others need not pay for it (Tarone
    1990, Biometrics 46, 515-522). It keeps its own p; with more seeds all of them would be of the family.
    """
    counted = {name: comparison for name, comparison in found.items() if not comparison.hopeless}
    adjusted = holm({name: comparison.p for name, comparison in counted.items()})
    family = sum(comparison.tested for comparison in counted.values())
    return {
        name: replace(comparison, p=adjusted[name], family=max(1, family))
        if name in counted
        else replace(comparison, family=len(found) - len(counted) + family)
        for name, comparison in found.items()
    }


def compare_with_printed(errors: pd.Series[float], printed: tuple[float, float], seeds: int = 10) -> float:
    """Return two-sided p of Welch's test against a mean and deviation that the paper prints.

    Returns:
        Not a number with fewer than three values.
    """
    values = errors.dropna()
    if len(values) < FEWEST:
        return math.nan
    return _welch(values, printed[0], printed[1], seeds)[0]


@dataclass(frozen=True)
class Overall:
    """Comparison of many cells with the paper's at once: over many, some differ by chance."""

    tested: int
    differing: int
    """Number of cells with p < 0.05, not corrected."""
    p: float
    """Stouffer's combined p, two-sided, of signed differences; not a number if none was tested."""
    above: int
    """Number of cells whose mean error lies above the paper's."""

    @property
    def expected(self) -> float:
        """Number of cells that would differ by chance alone."""
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
