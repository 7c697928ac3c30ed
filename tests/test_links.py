"""What the documents name is there: files, headings, commands and their options."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.documents import DOCUMENTS, PAGES, ROOT, anchors, links, mentioned
from tpbench.cli import app
from tpbench.engine import HYPERPARAMETERS, METHODS


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere_in_the_repository(page: Path) -> None:
    for link in links(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{name(page)}: {link}"
        assert target.resolve().is_relative_to(ROOT), f"{name(page)}: {link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{name(page)}: {link}"


@cache
def command_line() -> Any:
    return typer.main.get_command(app)


def wrong_in(words: list[str]) -> str:
    """What of a command line tpbench has not; nothing where all is there. A word of capitals stands for another."""
    command = command_line()
    options = {option for p in command.params for option in p.opts} | {"--help"}
    for word in words:
        children = getattr(command, "commands", {})
        if word.startswith("--"):
            option = word.partition("=")[0]
            if option not in options:
                return option
        elif children:
            if word.isupper() or word == "...":
                return ""
            if word not in children:
                return word
            command = children[word]
            # What is submitted is a sweep: 'tpbench submit' hands the other options on.
            taken = [command, command_line().commands["sweep"]] if word == "submit" else [command]
            options |= {option for c in taken for p in c.params for option in p.opts}
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_options_in_the_documents_are_those_of_the_command_line(page: Path) -> None:
    for words in mentioned(page.read_text(encoding="utf-8")):
        assert not wrong_in(words), f"{name(page)}: tpbench {' '.join(words)}"


def test_a_wrong_command_or_option_in_a_document_is_found() -> None:
    text = "    tpbench swep a b\n\n`tpbench run a b --sed 3`, `tpbench verify theories`, `tpbench NAME --help`"
    assert [wrong_in(words) for words in mentioned(text)] == ["swep", "--sed", "theories", ""]


def test_every_command_has_its_place_in_the_guide() -> None:
    guide = (DOCUMENTS / "guide.md").read_text(encoding="utf-8")
    for command in command_line().commands:
        assert f"tpbench {command}" in guide or f"`{command}`" in guide, f"docs/guide.md does not name {command}"


def test_every_method_and_hyperparameter_has_its_row() -> None:
    methods = (DOCUMENTS / "methods.md").read_text(encoding="utf-8")
    assert [method for method in METHODS if f"`{method}`" not in methods] == []
    spaces = (DOCUMENTS / "search-spaces.md").read_text(encoding="utf-8")
    assert [known for known in HYPERPARAMETERS if f"\n| `{known}` |" not in spaces] == []


def test_the_readme_is_one_page_with_what_one_does_first() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 90
    for target in ("demo", "setup", "test", "lint", "lowest", "docs"):
        assert f"make {target}" in text
    # What the README calls the test suite is what CI runs.
    assert "make test" in (ROOT / ".ci" / "run").read_text()
