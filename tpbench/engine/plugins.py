"""Plug-ins: the entries of installed packages beside the built-in ones, and the source that identifies them.

A broken package costs a line on standard error, and its own entry alone.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

from tpbench.engine.errors import TpbenchError, UsageError, place_of, unknown, visible

Kind = TypeVar("Kind")

RESERVED = ("all", "field")
"""Names that stand for several methods or workloads."""
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def _package(entry: EntryPoint) -> str:
    """Return the name of an entry point's package."""
    return entry.dist.name if entry.dist else entry.module


def _describe(kind: str, entry: EntryPoint) -> str:
    return f"the {kind} '{entry.name}' of the package '{_package(entry)}'"


class EntryError(TpbenchError):
    """An entry of a package that cannot be used.

    Args:
        kind: what messages call an entry.
        entry: the entry point.
        reason: as it follows the words "cannot be used".
    """

    def __init__(self, kind: str, entry: EntryPoint, reason: str) -> None:
        self.name, self.package, self.reason = entry.name, _package(entry), reason
        super().__init__(f"{_describe(kind, entry)} cannot be used{reason}")


class Registry(Generic[Kind]):
    """The entries of one kind by name: built-in ones, and those of installed packages in an entry-point group.

    Args:
        group: the entry-point group.
        kind: what messages call an entry, such as ``method``.
        built_in: the built-in entries; no package can have their names.
        read: returns the entry of an entry point's name and object; raises ``UsageError`` with the reason if the object
            is nothing of the kind, or ``ValueError`` with a reason that follows the name of the object.
        title: returns the title of an entry in tables; no two entries have the same. None: titles do not count.

    Example:
        ``METHOD_REGISTRY = Registry("tpbench.methods", "method", METHODS, read_method)``
    """

    def __init__(
        self,
        group: str,
        kind: str,
        built_in: Mapping[str, Kind],
        read: Callable[[str, object], Kind],
        title: Callable[[Kind], str] | None = None,
    ) -> None:
        self.group, self.kind, self.built_in, self._read, self._title = group, kind, built_in, read, title
        self._loaded: dict[EntryPoint, Kind] = {}
        self._title_problems: dict[EntryPoint, str] = {}
        self._loading: set[str] = set()
        _REGISTRIES.append(self)

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self.entries()

    def names(self) -> list[str]:
        """Return all names, the built-in ones first; imports no package."""
        return [*self.built_in, *self.entries()]

    def all(self) -> dict[str, Kind]:
        """Return the built-in entries and those of installed packages that can be used.

        Prints a line on standard error for each reason why others of a package cannot.
        """
        entries = dict(self.built_in)
        usable, refused = self._sorted()
        errors = list(refused.values())
        for name in usable:
            try:
                entries[name] = self.load(name)
            except EntryError as error:
                errors.append(error)
        together: dict[tuple[str, str], list[EntryError]] = {}
        for problem in errors:
            together.setdefault((problem.package, problem.reason), []).append(problem)
        for (package, reason), same in together.items():
            names = ", ".join(f"'{problem.name}'" for problem in same)
            warn_once(
                f"the {self.kind}{'s' * (len(same) > 1)} {names} of the package '{package}' cannot be used{reason}; "
                "the others can be used"
            )
        return entries

    def get(self, name: str) -> Kind:
        """Return the entry of that name; for a built-in one, no package is imported.

        Raises:
            UsageError: there is none; the message names the nearest.
            TpbenchError: as of :meth:`load`.
        """
        if name in self.built_in:
            return self.built_in[name]
        usable, refused = self._sorted()
        if name in refused:
            raise refused[name]
        if name not in usable:
            raise unknown(self.kind, name, self.names())
        return self.load(name)

    def source(self, name: str) -> str:
        """Return the source of an entry (:func:`plugin_source`); empty for a built-in one.

        Raises:
            TpbenchError: it cannot be found.
        """
        return "" if name in self.built_in else plugin_source(self.entries()[name])

    def entries(self) -> dict[str, EntryPoint]:
        """Return the usable entry points of installed packages by name; imports none of the packages."""
        return self._sorted()[0]

    def load(self, name: str) -> Kind:
        """Return the entry of an installed package.

        Where titles count, the packages of entries that come before it in the alphabet are imported as well: which of
        two equal titles is refused must not depend on the order of imports in a process.

        Raises:
            EntryError: its package cannot be imported, or adds something else, or its title is that of another.
        """
        entry = self.entries()[name]
        loaded = self._load(name, entry)
        if problem := self._title_problem(name, entry, loaded):
            raise EntryError(self.kind, entry, f": {problem}")
        return loaded

    def describe(self, name: str) -> str:
        """Return the words for an entry and its package in messages."""
        return f"the {self.kind} '{name}'" if name in self.built_in else _describe(self.kind, self.entries()[name])

    def forget(self) -> None:
        """Read the entries of packages again when they are next needed."""
        self._loaded.clear()
        self._title_problems.clear()

    def _sorted(self) -> tuple[dict[str, EntryPoint], dict[str, EntryError]]:
        """Return the entry points whose names can be used, and the errors of the others, by name.

        Two packages with one name are both refused: which of them comes first depends on the installation.
        """
        by_name: dict[str, list[EntryPoint]] = {}
        for entry in _entry_points(self.group, tuple(sys.path)):
            by_name.setdefault(entry.name, []).append(entry)
        usable: dict[str, EntryPoint] = {}
        refused = {}
        for name, (entry, *others) in by_name.items():
            if not _NAME.fullmatch(name):
                # Folders and files are named by it.
                problem = ": a name has 1 to 40 of a-z, A-Z, 0-9, '-' and '_'"
            elif name in self.built_in:
                problem = ": that name is taken by a built-in one"
            elif name in RESERVED:
                problem = ": that name stands for several where names are given"
            elif others:
                names = ", ".join(f"'{_package(other)}'" for other in others)
                problem = f": that name is taken by the package {names}, too; uninstall one"
            else:
                usable[name] = entry
                continue
            refused[name] = EntryError(self.kind, entry, problem)
        return usable, refused

    def _load(self, name: str, entry: EntryPoint) -> Kind:
        if ":" not in entry.value:
            raise EntryError(self.kind, entry, f": '{entry.value}' must be written MODULE:NAME")
        if name in self._loading:
            raise EntryError(self.kind, entry, ": it is made of itself")
        if entry not in self._loaded:
            self._loading.add(name)
            try:
                self._loaded[entry] = self._import(name, entry)
            finally:
                self._loading.discard(name)
        return self._loaded[entry]

    def _import(self, name: str, entry: EntryPoint) -> Kind:
        package, first = _top_level(entry), _top_level(entry) not in _IMPORTED
        if first:
            with suppress(TpbenchError):  # the import says what is wrong
                # Before the import: who edits the package meanwhile runs the older code, or refuses to.
                _IMPORTED[package] = read_digest(package)
        before = set(sys.modules)
        try:
            loaded = entry.load()
        except (Exception, SystemExit) as error:  # a module may do anything when it is imported
            if first and package not in sys.modules:
                _IMPORTED.pop(package, None)  # it may be mended, and imported again
            text = error.msg if isinstance(error, SyntaxError) else str(error)
            reason = " ".join(f"{type(error).__name__}: {text}".split())
            place = f", {place_of(error)}" if place_of(error) else ""
            raise EntryError(self.kind, entry, f" ({reason}{place})") from error
        if others := _modules_beside(entry, set(sys.modules) - before):
            warn_once(
                f"{_describe(self.kind, entry)} imports {', '.join(others)}, whose changes tpbench does not see: old "
                f"runs would count as new ones. Put all modules into one package, with '{entry.module}'"
            )
        try:
            return self._read(name, loaded)
        except ValueError as error:
            raise EntryError(self.kind, entry, f": {entry.value} {error}") from error
        except UsageError as error:
            raise EntryError(self.kind, entry, f": {error}") from error

    def _title_problem(self, name: str, entry: EntryPoint, loaded: Kind) -> str:
        """Name the built-in or earlier entry that has the same title; empty if there is none."""
        if self._title is None:
            return ""
        if entry not in self._title_problems:
            problem = self._same_title(name, entry, self._title(loaded))
            if self._loading:
                return problem  # an entry that is being imported has no title yet
            self._title_problems[entry] = problem
        return self._title_problems[entry]

    def _same_title(self, name: str, entry: EntryPoint, title: str) -> str:
        assert self._title
        for other, built_in in self.built_in.items():
            if _same_words(self._title(built_in), title):
                return f"{entry.value} has the title '{title}' of the built-in {self.kind} '{other}'"
        for other, other_entry in self.entries().items():
            if other >= name:
                continue
            try:
                same = _same_words(self._title(self._load(other, other_entry)), title)
            except TpbenchError:
                continue  # it is in no table
            if same:
                return f"{entry.value} has the title '{title}' of {_describe(self.kind, other_entry)}"
        return ""


_REGISTRIES: list[Registry[Any]] = []


def _same_words(one: str, other: str) -> bool:
    """Return whether two titles look the same in a table."""
    return one.split() == other.split()


@lru_cache(maxsize=100)
def warn_once(problem: str) -> None:
    """Print a line about a package, once per process."""
    print(visible(f"warning: {problem}"), file=sys.stderr)


@lru_cache(maxsize=8)
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points of the packages on a module search path; looking at all packages is slow."""
    return tuple(entry_points(group=group))


def forget_plugins() -> None:
    """Look for installed packages again, where some were installed while this process runs."""
    for registry in _REGISTRIES:
        registry.forget()
    _entry_points.cache_clear()
    warn_once.cache_clear()
    _IMPORTED.clear()


_IMPORTED: dict[str, str] = {}
"""The digest of each top-level package from just before tpbench imported it, for what lies there now may differ."""


def _top_level(entry: EntryPoint) -> str:
    """Return the top-level package or module of an entry point."""
    return entry.module.partition(".")[0]


def _modules_beside(entry: EntryPoint, imported: Iterable[str]) -> list[str]:
    """Return the top-level modules of an entry's project that are no part of its package, sorted.

    Args:
        entry: the entry point.
        imported: names of modules that its import has brought.
    """
    package, names = _top_level(entry), {name.partition(".")[0] for name in imported}
    own = getattr(sys.modules.get(package), "__file__", None)
    if own is None or entry.dist is None:
        return []
    home = Path(own).parent.parent if Path(own).stem == "__init__" else Path(own).parent
    home, site = home.resolve(), Path(str(entry.dist.locate_file(""))).resolve()
    listed = {file.parts[0].removesuffix(".py") for file in entry.dist.files or ()}

    def belongs(name: str) -> bool:
        file = getattr(sys.modules.get(name), "__file__", None)
        if not file:
            return False
        if site == home:
            # Where packages are installed, other projects lie beside it.
            return name in listed
        # A folder that one is developed in is its own, but for an environment in it.
        path = Path(file).resolve()
        return path.is_relative_to(home) and not path.is_relative_to(site)

    return sorted(filter(belongs, names - {package}))


def plugin_source(entry: EntryPoint) -> str:
    """Return distribution, version and digest of the source behind an entry point, the same on every machine.

    It is the part of a run's identity that a plug-in brings along. The version alone would not do: it stays the same
    between two edits of an editable installation.

    Raises:
        TpbenchError: its package cannot be found or read.
    """
    package = _top_level(entry)
    source = _IMPORTED.get(package) or source_digest(package)
    return f"{entry.dist.name} {entry.dist.version} {source}" if entry.dist else f"{package} {source}"


@lru_cache(maxsize=256)
def source_digest(package: str) -> str:
    """Return what :func:`read_digest` does; a process looks once."""
    return read_digest(package)


def read_digest(package: str) -> str:
    """Return 16 hex digits of the SHA-256 over names and contents of the Python files of a top-level package or module.

    A namespace package counts with all its portions: a folder without ``__init__.py`` may belong to several packages.

    Raises:
        TpbenchError: the package cannot be found or read.
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
    digest = hashlib.sha256()
    for name, content in contents:
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]
