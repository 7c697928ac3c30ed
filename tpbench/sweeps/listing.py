"""Which sweeps a results folder holds, and how far each is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tpbench.engine import TpbenchError
from tpbench.results import RunStore
from tpbench.sweeps.definition import SweepFolder
from tpbench.sweeps.journal import Journal


@dataclass(frozen=True)
class SweepStatus:
    """One sweep as a person asks about it."""

    name: str
    state: str
    """running, interrupted, done or damaged"""
    searched: int
    trials: int
    best: float | None
    """Lowest validation error of the search so far, a fraction."""
    command: str
    """Continues it, or says what is wrong."""


def sweep_status(folder: SweepFolder, store: RunStore | None = None) -> SweepStatus:
    """Read a sweep's folder; a damaged one is reported, not raised.

    Args:
        folder: the sweep's.
        store: that of its results folder, where several sweeps are asked for.
    """
    name = folder.folder.name
    try:
        definition, journal = folder.read(), Journal.read(folder.journal_path)
        done = journal.final_runs(store or RunStore(folder.results)) is not None
    except TpbenchError as error:
        return SweepStatus(name, "damaged", 0, 0, None, str(error))
    best = journal.best()
    state = "done" if done else "running" if folder.locked else "interrupted"
    return SweepStatus(
        name, state, journal.ended_count, definition.trials, best[1].validation_error if best else None, folder.command
    )


def sweep_folders(results: Path) -> list[SweepFolder]:
    """The folders of all sweeps below a results folder, by name."""
    folders = (SweepFolder(path) for path in sorted((results / "sweeps").glob("*")))
    return [folder for folder in folders if folder.exists]


def all_sweeps(results: Path) -> list[SweepStatus]:
    """Every sweep below a results folder, by name."""
    store = RunStore(results)
    return [sweep_status(folder, store) for folder in sweep_folders(results)]
