"""Ctrl-C, SIGTERM and a closed terminal end work alike."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Inside
from tpbench.engine.errors import InterruptedWork
from tpbench.training.console import install_interrupt_handlers, interruptible

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As a shell starts a process, however the tests were started."""
    before = {number: signal.getsignal(number) for number in ENDING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_a_command_that_is_ended_puts_its_temporary_files_away(
    number: signal.Signals, tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TPBENCH_OFFLINE")
    monkeypatch.setattr("tpbench.workloads.cache.download_files", lambda *_: signal.raise_signal(number))
    before = signal.getsignal(number)
    assert tpbench_inside("data", "get", "mnist").returncode == 130
    assert list((tmp_path / "data").iterdir()) == []
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", ENDING)
def test_each_names_the_command_that_continues(number: signal.Signals) -> None:
    with pytest.raises(InterruptedWork, match=r"is stored\. To continue: tpbench sweep digits bp$"):  # noqa: SIM117
        with interruptible("tpbench sweep digits bp"):
            signal.raise_signal(number)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_is_ignored_stays_ignored() -> None:
    """``nohup tpbench sweep ...`` outlives its terminal."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible("tpbench"):
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_other_threads_set_no_handlers() -> None:
    found: list[object] = []

    def work() -> None:
        found.append(install_interrupt_handlers())
        with interruptible("tpbench"):
            found.append("worked")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [{}, "worked"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_exit_with_the_number_of_sigterm_is_one_and_others_are_not() -> None:
    """While Ray starts it has the signal for itself, and ends with its number."""
    with pytest.raises(InterruptedWork, match=r"tpbench sweep$"), interruptible("tpbench sweep"):
        raise SystemExit(int(signal.SIGTERM))
    with pytest.raises(SystemExit), interruptible("tpbench sweep"):
        raise SystemExit(2)
