"""The sizes of sweeps: packs are measured here or on the nodes of a cluster, and workers are shared by the work."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tpbench.engine import RuleError, TpbenchError
from tpbench.search.definition import SweepDefinition
from tpbench.search.packed_tpe import RANDOM_FIRST
from tpbench.sweeps.cluster import warn_without_place
from tpbench.sweeps.mailbox import open_mailbox
from tpbench.sweeps.nodes import NodeFindings, capable_nodes, exclude_nodes, gpu_kinds, last_line
from tpbench.sweeps.sweep import ALL_SWEEPS
from tpbench.training.choice import CellChoice
from tpbench.training.sizing import Sizing, choose_sizes

# Seconds to wait for a place on one kind of GPU, when sizes are known for others.
_PATIENCE = 120.0
# Times that a sweep is measured on a kind of GPU where a GPU breaks or a process is lost.
_ATTEMPTS = 3
# Largest share of a search that is suggested without any result.
_MOST_AT_RANDOM = 0.6


def most_in_flight(trials: int, pack: int) -> int:
    """Return how many packs a search may have in flight, as their configurations are suggested without any result.

    They are 60 % of the search at most. The first 20, which HyperOpt draws at random in any case, may be in flight.
    """
    return max(1, int(max(_MOST_AT_RANDOM * trials, RANDOM_FIRST) / pack))


def share_workers(
    definitions: Sequence[SweepDefinition], costs: Sequence[Mapping[int, float]], workers: int
) -> list[tuple[int, int]]:
    """Choose pack size and lag of each search, so that all workers are busy and all searches end at the same time.

    A search has larger packs as long as those that it may have in flight are enough for its part of the workers: else
    it would end last. Its lag is its part of them and one: a worker that ends a pack finds the next one. What a search
    may not have in flight goes to the others.

    Args:
        definitions: of all searches of a command.
        costs: of each the seconds of a member's epoch by the pack size, for each size that it may have.
        workers: packs that train at once.

    Returns:
        Pack size and lag of each search.
    """

    def seconds(definition: SweepDefinition, pack: int, cost: float) -> float:
        return replace(definition, pack=pack).search_seconds(cost)

    total = 0.0
    for d, by_size in zip(definitions, costs, strict=True):
        pack, cost = max(by_size.items())
        total += seconds(d, pack, cost) + len(d.seeds) * d.epochs * cost
    packs, works = [], []
    for d, by_size in zip(definitions, costs, strict=True):
        parts = {pack: seconds(d, pack, cost) * workers / total for pack, cost in by_size.items()}
        enough = [pack for pack, part in parts.items() if part <= most_in_flight(d.trials, pack)]
        packs.append(max(enough, default=min(parts)))
        works.append(parts[packs[-1]])
    most = [most_in_flight(d.trials, pack) for d, pack in zip(definitions, packs, strict=True)]
    return list(zip(packs, _distribute(workers, works, most), strict=True))


def _distribute(workers: int, works: Sequence[float], most: Sequence[int]) -> list[int]:
    """Distribute workers by the work; returns one more for each, but not more than it may have."""
    shares, left, rest = list(most), workers, set(range(len(works)))
    while rest:
        total = sum(works[k] for k in rest)
        # Less than a billionth is a rounding error.
        wanted = {k: math.ceil(max(0, left) * works[k] / total - 1e-9) + 1 for k in rest}
        full = {k for k in rest if wanted[k] >= most[k]}
        if not full:
            for k, count in wanted.items():
                shares[k] = count
            break
        left -= sum(most[k] for k in full)
        rest -= full
    return shares


@dataclass(frozen=True)
class SizeRequest:
    """A sweep whose sizes are wanted."""

    name: str
    cell: CellChoice
    arguments: Mapping[str, Any]
    """Arguments of :func:`tpbench.training.sizing.choose_sizes`."""

    @property
    def measures(self) -> bool:
        """True if anything is measured: a pack that was asked for is on a GPU alone."""
        return self.arguments["pack"] is None or bool(self.arguments["gpus"])


def measure_here(requests: Sequence[SizeRequest], say: Callable[[str], None]) -> dict[str, Sizing]:
    """Measure the sizes of sweeps on this machine, one after the other; returns them by the sweeps' names."""
    sizes = {}
    for one in requests:
        if one.arguments["pack"] is None and len(requests) > 1:
            say(f"measuring pack sizes: {one.cell.workload.name} {one.cell.method}")
        sizes[one.name] = choose_sizes(one.cell.workload, one.cell.method, **one.arguments)
    return sizes


def measure_on_nodes(
    requests: Sequence[SizeRequest], share: Mapping[str, float], findings: NodeFindings, say: Callable[[str], None]
) -> dict[str, Sizing]:
    """Measure the sizes of all sweeps at the same time, each on one node of every kind of GPU.

    A sweep has one size, which fits all kinds. Nothing is measured on nodes that lack what the sweep needs; what a node
    turns out to lack is added to the findings.

    Args:
        requests: the sweeps.
        share: Ray resources of a pack.
        findings: the state of the nodes.
        say: shows a line.

    Returns:
        The sizes by the sweeps' names.

    Raises:
        TpbenchError: no node can measure a sweep.
    """
    # Without a measurement the answer is the same everywhere.
    sizes = measure_here([one for one in requests if not one.measures], say)
    waiting = [one for one in requests if one.measures]
    if not waiting:
        return sizes
    hosts, kinds, lacks = capable_nodes(share), gpu_kinds(share), findings.lacks
    if any(one.arguments["pack"] is None for one in waiting):
        names = f" on {', '.join(filter(None, sorted(kinds)))}" if any(kinds) else ""
        say(f"measuring pack sizes: {len(waiting)} sweep{'s' * (len(waiting) != 1)}{names}")
    measured: dict[str, list[Sizing]] = {one.name: [] for one in waiting}
    # Where there is no node yet, the cluster brings one of any kind.
    jobs = [(one, kind) for one in waiting for kind in kinds or ("",)]
    tasks, failed = Measurements(share, say), Counter[tuple[str, str]]()
    try:
        while jobs:
            for one, kind in jobs:
                reasons = {node: of[key] for node, of in lacks.items() for key in (ALL_SWEEPS, one.name) if key in of}
                if hosts and hosts.keys() <= reasons.keys():
                    listed = "; ".join(f"{host}: {reasons[node]}" for node, host in hosts.items())
                    raise TpbenchError(f"{one.name}: no node of the cluster can train it ({listed})")
                # Otherwise no node of this kind gets packs of the sweep, but nodes of another kind do.
                if not kinds or set(kinds[kind]) - reasons.keys():
                    # Ray can be asked for a kind that it knows, but not for one that it does not know.
                    others = [] if kind else [node for name, of in kinds.items() if name for node in of]
                    tasks.start(one, kind, {*others, *reasons})
            jobs = []
            for one, kind, node, result in tasks.results(lambda: all(measured.values())):
                if isinstance(result, Sizing):
                    measured[one.name].append(result)
                    continue
                if not node:
                    # A GPU that is broken, or a process that was lost: others may measure it.
                    failed[one.name, kind] += 1
                    if failed[one.name, kind] < _ATTEMPTS:
                        jobs.append((one, kind))
                    elif not measured[one.name]:
                        raise TpbenchError(f"{one.name}: its pack size could not be measured: {result}")
                    continue
                lacks.setdefault(node, {})[one.name] = result
                say(f"node {hosts.get(node, node[:8])} gets no packs of {one.name}: {result}")
                jobs.append((one, kind))
    finally:
        tasks.cancel()
    return sizes | {name: fitting_all(of) for name, of in measured.items()}


def fitting_all(sizes: Sequence[Sizing]) -> Sizing:
    """Return the sizes that fit all kinds of GPU: the smallest, at the highest costs."""
    pack = min(size.pack for size in sizes)
    common = set.intersection(*(set(size.costs) for size in sizes))
    costs = {one: max(size.costs[one] for size in sizes) for one in sorted(common) if one <= pack}
    return Sizing(pack, min(size.packs_per_gpu for size in sizes), costs)


class Measurements:
    """Measurements that run on the nodes of the connected cluster.

    Args:
        share: Ray resources of each.
        say: shows a line.
    """

    def __init__(self, share: Mapping[str, float], say: Callable[[str], None]) -> None:
        self.share, self.say = share, say
        self.running: dict[Any, tuple[SizeRequest, str]] = {}
        """The sweep and the kind of GPU by Ray's reference to the result."""
        self._mailbox: Any = None

    def start(self, one: SizeRequest, kind: str, avoid: Collection[str]) -> None:
        """Measure a sweep on a kind of GPU.

        Args:
            one: the sweep.
            kind: of the GPU, as Ray names it; empty: any.
            avoid: nodes on which it is not measured.
        """
        import ray

        self._mailbox = self._mailbox or open_mailbox()
        where: dict[str, Any] = {"label_selector": exclude_nodes(avoid)} if avoid else {}
        if kind:
            where["accelerator_type"] = kind
        # Its process ends with it: one that lives on would keep the GPU.
        task = ray.remote(max_calls=1)(_measure).options(
            num_cpus=self.share["cpu"], num_gpus=self.share.get("gpu", 0), **where
        )
        self.running[task.remote(self._mailbox, one)] = one, kind

    def results(self, enough: Callable[[], bool]) -> Iterator[tuple[SizeRequest, str, str, Sizing | str]]:
        """Wait for all; yields each sweep and kind, with the node's id and the sizes or what the node lacks.

        Where a measurement failed or its process was lost, the id is empty, with the reason.

        Args:
            enough: tells whether each sweep has been measured. Then those that get no place for a while are left out:
                others may hold all GPUs of a kind for hours.
        """
        import ray

        if self.running:
            warn_without_place(list(self.running), self.share, self.say, self._has_begun)
        while self.running:
            done, _ = ray.wait(list(self.running), timeout=_PATIENCE)
            if not done:
                if enough():
                    kinds = ", ".join(sorted({kind or "some nodes" for _, kind in self.running.values()}))
                    self.say(f"no sizes are measured on {kinds}: no place there within {_PATIENCE:.0f} s")
                    return
                continue
            (call,) = done
            try:
                node, result = ray.get(call)
            except ray.exceptions.RayError as error:
                if isinstance(cause := getattr(error, "cause", None), TpbenchError):
                    raise cause from error
                node, result = "", last_line(str(error))
            yield *self.running.pop(call), node, result

    def _has_begun(self) -> bool:
        import ray

        return bool(ray.get(self._mailbox.take.remote(_BEGUN)))

    def cancel(self) -> None:
        """End those that still run."""
        import ray

        for call in self.running:
            ray.cancel(call, force=True)


_BEGUN = "measuring"


def _measure(mailbox: Any, one: SizeRequest) -> tuple[str, Sizing | str]:
    """Measure on the node where this runs, and leave word that it has begun."""
    import ray

    mailbox.put.remote(_BEGUN, b"begun")
    node = str(ray.get_runtime_context().get_node_id())
    try:
        return node, choose_sizes(one.cell.workload, one.cell.method, **one.arguments)
    except RuleError:
        raise  # the same everywhere
    except TpbenchError as error:
        return node, str(error)
