"""The application that the commands join."""

from __future__ import annotations

from typing import Annotated

import typer

from tpbench import __version__

app = typer.Typer(
    name="tpbench",
    help="Is this learning rule really better than that one? Sweeps, runs and tables of target-propagation methods.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

data_app = typer.Typer(help="Data sets: download, import, list.", no_args_is_help=True)

verify_app = typer.Typer(help="Check the engine against numbers made elsewhere.", no_args_is_help=True)

show_app = typer.Typer(help="What is searched and what the authors chose, as YAML to start from.", no_args_is_help=True)

results_app = typer.Typer(help="Look after run stores: check, merge, pack, export, remove.", no_args_is_help=True)

app.add_typer(data_app, name="data")

app.add_typer(results_app, name="results")

app.add_typer(show_app, name="show")

app.add_typer(verify_app, name="verify")


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
