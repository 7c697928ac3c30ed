"""The sweeps of a store: their states, and the trials of their searches as a data frame."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench.engine import TpbenchError, UsageError, unknown
from tpbench.results import RunStore
from tpbench.results.maintenance import Check, Packed, write_archive
from tpbench.results.store import write_atomically
from tpbench.results.sweep_files import (
    DEFINITION,
    FOLDER,
    SweepFiles,
    read_copies,
    sweep_names,
    sweep_places,
)
from tpbench.search.definition import (
    SweepDefinition,
    SweepFolder,
    SweepStatus,
    parse_definition,
    portable_files,
    sweep_status,
)
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
    """Return all sweeps of a store, by name: of several copies the one that counts.

    That is the copy with all events of the others (:attr:`tpbench.results.sweep_files.SweepCopies.best`).
    """
    with store.archived.opened() as archives:
        return [_counting(store, archives, name, places) for name, places in sweep_places(store, archives).items()]


def _counting(store: RunStore, archives: ArchiveReader, name: str, places: Sequence[Path]) -> SweepFolder:
    """Return the copy of a sweep that counts; a single one is not read."""
    folder, place = store.folder / FOLDER / name, places[0]
    if len(places) > 1 and (best := read_copies(store, archives, name, places, portable_files).best):
        place = best[0]
    return SweepFolder(folder, None if place == folder else place)


def check_sweeps(store: RunStore) -> Check:
    """Read the files of every sweep, in folders and archives. Nothing is changed."""
    check = Check()
    with store.archived.opened() as archives:
        for name, places in sweep_places(store, archives).items():
            copies = read_copies(store, archives, name, places, portable_files)
            check.wrong += copies.damaged
            check.wrong += [files.problem for _, files in copies.valid if files.problem]
            check.conflicts += copies.conflicts
            if not (best := copies.best):
                continue
            check.valid += 1
            folder = store.folder / FOLDER / name
            if best[0] != folder and copies.valid[0][0] == folder:
                merge = shlex.join(["tpbench", "results", "merge", str(best[0]), str(store.folder)])
                check.conflicts.append(
                    f"{folder} lacks events of the sweep that {best[0]} has, which counts: '{merge}' brings them"
                )
    return check


def pack_store(store: RunStore, path: Path) -> Packed:
    """Write the runs of a store, their predictions, the alignment records and the sweeps into one compressed archive.

    A sweep that is damaged, or whose copies disagree, is left out and named in ``store.damaged``.

    Raises:
        UsageError: as :func:`tpbench.results.maintenance.write_archive`, and so is the next.
        TpbenchError: the file cannot be written, or the store holds two versions of a run.
    """
    return write_archive(store, path, portable_files)


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
    """Copy the files of every sweep of one store into another.

    A sweep that is there gets the events that it lacks. One that only an archive of the target holds is copied into the
    target's folder if it is not done, as no sweep is continued in an archive. The options that began a sweep hold on
    its own machine alone.

    Raises:
        TpbenchError: the target cannot be written, or is at work on a sweep that would get further events.
    """
    merged = MergedSweeps()
    there = {sweep.folder.name: sweep for sweep in stored_sweeps(target)}
    folders = sweep_names(target.folder)
    for sweep in stored_sweeps(source):
        name = sweep.folder.name
        try:
            files = sweep.files()
        except TpbenchError as error:
            merged.problems.append(f"{error}; it was not copied")
            continue
        merged.problems += [files.problem] * bool(files.problem)
        known, folder = there.get(name), SweepFolder(target.folder / FOLDER / name)
        try:
            present = known.files() if known else None
            if known and known.archive and name in folders:
                folder.files()
        except TpbenchError as error:
            merged.conflicts.append(
                f"{error}; the copy of {source.folder} was not taken: delete or rename {folder.folder} first"
            )
            continue
        waiting = known and known.archive and known.read_journal().final_runs(target) is None
        if present is None or files.adds_to(present) or (waiting and files.extends(present)):
            present = _write(folder, files)
        if present is None:
            merged.new += 1
        elif files.adds_to(present):
            merged.longer += 1
        elif present.extends(files):
            merged.known += 1
        else:
            merged.conflicts.append(
                f"conflict: the sweep {name} has another definition or journal in {target.folder} than in "
                f"{source.folder}; the former stays: rename or delete what is wrong"
            )
    return merged


def _write(sweep: SweepFolder, files: SweepFiles) -> SweepFiles | None:
    """Write the files of a sweep into its folder unless that has all of their events, or others.

    Returns:
        The files that the folder held; None: it was none of a sweep.

    Raises:
        TpbenchError: a process is at work on the sweep, or the folder is damaged or cannot be written.
    """
    with sweep.lock():
        # Read within the lock: a worker may have added events since the copies were compared.
        present = sweep.files() if sweep.exists else None
        if present and not files.adds_to(present):
            return present
        # The definition last: without it this is no sweep.
        write_atomically(sweep.journal_path, files.journal.decode())
        if files.workload and not sweep.workload_copy.exists():
            write_atomically(sweep.workload_copy, files.workload.decode())
        definition = parse_definition(files.definition, sweep.folder.name)
        if present is None and not definition.paper_space:
            write_atomically(sweep.space_copy, definition.space_file())
        write_atomically(sweep.folder / DEFINITION, files.definition.decode())
    return present


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
