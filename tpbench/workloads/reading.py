"""Reads the YAML files that people write, so that every error names file and line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from tpbench.engine import UsageError

# Of one entry of a file.
_MOST_NODES = 500


class YamlReader:
    """Reads a YAML mapping node by node, so that every error names its line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def compose(self) -> yaml.Node:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise UsageError(f"{self.path}: could not be read ({reason})") from error
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError) as error:
            raise UsageError(f"{self.path}{_line(error, text)}: not valid YAML ({_reason(error)})") from error
        if node is None:
            raise UsageError(f"{self.path}: the file is empty")
        return node

    def fail(self, node: yaml.Node, message: str) -> UsageError:
        return UsageError(f"{self.path}:{node.start_mark.line + 1}: {message}")

    def mapping(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """A mapping as name -> (key node, value node)."""
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"{what} must be a mapping")
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.fail(key, f"a name in {what} must be plain text")
            if key.value in found:
                raise self.fail(key, f"'{key.value}' stands twice in {what}")
            found[key.value] = key, value
        return found

    def number(self, node: yaml.Node, what: str) -> float:
        """A finite number; YAML 1.1 reads ``1e-6`` as text, people mean a number."""
        text = node.value if isinstance(node, yaml.ScalarNode) and node.style is None else None
        try:
            value = float(str(text)) if text is not None and text.lower() not in ("true", "false") else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.fail(node, f"{what} must be a finite number, got '{text if text is not None else node.tag}'")
        return value

    def numbers(self, node: yaml.Node, what: str) -> list[float]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.fail(node, f"{what} must be a list of numbers")
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
        if isinstance(node, yaml.MappingNode):
            return {name: self._plain(value, left) for name, (_, value) in self.mapping(node, "a mapping").items()}
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


def _plain_scalar(text: str) -> Any:
    words: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            # Python limits how many digits int() takes; float() takes them all.
            return kind(text)
        except ValueError:
            continue
    return text
