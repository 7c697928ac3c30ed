"""What a sweep changes of its process is as it was afterwards, and Ray is never told two things."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest
import ray
from ray._raylet import AuthenticationMode, get_authentication_mode

from tpbench.engine import TpbenchError, UsageError
from tpbench.options import SweepOptions
from tpbench.sweeps import campaign
from tpbench.sweeps.cluster import Resources, ray_environment, ray_running
from tpbench.sweeps.local_ray import write_token
from tpbench.training.console import log_level, redirect_output
from tpbench.training.plan import PackSettings

ONE = Resources(1)
OPTIONS = SweepOptions.read({"workloads": "digits", "methods": "bp", "cpus": 1})


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray was imported, and nobody has said how it authenticates; there is no home."""
    for name in [name for name in os.environ if name.startswith(("TUNE_", "RAY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("HOME")


def test_a_ray_that_was_imported_before_asks_for_the_token_and_has_it(nothing_set: None, tmp_path: Path) -> None:
    from ray._raylet import AuthenticationTokenLoader

    before = dict(os.environ)
    tokens = []
    for name in "ab":
        (tmp_path / name).mkdir()
        with ray_environment(write_token(tmp_path / name)):
            assert os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] == "1"
            assert get_authentication_mode() == AuthenticationMode.TOKEN
            tokens.append(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text())
            # Not that of the sweep before, which Ray has read once.
            assert AuthenticationTokenLoader.instance().get_raw_token() == tokens[-1]
        assert dict(os.environ) == before
        assert get_authentication_mode() == AuthenticationMode.DISABLED
    assert len(set(tokens)) == 2


def test_a_local_ray_has_a_token_of_its_own_and_docstrings(
    nothing_set: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever token a cluster has, and though PYTHONOPTIMIZE is 2, which Ray's processes do not survive."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-the-cluster")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    before = dict(os.environ)
    with ray_environment(write_token(tmp_path)):
        assert "RAY_AUTH_TOKEN" not in os.environ
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
        assert "PYTHONOPTIMIZE" not in os.environ
    assert dict(os.environ) == before
    with ray_environment():
        assert os.environ["RAY_AUTH_TOKEN"] == "of-the-cluster"


def test_what_the_user_has_set_stays(nothing_set: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    before = dict(os.environ)
    with ray_environment(write_token(tmp_path)):
        assert get_authentication_mode() == AuthenticationMode.DISABLED
    assert dict(os.environ) == before
    # A Ray that this process is connected to is not told anything else.
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with ray_environment():
        assert "RAY_AUTH_MODE" not in os.environ


def test_a_ray_that_does_not_start_is_said_in_a_line(nothing_set: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no node. And so on\nand on")

    before = dict(os.environ)
    monkeypatch.setattr(ray, "init", fail)
    with (
        pytest.raises(TpbenchError, match=r"^Ray .*: no node\. The machine") as told,
        ray_running(Resources(1)),
    ):
        pass
    assert told.value.__suppress_context__
    assert "goes on" in str(told.value)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("error", "busy"),
    [(PermissionError(13, "Permission denied"), False), (TimeoutError("no answer"), True), (RuntimeError("?"), True)],
)
def test_what_the_system_refuses_is_not_put_down_to_a_busy_machine(
    nothing_set: None, monkeypatch: pytest.MonkeyPatch, error: Exception, busy: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(TpbenchError) as raised, ray_running(Resources(1)):
        pass
    assert ("busy" in str(raised.value)) is busy


def test_a_second_sweep_waits_for_the_ray_of_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only who has a Ray of his own is told to shut it down."""
    asked, order = threading.Event(), []

    def second() -> None:
        asked.set()
        with pytest.raises(ZeroDivisionError):
            campaign.run_sweeps([], OPTIONS, PackSettings(str(tmp_path)))
        order.append("second")

    def begun(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(campaign, "on_device", begun)
    thread = threading.Thread(target=second)
    with redirect_output(tmp_path / "log"), monkeypatch.context() as patch:
        patch.setattr(ray, "is_initialized", lambda: True)
        thread.start()
        asked.wait(60)
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(UsageError, match="connected"):
        campaign.run_sweeps([], OPTIONS, PackSettings(str(tmp_path)))


def test_loggers_that_several_want_quiet_get_their_levels_back() -> None:
    logger = logging.getLogger("tpbench-test-of-quiet-loggers")
    logger.setLevel(logging.DEBUG)
    first, second = (log_level(logging.ERROR, logger.name) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert logger.level == logging.ERROR
    second.__exit__(None, None, None)
    assert logger.level == logging.DEBUG
