"""Errors of the user or the surroundings, which the command line prints as one line, and the words of messages."""

from __future__ import annotations

import difflib
import importlib
import os
import reprlib
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import FrameType


class TpbenchError(Exception):
    """Work that failed; exit code 1."""

    exit_code = 1


class UsageError(TpbenchError):
    """Something asked for that does not exist or makes no sense; exit code 2.

    Args:
        message: the reason.
        parameter: the parameter that has a wrong value, by its name in Python; empty if it is none.
        value: of the parameter.
    """

    exit_code = 2

    def __init__(self, message: str = "", *, parameter: str = "", value: object = None) -> None:
        super().__init__(message)
        self.parameter, self.value = parameter, value

    def __str__(self) -> str:
        return self.spelled(self.parameter)

    def spelled(self, name: str) -> str:
        """Return the message with the parameter's name in the words of a front end."""
        message = super().__str__()
        return f"{name} {shown(self.value)}: {message}" if self.parameter else message


class RuleError(TpbenchError):
    """A learning rule from a package whose result cannot be trained; trying again would not help."""


class InterruptedWork(TpbenchError):  # noqa: N818 (it is no error)
    """Stopped from outside; what was finished is kept. Exit code 130, as after Ctrl-C."""

    exit_code = 130


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error ``unknown method 'ddtp_rhl': did you mean 'ddtp-rhl'?``, or one that lists the known names."""
    names, name = sorted(set(known)), shorten(str(name), 200)
    if "," in name and {part.strip() for part in name.split(",")} <= set(names):
        return UsageError(f"{what} '{name}': one is needed here, not several")
    near = difflib.get_close_matches(name.lower().replace("_", "-"), names, n=1) or difflib.get_close_matches(
        name, names, n=1
    )
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names)}"
    return UsageError(f"unknown {what} '{name}': {hint}")


def format_bytes(count: float) -> str:
    """Return an amount of memory for a message, in GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def reason_of(error: Exception) -> str:
    """Return the system's own words of an error, without number and path; of another exception its message."""
    return str(getattr(error, "strerror", None) or error)


def shorten(text: str, most: int) -> str:
    """Cut the middle out of a text that is too long for a message."""
    return text if len(text) <= most else f"{text[: most - 23]}...{text[-20:]}"


class _Repr(reprlib.Repr):
    """Stops early: lists within lists, as aliases in YAML make them, may have a repr without end."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 60, 60, 60

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to spell whole numbers of more digits.
        return super().repr_int(x, level) if x.bit_length() < 10_000 else "a number of thousands of digits"


_short = _Repr()


def shown(value: object) -> str:
    """Return a value's repr in at most 60 characters, whatever its size."""
    return shorten(_short.repr(value), 60)


def visible(text: str, keep: str = "") -> str:
    """Return text that cannot act on a terminal, page or table: characters that could are escaped, ``\\x1b``.

    These are control characters, escape sequences with them, ends of lines, marks that turn the direction of writing
    or have no width, and bytes of file names that are no text. Text from files and arguments passes through here where
    it leaves the program; data frames and stored files keep it as it is.

    Args:
        keep: characters that stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable() or c in keep or unicodedata.category(c) == "Zs"
        else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def warn_caller(message: str) -> None:
    """Warn, naming the line that called tpbench, also where other packages' frames lie between.

    A thread of tpbench's own has no such line.
    """
    level, caller = 0, 1
    frame: FrameType | None = sys._getframe()
    while frame:
        level += 1
        if str(frame.f_globals.get("__name__", "")).startswith("tpbench."):
            caller = level + 1
        frame = frame.f_back
    warnings.warn(visible(message), stacklevel=caller)


def place_of(error: BaseException) -> str:
    """Return ``FILE:LINE`` of the last line of a traceback outside torch, tpbench and Python's imports; empty if none.

    That of a syntax error is where it stands. Imports no torch: where it is not loaded, no line is its own.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    modules = (sys.modules[name] for name in ("tpbench", "torch", importlib.__name__) if name in sys.modules)
    others = ("<frozen importlib", *(f"{Path(str(module.__file__)).parent}{os.sep}" for module in modules))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        # A dataclass's constructor is in no file.
        if not frame.filename.startswith(others) and (frame.filename, frame.name) != ("<string>", "__init__")
    ]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
