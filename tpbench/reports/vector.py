"""Figures as SVG inside a page: small, with ids that are nowhere twice, and with curves that say what they are."""

from __future__ import annotations

import html
import io
import re
from functools import partial
from urllib.parse import quote, unquote

from tpbench.engine.errors import visible
from tpbench.reports.style import Artist, Figure, drawing

_MARK = "series"
_MARKED = re.compile(rf'<g id="{_MARK}:([^":]*):([^":]*):([^":]*)">')
_HEAD = re.compile(r'<svg[^>]*? width="([^"]*)" height="([^"]*)" viewBox="([^"]*)"[^>]*>')
_NEEDLESS = re.compile(r'<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->|<g id="[^"]*"/>', re.DOTALL)
_GROUP_ID = re.compile(r'<g id="[^"]*">')
# A character of a font: always the same shape under the same name.
_GLYPH = re.compile(r'<path id="([A-Za-z-]+-[0-9a-f]+)".*?/>\s*', re.DOTALL)
# Of coordinates; what a group is called is no number.
_DIGITS = re.compile(r'<g id="[^"]*">|(\.\d\d\d)\d+')
_SPACE = re.compile(r"\s*\n\s*")
_EMPTY = re.compile(r"<defs>\s*</defs>")


def mark(artist: Artist, place: str, name: str, said: str = "") -> None:
    """Let a part of a figure say on a page which series it belongs to.

    Args:
        artist: the part.
        place: what it is, one word; together with the name nothing else of the figure has it.
        name: of the series, shared by everything in all figures that belongs together.
        said: what is read out, and shown beside the pointer; without it the part only belongs to the series.
    """
    artist.set_gid(":".join([_MARK, *(quote(visible(text), safe="") for text in (place, name, said))]))


@drawing()
def drawn(figure: Figure) -> str:
    """A figure as SVG, as matplotlib writes it."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    # Not by savefig, which draws a figure once more only to lay it out.
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    return text[text.index("<svg") :]


class Glyphs:
    """The shapes of characters, which all figures of a page share."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def take(self, svg: str) -> str:
        """The same picture without the shapes, which are kept here."""

        def keep(found: re.Match[str]) -> str:
            self._found[found[1]] = found[0].strip()
            return ""

        return _GLYPH.sub(keep, svg)

    @property
    def svg(self) -> str:
        """What the page must hold once for the characters to be seen."""
        return f'<svg width="0" height="0" aria-hidden="true"><defs>{"".join(self._found.values())}</defs></svg>'


def inline(svg: str, alt: str, glyphs: Glyphs) -> str:
    """A figure of :func:`drawn` for a page that holds many: its series can be focused and say their names.

    Args:
        svg: the figure.
        alt: what it shows.
        glyphs: of the page.
    """
    text = _DIGITS.sub(lambda found: found[1] or found[0], glyphs.take(_NEEDLESS.sub("", svg)))
    # Nothing refers to groups, and every figure numbers them alike.
    text = _GROUP_ID.sub("<g>", _MARKED.sub(_series, text))
    text = _HEAD.sub(partial(_head, alt), text, count=1)
    return _SPACE.sub("\n", _EMPTY.sub("", text))


def _series(found: re.Match[str]) -> str:
    name, said = (_escaped(unquote(text)) for text in found.groups()[1:])
    if not said:
        return f'<g class="series" data-name="{name}">'
    # While no script runs each is a stop of the tabulator; with one, a figure is a stop, and arrows lead on.
    return f'<g class="series" data-name="{name}" tabindex="0" role="img" aria-label="{said}"><title>{said}</title>'


def _head(alt: str, found: re.Match[str]) -> str:
    width, height, box = found.groups()
    return f'<svg width="{width}" height="{height}" viewBox="{box}" role="group" aria-label="{_escaped(alt)}">'


def _escaped(text: str) -> str:
    return html.escape(visible(text), quote=True)
