"""Commands that train: sweep, run, reproduce, align."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tpbench.cli.app import app
from tpbench.cli.options import (
    RESULTS,
    Address,
    CheckpointEvery,
    Config,
    Cpus,
    Data,
    Device,
    Epochs,
    Gpus,
    KeepNetworks,
    MethodName,
    Methods,
    Offline,
    Precision,
    Results,
    SearchPrecision,
    Seeds,
    Track,
    WorkloadName,
    Workloads,
    complain,
    make_settings,
    parse_names,
    print_records,
)
from tpbench.engine import method_names
from tpbench.engine.files import user_path
from tpbench.results.budgets import OBJECTIVES
from tpbench.results.formats import listing
from tpbench.results.opening import read_store
from tpbench.results.paper import ERROR_TABLES
from tpbench.results.terminal import say
from tpbench.workloads import WORKLOADS


@app.command()
def sweep(
    workload: Workloads,
    method: Methods,
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
        Path | None,
        typer.Option(metavar="FILE", help="A search space.", show_default="the paper's", parser=user_path),
    ] = None,
    objective: Annotated[str, typer.Option(help=f"What is minimised: {', '.join(OBJECTIVES)}.")] = OBJECTIVES[0],
    halving: Annotated[
        int,
        typer.Option(
            metavar="FACTOR", help="Stop the worst of each pack at two rungs; 3 is usual.", show_default="0: no halving"
        ),
    ] = 0,
    results: Results = RESULTS,
    data: Data = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    address: Address = None,
    pack: Annotated[str, typer.Option(metavar="auto|K", help="Configurations trained together in one trial.")] = "auto",
    search_seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the search.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start another sweep, though one was begun.")] = False,
    accept_failures: Annotated[
        bool, typer.Option("--accept-failures", help="Go on though more than a tenth could not be trained.")
    ] = False,
    precision: Precision = "float32",
    search_precision: SearchPrecision = None,
    checkpoint_every: CheckpointEvery = 5,
    offline: Offline = False,
    keep_networks: KeepNetworks = False,
    track: Track = None,
) -> None:
    """Search hyperparameters with TPE, then train the best configuration over all seeds; of one cell or of many."""
    from tpbench.sweeps.campaign import require_success, run_sweeps
    from tpbench.sweeps.options import choose_options
    from tpbench.training.choice import choose_all

    cells, left = choose_all(workload, method)
    for line in left:
        complain(f"left out: {line}")
    options = choose_options(
        trials,
        seeds=seeds,
        final_seeds=final_seeds,
        epochs=epochs,
        space=space,
        objective=objective,
        halving=halving,
        cpus=cpus,
        gpus=gpus,
        address=address,
        pack=pack,
        search_seed=search_seed,
        fresh=fresh,
        accept_failures=accept_failures,
        search_precision=search_precision,
    )
    settings = make_settings(results, data, precision, None, checkpoint_every, offline, keep_networks, track)
    found = run_sweeps(cells, options, settings)
    if len(found) > 1:
        print(_render_results(found), end="")
        for one in found:
            if one.failure:
                complain(f"{one.name}: {one.failure}")
        if any(one.failure for one in found):
            raise typer.Exit(1)
        return
    require_success(found)
    print("best configuration:")
    for name, value in found[0].records[0].definition.configuration.items():
        say(f"  {name}: {value:g}")
    only = found[0].cell
    print_records(found[0].records, only.method, only.workload.name)


def _render_results(results: Sequence[Any]) -> str:
    """The end of a campaign: one row per sweep."""
    from tpbench.results.formats import mean_and_deviation, spell
    from tpbench.training.progress import format_duration, format_error_rate

    rows = []
    for one in results:
        errors = [100 * r.test_error for r in one.records if not r.diverged and r.test_error is not None]
        test = f"{spell(*mean_and_deviation(errors))} %" if errors else "-"
        time = format_duration(one.seconds) if one.seconds else "-"
        rows.append((one.name, one.state, str(one.tried), format_error_rate(one.best_error), test, time))
    return listing(("sweep", "state", "configurations", "best validation error", "test error", "time"), rows)


@app.command()
def sweeps(
    results: Results = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="A list with every number.")] = False,
) -> None:
    """The sweeps of a results folder: state, progress, and the command that continues each or why it cannot."""
    from tpbench.search.listing import all_sweeps
    from tpbench.training.progress import format_error_rate

    found = all_sweeps(str(read_store(results).folder))
    if as_json:
        print(json.dumps([asdict(status) for status in found], indent=1))
        return
    rows = [(s.id, s.state, f"{s.searched}/{s.trials}", format_error_rate(s.best)) for s in found]
    print(listing(("sweep", "state", "searched", "best validation error"), rows), end="")
    # Not in the table: a cell would break the commands.
    for status in found:
        if status.command or status.reason:
            say(f"{status.id}, {status.state}:")
            say(status.command or status.reason)


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
    keep_networks: KeepNetworks = False,
    track: Track = None,
    again: Annotated[
        bool, typer.Option("--again", help="Train stored runs that lack predictions (right or wrong) for them.")
    ] = False,
) -> None:
    """Train one configuration over seeds, as one pack or as one per core, without Ray."""
    from tpbench.search.configurations import find_configuration
    from tpbench.training.choice import CellChoice
    from tpbench.training.running import run_seeds
    from tpbench.training.seeds import parse_seeds

    cell = CellChoice.of(workload, method)
    settings = make_settings(results, data, precision, device, checkpoint_every, offline, keep_networks, track, again)
    chosen = find_configuration(cell, config, results, data, offline=offline, precision=precision)
    records = run_seeds(cell, chosen.values, chosen.found, parse_seeds(seeds), epochs, settings, note=chosen.note)
    print_records(records, method, cell.workload.name)


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
    cpus: Cpus = None,
    gpus: Gpus = None,
    address: Address = None,
    precision: Precision = "float32",
    checkpoint_every: CheckpointEvery = 5,
    offline: Offline = False,
    keep_networks: KeepNetworks = False,
    track: Track = None,
) -> None:
    """Train the paper's cells that the store lacks, cheapest first, with the published configurations."""
    from tpbench.sweeps.cluster import choose_resources
    from tpbench.sweeps.reproduction import parse_budget, plan
    from tpbench.sweeps.reproduction import reproduce as train
    from tpbench.training.pack import format_missing_networks
    from tpbench.training.progress import format_duration

    resources = choose_resources(cpus, gpus, address)
    # A plan alone downloads nothing.
    device = None if resources.address else "cuda" if resources.gpus else "cpu"
    settings = make_settings(
        results, data, precision, device, checkpoint_every, offline or dry_run, keep_networks, track
    )
    limit = parse_budget(budget) if budget else None
    names = parse_names(workloads, WORKLOADS, "workload") if workloads else None
    rules = parse_names(methods, method_names(), "method") if methods else None
    cells, left = plan(table_name.lower(), names, rules, seeds, settings)
    rows = [(cell.name, str(len(cell.seeds)), format_duration(cell.seconds)) for cell in cells]
    title = "Plan, cheapest first (measured on this machine)"
    print(listing(("cell", "missing seeds", "estimated time"), rows, title), end="")
    say(f"{len(cells)} cell{'s' * (len(cells) != 1)}, {format_duration(sum(cell.seconds for cell in cells))} in all")
    for line in left:
        complain(f"left out: {line}")
    if dry_run:
        return
    trained = train(cells, limit, settings, resources) if cells else []
    for done in trained:
        estimate = format_duration(done.planned.seconds)
        if done.failure:
            say(f"{done.planned.name}: failed: {done.failure}")
        elif done.seconds is None:
            say(f"{done.planned.name}: left, it does not fit into the budget")
        else:
            lost = f", {done.diverged} of {len(done.planned.seeds)} seeds diverged" if done.diverged else ""
            say(f"{done.planned.name}: {format_duration(done.seconds)} (estimated {estimate}){lost}")
    if count := sum(done.unkept for done in trained):
        complain(format_missing_networks(count))
    if any(done.failure for done in trained) or (left and not cells):
        raise typer.Exit(1)


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
    from tpbench.search.configurations import find_configuration
    from tpbench.training.aligning import record_alignment
    from tpbench.training.choice import CellChoice
    from tpbench.training.console import interruptible
    from tpbench.training.seeds import parse_seeds

    cell = CellChoice.of(workload, method)
    settings = make_settings(results, data, precision, device, 1, offline)
    chosen = find_configuration(cell, config, results, data, offline=offline)
    if chosen.note:
        say(chosen.note)
    with interruptible(settings.command, "a record is written whole at its end, so nothing is kept. To start anew"):
        path = record_alignment(
            cell.workload, method, chosen.values, parse_seeds(seeds), epochs or cell.workload.epochs, every, settings
        )
    say(f"written: {path}")
