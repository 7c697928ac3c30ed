"""What Ray needs of the machine: short names for sockets, a token without a home, a network of its own."""

from __future__ import annotations

import errno
import socket
import stat
import time
from pathlib import Path

import pytest

from tpbench.engine import TpbenchError
from tpbench.engine.files import user_cache
from tpbench.sweeps import local_ray
from tpbench.sweeps.local_ray import fits, impatient, provide_token, ray_folder, require_loopback
from tpbench.workloads import default_folder, load


def test_a_long_tmpdir_gets_a_short_private_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    with ray_folder() as folder:
        assert folder is None
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / "job" / ("x" * 60)))
        with ray_folder() as folder:
            assert folder
            assert fits(folder)
            assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
            (Path(folder) / "session").mkdir()
        assert not Path(folder).exists()
    monkeypatch.setattr(local_ray, "_SHORT", ())
    with pytest.raises(TpbenchError, match="set RAY_TMPDIR to a folder whose name has at most 35 bytes"), ray_folder():
        pass


def test_the_folder_is_where_ray_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.utils import get_default_ray_temp_dir

    for values in ({}, {"TMPDIR": "/a"}, {"TMPDIR": "/a", "RAY_TMPDIR": "/b"}, {"RAY_TMPDIR": "/b/"}):
        for name in ("TMPDIR", "RAY_TMPDIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        assert local_ray.default_folder() == get_default_ray_temp_dir()


def test_without_a_loopback_interface_ray_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    require_loopback()

    def unreachable(*_: object, **__: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(TpbenchError, match=r"127\.0\.0\.1 \(Network is unreachable\).*ip link set lo up"):
        require_loopback()


def test_a_slow_start_is_said_once_and_a_quick_one_is_not() -> None:
    said: list[str] = []
    with impatient(said.append, seconds=0):
        until = time.monotonic() + 30
        while not said and time.monotonic() < until:
            time.sleep(0.01)
    with impatient(said.append):
        pass
    assert len(said) == 1
    assert "Ray has not started" in said[0]


def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose number has no name, and no HOME."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    for name in ("HOME", "XDG_CACHE_HOME", "TPBENCH_CACHE", "TPBENCH_DATA", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_what_needs_no_home_works_without_one_and_the_rest_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    homeless(monkeypatch)
    assert load("digits").name == "digits"
    with pytest.raises(TpbenchError, match="set HOME, or XDG_CACHE_HOME"):
        user_cache()
    with pytest.raises(TpbenchError, match=r"no home folder.*--data or TPBENCH_DATA"):
        default_folder()
    with pytest.raises(TpbenchError, match="is not in"):
        load("mnist", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "tpbench"


def test_rays_token_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    homeless(monkeypatch)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that monkeypatch takes away what is set here
    provide_token()
    import os

    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.undo()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    provide_token()
    assert os.environ["RAY_AUTH_TOKEN"] == ""  # Ray makes its own below the home
