"""The scheduler: the next pack, its place, and the consequences of failures. It knows neither Ray nor processes."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpbench.engine import TpbenchError
from tpbench.sweeps.sweep import ALL_SWEEPS, Admission, Failure, Place, QueuedPack, QueuedSweep, Workers
from tpbench.training.plan import Outcome

if TYPE_CHECKING:
    from tpbench.sweeps.cluster import Resources

# Seconds after which an idle worker of a cluster gives its place back.
_IDLE = 60.0
# A node, or a GPU, that breaks so many packs in a row is held back.
_MOST_IN_A_ROW = 3
# Failures that may be the place's fault; lost nodes and too little memory are kinds of their own.
_TROUBLES = ("raised", "lost", "stalled")


@dataclass(frozen=True)
class Timeouts:
    """Times for which the scheduler waits, in seconds."""

    epoch: float = 600.0
    """For an epoch of a pack; ten of its own epochs if that is longer."""
    first_epoch: float = 3600.0
    """For a pack's first epoch, while the length of an epoch is unknown."""
    other_node: float = 120.0
    """For a place on another node, for a pack that failed on this one."""
    replacement: float = 300.0
    """For another node, where the last one that could train a sweep was lost."""
    idle: float | None = None
    """For a pack, before an idle worker is ended; None: until the end, as its place is of no other use."""


@dataclass
class Slot:
    """A process that trains one pack after the other."""

    name: str
    changed: float
    """The time when it was asked for, became idle, got its pack, or when its pack last made progress."""
    place: Place | None = None
    """None: it has not started."""
    avoid: frozenset[str] = frozenset()
    """Nodes without a pack for it when it was asked for; it is never placed there."""
    work: tuple[QueuedSweep, QueuedPack] | None = None
    running: bool = False
    """True if its process runs, as Ray reports."""
    took: bool = False
    """True if it has reported that it got its pack."""
    epoch: float | None = None
    """Seconds of the longest epoch of its pack so far."""
    leaving: bool = False
    """True if it is to end, or made no progress and has lost its pack."""

    @property
    def idle(self) -> bool:
        """True if it waits for a pack."""
        return self.place is not None and self.work is None and not self.leaving


class Scheduler:
    """Hands the packs of several sweeps to workers, and decides what follows when one fails.

    Final packs come first, then sweeps of a lower ``priority``, then those with the most work left, then those with the
    fewest packs in flight. There is no barrier anywhere: while one sweep waits for results, others train. What a sweep
    suggests depends on its own results in their order alone, so neither turns nor places change a result.

    A pack that failed on a node goes to another node while there is one. A node or GPU that breaks three packs in a row
    gets no more, unless these packs fail elsewhere too or there is no other place. A need that a node lacks is no
    failure of a pack: the node gets no packs of that sweep, and the sweep is interrupted when no node is left.

    Args:
        sweeps: all of the command, in its order.
        workers: packs that train at once.
        final_workers: how many of them final seeds are worth splitting over (cores, or whole GPUs).
        on_gpus: whether these are GPUs.
        admission: which sweeps may begin.
        most: workers that may be asked for at once; None: as many as ``workers``.
        timeouts: for packs, workers and nodes.
        say: shows a line about places that get no packs.
        clock: returns seconds.
    """

    def __init__(
        self,
        sweeps: Sequence[QueuedSweep],
        workers: int,
        final_workers: int,
        *,
        on_gpus: bool = False,
        admission: Admission | None = None,
        most: int | None = None,
        timeouts: Timeouts | None = None,
        say: Callable[[str], None] = lambda message: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sweeps, self.count, self.final_workers = list(sweeps), workers, final_workers
        self.on_gpus = on_gpus
        self.admission, self.most = admission or Admission(), most or workers
        self.timeouts, self.say, self.clock = timeouts or Timeouts(), say, clock
        self.limit: int | None = None
        """Workers that it may have beside other campaigns of the cluster; None: there are none."""
        self.slots: dict[str, Slot] = {}
        self.lacking: dict[str, dict[str, str]] = defaultdict(dict)
        """By node its missing needs, by the name of the sweep that cannot be trained there (or ``ALL_SWEEPS``)."""
        self._cluster: dict[str, str] = {}
        self.hosts: dict[str, str] = {}
        """Names of nodes for people, by id."""
        self._troubles: dict[tuple[str, str], list[tuple[Place, float]]] = defaultdict(list)
        """By sweep and pack, the places and times of its failures."""
        self._succeeded: set[tuple[str, str]] = set()
        self._streaks: dict[tuple[str, str], list[tuple[str, tuple[str, str]]]] = defaultdict(list)
        """By node, and by node and GPU, the GPUs and packs that failed there since one succeeded."""
        self._held: frozenset[tuple[str, str]] = frozenset()
        self._room: dict[str, int] = {}
        """By node, the number of packs that its memory holds at once, where more were too many."""
        self._node_lost: dict[str, float] = {}
        """By sweep, the time when a node that could train it was last lost."""

    # The state

    @property
    def unfinished(self) -> list[QueuedSweep]:
        """Sweeps that are not done and have not failed."""
        return [sweep for sweep in self.sweeps if not sweep.finished]

    @property
    def over(self) -> bool:
        """True if nothing is in flight and nothing may still be handed out."""
        return not any(sweep.in_flight or self.admission.allows(sweep) for sweep in self.unfinished)

    @property
    def idle(self) -> list[Slot]:
        """Workers that wait for a pack, those that may train anything first."""
        return [slot for slot in self.slots.values() if slot.idle]

    @property
    def held(self) -> int:
        """Number of workers that have a place."""
        return sum(slot.place is not None for slot in self.slots.values())

    @property
    def wanted(self) -> int:
        """Number of workers that could have a pack now, whatever the limit."""
        return min(self.count, self._busy() + self._open_packs(self._ready()))

    def workers(self, sweep: QueuedSweep) -> Workers:
        """Return the workers as a sweep knows them when it splits its final runs."""
        return self._workers_of([sweep])[0]

    def _workers_of(self, sweeps: Sequence[QueuedSweep]) -> list[Workers]:
        """Return the workers as each of these sweeps knows them."""
        unfinished = self.unfinished
        # Once for all of them: this is asked with every report of a worker.
        potential = sum(sweep.potential for sweep in unfinished)
        count = max(1, len(unfinished))
        return [Workers(self.final_workers, count, potential - s.potential, self.on_gpus) for s in sweeps]

    def _ready(self) -> list[QueuedSweep]:
        """Return sweeps that have a pack, in the order in which they get workers."""
        ready = [s for s in self.unfinished if (s.has_final or s.has_search) and self.admission.allows(s)]
        return sorted(ready, key=lambda s: (not s.has_final, s.priority, -s.remaining, len(s.in_flight)))

    # Workers come and go

    def wants_slot(self) -> bool:
        """Return whether one more worker would have a pack to train.

        Raises:
            RuntimeError: nothing is in flight and nothing can be handed out, so that waiting would last for ever.
        """
        packs, busy = self._open_packs(self._ready()), self._busy()
        if not packs and not busy and not self.over:
            raise RuntimeError(f"the queue stands still; unfinished: {[s.name for s in self.unfinished]}")
        starting = len(self._starting())
        # One that is idle although there are packs cannot have them where it is.
        useful = 0 if packs else len(self.idle)
        # Where places are of no other use, workers may be there before their packs.
        early = self._max_in_flight() if self.timeouts.idle is None else 0
        return busy + starting + useful < min(self._most_workers(), max(busy + packs, early))

    @staticmethod
    def _open_packs(ready: Sequence[QueuedSweep]) -> int:
        """Return the number of packs that could be handed out now."""
        return sum(len(sweep.waiting) + sweep.new_packs for sweep in ready)

    def _busy(self) -> int:
        """Return the number of workers that have a pack."""
        return sum(slot.work is not None for slot in self.slots.values())

    def _most_workers(self) -> int:
        """Return the number of workers that may train or be asked for."""
        return self.most if self.limit is None else min(self.most, self.limit)

    def _starting(self) -> list[Slot]:
        """Return workers that have not started and may do so anywhere where one would be of use.

        The others wait for places that may never be free, while places that they must avoid are free.
        """
        starting = [slot for slot in self.slots.values() if slot.place is None and not slot.leaving]
        if not any(slot.avoid for slot in starting):
            return starting
        useless = self._useless_nodes()
        return [slot for slot in starting if slot.running or slot.avoid <= useless]

    def _useless_nodes(self) -> frozenset[str]:
        """Return nodes on which one more worker would have no pack."""
        return frozenset(node for node in self._nodes() if not self._could_train(Place(node)))

    def _max_in_flight(self) -> int:
        """Return the number of packs that may be in flight at once from now on."""
        sweeps = [sweep for sweep in self.unfinished if sweep.in_flight or self.admission.allows(sweep)]
        known = self._workers_of(sweeps)
        return sum(sweep.max_in_flight(workers) for sweep, workers in zip(sweeps, known, strict=True))

    def open(self, name: str) -> frozenset[str]:
        """Note that a worker was asked for; returns the nodes on which it would have no pack."""
        slot = self.slots[name] = Slot(name, self.clock(), avoid=self._useless_nodes())
        return slot.avoid

    def runs(self, name: str) -> None:
        """Note that a worker's process runs, though it has not reported its place."""
        slot = self.slots.get(name)
        if slot is not None and not slot.running:
            slot.running, slot.changed = True, self.clock()

    def started(self, name: str, place: Place, lacks: Mapping[str, str] | None = None) -> None:
        """Note the place of a worker.

        Args:
            name: of the worker.
            place: its node and GPU.
            lacks: missing needs of its node, by the name of a sweep or for ``ALL_SWEEPS``.
        """
        slot = self.slots.setdefault(name, Slot(name, self.clock()))
        slot.place, slot.changed = place, self.clock()
        self.hosts.setdefault(place.node, place.host)
        self.lacks(place.node, lacks or {})
        self.stop_without_nodes()

    def closed(self, name: str) -> None:
        """Note that a worker ended at its job's end."""
        self.gone(name, Failure("lost", "its process ended without a result"))

    def surplus(self) -> list[str]:
        """Return the idle workers that shall end now; each is named once."""
        slots = self.idle if self.over else self._not_needed()
        for slot in slots:
            slot.leaving = True
        return [slot.name for slot in slots]

    def _not_needed(self) -> list[Slot]:
        now, limit = self.clock(), self.timeouts.idle
        useless = [s for s in self.idle if s.place and not self._could_train(Place(s.place.node))]
        # A worker where packs fail, or memory is short, keeps others from that place.
        blocking = [s for s in self.idle if s.place and self._is_blocked(s.place)]
        rest = [s for s in self.idle if s not in useless and s not in blocking]
        waited = [s for s in rest if limit is not None and now - s.changed > limit]
        rest = [s for s in rest if s not in waited]
        busy = self._busy()
        too_many = busy + len(self._starting()) + len(rest) - self._max_in_flight()
        if self.limit is not None:
            # One that is asked for may never have a place, while these have one.
            too_many = max(too_many, busy + len(rest) - self.limit)
        return [*useless, *waited, *rest[: max(0, too_many)]]

    def withdrawn(self) -> list[str]:
        """Return the workers that were asked for, have no place and are not needed any more; each is named once.

        While they wait for a place, a cluster grows for them, and other campaigns have to share with them.
        """
        if self.timeouts.idle is None:
            return []
        starting = self._starting()
        waiting = [s for s in self.slots.values() if s.place is None and not s.leaving]
        # As in wants_slot: what has just been asked for is not withdrawn.
        useful = 0 if self._open_packs(self._ready()) else len(self.idle)
        needed = min(self._most_workers(), self._max_in_flight())
        too_many = self._busy() + len(waiting) + useful - needed
        # Those first that wait for places which may never be free, then the last that were asked for.
        pending = [slot for slot in waiting[::-1] if not slot.running]
        pending = [s for s in pending if s not in starting] + [s for s in pending if s in starting]
        slots = pending[: max(0, too_many)]
        for slot in slots:
            slot.leaving = True
        return [slot.name for slot in slots]

    def keep(self, name: str) -> None:
        """Note that a worker that was withdrawn has a place already."""
        slot = self.slots.get(name)
        if slot is not None:
            slot.leaving = False

    def _is_blocked(self, place: Place) -> bool:
        """Return whether a place gets no packs for now, while others train."""
        busy = any(slot.work for slot in self.slots.values())
        return busy and (bool(self._held.intersection(self._keys(place))) or self._is_full(place.node))

    def _is_full(self, node: str) -> bool:
        """Return whether a node's memory holds no pack besides those that train there."""
        return node in self._room and len(self._busy_on(node)) >= self._room[node]

    def _busy_on(self, node: str) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot.work and slot.place and slot.place.node == node]

    # Packs

    def next_pack(self, name: str) -> QueuedPack | None:
        """Hand the next pack to an idle worker; None while there is none that it may have."""
        slot = self.slots[name]
        if not slot.idle or slot.place is None or self._is_full(slot.place.node):
            return None
        if self.limit is not None and self._busy() >= self.limit:
            return None
        for sweep in self._ready():
            pack = self._next_of(sweep, slot.place)
            if pack:
                self.admission.begin(sweep)
                slot.work, slot.took, slot.epoch, slot.changed = (sweep, pack), False, None, self.clock()
                return pack
        return None

    def _next_of(self, sweep: QueuedSweep, place: Place) -> QueuedPack | None:
        """Return the next pack of a sweep; an error in one does not stop the others."""
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
        """Note the progress of a worker's pack; returns its sweep.

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
            sweep.in_flight.pop(pack.key, None)
        slot.work, slot.changed = None, self.clock()
        self._succeeded.add((sweep.name, pack.key))
        for key in self._keys(slot.place):
            self._streaks.pop(key, None)
        self._hold_back()

    def failed(self, name: str, failure: Failure) -> None:
        """Note that a worker could not train its pack, and continues."""
        slot = self.slots.get(name)
        if slot is not None and slot.work is not None:
            self._failed(slot, failure)
            slot.changed = self.clock()

    def gone(self, name: str, failure: Failure) -> None:
        """Note that a worker was lost, and the cause."""
        self.failed(name, failure)
        self.slots.pop(name, None)

    def stalled(self) -> list[tuple[Slot, str]]:
        """Find workers that do not begin, or whose packs make no progress; their packs have failed.

        Returns:
            The workers, which are to be ended, each with a line about the time without progress and about its pack.
        """
        now = self.clock()
        watched = [s for s in self.slots.values() if s.work or (s.running and s.place is None and not s.leaving)]
        late = [slot for slot in watched if now - slot.changed > self._limit(slot)]
        return [(slot, self._end_stalled(slot)) for slot in late]

    def _limit(self, slot: Slot) -> float:
        """Return the seconds for which a worker that starts or has a pack may report nothing."""
        if slot.epoch is not None:
            return max(self.timeouts.epoch, 10 * slot.epoch)
        return self.timeouts.first_epoch if slot.took else self.timeouts.epoch

    def _end_stalled(self, slot: Slot) -> str:
        message = f"no progress for {self.clock() - slot.changed:.0f} s"
        if slot.work is None:
            slot.leaving = True
            return f"{message} since its process was started"
        sweep, pack = slot.work
        self._failed(slot, Failure("stalled", message))
        slot.leaving = True  # only now: the last place of all is not held back
        if sweep.failure:
            return f"{message}; {sweep.label} has ended: {sweep.failure}"
        return f"{message}; its pack {'waits for another process' if pack.key in sweep.waiting else 'is given up'}"

    def paused(self, seconds: float) -> None:
        """Note that the driver itself stood still for some seconds, in which no report could arrive."""
        for slot in self.slots.values():
            slot.changed += seconds

    def _failed(self, slot: Slot, failure: Failure) -> None:
        assert slot.work is not None
        (sweep, pack), place = slot.work, slot.place or Place()
        if sweep.failure:
            sweep.in_flight.pop(pack.key, None)
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

    def update_nodes(self, hosts: Mapping[str, str]) -> None:
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
        """Note missing needs of a node: it gets no packs of the sweeps that have them.

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
        """Return nodes that train or could: those of the cluster, and those of workers."""
        seen = [s.place.node for s in self.slots.values() if s.place and not s.leaving]
        return list(dict.fromkeys([*self._cluster, *seen]))

    @staticmethod
    def _keys(place: Place | None) -> list[tuple[str, str]]:
        """Return the keys that a failure at a place counts for: the node, and its GPU."""
        if place is None:
            return []
        return [(place.node, ""), (place.node, place.gpu)] if place.gpu else [(place.node, "")]

    def _lacks(self, node: str, sweep: QueuedSweep) -> bool:
        return not {ALL_SWEEPS, sweep.name}.isdisjoint(self.lacking.get(node, {}))

    def _is_suspect(self, pack: tuple[str, str]) -> bool:
        """Return whether a pack failed in several places and nowhere succeeded: its own fault rather than theirs."""
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
        """Return whether a place gets packs of a sweep at all."""
        return not (self._lacks(place.node, sweep) or self._held.intersection(self._keys(place)))

    def _may_have(self, sweep: QueuedSweep, key: str, place: Place) -> bool:
        """Return whether a place may have a pack: not if it failed there and there is another place."""
        troubles = self._troubles.get((sweep.name, key))
        if not troubles:
            return True
        failed = {trouble.node for trouble, _ in troubles}
        others = {node for node in self._nodes() if self._may_train(sweep, Place(node))} - failed
        if others:
            if place.node not in failed:
                return True
            has_worker = any(s.place and not s.leaving and s.place.node in others for s in self.slots.values())
            return not has_worker and self.clock() - troubles[-1][1] > self.timeouts.other_node
        tried = {(trouble.node, trouble.gpu) for trouble, _ in troubles}
        free = {
            (s.place.node, s.place.gpu)
            for s in self.slots.values()
            if s.place and not s.leaving and self._may_train(sweep, s.place)
        }
        if (place.node, place.gpu) not in tried:
            return True
        # GPUs without a worker are not known; one that is asked for starts on such a GPU.
        unknown = bool(place.gpu) and len(free) < self.final_workers
        if unknown and self.clock() - troubles[-1][1] <= self.timeouts.other_node:
            return False
        return free <= tried

    def _could_train(self, place: Place) -> bool:
        """Return whether a worker there could have a pack: one of those that wait, or later ones where none does."""
        ready = [sweep for sweep in self._ready() if sweep.waiting or sweep.new_packs]
        return any(
            self._may_train(sweep, place)
            and (not ready or sweep.new_packs > 0 or any(self._may_have(sweep, k, place) for k in sweep.waiting))
            for sweep in ready or self.unfinished
        )

    def stop_without_nodes(self) -> None:
        """Interrupt sweeps that no node can train; the same command continues once the nodes have their needs."""
        nodes, now = self._nodes(), self.clock()
        for sweep in self.unfinished:
            if now - self._node_lost.get(sweep.name, -math.inf) < self.timeouts.replacement:
                continue  # the cluster may bring another one
            if nodes and all(self._lacks(node, sweep) for node in nodes):
                sweep.interrupt(self._no_node_reason(sweep, nodes))

    def _no_node_reason(self, sweep: QueuedSweep, nodes: Iterable[str]) -> str:
        reasons: dict[str, list[str]] = defaultdict(list)
        for node in nodes:
            lacking = self.lacking[node]
            reasons[lacking.get(sweep.name) or lacking[ALL_SWEEPS]].append(self._host(node))
        if not sweep.on_cluster:
            return next(iter(reasons))
        listed = "; ".join(f"{', '.join(hosts)}: {reason}" for reason, hosts in reasons.items())
        return f"no node of the cluster can train it ({listed})"


def make_scheduler(
    sweeps: Sequence[QueuedSweep],
    resources: Resources,
    *,
    admission: Admission | None = None,
    timeouts: Timeouts | None = None,
    say: Callable[[str], None] = lambda message: None,
    clock: Callable[[], float] = time.monotonic,
) -> Scheduler:
    """Return the scheduler of a command: its workers follow from the machine or cluster.

    Args:
        sweeps, admission, say, clock: as of :class:`Scheduler`.
        resources: for all sweeps together.
        timeouts: None: those that suit the resources.
    """
    workers = resources.concurrent
    return Scheduler(
        sweeps,
        workers,
        resources.gpus or resources.cpus,
        on_gpus=bool(resources.gpus),
        admission=admission,
        # On this machine Ray was given what may be used. A cluster starts whatever it has place for.
        most=workers + max(1, workers // 8) if resources.address else None,
        timeouts=timeouts or Timeouts(idle=_IDLE if resources.address else None),
        say=say,
        clock=clock,
    )
