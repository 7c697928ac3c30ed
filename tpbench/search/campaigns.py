"""The state of a running campaign: a small file of its driver, read by ``tpbench sweeps`` and ``report --watch``.

The file lies in the folder of the campaign's first sweep. It is no result: archives and merged stores do not have it.
It is out of date once the lock of that folder is free.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpbench.engine import TpbenchError
from tpbench.results import RunStore
from tpbench.results.artifacts import parse_json
from tpbench.results.formats import count_of
from tpbench.results.location import read_bytes
from tpbench.results.schemas import Count, Fraction, Name, Natural, NonNegative, Record, check_fields
from tpbench.results.store import write_atomically
from tpbench.results.sweep_files import FOLDER, sweep_names
from tpbench.search.definition import SweepFolder
from tpbench.training.progress import format_duration

FILE = "campaign.json"
REPRODUCTION = "reproduce"
"""Folder of ``tpbench reproduce``, a campaign without searches."""
_LARGEST = 20_000_000
# Packs that are named one by one, at most.
_MOST_PACKS = 8
# With less than this a pace is chance: the first packs wait for Ray and imports.
_LEAST_SECONDS, _LEAST_SHARE = 10.0, 0.01


KINDS = {
    "node": "the machine lacks something",
    "rule": "the learning rule is wrong",
    "raised": "the training raised an error",
    "lost": "its process was lost",
    "gone": "its machine was lost",
    "memory": "memory ran out",
    "stalled": "no progress",
}
"""Kinds of :class:`tpbench.sweeps.sweep.Failure` for people."""


class TrainingPack(Record):
    """A pack that a worker trains now."""

    sweep: Name
    pack: Name
    members: Count
    share: Fraction
    """The share of it that is trained."""
    place: str
    """Name of the machine, and the GPU."""


class FailedAttempts(Record):
    """Attempts at packs of a sweep that failed in the same way; a later attempt may have succeeded."""

    sweep: Name
    kind: Name
    """As of :class:`tpbench.sweeps.sweep.Failure`."""
    message: str
    place: str
    """The place of the last one."""
    count: Count


class SweepProgress(Record):
    """The progress of one sweep."""

    name: Name
    label: Name
    trials: Natural
    """Configurations of the search; 0: there is none."""
    tried: Natural
    seeds: Natural
    """Seeds of the final runs."""
    trained: Natural
    in_flight: NonNegative
    """Configurations, or seeds once the search has ended, of packs in flight, by the share of them that is trained."""
    best: Fraction | None
    """Lowest validation error so far."""
    done: bool
    failure: str | None


class CampaignState(Record):
    """The state of a campaign at one moment."""

    command: str
    """The command that continues it."""
    device: Name
    begun: NonNegative
    """The time when its first pack was handed out, in seconds since 1970; so is the next."""
    written: NonNegative
    workers: Natural
    """Processes that have a place."""
    packs: list[TrainingPack]
    sweeps: list[SweepProgress]
    failures: list[FailedAttempts]
    work_done: NonNegative
    """Estimated seconds of one worker for what this session has trained; sweeps that failed are left out."""
    work_left: NonNegative
    """The same for what is left."""

    def seconds_left(self, now: float) -> float | None:
        """Return about how many seconds are left at the pace of this session so far; None where that is not known."""
        elapsed, work = self.written - self.begun, self.work_done + self.work_left
        if elapsed < _LEAST_SECONDS or not work or self.work_done < _LEAST_SHARE * work:
            return None
        left = elapsed * self.work_left / self.work_done - (now - self.written)
        return left if left > 0 else None


@dataclass(frozen=True)
class Campaign:
    """The last state of a campaign that its driver wrote."""

    folder: SweepFolder
    """Of its first sweep; Ray's log lies there."""
    state: CampaignState
    running: bool
    """False: it has ended, and the state is that of its end."""

    def summary(self, now: float) -> str:
        """Return a line about the packs that train, and the time left where that can be estimated.

        Args:
            now: the time, in seconds since 1970.
        """
        packs, left = len(self.state.packs), self.state.seconds_left(now)
        about = (
            f"{count_of(packs, 'pack')} in training on {count_of(self.state.workers, 'worker')} ({self.state.device})"
        )
        return about if left is None else f"{about}; about {format_duration(left)} left, estimated from the pace so far"

    def places(self) -> list[str]:
        """Return a line about each pack that trains and its place; of many packs, about each place."""
        labels = {sweep.name: sweep.label for sweep in self.state.sweeps}
        if len(self.state.packs) <= _MOST_PACKS:
            return [
                f"{pack.place}: {labels.get(pack.sweep, pack.sweep)}, pack {pack.pack} "
                f"({count_of(pack.members, 'run')}, {pack.share:.0%} trained)"
                for pack in self.state.packs
            ]
        counts = Counter(pack.place for pack in self.state.packs)
        return [f"{place}: {count_of(count, 'pack')}" for place, count in counts.items()]

    def problems(self, sweep: str) -> list[str]:
        """Return a line about each way in which attempts at packs of a sweep failed."""
        lines = []
        for one in self.state.failures:
            if one.sweep == sweep:
                kind = KINDS.get(one.kind, one.kind)
                cause = one.message if one.message.startswith(kind) else f"{kind}: {one.message}"
                attempts = count_of(one.count, "failed attempt")
                lines.append(f"{attempts} at a pack, the last on {one.place}: {cause}; see {self.folder.log}")
        return lines


def write_campaign(folder: SweepFolder, state: CampaignState) -> None:
    """Write the state of a campaign.

    Raises:
        TpbenchError: the file cannot be written.
    """
    write_atomically(folder.local / FILE, json.dumps(state.model_dump()) + "\n")


def read_campaigns(store: RunStore) -> list[Campaign]:
    """Return the last states of all campaigns of a store, the latest first.

    A file that is damaged, or of another version, is passed over: it holds no result.

    Raises:
        TpbenchError: the folder of the sweeps cannot be read.
    """
    folders = [SweepFolder(store.folder / FOLDER / name) for name in [*sweep_names(store.folder), REPRODUCTION]]
    found = [Campaign(folder, state, folder.locked) for folder in folders if (state := _read(folder.local / FILE))]
    return sorted(found, key=lambda campaign: -campaign.state.written)


def _read(path: Path) -> CampaignState | None:
    try:
        fields: Any = parse_json(read_bytes(path, _LARGEST).decode())
        check_fields(CampaignState, fields)
        return CampaignState.model_validate(fields)
    except (OSError, ValueError, TpbenchError):
        return None
