"""What all figures share: one colour per method."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from tpbench.engine import TpbenchError, method_names
from tpbench.engine.files import check_target

# Colour-blind safe.
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B", "#7F7F7F", "#BCBD22",
)  # fmt: skip


def colour(method: str) -> str:
    """The colour of a method."""
    names = method_names()
    return _COLOURS[names.index(method) % len(_COLOURS)] if method in names else "#444444"


class _PlainPowers(LogFormatterSciNotation):
    """Powers of ten in plain characters: as formulas, labels took a fifth of the time of a figure to be parsed."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        formula = super().__call__(x, pos)
        plain = formula.removeprefix("$\\mathdefault{").removesuffix("}$").replace("\\times", "\u2009\u00d7\u2009")
        number, _, power = plain.partition("^")
        return number + power.strip("{}").translate(_RAISED)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain_powers(axis: Axis) -> None:
    """Label a logarithmic axis without formulas."""
    axis.set_major_formatter(_PlainPowers())
    axis.set_minor_formatter(_PlainPowers(labelOnlyBase=False))


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
