"""Hooks of mkdocs (``hooks`` in mkdocs.yml): pages that are not written in docs/, links and figures."""

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

# A picture alone in its paragraph, and the paragraph in italics below it: its caption.
_FIGURE = re.compile(
    r'<p>(?P<image><img\b[^>]*?\bsrc="(?P<source>[^"]*)"[^>]*>)</p>(?:\s*<p><em>(?P<caption>(?:(?!</?em>|</p>).)*)</em></p>)?',
    re.DOTALL,
)


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
    """Turn pictures into figures; of the docstrings' ``:func:`` and ``:class:`` leave the name alone."""
    return _FIGURE.sub(_figure, re.sub(r":(?:attr|class|func|meth|mod):(?=<code>)", "", html))


def _figure(match: re.Match[str]) -> str:
    """Return a picture with its caption, linked to the picture in full size."""
    image, source, caption = match["image"], match["source"], match["caption"]
    linked = image if source.startswith("data:") else f'<a href="{source}" title="Full size">{image}</a>'
    return f"<figure>{linked}{f'<figcaption>{caption}</figcaption>' if caption else ''}</figure>"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the repository's links right for the site; keep a deviation beside its mean in tables."""
    rows = re.sub(r"^\|.*$", lambda row: row[0].replace(" ± ", "\u00a0±\u00a0"), markdown, flags=re.MULTILINE)
    return documents.site_links(rows, page.file.src_uri, config, files)
