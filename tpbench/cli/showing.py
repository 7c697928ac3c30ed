"""Commands that show what a store holds: tables, leaderboards, figures, plots, the report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.table import Table

from tpbench.cli.app import app
from tpbench.cli.options import (
    RESULTS,
    Results,
    open_store,
    warn_damaged,
)
from tpbench.engine import TpbenchError, all_methods, unknown
from tpbench.results import leaderboard, paper_table, render, render_leaderboard, write_leaderboard
from tpbench.results.rendering import FORMATS, draw
from tpbench.workloads import WORKLOADS, get_workload


@app.command()
def methods() -> None:
    """The learning rules there are."""
    listing = Table("method", "paper's name", "what it is", "hyperparameters")
    for name, method in all_methods().items():
        listing.add_row(name, method.title, method.summary, ", ".join(method.hyperparameters))
    print(draw(listing), end="")


@app.command()
def workloads() -> None:
    """The workloads there are."""
    listing = Table("workload", "data set", "network", "trained layers", "epochs", "batch", "validation samples")
    for w in WORKLOADS.values():
        layers = ", ".join(map(str, w.trained_layers)) if w.trained_layers else "all"
        network = "-".join(map(str, w.architecture.sizes))
        listing.add_row(w.name, w.dataset, network, layers, str(w.epochs), str(w.batch_size), str(w.validation_size))
    print(draw(listing), end="")


@app.command()
def table(
    name: Annotated[str, typer.Argument(metavar="1|s6|s7", help="Which of the paper's tables.")],
    form: Annotated[str, typer.Option("--format", help=", ".join(FORMATS))] = "text",
    results: Results = RESULTS,
) -> None:
    """A table of the paper, computed from the store, beside the paper's numbers."""
    if name.lower() == "s7":
        print(_table_s7(results, form), end="")
        return
    store = open_store(results)
    text = render(paper_table(store, name.lower()), form)
    warn_damaged(store)
    print(text, end="" if text.endswith("\n") else "\n")


def _table_s7(results: str, form: str) -> str:
    from tpbench.reports.figures import damping_rows
    from tpbench.results.paper import paper_dampings
    from tpbench.results.rendering import damping_table

    return damping_table([(m, d, paper_dampings(m)) for m, d in damping_rows(results)], form)


@app.command("leaderboard")
def show_leaderboard(
    workload: Annotated[str | None, typer.Argument(metavar="WORKLOAD", help="Only this one.")] = None,
    results: Results = RESULTS,
) -> None:
    """All methods of the store, best first; also written to leaderboard.csv in the store's folder."""
    if workload:
        get_workload(workload)
    store = open_store(results)
    board = leaderboard(store)
    shown = board[board["workload"] == workload] if workload else board
    if shown.empty:
        where = f"of {workload} " if workload else ""
        raise TpbenchError(f"{results} holds no run {where}yet; train some with 'tpbench sweep' or 'tpbench run'")
    print(render_leaderboard(shown), end="")
    print(f"written: {write_leaderboard(board, store)}")
    warn_damaged(store)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="METHOD_A")],
    second: Annotated[str, typer.Argument(metavar="METHOD_B")],
    workload: Annotated[str | None, typer.Option(metavar="WORKLOAD", help="Only this one.")] = None,
    results: Results = RESULTS,
) -> None:
    """Two methods of the store, paired by seed: difference, p, and how many seeds would show it."""
    from tpbench.engine import get_method
    from tpbench.results.comparison import compare_methods
    from tpbench.results.leaderboards import workload_words
    from tpbench.results.rendering import spell

    for method in (first, second):
        get_method(method)
    if workload:
        get_workload(workload)
    store = open_store(results)
    frame = compare_methods(store, first, second, workload)
    if frame.empty:
        where = f" on {workload}" if workload else ""
        raise TpbenchError(f"{results} holds no workload with runs of both {first} and {second}{where}")
    listing = Table(
        "workload", first, second, "shared seeds", "difference", "p", "seeds needed", "verdict",
        title="Test error (%); paired t-test over shared seeds; seeds needed for power 0.8",
    )  # fmt: skip
    for row in frame.to_dict("records"):
        note = "" if row["same_epochs"] else " (trained for different numbers of epochs)"
        needed = "-" if pd.isna(row["seeds_needed"]) else str(int(row["seeds_needed"]))
        listing.add_row(
            workload_words(row), spell(row["first_mean"], row["first_std"]),
            spell(row["second_mean"], row["second_std"]), str(row["shared_seeds"]), f"{row['difference']:+.2f}",
            "-" if pd.isna(row["p"]) else f"{row['p']:.2g}", needed, row["verdict"] + note,
        )  # fmt: skip
    print(draw(listing), end="")
    warn_damaged(store)


@app.command("figure")
def draw_figure(
    name: Annotated[str, typer.Argument(metavar="2|4|s2|s3|s4|s5|s6", help="Which of the paper's figures.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write.", show_default="figure_NAME.png")
    ] = None,
    workload: Annotated[str | None, typer.Option(metavar="WORKLOAD", help="Draw 4 or s3-s5 on another one.")] = None,
    results: Results = RESULTS,
) -> None:
    """A figure of the paper: 2, s2 and s6 are made at once, the others from the records of 'tpbench align'."""
    from tpbench.reports.figures import NAMES, make_figure
    from tpbench.reports.style import save

    if name.lower() not in NAMES:
        raise unknown("figure", name, NAMES)
    if workload:
        get_workload(workload)
    path = output or Path(f"figure_{name.lower()}.png")
    save(make_figure(name.lower(), results, workload), path)
    print(f"written: {path}")


PLOTS = ("curves", "cost", "search")


@app.command()
def plot(
    kind: Annotated[str, typer.Argument(metavar="curves|cost|search")],
    what: Annotated[str, typer.Argument(metavar="WORKLOAD|SWEEP", help="A workload; for search, a sweep's name.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write.", show_default="KIND_WHAT.png")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Learning curves or cost of a workload's methods, or what a sweep's search saw."""
    from tpbench.reports.curves import cost_plot, learning_curves
    from tpbench.reports.searches import search_figure
    from tpbench.reports.style import save

    if kind not in PLOTS:
        raise unknown("plot", kind, PLOTS)
    store = open_store(results)
    if kind == "search":
        figure = search_figure(results, what)
    else:
        get_workload(what)
        figure = learning_curves(store, what) if kind == "curves" else cost_plot(store, what)
    path = output or Path(f"{kind}_{what}.png")
    save(figure, path)
    print(f"written: {path}")
    warn_damaged(store)


@app.command()
def report(
    output: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")] = Path("report.html"),
    results: Results = RESULTS,
) -> None:
    """Everything the store holds as one self-contained HTML page."""
    from tpbench.reports.page import render_report
    from tpbench.results.store import write_atomically

    text = render_report(results, shlex.join(["tpbench", *sys.argv[1:]]))
    write_atomically(output, text)
    print(f"written: {output} ({len(text) / 1e6:.1f} MB)")
