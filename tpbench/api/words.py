"""Errors and warnings in the words of Python: what the command line calls ``--final-seeds`` is ``final_seeds`` here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar

from tpbench.engine.errors import InterruptedWork, TpbenchError, visible, warn_caller

P = ParamSpec("P")
T = TypeVar("T")

_OTHERWISE = {
    "config": "configuration",
    "fresh": "fresh=True",
    "accept-failures": "accept_failures=True",
    "offline": "offline=True",
}
# A command that a message names stays one.
_OPTION = re.compile(r"\btpbench [a-z][^';:,]*|(?<![\w-])--([a-z]+(?:-[a-z]+)*)(?: (auto|cpu|best)\b)?")


def in_python(message: str) -> str:
    """A message with the options that it names spelled as arguments: ``--device cpu`` is ``device='cpu'``."""

    def spelled(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        name = _OTHERWISE.get(found[1], found[1].replace("-", "_"))
        return f"{name}='{found[2]}'" if found[2] else name

    return _OPTION.sub(spelled, message)


def for_python(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function of the public interface fail in the words of Python.

    Ctrl-C, and in a notebook the interrupt of its kernel, stays a KeyboardInterrupt, which no ``except TpbenchError``
    takes for a run that failed.
    """

    @wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return function(*arguments, **options)
        except InterruptedWork as error:
            raise KeyboardInterrupt(str(error)) from None
        except TpbenchError as error:
            # A traceback shows it as it is.
            error.args = (visible(in_python(str(error))),)
            raise

    return called


def warn(messages: Iterable[str]) -> None:
    """Warnings of Python's that name the line which called tpbench."""
    for message in messages:
        warn_caller(in_python(message))
