"""Text for terminals of any encoding, formats of numbers, and plain tables as text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import codecs
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from tpbench.engine.errors import UsageError, unknown, visible

if TYPE_CHECKING:
    import pandas as pd

# By name where two characters look alike.
_REPLACEMENTS = {
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
"""Name of the error handler (``errors`` of text streams) that replaces characters that cannot be encoded."""


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that cannot be encoded; those without a replacement become escapes, so paths stay readable."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    words = (_REPLACEMENTS.get(c) or c.encode("ascii", errors="backslashreplace").decode("ascii") for c in unknown)
    return "".join(words), error.end


codecs.register_error(REPLACE, _replace)


def prepare_streams() -> None:
    """Let standard output and error take any text; characters that they cannot encode are replaced."""
    for stream in (sys.stdout, sys.stderr):
        # What stands in for them (in notebooks, in tests) takes any text already, or is no text stream at all.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors=REPLACE)


def showable(text: str, stream: TextIO | None = None) -> str:
    """Return text as a stream (by default standard output) shows it, so that tables know its width.

    It is one line; control characters become escapes (:func:`tpbench.engine.errors.visible`).
    """
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return visible(text).encode(encoding, errors=REPLACE).decode(encoding)


def count_of(number: int, noun: str) -> str:
    """Return ``1 run`` or ``3 runs``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def say(text: str, *, error: bool = False) -> None:
    """Print a line; control characters in names from files and arguments become escapes.

    Args:
        error: on standard error. Not by click, which would write UTF-8 there whatever its encoding is.
    """
    print(visible(text), file=sys.stderr if error else sys.stdout, flush=True)


def print_line(text: str, console: Console, style: str = "") -> None:
    """Print one line that is never wrapped and never read as markup or as an emoji's name."""
    console.print(Text(visible(text), style), soft_wrap=True)


FORMATS = ("text", "md", "csv", "latex")

EXPORT_FORMATS = {"csv": (".csv",), "parquet": (".parquet", ".pq")}
"""Formats of exports, and the suffixes of their files."""

PLUS_MINUS = "±"

_LATEX = {
    "\\": r"\textbackslash{}",
    "%": r"\%",
    "_": r"\_",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"\textbar{}",
    '"': "''",
    PLUS_MINUS: r"$\pm$",
}


def check_format(form: str) -> str:
    """Return the name of a format.

    Raises:
        UsageError: there is no such format.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    return form


def export_format(path: Path, form: str | None = None) -> str:
    """Return the format of a file of exported runs: by its suffix, or the given one where that is unknown.

    Raises:
        UsageError: there is no such format, the suffix is that of another, or no format is given.
    """
    if form is not None and form not in EXPORT_FORMATS:
        raise unknown("format", form, EXPORT_FORMATS)
    named = next((name for name, endings in EXPORT_FORMATS.items() if path.suffix.lower() in endings), None)
    if named and form and named != form:
        raise UsageError(f"'{path}' is named as {named}, but --format says {form}")
    if not (named or form):
        raise UsageError(f"'{path}': its name does not say what to write; give --format {' or '.join(EXPORT_FORMATS)}")
    return form or str(named)


def format_mean(mean: float, std: float) -> str:
    """Return ``2.04 ± 0.08``; without a deviation for a single seed, ``-`` where there is no number."""
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" if math.isnan(std) else f"{mean:.2f} {PLUS_MINUS} {std:.2f}"


def format_interval(low: float, high: float, digits: int) -> str:
    """Return ``[-0.0, +3.9]``: a bound that is rounded to 0 keeps its sign, which tells whether 0 lies inside."""
    return f"[{low:+.{digits}f}, {high:+.{digits}f}]"


def format_loss(mean: float, deviation: float) -> str:
    """Return ``0.0123 ± 0.0011``, as :func:`format_mean`: losses span orders of magnitude, so three digits count."""
    if math.isnan(mean):
        return "-"
    return f"{mean:.3g}" if math.isnan(deviation) else f"{mean:.3g} {PLUS_MINUS} {deviation:.2g}"


# A sign of a number; that of a range, such as 0-9, is none.
_SIGN = re.compile(r"(?<![\w.)])([+-])(?=\d)")


def latex(text: str) -> str:
    """Return text with the special characters of LaTeX escaped; signs of numbers are mathematics."""
    signs = _SIGN.sub(lambda found: "\0" if found[1] == "-" else "\1", visible(text))
    escaped = "".join(_LATEX.get(character, character) for character in signs)
    # Hyphens in a row would be set as a dash.
    return re.sub("-(?=-)", "-{}", escaped).replace("\0", "$-$").replace("\1", "$+$")


# The beginning of a tag, a comment or an address in Markdown; a lone < is a mark of tables.
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_MARKUP = re.compile(r"[\\|$*`~]|(?<!\w)_|_(?!\w)")


def markdown(text: str) -> str:
    """Return text for a cell or a line of Markdown, in which nothing is HTML, a link, a formula or emphasis."""
    escaped = _MARKUP.sub(r"\\\g<0>", _ENTITY.sub("&amp;", visible(text)))
    return _TAG.sub("&lt;", escaped).replace("](", "]\\(")


def markdown_code(text: str) -> str:
    """Return text for a cell of a Markdown table as code, in which nothing is HTML."""
    quoted = visible(text).replace("`", "'").replace("|", "\\|")
    return f"`{quoted}`"


def csv_number(value: float) -> str:
    """Format a number for CSV: four digits after the point, or two that count where those are zero (2.3e-07)."""
    short = f"{value:.4f}"
    return short if value == 0 or float(short) else f"{value:.2g}"


# The beginning of a formula of a spreadsheet, unless it is that of a number.
_FORMULA = re.compile(r"[=+\-@\t\r]")


def csv_text(frame: pd.DataFrame, number: Callable[[Any], str] | str | None = None) -> str:
    """Return a data frame as CSV.

    Text that a spreadsheet would read as a formula begins with an apostrophe; control characters become escapes.

    Args:
        number: format of numbers that are not whole; None: in full.
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    escaped: Any = frame.rename(columns=lambda name: visible(str(name)))
    for place, kind in enumerate(frame.dtypes):
        if not (is_numeric_dtype(kind) or is_bool_dtype(kind)):
            escaped.isetitem(place, frame.iloc[:, place].map(_csv_cell).astype(object))
    return str(escaped.to_csv(index=False, float_format=number, lineterminator="\n"))


def _csv_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return ("'" if _FORMULA.match(value) and not _is_number(value) else "") + visible(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "-"
    return True


def plain_text(text: str, style: str = "") -> Text:
    """Return text for the terminal that rich does not read as markup."""
    return Text(showable(text), style)


def plain_table(title: str, header: Sequence[str], note: str = "", *, lines: bool = False) -> RichTable:
    """Return an empty table for the terminal, to be filled with :func:`plain_text`."""
    drawn = RichTable(
        title=plain_text(title) if title else None,
        caption=Text("\n".join(map(showable, note.split("\n")))) if note else None,
        caption_justify="left",
        show_lines=lines,
    )
    for name in header:
        # On a narrow terminal names are folded, not cut: people copy them.
        drawn.add_column(plain_text(name), overflow="fold")
    return drawn


def listing(header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", note: str = "") -> str:
    """Return a table for the terminal, as commands print rows."""
    return format_table(title, header, rows, "text", note)


def _fit_columns(table: RichTable, console: Console) -> None:
    """Set the widths of a table's columns so that no word is broken, if need be without lines between the columns.

    Rich itself makes the widest columns narrower first, in the middle of their words.
    """
    sizes = []
    for column in table.columns:
        cells = [Measurement.get(console, console.options, cell) for cell in (column.header, *column.cells)]
        sizes.append((max(cell.minimum for cell in cells), max(cell.maximum for cell in cells)))
    least, most = (sum(size[k] for size in sizes) for k in (0, 1))
    free = console.width - 3 * len(sizes) - 1
    if least > free:
        table.box, table.show_edge, table.pad_edge, table.padding = box.SIMPLE_HEAD, False, False, (0, 1, 0, 0)
        free = console.width - 2 * (len(sizes) - 1)
    if least <= free < most:
        for column, (narrow, wide) in zip(table.columns, sizes, strict=True):
            column.width = narrow + (wide - narrow) * (free - least) // (most - least)


def draw(renderable: RichTable) -> str:
    """Return a rich table as text; colours and boxes only as the terminal has them."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200, no_color=True)
    _fit_columns(renderable, console)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@dataclass(frozen=True)
class Value:
    """An entry of a table: a line, and lines below it."""

    text: str
    below: str = ""
    """Lines with newlines between them."""
    bold: bool = False
    """True: the first line is bold; as text it is followed by a star too, as letters may be all alike."""


def format_table(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str | Value]], form: str, note: str = ""
) -> str:
    """Format a table as ``text``, ``md`` or ``latex`` (:func:`latex_table`).

    Args:
        title: above the table.
        header: names of the columns.
        rows: entries.
        form: one of these formats.
        note: below the table, a paragraph a line.

    Raises:
        UsageError: there is no such format.
    """
    check_format(form)
    values = [[entry if isinstance(entry, Value) else Value(entry) for entry in row] for row in rows]
    if form == "md":
        lines = [
            f"**{markdown(title)}**",
            "",
            *markdown_rows(header, [list(map(_markdown_value, row)) for row in values]),
        ]
        return "\n".join([*lines, *(part for line in note.split("\n") if line for part in ("", markdown(line)))]) + "\n"
    if form == "latex":
        body = []
        for row in values:
            bold = r"\textbf{{\boldmath {}}}"
            body.append([bold.format(latex(value.text)) if value.bold else latex(value.text) for value in row])
            below = [value.below.split("\n") if value.below else [] for value in row]
            for entries in zip_longest(*below, fillvalue=""):
                body.append([rf"{{\footnotesize {latex(line)}}}" if line else "" for line in entries])
        return latex_table(title, header, [" & ".join(row) + r" \\" for row in body], note)
    drawn = plain_table(title, header, note, lines=any(value.below for row in values for value in row))
    for row in values:
        drawn.add_row(*map(_text_value, row))
    return draw(drawn)


def _markdown_value(value: Value) -> str:
    text = f"**{markdown(value.text)}**" if value.bold else markdown(value.text)
    return "<br>".join([text, *map(markdown, value.below.split("\n"))]) if value.below else text


def _text_value(value: Value) -> Text:
    text = plain_text(f"{value.text} *", "bold") if value.bold else plain_text(value.text)
    return Text("\n").join([text, *map(plain_text, value.below.split("\n"))]) if value.below else text


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; rows are Markdown already (:func:`markdown`, :func:`markdown_code`)."""
    lines = [list(map(markdown, header)), ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def latex_table(title: str, header: Sequence[str], body: Sequence[str], note: str = "") -> str:
    """Return a float around lines that are LaTeX already; title is its caption, and the lines of the note stand below.

    It is as wide as the text at most. The document needs the packages booktabs and graphicx.
    """
    notes = [rf"{latex(line)}\par" for line in note.split("\n") if line]
    lines = [
        "% \\usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{latex(title)}.}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * len(header)}}}",
        r"\toprule",
        " & ".join(map(latex, header)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        *([r"\par\smallskip\raggedright\footnotesize", *notes] if notes else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation; the latter is not a number for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan
