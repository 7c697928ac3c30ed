"""Commands that look after stores and data sets: results, data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tpbench.cli.app import data_app, results_app
from tpbench.cli.options import (
    RESULTS,
    Data,
    Results,
    complain,
    warn_damaged,
)
from tpbench.engine import TpbenchError
from tpbench.engine.files import check_target
from tpbench.results.formats import EXPORT_FORMATS, export_format, listing
from tpbench.results.opening import open_store, read_store


@results_app.command("check")
def results_check(results: Results = RESULTS) -> None:
    """Verify the checksum of every run, in files and in archives."""
    from tpbench.results.maintenance import check_store

    found = check_store(read_store(results))
    whole, wrong = found.whole, found.wrong
    print(f"{results}: {whole} run{'s' * (whole != 1)} whole, {len(wrong)} damaged")
    for message in wrong:
        complain(message)
    if wrong:
        raise typer.Exit(1)


@results_app.command("merge")
def results_merge(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The store, or archive, whose runs are copied.")],
    target: Annotated[str, typer.Argument(metavar="INTO", help="The store they are added to.")],
) -> None:
    """Copy the runs of one store into another."""
    from tpbench.results.maintenance import merge_stores, open_source

    store, into = open_source(source), open_store(target)
    new, known = merge_stores(store, into)
    print(f"{new} run{'s' * (new != 1)} copied, {known} there already")
    warn_damaged(store)
    warn_damaged(into)


@results_app.command("pack")
def results_pack(
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="'results merge FILE.zip INTO' reads it back.")],
    results: Results = RESULTS,
) -> None:
    """Write the runs of a store into one compressed archive."""
    from tpbench.results.maintenance import pack_store

    check_target(file, [".zip"])
    store = read_store(results)
    print(f"{pack_store(store, file)} runs written to {file}")
    warn_damaged(store)


@results_app.command("export")
def results_export(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    form: Annotated[
        str | None, typer.Option("--format", help=" or ".join(EXPORT_FORMATS), show_default="as the file is named")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Write one row per run to a file."""
    from tpbench.results.maintenance import export_runs

    chosen = export_format(check_target(file), form)
    store = read_store(results)
    print(f"{export_runs(store, file, chosen)} runs written to {file}")
    warn_damaged(store)


@data_app.command("get")
def data_get(name: Annotated[str, typer.Argument(metavar="NAME")], data: Data = None) -> None:
    """Download a data set through torchvision into the cache."""
    from tpbench.workloads import download

    _say_dataset(download(name, data), data)


@data_app.command("import")
def data_import(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help="A Keras-style file.")],
    data: Data = None,
    label: Annotated[str | None, typer.Option(help="What kind of copy it is; results are labelled so.")] = None,
) -> None:
    """Take a Keras-style .npz file into the cache."""
    from tpbench.workloads import import_file

    _say_dataset(import_file(name, file, data, label), data)


@data_app.command("list")
def data_list(data: Data = None) -> None:
    """Which data sets are in the cache."""
    from tpbench.workloads import DATASETS, load

    rows, problems = [("digits", "ships with scikit-learn")], []
    for name in DATASETS:
        try:
            dataset = load(name, data)
            rows.append((name, f"ready ({dataset.label or 'exact'}), SHA-256 {dataset.fingerprint[:16]}"))
        except TpbenchError as error:
            rows.append((name, "not usable"))
            problems.append(f"{name}: {error}")
    print(listing(("data set", "state"), rows), end="")
    # Not in the table: they hold commands, and a cell would break them.
    for problem in problems:
        print(problem)


def _say_dataset(dataset: Any, data: Path | None) -> None:
    from tpbench.workloads import default_folder

    label = f" ({dataset.label})" if dataset.label else ""
    print(f"{dataset.name}{label}: ready in {data or default_folder()}, SHA-256 {dataset.fingerprint[:16]}")
