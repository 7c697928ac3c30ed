"""Which pack is trained next and where, and what follows a failure; knows neither Ray nor processes."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tpbench.engine import TpbenchError
from tpbench.sweeps.packs import ALL_SWEEPS, Failure, HandedPack, Place
from tpbench.sweeps.sweep import Admission, QueuedSweep, Workers
from tpbench.training.pack import Outcome

# A node, or a GPU, that breaks so many packs in a row is held back.
_MOST_IN_A_ROW = 3
# Failures that may be the place's fault. That a node is gone, or that memory does not hold a pack, is told apart.
_TROUBLES = ("raised", "lost", "silent")


@dataclass(frozen=True)
class Patience:
    """For how long the scheduler waits for what may not come, in seconds."""

    silence: float = 600.0
    """For an epoch of a pack; ten of its own epochs if that is longer."""
    first_epoch: float = 3600.0
    """For a pack's first epoch, before anybody knows how long one takes."""
    elsewhere: float = 120.0
    """For a place on another node, for a pack that failed on this one."""
    replacement: float = 300.0
    """For another node, where the last one that could train a sweep was lost."""
    idle: float | None = None
    """For a pack, before an idle worker is given up; None: until the end, as nobody else could use its place."""


@dataclass
class Slot:
    """A process that trains one pack after the other."""

    name: str
    changed: float
    """When it was asked for, became idle, got its pack, or when that last got on."""
    place: Place | None = None
    """None: it has not started."""
    avoid: frozenset[str] = frozenset()
    """Nodes on which it would have been of no use when it was asked for; it is never placed there."""
    work: tuple[QueuedSweep, HandedPack] | None = None
    running: bool = False
    """Its process runs, as Ray says."""
    took: bool = False
    """It has said that it got its pack."""
    epoch: float | None = None
    """Seconds of the longest epoch of its pack so far."""
    leaving: bool = False
    """It makes no progress and its pack is no longer its own, or it was told to end."""

    @property
    def idle(self) -> bool:
        """Whether it waits for a pack."""
        return self.place is not None and self.work is None and not self.leaving


class Scheduler:
    """Hands the packs of several sweeps to workers, and decides what follows when one fails.

    Final packs come first, then sweeps of a lower ``priority``, then those with the fewest packs in flight. There is no
    barrier anywhere: while one sweep waits for results, others train. What a sweep suggests depends on its own results
    in their order alone, so neither turns nor places change a result.

    A pack that failed on a node goes to another node while there is one. A node or GPU that breaks three packs in a row
    gets no more, unless these packs fail elsewhere too or there is no other place. What a node lacks is no failure of a
    pack: the node gets no packs of that sweep, and the sweep is interrupted when no node is left.

    Args:
        sweeps: all of the command, in its order.
        workers: packs that train at once.
        final_workers: how many of them final seeds are worth splitting over (cores, or whole GPUs).
        admission: which sweeps may begin.
        most: workers that may be asked for at once; None: as many as ``workers``.
        patience: for how long it waits.
        say: tells a person which place gets no packs, and why.
        clock: seconds, for what depends on time.
    """

    def __init__(
        self,
        sweeps: Sequence[QueuedSweep],
        workers: int,
        final_workers: int,
        *,
        admission: Admission | None = None,
        most: int | None = None,
        patience: Patience | None = None,
        say: Callable[[str], None] = lambda message: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sweeps, self.count, self.final_workers = list(sweeps), workers, final_workers
        self.admission, self.most = admission or Admission(), most or workers
        self.patience, self.say, self.clock = patience or Patience(), say, clock
        self.slots: dict[str, Slot] = {}
        self.lacking: dict[str, dict[str, str]] = defaultdict(dict)
        """By node what it lacks, by the name of the sweep that cannot be trained there (or ``ALL_SWEEPS``)."""
        self._cluster: dict[str, str] = {}
        self.hosts: dict[str, str] = {}
        """Names of nodes for people, by id."""
        self._troubles: dict[tuple[str, str], list[tuple[Place, float]]] = defaultdict(list)
        """By sweep and pack, where it failed and when."""
        self._succeeded: set[tuple[str, str]] = set()
        self._streaks: dict[tuple[str, str], list[tuple[str, tuple[str, str]]]] = defaultdict(list)
        """By node, and by node and GPU, the GPUs and packs that failed there since one succeeded."""
        self._held: frozenset[tuple[str, str]] = frozenset()
        self._room: dict[str, int] = {}
        """By node, how many packs its memory holds at once, where more were too many."""
        self._node_lost: dict[str, float] = {}
        """By sweep, when a node that could train it was last lost."""

    # The state

    @property
    def unfinished(self) -> list[QueuedSweep]:
        """Sweeps that are not done and have not failed."""
        return [sweep for sweep in self.sweeps if not sweep.finished]

    @property
    def over(self) -> bool:
        """Whether nothing is in flight and nothing may still be handed out."""
        return not any(sweep.flying or self.admission.allows(sweep) for sweep in self.unfinished)

    @property
    def idle(self) -> list[Slot]:
        """Workers that wait for a pack, those that may train anything first."""
        return [slot for slot in self.slots.values() if slot.idle]

    def workers(self, sweep: QueuedSweep) -> Workers:
        """Return what a sweep may know when it splits its final runs."""
        others = sum(other.potential for other in self.sweeps if other is not sweep)
        return Workers(self.final_workers, max(1, len(self.unfinished)), others)

    def _ready(self) -> list[QueuedSweep]:
        """Sweeps that have a pack, in the order in which they are asked."""
        ready = [s for s in self.unfinished if (s.has_final or s.has_search) and self.admission.allows(s)]
        return sorted(ready, key=lambda sweep: (not sweep.has_final, sweep.priority, len(sweep.flying)))

    # Workers come and go

    def wants_slot(self) -> bool:
        """Return whether one more worker would have a pack to train.

        Raises:
            RuntimeError: nothing is in flight and nothing can be handed out, so that waiting would last for ever.
        """
        ready = self._ready()
        packs = sum(len(sweep.waiting) + sweep.new_packs for sweep in ready)
        busy = sum(slot.work is not None for slot in self.slots.values())
        if not packs and not busy and not self.over:
            raise RuntimeError(f"the queue stands still; unfinished: {[s.name for s in self.unfinished]}")
        starting = len(self._starting())
        # One that is idle although there are packs cannot have them where it is.
        useful = 0 if packs else len(self.idle)
        # Nobody else could use the place of one that is there before its pack.
        early = self._coming() if self.patience.idle is None else 0
        return busy + starting + useful < min(self.most, max(busy + packs, early))

    def _starting(self) -> list[Slot]:
        """Workers that have not started and may do so anywhere where one would be of use.

        The others wait for places that may never be free, while there are places that they were told to avoid.
        """
        starting = [slot for slot in self.slots.values() if slot.place is None and not slot.leaving]
        if not any(slot.avoid for slot in starting):
            return starting
        useless = self._useless_nodes()
        return [slot for slot in starting if slot.running or slot.avoid <= useless]

    def _useless_nodes(self) -> frozenset[str]:
        """Nodes on which one more worker would have no pack."""
        return frozenset(node for node in self._nodes() if not self._could_train(Place(node)))

    def _coming(self) -> int:
        """Packs that may be in flight at once from now on."""
        return sum(sweep.coming(self.workers(sweep)) for sweep in self.unfinished)

    def open(self, name: str) -> frozenset[str]:
        """Note that a worker was asked for; returns the nodes on which it would be of no use."""
        slot = self.slots[name] = Slot(name, self.clock(), avoid=self._useless_nodes())
        return slot.avoid

    def runs(self, name: str) -> None:
        """Note that a worker has a place and its process runs, though it has not said where."""
        slot = self.slots.get(name)
        if slot is not None and not slot.running:
            slot.running, slot.changed = True, self.clock()

    def started(self, name: str, place: Place, lacks: Mapping[str, str] | None = None) -> None:
        """Note where a worker is.

        Args:
            name: of the worker.
            place: where it is.
            lacks: what its node lacks, by the name of a sweep or for ``ALL_SWEEPS``.
        """
        slot = self.slots.setdefault(name, Slot(name, self.clock()))
        slot.place, slot.changed = place, self.clock()
        self.hosts.setdefault(place.node, place.host)
        self.lacks(place.node, lacks or {})
        self.stop_without_nodes()

    def closed(self, name: str) -> None:
        """Note that a worker ended as it was told."""
        slot = self.slots.pop(name, None)
        if slot and slot.work:
            self._failed(slot, Failure("lost", "its process ended without a result"))

    def surplus(self) -> list[str]:
        """Return the idle workers that shall end now; each is named once."""
        found = self.idle if self.over else self._not_needed()
        for slot in found:
            slot.leaving = True
        return [slot.name for slot in found]

    def _not_needed(self) -> list[Slot]:
        now, limit = self.clock(), self.patience.idle
        useless = [s for s in self.idle if s.place and not self._could_train(Place(s.place.node))]
        # A worker where packs fail, or memory is short, keeps others from that place.
        blocking = [s for s in self.idle if s.place and self._is_blocked(s.place)]
        rest = [s for s in self.idle if s not in useless and s not in blocking]
        bored = [s for s in rest if limit is not None and now - s.changed > limit]
        rest = [s for s in rest if s not in bored]
        busy = sum(slot.work is not None and not slot.leaving for slot in self.slots.values())
        too_many = busy + len(self._starting()) + len(rest) - self._coming()
        return [*useless, *bored, *rest[: max(0, too_many)]]

    def _is_blocked(self, place: Place) -> bool:
        """Whether a place gets no packs for now, while others train."""
        busy = any(slot.work for slot in self.slots.values())
        return busy and (bool(self._held.intersection(self._keys(place))) or self._is_full(place.node))

    def _is_full(self, node: str) -> bool:
        """Whether a node's memory holds no pack besides those that train there."""
        return node in self._room and len(self._busy_on(node)) >= self._room[node]

    def _busy_on(self, node: str) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot.work and slot.place and slot.place.node == node]

    # Packs

    def next_pack(self, name: str) -> HandedPack | None:
        """Hand the next pack to an idle worker; None while there is none that it may have."""
        slot = self.slots[name]
        if not slot.idle or slot.place is None or self._is_full(slot.place.node):
            return None
        for sweep in self._ready():
            pack = self._next_of(sweep, slot.place)
            if pack:
                self.admission.begin(sweep)
                slot.work, slot.took, slot.epoch, slot.changed = (sweep, pack), False, None, self.clock()
                return pack
        return None

    def _next_of(self, sweep: QueuedSweep, place: Place) -> HandedPack | None:
        """The next pack of a sweep; what goes wrong in one is no reason to stop the others."""
        if not self._may_train(sweep, place):
            return None
        try:
            return sweep.next_pack(lambda key: self._may_have(sweep, key, place))
        except Exception as error:
            sweep.fail(f"{type(error).__name__}: {error}" if not isinstance(error, TpbenchError) else str(error))
            return None

    def took(self, name: str) -> None:
        """Note that a worker got its pack."""
        slot = self.slots.get(name)
        if slot is not None and slot.work is not None:
            slot.took, slot.changed = True, self.clock()

    def progress(self, name: str, share: float, best: float | None, epoch: float | None = None) -> QueuedSweep | None:
        """Note that a worker's pack got on; returns its sweep.

        Args:
            name: of the worker.
            share: of the pack that is trained.
            best: the lowest validation error so far.
            epoch: seconds of the pack's longest epoch so far.
        """
        slot = self.slots.get(name)
        if slot is None or slot.work is None:
            return None
        slot.took, slot.changed = True, self.clock()
        slot.epoch = epoch if epoch is not None else slot.epoch
        sweep, pack = slot.work
        if not sweep.failure:
            sweep.report(pack.key, share, best)
        return sweep

    def ended(self, name: str, outcomes: list[Outcome]) -> None:
        """Note that a worker trained its pack."""
        slot = self.slots.get(name)
        if slot is None or slot.work is None:
            return
        sweep, pack = slot.work
        if not sweep.failure:
            # First of all: should the journal be out of reach, the pack is still in flight.
            sweep.ended(pack.key, outcomes, self.workers(sweep))
        else:
            sweep.flying.pop(pack.key, None)
        slot.work, slot.changed = None, self.clock()
        self._succeeded.add((sweep.name, pack.key))
        for key in self._keys(slot.place):
            self._streaks.pop(key, None)
        self._hold_back()

    def failed(self, name: str, failure: Failure) -> None:
        """Note that a worker could not train its pack, and goes on."""
        slot = self.slots.get(name)
        if slot is not None and slot.work is not None:
            self._failed(slot, failure)
            slot.changed = self.clock()

    def gone(self, name: str, failure: Failure) -> None:
        """Note that a worker is no more, and what it died of."""
        slot = self.slots.get(name)
        if slot is None:
            return
        if slot.work is not None:
            self._failed(slot, failure)
        self.slots.pop(name)

    def silent(self) -> list[tuple[Slot, str]]:
        """Find workers that do not begin, or whose packs make no progress: they are to be ended, their packs failed.

        Returns:
            The workers, with a line that says for how long nothing was heard and what follows for the pack.
        """
        now = self.clock()
        watched = [s for s in self.slots.values() if s.work or (s.running and s.place is None and not s.leaving)]
        found = [slot for slot in watched if now - slot.changed > self._limit(slot)]
        return [(slot, self._give_up_on(slot)) for slot in found]

    def _limit(self, slot: Slot) -> float:
        """Seconds for which a worker that starts or has a pack may say nothing."""
        if slot.epoch is not None:
            return max(self.patience.silence, 10 * slot.epoch)
        return self.patience.first_epoch if slot.took else self.patience.silence

    def _give_up_on(self, slot: Slot) -> str:
        message = f"no progress for {self.clock() - slot.changed:.0f} s"
        if slot.work is None:
            slot.leaving = True
            return f"{message} since its process was started"
        sweep, pack = slot.work
        self._failed(slot, Failure("silent", message))
        slot.leaving = True  # only now: the last place of all is not held back
        if sweep.failure:
            return f"{message}; {sweep.label} has ended: {sweep.failure}"
        return f"{message}; its pack {'waits for another process' if pack.key in sweep.waiting else 'is given up'}"

    def paused(self, seconds: float) -> None:
        """Note that the driver itself stood still for so long: nobody could be heard meanwhile."""
        for slot in self.slots.values():
            slot.changed += seconds

    def _failed(self, slot: Slot, failure: Failure) -> None:
        assert slot.work is not None
        (sweep, pack), place = slot.work, slot.place or Place()
        if sweep.failure:
            sweep.flying.pop(pack.key, None)
            slot.work = None
            return
        if failure.kind == "memory" and pack.parts >= pack.members:
            others = len(self._busy_on(place.node)) - 1
            if others > 0:
                self._room[place.node] = others
                self.say(f"{self._host(place.node)} gets no more than {others} packs at once, as memory ran out")
            else:
                failure = Failure("node", f"not enough memory for a single run: {failure.message}")
        failure = Failure(failure.kind, failure.message, place)
        if failure.kind == "node":
            sweep.failures[pack.key].append(failure)
            sweep.put_back(pack.key)
            slot.work = None
            self.lacks(place.node, {sweep.name: failure.message})
            self.stop_without_nodes()
            return
        if failure.kind in _TROUBLES:
            self._troubles[sweep.name, pack.key].append((place, self.clock()))
            for key in self._keys(place):
                self._streaks[key].append((place.gpu, (sweep.name, pack.key)))
            self._hold_back()
        sweep.lost(pack.key, failure, self.workers(sweep), lambda f: not self._held.intersection(self._keys(f.place)))
        slot.work = None

    # Places

    def see_nodes(self, hosts: Mapping[str, str]) -> None:
        """Note which nodes of the cluster are alive and large enough for a pack, with their names for people."""
        for node in self._cluster.keys() - hosts.keys():
            for sweep in self.unfinished:
                if not self._lacks(node, sweep):
                    self._node_lost[sweep.name] = self.clock()
        self._cluster = dict(hosts)
        self.hosts.update(hosts)
        self._hold_back()
        self.stop_without_nodes()

    def lacks(self, node: str, reasons: Mapping[str, str]) -> None:
        """Note what a node lacks: it gets no packs of the sweeps that need it.

        Args:
            node: its id.
            reasons: by the name of a sweep, or for ``ALL_SWEEPS``.
        """
        by_reason: dict[str, list[str]] = defaultdict(list)
        for sweep, reason in reasons.items():
            if sweep not in self.lacking[node]:
                self.lacking[node][sweep] = reason
                by_reason[reason].append(sweep)
        self._hold_back()
        if len(self._nodes()) > 1:
            for reason, sweeps in by_reason.items():
                names = "" if ALL_SWEEPS in sweeps else f" of {', '.join(sweeps)}"
                self.say(f"node {self._host(node)} gets no packs{names}: {reason}")

    def _host(self, node: str) -> str:
        return self.hosts.get(node) or node[:8] or "here"

    def _nodes(self) -> list[str]:
        """Nodes that train or could: those of the cluster, and those where workers are."""
        seen = [s.place.node for s in self.slots.values() if s.place and not s.leaving]
        return list(dict.fromkeys([*self._cluster, *seen]))

    @staticmethod
    def _keys(place: Place | None) -> list[tuple[str, str]]:
        """What a failure at a place counts for: the node, and its GPU."""
        if place is None:
            return []
        return [(place.node, ""), (place.node, place.gpu)] if place.gpu else [(place.node, "")]

    def _lacks(self, node: str, sweep: QueuedSweep) -> bool:
        return not {ALL_SWEEPS, sweep.name}.isdisjoint(self.lacking.get(node, {}))

    def _is_suspect(self, pack: tuple[str, str]) -> bool:
        """Whether a pack failed in several places and nowhere succeeded: its own fault rather than theirs."""
        places = {(place.node, place.gpu) for place, _ in self._troubles.get(pack, ())}
        return len(places) > 1 and pack not in self._succeeded

    def _hold_back(self) -> None:
        """Decide which nodes and GPUs get no packs, as they break each one; every sweep keeps one of each."""
        over: dict[tuple[str, str], set[str]] = {}
        for key, failed in self._streaks.items():
            gpus_there = [gpu for gpu, pack in failed if not self._is_suspect(pack)]
            if len(gpus_there) >= _MOST_IN_A_ROW:
                over[key] = set(gpus_there)
        # One GPU that is broken is no fault of its node.
        nodes = {node for (node, gpu), failed in over.items() if not gpu and (failed == {""} or len(failed) > 1)}
        for sweep in self.unfinished:
            able = {node for node in self._nodes() if not self._lacks(node, sweep)}
            if able <= nodes:
                nodes -= able
        # By GPU where there are others; workers tell which there are.
        gpus = {(node, gpu) for node, gpu in over if gpu}
        places = {(s.place.node, s.place.gpu) for s in self.slots.values() if s.place and s.place.gpu and not s.leaving}
        if not {place for place in places if place not in gpus and place[0] not in nodes}:
            gpus = set()
        held = frozenset({(node, "") for node in nodes} | gpus)
        for node, gpu in sorted(held - self._held):
            where = Place(node, gpu, self._host(node)).name
            self.say(f"{where} is held back: {_MOST_IN_A_ROW} packs in a row failed there")
        for node, gpu in sorted(self._held - held):
            self.say(f"{Place(node, gpu, self._host(node)).name} gets packs again")
        self._held = held

    def _may_train(self, sweep: QueuedSweep, place: Place) -> bool:
        """Whether a place gets packs of a sweep at all."""
        return not (self._lacks(place.node, sweep) or self._held.intersection(self._keys(place)))

    def _may_have(self, sweep: QueuedSweep, key: str, place: Place) -> bool:
        """Whether a place may have a pack: not if it failed there and there is another place."""
        troubles = self._troubles.get((sweep.name, key))
        if not troubles:
            return True
        failed = {trouble.node for trouble, _ in troubles}
        others = {node for node in self._nodes() if self._may_train(sweep, Place(node))} - failed
        if others:
            if place.node not in failed:
                return True
            manned = any(s.place and not s.leaving and s.place.node in others for s in self.slots.values())
            return not manned and self.clock() - troubles[-1][1] > self.patience.elsewhere
        tried = {(trouble.node, trouble.gpu) for trouble, _ in troubles}
        free = {
            (s.place.node, s.place.gpu)
            for s in self.slots.values()
            if s.place and not s.leaving and self._may_train(sweep, s.place)
        }
        return (place.node, place.gpu) not in tried or free <= tried

    def _could_train(self, place: Place) -> bool:
        """Whether a worker there could have a pack: one of those that wait, or later ones where none does."""
        ready = [sweep for sweep in self._ready() if sweep.waiting or sweep.new_packs]
        return any(
            self._may_train(sweep, place)
            and (not ready or sweep.new_packs > 0 or any(self._may_have(sweep, k, place) for k in sweep.waiting))
            for sweep in ready or self.unfinished
        )

    def stop_without_nodes(self) -> None:
        """Interrupt sweeps that no node can train: the same command goes on when the nodes have what they lack."""
        nodes, now = self._nodes(), self.clock()
        for sweep in self.unfinished:
            if now - self._node_lost.get(sweep.name, -math.inf) < self.patience.replacement:
                continue  # the cluster may bring another one
            if nodes and all(self._lacks(node, sweep) for node in nodes):
                sweep.interrupt(self._why_nowhere(sweep, nodes))

    def _why_nowhere(self, sweep: QueuedSweep, nodes: Iterable[str]) -> str:
        reasons: dict[str, list[str]] = defaultdict(list)
        for node in nodes:
            found = self.lacking[node]
            reasons[found.get(sweep.name) or found[ALL_SWEEPS]].append(self._host(node))
        if not sweep.on_cluster:
            return next(iter(reasons))
        told = "; ".join(f"{', '.join(hosts)}: {reason}" for reason, hosts in reasons.items())
        return f"no node of the cluster can train it ({told})"
