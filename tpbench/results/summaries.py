"""What tables need of each run, kept in the user's cache between commands: runs never change, and are many.

The cache may be deleted at any time. A summary counts only while the file that it was made from lies there unchanged;
a damaged cache, or one of another version or store, is no cache.
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
_FIELDS = (
    "data_label",
    "status",
    "curves",
    "wall_time_s",
    "pack_members",
    "provenance",
    "found",
    "workload",
    "digest_of_curves",
)

Plain = Mapping[str, Any]


def summarised(record: RunRecord) -> RunRecord:
    """A run as tables need it: of its curves nothing but the selected epoch is left."""
    selected = record.history.selected_epoch
    rows = slice(0, 0) if selected is None else slice(selected, selected + 1)
    curves = {name: values[rows] for name, values in record.curves.items()}
    return replace(record, curves=curves, digest_of_curves=record.curves_digest)


def _plain(summary: RunRecord) -> Plain:
    return {"definition": summary.definition.plain(), **{name: getattr(summary, name) for name in _FIELDS}}


def _record(plain: Plain, run_id: str) -> RunRecord:
    definition = RunDefinition(**plain["definition"])
    # Its hash is what it is kept by; thousands of them would be made anew for each table.
    definition.__dict__["id"] = run_id
    return RunRecord(definition, **{name: plain[name] for name in _FIELDS})


@dataclass
class KeptArchive:
    """The summaries of one archive; None of an entry that was not read yet, or is damaged."""

    stamp: str
    entries: dict[str, Plain | None]


@dataclass
class KeptSummaries:
    """The summaries of one store, as the cache knows them."""

    path: Path | None
    """Where they are kept; None where this user has no cache."""
    store: str
    files: dict[str, tuple[str, Plain]] = field(default_factory=dict)
    """Stamp and summary of the store's run files, by id."""
    archives: dict[str, KeptArchive] = field(default_factory=dict)
    """By file name."""
    changed: bool = False

    @classmethod
    def of(cls, folder: Path, files: Mapping[str, str], archives: Mapping[str, str]) -> KeptSummaries:
        """What is kept of a store.

        Args:
            folder: the store's.
            files, archives: what lies in the store now, as :func:`tpbench.results.location.file_stamps` tells it.
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
        kept = cls(path, store, body["files"], {name: KeptArchive(*entry) for name, entry in body["archives"].items()})
        kept._forget(files, archives)
        return kept

    def _forget(self, files: Mapping[str, str], archives: Mapping[str, str]) -> None:
        """Drop what was made from files that are gone or changed."""
        known = len(self.files) + len(self.archives)
        self.files = {k: kept for k, kept in self.files.items() if kept[0] and files.get(f"{k}.json") == kept[0]}
        self.archives = {k: a for k, a in self.archives.items() if a.stamp and archives.get(k) == a.stamp}
        self.changed = len(self.files) + len(self.archives) < known

    @property
    def archived_ids(self) -> dict[str, Sequence[str]]:
        """The ids of the runs in each archive that is known."""
        return {name: list(archive.entries) for name, archive in self.archives.items()}

    def learn_archive(self, name: str, stamp: str, ids: Sequence[str]) -> None:
        """Note what an archive holds, unless that is known."""
        if stamp and name not in self.archives:
            self.archives[name] = KeptArchive(stamp, dict.fromkeys(ids))
            self.changed = True

    def file(self, run_id: str) -> RunRecord | None:
        """The summary of a run file, if it is known."""
        return _record(self.files[run_id][1], run_id) if run_id in self.files else None

    def archived(self, archive: str, run_id: str) -> RunRecord | None:
        """The summary of an archive's run, if it is known."""
        plain = self.archives[archive].entries.get(run_id) if archive in self.archives else None
        return _record(plain, run_id) if plain else None

    def add_file(self, stamp: str, summary: RunRecord) -> None:
        """Keep the summary of a run file."""
        if stamp:
            self.files[summary.definition.id] = stamp, _plain(summary)
            self.changed = True

    def add_archived(self, archive: str, summary: RunRecord) -> None:
        """Keep the summary of an archive's run."""
        if archive in self.archives:
            self.archives[archive].entries[summary.definition.id] = _plain(summary)
            self.changed = True

    def save(self) -> None:
        """Write the cache if there is something new in it; where that cannot be, commands take longer and no more."""
        if not self.path or not self.changed:
            return
        archives = {name: (kept.stamp, kept.entries) for name, kept in self.archives.items()}
        body = {"format": _FORMAT, "store": self.store, "files": self.files, "archives": archives}
        text = json.dumps(body, separators=(",", ":")).encode()
        try:
            with atomic_write(self.path) as file:
                file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        except TpbenchError:
            return


def _read(path: Path, store: str) -> dict[str, Any]:
    """The contents of a cache file.

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
