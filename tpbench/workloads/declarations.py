"""Reads the YAML files that people write, so that every error names file and line."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tpbench.engine import TpbenchError, UsageError, unknown
from tpbench.engine.errors import shorten, shown
from tpbench.engine.files import require_regular_file, shown_path, user_path
from tpbench.engine.parts import EXTRA, JOINT, SLEEP
from tpbench.engine.splits import loses_class
from tpbench.workloads.cache import load_for, own_dataset
from tpbench.workloads.catalogue import is_file
from tpbench.workloads.own_data import inputs_of, own_shape
from tpbench.workloads.workload import DATASETS, Shape, Workload, known_shape

# Of one entry of a file.
_MOST_NODES = 500
_MOST_BYTES = 1 << 18
_LONGEST_MESSAGE = 1000

_STANDARD = "tag:yaml.org,2002:"
_KINDS = ("null", "bool", "int", "float", "str", "timestamp", "seq", "map", "merge", "value")
_TAGS = {f"{_STANDARD}{kind}" for kind in _KINDS}
_SPECIAL = {f"{sign}.{word}": f"{sign}{word}" for sign in ("", "+", "-") for word in ("inf", "nan")}
_MERGE = "<<"
_DEEPEST_MERGE = 20


class YamlReader:
    """Reads a YAML mapping node by node, so that every error names its line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def compose(self) -> yaml.Node:
        """Return the root of the file.

        Raises:
            UsageError: it is no file, too large, or no YAML.
        """
        if require_regular_file(self.path).st_size > _MOST_BYTES:
            raise UsageError(f"{self.path}: could not be read (more than {_MOST_BYTES >> 10} KiB of YAML)")
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise UsageError(f"{self.path}: could not be read ({reason})") from error
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
            # Not of yaml: an escape such as "\\UFFFFFFFF" that is no character.
            raise UsageError(
                f"{self.path}{_line(error, text)}: not valid YAML ({shorten(_reason(error), _LONGEST_MESSAGE)})"
            ) from error
        if node is None:
            raise UsageError(f"{self.path}: the file is empty")
        return node

    def fail(self, node: yaml.Node, message: str) -> UsageError:
        where = f"{shown_path(self.path)}:{node.start_mark.line + 1}"
        return UsageError(f"{where}: {shorten(message, _LONGEST_MESSAGE)}")

    def mapping(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """A mapping as name -> (key node, value node); what is merged into it (``<<``) counts after its own entries."""
        return self._mapping(node, what, [_MOST_NODES])

    def _mapping(
        self, node: yaml.Node, what: str, left: list[int], depth: int = 0
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        # A merge may stand in itself, or for many others.
        if depth > _DEEPEST_MERGE:
            raise self.fail(node, "merges ('<<') within merges without end")
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"{what} must be a mapping")
        self._check_tag(node)
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            left[0] -= depth > 0
            if left[0] < 0:
                raise self.fail(node, f"merges of more than {_MOST_NODES} values")
            if not isinstance(key, yaml.ScalarNode):
                raise self.fail(key, f"a name in {what} must be plain text")
            if key.value in found:
                raise self.fail(key, f"'{key.value}' stands twice in {what}")
            if key.value == _MERGE and key.style is None:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                found[key.value] = key, value
        for other in merged:
            for name, pair in self._mapping(other, "what is merged", left, depth + 1).items():
                found.setdefault(name, pair)
        return found

    def _check_tag(self, node: yaml.Node) -> None:
        if node.tag not in _TAGS:
            shown = node.tag.replace(_STANDARD, "!!", 1)
            raise self.fail(node, f"the tag '{shorten(shown, 60)}' means nothing here")

    def number(self, node: yaml.Node, what: str) -> float:
        """A finite number; YAML 1.1 reads ``1e-6`` as text, people mean a number."""
        text = node.value if isinstance(node, yaml.ScalarNode) and node.style is None else None
        try:
            value = float(str(text)) if text is not None and text.lower() not in ("true", "false") else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            shown = shorten(node.tag if text is None else text, 60)
            raise self.fail(node, f"{what} must be a finite number, got '{shown}'")
        return value

    def numbers(self, node: yaml.Node, what: str) -> list[float]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.fail(node, f"{what} must be a list of numbers")
        if len(node.value) > _MOST_NODES:
            raise self.fail(node, f"{what}: more than {_MOST_NODES} values")
        return [self.number(item, what) for item in node.value]

    def words(self, node: yaml.Node, what: str) -> list[tuple[str, yaml.Node]]:
        if not isinstance(node, yaml.SequenceNode) or not all(isinstance(n, yaml.ScalarNode) for n in node.value):
            raise self.fail(node, f"{what} must be a list of names")
        return [(item.value, item) for item in node.value]

    def plain(self, node: yaml.Node) -> Any:
        """What a node stands for as plain data; what looks like a number is one, also where YAML 1.1 reads text."""
        try:
            return self._plain(node, [_MOST_NODES])
        except RecursionError:
            raise self.fail(node, "lists within lists without end") from None

    def _plain(self, node: yaml.Node, left: list[int]) -> Any:
        # An alias may stand in itself, or for many others.
        left[0] -= 1
        if left[0] < 0:
            raise self.fail(node, f"more than {_MOST_NODES} values")
        self._check_tag(node)
        if isinstance(node, yaml.MappingNode):
            parts = self._mapping(node, "a mapping", left)
            return {name: self._plain(value, left) for name, (_, value) in parts.items()}
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, left) for item in node.value]
        quoted = isinstance(node, yaml.ScalarNode) and node.style is not None
        return str(node.value) if quoted else _plain_scalar(str(node.value))


def _line(error: Exception, text: str) -> str:
    mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
    if mark:
        return f":{mark.line + 1}"
    return f":{text.count(chr(10), 0, position) + 1}" if isinstance(position, int) else ""


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).split())


UNCLEAR = re.compile(r"[+-]?0[0-9_]+")
"""Whole numbers with a zero before them: YAML 1.1 reads 010 as 8, other readers as 10."""


def _plain_scalar(text: str) -> Any:
    words: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}
    if text.lower() in words:
        return words[text.lower()]
    if UNCLEAR.fullmatch(text):
        return text
    for kind in (int, float):
        try:
            # Python limits how many digits int() takes; float() takes them all. YAML writes .nan and .inf.
            return kind(_SPECIAL.get(text.lower(), text))
        except ValueError:
            continue
    return text


# The one reader of workload declarations: built-in ones and those in files have the same keys and checks.


KEYS = (
    "name",
    "like",
    "data",
    "test",
    "network",
    "random_hidden",
    "normalise",
    "batch_size",
    "validation_size",
    "epochs",
    "trained_layers",
    "feedback_epochs",
    "prune",
)

# What the paper has for most of its data sets; the share is that of its 5,000 validation samples, roughly.
DEFAULTS: Mapping[str, Any] = {
    "random_hidden": 1024,
    "normalise": "standard",
    "batch_size": 128,
    "validation_size": 0.1,
    "epochs": 100,
    "trained_layers": None,
    "feedback_epochs": {SLEEP: [6, 1], EXTRA: [10, 4]},
    "prune": [6, 0.6],
}

NORMALISATIONS = ("standard", "unit", "none")

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_MOST_LAYERS, _WIDEST = 200, 100_000

Place = Callable[[str], str]
"""Where a key stands, for a message; of an empty key, where the whole does."""


class _Checked:
    """The values of a declaration, each checked when it is asked for.

    Every method raises :class:`UsageError` with the place of its key.
    """

    def __init__(self, values: dict[str, Any], place: Place) -> None:
        self.values, self.place = values, place

    def fail(self, key: str, message: str) -> UsageError:
        return UsageError(f"{self.place(key)}: {key} {message}")

    def whole(self, key: str, value: object, least: int, most: int, what: str = "") -> int:
        number = int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
            raise self.fail(key, f"{what}must be a whole number from {least} to {most}, got {shown(value)}")
        return number

    def number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30:
            raise self.fail(key, f"must be a finite number, got {shown(value)}")
        return float(value)

    def several(self, key: str, value: object, what: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise self.fail(key, f"must be a list of {what}, got {shown(value)}")
        return value

    def pair(self, key: str, value: object, what: str) -> tuple[Any, Any]:
        if not isinstance(value, list) or len(value) != 2:
            raise self.fail(key, f"must be a list of two: {what}, got {shown(value)}")
        return value[0], value[1]

    def name(self) -> str:
        name = self.values["name"]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            quotes = "" if isinstance(name, str) else "; quotes make a number text"
            raise self.fail("name", f"has 1 to 40 of a-z, 0-9 and '-', got {shown(name)}{quotes}")
        return name

    def hidden(self) -> tuple[int, ...]:
        widths = self.several("network", self.values["network"], "widths of the hidden layers")
        if len(widths) > _MOST_LAYERS:
            raise self.fail("network", f"has {len(widths)} hidden layers, at most {_MOST_LAYERS} can be trained")
        return tuple(self.whole("network", width, 1, _WIDEST, "holds widths: each ") for width in widths)

    def normalise(self) -> str | tuple[float, float]:
        value = self.values["normalise"]
        if isinstance(value, str):
            if value not in NORMALISATIONS:
                raise UsageError(f"{self.place('normalise')}: {unknown('normalise', value, NORMALISATIONS)}")
            return value
        mean, deviation = (
            self.number("normalise", v) for v in self.pair("normalise", value, "mean and deviation, or a word")
        )
        if deviation <= 0:
            raise self.fail("normalise", f"needs a deviation above 0, got {deviation:g}")
        return mean, deviation

    def share(self, key: str, samples: int) -> int:
        """A number of samples, or a share of them."""
        value = self.values[key]
        if isinstance(value, float) and 0 < value <= 1:
            count = round(value * samples)
            if not 0 < count < samples:
                raise self.fail(key, f"{value:g} of {samples} samples leaves none on one side")
            return count
        if samples < 2:
            raise self.fail(key, f"cannot be taken from {samples} training samples")
        return self.whole(key, value, 1, samples - 1)

    def test(self) -> float:
        value = self.values.get("test", 0.0)
        if "test" in self.values and not (isinstance(value, float) and 0 < value < 1):
            raise self.fail(
                "test", f"is the share of the samples that are the test set, such as 0.2, got {shown(value)}"
            )
        return float(value)

    def trained_layers(self, layers: int) -> tuple[int, ...] | None:
        value = self.values["trained_layers"]
        if value is None:
            return None
        chosen = sorted(
            self.whole("trained_layers", v, 1, layers, "holds layers: each ")
            for v in self.several("trained_layers", value, f"layer numbers, 1 to {layers}")
        )
        if chosen != list(range(chosen[0], chosen[0] + len(chosen))):
            raise self.fail("trained_layers", f"must be layers next to each other, each once, got {shown(value)}")
        return None if len(chosen) == layers else tuple(chosen)

    def schedules(self) -> dict[str, tuple[int, int]]:
        value = self.values["feedback_epochs"]
        if not isinstance(value, dict):
            raise self.fail("feedback_epochs", f"must be a mapping such as {{sleep: [6, 1]}}, got {shown(value)}")
        found = {JOINT: (0, 0)}
        for kind, epochs in {**DEFAULTS["feedback_epochs"], **value}.items():
            if kind not in (SLEEP, EXTRA):
                raise UsageError(
                    f"{self.place('feedback_epochs')}: {unknown('kind of feedback_epochs', kind, (SLEEP, EXTRA))}"
                )
            pair = self.pair("feedback_epochs", epochs, "epochs before, and between joint epochs")
            found[kind] = tuple(self.whole("feedback_epochs", v, 0, 10_000) for v in pair)  # type: ignore[assignment]
        return found

    def prune(self) -> tuple[int, float]:
        epochs, error = self.pair("prune", self.values["prune"], "after so many epochs, the largest training error")
        largest = self.number("prune", error)
        if not 0 < largest <= 1:
            raise self.fail("prune", f"needs an error above 0 and at most 1 (which stops nobody), got {largest:g}")
        return self.whole("prune", epochs, 1, 1_000_000), largest


def declared(
    values: Mapping[str, Any],
    place: Place,
    *,
    title: str = "",
    base: Workload | None = None,
    shape_of: Callable[[str, float], Shape] | None = None,
) -> Workload:
    """A workload from what was written.

    Args:
        values: by the keys of :data:`KEYS`.
        place: where a key stands.
        title: the paper's name of it, if it has one.
        base: the workload that it is ``like``.
        shape_of: the shape of the data in a file of the user's, which it checks, and the path to keep.

    Raises:
        UsageError: a key is unknown or missing, or a value is wrong; with its place.
    """
    for key in values:
        if key not in KEYS:
            raise UsageError(f"{place(key)}: {unknown('key', key, KEYS)}")
    for key in ("name",) if base else ("name", "data", "network"):
        if key not in values:
            raise UsageError(f"{place('')}: the key '{key}' is missing")
    inherited = as_declared(base) if base else {}
    if base and "data" in values:
        inherited.pop("test", None)
    checked = _Checked({**DEFAULTS, **inherited, **values}, place)
    if base and isinstance(values.get("feedback_epochs"), dict):
        checked.values["feedback_epochs"] = {**inherited["feedback_epochs"], **values["feedback_epochs"]}
    name, test = checked.name(), checked.test()
    shape = _shape(checked, test, shape_of)
    hidden, validation = checked.hidden(), checked.share("validation_size", shape.training)
    workload = Workload(
        name,
        title or name,
        shape.data,
        shape.training,
        shape.inputs,
        shape.outputs,
        hidden,
        checked.whole("random_hidden", checked.values["random_hidden"], 1, _WIDEST),
        checked.normalise(),
        checked.whole("batch_size", checked.values["batch_size"], 1, 1_000_000),
        validation,
        checked.whole("epochs", checked.values["epochs"], 1, 1_000_000),
        checked.trained_layers(len(hidden) + 1),
        checked.schedules(),
        checked.prune(),
        test,
    )
    if workload.batch_size > shape.training - validation:
        raise checked.fail(
            "batch_size", f"{workload.batch_size} is more than the {shape.training - validation} samples to train on"
        )
    return replace(workload, source=workload.content_digest()) if shape_of else workload


def as_declared(workload: Workload) -> dict[str, Any]:
    """A workload as a file would declare it, but for its name."""
    keys: dict[str, Any] = {
        "data": workload.data,
        "network": list(workload.hidden),
        "validation_size": workload.validation_size,
        "normalise": workload.normalise if isinstance(workload.normalise, str) else list(workload.normalise),
        "trained_layers": list(workload.trained_layers) if workload.trained_layers else None,
        "feedback_epochs": {kind: list(pair) for kind, pair in workload.schedules.items() if kind != JOINT},
        "prune": list(workload.prune),
    }
    keys |= {key: getattr(workload, key) for key in ("random_hidden", "batch_size", "epochs")}
    return {**keys, "test": workload.test} if workload.test else keys


def spell_declaration(workload: Workload) -> str:
    """A workload as a file declares it: JSON, which is YAML in which no name can be taken for a number."""
    return json.dumps({"name": workload.name, **as_declared(workload)}, indent=1) + "\n"


def _shape(checked: _Checked, test: float, shape_of: Callable[[str, float], Shape] | None) -> Shape:
    data = checked.values["data"]
    if not isinstance(data, str) or not data.strip():
        raise checked.fail("data", f"must name an .npz file or a data set, got {shown(data)}")
    known = known_shape(data)
    if known:
        if test:
            raise checked.fail("test", f"is for files of your own: {data} has a test set")
        return known
    if not shape_of:
        raise checked.fail("data", f"'{data}' is unknown")
    return shape_of(data, test)


# Workloads from YAML files of the user's.


_RESERVED = ("all", "exact")
_RULES: dict[tuple[str, int, int], str] = {}
"""What :func:`split_rule` found, by fingerprint, validation samples and seed."""
KNOWN = ("digits", *DATASETS)


def read_declaration(path: Path, taken: Container[str], find: Callable[[str], Workload]) -> Workload:
    """A workload from a file.

    Args:
        path: of the YAML file; the data that it names lie beside it, or at an absolute path.
        taken: names of the built-in workloads.
        find: the workload of a name, for ``like``.

    Raises:
        UsageError: what is wrong with the file or with its data, with file and line.
    """
    reader = YamlReader(path)
    root = reader.compose()
    parts = reader.mapping(root, "a workload")
    values = {key: reader.plain(value) for key, (_, value) in parts.items()}

    def place(key: str) -> str:
        """Of a key that is not written its value comes from what the workload is like, or belongs to the data."""
        written = next((k for k in (key, "like", "data") if k in parts), None)
        return f"{path}:{parts[written][0].start_mark.line + 1 if written else 1}"

    def shape_of(data: str, test: float) -> Shape:
        try:
            # Not resolved: a link may be what all machines of a cluster have in common.
            file = Path(os.path.abspath(path.parent / user_path(data)))  # noqa: PTH100
        except TpbenchError as error:
            raise UsageError(f"{place('data')}: {error}") from error
        if file.suffix != ".npz":
            raise UsageError(
                f"{place('data')}: data must be an .npz file or a data set: {unknown('data set', data, KNOWN)}"
            )
        try:
            return own_shape(file, own_dataset(file, test).arrays)
        except TpbenchError as error:
            raise UsageError(f"{place('data')}: {error}") from error

    name = values.get("name")
    if isinstance(name, str) and (name in taken or name in _RESERVED):
        raise UsageError(f"{place('name')}: the name '{name}' is taken; a workload of your own needs another")
    workload = declared(values, place, base=_base(values.get("like"), place, find), shape_of=shape_of)
    if workload.own_file:
        try:
            dataset = load_for(workload)
            inputs_of(workload.normalise, dataset)
        except TpbenchError as error:
            raise UsageError(f"{place('normalise')}: {error}") from error
        labels = dataset.arrays["y_train"]
        classes = np.count_nonzero(np.bincount(labels))
        if workload.validation_size > len(labels) - classes:
            raise UsageError(
                f"{place('validation_size')}: {workload.validation_size} validation samples of {len(labels)} leave "
                f"too few to train on for {classes} classes"
            )
    return workload


BY_CLASS = "by class"
"""How the validation samples of a seed are drawn whose random ones would be all samples of a class."""


def split_rule(workload: Workload, seed: int) -> str:
    """Return how a seed's validation samples are drawn: :data:`BY_CLASS`, or empty for at random.

    Only of a user's own data they may be drawn by class (:attr:`tpbench.engine.Problem.keeps_classes`).

    Raises:
        TpbenchError: the data are missing or damaged.
    """
    if not workload.own_file:
        return ""
    dataset = load_for(workload)
    key = dataset.fingerprint, workload.validation_size, seed
    if key not in _RULES:
        import torch

        from tpbench.engine.network import stream

        labels = dataset.arrays["y_train"]
        order = torch.randperm(len(labels), generator=stream(seed, "split"))
        lost = loses_class(labels, order[workload.validation_size :].numpy())
        _RULES[key] = BY_CLASS if lost else ""
    return _RULES[key]


def _base(like: object, place: Callable[[str], str], find: Callable[[str], Workload]) -> Workload | None:
    if like is None:
        return None
    try:
        if not isinstance(like, str) or is_file(like):
            raise UsageError(f"like must name a workload, such as mnist, got {shown(like)}")
        return find(like)
    except TpbenchError as error:
        raise UsageError(f"{place('like')}: {error}") from error
