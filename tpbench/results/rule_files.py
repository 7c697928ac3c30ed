"""Files in which packages bring what belongs to a rule: its search space, published configurations, reference numbers.

:attr:`tpbench.engine.Method.settings` names the file. Its keys, none of which must be there::

    source: Liao et al. 2016, https://...
    space:                        # one range for each hyperparameter
      lr: {log_uniform: [1.0e-5, 1.0e-2]}
    published:                    # the authors' configurations, by workload
      mnist: {lr: 0.001}
    reference:                    # mean and standard deviation of their test error in per cent, or the mean alone
      mnist: [1.9, 0.1]
      digits: 3.2
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from tpbench.engine import TpbenchError, UsageError, get_method
from tpbench.engine.methods import REGISTRY
from tpbench.workloads.yaml_files import FileModel, Number, Text, YamlFile

MeanAndDeviation = Annotated[
    list[Number],
    Field(min_length=1, max_length=2),
    BeforeValidator(lambda given: given if isinstance(given, list) else [given]),
]
"""A list of both, or the mean alone."""


class RuleEntries(FileModel):
    """The keys of a rule's file; the search space and the configurations are checked where they are used."""

    source: Text = ""
    space: dict[str, Any] | None = None
    published: dict[str, dict[str, Any]] = Field(default_factory=dict)
    reference: dict[str, MeanAndDeviation] = Field(default_factory=dict)


@contextmanager
def package_errors(method: str) -> Iterator[None]:
    """Name the package of a method in errors of its file, which are no wrong usage."""
    try:
        yield
    except UsageError as error:
        if method in REGISTRY.built_in:
            raise
        raise TpbenchError(f"{REGISTRY.describe(method)}: {error}") from error


def rule_file(method: str) -> tuple[YamlFile, RuleEntries] | None:
    """Return the file that a package brings with a method; None where it brings none.

    Raises:
        UsageError: there is no such method.
        TpbenchError: the package is broken, or its file is wrong; with package, file and line.
    """
    path = get_method(method).settings
    if path is None:
        return None
    with package_errors(method):
        file = YamlFile(Path(path), "the settings of a rule")
        return file, file.validate(RuleEntries)
