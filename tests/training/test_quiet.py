"""Ray's noise goes to a log; what other threads print does not."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tpbench.training.quiet import noise_to, real_output


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("replaced", [False, True])
def test_threads_that_were_there_print_where_they_did(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """On a terminal, and where standard output is no file, as in a notebook."""
    if not replaced:
        monkeypatch.setattr(sys, "__stdout__", sys.stdout)
        monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    go, said = threading.Event(), threading.Event()

    def old() -> None:
        go.wait(30)
        print("from an old thread")
        print("its error", file=sys.stderr)
        said.set()

    thread = in_thread(old)
    with noise_to(tmp_path / "log") as stream:
        go.set()
        said.wait(30)
        print("from the sweep")
        in_thread(lambda: print("from a thread of its own", file=sys.stderr)).join()
        os.write(1, b"from below Python\n")
        print("shown", file=stream)
        assert (real_output() is stream) is not replaced
    thread.join()
    print("after")
    shown = capfd.readouterr()
    assert sorted(shown.out.splitlines()) == ["after", "from an old thread", "shown"]
    assert shown.err == "its error\n"
    noise = sorted((tmp_path / "log").read_text().splitlines())
    assert noise == ["from a thread of its own", "from below Python", "from the sweep"]


def test_who_comes_second_waits_and_all_is_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inside, order = threading.Event(), []

    def second() -> None:
        inside.wait(30)
        with noise_to(tmp_path / "second") as stream:
            order.append("second")
            print("shown second", file=stream)

    before, thread = (sys.stdout, sys.stderr), in_thread(second)
    with noise_to(tmp_path / "first"):
        inside.set()
        thread.join(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert (sys.stdout, sys.stderr) == before
    assert capfd.readouterr().out == "shown second\n"


def test_a_logger_that_kept_the_stream_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As Ray's does, which is imported while its noise is caught."""
    with noise_to(tmp_path / "log"):
        handler = logging.StreamHandler(sys.stderr)
    logger = logging.Logger("of-rays")
    logger.addHandler(handler)
    logger.warning("between")
    with noise_to(tmp_path / "log"):
        logger.warning("within")
    assert capfd.readouterr().err == "between\n"
    assert (tmp_path / "log").read_text() == "within\n"
