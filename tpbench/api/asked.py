"""Arguments as people give them in Python, as what lies below takes them: the command line's words."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tpbench.engine.errors import UsageError
from tpbench.engine.files import user_path

Place = str | os.PathLike[str]
"""A folder, or a URL."""
Names = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""One name (of a workload also a file), several with commas between them, ``all``, or a list of names."""
Seeds = str | Iterable[int]
"""``0-4,7`` as on the command line, or numbers."""
Track = str | Iterable[str]
"""A tracker as ``--track`` takes it, or several."""

# A range of the command line is no longer.
_LONGEST = 10_000
_YES = ("1", "t", "true", "y", "yes", "on")


def one_name(value: object, what: str) -> str:
    """A single name.

    Raises:
        UsageError: it is no text.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{what} {value!r}: one name is needed, as text")
    return os.fspath(value)


def several_names(value: Names, what: str) -> str:
    """Names with commas between them.

    Raises:
        UsageError: there is none, or one is no text.
    """
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if not isinstance(value, Iterable):
        raise UsageError(f"{what} {value!r}: give a name, a list of names, or 'all'")
    return ",".join([one_name(name, what) for name in value])


def place(value: object, what: str = "results") -> str:
    """A folder or URL; paths of :mod:`upath` too, which are no paths of the system.

    Raises:
        UsageError: it is neither.
    """
    if not (isinstance(value, (str, os.PathLike)) or (hasattr(value, "protocol") and hasattr(value, "joinpath"))):
        raise UsageError(f"{what} {value!r}: give a folder or a URL")
    return str(value)


def folder(value: Place | None, what: str) -> Path | None:
    """A path of this machine, if one is given.

    Raises:
        UsageError: it is none.
    """
    return None if value is None else user_path(place(value, what))


def whole(value: object, what: str, lowest: int, highest: int) -> int:
    """A whole number within bounds; numpy's are as good as Python's.

    Raises:
        UsageError: it is none, or out of bounds.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = lowest - 1
    if isinstance(value, bool) or not lowest <= number <= highest:
        raise UsageError(f"{what} {value!r}: give a whole number from {lowest} to {highest}")
    return number


def maybe_whole(value: object, what: str, lowest: int, highest: int) -> int | None:
    """The same where None stands for a default."""
    return None if value is None else whole(value, what, lowest, highest)


def numbers(configuration: Mapping[Any, Any]) -> dict[str, Any]:
    """Hyperparameters by name; numpy's numbers, as those of a row of a data frame, become Python's."""
    return {
        str(name): value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
        for name, value in configuration.items()
    }


def seeds_text(seeds: object, what: str = "seeds") -> str:
    """Seeds as the command line writes them: ``range(10)`` is ``0-9``.

    Raises:
        UsageError: they are no numbers. A single number is refused: nobody can know whether it is a seed or how many.
    """
    if isinstance(seeds, str):
        return seeds
    if not isinstance(seeds, Iterable) or isinstance(seeds, bytes):
        single = type(seeds) is int and seeds > 0
        example = f"[{seeds}] for that seed alone, range({seeds}) for so many" if single else "range(10)"
        raise UsageError(f"{what} {seeds!r}: give {example}, or text such as '0-4,7'")
    numbers = [whole(seed, f"a seed of {what}", 0, 2**32 - 1) for seed in seeds]
    if not numbers:
        raise UsageError(f"{what}: there is none")
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1 and number - spans[-1][0] < _LONGEST:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def trackers(value: Track | None) -> tuple[str, ...]:
    """Trackers; a place may hold commas, so several are a list.

    Raises:
        UsageError: one is no text.
    """
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    if not isinstance(value, Iterable):
        raise UsageError(f"track {value!r}: give 'tensorboard', 'mlflow' or a list of them")
    return tuple(one_name(text, "track") for text in value)


def hyperparameters(value: object) -> str | dict[str, Any]:
    """A configuration: what names it, or its numbers.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(value, Mapping):
        return numbers(value)
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"configuration {value!r}: give 'published', 'best', a YAML file or hyperparameters by name")
    return os.fspath(value)


def yes_or_no(value: object, what: str) -> bool:
    """True or False; of anything else, such as "no", nobody can know which is meant.

    Raises:
        UsageError: it is neither.
    """
    if type(value).__name__ not in ("bool", "bool_"):
        raise UsageError(f"{what} {value!r}: give True or False")
    return bool(value)


def is_offline(offline: bool | None) -> bool:
    """Whether nothing is downloaded; None: what TPBENCH_OFFLINE says, as on the command line."""
    if offline is None:
        return os.environ.get("TPBENCH_OFFLINE", "").strip().lower() in _YES
    return yes_or_no(offline, "offline")


def options_of(given: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """The words of a command line for the arguments that are not the usual ones."""
    words = []
    for name, value in given.items():
        if value is None or value is False or (name in usual and value == usual[name]):
            continue
        option = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, tuple) else (value,):
            words += [option] if one is True else [option, str(one)]
    return words
