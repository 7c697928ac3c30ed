"""Commands as runs record them: what was trained and how, without the places of one machine."""

from __future__ import annotations

import re
import shlex

from tpbench.workloads import is_file

_OF_ONE_MACHINE = ("--results", "--data", "--address", "--output", "--track")
"""Options that say where things lie, run or are tracked; they change no number."""
_SEPARATORS = re.compile(r"[/\\]+")


CALL = "tpbench.run("
"""Begins what stands for a command where no command does the same: a call with hyperparameters in it."""
_TEXT = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\""""
"""A literal of Python's, as ``repr`` writes it."""
_LITERAL = re.compile(_TEXT)
_PLACES = re.compile(rf", (?:(?:results|data)=(?:{_TEXT})|track=\((?:(?:{_TEXT}),? ?)*\))")

_ONCE = "--fresh"
"""Asked for once: the command that continues what it began leaves it out, or would begin yet another."""


def continuing(command: str) -> str:
    """The command that goes on with what a command began."""
    try:
        tokens = shlex.split(command)
    except ValueError:
        return command
    return shlex.join(token for token in tokens if token != _ONCE) if _ONCE in tokens else command


def recorded_command(command: str) -> str:
    """A command without the places of the machine that it ran on; bytes of names that are no text become escapes.

    Args:
        command: as a shell would read it, or a call of Python's (:data:`CALL`); of one that no shell reads (a quote is
            missing), what stands before the first quote is kept.
    """
    command = command.encode(errors="backslashreplace").decode()
    if command.startswith(CALL):
        kept = _LITERAL.sub(
            lambda found: found[0][0] + _last_component(found[0][1:-1]) + found[0][0], _PLACES.sub("", command)
        )
        return _SEPARATORS.sub("", kept)
    try:
        tokens = shlex.split(command)
    except ValueError:
        # Where a path ends cannot be told any more.
        tokens = re.split(r"[\"'\\]", command, maxsplit=1)[0].split()
    # What is left of a path may look like an option, so that one pass is not always enough.
    while (cleaned := _without_places(tokens)) != tokens:
        tokens = cleaned
    return shlex.join(tokens)


def _without_places(tokens: list[str]) -> list[str]:
    kept: list[str] = []
    remaining = iter(tokens)
    for token in remaining:
        name, equals, value = token.partition("=")
        if name in _OF_ONE_MACHINE:
            if not equals:
                next(remaining, None)
        elif equals and name.startswith("-") and not _SEPARATORS.search(name):
            kept.append(f"{name}={_last_component(value)}")
        elif shortened := _without_folders(token):
            kept.append(shortened)
    return kept


def _without_folders(token: str) -> str:
    """A word without the folders of a path; of several workloads with commas between them, each may be a file."""
    parts = token.split(",")
    if len(parts) > 1 and all(is_file(part) or not _SEPARATORS.search(part) for part in parts):
        return ",".join(map(_last_component, parts))
    return _last_component(token)


def _last_component(text: str) -> str:
    """``bp.yaml`` of ``/home/me/bp.yaml``."""
    return next((part for part in reversed(_SEPARATORS.split(text)) if part), "")
