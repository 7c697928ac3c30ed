"""MLflow: a run per run in the experiment ``tpbench``, through a client of its own that changes nothing global."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from socket import gaierror
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url

from tpbench.engine import CURVES, MemberHistory, TpbenchError, UsageError
from tpbench.training.loggers import quieter
from tpbench.training.tracking.members import EpochValues, Member, selected
from tpbench.training.tracking.targets import Target

EXPERIMENT = "tpbench"
# MLflow takes so many metrics in one request: whole epochs, so that one is there for all curves or none.
_EPOCHS = 900 // len(CURVES)
# Seconds after which a database that another process has locked is tried again.
_WAITS = (0.1, 0.3, 1.0, 2.0, 4.0)
# Seconds that a server may take to answer at all.
_ANSWER = 15.0
# Seconds that an SQLite file is waited for that another process has locked.
_GLANCE = 1.0

Returned = TypeVar("Returned")


def patiently(call: Callable[[], Returned]) -> Returned:
    """Call, and again a little later while SQLite is locked by another process."""
    for wait in _WAITS:
        try:
            return call()
        except Exception as error:  # MLflow wraps SQLAlchemy's, in some places
            if "locked" not in str(error):
                raise
        time.sleep(wait)
    return call()


def require_answer(uri: str) -> None:
    """Look whether a server is there at all: MLflow itself would try again for minutes.

    Raises:
        OSError: nothing answers; what else is wrong, MLflow says better.
    """
    if not uri.startswith(("http://", "https://")):
        return
    try:
        urlopen(f"{uri.rstrip('/')}/health", timeout=_ANSWER).close()
    except HTTPError:
        return
    except URLError as error:
        if isinstance(error.reason, (ConnectionError, TimeoutError, gaierror)):
            raise error.reason from None


def require_file(path: Path) -> None:
    """Look whether an SQLite file can be opened and written: MLflow itself would try again for minutes.

    Raises:
        OSError, sqlite3.Error: it cannot. One that another process has locked for the moment can.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # SQLite would make a file that the group cannot write, whatever the umask.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    with closing(sqlite3.connect(path, timeout=_GLANCE, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            # The first statement that a file which may only be read refuses.
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version = {int(version)}")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise type(error)(f"{path}: {error}") from error


def database_uri(target: Target) -> str:
    """An SQLite file as the installed SQLAlchemy reads it: from 2.1 on it decodes ``%3F``, before it takes it as it is.

    Raises:
        UsageError: this SQLAlchemy cannot be told of a file of that name.
    """
    path = target.folder_here
    if not re.search("[%?#]", path):
        return target.place
    quoted, query = re.fullmatch(r"[^:]*:///([^?]*)(.*)", target.place, re.DOTALL).groups()  # type: ignore[union-attr]
    for text in (quoted, path):
        # With its driver named, for MLflow would make the folder of the quoted name beside the right one.
        uri = f"sqlite+pysqlite:///{text}{query}"
        if make_url(uri).database == path:
            return uri
    raise UsageError(f"{path}: SQLAlchemy before version 2.1 takes no such name for a database: choose another file")


class MlflowRuns:
    """The runs of one tracking URI. What is there of a run is found by its tag ``tpbench.run`` and continued."""

    def __init__(self, uri: str) -> None:
        target = Target("mlflow", uri)
        self.notes: list[str] = []
        """What a person should know of how it was opened."""
        self._artifacts: str | None = None
        if target.is_database:
            file = Path(target.folder_here)
            # Nothing is kept there, but MLflow would note the folder that the process happens to be in.
            self._artifacts = (file.parent / "mlflow-artifacts").as_uri()
            require_file(file)
            uri = database_uri(target)
        require_answer(uri)
        # No news of MLflow's while it makes its tables: they would run through the progress that is shown.
        with quieter(logging.WARNING, "mlflow", "alembic"):
            self.client = MlflowClient(tracking_uri=uri)
            self.experiment = self._find_experiment()
        self.runs: dict[str, Run] = {}
        """MLflow's run of each that has begun, as it was then, by tpbench's id."""
        self._unsaid: dict[str, list[Param]] = {}
        """Hyperparameters that go with a run's first batch."""
        self._statuses: dict[str, str] | None = None

    def _find_experiment(self) -> str:
        """The experiment's id; where several processes make it at once, one does."""
        known = patiently(lambda: self.client.get_experiment_by_name(EXPERIMENT))
        if known is None:
            try:
                return str(patiently(lambda: self.client.create_experiment(EXPERIMENT, self._artifacts)))
            except MlflowException:
                known = self.client.get_experiment_by_name(EXPERIMENT)
                if known is None:
                    raise
        found = str(known.experiment_id)
        if known.lifecycle_stage == "deleted":
            self._restore(found)
        return found

    def _restore(self, experiment: str) -> None:
        """Take back an experiment that somebody deleted: MLflow keeps its name until then, or until ``mlflow gc``."""
        try:
            patiently(lambda: self.client.restore_experiment(experiment))
        except Exception:
            # Another process was faster, or the server permits it to nobody here.
            again = self.client.get_experiment(experiment)
            if again.lifecycle_stage == "deleted":
                raise TpbenchError(
                    f"the experiment '{EXPERIMENT}' was deleted there: 'mlflow experiments restore -x {experiment}' "
                    "brings it back, 'mlflow gc' removes it for good, and then it is made anew"
                ) from None
        self.notes.append(f"MLflow's experiment '{EXPERIMENT}' had been deleted; it was restored")

    def _find(self, member: Member) -> Run | None:
        wanted = f"tags.`tpbench.run` = '{member.run}'"
        found = patiently(lambda: self.client.search_runs([self.experiment], wanted, max_results=1))
        return found[0] if found else None

    def has(self, member: Member, status: str) -> bool:
        """Whether the run is there to its end, with this status."""
        if self._statuses is None:
            self._statuses = dict(self._all_statuses())
        return self._statuses.get(member.run) == status

    def _all_statuses(self) -> Iterator[tuple[str, str]]:
        """How every run of the experiment stands: who asks for one asks for many."""
        page = None
        while page != "":
            found = patiently(partial(self.client.search_runs, [self.experiment], page_token=page))
            for run in found:
                yield run.data.tags.get("tpbench.run", ""), run.data.tags.get("tpbench.status", "")
            page = found.token or ""

    def begin(self, member: Member) -> int:
        """Begin the run, or continue MLflow's run of it."""
        run = self._find(member)
        if run is None:
            tags = {f"tpbench.{name}": value for name, value in {**member.tags, "status": "training"}.items()}
            run = patiently(
                lambda: self.client.create_run(self.experiment, start_time=_now(), tags=tags, run_name=member.name)
            )
        elif run.info.status != "RUNNING":
            self._resume(run.info.run_id)
        self.runs[member.run] = run
        # Also of a run that is continued: it may have been killed before its first batch.
        self._unsaid[member.run] = [Param(name, _spell(value)) for name, value in member.hyperparameters.items()]
        return self._known_epochs(run)

    def _resume(self, run: str) -> None:
        patiently(lambda: self.client.update_run(run, status="RUNNING"))
        patiently(lambda: self.client.set_tag(run, "tpbench.status", "training"))

    def _known_epochs(self, run: Run) -> int:
        curve = next((name for name in CURVES if name in run.data.metrics), None)
        if curve is None:
            return 0
        return max(int(metric.step) for metric in self.client.get_metric_history(run.info.run_id, curve))

    def log(self, member: Member, epochs: Sequence[EpochValues]) -> None:
        """Add epochs in as few batches as MLflow takes: one, unless training is much faster."""
        for first in range(0, len(epochs), _EPOCHS):
            self._log(member, _metrics(epochs[first : first + _EPOCHS]))

    def end(self, member: Member, epochs: Sequence[EpochValues], history: MemberHistory) -> None:
        """Add the last epochs, the selected one, and how the run ended."""
        self.log(member, epochs[:-1])
        found, known = selected(history), self.runs[member.run].data.metrics
        step = int(found.get("epoch", 0))
        chosen = {f"selected_{name}": value for name, value in found.items()}
        # What is there from before an interruption is there once.
        news = {name: value for name, value in chosen.items() if known.get(name) != value}
        self._log(member, [*_metrics(epochs[-1:]), *_metrics([(step, news)])], {"tpbench.status": history.status})
        run = self.runs.pop(member.run).info.run_id
        patiently(lambda: self.client.set_terminated(run, "FAILED" if history.status == "diverged" else "FINISHED"))

    def close(self) -> None:
        """What has not ended was interrupted."""
        for run in self.runs.values():
            self.client.set_terminated(run.info.run_id, "KILLED")

    def _log(self, member: Member, metrics: Sequence[Metric], tags: Mapping[str, str] | None = None) -> None:
        run, parameters = self.runs[member.run].info.run_id, self._unsaid.get(member.run, [])
        marks = [RunTag(name, value) for name, value in (tags or {}).items()]
        patiently(lambda: self.client.log_batch(run, metrics, parameters, marks, synchronous=True))
        self._unsaid.pop(member.run, None)


def _now() -> int:
    return int(time.time() * 1000)


def _metrics(epochs: Sequence[EpochValues]) -> list[Any]:
    now = _now()
    return [Metric(name, value, now, step) for step, values in epochs for name, value in values.items()]


def _spell(value: float) -> str:
    """A hyperparameter, the same whether it was read as 1 or 1.0: MLflow refuses another spelling."""
    short = f"{value:.12g}"
    return short if float(short) == value else f"{value:.17g}"
