"""Which sweeps a results folder holds, and how far each is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench.engine import TpbenchError, UsageError, unknown
from tpbench.results import RunStore
from tpbench.results.budgets import DEFAULT_OBJECTIVE
from tpbench.results.location import location
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.journal import Journal, PackEntry
from tpbench.training.packs import Outcome

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SweepStatus:
    """One sweep as a person, or a program, asks about it."""

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
    """What the same configurations would have taken to the end."""
    search_precision: str = ""
    """Of the search, where the final runs have another."""
    command: str = ""
    """Continues it, where that leads anywhere."""
    reason: str = ""
    """Why it cannot be continued, where it is not done."""


def sweep_status(folder: SweepFolder, results: str | Path | None = None, store: RunStore | None = None) -> SweepStatus:
    """Read a sweep's folder; a damaged one is reported, not raised.

    Args:
        folder: the sweep's.
        results: the results folder as the command shall name it; None: by its path.
        store: that of its results folder, where several sweeps are asked for.
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


def sweep_folders(results: Path) -> list[SweepFolder]:
    """The folders of all sweeps below a results folder, by name."""
    try:
        folders = [SweepFolder(path) for path in sorted((results / "sweeps").glob("*"))]
        return [folder for folder in folders if _begun(folder)]
    except Exception as error:  # a URL's file system has exceptions of its own
        raise TpbenchError(f"{results}: could not be read ({error})") from error


def _begun(folder: SweepFolder) -> bool:
    try:
        return folder.exists
    except PermissionError:  # another user's: whoever reads it says so
        return True


@dataclass(frozen=True)
class SweepCheck:
    """What a look at the files of every sweep found."""

    whole: int
    wrong: list[str]
    """What is the matter with files, a line each."""


def check_sweeps(results: Path) -> SweepCheck:
    """Read the definition and the journal of every sweep. Changes nothing."""
    folders, wrong = sweep_folders(results), []
    for folder in folders:
        try:
            folder.read()
            Journal.read(folder.journal_path)
        except TpbenchError as error:
            wrong.append(str(error))
    return SweepCheck(len(folders) - len(wrong), wrong)


def list_sweeps(results: str) -> list[SweepStatus]:
    """Every sweep below a results folder, by name; commands name the folder as it is named here."""
    store = RunStore(location(results))
    return [sweep_status(folder, results, store) for folder in sweep_folders(store.folder)]


# The trials of searches as a data frame: every configuration that was tried, and how it ended.


TRIAL_COLUMNS = ("sweep", "trial", "pack", "state", "epochs", "validation_error", "objective", "run")
"""Of :func:`trials_frame`; the hyperparameters follow."""
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


def get_sweep(results: Path, sweep: str) -> SweepFolder:
    """The folder of a sweep.

    Raises:
        UsageError: there is no such sweep; the message names what is near.
    """
    found = {folder.folder.name: folder for folder in sweep_folders(results)}
    if sweep not in found:
        raise unknown("sweep", sweep, found) if found else UsageError(f"{results} holds no sweeps")
    return found[sweep]


def trials_frame(results: Path, sweep: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """One row per trial that has ended, in the order in which a search suggested them; and what is wrong elsewhere.

    Args:
        results: the results folder.
        sweep: its name; None: all sweeps of the folder, of which damaged ones are left out and named.

    Raises:
        UsageError: there is no sweep of that name.
        TpbenchError: the folder cannot be read, or the sweep that is named is damaged.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for folder in sweep_folders(results) if sweep is None else [get_sweep(results, sweep)]:
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
    """The trials of a pack that has ended, the first of which has this number in its search."""
    if pack.outcomes is None:
        return []
    outcomes: list[Outcome | None] = [*pack.outcomes] or [None] * len(pack.suggestions)
    return [
        {
            "sweep": sweep,
            "trial": first + place,
            "pack": pack.number,
            **_ended(outcome, definition),
            **{f"{_HYPERPARAMETER}{name}": float(value) for name, value in suggestion.items()},
        }
        for place, (suggestion, outcome) in enumerate(zip(pack.suggestions, outcomes, strict=True))
    ]


def _ended(outcome: Outcome | None, definition: SweepDefinition) -> dict[str, Any]:
    """How a trial ended; None: its pack could not be trained."""
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
    """The hyperparameters of trials, by their names."""
    columns = [name for name in trials.columns if name.startswith(_HYPERPARAMETER)]
    return trials[columns].rename(columns=lambda name: name.removeprefix(_HYPERPARAMETER))


def export_trials(results: Path, path: Path, form: str) -> tuple[int, list[str]]:
    """Write the trials of all sweeps as one table; returns how many, and what is the matter with damaged sweeps.

    Raises:
        UsageError: there is no such format, or the file's name says another.
        TpbenchError: the results folder cannot be read, or the file not be written.
    """
    from tpbench.results.formats import export_format
    from tpbench.results.maintenance import write_frame

    form = export_format(path, form)
    frame, problems = trials_frame(results)
    write_frame(frame, path, form)
    return len(frame), problems
