"""Signals that end work as Ctrl-C does: with the command that continues it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tpbench.engine.errors import InterruptedWork

# SLURM sends SIGTERM before its limit; a terminal that is closed sends SIGHUP.
_ENDING = (signal.SIGTERM, signal.SIGHUP)

CONTINUES = "what was finished is stored. To continue"


def end_as_by_ctrl_c() -> dict[signal.Signals, Any]:
    """Let the signals that ask for an end raise KeyboardInterrupt; returns what handled them before, by signal.

    What the user has a process ignore (``nohup`` does that with SIGHUP) it goes on ignoring. Outside the main thread
    Python lets nobody set a handler, and signals come to the main thread anyway.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    heeded = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, signal.default_int_handler) for number in heeded}


@contextmanager
def ending_by_signals() -> Iterator[None]:
    """Within, what asks for an end raises KeyboardInterrupt (:func:`end_as_by_ctrl_c`); then all is as before."""
    before = end_as_by_ctrl_c()
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: it was set by what is no Python code, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def interruptible(command: str, meaning: str = CONTINUES) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the work with a command to go on with.

    Args:
        command: to go on with.
        meaning: what becomes of the work, and what the command does.

    Raises:
        InterruptedWork: one of the three came.
    """
    with ending_by_signals():
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as end:
            # While Ray starts it has SIGTERM for itself for a moment, and ends with its number.
            if isinstance(end, SystemExit) and end.code != signal.SIGTERM:
                raise
            raise InterruptedWork(f"interrupted; {meaning}: {command}") from None
