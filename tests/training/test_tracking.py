"""Runs in TensorBoard and MLflow: read back with their own libraries. Sweeps with Ray: tests/test_resume.py."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS

from tests.conftest import Inside
from tests.results.records import counts, record
from tests.training.test_packs import InterruptedTrainingError, digits_plan
from tpbench.engine import EpochReport, MemberHistory, TpbenchError, UsageError
from tpbench.results import RunStore
from tpbench.results.location import location
from tpbench.sweeps.jobs import job_command
from tpbench.training import pack as packs
from tpbench.training import tracking
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackSettings
from tpbench.training.tensorboard import TensorBoardRuns
from tpbench.training.tracking import (
    EpochMetrics,
    Member,
    PackTracking,
    Target,
    Tracker,
    environment_warning,
    epochs_after,
    format_reason,
    has_secret,
    open_tracker,
    parse_target,
    portable_target,
    prepare_trackers,
    resolve_targets,
    track_store,
    without_secrets,
)

# Targets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensorbord", "unknown tracker 'tensorbord': did you mean 'tensorboard'?"),
        ("wandb", "unknown tracker 'wandb': there are mlflow, tensorboard"),
        ("tensorboard:", "a folder must follow the colon"),
        ("mlflow: ", "a URI must follow the colon"),
        ("mlflow:runs", "write a URI such as http://HOST:5000 or sqlite:///FILE.db"),
        ("mlflow:sqlit:///runs.db", "unknown kind of MLflow URI 'sqlit': did you mean 'sqlite'?"),
        ("mlflow:sqlite://", "name the file"),
        ("mlflow:sqlite:///:memory:", "name the file"),
        ("mlflow:http://me:secret@host", "others see a password or token on the command line"),
        ("mlflow:postgresql://me:a/secret@host/db", "set MLFLOW_TRACKING_URI, and give --track mlflow alone"),
        ("mlflow:postgresql://host/db?user=me&password=secret", "others see a password or token"),
        ("mlflow:nosuch://me:secret@host", "others see a password or token"),
        ("tensorboard:s3://key:secret@bucket/tb", "give it to fsspec by its configuration or environment"),
        ("tensorboard:nosuch://a/b", "unknown kind of URL"),
    ],
)
def test_wrong_targets_are_named_before_anything_trains(tpbench_inside: Inside, text: str, message: str) -> None:
    for command in (("run", "digits", "bp"), ("sweep", "digits", "bp"), ("reproduce",), ("results", "track", "x")):
        ended = tpbench_inside(*command, "--track", text)
        assert (ended.returncode, message in ended.stderr, ended.stderr.count("\n")) == (2, True, 1), ended.stderr
        assert "secret" not in ended.stderr


def test_a_missing_library_is_named_with_its_extra(tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tpbench.training.tracking.find_spec", lambda name: None)
    ended = tpbench_inside("run", "digits", "bp", "--track", "mlflow")
    assert ended.returncode == 2
    assert "'tpbench[mlflow]'" in ended.stderr


def test_targets_work_in_every_folder_and_on_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_targets(["tensorboard", "mlflow", f"tensorboard:{tmp_path}/results/tensorboard"], "results") == (
        f"tensorboard:{tmp_path}/results/tensorboard",
        f"mlflow:sqlite:///{tmp_path}/results/mlflow.db",
    )
    assert resolve_targets(["mlflow:sqlite:///a.db", "tensorboard:tb", "tensorboard:memory://b"], "results") == (
        f"mlflow:sqlite:///{tmp_path}/a.db",
        f"tensorboard:{tmp_path}/tb",
        "tensorboard:memory://b",
    )
    with pytest.raises(UsageError, match="memory://store"):
        resolve_targets(["mlflow"], "memory://store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    # Settings are written to disk, by Tune too.
    assert resolve_targets(["mlflow"], "memory://store") == ("mlflow:$MLFLOW_TRACKING_URI",)
    kept = Target.from_text("mlflow:$MLFLOW_TRACKING_URI")
    assert (kept.resolved, kept.local_path, kept.displayed) == ("http://me:secret@host:5000", "", str(kept))
    assert "MLFLOW_TRACKING_URI" in environment_warning([str(kept)])
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(TpbenchError, match="MLFLOW_TRACKING_URI"):
        open_tracker(kept)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert resolve_targets(["mlflow"], "memory://store") == ("mlflow:http://host:5000",)
    assert not environment_warning(["mlflow:http://host:5000"])
    assert parse_target("mlflow:http://host:5000").displayed == "mlflow:http://host:5000"
    assert Target("mlflow", "http://me:secret@host:5000").displayed == "mlflow:http://host:5000"
    assert portable_target("tensorboard:tb") == f"tensorboard:{tmp_path}/tb"
    assert (portable_target("tensorboard"), portable_target("?")) == ("tensorboard", "?")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:hush@host:5000", "http://host:5000"),
        ("postgresql://me:hu/s?h@host/db", "postgresql://host/db"),
        ("postgresql://me:hu@sh@host/db", "postgresql://host/db"),
        ("postgresql://host/db?user=me&password=hush", "postgresql://host/db?user=me&password=..."),
        ("postgresql://host/db?sslpassword=hush&a=b", "postgresql://host/db?sslpassword=...&a=b"),
        ("http://host?Access_Token=hush", "http://host?Access_Token=..."),
        ("mysql+pymysql://host/db?passwd=hush", "mysql+pymysql://host/db?passwd=..."),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dhush", "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3D..."),
        ("postgresql://host/db?p%61ssword=hush", "postgresql://..."),
        ("http://me%3Ahush@host", "http://host"),
    ],
)
def test_a_password_is_found_wherever_it_stands(uri: str, shown: str) -> None:
    assert has_secret(uri)
    assert without_secrets(uri) == Target("mlflow", uri).displayed.removeprefix("mlflow:") == shown
    assert format_reason(OSError(f"cannot reach '{uri}' now")) == f"OSError: cannot reach '{shown}' now"
    with pytest.raises(UsageError) as told:
        parse_target(f"mlflow:{uri}")
    assert "hu" not in str(told.value)


@pytest.mark.parametrize(
    "uri", ["http://host:5000", "sqlite:////a/b.db", "postgresql://host/db?passfile=/a&sslmode=require", "databricks"]
)
def test_what_holds_no_password_is_shown_as_it_is(uri: str) -> None:
    assert (has_secret(uri), without_secrets(uri)) == (False, uri)
    assert str(parse_target(f"mlflow:{uri}")) == f"mlflow:{uri}"


def test_a_job_needs_places_that_outlive_it() -> None:
    command = ["digits", "bp", "--results", "/a", "--track", "tensorboard"]
    assert "--track tensorboard --address" in job_command(command, "/a", None, ["tensorboard", "mlflow:http://host"])
    for text in ("tensorboard:tb", "mlflow:sqlite:///a.db"):
        with pytest.raises(UsageError, match=r"--track .*cluster"):
            job_command(command, "/a", None, [text])


def test_settings_travel_as_json() -> None:
    settings = PackSettings("results", track=("tensorboard:/a", "mlflow:http://host"))
    assert PackSettings(**json.loads(json.dumps(asdict(settings)))) == settings


# What is logged of a run


class MemoryTracker(Tracker):
    """A tracker in memory: its runs outlive its processes."""

    def __init__(self, runs: dict[str, list[int]]) -> None:
        super().__init__()
        self.runs = runs
        self.ends: list[str] = []

    def has(self, member: Member, history: MemberHistory) -> bool:
        return False

    def begin(self, member: Member, history: MemberHistory) -> int:
        return len(self.runs.setdefault(member.run, []))

    def log(self, member: Member, epochs: Sequence[EpochMetrics]) -> None:
        self.runs[member.run] += [step for step, _ in epochs]

    def end(self, member: Member, epochs: Sequence[EpochMetrics], history: MemberHistory) -> None:
        self.log(member, epochs)
        self.ends.append(history.status)

    def close(self) -> None:
        pass


def history_of(epochs: int, status: str = "training") -> MemberHistory:
    curves = {"train_loss": [0.5] * epochs, "validation_error": [1.0 / (1 + e) for e in range(epochs)]}
    return MemberHistory(curves, status)  # type: ignore[arg-type]


@given(st.lists(st.lists(st.integers(0, 12), max_size=4).map(sorted), max_size=4))
def test_every_epoch_is_logged_once_whatever_is_seen_and_however_often_it_is_killed(lives: list[list[int]]) -> None:
    member, runs = Member.from_record(record()), {}
    for seen in lives:  # each continues from a checkpoint, which may lie behind what is logged
        tracker = MemoryTracker(runs)
        for epochs in seen:
            tracker.update(member, history_of(epochs))
    last = MemoryTracker(runs)
    for _ in range(2):
        last.update(member, history_of(12, "finished"))
    assert runs[member.run] == list(range(1, 13))
    assert last.ends == ["finished"]
    # A later process finds the run there.
    MemoryTracker(runs).update(member, history_of(12, "finished"))
    assert runs[member.run] == list(range(1, 13))
    assert epochs_after(history_of(2), 1) == [(2, {"train_loss": 0.5, "validation_error": 0.5})]


def test_a_name_leads_nowhere_else() -> None:
    definition = replace(record().definition, workload="../..", method="a/b\0c")
    assert Member.from_definition(definition, "", {}).name == f"-/a-b-c/seed0/{definition.id}"


# TensorBoard


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Every curve of an event file, by step; none of which is there twice."""
    events = EventAccumulator(str(folder)).Reload()
    found = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert all(len({e.step for e in points}) == len(points) for points in found.values())
    return {tag: {e.step: e.value for e in points} for tag, points in found.items()}


def tags(folder: Path) -> dict[str, str]:
    (event,) = EventAccumulator(str(folder)).Reload().Tensors("tags/text_summary")
    rows = [line.strip("| ").split(" | ") for line in event.tensor_proto.string_val[0].decode().splitlines()[2:]]
    return dict(rows)


def folder_of(place: Path, run: str) -> Path:
    (found,) = place.glob(f"*/*/*/{run}")
    return found


def require_curves(place: Path, store: Path) -> None:
    """Every run of a store is in TensorBoard with the same numbers."""
    for one in RunStore(store).records():
        found = scalars(folder_of(place, one.definition.id))
        for name, values in one.curves.items():
            assert found[name] == pytest.approx(dict(enumerate(values, start=1)), rel=1e-6), name
        assert found["selected/epoch"] == {one.history.selected_epoch + 1: one.history.selected_epoch + 1}
        assert list(found["selected/test_error"].values()) == pytest.approx([one.test_error])


class StopsTheSecond:
    """A judge."""

    name = "stops-the-second"

    def stopped(self, histories: Sequence[MemberHistory], epoch: int) -> dict[int, int]:
        return {1: 2} if epoch >= 2 else {}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no failure."""
    monkeypatch.setattr(tracking, "_INTERRUPTION_LIMIT", 200.0)
    monkeypatch.setattr(tracking, "_LIMIT", 200.0)


def interrupt_at(epoch: int) -> Callable[[EpochReport], None]:
    def stop(report: EpochReport) -> None:
        if report.done == epoch:
            raise InterruptedTrainingError

    return stop


def test_event_files_hold_what_the_store_does_also_of_a_pack_that_was_killed(tmp_path: Path, patient: None) -> None:
    place, store = tmp_path / "tb", tmp_path / "store"
    settings = PackSettings(str(store), checkpoint_every=3, track=(f"tensorboard:{place}",))
    job = PackJob(digits_plan(), settings, StopsTheSecond())
    with pytest.raises(InterruptedTrainingError):
        job.run(interrupt_at(5))
    first, second = (folder_of(place, d.id) for d in job.definitions)
    (before,) = first.glob("*tfevents*")
    assert scalars(first)["test_error"].keys() == {1, 2}
    assert not (first / "ended").exists()
    copied = before.read_bytes()
    assert [o.status for o in PackJob(job.plan, settings, StopsTheSecond()).run()] == ["finished", "stopped"]
    require_curves(place, store)
    assert [p.name for p in first.glob("*tfevents*")] != [before.name]
    # As if it had been killed between the new file and the removal of the old one, and in the middle of a record.
    (first / "events.out.tfevents.0000000001.old").write_bytes(copied[:-3])
    require_curves(place, store)

    assert scalars(second)["validation_error"].keys() == {1, 2}
    assert [(one / "ended").read_text().split()[0] for one in (first, second)] == ["finished", "stopped"]
    expected = {
        "run": first.name,
        "workload": "digits",
        "method": "ddtp-linear",
        "seed": "0",
        "data": "exact",
        "precision": "float32",
        "status": "finished",
    }
    assert expected.items() <= tags(first).items()
    assert tags(second)["status"] == "stopped"
    assert [r.definition.id for r in RunStore(store).records()] == [first.name]


def test_a_run_that_two_processes_train_at_once_has_the_events_of_the_one_that_ends_it(tmp_path: Path) -> None:
    """The process of a driver that was killed may live on for a moment, beside the driver that follows."""
    member = Member.from_record(record())
    first, second = TensorBoardRuns(str(tmp_path)), TensorBoardRuns(str(tmp_path))
    first.update(member, history_of(2))
    second.update(member, history_of(1))  # replaces the file of the first
    first.update(member, history_of(5))
    first.update(member, history_of(6, "finished"))
    second.update(member, history_of(2))  # it is killed here, or goes on
    folder = folder_of(tmp_path, member.run)
    assert len(list(folder.glob("*tfevents*"))) == 1
    assert scalars(folder)["train_loss"] == dict.fromkeys(range(1, 7), 0.5)
    second.update(member, history_of(6, "finished"))
    second.close()
    assert scalars(folder)["train_loss"] == dict.fromkeys(range(1, 7), 0.5)


def test_hyperparameters_reach_tensorboards_plugin(tmp_path: Path) -> None:
    one = replace(record(found={"sweep": "digits-bp-1", "role": "final"}), provenance={"tpbench": "0.0.9"})
    gone = record(seed=1, errors=[], status="diverged")
    for run in (one, gone):
        RunStore(tmp_path / "store").publish(run)
    assert track_store(RunStore(tmp_path / "store"), [f"tensorboard:{tmp_path / 'tb'}"]) == (2, 0)
    files = {p.name: p.read_bytes() for p in (tmp_path / "tb").rglob("*tfevents*")}
    assert track_store(RunStore(tmp_path / "store"), [f"tensorboard:{tmp_path / 'tb'}"]) == (0, 2)
    assert {p.name: p.read_bytes() for p in (tmp_path / "tb").rglob("*tfevents*")} == files
    ends = []
    for run in (one, gone):
        folder = folder_of(tmp_path / "tb", run.definition.id)
        events = EventAccumulator(str(folder)).Reload()
        start, end, experiment = (
            parse(events.SummaryMetadata(tag).plugin_data.content)
            for parse, tag in (
                (hparams.parse_session_start_info_plugin_data, hparams.SESSION_START_INFO_TAG),
                (hparams.parse_session_end_info_plugin_data, hparams.SESSION_END_INFO_TAG),
                (hparams.parse_experiment_plugin_data, hparams.EXPERIMENT_TAG),
            )
        )
        ends.append(end.status)
        assert start.hparams["lr"].number_value == run.definition.configuration["lr"]
        assert start.hparams["method"].string_value == "bp"
    assert [m.name.tag for m in experiment.metric_infos] == ["selected/validation_error", "selected/test_error"]
    assert {"lr", "sigma", "seed"} <= {info.name for info in experiment.hparam_infos}
    assert ends == [STATUS_SUCCESS, STATUS_FAILURE]
    found = tags(folder_of(tmp_path / "tb", one.definition.id))
    assert (found["sweep"], found["role"], found["version"]) == ("digits-bp-1", "final", "0.0.9")


def test_a_run_that_was_trained_again_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    targets = [f"tensorboard:{tmp_path}/tb"]
    for name, errors in (("store", [0.5, 0.02]), ("again", [0.5, 0.4, 0.06])):
        run = record(errors=errors, epochs=3)
        RunStore(tmp_path / name).publish(run)
        assert track_store(RunStore(tmp_path / name), targets) == (1, 0)
        assert track_store(RunStore(tmp_path / name), targets) == (0, 1)
        found = scalars(folder_of(tmp_path / "tb", run.definition.id))
        assert list(found["validation_error"].values()) == pytest.approx(errors)


def test_event_files_may_lie_in_an_object_store(tmp_path: Path) -> None:
    RunStore(tmp_path / "store").publish(record())
    targets = [f"tensorboard:memory://{tmp_path.name}/tb"]
    assert track_store(RunStore(tmp_path / "store"), targets) == (1, 0)
    assert track_store(RunStore(tmp_path / "store"), targets) == (0, 1)
    member = Member.from_record(record())
    folder = location(f"memory://{tmp_path.name}/tb") / member.name
    # Continued, interrupted, and ended: one object each time.
    for end in (False, True):
        files = open_tracker(Target("tensorboard", f"memory://{tmp_path.name}/tb"))
        assert files.begin(member, record().history) == 0
        files.log(member, epochs_after(record().history, 0))
        if end:
            files.end(member, [], record().history)
        files.close()
        (path,) = folder.glob("*tfevents*")
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found = scalars(tmp_path)
    assert found["validation_error"] == pytest.approx({1: 0.5, 2: 0.02})
    assert (folder / "ended").read_text().startswith("finished ")


# Failures


class Failing(MemoryTracker):
    """A tracker that fails at one of its calls."""

    def __init__(self, where: str) -> None:
        super().__init__({})
        self.where, self.calls = where, 0
        setattr(self, where, self.fail)

    def fail(self, *_: object) -> Any:
        self.calls += 1
        raise ConnectionError(f"http://me:secret@host: no route for {'a' * 24} at 0x7f12\nsecond line")


@pytest.mark.parametrize("where", ["open", "begin", "log", "end", "close"])
def test_a_tracker_that_fails_is_a_warning_and_the_runs_are_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, patient: None
) -> None:
    failing = Failing(where)
    monkeypatch.setattr(tracking, "open_tracker", lambda target: failing.fail() if where == "open" else failing)
    settings = PackSettings(str(tmp_path), track=("mlflow:http://me:secret@host",))
    warnings: list[str] = []
    outcomes = PackJob(digits_plan("bp"), settings).run(lambda report: warnings.extend(report.warnings))
    assert [o.status for o in outcomes] == ["finished"] * 2
    assert len(list(RunStore(tmp_path).records())) == 2
    reason = "ConnectionError: http://host: no route for ... at ..."
    (warning,) = warnings
    assert f"mlflow:http://host failed ({reason}); " in warning
    assert "results track" in warning
    assert failing.calls == 1


def test_a_full_disk_is_one_warning_and_leaves_no_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], patient: None
) -> None:
    from tpbench.training import tensorboard

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    save, calls = tensorboard.EventFile.save, []

    def fill(self: tensorboard.EventFile, *, last: bool = False) -> None:
        calls.append(self)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, last=last)

    monkeypatch.setattr(tensorboard.EventFile, "save", fill)
    settings = PackSettings(str(tmp_path / "store"), track=(f"tensorboard:{tmp_path / 'tb'}",))
    warnings: list[str] = []
    outcomes = PackJob(digits_plan("bp"), settings).run(lambda report: warnings.extend(report.warnings))
    assert [o.status for o in outcomes] == ["finished"] * 2
    assert (len(warnings), "No space" in warnings[0]) == (1, True)
    assert capfd.readouterr() == ("", "")
    for thread in threading.enumerate():  # which nobody waited for
        if thread.name == "tpbench-tensorboard":
            thread.join(200)
    assert list(temporary.iterdir()) == []


def test_a_tracker_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(tracking, "open_tracker", lambda target: never.wait(250))
    monkeypatch.setattr(tracking, "_LIMIT", 0.3)
    warnings: list[str] = []
    settings = PackSettings(str(tmp_path), track=("mlflow:http://host",))
    PackJob(digits_plan("bp"), settings).run(lambda report: warnings.extend(report.warnings))
    assert len(list(RunStore(tmp_path).records())) == 2
    (warning,) = warnings
    assert all(word in warning for word in ("mlflow:http://host", "0.3 s"))
    never.set()


def test_trackers_that_hang_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before the first training."""
    never, said = threading.Event(), []
    monkeypatch.setattr(tracking, "open_tracker", lambda target: never.wait(250))
    monkeypatch.setattr(tracking, "_LIMIT", 2.0)
    monkeypatch.setattr(tracking, "_INTERRUPTION_LIMIT", 2.0)
    targets = [f"mlflow:http://{host}" for host in "abcdef"]
    begun = time.monotonic()
    assert prepare_trackers(targets, said.append) == ()
    with PackTracking(targets, []) as trackers:
        pass
    assert time.monotonic() - begun < 22  # one after the other: 24
    assert (len(said), len(trackers.warnings()), trackers.warnings()) == (6, 6, ())
    never.set()


def test_a_gpu_is_free_for_the_next_pack_while_trackers_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, seen = threading.Lock(), []
    monkeypatch.setattr(packs, "_GPU_LOCK", lock)
    monkeypatch.setattr(packs.PackJob, "_train_until", lambda *_: (seen.append(lock.locked()), ([], None))[1])
    monkeypatch.setattr(PackTracking, "finish", lambda *_: seen.append(lock.locked()))
    PackJob(digits_plan("bp"), PackSettings(str(tmp_path), device="cuda"))._train(None)
    assert seen == [True, False]


def test_a_tracker_that_cannot_be_opened_is_said_before_the_training_and_left_out(
    tmp_path: Path, tpbench_inside: Inside
) -> None:
    (tmp_path / "c.yaml").write_text("lr: 1.0e-3\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1.0e-8\n")
    (tmp_path / "full").write_text("a file")
    arguments = ("run", "digits", "bp", "--config", "c.yaml", "--seeds", "0", "--epochs", "1")
    ended = tpbench_inside(*arguments, "--track", "tensorboard:full/tb", "--track", "tensorboard")
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout + ended.stderr
    assert said.count("warning: ") == 1
    assert "NotADirectoryError" in said
    require_curves(tmp_path / "results" / "tensorboard", tmp_path / "results")
    (run,) = RunStore(tmp_path / "results").records()
    assert "--track" not in run.provenance["command"]
    ended = tpbench_inside("results", "track", "results", "--track", "tensorboard:full/tb")
    assert ended.returncode == 1
    assert "error: tracking" in ended.stderr
    assert ended.stderr.count("\n") == 1
    ended = tpbench_inside("results", "track", "results", "--track", "tensorboard")
    assert counts(ended.stdout) == [0, 1]  # tracked now, and before
