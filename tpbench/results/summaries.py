"""The cache of summaries: runs without their curves, kept between commands because runs never change and are many.

The cache may be deleted at any time. A summary counts only while the file that it was made from lies there unchanged;
a damaged cache, or one of another version or store, is ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tpbench.engine import TpbenchError
from tpbench.engine.files import atomic_write, user_cache
from tpbench.results.location import read_bytes
from tpbench.results.runs import RunDefinition, RunRecord

# Raised whenever a summary of this version would not do for another.
_FORMAT = 4
_FIELDS = {
    "data_label": "data_label",
    "status": "status",
    "curves": "curves",
    "wall_time_s": "wall_time_s",
    "pack_members": "pack_members",
    "provenance": "provenance",
    "found": "search_info",
    "workload": "workload",
    "digest_of_curves": "digest_of_curves",
}
"""Names in the cache, as in runs' files, and those of the attributes."""

Plain = Mapping[str, Any]


def summarised(record: RunRecord) -> RunRecord:
    """Return a run as tables need it: with the selected epoch alone of its curves."""
    selected = record.history.selected_epoch
    rows = slice(0, 0) if selected is None else slice(selected, selected + 1)
    curves = {name: values[rows] for name, values in record.curves.items()}
    return replace(record, curves=curves, digest_of_curves=record.curves_digest)


def _to_plain(summary: RunRecord) -> Plain:
    return {
        "definition": summary.definition.plain(),
        **{name: getattr(summary, attribute) for name, attribute in _FIELDS.items()},
    }


def _from_plain(plain: Plain, run_id: str) -> RunRecord:
    definition = RunDefinition(**plain["definition"])
    # Known from its key; hashing thousands of definitions for each table takes seconds.
    definition.__dict__["id"] = run_id
    return RunRecord(definition, **{attribute: plain[name] for name, attribute in _FIELDS.items()})


@dataclass
class CachedArchive:
    """The summaries of one archive; None of an entry that was not read yet, or is damaged."""

    stamp: str
    entries: dict[str, Plain | None]


@dataclass
class SummaryCache:
    """The cached summaries of one store."""

    path: Path | None
    """The cache file; None where this user has no folder for caches."""
    store: str
    files: dict[str, tuple[str, Plain]] = field(default_factory=dict)
    """Stamp and summary of the store's run files, by id."""
    archives: dict[str, CachedArchive] = field(default_factory=dict)
    """The cached archives by file name."""
    changed: bool = False

    @classmethod
    def of(cls, folder: Path, files: Mapping[str, str], archives: Mapping[str, str]) -> SummaryCache:
        """Read the cache of a store.

        Args:
            folder: the store's.
            files, archives: stamps of the store's files now (:func:`tpbench.results.location.file_stamps`).
        """
        store = str(folder.resolve()) if isinstance(folder, Path) else str(folder)
        try:
            # A path need not be text.
            name = hashlib.sha256(store.encode(errors="surrogatepass")).hexdigest()[:24]
            path = user_cache() / "summaries" / f"{name}.json"
        except TpbenchError:  # no home
            return cls(None, store)
        try:
            body = _read(path, store)
        except (OSError, ValueError, TpbenchError):
            return cls(path, store)
        cache = cls(
            path, store, body["files"], {name: CachedArchive(*entry) for name, entry in body["archives"].items()}
        )
        cache._forget(files, archives)
        return cache

    def _forget(self, files: Mapping[str, str], archives: Mapping[str, str]) -> None:
        """Drop summaries of files that are gone or changed."""
        known = len(self.files) + len(self.archives)
        self.files = {k: entry for k, entry in self.files.items() if entry[0] and files.get(f"{k}.json") == entry[0]}
        self.archives = {k: a for k, a in self.archives.items() if a.stamp and archives.get(k) == a.stamp}
        self.changed = len(self.files) + len(self.archives) < known

    @property
    def archived_ids(self) -> dict[str, Sequence[str]]:
        """The ids of the runs in each archive that is cached."""
        return {name: list(archive.entries) for name, archive in self.archives.items()}

    def add_archive(self, name: str, stamp: str, ids: Sequence[str]) -> None:
        """Add the ids of an archive's runs, unless they are cached."""
        if stamp and name not in self.archives:
            self.archives[name] = CachedArchive(stamp, dict.fromkeys(ids))
            self.changed = True

    def file(self, run_id: str) -> RunRecord | None:
        """Return the summary of a run file, if it is cached."""
        return _from_plain(self.files[run_id][1], run_id) if run_id in self.files else None

    def archived(self, archive: str, run_id: str) -> RunRecord | None:
        """Return the summary of an archive's run, if it is cached."""
        plain = self.archives[archive].entries.get(run_id) if archive in self.archives else None
        return _from_plain(plain, run_id) if plain else None

    def add_file(self, stamp: str, summary: RunRecord) -> None:
        """Add the summary of a run file."""
        if stamp:
            self.files[summary.definition.id] = stamp, _to_plain(summary)
            self.changed = True

    def add_archived(self, archive: str, summary: RunRecord) -> None:
        """Add the summary of an archive's run."""
        if archive in self.archives:
            self.archives[archive].entries[summary.definition.id] = _to_plain(summary)
            self.changed = True

    def save(self) -> None:
        """Write the cache if it changed; a failure only makes later commands slower."""
        if not self.path or not self.changed:
            return
        archives = {name: (archive.stamp, archive.entries) for name, archive in self.archives.items()}
        body = {"format": _FORMAT, "store": self.store, "files": self.files, "archives": archives}
        text = json.dumps(body, separators=(",", ":")).encode()
        try:
            with atomic_write(self.path) as file:
                file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        except TpbenchError:
            return


def _read(path: Path, store: str) -> dict[str, Any]:
    """Read a cache file.

    Raises:
        OSError, ValueError, TpbenchError: there is none, or none that this version wrote for this store.
    """
    checksum, _, text = read_bytes(path).partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != checksum:
        raise ValueError("damaged")
    try:
        body = json.loads(text)
    except RecursionError:
        raise ValueError("damaged") from None
    if not isinstance(body, dict) or body.get("format") != _FORMAT or body.get("store") != store:
        raise ValueError("of another version or store")
    from tpbench.results.schemas import CacheFile, check_fields

    check_fields(CacheFile, body)
    return body
