"""The files of sweeps that archives hold: definition and journal, checked as JSON; :mod:`tpbench.search` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tpbench.engine import TpbenchError
from tpbench.results.artifacts import parse_json
from tpbench.results.location import io_errors, read_bytes

if TYPE_CHECKING:
    from tpbench.results.archives import ArchiveReader
    from tpbench.results.store import RunStore

FOLDER = "sweeps"
"""Of a store, and within an archive; it holds a folder for each sweep."""
DEFINITION, JOURNAL = "sweep.json", "journal.jsonl"
LARGEST = {DEFINITION: 4_000_000, JOURNAL: 1_000_000_000}
"""Bytes of each file; the journal of a million configurations has a third of it."""
# Names of sweeps in archives; none leads out of the folder.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}"
_ENTRY = re.compile(rf"{FOLDER}/({_NAME})/(?:{re.escape(DEFINITION)}|{re.escape(JOURNAL)})")


def entry_of_sweep(name: str, file: str) -> str:
    """Return the name of a sweep's file in an archive."""
    return f"{FOLDER}/{name}/{file}"


def sweeps_of_entries(entries: Iterable[str]) -> list[str]:
    """Return the names of the sweeps among an archive's entries, each once."""
    return list(dict.fromkeys(match[1] for entry in entries if (match := _ENTRY.fullmatch(entry))))


@dataclass(frozen=True)
class SweepFiles:
    """Definition and journal of a sweep as they enter an archive: without anything that holds on one machine alone."""

    definition: bytes
    journal: bytes
    """Complete lines. The reasons of failures are left out, as they name places of a machine."""

    @classmethod
    def of(cls, definition: bytes, journal: bytes, where: str) -> SweepFiles:
        """Check the contents of both files; a last line of the journal that a crash cut short is left out.

        Raises:
            TpbenchError: one of them is damaged.
        """
        try:
            if not isinstance(parse_json(definition.decode()), dict):
                raise ValueError("it is no mapping")
        except ValueError as error:
            raise TpbenchError(f"{where}/{DEFINITION}: damaged ({error})") from error
        lines = []
        for number, line in enumerate(journal.split(b"\n")[:-1], start=1):
            try:
                event = parse_json(line.decode())
                if not isinstance(event, dict):
                    raise ValueError("it is no mapping")
            except ValueError as error:
                raise TpbenchError(f"{where}/{JOURNAL}:{number}: damaged ({error})") from error
            if event.get("event") != "failed":
                lines.append(line + b"\n")
        return cls(definition, b"".join(lines))

    def extends(self, other: SweepFiles) -> bool:
        """Return whether this is the same sweep as another, with all events of that and perhaps more."""
        mine, others = (parse_json(files.definition.decode()) for files in (self, other))
        return bool(mine == others) and self.journal.startswith(other.journal)

    def entries(self, name: str) -> dict[str, bytes]:
        """Return the contents of the sweep's files by their names in an archive."""
        return {entry_of_sweep(name, DEFINITION): self.definition, entry_of_sweep(name, JOURNAL): self.journal}


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


def read_sweep(store: Path, name: str) -> SweepFiles:
    """Read the files of a sweep in a store's folder.

    Raises:
        TpbenchError: it is damaged, or cannot be read.
    """
    folder = store / FOLDER / name
    with io_errors(folder):
        definition = read_bytes(folder / DEFINITION, LARGEST[DEFINITION])
        try:
            journal = read_bytes(folder / JOURNAL, LARGEST[JOURNAL])
        except FileNotFoundError:
            journal = b""
    return SweepFiles.of(definition, journal, str(folder))


def read_archived_sweep(archives: ArchiveReader, path: Path, name: str) -> SweepFiles:
    """Read the files of a sweep in an archive.

    Raises:
        TpbenchError: it is damaged; the message names archive and entry.
    """
    definition, journal = (archived_file(archives, path, name, file) for file in (DEFINITION, JOURNAL))
    return SweepFiles.of(definition, journal, f"{path}: {FOLDER}/{name}")


def archived_file(archives: ArchiveReader, path: Path, name: str, file: str) -> bytes:
    """Return the contents of a sweep's file in an archive; of a journal that is not there, nothing.

    Raises:
        TpbenchError: it is damaged, or there is no definition.
    """
    entry = entry_of_sweep(name, file)
    content = archives.content(path, entry, LARGEST[file])
    if content is None and file == DEFINITION:
        raise TpbenchError(f"{path}: {entry}: missing, though the archive has a journal of that sweep")
    return content or b""


def all_sweeps(store: RunStore) -> dict[str, SweepFiles]:
    """Return every valid sweep of a store and its archives, by name; others are named in ``store.damaged``.

    Of several copies counts the one that has all events of the others.

    Raises:
        TpbenchError: two copies of a sweep disagree, or the store cannot be read.
    """
    sweeps: dict[str, SweepFiles] = {}

    def add(name: str, files: SweepFiles, place: Path) -> None:
        known = sweeps.get(name)
        if known is None or files.extends(known):
            sweeps[name] = files
        elif not known.extends(files):
            raise TpbenchError(
                f"the sweep {name} has another definition or journal in {place} than in another place of the store: "
                "'tpbench results check' names both; delete what is wrong"
            )

    with store.archived.opened() as archives:
        places: list[tuple[str, Path | None]] = [(name, None) for name in sweep_names(store.folder)]
        places += [(name, path) for name, paths in archived_sweeps(store, archives).items() for path in paths]
        for name, archive in places:
            if not _ENTRY.fullmatch(entry_of_sweep(name, DEFINITION)):
                store.damaged.append(f"{store.folder / FOLDER / name}: left out, as an archive takes no such name")
                continue
            try:
                files = read_archived_sweep(archives, archive, name) if archive else read_sweep(store.folder, name)
            except TpbenchError as error:
                store.damaged.append(f"{error}; this copy of the sweep counts as missing")
                continue
            add(name, files, archive or store.folder / FOLDER)
    return dict(sorted(sweeps.items()))
