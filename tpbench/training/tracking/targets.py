"""Where runs are tracked besides the store: what ``--track`` takes, and what becomes of it. Imports no tracker."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from tpbench.engine import TpbenchError, UsageError, unknown
from tpbench.engine.files import check_name, user_path
from tpbench.results.location import absolute, file_of_url, is_url, location
from tpbench.training.tracking.secrecy import has_secret, without_secrets

TRACKERS = ("tensorboard", "mlflow")
"""Names of trackers; each needs the package of its name, which is an extra of tpbench's."""

_MLFLOW_URIS = (
    "http",
    "https",
    "sqlite",
    "postgresql",
    "mysql",
    "mssql",
    "file",
    "databricks",
    "databricks-uc",
    "uc",
)
_DATABRICKS = ("databricks", "databricks-uc", "uc")
_VARIABLE = "MLFLOW_TRACKING_URI"
FROM_ENVIRONMENT = f"${_VARIABLE}"
"""In the place of a URI with a password: settings are written to disk, and it stays in the environment."""
_SQLITE = re.compile(r"(?P<driver>sqlite(?:\+\w+)?:///)(?P<path>[^?]+)(?P<query>\?.*)?", re.DOTALL)
# What a path must not hold in a URL; all else can be read there as it is.
_QUOTED = str.maketrans({"%": "%25", "?": "%3F", "#": "%23"})


def _file_of_mlflow(place: str) -> Path | None:
    """The SQLite file, or the folder of MLflow's file store, that a tracking URI names; None: it is no path.

    Raises:
        UsageError: there is no such home folder, or the file lies on another machine.
    """
    if found := _SQLITE.fullmatch(place):
        return user_path(unquote(found["path"]))
    if place.lower().startswith("file:"):
        return file_of_url(place) or user_path(unquote(place[len("file:") :]))
    # Not "server/mlflow", of which http:// may have been forgotten.
    looks_like_one = place.startswith((".", "/", "~"))
    return user_path(place) if looks_like_one else None


@dataclass(frozen=True)
class Target:
    """A tracker, and the place where it keeps runs: a folder or URL of TensorBoard's, a tracking URI of MLflow's."""

    tracker: str
    place: str
    """Empty: the tracker's own default."""

    @classmethod
    def of(cls, text: str) -> Target:
        """What :func:`resolve_targets` made, read back without a check: where it is used, the check was long ago."""
        tracker, _, place = text.partition(":")
        return cls(tracker, place)

    def __str__(self) -> str:
        return f"{self.tracker}:{self.place}" if self.place else self.tracker

    @property
    def shown(self) -> str:
        """As a person may see it: without the password of a URI."""
        return without_secrets(str(self))

    @property
    def told(self) -> str:
        """The place in the words of whoever opens it: what stands in the environment is read there.

        Raises:
            TpbenchError: it does not.
        """
        if self.place != FROM_ENVIRONMENT:
            return self.place
        if uri := os.environ.get(_VARIABLE):
            return uri
        raise TpbenchError(f"{_VARIABLE} is not set here, where it was when the work began")

    @property
    def folder_here(self) -> str:
        """The part of the place that is a path of some machine; empty where it is none."""
        if self.tracker == "tensorboard":
            return "" if is_url(self.place) else self.place
        file = _file_of_mlflow(self.place)
        return str(file) if file else ""

    @property
    def is_database(self) -> bool:
        """Whether it is an SQLite file of MLflow's."""
        return self.tracker == "mlflow" and _SQLITE.fullmatch(self.place) is not None

    def with_home(self) -> Target:
        """The same place without a ``~``.

        Raises:
            UsageError: there is no such home folder.
        """
        if self.tracker == "tensorboard":
            return replace(self, place=str(user_path(self.place))) if self.place.startswith("~") else self
        file = _file_of_mlflow(self.place) if "~" in self.place else None
        return self.at(file) if file and file.is_absolute() else self

    def at(self, file: Path) -> Target:
        """The same kind of place of MLflow's, with another file or folder."""
        if found := _SQLITE.fullmatch(self.place):
            return replace(self, place=f"{found['driver']}{str(file).translate(_QUOTED)}{found['query'] or ''}")
        return replace(self, place=file.as_uri())


def parse_target(text: str) -> Target:
    """``tensorboard``, ``tensorboard:DIR``, ``mlflow`` or ``mlflow:URI``.

    Raises:
        UsageError: there is no such tracker, or its place is written wrongly; the message names what is near.
    """
    target = Target.of(text)
    if target.tracker not in TRACKERS:
        raise unknown("tracker", target.tracker, TRACKERS)
    place, folders = target.place, target.tracker == "tensorboard"
    if "://" in place and has_secret(place):
        instead = (
            "give it to fsspec by its configuration or environment"
            if folders
            else f"set {_VARIABLE}, and give --track mlflow alone"
        )
        raise UsageError(
            f"--track {target.tracker}: others see a password or token on the command line, and it would stand in "
            f"files: {instead}"
        )
    if ":" in text and not place.strip():
        raise UsageError(f"--track '{text}': a {'folder' if folders else 'URI'} must follow the colon")
    if place and folders:
        _check_folder(place)
    elif place:
        _check_uri(place, "--track mlflow")
    return target


def _check_folder(place: str) -> None:
    folder = location(place)
    check_name(folder, "--track tensorboard")
    if isinstance(folder, Path) and folder.exists() and not folder.is_dir():
        raise UsageError(f"--track 'tensorboard:{place}': this is a file, a folder is needed")


def _check_uri(place: str, said: str) -> None:
    """A tracking URI of a kind that MLflow knows, or a package of its plug-ins."""
    if not _SQLITE.fullmatch(place) and _file_of_mlflow(place):
        return
    scheme, separator, rest = place.partition("://")
    shown = Target("mlflow", place).shown.partition(":")[2]
    if not separator and place.partition(":")[0] not in _DATABRICKS:
        raise UsageError(
            f"{said} '{shown}': write a URI such as http://HOST:5000 or sqlite:///FILE.db, or a folder such as ./mlruns"
        )
    plugins = {point.name for point in entry_points(group="mlflow.tracking_store")}
    if separator and scheme.partition("+")[0] not in {*_MLFLOW_URIS, *plugins}:
        raise unknown("kind of MLflow URI", scheme, [*_MLFLOW_URIS, *plugins])
    if scheme.partition("+")[0] == "sqlite" and (not _SQLITE.fullmatch(place) or ":memory:" in rest):
        raise UsageError(f"{said} '{shown}': name the file, as in sqlite:///FILE.db")


def require_libraries(targets: Sequence[Target]) -> None:
    """Find out before the work whether the trackers' packages are installed.

    Raises:
        UsageError: one is missing.
    """
    for target in targets:
        if find_spec(target.tracker) is None:
            raise UsageError(
                f"--track {target.tracker} needs the package {target.tracker}: pip install 'tpbench[{target.tracker}]'"
            )


def resolve_target(target: Target, results: str) -> Target:
    """The same target for a process that runs in another folder or on another machine.

    Args:
        target: as it was asked for.
        results: the run store, in whose folder trackers keep their files unless told otherwise.

    Raises:
        UsageError: the store lies at a URL where SQLite cannot write, or the environment's URI is wrong.
    """
    if target.tracker == "tensorboard":
        return Target(target.tracker, absolute(target.place or str(location(results) / "tensorboard")))
    if not target.place and (told := os.environ.get(_VARIABLE, "")):
        if without_secrets(told) != told:
            _check_uri(told, _VARIABLE)
            return replace(target, place=FROM_ENVIRONMENT)
        # A bare name is a folder of MLflow's there, as it is for MLflow itself.
        bare = not re.search("[:/]", told) and told not in _DATABRICKS
        target = replace(target, place=f"./{told}" if bare else told)
        _check_uri(target.place, _VARIABLE)
    if not target.place:
        folder = location(results)
        if not isinstance(folder, Path):
            raise UsageError(
                f"--track mlflow: SQLite cannot write to {results}; give a server, mlflow:http://HOST:5000"
            )
        return replace(target, place="sqlite:///.").at(folder.resolve() / "mlflow.db")
    file = _file_of_mlflow(target.place)
    return target.at(file.resolve()) if file else target


def of_the_environment(targets: Sequence[str]) -> str:
    """What must be said of targets on a cluster; empty if nothing is."""
    if not any(Target.of(text).place == FROM_ENVIRONMENT for text in targets):
        return ""
    return (
        f"{_VARIABLE} holds a password or token, which is not sent to the nodes: set it where Ray is started on each, "
        "or runs are not tracked there"
    )


def portable_target(text: str) -> str:
    """What ``--track`` was given, so that it works in any folder of this machine; what is no target stays as it is."""
    try:
        target = parse_target(text)
        # Without a place, it is that of the results wherever they are by then.
        return str(resolve_target(target, "results")) if target.place else text
    except UsageError:
        return text


def resolve_targets(texts: Sequence[str], results: str) -> tuple[str, ...]:
    """What was asked for as settings carry it, each place once.

    Raises:
        UsageError: as of :func:`parse_target`, :func:`require_libraries` and :func:`resolve_target`.
    """
    targets = [parse_target(text) for text in texts]
    require_libraries(targets)
    return tuple(dict.fromkeys(str(resolve_target(target, results)) for target in targets))
