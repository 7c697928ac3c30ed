"""Ray prints from several processes and threads; this sends all of it to a log file.

Standard output belongs to the whole process. On the command line nothing but the sweep is there; where a sweep was
started from Python, other threads go on printing meanwhile, and what they print is theirs.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from tpbench.engine import TpbenchError
from tpbench.results.terminal import REPLACE

# The process has one standard output, and one local Ray: who comes second waits.
_ALONE = threading.Lock()
_real: TextIO | None = None


def real_output() -> TextIO:
    """What standard output is when no noise is sent elsewhere, also from a thread that began since."""
    return _real or sys.stdout


@contextmanager
def noise_to(path: Path) -> Iterator[TextIO]:
    """Send the process's standard output and error to a file, below Python, and give the real output to the caller.

    Threads that were there before go on printing where they did. A second call in another thread waits for the first.

    Args:
        path: the log file; it is appended to.

    Yields:
        A text stream on what standard output was before.

    Raises:
        TpbenchError: the file cannot be written.
    """
    global _real
    with _ALONE, ExitStack() as stack:
        sys.stdout.flush()
        sys.stderr.flush()
        log = _open(path)
        stack.callback(os.close, log)
        stream = stack.enter_context(_redirected(1, log, sys.stdout))
        errors = stack.enter_context(_redirected(2, log, sys.stderr))
        noise = stack.enter_context(os.fdopen(os.dup(log), "w", encoding="utf-8", errors=REPLACE, buffering=1))
        own = sys.stdout is sys.__stdout__
        known = frozenset(thread.ident for thread in threading.enumerate()) - {threading.get_ident()}
        for name, real in (("stdout", stream), ("stderr", errors)):
            stack.enter_context(_sorted_by_thread(name, real, noise, known))
        _real = stream if own else None
        try:
            yield stream
        finally:
            _real = None


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise TpbenchError(f"{path}: could not be written ({error.strerror or error})") from error


@contextmanager
def _redirected(descriptor: int, log: int, text: TextIO) -> Iterator[TextIO]:
    """Send a file descriptor to a log; yields a text stream, as lenient as ``text``, on what it was before."""
    saved = os.dup(descriptor)
    stream = os.fdopen(os.dup(saved), "w", encoding=text.encoding or "utf-8", errors=REPLACE, buffering=1)
    os.dup2(log, descriptor)
    try:
        yield stream
    finally:
        text.flush()
        os.dup2(saved, descriptor)
        stream.close()
        os.close(saved)


class SortedStream:
    """In the place of ``sys.stdout`` or ``sys.stderr`` for a while; handlers of loggers may keep it for longer.

    Args:
        name: of the stream in ``sys``.
        real: takes what the process's own standard stream took before its descriptor was sent to the log.
        noise: the log.
        known: the threads whose text is no noise.
    """

    def __init__(self, name: str, real: TextIO, noise: TextIO, known: frozenset[int | None]) -> None:
        self._name, self._noise, self._known = name, noise, known
        self._before: TextIO = getattr(sys, name)
        # A notebook's stream, or that of a test, writes to no descriptor that was sent elsewhere.
        own = self._before is getattr(sys, f"__{name}__")
        self._theirs = real if own else self._before
        self._ended = False

    def _target(self) -> TextIO:
        if not self._ended:
            return self._theirs if threading.get_ident() in self._known else self._noise
        now = getattr(sys, self._name)
        return now._target() if isinstance(now, SortedStream) and not now._ended else self._before

    def end(self) -> TextIO:
        """From now on all text goes where it went before; returns that stream."""
        self._ended = True
        return self._before

    def write(self, text: str) -> int:
        return self._target().write(text)

    def flush(self) -> None:
        self._target().flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._before, name)


@contextmanager
def _sorted_by_thread(name: str, real: TextIO, noise: TextIO, known: frozenset[int | None]) -> Iterator[None]:
    stream = SortedStream(name, real, noise, known)
    setattr(sys, name, stream)
    try:
        yield
    finally:
        before = stream.end()
        if getattr(sys, name) is stream:
            setattr(sys, name, before)
