"""Signals that end work as Ctrl-C does: with the command that continues it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from tpbench.engine import TpbenchError
from tpbench.engine.errors import InterruptedWork
from tpbench.engine.files import atomic_write
from tpbench.results.commands import continuing
from tpbench.results.terminal import REPLACE

# SLURM sends SIGTERM before its limit; a terminal that is closed sends SIGHUP.
_ENDING = (signal.SIGTERM, signal.SIGHUP)

CONTINUES = "what was finished is stored. To continue"


def install_interrupt_handlers() -> dict[signal.Signals, Any]:
    """Let the signals that ask for an end raise KeyboardInterrupt; returns what handled them before, by signal.

    What the user has a process ignore (``nohup`` does that with SIGHUP) it goes on ignoring. Outside the main thread
    Python lets nobody set a handler, and signals come to the main thread anyway.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    heeded = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, signal.default_int_handler) for number in heeded}


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Within, what asks for an end raises KeyboardInterrupt (:func:`install_interrupt_handlers`); then all is as before."""
    before = install_interrupt_handlers()
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
        command: as it was typed.
        meaning: what becomes of the work, and what the command does.

    Raises:
        InterruptedWork: one of the three came.
    """
    with interrupt_on_signals():
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as end:
            # While Ray starts it has SIGTERM for itself for a moment, and ends with its number.
            if isinstance(end, SystemExit) and end.code != signal.SIGTERM:
                raise
            raise InterruptedWork(f"interrupted; {meaning}: {continuing(command)}") from None


# Ray prints from several processes and threads; this sends all of it to a log file.
#
# Standard output belongs to the whole process. On the command line nothing but the sweep is there; where a sweep was
# started from Python, other threads go on printing meanwhile, and what they print is theirs.


# The process has one standard output, and one local Ray: who comes second waits.
_ALONE = threading.RLock()
# What a stream raises that was closed, and None, which a process without a terminal may have for a stream.
_NO_STREAM = (ValueError, AttributeError)


@contextmanager
def process_lock() -> Iterator[None]:
    """Within, no other thread sends noise elsewhere or has a local Ray; who comes second waits."""
    with _ALONE:
        yield


class OriginalOutput:
    """Standard output as it is when no noise is sent elsewhere, looked up anew for every text.

    What is made while a sweep runs in another thread may outlive that sweep, and the other way round. Where the stream
    was closed meanwhile, the text is lost: progress that nobody sees is no reason to end the work.
    """

    @staticmethod
    def _target() -> TextIO:
        now = sys.stdout
        return now.theirs if isinstance(now, RoutedStream) else now

    def write(self, text: str) -> int:
        with suppress(*_NO_STREAM):
            self._target().write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        with suppress(*_NO_STREAM):
            self._target().flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target(), name)


def original_output() -> TextIO:
    """What standard output is when no noise is sent elsewhere, also from a thread that began since."""
    return cast(TextIO, OriginalOutput())


@contextmanager
def redirect_output(path: Path) -> Iterator[TextIO]:
    """Send the process's standard output and error to a file, below Python, and give the real output to the caller.

    Threads that were there before go on printing where they did. A second call in another thread waits for the first.

    Args:
        path: the log file; it is appended to.

    Yields:
        A text stream on what standard output was before. It may be kept: it stays open as long as somebody has it.

    Raises:
        TpbenchError: the file cannot be written.
    """
    with process_lock(), ExitStack() as stack:
        sys.stdout.flush()
        sys.stderr.flush()
        log = _open(path)
        stack.callback(os.close, log)
        noise = _stream(log, "utf-8")
        stack.callback(noise.flush)
        known = frozenset(threading.enumerate()) - {threading.current_thread()}
        # Text is sorted before any descriptor leads elsewhere: nothing that others print meanwhile gets into the log.
        stream, errors = (
            stack.enter_context(_sorted_by_thread(name, number, noise, known))
            for name, number in (("stdout", 1), ("stderr", 2))
        )
        for number, text in ((1, stream), (2, errors)):
            stack.enter_context(_redirected(number, log, text.before))
        yield stream.real


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _appended(path)
        except PermissionError:
            # A colleague's, of a group that may write the folder: what it says goes on in a file of one's own.
            before = b""
            with suppress(OSError):
                before = path.read_bytes()
            with atomic_write(path) as file:
                file.write(before)
            return _appended(path)
    except OSError as error:
        raise TpbenchError(f"{path}: could not be written ({error.strerror or error})") from error


def _appended(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)


def _stream(descriptor: int, encoding: str) -> TextIO:
    """A text stream on a copy of a descriptor, which is closed when nobody has the stream any more.

    Not before: another thread may be about to write to it.
    """
    own = os.dup(descriptor)
    stream = open(own, "w", encoding=encoding, errors=REPLACE, buffering=1, closefd=False)  # noqa: SIM115
    weakref.finalize(stream, os.close, own).atexit = False
    return stream


@contextmanager
def _redirected(descriptor: int, log: int, text: TextIO) -> Iterator[None]:
    """Send a file descriptor to a log; ``text`` is the process's own stream on it."""
    saved = os.dup(descriptor)
    os.dup2(log, descriptor)
    try:
        yield
    finally:
        with suppress(ValueError):  # somebody has closed it
            text.flush()
        os.dup2(saved, descriptor)
        os.close(saved)


class RoutedStream:
    """In the place of ``sys.stdout`` or ``sys.stderr`` for a while; handlers of loggers may keep it for longer.

    Args:
        name: of the stream in ``sys``.
        real: takes what the process's own standard stream took before its descriptor was sent to the log.
        noise: the log.
        known: the threads whose text is no noise. Threads, not their numbers: these are given anew once a thread ends.
    """

    def __init__(self, name: str, real: TextIO, noise: TextIO, known: frozenset[threading.Thread]) -> None:
        self._name, self.real, self._noise, self._known = name, real, noise, known
        self.before: TextIO = getattr(sys, name)
        # A notebook's stream, or that of a test, writes to no descriptor that was sent elsewhere.
        own = self.before is getattr(sys, f"__{name}__")
        self.theirs = real if own else self.before
        """Where the text goes that is no noise."""
        self._ended = False

    def _is_known(self) -> bool:
        return threading.current_thread() in self._known

    def _target(self) -> TextIO:
        if not self._ended:
            return self.theirs if self._is_known() else self._noise
        now = getattr(sys, self._name)
        return now._target() if isinstance(now, RoutedStream) and not now._ended else self.before

    def end(self) -> TextIO:
        """From now on all text goes where it went before; returns that stream."""
        self._ended = True
        for stream in (self.theirs, self.real):
            with suppress(ValueError, OSError):  # closed by somebody, or a terminal that is gone
                stream.flush()
        # Who keeps this object keeps neither the log nor the threads.
        self.theirs = self.real = self._noise = self.before
        self._known = frozenset()
        return self.before

    def write(self, text: str) -> int:
        return self._target().write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self._target().writelines(lines)

    def flush(self) -> None:
        self._target().flush()

    def __getattr__(self, name: str) -> Any:
        # The descriptor of the process's own stream leads to the log by now, and so stays right for noise.
        known = not self._ended and self._is_known()
        return getattr(self.theirs if known else self.before, name)


@contextmanager
def _sorted_by_thread(
    name: str, number: int, noise: TextIO, known: frozenset[threading.Thread]
) -> Iterator[RoutedStream]:
    real = _stream(number, getattr(sys, name).encoding or "utf-8")
    stream = RoutedStream(name, real, noise, known)
    setattr(sys, name, stream)
    try:
        yield stream
    finally:
        before = stream.end()
        if getattr(sys, name) is stream:
            setattr(sys, name, before)


# Loggers of other packages that say less for a while.


_LOCK = threading.Lock()
_quiet: dict[str, tuple[int, int]] = {}
"""By logger: how many want it quiet, and the level that it had before."""


@contextmanager
def log_level(level: int, *names: str) -> Iterator[None]:
    """Loggers at a level of ours; who leaves last, in whatever thread, gives them their own back."""
    with _LOCK:
        for name in names:
            count, before = _quiet.get(name, (0, logging.getLogger(name).level))
            _quiet[name] = count + 1, before
            logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        with _LOCK:
            for name in names:
                count, before = _quiet.pop(name)
                if count > 1:
                    _quiet[name] = count - 1, before
                else:
                    logging.getLogger(name).setLevel(before)
