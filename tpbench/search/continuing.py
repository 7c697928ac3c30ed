"""The command that continues a sweep, so that it works where it is printed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from tpbench.results.commands import continuing
from tpbench.results.location import absolute

_FOLDERS = ("--results", "--data", "--space")


def _options(tokens: Iterable[str]) -> list[list[str]]:
    """The words of a command, an option together with the value of those that name places."""
    grouped: list[list[str]] = []
    remaining = iter(tokens)
    for token in remaining:
        name, equals, value = token.partition("=")
        if name not in _FOLDERS:
            grouped.append([token])
        else:
            grouped.append([name, value if equals else next(remaining, "")])
    return grouped


def kept_command(command: str) -> str:
    """What a sweep's folder keeps of the command that began it: it works in any folder of the machine."""
    words = []
    for name, *value in _options(_split(continuing(command))):
        if name == "--results":
            continue  # the folder may be moved; who lists it knows where it is
        words += [name, *([absolute(value[0]) if name in _FOLDERS and value[0] else value[0]] if value else [])]
    return shlex.join(words) if words else command


def command_for(kept: str, results: str | Path) -> str:
    """The command of a sweep's folder for a results folder as it is named now; older versions kept the old name."""
    words = [word for option in _options(_split(continuing(kept))) if option[0] != "--results" for word in option]
    if not words:
        return ""
    return shlex.join([*words, "--results", str(results)] if str(results) != "results" else words)


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []
