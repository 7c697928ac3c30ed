"""Removal of runs, sweeps and checkpoints from a results folder: planned first, so that it can be shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tpbench.engine import TpbenchError, UsageError, unknown
from tpbench.results import RunStore
from tpbench.results.finding import find_record
from tpbench.results.networks import network_path
from tpbench.results.runs import NewerFormat, RunRecord
from tpbench.search.definition import SweepFolder
from tpbench.search.journal import Journal
from tpbench.search.listing import sweep_folders


@dataclass
class Removal:
    """Files that a removal deletes, and what stays."""

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    """With everything in them."""
    lines: list[str] = field(default_factory=list)
    """The same for people: a line each."""
    staying: list[str] = field(default_factory=list)
    """What was asked for and stays, with the reason: a line each."""
    sweeps: list[SweepFolder] = field(default_factory=list)
    """Sweeps that are locked while their folders go."""

    def carry_out(self) -> None:
        """Delete everything that the removal names; what is gone already is no error.

        Raises:
            TpbenchError: a sweep among it is at work, or something could not be deleted.
        """
        # Locked first, all of them: a removal that stops in the middle would leave half of a sweep.
        with ExitStack() as stack:
            for sweep in self.sweeps:
                stack.enter_context(sweep.lock())
            for path in self.files:
                _delete(path, lambda path: path.unlink(missing_ok=True))
            for folder in self.folders:
                _delete(folder, _remove_tree)


def _delete(path: Path, delete: Callable[[Path], None]) -> None:
    try:
        delete(path)
    except FileNotFoundError:
        return
    except Exception as error:  # a URL's file system has exceptions of its own
        raise TpbenchError(f"{path}: could not be removed ({getattr(error, 'strerror', None) or error})") from error


def _remove_tree(folder: Path) -> None:
    if isinstance(folder, Path):
        import shutil

        shutil.rmtree(folder)
    else:
        folder.fs.rm(folder.path, recursive=True)


def plan_runs(store: RunStore, texts: Sequence[str]) -> Removal:
    """Plan to remove runs, with their predictions and networks.

    Args:
        texts: ids, or at least their first 8 digits.

    Raises:
        UsageError: there is no such run, or several begin so.
        TpbenchError: one cannot be read.
    """
    removal = Removal()
    for record in {r.definition.id: r for r in (find_record(store, text) for text in texts)}.values():
        _add_run(removal, store, record)
    return removal


def _add_run(removal: Removal, store: RunStore, record: RunRecord) -> None:
    d = record.definition
    line = f"run {d.id}: {d.workload} {d.method}, seed {d.seed}, {d.epochs} epochs"
    beside = [store.path(d.id), store.predictions_path(d.id), network_path(store, d.id)]
    there = [path for path in beside if path.exists()]
    if there:
        removal.files += there
        removal.lines.append(line)
    if archives := store.archived.holders.get(d.id):
        which = ", ".join(path.name for path in archives)
        removal.staying.append(f"{line}: its copy in {which} stays, as archives are never changed")


def plan_sweep(store: RunStore, name: str) -> Removal:
    """Plan to remove a sweep: its folder, and the runs of its search and of its final seeds.

    Runs that another sweep's journal names stay.

    Raises:
        UsageError: there is no such sweep.
        TpbenchError: the folder cannot be read.
    """
    folders = {folder.folder.name: folder for folder in sweep_folders(store.folder)}
    if name not in folders:
        raise unknown("sweep", name, folders) if folders else UsageError(f"{store.folder} holds no sweeps")
    sweep = folders.pop(name)
    removal = Removal(folders=[sweep.folder], sweeps=[sweep], lines=[f"sweep {name}: {sweep.folder}"])
    try:
        runs = _runs_of(sweep)
    except TpbenchError as error:
        removal.staying.append(f"the runs of the sweep {name}, as its journal cannot be read ({error})")
        return removal
    shared: dict[str, str] = {}
    for other in folders.values():
        try:
            shared |= dict.fromkeys(_runs_of(other), other.folder.name)
        except TpbenchError as error:
            removal.staying.append(f"the runs of the sweep {name}, as others may use them ({error})")
            return removal
    for run_id in sorted(runs):
        try:
            record = store.read(run_id)
        except NewerFormat as error:
            removal.staying.append(str(error))
            continue
        if record and run_id in shared:
            removal.staying.append(f"run {run_id}: the sweep {shared[run_id]} uses it too")
        elif record:
            _add_run(removal, store, record)
    return removal


def _runs_of(sweep: SweepFolder) -> set[str]:
    """Return the ids of the runs that a sweep's journal names."""
    journal = Journal.read(sweep.journal_path)
    outcomes = [outcome for pack in journal.packs for outcome in pack.outcomes or []]
    return {outcome.run for outcome in [*outcomes, *(journal.final or [])]}


def plan_checkpoints(store: RunStore) -> Removal:
    """Plan to remove all checkpoints: what they belong to begins anew when it is next trained."""
    folder = store.folder / "checkpoints"
    try:
        files = sorted(folder.glob("*.pt")) if folder.is_dir() else []
        size = sum(path.stat().st_size for path in files)
    except Exception as error:  # a URL's file system has exceptions of its own
        raise TpbenchError(f"{folder}: could not be read ({error})") from error
    lines = [f"{len(files)} checkpoint{'s' * (len(files) != 1)} ({size / 1e6:.1f} MB): {folder}"] * bool(files)
    return Removal(files=files, lines=lines)
