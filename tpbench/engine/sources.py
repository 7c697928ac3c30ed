"""What an installed package's code is: the part of a run's identity that a plug-in brings along."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

from tpbench.engine.errors import TpbenchError


def plugin_source(entry: EntryPoint) -> str:
    """Distribution, version and digest of the source behind an entry point, the same on every machine.

    The version alone would not do: nobody raises it between two edits of an editable installation.

    Raises:
        TpbenchError: its package cannot be found or read.
    """
    package = entry.module.partition(".")[0]
    # A process runs the code that it has imported, so it looks once.
    source = source_digest(package)
    return f"{entry.dist.name} {entry.dist.version} {source}" if entry.dist else f"{package} {source}"


@lru_cache(maxsize=256)
def source_digest(package: str) -> str:
    """16 hex digits of the SHA-256 over names and contents of the Python files of a top-level package or module.

    A namespace package counts with all its portions: of a folder without ``__init__.py`` nothing tells what is whose.
    """
    try:
        spec = find_spec(package)
        if spec is None:
            raise ImportError("it is not installed")
        if spec.submodule_search_locations is not None:
            folders = [Path(folder) for folder in spec.submodule_search_locations]
            files = [(path.relative_to(folder).as_posix(), path) for folder in folders for path in folder.rglob("*.py")]
        else:
            files = [(Path(str(spec.origin)).name, Path(str(spec.origin)))]
        contents = sorted((name, path.read_bytes()) for name, path in files)
        if not contents:
            raise ImportError("it holds no Python files")
    except (ImportError, ValueError, OSError) as error:
        raise TpbenchError(
            f"the source of the package '{package}' cannot be found ({error}): install it anew"
        ) from error
    found = hashlib.sha256()
    for name, content in contents:
        found.update(f"{name} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]
