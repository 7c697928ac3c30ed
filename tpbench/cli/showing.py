"""Commands that show what a store holds: tables, leaderboards, figures, plots, the report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tpbench.cli import completion
from tpbench.cli.app import app
from tpbench.cli.options import (
    RESULTS,
    Format,
    OfWorkload,
    OptionalFile,
    Results,
    open_store,
    warn_damaged,
)
from tpbench.engine import TpbenchError, all_methods, unknown
from tpbench.reports.names import FIGURES, PLOTS
from tpbench.results.formats import check_format, draw
from tpbench.results.paper import table_methods
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
    name: Annotated[
        str,
        typer.Argument(
            metavar="1|s6|s7", help="Which of the paper's tables.", autocompletion=completion.of(("1", "s6", "s7"))
        ),
    ],
    form: Format = "text",
    results: Results = RESULTS,
) -> None:
    """A table of the paper, computed from the store, beside the paper's numbers."""
    if name.lower() == "s7":
        print(_table_s7(results, form), end="")
        return
    table_methods(name.lower())  # a slip shows before pandas is imported
    from tpbench.results import paper_table, render

    store = open_store(results)
    text = render(paper_table(store, name.lower()), form)
    warn_damaged(store)
    print(text, end="" if text.endswith("\n") else "\n")


def _table_s7(results: str, form: str) -> str:
    from tpbench.reports.figures import damping_rows
    from tpbench.results.paper import paper_dampings
    from tpbench.results.rendering import damping_table

    return damping_table([(m, d, paper_dampings(m)) for m, d in damping_rows(results)], form)


@app.command("leaderboard", cls=OptionalFile)
def show_leaderboard(
    workload: Annotated[
        str | None, typer.Argument(metavar="WORKLOAD", help="Only this one.", autocompletion=completion.workloads)
    ] = None,
    form: Format = "text",
    write: Annotated[
        str | None,
        typer.Option(
            "--write", metavar="[FILE.csv]", show_default="not written",
            help="Write it as CSV too: into FILE.csv, or all workloads into leaderboard.csv in the store's folder.",
        ),
    ] = None,
    results: Results = RESULTS,
) -> None:  # fmt: skip
    """All methods of the store, best first, and how each stands to the best."""
    check_format(form)
    if workload:
        get_workload(workload)
    from tpbench.results import leaderboard, render_leaderboard, write_leaderboard

    store = open_store(results)
    board = leaderboard(store)
    shown = board[board["workload"] == workload] if workload else board
    if shown.empty:
        where = f"of {workload} " if workload else ""
        raise TpbenchError(f"{results} holds no run {where}yet; train some with 'tpbench sweep' or 'tpbench run'")
    print(render_leaderboard(shown, form), end="")
    if write is not None:
        path = write_leaderboard(shown, store, Path(write)) if write else write_leaderboard(board, store)
        typer.echo(f"written: {path}", err=True)
    warn_damaged(store)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="METHOD_A", autocompletion=completion.methods)],
    second: Annotated[str, typer.Argument(metavar="METHOD_B", autocompletion=completion.methods)],
    workload: OfWorkload = None,
    detect: Annotated[
        float | None,
        typer.Option(metavar="POINTS", min=0.001, max=100, help="Also: the seeds that would show this difference."),
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Two methods of the store: difference, test, and what that test would have shown (power 0.8)."""
    from tpbench.engine import get_method

    for method in (first, second):
        get_method(method)
    if workload:
        get_workload(workload)
    from tpbench.results.comparison import compare_methods, render_comparison

    store = open_store(results)
    frame = compare_methods(store, first, second, workload, detect)
    if frame.empty:
        where = f" on {workload}" if workload else ""
        raise TpbenchError(f"{results} holds no workload with runs of both {first} and {second}{where}")
    print(render_comparison(frame, first, second, detect), end="")
    warn_damaged(store)


@app.command("figure")
def draw_figure(
    name: Annotated[
        str,
        typer.Argument(
            metavar="2|4|s2|s3|s4|s5|s6", help="Which of the paper's figures.", autocompletion=completion.of(FIGURES)
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write.", show_default="figure_NAME.png")
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(metavar="WORKLOAD", help="Draw 4 or s3-s5 on another one.", autocompletion=completion.workloads),
    ] = None,
    results: Results = RESULTS,
) -> None:
    """A figure of the paper: 2, s2 and s6 are made at once, the others from the records of 'tpbench align'."""
    if name.lower() not in FIGURES:
        raise unknown("figure", name, FIGURES)
    if workload:
        get_workload(workload)
    from tpbench.reports.figures import make_figure
    from tpbench.reports.style import save

    path = output or Path(f"figure_{name.lower()}.png")
    save(make_figure(name.lower(), results, workload), path)
    print(f"written: {path}")


@app.command()
def plot(
    kind: Annotated[str, typer.Argument(metavar="curves|cost|search", autocompletion=completion.of(PLOTS))],
    what: Annotated[
        str,
        typer.Argument(
            metavar="WORKLOAD|SWEEP",
            help="A workload; for search, a sweep's name.",
            autocompletion=completion.drawable,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write.", show_default="KIND_WHAT.png")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Learning curves or cost of a workload's methods, or what a sweep's search saw."""
    if kind not in PLOTS:
        raise unknown("plot", kind, PLOTS)
    if kind != "search":
        get_workload(what)
    from tpbench.reports.curves import cells_of, cost_plot, learning_curves
    from tpbench.reports.searches import search_figure
    from tpbench.reports.style import save

    store = open_store(results)
    if kind == "search":
        figure = search_figure(results, what)
    else:
        cells = cells_of(store, what)
        figure = learning_curves(store, cells) if kind == "curves" else cost_plot(cells)
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
