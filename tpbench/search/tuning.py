"""Tuning curves: the best validation error that a number of trials can be expected to give, and what it cost.

Dodge et al. (2019), "Show Your Work", with replacement; without replacement the estimate is unbiased.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import TpbenchError
from tpbench.results import RunStore
from tpbench.results.runs import tuning_budget
from tpbench.search.listing import stored_sweeps, sweep_trials
from tpbench.search.spaces import supplied_sweeps

if TYPE_CHECKING:
    import pandas as pd

OBSERVED = "observed"
WITH, WITHOUT = "random, with replacement", "random, without replacement"
KINDS = (OBSERVED, WITHOUT, WITH)
"""Kinds of tuning curves."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_TYPES = {
    "sweep": "object",
    "workload": "object",
    "method": "object",
    "search": "object",
    "kind": "object",
    "trials": "int64",
    "member_epochs": "float64",
    "validation_error": "float64",
}
_SPREAD_TYPES = {
    **dict.fromkeys(("sweep", "workload", "method", "search"), "object"),
    "random": "int64",
    "unfinished": "int64",
    **{f"q{100 * share:.0f}": "float64" for share in QUANTILES},
}


def expected_best(
    values: Sequence[float] | NDArray[np.float64], n: Sequence[int] | None = None, *, replacement: bool = True
) -> NDArray[np.float64]:
    """Return the expected lowest of n draws from N values.

    With replacement ``sum v(i) [((N-i+1)/N)^n - ((N-i)/N)^n]``, without ``sum v(i) C(N-i, n-1)/C(N, n)``, v ascending.

    Args:
        values: errors of the trials (N,), all finite.
        n: numbers of draws, each from 1, and without replacement at most N; None: 1 to N.
        replacement: draw with replacement.

    Returns:
        One expectation for each number of draws.

    Raises:
        ValueError: there are no values, or n is out of its range.

    Example:
        >>> expected_best([2.30, 2.50, 2.92, 3.10, 4.00, 5.80], [1, 2], replacement=False).round(6)
        array([3.436667, 2.697333])
    """
    ascending = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ascending)
    draws = np.arange(1, count + 1) if n is None else np.asarray(n)
    if not count or np.any(draws < 1) or (not replacement and np.any(draws > count)):
        raise ValueError(f"{count} values have no expected best of {draws.tolist()} draws")
    # The probability that all n draws are above the i lowest values, for i = 0 to N: a row for each n.
    below = np.arange(count + 1)
    if replacement:
        above = ((count - below) / count) ** draws[:, None]
    else:
        # C(N-i, n) / C(N, n), factor by factor, as the numbers themselves are too large.
        factors = np.clip(count - draws[:, None] - below[:-1], 0, None) / (count - below[:-1])
        above = np.hstack([np.ones((len(draws), 1)), np.cumprod(factors, axis=1)])
    return np.asarray((above[:, :-1] - above[:, 1:]) @ ascending)


def tuning_frames(
    store: RunStore, workloads: Collection[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Return tuning curves and the spread of the random trials of a store's sweeps, and lines about those left out.

    A trial that was not trained to its end (stopped at a rung, pruned, diverged, failed) costs the epochs that it was
    trained for, and is never the best. A random draw can hit it like any other. It then counts with the search's score:
    its error when it was stopped, 100 % if it diverged or failed, and never less than the worst trial that came to its
    end. A quantile that falls among such trials, which rank last, is missing. The trials of a halved search end as
    brackets; the expectation takes them as single ones.

    Member epochs of n random trials are n times the mean over the random trials; a failed trial has none on record.

    Args:
        store: of the sweeps.
        workloads: only sweeps on these; None: all.

    Returns:
        The curves: ``sweep``, ``workload``, ``method``, ``search``, ``kind`` (one of :data:`KINDS`), ``trials`` (from
        1, in the order of suggestion), ``member_epochs`` up to there, ``validation_error`` (per cent; observed: the
        lowest so far, missing before the first). The spread: one row per sweep with the number of ``random`` trials,
        that of ``unfinished`` ones among them, and quantiles of their validation errors as ``q10`` to ``q90``.

    Raises:
        TpbenchError: the store cannot be read.
    """
    import pandas as pd

    curves: list[pd.DataFrame] = []
    spread: list[dict[str, Any]] = []
    problems: list[str] = []
    names: set[str] = set()
    for sweep in stored_sweeps(store):
        name = sweep.folder.name
        names.add(name)
        try:
            definition, trials = sweep.read(), pd.DataFrame(sweep_trials(sweep))
        except TpbenchError as error:
            problems.append(f"{error}; it has no tuning curve")
            continue
        if trials.empty or not (workloads is None or definition.workload in workloads):
            continue
        if not definition.minimises_error:
            problems.append(f"{name} minimises the {definition.objective.replace('_', ' ')}; it has no tuning curve")
            continue
        head = {
            "sweep": name,
            "workload": definition.workload,
            "method": definition.method,
            "search": definition.label,
        }
        made = _curves(trials)
        curves.append(made.assign(**head))
        spread.append(head | _spread(trials))
    problems += _without_journal(store, workloads, names)
    frame = pd.concat(curves) if curves else pd.DataFrame(columns=list(_TYPES))
    quantiles = pd.DataFrame(spread, columns=list(_SPREAD_TYPES))
    frame = frame[list(_TYPES)].reset_index(drop=True)
    return frame.astype(_TYPES), quantiles.astype(_SPREAD_TYPES), problems


def _without_journal(store: RunStore, workloads: Collection[str] | None, known: Collection[str]) -> list[str]:
    """Return a line about the searches of which the store has runs alone; none where there are no such.

    The searches of configurations that come with tpbench are no searches of the user's.
    """
    others = {*known, *supplied_sweeps()}
    found = dict.fromkeys(
        f"{run.definition.workload} {run.definition.method} ({tuning_budget(run.search_info)})"
        for run in store.summaries()
        if run.search_info.get("by") == "search"
        and run.search_info.get("sweep") not in others
        and (workloads is None or run.definition.workload in workloads)
    )
    return [f"without a tuning curve, as the journal is not here: {', '.join(found)}"] if found else []


def _errors(trials: pd.DataFrame) -> NDArray[np.float64]:
    """Return the validation errors of trials; infinite for those that were not trained to their end."""
    return trials["validation_error"].where(trials["state"] == "finished", np.inf).to_numpy(dtype=np.float64)


def _epochs(trials: pd.DataFrame) -> NDArray[np.float64]:
    """Return the epochs of trials; not a number where older versions did not record them."""
    epochs = trials["epochs"].where(trials["state"] != "failed", 0)
    return np.asarray(epochs.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)


def _curves(trials: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    best = np.minimum.accumulate(_errors(trials))
    parts = [_curve(OBSERVED, np.cumsum(_epochs(trials)), np.where(np.isfinite(best), best, np.nan))]
    random = trials[trials["random"].astype(bool)]
    errors = _errors(random)
    if np.isfinite(errors).any():
        worst = errors[np.isfinite(errors)].max()
        scores = random["objective"].astype("float64").fillna(100.0)
        values = np.where(np.isfinite(errors), errors, np.maximum(scores, worst))
        cost = np.arange(1, len(random) + 1) * _epochs(random).mean()
        parts += [_curve(kind, cost, expected_best(values, replacement=kind == WITH)) for kind in (WITHOUT, WITH)]
    return pd.concat(parts)


def _curve(kind: str, epochs: NDArray[np.float64], errors: NDArray[np.float64]) -> pd.DataFrame:
    import pandas as pd

    trials = np.arange(1, len(errors) + 1)
    return pd.DataFrame({"kind": kind, "trials": trials, "member_epochs": epochs, "validation_error": errors})


def _spread(trials: pd.DataFrame) -> dict[str, Any]:
    random = trials[trials["random"].astype(bool)]
    errors = _errors(random)
    # Not between two trials: there is no middle between a number and infinity.
    quantiles = np.quantile(errors if len(errors) else [np.inf], QUANTILES, method="inverted_cdf")
    return {
        "random": len(errors),
        "unfinished": int(np.isinf(errors).sum()),
        **{
            f"q{100 * share:.0f}": value if np.isfinite(value) else np.nan
            for share, value in zip(QUANTILES, quantiles, strict=True)
        },
    }
