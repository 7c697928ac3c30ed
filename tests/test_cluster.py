"""Sweeps on a Ray cluster of several nodes on this machine, with token authentication."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import CommandLine, Ended, Inside, wait_for
from tests.sweeps.waiting import SECONDS
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackPlan, PackSettings
from tpbench.workloads import get_workload

pytestmark = pytest.mark.slow

ARGUMENTS = ("digits", "ddtp-linear", "--trials", "4", "--pack", "1", "--n-seeds", "2", "--epochs", "25")
# Jobs and 'ray start' run the python of the environment that the cluster was started in.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


# A killed node is lost after three seconds instead of fifteen; one that is slow to answer has as long as ever.
SOON_LOST = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Host:
    """A running cluster."""

    process: subprocess.Popen[str]
    address: str
    dashboard: str

    def do(self, command: str) -> int:
        """Returns how many nodes are alive then."""
        assert self.process.stdin
        assert self.process.stdout
        print(command, file=self.process.stdin, flush=True)
        while not (line := self.process.stdout.readline()).startswith("done"):
            assert self.process.poll() is None
        return int(line.split()[1])


@pytest.fixture(scope="module")
def token() -> Iterator[str]:
    """Drivers and nodes find the token in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        value = secrets.token_hex(32)
        patch.setenv("RAY_AUTH_TOKEN", value)
        patch.setenv("RAY_AUTH_MODE", "token")
        yield value


@pytest.fixture(scope="module")
def host(token: str) -> Iterator[Host]:
    for _ in range(3):  # Ray gives its processes 30 s to start, which a busy machine may exceed
        dashboard = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster_host", str(dashboard), str(free_port())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PATH": PATH, **SOON_LOST},
        )
        assert process.stdout
        # The address comes after what Ray says, which begins with a bracket; nothing comes where the host has ended.
        line = next((line for line in process.stdout if ":" in line and not line.startswith("[")), "")
        if line:
            break
        process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert line
    yield Host(process, line.split()[0], f"http://127.0.0.1:{dashboard}")
    process.stdin.close()  # type: ignore[union-attr]
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def commands(tmp_path: Path, token: str) -> Iterator[Inside]:
    """Commands that know the token, in a process of their own that they share."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.command_host"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "COLUMNS": "200"},
    )
    assert process.stdin
    assert process.stdout

    def call(*arguments: str) -> Ended:
        print(json.dumps(arguments), file=process.stdin, flush=True)
        assert process.stdout
        return Ended(*json.loads(process.stdout.readline()))

    yield call
    process.stdin.close()
    process.wait(timeout=30)


def store(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (folder / "runs").glob("*.json")]


def journal(folder: Path) -> str:
    return "".join(path.read_text() for path in (folder / "sweeps").glob("*/journal.jsonl"))


@contextmanager
def workers_of(parent: int) -> Iterator[set[int]]:
    """The processes below another one that were workers of Tune's at any time meanwhile."""
    found: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            for process in psutil.Process(parent).children(recursive=True):
                with suppress(psutil.Error):
                    if "ImplicitFunc" in " ".join(process.cmdline()):
                        found.add(process.pid)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def test_a_node_that_does_not_share_the_folder_is_named_and_gets_no_packs(
    host: Host, tmp_path: Path, tpbench: CommandLine
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    script = 'mount -t tmpfs none "$1" && exec ray start --address="$2" --num-cpus=1 --block'
    for _ in range(3):  # as the host
        node = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script, "sh", str(results), host.address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PATH": PATH},
        )
        wait_for(lambda node=node: host.do("count") > 1 or node.poll() is not None)
        if node.poll() is None:
            break
    try:
        # Without the node the sweep would simply run.
        assert node.poll() is None
        with workers_of(node.pid) as there, workers_of(host.process.pid) as elsewhere:
            result = tpbench("sweep", *ARGUMENTS, "--address", host.address)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()
    assert result.returncode == 0, result.stderr
    assert elsewhere
    assert not there
    (named,) = [line for line in result.stdout.splitlines() if "gets no packs" in line]
    assert str(results) in named
    assert "shared" in named
    assert "Traceback" not in result.stderr + result.stdout
    assert not list((results / "checks").iterdir())
    assert len(list((results / "runs").iterdir())) >= 2


def test_jobs_are_submitted_listed_read_and_stopped(host: Host, tmp_path: Path, commands: Inside) -> None:
    at = ("--address", host.dashboard)
    shared = ("--results", str(tmp_path / "shared"))
    slip = commands("submit", "digits", "bp", "--trails", "2", *shared, *at)
    assert slip.returncode == 2
    assert "--trails" in slip.stderr
    assert "absolute path" in commands("submit", "digits", "bp", "--results", "here", *at).stderr

    small = ("--trials", "2", "--pack", "2", "--n-seeds", "2", "--epochs", "2")
    submitted = commands("submit", "digits", "bp", *small, *shared, *at)
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.split()[1]
    wait_for(lambda: '"final"' in journal(tmp_path / "shared"), tell=lambda: commands("logs", job, *at).stdout)
    # What the job prints after its last word in the journal.
    wait_for(lambda: "digits bp: test error" in commands("logs", job, *at).stdout)
    runs = list((tmp_path / "shared" / "runs").glob("*.json"))
    assert len(runs) == 3
    assert len(json.loads(runs[0].read_text())["provenance"]["commit"] or "x" * 40) >= 40

    long = commands("submit", "digits", "bp", *small[:-1], "5000", *shared, *at).stdout.split()[1]
    wait_for(lambda: len(list((tmp_path / "shared" / "sweeps").glob("*/journal.jsonl"))) == 2)
    assert "stopping" in commands("stop", long, *at).stdout
    listed = ""

    def stopped() -> bool:
        nonlocal listed
        listed = commands("status", *at).stdout
        return "stopped" in listed

    wait_for(stopped)
    assert "succeeded" in listed
    doctor = commands("doctor", *at)
    assert "its token" in doctor.stdout
    assert os.environ["RAY_AUTH_TOKEN"] not in doctor.stdout + doctor.stderr
    unknown = commands("logs", job + "x", *at)
    assert unknown.returncode == 2
    assert f"'{job}'" in unknown.stderr


def test_a_node_that_is_killed_loses_no_run(host: Host, tmp_path: Path, tpbench: CommandLine, token: str) -> None:
    # A node that another test has killed counts for a while.
    wait_for(lambda: host.do("count") == 1)
    host.do("start 1")
    command = [sys.executable, "-m", "tpbench", "sweep", *ARGUMENTS, "--checkpoint-every", "2"]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen([*command, "--address", host.address], cwd=tmp_path, stdout=output, stderr=output)
    checkpoints = tmp_path / "results" / "checkpoints"
    wait_for(lambda: len(list(checkpoints.glob("*.pt"))) > 1 or process.poll() is not None)
    host.do("kill")
    assert process.wait(timeout=240) == 0, (tmp_path / "output").read_text()
    text = (tmp_path / "output").read_text()
    assert "2 nodes" in text
    assert "2 seeds" in text
    # What was interrupted and continued elsewhere is what an undisturbed training gives.
    runs = store(tmp_path / "results")
    finished = journal(tmp_path / "results").split('"final"')[0].count('"status": "finished"')
    assert len(runs) == finished + 1 >= 3  # and another seed of the best; the pruned are not in the store
    assert all(run["status"] == "finished" for run in runs)
    definitions = [run["definition"] for run in runs]
    configurations = tuple(d["configuration"] for d in definitions)
    plan = PackPlan(get_workload("digits"), "ddtp-linear", configurations, tuple(d["seed"] for d in definitions), 25)
    PackJob(plan, PackSettings(str(tmp_path / "alone"))).run()
    alone = {run["id"]: run["curves"] for run in store(tmp_path / "alone")}
    for run in runs:
        # A node with one core adds up in another order than this process does.
        assert run["curves"]["train_loss"] == pytest.approx(alone[run["id"]]["train_loss"], rel=0.01)
    assert all(token.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def packs(folder: Path) -> list[tuple[float, float]]:
    """Return when the packs of a campaign that have ended began and ended."""
    lines = (folder / "packs").read_text().splitlines() if (folder / "packs").exists() else []
    return [(float(begun), float(ended)) for _, begun, ended in map(str.split, lines)]


def busy(intervals: list[tuple[float, float]], begin: float, end: float) -> float:
    """Return how many packs trained at once between two times, on average."""
    return sum(max(0.0, min(b, end) - max(a, begin)) for a, b in intervals) / (end - begin)


def test_two_campaigns_divide_a_cluster(host: Host, tmp_path: Path) -> None:
    """Four places, which the first campaign has alone; the second one has half of them from four packs later on."""
    wait_for(lambda: host.do("count") == 1)
    host.do("start 3")
    options = ("--pack", "1", "--n-seeds", "1", "--epochs", "1", "--address", host.address)
    running: dict[str, subprocess.Popen[bytes]] = {}

    def begin(method: str, trials: int) -> None:
        command = [sys.executable, "-m", "tests.sweeps.waiting", "sweep", "digits", method, "--trials", str(trials)]
        with (tmp_path / method).open("wb") as output:
            running[method] = subprocess.Popen(
                [*command, *options, "--results", str(tmp_path / f"results-{method}")],
                cwd=Path(__file__).parents[1],
                stdout=output,
                stderr=output,
            )

    def said(method: str, words: str) -> Callable[[], bool]:
        def look() -> bool:
            text = (tmp_path / method).read_text()
            assert running[method].poll() is None or words in text, text
            return words in text

        return look

    def most(method: str) -> int:
        intervals = packs(tmp_path / f"results-{method}")
        return max((sum(a <= begun < b for a, b in intervals) for begun, _ in intervals), default=0)

    try:
        begin("bp", 400)
        wait_for(lambda: most("bp") == 4)
        begin("dfa", 12)
        wait_for(said("bp", "up to 2 of 4 cores"))
        told = time.time()
        wait_for(said("dfa", "up to 2 of 4 cores"))
        wait_for(lambda: running["dfa"].poll() is not None)
        wait_for(said("bp", "to itself"))
        first, second = packs(tmp_path / "results-bp"), packs(tmp_path / "results-dfa")
        assert running["bp"].poll() is None
    finally:
        for process in running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
    assert running["dfa"].returncode == 0, (tmp_path / "dfa").read_text()
    # What trained has ended, and nothing has begun in its place.
    assert busy(first, told + 4 * SECONDS, told + 4 * SECONDS + 0.5) <= 2.1
    both = sorted(begun for begun, _ in second)[1], sorted(ended for _, ended in second)[-2]
    shares = [busy(one, *both) / 4 for one in (first, second)]
    # A busy machine makes pauses between packs, for both.
    assert max(shares) <= 0.6, shares
    assert 2 / 3 < shares[0] / shares[1] < 3 / 2, shares


def test_no_token_no_access(host: Host, monkeypatch: pytest.MonkeyPatch, tpbench: CommandLine) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    refused = tpbench("status", "--address", host.dashboard)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "Traceback" not in refused.stderr
    assert os.environ["RAY_AUTH_TOKEN"] not in refused.stderr + refused.stdout
