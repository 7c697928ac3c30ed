"""Records of how updates align, as ``tpbench align`` writes them: one JSON file each, in a store or in its archives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import TpbenchError
from tpbench.engine.files import atomic_write
from tpbench.results.archives import archive_names, archived_text
from tpbench.results.location import file_stamps, read_bytes
from tpbench.results.runs import sealed, unsealed
from tpbench.results.store import RunStore

FORMAT = 1
FOLDER = "alignment"
"""Beside ``runs`` in a store's folder, and the same in an archive."""
ENTRY = re.compile(rf"{FOLDER}/[^/\\.][^/\\]*\.json")
"""The names of records in an archive: one that is copied out of it stays in its folder."""
# Bytes: every minibatch of 100 epochs of ten seeds would be a third of it.
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

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Both kinds of angles as arrays; not a number where an update was zero."""
        # As floats, numpy reads None as not a number.
        loss, target = (np.array(values, dtype=np.float64) for values in (self.loss_angles, self.target_angles))
        return loss, target

    def to_json(self) -> str:
        """The text of the record's file."""
        return json.dumps(sealed({"format": FORMAT, **asdict(self)})) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> AlignmentRecord:
        """Read a record's text back.

        Raises:
            TpbenchError: it is damaged.
        """
        try:
            body = unsealed(text)
            if body.pop("format") != FORMAT:
                raise ValueError("it has another format")
            return cls(**body)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TpbenchError(
                f"{where}: not a valid alignment record ({error}); delete it and make it again"
            ) from error


@dataclass(frozen=True)
class AlignmentCopy:
    """One copy of a record, as it lies in a folder or in an archive."""

    name: str
    """Of its file."""
    where: str
    """For messages."""
    read: Callable[[], str]
    """Its text. Raises TpbenchError: it cannot be read."""

    def record(self) -> AlignmentRecord:
        """What it holds.

        Raises:
            TpbenchError: it is damaged, or cannot be read.
        """
        return AlignmentRecord.from_json(self.read(), self.where)


def alignment_copies(folder: Path, *, skip_broken: bool = False) -> Iterator[AlignmentCopy]:
    """Every copy of every record of a store: those in files first, then those of its archives.

    Args:
        folder: of the store, or an archive.
        skip_broken: pass over archives that cannot be read.

    Raises:
        TpbenchError: the folder, or an archive, cannot be read.
    """
    archives = [folder] if isinstance(folder, Path) and folder.is_file() else []
    if not archives:
        for name in sorted(file_stamps(folder / FOLDER, ".json")):
            path = folder / FOLDER / name
            yield AlignmentCopy(name, str(path), partial(_file_text, path))
        archives = [folder / name for name in sorted(file_stamps(folder, ".zip"))]
    for archive in archives:
        try:
            entries = archive_names(archive)
        except TpbenchError:
            if skip_broken:
                continue
            raise
        for entry in filter(ENTRY.fullmatch, entries):
            name = entry.removeprefix(f"{FOLDER}/")
            yield AlignmentCopy(name, f"{archive}: {entry}", partial(archived_text, archive, entry, _LARGEST))


def _file_text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8", errors="replace")
    except Exception as error:  # a URL's file system has exceptions of its own
        raise TpbenchError(f"{path}: could not be read ({getattr(error, 'strerror', None) or error})") from error


def alignments_of(folder: Path, *, skip_broken: bool = False) -> dict[str, AlignmentCopy]:
    """The records of a store by the names of their files, each once; arguments and errors of the copies."""
    found: dict[str, AlignmentCopy] = {}
    for copy in alignment_copies(folder, skip_broken=skip_broken):
        found.setdefault(copy.name, copy)
    return dict(sorted(found.items()))


def read_alignments(folder: Path) -> list[AlignmentRecord]:
    """All records of a store, by name.

    Raises:
        TpbenchError: one is damaged.
    """
    return [copy.record() for copy in alignments_of(folder).values()]


def whole_alignments(store: RunStore) -> Iterator[tuple[str, AlignmentRecord]]:
    """The readable records of a store and the names of their files; what is damaged is named in ``store.damaged``."""
    for name, copy in alignments_of(store.folder, skip_broken=True).items():
        try:
            yield name, copy.record()
        except TpbenchError as error:
            store.damaged.append(str(error))


def merge_alignments(source: RunStore, target: RunStore) -> tuple[int, int]:
    """Copy every whole record of one store into another; returns how many were new and how many were there.

    Raises:
        TpbenchError: the target cannot be written.
    """
    known = alignments_of(target.folder, skip_broken=True)
    new = there = 0
    for name, record in whole_alignments(source):
        if name in known:
            there += 1
            continue
        with atomic_write(target.folder / FOLDER / name, replace=False) as file:
            file.write(record.to_json().encode())
        new += 1
    return new, there


@dataclass(frozen=True)
class AlignmentCheck:
    """What a look at every record of a store found."""

    whole: int
    wrong: list[str]
    """What is the matter, a line each."""


def check_alignments(folder: Path) -> AlignmentCheck:
    """Read every copy of every record, but archives that cannot be opened (``check_store`` names them)."""
    whole: set[str] = set()
    wrong: list[str] = []
    for copy in alignment_copies(folder, skip_broken=True):
        try:
            copy.record()
            whole.add(copy.name)
        except TpbenchError as error:
            wrong.append(str(error))
    return AlignmentCheck(len(whole), wrong)
