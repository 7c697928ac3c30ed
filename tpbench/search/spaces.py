"""Search spaces: YAML files that a person can read, checked when loaded, converted to HyperOpt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tpbench.engine import HYPERPARAMETERS, Hyperparameter, UsageError, get_method, method_names, unknown
from tpbench.workloads import Workload
from tpbench.workloads.reading import UNCLEAR, YamlReader

# Relative width below which too few numbers lie between two bounds, or between their logarithms.
_NARROWEST = 1e-9


@dataclass(frozen=True)
class LogUniform:
    """Uniform in the logarithm between two positive numbers."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Uniform:
    """Uniform between two numbers."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Choice:
    """One of several values, equally likely."""

    values: tuple[float, ...]


@dataclass(frozen=True)
class Constant:
    """Not searched."""

    value: float


Range = LogUniform | Uniform | Choice | Constant


@dataclass(frozen=True)
class SearchSpace:
    """What is searched for some methods: a range for every hyperparameter."""

    path: Path
    methods: tuple[str, ...]
    ranges: Mapping[str, Range]

    @property
    def constants(self) -> dict[str, float]:
        return {name: r.value for name, r in self.ranges.items() if isinstance(r, Constant)}

    def to_hyperopt(self) -> dict[str, Any]:
        """The searched hyperparameters as HyperOpt expressions."""
        from hyperopt import hp

        space: dict[str, Any] = {}
        for name, r in self.ranges.items():
            if isinstance(r, LogUniform):
                space[name] = hp.loguniform(name, math.log(r.lower), math.log(r.upper))
            elif isinstance(r, Uniform):
                space[name] = hp.uniform(name, r.lower, r.upper)
            elif isinstance(r, Choice):
                space[name] = hp.choice(name, list(r.values))
        return space

    def describe(self) -> dict[str, list[Any]]:
        """The ranges as plain data, for hashing and display."""
        kinds = {LogUniform: "log_uniform", Uniform: "uniform"}
        described: dict[str, list[Any]] = {}
        for name, r in self.ranges.items():
            if isinstance(r, (LogUniform, Uniform)):
                described[name] = [kinds[type(r)], r.lower, r.upper]
            else:
                described[name] = ["choice", *r.values] if isinstance(r, Choice) else ["constant", r.value]
        return described


def folder() -> Path:
    """Where the search spaces lie: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "search_spaces"
    return installed if installed.is_dir() else package.parent / "search_spaces"


def _read_range(reader: YamlReader, wanted: Sequence[Hyperparameter], node: yaml.Node) -> Range:
    """``{log_uniform: [lower, upper]}``, ``{uniform: ...}``, ``{choice: [...]}`` or ``{constant: value}``.

    ``wanted`` are the hyperparameters of that name: two rules of packages may each have one.
    """
    name = wanted[0].name
    kinds = reader.mapping(node, f"the range of {name}")
    if len(kinds) != 1:
        raise reader.fail(node, f"{name} needs exactly one of log_uniform, uniform, choice, constant")
    kind, (key, value) = next(iter(kinds.items()))
    if kind == "constant":
        chosen: Range = Constant(reader.number(value, name))
        values = [reader.number(value, name)]
    elif kind == "choice":
        values = reader.numbers(value, name)
        if not values:
            raise reader.fail(value, f"{name}: a choice needs at least one value")
        chosen = Choice(tuple(values))
    elif kind in ("log_uniform", "uniform"):
        values = reader.numbers(value, name)
        if len(values) != 2:
            raise reader.fail(value, f"{name}: {kind} needs a lower and an upper bound")
        if kind == "log_uniform" and min(values) <= 0:
            raise reader.fail(
                value, f"{name}: the logarithm of {min(values):g} does not exist; bounds must be positive"
            )
        if values[0] >= values[1]:
            raise reader.fail(
                value, f"{name}: the lower bound {values[0]:g} is not below the upper bound {values[1]:g}"
            )
        _check_wide(reader, name, value, kind, *values)
        chosen = LogUniform(*values) if kind == "log_uniform" else Uniform(*values)
    else:
        raise reader.fail(key, str(unknown("kind of range", kind, ("log_uniform", "uniform", "choice", "constant"))))
    for number in values:
        for hyperparameter in wanted:
            try:
                hyperparameter.check(number, name)
            except UsageError as error:
                raise reader.fail(value, str(error)) from None
    if isinstance(chosen, (LogUniform, Uniform)) and any(hyperparameter.whole for hyperparameter in wanted):
        raise reader.fail(value, f"{name} is a whole number: write a choice of some")
    return chosen


def _check_wide(reader: YamlReader, name: str, node: yaml.Node, kind: str, lower: float, upper: float) -> None:
    """HyperOpt works with the logarithms, and with mixtures of normal distributions of a fraction of the width."""
    low, high = (math.log(lower), math.log(upper)) if kind == "log_uniform" else (lower, upper)
    if (high - low) <= _NARROWEST * max(abs(low), abs(high)):
        raise reader.fail(
            node, f"{name}: the bounds {lower!r} and {upper!r} are too close to search between; write constant"
        )


def load_space(path: Path) -> SearchSpace:
    """Read and check a search space.

    Raises:
        UsageError: with file and line: an unknown name, lower >= upper, the logarithm of a non-positive number, ...
    """
    reader = YamlReader(path)
    root = reader.compose()
    parts = reader.mapping(root, "a search space")
    for name, (key, _) in parts.items():
        if name not in ("table", "methods", "hyperparameters"):
            raise reader.fail(key, str(unknown("entry", name, ("table", "methods", "hyperparameters"))))
    for name in ("methods", "hyperparameters"):
        if name not in parts:
            raise reader.fail(root, f"the entry '{name}' is missing")
    ranges: dict[str, Range] = {}
    methods = reader.words(parts["methods"][1], "methods")
    known = _known(method for method, _ in methods)
    for name, (key, node) in reader.mapping(parts["hyperparameters"][1], "hyperparameters").items():
        if name not in known:
            raise reader.fail(key, str(unknown("hyperparameter", name, known)))
        ranges[name] = _read_range(reader, known[name], node)
    if all(isinstance(r, Constant) for r in ranges.values()):
        raise reader.fail(parts["hyperparameters"][0], "every hyperparameter is constant, there is nothing to search")
    for method, node in methods:
        _check_method(reader, method, node, ranges)
    return SearchSpace(path, tuple(method for method, _ in methods), ranges)


def _known(methods: Iterable[str]) -> dict[str, list[Hyperparameter]]:
    """The hyperparameters there are, and those that rules of packages bring along; unknown methods are found later."""
    found = {name: [hyperparameter] for name, hyperparameter in HYPERPARAMETERS.items()}
    for method in methods:
        for name, own in get_method(method).hyperparameter_specs.items() if method in method_names() else ():
            if own not in found.setdefault(name, []):
                found[name].append(own)
    return found


def _check_method(reader: YamlReader, method: str, node: yaml.Node, ranges: Mapping[str, Range]) -> None:
    """A space must have exactly the hyperparameters of each of its methods."""
    try:
        names = get_method(method).names
    except UsageError as error:
        raise reader.fail(node, str(error)) from None
    missing, extra = [n for n in names if n not in ranges], [n for n in ranges if n not in names]
    if missing:
        raise reader.fail(node, f"{method} also needs {', '.join(missing)}")
    if extra:
        raise reader.fail(node, f"{method} has no {', '.join(extra)}")


def space_for(method: str, path: Path | None = None) -> SearchSpace:
    """The search space of a method: of the given file, or the paper's.

    Raises:
        UsageError: no space covers the method.
    """
    paths: Sequence[Path] = [path] if path else sorted(folder().glob("*.yaml"))
    for candidate in paths:
        if candidate.name == "published.yaml" and path is None:
            continue
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
    """The search space of each method: of the given file where that covers it, otherwise the paper's.

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


def _as_number(value: object) -> object:
    """A number that stands in quotes is meant as one."""
    if isinstance(value, str):
        try:
            return value if UNCLEAR.fullmatch(value) else float(value)
        except ValueError:
            return value
    return value


def load_configuration(workload: Workload, method: str, path: Path) -> dict[str, float]:
    """A configuration from a YAML or JSON file, checked and completed with the workload's schedule.

    Raises:
        UsageError: the file or one of its values is wrong.
    """
    reader = YamlReader(path)
    parts = reader.mapping(reader.compose(), "a configuration")
    given = {name: _as_number(reader.plain(value)) for name, (_, value) in parts.items() if name != "departs"}
    return workload.complete(get_method(method), given, str(path))


def published_configuration(workload: Workload, method: str) -> dict[str, float]:
    """The authors' own configuration of a cell, with their schedule.

    Raises:
        UsageError: they published none.
    """
    given = {name: value for name, value in _published(workload, method).items() if name != "departs"}
    return workload.complete(get_method(method), given, f"published.yaml, {workload.name}, {method}")


def _published(workload: Workload, method: str) -> dict[str, Any]:
    published = yaml.safe_load((folder() / "published.yaml").read_text(encoding="utf-8"))
    if method not in published.get(workload.name, {}):
        name = "FILE.yaml" if workload.source else workload.name
        raise UsageError(
            f"no published configuration of {method} on {workload.name}: search one with "
            f"'tpbench sweep {name} {method}' and take --config best, or give --config FILE"
        )
    return dict(published[workload.name][method])


def published_departures(workload: Workload, method: str) -> list[str]:
    """In what the authors' configuration departs from the paper's text.

    Raises:
        UsageError: they published none.
    """
    return [str(line) for line in _published(workload, method).get("departs", [])]


def spell_configuration(workload: Workload, method: str) -> str:
    """The authors' configuration as YAML, which ``--config`` takes, with what is to be known about it.

    Raises:
        UsageError: they published none.
    """
    values = published_configuration(workload, method)
    notes = [f"departs from the text: {line}" for line in published_departures(workload, method)]
    head = [
        f"# {get_method(method).title} on {workload.title}, as published by the authors",
        *(f"# {n}" for n in notes),
    ]
    return "\n".join([*head, *(f"{name}: {_spell_number(value)}" for name, value in values.items())]) + "\n"


def spell_space(method: str, path: Path | None = None) -> str:
    """The search space of a method as YAML, which ``--space`` takes.

    Raises:
        UsageError: no space covers the method.
    """
    space = space_for(method, path)
    described = get_method(method).hyperparameter_specs
    lines = [f"# {get_method(method).title}, from {space.path.name}", f"methods: [{method}]", "hyperparameters:"]
    for name, (kind, *values) in space.describe().items():
        spelled = ", ".join(map(_spell_number, values))
        lines.append(f"  {name}: {{{kind}: {spelled if kind == 'constant' else f'[{spelled}]'}}}")
        lines[-1] += f"  # {' '.join(described[name].meaning.split())}"
    return "\n".join(lines) + "\n"


def _spell_number(value: float) -> str:
    """As YAML 1.1 reads a number: an exponent needs a point before it and a sign."""
    mantissa, e, exponent = repr(value).partition("e")
    return repr(value) if not e else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
