"""The cache of summaries: runs without their curves, kept between commands because runs never change and are many.

The cache may be deleted at any time. A summary counts only while the file that it was made from lies there unchanged;
a damaged cache, or one of another version or store, is ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tpbench.engine import TpbenchError
from tpbench.engine.files import atomic_write, user_cache
from tpbench.results.location import read_bytes
from tpbench.results.runs import RunDefinition, RunRecord

# Raised whenever a summary of this version would not do for another.
_FORMAT = 5
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
class SummaryCache:
    """The cached summaries of one store."""

    store: str
    stamps: Mapping[str, str]
    """Stamps of the store's run files and archives, by name (:func:`tpbench.results.location.file_stamps`)."""
    path: Path | None = None
    """The cache file; None where this user has no folder for caches."""
    holders: dict[str, tuple[str, dict[str, Plain | None]]] = field(default_factory=dict)
    """Stamp of each run file and archive, and summaries of its runs by id; None of one not read yet, or damaged."""
    changed: bool = False

    @classmethod
    def of(cls, folder: Path, stamps: Mapping[str, str]) -> SummaryCache:
        """Read the cache of a store; summaries of files that are gone or changed are dropped.

        Args:
            folder: the store's.
            stamps: of its run files and archives now.
        """
        cache = cls(str(folder.resolve()) if isinstance(folder, Path) else str(folder), stamps)
        # There may be no home, no cache yet, or none that is valid.
        with suppress(OSError, ValueError, RecursionError, TpbenchError):
            # A path need not be text.
            name = hashlib.sha256(cache.store.encode(errors="surrogatepass")).hexdigest()[:24]
            cache.path = user_cache() / "summaries" / f"{name}.json"
            holders = _read(cache.path, cache.store)
            cache.holders = {
                name: entry for name, entry in holders.items() if entry[0] and stamps.get(name) == entry[0]
            }
            cache.changed = len(cache.holders) < len(holders)
        return cache

    @property
    def ids(self) -> dict[str, list[str]]:
        """The ids of the runs in each file and archive that is cached."""
        return {name: list(runs) for name, (_, runs) in self.holders.items()}

    def add_ids(self, archive: str, ids: Sequence[str]) -> None:
        """Add the ids of an archive's runs, unless they are cached."""
        if archive not in self.holders and (stamp := self.stamps.get(archive)):
            self.holders[archive] = stamp, dict.fromkeys(ids)
            self.changed = True

    def summary(self, holder: str, run_id: str) -> RunRecord | None:
        """Return the summary of a run in a file or archive, if it is cached."""
        plain = self.holders[holder][1].get(run_id) if holder in self.holders else None
        return _from_plain(plain, run_id) if plain else None

    def add(self, holder: str, summary: RunRecord) -> None:
        """Add the summary of a run in a file or archive."""
        if stamp := self.stamps.get(holder):
            self.holders.setdefault(holder, (stamp, {}))[1][summary.definition.id] = _to_plain(summary)
            self.changed = True

    def save(self) -> None:
        """Write the cache if it changed; a failure only makes later commands slower."""
        if not self.path or not self.changed:
            return
        body = {"format": _FORMAT, "store": self.store, "holders": self.holders}
        text = json.dumps(body, separators=(",", ":")).encode()
        with suppress(TpbenchError), atomic_write(self.path) as file:
            file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def _read(path: Path, store: str) -> dict[str, Any]:
    """Return the stamps and summaries of a cache file, by the names of the files that hold the runs.

    Raises:
        OSError, ValueError, RecursionError, TpbenchError: there is none that this version wrote for this store.
    """
    checksum, _, text = read_bytes(path).partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != checksum:
        raise ValueError("damaged")
    body = json.loads(text)
    if not isinstance(body, dict) or body.get("format") != _FORMAT or body.get("store") != store:
        raise ValueError("of another version or store")
    from tpbench.results.schemas import CacheFile, check_fields

    check_fields(CacheFile, body)
    return dict(body["holders"])
