"""Search spaces and configurations: read from YAML files, checked, written, and converted to HyperOpt."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from tpbench.engine.configuration import entry_name, is_list
from tpbench.engine.plugins import warn_once
from tpbench.results.rule_files import package_errors, rule_file
from tpbench.results.runs import tuning_budget
from tpbench.workloads import WORKLOADS, Workload, workload_names
from tpbench.workloads.yaml_files import AMBIGUOUS_NUMBER, FileModel, Location, Number, Text, YamlFile, invalid

if TYPE_CHECKING:
    from tpbench.engine import Architecture, Method

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
    """The range of one hyperparameter, of exactly one kind: a key of a search space's file.

    With ``per_layer`` each layer has a number of its own, which is searched in this range.
    """

    log_uniform: Bounds | None = None
    uniform: Bounds | None = None
    choice: Annotated[list[AnyNumber], Field(min_length=1)] | None = None
    constant: AnyNumber | None = None
    per_layer: bool = False

    @property
    def kind(self) -> str:
        """The key that the file has: ``log_uniform``, ``uniform``, ``choice`` or ``constant``."""
        return next(name for name in _KINDS if getattr(self, name) is not None)

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
        return f"{self.kind} {getattr(self, self.kind)}" + ", per layer" * self.per_layer

    @model_validator(mode="after")
    def _check(self) -> Range:
        if sum(getattr(self, name) is not None for name in _KINDS) != 1:
            raise invalid(f"exactly one of {', '.join(_KINDS)} is needed")
        if self.per_layer and self.constant is not None:
            raise invalid("a constant is the same for all layers", "per_layer")
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


_KINDS = ("log_uniform", "uniform", "choice", "constant")
"""The keys of :class:`Range` of which a range has one."""
PER_LAYER = "per_layer"
"""Ends the plain data of a range with a number of its own for each layer."""


@dataclass(frozen=True)
class SearchSpace:
    """The search space of some methods: a range for every hyperparameter of each."""

    path: Path
    methods: tuple[str, ...]
    ranges: Mapping[str, Range]
    workloads: tuple[str, ...] = ()
    """The workloads that it is for; empty: all that have no space of their own."""

    def covers(self, method: str, workload: str) -> bool:
        """Return whether it is for a method on a workload."""
        return method in self.methods and (not self.workloads or workload in self.workloads)

    def of(self, method: str) -> SearchSpace:
        """Return the space of one of its methods, without the hyperparameters that only others have."""
        names = get_method(method).names
        return replace(self, ranges={name: r for name, r in self.ranges.items() if name in names})

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
        return {name: [r.kind, *r.values, *[PER_LAYER] * r.per_layer] for name, r in self.ranges.items()}

    def of_network(self, method: Method, architecture: Architecture) -> SearchSpace:
        """Return the space whose ranges are those of single numbers: ``lr_1``, ``lr_2``, ... for one per layer.

        Raises:
            UsageError: a hyperparameter of this method has one number for all layers.
        """
        entries = method.entries(architecture)
        ranges: dict[str, Range] = {}
        for name, r in self.ranges.items():
            if not r.per_layer:
                ranges[name] = r
            elif name in entries:
                alone = r.model_copy(update={"per_layer": False})
                ranges |= {entry_name(name, k): alone for k in range(1, entries[name] + 1)}
            else:
                raise UsageError(
                    f"{self.path}: {name} of {method.title} is one number for all layers; remove per_layer"
                )
        return replace(self, ranges=ranges)


def spaces_folder() -> Path:
    """Return the folder of the paper's search spaces: in an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "search_spaces"
    return installed if installed.is_dir() else package.parent / "search_spaces"


class SpaceEntries(FileModel):
    """The keys of a search space's file."""

    table: Any = None
    """The paper's table that the space is from; for readers of the file."""
    methods: Annotated[list[Text], Field(min_length=1)]
    workloads: tuple[Text, ...] = ()
    """Names of the workloads that the space is for; none: all."""
    hyperparameters: dict[str, Range]


class RangeEntries(RootModel[dict[str, Range]]):
    """The ranges of the search space that a package brings."""


class ConfigurationEntries(RootModel[dict[str, AnyNumber | list[AnyNumber]]]):
    """The hyperparameters of a configuration's file."""


def load_space(path: Path) -> SearchSpace:
    """Read and check a search space.

    A hyperparameter that only some of its methods have is left out for the others.

    Raises:
        UsageError: with file and line: an unknown name, lower >= upper, the logarithm of a non-positive number, ...
    """
    file = YamlFile(path, "a search space")
    entries = file.validate(SpaceEntries)
    places: dict[str, Location] = {method: ("methods", k) for k, method in enumerate(entries.methods)}
    space = _checked_space(file, places, ("hyperparameters",), entries.hyperparameters)
    return replace(space, workloads=entries.workloads)


def _checked_space(
    file: YamlFile, methods: Mapping[str, Location], location: Location, ranges: Mapping[str, Range]
) -> SearchSpace:
    """Return the search space of a file.

    Args:
        file: that holds it.
        methods: its methods, and the places of their names in the file.
        location: the place of the ranges.
        ranges: by hyperparameter.
    """
    known = _known_hyperparameters(methods)
    for name, entry in ranges.items():
        if name not in known:
            raise file.error((*location, name), str(unknown("hyperparameter", name, known)))
        _check_values(file, (*location, name, entry.kind), entry, known[name])
    for method, place in methods.items():
        _check_method(file, place, location, method, ranges)
    for name in ranges:
        if not any(name in get_method(method).names for method in methods):
            raise file.error(
                (*location, name), f"{' and '.join(methods)} ha{'ve' if len(methods) > 1 else 's'} no {name}"
            )
    return SearchSpace(file.path, tuple(methods), ranges)


def package_space(method: str) -> SearchSpace | None:
    """Return the search space that a package brings with its method; None where it brings none.

    Raises:
        TpbenchError: it is wrong; with package, file and line.
    """
    found = rule_file(method)
    if not found or found[1].space is None:
        return None
    file, entries = found
    with package_errors(method):
        return _checked_space(
            file, {method: ("space",)}, ("space",), file.validate(RangeEntries, entries.space, ("space",)).root
        )


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


def _check_values(file: YamlFile, location: Location, entry: Range, hyperparameters: Iterable[Hyperparameter]) -> None:
    """Check that a range holds valid values of the hyperparameters of its name."""
    for hyperparameter in hyperparameters:
        name = hyperparameter.name
        for number in entry.values:
            try:
                hyperparameter.check(number, name)
            except UsageError as error:
                raise file.error(location, str(error).removeprefix(f"{name}: ")) from None
        if entry.per_layer and not hyperparameter.layers:
            raise file.error((*location[:-1], PER_LAYER), f"{name} is one number for all layers")
        if hyperparameter.whole and entry.kind in ("log_uniform", "uniform"):
            raise file.error(location, f"{name} is a whole number: write a choice of some")


def _check_method(
    file: YamlFile, place: Location, location: Location, method: str, ranges: Mapping[str, Range]
) -> None:
    """Check that a space has all hyperparameters of a method, and something to search among them."""
    try:
        names = get_method(method).names
    except UsageError as error:
        raise file.error(place, str(error)) from None
    if missing := [name for name in names if name not in ranges]:
        raise file.error(place, f"{method} also needs {', '.join(missing)}")
    if all(ranges[name].kind in ("constant", "choice") and len(set(ranges[name].values)) == 1 for name in names):
        raise file.error(location, f"every hyperparameter of {method} has one value, there is nothing to search")


@lru_cache(maxsize=1)
def _own_spaces() -> tuple[SearchSpace, ...]:
    """Return all of tpbench's own spaces, in the order of their files; read once for all cells of a command."""
    own = set(spaces_folder().glob("*.yaml")) - {*published_files(), supplied_file()}
    return tuple(map(load_space, sorted(own)))


def space_for(method: str, path: Path | None = None, workload: str = "") -> SearchSpace:
    """Return the search space of a method: of the given file, of the package that adds the method, or tpbench's own.

    Args:
        method: the method.
        path: the file.
        workload: the workload's name; of tpbench's own spaces, one for this workload comes before one for all. Empty:
            the space for all.

    Raises:
        UsageError: no space covers the method.
        TpbenchError: that of its package is wrong.
    """
    if path:
        space = load_space(path)
        if method in space.methods:
            return space.of(method)
        raise UsageError(f"{path}: no search space covers the method '{method}'; give one with --space FILE")
    if found := package_space(method):
        return found
    covering = [space for space in _own_spaces() if space.covers(method, workload)]
    if covering:
        return max(covering, key=lambda space: bool(space.workloads)).of(method)
    raise UsageError(
        f"no search space covers the method '{method}'; give one with --space FILE "
        f"('tpbench show space {method} --template' prints one to start from)"
    )


def spaces_for(cells: Iterable[tuple[str, str]], paths: Sequence[Path] = ()) -> list[SearchSpace]:
    """Return the search space of each cell: of the given file that covers it, otherwise as of :func:`space_for`.

    Prints a line on standard error where a file leaves out a workload, and names one that there is not.

    Args:
        cells: names of workload and method.
        paths: the files.

    Raises:
        UsageError: a file covers none of them, two cover the same, or there is none for a method.
        TpbenchError: as of :func:`space_for`.
    """
    cells = list(cells)
    known = {*workload_names(), *(workload for workload, _ in cells)}
    given: dict[tuple[str, str], SearchSpace] = {}
    for path in paths:
        space = load_space(path)
        covered = [cell for cell in dict.fromkeys(cells) if space.covers(cell[1], cell[0])]
        if not covered:
            names = ", ".join(dict.fromkeys(method for _, method in cells))
            where = f" on {', '.join(space.workloads)}" if space.workloads else ""
            near = get_close_matches(cells[0][0], space.workloads, 1) if cells else []
            hint = f" (is '{near[0]}' misspelt?)" if near and near[0] not in known else ""
            raise UsageError(
                f"{path}: no search space for {names}; this file has one for {', '.join(space.methods)}{where}{hint}"
            )
        left = list(dict.fromkeys(w for w, method in cells if method in space.methods and (w, method) not in covered))
        strange = [name for name in space.workloads if name not in known]
        if left and strange:
            # Misspelt, or an own workload of other commands.
            warn_once(
                f"{path} has no space for {', '.join(left)}, and names {', '.join(map(repr, strange))}, "
                "which this command does not know"
            )
        for workload, method in covered:
            if other := given.get((workload, method)):
                raise UsageError(f"{path}: a search space of {method}, as {other.path} has; give one of both files")
            given[workload, method] = space.of(method)
    return [given.get(cell) or space_for(cell[1], workload=cell[0]) for cell in cells]


def load_configuration(workload: Workload, method: str, path: Path) -> dict[str, Any]:
    """Return the configuration of a YAML or JSON file, checked and completed with the workload's schedule.

    Raises:
        UsageError: the file or one of its values is wrong; with file and line.
    """
    file = YamlFile(path, "a configuration")
    return _configuration_at((), file, file.values, workload, method, notes=())


def load_configurations(workload: Workload, method: str, path: Path) -> tuple[YamlFile, dict[Location, dict[str, Any]]]:
    """Return the configurations of a file that holds one or a list of them, by their places, and the file.

    Raises:
        UsageError: as of :func:`load_configuration`.
    """
    file = YamlFile(path, "a configuration", several=True)
    return file, {
        place: _configuration_at(place, file, given, workload, method) for place, given in file.entries.items()
    }


_NOTES = ("source", "departs", "found")
"""Keys of a published configuration that are for its readers."""


def _configuration_at(
    location: Location,
    file: YamlFile,
    values: Mapping[str, Any],
    workload: Workload,
    method: str,
    notes: Collection[str] = _NOTES,
) -> dict[str, Any]:
    """Return the configuration at a place of a file, checked and completed with the workload's schedule.

    Args:
        location, file, values: the place, and what stands there.
        workload, method: what it is of.
        notes: keys that are no hyperparameters.
    """
    given = {name: value for name, value in values.items() if name not in notes}
    entries = file.validate(ConfigurationEntries, given, location).root
    counts = get_method(method).entries(workload.architecture)
    for name, value in entries.items():
        try:
            check_configuration({name: value}, (), _hyperparameters(method), entries=counts)
        except UsageError as error:
            raise file.error((*location, name), str(error).removeprefix("configuration: ")) from None
    return workload.complete(get_method(method), entries, file.place(location))


def _hyperparameters(method: str) -> list[Hyperparameter]:
    """Return all that a configuration of a method may name."""
    rule = get_method(method)
    return [*rule.hyperparameter_specs.values(), *(HYPERPARAMETERS[name] for name in SCHEDULE if rule.trains_feedback)]


def published_configuration(workload: Workload, method: str) -> dict[str, Any]:
    """Return the authors' own configuration of a cell, with their schedule.

    Raises:
        UsageError: they published none.
        TpbenchError: that of a package is wrong; with package, file and line.
    """
    entry = published_entry(workload, method)
    with package_errors(method):
        return _configuration_at(entry.location, entry.file, entry.values, workload, method)


def supplied_configuration(workload: Workload, method: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the configuration of a cell that a search of tpbench's own authors found, and the search info of its runs.

    Raises:
        UsageError: there is none.
    """
    file, entry = _own_file(supplied_file()), _supplied_entry(workload, method)
    if not entry:
        raise UsageError(
            f"no configuration of {method} on {workload.name} comes with tpbench: {_advice(workload, method)}"
        )
    return _configuration_at((workload.name, method), file, entry, workload, method), entry["found"]


def _supplied_entry(workload: Workload, method: str) -> Mapping[str, Any]:
    """Return what a file of tpbench's own searches says of a cell; empty without a configuration."""
    known: Mapping[str, Mapping[str, Any]] = _own_file(supplied_file()).values.get(workload.name, {})
    return {} if workload.source else known.get(method, {})


def has_configuration(workload: Workload, method: str, config: str) -> bool:
    """Return whether ``default`` or ``published`` names a configuration of a cell.

    Raises:
        TpbenchError: as of :func:`published_entry`.
    """
    return is_published(workload, method) or (config == "default" and bool(_supplied_entry(workload, method)))


def _advice(workload: Workload, method: str) -> str:
    if not workload.validation_size:
        similar = _similar_workload(workload, method)
        if similar:
            return (
                f"'tpbench show config {similar} {method} > config.yaml' writes one to start from, which "
                "--config config.yaml takes"
            )
        return f"give --config FILE, with the hyperparameters that 'tpbench methods {method}' lists"
    name = "FILE.yaml" if workload.source else workload.name
    return f"search one with 'tpbench sweep {name} {method}' and take --config best, or give --config FILE"


def _similar_workload(workload: Workload, method: str) -> str:
    """Return the workload of the same data whose configuration of a method fits a network best; empty without one."""
    fitting = []
    for name, values in known_configurations(method).items():
        other = WORKLOADS.get(name)
        if other is None or other.data != workload.data or other.refusal(method):
            continue
        try:
            workload.complete(get_method(method), values)
        except UsageError:
            # Lists of one number for each layer fit networks of as many layers.
            continue
        fitting.append(other)

    def difference(other: Workload) -> tuple[bool, int]:
        layers = len(other.architecture.layers) - len(workload.architecture.layers)
        return bool(other.convolutions) != bool(workload.convolutions), abs(layers)

    return min(fitting, key=difference).name if fitting else ""


@dataclass(frozen=True)
class PublishedEntry:
    """The place of a published configuration."""

    file: YamlFile
    location: Location
    values: Mapping[str, Any]


def published_files() -> tuple[Path, ...]:
    """Return the files of configurations that authors published, by workload and method; the paper's come first."""
    return tuple(spaces_folder() / name for name in ("published.yaml", "mnist-3x256.yaml", "cifar10-conv.yaml"))


@lru_cache(maxsize=8)
def _own_file(path: Path) -> YamlFile:
    return YamlFile(path, "the published configurations")


def _find_published(workload: Workload, method: str) -> PublishedEntry | None:
    for file in map(_own_file, published_files()):
        if method in (entries := file.values.get(workload.name, {})):
            return PublishedEntry(file, (workload.name, method), entries[method])
    found = rule_file(method)
    if found and workload.name in found[1].published:
        file, entries = found
        return PublishedEntry(
            file, ("published", workload.name), {"source": entries.source, **entries.published[workload.name]}
        )
    return None


def published_entry(workload: Workload, method: str) -> PublishedEntry:
    """Return the authors' configuration of a cell as it stands in a file of tpbench's or of a package.

    Raises:
        UsageError: they published none.
        TpbenchError: the package's file is wrong.
    """
    if entry := _find_published(workload, method):
        return entry
    raise UsageError(f"no published configuration of {method} on {workload.name}: {_advice(workload, method)}")


def supplied_file() -> Path:
    """Return the file of the configurations on the digits, by workload and method."""
    return spaces_folder() / "digits.yaml"


@lru_cache(maxsize=1)
def supplied_sweeps() -> frozenset[str]:
    """Return the sweeps that found the configurations of :func:`supplied_file`; they are in no store of the user's."""
    workloads = _own_file(supplied_file()).values.values()
    return frozenset(entry["found"]["sweep"] for methods in workloads for entry in methods.values())


def is_published(workload: Workload, method: str) -> bool:
    """Return whether the authors published a configuration of a cell.

    Raises:
        TpbenchError: as of :func:`published_entry`.
    """
    return _find_published(workload, method) is not None


def known_configurations(method: str) -> dict[str, dict[str, Any]]:
    """Return the hyperparameters of a method in the files of tpbench and of its package, by workload.

    Raises:
        TpbenchError: the package's file is wrong.
    """
    files = [_own_file(path).values for path in (*published_files(), supplied_file())]
    known = {workload: methods[method] for file in files for workload, methods in file.items() if method in methods}
    if found := rule_file(method):
        known |= found[1].published
    return {
        workload: {name: value for name, value in entry.items() if name not in _NOTES}
        for workload, entry in known.items()
    }


def format_configuration(workload: Workload, method: str) -> str:
    """Return the default configuration of a cell as YAML, which ``--config`` takes, with notes about it.

    Raises:
        UsageError: there is none.
        TpbenchError: as of :func:`published_configuration`.
    """
    if is_published(workload, method):
        values, entry = published_configuration(workload, method), published_entry(workload, method).values
        source, origin = entry.get("source"), "as published by the authors"
        notes = [f"source: {source}"] if source else []
        notes += [
            f"departs from the {'source' if source else 'paper' + chr(39) + 's text'}: {line}"
            for line in entry.get("departs", [])
        ]
    else:
        values, found = supplied_configuration(workload, method)
        origin = f"found by a search of {found['trials']} configurations, not the authors'"
        notes = [f"tuning: {tuning_budget(found)}; sweep {found['sweep']}"]
    head = [f"# {get_method(method).title} on {workload.title}, {origin}", *(f"# {note}" for note in notes)]
    return "\n".join([*head, *(f"{name}: {format_number(value)}" for name, value in values.items())]) + "\n"


def format_space(method: str, path: Path | None = None, workload: str = "") -> str:
    """Return the search space of a method as YAML, which ``--space`` takes; the arguments are as of :func:`space_for`.

    Raises:
        UsageError: no space covers the method.
        TpbenchError: that of its package is wrong.
    """
    space = space_for(method, path, workload)
    return _space_text(method, f"from {space.path.name}", space.describe())


def space_template(method: str) -> str:
    """Return a search space made from the hyperparameters of a method as YAML, for the author of a rule to change.

    Hyperparameters of tpbench have the ranges of its own spaces, the rule's own some values that they may have.
    """
    known: dict[str, list[Any]] = {}
    for built_in in ("dfc-ssa", "gnt", "kp", "ddtp-linear", "bp"):
        known |= space_for(built_in).describe()
    ranges = {
        name: known[name] if name in HYPERPARAMETERS and name in known else _template_range(hyperparameter)
        for name, hyperparameter in get_method(method).hyperparameter_specs.items()
    }
    return _space_text(method, "a template: choose the ranges", ranges)


def _template_range(hyperparameter: Hyperparameter) -> list[Any]:
    """Return a range of values that a hyperparameter may have."""
    h, width = hyperparameter, min(hyperparameter.upper - hyperparameter.lower, 1.0)
    if h.whole:
        return ["choice", *(value for value in (h.example, h.example + 1) if value < h.upper)]
    return ["log_uniform" if h.lower >= 0 else "uniform", h.lower + 1e-3 * width, h.lower + 0.5 * width]


def range_entries(plain: Sequence[Any]) -> dict[str, Any]:
    """Return the keys of a range in a file, of its plain data (:meth:`SearchSpace.describe`)."""
    kind, *values = plain
    numbers = [value for value in values if value != PER_LAYER]
    return {kind: numbers[0] if kind == "constant" else numbers} | ({PER_LAYER: True} if PER_LAYER in values else {})


def _space_text(method: str, origin: str, ranges: Mapping[str, Sequence[Any]]) -> str:
    hyperparameters = get_method(method).hyperparameter_specs
    lines = [f"# {get_method(method).title}, {origin}", f"methods: [{method}]", "hyperparameters:"]
    for name, plain in ranges.items():
        keys = ", ".join(f"{key}: {format_number(value)}" for key, value in range_entries(plain).items())
        lines.append(f"  {name}: {{{keys}}}")
        lines[-1] += f"  # {' '.join(hyperparameters[name].meaning.split())}"
    return "\n".join(lines) + "\n"


def format_number(value: Any) -> str:
    """Spell a value as YAML 1.1 reads it: an exponent needs a point before it and a sign."""
    if is_list(value):
        return f"[{', '.join(map(format_number, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    mantissa, e, exponent = repr(value).partition("e")
    return repr(value) if not e else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
