"""The files of sweeps in stores and archives: their places, and the copy of several that counts.

:mod:`tpbench.search` knows what they hold, and passes in the function that checks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tpbench.engine import TpbenchError
from tpbench.results.location import io_errors, read_bytes

if TYPE_CHECKING:
    from tpbench.results.archives import ArchiveReader
    from tpbench.results.store import RunStore

FOLDER = "sweeps"
"""Of a store, and within an archive; it holds a folder for each sweep."""
DEFINITION, JOURNAL, WORKLOAD = "sweep.json", "journal.jsonl", "workload.yaml"
LARGEST = {DEFINITION: 4_000_000, JOURNAL: 1_000_000_000, WORKLOAD: 1 << 18}
"""Bytes of each file; the journal of a million configurations has a third of it."""
# Names of sweeps in archives; none leads out of the folder.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}"
_ENTRY = re.compile(rf"{FOLDER}/({_NAME})/(?:{'|'.join(map(re.escape, LARGEST))})")


def entry_of_sweep(name: str, file: str) -> str:
    """Return the name of a sweep's file in an archive."""
    return f"{FOLDER}/{name}/{file}"


def sweeps_of_entries(entries: Iterable[str]) -> list[str]:
    """Return the names of the sweeps among an archive's entries, each once."""
    return list(dict.fromkeys(match[1] for entry in entries if (match := _ENTRY.fullmatch(entry))))


@dataclass(frozen=True)
class SweepFiles:
    """The files of a sweep as archives hold them: checked, and without anything that holds on one machine alone."""

    definition: bytes
    journal: bytes
    """Complete lines, of which those of failures begin with :data:`FAILURE`."""
    workload: bytes = b""
    """The declaration of a user's own workload; it names the file of its data alone."""
    problem: str = ""
    """A message about a file that was left out."""

    @property
    def searched(self) -> bytes:
        """The journal without its failures."""
        return b"".join(line for line in self.journal.splitlines(keepends=True) if not line.startswith(FAILURE))

    def extends(self, other: SweepFiles) -> bool:
        """Return whether this is the same sweep as another, with all events of that and perhaps more.

        Failures are left aside: a search does not depend on those before.
        """
        return self.definition == other.definition and self.searched.startswith(other.searched)

    def adds_to(self, other: SweepFiles) -> bool:
        """Return whether this is the same sweep as another with more events, or with more failures."""
        return self.extends(other) and (not other.extends(self) or len(self.journal) > len(other.journal))

    def entries(self, name: str) -> dict[str, bytes]:
        """Return the contents of the sweep's files by their names in an archive."""
        contents = {DEFINITION: self.definition, JOURNAL: self.journal}
        if self.workload:
            contents[WORKLOAD] = self.workload
        return {entry_of_sweep(name, file): content for file, content in contents.items()}


FAILURE = b'{"event": "failed"'

ParseSweep = Callable[[Mapping[str, bytes], str, bool], SweepFiles]
"""Checks the contents of a sweep's files, by their names; one that is missing is empty. The other arguments are the
place for messages, and whether that is in an archive. Raises TpbenchError where definition or journal is damaged."""


@dataclass
class SweepCopies:
    """The copies of one sweep in a store."""

    name: str
    valid: list[tuple[Path, SweepFiles]] = field(default_factory=list)
    """Place and files of each: first the sweep's folder, then archives."""
    damaged: list[str] = field(default_factory=list)
    """Messages about the others."""

    @property
    def best(self) -> tuple[Path, SweepFiles] | None:
        """The copy that counts: the one with all events of the others; where none has, the first."""
        best = next(iter(self.valid), None)
        for copy in self.valid[1:]:
            if best and copy[1].extends(best[1]) and not best[1].extends(copy[1]):
                best = copy
        return best

    @property
    def conflicts(self) -> list[str]:
        """Messages about copies that disagree with the one that counts."""
        if not (best := self.best):
            return []
        return [
            f"conflict: the sweep {self.name} has another definition or journal in {best[0]} than in {place}; rename "
            "or delete the folder that is wrong, or move the archive that is wrong out of the store"
            for place, files in self.valid
            if not best[1].extends(files)
        ]


def sweep_names(store: Path) -> list[str]:
    """Return the names of the sweeps in a store's folder, in order, whether they can be read or not.

    Raises:
        TpbenchError: the folder cannot be read.
    """
    with io_errors(store):
        return sorted(path.name for path in (store / FOLDER).glob("*") if _begun(path))


def _begun(folder: Path) -> bool:
    try:
        return (folder / DEFINITION).exists()
    except PermissionError:  # another user's: its reader names it
        return True


def archived_sweeps(store: RunStore, archives: ArchiveReader) -> dict[str, list[Path]]:
    """Return the archives that hold each sweep, by its name, in order.

    Raises:
        TpbenchError: an archive cannot be read.
    """
    holders: dict[str, list[Path]] = {}
    for path in store.archived.readable:
        for name in sweeps_of_entries(archives.entries(path)):
            holders.setdefault(name, []).append(path)
    return dict(sorted(holders.items()))


def sweep_places(store: RunStore, archives: ArchiveReader) -> dict[str, list[Path]]:
    """Return the places of each sweep, by its name: its folder, if it has one, and the archives that hold it.

    Raises:
        TpbenchError: the store or an archive cannot be read.
    """
    places = {name: [store.folder / FOLDER / name] for name in sweep_names(store.folder)}
    for name, paths in archived_sweeps(store, archives).items():
        places.setdefault(name, []).extend(paths)
    return dict(sorted(places.items()))


def read_copies(
    store: RunStore, archives: ArchiveReader, name: str, places: Iterable[Path], parse: ParseSweep
) -> SweepCopies:
    """Read all copies of a sweep.

    Args:
        store: that holds them.
        archives: reads its archives.
        name: the sweep's.
        places: as :func:`sweep_places` returns them.
        parse: checks the files.
    """
    copies = SweepCopies(name)
    for place in places:
        try:
            if place == store.folder / FOLDER / name:
                files = read_sweep(store.folder, name, parse)
            else:
                files = read_archived_sweep(archives, place, name, parse)
        except TpbenchError as error:
            copies.damaged.append(str(error))
        else:
            copies.valid.append((place, files))
    return copies


def read_sweep(store: Path, name: str, parse: ParseSweep) -> SweepFiles:
    """Read the files of a sweep in a store's folder.

    Raises:
        TpbenchError: it is damaged, or cannot be read.
    """
    folder = store / FOLDER / name
    contents = dict.fromkeys(LARGEST, b"")
    for file, largest in LARGEST.items():
        with suppress(FileNotFoundError), io_errors(folder / file, passing=(FileNotFoundError,)):
            contents[file] = read_bytes(folder / file, largest)
    return parse(contents, str(folder), False)


def read_archived_sweep(archives: ArchiveReader, path: Path, name: str, parse: ParseSweep) -> SweepFiles:
    """Read the files of a sweep in an archive.

    Raises:
        TpbenchError: it is damaged; the message names archive and entry.
    """
    contents = {file: archived_file(archives, path, name, file) for file in LARGEST}
    return parse(contents, f"{path}: {FOLDER}/{name}", True)


def archived_file(archives: ArchiveReader, path: Path, name: str, file: str) -> bytes:
    """Return the contents of a sweep's file in an archive; of one that is not there, nothing.

    Raises:
        TpbenchError: it is damaged, or there is no definition.
    """
    entry = entry_of_sweep(name, file)
    content = archives.content(path, entry, LARGEST[file])
    if content is None and file == DEFINITION:
        raise TpbenchError(f"{path}: {entry}: missing, though the archive has other files of that sweep")
    return content or b""


def all_sweeps(store: RunStore, parse: ParseSweep) -> dict[str, SweepFiles]:
    """Return every valid sweep of a store and its archives, by name.

    Others, and those whose copies disagree, are named in ``store.damaged``.

    Args:
        store: of the sweeps.
        parse: checks their files.

    Raises:
        TpbenchError: the store cannot be read.
    """
    sweeps: dict[str, SweepFiles] = {}
    with store.archived.opened() as archives:
        for name, places in sweep_places(store, archives).items():
            if not _ENTRY.fullmatch(entry_of_sweep(name, DEFINITION)):
                store.damaged.append(f"{store.folder / FOLDER / name}: left out, as an archive takes no such name")
                continue
            copies = read_copies(store, archives, name, places, parse)
            store.damaged += [f"{message}; this copy of the sweep counts as missing" for message in copies.damaged]
            store.damaged += [f"{message}. Until then the sweep is left out" for message in copies.conflicts]
            if (best := copies.best) and not copies.conflicts:
                store.damaged += [best[1].problem] * bool(best[1].problem)
                sweeps[name] = best[1]
    return sweeps
