"""What nodes lack is found before anything trains; the module path of workers; the last words of a driver."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tpbench.engine import TpbenchError, UsageError
from tpbench.engine.errors import format_bytes
from tpbench.sweeps import nodes
from tpbench.sweeps.cluster import driver_path, job_config
from tpbench.sweeps.nodes import Needs, SweepNeeds, ask_nodes, end_process, missing
from tpbench.sweeps.sweep import ALL_SWEEPS
from tpbench.workloads import get_workload, load_problem


@pytest.fixture
def needs() -> Needs:
    """Of a sweep that can be trained here."""
    workload = get_workload("digits")
    fingerprint = load_problem(workload)[1].fingerprint
    return Needs.of([SweepNeeds("one", workload, fingerprint, "bp", "", ("float32",))], None, "cpu")


def changed(needs: Needs, **fields: Any) -> Needs:
    return replace(needs, sweeps=(replace(needs.sweeps[0], **fields),))


def test_a_node_like_the_drivers_lacks_nothing(needs: Needs) -> None:
    assert missing(needs, gpu=False) == {}


def test_what_a_node_lacks_is_found(needs: Needs, tmp_path: Path) -> None:
    assert set(missing(replace(needs, tpbench="0" * 16), gpu=False)) == {ALL_SWEEPS}
    for lacking in (
        changed(needs, fingerprint="f" * 64),
        changed(needs, method_source="mine 1.0 0123"),
        changed(needs, method="not-here"),
        changed(needs, precisions=("tf32",)),
        replace(changed(needs, workload=get_workload("mnist")), data=str(tmp_path)),
    ):
        assert set(missing(lacking, gpu=False)) == {"one"}


def test_a_node_that_was_asked_is_asked_for_its_gpu_alone(needs: Needs) -> None:
    lacking = replace(changed(needs, fingerprint="f" * 64), checked_nodes=frozenset({"a"}))
    assert missing(lacking, gpu=False, known="a") == {}
    assert set(missing(lacking, gpu=False, known="b")) == {"one"}


NAMES = {"a": "node-a", "b": "node-b", "c": "node-c"}


def answering(
    monkeypatch: pytest.MonkeyPatch, needs: Needs, results: Path, answers: Mapping[str, Any]
) -> tuple[nodes.NodeFindings, list[str]]:
    """Ask nodes that answer so; ``None``: the node writes its file and lacks nothing."""

    def call_on_nodes(wanted: object, function: object, folder: str, token: str, *_: Any, **__: Any) -> dict[str, Any]:
        found = {}
        for node, answer in answers.items():
            (Path(folder) / "checks" / f"{token}-{node}").write_text("")
            found[node] = (f"{token}-{node}", {}) if answer is None else answer
        return found

    monkeypatch.setattr(nodes, "call_on_nodes", call_on_nodes)
    said: list[str] = []
    return ask_nodes(str(results), needs, NAMES, said.append), said


def test_nodes_are_left_out_one_by_one(monkeypatch: pytest.MonkeyPatch, needs: Needs, tmp_path: Path) -> None:
    from ray.exceptions import GetTimeoutError

    found, said = answering(
        monkeypatch,
        needs,
        tmp_path,
        {"a": None, "b": ("", {ALL_SWEEPS: "the results folder is not shared"}), "c": GetTimeoutError("too late")},
    )
    assert set(found.lacks) == {"b"}
    assert found.needs.checked_nodes == {"a", "b"}
    assert len(said) == 1
    assert "node-c" in said[0]
    assert not list((tmp_path / "checks").iterdir())


def test_a_folder_that_no_node_shares_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, needs: Needs, tmp_path: Path
) -> None:
    unshared = ("", {ALL_SWEEPS: "the results folder is not shared"})
    with pytest.raises(UsageError, match="node-a, node-b, node-c"):
        answering(monkeypatch, needs, tmp_path, dict.fromkeys(NAMES, unshared))


def test_where_no_node_can_train_the_names_are_said(
    monkeypatch: pytest.MonkeyPatch, needs: Needs, tmp_path: Path
) -> None:
    def answer(node: str) -> object:
        return RuntimeError("Traceback\nModuleNotFoundError: No module named 'tpbench'")

    with pytest.raises(TpbenchError) as raised:
        answering(monkeypatch, needs, tmp_path, {node: answer(node) for node in NAMES})
    assert all(name in str(raised.value) for name in NAMES.values())
    assert "'tpbench'" in str(raised.value)


def test_a_process_is_ended_unless_its_number_is_anothers(tmp_path: Path) -> None:
    import psutil

    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    created = psutil.Process(process.pid).create_time()
    assert not end_process(process.pid, created - 100)
    assert process.poll() is None
    assert end_process(process.pid, created)
    assert process.wait() == -signal.SIGKILL


def test_workers_get_the_drivers_path_without_its_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    others = [entry for entry in sys.path if entry]
    for first in ("", str(tmp_path)):
        monkeypatch.setattr(sys, "path", [first, "/elsewhere", *others])
        assert str(tmp_path) not in driver_path()
        assert driver_path()[0] == "/elsewhere"
    # Named in another place too, as by a .pth file, it stays there.
    monkeypatch.setattr(sys, "path", ["", *others, str(tmp_path)])
    assert driver_path()[-1] == str(tmp_path)
    config = job_config(None)
    config._py_driver_sys_path.extend(["what Ray would add"])
    assert list(reversed(config._py_driver_sys_path)) == driver_path()


def test_nodes_of_a_cluster_keep_their_own_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "/elsewhere", *sys.path])
    path = list(job_config("auto")._py_driver_sys_path)
    assert "/elsewhere" in path
    assert not [entry for entry in path if "site-packages" in entry or entry.startswith(sys.base_prefix)]
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert list(job_config("auto")._py_driver_sys_path) == []


LAST = """
import os, signal, sys
from tpbench.sweeps.session import watch_driver
with watch_driver("tpbench sweep digits bp") as name_head:
    if sys.argv[2]:
        name_head(sys.argv[2])
    if sys.argv[1] == "exit":
        os._exit(1)
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[1] == "raise":
        raise SystemExit(3)
"""


@pytest.mark.parametrize(
    ("how", "head", "code"), [("exit", "127.0.0.1:1", 1), ("kill", "", -9), ("raise", "", 3), ("end", "", 0)]
)
def test_who_is_ended_from_within_ray_has_watch_driver(how: str, head: str, code: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LAST, how, head], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == code
    if code in (3, 0):
        assert ended.stderr == ""
        return
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.split()[-4:] == ["tpbench", "sweep", "digits", "bp"]
    assert ("127.0.0.1:1" in ended.stderr) == bool(head)


def test_a_busy_cluster_is_said_while_sizes_wait_to_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from tpbench.sweeps.cluster import warn_without_place

    monkeypatch.setattr(ray, "wait", lambda calls, timeout: ([], calls))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 4.0})
    for free, lines in ({"CPU": 8.0}, 1), ({"CPU": 8.0, "GPU": 1.0}, 0):
        monkeypatch.setattr(ray, "available_resources", lambda free=free: free)
        said: list[str] = []
        warn_without_place(["one", "other"], {"cpu": 1, "gpu": 1.0}, said.append, lambda: False)
        assert len(said) == lines
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 8.0})
    warn_without_place(["task"], {"cpu": 1, "gpu": 1.0}, said.append, lambda: True)  # it is at work, on the GPU
    assert not said
    warn_without_place(["task"], {"cpu": 1, "gpu": 1.0}, said.append, lambda: False)
    assert "1 GPUs" in said[0]
    assert "4 are" in said[0]


def test_a_disk_without_space_is_found_and_named(needs: Needs, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 201 * 2**20
    monkeypatch.setattr(nodes.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    monkeypatch.setattr(nodes, "_temporary_folders", lambda: ["/tmp", "/tmp/ray/session"])
    assert missing(needs) == {}
    free = 199 * 2**20
    lacking = missing(needs)
    assert set(lacking) == {ALL_SWEEPS}
    assert format_bytes(free) in lacking[ALL_SWEEPS]
    assert lacking[ALL_SWEEPS].startswith("/tmp ")


def test_a_disk_that_cannot_be_asked_is_no_lack(needs: Needs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nodes, "_temporary_folders", lambda: [str(tmp_path / "gone")])
    assert missing(needs) == {}


def test_nodes_are_known_by_their_kind_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def node(name: str, **resources: float) -> dict[str, Any]:
        return {"NodeID": name, "NodeManagerAddress": name, "Alive": True, "Resources": {"CPU": 4.0, **resources}}

    found = [
        node("a", GPU=8.0, **{"accelerator_type:H100": 1.0}),
        node("b", GPU=4.0, **{"accelerator_type:A100": 1.0}),
        node("c", GPU=8.0, **{"accelerator_type:H100": 1.0}),
        node("d", GPU=1.0),
        node("head"),
    ]
    monkeypatch.setattr(nodes, "nodes", lambda: found)
    assert nodes.gpu_kinds({"cpu": 1, "gpu": 1.0}) == {"H100": ["a", "c"], "A100": ["b"], "": ["d"]}
    assert nodes.gpu_kinds({"cpu": 1}) == {"": ["a", "b", "c", "d", "head"]}


class Watched:
    """A driver's callback on a cluster of node "a", with a clock of its own; Ray is not asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int = 2) -> None:
        from tests.sweeps.test_scheduler import plain
        from tpbench.sweeps import driver
        from tpbench.sweeps.cluster import Resources
        from tpbench.sweeps.queue import SweepQueue
        from tpbench.sweeps.scheduler import Scheduler
        from tpbench.sweeps.session import ProgressReporter

        self.now, self.said, self.ended = 0.0, [], []
        monkeypatch.setattr(driver, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(driver, "capable_nodes", lambda share: {"a": "a"})
        monkeypatch.setattr(driver, "format_waiting", lambda share, workers: f"{workers} wait")
        monkeypatch.setattr(driver, "end_remote_process", lambda node, pid, created: self.ended.append(pid))
        monkeypatch.setattr(driver.ray, "kill", self.ended.append)
        self.sweep = plain(folder, seeds=8, parts=4)
        self.scheduler = Scheduler([self.sweep], workers, workers, clock=lambda: self.now)
        self.queue = SweepQueue(self.scheduler, lambda worker, job: None)
        board = ProgressReporter(self, [self.sweep])  # type: ignore[arg-type]
        self.callback = driver.QueueCallback(self.queue, board, Resources(workers, address="auto"))

    def say(self, message: str) -> None:
        self.said.append(message)

    def start(self, *_: object) -> None: ...

    update = end = start

    def starts(self, worker: str, pid: int = 1, oom_kills: int = 0) -> None:
        about = {"node": "a", "gpu": "", "host": "a", "lacks": {}, "pid": pid, "created": 0.0}
        about |= {"memory": 2**30, "oom_kills": oom_kills}
        self.queue.handle_report(worker, {"share": 0.0, "started": json.dumps(about)})

    def look(self, now: float, *trials: Any) -> None:
        self.now = now
        self.callback.on_step_end(1, list(trials))


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, monkeypatch)


def test_a_busy_cluster_is_said_each_time_that_no_worker_has_a_place(watched: Watched) -> None:
    from tpbench.sweeps.sweep import Failure

    assert watched.queue.suggest("1")
    assert watched.queue.suggest("2")
    for seconds, lines in ((11.0, []), (59.0, ["2 wait"]), (300.0, ["2 wait"])):
        watched.look(seconds)
        assert watched.said == lines
    watched.starts("1")
    watched.look(400.0)
    watched.queue.lost("1", Failure("gone", "its node was lost"))
    watched.look(420.0)
    assert watched.said == ["2 wait"]
    watched.look(460.0)
    assert watched.said == ["2 wait", "1 wait"]


def test_while_the_driver_stood_still_nobody_was_silent(watched: Watched) -> None:
    watched.queue.suggest("1")
    watched.starts("1", pid=7)
    watched.look(20.0)
    watched.look(2000.0)  # the driver was stopped; the worker has had no chance to be heard
    assert watched.ended == []
    for seconds in range(2010, 2700, 10):
        watched.look(float(seconds))
    assert watched.ended == [7]


def test_a_process_that_runs_and_never_says_so_is_ended(watched: Watched) -> None:
    trial = SimpleNamespace(
        trial_id="1",
        status="RUNNING",
        RUNNING="RUNNING",
        TERMINATED="TERMINATED",
        ERROR="ERROR",
        temporary_state=SimpleNamespace(ray_actor="actor"),
    )
    watched.queue.suggest("1")
    for seconds in range(10, 600, 10):
        watched.look(float(seconds), trial)
    assert watched.ended == []
    for seconds in range(600, 700, 10):
        watched.look(float(seconds), trial)
    assert watched.ended == ["actor"]


def test_every_kill_by_the_kernel_tells_of_one_process(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    from tpbench.sweeps import driver
    from tpbench.sweeps.sweep import Failure

    asked: list[str] = []
    monkeypatch.setattr(driver, "count_oom_kills", lambda node: asked.append(node) or 5)
    lost = Failure("lost", "its process was lost")
    for worker in "123":
        watched.scheduler.open(worker)
        watched.starts(worker, oom_kills=3)
    kinds = [watched.callback._with_cause(lost, worker).kind for worker in "123"]
    assert kinds == ["memory", "memory", "lost"]
    assert asked == ["a"]  # once for all, as everything waits for the answer


def test_a_kill_before_a_pack_was_handed_out_is_no_evidence(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    from tpbench.sweeps import driver
    from tpbench.sweeps.sweep import Failure

    monkeypatch.setattr(driver, "count_oom_kills", lambda node: 4)
    for worker in "12":
        watched.queue.suggest(worker)
        watched.starts(worker, oom_kills=3)
    watched.queue.handle_report("1", {"share": 0.0, "took": json.dumps({"memory": 2**31, "oom_kills": 4})})
    assert watched.scheduler.slots["1"].took
    lost = Failure("lost", "its process was lost")
    assert watched.callback._with_cause(lost, "1").kind == "lost"
    assert watched.callback._with_cause(lost, "2").kind == "memory"


def test_new_nodes_are_asked_once_in_a_while(watched: Watched, needs: Needs, monkeypatch: pytest.MonkeyPatch) -> None:
    from tpbench.sweeps import driver

    asked: list[list[str]] = []
    monkeypatch.setattr(driver, "call_on_nodes", lambda nodes, *_, **__: asked.append(nodes) or {})
    watched.callback.nodes = nodes.NodeFindings(needs, {})
    for watched.now in (1.0, 2.0, 3.0, 20.0):
        watched.callback._ask_new_nodes()
    assert asked == [["a"], ["a"]]


def test_what_a_pack_needs_is_named_beside_what_was_free(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    from tpbench.sweeps import driver
    from tpbench.sweeps.sweep import Failure

    monkeypatch.setattr(driver, "count_oom_kills", lambda node: 4)
    watched.queue.suggest("1")
    watched.starts("1")
    slot = watched.scheduler.slots["1"]
    assert slot.work
    message = watched.callback._with_cause(Failure("lost", "lost"), "1").message
    needed = driver.memory_of(slot.work[1])
    assert needed
    assert format_bytes(2**30) in message
    assert format_bytes(needed) in message


def test_the_part_of_a_shared_cluster_is_followed_and_said_once_in_a_while(watched: Watched) -> None:
    from tpbench.sweeps.sharing import ClusterShare

    reported: list[tuple[int, int]] = []
    membership: Any = SimpleNamespace(share=ClusterShare(), problem="")
    membership.update = lambda share, held, wanted, without: reported.append((held, wanted))
    watched.callback.membership = membership
    watched.look(11.0)
    assert (watched.said, reported) == ([], [(0, 2)])
    for now, limit, others, lines in (
        (12.0, 3, 1, ["1:3"]),
        (13.0, 2, 1, ["1:3"]),
        (80.0, 2, 1, ["1:3", "1:2"]),
        (81.0, 1, 2, ["1:3", "1:2", "2:1"]),
    ):
        membership.share = ClusterShare(limit, others, f"{others}:{limit}")
        watched.look(now)
        assert watched.scheduler.limit == limit
        assert [line for line in watched.said if ":" in line] == lines
    membership.share = ClusterShare()
    watched.look(90.0)
    assert watched.scheduler.limit is None
    assert len(watched.said) == 5  # with that of a busy cluster
    membership.problem = "no tpbench on the head"
    watched.look(91.0)
    watched.look(102.0)
    assert sum(membership.problem in line for line in watched.said) == 1


def test_workers_are_withdrawn_from_tune_while_they_wait_for_a_place(watched: Watched) -> None:
    from tpbench.sweeps.queue import WorkerRequests

    trials = [SimpleNamespace(trial_id=name, status="PENDING", PENDING="PENDING", PAUSED="PAUSED") for name in "12"]
    stopped: list[str] = []
    controller = SimpleNamespace(
        get_trial=lambda name: next((trial for trial in trials if trial.trial_id == name), None),
        get_trials=lambda: trials,
        stop_trial=lambda trial: stopped.append(trial.trial_id),
    )
    for name in "123":
        watched.scheduler.open(name)
        watched.scheduler.slots[name].leaving = True
    trials[1].status = "RUNNING"
    watched.queue.withdrawn = ["1", "2", "3"]
    assert WorkerRequests(watched.queue).choose_trial_to_run(controller) is trials[0]
    assert stopped == ["1"]
    assert [watched.scheduler.slots[name].leaving for name in "12"] == [True, False]
    assert watched.queue.withdrawn == []
