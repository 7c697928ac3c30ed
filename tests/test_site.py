"""The documentation as a site: it is built without a warning, loads nothing from elsewhere, and names every command."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer.main
import yaml

from tests.documents import ROOT
from tpbench.cli import app

needed = [name for name in ("mkdocs", "material", "mkdocstrings") if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(needed), reason=f"{', '.join(needed)} not installed: pip install 'tpbench[docs]'"),
]


def built(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """The site of a folder with mkdocs.yml, as 'make docs' builds it."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("site") / "site"
    ended = built(ROOT, made)
    assert ended.returncode == 0, ended.stderr
    return made


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.places.add(known.get("id", ""))
        if tag == "a" and "href" in known:
            self.links.append(known["href"])
        elif tag == "link" and known.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(known["href"])
        elif "src" in known:
            self.loaded.append(known["src"])


def pages(site: Path) -> Iterator[tuple[Path, Page]]:
    for path in sorted(site.glob("*.html")):
        yield path, Page(path.read_text(encoding="utf-8"))


def test_links_and_places_are_there_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    read = dict(pages(site))
    assert len(read) > 15
    for path, page in read.items():
        for target in page.loaded:
            assert not re.match(r"(https?:)?//", target), f"{path.name} loads {target}"
        # The page of an unknown address has absolute links, as it is shown below any of them.
        for target in [] if path.name == "404.html" else [*page.links, *page.loaded]:
            if re.match(r"[a-z]+:", target):
                continue
            name, _, place = target.partition("#")
            file = (path.parent / unquote(name)).resolve() if name else path
            file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), f"{path.name}: {target}"
            if place and file in read:
                assert unquote(place) in read[file].places, f"{path.name}: {target}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_every_document_and_every_command_has_its_place(site: Path) -> None:
    text = (site / "commands.html").read_text(encoding="utf-8")
    shown = html.unescape(re.sub(r"<[^>]+>", "", text))

    def look(command: Any, name: str) -> None:
        assert f'id="{name.replace(" ", "-")}"' in text, name
        section = shown[shown.index(f"\n{name} ") if name != "tpbench" else 0 :]
        for parameter in command.params:
            if not getattr(parameter, "hidden", False):
                shown_as = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
                assert (shown_as or parameter.name.upper()) in section, f"{name}: {parameter.name}"
        for child in getattr(command, "commands", {}).values():
            if not child.hidden:
                look(child, f"{name} {child.name}")

    look(typer.main.get_command(app), "tpbench")
    assert "learning rule" in (site / "index.html").read_text(encoding="utf-8")
    told = {"clusters": "SLURM", "results": "runs.zip", "contributing": "Set up", "changelog": "0.3.0"}
    for page, words in told.items():
        assert words in (site / f"{page}.html").read_text(encoding="utf-8")
    assert (site / "files" / "results" / "runs.zip").is_file()


def write_small(folder: Path, **more: str) -> None:
    """Write a documentation of few pages, for the same hooks and rules, all but the first page.

    Args:
        folder: where.
        more: further pages of the navigation, by their titles.
    """
    shutil.copytree(ROOT / "docs" / "building", folder / "docs" / "building")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    made = {"Home": "index.md", "Notebook": "tour-python.md", "Commands": "commands.md", "API": "api.md", **more}
    settings.update(plugins=[], nav=[{title: page} for title, page in made.items()])
    del settings["extra_css"]
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (folder / "docs" / "tour.md").write_text("# Tour\n")


def test_a_dead_link_a_dead_anchor_and_a_forgotten_page_fail(tmp_path: Path) -> None:
    write_small(tmp_path)
    (tmp_path / "README.md").write_text("# Home\n\n[away](docs/nowhere.md), [here](docs/tour.md#no-such-heading)\n")
    ended = built(tmp_path, tmp_path / "site")
    assert ended.returncode != 0
    assert "docs/nowhere.md" in ended.stderr
    assert "no-such-heading" in ended.stderr
    assert re.search(r'"nav".*\n.*tour\.md', ended.stderr)


IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="


@pytest.fixture(scope="module")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of a documentation with a picture, a notebook and a file of code."""
    small = tmp_path_factory.mktemp("small")
    write_small(small, Tour="tour.md")
    (small / "docs" / "dots.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (small / "docs" / "notes.txt").write_text("somebody's own\n")
    (small / "tool.py").write_text("print(1)\n")
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["two lines\n", "of text\n"]},
        {"output_type": "execute_result", "data": {"text/html": "<b>7</b>", "text/plain": "seven"}},
        {"output_type": "display_data", "data": {"image/png": IMAGE, "text/plain": "<Figure>"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# A tour\n", "in [the tour](tour.md)"]},
        {"cell_type": "code", "source": "print('two lines')", "outputs": outputs},
    ]
    (small / "docs" / "tour.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))
    (small / "README.md").write_text(
        "# Home\n\n![Dots](docs/dots.svg)\n\n*Ten `dots`.*\n\n*No caption.*\n\nA ![dot](docs/dots.svg).\n\n"
        "[the code](tool.py), [the notebook](docs/tour.ipynb)\n"
    )
    ended = built(small, small / "site")
    assert ended.returncode == 0, ended.stderr
    return small / "site"


def test_a_picture_becomes_a_figure_with_its_caption_and_a_link_to_its_full_size(small_site: Path) -> None:
    page = (small_site / "index.html").read_text()
    (figure,) = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    assert 'href="dots.svg"' in figure
    assert "<figcaption>Ten <code>dots</code>.</figcaption>" in figure
    assert "<em>No caption.</em>" in page


def test_a_notebook_is_a_page_with_its_output(small_site: Path) -> None:
    page = (small_site / "tour-python.html").read_text()
    for words in ("of text", "<b>7</b>", f"data:image/png;base64,{IMAGE}", 'href="tour.html"', 'href="tour.ipynb"'):
        assert words in page
    assert 'href="tour-python.html">the notebook' in (small_site / "index.html").read_text()
    assert (small_site / "files" / "tool.py.txt").read_text() == "print(1)\n"
    assert not list(small_site.rglob("notes.txt"))
