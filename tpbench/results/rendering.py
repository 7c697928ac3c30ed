"""The paper's tables in every format: text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import math

from rich.text import Text

from tpbench.engine import method_title
from tpbench.engine.errors import visible
from tpbench.results.budgets import same_budget
from tpbench.results.formats import (
    check_format,
    csv_number,
    csv_text,
    draw,
    latex,
    latex_table,
    markdown,
    markdown_code,
    markdown_rows,
    plain_table,
    spell,
    words,
)
from tpbench.results.origins import origins_of
from tpbench.results.standings import ENOUGH_WORDS, Verdict
from tpbench.results.statistics import LEVEL
from tpbench.results.tables import Column, Entry, ErrorTable, table_rows


def entry_lines(entry: Entry) -> tuple[str, str]:
    """An entry in two lines: the measured value, and the paper's with the difference."""
    measured = _measured(entry)
    if entry.paper is None:
        return measured, "paper: /"
    return measured, f"paper: {spell(*entry.paper)}{_difference(entry)}"


def _measured(entry: Entry) -> str:
    if entry.cell is None or entry.standing is None:
        return "missing"
    words = spell(entry.cell.mean, entry.cell.std)
    if entry.standing.verdict.value:
        words += f" {entry.standing.verdict.value}"
    comparison = entry.standing.comparison
    if comparison and entry.standing.verdict is Verdict.NOT_TOLD_APART:
        words += " (-)" if entry.standing.silent else f" ({comparison.detectable:.2f})"
    if entry.standing.unequal:
        words += " #"
    return words + (f" [{', '.join(entry.marks)}]" if entry.marks else "")


def _difference(entry: Entry) -> str:
    if entry.difference is None or entry.deviations is None or math.isnan(entry.difference):
        return ""
    said = "?" if math.isnan(entry.p_paper) else "*" if entry.p_paper < LEVEL else "~"
    return f" ({entry.difference:+.2f}, {entry.deviations:+.1f} sd) {said}"


FOOTNOTE = (
    "Mean and sample standard deviation over seeds of the test error (%) at the epoch with the lowest validation "
    "error; diverged seeds do not enter it. Bold, or (best): the lowest mean validation error of the methods with "
    f"{ENOUGH_WORDS}"
    ", BP aside. Against the best: = (d) not told apart, where d is the difference that the test would show four "
    "times in five (-: none, with so few seeds); >, < higher, lower error (p < 0.05); ? could not be tested (fewer "
    "than three seeds, diverged seeds). Tests: exact sign-flip permutation over shared seeds (paired t-test beyond "
    "12), Welch's where fewer than three are shared, Holm-corrected. #: found with another search budget than the "
    "best, or trained for other epochs. Below: the paper's value, the difference, also in standard deviations (sd) of "
    "the paper's cell; * differs from it (Welch's test from its printed mean, deviation and n = 10, p < 0.05, not "
    "corrected for the number of cells), ~ does not, ? could not be tested. [n seeds], [n epochs], [n diverged]: "
    "departs from the protocol's 10 seeds and its number of epochs. The rules: docs/protocol.md."
)


def against_paper(table: ErrorTable) -> str:
    """The cells against the paper's together, in a sentence; nothing where none could be tested."""
    found = table.overall
    if not found.tested:
        return ""
    return (
        f"Against the paper: {found.differing} of {found.tested} cells of full length differ (p < 0.05; "
        f"{found.expected:.1f} expected by chance alone); {found.above} lie above it; all together p = "
        f"{found.p:.2g} (Stouffer). tpbench's errors are over all test samples, the paper's are means over "
        "minibatches: on MNIST and Fashion-MNIST lower by some 1 % of the error, an estimate (docs/protocol.md)."
    )


def notes(table: ErrorTable) -> list[str]:
    """What must be said of the whole table: the cells against the paper's together, and unequal search budgets."""
    lines = [said] if (said := against_paper(table)) else []
    lines += [line for column in table.columns if (line := _budgets(table, column))]
    if table.others:
        lines.append(
            f"In this store but not in the paper's table (see 'tpbench leaderboard'): {', '.join(table.others)}."
        )
    return lines


def _budgets(table: ErrorTable, column: Column) -> str:
    """How the configurations of a column were found, where that was at different costs."""
    cells = {method: entry.cell for method, entry in table.column(column).items() if entry.cell}
    if all(same_budget(one.budget, other.budget) is not False for one in cells.values() for other in cells.values()):
        return ""
    found = "; ".join(f"{method_title(method)}: {cell.budget}" for method, cell in cells.items())
    return f"Search budgets differ on {column.title}, so its differences are not those of the rules alone: {found}."


def _footnotes(table: ErrorTable) -> str:
    """What stands below a table, a line each: no name of a file begins another."""
    return "\n".join(map(visible, [FOOTNOTE, *notes(table)]))


def render_text(table: ErrorTable) -> str:
    """A table for the terminal."""
    header = ["method", *(column.title for column in table.columns)]
    drawn = plain_table(table.title, header, _footnotes(table), lines=True)
    for method in table.rows:
        cells = []
        for column in table.columns:
            entry = table.entries[method, column]
            measured, paper = entry_lines(entry)
            # Plain text has no bold letters.
            measured += " (best)" if entry.best else ""
            cells.append(Text.assemble(words(measured, "bold" if entry.best else ""), "\n", words(paper)))
        drawn.add_row(words(method_title(method)), *cells)
    return draw(drawn)


def render_markdown(table: ErrorTable) -> str:
    """A table in GitHub's Markdown, and what made its cells."""
    rows = []
    for method in table.rows:
        cells = []
        for column in table.columns:
            entry = table.entries[method, column]
            measured, paper = map(markdown, entry_lines(entry))
            cells.append(f"{f'**{measured}**' if entry.best else measured}<br>{paper}")
        rows.append([markdown(method_title(method)), *cells])
    lines = markdown_rows(["method", *(column.title for column in table.columns)], rows)
    said = [part for note in (FOOTNOTE, *notes(table)) for part in ("", markdown(note))]
    return "\n".join([f"**{markdown(table.title)}**", "", *lines, *said, "", *_origin_lines(table), ""])


_ORIGIN = ("cell", "n", "epochs", "time", "hardware", "torch", "commit", "configuration from", "command")


def _origin_lines(table: ErrorTable) -> list[str]:
    """What made the cells: usually one row per cell, more where several commands or machines did."""
    found = [table.entries[method, column].cell for column in table.columns for method in table.rows]
    rows = []
    for origin in (origin for cell in found if cell for origin in origins_of(cell)):
        values = (
            f"{origin.cell.workload_title} {origin.cell.method}",
            len(origin.runs),
            origin.cell.epochs,
            f"{origin.seconds / 60:.0f} min",
            origin.hardware,
            origin.said("torch"),
            origin.said("commit")[:12],
            origin.cell.budget,
        )
        rows.append([*(markdown(str(value)) for value in values), markdown_code(origin.said("command"))])
    return markdown_rows(_ORIGIN, rows) if rows else []


def render_latex(table: ErrorTable) -> str:
    """A table for a paper (needs the package booktabs): measured values with the paper's below."""
    body = []
    for method in table.rows:
        upper, lower = [latex(method_title(method))], [""]
        for column in table.columns:
            entry = table.entries[method, column]
            measured, paper = map(latex, entry_lines(entry))
            upper.append(rf"\textbf{{{measured}}}" if entry.best else measured)
            lower.append(rf"{{\footnotesize {paper}}}")
        body += [" & ".join(upper) + r" \\", " & ".join(lower) + r" \\"]
    return latex_table(["Method", *(c.title for c in table.columns)], body, _footnotes(table))


def render(table: ErrorTable, form: str) -> str:
    """A table in one of :data:`tpbench.results.formats.FORMATS`.

    Raises:
        UsageError: there is no such format.
    """
    if check_format(form) == "csv":
        return csv_text(table_rows(table), csv_number)
    return {"text": render_text, "md": render_markdown, "latex": render_latex}[form](table)
