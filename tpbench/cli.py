"""The command line: parse, call, print."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from tpbench import __version__
from tpbench.engine import PRECISIONS, TpbenchError, UsageError, all_methods, unknown
from tpbench.results import RunStore, leaderboard, paper_table, render, render_leaderboard, write_leaderboard
from tpbench.results.location import location
from tpbench.results.tables import FORMATS, draw
from tpbench.workloads import DATASETS, WORKLOADS, default_folder, download, get_workload, import_file

app = typer.Typer(
    name="tpbench",
    help="Is this learning rule really better than that one? Sweeps, runs and tables of target-propagation methods.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets: download, import, list.", no_args_is_help=True)
verify_app = typer.Typer(help="Check the engine against numbers made elsewhere.", no_args_is_help=True)
results_app = typer.Typer(help="Look after run stores: check, merge, export.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(results_app, name="results")
app.add_typer(verify_app, name="verify")

WorkloadName = Annotated[str, typer.Argument(metavar="WORKLOAD", help="See 'tpbench workloads'.")]
MethodName = Annotated[str, typer.Argument(metavar="METHOD", help="See 'tpbench methods'.")]
Results = Annotated[str, typer.Option("--results", metavar="DIR|URL", help="The run store.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Folder of the data sets [default: $TPBENCH_DATA or the cache].", file_okay=False
    ),
]
Epochs = Annotated[
    int | None, typer.Option(min=1, max=1_000_000, help="Joint epochs [default: the workload's, 100 in the paper].")
]
Precision = Annotated[str, typer.Option(help=f"Arithmetic: {', '.join(PRECISIONS)}.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
CheckpointEvery = Annotated[int, typer.Option(min=1, help="Epochs between checkpoints.")]

RESULTS = "results"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tpbench {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)


def _store(results: str) -> RunStore:
    """The store of a folder or URL; a file of that name is a slip of the user's."""
    folder = location(results)
    if isinstance(folder, Path) and folder.exists() and not folder.is_dir():
        raise UsageError(f"--results '{results}': this is a file, a folder is needed")
    return RunStore(folder)


def _settings(results: str, data: Path | None, precision: str, device: str, checkpoint_every: int) -> Any:
    from tpbench.sweeps.packs import PackSettings, choose_device

    _check_precision(precision)
    _store(results)
    command = shlex.join(["tpbench", *sys.argv[1:]])
    return PackSettings(
        results, str(data) if data else None, precision, choose_device(device), checkpoint_every, command
    )


def _print_outcomes(outcomes: list[Any], method: str, workload: str) -> None:
    errors = pd.Series([100 * o.test_error for o in outcomes if o.test_error is not None], dtype=float)
    diverged = sum(o.status == "diverged" for o in outcomes)
    spread = f" +- {errors.std(ddof=1):.2f}" if len(errors) > 1 else ""
    known = f"{errors.mean():.2f}{spread} %" if len(errors) else "unknown"
    note = f" ({diverged} diverged)" if diverged else ""
    print(f"{workload} {method}: test error {known} over {len(outcomes)} seed{'s' * (len(outcomes) > 1)}{note}")


@app.command()
def sweep(
    workload: WorkloadName,
    method: MethodName,
    trials: Annotated[int, typer.Option(min=1, max=1_000_000, help="Configurations that the search tries.")] = 100,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Seeds of the final runs.")] = 10,
    epochs: Epochs = None,
    space: Annotated[Path | None, typer.Option(metavar="FILE", help="A search space [default: the paper's].")] = None,
    results: Results = RESULTS,
    data: Data = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores to use [default: all].")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to use [default: all].")] = None,
    address: Annotated[
        str | None, typer.Option(metavar="auto|HOST:PORT|ray://..", help="A running Ray cluster [default: none].")
    ] = None,
    pack: Annotated[str, typer.Option(metavar="auto|K", help="Configurations trained together in one trial.")] = "auto",
    search_seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the search.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start another sweep, though one was begun.")] = False,
    precision: Precision = "float32",
    checkpoint_every: CheckpointEvery = 5,
) -> None:
    """Search a method's hyperparameters with TPE, then train the best configuration over all seeds."""
    from tpbench.sweeps.cluster import choose_resources
    from tpbench.sweeps.commands import CellChoice, SweepOptions, run_sweep
    from tpbench.sweeps.sizing import parse_pack

    cell = CellChoice.of(workload, method)
    resources = choose_resources(cpus, gpus, address)
    settings = _settings(results, data, precision, "cpu", checkpoint_every)
    result = run_sweep(
        cell, SweepOptions(trials, seeds, epochs, space, search_seed, parse_pack(pack), resources, fresh), settings
    )
    print("best configuration:")
    for name, value in result.configuration.items():
        print(f"  {name}: {value:g}")
    _print_outcomes(result.outcomes, method, workload)


JobsAddress = Annotated[str, typer.Option("--address", metavar="http://HEAD:8265", help="The cluster's dashboard.")]


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def submit(context: typer.Context, workload: WorkloadName, method: MethodName, address: JobsAddress) -> None:
    """Start a sweep as a job of a Ray cluster. Takes the options of 'tpbench sweep'; --results must be shared."""
    from tpbench.sweeps import jobs
    from tpbench.sweeps.commands import CellChoice

    CellChoice.of(workload, method)
    jobs.check_jobs_address(address)
    arguments = [workload, method, *context.args]
    # Read here as the cluster will read them, so that a slip shows now.
    command = typer.main.get_command(app).commands["sweep"]  # type: ignore[attr-defined]
    results = command.make_context("sweep", list(arguments)).params["results"]
    name = jobs.submit(address, jobs.job_command(arguments, results))
    print(f"submitted: {name}")
    print(f"tpbench status --address {address}")
    print(f"tpbench logs {name} --address {address}")


@app.command()
def status(address: JobsAddress) -> None:
    """The sweeps that were submitted to a cluster."""
    from tpbench.sweeps.jobs import jobs

    listing = Table("job", "state", "started (UTC)", "command")
    for job in jobs(address):
        listing.add_row(job.name, job.state, job.started, job.command)
    print(draw(listing), end="")


@app.command()
def logs(job: Annotated[str, typer.Argument(metavar="JOB")], address: JobsAddress) -> None:
    """What a submitted sweep printed so far."""
    from tpbench.sweeps.jobs import logs

    print(logs(address, job), end="")


@app.command()
def stop(job: Annotated[str, typer.Argument(metavar="JOB")], address: JobsAddress) -> None:
    """Stop a submitted sweep; what it finished is kept, and submitting it again continues it."""
    from tpbench.sweeps.jobs import stop

    print(f"{job}: {'stopping' if stop(address, job) else 'had ended already'}")


@app.command()
def sweeps(results: Results = RESULTS) -> None:
    """The sweeps of a results folder: state, progress and the command that continues each."""
    from tpbench.sweeps.listing import all_sweeps

    listing = Table("sweep", "state", "searched", "best validation error", "continue with")
    for status in all_sweeps(location(results)):
        best = f"{100 * status.best:.2f} %" if status.best is not None else "-"
        command = status.command if status.state in ("interrupted", "damaged") else ""
        listing.add_row(status.name, status.state, f"{status.searched}/{status.trials}", best, command)
    print(draw(listing), end="")


@app.command()
def run(
    workload: WorkloadName,
    method: MethodName,
    config: Annotated[str, typer.Option(metavar="published|best|FILE", help="The hyperparameters.")] = "published",
    seeds: Annotated[str, typer.Option(metavar="SEEDS", help="0-9, or a list of seeds and ranges.")] = "0-9",
    epochs: Epochs = None,
    results: Results = RESULTS,
    data: Data = None,
    precision: Precision = "float32",
    device: Device = "auto",
    checkpoint_every: CheckpointEvery = 5,
) -> None:
    """Train one configuration over seeds as one pack, without Ray."""
    from tpbench.sweeps.commands import CellChoice, find_configuration, run_seeds
    from tpbench.sweeps.packs import parse_seeds

    cell = CellChoice.of(workload, method)
    settings = _settings(results, data, precision, device, checkpoint_every)
    configuration = find_configuration(cell, config, results)
    outcomes = run_seeds(cell, configuration, parse_seeds(seeds), epochs, settings)
    _print_outcomes(outcomes, method, workload)


@app.command()
def reproduce(
    table_name: Annotated[str, typer.Option("--table", metavar="1|s6", help="Whose cells.")] = "s6",
    workloads: Annotated[str | None, typer.Option(metavar="NAMES", help="With commas between them.")] = None,
    methods: Annotated[str | None, typer.Option(metavar="NAMES", help="As above.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Seeds per cell.")] = 10,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="2h, 90m: begin no cell that takes longer.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    results: Results = RESULTS,
    data: Data = None,
    precision: Precision = "float32",
    device: Device = "auto",
    checkpoint_every: CheckpointEvery = 5,
) -> None:
    """Train the paper's cells that the store lacks, cheapest first, with the published configurations."""
    from tpbench.sweeps.progress import spell_seconds
    from tpbench.sweeps.reproduction import parse_budget, plan
    from tpbench.sweeps.reproduction import reproduce as train

    settings = _settings(results, data, precision, device, checkpoint_every)
    limit = parse_budget(budget) if budget else None
    names = _names(workloads, WORKLOADS, "workload") if workloads else None
    rules = _names(methods, all_methods(), "method") if methods else None
    cells, left = plan(table_name.lower(), names, rules, seeds, settings)
    listing = Table("cell", "missing seeds", "estimated time", title="Plan, cheapest first (measured on this machine)")
    for cell in cells:
        listing.add_row(cell.name, str(len(cell.seeds)), spell_seconds(cell.seconds))
    print(draw(listing), end="")
    print(f"{len(cells)} cells, {spell_seconds(sum(cell.seconds for cell in cells))} in all")
    for line in left:
        typer.echo(f"left out: {line}", err=True)
    if dry_run:
        return
    for done in train(cells, limit, settings):
        if done.seconds is None:
            print(f"{done.planned.name}: left, it does not fit into the budget")
        else:
            print(
                f"{done.planned.name}: {spell_seconds(done.seconds)} (estimated {spell_seconds(done.planned.seconds)})"
            )


@app.command()
def align(
    workload: WorkloadName,
    method: MethodName,
    config: Annotated[str, typer.Option(metavar="published|best|FILE", help="The hyperparameters.")] = "published",
    seeds: Annotated[str, typer.Option(metavar="SEEDS", help="0-9, or a list of seeds and ranges.")] = "0",
    epochs: Epochs = None,
    every: Annotated[int, typer.Option(min=1, help="Minibatches between measurements.")] = 50,
    results: Results = RESULTS,
    data: Data = None,
    precision: Precision = "float32",
    device: Device = "auto",
) -> None:
    """Train a configuration and record the angles of its updates with the loss gradient and with GNT updates."""
    from tpbench.sweeps.aligning import record_alignment
    from tpbench.sweeps.commands import CellChoice, find_configuration, interruptible
    from tpbench.sweeps.packs import parse_seeds

    cell = CellChoice.of(workload, method)
    settings = _settings(results, data, precision, device, 1)
    configuration = find_configuration(cell, config, results)
    with interruptible(settings.command):
        path = record_alignment(
            workload, method, configuration, parse_seeds(seeds), epochs or cell.workload.epochs, every, settings
        )
    print(f"written: {path}")


@app.command("figure")
def draw_figure(
    name: Annotated[str, typer.Argument(metavar="2|4|s2|s3|s4|s5|s6", help="Which of the paper's figures.")],
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="[default: figure_NAME.png]")] = None,
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
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="[default: KIND_WHAT.png]")] = None,
    results: Results = RESULTS,
) -> None:
    """Learning curves or cost of a workload's methods, or what a sweep's search saw."""
    from tpbench.reports.curves import cost_plot, learning_curves
    from tpbench.reports.searches import search_figure
    from tpbench.reports.style import save

    if kind not in PLOTS:
        raise unknown("plot", kind, PLOTS)
    store = _store(results)
    if kind == "search":
        figure = search_figure(results, what)
    else:
        get_workload(what)
        figure = learning_curves(store, what) if kind == "curves" else cost_plot(store, what)
    path = output or Path(f"{kind}_{what}.png")
    save(figure, path)
    print(f"written: {path}")
    _warn_damaged(store)


@app.command()
def report(
    output: Annotated[Path, typer.Option(metavar="FILE")] = Path("report.html"), results: Results = RESULTS
) -> None:
    """Everything the store holds as one self-contained HTML page."""
    from tpbench.reports.page import render_report
    from tpbench.results.store import write_atomically

    text = render_report(results, shlex.join(["tpbench", *sys.argv[1:]]))
    write_atomically(output, text)
    print(f"written: {output} ({len(text) / 1e6:.1f} MB)")


def _table_s7(results: str, form: str) -> str:
    from tpbench.reports.figures import damping_rows
    from tpbench.results.paper import paper_dampings
    from tpbench.results.tables import damping_table

    return damping_table([(m, d, paper_dampings(m)) for m, d in damping_rows(results)], form)


def _warn_damaged(store: RunStore) -> None:
    for message in store.damaged:
        typer.echo(f"warning: {message}", err=True)


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
    store = _store(results)
    text = render(paper_table(store, name.lower()), form)
    _warn_damaged(store)
    print(text, end="" if text.endswith("\n") else "\n")


@app.command("leaderboard")
def show_leaderboard(
    workload: Annotated[str | None, typer.Argument(metavar="WORKLOAD", help="Only this one.")] = None,
    results: Results = RESULTS,
) -> None:
    """All methods of the store, best first; also written to leaderboard.csv in the store's folder."""
    if workload:
        get_workload(workload)
    store = _store(results)
    board = leaderboard(store, workload)
    if board.empty:
        where = f"of {workload} " if workload else ""
        raise TpbenchError(f"{results} holds no run {where}yet; train some with 'tpbench sweep' or 'tpbench run'")
    print(render_leaderboard(board), end="")
    print(f"written: {write_leaderboard(store)}")
    _warn_damaged(store)


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
    from tpbench.results.tables import spell

    for method in (first, second):
        get_method(method)
    if workload:
        get_workload(workload)
    store = _store(results)
    frame = compare_methods(store, first, second, workload)
    if frame.empty:
        where = f" on {workload}" if workload else ""
        raise TpbenchError(f"{results} holds no workload with runs of both {first} and {second}{where}")
    listing = Table(
        "workload", first, second, "shared seeds", "difference", "p", "seeds needed", "verdict",
        title="Test error (%); paired t-test over shared seeds; seeds needed for power 0.8",
    )  # fmt: skip
    for row in frame.to_dict("records"):
        label = "" if row["data"] == "exact" else f" ({row['data']})"
        note = "" if row["same_epochs"] else " (trained for different numbers of epochs)"
        needed = "-" if pd.isna(row["seeds_needed"]) else str(int(row["seeds_needed"]))
        listing.add_row(
            row["workload"] + label, spell(row["first_mean"], row["first_std"]),
            spell(row["second_mean"], row["second_std"]), str(row["shared_seeds"]), f"{row['difference']:+.2f}",
            "-" if pd.isna(row["p"]) else f"{row['p']:.2g}", needed, row["verdict"] + note,
        )  # fmt: skip
    print(draw(listing), end="")
    _warn_damaged(store)


@results_app.command("check")
def results_check(results: Results = RESULTS) -> None:
    """Verify the checksum of every run file."""
    from tpbench.results.maintenance import check_store

    whole, wrong = check_store(_store(results))
    print(f"{results}: {whole} run{'s' * (whole != 1)} whole, {len(wrong)} damaged")
    for message in wrong:
        typer.echo(message, err=True)
    if wrong:
        raise typer.Exit(1)


@results_app.command("merge")
def results_merge(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The store, or archive, whose runs are copied.")],
    target: Annotated[str, typer.Argument(metavar="INTO", help="The store they are added to.")],
) -> None:
    """Copy the runs of one store into another."""
    from tpbench.results.maintenance import merge_stores, open_source

    with open_source(source) as store:
        new, known = merge_stores(store, _store(target))
        print(f"{new} run{'s' * (new != 1)} copied, {known} there already")
        _warn_damaged(store)


@results_app.command("pack")
def results_pack(
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="'results merge FILE.zip INTO' reads it back.")],
    results: Results = RESULTS,
) -> None:
    """Write the runs of a store into one compressed archive."""
    from tpbench.results.maintenance import pack_store

    store = _store(results)
    print(f"{pack_store(store, file)} runs written to {file}")
    _warn_damaged(store)


@results_app.command("export")
def results_export(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    form: Annotated[str, typer.Option("--format", help="csv or parquet")] = "csv",
    results: Results = RESULTS,
) -> None:
    """Write one row per run to a file."""
    from tpbench.results.maintenance import export_runs

    store = _store(results)
    print(f"{export_runs(store, file, form)} runs written to {file}")
    _warn_damaged(store)


@app.command()
def doctor(
    results: Results = RESULTS,
    data: Data = None,
    address: Annotated[
        str | None, typer.Option(metavar="http://HEAD:8265", help="Look at a cluster too, through its dashboard.")
    ] = None,
) -> None:
    """What this installation is made of, what is wrong and how to mend it; exit code 1 if sweeps cannot work."""
    from tpbench.sweeps.doctor import examine

    findings = list(examine(location(results), data, address))
    listing = Table("what", "state", "how to mend it")
    for finding in findings:
        listing.add_row(finding.subject, finding.state, finding.remedy)
    print(draw(listing), end="")
    insecure = any("without token" in f.state or f.state == "cannot be reached" for f in findings)
    if insecure or any(f.state == "not installed" or "cannot be written" in f.remedy for f in findings):
        raise typer.Exit(1)


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


def _names(text: str | None, known: Iterable[str], what: str) -> list[str]:
    """A comma-separated list of names; all where none is given."""
    names = [name.strip() for name in text.split(",")] if text else list(known)
    for name in names:
        if name not in known:
            raise unknown(what, name, known)
    return names


def _sizes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 5 and int(part) for part in parts):
        raise UsageError(f"--pack '{text}': write pack sizes from 1 to 9999 with commas between them")
    return [int(part) for part in parts]


@app.command()
def bench(
    workloads: Annotated[str, typer.Option(metavar="NAMES", help="With commas between them.")] = "mnist,cifar10",
    methods: Annotated[str | None, typer.Option(metavar="NAMES", help="As above; all by default.")] = None,
    pack: Annotated[str, typer.Option(metavar="SIZES", help="Members per pack, with commas between them.")] = "10",
    device: Device = "auto",
    precision: Precision = "float32",
    seconds: Annotated[float, typer.Option(min=0.01, max=3600, help="Time per measurement.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="A list of rows with every number.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw time per member against pack size.")] = None,
) -> None:
    """Measure joint training: rate, share of the machine's product rate, time by phase, memory."""
    from dataclasses import asdict

    from tpbench.engine.clock import PHASES
    from tpbench.reports.scaling import plot_scaling
    from tpbench.sweeps.packs import choose_device
    from tpbench.workloads.benchmark import measure_all

    _check_precision(precision)
    chosen = [WORKLOADS[name] for name in _names(workloads, WORKLOADS, "workload")]
    rules = _names(methods, all_methods(), "method")
    rows = list(measure_all(chosen, rules, _sizes(pack), choose_device(device), precision, seconds))
    if plot:
        plot_scaling(rows, plot)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    columns = ("workload", "method", "pack", "ms/step", "member epochs/s", "GFLOP/s", "of product rate")
    listing = Table(*columns, *PHASES, "peak MiB")
    for row in rows:
        listing.add_row(
            row.workload, row.method, str(row.pack), f"{1000 * row.step_seconds:.1f}",
            f"{row.member_epochs_per_second:.3f}", f"{row.rate / 1e9:.0f}", f"{100 * row.fraction:.0f} %",
            *(f"{100 * row.phases[name]:.0f} %" for name in PHASES),
            f"{row.peak_memory / 2**20:.0f}" if row.peak_memory else "?",
        )  # fmt: skip
    print(draw(listing), end="")


@data_app.command("get")
def data_get(name: Annotated[str, typer.Argument(metavar="NAME")], data: Data = None) -> None:
    """Download a data set through torchvision into the cache."""
    _say_dataset(download(name, data), data)


@data_app.command("import")
def data_import(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help="A Keras-style file.")],
    data: Data = None,
    label: Annotated[str | None, typer.Option(help="What kind of copy it is; results are labelled so.")] = None,
) -> None:
    """Take a Keras-style .npz file into the cache."""
    _say_dataset(import_file(name, file, data, label), data)


@data_app.command("list")
def data_list(data: Data = None) -> None:
    """Which data sets are in the cache."""
    from tpbench.workloads import load

    listing = Table("data set", "state")
    listing.add_row("digits", "ships with scikit-learn")
    for name in DATASETS:
        try:
            dataset = load(name, data)
            listing.add_row(name, f"ready ({dataset.label or 'exact'}), SHA-256 {dataset.fingerprint[:16]}")
        except TpbenchError as error:
            listing.add_row(name, str(error))
    print(draw(listing), end="")


def _say_dataset(dataset: Any, data: Path | None) -> None:
    label = f" ({dataset.label})" if dataset.label else ""
    print(f"{dataset.name}{label}: ready in {data or default_folder()}, SHA-256 {dataset.fingerprint[:16]}")


@verify_app.command("fixtures")
def verify_fixtures(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of golden .npz files.")],
    precision: Precision = "float64",
    pack: Annotated[int, typer.Option(min=1, max=1000, help="Members of the pack; all are compared.")] = 1,
) -> None:
    """Run the engine on golden files and print the largest relative errors."""
    from tpbench.engine.fixtures import QUANTITIES, fixture_files, verify_fixture

    _check_precision(precision)
    reports = [verify_fixture(path, PRECISIONS[precision], pack) for path in fixture_files(folder)]
    listing = Table("file", "method", *QUANTITIES, "verdict", title=f"Largest relative errors, {precision}")
    for report in reports:
        errors = [f"{report.errors[q]:.1e}" if q in report.errors else "" for q in QUANTITIES]
        listing.add_row(report.file, report.method, *errors, "ok" if report.passed else "FAILED")
    print(draw(listing), end="")
    failed = [r for r in reports if not r.passed]
    for report in failed:
        for quantity, bound in report.bounds.items():
            if not report.errors.get(quantity, 0.0) <= bound:
                typer.echo(f"{report.file}: {quantity} {report.errors[quantity]:.1e} exceeds {bound:.0e}", err=True)
    if failed:
        raise typer.Exit(1)


@verify_app.command("theory")
def verify_theory_command(
    as_json: Annotated[bool, typer.Option("--json", help="A list of rows.")] = False,
) -> None:
    """Check the paper's theorems on small networks with the engine's own functions; exit code 1 if one fails."""
    from dataclasses import asdict

    from tpbench.engine.theory import verify_theory

    checks = list(verify_theory())
    if as_json:
        rows = [{**asdict(c), "criterion": c.criterion, "passed": c.passed} for c in checks]
        # Unbounded sides are spelled by the criterion; JSON has no infinity.
        print(json.dumps([{k: v for k, v in row.items() if k not in ("lower", "upper")} for row in rows], indent=1))
    else:
        listing = Table("source", "statement", "setting", "measured", "criterion", "verdict")
        for c in checks:
            verdict = "ok" if c.passed else "FAILED"
            listing.add_row(c.name, c.statement, c.setting, f"{c.value:.3g}", c.criterion, verdict)
        print(draw(listing), end="")
    if not all(c.passed for c in checks):
        raise typer.Exit(1)


def _one_line(text: str) -> str:
    """Names from files and arguments may hold anything: what would break the line or the terminal is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def main() -> None:
    """Entry point: errors that are somebody's to mend are one line, without a traceback."""
    try:
        app()
    except TpbenchError as error:
        Console(stderr=True).print(
            f"error: {_one_line(str(error))}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
