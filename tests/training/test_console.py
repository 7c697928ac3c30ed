"""Ray's noise goes to a log; what other threads print does not."""

from __future__ import annotations

import gc
import io
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tpbench.training.console import RoutedStream, original_output, redirect_output
from tpbench.training.progress import Display


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("replaced", [False, True])
def test_threads_that_ran_before_print_where_they_did(
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
        sys.stderr.writelines(["its ", "error\n"])
        said.set()

    thread = in_thread(old)
    with redirect_output(tmp_path / "log") as stream:
        go.set()
        said.wait(30)
        # Its number may be given to the next thread, whose text is noise nevertheless.
        thread.join()
        print("from the sweep")
        in_thread(lambda: sys.stderr.writelines(["from a thread ", "of its own\n"])).join()
        os.write(1, b"from below Python\n")
        print("shown", file=stream)
        in_thread(lambda: print("a new thread's progress", file=original_output())).join()
    print("after")
    shown = capfd.readouterr()
    assert sorted(shown.out.splitlines()) == ["a new thread's progress", "after", "from an old thread", "shown"]
    assert shown.err == "its error\n"
    noise = sorted((tmp_path / "log").read_text().splitlines())
    assert noise == ["from a thread of its own", "from below Python", "from the sweep"]


def test_a_second_redirection_waits_and_all_is_restored(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inside, order = threading.Event(), []

    def second() -> None:
        inside.wait(30)
        with redirect_output(tmp_path / "second") as stream:
            order.append("second")
            print("shown second", file=stream)

    before, thread = (sys.stdout, sys.stderr), in_thread(second)
    with redirect_output(tmp_path / "first"):
        inside.set()
        thread.join(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert (sys.stdout, sys.stderr) == before
    assert capfd.readouterr().out == "shown second\n"


def test_a_logger_that_kept_the_stream_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As Ray's does, which is imported while its noise is caught."""
    with redirect_output(tmp_path / "log"):
        handler = logging.StreamHandler(sys.stderr)
    logger = logging.Logger("of-rays")
    logger.addHandler(handler)
    logger.warning("between")
    with redirect_output(tmp_path / "log"):
        logger.warning("within")
    assert capfd.readouterr().err == "between\n"
    assert (tmp_path / "log").read_text() == "within\n"


def test_a_view_outlives_the_sweep_beside_which_it_was_made_and_the_other_way_round(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``tpbench.run`` in one thread, and sweeps that begin and end in another."""
    monkeypatch.setattr(sys, "__stdout__", sys.stdout)
    with Display() as before, redirect_output(tmp_path / "log") as stream:
        before.say("within")
        with Display() as during:
            pass
    kept = RoutedStream("stdout", stream, stream, frozenset())
    for view in (before, during):
        view.say("after")
    print("the sweep's own stream", file=stream)
    assert kept.end().write("what was fetched before the end\n")
    with redirect_output(tmp_path / "log"):
        during.say("within the next")
    out = capfd.readouterr().out.splitlines()
    assert out == [
        "within",
        "after",
        "after",
        "the sweep's own stream",
        "what was fetched before the end",
        "within the next",
    ]
    assert (tmp_path / "log").read_text() == ""


def test_a_stream_is_closed_when_nobody_has_it(tmp_path: Path) -> None:
    with redirect_output(tmp_path / "log") as stream:
        number = stream.fileno()
    stream.write("without an end of line")
    before = os.fstat(number)
    del stream
    gc.collect()
    # Another thread may have opened a file meanwhile, under the number that is free now.
    with suppress(OSError):
        assert not os.path.samestat(os.fstat(number), before)


def test_progress_on_a_stream_that_was_closed_is_lost_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = io.StringIO()
    monkeypatch.setattr(sys, "stdout", gone)
    with Display() as view:
        gone.close()
        view.say("lost")
        monkeypatch.setattr(sys, "stdout", None)
        view.say("lost, too")
