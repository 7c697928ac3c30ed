"""Commands that look after stores and data sets: results, data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tpbench.cli.app import (
    Data,
    Results,
    Track,
    command,
    complain,
    data_app,
    open_store,
    read_store,
    results_app,
    warn_damaged,
)
from tpbench.engine import TpbenchError, UsageError
from tpbench.engine.files import check_target, user_path
from tpbench.results.formats import EXPORT_FORMATS, count_of, export_format, listing, say
from tpbench.results.networks import EXPORTS
from tpbench.results.opening import DEFAULT_STORE, find_record, open_source
from tpbench.training.tracking import resolve_targets

DatasetName = Annotated[
    str, typer.Argument(metavar="NAME", help="A data set, such as mnist (see 'tpbench data list').")
]


@command(results_app, "tpbench results check", name="check")
def results_check(results: Results = DEFAULT_STORE) -> None:
    """Check every file of a store: runs, predictions, networks, alignment records, archives and sweeps."""
    from tpbench.results.alignments import ALIGNMENTS
    from tpbench.results.maintenance import check_store
    from tpbench.results.networks import NETWORKS
    from tpbench.results.runs import PREDICTIONS, RUNS
    from tpbench.search.listing import check_sweeps

    store = read_store(results)
    found = check_store(store)
    runs, predictions, networks, alignments = (found[kind] for kind in (RUNS, PREDICTIONS, NETWORKS, ALIGNMENTS))
    conflicts = f", {len(runs.conflicts)} in conflict" if runs.conflicts else ""
    say(
        f"{results}: {count_of(runs.valid, 'run')} whole, {len(runs.wrong) + len(predictions.wrong)} damaged{conflicts}"
    )
    if runs.valid:
        say(f"{predictions.valid - predictions.orphans} of them with predictions")
    if networks.valid or networks.wrong:
        orphans = f" ({networks.orphans} of runs that are not here, which is no harm)" if networks.orphans else ""
        say(f"{count_of(networks.valid, 'network')} whole{orphans}, {len(networks.wrong)} damaged")
    if alignments.valid or alignments.problems:
        say(f"{count_of(alignments.valid, 'alignment record')} whole, {len(alignments.problems)} damaged")
    wrong = [*runs.conflicts, *(message for check in found.values() for message in check.wrong), *alignments.conflicts]
    sweeps = check_sweeps(store)
    if sweeps.valid or sweeps.wrong:
        say(f"{count_of(sweeps.valid, 'sweep')} whole, {len(sweeps.wrong)} damaged")
    wrong += sweeps.problems
    for message in wrong:
        complain(message)
    if wrong:
        raise typer.Exit(1)


@command(results_app, "tpbench results merge other-results results", name="merge")
def results_merge(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The store or archive to copy from.")],
    target: Annotated[str, typer.Argument(metavar="INTO", help="The store to copy into.")],
) -> None:
    """Copy everything of one store into another: runs, predictions, networks, alignment records and sweeps."""
    from tpbench.results.maintenance import merge_stores
    from tpbench.search.listing import merge_sweeps

    store, into = open_source(source), open_store(target)
    if store.is_same_folder(into):
        raise UsageError(f"'{source}' and '{target}' are one store")
    merged = merge_stores(store, into)
    also = f"; {count_of(merged.networks, 'network')} copied" if merged.networks else ""
    if merged.predictions:
        also = f"; predictions added to {count_of(merged.predictions, 'run')}{also}"
    if merged.replaced:
        also = f"; {count_of(merged.replaced, 'run')} replaced by newer training{also}"
    say(f"{count_of(merged.new, 'run')} copied, {merged.known} there already{also}")
    if merged.alignments or merged.known_alignments:
        say(f"{count_of(merged.alignments, 'alignment record')} copied, {merged.known_alignments} there already")
    sweeps = merge_sweeps(store, into)
    if sweeps.new or sweeps.longer or sweeps.known:
        longer = f"; {count_of(sweeps.longer, 'sweep')} got further events" if sweeps.longer else ""
        say(f"{count_of(sweeps.new, 'sweep')} copied, {sweeps.known} there already{longer}")
    for problem in [*merged.problems, *sweeps.problems]:
        complain(f"warning: {problem}")
    warn_damaged(store)
    warn_damaged(into)
    conflicts = [*merged.conflicts, *sweeps.conflicts]
    for conflict in conflicts:
        complain(conflict)
    if conflicts:
        raise typer.Exit(1)


@command(results_app, "tpbench results pack runs.zip", name="pack")
def results_pack(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.zip", help="The archive to write; 'results merge' reads it back.", parser=user_path
        ),
    ],
    results: Results = DEFAULT_STORE,
) -> None:
    """Write a store into one archive: runs, predictions, alignment records and sweeps."""
    from tpbench.results.networks import NETWORKS
    from tpbench.search.listing import pack_store

    check_target(file, [".zip"])
    store = read_store(results)
    packed = pack_store(store, file)
    also = f" and {count_of(packed.alignments, 'alignment record')}" if packed.alignments else ""
    also += f" and {count_of(packed.sweeps, 'sweep')}" if packed.sweeps else ""
    predictions = f"; {packed.predictions} with predictions" if packed.predictions else ""
    say(f"{count_of(packed.runs, 'run')}{also} written to {file}{predictions}")
    if left := len(NETWORKS.names_in(store.folder)):
        say(f"{count_of(left, 'network')} left out: 'results merge {results} INTO' copies them too")
    warn_damaged(store)


@command(results_app, "tpbench results export runs.csv", name="export")
def results_export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.", parser=user_path)],
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="|".join(EXPORT_FORMATS), help="Its format.", show_default="as the file is named"
        ),
    ] = None,
    trials: Annotated[
        bool, typer.Option("--trials", help="Write one row per configuration that a search tried, instead of runs.")
    ] = False,
    results: Results = DEFAULT_STORE,
) -> None:
    """Write one row per run to a file."""
    from tpbench.results.frames import export_runs

    chosen = export_format(check_target(file), form)
    store = read_store(results)
    if trials:
        from tpbench.search.listing import export_trials

        count, problems = export_trials(store, file, chosen)
        say(f"{count} trials written to {file}")
        for problem in problems:
            complain(f"warning: {problem}")
        warn_damaged(store)
        return
    from tpbench.search.spaces import supplied_sweeps

    count, searches = export_runs(store, file, chosen, supplied_sweeps())
    say(f"{count} runs written to {file}")
    if searches:
        say(f"not every trial of a search is a run; --trials writes those of journals in the store: {searches}")
    warn_damaged(store)


@command(results_app, "tpbench results export-network 1a2b3c4d network.safetensors", name="export-network")
def results_export_network(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or at least its first 8 digits.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors, .pt or .npz file.", parser=user_path)],
    results: Results = DEFAULT_STORE,
) -> None:
    """Write a run's trained network to a file that torch.nn.Sequential loads."""
    check_target(file, EXPORTS)
    store = read_store(results)
    find_record(store, run)
    from tpbench.results.modules import export_network

    made = export_network(store, run, file)
    say(f"network of {made.workload} {made.method}, seed {made.seed} (run {made.run}) written to {file}")
    layers, sign = made.architecture, "-" if made.shift < 0 else "+"
    say(f"layers {layers}, tanh between them; inputs: stored numbers * {made.scale!r} {sign} {abs(made.shift)!r}")


@command(results_app, "tpbench results remove --sweep digits-bp-1a2b3c4d", name="remove")
def results_remove(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="Ids of runs, or at least their first 8 digits.")
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="NAME", help="Remove a sweep with the runs of its search and its final runs.")
    ] = None,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Remove all checkpoints.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, the command only lists.")] = False,
    results: Results = DEFAULT_STORE,
) -> None:
    """List runs, a sweep or checkpoints, and remove them with --yes; archives are never changed."""
    from tpbench.search.removal import Removal, plan_checkpoints, plan_runs, plan_sweep

    if not (runs or sweep or checkpoints):
        raise UsageError("what is to be removed? Name runs by their ids, or give --sweep NAME or --checkpoints")
    store = read_store(results)
    plans: list[Removal] = [plan_runs(store, runs)] if runs else []
    plans += [plan_sweep(store, sweep)] if sweep else []
    plans += [plan_checkpoints(store)] if checkpoints else []
    for plan in plans:
        for line in plan.lines:
            say(line)
        for line in plan.staying:
            complain(line)
    warn_damaged(store)
    if not any(plan.lines for plan in plans):
        say("nothing to remove")
    elif yes:
        for plan in plans:
            plan.carry_out()
        say("removed")
        if (store.folder / "leaderboard.csv").exists():
            say("leaderboard.csv is as it was: 'tpbench leaderboard --write' writes it anew")
    else:
        say("nothing was removed; the same command with --yes removes what is listed")


@command(results_app, "tpbench results track results --track tensorboard", name="track")
def results_track(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="Folder or URL of the run store.")],
    track: Track,
) -> None:
    """Show the runs of a store in TensorBoard or MLflow, as if they had been tracked when they were trained."""
    from tpbench.training.tracking import track_store

    store = read_store(results)
    new, known = track_store(store, resolve_targets(track or (), results), complain)
    say(f"{count_of(new, 'run')} tracked, {known} there already")
    warn_damaged(store)


@command(data_app, "tpbench data get mnist", name="get")
def data_get(name: DatasetName, data: Data = None) -> None:
    """Download a data set into the cache, from where torchvision has it."""
    from tpbench.workloads import download

    _say_dataset(download(name, data), data)


@command(data_app, "tpbench data import mnist mnist.npz", name="import")
def data_import(
    name: DatasetName,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.npz|FOLDER",
            help="A file with Keras' arrays, or a folder of the data set's own files as torchvision keeps them.",
            parser=user_path,
        ),
    ],
    data: Data = None,
    label: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Name of an inexact copy, which tables show.")
    ] = None,
) -> None:
    """Copy a data set that you have into the cache: a Keras-style .npz file, or the files that its authors publish."""
    from tpbench.workloads import import_file

    _say_dataset(import_file(name, file, data, label), data)


@command(data_app, "tpbench data list", name="list")
def data_list(data: Data = None) -> None:
    """List the data sets, and which of them are in the cache."""
    from tpbench.workloads import DATASETS, load
    from tpbench.workloads.cache import data_folder, has_files

    data_folder(data)
    rows, problems = [("digits", "ships with scikit-learn")], []
    for name in DATASETS:
        try:
            dataset = load(name, data)
            rows.append((name, f"ready ({dataset.label or 'exact'}), SHA-256 {dataset.fingerprint[:16]}"))
        except TpbenchError as error:
            rows.append((name, "damaged" if has_files(name, data) else "not there"))
            problems.append(f"{name}: {error}")
    print(listing(("data set", "state"), rows), end="")
    # Not in the table: they hold commands, and a cell would break them.
    for problem in problems:
        say(problem)


def _say_dataset(dataset: Any, data: Path | None) -> None:
    from tpbench.workloads import default_folder

    label = f" ({dataset.label})" if dataset.label else ""
    say(f"{dataset.name}{label}: ready in {data or default_folder()}, SHA-256 {dataset.fingerprint[:16]}")
