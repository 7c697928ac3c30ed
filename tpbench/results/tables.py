"""The paper's tables, the overview, epochs to target and training losses, computed from a store, and their formats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from tpbench.engine import TpbenchError, method_title
from tpbench.engine.errors import visible
from tpbench.results.cells import (
    Cell,
    CellKey,
    choose_cells,
    place_in,
    protocol_epochs,
    provenance_groups,
    read_curves,
    seed_ranges,
    share_seeds,
    title_of,
    with_label,
    workload_label,
)
from tpbench.results.formats import (
    Value,
    check_format,
    count_of,
    csv_number,
    csv_text,
    format_interval,
    format_loss,
    format_mean,
    format_table,
    markdown,
    markdown_code,
    markdown_rows,
    mean_and_deviation,
)
from tpbench.results.opening import NoRunError
from tpbench.results.paper import PAPER_WORKLOADS, paper_cell, table_methods
from tpbench.results.ranking import (
    BASELINE,
    BRACKETS,
    RankedCell,
    Ranking,
    format_error,
    rank_all,
    ranking_frame,
    require_validated,
    tuning_note,
)
from tpbench.results.runs import DEFAULT_PRECISION, RunRecord, percent
from tpbench.results.statistics import (
    MARGIN,
    Agreement,
    Shift,
    agreement,
    first_epoch,
    minibatch_mean,
    overall_shift,
    sampling_error,
)
from tpbench.results.store import RunStore
from tpbench.workloads import WORKLOADS
from tpbench.workloads.workload import known_test_size

PUBLISHED = "published"
"""Tuning label of the cells of the paper's tables."""


@dataclass(frozen=True)
class Column:
    """One column of a table: a workload as trained on one kind of data."""

    workload: str
    data_label: str

    @property
    def title(self) -> str:
        return with_label(title_of(self.workload), self.data_label)


@dataclass(frozen=True)
class Entry:
    """One entry of a table of the paper."""

    cell: Cell | None
    paper: tuple[float, float] | None
    minibatch_mean: float = math.nan
    """Mean over minibatches of the cell's runs, in per cent; not a number unless all have predictions."""

    @property
    def compared(self) -> str:
        """``compared``, or why the cell is not compared with the paper's."""
        if self.cell is None:
            return "missing"
        if self.paper is None:
            return "not in the paper"
        if self.cell.data_label:
            return "a copy of the data"
        if self.cell.epochs != protocol_epochs(self.cell.workload):
            return f"{self.cell.epochs} epoch{'s' * (self.cell.epochs != 1)}"
        if self.cell.precision not in (DEFAULT_PRECISION, "float64"):
            return self.cell.precision
        if not self.cell.testable:
            return "fewer than three of the protocol's seeds"
        return "compared"

    @property
    def agreement(self) -> Agreement | None:
        """The difference from the paper; None where nothing is compared."""
        if self.compared != "compared" or self.cell is None or self.paper is None:
            return None
        return agreement(self.cell.errors(), self.paper)


@dataclass(frozen=True)
class ErrorTable:
    """Methods x workloads with the published configurations, each entry beside the paper's."""

    title: str
    rows: list[str]
    columns: list[Column]
    entries: Mapping[tuple[str, Column], Entry]
    others: Sequence[Cell] = field(default=(), repr=False)
    """Cells of the store that are not in the table: of other methods, workloads or tunings."""

    def column(self, column: Column) -> dict[str, Entry]:
        """Return the entries of a column that have a cell, by method."""
        found = {method: self.entries[method, column] for method in self.rows}
        return {method: entry for method, entry in found.items() if entry.cell}

    @property
    def agreements(self) -> list[Agreement]:
        """The differences of all cells that are compared with the paper."""
        return [found for entry in self.entries.values() if (found := entry.agreement)]

    @property
    def shift(self) -> Shift | None:
        """The mean relative difference of the cells with all ten seeds; None where there are none."""
        pairs = [
            (entry.cell, entry.paper)
            for entry in self.entries.values()
            if entry.agreement and entry.cell and entry.paper and entry.cell.whole
        ]
        shared = set.intersection(*(set(cell.counted_seeds) for cell, _ in pairs)) if pairs else set()
        return overall_shift([(cell.errors_of(sorted(shared)), paper) for cell, paper in pairs])


def paper_table(store: RunStore, table: str, chosen: Mapping[CellKey, Cell] | None = None) -> ErrorTable:
    """Return one of :data:`tpbench.results.paper.ERROR_TABLES` from the runs of published configurations in a store.

    Args:
        store: that holds the runs.
        table: its name.
        chosen: the store's cells, where they are known already.

    Raises:
        UsageError: there is no such table.
    """
    chosen = choose_cells(store.summaries()) if chosen is None else chosen
    rows = table_methods(table)
    cells = share_seeds({key: cell for key, cell in chosen.items() if _in_table(cell, rows)})
    columns = table_columns({(cell.workload, cell.data_label) for cell in cells.values()})
    means = minibatch_means(store, cells)
    entries: dict[tuple[str, Column], Entry] = {}
    for column in columns:
        for method in rows:
            key = (column.workload, column.data_label, method, PUBLISHED)
            printed = paper_cell(column.workload, method)
            entries[method, column] = Entry(cells.get(key), printed, means.get(key, math.nan))
    others = [cell for key, cell in chosen.items() if key not in cells]
    return ErrorTable(f"Test error (%), as in the paper's Table {table.upper()}", rows, columns, entries, others)


def _in_table(cell: Cell, methods: Sequence[str]) -> bool:
    return cell.tuning == PUBLISHED and cell.method in methods and cell.workload in PAPER_WORKLOADS


def minibatch_means(store: RunStore, cells: Mapping[CellKey, Cell]) -> dict[CellKey, float]:
    """Return the mean test error in per cent over minibatches, as the authors average, of cells with all predictions.

    The batch is the workload's own. Cells with a diverged seed, or a run without predictions, are left out.
    """
    runs = {run.definition.id: key for key, cell in cells.items() if not cell.diverged for run in cell.counted_runs}
    records = [run for cell in cells.values() for run in cell.counted_runs if run.definition.id in runs]
    errors: dict[CellKey, list[float]] = {}
    for record, predictions in store.all_predictions(records):
        if predictions:
            batch = WORKLOADS[record.definition.workload].batch_size
            errors.setdefault(runs[record.definition.id], []).append(minibatch_mean(predictions.correct, batch))
    return {key: float(np.mean(means)) for key, means in errors.items() if len(means) == cells[key].seeds}


def table_columns(pairs: Iterable[tuple[str, str]]) -> list[Column]:
    """Return columns: the paper's workloads, each followed by the copies of its data that were used; then others.

    Args:
        pairs: workload and data label of each cell.
    """
    used = {Column(workload, label) for workload, label in pairs}
    columns = []
    for workload in PAPER_WORKLOADS:
        copies = sorted((c for c in used if c.workload == workload and c.data_label), key=lambda c: c.data_label)
        exact = Column(workload, "")
        columns += [exact, *copies] if exact in used or not copies else copies
    return columns + sorted((c for c in used if c.workload not in PAPER_WORKLOADS), key=lambda c: c.title)


def table_rows(table: ErrorTable) -> pd.DataFrame:
    """Return one row per entry with plain numbers, as ``--format csv`` writes them.

    ``difference``, ``low`` and ``high`` are in per cent of the paper's mean; they are empty only where ``compared``
    says why. ``within`` is ``yes``, ``no`` or ``open``: within ±5 % of it.
    """
    rows = []
    for method in table.rows:
        for column in table.columns:
            entry = table.entries[method, column]
            cell, paper, found = entry.cell, entry.paper, entry.agreement
            rows.append(
                {
                    "workload": column.workload,
                    "data": column.data_label or "exact",
                    "method": method,
                    "tuning": PUBLISHED,
                    "seeds": seed_ranges(cell.counted_seeds) if cell else "none",
                    "epochs": cell.epochs if cell else None,
                    "test_error_mean": cell.mean if cell else None,
                    "test_error_std": cell.std if cell else None,
                    "minibatch_mean": entry.minibatch_mean,
                    "diverged": cell.diverged if cell else None,
                    "paper_mean": paper[0] if paper else None,
                    "paper_std": paper[1] if paper else None,
                    "difference": found.difference if found else None,
                    "low": found.low if found else None,
                    "high": found.high if found else None,
                    "within": found.within if found else "not compared",
                    "compared": entry.compared,
                    "precision": cell.precision if cell else "",
                    "marks": "; ".join(cell.marks) if cell else "",
                }
            )
    return pd.DataFrame(rows).astype({"epochs": "Int64", "diverged": "Int64"})


def entry_lines(entry: Entry) -> tuple[str, str]:
    """Format an entry: the measured value; and below it, in lines of their own, the paper's and the difference."""
    measured = format_error(entry.cell) if entry.cell else "missing"
    if entry.paper is None:
        return measured, "not in the paper"
    found = entry.agreement
    against = ""
    if found:
        against = f"\n{found.difference:+z.1f} % {format_interval(found.low, found.high, 1)} {found.within}"
    return measured, f"paper: {format_mean(*entry.paper)}{against}"


def footnote(table: ErrorTable) -> list[str]:
    """Return the legend of a table of the paper, a line for each mark that occurs in it."""
    lines = [
        "Test error (%) at the epoch with the lowest validation error: mean and sample standard deviation over seeds, "
        "with the published configurations."
    ]
    if any(entry.cell and entry.cell.marks for entry in table.entries.values()):
        lines.append(BRACKETS)
    answers = {
        "yes": f"within ±{MARGIN:g} % by two one-sided tests",
        "no": f"the interval is outside ±{MARGIN:g} %",
        "open": "neither is shown",
    }
    within = {found.within for found in table.agreements}
    if not within:
        return lines
    lines.append(
        "Below: the paper's value, and the difference in per cent of it with a 95 % interval (Welch's, from the "
        "printed mean, deviation and 10 seeds)."
    )
    return [*lines, *(f"{answer}: {meaning}." for answer, meaning in answers.items() if answer in within)]


def notes(table: ErrorTable) -> list[str]:
    """Return notes on the whole table: all cells together, means over minibatches, the test sets."""
    together = against_paper(table)
    return [*([together] if together else []), *_minibatch_note(table), *_test_set_note(table)]


def others_note(table: ErrorTable) -> str:
    """Return a sentence on what the store has of the paper's workloads besides the table; empty where that is nothing.

    Other workloads have no column in it, so nobody looks for them there.
    """
    others = [cell for cell in table.others if cell.workload in PAPER_WORKLOADS]
    names = dict.fromkeys(f"{method_title(cell.method)} ({cell.tuning})" for cell in others)
    there = f"In this store but not in this table (see 'tpbench leaderboard'): {', '.join(names)}."
    return there if names else ""


def against_paper(table: ErrorTable) -> str:
    """Return the cells against the paper's together, in a sentence or two; empty where none is compared."""
    within = Counter(found.within for found in table.agreements)
    if not within:
        return ""
    count = ", ".join(f"{within[answer]} {answer}" for answer in ("yes", "no", "open"))
    lines = [f"Within ±{MARGIN:g} % of the paper: {count}."]
    if shift := table.shift:
        lines.append(
            f"Mean difference of the {shift.cells} cells with all seeds: {shift.difference:+z.1f} % "
            f"{format_interval(shift.low, shift.high, 1)}, seeds resampled for all cells at once, the paper's cells "
            "taken as independent."
        )
    return " ".join(lines)


def _minibatch_note(table: ErrorTable) -> list[str]:
    known = [
        f"{column.title} {method_title(method)} {entry.minibatch_mean:.2f} instead of {entry.cell.mean:.2f}"
        for (method, column), entry in table.entries.items()
        if entry.cell and not math.isnan(entry.minibatch_mean)
    ]
    if not known:
        return []
    return [
        "The authors average over minibatches, tpbench over samples. From right and wrong of every test sample, over "
        f"minibatches: {'; '.join(known)}."
    ]


def _test_set_note(table: ErrorTable) -> list[str]:
    sizes = []
    for column in table.columns:
        cells = {method: entry.cell for method, entry in table.column(column).items() if entry.cell}
        samples = known_test_size(WORKLOADS[column.workload].data)
        if cells and samples:
            cell = cells.get(BASELINE) or next(iter(cells.values()))
            sizes.append(f"{column.title} {sampling_error(cell.mean, samples):.2f}")
    return [f"{_TEST_SETS}: {', '.join(sizes)}."] if sizes else []


_PROVENANCE = ("cell", "n", "epochs", "time", "hardware", "torch", "commit", "command")


def _provenance_lines(table: ErrorTable) -> list[str]:
    """Return the provenance of the cells: a row per cell, more where several commands or machines made it."""
    found = [table.entries[method, column].cell for column in table.columns for method in table.rows]
    rows = []
    for origin in (group for cell in found if cell for group in provenance_groups(cell)):
        values = (
            f"{origin.cell.workload_title} {origin.cell.method}",
            len(origin.runs),
            origin.cell.epochs,
            f"{origin.seconds / 60:.0f} min",
            origin.hardware,
            origin.entry("torch"),
            origin.entry("commit")[:12],
        )
        rows.append([*(markdown(str(value)) for value in values), markdown_code(origin.entry("command"))])
    return markdown_rows(_PROVENANCE, rows) if rows else []


def render(table: ErrorTable, form: str) -> str:
    """Format a table in one of :data:`tpbench.results.formats.FORMATS`; in Markdown with the provenance of its cells.

    Raises:
        UsageError: there is no such format.
    """
    if check_format(form) == "csv":
        return csv_text(table_rows(table), csv_number)
    rows: list[list[str | Value]] = []
    for method in table.rows:
        entries = [table.entries[method, column] for column in table.columns]
        rows.append([method_title(method), *(Value(*entry_lines(entry)) for entry in entries)])
    header = ["method", *(column.title for column in table.columns)]
    lines = [*footnote(table), *notes(table)]
    if form != "latex" and (others := others_note(table)):
        lines.append(others)
    # A line each: names from files begin no other one.
    text = format_table(table.title, header, rows, form, "\n".join(map(visible, lines)))
    return text + "\n".join(["", *_provenance_lines(table), ""]) if form == "md" else text


# ``tpbench table overview``: methods x workloads against the baseline.


OVERVIEW_COLUMNS = (
    "workload",
    "data",
    "method",
    "tuning",
    "test_error_mean",
    "difference",
    "differs",
    "could_be_best",
    "tested",
)


def overview_rows(rankings: Sequence[Ranking]) -> pd.DataFrame:
    """Return one row per cell with its difference from the baseline, as the leaderboard has them."""
    return ranking_frame(rankings)[list(OVERVIEW_COLUMNS)]


@dataclass(frozen=True)
class OverviewRow:
    """One method and tuning of the overview."""

    method: str
    tuning: str
    title: str
    """The method's name, with the tuning label where it has several."""
    cells: Mapping[int, RankedCell]
    """By the place of the ranking."""


def overview_cells(rankings: Sequence[Ranking]) -> list[OverviewRow]:
    """Return the rows of the overview, in the order of Table S6: one per method and tuning."""
    found: dict[tuple[str, str], dict[int, RankedCell]] = {}
    for number, ranking in enumerate(rankings):
        for ranked in ranking.cells:
            found.setdefault((ranked.cell.method, ranked.cell.tuning), {})[number] = ranked
    several = Counter(method for method, _ in found)
    order = table_methods("s6")

    def place(key: tuple[str, str]) -> tuple[int, str, int, str]:
        method, tuning = key
        budget = next(iter(found[key].values())).cell.budget
        return place_in(order, method), method, budget.rank, tuning

    return [
        OverviewRow(
            method,
            tuning,
            method_title(method) + (f", {tuning}" if several[method] > 1 else ""),
            found[method, tuning],
        )
        for method, tuning in sorted(found, key=place)
    ]


def overview_matrix(rankings: Sequence[Ranking]) -> tuple[list[str], list[list[str | Value]]]:
    """Return header and rows of the overview: a row per method and tuning, a column per workload."""
    rows: list[list[str | Value]] = [
        [row.title, *(_overview_value(row.cells.get(number)) for number in range(len(rankings)))]
        for row in overview_cells(rankings)
    ]
    return ["method", *(ranking.title for ranking in rankings)], rows


def _overview_value(ranked: RankedCell | None) -> Value:
    if ranked is None:
        return Value("-")
    against = "" if ranked.is_baseline or math.isnan(ranked.difference) else f" ({ranked.difference:+z.2f})"
    below = [_OVERVIEW_WORDS[ranked.could_be_best]] if ranked.could_be_best in _OVERVIEW_WORDS else []
    below += [f"[{mark}]" for mark in ranked.cell.marks]
    return Value(f"{ranked.cell.mean:.2f}{against}", "\n".join(below), bold=ranked.differs)


_OVERVIEW_WORDS = {"yes": "could be best", "open": "open"}


def overview_notes(rankings: Sequence[Ranking], mark: str = "bold") -> list[str]:
    """Return the legend of the overview, a line for each mark that occurs in it, and the test sets' uncertainty."""
    cells = [ranked for ranking in rankings for ranked in ranking.cells]
    base = method_title(rankings[0].baseline)
    lines = [f"Test error (%), and the difference from {base} in points, as in 'tpbench leaderboard'."]
    if any(ranked.differs for ranked in cells):
        lines.append(f"{mark.capitalize()}: shown at 5 %.")
    if any(ranked.could_be_best == "yes" for ranked in cells):
        lines.append(f"Could be best: no other method but {base} is better at 5 %.")
    if any(ranked.could_be_best == "open" for ranked in cells):
        lines.append("Open: seeds or epochs are missing.")
    if any(ranked.cell.marks for ranked in cells):
        lines.append(BRACKETS)
    lines += tuning_note(rankings[0].tuning, {ranked.cell.tuning for ranked in cells})
    sizes = [
        f"{ranking.title} {sampling_error(cell.mean, ranking.test_samples):.2f}"
        for ranking in rankings
        if ranking.test_samples and (cell := ranking.baseline_cell or ranking.cells[0].cell)
    ]
    return [*lines, *([f"{_TEST_SETS}: {', '.join(sizes)}."] if sizes else [])]


_TEST_SETS = "Standard error from the number of test samples alone, in points, of the baseline's error"


def render_overview(store: RunStore, form: str, baseline: str = BASELINE, tuning: str | None = None) -> str:
    """Format the overview in one of :data:`tpbench.results.formats.FORMATS`, of one tuning label or all.

    Raises:
        UsageError: there is no such format.
        TpbenchError: the store is empty.
    """
    rankings = rankings_of(store, baseline, tuning)
    if check_format(form) == "csv":
        return csv_text(overview_rows(rankings), csv_number)
    header, rows = overview_matrix(rankings)
    note = "\n".join(overview_notes(rankings, "*" if form == "text" else "bold"))
    return format_table(f"Methods against {method_title(baseline)}", header, rows, form, note)


def rankings_of(store: RunStore, baseline: str, tuning: str | None = None) -> list[Ranking]:
    """Return the rankings of all workloads of a store.

    Args:
        baseline: the method that others are compared with.
        tuning: only cells with this tuning label, also in the tests; None: all.

    Raises:
        UsageError: no run has a validation set.
        TpbenchError: the store is empty.
    """
    require_validated(store.summaries())
    found = rank_all(choose_cells(store.summaries(), tuning), baseline, tuning)
    if not found:
        raise NoRunError(store.folder)
    return found


# ``tpbench table epochs``: epochs until the validation error is near the baseline's.


TARGET = 1.25
"""The target of the validation error, as a multiple of the baseline's at its selected epochs."""
EPOCH_COLUMNS = (
    "workload",
    "data",
    "method",
    "tuning",
    "target",
    "reached",
    "seeds",
    "median",
    "first",
    "last",
    "marks",
)


def epochs_rows(rankings: Sequence[Ranking], runs: Mapping[str, RunRecord]) -> pd.DataFrame:
    """Return one row per cell: epochs until the validation error is at most 1.25 times the baseline's.

    ``target`` is in per cent, ``reached`` the number of ``seeds`` that reach it, ``median``, ``first`` and ``last`` are
    epochs over seeds; a seed that never reaches it counts as infinite, and so does a diverged one. The target is of
    the baseline's seeds that did not diverge, and not a number without any. Unreadable runs are left out.

    Args:
        rankings: of the workloads.
        runs: those of their cells with curves, by id (:func:`tpbench.results.cells.read_curves`).
    """
    cells = [(ranking.baseline_cell, ranked.cell) for ranking in rankings for ranked in ranking.cells]
    pairs = [(base, cell) for base, cell in cells if base]
    rows = []
    for base, cell in pairs:
        there = [run for one in cell.counted_runs if (run := runs.get(one.definition.id))]
        finished = [percent(run.validation_error) for run in base.counted_runs if not run.diverged]
        if not there:
            continue
        target = TARGET * float(np.mean(finished)) if finished else math.nan
        epochs = [math.inf if run.diverged else _epochs_to(target, run.curves["validation_error"]) for run in there]
        rows.append(
            {
                "workload": cell.workload,
                "data": cell.data_label or "exact",
                "method": cell.method,
                "tuning": cell.tuning,
                "target": target,
                "reached": sum(map(math.isfinite, epochs)),
                "seeds": len(epochs),
                "median": float(np.median(epochs)),
                "first": min(epochs),
                "last": max(epochs),
                "marks": "; ".join(cell.marks),
            }
        )
    return pd.DataFrame(rows, columns=EPOCH_COLUMNS)


def _epochs_to(target: float, curve: Sequence[float]) -> float:
    # Per cent; a run's error is a count over its samples, so smaller differences are rounding.
    found = first_epoch(curve, lambda error: 100 * error <= target + 1e-9)
    return math.inf if found is None else found


def epochs_note(baseline: str) -> str:
    """Return the note below the table of epochs."""
    return (
        f"Epochs until the validation error is at most {TARGET:g} times that of {method_title(baseline)} (mean at its "
        "selected epochs): median over seeds, and from the first seed to the last. Never: not by a seed's last epoch."
    )


EPOCHS_HEADER = ("workload", "method", "tuning", "target (%)", "epochs", "seeds that reach it")


def epochs_values(row: Mapping[Hashable, Any]) -> list[str]:
    """Format a row of :func:`epochs_rows` for :data:`EPOCHS_HEADER`; its epochs as ``12 (7 to 40)``."""
    median, first, last = (
        f"{row[name]:g}" if math.isfinite(row[name]) else "never" for name in ("median", "first", "last")
    )
    return [
        workload_label(row),
        method_title(row["method"]) + (f" [{row['marks']}]" if row["marks"] else ""),
        row["tuning"],
        "-" if math.isnan(row["target"]) else f"{row['target']:.2f}",
        f"{median} ({first} to {last})" if row["reached"] else "-" if math.isnan(row["target"]) else "never",
        f"{row['reached']} of {row['seeds']}",
    ]


def render_epochs(store: RunStore, form: str, baseline: str = BASELINE, tuning: str | None = None) -> str:
    """Format the table of epochs to target in one of :data:`tpbench.results.formats.FORMATS`, of one tuning or all.

    Raises:
        UsageError: there is no such format.
        TpbenchError: the store is empty, or has no run of the baseline.
    """
    rankings = rankings_of(store, baseline, tuning)
    frame = epochs_rows(rankings, read_curves(store, (ranked.cell for one in rankings for ranked in one.cells)))
    if frame.empty:
        raise TpbenchError(f"{store.folder} holds no run of the baseline {baseline} yet; --baseline names another")
    if check_format(form) == "csv":
        return csv_text(frame, csv_number)
    rows = [epochs_values(row) for row in frame.to_dict("records")]
    return format_table("Epochs to target", EPOCHS_HEADER, rows, form, epochs_note(baseline))


# ``tpbench table loss``: the training loss at the end of training, methods x workloads.


Row = Mapping[Hashable, Any]

LOSS_TITLE = "Training loss of the last epoch"

_LOSS_COLUMNS = (
    "workload",
    "data",
    "method",
    "tuning",
    "seeds",
    "epochs",
    "diverged",
    "train_loss_mean",
    "train_loss_std",
    "precision",
    "validated",
    "marks",
)


def loss_rows(store: RunStore, cells: Iterable[Cell] | None = None) -> pd.DataFrame:
    """Return one row per cell of a store, in the order of Table S6.

    Args:
        store: that holds the runs.
        cells: those that get a row; None: all.
    """
    order = table_methods("s6")

    def place(cell: Cell) -> tuple[int, str, int, str, str, str]:
        number = place_in(order, cell.method)
        return number, cell.method, cell.budget.rank, cell.tuning, cell.workload, cell.data_label or "exact"

    chosen = sorted(choose_cells(store.summaries()).values() if cells is None else cells, key=place)
    runs = read_curves(store, chosen)
    rows = []
    for cell in chosen:
        there = [run for one in cell.counted_runs if (run := runs.get(one.definition.id)) and not run.diverged]
        losses = [curve[-1] for run in there if (curve := run.curves.get("train_loss"))]
        mean, deviation = mean_and_deviation(losses) if losses else (math.nan, math.nan)
        rows.append(
            {
                "workload": cell.workload,
                "data": cell.data_label or "exact",
                "method": cell.method,
                "tuning": cell.tuning,
                "seeds": cell.seeds,
                "epochs": cell.epochs,
                "diverged": cell.diverged,
                "train_loss_mean": mean,
                "train_loss_std": deviation,
                "precision": cell.precision,
                "validated": cell.validated,
                "marks": "; ".join(cell.marks),
            }
        )
    return pd.DataFrame(rows, columns=_LOSS_COLUMNS)


def loss_notes(frame: pd.DataFrame) -> list[str]:
    """Return the legend of :func:`loss_rows`, a line for each property that occurs in them."""
    lines = [
        "Mean and sample standard deviation over seeds of the training loss of the last epoch (mean over its "
        "minibatches as they were trained)."
    ]
    copies = frame[(frame["data"] != "exact") & frame["workload"].isin(WORKLOADS)]
    for rows, text in (
        (frame[~frame["validated"]], "All samples train, without a validation set"),
        (copies, "Not the exact data set"),
    ):
        if titles := dict.fromkeys(_loss_column(row).title for row in rows.to_dict("records")):
            lines.append(f"{text}: {', '.join(titles)}.")
    if frame["diverged"].any():
        lines.append("Diverged seeds have no loss.")
    return lines


def loss_footnotes(frame: pd.DataFrame) -> list[str]:
    """Return the notes of :func:`loss_matrix`: seeds and epochs of its columns, and a line for each number in it."""
    columns: dict[str, list[str]] = {}
    for column, usual in _usual_extents(frame).items():
        columns.setdefault(usual, []).append(column.title)
    extents = "; ".join(f"{', '.join(titles)}: {extent}" for extent, titles in columns.items())
    return [f"{extents}.", *(f"[{number}] {text}." for text, number in _numbered_footnotes(frame).items())]


def _extent(seeds: int, epochs: int) -> str:
    return f"{count_of(seeds, 'seed')}, {count_of(epochs, 'epoch')}"


def _usual_extents(frame: pd.DataFrame) -> dict[Column, str]:
    """Return seeds and epochs of each column: the most seeds, with the epochs that most such rows have."""
    counts: dict[Column, Counter[tuple[int, int]]] = {}
    for row in frame.to_dict("records"):
        counts.setdefault(_loss_column(row), Counter())[row["seeds"], row["epochs"]] += 1
    usual = {column: max(count, key=lambda pair: (pair[0], count[pair])) for column, count in counts.items()}
    return {column: _extent(*usual[column]) for column in loss_columns(frame)}


def _loss_footnotes(frame: pd.DataFrame) -> list[str]:
    """Return the footnote of each row: seeds and epochs where they are not its column's, and its marks."""
    usual, texts = _usual_extents(frame), []
    for row in frame.to_dict("records"):
        extent = _extent(row["seeds"], row["epochs"])
        texts.append("; ".join([extent] * (extent != usual[_loss_column(row)]) + [row["marks"]] * bool(row["marks"])))
    return texts


def _numbered_footnotes(frame: pd.DataFrame) -> dict[str, int]:
    """Return the number of each footnote that differs from those before it."""
    texts = dict.fromkeys(text for text in _loss_footnotes(frame) if text)
    return {text: number for number, text in enumerate(texts, 1)}


def loss_matrix(frame: pd.DataFrame, columns: Sequence[Column]) -> list[list[Value]]:
    """Return the rows of the table of training losses: a row per method and tuning, the names first.

    Numbers in brackets after a loss are those of :func:`loss_footnotes`.

    Args:
        frame: as :func:`loss_rows` returns it.
        columns: of the table.
    """
    numbers = _numbered_footnotes(frame)
    found = {
        (row["method"], row["tuning"], _loss_column(row)): _loss_value(row, numbers.get(footnote))
        for row, footnote in zip(frame.to_dict("records"), _loss_footnotes(frame), strict=True)
    }
    keys = dict.fromkeys((method, tuning) for method, tuning, _ in found)
    several = Counter(method for method, _ in keys)
    return [
        [
            Value(method_title(method) + (f", {tuning}" if several[method] > 1 else "")),
            *(found.get((method, tuning, column), Value("missing")) for column in columns),
        ]
        for method, tuning in keys
    ]


def loss_columns(frame: pd.DataFrame) -> list[Column]:
    """Return the columns of :func:`loss_rows`, those of the paper's workloads first."""
    there = {_loss_column(row) for row in frame.to_dict("records")}
    columns = table_columns((column.workload, column.data_label) for column in there)
    return [column for column in columns if column in there]


def _loss_column(row: Row) -> Column:
    return Column(row["workload"], "" if row["data"] == "exact" else row["data"])


def _loss_value(row: Row, footnote: int | None) -> Value:
    text = format_loss(row["train_loss_mean"], row["train_loss_std"])
    return Value(f"{text} [{footnote}]" if footnote else text)


def loss_table(store: RunStore, form: str, workload: str | None = None) -> str:
    """Format the table of training losses.

    Args:
        store: that holds the runs.
        form: one of :data:`tpbench.results.formats.FORMATS`.
        workload: the only one; None: all that have runs.

    Raises:
        UsageError: there is no such format.
        TpbenchError: there is no run.
    """
    cells = choose_cells(store.summaries()).values()
    frame = loss_rows(store, (cell for cell in cells if workload in (None, cell.workload)))
    if frame.empty:
        raise NoRunError(store.folder, workload)
    if check_format(form) == "csv":
        return csv_text(frame, "%.6g")
    columns = loss_columns(frame)
    header = ["method", *(column.title for column in columns)]
    note = "\n".join([*loss_notes(frame), *loss_footnotes(frame)])
    return format_table(LOSS_TITLE, header, loss_matrix(frame, columns), form, note)
