"""The process's signals, standard streams and loggers while something trains.

Ctrl-C, SIGTERM and SIGHUP end the work alike. Ray prints from several processes and threads; its output goes to a log
file, while other threads of a Python session go on printing where they did.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from tpbench.engine import TpbenchError
from tpbench.engine.errors import InterruptedWork
from tpbench.engine.files import atomic_write
from tpbench.results.formats import REPLACE

# SLURM sends SIGTERM before its limit; a terminal that is closed sends SIGHUP.
_ENDING = (signal.SIGTERM, signal.SIGHUP)

CONTINUES = "what was finished is stored. To continue"


def install_interrupt_handlers() -> dict[signal.Signals, Any]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, and return the handlers that they had before, by signal.

    A signal that the process ignores (``nohup`` ignores SIGHUP) stays ignored. Outside the main thread nothing is
    changed: Python sets handlers there alone, and signals come to the main thread anyway.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    heeded = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, signal.default_int_handler) for number in heeded}


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt within the block, and put the handlers back after it."""
    before = install_interrupt_handlers()
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: code outside Python had set the handler, and it cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def interruptible(command: str, meaning: str = CONTINUES) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP end the work with a command to go on with.

    Args:
        command: to go on with.
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
            raise InterruptedWork(f"interrupted; {meaning}: {command}") from None


# A process has one standard output and one local Ray: a second thread waits.
_PROCESS_LOCK = threading.RLock()
# The errors of a closed stream, and of None, which a process without a terminal may have for a stream.
_NO_STREAM = (ValueError, AttributeError)


def process_lock() -> AbstractContextManager[object]:
    """Keep other threads from redirecting the output and from using a local Ray; a second thread waits."""
    return _PROCESS_LOCK


class OriginalOutput:
    """A text stream on the standard output that the process has when nothing is redirected.

    The stream is looked up for every text, because a display may outlive the sweep beside which it was made, or begin
    before it. Text for a stream that was closed is lost: progress that cannot be shown is no reason to end the work.
    """

    @staticmethod
    def _target() -> TextIO:
        now = sys.stdout
        return now.direct if isinstance(now, RoutedStream) else now

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
    """Return a stream on the standard output that is not redirected, for any thread."""
    return cast(TextIO, OriginalOutput())


@contextmanager
def redirect_output(path: Path) -> Iterator[TextIO]:
    """Send the process's standard output and error to a file, below Python, and give the original output to the caller.

    Threads that ran before go on printing where they did. A second call in another thread waits for the first.

    Args:
        path: the log file; it is appended to.

    Yields:
        A text stream on the standard output as it was before. It stays open as long as there is a reference to it.

    Raises:
        TpbenchError: the file cannot be written.
    """
    with process_lock(), ExitStack() as stack:
        sys.stdout.flush()
        sys.stderr.flush()
        descriptor = _open_log(path)
        stack.callback(os.close, descriptor)
        log = _open_stream(descriptor, "utf-8")
        stack.callback(log.flush)
        others = frozenset(threading.enumerate()) - {threading.current_thread()}
        # Text is routed by thread before any descriptor changes, so that none of the other threads' gets into the log.
        output, errors = (
            stack.enter_context(_routed_by_thread(name, number, log, others))
            for name, number in (("stdout", 1), ("stderr", 2))
        )
        for number, stream in ((1, output), (2, errors)):
            stack.enter_context(_redirected(number, descriptor, stream.before))
        yield output.original


def _open_log(path: Path) -> int:
    """Open a log to append to, and return its descriptor."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _append_to(path)
        except PermissionError:
            # Another member of the group owns the log: it is continued in a copy, which takes its place.
            before = b""
            with suppress(OSError):
                before = path.read_bytes()
            with atomic_write(path) as file:
                file.write(before)
            return _append_to(path)
    except OSError as error:
        raise TpbenchError(f"{path}: could not be written ({error.strerror or error})") from error


def _append_to(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)


def _open_stream(descriptor: int, encoding: str) -> TextIO:
    """Return a text stream on a copy of a descriptor, which is closed with the last reference to the stream.

    Not before: another thread may be about to write to it.
    """
    own = os.dup(descriptor)
    stream = open(own, "w", encoding=encoding, errors=REPLACE, buffering=1, closefd=False)  # noqa: SIM115
    weakref.finalize(stream, os.close, own).atexit = False
    return stream


@contextmanager
def _redirected(number: int, log: int, stream: TextIO) -> Iterator[None]:
    """Let a file descriptor lead to a log within the block.

    Args:
        number: the descriptor.
        log: the log's descriptor.
        stream: the process's own stream on the descriptor; what it has buffered goes to the log.
    """
    saved = os.dup(number)
    os.dup2(log, number)
    try:
        yield
    finally:
        with suppress(ValueError):  # it was closed meanwhile
            stream.flush()
        os.dup2(saved, number)
        os.close(saved)


class RoutedStream:
    """A stand-in for ``sys.stdout`` or ``sys.stderr`` that sends the text of some threads past the log.

    It takes the stream's place for a while; handlers of loggers may hold it for longer.

    Args:
        name: of the stream in ``sys``.
        original: leads to where the process's own standard stream led before it was redirected.
        log: takes the text of all other threads.
        others: the threads whose text is not for the log. Threads, not their numbers: Python gives the number of a
            thread that has ended to another one.
    """

    def __init__(self, name: str, original: TextIO, log: TextIO, others: frozenset[threading.Thread]) -> None:
        self._name, self.original, self._log, self._others = name, original, log, others
        self.before: TextIO = getattr(sys, name)
        """The stream whose place this one takes."""
        # The stream of a notebook, or of a test, writes to no descriptor that is redirected.
        own = self.before is getattr(sys, f"__{name}__")
        self.direct = original if own else self.before
        """Takes text that is not for the log."""
        self._ended = False

    def _is_other(self) -> bool:
        return threading.current_thread() in self._others

    def _target(self) -> TextIO:
        if not self._ended:
            return self.direct if self._is_other() else self._log
        now = getattr(sys, self._name)
        return now._target() if isinstance(now, RoutedStream) and not now._ended else self.before

    def end(self) -> TextIO:
        """Send all further text to the stream whose place this one took, and return that stream."""
        self._ended = True
        for stream in (self.direct, self.original):
            with suppress(ValueError, OSError):  # it was closed, or its terminal is gone
                stream.flush()
        # A reference to this object keeps neither the log nor the threads alive.
        self.direct = self.original = self._log = self.before
        self._others = frozenset()
        return self.before

    def write(self, text: str) -> int:
        return self._target().write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self._target().writelines(lines)

    def flush(self) -> None:
        self._target().flush()

    def __getattr__(self, name: str) -> Any:
        # The descriptor of the process's own stream leads to the log by now, and so is right for text of the log.
        direct = not self._ended and self._is_other()
        return getattr(self.direct if direct else self.before, name)


@contextmanager
def _routed_by_thread(
    name: str, number: int, log: TextIO, others: frozenset[threading.Thread]
) -> Iterator[RoutedStream]:
    """Put a :class:`RoutedStream` in the place of a stream of ``sys`` within the block.

    Args:
        name: of the stream.
        number: of its descriptor.
        log, others: as for :class:`RoutedStream`.
    """
    original = _open_stream(number, getattr(sys, name).encoding or "utf-8")
    stream = RoutedStream(name, original, log, others)
    setattr(sys, name, stream)
    try:
        yield stream
    finally:
        before = stream.end()
        if getattr(sys, name) is stream:
            setattr(sys, name, before)


_LEVEL_LOCK = threading.Lock()
_levels: dict[str, tuple[int, int]] = {}
"""By logger: the number of blocks that change its level, and the level before the first."""


@contextmanager
def log_level(level: int, *names: str) -> Iterator[None]:
    """Give loggers a level within the block; the last block to end, in any thread, restores their own.

    Args:
        level: of :mod:`logging`.
        names: of the loggers.
    """
    with _LEVEL_LOCK:
        for name in names:
            count, before = _levels.get(name, (0, logging.getLogger(name).level))
            _levels[name] = count + 1, before
            logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        with _LEVEL_LOCK:
            for name in names:
                count, before = _levels.pop(name)
                if count > 1:
                    _levels[name] = count - 1, before
                else:
                    logging.getLogger(name).setLevel(before)
