"""The style of all figures: settings, a colour per method, logarithmic axes, saving, and SVG for the report."""

from __future__ import annotations

import colorsys
import html
import io
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tpbench.engine import TpbenchError, method_names
from tpbench.engine.errors import visible
from tpbench.engine.files import atomic_write, check_target


def _import_matplotlib() -> None:
    """Import matplotlib, whatever ``MPLBACKEND`` says: it would fail for one that is not installed.

    No figure of this package needs a backend: each is drawn by the canvas of the file's format. So all modules import
    matplotlib's names from here.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        # What else draws in this process gets the backend that its user has chosen.
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


_import_matplotlib()

import matplotlib.colors  # noqa: E402
import matplotlib.style  # noqa: E402
from matplotlib.artist import Artist  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.text import Annotation  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter  # noqa: E402
from matplotlib.transforms import Bbox  # noqa: E402

__all__ = [
    "Annotation",
    "Artist",
    "Axes",
    "Bbox",
    "Figure",
    "FuncFormatter",
    "MaxNLocator",
    "MethodStyle",
    "check_picture",
    "colour",
    "drawing",
    "line_style",
    "log_scale",
    "logarithmic_labels",
    "method_style",
    "plain_number",
    "save",
]

# Letters as shapes, so that a page looks the same everywhere; a $ of a label is a $.
_SETTINGS: dict[str, Any] = {"svg.fonttype": "path", "text.usetex": False}
_drawn_with: ContextVar[bool | None] = ContextVar("formulas", default=None)


@contextmanager
def drawing(*, formulas: bool = False) -> Iterator[None]:
    """Draw with matplotlib's defaults and the settings of this project, whatever the user's matplotlibrc says.

    All figures are made and written within it, as a ``with`` block or as a decorator; afterwards the settings are what
    they were.

    Args:
        formulas: whether ``$`` in a label begins a formula; only of figures whose words are all this project's own.
    """
    if _drawn_with.get() == formulas:
        yield
        return
    before = _drawn_with.set(formulas)
    try:
        with matplotlib.rc_context():
            matplotlib.style.use("default")
            settings: Any = {**_SETTINGS, "text.parse_math": formulas}
            matplotlib.rcParams.update(settings)
            yield
    finally:
        _drawn_with.reset(before)


@dataclass(frozen=True)
class MethodStyle:
    """The appearance of a method in every figure.

    Families share a hue: BP black, fixed random feedback grey, the DTP family blue, the DDTP family orange, rules of
    other papers and packages green. Within a family two shades differ in lightness, and variants differ in line and
    marker, so that figures also read in grey print and with any colour vision.
    """

    light: str
    """Colour on white, ``#rrggbb``."""
    dark: str
    """Colour on the dark page."""
    dashes: tuple[float, ...] = ()
    """Dashes and gaps in units of the line's width; empty: solid."""
    marker: str = "o"


_SOLID: tuple[float, ...] = ()
_DASHED, _DOTTED, _DASH_DOT = (3.7, 1.6), (1.0, 1.65), (6.4, 1.6, 1.0, 1.6)
_DASH_DOT_DOT, _LONG = (6.4, 1.6, 1.0, 1.6, 1.0, 1.6), (12.0, 2.0)
_GREY = ("#767676", "#a8a8a8")
_BLUE, _LIGHT_BLUE = ("#08519c", "#6aaeea"), ("#3f94d1", "#b5dafa")
_ORANGE, _LIGHT_ORANGE = ("#a63603", "#ff9252"), ("#e6740a", "#ffc98a")
_PURPLE = ("#7b3294", "#cfa3e3")
_GREENS = (("#1b7837", "#5fc27e"), ("#4d9a3a", "#a6dba0"), ("#00776f", "#4fd1c5"))
_STYLES = {
    "bp": MethodStyle("#000000", "#e8e8e8"),
    "dfa": MethodStyle(*_GREY),
    "fa": MethodStyle(*_GREY, _DASHED, "s"),
    "dtp": MethodStyle(*_BLUE),
    "dtp-pretrained": MethodStyle(*_BLUE, _DASHED, "s"),
    "tp": MethodStyle(*_BLUE, _DOTTED, "^"),
    "dtpdrl": MethodStyle(*_LIGHT_BLUE),
    "dtpdrl-ggn": MethodStyle(*_LIGHT_BLUE, _DASH_DOT, "D"),
    "ddtp-linear": MethodStyle(*_ORANGE),
    "ddtp-control": MethodStyle(*_ORANGE, _DASHED, "s"),
    "ddtp-linear-ggn": MethodStyle(*_ORANGE, _DASH_DOT, "D"),
    "ddtp-rhl": MethodStyle(*_LIGHT_ORANGE),
    "ddtp-rhl-extra-fb": MethodStyle(*_LIGHT_ORANGE, _DASHED, "s"),
    "ddtp-rhl-rec": MethodStyle(*_LIGHT_ORANGE, _DOTTED, "^"),
    "ddtp-rhl-ggn": MethodStyle(*_LIGHT_ORANGE, _DASH_DOT, "D"),
    "ddtp-rhl-rec-extra-fb": MethodStyle(*_LIGHT_ORANGE, _DASH_DOT_DOT, "v"),
    "gnt": MethodStyle(*_PURPLE),
}
_OTHERS = [
    MethodStyle(*green, dashes, marker)
    for dashes, marker in (
        (_SOLID, "o"),
        (_DASHED, "s"),
        (_DOTTED, "^"),
        (_DASH_DOT, "D"),
        (_DASH_DOT_DOT, "v"),
        (_LONG, "P"),
    )
    for green in _GREENS
]
_MOST_LABELS = 6
_FEWEST_LABELS = 3


def method_style(method: str) -> MethodStyle:
    """Return the style of a method; those without one of their own take turns in green."""
    if method in _STYLES:
        return _STYLES[method]
    others = [name for name in method_names() if name not in _STYLES]
    # Of a package that is not installed the name alone is known.
    place = others.index(method) if method in others else zlib.crc32(method.encode(errors="surrogatepass"))
    return _OTHERS[place % len(_OTHERS)]


def points_alone(values: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Return the options of a line that mark its numbers without a neighbour, of which a line shows nothing.

    Args:
        values: of the line, with gaps where they are not finite.
    """
    known = np.isfinite(values)
    alone = known & ~np.append(False, known[:-1]) & ~np.append(known[1:], False)
    return {"marker": "o", "markersize": 2.5, "markevery": list(np.flatnonzero(alone))} if alone.any() else {}


def colour(method: str) -> str:
    """Return the colour of a method on white."""
    return method_style(method).light


# The page's own colours: on white and on the dark page.
_PAGE_COLOURS = {
    "ink": ("#1a1a1a", "#e8e8e8"),
    "muted": ("#595959", "#b0b0b0"),
    "page": ("#ffffff", "#181818"),
    "soft": ("#f5f5f5", "#242424"),
    "line": ("#d0d0d0", "#444444"),
    "accent": ("#005f99", "#7cc4f5"),
    "beware": ("#a33c00", "#ffa366"),
    "best": ("#e0ecf9", "#1b3350"),
    "better": ("#dff0df", "#1d3a20"),
    "worse": ("#fbe7d8", "#49290f"),
}
_FROM_PALETTE = {style.light: style.dark for style in (*_STYLES.values(), *_OTHERS)} | dict(_PAGE_COLOURS.values())
_CONTRAST = 3.0
"""Least contrast of a line with the page."""


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it, from 1 to 21."""

    def luminance(text: str) -> float:
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(text)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def dark_colour(light: str) -> str:
    """Return the colour on the dark page of a colour on white.

    Those of methods and of the page have one of their own. Greys and pale shades swap light and dark; other colours
    become lighter until they can be seen.
    """
    if light in _FROM_PALETTE:
        return _FROM_PALETTE[light]
    page, ink = (int(_PAGE_COLOURS[name][1][1:3], 16) / 255 for name in ("page", "ink"))
    hue, lightness, saturation = colorsys.rgb_to_hls(*matplotlib.colors.to_rgb(light))
    if saturation < 0.1 or lightness > 0.85:
        lightness = ink - lightness * (ink - page)
        return matplotlib.colors.to_hex(colorsys.hls_to_rgb(hue, lightness, saturation))
    while contrast(light, _PAGE_COLOURS["page"][1]) < _CONTRAST:
        lightness += 0.02
        light = matplotlib.colors.to_hex(colorsys.hls_to_rgb(hue, lightness, saturation))
    return light


def variable(light: str) -> str:
    """Return the CSS value of a colour on white: it follows the page into the dark."""
    return f"var(--c{matplotlib.colors.to_hex(light)[1:]})"


def colour_variables(colours: Iterable[str]) -> str:
    """Return the CSS variables of the page, the methods and these colours of figures, for light and dark screens.

    Paper is always light.
    """
    pairs = dict(_PAGE_COLOURS)
    known = sorted({*colours, *(style.light for style in (*_STYLES.values(), *_OTHERS))})
    pairs |= {f"c{light[1:]}": (light, dark_colour(light)) for light in known}
    light, dark = ("".join(f"--{name}:{pair[place]};" for name, pair in pairs.items()) for place in (0, 1))
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def line_style(dashes: tuple[float, ...]) -> tuple[float, tuple[float, ...]] | Literal["-"]:
    """Return matplotlib's line style of a pattern of dashes."""
    return (0, dashes) if dashes else "-"


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


_ZERO_SHARE = 0.15
"""Share of an axis with a 0 that lies between 0 and the smallest positive number."""
_WIDE = 5.0
"""Least ratio of the largest to the smallest positive number for which an axis with a 0 is logarithmic."""


def log_scale(axes: Axes, name: Literal["x", "y"], values: ArrayLike, measured: ArrayLike | None = None) -> None:
    """Make an axis logarithmic, with few plain numbers (2, 5, 10) as labels.

    Where a number is 0, the axis is linear from 0 to the smallest positive number, and 0 has a label. All of it is
    linear where the positive numbers lie close together, where there are none, and where a number is negative. Labels
    are no formulas, which take long to be parsed.

    Args:
        axes: the panel.
        name: of the axis.
        values: the numbers that are drawn; those that are not finite do not count.
        measured: those from which the smallest positive number is taken; None: all. Expectations over trials that reach
            0 fall far below everything that can be measured.

    Example:
        >>> axes = Figure().subplots()
        >>> log_scale(axes, "y", [0, 0.5, 20])
        >>> axes.get_yscale()
        'symlog'
    """
    drawn, counted = (_finite(values if numbers is None else numbers) for numbers in (values, measured))
    axis, set_scale = (axes.xaxis, axes.set_xscale) if name == "x" else (axes.yaxis, axes.set_yscale)
    if not drawn.size or drawn.min() < 0:
        return
    high = float(drawn.max())
    if high == 0:
        (axes.set_xlim if name == "x" else axes.set_ylim)(-0.05, 1)
        return
    if drawn.min() > 0:
        set_scale("log")
        axis.set_major_locator(_PlainTicks())
        axis.set_minor_locator(LogLocator(subs=range(2, 10)))
    else:
        low = float(min(counted[counted > 0], default=high))
        if high < _WIDE * low:
            low = high
        # Decades between 0 and the smallest positive number; the scale adds a ninth to them.
        gap = max(math.log10(2), math.log10(high / low) * _ZERO_SHARE / (1 - _ZERO_SHARE))
        set_scale("symlog", linthresh=low, linscale=0.9 * gap)
        # The margins are those of the new scale.
        axes.autoscale_view(scalex=name == "x", scaley=name == "y")
        steps = MaxNLocator(_MOST_LABELS - 1).tick_values(0, high) if low == high else logarithmic_labels(low, high)
        axis.set_major_locator(FixedLocator([0, *(step for step in steps if step > 0)]))
        minor = [] if low == high else LogLocator(subs=range(2, 10)).tick_values(low, high)
        axis.set_minor_locator(FixedLocator([tick for tick in minor if tick >= low]))
    axis.set_major_formatter(FuncFormatter(lambda value, position: plain_number(value)))
    axis.set_minor_formatter(NullFormatter())


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = np.asarray(values, dtype=np.float64).ravel()
    return numbers[np.isfinite(numbers)]


@drawing()
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
        TpbenchError: it cannot be written; an earlier picture stays.
    """
    form = path.suffix.removeprefix(".").lower()
    # The same picture is the same SVG: no date, and ids that do not change.
    with drawing(), matplotlib.rc_context({"svg.hashsalt": "tpbench"}), atomic_write(path) as file:
        try:
            figure.savefig(file, dpi=200, format=form, metadata={"Date": None} if form == "svg" else None)
        except (ValueError, RuntimeError) as error:
            raise TpbenchError(f"{path}: could not be drawn ({error})") from error


# SVG inside a page: small, with unique ids, and with curves that have labels.
_MARK = "series"
_MARKED = re.compile(rf'<g id="{_MARK}:([^":]*):([^":]*):([^":]*)">')
_HEAD = re.compile(r'<svg[^>]*? width="([^"]*)" height="([^"]*)" viewBox="([^"]*)"[^>]*>')
_NEEDLESS = re.compile(r'<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->|<g id="[^"]*"/>', re.DOTALL)
_GROUP_ID = re.compile(r'<g id="[^"]*">')
# Of a style, not of a reference.
_COLOUR = re.compile(r"(?<=: )#[0-9a-f]{6}\b")
# A character of a font: always the same shape under the same name.
_GLYPH = re.compile(r'<path id="([A-Za-z-]+-[0-9a-f]+)".*?/>\s*', re.DOTALL)
# Of coordinates; what a group is called is no number.
_DIGITS = re.compile(r'<g id="[^"]*">|(\.\d\d\d)\d+')
_SPACE = re.compile(r"\s*\n\s*")
_EMPTY = re.compile(r"<defs>\s*</defs>")


def mark(artist: Artist, place: str, name: str, label: str = "") -> None:
    """Label a part of a figure with its series, for the report's page.

    Args:
        artist: the part.
        place: what it is, one word; together with the name nothing else of the figure has it.
        name: of the series, shared by everything in all figures that belongs together.
        label: read by screen readers and shown beside the pointer; without it the part only belongs to the series.
    """
    artist.set_gid(":".join([_MARK, *(quote(visible(text), safe="") for text in (place, name, label))]))


@drawing()
def to_svg(figure: Figure) -> str:
    """Render a figure as SVG, as matplotlib writes it."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    # Not by savefig, which draws a figure once more only to lay it out.
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    return text[text.index("<svg") :]


class Glyphs:
    """The shapes of characters and the colours, which all figures of a page share."""

    def __init__(self) -> None:
        self._shapes: dict[str, str] = {}
        self.colours: set[str] = set()
        """The colours on white of all figures."""

    def extract(self, svg: str) -> str:
        """Move the shapes of characters out of a picture into this collection."""

        def keep(match: re.Match[str]) -> str:
            self._shapes[match[1]] = match[0].strip()
            return ""

        return _GLYPH.sub(keep, svg)

    def follow_page(self, svg: str) -> str:
        """Turn the colours of a picture into variables of the page and note them."""
        self.colours.update(_COLOUR.findall(svg))
        return _COLOUR.sub(lambda match: variable(match[0]), svg)

    @property
    def svg(self) -> str:
        """The SVG definitions that the page must hold once."""
        return f'<svg width="0" height="0" aria-hidden="true"><defs>{"".join(self._shapes.values())}</defs></svg>'

    def update(self, other: Glyphs) -> None:
        """Add all that another collection has."""
        for name, values in vars(other).items():
            getattr(self, name).update(values)


def inline_svg(svg: str, alt: str, glyphs: Glyphs) -> str:
    """Prepare a figure of :func:`to_svg` for a page with many figures: its series can be focused and have labels.

    Args:
        svg: the figure.
        alt: what it shows.
        glyphs: of the page.
    """
    text = glyphs.follow_page(glyphs.extract(_NEEDLESS.sub("", svg)))
    text = _DIGITS.sub(lambda match: match[1] or match[0], text)
    # Nothing refers to groups, and every figure numbers them alike.
    text = _GROUP_ID.sub("<g>", _MARKED.sub(_series, text))
    text = _HEAD.sub(partial(_head, alt), text, count=1)
    return _SPACE.sub("\n", _EMPTY.sub("", text))


def _series(match: re.Match[str]) -> str:
    name, label = (_escaped(unquote(text)) for text in match.groups()[1:])
    if not label:
        return f'<g class="series" data-name="{name}">'
    # While no script runs each is a stop of the tabulator; with one, a figure is a stop, and arrows lead on.
    return f'<g class="series" data-name="{name}" tabindex="0" role="img" aria-label="{label}"><title>{label}</title>'


def _head(alt: str, match: re.Match[str]) -> str:
    width, height, box = match.groups()
    return f'<svg width="{width}" height="{height}" viewBox="{box}" role="group" aria-label="{_escaped(alt)}">'


def _escaped(text: str) -> str:
    return html.escape(visible(text), quote=True)
