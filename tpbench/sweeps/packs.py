"""What the queue hands to a worker, and how a worker can fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tpbench.search.halving import Bracket
from tpbench.training.packs import PackPlan, PackSettings


@dataclass(frozen=True)
class HandedPack:
    """One pack of a sweep, in plain data so that it travels to any process."""

    key: str
    """Names it within its sweep: ``12``, or ``final-0``."""
    plan: PackPlan
    settings: PackSettings
    bracket: Bracket | None = None

    @property
    def members(self) -> int:
        return len(self.plan.seeds)

    def to_json(self) -> str:
        """One string: Tune keeps what a trial carries, and takes far more memory for nested mappings."""
        return json.dumps({**asdict(self), "plan": self.plan.plain()}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> HandedPack:
        body: Mapping[str, Any] = json.loads(text)
        bracket = Bracket(**body["bracket"]) if body["bracket"] else None
        return cls(body["key"], PackPlan.from_plain(body["plan"]), PackSettings(**body["settings"]), bracket)


@dataclass(frozen=True)
class Failure:
    """One attempt at a pack that failed."""

    kind: str
    """``node``: what the node lacks (folder, data set); ``rule``: a package's learning rule is wrong; ``raised``: the
    training raised; ``lost``: the process went."""
    message: str
    node: str = ""


# Attempts at a pack by what they failed of. Nodes of a cluster come and go (spot instances), which is no fault of the
# pack's: it continues from its checkpoint. What raises raises again.
_ATTEMPTS = {"node": 30, "rule": 1, "raised": 3, "lost": 4}
_LOST_ON_A_CLUSTER = 50
# A pack that fails for the node's sake on so many different nodes fails for its own.
_NODES = 3


def given_up(failures: list[Failure], on_cluster: bool) -> bool:
    """Whether a pack that failed so often is not handed out again."""
    counts = {kind: sum(f.kind == kind for f in failures) for kind in _ATTEMPTS}
    limits = {**_ATTEMPTS, "lost": _LOST_ON_A_CLUSTER if on_cluster else _ATTEMPTS["lost"]}
    nodes = {f.node for f in failures if f.kind == "node"}
    return len(nodes) >= _NODES or any(counts[kind] >= limits[kind] for kind in limits)
