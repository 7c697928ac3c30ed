"""Tables of the paper, and the numbers that it prints."""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from tpbench.engine.errors import TpbenchError, UsageError, unknown
from tpbench.engine.methods import REGISTRY
from tpbench.engine.plugins import warn_once

ERROR_TABLES = ("1", "s6")
"""Tables of test errors: methods x workloads."""
DAMPING_TABLE = "s7"
PAPER_WORKLOADS = ("mnist", "mnist-frozen", "fashion-mnist", "cifar10")
"""The columns of the tables of test errors."""
LOSS_TABLE = "loss"
"""Table of final training losses; the authors' code has it, the paper does not."""
ANGLE_TABLE = "angles"
"""Table of the angles of Figures 4 and S3 to S5."""
OVERVIEW_TABLE = "overview"
"""Matrix of methods x workloads against the baseline."""
EPOCHS_TABLE = "epochs"
"""Table of the epochs until the validation error is near the baseline's."""
FIELD_TABLE = "field"
"""All rules of each workload, grouped by what they need, with their cost."""
BASELINE_TABLES = (OVERVIEW_TABLE, EPOCHS_TABLE, FIELD_TABLE)
"""Tables that compare with a baseline, which can be chosen."""
TABLES = (*ERROR_TABLES, DAMPING_TABLE, LOSS_TABLE, ANGLE_TABLE, *BASELINE_TABLES)
"""Names of all tables."""


def check_table(name: str) -> str:
    """Return the name of one of :data:`TABLES`, which may be written in capitals.

    Raises:
        UsageError: there is no such table.
    """
    if name.lower() not in TABLES:
        raise unknown("table", name.lower(), TABLES)
    return name.lower()


def check_table_options(name: str, baseline: str | None, tuning: str | None) -> None:
    """Check that a table takes the baseline or tuning that is given with it; None: none is given.

    Raises:
        UsageError: it takes none.
    """
    for parameter, value in (("baseline", baseline), ("tuning", tuning)):
        if value is not None and name not in BASELINE_TABLES:
            tables = ", ".join(f"'{table}'" for table in BASELINE_TABLES)
            raise UsageError(f"only the tables {tables} have one", parameter=parameter, value=value)


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    return dict(yaml.safe_load(files("tpbench.results").joinpath("paper_tables.yaml").read_text(encoding="utf-8")))


def table_methods(table: str) -> list[str]:
    """Return the methods of one of :data:`ERROR_TABLES`, in the paper's order.

    Raises:
        UsageError: there is no such table.
    """
    if table not in ERROR_TABLES:
        raise unknown("table", table, ERROR_TABLES)
    return list(_tables()[f"table_{table}"])


def paper_dampings(method: str) -> list[float] | None:
    """Return the damping of every hidden layer that the paper selects on Fashion-MNIST (Table S7)."""
    printed = _tables()["table_s7"].get(method)
    return [float(v) for v in printed] if printed else None


def paper_cell(workload: str, method: str) -> tuple[float, float] | None:
    """Return mean and standard deviation of the test error in per cent over 10 seeds (Table S6), or None.

    For the method of a package, the numbers that it brings (:func:`reference_numbers`).
    """
    printed = _tables()["table_s6"].get(method, {}).get(workload)
    return tuple(printed) if printed else reference_numbers(method).get(workload)


def reference_numbers(method: str) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation of the test error in per cent, by workload, that a package brings.

    The deviation is not a number where the package brings the mean alone.
    Empty where it brings none, or is not installed here; prints a line on standard error where its file is wrong.
    """
    if method not in REGISTRY or method in REGISTRY.built_in:
        return {}
    from tpbench.results.rule_files import rule_file

    try:
        found = rule_file(method)
    except TpbenchError as error:
        warn_once(f"{error}; the others can be used")
        return {}
    numbers = found[1].reference if found else {}
    return {workload: (given[0], given[1] if len(given) > 1 else math.nan) for workload, given in numbers.items()}
