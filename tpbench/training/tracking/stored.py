"""``tpbench results track``: the runs of a store in a tracker, as if they had been followed when they were trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tpbench.engine import TpbenchError
from tpbench.results import RunStore
from tpbench.training.tracking.following import open_tracker, reason_of
from tpbench.training.tracking.members import Bringer, Member, Tracker, notes_of
from tpbench.training.tracking.targets import Target


def track_store(
    store: RunStore, targets: Sequence[str], say: Callable[[str], None] = lambda line: None
) -> tuple[int, int]:
    """Track every whole run of a store; returns how many were tracked and how many were there already.

    Args:
        store: where the runs are; what is damaged is named in ``store.damaged``.
        targets: as :func:`tpbench.training.tracking.targets.resolve_targets` says.
        say: takes what a person should know of how a tracker was opened.

    Raises:
        TpbenchError: a tracker failed; what it has already, it keeps.
    """
    new = known = 0
    with ExitStack() as stack:
        trackers = [(target, stack.enter_context(_opened(target))) for target in map(Target.of, targets)]
        for _, tracker in trackers:
            for note in notes_of(tracker):
                say(note)
        for record in store.records():
            member, history = Member.of_record(record), record.history
            lacking = []
            for target, tracker in trackers:
                with _told(target):
                    if not tracker.has(member, record.status):
                        lacking.append(target)
                        Bringer(tracker).bring(member, history)
            new, known = new + bool(lacking), known + (not lacking)
    return new, known


@contextmanager
def _opened(target: Target) -> Iterator[Tracker]:
    with _told(target):
        tracker = open_tracker(target)
    try:
        yield tracker
    finally:
        with _told(target):
            tracker.close()


@contextmanager
def _told(target: Target) -> Iterator[None]:
    """What a tracker raises, which may be anything, as an error for people."""
    try:
        yield
    except Exception as error:
        raise TpbenchError(f"tracking to {target.shown} failed: {reason_of(error)}") from error
