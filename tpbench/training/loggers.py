"""Loggers of other packages that say less for a while."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.Lock()
_quiet: dict[str, tuple[int, int]] = {}
"""By logger: how many want it quiet, and the level that it had before."""


@contextmanager
def quieter(level: int, *names: str) -> Iterator[None]:
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
