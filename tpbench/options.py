"""The options of every command that trains: one frozen model per command.

From the fields of a model follow the arguments of the command line, the keywords of the Python call, the options that
a run records, and the tables of the documentation. A field has a type, a default, a range and a help text.

Lowest of all layers: it imports pydantic alone.
"""

from __future__ import annotations

import inspect
import operator
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

LARGEST_COUNT = 1_000_000
LARGEST_SEED = 2**32 - 1
MOST_SEEDS = 10_000
"""Seeds in one range of a text such as ``0-9``."""
DEFAULT_SEEDS = tuple(range(10))

M = TypeVar("M", bound="Options")


class InvalidOptionError(ValueError):
    """A value that an option cannot have."""

    def __init__(self, parameter: str, value: object, reason: str, choices: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.parameter, self.value, self.reason, self.choices = parameter, value, reason, choices


@dataclass(frozen=True)
class Option:
    """The part of a field that the command line and the documentation show."""

    help: str
    flag: str = ""
    """The name on the command line; empty: the field's name with dashes. Without dashes: a positional argument."""
    metavar: str | None = None
    shown: str | None = None
    """Words for a default that no value shows, such as ``all``."""
    panel: str = ""
    """The group of options in the command's help; empty: that of the model's class."""
    variable: str | None = None
    """The environment variable that gives the value where the command line does not."""
    completion: str = ""
    """The names that a shell completes: ``workloads``, ``methods`` or ``trackers``."""
    kind: Literal["", "file", "workloads", "place", "track", "once"] = ""
    """``file`` and ``workloads``: paths, or names beside them, of which runs record the last part. ``place`` and
    ``track``: of one machine, and no run records them. ``once``: left out of a command that continues."""


@dataclass(frozen=True)
class Range:
    """Whole numbers from the lowest to the highest; numpy's are as good as Python's."""

    lowest: int
    highest: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def check(self, value: object) -> int:
        """Return the number as Python's own.

        Raises:
            ValueError: it is no whole number, or out of range.
        """
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            number = self.lowest - 1
        if isinstance(value, bool) or not self.lowest <= number <= self.highest:
            raise ValueError(f"give a whole number from {self.lowest} to {self.highest}")
        return number


def check_name(value: object) -> str:
    """Return a single name.

    Raises:
        ValueError: it is no text.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError("one name is needed, as text")
    return os.fspath(value)


def join_names(value: object) -> str:
    """Return one name, names with commas between them, or a list of names as names with commas between them.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if not isinstance(value, Iterable):
        raise ValueError("give a name, a list of names, or 'all'")
    return ",".join(map(check_name, value))


def format_place(value: object) -> str:
    """Return a folder or URL as text; paths of :mod:`upath` are no paths of the system.

    Raises:
        ValueError: it is neither.
    """
    if not (isinstance(value, (str, os.PathLike)) or (hasattr(value, "protocol") and hasattr(value, "joinpath"))):
        raise ValueError("give a folder or a URL")
    return str(value)


def check_flag(value: object) -> bool:
    """Return True or False; the meaning of anything else, such as "no", is not clear.

    Raises:
        ValueError: it is neither.
    """
    if type(value).__name__ not in ("bool", "bool_"):
        raise ValueError("give True or False")
    return bool(value)


def _places(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        return tuple(map(format_place, value))
    return (format_place(value),)


def _trackers(value: object) -> tuple[str, ...]:
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    if not isinstance(value, Iterable):
        raise ValueError("give 'tensorboard', 'mlflow' or a list of them")
    return tuple(map(check_name, value))


def _hyperparameters(value: object) -> str | dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            str(name): number.item() if hasattr(number, "item") and getattr(number, "size", 1) == 1 else number
            for name, number in value.items()
        }
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError("give 'default', 'published', 'best', a YAML file or hyperparameters by name")
    return os.fspath(value)


def _pack(value: object) -> int | str:
    if value == "auto":
        return "auto"
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 5 and int(text)):
        raise ValueError("write 'auto' or a number from 1 to 9999")
    return int(text)


def _halving(value: int) -> int:
    if value == 1:
        raise ValueError("write a factor from 2 to 10 (3 is usual), or leave it out")
    return value


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Return ``2h``, ``90m``, ``1.5h`` or ``300s`` in seconds.

    Raises:
        ValueError: it is none of these.
    """
    found = re.fullmatch(rf"([0-9]{{1,6}}(?:\.[0-9]{{1,3}})?)([{''.join(_UNITS)}])", text.strip())
    if not found or float(found[1]) == 0:
        raise ValueError(f"write a time such as 2h, a number and one of {', '.join(_UNITS)}")
    return float(found[1]) * _UNITS[found[2]]


def _budget(value: object) -> str:
    parse_duration(check_name(value))
    return check_name(value)


def _interval(value: object) -> int | str:
    text = value.strip() if isinstance(value, str) else ""
    try:
        if text and not (text.isascii() and text.isdigit()):
            parse_duration(text)
            return text
        # More digits than a count has are no number that Python need read.
        return Range(1, LARGEST_COUNT).check(int(text[:10]) if text else value)
    except ValueError:
        raise ValueError(
            f"give a time such as 60s or 5m, or a whole number of epochs from 1 to {LARGEST_COUNT}"
        ) from None


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of ``0-9``, ``3`` or ``0,2,5-7``, each once and in their order.

    Raises:
        ValueError: it is none of these, or a seed is not below 2^32.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        bounds = [first, last if dash else first]
        # Python limits how many digits int() takes; no seed has more than ten.
        if not all(b.isascii() and b.isdigit() and len(b) <= 10 for b in bounds):
            raise ValueError("write a seed, a range or a list of them: 0-9 or 0,2,5-7")
        low, high = int(bounds[0]), int(bounds[1])
        if low > high or high > LARGEST_SEED or high - low >= MOST_SEEDS:
            raise ValueError("a range goes from a smaller to a larger seed below 2^32, at most 10,000 long")
        seeds += range(low, high + 1)
    return tuple(dict.fromkeys(seeds))


def format_seeds(seeds: Iterable[int]) -> str:
    """Return seeds as :func:`parse_seeds` reads them: ``range(10)`` is ``0-9``."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][1] + 1 and seed - spans[-1][0] < MOST_SEEDS:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def read_seeds(value: object) -> tuple[int, ...]:
    """Return the seeds of a text, or of numbers in a list or range.

    Raises:
        ValueError: they are no seeds. A single number is refused: it may be a seed, or a count.
    """
    if isinstance(value, str):
        return parse_seeds(value)
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        single = type(value) is int and value > 0
        example = f"[{value}] for that seed alone, range({value}) for so many" if single else "range(10)"
        raise ValueError(f"give {example}, or text such as '0-4,7'")
    seeds = tuple(dict.fromkeys(map(Range(0, LARGEST_SEED).check, value)))
    if not seeds:
        raise ValueError("there is none")
    return seeds


def _several_seeds(value: object) -> tuple[int, ...]:
    """Refuse a single number, which older versions took for a count."""
    if isinstance(value, str) and value.isascii() and value.strip().isdigit():
        value = int(value)
    if type(value) is int:
        raise ValueError(
            f"a list is needed, such as 0-9: --n-seeds {value} is so many seeds, and --seeds {value}-{value} the seed "
            f"{value} alone"
        )
    return read_seeds(value)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Flag = Annotated[bool, BeforeValidator(check_flag)]
Name = Annotated[str, BeforeValidator(check_name)]
Names = Annotated[str, BeforeValidator(join_names)]
Place = Annotated[str, BeforeValidator(format_place)]
Trackers = Annotated[tuple[str, ...], BeforeValidator(_trackers)]
Seeds = Annotated[tuple[int, ...], BeforeValidator(read_seeds)]
SeveralSeeds = Annotated[tuple[int, ...], BeforeValidator(_several_seeds)]
Count = Annotated[int, Range(1, LARGEST_COUNT)]
Precision = Literal["float32", "float64", "tf32", "bf16"]
Objective = Literal["validation_error", "validation_loss", "train_loss"]


PANELS = ("What is trained", "Search", "Where", "Resources", "Precision", "Tracking", "Output")
"""Groups of options in the help of a command, in their order."""


class Options(BaseModel):
    """The options of a command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: ClassVar[str]
    panel: ClassVar[str] = PANELS[0]
    """Group of the options that a class declares."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Names that parameters had in older versions, and those of today."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return the options that have these values, by the names of the fields.

        Raises:
            InvalidOptionError: a value is wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            reason = str(first.get("ctx", {}).get("error", first["msg"]))
            choices = choices_of(cls.model_fields[name]) if first["type"] == "literal_error" else ()
            raise InvalidOptionError(name, first["input"], reason, choices) from None

    @classmethod
    def fields(cls) -> dict[str, tuple[FieldInfo, Option]]:
        """Return the fields with what is shown of them, a command's own before those of its groups."""
        names = [name for base in cls.__mro__ for name in inspect.get_annotations(base) if name in cls.model_fields]
        known = {name: cls.model_fields[name] for name in dict.fromkeys(names)}
        return {
            name: (field, next(part for part in field.metadata if isinstance(part, Option)))
            for name, field in known.items()
        }

    @classmethod
    def panels(cls) -> dict[str, str]:
        """Return the group of every option."""
        bases = [base for base in reversed(cls.__mro__) if issubclass(base, Options)]
        declared = {name: base for base in bases for name in inspect.get_annotations(base)}
        return {name: shown.panel or declared[name].panel for name, (_, shown) in cls.fields().items()}

    def plain(self) -> dict[str, Any]:
        """Return the command and every option that is not the default, as plain data for JSON."""
        values: dict[str, Any] = {"command": self.command}
        for name, (field, _) in self.fields().items():
            value = getattr(self, name)
            if value is None or value is False or (value == field.default and not field.is_required()):
                continue
            if name == "seeds":
                value = format_seeds(value)
                # Alone, a number is no list where it was a count once.
                if value.isascii() and value.isdigit() and isinstance(self, SeveralSeedsOptions):
                    value = f"{value}-{value}"
            # One file is written as older versions wrote it.
            single = name == "space" and len(value) == 1
            values[name] = value[0] if single else list(value) if isinstance(value, tuple) else value
        return values


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """Return the values of a field that has one of a few, without the default that stands for none; or nothing."""
    parts = (field.annotation, *get_args(field.annotation))
    return next((tuple(map(str, get_args(part))) for part in parts if get_origin(part) is Literal), ())


class StoreOptions(Options):
    """The store and the data."""

    panel = "Where"

    results: Annotated[Place, Option("Folder or URL of the run store.", metavar="DIR|URL", kind="place")] = "results"
    data: Annotated[
        Place | None,
        Option("Folder of the data sets.", metavar="DIR", shown="$TPBENCH_DATA or the cache", kind="place"),
    ] = None
    offline: Annotated[
        Flag | None, Option("Download nothing: a missing data set is an error.", variable="TPBENCH_OFFLINE")
    ] = None

    @property
    def downloads_nothing(self) -> bool:
        """True if a missing data set is an error; without the option, as the environment has it."""
        if self.offline is None:
            return os.environ.get("TPBENCH_OFFLINE", "").strip().lower() in ("1", "t", "true", "y", "yes", "on")
        return self.offline


class TrainingOptions(StoreOptions):
    """Options of every command that trains."""

    panel = "Precision"

    precision: Annotated[
        Precision, Option("Arithmetic of the training: {choices}.", metavar="NAME", completion="choices")
    ] = "float32"


class KeptOptions(TrainingOptions):
    """Options of every command that fills a store with runs."""

    panel = "Output"

    checkpoint_every: Annotated[
        int | str,
        BeforeValidator(_interval),
        Option(
            "Time or number of epochs between checkpoints; a pack makes none in its first minute.",
            metavar="TIME|EPOCHS",
        ),
    ] = "60s"
    keep_networks: Annotated[
        Flag, Option("Store the network of every run too, at its selected epoch; not those of a search.")
    ] = False
    track: Annotated[
        Trackers,
        Option(
            "Follow every run in TensorBoard or MLflow too; may be given twice.",
            metavar="tensorboard[:DIR]|mlflow[:URI]",
            panel="Tracking",
            completion="trackers",
            kind="track",
        ),
    ] = ()


class ClusterOptions(Options):
    """The part of a machine or cluster that a command uses."""

    panel = "Resources"

    cpus: Annotated[Count | None, Option("CPU cores to use.", shown="all")] = None
    gpus: Annotated[Annotated[int, Range(0, LARGEST_COUNT)] | None, Option("GPUs to use.", shown="all")] = None
    address: Annotated[
        Name | None, Option("Address of a running Ray cluster.", metavar="auto|HOST:PORT", shown="none", kind="place")
    ] = None


class SeedOptions(Options):
    """The seeds of runs: a list of them, or their number."""

    seeds: Annotated[
        Seeds | None,
        Option("Seeds of the runs: a range or a list, such as 0-9 or 0,2,5-7.", metavar="SEEDS", shown="0-9"),
    ] = None
    n_seeds: Annotated[
        Annotated[int, Range(1, MOST_SEEDS)] | None,
        Option("Number of seeds, counted from 0; instead of --seeds.", shown="10"),
    ] = None

    @field_validator("n_seeds")
    @classmethod
    def _one_of_both(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("seeds") is not None:
            raise ValueError("the seeds are listed too; give one of both")
        return value

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return self.seeds or (tuple(range(self.n_seeds)) if self.n_seeds else DEFAULT_SEEDS)


class SeveralSeedsOptions(SeedOptions):
    """The seeds of runs where a number alone was a count in older versions, and is refused."""

    seeds: Annotated[
        SeveralSeeds | None,
        Option("Seeds of the final runs: a range or a list.", metavar="SEEDS", shown="0-9"),
    ] = None

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds of the final runs, the smallest first."""
        return tuple(sorted(super().seed_list))


class EpochOptions(Options):
    """The length of a training."""

    epochs: Annotated[Count | None, Option("Joint epochs of a run.", shown="the workload's")] = None


class ConfigurationOptions(Options):
    """The hyperparameters of runs."""

    configuration: Annotated[
        str | dict[str, Any],
        BeforeValidator(_hyperparameters),
        Option(
            "Hyperparameters: the authors' (by default tpbench's own on the digits), the store's best, or a file's.",
            flag="--config",
            metavar="default|published|best|FILE",
            kind="file",
        ),
    ] = "default"
    device: Annotated[
        Name, Option("Where the runs are trained.", metavar="auto|cpu|cuda|cuda:N", panel="Resources")
    ] = "auto"


class SearchOptions(EpochOptions):
    """A search."""

    panel = "Search"

    trials: Annotated[Count, Option("Number of configurations that a search tries.")] = 100
    search_epochs: Annotated[
        Count | None, Option("Joint epochs of the search's runs; the final runs keep --epochs.", shown="as --epochs")
    ] = None
    space: Annotated[
        tuple[str, ...],
        BeforeValidator(_places),
        Option("A search space; may be given several times.", metavar="FILE", shown="the method's", kind="file"),
    ] = ()
    start: Annotated[
        Place | None,
        Option(
            "Configurations that a search tries first.",
            metavar="published|FILE",
            shown="none",
            completion="starts",
            kind="file",
        ),
    ] = None
    objective: Annotated[
        Objective, Option("Number that a search minimises: {choices}.", metavar="NAME", completion="choices")
    ] = "validation_error"
    halving: Annotated[
        int,
        BeforeValidator(_halving),
        Range(0, 10),
        Option(
            "Stop the worst of each pack early: of FACTOR configurations one goes on, twice. 3 is usual.",
            metavar="FACTOR",
            shown="0: none is stopped",
        ),
    ] = 0
    search_seed: Annotated[int, Range(0, LARGEST_SEED), Option("Seed of the search's suggestions.")] = 0
    search_precision: Annotated[
        Precision | None,
        Option(
            "Arithmetic of the search alone; the final runs keep --precision.",
            metavar="NAME",
            shown="as --precision",
            panel="Precision",
            completion="choices",
        ),
    ] = None
    pack: Annotated[
        int | str,
        BeforeValidator(_pack),
        Option("Number of configurations that train together; auto measures it.", metavar="auto|K"),
    ] = "auto"
    fresh: Annotated[
        Flag, Option("Begin a new sweep instead of continuing the one with these options.", kind="once")
    ] = False
    accept_failures: Annotated[
        Flag, Option("Go on even if more than a tenth of the configurations could not be trained.")
    ] = False

    @property
    def pack_size(self) -> int | None:
        """Members per pack; None: measured."""
        return self.pack if isinstance(self.pack, int) else None


DryRun = Annotated[Flag, Option("Plan, with the time that it takes here, and train nothing.", kind="once")]


class SweepOptions(SearchOptions, SeveralSeedsOptions, ClusterOptions, KeptOptions):
    """Options of ``tpbench sweep``."""

    command = "sweep"
    panel = PANELS[0]
    renamed = {"final_seeds": "seeds"}

    @property
    def searched_in(self) -> str:
        """The precision of the search."""
        return self.search_precision or self.precision

    workloads: Annotated[
        Names,
        Option(
            "Names or .yaml files with commas between them, or 'all' (see 'tpbench workloads').",
            flag="WORKLOADS",
            completion="workloads",
            kind="workloads",
        ),
    ]
    methods: Annotated[
        Names,
        Option(
            "Names with commas between them, 'all' or 'field' (see 'tpbench methods').",
            flag="METHODS",
            completion="methods",
        ),
    ]
    dry_run: DryRun = False


class RunOptions(ConfigurationOptions, SeedOptions, EpochOptions, KeptOptions):
    """Options of ``tpbench run``."""

    command = "run"
    panel = PANELS[0]

    workload: Annotated[
        Name,
        Option(
            "A name (see 'tpbench workloads') or a .yaml file.",
            flag="WORKLOAD",
            completion="workloads",
            kind="workloads",
        ),
    ]
    method: Annotated[
        Names,
        Option(
            "Names with commas between them, 'all' or 'field' (see 'tpbench methods').",
            flag="METHODS",
            completion="methods",
        ),
    ]
    again: Annotated[
        Flag, Option("Train stored runs again that lack their predictions (right or wrong for each test sample).")
    ] = False


class AlignOptions(ConfigurationOptions, SeedOptions, EpochOptions, TrainingOptions):
    """Options of ``tpbench align``."""

    command = "align"
    panel = PANELS[0]

    workload: Annotated[
        Name,
        Option(
            "A name (see 'tpbench workloads') or a .yaml file.",
            flag="WORKLOAD",
            completion="workloads",
            kind="workloads",
        ),
    ]
    method: Annotated[Name, Option("A name (see 'tpbench methods').", flag="METHOD", completion="methods")]
    seeds: Annotated[
        Seeds | None,
        Option("Seeds of the runs: a range or a list, such as 0-9 or 0,2,5-7.", metavar="SEEDS", shown="0"),
    ] = None
    n_seeds: Annotated[
        Annotated[int, Range(1, MOST_SEEDS)] | None,
        Option("Number of seeds, counted from 0; instead of --seeds.", shown="1"),
    ] = None
    every: Annotated[Count, Option("Minibatches between two measurements of the angles.")] = 50

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds that are trained together."""
        return super().seed_list if self.seeds or self.n_seeds else (0,)


class ReproduceOptions(SeveralSeedsOptions, ClusterOptions, KeptOptions):
    """Options of ``tpbench reproduce``."""

    command = "reproduce"
    panel = PANELS[0]

    table: Annotated[
        Literal["1", "s6"], BeforeValidator(_lower), Option("The paper's table to train.", metavar="{choices}")
    ] = "s6"
    workloads: Annotated[
        Names | None, Option("Only these workloads, with commas between them.", metavar="NAMES", shown="the table's")
    ] = None
    methods: Annotated[
        Names | None, Option("Only these methods, with commas between them.", metavar="NAMES", shown="the table's")
    ] = None
    budget: Annotated[
        str | None,
        BeforeValidator(lambda value: None if value is None else _budget(value)),
        Option(
            "Time for all, such as 2h or 90m; a cell that would end later is not begun.", metavar="TIME", shown="none"
        ),
    ] = None
    dry_run: DryRun = False

    @property
    def budget_seconds(self) -> float | None:
        """The time in which cells may begin."""
        return parse_duration(self.budget) if self.budget else None


MODELS: dict[str, type[Options]] = {
    model.command: model for model in (SweepOptions, RunOptions, ReproduceOptions, AlignOptions)
}

REMOVED = {"compare": {"detect": "the 95 % interval of a difference says which differences the seeds leave open"}}
"""Options of older versions that are gone, by the command, and the reasons."""


def flag_of(name: str, shown: Option) -> str:
    """Return the command line's spelling of a field."""
    return shown.flag or f"--{name.replace('_', '-')}"


def help_of(field: FieldInfo, text: str) -> str:
    """Return a help text, or metavar, in which ``{choices}`` is spelled."""
    separator = "|" if text == "{choices}" else ", "
    return text.replace("{choices}", separator.join(choices_of(field)))


def flags() -> dict[str, str]:
    """Return the command line's spelling of every parameter."""
    return {name: flag_of(name, shown) for model in MODELS.values() for name, (_, shown) in model.fields().items()}


_PARTS = re.compile(r"[/\\]+")


def _last_part(text: str) -> str:
    return next((part for part in reversed(_PARTS.split(text)) if part), "")


def recorded(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain options as a run records them: without the places of one machine, files by their names.

    Args:
        options: as :meth:`Options.plain` gives them.
    """
    kept = {"command": options["command"]}
    for name, value, shown in _known(options):
        if shown.kind in ("place", "track"):
            continue
        if isinstance(value, str) and shown.kind == "workloads":
            value = ",".join(map(_last_part, value.split(",")))
        elif isinstance(value, str) and shown.kind == "file":
            value = _last_part(value)
        elif isinstance(value, list) and shown.kind == "file":
            value = [_last_part(one) for one in value]
        kept[name] = [_escaped(one) for one in value] if isinstance(value, list) else _escaped(value)
    return kept


def _escaped(value: Any) -> Any:
    """Return a value in which bytes of names that are no text are escapes."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def continuing(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain options that go on with what these began: without those that hold for one call alone."""
    once = {name for name, _, shown in _known(options) if shown.kind == "once"}
    return {name: value for name, value in options.items() if name not in once}


def _known(options: Mapping[str, Any]) -> Iterator[tuple[str, Any, Option]]:
    fields = MODELS[options["command"]].fields()
    for name, (_, shown) in fields.items():
        if name in options:
            yield name, options[name], shown


def format_command(options: Mapping[str, Any]) -> str:
    """Return the command line of plain options; of hyperparameters in a mapping there is none, so the call of Python.

    Args:
        options: as :meth:`Options.plain` gives them; an empty mapping is no command.
    """
    if not options:
        return ""
    command = options["command"]
    known = list(_known(options))
    positional = [(name, value) for name, value, shown in known if shown.flag and not shown.flag.startswith("-")]
    others = [(name, value, shown) for name, value, shown in known if (name, value) not in positional]
    if any(isinstance(value, Mapping) for _, value, _ in others):
        words = [repr(value) for _, value in positional]
        words += [repr(value) for _, value, _ in others if isinstance(value, Mapping)]
        words += [f"{name}={value!r}" for name, value, _ in others if not isinstance(value, Mapping)]
        return f"tpbench.{command}({', '.join(words)})"
    words = [str(value) for _, value in positional]
    for name, value, shown in others:
        for one in value if isinstance(value, (list, tuple)) else [value]:
            words += [flag_of(name, shown)] if one is True else [flag_of(name, shown), str(one)]
    return shlex.join(["tpbench", command, *words])


_OLDER_SWEEP = {"--seeds": "n_seeds", "--final-seeds": "seeds"}


def parse_older_command(text: str) -> dict[str, Any]:
    """Return the plain options of a ``tpbench sweep`` that version 0.2.0 wrote down; empty where it is none.

    There, ``--seeds`` was a count and ``--final-seeds`` a list.
    """
    try:
        words = shlex.split(text)
    except ValueError:
        return {}
    if words[1:2] != ["sweep"]:
        return {}
    fields = SweepOptions.fields()
    names = {flag_of(name, shown): name for name, (_, shown) in fields.items()} | _OLDER_SWEEP
    positional = iter(("workloads", "methods"))
    values: dict[str, Any] = {}
    remaining = iter(words[2:])
    for word in remaining:
        flag, equals, value = word.partition("=")
        name = names.get(flag, "") if flag.startswith("--") else next(positional, "")
        if not name:
            return {}
        field = fields[name][0]
        if not flag.startswith("--"):
            values[name] = word
        elif is_flag(field):
            values[name] = True
        elif name in ("track", "space"):
            values[name] = [*values.get(name, []), value if equals else next(remaining, "")]
        else:
            text = value if equals else next(remaining, "")
            values[name] = f"{text}-{text}" if name == "seeds" and text.isdigit() else text
            if range_of(field):
                values[name] = int(text) if text.isascii() and text.isdigit() else text
    try:
        return SweepOptions.read(values).plain()
    except InvalidOptionError:
        return {}


def is_flag(field: FieldInfo) -> bool:
    """Return whether a field is true or false."""
    return bool in (field.annotation, *(getattr(part, "__origin__", part) for part in get_args(field.annotation)))


def range_of(field: FieldInfo) -> Range | None:
    """Return the range of a field of whole numbers, also of ``Annotated[...] | None``."""
    inner = (one for part in get_args(field.annotation) for one in getattr(part, "__metadata__", ()))
    return next((part for part in (*field.metadata, *inner) if isinstance(part, Range)), None)


def options_table(model: type[Options]) -> str:
    """Return the reference table of a command's options, in Markdown.

    Example:
        >>> print(options_table(RunOptions))  # doctest: +SKIP
    """
    lines = ["| command line | Python | default | meaning |", "|---|---|---|---|"]
    for name, (field, shown) in model.fields().items():
        metavar = f" {help_of(field, shown.metavar)}" if shown.metavar else ""
        if field.is_required():
            default = "required"
        else:
            empty = field.default is None or field.default is False or field.default == ()
            default = shown.shown or ("" if empty else f"`{field.default}`")
        limits = range_of(field)
        text = help_of(field, shown.help)
        if limits and not shown.metavar:
            text += f" From {limits.lowest:,} to {limits.highest:,}."
        spelled = f"{flag_of(name, shown)}{metavar}".replace("|", "&#124;")
        lines.append(f"| <code>{spelled}</code> | `{name}` | {default} | {text} |")
    return "\n".join(lines) + "\n"
