"""Runs in TensorBoard: a folder per run with one event file, written by torch's ``SummaryWriter``."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS, STATUS_UNKNOWN
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from tpbench.engine import HYPERPARAMETERS, MemberHistory
from tpbench.engine.files import atomic_write
from tpbench.results.location import location
from tpbench.training.tracking import EpochMetrics, Member, Tracker, ending_of, selected_metrics

_METRICS = ("selected/validation_error", "selected/test_error")
_TAGS = ("workload", "method", "seed", "data", "precision", "sweep", "role")
"""The tags that a table of hyperparameters is sorted and filtered by."""
_ENDED = "ended"
"""The file that says how a run's training ended, once all of its events are written."""
# Seconds between two writes of an object, which is written whole each time.
_OBJECT_INTERVAL = 30.0


class EventFile:
    """A run's event file, in the place of those that older processes left in its folder.

    SummaryWriter writes to a temporary folder, and :meth:`save` adds what is new to the file: object stores take whole
    objects alone, and SummaryWriter prints a traceback from a thread of its own where it cannot write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Readers take a folder's files in the order of their names.
        self.path = folder / f"events.out.tfevents.{time.time_ns()}.tpbench"
        self._temporary = TemporaryDirectory(prefix="tpbench-tensorboard-")
        # All epochs are written again: a reader that has seen older files drops their points.
        self.writer = SummaryWriter(self._temporary.name, purge_step=0)
        (self._written,) = Path(self._temporary.name).iterdir()
        self._saved_bytes, self._saved_at = 0, -math.inf

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each of some curves."""
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def add_summary(self, summary: Summary) -> None:
        """Add what SummaryWriter has no method for."""
        self.writer.file_writer.add_summary(summary)

    def save(self, *, last: bool = False) -> None:
        """Write what was added; an object is written again after a while only, or if it is the ``last`` time.

        Raises:
            Exception: it could not be written; file systems of URLs have errors of their own.
        """
        self.writer.flush()
        if isinstance(self.path, Path):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():  # also where another process that trains the run has removed it
                if (self.folder / _ENDED).exists():
                    return
                self._saved_bytes = 0
            with self._written.open("rb") as source, self.path.open("ab") as file:
                source.seek(self._saved_bytes)
                self._saved_bytes += file.write(source.read())
        elif last or time.monotonic() - self._saved_at > _OBJECT_INTERVAL:
            with atomic_write(self.path) as file:
                file.write(self._written.read_bytes())
            self._saved_at = time.monotonic()

    def replace_others(self, *, last: bool = False) -> None:
        """Write the file, and remove those of other processes, which have the same run.

        Args:
            last: as of :meth:`save`.
        """
        (self.folder / _ENDED).unlink(missing_ok=True)
        self.save(last=last)
        for path in self.folder.glob("*tfevents*"):
            if path.name != self.path.name:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Write what is missing and close the file.

        Raises:
            Exception: as of :meth:`save`.
        """
        try:
            self.save(last=True)
        finally:
            self.writer.close()
            self._temporary.cleanup()


class TensorBoardRuns(Tracker):
    """The event files below a folder or URL.

    A run that is continued gets a new file with all its epochs, so that no point is there twice, whatever an
    interrupted process has left. A run that two processes train at once, as one whose driver was killed and one that
    follows may for a moment, has the file of the one that ends it.
    """

    def __init__(self, place: str) -> None:
        super().__init__()
        self.folder = location(place)
        self.files: dict[str, EventFile] = {}
        """The files of runs that have begun, by the run's id."""
        if isinstance(self.folder, Path):
            self.folder.mkdir(parents=True, exist_ok=True)

    def has(self, member: Member, history: MemberHistory) -> bool:
        """Return whether the run is there to its end, of this training."""
        with suppress(FileNotFoundError):
            return (self.folder / member.name / _ENDED).read_text() == ending_of(history)
        return False

    def begin(self, member: Member, history: MemberHistory) -> int:
        """Begin the run's file; none of its epochs are in it."""
        file = self.files[member.run] = EventFile(self.folder / member.name)
        # TensorBoard takes the columns of the first run that it reads for all runs, of whatever method.
        columns = {**dict.fromkeys(_TAGS, ""), **dict.fromkeys([*HYPERPARAMETERS, *member.hyperparameters], 0.0)}
        values = {**{tag: member.tags[tag] for tag in _TAGS if tag in member.tags}, **member.hyperparameters}
        experiment, _, _ = hparams(columns, dict.fromkeys(_METRICS, 0.0))
        _, session, _ = hparams(values, {})
        file.add_summary(experiment)
        file.add_summary(session)
        file.replace_others()
        return 0

    def log(self, member: Member, epochs: Sequence[EpochMetrics]) -> None:
        """Add epochs of a run that has begun."""
        file = self.files[member.run]
        for step, values in epochs:
            file.add_scalars(step, values)
        file.save()

    def end(self, member: Member, epochs: Sequence[EpochMetrics], history: MemberHistory) -> None:
        """Add the last epochs, the selected one, the tags, and how the run ended."""
        self.log(member, epochs)
        file, metrics = self.files.pop(member.run), selected_metrics(history)
        file.add_scalars(int(metrics.get("epoch", 0)), {f"selected/{name}": value for name, value in metrics.items()})
        rows = [f"| {name} | {value} |" for name, value in {**member.tags, "status": history.status}.items()]
        file.writer.add_text("tags", "\n".join(["| tag | value |", "|---|---|", *rows]))
        file.add_summary(_session_end(history.status))
        # A process whose driver was killed may have begun the same run again, and never ended it.
        file.replace_others(last=True)
        file.close()
        with atomic_write(file.folder / _ENDED) as marker:
            marker.write(ending_of(history).encode())

    def close(self) -> None:
        """Close the files of interrupted runs; one that goes on later gets a new file."""
        with ExitStack() as stack:  # each, also where another fails
            for file in self.files.values():
                stack.callback(file.close)


def _session_end(status: str) -> Summary:
    """Return how a run ended for the HPARAMS page, which torch's own summary calls a success always.

    TensorBoard knows success and failure alone; a run that was stopped early is neither.
    """
    outcome = {"finished": STATUS_SUCCESS, "diverged": STATUS_FAILURE}.get(status, STATUS_UNKNOWN)
    data = HParamsPluginData(session_end_info=SessionEndInfo(status=outcome, end_time_secs=time.time()))
    described = metadata.create_summary_metadata(data)
    value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=described, tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])
