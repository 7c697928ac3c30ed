"""Where a store lies: a folder of this machine or of the network, or any URL that fsspec can open (``s3://...``)."""

from __future__ import annotations

import difflib
import re
from functools import lru_cache
from pathlib import Path
from typing import cast

from tpbench.engine import UsageError
from tpbench.engine.errors import unknown

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(.*)", re.DOTALL)


def is_url(text: str) -> bool:
    """Whether a location is written as a URL."""
    return _URL.fullmatch(text) is not None


@lru_cache(maxsize=32)
def location(text: str) -> Path:
    """A store's folder from how a person writes it.

    Paths of URLs are :class:`upath.UPath`, which has the methods of :class:`pathlib.Path` that stores use.

    Raises:
        UsageError: it is no path, or no URL of a kind that fsspec knows and can open here.
    """
    if "\0" in text or not text:
        raise UsageError("the results folder must be a path or a URL")
    url = _URL.fullmatch(text)
    if not url:
        return Path(text)
    import fsspec
    from upath import UPath

    protocol, rest = url.group(1).lower(), url.group(2)
    if protocol in ("file", "local"):
        return Path(rest)
    known = set(fsspec.available_protocols())
    if protocol not in known:
        raise unknown("kind of URL", protocol, known)
    if not rest.strip("/"):
        raise UsageError(f"'{text}': a bucket or folder must follow {protocol}://")
    try:
        # Other processes write there too: a listing that is remembered would be wrong.
        path = UPath(text, use_listings_cache=False)
        path.fs  # noqa: B018 (opens the file system, which fails where its package is missing)
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(f"'{text}' cannot be opened: {error}") from error
    return cast(Path, path)


def near_folders(folder: Path) -> list[str]:
    """Folders beside one that is not there, which may be meant: of a similar name, or stores of runs."""
    try:
        beside = sorted(path for path in folder.parent.iterdir() if path.is_dir())
        names = [path.name for path in beside if not path.name.startswith(".")]
        similar = difflib.get_close_matches(folder.name, names, n=3)
        found = similar or [path.name for path in beside if (path / "runs").is_dir()][:3]
    except Exception:  # no such folder either; a URL's file system has exceptions of its own
        return []
    return [f"'{folder.parent / name}'" for name in found]


def absolute(text: str) -> str:
    """The same location for a process that runs in another folder or on another machine."""
    found = location(text)
    return str(found.resolve()) if isinstance(found, Path) else text
