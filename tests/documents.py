"""Reads worked examples out of a page of the documentation. Not a test."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

DOCUMENTS = Path(__file__).parents[1] / "docs"
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
