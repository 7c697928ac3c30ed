"""Warnings of Python's that name whose line it was."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from tpbench.engine.errors import visible


def warn_caller(message: str) -> None:
    """A warning that names the line which called tpbench, whatever lies between: other packages call back too.

    In a thread of tpbench's own nobody's line is there.
    """
    level, found = 0, 1
    frame: FrameType | None = sys._getframe()
    while frame:
        level += 1
        if str(frame.f_globals.get("__name__", "")).startswith("tpbench."):
            found = level + 1
        frame = frame.f_back
    warnings.warn(visible(message), stacklevel=found)
