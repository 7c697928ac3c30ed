"""What a Ray of this machine needs: short names for sockets, a private folder, a token, the loopback address."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import wait_for
from tpbench.engine import TpbenchError
from tpbench.engine.files import user_cache
from tpbench.sweeps import local_ray
from tpbench.sweeps.local_ray import SESSIONS, fits_sockets, private_folder, require_loopback, warn_if_slow, write_token
from tpbench.workloads import default_folder, load


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder with a name short enough for sockets."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_ray_gets_a_private_folder_in_the_temporary_one_which_goes_afterwards(temporary: Path) -> None:
    assert fits_sockets(str(temporary))
    with suppress(ZeroDivisionError), private_folder() as folder:
        assert folder.parent == temporary
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / SESSIONS / "session").mkdir(parents=True)
        raise ZeroDivisionError
    assert list(temporary.iterdir()) == []


def test_a_folder_that_is_missing_is_made(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(temporary / "x"))
    with private_folder() as folder:
        assert folder.parent == temporary / "x"


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_name_gets_a_folder_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, str(tmp_path / "job" / ("x" * 60)))
    with private_folder() as folder:
        assert fits_sockets(str(folder.parent))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()
    monkeypatch.setattr(local_ray, "_SHORT", ())
    with pytest.raises(TpbenchError, match="RAY_TMPDIR"), private_folder():
        pass


def test_what_killed_processes_left_is_removed_and_nothing_else(temporary: Path) -> None:
    script = (
        "import os, signal\nfrom tpbench.sweeps.local_ray import private_folder\n"
        "with private_folder() as folder:\n    print(folder, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    left = Path(killed.stdout.strip())
    assert killed.returncode == -signal.SIGKILL
    assert left.is_dir()
    half_removed, other = temporary / "tpb-half", temporary / "other"
    (half_removed / SESSIONS).mkdir(parents=True)
    half_made, being_made = temporary / ".tpb-old", temporary / ".tpb-new"
    half_made.mkdir()
    os.utime(half_made, (0, 0))
    being_made.mkdir()
    other.mkdir()
    (temporary / "tpb-link").symlink_to(other)
    with private_folder() as first, private_folder() as second:
        # Of those that live nothing is taken.
        assert {*temporary.iterdir()} == {first, second, being_made, other, temporary / "tpb-link"}


def test_a_folder_that_is_somebody_elses_is_named_with_the_variable(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary.chmod(0o755)
    monkeypatch.setattr(Path, "owner", lambda self: "mallory")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(TpbenchError) as raised, private_folder():
        pass
    for word in (str(temporary), "mallory", "TMPDIR"):
        assert word in str(raised.value)


def test_the_token_is_new_and_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        token = write_token(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64
    (tmp_path / "other").mkdir()
    assert write_token(tmp_path / "other").read_text() != token.read_text()


def test_a_ray_that_is_started_by_hand_puts_its_folder_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.utils import get_default_ray_temp_dir

    for values in ({}, {"TMPDIR": "/a"}, {"TMPDIR": "/a", "RAY_TMPDIR": "/b"}, {"RAY_TMPDIR": "/b/"}):
        for name in ("TMPDIR", "RAY_TMPDIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        assert local_ray.default_folder() == get_default_ray_temp_dir()


def test_the_autoscaler_is_ended_before_the_shutdown_that_would_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ray" / "autoscaler" / "_private" / "monitor.py"
    program.parent.mkdir(parents=True)
    program.write_text("import time; print(flush=True); time.sleep(600)")
    processes = []
    for path in (program, program.with_name("log_monitor.py")):
        path.write_text(program.read_text())
        # Its own wait and that of the code under test tell each other how the process ended.
        processes.append(psutil.Popen([sys.executable, path], stdout=subprocess.PIPE))
    try:
        for process in processes:
            assert process.stdout
            process.stdout.readline()
        monkeypatch.setattr(local_ray, "_processes_of", lambda folder: processes)
        monkeypatch.setattr(local_ray, "_PATIENCE_AT_END", 0.0)
        with local_ray.end_ray_processes(tmp_path):
            assert processes[0].wait(60) == -signal.SIGKILL
            assert processes[1].poll() is None
        assert processes[1].wait(60) == -signal.SIGKILL
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()


_WITH_RAY = """
import json, os, threading
from pathlib import Path
import psutil, ray
from tpbench.sweeps.cluster import Resources, ray_running

def main():
    with ray_running(Resources(1)):
        ray.get(ray.remote(lambda: 1).remote())
        (folder,) = Path(os.environ["TMPDIR"]).iterdir()
        me = psutil.Process()
        processes = [me, *me.children(recursive=True)]
        listening, names = set(), set()
        for process in processes:
            try:
                listening |= {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
                names.add(process.name())
            except psutil.Error:
                pass
        token = folder / "token"
        print(json.dumps({
            "listening": sorted(listening), "names": sorted(names), "processes": [p.pid for p in processes[1:]],
            "folder": str(folder), "mode": folder.stat().st_mode & 0o777, "token": token.stat().st_mode & 0o777,
            "arguments": any(token.read_text() in " ".join(p.cmdline()) for p in me.children(recursive=True)),
            "environment": os.environ["RAY_AUTH_TOKEN_PATH"],
        }), flush=True)
        threading.Event().wait()

main()
"""


def _loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return ((ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip).is_loopback


@pytest.mark.slow
def test_a_local_ray_listens_on_loopback_alone_and_leaves_nothing(temporary: Path, tmp_path: Path) -> None:
    """Where it is ended by a signal; of one that ends by itself see tests/test_sweep.py."""
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(temporary), "PYTHONOPTIMIZE": "2"}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)
    command = [sys.executable, "-c", _WITH_RAY]
    line = ""
    for _ in range(3):  # Ray gives its processes 30 s to start, which a busy machine may exceed
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        try:
            assert process.stdout
            line = process.stdout.readline()
            if line:
                process.terminate()
            process.wait(timeout=90)
        finally:
            process.kill()
            process.wait()
        assert list(temporary.iterdir()) == []
        if line:
            break
    found = json.loads(line)
    assert found["listening"]
    assert all(map(_loopback, found["listening"])), found
    assert {"raylet", "gcs_server"} <= set(found["names"])
    assert (found["mode"], found["token"]) == (0o700, 0o600)
    assert found["environment"] == f"{found['folder']}/token"
    assert not found["arguments"]
    assert not (tmp_path / ".ray").exists()
    wait_for(lambda: not any(map(psutil.pid_exists, found["processes"])))


def test_without_a_loopback_interface_ray_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    require_loopback()

    def unreachable(*_: object, **__: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(TpbenchError, match=r"127\.0\.0\.1 \(Network .*unreachable\).*set lo"):
        require_loopback()


def test_a_slow_start_is_said_once_and_a_quick_one_is_not() -> None:
    said: list[str] = []
    with warn_if_slow(said.append, seconds=0):
        until = time.monotonic() + 30
        while not said and time.monotonic() < until:
            time.sleep(0.01)
    with warn_if_slow(said.append):
        pass
    assert len(said) == 1
    assert "not started" in said[0]


def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose number has no name, and no HOME."""

    def unknown(key: object) -> None:
        raise KeyError(key)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "TPBENCH_CACHE", "TPBENCH_DATA", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_what_needs_no_home_works_without_one_and_the_rest_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    homeless(monkeypatch)
    assert load("digits").name == "digits"
    with pytest.raises(TpbenchError, match=r"HOME.*XDG_CACHE_HOME"):
        user_cache()
    with pytest.raises(TpbenchError, match=r"--data.*TPBENCH_DATA"):
        default_folder()
    with pytest.raises(TpbenchError, match="mnist"):
        load("mnist", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "tpbench"
