"""Read the YAML files that people write into pydantic models; every error names the file and the line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from tpbench.engine import UsageError, unknown
from tpbench.engine.errors import shorten, shown
from tpbench.engine.files import require_regular_file, shown_path

_MAX_BYTES = 1 << 18
_MAX_VALUES = 10_000
"""Limit on the values of a file; aliases count as the values that they repeat."""
_MAX_MERGE_DEPTH = 20
_MAX_MESSAGE = 1000

_STANDARD = "tag:yaml.org,2002:"
_KINDS = ("null", "bool", "int", "float", "str", "timestamp", "seq", "map", "merge", "value")
_TAGS = {f"{_STANDARD}{kind}" for kind in _KINDS}
_SPECIAL = {f"{sign}.{word}": f"{sign}{word}" for sign in ("", "+", "-") for word in ("inf", "nan")}
_MERGE = "<<"

AMBIGUOUS_NUMBER = re.compile(r"[+-]?0[0-9_]+")
"""Whole numbers with a zero before them: YAML 1.1 reads 010 as 8, other readers as 10."""

Location = tuple[int | str, ...]
"""Keys and places in lists on the way from the root of a file to a value."""

Model = TypeVar("Model", bound=BaseModel)


# --- types and models ---


def _integral(value: object) -> object:
    """Turn 8.0 into 8; larger floats have no exact digits."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True), BeforeValidator(_integral)]
Text = Annotated[str, Field(strict=True)]


def invalid(message: str, key: str = "") -> PydanticCustomError:
    """Return the error for a validator to raise, with the message as it is.

    Args:
        message: what is wrong.
        key: the key of the mapping at fault; empty: the whole mapping.
    """
    return PydanticCustomError("invalid", "{message}", {"message": message, "key": key})


class FileModel(BaseModel):
    """The base of models of mappings in files; an unknown key is refused with the nearest known one."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                raise invalid(str(unknown("key", key, cls.model_fields)), key)
        return values


# --- files ---


class YamlFile:
    """A YAML file whose root is a mapping, or a list of mappings.

    Attributes:
        path: the file.
        entries: its mappings as plain data, by their places: ``()``, or ``(0,)``, ``(1,)`` and so on in a list. What
            looks like a number is one, also where YAML 1.1 reads text (``1e-6``).
        values: the mapping that is its root; empty for a list.
    """

    def __init__(self, path: Path, kind: str, stand_ins: tuple[str, ...] = (), *, several: bool = False) -> None:
        """Read a file.

        Args:
            path: the file.
            kind: what it describes, for messages: ``a workload``.
            stand_ins: keys whose line an error names where the key at fault is not in the file.
            several: the root may be a list of such mappings.

        Raises:
            UsageError: the file cannot be read, is too large, or is no YAML mapping of plain values.
        """
        self.path, self._stand_ins = path, stand_ins
        reader = _PlainReader(path)
        self.entries: dict[Location, dict[str, Any]] = reader.read(_compose(path), kind, several=several)
        self.values = self.entries.get((), {})
        self._lines = reader.lines

    def error(self, location: Location, message: str) -> UsageError:
        """Return the error of a value, with file and line.

        A value that is not in the file has the line of the nearest mapping or list around it.
        """
        stand_in = next((key for key in self._stand_ins if key in self.values), None)
        if stand_in and location and location[0] not in self.values:
            location = (stand_in,)
        return _error_at(self.path, self._line_of(location), message)

    def place(self, location: Location) -> str:
        """Return file and line of a value, for messages: ``my.yaml:3``."""
        return f"{shown_path(self.path)}:{self._line_of(location)}"

    def _line_of(self, location: Location) -> int:
        while location not in self._lines:
            location = location[:-1]
        return self._lines[location]

    def validate(self, model: type[Model], values: object = None, within: Location = ()) -> Model:
        """Return the values as a model.

        Args:
            model: the model.
            values: the values of the file, completed or without some; None: all as they are.
            within: the place of their mapping in the file.

        Raises:
            UsageError: the first thing that is wrong, with file and line.
        """
        try:
            return model.model_validate(self.values if values is None else values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
        location = self._location_of(first, within)
        key = first.get("ctx", {}).get("key")
        raise self.error((*within, *location, key) if key else (*within, *location), _message_of(first, location))

    def _location_of(self, error: ErrorDetails, within: Location) -> Location:
        """Return the place of one of pydantic's errors, without the parts that name a kind of a union."""
        location: Location = ()
        for k, part in enumerate(error["loc"], start=1):
            missing = error["type"] == "missing" and k == len(error["loc"])
            if (*within, *location, part) in self._lines or missing or not location:
                location = (*location, part)
        return location


def _error_at(path: Path, line: int, message: str) -> UsageError:
    return UsageError(f"{shown_path(path)}:{line}: {shorten(message, _MAX_MESSAGE)}")


def _format_place(location: Location) -> str:
    """Return a place in a file as text: ``network, entry 2, kernel``."""
    place = ""
    for k, part in enumerate(location):
        if isinstance(part, int):
            place += f", entry {part + 1}"
        else:
            within_entry = k and isinstance(location[k - 1], int)
            place += f"{', ' if within_entry else '.'}{part}" if place else part
    return place


def _message_of(error: ErrorDetails, location: Location) -> str:
    """Return one of pydantic's errors as a sentence: ``epochs should be greater than or equal to 1, got 0``."""
    place = _format_place(location)
    kind, message, value = error["type"], error["msg"], error["input"]
    if kind == "invalid":
        return f"{place}: {message}" if place else message
    if kind == "missing":
        if isinstance(location[-1], int):
            return f"{place} is missing"
        around = _format_place(location[:-1])
        return f"{around}: the key '{location[-1]}' is missing" if around else f"the key '{location[-1]}' is missing"
    if kind == "literal_error" and isinstance(value, str):
        return str(unknown(place, value, re.findall(r"'([^']+)'", error["ctx"]["expected"])))
    if kind == "model_type":
        message = "must be a mapping"
    if kind == "string_type" and isinstance(value, (int, float)):
        message += " (quotes make a number text)"
    # "Input should be ...", "List should have at least 2 items after validation, not 1", "Value error, must be ..."
    message = re.sub(r"^(Input|List|Tuple|Value error,) | after validation, not \d+$", "", message)
    return f"{place} {message}, got {shown(value)}"


def _compose(path: Path) -> yaml.Node:
    """Return the root node of a file; the plain values follow later, so that each has its line."""
    if require_regular_file(path).st_size > _MAX_BYTES:
        raise UsageError(f"{path}: could not be read (more than {_MAX_BYTES >> 10} KiB of YAML)")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UsageError(f"{path}: could not be read ({reason})") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        # ValueError and OverflowError: an escape such as "\\UFFFFFFFF" that is no character.
        raise UsageError(
            f"{path}{_line_of(error, text)}: not valid YAML ({shorten(_reason_of(error), _MAX_MESSAGE)})"
        ) from error
    if node is None:
        raise UsageError(f"{path}: the file is empty")
    return node


class _PlainReader:
    """Turns the nodes of a file into plain data, counts them, and remembers the line of each value."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.lines: dict[Location, int] = {}

    def read(self, root: yaml.Node, kind: str, *, several: bool = False) -> dict[Location, dict[str, Any]]:
        nodes: dict[Location, yaml.Node] = {(): root}
        self.lines[()] = root.start_mark.line + 1
        if several and isinstance(root, yaml.SequenceNode):
            self._check(root)
            nodes = {(k,): node for k, node in enumerate(root.value)}
            if not nodes:
                raise self.error(root, "the list is empty")
            self.lines |= {location: node.start_mark.line + 1 for location, node in nodes.items()}
        try:
            return {location: self._mapping(node, location, kind) for location, node in nodes.items()}
        except RecursionError:
            raise self.error(root, "lists within lists without end") from None

    def error(self, node: yaml.Node, message: str) -> UsageError:
        return _error_at(self.path, node.start_mark.line + 1, message)

    def _check(self, node: yaml.Node) -> None:
        self.count += 1
        if self.count > _MAX_VALUES:
            raise self.error(node, f"more than {_MAX_VALUES} values")
        if node.tag not in _TAGS:
            tag = node.tag.replace(_STANDARD, "!!", 1)
            raise self.error(node, f"the tag '{shorten(tag, 60)}' is not supported")

    def _mapping(self, node: yaml.Node, location: Location, kind: str) -> dict[str, Any]:
        values = {}
        for name, (key, value) in self._entries(node, kind).items():
            self.lines[(*location, name)] = key.start_mark.line + 1
            values[name] = self._plain(value, (*location, name))
        return values

    def _entries(self, node: yaml.Node, kind: str, depth: int = 0) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return the nodes of a mapping by name; what is merged into it (``<<``) counts after its own entries."""
        if depth > _MAX_MERGE_DEPTH:
            raise self.error(node, "merges ('<<') within merges without end")
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"{kind} must be a mapping")
        self._check(node)
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if depth:
                self._check(value)
            if not isinstance(key, yaml.ScalarNode):
                raise self.error(key, f"a name in {kind} must be plain text")
            if key.value in entries:
                raise self.error(key, f"'{key.value}' stands twice in {kind}")
            if key.value == _MERGE and key.style is None:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                entries[key.value] = key, value
        for other in merged:
            for name, pair in self._entries(other, "a merged value", depth + 1).items():
                entries.setdefault(name, pair)
        return entries

    def _plain(self, node: yaml.Node, location: Location) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location, "a mapping")
        self._check(node)
        if isinstance(node, yaml.SequenceNode):
            values = []
            for k, item in enumerate(node.value):
                self.lines[(*location, k)] = item.start_mark.line + 1
                values.append(self._plain(item, (*location, k)))
            return values
        quoted = isinstance(node, yaml.ScalarNode) and node.style is not None
        return str(node.value) if quoted else _plain_scalar(str(node.value))


def _line_of(error: Exception, text: str) -> str:
    mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
    if mark:
        return f":{mark.line + 1}"
    return f":{text.count(chr(10), 0, position) + 1}" if isinstance(position, int) else ""


def _reason_of(error: Exception) -> str:
    return " ".join(str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).split())


def _plain_scalar(text: str) -> Any:
    words: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}
    if text.lower() in words:
        return words[text.lower()]
    if AMBIGUOUS_NUMBER.fullmatch(text):
        return text
    for kind in (int, float):
        try:
            # Python limits how many digits int() takes; float() takes them all. YAML writes .nan and .inf.
            return kind(_SPECIAL.get(text.lower(), text))
        except ValueError:
            continue
    return text
