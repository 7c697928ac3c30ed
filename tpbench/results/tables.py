"""The paper's tables and the leaderboard, computed from a store alone."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable

from tpbench.engine import UsageError, all_methods
from tpbench.results.cells import FULL_SEEDS, Cell, choose_cells
from tpbench.results.paper import paper_cell, table_methods
from tpbench.results.statistics import LEVEL, against_best, bootstrap_interval, compare_with_printed
from tpbench.results.store import RunStore, write_atomically
from tpbench.workloads import WORKLOADS

PAPER_WORKLOADS = ("mnist", "mnist-frozen", "fashion-mnist", "cifar10")
FORMATS = ("text", "md", "csv", "latex")
PLUS_MINUS = "±"


@dataclass(frozen=True)
class Entry:
    """One entry of a table, ready to be spelled in any format."""

    cell: Cell | None
    paper: tuple[float, float] | None
    best: bool = False
    p_best: float = math.nan
    """Holm-adjusted p of the paired test against the column's best method except BP; not a number if none was made."""

    @property
    def tied(self) -> bool:
        """Whether the runs do not tell the method from the best."""
        return self.p_best >= LEVEL

    @property
    def p_paper(self) -> float:
        """p of Welch's test against the paper's cell."""
        if self.cell is None or self.paper is None:
            return math.nan
        return compare_with_printed(self.cell.errors(), self.paper)

    @property
    def marks(self) -> list[str]:
        """What the entry lacks of the paper's protocol: fewer seeds or epochs, diverged runs."""
        if self.cell is None:
            return []
        marks = []
        if self.cell.seeds < FULL_SEEDS:
            marks.append(f"{self.cell.seeds} seed{'s' * (self.cell.seeds > 1)}")
        full = WORKLOADS[self.cell.workload].epochs if self.cell.workload in WORKLOADS else self.cell.epochs
        if self.cell.epochs < full:
            marks.append(f"{self.cell.epochs} epoch{'s' * (self.cell.epochs > 1)}")
        if self.cell.diverged:
            marks.append(f"{self.cell.diverged} diverged")
        return marks

    @property
    def difference(self) -> float | None:
        """Measured mean minus the paper's, in percentage points."""
        return None if self.cell is None or self.paper is None else self.cell.mean - self.paper[0]


def spell(mean: float, std: float, plus_minus: str = PLUS_MINUS) -> str:
    """``2.04 ± 0.08``; without a deviation where there is but one seed, ``-`` where there is no number."""
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" if math.isnan(std) else f"{mean:.2f} {plus_minus} {std:.2f}"


@dataclass(frozen=True)
class Column:
    """One column of a table: a workload as trained on one kind of data."""

    workload: str
    data_label: str

    @property
    def title(self) -> str:
        title = WORKLOADS[self.workload].title if self.workload in WORKLOADS else self.workload
        return f"{title} ({self.data_label})" if self.data_label else title


@dataclass(frozen=True)
class ErrorTable:
    """Methods x workloads, each entry beside the paper's."""

    title: str
    rows: list[str]
    columns: list[Column]
    entries: Mapping[tuple[str, Column], Entry]

    def method_title(self, method: str) -> str:
        methods = all_methods()
        return methods[method].title if method in methods else method


def paper_table(store: RunStore, table: str) -> ErrorTable:
    """Table ``1`` or ``s6`` with what the store holds.

    Raises:
        UsageError: there is no such table.
    """
    if table not in ("1", "s6"):
        raise UsageError(f"unknown table '{table}': there are 1, s6")
    cells = choose_cells(store.records())
    rows = table_methods(table)
    columns = _columns(cells, rows)
    entries: dict[tuple[str, Column], Entry] = {}
    for column in columns:
        found = {method: cells.get((column.workload, column.data_label, method)) for method in rows}
        best = _best(found)
        p = _against_best(found, best)
        for method in rows:
            # A copy of the data is compared with the paper too, but its column says that it is a copy.
            entries[method, column] = Entry(
                found[method], paper_cell(column.workload, method), method == best, p.get(method, math.nan)
            )
    return ErrorTable(f"Table {table.upper()}: test error (%)", rows, columns, entries)


def _columns(cells: Mapping[tuple[str, str, str], Cell], rows: Sequence[str]) -> list[Column]:
    """The paper's workloads, each followed by the copies of its data that were used; then workloads of our own."""
    used = {Column(workload, label) for workload, label, method in cells if method in rows}
    columns = []
    for workload in PAPER_WORKLOADS:
        copies = sorted((c for c in used if c.workload == workload and c.data_label), key=lambda c: c.data_label)
        exact = Column(workload, "")
        columns += [exact, *copies] if exact in used or not copies else copies
    return columns + sorted((c for c in used if c.workload not in PAPER_WORKLOADS), key=lambda c: c.title)


def _best(found: Mapping[str, Cell | None]) -> str | None:
    """The method with the lowest mean test error, BP aside, as the paper marks it."""
    means = {m: c.mean for m, c in found.items() if c and m != "bp" and not math.isnan(c.mean)}
    return min(means, key=lambda method: means[method]) if means else None


def _against_best(found: Mapping[str, Cell | None], best: str | None) -> dict[str, float]:
    """Holm-adjusted p of every method but BP against the best one."""
    if best is None:
        return {}
    return against_best({m: c.errors() for m, c in found.items() if c and m != "bp"}, best)


def table_rows(table: ErrorTable) -> pd.DataFrame:
    """One row per entry with plain numbers: what ``--format csv`` writes."""
    rows = []
    for method in table.rows:
        for column in table.columns:
            entry = table.entries[method, column]
            cell, paper = entry.cell, entry.paper
            rows.append(
                {
                    "workload": column.workload, "data": column.data_label or "exact", "method": method,
                    "seeds": cell.seeds if cell else 0, "epochs": cell.epochs if cell else None,
                    "test_error_mean": cell.mean if cell else None, "test_error_std": cell.std if cell else None,
                    "diverged": cell.diverged if cell else None,
                    "paper_mean": paper[0] if paper else None, "paper_std": paper[1] if paper else None,
                    "difference": entry.difference, "p_paper": entry.p_paper, "best": entry.best,
                    "p_best": entry.p_best,
                }
            )  # fmt: skip
    return pd.DataFrame(rows).astype({"epochs": "Int64", "diverged": "Int64"})


def entry_lines(entry: Entry, plus_minus: str = PLUS_MINUS) -> tuple[str, str]:
    """An entry in two lines: the measured value, and the paper's with the difference."""
    measured = spell(entry.cell.mean, entry.cell.std, plus_minus) if entry.cell else "missing"
    if entry.tied:
        measured += " ="
    if entry.marks:
        measured += f" [{', '.join(entry.marks)}]"
    if entry.paper is None:
        return measured, "paper: /"
    difference = "" if entry.difference is None or math.isnan(entry.difference) else f" ({entry.difference:+.2f})"
    differs = " *" if entry.p_paper < LEVEL else ""
    return measured, f"paper: {spell(*entry.paper, plus_minus)}{difference}{differs}"


FOOTNOTE = (
    "Mean and sample standard deviation over seeds of the test error (%) at the epoch with the lowest validation "
    "error; the difference to the paper in brackets. Bold: best except BP. =: statistically tied with the best (paired "
    "t-test over shared seeds, Holm-corrected, p >= 0.05). *: differs from the paper's cell (Welch's test from its "
    "printed mean, deviation and n = 10, p < 0.05, not corrected for the number of cells). [n seeds], [n epochs]: "
    "fewer than the protocol's 10 seeds or its full number of epochs."
)


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
        drawn.add_row(table.method_title(method), *cells)
    return draw(drawn)


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


def render_markdown(table: ErrorTable) -> str:
    """A table in GitHub's Markdown."""
    lines = [f"**{table.title}**", "", "| method | " + " | ".join(c.title for c in table.columns) + " |"]
    lines.append("|---" * (1 + len(table.columns)) + "|")
    for method in table.rows:
        cells = []
        for column in table.columns:
            entry = table.entries[method, column]
            measured, paper = entry_lines(entry)
            cells.append(f"{f'**{measured}**' if entry.best else measured}<br>{paper}")
        lines.append(f"| {table.method_title(method)} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", FOOTNOTE, ""])


def _latex(text: str) -> str:
    return text.replace("%", r"\%").replace("_", r"\_").replace("&", r"\&")


def render_latex(table: ErrorTable) -> str:
    """A table for a paper (needs the package booktabs): measured values with the paper's below."""
    lines = [rf"\begin{{tabular}}{{l{'l' * len(table.columns)}}}", r"\toprule"]
    lines.append(" & ".join(["Method", *(_latex(c.title) for c in table.columns)]) + r" \\")
    lines.append(r"\midrule")
    for method in table.rows:
        upper, lower = [_latex(table.method_title(method))], [""]
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


def leaderboard(store: RunStore, workload: str | None = None) -> pd.DataFrame:
    """Every cell of a store, best first within its workload; errors in per cent.

    ``ci_low`` and ``ci_high`` are the bootstrap interval of the mean; ``p_best`` is the Holm-adjusted p of the paired
    test against the best method of the workload, ``p_paper`` that of Welch's test against the paper's cell.
    """
    rows = []
    cells = [c for c in choose_cells(store.records()).values() if not workload or c.workload == workload]
    p_best = _p_best(cells)
    for cell in cells:
        low, high = bootstrap_interval(cell.errors())
        printed = paper_cell(cell.workload, cell.method)
        paper = paper_cell(cell.workload, cell.method) or (math.nan, math.nan)
        rows.append(
            {
                "workload": cell.workload, "data": cell.data_label or "exact", "method": cell.method,
                "seeds": cell.seeds, "epochs": cell.epochs,
                "test_error_mean": cell.mean, "test_error_std": cell.std,
                "ci_low": low, "ci_high": high, "p_best": p_best.get(_key(cell), math.nan),
                "validation_error_mean": float(cell.errors("validation_error").mean()),
                "diverged": cell.diverged, "paper_mean": paper[0], "paper_std": paper[1],
                "p_paper": compare_with_printed(cell.errors(), printed) if printed else math.nan,
            }
        )  # fmt: skip
    columns = [
        "workload", "data", "method", "seeds", "epochs", "test_error_mean", "test_error_std", "ci_low", "ci_high",
        "p_best", "validation_error_mean", "diverged", "paper_mean", "paper_std", "p_paper",
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    order = {name: n for n, name in enumerate([*PAPER_WORKLOADS, *WORKLOADS])}
    frame["order"] = frame["workload"].map(lambda name: order.get(name, len(order)))
    frame = frame.sort_values(["order", "workload", "data", "test_error_mean", "method"], na_position="last")
    return frame.drop(columns="order").reset_index(drop=True)


def _key(cell: Cell) -> tuple[str, str, str]:
    return cell.workload, cell.data_label, cell.method


def _p_best(cells: Sequence[Cell]) -> dict[tuple[str, str, str], float]:
    """Holm-adjusted p of every cell against the best of its workload, on the same data."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if not math.isnan(cell.mean):
            groups[cell.workload, cell.data_label].append(cell)
    found: dict[tuple[str, str, str], float] = {}
    for (workload, label), group in groups.items():
        best = min(group, key=lambda cell: (cell.mean, cell.method)).method
        p = against_best({cell.method: cell.errors() for cell in group}, best)
        found |= {(workload, label, method): value for method, value in p.items()}
    return found


def write_leaderboard(store: RunStore) -> Path:
    """Write ``leaderboard.csv`` of the whole store into its folder; returns its path."""
    path = store.folder / "leaderboard.csv"
    write_atomically(path, leaderboard(store).to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    return path


BOARD_NOTE = (
    "=: statistically tied with the best (paired t-test over shared seeds, Holm-corrected, p >= 0.05). "
    "Interval: bootstrap (BCa) of the mean."
)


def render_leaderboard(frame: pd.DataFrame) -> str:
    """The leaderboard for the terminal."""
    drawn = RichTable(title="Leaderboard: test error (%), best first", caption=BOARD_NOTE, caption_justify="left")
    for name in ("workload", "method", "seeds", "epochs", "test error", "95 % interval", "paper"):
        drawn.add_column(name)
    titles = {name: method.title for name, method in all_methods().items()}
    for row in frame.to_dict("records"):
        label = "" if row["data"] == "exact" else f" ({row['data']})"
        title = titles.get(row["method"], row["method"])
        diverged = f" ({row['diverged']} diverged)" if row["diverged"] else ""
        drawn.add_row(
            f"{row['workload']}{label}", title, str(row["seeds"]), str(row["epochs"]),
            spell(row["test_error_mean"], row["test_error_std"]) + (" =" if row["p_best"] >= LEVEL else "") + diverged,
            "-" if math.isnan(row["ci_low"]) else f"{row['ci_low']:.2f} to {row['ci_high']:.2f}",
            spell(row["paper_mean"], row["paper_std"]),
        )  # fmt: skip
    return draw(drawn)


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
    titles = {name: method.title for name, method in all_methods().items()}
    header = ["method", *(f"layer {k + 1}" for k in range(layers))]
    body = []
    for method, found, printed in rows:
        beside = [f" ({p:g})" for p in printed] if printed and len(printed) == len(found) else [""] * len(found)
        body.append([titles.get(method, method), *(f"{v:g}{p}" for v, p in zip(found, beside, strict=True))])
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
