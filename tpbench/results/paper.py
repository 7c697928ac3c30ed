"""The numbers that the paper prints."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from tpbench.engine import UsageError


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    return dict(yaml.safe_load(files("tpbench.results").joinpath("paper_tables.yaml").read_text(encoding="utf-8")))


def table_methods(table: str) -> list[str]:
    """The methods of Table ``1`` or ``s6``, in the paper's order.

    Raises:
        UsageError: there is no such table.
    """
    if table not in ("1", "s6"):
        raise UsageError(f"unknown table '{table}': there are 1, s6")
    return list(_tables()["table_1"] if table == "1" else _tables()["table_s6"])


def paper_dampings(method: str) -> list[float] | None:
    """The damping of every hidden layer that the paper selects on Fashion-MNIST (Table S7)."""
    printed = _tables()["table_s7"].get(method)
    return [float(v) for v in printed] if printed else None


def paper_cell(workload: str, method: str) -> tuple[float, float] | None:
    """Mean and standard deviation of the test error in per cent over 10 seeds (Table S6); None where it prints none."""
    printed = _tables()["table_s6"].get(method, {}).get(workload)
    return tuple(printed) if printed else None
