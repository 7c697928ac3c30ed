"""The command reference, made from the command line itself."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import typer
import typer.main

_INTRODUCTION = """# Commands

Every command with its options, as `tpbench COMMAND --help` prints them. The [first comparison](tour.md) shows the most
important ones. Exit codes: 0, done; 1, some of the work failed; 2, bad usage; 130, stopped.
"""
_EXTRAS = re.compile(r"^(?P<text>.*?)\s*\[(?P<extras>[^\[\]]*)\]$", re.DOTALL)


def page() -> str:
    """The whole command reference as Markdown."""
    from tpbench.cli import app

    return "\n".join([_INTRODUCTION, *_command(typer.main.get_command(app), None, "tpbench")])


def _command(command: Any, parent: Any, name: str) -> Iterator[str]:
    """A command and those below it: heading, what it does, usage, arguments and options."""
    context = typer.Context(command, parent=parent, info_name=name.rpartition(" ")[2])
    yield f"{'##' if name.count(' ') < 2 else '###'} {name}\n"
    yield f"{_plain(command.help or '')}\n"
    usage = " ".join(piece.strip("{}") for piece in command.collect_usage_pieces(context))
    yield f"```text\n{name} {usage}\n```\n"
    if command.epilog:
        yield f"```console\n$ {command.epilog.removeprefix('Example: ')}\n```\n"
    yield from _table(command, context, "argument")
    yield from _table(command, context, "option")
    for child in getattr(command, "commands", {}).values():
        if not child.hidden:
            yield from _command(child, context, f"{name} {child.name}")


def _table(command: Any, context: Any, kind: str) -> Iterator[str]:
    parameters = [p for p in command.get_params(context) if p.param_type_name == kind]
    records = [record for p in parameters if (record := p.get_help_record(context)) and p.name != "help"]
    if records:
        yield f"| {kind} | what | |\n|---|---|---|"
        for name, told in records:
            found = _EXTRAS.match(told)
            text, extras = (found["text"], found["extras"]) if found else (told, "")
            yield f"| `{_name(name)}`{{ .option }} | {_plain(text)} | {_plain(_limits(extras))} |"
        yield ""


def _name(name: str) -> str:
    """The option and what it takes, without what typer adds for types."""
    return (
        re.sub(r"\s*<(str|path|Path|bool|list\[str\])>", "", name)
        .replace("<int range>", "<int>")
        .replace("<float range>", "<float>")
    )


def _limits(extras: str) -> str:
    """Defaults and limits as a person writes them: ``default: (all); x>=1`` becomes ``default: all; x ≥ 1``."""
    extras = re.sub(r"default: \((.*?)\)(?=;|$)", r"default: \1", extras)
    return extras.replace("<=", " ≤ ").replace(">=", " ≥ ")


def _plain(text: str) -> str:
    """Help texts hold no Markdown; what would be taken for it is escaped, and a paragraph is a line."""
    text = re.sub(r"[ \t]*\n(?!\n)[ \t]*", " ", text)
    text = re.sub(r"([\\`*_{}\[\]#])", r"\\\1", html.escape(text, quote=False)).replace("|", "&#124;")
    return re.sub(r"'(tpbench [^']+)'", _linked, text)


def _linked(command: re.Match[str]) -> str:
    """A command that a help text names leads to its section; an anchor that is not there fails the build."""
    return f"[`{command[1]}`](#{command[1].replace(' ', '-')})"
