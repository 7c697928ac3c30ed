"""A sweep's journal: every suggestion and every result, one JSON line each, written before anything else happens.

HyperOpt's state is a function of its seed and of the order of suggestions and results. The journal holds that order, so
an interrupted search is continued by a replay: no suggestion is handed out twice, and nothing is unpickled.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from tpbench.engine import TpbenchError
from tpbench.results import RunRecord, RunStore
from tpbench.results.artifacts import parse_json
from tpbench.results.location import read_bytes
from tpbench.results.schemas import Count, Finite, Fraction, Natural, Record, check_fields
from tpbench.results.store import append_line
from tpbench.results.sweep_files import JOURNAL, LARGEST
from tpbench.training.plan import Outcome

# The fields of the journal: types and ranges, checked when it is read.

Suggestion = Annotated[dict[str, Finite], Field(min_length=1)]


class OutcomeFields(Record):
    """The fields of :class:`tpbench.training.plan.Outcome`."""

    run: str
    status: Literal["finished", "diverged", "pruned", "stopped"]
    validation_error: Fraction
    test_error: Fraction | None
    value: Finite | None = None
    epochs: Natural | None = None


class _Event(Record):
    """A line of a journal. Fields that another version adds are ignored."""

    model_config = ConfigDict(extra="ignore")


class Suggested(_Event):
    """A pack was handed out."""

    event: Literal["suggested"]
    pack: Natural
    suggestions: Annotated[list[Suggestion], Field(min_length=1)]


class Ended(_Event):
    """A pack ended; no outcomes: it failed."""

    event: Literal["ended"]
    pack: Natural
    outcomes: list[OutcomeFields]


class Split(_Event):
    """The final seeds were split into packs."""

    event: Literal["split"]
    packs: Count


class Final(_Event):
    """The final runs are in the store."""

    event: Literal["final"]
    outcomes: list[OutcomeFields]


class Failed(_Event):
    """The sweep ended without a result."""

    event: Literal["failed"]
    reason: str


EVENT: TypeAdapter[Suggested | Ended | Split | Final | Failed] = TypeAdapter(
    Annotated[Suggested | Ended | Split | Final | Failed, Field(discriminator="event")]
)
"""Any line of a journal."""

REMEDY = "start another sweep with --fresh"
"""Ends the messages of damaged files of a sweep."""

FAILED_ELSEWHERE = "it failed on another machine, whose journal has the reason"
"""The reason of a failure in archives, and in stores that a sweep was merged into."""


ENDS = {
    "diverged": "diverged",
    "pruned": "stopped early",
    "stopped": "stopped at a rung",
    "failed": "failed",
    "finished": "finished",
}
"""The ends of a configuration, and the words for them."""


def format_ends(ends: Mapping[str, int]) -> str:
    """Return numbers of configurations by their end for people."""
    return ", ".join(f"{ends[end]} {words}" for end, words in ENDS.items() if ends.get(end))


@dataclass
class PackEntry:
    """One pack of the search: HyperOpt's suggestions, and their outcomes once it has ended (empty: it failed)."""

    number: int
    suggestions: list[dict[str, float]]
    outcomes: list[Outcome] | None = None


@dataclass
class Journal:
    """The journal of one sweep, in memory and on disk."""

    path: Path
    packs: list[PackEntry] = field(default_factory=list)
    parts: int | None = None
    """Packs that the final seeds were split into; None before the search ended."""
    final: list[Outcome] | None = None
    failure: str | None = None
    """The reason why the sweep ended without a result, if it did; a later event removes it."""
    # Counted as packs come and end: the scheduler asks for them with every report of a worker.
    _suggested: int = field(default=0, init=False, repr=False)
    _ended: int = field(default=0, init=False, repr=False)

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open a journal to continue it, or begin one. A last line that a crash cut short is removed.

        Raises:
            TpbenchError: a line before the last is damaged.
        """
        journal = cls.read(path)
        if isinstance(path, Path) and path.exists():
            size = path.read_bytes().rfind(b"\n") + 1
            with path.open("rb+") as file:
                file.truncate(size)
        return journal

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read a journal without changing it; a last line that a crash cut short is ignored.

        Raises:
            TpbenchError: a line before the last is damaged.
        """
        try:
            content = read_bytes(path, LARGEST[JOURNAL])
        except FileNotFoundError:
            return cls(path)
        except TpbenchError as error:
            raise TpbenchError(f"{error}; {REMEDY}") from error
        except Exception as error:  # a URL's file system has exceptions of its own; the file may be whole
            raise TpbenchError(f"{path}: could not be read ({error})") from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: Path, where: str = "", remedy: str = REMEDY) -> Journal:
        """Return the journal of a file's contents; a last line that a crash cut short is ignored.

        Args:
            content: of the file.
            path: the file's.
            where: its place in messages; empty: the path.
            remedy: ends the message of a damaged journal.

        Raises:
            TpbenchError: a line before the last is damaged.
        """
        journal = cls(path)
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise TpbenchError(f"{where or path}: damaged ({error}); {remedy}") from error
        complete = text.rpartition("\n")[0]
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                event = parse_json(line)
                check_fields(EVENT, event)
                journal._apply(event)
            except ValueError as error:
                raise TpbenchError(f"{where or path}:{number}: damaged ({error}); {remedy}") from error
        return journal

    def _apply(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "suggested":
            if event["pack"] != len(self.packs):
                raise ValueError(f"pack {event['pack']} does not follow pack {len(self.packs) - 1}")
            self.packs.append(PackEntry(event["pack"], [dict(s) for s in event["suggestions"]]))
            self._suggested += len(event["suggestions"])
        elif event["event"] == "ended":
            if event["pack"] >= len(self.packs):
                raise ValueError(f"pack {event['pack']} ended, but was not suggested")
            pack, outcomes = self.packs[event["pack"]], [Outcome(**outcome) for outcome in event["outcomes"]]
            if outcomes and len(outcomes) != len(pack.suggestions):
                raise ValueError(f"pack {pack.number} has {len(pack.suggestions)} members and {len(outcomes)} outcomes")
            self._ended += len(pack.suggestions) if pack.outcomes is None else 0
            pack.outcomes = outcomes
        elif event["event"] == "split":
            self.parts = int(event["packs"])
        elif event["event"] == "final":
            self.final = [Outcome(**outcome) for outcome in event["outcomes"]]
        self.failure = str(event["reason"]) if event["event"] == "failed" else None

    def _write(self, event: dict[str, Any]) -> None:
        append_line(self.path, json.dumps(event, allow_nan=False))
        self._apply(event)

    def add_pack(self, suggestions: list[dict[str, float]]) -> PackEntry:
        """Record a new pack and return it."""
        self._write({"event": "suggested", "pack": len(self.packs), "suggestions": suggestions})
        return self.packs[-1]

    def end_pack(self, pack: int, outcomes: list[Outcome]) -> None:
        """Record the outcomes of a pack's members; none: it failed."""
        self._write({"event": "ended", "pack": pack, "outcomes": [asdict(o) for o in outcomes]})

    def split(self, packs: int) -> None:
        """Record the number of packs of the final seeds: an interrupted sweep continues with the same ones."""
        self._write({"event": "split", "packs": packs})

    def fail(self, reason: str) -> None:
        """Record that the sweep ended without a result."""
        # A path in the message need not be text.
        reason = reason.encode(errors="backslashreplace").decode()
        if self.failure != reason:
            self._write({"event": "failed", "reason": reason})

    def finish(self, outcomes: list[Outcome]) -> None:
        """Record that the final runs are in the store."""
        self._write({"event": "final", "outcomes": [asdict(o) for o in outcomes]})

    def ends(self) -> dict[str, int]:
        """Return the numbers of configurations by their end, those that occur: ``{"diverged": 3, "pruned": 1}``."""
        ends = Counter(outcome.status for pack in self.packs for outcome in pack.outcomes or [])
        ends["failed"] = self.failed_count
        return {end: ends[end] for end in ENDS if ends[end]}

    def final_runs(self, store: RunStore) -> list[RunRecord] | None:
        """Return the final runs from the store; None unless it has all of them, as files can be deleted or damaged."""
        if self.final is None:
            return None
        records = [store.read(outcome.run) for outcome in self.final]
        present = [record for record in records if record]
        return present if len(present) == len(records) else None

    @property
    def suggested_count(self) -> int:
        """Number of suggestions."""
        return self._suggested

    @property
    def ended_count(self) -> int:
        """Number of suggestions whose packs have ended."""
        return self._ended

    @property
    def failed_count(self) -> int:
        """Number of suggestions that could not be trained."""
        return sum(len(pack.suggestions) for pack in self.packs if pack.outcomes == [])

    @property
    def member_epochs(self) -> int:
        """Joint epochs that the search trained, over all its members."""
        return sum(outcome.epochs or 0 for pack in self.packs for outcome in pack.outcomes or [])

    def best(self) -> tuple[dict[str, float], Outcome] | None:
        """Return the suggestion with the lowest score, the first of equals; None before any result.

        A pruned run is no candidate: it was stopped because it learnt nothing.
        """
        candidates = [
            (suggestion, outcome)
            for pack in self.packs
            for suggestion, outcome in zip(pack.suggestions, pack.outcomes or [], strict=False)
            if outcome.status == "finished"
        ]
        return min(candidates, key=lambda pair: pair[1].score, default=None)


def portable_journal(content: bytes, where: str, remedy: str) -> bytes:
    """Return a journal as archives hold it: complete lines of known fields.

    The reasons of failures name places of a machine, so they become :data:`FAILED_ELSEWHERE`.

    Args:
        content: of the file.
        where: its place in messages.
        remedy: ends the message of a damaged journal.

    Raises:
        TpbenchError: it is damaged.
    """
    Journal.parse(content, Path(), where, remedy)
    lines = []
    for line in content.decode().rpartition("\n")[0].splitlines():
        event = parse_json(line)
        # The values as they are: the models would make floats of whole numbers.
        known = {name: event[name] for name in type(EVENT.validate_python(event)).model_fields if name in event}
        if known["event"] == "failed":
            known["reason"] = FAILED_ELSEWHERE
        lines.append(f"{json.dumps(known)}\n")
    return "".join(lines).encode()
