"""Documents from outside docs/ as pages of the site, and links that lead from one world to the other."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from notebooks import NOTEBOOKS

# The name of the page, and its document in the repository.
OUTSIDE = {
    "index.md": "README.md",
    "clusters.md": "cluster/README.md",
    "results.md": "results/README.md",
    "leaderboard.md": "results/leaderboard.md",
    "field-table.md": "results/field.md",
    "table-1.md": "results/table_1.md",
    "table-s6.md": "results/table_s6.md",
    "table-s7.md": "results/table_s7.md",
    "angles.md": "results/angles.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
_PAGES = {document: uri for uri, document in OUTSIDE.items()} | {f"docs/{name}": uri for uri, name in NOTEBOOKS.items()}
_LINK = re.compile(r"(?P<text>\[[^\[\]]*\])\((?P<path>[^()\s:#]+)(?P<anchor>#[^()\s]*)?\)")
# What a browser does not show by itself is served as text.
_SHOWN = {".csv", ".ipynb", ".png", ".svg", ".zip"}


def outside(root: Path) -> dict[str, str]:
    """Pages from the documents that are there: name and text."""
    return {
        uri: (root / document).read_text(encoding="utf-8")
        for uri, document in OUTSIDE.items()
        if (root / document).is_file()
    }


def site_links(markdown: str, uri: str, config: MkDocsConfig, files: Files) -> str:
    """The text of a page whose relative links, right in the repository, lead to the same in the site.

    A file of the repository that is no page is copied into the site. A link to nothing stays as it is: mkdocs says so.
    """
    folder = posixpath.dirname(OUTSIDE.get(uri, f"docs/{uri}"))

    def rewritten(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link["path"]))
        found = _page_of(target, files) or _copy_of(target, config, files)
        # The page of a notebook links the notebook itself.
        if found is None or found == uri:
            return link[0]
        path = posixpath.relpath(found, posixpath.dirname(uri) or ".")
        return f"{link['text']}({path}{link['anchor'] or ''})"

    return _LINK.sub(rewritten, markdown)


def _page_of(target: str, files: Files) -> str | None:
    """The page or file of the site that stands for a path in the repository."""
    uri = _PAGES.get(target) or _PAGES.get(f"{target}/README.md") or target.removeprefix("docs/")
    known = target in _PAGES or f"{target}/README.md" in _PAGES or target.startswith("docs/")
    return uri if known and files.get_file_from_path(uri) else None


def _copy_of(target: str, config: MkDocsConfig, files: Files) -> str | None:
    root = Path(config.config_file_path).resolve().parent
    source = (root / target).resolve()
    if not source.is_file() or not source.is_relative_to(root):
        return None
    uri = f"files/{target}" if source.suffix in _SHOWN else f"files/{target}.txt"
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, content=source.read_bytes()))
    return uri
