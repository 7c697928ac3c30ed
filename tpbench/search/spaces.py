"""Search spaces and configurations: read from YAML files, checked, written, and converted to HyperOpt."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, RootModel, model_validator

from tpbench.engine import (
    HYPERPARAMETERS,
    SCHEDULE,
    Hyperparameter,
    UsageError,
    check_configuration,
    get_method,
    method_names,
    unknown,
)
from tpbench.results.runs import tuning_budget
from tpbench.workloads import Workload
from tpbench.workloads.yaml_files import AMBIGUOUS_NUMBER, FileModel, Location, Number, Text, YamlFile, invalid

_MIN_RELATIVE_WIDTH = 1e-9
"""Too few numbers lie between two bounds that are closer, or between their logarithms."""


def _number_of(value: object) -> object:
    """Return the number that a text spells, if every YAML reader takes it for the same one."""
    if isinstance(value, str) and not AMBIGUOUS_NUMBER.fullmatch(value):
        try:
            return float(value)
        except ValueError:
            return value
    return value


AnyNumber = Annotated[Number, BeforeValidator(_number_of)]
"""A number, also in quotes."""
Bounds = Annotated[list[AnyNumber], Field(min_length=2, max_length=2)]
"""Lower and upper bound."""


class Range(FileModel):
    """The range of one hyperparameter, of exactly one kind: a key of a search space's file."""

    log_uniform: Bounds | None = None
    uniform: Bounds | None = None
    choice: Annotated[list[AnyNumber], Field(min_length=1)] | None = None
    constant: AnyNumber | None = None

    @property
    def kind(self) -> str:
        """The key that the file has: ``log_uniform``, ``uniform``, ``choice`` or ``constant``."""
        return next(name for name in Range.model_fields if getattr(self, name) is not None)

    @property
    def values(self) -> list[float]:
        """Its numbers: two bounds, the values of a choice, or one constant."""
        value = getattr(self, self.kind)
        return value if isinstance(value, list) else [value]

    def holds(self, value: float) -> bool:
        """Return whether a search of this range can suggest a value; bounds belong to it."""
        if self.kind in ("choice", "constant"):
            return value in self.values
        lower, upper = self.values
        return lower <= value <= upper

    def __str__(self) -> str:
        return f"{self.kind} {getattr(self, self.kind)}"

    @model_validator(mode="after")
    def _check(self) -> Range:
        if sum(getattr(self, name) is not None for name in Range.model_fields) != 1:
            raise invalid(f"exactly one of {', '.join(Range.model_fields)} is needed")
        if self.kind in ("log_uniform", "uniform"):
            self._check_bounds(*self.values)
        return self

    def _check_bounds(self, lower: float, upper: float) -> None:
        if self.kind == "log_uniform" and min(lower, upper) <= 0:
            raise invalid(f"the logarithm of {min(lower, upper):g} does not exist; bounds must be positive", self.kind)
        if lower >= upper:
            raise invalid(f"the lower bound {lower:g} is not below the upper bound {upper:g}", self.kind)
        # HyperOpt works with the logarithms, and with mixtures of normal distributions of a fraction of the width.
        low, high = (math.log(lower), math.log(upper)) if self.kind == "log_uniform" else (lower, upper)
        if (high - low) <= _MIN_RELATIVE_WIDTH * max(abs(low), abs(high)):
            raise invalid(
                f"the bounds {lower!r} and {upper!r} are too close to search between; write constant", self.kind
            )


@dataclass(frozen=True)
class SearchSpace:
    """The search space of some methods: a range for every hyperparameter."""

    path: Path
    methods: tuple[str, ...]
    ranges: Mapping[str, Range]

    @property
    def constants(self) -> dict[str, float]:
        """The hyperparameters that are not searched."""
        return {name: r.constant for name, r in self.ranges.items() if r.constant is not None}

    @property
    def searched(self) -> tuple[str, ...]:
        """Names of the hyperparameters that are searched."""
        return tuple(name for name, r in self.ranges.items() if r.constant is None)

    def to_hyperopt(self) -> dict[str, Any]:
        """Return the searched hyperparameters as HyperOpt expressions."""
        from hyperopt import hp

        space: dict[str, Any] = {}
        for name, r in self.ranges.items():
            if r.log_uniform:
                space[name] = hp.loguniform(name, *map(math.log, r.log_uniform))
            elif r.uniform:
                space[name] = hp.uniform(name, *r.uniform)
            elif r.choice:
                space[name] = hp.choice(name, r.choice)
        return space

    def describe(self) -> dict[str, list[Any]]:
        """Return the ranges as plain data, for hashing and display."""
        return {name: [r.kind, *r.values] for name, r in self.ranges.items()}


def spaces_folder() -> Path:
    """Return the folder of the paper's search spaces: in an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "search_spaces"
    return installed if installed.is_dir() else package.parent / "search_spaces"


class SpaceEntries(FileModel):
    """The keys of a search space's file."""

    table: Any = None
    """The paper's table that the space is from; for readers of the file."""
    methods: list[Text]
    hyperparameters: dict[str, Range]


class ConfigurationEntries(RootModel[dict[str, AnyNumber]]):
    """The hyperparameters of a configuration's file."""


def load_space(path: Path) -> SearchSpace:
    """Read and check a search space.

    Raises:
        UsageError: with file and line: an unknown name, lower >= upper, the logarithm of a non-positive number, ...
    """
    file = YamlFile(path, "a search space")
    entries = file.validate(SpaceEntries)
    known = _known_hyperparameters(entries.methods)
    for name, entry in entries.hyperparameters.items():
        if name not in known:
            raise file.error(("hyperparameters", name), str(unknown("hyperparameter", name, known)))
        _check_values(file, entry, known[name])
    if all(entry.kind == "constant" for entry in entries.hyperparameters.values()):
        raise file.error(("hyperparameters",), "every hyperparameter is constant, there is nothing to search")
    for k, method in enumerate(entries.methods):
        _check_method(file, ("methods", k), method, entries.hyperparameters)
    return SearchSpace(path, tuple(entries.methods), entries.hyperparameters)


def _known_hyperparameters(methods: Iterable[str]) -> dict[str, list[Hyperparameter]]:
    """Return all hyperparameters by name, those of packages' rules too: two of these may share a name.

    Unknown methods add none.
    """
    known = {name: [hyperparameter] for name, hyperparameter in HYPERPARAMETERS.items()}
    for method in methods:
        for name, own in get_method(method).hyperparameter_specs.items() if method in method_names() else ():
            if own not in known.setdefault(name, []):
                known[name].append(own)
    return known


def _check_values(file: YamlFile, entry: Range, hyperparameters: Iterable[Hyperparameter]) -> None:
    """Check that a range holds valid values of the hyperparameters of its name."""
    for hyperparameter in hyperparameters:
        name = hyperparameter.name
        location = ("hyperparameters", name, entry.kind)
        for number in entry.values:
            try:
                hyperparameter.check(number, name)
            except UsageError as error:
                raise file.error(location, str(error).removeprefix(f"{name}: ")) from None
        if hyperparameter.whole and entry.kind in ("log_uniform", "uniform"):
            raise file.error(location, f"{name} is a whole number: write a choice of some")


def _check_method(file: YamlFile, location: Location, method: str, ranges: Collection[str]) -> None:
    """Check that a space has exactly the hyperparameters of a method."""
    try:
        names = get_method(method).names
    except UsageError as error:
        raise file.error(location, str(error)) from None
    missing, extra = [n for n in names if n not in ranges], [n for n in ranges if n not in names]
    if missing:
        raise file.error(location, f"{method} also needs {', '.join(missing)}")
    if extra:
        raise file.error(location, f"{method} has no {', '.join(extra)}")


def space_for(method: str, path: Path | None = None) -> SearchSpace:
    """Return the search space of a method: of the given file, or the paper's.

    Raises:
        UsageError: no space covers the method.
    """
    own = sorted(set(spaces_folder().glob("*.yaml")) - {published_file(), supplied_file()})
    for candidate in [path] if path else own:
        space = load_space(candidate)
        if method in space.methods:
            return space
    if path:
        raise UsageError(f"{path}: no search space covers the method '{method}'; give one with --space FILE")
    raise UsageError(
        f"the paper's search spaces do not cover the method '{method}'; give one with --space FILE "
        "('tpbench show space dfa' prints one to start from)"
    )


def spaces_for(methods: Iterable[str], path: Path | None = None) -> dict[str, SearchSpace]:
    """Return the search space of each method: of the given file where that covers it, otherwise the paper's.

    Raises:
        UsageError: the file covers none of them, or there is none for a method.
    """
    names = list(dict.fromkeys(methods))
    own = load_space(path) if path else None
    if own and not set(names) & set(own.methods):
        raise UsageError(
            f"{path}: no search space for {', '.join(names)}; this file has one for {', '.join(own.methods)}"
        )
    return {name: own if own and name in own.methods else space_for(name) for name in names}


def load_configuration(workload: Workload, method: str, path: Path) -> dict[str, float]:
    """Return the configuration of a YAML or JSON file, checked and completed with the workload's schedule.

    Raises:
        UsageError: the file or one of its values is wrong; with file and line.
    """
    return _configuration_at((), YamlFile(path, "a configuration"), workload, method)


def load_configurations(
    workload: Workload, method: str, path: Path
) -> tuple[YamlFile, dict[Location, dict[str, float]]]:
    """Return the configurations of a file that holds one or a list of them, by their places, and the file.

    Raises:
        UsageError: as of :func:`load_configuration`.
    """
    file = YamlFile(path, "a configuration", several=True)
    return file, {location: _configuration_at(location, file, workload, method) for location in file.entries}


def _configuration_at(location: Location, file: YamlFile, workload: Workload, method: str) -> dict[str, float]:
    """Return the configuration at a place of a file, checked and completed with the workload's schedule."""
    given = {name: value for name, value in file.entries[location].items() if name != "departs"}
    entries = file.validate(ConfigurationEntries, given, location).root
    for name, value in entries.items():
        try:
            check_configuration({name: value}, (), _hyperparameters(method))
        except UsageError as error:
            raise file.error((*location, name), str(error).removeprefix("configuration: ")) from None
    return workload.complete(get_method(method), entries, file.place(location))


def _hyperparameters(method: str) -> list[Hyperparameter]:
    """Return all that a configuration of a method may name."""
    rule = get_method(method)
    return [*rule.hyperparameter_specs.values(), *(HYPERPARAMETERS[name] for name in SCHEDULE if rule.trains_feedback)]


def published_configuration(workload: Workload, method: str) -> dict[str, float]:
    """Return the authors' own configuration of a cell, with their schedule.

    Raises:
        UsageError: they published none.
    """
    given = _hyperparameters_of(_entry(published_file(), workload, method) or {})
    if not given:
        raise UsageError(f"no published configuration of {method} on {workload.name}: {_advice(workload, method)}")
    return workload.complete(get_method(method), given, f"published.yaml, {workload.name}, {method}")


def supplied_configuration(workload: Workload, method: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the configuration of a cell that a search of tpbench's own authors found, and the search info of its runs.

    Raises:
        UsageError: there is none.
    """
    entry = _entry(supplied_file(), workload, method)
    if not entry:
        raise UsageError(
            f"no configuration of {method} on {workload.name} comes with tpbench: {_advice(workload, method)}"
        )
    given = _hyperparameters_of(entry)
    return workload.complete(get_method(method), given, f"digits.yaml, {workload.name}, {method}"), entry["found"]


def _advice(workload: Workload, method: str) -> str:
    name = "FILE.yaml" if workload.source else workload.name
    return f"search one with 'tpbench sweep {name} {method}' and take --config best, or give --config FILE"


def published_file() -> Path:
    """Return the file of the authors' configurations, by workload and method."""
    return spaces_folder() / "published.yaml"


def supplied_file() -> Path:
    """Return the file of the configurations on the digits, by workload and method."""
    return spaces_folder() / "digits.yaml"


def is_published(workload: Workload, method: str) -> bool:
    """Return whether the authors published a configuration of a cell."""
    return _entry(published_file(), workload, method) is not None


def _entry(path: Path, workload: Workload, method: str) -> dict[str, Any] | None:
    """Return the entry of a cell in one of tpbench's own files; None where it has none, as for a user's workload."""
    entries = {} if workload.source else yaml.safe_load(path.read_text(encoding="utf-8"))
    entry: dict[str, Any] | None = entries.get(workload.name, {}).get(method)
    return entry


def known_configurations(method: str) -> dict[str, dict[str, float]]:
    """Return the hyperparameters of a method in tpbench's own files, by workload: the authors', and on the digits."""
    known: dict[str, dict[str, float]] = {}
    for path in (published_file(), supplied_file()):
        for workload, methods in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            if method in methods:
                known[workload] = _hyperparameters_of(methods[method])
    return known


def _hyperparameters_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("departs", "found")}


def format_configuration(workload: Workload, method: str) -> str:
    """Return the default configuration of a cell as YAML, which ``--config`` takes, with notes about it.

    Raises:
        UsageError: there is none.
    """
    if is_published(workload, method):
        values, origin = published_configuration(workload, method), "as published by the authors"
        notes = (_entry(published_file(), workload, method) or {}).get("departs", [])
        notes = [f"departs from the paper's text: {line}" for line in notes]
    else:
        values, found = supplied_configuration(workload, method)
        origin = f"found by a search of {found['trials']} configurations, not the authors'"
        notes = [f"tuning: {tuning_budget(found)}; sweep {found['sweep']}"]
    head = [f"# {get_method(method).title} on {workload.title}, {origin}", *(f"# {note}" for note in notes)]
    return "\n".join([*head, *(f"{name}: {format_number(value)}" for name, value in values.items())]) + "\n"


def format_space(method: str, path: Path | None = None) -> str:
    """Return the search space of a method as YAML, which ``--space`` takes.

    Raises:
        UsageError: no space covers the method.
    """
    space = space_for(method, path)
    hyperparameters = get_method(method).hyperparameter_specs
    lines = [f"# {get_method(method).title}, from {space.path.name}", f"methods: [{method}]", "hyperparameters:"]
    for name, (kind, *values) in space.describe().items():
        numbers = ", ".join(map(format_number, values))
        lines.append(f"  {name}: {{{kind}: {numbers if kind == 'constant' else f'[{numbers}]'}}}")
        lines[-1] += f"  # {' '.join(hyperparameters[name].meaning.split())}"
    return "\n".join(lines) + "\n"


def format_number(value: float) -> str:
    """Spell a number as YAML 1.1 reads it: an exponent needs a point before it and a sign."""
    mantissa, e, exponent = repr(value).partition("e")
    return repr(value) if not e else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
