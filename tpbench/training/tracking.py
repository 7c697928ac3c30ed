"""Tracking of runs in TensorBoard and MLflow: targets, what is logged of a run, and the threads that write it.

Imports no tracker: the adapters are :mod:`tpbench.training.tensorboard` and :mod:`tpbench.training.mlflow`.
"""

from __future__ import annotations

import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tpbench import __version__
from tpbench.engine import MemberHistory, TpbenchError, UsageError, unknown
from tpbench.engine.configuration import flatten
from tpbench.engine.errors import shorten
from tpbench.engine.files import check_name, user_path
from tpbench.results.artifacts import digest
from tpbench.results.location import absolute, file_of_url, is_url, location

if TYPE_CHECKING:
    from tpbench.results import RunDefinition, RunRecord, RunStore

# Passwords

# Up to the last @: a password may hold slashes, question marks, and another @.
_USER = re.compile(r"(?<=//)[^\s'\"]*@")
_SECRET_NAMES = r"passw|passphrase|pwd|token|secret|credential|signature|(?:api|access|account|shared)[_-]?key"
# Also where a query holds another, percent-encoded, as ODBC's do.
_SECRET_FIELD = re.compile(rf"(?i)((?:[\w.-]*(?:{_SECRET_NAMES})[\w.-]*|\b(?:pass|sig))(?:=|%3D))[^&;\s'\"]+")


def has_secret(text: str) -> bool:
    """Return whether a URI holds a password, or a field of its query that is named like one."""
    return any(
        _SECRET_FIELD.search(form) or any(":" in user for user in _USER.findall(form)) for form in (text, unquote(text))
    )


def without_secrets(text: str) -> str:
    """Return a text, such as a URI or a message that quotes one, without users, passwords and tokens."""
    visible = _SECRET_FIELD.sub(r"\1...", _USER.sub("", text))
    decoded = unquote(visible)
    if decoded != visible and _SECRET_FIELD.sub(r"\1...", decoded) != decoded:
        # A field whose name is percent-encoded: nothing after the scheme is safe to show.
        return re.sub(r"(?<=://)[^\s'\"]*", "...", visible)
    return visible


# Targets

TRACKERS = ("tensorboard", "mlflow")
"""Names of trackers; each needs the package of its name, which is an extra of tpbench's."""
FROM_ENVIRONMENT = "$MLFLOW_TRACKING_URI"
"""Stands for a URI with a password: settings are written to disk, and the password stays in the environment."""

_VARIABLE = FROM_ENVIRONMENT[1:]
_DATABRICKS = ("databricks", "databricks-uc", "uc")
_MLFLOW_URIS = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "file", *_DATABRICKS)
_SQLITE = re.compile(r"(?P<driver>sqlite(?:\+\w+)?:///)(?P<path>[^?]+)(?P<query>\?.*)?", re.DOTALL)
# The characters of a path that mean something else in a URL.
_QUOTED = str.maketrans({"%": "%25", "?": "%3F", "#": "%23"})


def _mlflow_path(place: str) -> Path | None:
    """Return the SQLite file, or the folder of MLflow's file store, that a tracking URI names; None for a server.

    Raises:
        UsageError: there is no such home folder, or the file lies on another machine.
    """
    if database := _SQLITE.fullmatch(place):
        return user_path(unquote(database["path"]))
    if place.lower().startswith("file:"):
        return file_of_url(place) or user_path(unquote(place[len("file:") :]))
    # Not "server/mlflow", of which http:// may have been forgotten.
    return user_path(place) if place.startswith((".", "/", "~")) else None


@dataclass(frozen=True)
class Target:
    """A tracker and its place: a folder or URL for TensorBoard, a tracking URI for MLflow."""

    tracker: str
    place: str
    """Empty for the tracker's default."""

    @classmethod
    def from_text(cls, text: str) -> Target:
        """Read a target that :func:`resolve_targets` has written; nothing is checked again."""
        tracker, _, place = text.partition(":")
        return cls(tracker, place)

    def __str__(self) -> str:
        return f"{self.tracker}:{self.place}" if self.place else self.tracker

    @property
    def displayed(self) -> str:
        """The target without users, passwords and tokens."""
        return without_secrets(str(self))

    @property
    def resolved(self) -> str:
        """The place to open; a URI that stands in the environment is read now.

        Raises:
            TpbenchError: the environment of this process lacks it.
        """
        if self.place != FROM_ENVIRONMENT:
            return self.place
        if uri := os.environ.get(_VARIABLE):
            return uri
        raise TpbenchError(f"{_VARIABLE} is not set here, where it was when the work began")

    @property
    def local_path(self) -> str:
        """The path on a machine's own file system; empty for a server or a URL."""
        if self.tracker == "tensorboard":
            return "" if is_url(self.place) else self.place
        file = _mlflow_path(self.place)
        return str(file) if file else ""

    @property
    def is_database(self) -> bool:
        """True for an SQLite file."""
        return self.tracker == "mlflow" and _SQLITE.fullmatch(self.place) is not None

    def expand_home(self) -> Target:
        """Return the target with the home folder in the place of ``~``.

        Raises:
            UsageError: there is no such home folder.
        """
        if self.tracker == "tensorboard":
            return replace(self, place=str(user_path(self.place))) if self.place.startswith("~") else self
        file = _mlflow_path(self.place) if "~" in self.place else None
        return self.with_path(file) if file and file.is_absolute() else self

    def with_path(self, file: Path) -> Target:
        """Return an MLflow target of the same kind with another file or folder."""
        if database := _SQLITE.fullmatch(self.place):
            quoted = str(file).translate(_QUOTED)
            return replace(self, place=f"{database['driver']}{quoted}{database['query'] or ''}")
        return replace(self, place=file.as_uri())


def parse_target(text: str) -> Target:
    """Read what a person gave to ``--track``: ``tensorboard[:DIR]`` or ``mlflow[:URI]``.

    Raises:
        UsageError: there is no such tracker, its place is invalid, or it holds a password.
    """
    target = Target.from_text(text)
    if target.tracker not in TRACKERS:
        raise unknown("tracker", target.tracker, TRACKERS)
    place, is_tensorboard = target.place, target.tracker == "tensorboard"
    if "://" in place and has_secret(place):
        instead = (
            "give it to fsspec by its configuration or environment"
            if is_tensorboard
            else f"set {_VARIABLE}, and give --track mlflow alone"
        )
        raise UsageError(
            f"--track {target.tracker}: others see a password or token on the command line, and it would stand in "
            f"files: {instead}"
        )
    if ":" in text and not place.strip():
        raise UsageError(f"--track '{text}': a {'folder' if is_tensorboard else 'URI'} must follow the colon")
    if place and is_tensorboard:
        _check_folder(place)
    elif place:
        _check_uri(place, "--track mlflow")
    return target


def _check_folder(place: str) -> None:
    folder = location(place)
    check_name(folder, "--track tensorboard")
    if isinstance(folder, Path) and folder.exists() and not folder.is_dir():
        raise UsageError(f"--track 'tensorboard:{place}': this is a file, a folder is needed")


def _check_uri(place: str, option: str) -> None:
    """Refuse a tracking URI of a kind that neither MLflow nor a plug-in of MLflow knows."""
    if not _SQLITE.fullmatch(place) and _mlflow_path(place):
        return
    scheme, separator, rest = place.partition("://")
    dialect = scheme.partition("+")[0]
    displayed = without_secrets(place)
    if not separator and place.partition(":")[0] not in _DATABRICKS:
        raise UsageError(
            f"{option} '{displayed}': write a URI such as http://HOST:5000 or sqlite:///FILE.db, or a folder such as "
            "./mlruns"
        )
    known = [*_MLFLOW_URIS, *(point.name for point in entry_points(group="mlflow.tracking_store"))]
    if separator and dialect not in known:
        raise unknown("kind of MLflow URI", scheme, known)
    if dialect == "sqlite" and (not _SQLITE.fullmatch(place) or ":memory:" in rest):
        raise UsageError(f"{option} '{displayed}': name the file, as in sqlite:///FILE.db")


def resolve_target(target: Target, results: str) -> Target:
    """Return a target that means the same in a process with another current folder or on another machine.

    Args:
        target: as a person gave it.
        results: the run store, which holds the trackers' files by default.

    Raises:
        UsageError: the store lies at a URL where SQLite cannot write, or the environment's URI is invalid.
    """
    if target.tracker == "tensorboard":
        return replace(target, place=absolute(target.place or str(location(results) / "tensorboard")))
    if not target.place and (uri := os.environ.get(_VARIABLE, "")):
        if without_secrets(uri) != uri:
            _check_uri(uri, _VARIABLE)
            return replace(target, place=FROM_ENVIRONMENT)
        # MLflow itself takes a bare name in the variable for a folder.
        is_name = not re.search("[:/]", uri) and uri not in _DATABRICKS
        target = replace(target, place=f"./{uri}" if is_name else uri)
        _check_uri(target.place, _VARIABLE)
    if not target.place:
        folder = location(results)
        if not isinstance(folder, Path):
            raise UsageError(
                f"--track mlflow: SQLite cannot write to {results}; give a server, mlflow:http://HOST:5000"
            )
        return replace(target, place="sqlite:///.").with_path(folder.resolve() / "mlflow.db")
    file = _mlflow_path(target.place)
    return target.with_path(file.resolve()) if file else target


def resolve_targets(texts: Sequence[str], results: str) -> tuple[str, ...]:
    """Check what a person gave to ``--track`` and return it as settings carry it, each place once.

    Raises:
        UsageError: as of :func:`parse_target` and :func:`resolve_target`, or a tracker's package is not installed.
    """
    targets = [parse_target(text) for text in texts]
    for target in targets:
        if find_spec(target.tracker) is None:
            raise UsageError(
                f"--track {target.tracker} needs the package {target.tracker}: pip install 'tpbench[{target.tracker}]'"
            )
    return tuple(dict.fromkeys(str(resolve_target(target, results)) for target in targets))


def portable_target(text: str) -> str:
    """Return a ``--track`` value that works in any folder of this machine; an invalid one is returned unchanged."""
    try:
        target = parse_target(text)
        # Without a place, the results folder decides, wherever it is when the command is repeated.
        return str(resolve_target(target, "results")) if target.place else text
    except UsageError:
        return text


def environment_warning(targets: Sequence[str]) -> str:
    """Return the warning about a URI that the nodes of a cluster must know by themselves; empty if there is none."""
    if not any(Target.from_text(text).place == FROM_ENVIRONMENT for text in targets):
        return ""
    return (
        f"{_VARIABLE} holds a password or token, which is not sent to the nodes: set it where Ray is started on each, "
        "or runs are not tracked there"
    )


# What is logged of a run

EpochMetrics = tuple[int, dict[str, float]]
"""The number of an epoch, from 1 as in figures, and the value of every curve there."""


@dataclass(frozen=True)
class Member:
    """One run as trackers know it from its first epoch on."""

    run: str
    """The run's id."""
    name: str
    """``digits/bp/seed0/ID``; no part of it leads out of a folder."""
    hyperparameters: Mapping[str, float]
    """One entry for each number; those of layers are ``lr_1``, ``lr_2`` and so on."""
    tags: Mapping[str, str]

    @classmethod
    def from_definition(
        cls,
        definition: RunDefinition,
        data_label: str,
        search_info: Mapping[str, Any],
        *,
        precision: str = "",
        version: str = __version__,
    ) -> Member:
        """Describe a run that is trained.

        Args:
            definition: what is trained.
            data_label: the label of a copy of the data; empty for the exact data set.
            search_info: how the configuration was found (:mod:`tpbench.results.runs`).
            precision: the definition's by default.
            version: of tpbench that trained it.
        """
        parts = (definition.workload, definition.method, f"seed{definition.seed}")
        tags = {
            "run": definition.id,
            "workload": definition.workload,
            "method": definition.method,
            "seed": str(definition.seed),
            "data": data_label or "exact",
            "precision": precision or definition.precision,
            "version": version,
            "sweep": str(search_info.get("sweep", "")),
            "role": str(search_info.get("role", "")),
        }
        return cls(
            definition.id,
            "/".join([*(re.sub(r"[^A-Za-z0-9_-]+", "-", part) or "-" for part in parts), definition.id]),
            flatten(definition.configuration),
            {name: value for name, value in tags.items() if value},
        )

    @classmethod
    def from_record(cls, record: RunRecord) -> Member:
        """Describe a run of a store."""
        version = str(record.provenance.get("tpbench", "unknown"))
        return cls.from_definition(
            record.definition, record.data_label, record.search_info, precision=record.precision, version=version
        )


def epochs_after(history: MemberHistory, known: int) -> list[EpochMetrics]:
    """Return the epochs of a history after the first ``known`` ones."""
    return [
        (epoch + 1, {name: values[epoch] for name, values in history.curves.items() if epoch < len(values)})
        for epoch in range(known, history.epochs)
    ]


def ending_of(history: MemberHistory) -> str:
    """Return how a training ended: its status and the digest of its curves, by which one that was repeated differs."""
    # A store's run has no curve that the method does not have.
    return f"{history.status} {digest({name: values for name, values in history.curves.items() if values})}"


def selected_metrics(history: MemberHistory) -> dict[str, float]:
    """Return the selected epoch, from 1, and the errors there; empty before any epoch."""
    if history.selected_epoch is None:
        return {}
    metrics = {"epoch": float(history.selected_epoch + 1)}
    for curve in ("train_error", "validation_error", "test_error"):
        if history.selected_epoch < len(history.curves.get(curve, ())):
            metrics[curve] = history.curves[curve][history.selected_epoch]
    return metrics


class Tracker(ABC):
    """The runs of one place. An adapter writes them; this class remembers what it has written."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        """Messages to the user about how the place was opened."""
        self._logged: dict[str, int] = {}
        """Epochs that are there of each run that has begun, by its id."""
        self._ended: set[str] = set()

    def update(self, member: Member, history: MemberHistory) -> None:
        """Log the epochs of a run that are not there yet, and end the run if its training has ended."""
        if member.run in self._ended or (history.status == "training" and not history.epochs):
            # What is there of a run is told by its epochs, which feedback that is trained first does not have.
            return
        if member.run not in self._logged:
            self._logged[member.run] = self.begin(member, history)
        epochs = epochs_after(history, self._logged[member.run])
        if history.status != "training":
            self.end(member, epochs, history)
            self._ended.add(member.run)
        elif epochs:
            self.log(member, epochs)
            self._logged[member.run] = history.epochs

    @abstractmethod
    def has(self, member: Member, history: MemberHistory) -> bool:
        """Return whether the run is there to its end, of this training."""

    @abstractmethod
    def begin(self, member: Member, history: MemberHistory) -> int:
        """Begin a run, or continue what is there of this training; returns how many epochs are there.

        Args:
            member: the run.
            history: its epochs so far, which may be fewer than those that are there.
        """

    @abstractmethod
    def log(self, member: Member, epochs: Sequence[EpochMetrics]) -> None:
        """Add epochs of a run that has begun."""

    @abstractmethod
    def end(self, member: Member, epochs: Sequence[EpochMetrics], history: MemberHistory) -> None:
        """Add the last epochs of a run, the selected one, and how it ended."""

    @abstractmethod
    def close(self) -> None:
        """Close the place; runs that have not ended were interrupted."""


def open_tracker(target: Target) -> Tracker:
    """Import the library of a target's tracker and open its place."""
    if target.tracker == "tensorboard":
        from tpbench.training.tensorboard import TensorBoardRuns

        return TensorBoardRuns(target.resolved)
    # MLflow reports its use to its makers unless this variable is set while it is imported.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from tpbench.training.mlflow import MlflowRuns

    return MlflowRuns(target.resolved)


# SQLAlchemy's first line where a later one holds the reason.
_NO_REASON = "(raised as a result of"
# MLflow's way out of a store that it refuses stands at the end of seven hundred letters.
_LONGEST_REASON = 1000


def format_reason(error: BaseException) -> str:
    """Return an error of a tracker in one line without passwords, which is equal for all runs with that error."""
    if isinstance(error, ModuleNotFoundError) and error.name in TRACKERS:
        return f"the package {error.name} is missing: pip install 'tpbench[{error.name}]'"
    lines = [line for line in str(error).strip().splitlines() if not line.startswith(_NO_REASON)]
    # Addresses and ids of objects differ between runs.
    first = re.sub(r"\b0x[0-9a-f]+\b|\b[0-9a-f]{24,}\b", "...", without_secrets(lines[0] if lines else ""))
    reason = first if isinstance(error, TpbenchError) else ": ".join(filter(None, (type(error).__name__, first)))
    return shorten(reason, _LONGEST_REASON)


# Writing while others train

# Seconds that the opening of a tracker and the end of a pack wait while nothing is logged, and an interruption in all.
_LIMIT, _INTERRUPTION_LIMIT = 60.0, 5.0
# The largest part of the time that a tracker works while others train.
_SHARE = 0.05


class AsyncWriter(threading.Thread):
    """One tracker that follows one pack in a thread, so that training neither waits for it nor ends with it.

    Opening a database, searching runs and closing files block in the libraries, for minutes where a server hangs.
    MLflow's own asynchronous logging covers batches of metrics alone, and the end of the process waits for it.
    """

    def __init__(self, target: Target, members: Sequence[Member]) -> None:
        # A tracker that hangs must not keep the process alive.
        super().__init__(name=f"tpbench-{target.tracker}", daemon=True)
        self.target, self.members = target, members
        self.failure = ""
        """The reason why logging ended; empty while it goes on."""
        self.notes: list[str] = []
        """Messages to the user about how the tracker was opened."""
        self.progress = 0.0
        """When something was logged last."""
        self._histories: Sequence[MemberHistory] = ()
        self._changed, self._closing = threading.Event(), threading.Event()
        self.start()

    @property
    def warning(self) -> str:
        """The failure in a sentence."""
        return (
            f"tracking to {self.target.displayed} failed ({self.failure}); training goes on without it, and "
            "'tpbench results track' adds finished runs later"
        )

    def update(self, histories: Sequence[MemberHistory]) -> None:
        """Log what is new in the histories, given in the order of the members, as soon as the tracker can."""
        # Training goes on to append to the lists.
        self._histories = [MemberHistory({name: [*v] for name, v in h.curves.items()}, h.status) for h in histories]
        self._changed.set()

    def request_close(self) -> None:
        """Ask the thread to write what it was given, and to end."""
        self._closing.set()
        self._changed.set()

    def run(self) -> None:
        """Open the tracker, log until it is to be closed, and close it; the first error is kept, whatever it is."""
        with self._catch(), closing(open_tracker(self.target)) as tracker:
            self.notes = tracker.notes
            with self._catch():
                self._write(tracker)

    @contextmanager
    def _catch(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.failure = self.failure or format_reason(error)

    def _write(self, tracker: Tracker) -> None:
        last = False
        while not last:
            self._changed.wait()
            self._changed.clear()
            # Read before the histories, after which none come.
            last, begun = self._closing.is_set(), time.monotonic()
            for member, history in zip(self.members, self._histories, strict=False):
                tracker.update(member, history)
                self.progress = time.monotonic()
            self._closing.wait((time.monotonic() - begun) * (1 / _SHARE - 1))


def _close(writers: Sequence[AsyncWriter], limit: float, *, extended: bool = True) -> None:
    """Close trackers together; one that does not end within ``limit`` seconds has failed.

    Args:
        writers: of the trackers.
        limit: seconds.
        extended: count from when a tracker logged something last.
    """
    for writer in writers:
        writer.request_close()
    begun = time.monotonic()
    for writer in writers:
        while writer.is_alive() and not writer.failure:
            writer.join(0.2)
            since = max(writer.progress, begun) if extended else begun
            if writer.is_alive() and time.monotonic() - since > limit:
                writer.failure = writer.failure or f"no answer within {limit:g} s"


class PackTracking:
    """All trackers of one pack, as a context manager: an interrupted training waits for them for a few seconds."""

    def __init__(self, targets: Sequence[str], members: Sequence[Member]) -> None:
        self._writers = [AsyncWriter(Target.from_text(text), members) for text in targets]

    def __enter__(self) -> PackTracking:
        return self

    def __exit__(self, *error: object) -> None:
        _close(self._writers, _INTERRUPTION_LIMIT, extended=False)

    def update(self, histories: Sequence[MemberHistory]) -> None:
        """Log what is new in the members' histories."""
        for writer in self._writers:
            writer.update(histories)

    def finish(self, histories: Sequence[MemberHistory]) -> None:
        """Log the end of a training, and wait for trackers as long as they make progress."""
        self.update(histories)
        _close(self._writers, _LIMIT)

    def warnings(self) -> tuple[str, ...]:
        """Return a warning about each tracker that has failed since the last call."""
        failed = [writer for writer in self._writers if writer.failure]
        self._writers = [writer for writer in self._writers if writer not in failed]
        return tuple(writer.warning for writer in failed)


def prepare_trackers(targets: Sequence[str], say: Callable[[str], None]) -> tuple[str, ...]:
    """Open every tracker once before any training, so that one process alone makes what a new place needs.

    Args:
        targets: as settings carry them.
        say: takes warnings about trackers that cannot be opened, and their notes.

    Returns:
        The targets that could be opened.
    """
    from tpbench.training.progress import WARNING

    writers = [AsyncWriter(Target.from_text(text), ()) for text in targets]
    _close(writers, _LIMIT)
    for writer in writers:
        if writer.failure:
            say(f"{WARNING}{writer.warning}")
        for note in writer.notes:
            say(note)
    return tuple(str(writer.target) for writer in writers if not writer.failure)


# Runs of a store


def track_store(
    store: RunStore, targets: Sequence[str], say: Callable[[str], None] = lambda line: None
) -> tuple[int, int]:
    """Log the runs of a store, as if trackers had followed them; returns how many were new and how many were there.

    Args:
        store: damaged runs are passed over and named in ``store.damaged``.
        targets: as :func:`resolve_targets` returns them.
        say: takes messages about how a tracker was opened.

    Raises:
        TpbenchError: a tracker failed; it keeps what it has.
    """
    new: dict[str, bool] = {}
    for target in map(Target.from_text, targets):
        try:
            with closing(open_tracker(target)) as tracker:
                for note in tracker.notes:
                    say(note)
                for record in store.records():
                    member = Member.from_record(record)
                    missing = not tracker.has(member, record.history)
                    if missing:
                        tracker.update(member, record.history)
                    new[member.run] = new.get(member.run, False) or missing
        except TpbenchError:
            raise
        except Exception as error:
            raise TpbenchError(f"tracking to {target.displayed} failed: {format_reason(error)}") from error
    return sum(new.values()), len(new) - sum(new.values())
