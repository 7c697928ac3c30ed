"""What every tracker is told: a run's name, hyperparameters and tags, its epochs, and how it ended."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tpbench import __version__
from tpbench.engine import MemberHistory
from tpbench.results import RunDefinition, RunRecord

EpochValues = tuple[int, dict[str, float]]
"""The number of an epoch, from 1 as in figures, and the value of every curve there."""


@dataclass(frozen=True)
class Member:
    """One run as a tracker is told of it before its first epoch."""

    run: str
    """The run's id."""
    name: str
    """``digits/bp/seed0/`` and the id; no part of it leads out of a folder."""
    hyperparameters: Mapping[str, float]
    tags: Mapping[str, str]

    @classmethod
    def of(
        cls,
        definition: RunDefinition,
        data_label: str,
        found: Mapping[str, Any],
        *,
        precision: str = "",
        version: str = __version__,
    ) -> Member:
        """The member of a pack.

        Args:
            definition: what is trained.
            data_label: empty for the exact data set.
            found: how its configuration was found (:mod:`tpbench.results.runs`).
            precision: where the definition does not tell it.
            version: of tpbench that trained it.
        """
        words = (definition.workload, definition.method, f"seed{definition.seed}")
        tags = {
            "run": definition.id,
            "workload": definition.workload,
            "method": definition.method,
            "seed": str(definition.seed),
            "data": data_label or "exact",
            "precision": precision or definition.precision,
            "version": version,
            "sweep": str(found.get("sweep", "")),
            "role": str(found.get("role", "")),
        }
        return cls(
            definition.id,
            "/".join([*map(_word, words), definition.id]),
            dict(definition.configuration),
            {name: value for name, value in tags.items() if value},
        )

    @classmethod
    def of_record(cls, record: RunRecord) -> Member:
        """A run of a store."""
        version = str(record.provenance.get("tpbench", "unknown"))
        return cls.of(
            record.definition, record.data_label, record.search_info, precision=record.precision, version=version
        )


def _word(text: str) -> str:
    """Part of a name, which may become part of a path."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text) or "-"


def epochs_after(history: MemberHistory, known: int) -> list[EpochValues]:
    """The epochs of a history after the first ``known`` ones."""
    return [
        (epoch + 1, {name: values[epoch] for name, values in history.curves.items() if epoch < len(values)})
        for epoch in range(known, history.epochs)
    ]


def selected(history: MemberHistory) -> dict[str, float]:
    """What is reported of a run: its selected epoch, from 1, and the errors there; nothing before any epoch."""
    if history.selected_epoch is None:
        return {}
    found = {"epoch": float(history.selected_epoch + 1)}
    for curve in ("train_error", "validation_error", "test_error"):
        if history.selected_epoch < len(history.curves.get(curve, ())):
            found[curve] = history.curves[curve][history.selected_epoch]
    return found


class Tracker(Protocol):
    """Keeps runs in a place of its own. Whatever it raises ends the tracking, never the training."""

    def has(self, member: Member, status: str) -> bool:
        """Whether the run is there to its end, with this status."""

    def begin(self, member: Member) -> int:
        """Begin a run, or continue what is there of it; returns how many epochs are there."""

    def log(self, member: Member, epochs: Sequence[EpochValues]) -> None:
        """Add epochs of a run that has begun."""

    def end(self, member: Member, epochs: Sequence[EpochValues], history: MemberHistory) -> None:
        """Add a run's last epochs, if some are missing, and end it."""

    def close(self) -> None:
        """No more will follow; what has not ended was interrupted."""


def notes_of(tracker: Tracker) -> list[str]:
    """What a person should know of how a tracker opened its place; most have nothing to say."""
    return list(getattr(tracker, "notes", ()))


class Bringer:
    """Brings a tracker up to date: what is there already is not logged again."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._there: dict[str, int] = {}
        self._ended: set[str] = set()

    def bring(self, member: Member, history: MemberHistory) -> None:
        """Begin the run if that was not done, log the epochs that are missing, and end it if its training has."""
        if member.run in self._ended:
            return
        if member.run not in self._there:
            self._there[member.run] = self.tracker.begin(member)
        missing = epochs_after(history, self._there[member.run])
        if history.status != "training":
            self.tracker.end(member, missing, history)
            self._ended.add(member.run)
        elif missing:
            self.tracker.log(member, missing)
            self._there[member.run] = history.epochs
