"""What nodes lack is found before anything trains; the module path of workers; the last words of a driver."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tpbench.engine import TpbenchError, UsageError
from tpbench.sweeps import nodes
from tpbench.sweeps.module_path import driver_path, job_config
from tpbench.sweeps.nodes import Needs, SweepNeeds, ask_nodes, end_process, missing
from tpbench.sweeps.packs import ALL_SWEEPS
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
    lacking = replace(changed(needs, fingerprint="f" * 64), asked=frozenset({"a"}))
    assert missing(lacking, gpu=False, known="a") == {}
    assert set(missing(lacking, gpu=False, known="b")) == {"one"}


NAMES = {"a": "node-a", "b": "node-b", "c": "node-c"}


def answering(
    monkeypatch: pytest.MonkeyPatch, needs: Needs, results: Path, answers: Mapping[str, Any]
) -> tuple[nodes.Answers, list[str]]:
    """Ask nodes that answer so; ``None``: the node writes its file and lacks nothing."""

    def on_nodes(wanted: object, function: object, folder: str, token: str, *_: Any, **__: Any) -> dict[str, Any]:
        found = {}
        for node, answer in answers.items():
            (Path(folder) / "checks" / f"{token}-{node}").write_text("")
            found[node] = (f"{token}-{node}", {}) if answer is None else answer
        return found

    monkeypatch.setattr(nodes, "on_nodes", on_nodes)
    said: list[str] = []
    return ask_nodes(str(results), needs, NAMES, said.append), said


def test_nodes_are_left_out_one_by_one(monkeypatch: pytest.MonkeyPatch, needs: Needs, tmp_path: Path) -> None:
    from ray.exceptions import GetTimeoutError

    found, said = answering(
        monkeypatch, needs, tmp_path,
        {"a": None, "b": ("", {ALL_SWEEPS: "the results folder is not shared"}), "c": GetTimeoutError("too late")},
    )  # fmt: skip
    assert set(found.lacks) == {"b"}
    assert found.late == ("c",)
    assert found.asked == {"a", "b"}
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
    assert "No module named 'tpbench'" in str(raised.value)


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
from tpbench.sweeps.last_words import last_words
with last_words("tpbench sweep digits bp") as name_head:
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
def test_who_is_ended_from_within_ray_has_last_words(how: str, head: str, code: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LAST, how, head], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == code
    if code in (3, 0):
        assert ended.stderr == ""
        return
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.rstrip().endswith("tpbench sweep digits bp")
    assert ("127.0.0.1:1" in ended.stderr) == bool(head)


def test_a_busy_cluster_is_said_while_sizes_wait_to_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from tpbench.sweeps.cluster import result_of

    monkeypatch.setattr(ray, "wait", lambda calls, timeout: ([], calls))
    monkeypatch.setattr(ray, "get", lambda call: "sizes")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 4.0})
    for free, lines in ({"CPU": 8.0}, 1), ({"CPU": 8.0, "GPU": 1.0}, 0):
        monkeypatch.setattr(ray, "available_resources", lambda free=free: free)
        said: list[str] = []
        assert result_of("task", {"cpu": 1, "gpu": 1.0}, said.append) == "sizes"
        assert len(said) == lines
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 8.0})
    result_of("task", {"cpu": 1, "gpu": 1.0}, said.append)
    assert "1 GPUs" in said[0]
    assert "4 are held" in said[0]


def test_a_busy_cluster_is_said_once_while_no_worker_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.sweeps.test_scheduler import plain
    from tpbench.sweeps import driver
    from tpbench.sweeps.board import Board
    from tpbench.sweeps.cluster import Resources
    from tpbench.sweeps.packs import Place
    from tpbench.sweeps.queue import SweepQueue
    from tpbench.sweeps.scheduler import Scheduler

    one, said, now = plain(tmp_path), [], 0.0

    class View:
        def say(self, message: str) -> None:
            said.append(message)

        start = update = end = lambda self, *arguments: None

    monkeypatch.setattr(driver.time, "monotonic", lambda: now)
    monkeypatch.setattr(driver, "trainers", lambda share: {"a": "a"})
    monkeypatch.setattr(driver, "waits_for", lambda share, workers: f"{workers} wait")
    scheduler = Scheduler([one], 2, 2)
    queue = SweepQueue(scheduler, lambda worker, job: None)
    callback = driver.QueueCallback(queue, Board(View(), [one]), Resources(2, address="auto"))  # type: ignore[arg-type]
    assert queue.suggest("1")
    assert queue.suggest("2")
    for seconds, lines in ((11.0, []), (59.0, ["2 wait"]), (300.0, ["2 wait"])):
        now = seconds
        callback.on_step_end(1, [])
        assert said == lines
    scheduler.started("1", Place("a"))
    queue.hand_out()
    assert scheduler.slots["1"].work
