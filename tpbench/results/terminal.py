"""Words on any terminal: what its encoding cannot show, or what would act on it, is spelled with what it can."""

from __future__ import annotations

import codecs
import sys
from typing import TextIO

from rich.console import Console
from rich.text import Text

from tpbench.engine.errors import visible

# By name where two characters look alike.
_SPELLED = {
    "±": "+-",
    "≠": "!=",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "\N{MULTIPLICATION SIGN}": "x",
    "·": ".",
    "•": "*",
    "→": "->",
    "…": "...",
    "\N{EN DASH}": "-",
    "—": "-",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "“": '"',
    "”": '"',
    "─": "-",
    "━": "-",
    "│": "|",
    "╸": "-",
    "╺": "-",
    "\N{NO-BREAK SPACE}": " ",
}

REPLACE = "tpbench-spell"
"""The name of this module's way with what cannot be encoded, as ``errors`` of text streams."""


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Other letters, and bytes of file names that are none, become escapes: a path stays recognisable."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    words = (_SPELLED.get(c) or c.encode("ascii", errors="backslashreplace").decode("ascii") for c in unknown)
    return "".join(words), error.end


codecs.register_error(REPLACE, _spell)


def prepare_streams() -> None:
    """Let standard output and error take any text; what they cannot encode is spelled otherwise."""
    for stream in (sys.stdout, sys.stderr):
        # What stands in for them (in notebooks, in tests) takes any text already, or is no text stream at all.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors=REPLACE)


def showable(text: str, stream: TextIO | None = None) -> str:
    """Text as a stream (by default standard output) will show it: tables must know how wide their words become.

    It is one line; names from files act on no terminal (:func:`tpbench.engine.errors.visible`).
    """
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return visible(text).encode(encoding, errors=REPLACE).decode(encoding)


def say(text: str, *, error: bool = False) -> None:
    """Print a line that may hold names from files and arguments: none of them acts on the terminal.

    Args:
        error: on standard error. Not by click, which would write UTF-8 there whatever its encoding is.
    """
    print(visible(text), file=sys.stderr if error else sys.stdout, flush=True)


def print_line(text: str, console: Console, style: str = "") -> None:
    """One line that is never wrapped, and in which nothing counts as markup or as an emoji's name."""
    console.print(Text(visible(text), style), soft_wrap=True)
