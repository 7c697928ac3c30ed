"""What mkdocs asks while it builds the site (``hooks`` in mkdocs.yml): the pages that are not written in docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import api
import commands
import documents
import notebooks
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Left out of the navigation where they are not there (yet); any other page of the navigation must be.
OPTIONAL = {"api.md", "networks.md", "notebook.md", "python.md", "tracking.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    root = Path(config.config_file_path).parent
    made = {
        **documents.outside(root),
        **notebooks.pages(root / "docs"),
        "commands.md": commands.page(),
        **api.pages(),
    }
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    if config.nav:
        config.nav = _there(config.nav, {file.src_uri for file in files})
    return files


def _there(entry: Any, uris: set[str]) -> Any:
    """The navigation without the optional pages that are absent."""
    if isinstance(entry, list):
        kept = [_there(part, uris) for part in entry]
        return [part for part in kept if part]
    if isinstance(entry, dict):
        return {title: kept for title, part in entry.items() if (kept := _there(part, uris))}
    return None if entry in OPTIONAL - uris else entry


def on_page_content(html: str, **_: Any) -> str:
    """The docstrings' ``:func:`` and ``:class:`` are for readers of the source: the name alone stays."""
    return re.sub(r":(?:attr|class|func|meth|mod):(?=<code>)", "", html)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that are right in the repository become right in the site; in tables a deviation stays beside its mean."""
    rows = re.sub(r"^\|.*$", lambda row: row[0].replace(" ± ", "\u00a0±\u00a0"), markdown, flags=re.MULTILINE)
    return documents.site_links(rows, page.file.src_uri, config, files)
