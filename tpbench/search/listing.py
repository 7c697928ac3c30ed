"""The sweeps of a store: their states, and the trials of their searches as a data frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench.engine import TpbenchError, UsageError, unknown
from tpbench.results import RunStore
from tpbench.results.runs import DEFAULT_OBJECTIVE
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.journal import Journal, PackEntry
from tpbench.training.plan import Outcome

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SweepStatus:
    """The state of one sweep."""

    id: str
    """The name of its folder."""
    state: str
    """running, interrupted, failed, done or damaged"""
    searched: int
    """Configurations that ended."""
    trials: int
    best: float | None
    """Lowest validation error of the search so far, a fraction."""
    objective: str = DEFAULT_OBJECTIVE
    halving: int = 0
    """Factor of a search in which packs are brackets; 0: none."""
    member_epochs: int = 0
    """Joint epochs that the search trained, over all its members; 0 where an older version searched."""
    member_epochs_full: int = 0
    """Joint epochs that the same configurations would have taken to the end."""
    search_precision: str = ""
    """Precision of the search, where the final runs have another."""
    command: str = ""
    """The command that continues it; empty where none does."""
    reason: str = ""
    """The reason why it cannot be continued, where it is not done."""


def sweep_status(folder: SweepFolder, results: str = "", store: RunStore | None = None) -> SweepStatus:
    """Read the state of a sweep; a damaged folder is a state too.

    Args:
        folder: of the sweep.
        results: name of the results folder in the command; empty: its path.
        store: of the results folder, where the states of several sweeps are read.
    """
    name = folder.folder.name
    try:
        definition, journal = folder.read(), Journal.read(folder.journal_path)
        done = journal.final_runs(store or RunStore(folder.results)) is not None
        running = not done and folder.locked
    except TpbenchError as error:
        return SweepStatus(name, "damaged", 0, 0, None, reason=str(error))
    best, searched = journal.best(), journal.ended_count
    known = (
        searched,
        definition.trials,
        best[1].validation_error if best else None,
        definition.objective,
        definition.halving,
        journal.member_epochs,
        searched * definition.epochs,
        definition.search_precision,
    )
    if done or running:
        return SweepStatus(name, "done" if done else "running", *known)
    if journal.failure:
        return SweepStatus(name, "failed", *known, reason=journal.failure)
    latest = SweepFolder.latest(folder.folder.parent, definition.id, fresh=False)
    if latest.exists and latest != folder:
        # Its command names no folder: it continues the newest sweep of its kind.
        return SweepStatus(name, "interrupted", *known, reason=f"replaced by {latest.folder.name} (--fresh)")
    return SweepStatus(name, "interrupted", *known, command=folder.command(results or folder.results))


def sweep_folders(store: RunStore) -> list[SweepFolder]:
    """Return the folders of all sweeps of a store, by name."""
    try:
        folders = [SweepFolder(path) for path in sorted((store.folder / "sweeps").glob("*"))]
        return [folder for folder in folders if _begun(folder)]
    except Exception as error:  # a URL's file system has exceptions of its own
        raise TpbenchError(f"{store.folder}: could not be read ({error})") from error


def _begun(folder: SweepFolder) -> bool:
    try:
        return folder.exists
    except PermissionError:  # another user's: whoever reads it says so
        return True


@dataclass(frozen=True)
class SweepCheck:
    """The result of a check of all sweeps' files."""

    valid: int
    """Number of sweeps without a fault."""
    wrong: list[str]
    """A line about each of the others."""


def check_sweeps(store: RunStore) -> SweepCheck:
    """Read the definition and the journal of every sweep. Nothing is changed."""
    folders, wrong = sweep_folders(store), []
    for folder in folders:
        try:
            folder.read()
            Journal.read(folder.journal_path)
        except TpbenchError as error:
            wrong.append(str(error))
    return SweepCheck(len(folders) - len(wrong), wrong)


def list_sweeps(store: RunStore) -> list[SweepStatus]:
    """Return the states of all sweeps of a store, by name."""
    results = str(store.folder)
    return [sweep_status(folder, results, store) for folder in sweep_folders(store)]


TRIAL_COLUMNS = ("sweep", "trial", "pack", "state", "epochs", "validation_error", "objective", "run")
"""First columns of :func:`trials_frame`; the hyperparameters follow."""
_TYPES = {
    "sweep": "object",
    "trial": "int64",
    "pack": "int64",
    "state": "object",
    "epochs": "Int64",
    "validation_error": "float64",
    "objective": "float64",
    "run": "object",
}
_HYPERPARAMETER = "hp_"


def get_sweep(store: RunStore, name: str) -> SweepFolder:
    """Return the folder of a sweep.

    Raises:
        UsageError: there is no such sweep; the message names similar ones.
    """
    folders = {folder.folder.name: folder for folder in sweep_folders(store)}
    if name not in folders:
        raise unknown("sweep", name, folders) if folders else UsageError(f"{store.folder} holds no sweeps")
    return folders[name]


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
    for folder in sweep_folders(store) if sweep is None else [get_sweep(store, sweep)]:
        try:
            rows += _trials(folder)
        except TpbenchError as error:
            if sweep is not None:
                raise
            problems.append(f"{error}; its trials are left out")
    frame = pd.DataFrame(rows, columns=None if rows else list(TRIAL_COLUMNS))
    return frame.astype(_TYPES), problems


def _trials(folder: SweepFolder) -> list[dict[str, Any]]:
    definition = folder.read()
    rows: list[dict[str, Any]] = []
    number = 0
    for pack in Journal.read(folder.journal_path).packs:
        rows += _rows(folder.folder.name, definition, pack, number)
        number += len(pack.suggestions)
    return rows


def _rows(sweep: str, definition: SweepDefinition, pack: PackEntry, first: int) -> list[dict[str, Any]]:
    """Return the trials of a pack that has ended; ``first`` is the number of its first trial in the search."""
    if pack.outcomes is None:
        return []
    outcomes: list[Outcome | None] = [*pack.outcomes] or [None] * len(pack.suggestions)
    return [
        {
            "sweep": sweep,
            "trial": first + place,
            "pack": pack.number,
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
    epochs = definition.epochs if outcome.epochs is None and outcome.status == "finished" else outcome.epochs
    scale = 100.0 if definition.objective == DEFAULT_OBJECTIVE else 1.0
    return {
        "state": outcome.status,
        "epochs": epochs,
        "validation_error": 100 * outcome.validation_error,
        "objective": scale * outcome.objective,
        "run": outcome.run,
    }


def hyperparameters(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the hyperparameters of trials, by their names."""
    columns = [name for name in trials.columns if name.startswith(_HYPERPARAMETER)]
    return trials[columns].rename(columns=lambda name: name.removeprefix(_HYPERPARAMETER))


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
