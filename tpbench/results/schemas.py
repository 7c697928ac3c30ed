"""Models of the records of a store: type and range of every field, checked when a file is read.

A checksum proves that a file is as it was written, not that its fields are valid: other programs and changed copies of
this one write checksums too. Import this where a file is read, not at the top: pydantic takes a tenth of a second.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)

from tpbench.engine import CURVES
from tpbench.engine.protocol import UNVALIDATED_CURVES
from tpbench.results.alignments import AlignmentRecord
from tpbench.results.artifacts import ID_PATTERN
from tpbench.results.networks import TrainedNetwork
from tpbench.results.runs import LARGEST_PREDICTIONS, RunDefinition, RunRecord, TuningBudget

LARGEST_INT = 2**63 - 1
"""Largest integer of data frames and of exports."""

Name = Annotated[str, Field(min_length=1, max_length=1000)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=rf"^{ID_PATTERN.pattern}$")]
Natural = Annotated[int, Field(ge=0, le=LARGEST_INT)]
Count = Annotated[int, Field(ge=1, le=LARGEST_INT)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
"""Number of epochs, in the range that the command line and files of workloads permit."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Setting = Finite | Annotated[list[Finite], Field(min_length=1)]
"""The value of a hyperparameter: a number, or one for each layer."""
MOST = 1 + 1e-6
"""The largest fraction: a sum over minibatches may be a rounding above 1."""
Fraction = Annotated[float, Field(ge=0, le=MOST)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Scalar = str | bool | Annotated[int, Field(ge=-LARGEST_INT, le=LARGEST_INT)] | Finite | None


class Record(BaseModel):
    """A mapping of known fields, each of exactly its type: the text of a number is no number."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Extensible(Record):
    """A record that may have further fields of single values, as other versions add them."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Scalar]


class ProvenanceFields(Extensible):
    """Provenance of a run or record."""

    command: str | None = None
    options: dict[str, Scalar | list[Scalar] | dict[str, Scalar | list[Scalar]]] = {}
    commit: str | None = None
    device: str | None = None
    device_name: str | None = None
    precision: str | None = None
    day: str | None = None
    replaces: list[Digest] = []


def _check_depth(value: Any, levels: int = 8) -> Any:
    """Refuse values that are nested more deeply than any workload, which could not be written again."""
    if isinstance(value, (dict, list)):
        if not levels:
            raise ValueError("it is nested too deeply")
        for part in value.values() if isinstance(value, dict) else value:
            _check_depth(part, levels - 1)
    return value


def model_of(record: type, base: type[BaseModel], **types: Any) -> type[BaseModel]:
    """Make the model of a dataclass, which is the only list of the fields.

    A field is optional where it has a default, unless its metadata has ``required``. It is left out where they have
    ``stored=False``, and has another name in files where they have ``name``.

    Args:
        record: a dataclass whose annotations are names of types.
        base: the model's base class.
        types: models of these names, beside those of this module.
    """
    hints = get_type_hints(record, localns={**globals(), "Mapping": dict, **types}, include_extras=True)
    known: dict[str, Any] = {}
    for f in fields(record):
        required = (f.default is MISSING and f.default_factory is MISSING) or f.metadata.get("required")
        if f.metadata.get("stored", True):
            known[f.metadata.get("name", f.name)] = (hints[f.name], ... if required else None)
    return create_model(f"{record.__name__}Fields", __base__=base, **known)


class _Checked(Record):
    """A run whose curves fit to each other and to its definition."""

    @model_validator(mode="after")
    def _check_curves(self: Any) -> Any:
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
        validated = any(name not in UNVALIDATED_CURVES for name in self.curves)
        if points and not {"test_error", *["validation_error"] * validated} <= set(self.curves):
            raise ValueError("its curves lack the validation or the test error")
        for name, values in self.curves.items():
            if name.endswith("_error") and values and not (min(values) >= 0 and max(values) <= MOST):
                raise ValueError(f"its {name} is no fraction")
        return self


class _Searched(Extensible):
    """The fields of a search info beside the tuning budget."""

    role: str = ""
    sweep: str = ""
    space: str = ""
    seeds: list[Natural] = []


FoundFields = model_of(TuningBudget, _Searched)
"""Search info of a run (:func:`tpbench.results.runs.search_info`)."""
DefinitionFields = model_of(RunDefinition, Record, Split=Literal["", "by class"])
_RUN_TYPES: dict[str, Any] = {
    "RunDefinition": DefinitionFields,
    "Status": Literal["finished", "diverged"],
    "Curves": dict[str, list[Finite]],
    "Provenance": ProvenanceFields,
    "SearchInfo": FoundFields,
    "Content": Annotated[dict[str, Any], AfterValidator(_check_depth)],
}
RunFields = model_of(RunRecord, _Checked, **_RUN_TYPES)
"""Fields that a run's file and its summary have in common."""


class _Written(_Checked):
    """Entries of a run's file beside the fields. Those of the same format that another version adds are passed over."""

    model_config = ConfigDict(extra="ignore")
    id: RunId
    selected_epoch: Natural | None = None
    validation_error: Fraction | None = None
    test_error: Fraction | None = None


RunFile = model_of(RunRecord, _Written, **_RUN_TYPES)


class PredictionsFile(Record):
    """A run's predictions (:class:`tpbench.results.runs.Predictions`)."""

    format: int
    run: RunId
    curves: Digest
    samples: Annotated[int, Field(ge=1, le=8 * LARGEST_PREDICTIONS)]
    correct: str
    """Packed bits in base64."""


SummaryFields = create_model(
    "SummaryFields",
    __base__=RunFields,
    found=(FoundFields, ...),
    workload=(dict[str, Any], ...),
    digest_of_curves=(Digest, ...),
)
"""Fields of a run in the cache of summaries, which holds all of them."""


class CacheFile(Record):
    """A cache of the summaries of one store."""

    format: int
    store: Any
    """A path, which need not be text."""
    holders: dict[Any, Annotated[tuple[str, dict[RunId, SummaryFields | None]], Strict(False)]]  # type: ignore[valid-type]


Angle = Annotated[float, Field(ge=0, le=180)] | None


class _Ordered(Record):
    """An alignment record whose minibatches are in order."""

    @model_validator(mode="after")
    def _check_steps(self: Any) -> Any:
        if any(later <= earlier for earlier, later in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError("its minibatches are not in order")
        if self.steps[-1] >= self.epochs * self.steps_per_epoch:
            raise ValueError(f"it measured the minibatch {self.steps[-1]}, which is after its last epoch")
        if 0.0 not in self.dampings:
            raise ValueError("it has no undamped angles")
        return self


AlignmentFile = model_of(
    AlignmentRecord,
    _Ordered,
    Seeds=Annotated[list[Natural], Field(min_length=1)],
    Steps=Annotated[list[Natural], Field(min_length=1)],
    LossAngles=list[list[list[Angle]]],
    TargetAngles=list[list[list[list[Angle]]]],
    Provenance=ProvenanceFields,
)


class _Header(Record):
    """The description in a network's file. Further entries are passed over."""

    model_config = ConfigDict(extra="ignore")


class ConvolutionFields(Record):
    """A convolutional layer of a network's file."""

    channels: Count
    kernel: Count
    pool: Count
    stride: Count


NetworkFields = model_of(
    TrainedNetwork,
    _Header,
    Sizes=Annotated[list[Count], Field(min_length=2)],
    Convolutions=list[ConvolutionFields],
    ImageMap=Annotated[list[Count], Field(min_length=3, max_length=3)] | None,
    NDArray=list,
)


def check_fields(model: type[BaseModel] | TypeAdapter[Any], value: Any) -> None:
    """Check the fields of a value.

    Raises:
        ValueError: one is missing or wrong; the message is one line that names the first one and holds no value.
    """
    try:
        if isinstance(model, TypeAdapter):
            model.validate_python(value)
        else:
            model.model_validate(value)
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
