"""Runs in MLflow: one in the experiment ``tpbench`` for each run, through a client that sets nothing global."""

from __future__ import annotations

import logging
import math
import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from socket import gaierror
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url

from tpbench.engine import CURVES, MemberHistory, UsageError
from tpbench.training.console import log_level
from tpbench.training.tracking import EpochMetrics, Member, Target, Tracker, ending_of, epochs_after, selected_metrics

EXPERIMENT = "tpbench"
# Whole epochs within the thousand metrics that MLflow takes in one request, so that no epoch is there in part.
_EPOCHS_PER_BATCH = 900 // len(CURVES)
# Seconds that a server may take to answer at all, and another process to unlock an SQLite file.
_TIMEOUT = 15.0


def require_server(uri: str) -> None:
    """Check that a server answers, because MLflow itself would try again for minutes; other URIs pass.

    Raises:
        OSError: nothing answers. Other faults of the server are left to MLflow's own messages.
    """
    try:
        if uri.startswith(("http://", "https://")):
            urlopen(f"{uri.rstrip('/')}/health", timeout=_TIMEOUT).close()
    except URLError as error:
        if isinstance(error.reason, (ConnectionError, TimeoutError, gaierror)):
            raise error.reason from None


def require_file(path: Path) -> None:
    """Check that an SQLite file can be opened and written, because MLflow itself would try again for a minute.

    Raises:
        OSError, sqlite3.Error: it cannot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # SQLite would make a file that the group cannot write, whatever the umask.
    path.touch()
    with closing(sqlite3.connect(path, timeout=_TIMEOUT)) as connection:
        connection.execute("PRAGMA schema_version")


def database_uri(target: Target) -> str:
    """Return the URI of an SQLite file as the installed SQLAlchemy reads it: from 2.1 on it decodes ``%3F``.

    Raises:
        UsageError: this version of SQLAlchemy has no URI for a file of that name.
    """
    path = target.local_path
    if not re.search("[%?#]", path):
        return target.place
    quoted, query = re.fullmatch(r"[^:]*:///([^?]*)(.*)", target.place, re.DOTALL).groups()  # type: ignore[union-attr]
    for text in (quoted, path):
        # With its driver named, because MLflow would make the folder of the quoted name beside the right one.
        uri = f"sqlite+pysqlite:///{text}{query}"
        if make_url(uri).database == path:
            return uri
    raise UsageError(f"{path}: SQLAlchemy before version 2.1 takes no such name for a database: choose another file")


class MlflowRuns(Tracker):
    """The runs of one tracking URI. A run that is there is found by its tag ``tpbench.run`` and continued.

    One that has other epochs is of a training that was repeated; MLflow keeps it as a deleted run.
    """

    def __init__(self, uri: str) -> None:
        super().__init__()
        target, artifacts = Target("mlflow", uri), None
        if target.is_database:
            file = Path(target.local_path)
            # Nothing is kept there, but MLflow would note the folder that the process happens to be in.
            artifacts = (file.parent / "mlflow-artifacts").as_uri()
            require_file(file)
            uri = database_uri(target)
        require_server(uri)
        # MLflow's messages while it makes its tables would run through the progress on the terminal.
        with log_level(logging.WARNING, "mlflow", "alembic"):
            self.client = MlflowClient(tracking_uri=uri)
            self.experiment = self._open_experiment(artifacts)
        self.runs: dict[str, Run] = {}
        """MLflow's run of each that has begun, as it was then, by tpbench's id."""
        self._continued: set[str] = set()
        self._endings: dict[str, str] | None = None

    def _open_experiment(self, artifacts: str | None) -> str:
        """Return the experiment's id; it is made or restored if need be."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            try:
                return str(self.client.create_experiment(EXPERIMENT, artifacts))
            except MlflowException:
                # Another process may have made it at the same moment.
                experiment = self.client.get_experiment_by_name(EXPERIMENT)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            # MLflow keeps its name until 'mlflow gc'.
            self.client.restore_experiment(experiment.experiment_id)
            self.notes.append(f"MLflow's experiment '{EXPERIMENT}' had been deleted; it was restored")
        return str(experiment.experiment_id)

    def has(self, member: Member, history: MemberHistory) -> bool:
        """Return whether the run is there to its end, of this training."""
        if self._endings is None:
            self._endings = self._read_endings()
        return self._endings.get(member.run) == ending_of(history)

    def _read_endings(self) -> dict[str, str]:
        """Return how every run of the experiment ended, by tpbench's id."""
        endings, page = {}, None
        while page != "":
            runs = self.client.search_runs([self.experiment], page_token=page)
            for run in runs:
                endings[run.data.tags.get("tpbench.run", "")] = run.data.tags.get("tpbench.ending", "")
            page = runs.token or ""
        return endings

    def begin(self, member: Member, history: MemberHistory) -> int:
        """Begin the run, or continue MLflow's run of this training; returns how many epochs are there."""
        tag = f"tags.`tpbench.run` = '{member.run}'"
        known = next(iter(self.client.search_runs([self.experiment], tag, max_results=1)), None)
        if known is None:
            return self._create(member)
        points = self._read_points(known)
        if not _agree(points, history):
            self.client.delete_run(known.info.run_id)
            return self._create(member)
        if known.info.status != "RUNNING":
            self.client.update_run(known.info.run_id, status="RUNNING")
            self.client.set_tag(known.info.run_id, "tpbench.status", "training")
        self._open(member, known)
        self._continued.add(member.run)
        return max((max(curve) for curve in points.values()), default=0)

    def _create(self, member: Member) -> int:
        """Begin a new run, which has no epoch."""
        tags = {f"tpbench.{name}": value for name, value in {**member.tags, "status": "training"}.items()}
        self._open(member, self.client.create_run(self.experiment, _now(), tags, member.name))
        return 0

    def _open(self, member: Member, run: Run) -> None:
        self.runs[member.run] = run
        # Also of a run that is continued: it may have been killed before.
        parameters = [Param(name, _format_number(value)) for name, value in member.hyperparameters.items()]
        self.client.log_batch(run.info.run_id, params=parameters)

    def _read_points(self, run: Run) -> dict[str, dict[int, float]]:
        """Return the curves that are there, each by the number of the epoch."""
        found = {}
        for curve in CURVES:
            if curve in run.data.metrics:
                points = self.client.get_metric_history(run.info.run_id, curve)
                found[curve] = {int(point.step): point.value for point in points}
        return found

    def log(self, member: Member, epochs: Sequence[EpochMetrics]) -> None:
        """Add epochs of a run that has begun, in as few batches as MLflow takes."""
        for first in range(0, len(epochs), _EPOCHS_PER_BATCH):
            self._log_batch(member, _metrics(epochs[first : first + _EPOCHS_PER_BATCH]))

    def end(self, member: Member, epochs: Sequence[EpochMetrics], history: MemberHistory) -> None:
        """Add the last epochs, the selected one, and how the run ended."""
        if member.run in self._continued:
            # Epochs that were there already may be of another training than these.
            run = self.client.get_run(self.runs[member.run].info.run_id)
            points = self._read_points(run)
            if any(max(curve) > history.epochs for curve in points.values()) or not _agree(points, history):
                self.client.delete_run(run.info.run_id)
                self._create(member)
                epochs = epochs_after(history, 0)
        self.log(member, epochs[:-1])
        metrics, known = selected_metrics(history), self.runs[member.run].data.metrics
        # A continued run may hold the point already.
        selected = {
            f"selected_{name}": value for name, value in metrics.items() if known.get(f"selected_{name}") != value
        }
        last = [*epochs[-1:], (int(metrics.get("epoch", 0)), selected)]
        tags = {"tpbench.status": history.status, "tpbench.ending": ending_of(history)}
        self._log_batch(member, _metrics(last), [RunTag(*tag) for tag in tags.items()])
        run = self.runs.pop(member.run).info.run_id
        self.client.set_terminated(run, "FAILED" if history.status == "diverged" else "FINISHED")

    def close(self) -> None:
        """Mark runs that have not ended as interrupted."""
        for run in self.runs.values():
            self.client.set_terminated(run.info.run_id, "KILLED")

    def _log_batch(self, member: Member, metrics: list[Any], tags: Sequence[RunTag] = ()) -> None:
        self.client.log_batch(self.runs[member.run].info.run_id, metrics, tags=tags, synchronous=True)


def _agree(points: Mapping[str, Mapping[int, float]], history: MemberHistory) -> bool:
    """Return whether curves of MLflow are those of a history, as far as both go."""
    both = [
        (there, history.curves[name][epoch - 1])
        for name, curve in points.items()
        for epoch, there in curve.items()
        if 0 < epoch <= len(history.curves.get(name, ()))
    ]
    # Backends have their own ways to keep a number, and numbers that are not finite.
    return all(math.isclose(there, here, rel_tol=1e-9) or not math.isfinite(here) for there, here in both)


def _now() -> int:
    """Return the time in milliseconds, as MLflow counts it."""
    return int(time.time() * 1000)


def _metrics(epochs: Sequence[EpochMetrics]) -> list[Any]:
    now = _now()
    return [Metric(name, value, now, step) for step, values in epochs for name, value in values.items()]


def _format_number(value: float) -> str:
    """Format a hyperparameter equally for 1 and 1.0: MLflow refuses another spelling in a run that is continued."""
    short = f"{value:.12g}"
    return short if float(short) == value else f"{value:.17g}"
