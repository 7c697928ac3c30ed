"""TensorBoard: a folder per run with one event file of TensorBoard's own records. Needs no TensorFlow."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.api_pb2 import Experiment, HParamInfo, MetricInfo, MetricName, Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.text.plugin_data_pb2 import TextPluginData
from tensorboard.summary.writer.record_writer import RecordWriter

from tpbench.engine import HYPERPARAMETERS, MemberHistory
from tpbench.engine.files import atomic_write
from tpbench.results.location import location
from tpbench.training.tracking.members import EpochValues, Member, selected

_METRICS = ("selected/validation_error", "selected/test_error")
_TAGS = ("workload", "method", "seed", "data", "precision", "sweep", "role")
"""The tags that a table of hyperparameters is sorted and filtered by."""
_ENDED = "ended"
"""The file that says how a run ended, once all of its events are written."""
# Seconds between two writes of an object, which has to be written whole each time.
_OBJECT_INTERVAL = 30.0


class EventFile:
    """A run's event file, open for more: on a disk it grows, in an object store it is written anew now and then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        older = list(folder.glob("*tfevents*")) if folder.exists() else []
        # Readers take a folder's files in the order of their names. No host is in it.
        self.path = folder / f"events.out.tfevents.{time.time_ns()}.tpbench"
        self._buffer = io.BytesIO()
        self._records, self._when = RecordWriter(self._buffer), 0.0
        # A reader that has seen an older file forgets every step from this one on.
        self.add(file_version="brain.Event:2")
        self.add(step=0, session_log=SessionLog(status=SessionLog.START))
        self.save()
        (folder / _ENDED).unlink(missing_ok=True)
        for path in older:
            path.unlink(missing_ok=True)

    def add(self, **fields: Any) -> None:
        """Add an event; it is written by the next :meth:`save`."""
        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())

    def save(self, *, whole: bool = False) -> None:
        """Write what was added; to an object store not each time, unless it must be ``whole``."""
        if isinstance(self.path, Path):
            self._append()
        elif whole or time.monotonic() - self._when > _OBJECT_INTERVAL:
            with atomic_write(self.path) as file:
                file.write(self._buffer.getvalue())
            self._when = time.monotonic()

    def _append(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(self._buffer.getvalue())
        self._buffer.seek(0)
        self._buffer.truncate()


class EventFiles:
    """The event files below a folder or URL.

    A run that is continued gets a new file with all its epochs in the place of the old one, so that no point is there
    twice, whatever the old one held.
    """

    def __init__(self, place: str) -> None:
        self.folder = location(place)
        self.files: dict[str, EventFile] = {}
        if isinstance(self.folder, Path):
            self.folder.mkdir(parents=True, exist_ok=True)

    def has(self, member: Member, status: str) -> bool:
        """Whether the run is there to its end, with this status."""
        with suppress(FileNotFoundError):
            return (self.folder / member.name / _ENDED).read_text() == status
        return False

    def begin(self, member: Member) -> int:
        """Begin the run's file anew."""
        file = self.files[member.run] = EventFile(self.folder / member.name)
        file.add(summary=_experiment(member))
        file.add(summary=_session_start(member))
        file.save()
        return 0

    def log(self, member: Member, epochs: Sequence[EpochValues]) -> None:
        """Add epochs: one event for all curves of each."""
        for step, values in epochs:
            self.files[member.run].add(step=step, summary=_scalars(values))
        self.files[member.run].save()

    def end(self, member: Member, epochs: Sequence[EpochValues], history: MemberHistory) -> None:
        """Add the last epochs, the selected one, the tags, and how the run ended."""
        self.log(member, epochs)
        file, found = self.files.pop(member.run), selected(history)
        chosen = {f"selected/{name}": value for name, value in found.items()}
        file.add(step=int(found.get("epoch", 0)), summary=_scalars(chosen))
        file.add(summary=_text("tags", {**member.tags, "status": history.status}))
        file.add(summary=_session_end(history.status))
        file.save(whole=True)
        with atomic_write(file.folder / _ENDED) as marker:
            marker.write(history.status.encode())

    def close(self) -> None:
        """Write what an object store lacks; a run that goes on later gets a new file."""
        for file in self.files.values():
            file.save(whole=True)


def _scalars(values: Mapping[str, float]) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])


def _of_hparams(tag: str, **content: Any) -> Summary:
    metadata = hparams.create_summary_metadata(HParamsPluginData(**content))
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=hparams.NULL_TENSOR)])


def _experiment(member: Member) -> Summary:
    """Columns of the table of hyperparameters: TensorBoard takes those of the first run that it finds for all runs."""
    numbers = dict.fromkeys([*HYPERPARAMETERS, *member.hyperparameters], "DATA_TYPE_FLOAT64")
    columns = {**dict.fromkeys(_TAGS, "DATA_TYPE_STRING"), **numbers}
    return _of_hparams(
        hparams.EXPERIMENT_TAG,
        experiment=Experiment(
            hparam_infos=[HParamInfo(name=name, type=kind) for name, kind in columns.items()],
            metric_infos=[MetricInfo(name=MetricName(tag=tag)) for tag in _METRICS],
        ),
    )


def _session_start(member: Member) -> Summary:
    start = SessionStartInfo(start_time_secs=time.time())
    for name in _TAGS:
        if name in member.tags:
            start.hparams[name].string_value = member.tags[name]
    for name, value in member.hyperparameters.items():
        start.hparams[name].number_value = value
    return _of_hparams(hparams.SESSION_START_INFO_TAG, session_start_info=start)


def _session_end(status: str) -> Summary:
    """TensorBoard knows success and failure alone: what was stopped early is neither."""
    known = {"finished": "STATUS_SUCCESS", "diverged": "STATUS_FAILURE"}.get(status, "STATUS_UNKNOWN")
    end = SessionEndInfo(status=Status.Value(known), end_time_secs=time.time())
    return _of_hparams(hparams.SESSION_END_INFO_TAG, session_end_info=end)


def _text(tag: str, rows: Mapping[str, str]) -> Summary:
    """A table as TensorBoard's text plug-in shows it."""
    table = "\n".join(["| tag | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
    plugin = SummaryMetadata.PluginData(plugin_name="text", content=TextPluginData(version=0).SerializeToString())
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[table.encode()], tensor_shape=shape)
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=tensor)
    return Summary(value=[value])
