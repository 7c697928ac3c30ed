"""Statistics of cells and of differences between methods: tests, intervals, equivalence (docs/protocol.md).

Errors are in per cent. A test or interval of differences takes an array with a row per seed and a column per
difference: all of them share the seeds, so one sign per seed is flipped for all at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

ALPHA = 0.05
"""Significance level of every test, after the correction for the number of methods."""
MIN_SEEDS = 3
"""Smallest number of seeds of a mean that has an interval, and of a cell that is tested."""
MARGIN = 5.0
"""Per cent of the paper's error within which a cell agrees with it."""
_PAPER_SEEDS = 10
"""Number of seeds behind a mean that the paper prints."""
_MAX_EXACT = 2**18
"""Largest number of flips, or of deals into two groups, that are all tried."""
_RANDOM_DRAWS = 100_000
# Per cent. A run's error is a count over its samples, so smaller differences are rounding.
_SAME = 1e-9

Floats = NDArray[np.floating[Any]]
Key = TypeVar("Key", bound=Hashable)


def mean_interval(errors: ArrayLike) -> tuple[float, float]:
    """Return Student's 95 % confidence interval of a mean, at any number of seeds.

    Returns:
        Lower and upper end in per cent; not a number where there are fewer than three values.
    """
    values = np.asarray(errors, dtype=float)
    if len(values) < MIN_SEEDS:
        return math.nan, math.nan
    return t_interval(float(values.mean()), float(values.std(ddof=1)), len(values))


def t_interval(mean: float, deviation: float, count: int) -> tuple[float, float]:
    """Return Student's 95 % confidence interval of a mean from its sample deviation and the number of values."""
    half = _t_quantile(count - 1, 1 - ALPHA / 2) * deviation / math.sqrt(count)
    return mean - half, mean + half


# scipy.special has what scipy.stats would say, and takes a quarter of its time to import.
def _t_quantile(freedom: float, level: float) -> float:
    return float(special.stdtrit(freedom, level))


# Joint sign flips


@lru_cache(maxsize=4)
def sign_flips(pairs: int) -> Floats:
    """Return flips of signs (flips, pairs): all 2^n of them up to 18 pairs, the first of which flips none.

    Beyond, that one and 100,000 random ones, which are the same at every call.
    """
    if 2**pairs <= _MAX_EXACT:
        return 1.0 - 2.0 * ((np.arange(2**pairs)[:, None] >> np.arange(pairs)) & 1)
    drawn = np.random.default_rng(0).integers(0, 2, size=(_RANDOM_DRAWS, pairs))
    return np.vstack([np.ones(pairs), 1.0 - 2.0 * drawn])


def _flipped(differences: Floats) -> Floats:
    """Return (flips, k) cosines between the flipped differences and a constant.

    Student's t of n differences grows with this cosine c alone: t = c * sqrt((n - 1) / (1 - c^2)). It is finite also
    where all differences are equal, which t is not. Differences that are all zero have the cosine 0.
    """
    lengths = np.sqrt(len(differences) * np.sum(differences**2, axis=0))
    scaled: Floats = np.divide(differences, lengths, out=np.zeros_like(differences), where=lengths > _SAME)
    flipped: Floats = sign_flips(len(differences)) @ scaled
    return flipped


def max_t(differences: ArrayLike, *, one_sided: bool = False) -> Floats:
    """Return p of each mean difference by the step-down max-T test with joint sign flips.

    One sign per seed is flipped for all differences at once. The largest |t| is compared with the largest of all
    differences over the flips, the next with the largest of those that are left, and so on; p never falls on the way.
    The error over the family is at most 5 % where without a difference the noise of the seeds is symmetric.

    Args:
        differences: (seeds, k).
        one_sided: True: only positive means count, and t instead of |t|.

    Source:
        Westfall and Young 1993, Resampling-Based Multiple Testing, algorithm 4.1.
    """
    values = np.asarray(differences, dtype=float)
    if not values.size:
        return np.ones(values.shape[1])
    statistics = _flipped(values) if one_sided else np.abs(_flipped(values))
    order = np.argsort(-statistics[0], kind="stable")
    # The largest of each difference and all that have a smaller one.
    largest = np.maximum.accumulate(statistics[:, order[::-1]], axis=1)[:, ::-1]
    p = np.mean(largest >= statistics[0, order] - _SAME, axis=0)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(p)
    return adjusted


def simultaneous_intervals(differences: ArrayLike) -> list[tuple[float, float]]:
    """Return intervals of mean differences that all hold at once with 95 %: mean ± q s / sqrt(n).

    q is the quantile of the largest |t| over all joint sign flips of the centred differences.

    Args:
        differences: (seeds, k).
    """
    values = np.asarray(differences, dtype=float)
    if not values.size:
        return []
    # Differences that are equal but for rounding are none: the interval must hold 0.
    values = np.where(np.abs(values) < _SAME, 0.0, values)
    means, count = values.mean(axis=0), len(values)
    largest = np.max(np.abs(_flipped(values - means)), axis=1)
    cosine = min(float(np.quantile(largest, 1 - ALPHA)), 1.0)
    quantile = cosine * math.sqrt((count - 1) / (1 - cosine**2)) if cosine < 1 else math.inf
    errors = values.std(axis=0, ddof=1) / math.sqrt(count)
    halves = np.where(errors < _SAME, 0.0, quantile * np.maximum(errors, _SAME))
    return [(float(mean - half), float(mean + half)) for mean, half in zip(means, halves, strict=True)]


# Cells of few seeds


@lru_cache(maxsize=4)
def _deals(values: int, chosen: int) -> NDArray[np.intp]:
    """Return the indices of all choices of so many values (deals, chosen)."""
    indices = chain.from_iterable(combinations(range(values), chosen))
    return np.fromiter(indices, dtype=np.intp, count=chosen * math.comb(values, chosen)).reshape(-1, chosen)


def permutation_p(first: ArrayLike, second: ArrayLike) -> float:
    """Return two-sided p of the exact unpaired permutation test of two means; of 100,000 deals where there are more.

    Not a number where one of the groups has fewer than three values.
    """
    one, other = (np.asarray(values, dtype=float) for values in (first, second))
    if min(len(one), len(other)) < MIN_SEEDS:
        return math.nan
    pooled = np.concatenate([one, other])
    if math.comb(len(pooled), len(one)) <= _MAX_EXACT:
        sums = pooled[_deals(len(pooled), len(one))].sum(axis=1)
    else:
        generator = np.random.default_rng(0)
        deals = generator.permuted(np.broadcast_to(pooled, (_RANDOM_DRAWS, len(pooled))), axis=1)
        sums = np.append(deals[:, : len(one)].sum(axis=1), one.sum())
    expected = len(one) * pooled.mean()
    return float(np.mean(np.abs(sums - expected) >= abs(one.sum() - expected) - _SAME))


def holm(p: Mapping[Key, float]) -> dict[Key, float]:
    """Return p with Holm's correction over the tests that could be made; the others stay not a number."""
    known = sorted((value, number, name) for number, (name, value) in enumerate(p.items()) if not math.isnan(value))
    adjusted, largest = dict(p), 0.0
    for rank, (value, _, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        adjusted[name] = largest
    return adjusted


# Against the paper


@dataclass(frozen=True)
class Agreement:
    """A cell against a mean that the paper prints. All numbers are per cent of the paper's mean."""

    difference: float
    low: float
    """Lower end of the 95 % interval (Welch's); not a number with fewer than three seeds."""
    high: float
    within: str
    """``yes``: within ±5 % by two one-sided tests at 5 %; ``no``: the whole interval is outside; ``open``: neither."""


def agreement(errors: ArrayLike, printed: tuple[float, float]) -> Agreement:
    """Compare errors with a mean and sample deviation that the paper prints.

    Args:
        errors: one per seed.
        printed: mean and sample standard deviation.
    """
    values, (mean, deviation) = np.asarray(errors, dtype=float), printed
    difference = 100 * (float(values.mean()) - mean) / mean
    if len(values) < MIN_SEEDS:
        return Agreement(difference, math.nan, math.nan, "open")
    parts = values.var(ddof=1) / len(values), deviation**2 / _PAPER_SEEDS
    error = 100 * math.sqrt(sum(parts)) / mean
    if error < _SAME:
        return Agreement(difference, difference, difference, "yes" if abs(difference) < MARGIN else "no")
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(values) - 1) + parts[1] ** 2 / (_PAPER_SEEDS - 1))
    half = _t_quantile(freedom, 1 - ALPHA / 2) * error
    # Two one-sided tests at 5 % reject together where the 90 % interval lies within the margin.
    inside = abs(difference) + _t_quantile(freedom, 1 - ALPHA) * error < MARGIN
    within = "yes" if inside else "no" if abs(difference) - half > MARGIN else "open"
    return Agreement(difference, difference - half, difference + half, within)


@dataclass(frozen=True)
class Shift:
    """Mean relative difference of several cells from the paper's, in per cent, with its 95 % interval."""

    cells: int
    difference: float
    low: float
    high: float


def overall_shift(cells: Sequence[tuple[ArrayLike, tuple[float, float]]]) -> Shift | None:
    """Return the mean relative difference from the paper over cells, with an interval from 10,000 resamples.

    Seeds are drawn with replacement for all cells at once, as runs of one seed share split and order of samples. The
    paper's means are drawn from a normal distribution each, independently of each other.

    Args:
        cells: for each, the errors of the same seeds in the same order, and the printed mean and deviation.
    """
    if not cells:
        return None
    errors = np.array([np.asarray(values, dtype=float) for values, _ in cells])
    printed = np.array([pair for _, pair in cells])
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, errors.shape[1], size=(10_000, errors.shape[1]))
    ours = errors[:, drawn].mean(axis=2)
    normal = generator.standard_normal((len(cells), len(drawn)))
    theirs = printed[:, :1] + printed[:, 1:] / math.sqrt(_PAPER_SEEDS) * normal
    low, high = np.quantile(100 * np.mean(ours / theirs - 1, axis=0), [ALPHA / 2, 1 - ALPHA / 2])
    return Shift(len(cells), 100 * float(np.mean(errors.mean(axis=1) / printed[:, 0] - 1)), float(low), float(high))


# Right and wrong of each test sample


def minibatch_mean(correct: NDArray[np.bool_], batch: int = 128) -> float:
    """Return the test error in per cent as the mean over minibatches: samples of a short last one weigh more.

    Args:
        correct: (test samples,), in the order of the data set.
        batch: samples per minibatch; the authors' is 128.
    """
    starts = np.arange(0, len(correct), batch)
    wrong = np.add.reduceat(~correct, starts, dtype=float)
    return 100 * float(np.mean(wrong / np.diff(np.append(starts, len(correct)))))


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same test samples."""

    first_only: int
    """Samples that the first alone classifies correctly."""
    second_only: int
    p: float
    """Two-sided p of the exact test that both are as many but for chance."""


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """Compare two runs on the same test samples by McNemar's exact test.

    Args:
        first, second: (test samples,), True where the sample is classified correctly.
    """
    first_only, second_only = int(np.sum(first & ~second)), int(np.sum(~first & second))
    tail = float(special.bdtr(min(first_only, second_only), first_only + second_only, 0.5))
    return McNemar(first_only, second_only, min(1.0, 2 * tail) if first_only + second_only else 1.0)


def sampling_error(error: float, samples: int) -> float:
    """Return the standard error in percentage points that a test error has from the number of test samples alone."""
    return 100 * math.sqrt(error / 100 * (1 - error / 100) / samples)


# Epochs


def first_epoch(curve: Sequence[float], reached: Callable[[float], bool]) -> int | None:
    """Return the first epoch, from 1, at which a curve has reached a target; None if it never does."""
    return next((epoch for epoch, value in enumerate(curve, start=1) if reached(value)), None)
