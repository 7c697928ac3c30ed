"""What the records of a store must hold: the type and the range of every field, checked when a file is read.

A checksum says that a file is as it was written, not that what was written makes sense: other programs and changed
copies of this one write checksums too. Import this where a file is read, not at the top: pydantic takes a tenth of a
second.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationError, model_validator

from tpbench.engine import CURVES
from tpbench.results.predictions import LARGEST_FILE as LARGEST_PREDICTIONS
from tpbench.results.runs import ID_PATTERN

T = TypeVar("T")

LARGEST_INT = 2**63 - 1
"""What data frames and the files of exports can hold."""

Name = Annotated[str, Field(min_length=1, max_length=1000)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=rf"^{ID_PATTERN.pattern}$")]
Natural = Annotated[int, Field(ge=0, le=LARGEST_INT)]
Count = Annotated[int, Field(ge=1, le=LARGEST_INT)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
"""As many as the command line and files of workloads permit."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
MOST = 1 + 1e-6
"""The largest fraction: a sum over minibatches may be a rounding above 1."""
Fraction = Annotated[float, Field(ge=0, le=MOST)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Scalar = str | bool | Annotated[int, Field(ge=-LARGEST_INT, le=LARGEST_INT)] | Finite | None


class Record(BaseModel):
    """A mapping of known fields, each of exactly its type: text that spells a number is no number."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Extensible(Record):
    """One that may say more, in single values: what another version notes is shown, not understood."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Scalar]


class DefinitionFields(Record):
    """The fields of :class:`tpbench.results.runs.RunDefinition`."""

    workload: Name
    fingerprint: str
    method: Name
    configuration: dict[str, Finite]
    seed: Natural
    epochs: Epochs
    protocol: Count
    precision: Name = "float32"
    method_source: str = ""
    workload_source: str = ""
    split: Literal["", "by class"] = ""


class ProvenanceFields(Extensible):
    """Where a run or record came from."""

    command: str | None = None
    options: dict[str, Scalar | list[Scalar] | dict[str, Scalar]] = {}
    commit: str | None = None
    device: str | None = None
    device_name: str | None = None
    precision: str | None = None
    day: str | None = None
    replaces: list[Digest] = []


class FoundFields(Extensible):
    """How a configuration was found (:mod:`tpbench.results.budgets`)."""

    by: str = ""
    role: str = ""
    sweep: str = ""
    trials: Natural = 0
    epochs: Natural = 0
    objective: str = ""
    space: str = ""
    seeds: list[Natural] = []
    halving: Natural = 0
    search_precision: str = ""


def _check_depth(value: Any, levels: int = 8) -> Any:
    """Refuse what is nested more deeply than anything that a workload says: what cannot be written must not be read."""
    if isinstance(value, (dict, list)):
        if not levels:
            raise ValueError("it is nested too deeply")
        for part in value.values() if isinstance(value, dict) else value:
            _check_depth(part, levels - 1)
    return value


class RunFields(Record):
    """What a run's file and its summary have in common."""

    definition: DefinitionFields
    data_label: str
    status: Literal["finished", "diverged"]
    curves: dict[str, list[Finite]]
    wall_time_s: Seconds
    pack_members: Count
    provenance: ProvenanceFields
    found: FoundFields = Field(default_factory=lambda: FoundFields.model_validate({}))
    workload: Annotated[dict[str, Any], AfterValidator(_check_depth)] = {}

    @model_validator(mode="after")
    def _check_curves(self) -> RunFields:
        if unknown := set(self.curves) - set(CURVES):
            raise ValueError(f"there is no curve {min(unknown)!r}")
        lengths = {len(values) for values in self.curves.values()}
        if len(lengths) > 1:
            raise ValueError("its curves have different lengths")
        points = max(lengths, default=0)
        if points > self.definition.epochs:
            raise ValueError(f"its curves have {points} points, but it has {self.definition.epochs} epochs")
        if not points and self.status == "finished":
            raise ValueError("it is finished, but has no curves")
        if points and not {"validation_error", "test_error"} <= set(self.curves):
            raise ValueError("its curves lack the validation or the test error")
        for name, values in self.curves.items():
            if name.endswith("_error") and values and not (min(values) >= 0 and max(values) <= MOST):
                raise ValueError(f"its {name} is no fraction")
        return self


class RunFile(RunFields):
    """A run's file. Fields of the same format that another version adds are passed over."""

    model_config = ConfigDict(extra="ignore")
    id: RunId
    selected_epoch: Natural | None = None
    validation_error: Fraction | None = None
    test_error: Fraction | None = None


class PredictionsFile(Record):
    """A run's predictions (:class:`tpbench.results.predictions.Predictions`)."""

    format: int
    run: RunId
    curves: Digest
    samples: Annotated[int, Field(ge=1, le=8 * LARGEST_PREDICTIONS)]
    correct: str
    """Packed bits in base64."""


class SummaryFields(RunFields):
    """A run in the cache of summaries, which holds all fields."""

    found: FoundFields
    workload: dict[str, Any]
    digest_of_curves: Digest


class CacheFile(Record):
    """The user's cache of the summaries of one store."""

    format: int
    store: Any
    """A path, which need not be text."""
    files: dict[RunId, Annotated[tuple[str, SummaryFields], Strict(False)]]
    archives: dict[Any, Annotated[tuple[str, dict[RunId, SummaryFields | None]], Strict(False)]]


Angle = Annotated[float, Field(ge=0, le=180)] | None


class AlignmentFile(Record):
    """The fields of :class:`tpbench.results.alignments.AlignmentRecord`."""

    workload: Name
    data_label: str
    method: Name
    seeds: Annotated[list[Natural], Field(min_length=1)]
    epochs: Epochs
    every: Count
    steps_per_epoch: Count
    dampings: list[Seconds]
    steps: Annotated[list[Natural], Field(min_length=1)]
    loss_angles: list[list[list[Angle]]]
    target_angles: list[list[list[list[Angle]]]]
    provenance: ProvenanceFields

    @model_validator(mode="after")
    def _check_steps(self) -> AlignmentFile:
        if any(later <= earlier for earlier, later in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError("its minibatches are not in order")
        if self.steps[-1] >= self.epochs * self.steps_per_epoch:
            raise ValueError(f"it measured the minibatch {self.steps[-1]}, which is after its last epoch")
        if 0.0 not in self.dampings:
            raise ValueError("it has no undamped angles")
        return self


class NetworkFields(Record):
    """What a network's file says of it (:class:`tpbench.results.networks.TrainedNetwork`)."""

    model_config = ConfigDict(extra="ignore")
    run: RunId
    workload: Name
    method: Name
    seed: Natural
    precision: Name
    selected_epoch: Natural
    validation_error: Fraction
    test_error: Fraction
    curves: str
    sizes: Annotated[list[Count], Field(min_length=2)]
    scale: Finite
    shift: Finite
    tpbench: str


def check_fields(fields: type[BaseModel] | TypeAdapter[Any], value: Any) -> None:
    """Refuse a value that has not these fields.

    Raises:
        ValueError: it has not; the message is one line that names the first wrong field, and holds no value.
    """
    try:
        if isinstance(fields, TypeAdapter):
            fields.validate_python(value)
        else:
            fields.model_validate(value)
    except ValidationError as error:
        raise ValueError(_one_line(error)) from None


def _one_line(error: ValidationError) -> str:
    first, *others = error.errors(include_url=False, include_context=False, include_input=False)
    # A place may be a name from the file, of any length and with any characters.
    place = ".".join(ascii(part)[1:-1] if isinstance(part, str) else str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    where = f"{place if len(place) <= 80 else place[:77] + '...'}: " if place else ""
    more = f"; {len(others)} more" if others else ""
    return f"{where}{message[:1].lower()}{message[1:]}{more}"
