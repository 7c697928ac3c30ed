"""Locks of a sweep, on file systems with and without locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.conftest import Inside
from tpbench.engine import TpbenchError
from tpbench.search.locking import Owner, is_locked, locked


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path, "it") as warning:
        assert warning == ""
        assert is_locked(tmp_path)
        with pytest.raises(TpbenchError, match="running"), locked(tmp_path, "it"):
            pass
    assert not is_locked(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_a_file_names_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    refuse_locks(monkeypatch, number)
    with locked(tmp_path, "it") as warning:
        assert "has no locks" in warning
        assert json.loads((tmp_path / "lock-owner").read_text())["pid"] == os.getpid()
        assert is_locked(tmp_path)
        with pytest.raises(TpbenchError, match=rf"{os.getpid()} on .*lock-owner"):  # noqa: SIM117
            with locked(tmp_path, "it"):
                pass
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    assert not (tmp_path / "lock-owner").exists()


def test_an_owner_that_is_gone_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, errno.ENOLCK)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    this = Owner.current()
    for gone in (replace(this, pid=ended.pid), replace(this, started="another boot 1")):
        (tmp_path / "lock-owner").write_text(json.dumps(asdict(gone)))
        assert not is_locked(tmp_path)
        with locked(tmp_path, "it"):
            assert json.loads((tmp_path / "lock-owner").read_text()) == asdict(this)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


@pytest.mark.parametrize("text", ["", "{", json.dumps(asdict(Owner("elsewhere", 1, "x")))])
def test_an_owner_that_may_be_alive_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    refuse_locks(monkeypatch, errno.ENOLCK)
    (tmp_path / "lock-owner").write_text(text)
    with pytest.raises(TpbenchError, match="lock-owner"), locked(tmp_path, "it"):
        pass
    assert (tmp_path / "lock-owner").read_text() == text


def test_another_failure_is_not_taken_for_a_running_sweep(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_locks(monkeypatch, errno.EIO)
    ended = tpbench_inside("sweep", "digits", "bp", "--trials", "1")
    assert ended.returncode == 1
    assert "Input/output error" in ended.stderr
    assert "running" not in ended.stderr
