"""How campaigns share a cluster: the division of places, the registry, limits of a scheduler. No Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import wait_for
from tests.sweeps.playing import Workers, pretend
from tests.sweeps.test_queue import journals, stored, sweep
from tests.sweeps.test_scheduler import ask, on_a_cluster, plain
from tpbench.sweeps import sharing
from tpbench.sweeps.scheduler import Timeouts
from tpbench.sweeps.sharing import Membership, Registry, divide
from tpbench.sweeps.sweep import Place

GPU = {"cpu": 1.0, "gpu": 1.0}

CAMPAIGNS = st.lists(st.tuples(st.integers(0, 80), st.sampled_from([0.25, 1 / 3, 0.5, 1.0, 2.0])), max_size=5)


@given(amount=st.integers(0, 64), campaigns=CAMPAIGNS)
def test_places_are_divided_by_max_min_fairness(amount: int, campaigns: list[tuple[int, float]]) -> None:
    wanted = {str(number): campaign for number, campaign in enumerate(campaigns)}
    workers = divide(amount, wanted)
    parts = {name: workers[name] * unit for name, (_, unit) in wanted.items()}
    left = amount - sum(parts.values())
    assert left >= -1e-6
    for name, (count, unit) in wanted.items():
        assert 0 <= workers[name] <= count
        if workers[name] < count:
            assert left < unit  # nothing that it could use is left over
            # Nobody else has more than this one would have with a worker more, but for what is left over then.
            assert all(part < parts[name] + 2 * unit for part in parts.values())


def test_two_equal_campaigns_have_a_half_each_and_a_third_one_a_third() -> None:
    assert divide(64, {"a": (64, 1.0), "b": (64, 1.0)}) == {"a": 32, "b": 32}
    assert divide(64, {"a": (64, 1.0), "b": (128, 0.5)}) == {"a": 32, "b": 64}
    assert divide(8, {"a": (8, 1.0), "b": (8, 1.0), "c": (8, 1.0)}) == {"a": 3, "b": 3, "c": 2}
    assert divide(64, {"a": (64, 1.0), "b": (12, 1.0)}) == {"a": 52, "b": 12}


@dataclass
class Cluster:
    """A registry with a clock that is set by hand."""

    size: float = 64
    now: float = 0.0

    def __post_init__(self) -> None:
        self.registry = Registry(lambda: self.now)

    def report(self, name: str, wanted: int = 64, held: int = 0, **more: Any) -> Any:
        report = {"kind": "GPU", "unit": 1.0, "cores": 1.0, "planned": 0.0, "size": self.size}
        return self.registry.report(name, {**report, "wanted": wanted, "held": held, **more})["limit"]


def test_a_campaign_alone_has_no_limit() -> None:
    cluster = Cluster()
    assert cluster.report("a") is None
    assert cluster.report("b") == 32
    assert cluster.report("a") == 32
    cluster.registry.leave("b")
    assert cluster.report("a") is None


def test_what_a_campaign_cannot_use_is_the_others() -> None:
    cluster = Cluster()
    cluster.report("small", wanted=4)
    assert cluster.report("large") == 60
    # It may have more once it can use more.
    assert cluster.report("small", wanted=4) == 32
    cluster.report("small", wanted=0)
    assert cluster.report("large") == 64


def test_a_campaign_that_reports_no_more_counts_no_more() -> None:
    cluster = Cluster()
    cluster.report("dead")
    assert cluster.report("a") == 32
    cluster.now = 59.0
    assert cluster.report("a") == 32
    cluster.now = 61.0
    assert cluster.report("a") is None
    assert cluster.registry.leave("a") == 0


def test_every_campaign_may_have_a_worker() -> None:
    cluster = Cluster(size=2)
    assert [cluster.report(name) for name in "abc"][1:] == [1, 1]
    assert cluster.report("late", wanted=2) == 1


def test_cores_that_gpus_need_go_first() -> None:
    cluster = Cluster(size=8)
    cores = {"kind": "CPU", "size": 12.0}
    assert cluster.report("cores", 12, **cores) is None
    assert cluster.report("gpus", 6) is None  # nobody else wants the GPUs
    assert cluster.report("cores", 12, **cores) == 6


def test_a_cluster_that_grows_on_demand_may_grow_to_what_was_planned() -> None:
    cluster = Cluster(size=8)
    cluster.report("a", planned=64.0, held=8)
    assert cluster.report("b", planned=64.0) == 32
    # The nodes do not come: then what is there is divided.
    cluster.now = 50.0
    cluster.report("a", planned=64.0, held=8)
    cluster.now = 100.0
    while cluster.now < 310:
        cluster.report("b", planned=64.0)
        assert cluster.report("a", planned=64.0, held=8) == (32 if cluster.now <= 300 else 4)
        cluster.now += 10
    assert cluster.report("a", planned=64.0, held=8) == 4
    # It has its part: more may be asked for again.
    cluster.report("b", planned=64.0, held=4)
    assert cluster.report("a", planned=64.0, held=4) == 32


def test_a_node_that_was_lost_counts_until_it_could_have_been_replaced() -> None:
    cluster = Cluster(size=64)
    cluster.report("a", held=32)
    cluster.report("b", held=32)
    cluster.size = 56
    for now, limit in ((10.0, 32), (290.0, 32), (330.0, 28)):
        cluster.now = now
        cluster.report("b", held=24)
        assert cluster.report("a", held=32) == limit


def test_a_new_version_may_report_more() -> None:
    cluster = Cluster()
    cluster.report("a", queue="unknown")
    assert cluster.report("b") == 32


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_registry() -> None:
        raise RuntimeError("the head has no tpbench\nModuleNotFoundError: tpbench")

    monkeypatch.setattr(sharing, "open_registry", open_registry)


def test_a_registry_that_cannot_be_reached_stops_no_campaign(unreachable: None) -> None:
    with Membership(GPU, interval=0.01) as membership:
        wait_for(lambda: membership.problem)
        assert membership.share.limit is None
        membership.update(GPU, 1, 2)
    assert "ModuleNotFoundError" in membership.problem
    assert "\n" not in membership.problem


def test_a_limit_ends_some_time_after_the_registry_was_lost(unreachable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    membership = Membership(GPU, interval=0.01)
    membership.share = sharing.ClusterShare(3, 1, "up to 3")
    with membership:
        wait_for(lambda: membership.problem)
        assert membership.share.limit == 3
        monkeypatch.setattr(sharing, "_FORGOTTEN", 0.0)
        wait_for(lambda: membership.share.limit is None)


def test_above_the_limit_workers_end_with_their_packs(tmp_path: Path) -> None:
    one = plain(tmp_path, seeds=12, parts=12)
    scheduler = on_a_cluster([one], 4)
    for name in ask(scheduler):
        scheduler.started(name, Place("n"))
        assert scheduler.next_pack(name)
    scheduler.limit = 2
    assert scheduler.surplus() == []  # all of them train
    assert (scheduler.held, scheduler.wanted) == (4, 4)
    for name in ("w0", "w1"):
        scheduler.ended(name, pretend(scheduler.slots[name].work[1]))  # type: ignore[index]
        assert scheduler.next_pack(name) is None
        assert scheduler.surplus() == [name]
        scheduler.closed(name)
    scheduler.ended("w2", pretend(scheduler.slots["w2"].work[1]))  # type: ignore[index]
    assert scheduler.next_pack("w2")
    assert not scheduler.wants_slot()
    scheduler.limit = None
    assert scheduler.wants_slot()


def test_requests_above_the_limit_are_withdrawn_and_not_made(tmp_path: Path) -> None:
    scheduler = on_a_cluster([plain(tmp_path, seeds=12, parts=12)], 4)
    names = ask(scheduler)
    scheduler.started(names[0], Place("n"))
    assert scheduler.next_pack(names[0])
    scheduler.limit = 2
    assert scheduler.withdrawn() == names[:1:-1]
    for name in names[:1:-1]:
        scheduler.closed(name)
    assert ask(scheduler) == []


@settings(max_examples=15)
@given(limits=st.lists(st.none() | st.integers(1, 6), min_size=1, max_size=30), seed=st.integers(0, 999))
def test_limits_that_rise_and_fall_change_no_result(
    tmp_path_factory: pytest.TempPathFactory, limits: list[int | None], seed: int
) -> None:
    plainly, limited = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    Workers([sweep(plainly, m, trials=12) for m in ("bp", "dfa")]).run(pretend)
    sweeps = [sweep(limited, m, trials=12, on_cluster=True) for m in ("bp", "dfa")]
    workers = Workers(list(sweeps), 5, seed, timeouts=Timeouts(idle=60))
    busy = 0
    for limit in [*limits, None]:
        workers.scheduler.limit = limit
        workers.fill()
        assert limit is None or len(workers.running) <= max(limit, busy)
        workers.run(pretend, steps=1)
        busy = len(workers.running)
    workers.run(pretend)
    assert all(one.done for one in sweeps)
    assert len(set(workers.handed)) == len(workers.handed)  # nothing is handed out twice
    assert stored(plainly) == stored(limited)
    assert journals(plainly) == journals(limited)
