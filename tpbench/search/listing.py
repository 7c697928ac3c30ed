"""Which sweeps a results folder holds, and how far each is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tpbench.engine import TpbenchError
from tpbench.results import RunStore
from tpbench.search.definition import SweepFolder
from tpbench.search.journal import Journal


@dataclass(frozen=True)
class SweepStatus:
    """One sweep as a person, or a program, asks about it."""

    id: str
    """The name of its folder."""
    state: str
    """running, interrupted, done, failed or damaged"""
    searched: int
    """Configurations that ended."""
    trials: int
    best: float | None
    """Lowest validation error of the search so far, a fraction."""
    member_epochs: int
    """Joint epochs that the search trained, over all its members; 0 where an older version searched."""
    member_epochs_full: int
    """What the same configurations would have taken to the end."""
    command: str
    """Continues it; empty where nothing can."""
    reason: str
    """What is wrong with one that failed or is damaged."""


def sweep_status(folder: SweepFolder) -> SweepStatus:
    """Read a sweep's folder; a damaged one is reported, not raised."""
    name = folder.folder.name
    try:
        definition, journal = folder.read(), Journal.read(folder.journal_path)
        done = journal.final_runs(RunStore(folder.results)) is not None
    except TpbenchError as error:
        return SweepStatus(name, "damaged", 0, 0, None, 0, 0, "", str(error))
    best, running = journal.best(), folder.locked
    state = "running" if running else "done" if done else "failed" if journal.failure else "interrupted"
    return SweepStatus(
        name, state, journal.ended_count, definition.trials, best[1].validation_error if best else None,
        journal.member_epochs, journal.ended_count * definition.epochs,
        folder.command if state == "interrupted" else "", (journal.failure or "") if state == "failed" else "",
    )  # fmt: skip


def sweep_folders(results: Path) -> list[SweepFolder]:
    """The folders of all sweeps below a results folder, by name."""
    folders = (SweepFolder(path) for path in sorted((results / "sweeps").glob("*")))
    return [folder for folder in folders if folder.exists]


def all_sweeps(results: Path) -> list[SweepStatus]:
    """Every sweep below a results folder, by name."""
    return [sweep_status(folder) for folder in sweep_folders(results)]
