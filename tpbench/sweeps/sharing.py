"""Campaigns that share a cluster: their registry on the cluster, and the membership of each one.

Every campaign reports how many workers it has and could use, and is told how many it may have. Places are divided by
max-min fairness: nobody gets more than it can use, and what one leaves goes to the others. Nothing is taken from a pack
that trains: a campaign above its limit ends workers when their packs end.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tpbench.sweeps.nodes import count_places

# Ray reads its environment when it is imported, which is set later than this is: it is imported in functions.

# Seconds between two reports of a campaign.
INTERVAL = 10.0
# Seconds without a report after which a campaign counts no more: its driver may have been killed.
_FORGOTTEN = 60.0
# Seconds for which a node that was lost counts, and for which one that was planned for may need to come.
_GROWTH = 300.0
# Seconds that the registry may take to answer: it may have to be started.
_ANSWER = 30.0
# Failures in a row after which a line says that the cluster is not divided.
_FAILURES = 3
_NAME, _NAMESPACE = "campaigns", "tpbench"


def divide(amount: float, wanted: Mapping[str, tuple[int, float]]) -> dict[str, int]:
    """Divide GPUs or cores among campaigns by max-min fairness, in whole workers.

    Args:
        amount: to divide.
        wanted: by campaign, the workers that it could use and the amount that each one takes.

    Returns:
        The workers of each campaign.
    """
    workers, left = dict.fromkeys(wanted, 0), amount
    open_ends = {name for name, (count, _) in wanted.items() if count > 0}
    while open_ends:
        # The one that has least with a worker more; of two, the one that came first.
        name = min((n for n in wanted if n in open_ends), key=lambda n: (workers[n] + 1) * wanted[n][1])
        count, unit = wanted[name]
        if unit > left + 1e-9:
            open_ends.remove(name)
            continue
        workers[name] += 1
        left -= unit
        if workers[name] == count:
            open_ends.remove(name)
    return workers


@dataclass
class Campaign:
    """The last report of a campaign."""

    kind: str
    """``GPU`` or ``CPU``: of which it needs most."""
    unit: float
    """GPUs or cores of one worker."""
    cores: float
    """Cores of one worker."""
    held: int
    """Workers that have a place."""
    wanted: int
    """Workers that could have a pack now."""
    planned: float
    """GPUs or cores that the command plans for on a cluster that grows on demand; 0: those that are there."""
    size: float
    """GPUs or cores of the nodes that could train it."""
    time: float = field(default=0.0, compare=False)
    """When it was reported, by the registry's clock."""
    short_since: float | None = None
    """Since when it has less than its part of what is there; None: it has its part."""


class Registry:
    """The campaigns of a cluster. It knows no Ray: one such object is an actor.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.campaigns: dict[str, Campaign] = {}
        self._peaks: dict[str, tuple[float, float]] = {}
        """By kind, the size of the cluster not long ago, and when that was."""

    def report(self, name: str, report: Mapping[str, Any]) -> dict[str, Any]:
        """Take a campaign's report.

        Args:
            name: of the campaign.
            report: the values of :class:`Campaign`.

        Returns:
            ``limit``, the workers that it may have, None while there is no other campaign; ``others``, their number;
            ``amount``, the GPUs or cores that are divided. Plain data, as two versions of tpbench may share a cluster.
        """
        now, before = self.clock(), self.campaigns.get(name)
        campaign = Campaign(**{key: report[key] for key in _REPORTED}, time=now)
        self.campaigns[name] = campaign
        self._forget()
        present = self._present(campaign.kind)
        peak, when = self._peaks.get(campaign.kind, (0.0, now))
        if present >= peak or now - when > _GROWTH:
            self._peaks[campaign.kind] = present, now
        others = [c for n, c in self.campaigns.items() if n != name and c.kind in (campaign.kind, "GPU")]
        if not others:
            return {"limit": None, "others": 0, "amount": present}
        part = self._divide(campaign.kind, present)[name]
        if campaign.held < part:
            campaign.short_since = before.short_since if before and before.short_since is not None else now
        amount = self._amount(campaign.kind)
        limit = self._divide(campaign.kind, amount, most=name)[name]
        return {"limit": max(1, limit), "others": len(others), "amount": amount}

    def leave(self, name: str) -> int:
        """Forget a campaign; returns the number of the others."""
        self.campaigns.pop(name, None)
        self._forget()
        return len(self.campaigns)

    def _forget(self) -> None:
        """Forget the campaigns that have reported nothing for a while."""
        now = self.clock()
        self.campaigns = {name: c for name, c in self.campaigns.items() if now - c.time <= _FORGOTTEN}

    def _present(self, kind: str) -> float:
        return max((c.size for c in self.campaigns.values() if c.kind == kind), default=0.0)

    def _amount(self, kind: str) -> float:
        """Return the GPUs or cores to divide: those that are there, or may soon be, so that a cluster may grow.

        Where a campaign waits in vain, as the nodes do not come, only those that are there.
        """
        of_kind = [campaign for campaign in self.campaigns.values() if campaign.kind == kind]
        short = [campaign.short_since for campaign in of_kind if campaign.short_since is not None]
        if short and self.clock() - min(short) > _GROWTH:
            return self._present(kind)
        peak, _ = self._peaks.get(kind, (0.0, 0.0))
        return max(peak, *(campaign.planned for campaign in of_kind)) if of_kind else peak

    def _divide(self, kind: str, amount: float, most: str = "") -> dict[str, int]:
        """Return the workers of the campaigns of a kind; ``most`` names one that takes all that it may have."""
        wanted = {
            name: (math.ceil(amount / c.unit) if name == most else c.wanted, c.unit)
            for name, c in self.campaigns.items()
            if c.kind == kind
        }
        if kind == "CPU":
            # A GPU without a core is of no use, so these cores go first.
            on_gpus = self._divide("GPU", self._amount("GPU"))
            amount -= sum(count * self.campaigns[name].cores for name, count in on_gpus.items())
        return divide(amount, wanted)


_REPORTED = ("kind", "unit", "cores", "held", "wanted", "planned", "size")


@dataclass(frozen=True)
class ClusterShare:
    """The part of a cluster that a campaign may have."""

    limit: int | None = None
    """Workers; None: as many as have a place."""
    others: int = 0
    """Number of other campaigns."""
    line: str = ""
    """The same for people."""


class Membership:
    """A campaign among those of the connected cluster, for the length of a ``with`` block.

    A thread of its own reports, so that a campaign is known while it measures sizes, and its driver waits for nothing.
    Where the registry cannot be reached for a while, the campaign has no limit.

    Args:
        share: Ray resources of one worker (:attr:`tpbench.sweeps.cluster.Resources.share`).
        wanted: workers that it could use at first.
        planned: GPUs or cores that the command was told to plan for; 0: none.
        interval: seconds between two reports; None: the usual.
    """

    def __init__(
        self, share: Mapping[str, float], wanted: int = 1, planned: float = 0.0, interval: float | None = None
    ) -> None:
        self.name = secrets.token_hex(8)
        self.share = ClusterShare()
        """The last answer."""
        self.problem = ""
        """The reason why the registry cannot be reached, once it has failed a few times."""
        self.planned, self.interval = planned, INTERVAL if interval is None else interval
        self._state: tuple[Mapping[str, float], int, int, frozenset[str]] = (dict(share), 0, wanted, frozenset())
        self._registry: Any = None
        self._wake, self._over = threading.Event(), threading.Event()
        self._answered, self._failures = time.monotonic(), 0
        self._thread = threading.Thread(target=self._run, name="campaigns", daemon=True)

    def update(self, share: Mapping[str, float], held: int, wanted: int, without: Collection[str] = ()) -> None:
        """Note what is reported next.

        Args:
            share: Ray resources of one worker.
            held: workers that have a place.
            wanted: workers that could have a pack now.
            without: ids of nodes that cannot train any sweep of the campaign.
        """
        self._state = dict(share), held, wanted, frozenset(without)
        self._wake.set()

    def __enter__(self) -> Membership:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        self._over.set()
        self._wake.set()
        self._thread.join(_ANSWER)
        # Nothing of a sweep depends on it: the others forget this one by themselves.
        with suppress(Exception):
            if self._registry is not None and ray.get(self._registry.leave.remote(self.name), timeout=5) == 0:
                ray.kill(self._registry)

    def _run(self) -> None:
        while not self._over.is_set():
            self._wake.clear()
            try:
                self.share = self._report()
                self._answered, self._failures, self.problem = time.monotonic(), 0, ""
            except Exception as error:  # its node may be gone, or lack tpbench: a campaign never depends on it
                self._registry, self._failures = None, self._failures + 1
                if self._failures >= _FAILURES:
                    self.problem = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
                if time.monotonic() - self._answered > _FORGOTTEN:
                    self.share = ClusterShare()
                self._over.wait(self.interval)
            else:
                self._wake.wait(self.interval)

    def _report(self) -> ClusterShare:
        if self._registry is None:
            self._registry = open_registry()
        share, held, wanted, without = self._state
        kind = "GPU" if share.get("gpu") else "CPU"
        unit = share[kind.lower()]
        report = {
            "kind": kind,
            "unit": unit,
            "cores": share["cpu"],
            "held": held,
            "wanted": wanted,
            "planned": self.planned,
            "size": count_places(share, without) * unit,
        }
        answer = self._wait_for(self._registry.report.remote(self.name, report))
        limit, others = answer["limit"], int(answer["others"])
        if limit is None:
            return ClusterShare()
        return ClusterShare(limit, others, format_share(limit * unit, answer["amount"], others, kind))

    def _wait_for(self, call: Any) -> Any:
        """Return the result of a call; the end of the campaign does not wait for it."""
        import ray

        until = time.monotonic() + _ANSWER
        while not ray.wait([call], timeout=1.0)[0] and not self._over.is_set() and time.monotonic() < until:
            pass
        return ray.get(call, timeout=0)


def format_share(part: float, amount: float, others: int, kind: str) -> str:
    """Return a line about the part of a cluster that a campaign may have."""
    campaigns = f"{others} other campaign{'s' if others > 1 else ''}"
    name = "GPUs" if kind == "GPU" else "cores"
    return f"shares the cluster with {campaigns}: up to {part:g} of {amount:g} {name}"


def open_registry() -> Any:
    """Return the handle of the registry of the connected cluster; it is started on the head if there is none."""
    import ray

    return (
        ray.remote(Registry)
        .options(
            name=_NAME,
            namespace=_NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            # Other nodes may come and go.
            resources={"node:__internal_head__": 0.001},
            max_restarts=-1,
        )
        .remote()
    )
