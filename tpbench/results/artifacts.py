"""Kinds of files that a store holds: how each is named, read, checked and compared with other copies of itself."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from tpbench.engine import TpbenchError
from tpbench.engine.files import move_aside
from tpbench.results.location import file_stamps, io_errors, read_bytes

ID_PATTERN = re.compile(r"[0-9a-f]{24}")
"""Ids of runs."""


class NewerFormat(TpbenchError):  # noqa: N818 (nothing is wrong with the file)
    """A valid file of a newer version: this one must neither read nor replace it."""


def canonical_json(value: Any) -> str:
    """Return JSON with one spelling only, so that equal values have equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def with_checksum(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with the checksum of everything in it as its last entry."""
    return {**body, "checksum": digest(dict(body))}


def parse_json(text: str) -> Any:
    """Read JSON that a program wrote: finite numbers that a machine can hold, and text that can be written again.

    Raises:
        ValueError: it is something else.
    """
    try:
        value = json.loads(text, parse_int=_short_int, parse_constant=_refuse_constant)
        if "\\ud" in text or "\\uD" in text:
            # Half of a surrogate pair is no character: no file and no terminal takes it.
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds characters that are none") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _short_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("a number in it is too long")
    return int(digits)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def verify(text: str) -> dict[str, Any]:
    """Return the mapping that :func:`with_checksum` was given, from the JSON that became of it.

    Raises:
        ValueError: it is damaged, or something else.
    """
    body = parse_json(text)
    if not isinstance(body, dict) or "checksum" not in body:
        raise ValueError("it has no checksum")
    checksum = body.pop("checksum")
    try:
        valid = digest(body) == checksum
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not valid:
        raise ValueError("its contents do not match its checksum")
    return body


def verify_format(text: str, where: str, known: int, oldest: int | None = None) -> dict[str, Any]:
    """Return the verified mapping of a file, whose entry ``format`` this version reads.

    Args:
        text: the file's.
        where: its place, for the message.
        known: the newest format that this version writes.
        oldest: the oldest that it reads; None: that one alone.

    Raises:
        NewerFormat: it is valid, but a newer version wrote it.
        ValueError: it is damaged, or has another format.
    """
    body = verify(text)
    written = body.get("format")
    if type(written) is int and written > known:
        raise NewerFormat(
            f"{where}: written by a newer tpbench (format {written}, this one reads {known}): update this tpbench"
        )
    if type(written) is not int or written < (known if oldest is None else oldest):
        raise ValueError(f"it has another format than {known}, which this version reads")
    return body


class Artifact:
    """The contents of one file of a store."""

    def disagrees(self, other: Self) -> bool:
        """Return whether another copy under the same name says something else, and neither replaces the other."""
        return False

    def supersedes(self, other: Self) -> bool:
        """Return whether this copy replaces another under the same name."""
        return False


A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True, eq=False)
class ArtifactKind(Generic[A]):
    """One kind of file of a store: a folder, names, and how contents are read and written.

    Example:
        ``RUNS.read(RUNS.path(store.folder, run_id))``
    """

    title: str
    """The kind in messages: ``run``."""
    content: str
    """The part that decides whether two copies disagree: ``curves``."""
    folder: str
    """Within the store's folder, and within an archive."""
    suffix: str
    names: re.Pattern[str]
    """Names of files without their suffix. A file of another name is another program's, and left alone."""
    largest: int
    """Bytes of a file."""
    decode: Callable[[bytes, str], A]
    """Takes contents and their place; raises :class:`NewerFormat` or :class:`TpbenchError`."""
    encode: Callable[[A], bytes]
    owner: Callable[[A], str] | None = None
    """The name under which the contents belong; None where any name will do."""
    archived: bool = True
    """True if archives hold files of this kind."""
    error: type[TpbenchError] = TpbenchError
    """Raised for a file that is damaged or misnamed."""
    remedy: str = ""
    """Ends the message of a damaged file."""

    def path(self, store: Path, name: str) -> Path:
        """Return the place of a file in the folder of a store.

        Raises:
            ValueError: no such file can have the name.
        """
        if not self.names.fullmatch(name):
            raise ValueError(f"not the name of a {self.title}: {name!r}")
        return store / self.folder / f"{name}{self.suffix}"

    def entry(self, name: str) -> str:
        """Return the name of a file in an archive."""
        return f"{self.folder}/{name}{self.suffix}"

    def names_of_entries(self, entries: Iterable[str]) -> list[str]:
        """Return the names of the files of this kind among an archive's entries, each once."""
        names = {entry: entry.removeprefix(f"{self.folder}/").removesuffix(self.suffix) for entry in entries}
        return [name for entry, name in names.items() if self.entry(name) == entry and self.names.fullmatch(name)]

    def names_in(self, store: Path) -> list[str]:
        """Return the names of the files in the folder of a store, in order.

        Raises:
            TpbenchError: the folder cannot be read.
        """
        return sorted(self.valid_names(file_stamps(store / self.folder, self.suffix)))

    def valid_names(self, files: Mapping[str, Any]) -> set[str]:
        """Return the names of the files of this kind among others of its folder."""
        return {name for file in files if self.names.fullmatch(name := file.removesuffix(self.suffix))}

    def parse(self, content: bytes, where: str, name: str) -> A:
        """Read and check the contents of a file.

        Raises:
            NewerFormat: a newer version wrote them.
            TpbenchError: they are damaged, or belong under another name; the message begins with the place.
        """
        value = self.decode(content, where)
        if self.owner and self.owner(value) != name:
            raise self.error(f"{where}: holds the {self.title} {self.owner(value)}{self.remedy}")
        return value

    def read(self, path: Path) -> A:
        """Read and check a file; changes nothing.

        Raises:
            OSError: it cannot be read.
            NewerFormat: a newer version wrote it.
            TpbenchError: it is damaged, no file, too large, or belongs under another name.
        """
        try:
            content = read_bytes(path, self.largest)
        except TpbenchError as error:
            raise self.error(f"{error}{self.remedy}") from error
        return self.parse(content, str(path), path.name.removesuffix(self.suffix))

    def read_if_there(self, path: Path) -> A | None:
        """Read and check a file; None where there is none.

        Raises:
            NewerFormat: a newer version wrote it.
            TpbenchError: it is damaged, or cannot be read.
        """
        with io_errors(path):
            try:
                return self.read(path)
            except (FileNotFoundError, NotADirectoryError):
                return None


@dataclass(frozen=True)
class Copy(Generic[A]):
    """One copy of an artifact."""

    value: A
    place: Path
    """The file or archive that it was read from."""


@dataclass(frozen=True)
class Copies(Generic[A]):
    """All valid copies of an artifact, files before archives."""

    kind: ArtifactKind[A]
    name: str
    copies: list[Copy[A]]
    problems: list[str]
    """Messages about the other copies."""
    newer: int = 0
    """Number of those that a newer version wrote."""

    @cached_property
    def current(self) -> list[Copy[A]]:
        """The copies that no other copy supersedes."""
        return [
            copy
            for copy in self.copies
            if not any(other.value.supersedes(copy.value) for other in self.copies if other is not copy)
        ]

    @property
    def value(self) -> A | None:
        """The copy that counts: the first of the current ones."""
        return self.current[0].value if self.current else None

    def where(self, copy: Copy[A]) -> str:
        """Return the place of a copy: a file, or an entry of an archive."""
        return (
            str(copy.place) if copy.place.suffix == self.kind.suffix else f"{copy.place}: {self.kind.entry(self.name)}"
        )

    @property
    def conflict(self) -> str:
        """A message that names the copies that disagree with the first; empty if there are none."""
        if not self.current:
            return ""
        first, *others = self.current
        places = [str(copy.place) for copy in others if copy.value.disagrees(first.value)]
        if not places:
            return ""
        return (
            f"conflict: the {self.kind.title} {self.name} has other {self.kind.content} in {first.place} than in "
            f"{', '.join(places)}; the first counts, and tables mark what is computed from it: delete the wrong file, "
            "or replace the archive that holds a wrong copy"
        )


def quarantine(path: Path, problem: str) -> Path | None:
    """Rename a damaged file to ``*.damaged`` and return its new path; None if it is not there any more.

    Raises:
        TpbenchError: it could not be renamed.
    """
    failure = f"{problem}; it could not be set aside"
    # Another process may have done it.
    with suppress(FileNotFoundError), io_errors(path, failure, passing=(FileNotFoundError,)):
        return move_aside(path)
    return None
