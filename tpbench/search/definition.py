"""The definition of a sweep, the folder that holds its state, and that state."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tpbench.engine import Configuration, TpbenchError, method_source
from tpbench.engine.files import user_cache
from tpbench.results.archives import ArchivedRuns
from tpbench.results.artifacts import digest, parse_json
from tpbench.results.location import absolute, read_bytes
from tpbench.results.runs import (
    DEFAULT_OBJECTIVE,
    DEFAULT_PRECISION,
    FROM_FILE,
    OBJECTIVES,
    search_info,
    tuning_budget,
)
from tpbench.results.schemas import Count, Epochs, Name, Natural, NonNegative, Record, Scalar, check_fields, model_of
from tpbench.results.store import RunStore, write_atomically
from tpbench.results.sweep_files import (
    DEFINITION,
    JOURNAL,
    LARGEST,
    WORKLOAD,
    SweepFiles,
    archived_file,
    entry_of_sweep,
    read_archived_sweep,
    read_sweep,
)
from tpbench.search.brackets import Bracket
from tpbench.search.journal import FAILED_ELSEWHERE, REMEDY, Journal, Suggestion, portable_journal
from tpbench.search.locking import is_locked, locked
from tpbench.search.packed_tpe import random_first
from tpbench.training.plan import PackPlan
from tpbench.training.tracking import portable_target
from tpbench.workloads import Workload, get_workload, is_file
from tpbench.workloads.workload import known_shape

if TYPE_CHECKING:
    from tpbench.options import SweepOptions
    from tpbench.search.configurations import KnownConfigurations

# Types of fields; their models stand below the definition.
Factor = int
Objective = str
Seeds = tuple[int, ...]
SearchEpochs = int
Start = tuple[Mapping[str, float], ...]
StartFrom = str

SELECTION_SEED = 0
"""Every configuration of a search is trained with it, so that they differ in their hyperparameters alone. The final
runs may have it too (by default they do), or not: then none of them took part in the choice."""

CHOSEN = ("pack", "lag", "packs_per_gpu", "cost")
"""Fields that are chosen where a sweep begins, and are no part of its id."""


@dataclass(frozen=True)
class SweepDefinition:
    """A search and the final runs of its best configuration."""

    workload: Name
    method: Name
    fingerprint: str
    """SHA-256 of the data."""
    space: Mapping[str, list[Scalar]]
    """The search space as plain data."""
    trials: Count
    epochs: Epochs
    seeds: Seeds
    """Seeds of the final runs."""
    search_seed: Natural
    pack: Count
    """Members per pack of the search."""
    lag: Count
    """Packs in flight or waiting (see :class:`tpbench.search.packed_tpe.PackedSearch`)."""
    precision: Name = DEFAULT_PRECISION
    method_source: str = ""
    """The same as of :class:`tpbench.results.RunDefinition`, and so is the next."""
    workload_source: str = ""
    objective: Objective = DEFAULT_OBJECTIVE
    """The curve whose lowest value search and rungs minimise."""
    halving: Factor = 0
    """Factor of a search in which packs are brackets (:mod:`tpbench.search.brackets`); 0: none."""
    search_precision: str = ""
    """Precision of the search's packs alone; empty: that of the whole sweep."""
    search_epochs: SearchEpochs = 0
    """Joint epochs of the search's runs alone; 0: those of the whole sweep."""
    start: Start = ()
    """Known configurations, which are the first trials: their values of what is searched."""
    start_from: StartFrom = ""
    """Origin of the known configurations: ``published`` or ``file``; empty where there are none."""
    packs_per_gpu: Natural = 0
    """Packs that share a GPU; 0: none was measured."""
    cost: NonNegative = 0.0
    """Seconds of a member's epoch (:func:`tpbench.training.sizing.epoch_seconds`); 0: not measured."""

    @classmethod
    def of(
        cls,
        options: SweepOptions,
        workload: Workload,
        method: str,
        fingerprint: str,
        space: Mapping[str, list[Any]],
        known: KnownConfigurations | None = None,
    ) -> SweepDefinition:
        """Return the definition of a sweep with these options, whose sizes may still be chosen (:attr:`CHOSEN`)."""
        epochs = options.epochs or workload.epochs
        return cls(
            workload.name,
            method,
            fingerprint,
            space,
            options.trials,
            epochs,
            options.seed_list,
            options.search_seed,
            options.pack_size or 1,
            lag=1,
            precision=options.precision,
            method_source=method_source(method),
            workload_source=workload.source,
            objective=options.objective,
            halving=options.halving,
            # Another definition, and id, only where they differ.
            search_precision=options.searched_in if options.searched_in != options.precision else "",
            search_epochs=options.search_epochs if options.search_epochs not in (None, epochs) else 0,
            start=known.values if known else (),
            start_from=known.origin if known else "",
        )

    @property
    def trial_epochs(self) -> int:
        """Joint epochs of the search's runs."""
        return self.search_epochs or self.epochs

    @property
    def bracket(self) -> Bracket | None:
        """The rule by which the search stops members of a pack early, if it does."""
        return Bracket(self.trial_epochs, self.halving, self.objective) if self.halving else None

    @property
    def minimises_error(self) -> bool:
        """True if the search minimises the validation error, as it does unless told otherwise."""
        return self.objective == DEFAULT_OBJECTIVE

    @property
    def score_label(self) -> str:
        """The label of an axis that shows what the search minimises."""
        return "best validation error (%)" if self.minimises_error else f"lowest {self.objective.replace('_', ' ')}"

    def search_plan(self, workload: Workload, configurations: Sequence[Configuration]) -> PackPlan:
        """Return the plan of a pack of the search, with a member for each complete configuration."""
        return PackPlan(
            workload,
            self.method,
            tuple(configurations),
            (SELECTION_SEED,) * len(configurations),
            self.trial_epochs,
            prune=True,
            curve=self.objective,
            found=self.found("search"),
            fingerprint=self.fingerprint,
            method_source=self.method_source,
        )

    @property
    def pack_count(self) -> int:
        """Number of packs of the search."""
        return -(-self.trials // self.pack)

    def search_seconds(self, cost: float, trials: int | None = None) -> float:
        """Return about how long one worker trains the search, if no member diverges or is pruned.

        Args:
            cost: seconds of a member's epoch.
            trials: configurations that are left; None: all.
        """
        share = self.bracket.share(min(self.pack, self.trials)) if self.bracket else 1.0
        return (self.trials if trials is None else trials) * self.trial_epochs * share * cost

    @property
    def random_count(self) -> int:
        """Number of suggestions that are random, or made without any result, if all packs succeed; known ones apart."""
        return max(0, random_first(self.trials, self.pack, self.lag) - len(self.start))

    def announcement(self, space: str = "") -> str:
        """Return a line about the sweep; ``space`` is the file of the search space, if it is not the paper's."""
        searched = f", searched in {self.search_precision}" if self.search_precision else ""
        known = f", of which {len(self.start)} known ({self.start_from})," if self.start else ""
        first = "the next" if self.start else "the first"
        parts = [
            f"sweep {self.id}: {self.trials} configurations{known} in packs of {self.pack}",
            f" of {space}" if space else "",
            f", for {_epochs(self.search_epochs)}" if self.search_epochs else "",
            searched,
            f", halved by {self.halving}" if self.halving else "",
            f", {first} {self.random_count} without results" if self.random_count else "",
            "" if self.minimises_error else f", by {self.objective}",
            f", then {len(self.seeds)} seed{'s' * (len(self.seeds) != 1)}",
            # Epochs and precision go without saying only where the search has the same.
            f" for {_epochs(self.epochs)}" if self.search_epochs else "",
            f" in {self.precision}" if searched else "",
        ]
        return "".join(parts)

    @property
    def caption(self) -> str:
        """The unusual properties of a search, for its plot: epochs, precision, factor, known configurations."""
        parts = [
            f" for {_epochs(self.search_epochs)}" if self.search_epochs else "",
            f" in {self.search_precision}" if self.search_precision else "",
            f", halving by {self.halving}" if self.halving else "",
            f", from {self.start_from}" if self.start else "",
        ]
        return "".join(parts)

    @property
    def searched_in(self) -> str:
        """The precision of the search's packs."""
        return self.search_precision or self.precision

    def plain(self) -> dict[str, Any]:
        """Return the fields as plain data, without those added later where they say nothing, so that old ids stay."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _LATER_FIELDS or value != _LATER_FIELDS[name]
        }

    @property
    def id(self) -> str:
        """The sweep's name. Sizes are left out: where it runs, they are chosen once and then kept."""
        what = {k: v for k, v in self.plain().items() if k not in CHOSEN}
        return f"{self.workload}-{self.method}-{digest(what)[:8]}"

    @property
    def paper_space(self) -> bool:
        """True if the search space is the one that a command without ``--space`` takes."""
        from tpbench.search.spaces import space_for

        try:
            return space_for(self.method, workload=self.workload).describe() == dict(self.space)
        except TpbenchError:
            return False

    def space_file(self) -> str:
        """Return a file that declares the search space: JSON, which is YAML."""
        from tpbench.search.spaces import range_entries

        ranges = {name: range_entries(plain) for name, plain in self.space.items()}
        return json.dumps({"methods": [self.method], "hyperparameters": ranges}, indent=1) + "\n"

    def options(self, workload: str, space: str = "") -> dict[str, Any]:
        """Return the options of a sweep of this definition, as plain data; empty where none have such values.

        Args:
            workload: its name or file.
            space: the file of its search space; empty: the paper's.
        """
        from tpbench.options import DEFAULT_SEEDS, InvalidOptionError, SweepOptions

        values = {
            "workloads": workload,
            "methods": self.method,
            "space": space or None,
            "seeds": None if self.seeds == DEFAULT_SEEDS else self.seeds,
            "search_precision": self.search_precision or None,
            "search_epochs": self.search_epochs or None,
            "start": self.start_from or None,
        }
        if self.start_from == FROM_FILE["by"]:  # its name is not known
            return {}
        same = ("trials", "epochs", "search_seed", "precision", "objective", "halving")
        try:
            return SweepOptions.read(values | {name: getattr(self, name) for name in same}).plain()
        except InvalidOptionError:
            return {}

    def found(self, role: str) -> dict[str, Any]:
        """Return the search info of the sweep's runs; the role is ``search`` or ``final``."""
        return search_info(
            self.id,
            self.trials,
            self.trial_epochs,
            digest(dict(self.space)),
            role,
            self.seeds,
            objective=self.objective,
            halving=self.halving,
            start=self.start_from,
            # The search's own runs are of that precision themselves.
            search_precision=self.search_precision if role == "final" else "",
        )

    @property
    def label(self) -> str:
        """The tuning label of its final runs in tables: ``54 x 27 halved``."""
        return str(tuning_budget(self.found("final")))


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"


SweepFields = model_of(
    SweepDefinition,
    Record,
    Factor=Annotated[int, Field(ge=0, le=10)],
    Objective=Literal[OBJECTIVES],
    Seeds=Annotated[list[Natural], Field(min_length=1)],
    SearchEpochs=Epochs,
    Start=Annotated[list[Suggestion], Field(min_length=1)],
    StartFrom=Literal["published", "file"],
)
"""The model of ``sweep.json``."""
_LATER_FIELDS = {
    "precision": DEFAULT_PRECISION,
    "method_source": "",
    "workload_source": "",
    "objective": DEFAULT_OBJECTIVE,
    "halving": 0,
    "search_precision": "",
    "search_epochs": 0,
    "start": (),
    "start_from": "",
    "packs_per_gpu": 0,
    "cost": 0.0,
}


def portable_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain options as a sweep's folder keeps them: they hold in any folder of the machine.

    The results folder is left out, as it may be moved, and so is what holds for one call alone.
    """
    from tpbench.options import continuing

    kept = {name: value for name, value in continuing(options).items() if name != "results"} if options else {}
    for name in ("data", "space", "start"):
        if isinstance(kept.get(name), list):
            kept[name] = [absolute(file) for file in kept[name]]
        elif kept.get(name) and (name, kept[name]) != ("start", "published"):
            kept[name] = absolute(kept[name])
    if "track" in kept:
        kept["track"] = [portable_target(target) for target in kept["track"]]
    if "workloads" in kept:
        parts = [part.strip() for part in kept["workloads"].split(",")]
        kept["workloads"] = ",".join(absolute(part) if is_file(part) else part for part in parts)
    return kept


def parse_definition(content: bytes, where: str, remedy: str = REMEDY) -> SweepDefinition:
    """Return the definition of a file's contents.

    Raises:
        TpbenchError: it is damaged.
    """
    try:
        fields = parse_json(content.decode())
        check_fields(SweepFields, fields)
        return SweepDefinition(**{**fields, **{n: tuple(fields[n]) for n in ("seeds", "start") if n in fields}})
    except ValueError as error:
        raise TpbenchError(f"{where}: damaged ({error}); {remedy}") from error


def _portable_workload(content: bytes) -> bytes:
    """Return the copy of a user's workload with the mere name of its data file, which then must lie beside the copy.

    Raises:
        ValueError: it is no such copy.
    """
    from tpbench.workloads.declarations import Declaration

    values = parse_json(content.decode())
    check_fields(Declaration, values)
    if values.get("like") is not None:
        raise ValueError("it is like another workload")
    data = values["data"]
    if data.endswith(".npz"):
        data = re.split(r"[/\\]", data)[-1]
    elif known_shape(data) is None:
        raise ValueError("its data are no .npz file and no known data set")
    return (json.dumps({**values, "data": data}, indent=1) + "\n").encode()


def portable_files(contents: Mapping[str, bytes], where: str, archived: bool) -> SweepFiles:
    """Return the files of a sweep as archives hold them; see :data:`tpbench.results.sweep_files.ParseSweep`.

    Args:
        contents: of the files, by their names; one that is missing is empty.
        where: their place, for messages.
        archived: whether that is in an archive.

    Raises:
        TpbenchError: definition or journal is damaged.
    """
    remedy = "replace the archive" if archived else REMEDY
    definition = parse_definition(contents[DEFINITION], f"{where}/{DEFINITION}", remedy)
    journal = portable_journal(contents[JOURNAL], f"{where}/{JOURNAL}", remedy)
    workload, problem = b"", ""
    if contents[WORKLOAD]:
        try:
            workload = _portable_workload(contents[WORKLOAD])
        except ValueError as error:
            problem = f"{where}/{WORKLOAD}: damaged ({error}); it is left out"
    # What was measured differs from machine to machine, and copies of one sweep would.
    portable = replace(definition, cost=0.0, packs_per_gpu=0)
    return SweepFiles((json.dumps(portable.plain(), indent=1) + "\n").encode(), journal, workload, problem)


def _current_file(name: str, definition: SweepDefinition, copy: Path) -> str:
    """Return a workload's file, or the copy where the file is gone or says something else by now."""
    if not is_file(name):
        return name
    try:
        workload = get_workload(name)
    except TpbenchError:
        return str(copy)
    changed = workload.name == definition.workload and workload.source != definition.workload_source
    return str(copy) if changed else name


@dataclass(frozen=True)
class SweepFolder:
    """``sweeps/<id>`` of a results folder: ``sweep.json``, ``options.json``, ``journal.jsonl``, ``workload.yaml``.

    A sweep that was merged from elsewhere has a ``space.yaml`` in place of ``options.json``, unless its search space is
    the paper's.
    """

    folder: Path
    archive: Path | None = None
    """The archive whose copy of the sweep counts in place of the folder. It can only be read."""

    @property
    def results(self) -> Path:
        """The results folder that it belongs to."""
        return self.folder.parent.parent

    @property
    def local(self) -> Path:
        """The place of the lock, Ray's log and Ray's files on this machine: the folder itself unless that is a URL."""
        if isinstance(self.folder, Path):
            return self.folder
        return user_cache() / "sweeps" / f"{self.folder.name}-{digest(str(self.folder))[:12]}"

    @property
    def log(self) -> Path:
        """Ray's own output."""
        return self.local / "ray.log"

    @property
    def ray(self) -> Path:
        """Ray Tune's own files; they go when the sweep is done."""
        return self.local / "ray"

    @property
    def exists(self) -> bool:
        """True if a sweep was begun here."""
        return (self.folder / DEFINITION).exists()

    @property
    def workload_copy(self) -> Path:
        """The copy of a workload of a user's file, from the time when the sweep began."""
        return self.folder / WORKLOAD

    @property
    def space_copy(self) -> Path:
        """The search space of a sweep that was merged from elsewhere."""
        return self.folder / "space.yaml"

    def keep_workload(self, workload: Workload) -> None:
        """Keep a copy of a workload of a user's file, so that the sweep can be continued though the file changes."""
        if workload.source and not self.workload_copy.exists():
            write_atomically(self.workload_copy, workload.to_yaml())

    @property
    def journal_path(self) -> Path:
        return self.folder / JOURNAL

    @property
    def options(self) -> dict[str, Any]:
        """The options that began or last continued the sweep, as :func:`portable_options` keeps them; empty of none."""
        from tpbench.options import SweepOptions, parse_older_command

        try:
            kept = parse_json(read_bytes(self.folder / "options.json", LARGEST[DEFINITION]).decode())
            return SweepOptions.read({name: value for name, value in kept.items() if name != "command"}).plain()
        except (OSError, ValueError, TpbenchError, AttributeError):
            pass
        try:
            # Version 0.2.0 kept a command line.
            return portable_options(
                parse_older_command(read_bytes(self.folder / "command", LARGEST[DEFINITION]).decode())
            )
        except (OSError, UnicodeDecodeError, TpbenchError):
            return {}

    def command(self, results: str | Path) -> str:
        """Return the command that continues the sweep; empty where none is known.

        Args:
            results: the results folder as the command shall name it.
        """
        from tpbench.options import format_command

        if not (options := self.options or self._derived_options()):
            return ""
        named = {**options, "results": str(results)} if str(results) != "results" else options
        if self.workload_copy.exists():
            definition = self.read()
            parts = options["workloads"].split(",")
            named["workloads"] = ",".join(_current_file(part.strip(), definition, self.workload_copy) for part in parts)
        return format_command(named)

    def _derived_options(self) -> dict[str, Any]:
        """Return options that continue a sweep whose own are not known here; empty where a file of it is missing."""
        if not self.exists:
            return {}
        definition = self.read()
        own_space, own_workload = self.space_copy.exists(), self.workload_copy.exists()
        if not (own_space or definition.paper_space) or (definition.workload_source and not own_workload):
            return {}
        return definition.options(
            str(self.workload_copy) if own_workload else definition.workload, str(self.space_copy) if own_space else ""
        )

    @property
    def locked(self) -> bool:
        """True while a process is at work on the sweep's folder."""
        return is_locked(self.local)

    def lock(self) -> AbstractContextManager[str]:
        """Keep other processes off the sweep; of a sweep at a URL, only other processes of this machine.

        Raises:
            TpbenchError: as :func:`tpbench.search.locking.locked`.
        """
        return locked(self.local, f"the sweep {self.folder.name}")

    def begin(self, wanted: SweepDefinition, options: Mapping[str, Any]) -> tuple[SweepDefinition, Journal]:
        """Continue the sweep of this folder, or begin it; the sizes of a sweep that is there are kept.

        Args:
            options: of the command or call, as :meth:`tpbench.options.Options.plain` gives them.
        """
        path = self.folder / DEFINITION
        known = definition = self.read() if self.exists else None
        if known is None:
            definition = wanted
        elif known.id != wanted.id:
            raise TpbenchError(f"{path}: belongs to the sweep {known.id}; start another with --fresh")
        else:
            # Older versions, and a sweep that was merged, have not kept what is measured.
            per_gpu = known.packs_per_gpu or wanted.packs_per_gpu
            definition = replace(known, cost=known.cost or wanted.cost, packs_per_gpu=per_gpu)
        if definition != known:
            write_atomically(path, json.dumps(definition.plain(), indent=1) + "\n")
        # Bytes of names that are no text become escapes.
        kept = {
            name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
            for name, value in portable_options(options).items()
        }
        write_atomically(self.folder / "options.json", json.dumps(kept, indent=1) + "\n")
        return definition, Journal.open(self.journal_path)

    @classmethod
    def latest(cls, sweeps: Path, sweep_id: str, *, fresh: bool) -> SweepFolder:
        """The folder of the newest sweep of that id; with ``fresh``, of one after it (``-2``, ``-3``, ...)."""
        folder, number = cls(sweeps / sweep_id), 2
        while folder.exists:
            following = cls(sweeps / f"{sweep_id}-{number}")
            if not (following.exists or fresh):
                break
            folder, number = following, number + 1
        return folder

    def read(self) -> SweepDefinition:
        """Read the definition.

        Raises:
            TpbenchError: it is damaged.
        """
        return parse_definition(self._content(DEFINITION), self._where(DEFINITION), self._remedy)

    def read_journal(self) -> Journal:
        """Read the journal without changing it.

        Raises:
            TpbenchError: it is damaged.
        """
        if self.archive is None:
            return Journal.read(self.journal_path)
        return Journal.parse(self._content(JOURNAL), self.journal_path, self._where(JOURNAL), self._remedy)

    def files(self) -> SweepFiles:
        """Read the sweep's files as archives hold them.

        Raises:
            TpbenchError: definition or journal is damaged.
        """
        if self.archive is None:
            return read_sweep(self.results, self.folder.name, portable_files)
        with ArchivedRuns().opened() as archives:
            return read_archived_sweep(archives, self.archive, self.folder.name, portable_files)

    def _where(self, file: str) -> str:
        return f"{self.archive}: {entry_of_sweep(self.folder.name, file)}" if self.archive else str(self.folder / file)

    @property
    def _remedy(self) -> str:
        return "replace the archive" if self.archive else REMEDY

    def _content(self, file: str) -> bytes:
        """Read a file.

        Raises:
            TpbenchError: it cannot be read.
        """
        if self.archive:
            with ArchivedRuns().opened() as archives:
                return archived_file(archives, self.archive, self.folder.name, file)
        try:
            return read_bytes(self.folder / file, LARGEST[file])
        except TpbenchError as error:
            raise TpbenchError(f"{error}; {REMEDY}") from error
        except Exception as error:  # a URL's file system has exceptions of its own; the file may be whole
            raise TpbenchError(f"{self.folder / file}: could not be read ({error})") from error


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
    search_epochs: int = 0
    """Joint epochs of the search's runs, where the final runs have others."""
    known: int = 0
    """Number of configurations that were given to the search as its first trials."""
    start: str = ""
    """Their origin: ``published`` or ``file``."""
    command: str = ""
    """The command that continues it; empty where none does."""
    reason: str = ""
    """The reason why it cannot be continued, where it is not done."""
    archive: str = ""
    """Name of the archive that holds it; empty: it is a folder of the store."""
    workload: str = ""
    method: str = ""
    label: str = ""
    """The tuning label of its final runs in tables."""
    ends: Mapping[str, int] = field(default_factory=dict)
    """Numbers of configurations by their end: finished, diverged, pruned, stopped, failed."""
    packs_open: int = 0
    """Packs of the search that were handed out and have not ended."""
    configuration: Mapping[str, float] = field(default_factory=dict)
    """Values of what is searched in the best configuration so far."""
    seeds: int = 0
    """Seeds of the final runs."""
    seeds_done: int = 0
    """Those that are trained."""


def sweep_status(folder: SweepFolder, results: str = "", store: RunStore | None = None) -> SweepStatus:
    """Read the state of a sweep; a damaged folder is a state too.

    Args:
        folder: of the sweep.
        results: name of the results folder in the command; empty: its path.
        store: of the results folder, where the states of several sweeps are read.
    """
    name, archive = folder.folder.name, folder.archive.name if folder.archive else ""
    store = store or RunStore(folder.results)
    try:
        definition, journal = folder.read(), folder.read_journal()
        done = journal.final_runs(store) is not None
        running = not done and folder.locked
        seeds_done = len(definition.seeds) if done else _trained_seeds(definition, journal, store)
    except TpbenchError as error:
        return SweepStatus(name, "damaged", 0, 0, None, reason=str(error), archive=archive)
    best, searched = journal.best(), journal.ended_count
    status = SweepStatus(
        name,
        "done" if done else "running" if running else "interrupted",
        searched,
        definition.trials,
        best[1].validation_error if best else None,
        definition.objective,
        definition.halving,
        journal.member_epochs,
        searched * definition.trial_epochs,
        definition.search_precision,
        definition.search_epochs,
        len(definition.start),
        definition.start_from,
        archive=archive,
        workload=definition.workload,
        method=definition.method,
        label=definition.label,
        ends=journal.ends(),
        packs_open=sum(pack.outcomes is None for pack in journal.packs),
        configuration=best[0] if best else {},
        seeds=len(definition.seeds),
        seeds_done=seeds_done,
    )
    if done or running:
        return status
    # The reason of another machine is not known here, but what its journal says of the search.
    elsewhere = folder.archive or journal.failure == FAILED_ELSEWHERE
    if elsewhere and best is None and searched == definition.trials:
        nothing = f"none of its {searched} configurations learnt anything"
        reason = "every pack of its search failed" if journal.failed_count == searched else nothing
        return replace(status, state="failed", reason=reason)
    if folder.archive:
        merge = shlex.join(["tpbench", "results", "merge", str(folder.archive), results or str(folder.results)])
        reason = f"it is in an archive, where no sweep is continued: '{merge}' copies it into the store"
        if folder.exists and (damage := _damage_of(folder)):
            reason = (
                f"its folder is damaged ({damage}), and a copy in an archive counts: delete the folder, then '{merge}'"
            )
        return replace(status, reason=reason)
    if journal.failure and journal.failure != FAILED_ELSEWHERE:
        return replace(status, state="failed", reason=journal.failure)
    state, reason, command = "failed" if journal.failure else "interrupted", "", ""
    latest = SweepFolder.latest(folder.folder.parent, definition.id, fresh=False)
    # A command names no folder: it continues the newest sweep of its kind, or begins one.
    if latest.exists and latest != folder:
        reason = f"replaced by {latest.folder.name} (--fresh)"
    elif latest != folder:
        reason = f"no command finds a sweep in a folder of this name: rename it to {latest.folder.name}"
    elif not (command := folder.command(results or folder.results)):
        reason = (
            "neither the options that began it nor its own search space or workload are in its folder: repeat the "
            "command that began it"
        )
    if journal.failure:
        # The command is no reason, but a failure of another machine need not be one of this.
        reason = f"{journal.failure}; {reason or f'to go on here: {command}'}"
        command = ""
    return replace(status, state=state, command=command, reason=reason)


def _trained_seeds(definition: SweepDefinition, journal: Journal, store: RunStore) -> int:
    """Return how many final runs of a sweep that is not done are in the store."""
    from tpbench.workloads.problems import BY_CLASS

    best = journal.best()
    searched = store.read(best[1].run) if best and journal.parts is not None else None
    if searched is None:
        return 0
    final = replace(searched.definition, epochs=definition.epochs, precision=definition.precision)
    # Own data may be split by class for some seeds.
    ids = ({replace(final, seed=seed, split=split).id for split in ("", BY_CLASS)} for seed in definition.seeds)
    return sum(any(store.read(run) for run in of_seed) for of_seed in ids)


def _damage_of(folder: SweepFolder) -> str:
    """Return why the folder of a sweep cannot be read; empty if it can."""
    try:
        SweepFolder(folder.folder).files()
    except TpbenchError as error:
        return str(error)
    return ""
