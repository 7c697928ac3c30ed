"""What a sweep's files must hold: the type and the range of every field, checked when they are read.

Import this where a file is read, as :mod:`tpbench.results.schemas`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from tpbench.results.budgets import DEFAULT_OBJECTIVE, OBJECTIVES
from tpbench.results.schemas import Count, Epochs, Finite, Fraction, Name, Natural, Record, Scalar

Suggestion = Annotated[dict[str, Finite], Field(min_length=1)]


class OutcomeFields(Record):
    """The fields of :class:`tpbench.training.pack.Outcome`."""

    run: str
    status: Literal["finished", "diverged", "pruned", "stopped"]
    validation_error: Fraction
    test_error: Fraction | None
    value: Finite | None = None
    epochs: Natural | None = None


class _Event(Record):
    """A line of a journal. What another version adds to it is passed over."""

    model_config = ConfigDict(extra="ignore")


class Suggested(_Event):
    """A pack was handed out."""

    event: Literal["suggested"]
    pack: Natural
    suggestions: Annotated[list[Suggestion], Field(min_length=1)]


class Ended(_Event):
    """A pack ended; no outcomes: it failed."""

    event: Literal["ended"]
    pack: Natural
    outcomes: list[OutcomeFields]


class Split(_Event):
    """The final seeds were split into packs."""

    event: Literal["split"]
    packs: Count


class Final(_Event):
    """The final runs are in the store."""

    event: Literal["final"]
    outcomes: list[OutcomeFields]


class Failed(_Event):
    """The sweep ended without a result."""

    event: Literal["failed"]
    reason: str


EVENT: TypeAdapter[Suggested | Ended | Split | Final | Failed] = TypeAdapter(
    Annotated[Suggested | Ended | Split | Final | Failed, Field(discriminator="event")]
)
"""Any line of a journal."""


class SweepFields(Record):
    """The fields of :class:`tpbench.search.definition.SweepDefinition`, as ``sweep.json`` holds them."""

    workload: Name
    method: Name
    fingerprint: str
    space: dict[str, list[Scalar]]
    trials: Count
    epochs: Epochs
    seeds: Annotated[list[Natural], Field(min_length=1)]
    search_seed: Natural
    pack: Count
    lag: Count
    precision: Name = "float32"
    method_source: str = ""
    workload_source: str = ""
    objective: Literal[OBJECTIVES] = DEFAULT_OBJECTIVE  # type: ignore[valid-type]
    halving: Annotated[int, Field(ge=0, le=10)] = 0
    search_precision: str = ""
