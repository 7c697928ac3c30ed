"""The sweeps of a store: their states, and the trials of their searches as a data frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench.engine import TpbenchError, UsageError, unknown
from tpbench.results import RunStore
from tpbench.results.maintenance import Check
from tpbench.search.definition import SweepDefinition, SweepFolder, SweepStatus, sweep_status
from tpbench.search.journal import Journal, PackEntry
from tpbench.training.plan import Outcome

if TYPE_CHECKING:
    import pandas as pd


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


def check_sweeps(store: RunStore) -> Check:
    """Read the definition and the journal of every sweep. Nothing is changed."""
    check = Check()
    for folder in sweep_folders(store):
        try:
            folder.read()
            Journal.read(folder.journal_path)
            check.valid += 1
        except TpbenchError as error:
            check.wrong.append(str(error))
    return check


def list_sweeps(store: RunStore) -> list[SweepStatus]:
    """Return the states of all sweeps of a store, by name."""
    results = str(store.folder)
    return [sweep_status(folder, results, store) for folder in sweep_folders(store)]


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
TRIAL_COLUMNS = tuple(_TYPES)
"""First columns of :func:`trials_frame`; the hyperparameters follow."""
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
