"""The trials of searches as a data frame: every configuration that was tried, and how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench.engine import TpbenchError, UsageError, unknown
from tpbench.results.budgets import DEFAULT_OBJECTIVE
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.journal import Journal, PackEntry
from tpbench.search.listing import sweep_folders
from tpbench.training.pack import Outcome

if TYPE_CHECKING:
    import pandas as pd

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


def find_sweep(results: Path, sweep: str) -> SweepFolder:
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
    for folder in sweep_folders(results) if sweep is None else [find_sweep(results, sweep)]:
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
