"""Reads examples, commands and links out of the documents. Not a test."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from tpbench.cli import app
from tpbench.engine import TpbenchError

ROOT = Path(__file__).parents[1]
DOCUMENTS = ROOT / "docs"
# Every document of the repository.
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCUMENTS.glob("*.md"), ROOT / "cluster" / "README.md", *(ROOT / "results").glob("*.md")]
)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.\w+)\n")
# A word that stands for another: K, FILE.yaml, http://HOST:5000, ....
_PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]*\b|\.\.\.")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
# A difference and its interval: +0.12 [-0.05, +0.29].
_AROUND_ZERO = re.compile(r"[-+][\d.]+ \[-[\d.]+, \+?(?!-)[\d.]+\]")
_DIGEST = re.compile(r"\b(?=[a-z]*\d)[0-9a-f]{8}\b")


def page_name(page: Path) -> str:
    """Return the path of a page in the repository."""
    return str(page.relative_to(ROOT))


@dataclass
class Example:
    """A command of a ``console`` block and the lines that the page shows below it."""

    words: list[str]
    output: list[str] = field(default_factory=list)


def examples(page: Path) -> list[Example]:
    """Return the commands of a page's ``console`` blocks, in their order."""
    found: list[Example] = []
    for kind, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in text.splitlines() if kind == "console" else ():
            if line.startswith("$ "):
                found.append(Example(shlex.split(line.removeprefix("$ "), comments=True)))
            elif line.strip():
                found[-1].output.append(line)
    return found


def write_files(page: Path, folder: Path) -> None:
    """Write the files of a page into a folder: blocks whose first line is a comment with the file's name."""
    for _, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if name := _FILE.match(text):
            path = folder / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def missing_line(shown: list[str], printed: str) -> str:
    """Return the first line of a page's output that a command did not print, or nothing.

    Numbers may differ, as processors round differently (:func:`_near`). A line ``...`` and lines that the page leaves
    out are skipped.
    """
    lines = iter(printed.splitlines())
    for wanted in shown:
        if wanted.strip() != "..." and not any(_like(wanted, line) for line in lines):
            return wanted
    return ""


def _like(wanted: str, line: str) -> bool:
    """Return whether two lines have the same words, and nearly the same numbers."""
    wanted, line = (re.sub(r"[\s━─═]+", " ", _DIGEST.sub("ID", text)).strip() for text in (wanted, line))
    if _NUMBER.sub("#", wanted) != _NUMBER.sub("#", line):
        return False
    # An interval around 0 says that the sign of what stands before it is chance.
    signs = [_signed(text) for text in (wanted, line)]
    return signs[0] == signs[1] and all(map(_near, _NUMBER.findall(wanted), _NUMBER.findall(line)))


def _near(wanted: str, printed: str) -> bool:
    """Return whether two numbers are alike: within a fifth of their size, or 0.35; whole ones a quarter, or 0.5."""
    a, b = float(wanted), float(printed)
    floor, share = (0.35, 0.2) if "." in wanted else (0.5, 0.25)
    return abs(a - b) <= max(floor, share * abs(a))


def _signed(text: str) -> list[str]:
    """Return the signs of the numbers of a line, without those of differences whose interval holds 0."""
    return re.findall(r"(?<!\w)[-+](?=\d)", _AROUND_ZERO.sub("", text))


def mentioned(text: str) -> Iterator[list[str]]:
    """Yield the words of every command line of tpbench in a document that is not run as an example.

    They are indented, in a block or in backticks.
    """
    text = text.replace("\\\n", " ")
    for line in re.findall(r"^ *(?:\$ )?(tpbench [\w-].*)$", "\n".join(_code(text)), re.MULTILINE):
        yield _words(line)
    for line in re.findall(r"`(tpbench [^`]+)`", text):
        yield _words(" ".join(line.split()))


def _code(text: str) -> Iterator[str]:
    """Yield the lines of blocks that may hold commands, and indented lines."""
    for kind, block in _BLOCK.findall(text):
        if kind in ("sh", "bash", "text"):
            yield from block.splitlines()
    yield from re.findall(r"^ {4,}tpbench .*$", _BLOCK.sub("", text), re.MULTILINE)


def _words(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    ends = [words.index(mark) for mark in (">", "|", "&&", "&") if mark in words]
    return words[1 : min(ends, default=len(words))]


@cache
def command_line() -> Any:
    """Return the command line as typer has it."""
    return typer.main.get_command(app)


def refused(words: list[str]) -> str:
    """Return why the command line refuses a line, or nothing. Nothing is run.

    A line with placeholders, or one that names a command without its arguments, is checked by its names alone.
    """
    command, context, rest = command_line(), None, list(words)
    options = {option for p in command.params for option in p.opts} | {"--help"}
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if _PLACEHOLDER.match(name):
            return ""
        if name not in command.commands:
            return f"no command {name}"
        context = typer.Context(command, parent=context, info_name=name)
        command = command.commands[name]
        options |= {option for p in command.params for option in [*p.opts, *p.secondary_opts]}
    if command.name == "submit":
        # The options that it does not know are those of a sweep.
        options |= {option for p in command_line().commands["sweep"].params for option in p.opts}
    for word in rest:
        if word.startswith("-") and (option := word.partition("=")[0]) not in options:
            return f"no option {option}"
    if context is None or "--help" in rest or any(map(_PLACEHOLDER.search, rest)):
        return ""
    return _unparsed(command, context, rest)


def _unparsed(command: Any, parent: Any, words: list[str]) -> str:
    """Return why a command cannot parse its words, or nothing."""
    try:
        context = command.make_context(command.name, list(words), parent=parent)
        if hasattr(command, "read"):
            command.read(context)
    except TpbenchError as error:
        return str(error)
    except Exception as error:
        # Typer has a click of its own. A document may name a command or an option without what it takes.
        if type(error).__name__ in ("MissingParameter", "BadOptionUsage"):
            return ""
        if hasattr(error, "format_message"):
            return str(error.format_message())
        raise
    return ""


def links(text: str) -> list[str]:
    """Return the targets of a document's relative links and images; places of the same document begin with #."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\[[^\[\]]*\]\((?![a-z]+:)([^()\s]+)\)", prose)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document, and those that stand in it."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    named = set(re.findall(r'<a id="([^"]+)"', prose))
    return named | {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
