"""What all figures share: one colour per method, and how logarithmic axes are labelled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from tpbench.engine import TpbenchError, method_names
from tpbench.engine.files import check_target

# Colour-blind safe.
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B", "#7F7F7F", "#BCBD22",
)  # fmt: skip
_MOST_LABELS = 6
_FEWEST_LABELS = 3


def colour(method: str) -> str:
    """The colour of a method."""
    names = method_names()
    return _COLOURS[names.index(method) % len(_COLOURS)] if method in names else "#444444"


def again(method: str) -> bool:
    """Whether the method is told from an earlier one of its colour by the form of its lines and points."""
    names = method_names()
    return method in names and names.index(method) // len(_COLOURS) % 2 == 1


def plain_number(value: float) -> str:
    """``0.02``, ``5``, ``200``; below a thousandth and from 100,000 on as a power of ten."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.10g}"
    power = math.floor(math.log10(abs(value)) + 1e-9)
    digit = f"{value / 10.0**power:.6g}"
    return ("" if digit == "1" else f"{digit}{_TIMES}") + "10" + str(power).translate(_RAISED)


_TIMES = "\u00d7"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def logarithmic_labels(low: float, high: float) -> list[float]:
    """At most six numbers between two positive ones: 1, 2, 5, 10; powers of ten or equal steps where those suit better.

    Args:
        low, high: the ends of the axis.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for numbers in _candidates(first, last):
        inside = [number for number in numbers if low * (1 - 1e-9) <= number <= high * (1 + 1e-9)]
        if _FEWEST_LABELS <= len(inside) <= _MOST_LABELS:
            return inside
    steps = MaxNLocator(_MOST_LABELS - 1, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(number) for number in steps if low <= number <= high and number > 0]


def _candidates(first: int, last: int) -> Iterator[list[float]]:
    """Sets of numbers over these decades, the densest first."""
    for digits in ((1, 2, 5), (1, 3), (1,)):
        # As they are spelled, so that labels are exact.
        yield [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in digits]
    for step in range(2, last - first + 1):
        # Counted from 1, so that it is among them.
        yield [float(f"1e{power}") for power in range(first, last + 1) if power % step == 0]


class _PlainTicks(LogLocator):
    """Ticks where :func:`logarithmic_labels` says."""

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        low, high = sorted((vmin, vmax))
        if not 0 < low < high < math.inf:
            return super().tick_values(vmin, vmax)
        return logarithmic_labels(low, high)


def plain_labels(axis: Axis) -> None:
    """Label a logarithmic axis with few plain numbers (2, 5, 10): no formulas, which take long to be parsed."""
    axis.set_major_locator(_PlainTicks())
    axis.set_major_formatter(FuncFormatter(lambda value, position: plain_number(value)))
    axis.set_minor_locator(LogLocator(subs=range(2, 10)))
    axis.set_minor_formatter(NullFormatter())


def check_picture(path: Path) -> Path:
    """Find out before the drawing whether a picture of that name can be written.

    Raises:
        UsageError: its ending is no format of pictures, or the name belongs to a folder.
        TpbenchError: nothing can be written there.
    """
    return check_target(path, [f".{ending}" for ending in Figure().canvas.get_supported_filetypes()])


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the ending decides the format.

    Raises:
        TpbenchError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise TpbenchError(f"{path}: could not be written ({error})") from error
