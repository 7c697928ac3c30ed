"""Commands that train: sweep, run, reproduce, align; and the list of sweeps."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tpbench.cli.app import (
    TRAIN,
    OptionsCommand,
    Results,
    app,
    command,
    complain,
    parse_names,
    print_records,
    read_store,
    warn_damaged,
)
from tpbench.engine import TpbenchError, method_names
from tpbench.engine.configuration import format_value
from tpbench.results.formats import count_of, listing, say
from tpbench.results.opening import DEFAULT_STORE
from tpbench.workloads import WORKLOADS

if TYPE_CHECKING:
    from tpbench.options import AlignOptions, ReproduceOptions, RunOptions, SweepOptions
    from tpbench.sweeps.estimates import SweepPlan


@command(app, "tpbench sweep digits bp,ddtp-linear --trials 27 --halving 3 --pack 9", TRAIN, cls=OptionsCommand)
def sweep(context: typer.Context) -> None:
    """Search hyperparameters with TPE, then train the best configuration over all seeds.

    Every workload is trained with every method; the same command continues what was interrupted.
    """
    options: SweepOptions = context.obj
    from tpbench.training.choice import choose_all

    cells, left = choose_all(options.workloads, options.methods)
    from tpbench.sweeps.campaign import require_success, run_sweeps
    from tpbench.training.plan import PackSettings

    if options.dry_run:
        from tpbench.sweeps.estimates import estimate_sweeps

        plan = estimate_sweeps(cells, options, PackSettings.of(options, None), complain)
        for line in [*left, *plan.left]:
            complain(f"left out: {line}")
        print(_render_plan(plan), end="")
        if not plan.sweeps:
            raise typer.Exit(1)
        return
    for line in left:
        complain(f"left out: {line}")
    found = run_sweeps(cells, options, PackSettings.of(options, None))
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
        say(f"  {name}: {format_value(value)}")
    only = found[0].cell
    print_records(found[0].records, only.method, only.workload.name)


def _render_plan(plan: SweepPlan) -> str:
    """Return the plan of a campaign: one row per sweep, and a line about all of them."""
    from tpbench.training.progress import format_duration

    def time(count: int, seconds: float) -> str:
        return "-" if not count else "under 1 s" if seconds < 1 else format_duration(seconds)

    rows = [
        (
            f"{one.cell.workload.name} {one.cell.method}",
            f"{one.configurations} in packs of {one.pack}" if one.configurations else "0",
            time(one.configurations, one.search_seconds),
            str(one.seeds),
            time(one.seeds, one.final_seconds),
        )
        for one in plan.sweeps
    ]
    columns = ("sweep", "configurations left", "search", "seeds left", "final runs")
    worker = "GPU" if plan.on_gpus else "CPU core"
    line = f"{count_of(len(rows), 'sweep')}: {time(1, plan.seconds)} of one {worker}"
    if not plan.seconds:
        line = f"{count_of(len(rows), 'sweep')}: nothing is left to train"
    elif plan.workers > 1:
        line += f", at least {time(1, plan.shortest)} on {plan.workers}"
    return listing(columns, rows, "Plan (measured on this machine, starts not counted)") + f"{line}\n"


def _render_results(results: Sequence[Any]) -> str:
    """Return the end of a campaign: one row per sweep."""
    from tpbench.results.formats import format_mean, mean_and_deviation
    from tpbench.training.progress import format_duration, format_error_rate

    rows = []
    for one in results:
        errors = [100 * r.test_error for r in one.records if not r.diverged and r.test_error is not None]
        test = f"{format_mean(*mean_and_deviation(errors))} %" if errors else "-"
        time = format_duration(one.seconds) if one.seconds else "-"
        rows.append((one.name, one.state, str(one.tried), format_error_rate(one.best_error), test, time))
    return listing(("sweep", "state", "configurations", "best validation error", "test error", "time"), rows)


@command(app, "tpbench sweeps --results results", TRAIN)
def sweeps(
    results: Results = DEFAULT_STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with every number.")] = False,
) -> None:
    """List the sweeps of a store: state, progress, and the command that continues each or why it cannot."""
    from tpbench.search.campaigns import read_campaigns
    from tpbench.search.listing import list_sweeps
    from tpbench.training.progress import format_error_rate

    store = read_store(results)
    found = list_sweeps(store)
    warn_damaged(store)
    if as_json:
        print(json.dumps([asdict(status) for status in found], indent=1))
        return
    rows = [
        (
            s.id,
            s.state + ", archived" * bool(s.archive),
            f"{s.searched}/{s.trials}",
            f"{s.seeds_done}/{s.seeds}",
            format_error_rate(s.best),
        )
        for s in found
    ]
    print(listing(("sweep", "state", "searched", "seeds", "best validation error"), rows), end="")
    for campaign in read_campaigns(store):
        if campaign.running:
            for line in [campaign.summary(time.time()), *campaign.places()]:
                say(line)
            for one in campaign.state.sweeps:
                for line in campaign.problems(one.name):
                    say(f"{one.name}: {line}")
    # Not in the table: a cell would break the commands.
    for status in found:
        if status.command or status.reason:
            say(f"{status.id}, {status.state}:")
            say(status.command or status.reason)


@command(app, "tpbench run digits bp,ddtp-linear --n-seeds 3", TRAIN, cls=OptionsCommand)
def run(context: typer.Context) -> None:
    """Train one configuration of each method over several seeds, without a search and without Ray."""
    options: RunOptions = context.obj
    from tpbench.training.choice import choose_cells

    cells, left = choose_cells(options.workload, options.method)
    from tpbench.search.configurations import leave_out_unconfigured, run_configurations

    for line in left:
        complain(f"left out: {line}")
    cells, missing = leave_out_unconfigured(cells, options)
    if missing:
        complain(f"left out, no configuration: {', '.join(missing)}")
    diverged: list[TpbenchError] = []
    for cell, records in run_configurations(cells, options):
        try:
            print_records(records, cell.method, cell.workload.name)
        except TpbenchError as error:
            # The other methods are trained all the same.
            diverged.append(error)
    for earlier in diverged[:-1]:
        complain(f"error: {earlier}")
    if diverged:
        raise diverged[-1]


@command(app, "tpbench reproduce --workloads mnist --budget 2h --dry-run", TRAIN, cls=OptionsCommand)
def reproduce(context: typer.Context) -> None:
    """Train what the store lacks of a table of the paper, cheapest first, with the published configurations."""
    options: ReproduceOptions = context.obj
    names = parse_names(options.workloads, WORKLOADS, "workload") if options.workloads else None
    rules = parse_names(options.methods, method_names(), "method") if options.methods else None
    from tpbench.sweeps.cluster import choose_resources
    from tpbench.sweeps.reproduction import plan
    from tpbench.sweeps.reproduction import reproduce as train
    from tpbench.training.plan import PackSettings, format_missing_networks
    from tpbench.training.progress import format_duration

    resources = choose_resources(options.cpus, options.gpus, options.address)
    device = None if resources.address else "cuda" if resources.gpus else "cpu"
    # A plan alone downloads nothing.
    settings = PackSettings.of(options.model_copy(update={"offline": True}) if options.dry_run else options, device)
    cells, left = plan(options.table, names, rules, options.seed_list, settings)
    rows = [(cell.name, str(len(cell.seeds)), format_duration(cell.seconds)) for cell in cells]
    title = "Plan, cheapest first (measured on this machine)"
    print(listing(("cell", "missing seeds", "estimated time"), rows, title), end="")
    say(f"{count_of(len(cells), 'cell')}, {format_duration(sum(cell.seconds for cell in cells))} in all")
    for line in left:
        complain(f"left out: {line}")
    if options.dry_run:
        return
    trained = train(cells, options.budget_seconds, settings, resources) if cells else []
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


@command(app, "tpbench align digits ddtp-linear --epochs 5", TRAIN, cls=OptionsCommand)
def align(context: typer.Context) -> None:
    """Train a configuration and record the angles of its updates with the loss gradient and with GNT's updates."""
    options: AlignOptions = context.obj
    from tpbench.training.choice import CellChoice

    cell = CellChoice.of(options.workload, options.method)
    from tpbench.search.configurations import find_configuration
    from tpbench.training.aligning import record_alignment
    from tpbench.training.console import interruptible
    from tpbench.training.plan import PackSettings

    settings = PackSettings.of(options, options.device)
    chosen = find_configuration(cell, options.configuration, settings)
    if chosen.note:
        say(chosen.note)
    with interruptible(settings.command, "a record is written whole at its end, so nothing is kept. To start anew"):
        path = record_alignment(
            cell.workload,
            cell.method,
            chosen.values,
            options.seed_list,
            options.epochs or cell.workload.epochs,
            options.every,
            settings,
        )
    say(f"written: {path}")
