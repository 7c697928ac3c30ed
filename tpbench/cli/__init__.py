"""The command line: parse, call, print. The modules here register their commands with the application."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

# isort: off
# First, as it says what the others would fail for.
from tpbench.cli import libraries

from rich.console import Console

# Imported in the order in which --help lists their commands.
from tpbench.cli import train, show, check, manage, remote
from tpbench.cli.app import app, format_error, opened, warn_of_opened

# isort: on
from tpbench.engine import TpbenchError
from tpbench.engine.errors import InterruptedWork
from tpbench.engine.startup import collect_rarely, wait_briefly
from tpbench.results.formats import prepare_streams, print_line
from tpbench.training.console import interrupt_on_signals

__all__ = ["app", "check", "libraries", "main", "manage", "remote", "show", "train"]


def main() -> None:
    """Run the command line; an error that a user can mend is one line, without a traceback."""
    collect_rarely()
    wait_briefly()
    if os.environ.get("LC_ALL") in ("C", "POSIX") and not os.environ.get("PYTHONIOENCODING"):
        # Python writes UTF-8 there, but who sets this asks for plain letters.
        for stream in (sys.stdout, sys.stderr):
            if reconfigure := getattr(stream, "reconfigure", None):
                reconfigure(encoding="ascii")
    prepare_streams()
    opened.clear()
    try:
        # SIGTERM lets every command put its temporary files away, as Ctrl-C does.
        with interrupt_on_signals():
            # However it was started: its completion is that of the command.
            app(prog_name="tpbench")
    except TpbenchError as error:
        # A terminal that was closed shows nothing any more.
        with suppress(OSError):
            warn_of_opened()
            print_line(f"error: {format_error(error)}", Console(stderr=True), "red")
        sys.exit(error.exit_code)
    except OSError as error:
        # Without a file's name it is the output, to a full disk.
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        with suppress(OSError):
            warn_of_opened()
            print_line(f"error: the output could not be written ({error.strerror})", Console(stderr=True), "red")
        with suppress(OSError):
            sys.stdout.close()  # or Python would try once more
        sys.exit(1)
    except SystemExit as end:
        # Ctrl-C where nothing is continued, as while libraries are imported: typer ends without a word.
        if end.code == InterruptedWork.exit_code:
            with suppress(OSError):
                print_line("error: interrupted", Console(stderr=True), "red")
        raise
