"""Tables in every format: text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable

from tpbench.engine import UsageError, method_title
from tpbench.results.origins import origins_of
from tpbench.results.statistics import LEVEL
from tpbench.results.tables import Entry, ErrorTable, table_rows

FORMATS = ("text", "md", "csv", "latex")


PLUS_MINUS = "±"


def spell(mean: float, std: float, plus_minus: str = PLUS_MINUS) -> str:
    """``2.04 ± 0.08``; without a deviation where there is but one seed, ``-`` where there is no number."""
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" if math.isnan(std) else f"{mean:.2f} {plus_minus} {std:.2f}"


def entry_lines(entry: Entry, plus_minus: str = PLUS_MINUS) -> tuple[str, str]:
    """An entry in two lines: the measured value, and the paper's with the difference."""
    measured = spell(entry.cell.mean, entry.cell.std, plus_minus) if entry.cell else "missing"
    if entry.tied:
        measured += " ="
    if entry.marks:
        measured += f" [{', '.join(entry.marks)}]"
    if entry.paper is None:
        return measured, "paper: /"
    differs = " *" if entry.p_paper < LEVEL else ""
    return measured, f"paper: {spell(*entry.paper, plus_minus)}{_difference(entry)}{differs}"


def _difference(entry: Entry) -> str:
    if entry.difference is None or entry.deviations is None or math.isnan(entry.difference):
        return ""
    return f" ({entry.difference:+.2f}, {entry.deviations:+.1f} sd)"


FOOTNOTE = (
    "Mean and sample standard deviation over seeds of the test error (%) at the epoch with the lowest validation "
    "error; in brackets the difference to the paper, also in standard deviations (sd) of the paper's cell. Bold: best "
    "except BP. =: statistically tied with the best (paired t-test over shared seeds, Holm-corrected, p >= 0.05). *: "
    "differs from the paper's cell (Welch's test from its printed mean, deviation and n = 10, p < 0.05, not corrected "
    "for the number of cells). [n seeds], [n epochs]: fewer than the protocol's 10 seeds or its full number of epochs."
)


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


def render_text(table: ErrorTable) -> str:
    """A table for the terminal."""
    drawn = RichTable(title=table.title, caption=FOOTNOTE, caption_justify="left", show_lines=True)
    drawn.add_column("method")
    for column in table.columns:
        drawn.add_column(column.title)
    for method in table.rows:
        cells = []
        for column in table.columns:
            measured, paper = entry_lines(table.entries[method, column])
            measured = measured.replace("[", "\\[")
            cells.append(
                f"[bold]{measured}[/bold]\n{paper}" if table.entries[method, column].best else f"{measured}\n{paper}"
            )
        drawn.add_row(method_title(method), *cells)
    return draw(drawn)


def render_markdown(table: ErrorTable) -> str:
    """A table in GitHub's Markdown, and what made its cells."""
    lines = [f"**{table.title}**", "", "| method | " + " | ".join(c.title for c in table.columns) + " |"]
    lines.append("|---" * (1 + len(table.columns)) + "|")
    for method in table.rows:
        cells = []
        for column in table.columns:
            entry = table.entries[method, column]
            measured, paper = entry_lines(entry)
            cells.append(f"{f'**{measured}**' if entry.best else measured}<br>{paper}")
        lines.append(f"| {method_title(method)} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", FOOTNOTE, "", *_origin_lines(table), ""])


def _origin_lines(table: ErrorTable) -> list[str]:
    """What made the cells: usually one row per cell, more where several commands or machines did."""
    lines = ["| cell | n | epochs | time | hardware | torch | commit | command |", "|---" * 8 + "|"]
    found = [table.entries[method, column].cell for column in table.columns for method in table.rows]
    for origin in (origin for cell in found if cell for origin in origins_of(cell)):
        command = origin.said("command").replace("`", "'").replace("|", "\\|")
        values = (
            f"{origin.cell.workload_title} {origin.cell.method}", len(origin.runs), origin.cell.epochs,
            f"{origin.seconds / 60:.0f} min", origin.hardware, origin.said("torch"), origin.said("commit")[:12],
            f"`{command}`",
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, values)) + " |")
    return lines if any(found) else []


def _latex(text: str) -> str:
    return text.replace("%", r"\%").replace("_", r"\_").replace("&", r"\&")


def render_latex(table: ErrorTable) -> str:
    """A table for a paper (needs the package booktabs): measured values with the paper's below."""
    lines = [rf"\begin{{tabular}}{{l{'l' * len(table.columns)}}}", r"\toprule"]
    lines.append(" & ".join(["Method", *(_latex(c.title) for c in table.columns)]) + r" \\")
    lines.append(r"\midrule")
    for method in table.rows:
        upper, lower = [_latex(method_title(method))], [""]
        for column in table.columns:
            entry = table.entries[method, column]
            measured, paper = (_latex(line) for line in entry_lines(entry, r"$\pm$"))
            upper.append(rf"\textbf{{{measured}}}" if entry.best else measured)
            lower.append(rf"{{\footnotesize {paper}}}")
        lines += [" & ".join(upper) + r" \\", " & ".join(lower) + r" \\"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", f"% {FOOTNOTE}", ""])


def render(table: ErrorTable, form: str) -> str:
    """A table in one of :data:`FORMATS`.

    Raises:
        UsageError: there is no such format.
    """
    if form == "csv":
        return table_rows(table).to_csv(index=False, float_format="%.4f", lineterminator="\n")
    spellings = {"text": render_text, "md": render_markdown, "latex": render_latex}
    if form not in spellings:
        raise UsageError(f"unknown format '{form}': there are {', '.join(FORMATS)}")
    return spellings[form](table)


def damping_table(rows: Sequence[tuple[str, Sequence[float], Sequence[float] | None]], form: str) -> str:
    """Table S7 in one of :data:`FORMATS`: the chosen damping per method and hidden layer, the paper's in brackets.

    Raises:
        UsageError: there is no such format.
    """
    if form not in FORMATS:
        raise UsageError(f"unknown format '{form}': there are {', '.join(FORMATS)}")
    layers = max(len(found) for _, found, _ in rows)
    frame = pd.DataFrame(
        [
            {"method": method, "layer": k + 1, "damping": value, "paper": printed[k] if printed else math.nan}
            for method, found, printed in rows
            for k, value in enumerate(found)
        ]
    )
    if form == "csv":
        return frame.to_csv(index=False, lineterminator="\n")
    header = ["method", *(f"layer {k + 1}" for k in range(layers))]
    body = []
    for method, found, printed in rows:
        beside = [f" ({p:g})" for p in printed] if printed and len(printed) == len(found) else [""] * len(found)
        body.append([method_title(method), *(f"{v:g}{p}" for v, p in zip(found, beside, strict=True))])
    if form == "md":
        rule = ["---"] * len(header)
        return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *body)) + "\n"
    if form == "latex":
        lines = [rf"\begin{{tabular}}{{l{'l' * layers}}}", r"\toprule"]
        lines += [" & ".join(header) + r" \\", r"\midrule", *(" & ".join(map(_latex, b)) + r" \\" for b in body)]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
    drawn = RichTable(*header, title="Table S7: best damping (the paper's in brackets)")
    for line in body:
        drawn.add_row(*line)
    return draw(drawn)
