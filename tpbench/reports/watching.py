"""``tpbench report --watch``: a page that follows a store.

What is going on now is written at every look, as a small script beside the page that a browser loads again and again.
The figures are drawn when runs or searches have changed, and seldom while something trains, as drawing takes seconds.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tpbench.engine import TpbenchError, UsageError
from tpbench.engine.errors import reason_of
from tpbench.engine.files import is_regular_file
from tpbench.reports.live import Live, LiveReader, render_live, script_of
from tpbench.reports.page import Report, empty_report, make_report
from tpbench.reports.redrawing import keeping_sections
from tpbench.results.formats import count_of, say
from tpbench.results.location import file_stamps
from tpbench.results.opening import NoRunError, stored_tuning
from tpbench.results.ranking import BASELINE
from tpbench.results.store import RunStore, write_atomically
from tpbench.search.listing import sweep_folders
from tpbench.training.console import interrupt_on_signals

# Seconds between two looks of the page while nothing trains.
_IDLE_S = 15
# Drawing takes seconds on a large store, and the cores belong to the training. It gets a fifth of one, and a twentieth
# beside a sweep, of which the page shows the progress all the same.
_REST, _REST_BESIDE_SWEEP = 4, 19
# The first line of the script beside the page. A file that begins otherwise is not tpbench's.
_MARKER = "// Written and deleted by tpbench report --watch.\n"
# Stands in a page for the section about what is going on now.
_PLACE = "<!-- now -->"


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
        baseline: the method that all others are compared with.
        tuning: label of the cells that are compared, as it was typed; None: all.
    """

    def __init__(
        self,
        store: RunStore,
        output: Path,
        command: str,
        every: float,
        say: Callable[[str], None],
        baseline: str = BASELINE,
        tuning: str | None = None,
    ) -> None:
        self.store, self.output, self.command, self.every, self.say = store, output, command, every, say
        self.baseline, self.tuning = baseline, tuning
        self.feed = output.with_name(f"{output.name}.live.js")
        """The script beside the page."""
        self.report: Report | None = None
        """The content of the page."""
        self.stamp = ""
        """Of the store when the figures were drawn."""
        self._reader = LiveReader(store)
        self._live: Live | None = None
        self._begun = False
        """The page may be there."""
        self._page = ("", "", "")
        """The page before and after the section about what is going on now."""
        self._sections: dict[str, Any] = {}
        """Sections of the last drawing."""
        self._drawn_at, self._cost = -math.inf, 0.0
        """The time when the figures were drawn last, and the processor's seconds that it took."""
        self._message = ""
        """What was said last."""

    @property
    def written(self) -> bool:
        """True once the page has been written."""
        return self._live is not None

    def look(self, *, last: bool = False) -> None:
        """Write what is going on now, and the page anew if its figures have changed and it is time.

        Args:
            last: no look follows; changed figures are drawn at once.

        Raises:
            UsageError: the script's name belongs to a file that is not tpbench's.
            TpbenchError: the store cannot be read, or the page not written. The next look tries again.
        """
        if self._feed_is_foreign():
            raise UsageError(
                f"{self.feed}: tpbench did not write this file, but a watched page needs the name; move it away, or "
                "give another --output"
            )
        try:
            stamp, live = store_stamp(self.store), self._reader.read()
            drawn = stamp != self.stamp and (last or self._may_draw(live))
            if drawn and self.written:
                # Drawing takes a while, in which an open page shows this.
                self._write_feed(live)
            message = self._draw(stamp) if drawn else self._message
        except TpbenchError as error:
            if self._live:
                with suppress(TpbenchError):
                    self._write_feed(self._live, str(error))
            raise
        if drawn or live != self._live:
            if not self.written:
                # A page without the script would load itself anew for ever.
                self._write_feed(live)
            self._write_page(live)
        # After the page: an open one loads itself anew when the script names new figures.
        self._write_feed(live)
        self._live = live
        if message != self._message:
            self.say(message)
            self._message = message

    def _may_draw(self, live: Live) -> bool:
        """Return whether the cores have had their rest since the figures were drawn last."""
        if self._live and self._live.running and not live.running:
            return True
        rest = (_REST_BESIDE_SWEEP if live.running else _REST) * self._cost
        return time.monotonic() >= self._drawn_at + rest

    def _draw(self, stamp: str) -> str:
        """Draw the figures anew, and return a line about it."""
        begun = time.process_time()
        # Read anew each time, with the messages of this reading alone.
        store = RunStore(self.store.folder)
        label = self.tuning
        if label is not None:
            with suppress(UsageError):  # nothing is tuned so yet
                label = stored_tuning(label, store)
        try:
            with keeping_sections(self._sections):
                self.report = make_report(store, self.command, self.baseline, label)
            message = f"written: {self.output} ({count_of(self.report.content['runs'], 'run')})"
        except NoRunError:
            self.report = empty_report(store, self.command)
            state = "holds no run yet" if store.folder_exists else "is no folder yet"
            message = f"{store.folder} {state}: waiting for the first run. Ctrl-C ends"
        feed = quote(os.fsencode(self.feed.name))
        page = self.report.html(max(1, round(self.every)), live=_PLACE, feed=feed, stamp=stamp)
        self._page, self.stamp = page.partition(_PLACE), stamp
        self._drawn_at, self._cost = time.monotonic(), time.process_time() - begun
        return message

    def _write_page(self, live: Live) -> None:
        now = render_live(live, f"{datetime.now(UTC):%H:%M:%S} UTC")
        before, self._begun = self._begun, True
        try:
            write_atomically(self.output, now.join(self._page[::2]))
        except TpbenchError:
            self._begun = before
            raise

    def _feed_is_foreign(self) -> bool:
        """Return whether another program's file, or no file, has the name of the script."""
        if not os.path.lexists(self.feed):
            return False
        if not is_regular_file(self.feed):
            return True
        try:
            with self.feed.open("rb") as file:
                return file.read(len(_MARKER)) != _MARKER.encode()
        except OSError as error:
            raise TpbenchError(f"{self.feed}: could not be read ({reason_of(error)})") from error

    def _write_feed(self, live: Live, problem: str = "") -> None:
        """Write the script beside the page."""
        looked = datetime.now(UTC)
        html = render_live(live, f"{looked:%H:%M:%S} UTC", problem)
        every = max(1, round(self.every)) if live.running else max(_IDLE_S, round(self.every))
        fields = {"stamp": self.stamp, "html": html, "every": every, "written": looked.timestamp()}
        write_atomically(self.feed, _MARKER + script_of(fields))

    def finish(self) -> None:
        """Write the final page, which does not follow the store; where that cannot be read, the last one."""
        if not self._begun or self.report is None:
            self._remove_feed()
            return
        # The page that is there must stop to follow the store, whatever is wrong with that by now.
        with suppress(TpbenchError):
            self.look(last=True)
        write_atomically(self.output, self.report.html(None))
        # An open page that misses it loads itself anew, and is the final one then.
        self._remove_feed()
        self.say(f"ended; {self.output} stays as it is, and reloads itself no more")

    def _remove_feed(self) -> None:
        with suppress(TpbenchError):
            if not self._feed_is_foreign():
                self.feed.unlink(missing_ok=True)


def watch_store(
    store: RunStore, output: Path, command: str, every: float, baseline: str = BASELINE, tuning: str | None = None
) -> None:
    """Follow a store until Ctrl-C, SIGTERM or SIGHUP; the page that is left reloads itself no more.

    Raises:
        TpbenchError: the store cannot be read, or the page not written.
    """
    watch = Watch(store, output, command, every, say, baseline, tuning)
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
        try:
            watch.look()
            last_error = ""
        except TpbenchError as error:
            if not watch.written:
                raise
            if str(error) != last_error:
                watch.say(f"{error}; trying again")
            last_error = str(error)
        time.sleep(watch.every)
