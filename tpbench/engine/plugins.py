"""What an installed package's code is: the part of a run's identity that a plug-in brings along."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

from tpbench.engine.errors import TpbenchError, UsageError, place_of, visible


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


# What installed packages add through an entry-point group: a broken one costs a line, and its own entry alone.


Kind = TypeVar("Kind")

_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def _alike(one: str, other: str) -> bool:
    """Whether two titles look the same in a table."""
    return one.split() == other.split()


@lru_cache(maxsize=100)
def _warn(problem: str) -> None:
    """Once per process: a broken package costs its own entry and a line, no more."""
    print(visible(f"warning: {problem}; the others can be used"), file=sys.stderr)


@lru_cache(maxsize=8)
def _entries(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of the packages on a module search path; looking at all packages takes its time."""
    return tuple(entry_points(group=group))


class Plugins(Generic[Kind]):
    """The entries of one group.

    Args:
        group: the entry-point group.
        what: one entry, in a message: ``method``.
        taken: the built-in ones; no package can have their names.
        read: what an entry point's name and object stand for; raises ``UsageError`` with the reason if it is nothing of
            the kind, or ``ValueError`` with one that goes on after the name of the object.
        title: what an entry is called in tables; no two have the same. None: by its name.
    """

    def __init__(
        self,
        group: str,
        what: str,
        taken: Mapping[str, Kind],
        read: Callable[[str, object], Kind],
        title: Callable[[Kind], str] | None = None,
    ) -> None:
        self.group, self.what, self._taken, self._read, self._title = group, what, taken, read, title
        self._loaded: dict[EntryPoint, Kind] = {}
        self._taken_titles: dict[EntryPoint, str] = {}
        self._loading: set[str] = set()
        _GROUPS.append(self)

    def entries(self) -> dict[str, EntryPoint]:
        """The entry points by name; imports none of their packages."""
        return self._sorted()[0]

    def _sorted(self) -> tuple[dict[str, EntryPoint], list[str]]:
        """Those whose names can be used, and what is wrong with the others."""
        found: dict[str, EntryPoint] = {}
        wrong = []
        for entry in _entries(self.group, tuple(sys.path)):
            if not _NAME.fullmatch(entry.name):
                # Folders and files are named by it.
                wrong.append(f"{self._whose(entry)} cannot be used: a name has 1 to 40 of a-z, A-Z, 0-9, '-' and '_'")
            elif entry.name in self._taken or entry.name in found:
                wrong.append(f"{self._whose(entry)} cannot be used: that name is taken")
            else:
                found[entry.name] = entry
        return found, wrong

    def _whose(self, entry: EntryPoint) -> str:
        return f"the {self.what} '{entry.name}' of the package '{entry.dist.name if entry.dist else entry.module}'"

    def load(self, name: str) -> Kind:
        """Return what an entry stands for.

        Where titles count, the packages of entries that come before it in the alphabet are imported as well: which of
        two equal titles is refused must not depend on what a process happened to load.

        Raises:
            TpbenchError: its package cannot be imported, or adds something else, or its title is that of another.
        """
        entry = self.entries()[name]
        found = self._load(name, entry)
        if problem := self._title_problem(name, entry, found):
            raise TpbenchError(f"{self._whose(entry)} cannot be used: {problem}")
        return found

    def _load(self, name: str, entry: EntryPoint) -> Kind:
        if ":" not in entry.value:
            raise TpbenchError(f"{self._whose(entry)} cannot be used: '{entry.value}' must be written MODULE:NAME")
        if name in self._loading:
            raise TpbenchError(f"{self._whose(entry)} cannot be used: it is made of itself")
        if entry not in self._loaded:
            self._loading.add(name)
            try:
                self._loaded[entry] = self._import(name, entry)
            finally:
                self._loading.discard(name)
        return self._loaded[entry]

    def _import(self, name: str, entry: EntryPoint) -> Kind:
        try:
            found = entry.load()
        except (Exception, SystemExit) as error:  # whatever a module may do when it is imported
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            place = f", {place_of(error)}" if place_of(error) else ""
            raise TpbenchError(f"{self._whose(entry)} cannot be used ({reason}{place})") from error
        try:
            return self._read(name, found)
        except ValueError as error:
            raise TpbenchError(f"{self._whose(entry)} cannot be used: {entry.value} {error}") from error
        except UsageError as error:
            raise TpbenchError(f"{self._whose(entry)} cannot be used: {error}") from error

    def _title_problem(self, name: str, entry: EntryPoint, found: Kind) -> str:
        """Return whose title an entry has: that of a built-in one or of an earlier name; empty if it is its own."""
        if self._title is None:
            return ""
        if entry not in self._taken_titles:
            problem = self._same_title(name, entry, self._title(found))
            if self._loading:
                return problem  # what is being imported has no title yet
            self._taken_titles[entry] = problem
        return self._taken_titles[entry]

    def _same_title(self, name: str, entry: EntryPoint, title: str) -> str:
        assert self._title
        for other, built_in in self._taken.items():
            if _alike(self._title(built_in), title):
                return f"{entry.value} has the title '{title}' of the built-in {self.what} '{other}'"
        for other, other_entry in self.entries().items():
            if other >= name:
                continue
            try:
                same = _alike(self._title(self._load(other, other_entry)), title)
            except TpbenchError:
                continue  # it is in no table
            if same:
                return f"{entry.value} has the title '{title}' of {self._whose(other_entry)}"
        return ""

    def load_all(self) -> dict[str, Kind]:
        """All that can be used; of those that cannot, a line on standard error tells."""
        found: dict[str, Kind] = {}
        names, wrong = self._sorted()
        for problem in wrong:
            _warn(problem)
        for name in names:
            try:
                found[name] = self.load(name)
            except TpbenchError as error:
                _warn(str(error))
        return found

    def source(self, name: str) -> str:
        """Whose code an entry is (:func:`tpbench.engine.plugins.plugin_source`).

        Raises:
            TpbenchError: it cannot be found.
        """
        return plugin_source(self.entries()[name])

    def forget(self) -> None:
        """Read the entries anew when they are next asked for."""
        self._loaded.clear()
        self._taken_titles.clear()


_GROUPS: list[Plugins[Any]] = []


def forget_plugins() -> None:
    """Look for installed packages anew, for who installs some while this process runs."""
    for group in _GROUPS:
        group.forget()
    _entries.cache_clear()
    _warn.cache_clear()
