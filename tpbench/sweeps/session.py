"""Shows how far the sweeps of a queue are: a bar for each that runs, and one over all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from tpbench.sweeps.sweep import Progress, QueuedSweep
from tpbench.training.progress import WARNING, View
from tpbench.training.signals import CONTINUES

_ALL = "all sweeps"


class Board:
    """Keeps a view up to date with what the sweeps say of themselves.

    Args:
        view: where to show it.
        sweeps: all of the command.
        on_end: hears of each sweep when it is over.
    """

    def __init__(
        self, view: View, sweeps: Sequence[QueuedSweep], on_end: Callable[[QueuedSweep], None] = lambda sweep: None
    ) -> None:
        self.view, self.sweeps, self.on_end = view, list(sweeps), on_end
        self._shown: dict[str, str] = {}
        """The task that is shown of each sweep."""
        self._over: set[str] = set()
        self._warned: set[tuple[str, str]] = set()

    def say(self, message: str) -> None:
        """A line that stays."""
        self.view.say(message)

    def warn(self, sweep: QueuedSweep, warnings: Sequence[str]) -> None:
        """What is odd about a sweep's rule; the first pack that shows it says so."""
        for warning in warnings:
            if (sweep.name, warning) not in self._warned:
                self._warned.add((sweep.name, warning))
                self.say(f"{sweep.label}: {WARNING}{warning}")

    def start(self) -> None:
        """Show what is there; a bar over all where there are several sweeps."""
        if len(self.sweeps) > 1:
            self.view.start(_ALL, self._total(), int(self._done()))
        self.show()

    def show(self) -> None:
        """Bring the view up to date."""
        for sweep in self.sweeps:
            self._show(sweep)
        if len(self.sweeps) > 1:
            self.view.update(_ALL, self._done(), self._total(), None)

    def _show(self, sweep: QueuedSweep) -> None:
        if sweep.finished:
            self._end(sweep)
            return
        what, progress = self._part(sweep)
        if not (sweep.flying or sweep.name in self._shown):
            return
        task = f"{sweep.label} {what}" if len(self.sweeps) > 1 else what
        if self._shown.get(sweep.name) != task:
            self._close_search(sweep)
            self._shown[sweep.name] = task
            self.view.start(task, progress.total, progress.done)
        self.view.update(task, progress.so_far, progress.total, self._best(sweep))

    def _close_search(self, sweep: QueuedSweep) -> None:
        """The search of a sweep is over."""
        task = self._shown.pop(sweep.name, None)
        if task:
            total = sweep.search_progress.total
            self.view.update(task, total, total, sweep.best_error)
            self.view.end(task)

    @staticmethod
    def _best(sweep: QueuedSweep) -> float | None:
        """What the search reached stands beside the search; without one, what the runs did."""
        return None if sweep.final is not None and sweep.search_progress.total else sweep.best_error

    @staticmethod
    def _part(sweep: QueuedSweep) -> tuple[str, Progress]:
        if sweep.final is not None:
            return "final runs", sweep.final_progress
        return "search", sweep.search_progress

    def _end(self, sweep: QueuedSweep) -> None:
        if sweep.name in self._over:
            return
        self._over.add(sweep.name)
        what, progress = self._part(sweep)
        if what == "final runs" and self._shown.get(sweep.name, "").endswith("search"):
            self._close_search(sweep)  # all final runs were there already
        task = self._shown.pop(sweep.name, None)
        if task:
            if not sweep.failure:
                self.view.update(task, progress.total, progress.total, self._best(sweep))
            self.view.end(task)
        if sweep.failure:
            self.say(f"{sweep.label}: failed: {sweep.failure}")
        self.on_end(sweep)

    def _total(self) -> int:
        return sum(s.search_progress.total + s.final_progress.total for s in self.sweeps)

    def _done(self) -> float:
        """Of a sweep that is over, all: a search may end early, and a failed sweep does not go on."""
        return sum(
            s.search_progress.total + s.final_progress.total
            if s.finished
            else s.search_progress.so_far + s.final_progress.so_far
            for s in self.sweeps
        )


# Says which command continues where Ray ends the driver's process without a word.
#
# Ray ends a process that has lost its cluster's head, or its own node, from within: no Python code runs any more. So a
# small process of its own waits for the end of the driver, and speaks if the driver had not said that all is well.


# Lines of standard input: the head's address, once it is known, and "done". The end of the input without it is the end
# of the driver. Signals are the driver's to handle.
_WATCHER = """
import signal, socket, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
head = ""
for line in sys.stdin:
    if line.strip() == "done":
        sys.exit()
    head = line.strip() or head
lost = False
if head:
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError):
        lost = True
what = f"the head of the cluster at {head} was lost" if lost else "its process was killed, or Ray ended it"
print(f"error: the sweep has ended: {what}; {sys.argv[1]}: {sys.argv[2]}", file=sys.stderr, flush=True)
"""


@contextmanager
def last_words(command: str) -> Iterator[Callable[[str], None]]:
    """Within, the command that continues is said even if this process is ended without being able to say it.

    Args:
        command: to go on with.

    Yields:
        A function that takes the address of the cluster's head, so that its loss can be told from other ends.
    """
    arguments = [sys.executable, "-I", "-S", "-c", _WATCHER, CONTINUES, command]
    watcher = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )

    def say(line: str) -> None:
        if watcher.stdin:
            with suppress(OSError, ValueError):  # somebody has ended it
                print(line, file=watcher.stdin, flush=True)

    try:
        yield say
    finally:
        say("done")
        if watcher.stdin:
            with suppress(OSError):
                watcher.stdin.close()
        watcher.wait()
