"""Trackers follow a training in threads of their own: it never waits for them, and what they raise is a warning."""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from tpbench.engine import MemberHistory, TpbenchError
from tpbench.training.progress import WARNING
from tpbench.training.tracking.members import Bringer, Member, Tracker, notes_of
from tpbench.training.tracking.secrecy import without_secrets
from tpbench.training.tracking.targets import Target

# Seconds without anything logged that the end of a training waits for a tracker; the end of one that was interrupted,
# in all; and before the first training, where a database may be made, once the tracker's library is imported.
_PATIENCE, _HURRY, _FIRST = 60.0, 5.0, 20.0
# The part of its time that a tracker may work while others train.
_SHARE = 0.05


def import_library(target: Target) -> Callable[[str], Tracker]:
    """Import the library of a tracker; returns what opens a place of its."""
    if target.tracker == "tensorboard":
        from tpbench.training.tracking.tensorboard import EventFiles

        return EventFiles
    with _without_telemetry():
        from tpbench.training.tracking.mlflow import MlflowRuns

    return MlflowRuns


def open_tracker(target: Target) -> Tracker:
    """The tracker of a target; imports its library."""
    return import_library(target)(target.told)


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """MLflow reports how it is used to its makers, unless it is told otherwise before it is imported."""
    name = "MLFLOW_DISABLE_TELEMETRY"
    if name in os.environ or "mlflow" in sys.modules:
        yield
        return
    os.environ[name] = "true"
    try:
        yield
    finally:
        os.environ.pop(name, None)


def reason_of(error: BaseException) -> str:
    """What went wrong in a line that reads the same for every run, so that it is said once; no password is in it."""
    if isinstance(error, ModuleNotFoundError) and error.name in ("tensorboard", "mlflow"):
        return f"the package {error.name} is missing: pip install 'tpbench[{error.name}]'"
    lines = [line for line in str(error).strip().splitlines() if not line.startswith(_NO_REASON)]
    first = re.sub(r"\b0x[0-9a-f]+\b|\b[0-9a-f]{24,}\b", "...", without_secrets(lines[0] if lines else ""))
    # Errors for people are whole as they are.
    said = first if isinstance(error, TpbenchError) else ": ".join(filter(None, (type(error).__name__, first)))
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 3]}..."


# SQLAlchemy's first line where a later one holds the reason.
_NO_REASON = "(raised as a result of"
# MLflow's way out of a store that it refuses stands at the end of seven hundred letters.
_LONGEST = 1000


def _snapshot(history: MemberHistory) -> MemberHistory:
    return MemberHistory({name: list(values) for name, values in history.curves.items()}, history.status)


class Follower:
    """One tracker and the members of one pack.

    It is shown the histories as they grow and logs what is new. Where it is slower than the epochs, several of them
    become one batch.
    """

    def __init__(self, target: Target, members: Sequence[Member]) -> None:
        self.target, self.members = target, list(members)
        self.failure: str | None = None
        """Why it follows no longer, if so."""
        self.notes: list[str] = []
        """What a person should know of how the tracker was opened."""
        self._news = threading.Condition()
        self._shown: list[MemberHistory] | None = None
        self._closing = False
        self._logged = 0.0
        """When something was logged last."""
        # A tracker that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=f"tpbench-{target.tracker}", daemon=True)
        self._thread.start()

    def show(self, histories: Sequence[MemberHistory]) -> None:
        """Histories as they are now, in the order of the members."""
        copies = [_snapshot(history) for history in histories]
        with self._news:
            self._shown = copies
            self._news.notify()

    def ask_to_close(self) -> None:
        """Log what was shown, and end."""
        with self._news:
            self._closing = True
            self._news.notify()

    def close(self, asked: float, patience: float, most: float = math.inf) -> None:
        """Log what was shown; it has failed once nothing is logged for so many seconds, or not all within ``most``.

        Args:
            asked: the time from which both are counted: that of all trackers that are closed together.
        """
        self.ask_to_close()
        while self._thread.is_alive() and not self.failure:
            self._thread.join(0.2)
            now = time.monotonic()
            if self._thread.is_alive() and (now - max(self._logged, asked) > patience or now - asked > most):
                self.failure = self.failure or f"no answer within {min(patience, most):g} s"

    def _run(self) -> None:
        try:
            tracker = open_tracker(self.target)
        except Exception as error:  # whatever it is, training goes on
            self._fail(error)
            return
        self.notes = notes_of(tracker)
        try:
            self._follow(Bringer(tracker))
        except Exception as error:
            self._fail(error)
        try:
            tracker.close()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or reason_of(error)

    def _follow(self, bringer: Bringer) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closing or self._shown is not None)
                histories, self._shown, last = self._shown, None, self._closing
            begun = time.monotonic()
            for member, history in zip(self.members, histories or (), strict=bool(histories)):
                bringer.bring(member, history)
                self._logged = time.monotonic()
            if last:
                return
            with self._news:
                self._news.wait_for(lambda: self._closing, (time.monotonic() - begun) * (1 / _SHARE - 1))


class Tracking:
    """All trackers of one pack."""

    def __init__(self, targets: Sequence[str], members: Sequence[Member]) -> None:
        self.followers = [Follower(Target.of(text), members) for text in targets]
        self._said: set[str] = set()

    def show(self, histories: Sequence[MemberHistory]) -> None:
        """The members' histories as they are now."""
        for follower in self.followers:
            if not follower.failure:
                follower.show(histories)

    def close(self, most: float = math.inf) -> None:
        """Log what was shown; a tracker that answers no more, or takes longer than so many seconds, has failed."""
        for follower in self.followers:
            follower.ask_to_close()
        asked = time.monotonic()
        for follower in self.followers:
            follower.close(asked, _PATIENCE, most)

    def finish(self, histories: Sequence[MemberHistory]) -> None:
        """The training is over and published."""
        self.show(histories)
        self.close()

    def warnings(self) -> tuple[str, ...]:
        """Of every tracker that has failed, why, once."""
        found = {f.target.shown: f.failure for f in self.followers if f.failure and f.target.shown not in self._said}
        self._said |= found.keys()
        return tuple(_warning(shown, failure) for shown, failure in found.items())


def _warning(shown: str, failure: str) -> str:
    return (
        f"tracking to {shown} failed ({failure}); training goes on without it, and 'tpbench results track' adds "
        "finished runs later"
    )


@contextmanager
def tracking(targets: Sequence[str], members: Sequence[Member]) -> Iterator[Tracking]:
    """Trackers that follow the training of a pack for the length of a ``with`` block."""
    found = Tracking(targets, members)
    try:
        yield found
    finally:
        found.close(_HURRY)


def prepared(targets: Sequence[str], say: Callable[[str], None]) -> tuple[str, ...]:
    """Open every tracker once, before any training: a new place is made by one process, not by all at the same time.

    Args:
        targets: as settings carry them.
        say: hears of those that could not be opened, and what else a person should know.

    Returns:
        Those that could be opened.
    """
    for text in targets:
        # A slow disk is no tracker that hangs; what is wrong with a library, the follower says.
        with suppress(Exception):
            import_library(Target.of(text))
    followers, asked, usable = [Follower(Target.of(text), []) for text in targets], time.monotonic(), []
    for text, follower in zip(targets, followers, strict=True):
        follower.close(asked, _FIRST)
        if follower.failure:
            say(f"{WARNING}{_warning(follower.target.shown, follower.failure)}")
        else:
            usable.append(text)
        for note in follower.notes:
            say(note)
    return tuple(usable)
