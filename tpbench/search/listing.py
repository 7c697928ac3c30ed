"""Which sweeps a results folder holds, and how far each is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tpbench.engine import TpbenchError
from tpbench.results import RunStore
from tpbench.results.budgets import DEFAULT_OBJECTIVE
from tpbench.results.location import location
from tpbench.search.definition import SweepFolder
from tpbench.search.journal import Journal


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


def all_sweeps(results: str) -> list[SweepStatus]:
    """Every sweep below a results folder, by name; commands name the folder as it is named here."""
    store = RunStore(location(results))
    return [sweep_status(folder, results, store) for folder in sweep_folders(store.folder)]
