"""Reads examples, commands and links out of the documents. Not a test."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = ROOT / "docs"
# Every document of the repository.
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCUMENTS.glob("*.md"), ROOT / "cluster" / "README.md", *(ROOT / "results").glob("*.md")]
)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files_of(page: str, folder: Path) -> list[str]:
    """Write the files of a page (blocks whose first line is a comment with a name) into a folder; returns the names."""
    names = []
    for kind, text in _BLOCK.findall((DOCUMENTS / page).read_text(encoding="utf-8")):
        if kind != "console":
            name = text.splitlines()[0].removeprefix("#").strip()
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
            names.append(name)
    return names


def commands_of(page: str) -> list[list[str]]:
    """The commands of a page, in their order."""
    return [
        shlex.split(line.removeprefix("$ "))
        for kind, text in _BLOCK.findall((DOCUMENTS / page).read_text(encoding="utf-8"))
        if kind == "console"
        for line in text.splitlines()
        if line.startswith("$ ")
    ]


def mentioned(text: str) -> Iterator[list[str]]:
    """The words of every command line of tpbench in a document: indented, in a block, or in a line's backticks."""
    for line in re.findall(r"^(?: {4,}|\$ )(tpbench .*)$", text, re.MULTILINE):
        yield _words(line)
    for line in re.findall(r"`(tpbench [^`]+)`", text):
        yield _words(" ".join(line.split()))


def _words(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    ends = [words.index(mark) for mark in (">", "|", "&&") if mark in words]
    return words[1 : min(ends, default=len(words))]


def links(text: str) -> list[str]:
    """The targets of a document's relative links and images; places of the same document begin with #."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\[[^\[\]]*\]\((?![a-z]+:)([^()\s]+)\)", prose)


def anchors(text: str) -> set[str]:
    """What GitHub names the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
