"""What a person sees while something trains: a live view on a terminal, plain lines elsewhere."""

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

from tpbench.engine.callers import warn_caller
from tpbench.engine.errors import visible
from tpbench.results.terminal import print_line
from tpbench.training.console import original_output


def format_error_rate(error: float | None) -> str:
    """A validation error as a person reads it."""
    return "-" if error is None else f"{100 * error:.2f} %"


def format_duration(seconds: float) -> str:
    """``45 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


WARNING = "warning: "
"""Begins what a view is told of something odd, after the name of what it is about."""

_BAR = 20


class View(Protocol):
    """Shows how far several tasks are."""

    def start(self, name: str, total: int, done: int = 0) -> None:
        """A task begins; ``done`` of its ``total`` steps lie behind it."""

    def update(self, name: str, done: float, total: int, best: float | None) -> None:
        """A task got on; ``done`` may be a fraction of a step."""

    def end(self, name: str) -> None:
        """A task is over."""

    def say(self, message: str) -> None:
        """A line that stays."""


class LiveView:
    """rich's live progress bars."""

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
            # Ray's output has its own file; rich would take it from there.
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
        self.begun: dict[str, tuple[float, float]] = {}
        self.last: dict[str, tuple[int, float]] = {}

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.begun.pop(name, None)
        self.last[name] = done, time.monotonic()
        self.say(f"{name}: {done}/{total}")

    def update(self, name: str, done: float, total: int, best: float | None) -> None:
        now, whole = time.monotonic(), int(done)
        shown, when = self.last.get(name, (-1, 0.0))
        if whole == shown or (now - when < self.interval and whole < total):
            return
        self.last[name] = whole, now
        # Counted from the first step seen: neither start-up nor what a checkpoint brought along took this time.
        begun, offset = self.begun.setdefault(name, (now, done))
        known = done - offset > 0.05 * total
        left = (now - begun) / (done - offset) * (total - done) if known else None
        remaining = f", about {format_duration(left)} left" if left and whole < total else ""
        reached = "" if best is None else f", best validation error {format_error_rate(best)}"
        self.say(f"{name}: {whole}/{total}{reached}{remaining}")

    def end(self, name: str) -> None:
        self.begun.pop(name, None)

    def say(self, message: str) -> None:
        print_line(message, self.console)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return Console().is_jupyter


class NotebookView:
    """One output of the cell that is written anew as the work gets on, at most every ``interval`` seconds."""

    def __init__(self, interval: float = 0.5) -> None:
        self.interval, self.shown = interval, 0.0
        self.lines: list[str] = []
        """What stays, and below it what runs."""
        self.tasks: dict[str, str] = {}
        self.output: Any = None

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.update(name, done, total, None)

    def update(self, name: str, done: float, total: int, best: float | None) -> None:
        bar = "█" * int(_BAR * done / max(total, 1))
        reached = "" if best is None else f", best validation error {format_error_rate(best)}"
        self.tasks[name] = f"{visible(name)} {bar:░<{_BAR}} {int(done)}/{total}{reached}"
        self._show(time.monotonic() - self.shown >= self.interval or done >= total)

    def end(self, name: str) -> None:
        if line := self.tasks.pop(name, None):
            self.say(line)

    def say(self, message: str) -> None:
        self.lines.append(visible(message))
        self._show(True)

    def _show(self, due: bool) -> None:
        if not due:
            return
        from IPython.display import display

        self.shown = time.monotonic()
        text = {"text/plain": "\n".join([*self.lines, *self.tasks.values()])}
        if self.output is None:
            self.output = display(text, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self.output.update(text, raw=True)


class SilentView:
    """Shows nothing; what is odd is still said, as a warning of Python's."""

    def start(self, name: str, total: int, done: int = 0) -> None:
        pass

    def update(self, name: str, done: float, total: int, best: float | None) -> None:
        pass

    def end(self, name: str) -> None:
        pass

    def say(self, message: str) -> None:
        if WARNING in message:
            warn_caller(message.replace(WARNING, "", 1))


# One live view at a time has the terminal; what trains beside it in another thread writes lines.
_LIVE = threading.Lock()


class Display:
    """A view for the length of a ``with`` block, on the given stream: live on a terminal and in a notebook.

    Args:
        stream: None: standard output.
        progress: whether to show anything; without it, warnings are Python's.
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
            # A terminal that was closed takes no last picture; what ended the work is more to the point.
            try:
                with suppress(OSError, ValueError):
                    self.live.progress.stop()
            finally:
                _LIVE.release()
