"""What a sweep is, and the folder that holds its state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tpbench.engine import TpbenchError
from tpbench.engine.files import user_cache
from tpbench.results.artifacts import digest, parse_json
from tpbench.results.location import absolute, read_bytes
from tpbench.results.runs import DEFAULT_OBJECTIVE, DEFAULT_PRECISION, search_info
from tpbench.results.store import write_atomically
from tpbench.search.journal import Journal
from tpbench.search.locking import is_locked, locked
from tpbench.training.tracking import portable_target
from tpbench.workloads import Workload, get_workload, is_file

# Bytes of the files that say what a sweep is; real ones are a thousandth of it.
_LARGEST = 4_000_000
SELECTION_SEED = 0
"""Every configuration of a search is trained with it, so that they differ in their hyperparameters alone. The final
runs may have it too (by default they do), or not: then none of them took part in the choice."""


@dataclass(frozen=True)
class SweepDefinition:
    """A search and the final runs of its best configuration."""

    workload: str
    method: str
    fingerprint: str
    """SHA-256 of the data."""
    space: Mapping[str, list[Any]]
    """The search space as plain data."""
    trials: int
    epochs: int
    seeds: tuple[int, ...]
    """Of the final runs."""
    search_seed: int
    pack: int
    """Members per pack of the search."""
    lag: int
    """Packs in flight or waiting (see :class:`tpbench.search.packed_tpe.PackedSearch`)."""
    precision: str = DEFAULT_PRECISION
    method_source: str = ""
    """As of :class:`tpbench.results.RunDefinition`, and so is the next."""
    workload_source: str = ""
    objective: str = DEFAULT_OBJECTIVE
    """The curve whose lowest value search and rungs minimise."""
    halving: int = 0
    """Factor of a search in which packs are brackets (:mod:`tpbench.search.halving`); 0: none."""
    search_precision: str = ""
    """Of the packs of the search alone; empty: as all of the sweep."""

    @property
    def searched_in(self) -> str:
        """The precision of the search's packs."""
        return self.search_precision or self.precision

    def plain(self) -> dict[str, Any]:
        """The fields as plain data. Those added later are left out where they say nothing, so that old ids stay."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _LATER_FIELDS or value != _LATER_FIELDS[name]
        }

    @property
    def id(self) -> str:
        """Names the sweep. Pack and lag are left out: where it runs, they are chosen once and then kept."""
        what = {k: v for k, v in self.plain().items() if k not in ("pack", "lag")}
        return f"{self.workload}-{self.method}-{digest(what)[:8]}"

    def found(self, role: str) -> dict[str, Any]:
        """What the sweep's runs say of how their configuration was found; the role is ``search`` or ``final``."""
        return search_info(
            self.id,
            self.trials,
            self.epochs,
            digest(dict(self.space)),
            role,
            self.seeds,
            self.objective,
            self.halving,
            # The search's own runs are of that precision themselves.
            self.search_precision if role == "final" else "",
        )


_LATER_FIELDS = {
    "precision": DEFAULT_PRECISION,
    "method_source": "",
    "workload_source": "",
    "objective": DEFAULT_OBJECTIVE,
    "halving": 0,
    "search_precision": "",
}


def portable_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain options as a sweep's folder keeps them: they hold in any folder of the machine.

    The results folder is left out, as it may be moved, and so is what holds for one call alone.
    """
    from tpbench.options import continuing

    kept = {name: value for name, value in continuing(options).items() if name != "results"} if options else {}
    for name in ("data", "space"):
        if kept.get(name):
            kept[name] = absolute(kept[name])
    if "track" in kept:
        kept["track"] = [portable_target(target) for target in kept["track"]]
    if "workloads" in kept:
        parts = [part.strip() for part in kept["workloads"].split(",")]
        kept["workloads"] = ",".join(absolute(part) if is_file(part) else part for part in parts)
    return kept


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
    """``sweeps/<id>`` of a results folder: ``sweep.json``, ``options.json``, ``journal.jsonl``, ``workload.yaml``."""

    folder: Path

    @property
    def results(self) -> Path:
        """The results folder that it belongs to."""
        return self.folder.parent.parent

    @property
    def local(self) -> Path:
        """Where this machine keeps the lock, Ray's log and Ray's files: the folder itself unless that is a URL."""
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
        """Whether a sweep was begun here."""
        return (self.folder / "sweep.json").exists()

    @property
    def workload_copy(self) -> Path:
        """What a workload of a user's file was when the sweep began."""
        return self.folder / "workload.yaml"

    def keep_workload(self, workload: Workload) -> None:
        """Keep what a workload of a user's file says, so that the sweep can be continued though the file changes."""
        if workload.source and not self.workload_copy.exists():
            write_atomically(self.workload_copy, workload.to_yaml())

    @property
    def journal_path(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def options(self) -> dict[str, Any]:
        """The options that began or last continued the sweep, as :func:`portable_options` keeps them; empty of none."""
        from tpbench.options import SweepOptions, parse_older_command

        try:
            kept = parse_json(read_bytes(self.folder / "options.json", _LARGEST).decode())
            return SweepOptions.read({name: value for name, value in kept.items() if name != "command"}).plain()
        except (OSError, ValueError, TpbenchError, AttributeError):
            pass
        try:
            # Version 0.2.0 kept a command line.
            return portable_options(parse_older_command(read_bytes(self.folder / "command", _LARGEST).decode()))
        except (OSError, UnicodeDecodeError, TpbenchError):
            return {}

    def command(self, results: str | Path) -> str:
        """Return the command that continues the sweep; empty where none is known.

        Args:
            results: the results folder as the command shall name it.
        """
        from tpbench.options import format_command

        if not (options := self.options):
            return ""
        named = {**options, "results": str(results)} if str(results) != "results" else options
        if self.workload_copy.exists():
            definition = self.read()
            parts = options["workloads"].split(",")
            named["workloads"] = ",".join(_current_file(part.strip(), definition, self.workload_copy) for part in parts)
        return format_command(named)

    @property
    def locked(self) -> bool:
        """Whether a process is at work on the sweep."""
        return is_locked(self.local)

    def lock(self) -> AbstractContextManager[str]:
        """Keep other processes off the sweep; of a sweep at a URL, only other processes of this machine.

        Raises:
            TpbenchError: as :func:`tpbench.search.locking.locked`.
        """
        return locked(self.local, f"the sweep {self.folder.name}")

    def begin(self, wanted: SweepDefinition, options: Mapping[str, Any]) -> tuple[SweepDefinition, Journal]:
        """Continue the sweep of this folder, or begin it; pack and lag of a sweep that is there are kept.

        Args:
            options: of the command or call, as :meth:`tpbench.options.Options.plain` gives them.
        """
        path = self.folder / "sweep.json"
        definition = self.read() if self.exists else wanted
        if definition.id != wanted.id:
            raise TpbenchError(f"{path}: belongs to the sweep {definition.id}; start another with --fresh")
        if not self.exists:
            write_atomically(path, json.dumps(wanted.plain(), indent=1) + "\n")
        write_atomically(self.folder / "options.json", json.dumps(portable_options(options), indent=1) + "\n")
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
        """The definition that is written there.

        Raises:
            TpbenchError: it is damaged.
        """
        from tpbench.results.schemas import check_fields
        from tpbench.search.journal import SweepFields

        path = self.folder / "sweep.json"
        try:
            fields = parse_json(read_bytes(path, _LARGEST).decode())
            check_fields(SweepFields, fields)
            return SweepDefinition(**{**fields, "seeds": tuple(fields["seeds"])})
        except TpbenchError as error:
            raise TpbenchError(f"{error}; start another sweep with --fresh") from error
        except ValueError as error:
            raise TpbenchError(f"{path}: damaged ({error}); start another sweep with --fresh") from error
        except Exception as error:  # a URL's file system has exceptions of its own; the file may be whole
            raise TpbenchError(f"{path}: could not be read ({error})") from error
