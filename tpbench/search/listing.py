"""The sweeps of a store: their states, and the trials of their searches as a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench.engine import TpbenchError, UsageError, unknown
from tpbench.results import RunStore
from tpbench.results.maintenance import Check
from tpbench.results.store import write_atomically
from tpbench.results.sweep_files import (
    DEFINITION,
    FOLDER,
    SweepFiles,
    archived_sweeps,
    read_archived_sweep,
    sweep_names,
)
from tpbench.search.definition import SweepDefinition, SweepFolder, SweepStatus, sweep_status
from tpbench.search.journal import PackEntry
from tpbench.search.packed_tpe import random_trials
from tpbench.training.plan import Outcome

if TYPE_CHECKING:
    import pandas as pd

    from tpbench.results.archives import ArchiveReader


def sweep_folders(store: RunStore) -> list[SweepFolder]:
    """Return the folders of all sweeps of a store, by name; those of archives are none."""
    return [SweepFolder(store.folder / FOLDER / name) for name in sweep_names(store.folder)]


def stored_sweeps(store: RunStore) -> list[SweepFolder]:
    """Return all sweeps of a store, by name: its folders, and below them what its archives hold.

    Of several archives counts the one whose copy has all events of the others; where none has, the first.
    """
    sweeps = {folder.folder.name: folder for folder in sweep_folders(store)}
    with store.archived.opened() as archives:
        for name, paths in archived_sweeps(store, archives).items():
            if name not in sweeps:
                sweeps[name] = SweepFolder(store.folder / FOLDER / name, _longest(archives, paths, name))
    return [sweep for _, sweep in sorted(sweeps.items())]


def _longest(archives: ArchiveReader, paths: Sequence[Path], name: str) -> Path:
    """Return the archive whose copy of a sweep has all events of those before it."""
    longest, files = paths[0], None
    for path in paths if len(paths) > 1 else ():
        with suppress(TpbenchError):  # whoever reads that copy says so
            other = read_archived_sweep(archives, path, name)
            if files is None or other.extends(files):
                longest, files = path, other
    return longest


def check_sweeps(store: RunStore) -> Check:
    """Read the definition and the journal of every sweep, in folders and archives. Nothing is changed."""
    check = Check()
    with store.archived.opened() as archives:
        archived = archived_sweeps(store, archives)
    folders = sweep_names(store.folder)
    for name in sorted({*folders, *archived}):
        place = store.folder / FOLDER / name
        copies = [SweepFolder(place)] * (name in folders) + [
            SweepFolder(place, path) for path in archived.get(name, ())
        ]
        valid: list[tuple[SweepFolder, SweepFiles]] = []
        for copy in copies:
            try:
                copy.read()
                copy.read_journal()
                valid.append((copy, copy.files()))
            except TpbenchError as error:
                check.wrong.append(str(error))
        check.valid += bool(valid)
        for copy, files in valid[1:]:
            first, others = valid[0]
            if not (files.extends(others) or others.extends(files)):
                check.conflicts.append(
                    f"conflict: the sweep {name} has another definition or journal in {first.archive or place} than in "
                    f"{copy.archive}; the former counts: delete what is wrong"
                )
    return check


@dataclass
class MergedSweeps:
    """Numbers of sweeps of a store that were merged into another, and messages about the others."""

    new: int = 0
    longer: int = 0
    """Sweeps of the target that got further events."""
    known: int = 0
    conflicts: list[str] = field(default_factory=list)
    """Messages about sweeps that disagree with those of the target, which stay."""
    problems: list[str] = field(default_factory=list)
    """Messages about damaged sweeps, which were not copied."""


def merge_sweeps(source: RunStore, target: RunStore) -> MergedSweeps:
    """Copy definition and journal of every sweep of one store into another.

    A sweep that is there gets the events that it lacks. The options that began it hold on its own machine alone.

    Raises:
        TpbenchError: the target cannot be written, or is at work on a sweep that would get further events.
    """
    merged = MergedSweeps()
    there = {sweep.folder.name: sweep for sweep in stored_sweeps(target)}
    for sweep in stored_sweeps(source):
        name = sweep.folder.name
        try:
            sweep.read()
            sweep.read_journal()
            files = sweep.files()
        except TpbenchError as error:
            merged.problems.append(f"{error}; it was not copied")
            continue
        known = there.get(name)
        try:
            present = known.files() if known else None
        except TpbenchError as error:
            merged.conflicts.append(f"{error}; the copy of {source.folder} was not taken")
            continue
        if present is None or (files.extends(present) and not present.extends(files)):
            _write(SweepFolder(target.folder / FOLDER / name), files)
            merged.new += present is None
            merged.longer += present is not None
        elif present.extends(files):
            merged.known += 1
        else:
            merged.conflicts.append(
                f"conflict: the sweep {name} has another definition or journal in {target.folder} than in "
                f"{source.folder}; the former stays: delete what is wrong"
            )
    return merged


def _write(sweep: SweepFolder, files: SweepFiles) -> None:
    with sweep.lock():
        # First the journal: without a definition it is no sweep.
        write_atomically(sweep.journal_path, files.journal.decode())
        write_atomically(sweep.folder / DEFINITION, files.definition.decode())


def list_sweeps(store: RunStore) -> list[SweepStatus]:
    """Return the states of all sweeps of a store and its archives, by name."""
    results = str(store.folder)
    return [sweep_status(sweep, results, store) for sweep in stored_sweeps(store)]


_TYPES = {
    "sweep": "object",
    "trial": "int64",
    "pack": "int64",
    "random": "bool",
    "state": "object",
    "epochs": "Int64",
    "validation_error": "float64",
    "objective": "float64",
    "run": "object",
}
TRIAL_COLUMNS = tuple(_TYPES)
"""First columns of :func:`trials_frame`; the hyperparameters follow."""
_HYPERPARAMETER = "hp_"


def get_sweep(store: RunStore, name: str) -> SweepFolder:
    """Return a sweep of a store or its archives.

    Raises:
        UsageError: there is no such sweep; the message names similar ones.
    """
    sweeps = {sweep.folder.name: sweep for sweep in stored_sweeps(store)}
    if name not in sweeps:
        raise unknown("sweep", name, sweeps) if sweeps else UsageError(f"{store.folder} holds no sweeps")
    return sweeps[name]


def trials_frame(store: RunStore, sweep: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Return one row per trial that has ended, in the order of suggestion, and a line about each damaged sweep.

    Args:
        store: of the sweeps.
        sweep: its name; None: all sweeps of the store, of which damaged ones are left out.

    Raises:
        UsageError: there is no sweep of that name.
        TpbenchError: the folder cannot be read, or the sweep that is named is damaged.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for one in stored_sweeps(store) if sweep is None else [get_sweep(store, sweep)]:
        try:
            rows += sweep_trials(one)
        except TpbenchError as error:
            if sweep is not None:
                raise
            problems.append(f"{error}; its trials are left out")
    frame = pd.DataFrame(rows, columns=None if rows else list(TRIAL_COLUMNS))
    return frame.astype(_TYPES), problems


def sweep_trials(sweep: SweepFolder) -> list[dict[str, Any]]:
    """Return the trials of a sweep that have ended, as rows of :func:`trials_frame`.

    Raises:
        TpbenchError: the sweep is damaged.
    """
    definition, packs = sweep.read(), sweep.read_journal().packs
    random = random_trials(packs, definition.lag, len(definition.start))
    rows: list[dict[str, Any]] = []
    number = 0
    for pack in packs:
        rows += _rows(sweep.folder.name, definition, pack, number, random[number:])
        number += len(pack.suggestions)
    return rows


def _rows(
    sweep: str, definition: SweepDefinition, pack: PackEntry, first: int, random: Sequence[bool]
) -> list[dict[str, Any]]:
    """Return the trials of a pack that has ended.

    Args:
        sweep: its name.
        definition: of the sweep.
        pack: the pack.
        first: number of its first trial in the search.
        random: for each of its trials, whether TPE drew it at random.
    """
    if pack.outcomes is None:
        return []
    outcomes: list[Outcome | None] = [*pack.outcomes] or [None] * len(pack.suggestions)
    return [
        {
            "sweep": sweep,
            "trial": first + place,
            "pack": pack.number,
            "random": random[place],
            **_end_of(outcome, definition),
            **{f"{_HYPERPARAMETER}{name}": float(value) for name, value in suggestion.items()},
        }
        for place, (suggestion, outcome) in enumerate(zip(pack.suggestions, outcomes, strict=True))
    ]


def _end_of(outcome: Outcome | None, definition: SweepDefinition) -> dict[str, Any]:
    """Return the end of a trial; None: its pack could not be trained."""
    if outcome is None:
        return {"state": "failed", "epochs": None, "validation_error": None, "objective": None, "run": None}
    # Journals of older versions do not tell the epochs; what finished was trained to the end.
    epochs = definition.trial_epochs if outcome.epochs is None and outcome.status == "finished" else outcome.epochs
    scale = 100.0 if definition.minimises_error else 1.0
    return {
        "state": outcome.status,
        "epochs": epochs,
        "validation_error": 100 * outcome.validation_error,
        "objective": scale * outcome.score,
        "run": outcome.run,
    }


def scored_configurations(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the hyperparameters of the trials with a finite score, by their names, and the score as ``error``."""
    import numpy as np

    trials = trials[np.isfinite(trials["objective"])]
    columns = [name for name in trials.columns if name.startswith(_HYPERPARAMETER)]
    named = trials[columns].rename(columns=lambda name: name.removeprefix(_HYPERPARAMETER))
    return named.assign(error=trials["objective"]).reset_index(drop=True)


def export_trials(store: RunStore, path: Path, form: str) -> tuple[int, list[str]]:
    """Write the trials of all sweeps as one table; returns their number, and a line about each damaged sweep.

    Raises:
        UsageError: there is no such format, or the file's name says another.
        TpbenchError: the results folder cannot be read, or the file not be written.
    """
    from tpbench.results.formats import export_format
    from tpbench.results.frames import write_frame

    form = export_format(path, form)
    frame, problems = trials_frame(store)
    write_frame(frame, path, form)
    return len(frame), problems
