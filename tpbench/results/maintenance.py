"""Maintenance of stores: check every file, merge stores, and pack them into archives."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from tpbench.engine import TpbenchError, UsageError
from tpbench.engine.files import atomic_write
from tpbench.results.alignments import ALIGNMENTS
from tpbench.results.archives import ARCHIVED_KINDS, ArchivedRuns, ArchiveReader, runs_of_archive
from tpbench.results.artifacts import ID_PATTERN, Artifact, ArtifactKind, digest
from tpbench.results.location import file_stamps
from tpbench.results.networks import NETWORKS, TrainedNetwork, has_network, read_network, save_network
from tpbench.results.runs import PREDICTIONS, RUNS, Predictions, RunRecord
from tpbench.results.store import RunStore
from tpbench.results.sweep_files import (
    FOLDER,
    ParseSweep,
    SweepFiles,
    all_sweeps,
    archived_sweeps,
    read_archived_sweep,
    sweep_names,
    sweeps_of_entries,
)

KINDS: tuple[ArtifactKind[Any], ...] = (RUNS, PREDICTIONS, NETWORKS, ALIGNMENTS)
"""All kinds of artifacts; those that belong to runs stand after runs."""
_QUARANTINED = re.compile(rf"({ID_PATTERN.pattern})(-\d+)?\.damaged")
"""Names of damaged runs that were quarantined."""


@dataclass
class Check:
    """The state of all artifacts of one kind in a store."""

    valid: int = 0
    orphans: int = 0
    """Valid ones whose run is not in the store: it lies elsewhere, or the work ended before it was published."""
    wrong: list[str] = field(default_factory=list)
    """Messages about files and archive entries, a line each."""
    newer: int = 0
    """Files among them that a newer version wrote: nothing is wrong with these."""
    conflicts: list[str] = field(default_factory=list)
    """Messages about copies that disagree, a line each."""

    @property
    def problems(self) -> list[str]:
        """All messages."""
        return [*self.conflicts, *self.wrong]


Trainings = dict[str, dict[str, float | None]]
"""Test errors of the trainings of runs, by the run's id and the digest of the curves."""


def check_store(store: RunStore, kinds: Collection[ArtifactKind[Any]] = KINDS) -> dict[ArtifactKind[Any], Check]:
    """Read every artifact of a store, in files and archives. Changes nothing.

    Args:
        store: to check.
        kinds: to read besides runs; predictions and networks are compared with the runs that they belong to.

    Raises:
        TpbenchError: the folder of runs cannot be read.
    """
    trainings: Trainings = {}
    with store.archived.opened() as archives:
        checks = {
            kind: _check_kind(store, kind, archives, trainings) for kind in KINDS if kind is RUNS or kind in kinds
        }
    checks[RUNS].wrong += store.archived.broken
    # A quarantined run that was trained again since needs no attention.
    checks[RUNS].wrong += [
        f"{store.runs / name}: set aside as damaged earlier"
        for name in sorted(file_stamps(store.runs, ".damaged"))
        if (match := _QUARANTINED.fullmatch(name)) and match[1] not in trainings
    ]
    return checks


def _check_kind(store: RunStore, kind: ArtifactKind[Any], archives: ArchiveReader, trainings: Trainings) -> Check:
    """Check the artifacts of one kind; the trainings of runs are added to ``trainings``."""
    check = Check()
    try:
        names = store.names(kind, archives)
    except TpbenchError as error:
        if kind is RUNS:
            raise
        check.wrong.append(str(error))
        return check
    for name in names:
        copies = store.copies(kind, name, archives)
        check.wrong += copies.problems
        check.newer += copies.newer
        check.conflicts += [copies.conflict] if copies.conflict else []
        valid = copies.copies
        if kind is RUNS and valid:
            trainings[name] = {copy.value.curves_digest: copy.value.test_error for copy in valid}
        if kind in (PREDICTIONS, NETWORKS) and name in trainings:
            known = trainings[name]
            if kind is NETWORKS:
                # It must come from the copy of the run that counts, which is the first.
                known = dict([next(iter(known.items()))])
            problems = [(copies.where(copy), _mismatch(copy.value, known)) for copy in valid]
            check.wrong += [f"{where}: {problem}" for where, problem in problems if problem]
            valid = [copy for copy, (_, problem) in zip(valid, problems, strict=True) if not problem]
        check.valid += bool(valid)
        check.orphans += bool(valid) and name not in trainings
    return check


def _mismatch(value: Predictions | TrainedNetwork, trainings: Mapping[str, float | None]) -> str:
    """Return why predictions or a network belong to none of the trainings of a run; empty if they do."""
    expected = trainings.get(value.curves)
    if value.curves not in trainings or expected is None:
        return "comes from another training of the run; it does not count"
    if isinstance(value, Predictions) and abs(value.test_error - expected) > 1e-9:
        return f"{100 * value.test_error:.4g} % of its samples are wrong, where the run has {100 * expected:.4g} %"
    return ""


@dataclass
class Merged:
    """Numbers of artifacts of a store that was merged into another, and messages about the others."""

    new: int = 0
    """Runs."""
    known: int = 0
    """Runs that were there already with the same curves."""
    predictions: int = 0
    """Predictions that were added to known runs."""
    replaced: int = 0
    """Runs of the target that a run of the source had replaced (``tpbench run --again``)."""
    networks: int = 0
    alignments: int = 0
    """Alignment records."""
    known_alignments: int = 0
    """Alignment records that were there already with the same angles."""
    conflicts: list[str] = field(default_factory=list)
    """Messages about artifacts that disagree with those of the target, which stay."""
    problems: list[str] = field(default_factory=list)
    """Messages about networks that were not copied."""


def merge_stores(source: RunStore, target: RunStore) -> Merged:
    """Copy every valid run of one store into another with its predictions and network, and every alignment record.

    Raises:
        UsageError: the source is no store.
        NewerFormat: a newer version wrote something of it.
        TpbenchError: the target cannot be written.
    """
    if not source.exists and next(source.read_all(ALIGNMENTS), None) is None and not _has_sweeps(source):
        broken = "".join(f"; {message}" for message in source.archived.broken)
        raise UsageError(
            f"{source.folder} is no store: it holds no run, alignment record or sweep, nor an archive of some{broken}"
        )
    merged = Merged()
    for record, predictions in source.all_predictions(source.records()):
        there = target.read(record.definition.id)
        if record.versions > 1:
            merged.conflicts.append(
                f"conflict: {source.folder} holds {record.versions} versions of the run {record.definition.id}; none "
                "was copied: 'tpbench results check' names them"
            )
        elif there is None:
            target.publish(record, predictions)
            merged.new += 1
        elif there.disagrees(record):
            d = record.definition
            merged.conflicts.append(
                f"conflict: the run {d.id} ({d.workload} {d.method}, seed {d.seed}) has other curves in "
                f"{target.folder} than in {source.folder}; the former stays. One of them was made by other code, data "
                "or hardware: delete what is wrong ('tpbench results remove')"
            )
        elif record.supersedes(there):
            target.replace_run(there, record, predictions)
            merged.replaced += 1
        else:
            merged.known += 1
            if predictions and predictions.belongs(there) and target.predictions(there) is None:
                target.add_predictions(predictions)
                merged.predictions += 1
    _merge_networks(source, target, merged)
    for name, alignment in source.read_all(ALIGNMENTS):
        same = target.read_copy(ALIGNMENTS, name)
        if same is None:
            target.publish_copy(ALIGNMENTS, name, alignment)
            merged.alignments += 1
        elif same.disagrees(alignment):
            merged.conflicts.append(
                f"conflict: the record {ALIGNMENTS.entry(name)} has other angles in {target.folder} than in "
                f"{source.folder}; the former stays: delete what is wrong"
            )
        else:
            merged.known_alignments += 1
    return merged


def _has_sweeps(store: RunStore) -> bool:
    with store.archived.opened() as archives:
        return bool(sweep_names(store.folder) or archived_sweeps(store, archives))


def _merge_networks(source: RunStore, target: RunStore, merged: Merged) -> None:
    """Copy the networks of a store whose runs were merged into another."""
    for run_id in NETWORKS.names_in(source.folder):
        record = target.read(run_id)
        if record is None or has_network(target, record):
            continue
        try:
            network = read_network(source, run_id)
        except TpbenchError as error:
            merged.problems.append(f"{error}; it was not copied")
            continue
        if network and network.belongs(record):
            save_network(target, network)
            merged.networks += 1
        elif network:
            merged.problems.append(
                f"the network of {run_id} was not copied: the run in {target.folder} has other curves"
            )


@dataclass(frozen=True)
class Packed:
    """Numbers of artifacts that were written into an archive."""

    runs: int
    predictions: int
    alignments: int
    sweeps: int = 0


def write_archive(store: RunStore, path: Path, parse: ParseSweep) -> Packed:
    """Write the runs of a store, their predictions, the alignment records and the sweeps into one compressed archive.

    The same ones make the same bytes. :func:`tpbench.search.listing.pack_store` knows the files of sweeps.

    Args:
        store: to pack.
        path: the archive's.
        parse: checks the files of sweeps.

    Raises:
        UsageError: there is such a file, and something of it would be lost, or it is no such archive.
        TpbenchError: the file cannot be written, or the store holds two versions of a run.
    """
    held, written = _entries_of_file(path, parse), dict[str, _Entry]()
    counts, sweeps = Counter[ArtifactKind[Any]](), all_sweeps(store, parse)
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:

        def write(entry: str, content: bytes) -> None:
            # A fixed date: the contents of the archive, and nothing else, decide its bytes.
            archive.writestr(zipfile.ZipInfo(entry, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_LZMA)

        for kind, name, value, run in _contents(store):
            content = kind.encode(value)
            write(kind.entry(name), content)
            written[kind.entry(name)] = _Entry.of(content, run)
            counts[kind] += 1
        for name, files in sweeps.items():
            for entry, content in files.entries(name).items():
                write(entry, content)
            written[f"{FOLDER}/{name}"] = _Entry(sweep=files)
        # Last, as it is about what was written; nothing is replaced before this block ends.
        _require_preserved(path, held, written, store)
    return Packed(counts[RUNS], counts[PREDICTIONS], counts[ALIGNMENTS], len(sweeps))


def _contents(store: RunStore) -> Iterator[tuple[ArtifactKind[Any], str, Artifact, RunRecord | None]]:
    """Yield kind, name and value of every artifact that an archive holds, and the run that it belongs to.

    Raises:
        TpbenchError: the store holds two versions of a run, or something cannot be read.
    """
    for record, predictions in store.all_predictions(store.records()):
        run_id = record.definition.id
        if record.versions > 1:
            raise TpbenchError(
                f"{store.folder} holds {record.versions} versions of the run {run_id}, and an archive has one of "
                "each: 'tpbench results check' names them; delete what is wrong"
            )
        yield RUNS, run_id, record, record
        if predictions:
            yield PREDICTIONS, run_id, predictions, record
    for name, alignment in store.read_all(ALIGNMENTS):
        yield ALIGNMENTS, name, alignment, None


@dataclass(frozen=True)
class _Entry:
    """An entry of an archive, or a sweep in it, as it is compared with another of the same name."""

    content: str = ""
    """Digest of its text."""
    curves: str = ""
    """Digest of the curves of the run that it belongs to."""
    replaces: tuple[str, ...] = ()
    """Digests of the curves of the run's earlier trainings."""
    sweep: SweepFiles | None = None

    @classmethod
    def of(cls, content: bytes, run: RunRecord | None) -> _Entry:
        """Describe the contents of an entry, and the run that it belongs to."""
        return cls(digest(content.decode()), *((run.curves_digest, run.replaces) if run else ()))

    def supersedes(self, old: _Entry) -> bool:
        """Return whether this is of a later training than another entry, or the same sweep with all its events."""
        if self.sweep and old.sweep:
            return self.sweep.extends(old.sweep)
        return old.curves in self.replaces and len(self.replaces) > len(old.replaces)


def _entries_of_file(path: Path, parse: ParseSweep) -> dict[str, _Entry]:
    """Return the entries of an archive that is about to be replaced; none where there is no file.

    Raises:
        UsageError: it is no archive of a store, or something of it is damaged, or of a newer version.
    """
    if not path.is_file():
        return {}
    runs_of_archive(path, ARCHIVED_KINDS)
    entries: dict[str, _Entry] = {}
    try:
        with ArchivedRuns().opened() as archives:
            for kind in ARCHIVED_KINDS:
                for name in archives.names(kind, path):
                    value = archives.read(kind, path, name)
                    run = archives.read(RUNS, path, name) if kind is PREDICTIONS else value if kind is RUNS else None
                    if value and (run or kind is ALIGNMENTS):
                        entries[kind.entry(name)] = _Entry.of(kind.encode(value), run)
            for name in sweeps_of_entries(archives.entries(path)):
                entries[f"{FOLDER}/{name}"] = _Entry(sweep=read_archived_sweep(archives, path, name, parse))
    except TpbenchError as error:
        raise UsageError(f"{error}: replacing the archive would lose it; write to another file") from error
    return entries


def _require_preserved(path: Path, held: Mapping[str, _Entry], written: Mapping[str, _Entry], store: RunStore) -> None:
    """Check that everything that the file held was written again.

    Raises:
        UsageError: something of it is missing, or another in the store.
    """

    def preserved(name: str, entry: _Entry) -> bool:
        """Return whether an entry is the same, or of an earlier training, with which its predictions go too."""
        if name in written and not entry.sweep and written[name].content == entry.content:
            return True
        others = (name, name.removesuffix(PREDICTIONS.suffix) + RUNS.suffix)
        return any(other in written and written[other].supersedes(entry) for other in others)

    if lost := sum(name not in written and not preserved(name, entry) for name, entry in held.items()):
        merge = f"tpbench results merge {quote(str(path))} {quote(str(store.folder))}"
        raise UsageError(
            f"{path}: replacing it would lose {lost} of its runs, predictions, alignment records and sweeps, which "
            f"{store.folder} has not: merge it into that store first ({merge}), or write to another file"
        )
    if other := sum(name in written and not preserved(name, entry) for name, entry in held.items()):
        raise UsageError(
            f"{path}: replacing it would lose {other} of its runs, predictions, alignment records and sweeps, which "
            f"are others in {store.folder}, under the same names; write to another file"
        )
