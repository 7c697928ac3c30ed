"""What the documents name is there: files, headings, commands and their options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, PAGES, ROOT, anchors, command_line, links, mentioned, page_name, refused
from tpbench.engine import HYPERPARAMETERS, METHODS


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere_in_the_repository(page: Path) -> None:
    for link in links(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page_name(page)}: {link}"
        assert target.resolve().is_relative_to(ROOT), f"{page_name(page)}: {link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page_name(page)}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_and_options_in_the_documents_are_those_of_the_command_line(page: Path) -> None:
    for words in mentioned(page.read_text(encoding="utf-8")):
        assert not (reason := refused(words)), f"{page_name(page)}: tpbench {' '.join(words)}: {reason}"


def test_a_wrong_command_option_or_value_in_a_document_is_found() -> None:
    text = """
    tpbench swep a b
    tpbench run digits bp --seeds 0-4,x
```sh
tpbench sweep digits bp \\
  --trials many
```
`tpbench run a b --sed 3`, `tpbench verify theories`, `tpbench NAME --help`, `tpbench sweep --trials K`, `tpbench run`
"""
    assert [bool(refused(words)) for words in mentioned(text)] == [True] * 3 + [True, True, False, False, False]


def test_every_command_stands_in_a_document() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "CHANGELOG.md")
    assert [name for name in command_line().commands if not re.search(rf"(tpbench |`){name}\b", text)] == []


def test_every_method_and_hyperparameter_has_its_row() -> None:
    methods = (DOCUMENTS / "methods.md").read_text(encoding="utf-8")
    assert [method for method in METHODS if f"`{method}`" not in methods] == []
    spaces = (DOCUMENTS / "search-spaces.md").read_text(encoding="utf-8")
    assert [known for known in HYPERPARAMETERS if f"\n| `{known}` |" not in spaces] == []


def test_the_readme_is_one_page_with_what_one_does_first() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 90
    assert len(text.partition("\n## ")[0].split()) <= 350
    for target in ("demo", "setup", "test", "lint", "lowest", "docs"):
        assert f"make {target}" in text
    # What the README calls the test suite is what CI runs.
    assert "make test" in (ROOT / ".ci" / "run").read_text()
