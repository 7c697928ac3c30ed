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
    return files


def on_page_content(html: str, **_: Any) -> str:
    """The docstrings' ``:func:`` and ``:class:`` are for readers of the source: the name alone stays."""
    return re.sub(r":(?:attr|class|func|meth|mod):(?=<code>)", "", html)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that are right in the repository become right in the site; in tables a deviation stays beside its mean."""
    rows = re.sub(r"^\|.*$", lambda row: row[0].replace(" ± ", "\u00a0±\u00a0"), markdown, flags=re.MULTILINE)
    return documents.site_links(rows, page.file.src_uri, config, files)
