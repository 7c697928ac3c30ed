"""Ray prints from several processes and threads; this sends all of it to a log file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tpbench.engine import TpbenchError
from tpbench.results.terminal import REPLACE


@contextmanager
def noise_to(path: Path) -> Iterator[TextIO]:
    """Send the process's standard output and error to a file, below Python, and give the real output to the caller.

    Args:
        path: the log file; it is appended to.

    Yields:
        A text stream on what standard output was before.

    Raises:
        TpbenchError: the file cannot be written.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise TpbenchError(f"{path}: could not be written ({error.strerror or error})") from error
    saved = os.dup(1), os.dup(2)
    stream = os.fdopen(os.dup(saved[0]), "w", encoding=sys.stdout.encoding or "utf-8", errors=REPLACE, buffering=1)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        yield stream
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        stream.close()
        for descriptor in (log, *saved):
            os.close(descriptor)
