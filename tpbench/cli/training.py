"""Commands that train: sweep, run, reproduce, align."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tpbench.cli.app import app
from tpbench.cli.options import (
    RESULTS,
    CheckpointEvery,
    Config,
    Data,
    Device,
    Epochs,
    MethodName,
    Offline,
    Precision,
    Results,
    Seeds,
    WorkloadName,
    make_settings,
    parse_names,
    print_outcomes,
    read_store,
)
from tpbench.engine import method_names
from tpbench.results.formats import listing
from tpbench.results.paper import ERROR_TABLES
from tpbench.workloads import WORKLOADS


@app.command()
def sweep(
    workload: WorkloadName,
    method: MethodName,
    trials: Annotated[int, typer.Option(min=1, max=1_000_000, help="Configurations that the search tries.")] = 100,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Number of final runs, seeds from 0 on.", show_default="10")
    ] = None,
    final_seeds: Annotated[
        str | None,
        typer.Option(metavar="SEEDS", help="Seeds of the final runs; the search trains seed 0.", show_default="0-9"),
    ] = None,
    epochs: Epochs = None,
    space: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A search space.", show_default="the paper's")
    ] = None,
    results: Results = RESULTS,
    data: Data = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores to use.", show_default="all")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to use.", show_default="all")] = None,
    address: Annotated[
        str | None, typer.Option(metavar="auto|HOST:PORT|ray://..", help="A running Ray cluster.", show_default="none")
    ] = None,
    pack: Annotated[str, typer.Option(metavar="auto|K", help="Configurations trained together in one trial.")] = "auto",
    search_seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the search.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start another sweep, though one was begun.")] = False,
    precision: Precision = "float32",
    checkpoint_every: CheckpointEvery = 5,
    offline: Offline = False,
) -> None:
    """Search a method's hyperparameters with TPE, then train the best configuration over all seeds."""
    from tpbench.sweeps.cluster import choose_resources
    from tpbench.sweeps.commands import CellChoice, SweepOptions, choose_final_seeds, run_sweep
    from tpbench.sweeps.sizing import parse_pack

    cell = CellChoice.of(workload, method)
    chosen_seeds = choose_final_seeds(seeds, final_seeds)
    resources = choose_resources(cpus, gpus, address)
    settings = make_settings(results, data, precision, "cpu", checkpoint_every, offline)
    options = SweepOptions(trials, chosen_seeds, epochs, space, search_seed, parse_pack(pack), resources, fresh)
    result = run_sweep(cell, options, settings)
    print("best configuration:")
    for name, value in result.configuration.items():
        print(f"  {name}: {value:g}")
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    print_outcomes(result.outcomes, method, workload)


@app.command()
def sweeps(results: Results = RESULTS) -> None:
    """The sweeps of a results folder: state, progress, and the command that continues each or why it cannot."""
    from tpbench.sweeps.listing import all_sweeps
    from tpbench.sweeps.progress import spell_error

    found = all_sweeps(str(read_store(results).folder))
    rows = [(s.name, s.state, f"{s.searched}/{s.trials}", spell_error(s.best)) for s in found]
    print(listing(("sweep", "state", "searched", "best validation error"), rows), end="")
    # Not in the table: a cell would break the commands.
    for status in found:
        if status.command or status.reason:
            print(f"{status.name}, {status.state}:\n{status.command or status.reason}")


@app.command()
def run(
    workload: WorkloadName,
    method: MethodName,
    config: Config = "published",
    seeds: Seeds = "0-9",
    epochs: Epochs = None,
    results: Results = RESULTS,
    data: Data = None,
    precision: Precision = "float32",
    device: Device = "auto",
    checkpoint_every: CheckpointEvery = 5,
    offline: Offline = False,
) -> None:
    """Train one configuration over seeds as one pack, without Ray."""
    from tpbench.sweeps.commands import CellChoice, run_seeds
    from tpbench.sweeps.configurations import find_configuration
    from tpbench.sweeps.packs import parse_seeds

    cell = CellChoice.of(workload, method)
    settings = make_settings(results, data, precision, device, checkpoint_every, offline)
    chosen = find_configuration(cell, config, results, data, offline=offline)
    if chosen.note:
        print(chosen.note)
    outcomes = run_seeds(cell, chosen.values, chosen.found, parse_seeds(seeds), epochs, settings)
    print_outcomes(outcomes, method, workload)


@app.command()
def reproduce(
    table_name: Annotated[str, typer.Option("--table", metavar="|".join(ERROR_TABLES), help="Whose cells.")] = "s6",
    workloads: Annotated[
        str | None, typer.Option(metavar="NAMES", help="With commas between them.", show_default="the table's")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="NAMES", help="With commas between them.", show_default="the table's")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Seeds per cell.")] = 10,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="2h, 90m: begin no cell that takes longer.", show_default="none")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    results: Results = RESULTS,
    data: Data = None,
    precision: Precision = "float32",
    device: Device = "auto",
    checkpoint_every: CheckpointEvery = 5,
    offline: Offline = False,
) -> None:
    """Train the paper's cells that the store lacks, cheapest first, with the published configurations."""
    from tpbench.sweeps.progress import spell_seconds
    from tpbench.sweeps.reproduction import parse_budget, plan
    from tpbench.sweeps.reproduction import reproduce as train

    # A plan alone downloads nothing.
    settings = make_settings(results, data, precision, device, checkpoint_every, offline or dry_run)
    limit = parse_budget(budget) if budget else None
    names = parse_names(workloads, WORKLOADS, "workload") if workloads else None
    rules = parse_names(methods, method_names(), "method") if methods else None
    cells, left = plan(table_name.lower(), names, rules, seeds, settings)
    rows = [(cell.name, str(len(cell.seeds)), spell_seconds(cell.seconds)) for cell in cells]
    title = "Plan, cheapest first (measured on this machine)"
    print(listing(("cell", "missing seeds", "estimated time"), rows, title), end="")
    print(f"{len(cells)} cell{'s' * (len(cells) != 1)}, {spell_seconds(sum(cell.seconds for cell in cells))} in all")
    for line in left:
        typer.echo(f"left out: {line}", err=True)
    if dry_run:
        return
    for done in train(cells, limit, settings):
        if done.seconds is None:
            print(f"{done.planned.name}: left, it does not fit into the budget")
        else:
            took = f"{spell_seconds(done.seconds)} (estimated {spell_seconds(done.planned.seconds)})"
            lost = f", {done.diverged} of {len(done.planned.seeds)} seeds diverged" if done.diverged else ""
            print(f"{done.planned.name}: {took}{lost}")


@app.command()
def align(
    workload: WorkloadName,
    method: MethodName,
    config: Config = "published",
    seeds: Seeds = "0",
    epochs: Epochs = None,
    every: Annotated[int, typer.Option(min=1, help="Minibatches between measurements.")] = 50,
    results: Results = RESULTS,
    data: Data = None,
    precision: Precision = "float32",
    device: Device = "auto",
    offline: Offline = False,
) -> None:
    """Train a configuration and record the angles of its updates with the loss gradient and with GNT updates."""
    from tpbench.sweeps.aligning import record_alignment
    from tpbench.sweeps.commands import CellChoice
    from tpbench.sweeps.configurations import find_configuration
    from tpbench.sweeps.packs import parse_seeds
    from tpbench.sweeps.signals import interruptible

    cell = CellChoice.of(workload, method)
    settings = make_settings(results, data, precision, device, 1, offline)
    chosen = find_configuration(cell, config, results, data, offline=offline)
    if chosen.note:
        print(chosen.note)
    with interruptible(settings.command, "a record is written whole at its end, so nothing is kept. To start anew"):
        path = record_alignment(
            workload, method, chosen.values, parse_seeds(seeds), epochs or cell.workload.epochs, every, settings
        )
    print(f"written: {path}")
