"""Records of how updates align, as ``tpbench align`` writes them: one JSON file each, in a store or in its archives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench.engine import TpbenchError
from tpbench.engine.errors import reason_of
from tpbench.engine.files import atomic_write
from tpbench.results.archives import archived_texts
from tpbench.results.location import file_stamps, read_bytes
from tpbench.results.runs import NewerFormat, sealed, unsealed
from tpbench.results.store import RunStore, set_aside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
FOLDER = "alignment"
"""Beside ``runs`` in a store's folder, and the same in an archive."""
ENTRY = re.compile(rf"{FOLDER}/([A-Za-z0-9_][A-Za-z0-9._+-]{{0,200}}\.json)")
"""The names of records in an archive: one that is copied out of it stays in its folder."""
# Bytes; every minibatch of 100 epochs of ten seeds would be a third of it.
_LARGEST = 500_000_000


@dataclass(frozen=True)
class AlignmentRecord:
    """The angles of one method on one workload, in degrees; one row per measured minibatch."""

    workload: str
    data_label: str
    method: str
    seeds: list[int]
    epochs: int
    every: int
    steps_per_epoch: int
    """Joint minibatches of one epoch."""
    dampings: list[float]
    steps: list[int]
    loss_angles: list[Any]
    """(measurements, seeds, hidden layers)"""
    target_angles: list[Any]
    """(measurements, seeds, dampings, hidden layers)"""
    provenance: Mapping[str, Any]

    @property
    def layers(self) -> int:
        """Hidden layers."""
        return len(self.loss_angles[0][0])

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Both kinds of angles as arrays; not a number where an update was zero."""
        import numpy as np

        # As floats, numpy reads None as not a number.
        loss, target = (np.array(values, dtype=np.float64) for values in (self.loss_angles, self.target_angles))
        return loss, target

    def same_angles(self, other: AlignmentRecord) -> bool:
        """Return whether another copy of the record says the same."""
        mine, others = ((r.steps, r.loss_angles, r.target_angles) for r in (self, other))
        return mine == others

    def to_json(self) -> str:
        """The text of the record's file."""
        return json.dumps(sealed({"format": FORMAT, **asdict(self)})) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> AlignmentRecord:
        """Read a record's text back.

        Raises:
            NewerFormat: it is whole, but a newer version wrote it.
            TpbenchError: it is damaged.
        """
        try:
            body = unsealed(text)
            written_in = body.pop("format", None)
            if type(written_in) is int and written_in > FORMAT:
                raise NewerFormat(f"{where}: written by a newer tpbench (format {written_in}): update this one")
            if type(written_in) is not int or written_in != FORMAT:
                raise ValueError("it has another format")
            from tpbench.results.schemas import AlignmentFile, check_fields

            check_fields(AlignmentFile, body)
            record = cls(**body)
            record._check_shapes()
        except ValueError as error:
            raise TpbenchError(f"{where}: not a valid alignment record ({error})") from error
        return record

    def _check_shapes(self) -> None:
        loss, target = self.arrays()
        layers = loss.shape[-1]
        shape = (len(self.steps), len(self.seeds), layers)
        if loss.shape != shape or target.shape != (*shape[:2], len(self.dampings), layers) or not layers:
            raise ValueError(f"its angles have the shapes {loss.shape} and {target.shape}")


@dataclass
class StoredAlignments:
    """The records of a store: of each the first whole copy, files before archives."""

    records: dict[str, AlignmentRecord] = field(default_factory=dict)
    """By the names of their files."""
    damaged: dict[str, list[str]] = field(default_factory=dict)
    """What is the matter with copies, by name."""

    @property
    def problems(self) -> list[str]:
        """The same as lines for people."""
        return [
            f"{problem}; {'another copy counts instead' if name in self.records else 'it counts as not there'}"
            for name, found in self.damaged.items()
            for problem in found
        ]


def stored_alignments(store: RunStore) -> StoredAlignments:
    """Every copy of every record is read. Archives that cannot be opened are named in ``store.damaged``.

    Raises:
        NewerFormat: a newer version wrote one of them.
        TpbenchError: the folder cannot be read.
    """
    found = StoredAlignments()
    for name, where, text in _copies(store):
        try:
            if isinstance(text, TpbenchError):
                raise text
            record = AlignmentRecord.from_json(text, where)
        except NewerFormat:
            raise
        except TpbenchError as error:
            found.damaged.setdefault(name, []).append(str(error))
        else:
            first = found.records.setdefault(name, record)
            if not first.same_angles(record):
                found.damaged.setdefault(name, []).append(f"{where}: conflict: has other angles than another copy")
    found.records = dict(sorted(found.records.items()))
    return found


def _copies(store: RunStore) -> Iterator[tuple[str, str, str | TpbenchError]]:
    """The name, the place and the text of every copy, those in files first; or why it has none."""
    folder = store.folder
    if not (isinstance(folder, Path) and folder.is_file()):
        for name in sorted(file_stamps(folder / FOLDER, ".json")):
            if ENTRY.fullmatch(f"{FOLDER}/{name}"):
                yield name, str(folder / FOLDER / name), _file_text(folder / FOLDER / name)
    for archive in store.archived.looked_at:
        for entry, text in archived_texts(archive, ENTRY, _LARGEST):
            yield entry.removeprefix(f"{FOLDER}/"), f"{archive}: {entry}", text


def _file_text(path: Path) -> str | TpbenchError:
    try:
        return read_bytes(path, _LARGEST).decode("utf-8", errors="replace")
    except TpbenchError as error:
        return error
    except Exception as error:  # a URL's file system has exceptions of its own
        return TpbenchError(f"{path}: could not be read ({reason_of(error)})")


def read_alignments(store: RunStore) -> dict[str, AlignmentRecord]:
    """All whole records of a store, by the names of their files; what is damaged is named in ``store.damaged``.

    Raises:
        NewerFormat: a newer version wrote one of them.
        TpbenchError: the folder cannot be read.
    """
    found = stored_alignments(store)
    store.damaged += [problem for problem in found.problems if problem not in store.damaged]
    return found.records


def merge_alignments(source: RunStore, target: RunStore) -> tuple[int, int, list[str]]:
    """Copy every valid record of one store into another.

    Returns how many were new and how many were there, and the records that have other angles there, a line each; the
    target's stay.

    Raises:
        NewerFormat: a newer version wrote one of them.
        TpbenchError: the target cannot be written.
    """
    known, new = stored_alignments(target).records, 0
    records, conflicts = read_alignments(source), []
    for name, record in records.items():
        if name in known:
            if not known[name].same_angles(record):
                conflicts.append(
                    f"conflict: the record {FOLDER}/{name} has other angles in {target.folder} than in "
                    f"{source.folder}; the former stays: delete what is wrong"
                )
            continue
        path = target.folder / FOLDER / name
        if path.exists():
            # Not a whole one.
            set_aside(path, f"{path}: damaged")
        with atomic_write(path, replace=False) as file:
            file.write(record.to_json().encode())
        new += 1
    return new, len(records) - new - len(conflicts), conflicts
