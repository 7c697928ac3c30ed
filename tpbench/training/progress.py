"""The display of progress: live bars on a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tpbench.engine.errors import visible, warn_caller
from tpbench.results.formats import print_line
from tpbench.training.console import original_output


def format_error_rate(error: float | None) -> str:
    """Return an error from 0 to 1 in percent, as ``2.10 %``; a dash for None."""
    return "-" if error is None else f"{100 * error:.2f} %"


def format_duration(seconds: float) -> str:
    """Return a duration in seconds as ``45 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


WARNING = "warning: "
"""The first word of a warning that a view prints, after the name of its subject."""

_BAR = 20


def _format_best(best: float | None) -> str:
    return "" if best is None else f", best validation error {format_error_rate(best)}"


class View(Protocol):
    """A display of the progress of several tasks."""

    def start(self, name: str, total: int, done: int = 0) -> None:
        """Begin a task that has done ``done`` of its ``total`` steps."""

    def update(self, name: str, done: float, total: int, best: float | None) -> None:
        """Show the progress of a task; ``done`` may be a fraction of a step.

        Args:
            name: of the task.
            done, total: steps.
            best: the lowest validation error so far, from 0 to 1; None: not known.
        """

    def end(self, name: str) -> None:
        """End a task."""

    def say(self, message: str) -> None:
        """Print a line that stays."""


class LiveView:
    """Live progress bars on a terminal."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("best validation error {task.fields[best]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            # Ray's output goes to a log file, from which rich would take it.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.tasks: dict[str, TaskID] = {}

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.tasks[name] = self.progress.add_task(visible(name), total=total, completed=done, best="-")

    def update(self, name: str, done: float, total: int, best: float | None) -> None:
        if name in self.tasks:
            self.progress.update(self.tasks[name], completed=done, total=total, best=format_error_rate(best))

    def end(self, name: str) -> None:
        task = self.tasks.pop(name, None)
        if task is not None:
            # A campaign has more tasks than a terminal has lines.
            self.progress.remove_task(task)

    def say(self, message: str) -> None:
        print_line(message, self.progress.console)


class PlainView:
    """One line per finished step, at most one every ``interval`` seconds, for logs and pipes."""

    def __init__(self, console: Console, interval: float = 1.0) -> None:
        self.console, self.interval = console, interval
        self.first: dict[str, tuple[float, float]] = {}
        """By task: the time of the first update, in seconds, and the steps done then."""
        self.printed: dict[str, tuple[int, float]] = {}
        """By task: the steps of the last line, and its time."""

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.first.pop(name, None)
        self.printed[name] = done, time.monotonic()
        self.say(f"{name}: {done}/{total}")

    def update(self, name: str, done: float, total: int, best: float | None) -> None:
        now, steps = time.monotonic(), int(done)
        printed, when = self.printed.get(name, (-1, 0.0))
        if steps == printed or (now - when < self.interval and steps < total):
            return
        self.printed[name] = steps, now
        # The clock starts at the first update: neither start-up nor the epochs of a checkpoint count.
        begun, offset = self.first.setdefault(name, (now, done))
        left = (now - begun) / (done - offset) * (total - done) if done - offset > 0.05 * total else None
        remaining = f", about {format_duration(left)} left" if left and steps < total else ""
        self.say(f"{name}: {steps}/{total}{_format_best(best)}{remaining}")

    def end(self, name: str) -> None:
        self.first.pop(name, None)

    def say(self, message: str) -> None:
        print_line(message, self.console)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    return Console().is_jupyter


class NotebookView:
    """One output of the notebook's cell, rewritten at most every ``interval`` seconds."""

    def __init__(self, interval: float = 0.5) -> None:
        self.interval, self.written = interval, 0.0
        self.lines: list[str] = []
        """Lines that stay."""
        self.tasks: dict[str, str] = {}
        """One line for each running task, below the others."""
        self.output: Any = None

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.update(name, done, total, None)

    def update(self, name: str, done: float, total: int, best: float | None) -> None:
        bar = "█" * int(_BAR * done / max(total, 1))
        self.tasks[name] = f"{visible(name)} {bar:░<{_BAR}} {int(done)}/{total}{_format_best(best)}"
        if time.monotonic() - self.written >= self.interval or done >= total:
            self._write()

    def end(self, name: str) -> None:
        if line := self.tasks.pop(name, None):
            self.say(line)

    def say(self, message: str) -> None:
        self.lines.append(visible(message))
        self._write()

    def _write(self) -> None:
        from IPython.display import display

        self.written = time.monotonic()
        text = {"text/plain": "\n".join([*self.lines, *self.tasks.values()])}
        if self.output is None:
            self.output = display(text, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self.output.update(text, raw=True)


class SilentView:
    """A view that shows nothing; its warnings are Python's."""

    def start(self, name: str, total: int, done: int = 0) -> None:
        pass

    def update(self, name: str, done: float, total: int, best: float | None) -> None:
        pass

    def end(self, name: str) -> None:
        pass

    def say(self, message: str) -> None:
        if WARNING in message:
            warn_caller(message.replace(WARNING, "", 1))


# One live view at a time has the terminal; a second one, in another thread, writes lines.
_LIVE = threading.Lock()


class Display:
    """A view for the length of a ``with`` block, on the given stream: live on a terminal and in a notebook.

    Args:
        stream: None: standard output.
        progress: False: show nothing; warnings are Python's.
    """

    def __init__(self, stream: TextIO | None = None, *, progress: bool = True) -> None:
        self.progress, self.notebook = progress, progress and in_notebook()
        self.console = Console(file=stream or original_output(), force_jupyter=False)
        self.live: LiveView | None = None

    def __enter__(self) -> View:
        if not self.progress:
            return SilentView()
        if self.notebook:
            return NotebookView()
        if not (self.console.is_terminal and _LIVE.acquire(blocking=False)):
            return PlainView(self.console)
        try:
            self.live = LiveView(self.console)
            self.live.progress.start()
        except BaseException:
            _LIVE.release()
            raise
        return self.live

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            # A terminal that was closed takes no last picture, and its error must not hide the one that ended the work.
            try:
                with suppress(OSError, ValueError):
                    self.live.progress.stop()
            finally:
                _LIVE.release()
