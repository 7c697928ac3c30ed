"""Whose line it was: the place that a warning or an error message names."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from pathlib import Path
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


def place_of(error: BaseException) -> str:
    """Return ``FILE:LINE`` of the last line of a traceback outside torch, tpbench and Python's imports; empty if none.

    Imports no torch: where it is not loaded, no line is its own.
    """
    modules = (sys.modules[name] for name in ("tpbench", "torch", importlib.__name__) if name in sys.modules)
    others = ("<frozen importlib", *(f"{Path(str(module.__file__)).parent}{os.sep}" for module in modules))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        # A dataclass's constructor is in no file.
        if not frame.filename.startswith(others) and (frame.filename, frame.name) != ("<string>", "__init__")
    ]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
