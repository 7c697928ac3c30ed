"""Plain tables of words in every format, and how numbers are spelled in them."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from tpbench.engine import UsageError

FORMATS = ("text", "md", "csv", "latex")

PLUS_MINUS = "±"

_LATEX = {
    "\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", PLUS_MINUS: r"$\pm$",
}  # fmt: skip


def check_format(form: str) -> str:
    """A format's name.

    Raises:
        UsageError: there is no such format.
    """
    if form not in FORMATS:
        raise UsageError(f"unknown format '{form}': there are {', '.join(FORMATS)}")
    return form


def spell(mean: float, std: float) -> str:
    """``2.04 ± 0.08``; without a deviation where there is but one seed, ``-`` where there is no number."""
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" if math.isnan(std) else f"{mean:.2f} {PLUS_MINUS} {std:.2f}"


def latex(text: str) -> str:
    """Text with what LaTeX would take for commands escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def markdown(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def plain_table(title: str, header: Sequence[str], note: str = "", *, lines: bool = False) -> RichTable:
    """A table for the terminal; text that looks like rich's markup stays what it is."""
    drawn = RichTable(
        title=Text(title), caption=Text(note) if note else None, caption_justify="left", show_lines=lines
    )  # fmt: skip
    for name in header:
        drawn.add_column(Text(name))
    return drawn


def draw(renderable: RichTable) -> str:
    """A rich table as text; coloured only where the terminal is."""
    console = Console()
    if console.is_terminal:
        with console.capture() as capture:
            console.print(renderable)
        return capture.get()
    buffer = io.StringIO()
    Console(file=buffer, width=200, no_color=True).print(renderable)
    return buffer.getvalue()


def spell_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], form: str, note: str = "") -> str:
    """A table of words as ``text``, ``md`` or ``latex`` (which needs the package booktabs).

    Raises:
        UsageError: there is no such format.
    """
    check_format(form)
    if form == "md":
        lines = [f"**{title}**", "", *markdown_rows(header, rows), *(["", note] if note else [])]
        return "\n".join(lines) + "\n"
    if form == "latex":
        body = [" & ".join(map(latex, row)) + r" \\" for row in rows]
        return latex_table(header, body, note)
    drawn = plain_table(title, header, note)
    for row in rows:
        drawn.add_row(*map(Text, row))
    return draw(drawn)


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(markdown(text) for text in line) + " |" for line in lines]


def latex_table(header: Sequence[str], body: Sequence[str], note: str = "") -> str:
    """A tabular around lines that are LaTeX already; the note becomes comments."""
    lines = [rf"\begin{{tabular}}{{{'l' * len(header)}}}", r"\toprule", " & ".join(map(latex, header)) + r" \\"]
    lines += [r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *(f"% {line}" for line in note.splitlines())]) + "\n"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter not a number for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan
