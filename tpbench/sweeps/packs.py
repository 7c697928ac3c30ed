"""What the scheduler hands to a worker, where a worker is, and how it can fail."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tpbench.search.halving import Bracket
from tpbench.training.pack import PackPlan, PackSettings

ALL_SWEEPS = ""
"""Stands for every sweep where a node lacks what all of them need."""


@dataclass(frozen=True)
class HandedPack:
    """One pack of a sweep, in plain data so that it travels to any process."""

    key: str
    """Names it within its sweep: ``12``, or ``final-0``."""
    plan: PackPlan
    settings: PackSettings
    bracket: Bracket | None = None
    parts: int = 1
    """How many parts its members are trained in, one after the other, where memory does not hold all at once."""

    @property
    def members(self) -> int:
        return len(self.plan.seeds)

    def to_json(self) -> str:
        """One string, which is cheaper to hand on than nested mappings."""
        return json.dumps({**asdict(self), "plan": self.plan.plain()}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> HandedPack:
        body: Mapping[str, Any] = json.loads(text)
        bracket = Bracket(**body["bracket"]) if body["bracket"] else None
        return cls(
            body["key"], PackPlan.from_plain(body["plan"]), PackSettings(**body["settings"]), bracket, body["parts"]
        )


@dataclass(frozen=True)
class Place:
    """Where a worker is."""

    node: str = ""
    """Id of the node."""
    gpu: str = ""
    """The GPU that the worker has; empty: none."""
    host: str = field(default="", compare=False)
    """The node as a person knows it."""

    @property
    def name(self) -> str:
        """The place in a message."""
        where = self.host or self.node[:8] or "here"
        return f"{where}, GPU {self.gpu}" if self.gpu else where


@dataclass(frozen=True)
class Failure:
    """One attempt at a pack that failed.

    Attributes:
        kind: ``node``: the node lacks something (folder, data set, package, precision, memory for a single run);
            ``rule``: a package's learning rule is wrong; ``raised``: the training raised; ``lost``: the process ended;
            ``gone``: the node was lost; ``memory``: the system ended the process because memory ran out;
            ``silent``: the process made no progress and was ended.
        message: what went wrong, in one line.
        place: where.
    """

    kind: str
    message: str
    place: Place = Place()


# Attempts at a pack by kind of failure. What raises raises again. Nodes of a cluster come and go (spot instances),
# which is no fault of the pack's: it continues from its checkpoint.
_ATTEMPTS = {"rule": 1, "raised": 3, "silent": 3, "lost": 4, "gone": 50}
_LOST_ON_A_CLUSTER = 10
_LOSSES_BEFORE_HALVING = 2


def is_given_up(
    failures: Sequence[Failure], members: int, *, on_cluster: bool, counts: Callable[[Failure], bool] = lambda f: True
) -> bool:
    """Return whether a pack that failed so often is not handed out again.

    Args:
        failures: of all attempts at it.
        members: of the pack. A process that is lost without a known cause may have run out of memory: the pack gets as
            many attempts more as it can be halved.
        on_cluster: whether nodes come and go.
        counts: which failures count: not those of a node that breaks every pack.
    """
    limits = {**_ATTEMPTS, "lost": _LOST_ON_A_CLUSTER if on_cluster else _ATTEMPTS["lost"]}
    limits["lost"] += math.ceil(math.log2(max(members, 1)))
    kinds = [failure.kind for failure in failures if counts(failure)]
    return any(kinds.count(kind) >= limit for kind, limit in limits.items())


def wants_halves(failures: Sequence[Failure]) -> bool:
    """Return whether the last failure of a pack is a reason to train its members in smaller parts.

    Either the system says that memory ran out, or the process was lost a second time and nothing says why.
    """
    if not failures:
        return False
    lost = sum(failure.kind == "lost" for failure in failures)
    return failures[-1].kind == "memory" or (failures[-1].kind == "lost" and lost >= _LOSSES_BEFORE_HALVING)
