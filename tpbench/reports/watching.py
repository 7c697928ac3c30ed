"""``tpbench report --watch``: write the page again whenever the store changes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tpbench.engine import TpbenchError
from tpbench.reports.page import NoRunError, Report, empty_report, make_report
from tpbench.results.formats import say
from tpbench.results.location import file_stamps
from tpbench.results.store import RunStore, write_atomically
from tpbench.search.listing import sweep_folders
from tpbench.training.console import interrupt_on_signals

# A page that opens in a browser is to be read in between.
_RELOAD_S = 10
# Drawing takes seconds on a large store, and the cores belong to the training.
_REST = 4


def store_stamp(store: RunStore) -> str:
    """Return a digest that changes with the content of a report; it reads listings of folders, no file.

    Raises:
        TpbenchError: the store cannot be read.
    """
    places = [(store.runs, ".json"), (store.folder, ".zip"), (store.folder / "alignment", ".json")]
    sweeps = sweep_folders(store)
    places += [(sweep.folder, ".jsonl") for sweep in sweeps]
    stamps = [(str(place), sorted(file_stamps(place, ending).items())) for place, ending in places]
    # A sweep that is stopped lets go of its lock, and writes nothing.
    return hashlib.sha256(repr((stamps, [sweep.locked for sweep in sweeps])).encode()).hexdigest()


class Watch:
    """A page that follows a store.

    Args:
        store: to follow.
        output: the page.
        command: as it was typed.
        every: seconds between two looks at the store.
        say: takes a line for the person at the terminal.
    """

    def __init__(self, store: RunStore, output: Path, command: str, every: float, say: Callable[[str], None]) -> None:
        self.store, self.output, self.command, self.every, self.say = store, output, command, every, say
        self.report: Report | None = None
        """The page's content; None before the page has been written once."""
        self.stamp = ""

    def look(self) -> None:
        """Write the page anew if the store has changed since the last time.

        Raises:
            TpbenchError: the store cannot be read, or the page not written. The next look tries again.
        """
        stamp = store_stamp(self.store)
        if stamp == self.stamp:
            return
        # Read anew each time, with the messages of this reading alone.
        store = RunStore(self.store.folder)
        try:
            report = make_report(store, self.command)
            runs = report.content["runs"]
            message = f"written: {self.output} ({runs} run{'s' * (runs > 1)})"
        except NoRunError:
            report = empty_report(store, self.command)
            state = "holds no run yet" if store.folder_exists else "is no folder yet"
            message = f"{store.folder} {state}: waiting for the first run. Ctrl-C ends"
        write_atomically(self.output, report.html(max(_RELOAD_S, round(self.every))))
        self.report, self.stamp = report, stamp
        self.say(message)

    def finish(self) -> None:
        """Write the final page, which does not reload itself; where the store cannot be read, the last one."""
        if self.report is None:
            return
        # The page that is there must stop to reload itself, whatever is wrong with the store by now.
        with suppress(TpbenchError):
            self.look()
        write_atomically(self.output, self.report.html(None))
        self.say(f"ended; {self.output} stays as it is, and reloads itself no more")


def watch_store(store: RunStore, output: Path, command: str, every: float) -> None:
    """Follow a store until Ctrl-C, SIGTERM or SIGHUP; the page that is left reloads itself no more.

    Raises:
        TpbenchError: the store cannot be read, or the page not written.
    """
    watch = Watch(store, output, command, every, say)
    with interrupt_on_signals():
        try:
            with suppress(KeyboardInterrupt):
                _follow(watch)
        finally:
            watch.finish()


def _follow(watch: Watch) -> None:
    """Look in a loop. An error of the first look ends it; a later one may pass, such as a file that is being copied."""
    last_error = ""
    while True:
        begun = time.monotonic()
        try:
            watch.look()
            last_error = ""
        except TpbenchError as error:
            if watch.report is None:
                raise
            if str(error) != last_error:
                watch.say(f"{error}; trying again")
            last_error = str(error)
        time.sleep(max(watch.every, _REST * (time.monotonic() - begun)))
