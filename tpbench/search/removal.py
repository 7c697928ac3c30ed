"""Removal of runs, sweeps and checkpoints from a results folder: planned first, so that it can be shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tpbench.engine import TpbenchError, UsageError
from tpbench.results import RunStore
from tpbench.results.artifacts import ID_PATTERN, NewerFormat
from tpbench.results.location import file_stamps, io_errors
from tpbench.results.networks import NETWORKS
from tpbench.results.opening import find_record
from tpbench.results.runs import PREDICTIONS, RunRecord
from tpbench.search.definition import SweepFolder
from tpbench.search.listing import get_sweep, stored_sweeps, sweep_folders

_GONE = (FileNotFoundError,)


@dataclass
class Removal:
    """Files that a removal deletes, and what stays."""

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    """With everything in them."""
    lines: list[str] = field(default_factory=list)
    """The same for people: a line each."""
    staying: list[str] = field(default_factory=list)
    """Files that were named and stay, with the reason: a line each."""
    sweeps: list[SweepFolder] = field(default_factory=list)
    """Sweeps that are locked while their folders go."""

    def carry_out(self) -> None:
        """Delete everything that the removal names; a file that is gone already is no error.

        Raises:
            TpbenchError: a sweep among it is at work, or something could not be deleted.
        """
        # Locked first, all of them: a removal that stops in the middle would leave half of a sweep.
        with ExitStack() as stack:
            for sweep in self.sweeps:
                stack.enter_context(sweep.lock())
            for path in self.files:
                with suppress(FileNotFoundError), io_errors(path, f"{path}: could not be removed", passing=_GONE):
                    path.unlink(missing_ok=True)
            for folder in self.folders:
                with suppress(FileNotFoundError), io_errors(folder, f"{folder}: could not be removed", passing=_GONE):
                    _remove_tree(folder)


def _remove_tree(folder: Path) -> None:
    if isinstance(folder, Path):
        import shutil

        shutil.rmtree(folder)
    else:
        folder.fs.rm(folder.path, recursive=True)


def plan_runs(store: RunStore, texts: Sequence[str]) -> Removal:
    """Plan to remove runs, with their predictions and networks; a damaged run file too.

    Args:
        texts: ids, or at least their first 8 digits.

    Raises:
        UsageError: there is no such run, or several begin so.
        TpbenchError: one cannot be read, or a sweep that is at work uses it.
    """
    removal = Removal()
    names = {**file_stamps(store.runs, ".json"), **file_stamps(store.runs, PREDICTIONS.suffix)}
    known = sorted({name.partition(".")[0] for name in names if ID_PATTERN.fullmatch(name.partition(".")[0])})
    users = _users(store)
    for text in texts:
        # As a person copies it from a message: the name of a file.
        wanted = Path(text).name.partition(".")[0].strip().lower()
        ids = [run_id for run_id in known if len(wanted) >= 8 and run_id.startswith(wanted)]
        record = None if len(ids) == 1 and store.read(ids[0]) is None else find_record(store, wanted)
        run_id = record.definition.id if record else ids[0]
        sweeps = users.get(run_id, [])
        for sweep in sweeps:
            if sweep.locked:
                raise TpbenchError(f"the sweep {sweep.folder.name} is at work and uses the run {run_id}: stop it first")
        _add_run(removal, store, run_id, record)
        removal.staying += [
            f"run {run_id}: the sweep {sweep.folder.name} uses it, and would train it again" for sweep in sweeps
        ]
    return removal


def _describe(record: RunRecord | None) -> str:
    """Describe a run for people; one that cannot be read is damaged."""
    if record is None:
        return "damaged"
    d, role = record.definition, str(record.search_info.get("role") or record.search_info.get("by") or "")
    missing = "no error" if record.validated else "no validation set"
    error = missing if record.validation_error is None else f"validation error {100 * record.validation_error:.2f} %"
    epochs = f"{d.epochs} epoch{'s' * (d.epochs != 1)}"
    return ", ".join(filter(None, [f"{d.workload} {d.method}", f"seed {d.seed}", epochs, role, error]))


def _add_run(removal: Removal, store: RunStore, run_id: str, record: RunRecord | None) -> None:
    path, archives = store.path(run_id), store.archived.holders.get(run_id)
    beside = {"predictions": store.predictions_path(run_id), "network": NETWORKS.path(store.folder, run_id)}
    there = {name: file for name, file in beside.items() if file.exists()}
    # Where an archive alone has the run, they belong to its copy, which stays.
    files = [*([path] if path.exists() else []), *there.values()] if path.exists() or not archives else []
    if files and files[0] not in removal.files:
        removal.files += files
        also = f"; with its {' and '.join(there)}" if there else ""
        removal.lines.append(f"run {run_id}: {_describe(record)}{also}")
    if archives:
        which = ", ".join(archive.name for archive in archives)
        counts = ""
        if path.exists():
            other = record is not None and record.versions > 1
            counts = "; it has OTHER CURVES and counts from then on" if other else " and counts from then on"
        removal.staying.append(f"run {run_id}: its copy in {which} stays, as archives are never changed{counts}")


def _users(store: RunStore) -> dict[str, list[SweepFolder]]:
    """Return the sweeps that use runs, by run; a damaged journal names none."""
    users: dict[str, list[SweepFolder]] = defaultdict(list)
    for sweep in stored_sweeps(store):
        with suppress(TpbenchError):
            for run_id in _runs_of(sweep):
                users[run_id].append(sweep)
    return users


def plan_sweep(store: RunStore, name: str) -> Removal:
    """Plan to remove a sweep: its folder, and the runs of its search and of its final seeds.

    Runs stay that another sweep's journal names, or that were in the store before the sweep.

    Raises:
        UsageError: there is no such sweep, or an archive holds it.
        TpbenchError: the folder cannot be read, or the sweep is at work.
    """
    sweep = get_sweep(store, name)
    if sweep.archive and sweep.exists:
        # A longer copy counts, and stays; the folder can go.
        sweep = SweepFolder(sweep.folder)
    if sweep.archive:
        raise UsageError(f"the sweep {name} is in {sweep.archive}, and archives are never changed")
    if sweep.locked:
        raise TpbenchError(f"the sweep {name} is at work: stop it first")
    # Of a sweep at a URL, lock and log lie on this machine.
    places = [sweep.folder, *([sweep.local] if sweep.local != sweep.folder and sweep.local.exists() else [])]
    removal = Removal(folders=places, sweeps=[sweep], lines=[f"sweep {name}: {sweep.folder}"])
    try:
        runs, own = _runs_of(sweep), sweep.read().id
    except TpbenchError as error:
        removal.staying.append(f"the runs of the sweep {name}, as its journal cannot be read ({error})")
        return removal
    shared: dict[str, str] = {}
    for other in stored_sweeps(store):
        if other.folder == sweep.folder:
            continue
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
        if run_id in shared:
            removal.staying.append(f"run {run_id}: the sweep {shared[run_id]} uses it too")
        elif record and record.search_info.get("sweep") != own:
            removal.staying.append(f"run {run_id}: it was there before, the sweep only found it")
        elif record:
            _add_run(removal, store, run_id, record)
        elif store.path(run_id).exists():
            _add_run(removal, store, run_id, None)
    return removal


def _runs_of(sweep: SweepFolder) -> set[str]:
    """Return the ids of the runs that a sweep's journal names."""
    journal = sweep.read_journal()
    outcomes = [outcome for pack in journal.packs for outcome in pack.outcomes or []]
    return {outcome.run for outcome in [*outcomes, *(journal.final or [])]}


def plan_checkpoints(store: RunStore) -> Removal:
    """Plan to remove all checkpoints: their packs begin anew when they are next trained.

    Raises:
        TpbenchError: the folder cannot be read, or a sweep is at work.
    """
    folder = store.folder / "checkpoints"
    try:
        files = sorted(folder.glob("*.pt")) if folder.is_dir() else []
        size = sum(path.stat().st_size for path in files)
    except Exception as error:  # a URL's file system has exceptions of its own
        raise TpbenchError(f"{folder}: could not be read ({error})") from error
    lines = [f"{len(files)} checkpoint{'s' * (len(files) != 1)} ({size / 1e6:.1f} MB): {folder}"] * bool(files)
    if busy := [sweep.folder.name for sweep in sweep_folders(store) if sweep.locked]:
        raise TpbenchError(f"the sweep {busy[0]} is at work and needs its checkpoints: stop it first")
    return Removal(files=files, lines=lines)
