"""Made-up runs for the tests of the store and the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpbench.results import RunDefinition, RunRecord


def record(
    method: str = "bp", seed: int = 0, errors: list[float] | None = None, *, workload: str = "mnist", epochs: int = 100,
    lr: float = 1e-3, label: str = "", status: str = "finished", fingerprint: str = "f" * 64,
    precision: str = "float32", found: Mapping[str, Any] | None = None,
) -> RunRecord:  # fmt: skip
    """A run whose validation and test errors are ``errors``, test 0.01 higher."""
    errors = [0.5, 0.02] if errors is None else errors
    curves = {"validation_error": errors, "test_error": [e + 0.01 for e in errors]}
    definition = RunDefinition(workload, fingerprint, method, {"lr": lr}, seed, epochs, precision=precision)
    return RunRecord(definition, label, status, curves, 1.5, 10, {"torch": "x"}, found or {})
