"""The command that continues a sweep, so that it works where it is printed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from tpbench.engine import TpbenchError
from tpbench.results.commands import continuing
from tpbench.results.location import absolute
from tpbench.training.tracking import portable_target
from tpbench.workloads import get_workload, is_file

_FOLDERS = ("--results", "--data", "--space")
_PLACES = (*_FOLDERS, "--track")


def _options(tokens: Iterable[str]) -> list[list[str]]:
    """The words of a command, an option together with the value of those that name places."""
    grouped: list[list[str]] = []
    remaining = iter(tokens)
    for token in remaining:
        name, equals, value = token.partition("=")
        if name not in _PLACES:
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
        if value:
            words += [name, _absolute_place(name, value[0])]
        else:
            words.append(_with_absolute_files(name))
    return shlex.join(words) if words else command


def _absolute_place(option: str, value: str) -> str:
    if option == "--track":
        return portable_target(value)
    return absolute(value) if value else value


def with_workload(command: str, name: str, source: str, copy: Path) -> str:
    """A command with another file of a workload where its own is gone or says something else by now.

    Args:
        name, source: of the workload, as the sweep has them.
        copy: a file that says what the workload was.
    """
    return shlex.join(
        ",".join(_standing_file(part, name, source, copy) for part in word.split(","))
        if any(map(is_file, word.split(","))) and not word.startswith("-")
        else word
        for word in _split(command)
    )


def _standing_file(part: str, name: str, source: str, copy: Path) -> str:
    if not is_file(part):
        return part
    try:
        found = get_workload(part)
    except TpbenchError:
        return str(copy)
    return str(copy) if found.name == name and found.source != source else part


def _with_absolute_files(word: str) -> str:
    """Workloads with commas between them, each a name or a file."""
    parts = [part.strip() for part in word.split(",")]
    if word.startswith("-") or not any(map(is_file, parts)):
        return word
    return ",".join(absolute(part) if is_file(part) else part for part in parts)


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
