"""The command line: parse, call, print. The modules here register their commands with the application."""

from __future__ import annotations

import sys
from contextlib import suppress

# isort: off
# First, for it says what the others would fail for.
from tpbench.cli import libraries

from rich.console import Console

# Imported in the order in which --help lists their commands.
from tpbench.cli import training, showing, measuring, upkeep, jobs
from tpbench.cli.app import app

# isort: on
from tpbench.engine import TpbenchError
from tpbench.engine.collector import collect_rarely
from tpbench.results.terminal import prepare_streams, print_line
from tpbench.training.console import interrupt_on_signals

__all__ = ["app", "jobs", "libraries", "main", "measuring", "showing", "training", "upkeep"]


def main() -> None:
    """Entry point: errors that are somebody's to mend are one line, without a traceback."""
    collect_rarely()
    prepare_streams()
    try:
        # Whatever a command does, SIGTERM lets it put its temporary files away, as Ctrl-C does.
        with interrupt_on_signals():
            # However it was started: its completion is that of the command.
            app(prog_name="tpbench")
    except TpbenchError as error:
        # A terminal that was closed shows nothing any more.
        with suppress(OSError):
            print_line(f"error: {error}", Console(stderr=True), "red")
        sys.exit(error.exit_code)
