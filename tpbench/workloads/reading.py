"""Reads the YAML files that people write, so that every error names file and line."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from tpbench.engine import UsageError
from tpbench.engine.errors import shorten
from tpbench.engine.files import require_regular_file, shown_path

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
