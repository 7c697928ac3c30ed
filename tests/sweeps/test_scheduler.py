"""What follows a failure, and where packs go: places, broken nodes, what nodes lack, memory, silence. No Ray."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sweeps.playing import OutOfMemoryHereError, StalledError, Workers, final_sweep, pretend
from tests.sweeps.test_queue import journals, stored, sweep
from tpbench.engine import TpbenchError
from tpbench.sweeps.scheduler import Scheduler, Timeouts
from tpbench.sweeps.sweep import ALL_SWEEPS, Failure, Place, QueuedPack, QueuedSweep
from tpbench.training.plan import Outcome, PackSettings, plan_seeds
from tpbench.workloads import get_workload

CONFIGURATION = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.9, "epsilon": 1e-8}
NODES = [Place("a", host="a"), Place("b", host="b"), Place("c", host="c")]


def plain(
    folder: Path, seeds: int = 4, parts: int = 4, name: str = "digits-bp", on_cluster: bool = True
) -> QueuedSweep:
    """Final runs alone, one seed per pack."""
    plan = plan_seeds(get_workload("digits"), "bp", CONFIGURATION, tuple(range(seeds)), 1, {"by": "published"})
    return final_sweep(name, name, plan, PackSettings(str(folder)), parts, on_cluster=on_cluster)


class On:
    """Trains as the place lets it, which the pack does not tell.

    Args:
        broken: nodes on which every pack fails.
        error: what is raised there.
    """

    def __init__(self, broken: set[str], error: type[Exception] = ValueError, gpu: str | None = None) -> None:
        self.broken, self.error, self.gpu = broken, error, gpu
        self.workers: Workers | None = None

    def __call__(self, pack: QueuedPack) -> list[Outcome]:
        assert self.workers is not None
        place = self.workers.here
        if place.node in self.broken and self.gpu in (None, place.gpu):
            raise self.error("broken")
        return pretend(pack)

    def run(self, workers: Workers) -> Workers:
        self.workers = workers
        workers.run(self)
        return workers


def test_the_scheduler_imports_no_ray() -> None:
    code = "import sys, tpbench.sweeps.scheduler; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_pack_that_failed_on_a_node_goes_to_another(tmp_path: Path) -> None:
    one = plain(tmp_path, seeds=1, parts=1)
    workers = On({"a"}).run(Workers([one], 3, places=NODES))
    assert one.done
    assert [place.node for _, place in workers.where][:2] == ["a", "b"]
    assert len(workers.where) == 2


@settings(max_examples=10)
@given(seed=st.integers(0, 999), error=st.sampled_from([ValueError, ProcessLookupError]))
def test_one_broken_node_fails_no_sweep_and_gets_few_packs(
    tmp_path_factory: pytest.TempPathFactory, seed: int, error: type[Exception]
) -> None:
    """Packs and journals are those of undisturbed sweeps."""
    plainly, disturbed = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    Workers([sweep(plainly, m, trials=12) for m in ("bp", "dfa")]).run(pretend)
    sweeps = [sweep(disturbed, m, trials=12, on_cluster=True) for m in ("bp", "dfa")]
    workers = On({"b"}, error).run(Workers(list(sweeps), 3, seed, places=NODES))
    assert all(one.done for one in sweeps)
    assert [place.node for _, place in workers.where].count("b") <= 4
    assert stored(plainly) == stored(disturbed)
    assert journals(plainly) == journals(disturbed)


def test_a_broken_node_is_held_back_and_named(tmp_path: Path) -> None:
    one = plain(tmp_path, seeds=12, parts=12)
    workers = On({"b"}).run(Workers([one], 3, places=NODES))
    assert one.done
    assert Counter(place.node for _, place in workers.where)["b"] == 3
    assert [line for line in workers.said if line.startswith("b ")]


def test_a_broken_gpu_is_held_back_and_the_others_of_its_node_go_on(tmp_path: Path) -> None:
    one = plain(tmp_path, seeds=16, parts=16, on_cluster=False)
    places = [Place("n", str(gpu), "n") for gpu in range(4)]
    workers = On({"n"}, gpu="2").run(Workers([one], 4, places=places))
    assert one.done
    counts = Counter(place.gpu for _, place in workers.where)
    assert counts["2"] == 3
    assert min(counts[gpu] for gpu in "013") > 0
    assert [line for line in workers.said if "GPU 2" in line]


def test_a_pack_that_failed_on_the_only_gpu_with_a_worker_waits_for_another(tmp_path: Path) -> None:
    """The others have no worker yet; one that is asked for starts on one of them."""
    now = 0.0
    one = plain(tmp_path, seeds=1, parts=1, on_cluster=False)
    scheduler = Scheduler([one], 4, 4, clock=lambda: now)
    scheduler.open("first")
    scheduler.started("first", Place("n", "0"))
    assert scheduler.next_pack("first")
    scheduler.failed("first", Failure("raised", "boom"))
    assert scheduler.next_pack("first") is None
    assert scheduler.wants_slot()
    scheduler.open("second")
    scheduler.started("second", Place("n", "1"))
    assert scheduler.next_pack("second")
    scheduler.failed("second", Failure("raised", "boom"))
    now = 1000.0  # no third one came
    assert scheduler.next_pack("first")


def test_packs_that_fail_everywhere_are_no_fault_of_the_nodes(tmp_path: Path) -> None:
    bad, good = sweep(tmp_path, "bp", on_cluster=True), sweep(tmp_path, "dfa", on_cluster=True)

    def train(pack: QueuedPack) -> list[Outcome]:
        if pack.plan.method == "bp":
            raise ValueError("boom")
        return pretend(pack)

    workers = Workers([bad, good], 3, places=NODES)
    workers.run(train)
    assert good.done
    assert bad.failure is not None
    assert "boom" in bad.failure
    assert not workers.scheduler._held
    attempts = Counter(key for name, key in workers.handed if name == bad.name)
    assert set(attempts.values()) == {3}


def test_the_last_node_is_never_held_back(tmp_path: Path) -> None:
    one = plain(tmp_path, seeds=3, parts=3)
    On({"a", "b", "c"}).run(Workers([one], 3, places=NODES))
    assert one.failure is not None
    assert "broken" in one.failure


def test_a_final_pack_waits_for_another_node_while_there_is_one(tmp_path: Path) -> None:
    one = plain(tmp_path, seeds=2, parts=2)
    scheduler = Scheduler([one], 2, 2)
    scheduler.update_nodes({"a": "a", "b": "b"})
    for name, node in (("1", "a"), ("2", "b")):
        scheduler.open(name)
        scheduler.started(name, Place(node))
        assert scheduler.next_pack(name)
    scheduler.failed("1", Failure("raised", "boom"))
    assert scheduler.next_pack("1") is None  # b is busy, and has it next
    scheduler.ended("2", [])
    pack = scheduler.next_pack("2")
    assert pack is not None
    assert pack.key == "final-0"


def test_a_pack_whose_other_nodes_never_come_is_tried_where_it_failed(tmp_path: Path) -> None:
    now = 0.0
    one = plain(tmp_path, seeds=1, parts=1)
    scheduler = Scheduler([one], 1, 1, clock=lambda: now)
    scheduler.update_nodes({"a": "a", "b": "b"})  # b is full of others' work
    scheduler.open("1")
    scheduler.started("1", Place("a"))
    assert scheduler.next_pack("1")
    scheduler.failed("1", Failure("raised", "boom"))
    assert scheduler.next_pack("1") is None
    assert scheduler.wants_slot()
    assert scheduler.open("2") == {"a"}
    now = 1000.0
    assert scheduler.next_pack("1")


def test_a_broken_gpu_is_no_fault_of_its_node(tmp_path: Path) -> None:
    one = plain(tmp_path, seeds=12, parts=12)
    scheduler = Scheduler([one], 8, 8)
    scheduler.update_nodes({"a": "a", "b": "b"})
    places = [Place(node, str(gpu)) for node in "ab" for gpu in range(4)]
    for number, place in enumerate(places):
        scheduler.open(str(number))
        scheduler.started(str(number), place)
        assert scheduler.next_pack(str(number))
    for _ in range(3):
        scheduler.failed("2", Failure("raised", "boom"))
        assert scheduler.next_pack("2") is None or scheduler.slots["2"].work
    assert scheduler.next_pack("2") is None
    scheduler.ended("1", [])
    assert scheduler.next_pack("1")


def test_two_broken_gpus_are_a_fault_of_their_node(tmp_path: Path) -> None:
    one = plain(tmp_path, seeds=12, parts=12)
    scheduler = Scheduler([one], 3, 3)
    scheduler.update_nodes({"a": "a", "b": "b"})
    for number, place in enumerate((Place("a", "0"), Place("a", "1"), Place("b", "0"))):
        scheduler.open(str(number))
        scheduler.started(str(number), place)
        assert scheduler.next_pack(str(number))
    for name in ("0", "1", "0"):
        scheduler.failed(name, Failure("raised", "boom"))
        scheduler.next_pack(name)
    assert scheduler.next_pack("0") is None
    assert scheduler.open("new") == {"a"}


def test_a_worker_on_a_gpu_that_is_held_back_stays_and_keeps_others_from_it(tmp_path: Path) -> None:
    now = 0.0
    one = plain(tmp_path, seeds=12, parts=12)
    scheduler = Scheduler([one], 3, 3, clock=lambda: now, timeouts=Timeouts(idle=60))
    for name in "012":
        scheduler.open(name)
        scheduler.started(name, Place("n", name))
        assert scheduler.next_pack(name)
    for _ in range(3):
        scheduler.failed("2", Failure("raised", "boom"))
        scheduler.next_pack("2")
    assert scheduler.slots["2"].idle
    scheduler.open("pending")
    now = 1000.0
    assert scheduler.surplus() == []
    scheduler.ended("0", [])
    scheduler.ended("1", [])
    assert "2" in scheduler.surplus()  # nobody trains: it is as good as any other


@pytest.mark.parametrize("comes", [True, False])
def test_where_the_last_good_node_was_lost_another_is_waited_for(tmp_path: Path, comes: bool) -> None:
    now = 0.0
    one = plain(tmp_path)
    scheduler = Scheduler([one], 1, 1, clock=lambda: now)
    scheduler.update_nodes({"head": "head", "spot": "spot"})
    scheduler.lacks("head", {ALL_SWEEPS: "no data"})
    scheduler.update_nodes({"head": "head"})
    assert one.failure is None
    assert scheduler.open("1") == {"head"}
    now = 200.0
    scheduler.update_nodes({"head": "head", "spot-2": "spot-2"} if comes else {"head": "head"})
    now = 400.0
    scheduler.stop_without_nodes()
    assert (one.failure is None) == comes


def test_a_node_lacks_for_several_sweeps_what_one_line_says(tmp_path: Path) -> None:
    said: list[str] = []
    scheduler = Scheduler([plain(tmp_path)], 1, 1, say=said.append)
    scheduler.update_nodes({"a": "a", "b": "b"})
    scheduler.lacks("a", {"first": "no data", "second": "no data", "third": "no package"})
    assert len(said) == 2
    assert "first" in said[0]
    assert "second" in said[0]


def test_what_a_node_lacks_is_named_and_never_journalled(tmp_path: Path) -> None:
    plainly, disturbed = tmp_path / "a", tmp_path / "b"
    Workers([sweep(plainly)]).run(pretend)
    one = sweep(disturbed, on_cluster=True)
    workers = On({"a", "b"}, TpbenchError).run(Workers([one], 3, places=NODES))
    assert one.done
    assert journals(plainly) == journals(disturbed)
    assert {line.split()[1] for line in workers.said} == {"a", "b"}
    # Each node is tried once, and then gets nothing.
    counts = Counter(place.node for _, place in workers.where)
    assert counts["a"] <= 1
    assert counts["b"] <= 1


def test_where_no_node_is_left_the_campaign_stops_and_the_same_command_goes_on(tmp_path: Path) -> None:
    one = sweep(tmp_path, on_cluster=True)
    workers = On({"a", "b", "c"}, TpbenchError).run(Workers([one], 3, places=NODES))
    assert one.failure is not None
    assert all(node in one.failure for node in "abc")
    assert "broken" in one.failure
    assert workers.scheduler.over
    assert one.journal.failed_count == 0
    again = sweep(tmp_path, on_cluster=True)
    Workers([again], 3, places=NODES).run(pretend)
    assert again.done


def test_a_node_may_lack_what_one_sweep_needs(tmp_path: Path) -> None:
    first, second = plain(tmp_path / "1", name="first"), plain(tmp_path / "2", name="second")
    lacks = {"a": {"first": "no data"}, "b": {"second": "no data"}, "c": {ALL_SWEEPS: "another tpbench"}}
    workers = Workers([first, second], 3, places=NODES, lacks=lacks)
    workers.run(pretend)
    assert first.done
    assert second.done
    assert {place.node for _, place in workers.where} == {"a", "b"}
    by_sweep = {(name, place.node) for (name, _), (_, place) in zip(workers.handed, workers.where, strict=True)}
    assert by_sweep == {("first", "b"), ("second", "a")}


def test_a_node_that_lacks_something_beside_one_that_is_broken(tmp_path: Path) -> None:
    """Nobody is left but the broken one: its failures are the sweep's."""
    one = plain(tmp_path, seeds=6, parts=6)
    On({"b"}).run(Workers([one], 2, places=NODES[:2], lacks={"a": {ALL_SWEEPS: "no data"}}))
    assert one.failure is not None
    assert "broken" in one.failure


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(OutOfMemoryHereError, [1, 2, 4]), (ProcessLookupError, [1, 1, 2, 4])],
    ids=["said by the system", "told by the second loss"],
)
def test_a_pack_for_which_memory_does_not_suffice_is_halved(
    tmp_path: Path, error: type[Exception], attempts: list[int]
) -> None:
    """There is memory for two members at a time."""
    one = plain(tmp_path, seeds=8, parts=1, on_cluster=False)
    seen = []

    def train(pack: QueuedPack) -> list[Outcome]:
        seen.append(pack.parts)
        if pack.members > 2 * pack.parts:
            raise error
        return pretend(pack)

    Workers([one], 1).run(train)
    assert one.done
    assert seen == attempts


def test_what_follows_a_pack_that_was_halved_begins_in_as_many_parts(tmp_path: Path) -> None:
    one = plain(tmp_path, seeds=16, parts=2, on_cluster=False)
    seen = []

    def train(pack: QueuedPack) -> list[Outcome]:
        seen.append((pack.key, pack.parts))
        if pack.members > 2 * pack.parts:
            raise OutOfMemoryHereError
        return pretend(pack)

    Workers([one], 1).run(train)
    assert seen == [("final-0", 1), ("final-1", 2), ("final-0", 4), ("final-1", 4)]


def test_a_node_without_memory_for_a_single_run_lacks_it(tmp_path: Path) -> None:
    def train(pack: QueuedPack) -> list[Outcome]:
        raise OutOfMemoryHereError

    one = sweep(tmp_path)
    Workers([one], 1).run(train)
    assert one.failure is not None
    assert "memory" in one.failure
    assert one.journal.failed_count == 0
    again = sweep(tmp_path)
    Workers([again]).run(pretend)
    assert again.done


def test_where_several_train_at_once_fewer_do_when_memory_ran_out(tmp_path: Path) -> None:
    """There is memory for two packs at a time."""
    one = plain(tmp_path, seeds=8, parts=8, on_cluster=False)
    workers = Workers([one], 4)
    at_once: list[int] = []

    def train(pack: QueuedPack) -> list[Outcome]:
        at_once.append(len(workers.running) + 1)
        if at_once[-1] > 2:
            raise OutOfMemoryHereError
        return pretend(pack)

    workers.run(train)
    assert one.done
    assert at_once[:2] == [4, 3]
    assert max(at_once[2:]) == 2


def test_a_pack_without_progress_is_handed_out_again(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    tried: list[str] = []

    def train(pack: QueuedPack) -> list[Outcome]:
        tried.append(pack.key)
        if tried.count("0") == 1 and pack.key == "0":
            raise StalledError
        return pretend(pack)

    Workers([one], 2).run(train)
    assert one.done
    assert tried.count("0") == 2


def test_who_makes_no_progress_for_ten_of_its_epochs_is_silent(tmp_path: Path) -> None:
    now = 0.0
    one = plain(tmp_path)
    scheduler = Scheduler([one], 2, 2, clock=lambda: now, timeouts=Timeouts(epoch=600, first_epoch=3600))
    for name in ("quick", "slow"):
        scheduler.open(name)
        scheduler.started(name, Place("n"))
        assert scheduler.next_pack(name)
        scheduler.took(name)
    now = 3599.0
    assert scheduler.stalled() == []  # nobody knows how long an epoch takes
    scheduler.progress("quick", 0.1, None, epoch=1.0)
    scheduler.progress("slow", 0.1, None, epoch=100.0)
    now += 601
    assert [slot.name for slot, _ in scheduler.stalled()] == ["quick"]
    assert scheduler.stalled() == []
    # What it says now counts for nothing: its pack is another one's.
    scheduler.ended("quick", [])
    assert scheduler.slots["quick"].work is None
    assert "final-0" in one.waiting
    now += 400
    assert [slot.name for slot, _ in scheduler.stalled()] == ["slow"]


def test_who_does_not_begin_is_silent_sooner(tmp_path: Path) -> None:
    now = 0.0
    one = plain(tmp_path)
    scheduler = Scheduler([one], 3, 3, clock=lambda: now, timeouts=Timeouts(epoch=600, first_epoch=3600))
    for name in ("pending", "hung", "stopped", "training"):
        scheduler.open(name)
    now = 500.0
    scheduler.runs("hung")  # its process runs, and never says where
    for name in ("stopped", "training"):
        scheduler.started(name, Place("n"))
        assert scheduler.next_pack(name)
    scheduler.took("training")
    now = 1000.0
    scheduler.runs("hung")
    assert scheduler.stalled() == []
    now = 1101.0
    assert [slot.name for slot, _ in scheduler.stalled()] == ["hung", "stopped"]
    assert scheduler.stalled() == []
    assert one.waiting[-1] == "final-0"


def test_what_follows_for_the_pack_of_who_is_silent_is_said(tmp_path: Path) -> None:
    now = 0.0
    one = plain(tmp_path, seeds=1, parts=1)
    scheduler = Scheduler([one], 1, 1, clock=lambda: now)
    said = []
    for name in "123":
        scheduler.open(name)
        scheduler.started(name, Place("n"))
        assert scheduler.next_pack(name)
        now += 4000
        said += [message for _, message in scheduler.stalled()]
        scheduler.gone(name, Failure("lost", "ended"))
    assert said[0] == said[1] != said[2]
    assert one.failure is not None
    assert one.failure in said[2]


def test_the_drivers_own_pause_is_nobodys_silence(tmp_path: Path) -> None:
    now = 0.0
    scheduler = Scheduler([plain(tmp_path)], 1, 1, clock=lambda: now)
    scheduler.open("1")
    scheduler.started("1", Place("n"))
    assert scheduler.next_pack("1")
    now = 10_000.0
    scheduler.paused(9_900)
    assert scheduler.stalled() == []


def on_a_cluster(sweeps: list[QueuedSweep], workers: int, now: Callable[[], float] = float) -> Scheduler:
    """Return a scheduler whose idle workers give their places back, as on a cluster."""
    scheduler = Scheduler(sweeps, workers, workers, clock=now, timeouts=Timeouts(idle=60))
    scheduler.update_nodes({"n": "n"})
    return scheduler


def ask(scheduler: Scheduler) -> list[str]:
    """Ask for the workers that the scheduler wants; returns their names."""
    names = []
    while scheduler.wants_slot():
        names.append(f"w{len(scheduler.slots)}")
        scheduler.open(names[-1])
    return names


def test_no_more_workers_wait_for_places_than_packs_can_still_come(tmp_path: Path) -> None:
    """Of four workers two get a place, and train what the others were asked for."""
    one = plain(tmp_path, seeds=4, parts=4)
    scheduler = on_a_cluster([one], 8)
    placed = ask(scheduler)[:2]
    assert len(scheduler.slots) == 4
    for name in placed:
        scheduler.started(name, Place("n"))
        assert scheduler.next_pack(name)
    assert scheduler.withdrawn() == []
    for ended, waiting in (("w0", ["w3"]), ("w1", ["w2"])):
        scheduler.ended(ended, pretend(one.in_flight["final-0" if ended == "w0" else "final-1"]))
        assert scheduler.next_pack(ended)
        assert scheduler.withdrawn() == waiting
        assert scheduler.withdrawn() == []
        for name in waiting:
            scheduler.closed(name)
    assert ask(scheduler) == []


def test_a_worker_that_was_withdrawn_and_had_a_place_ends_as_others_do(tmp_path: Path) -> None:
    one = plain(tmp_path, seeds=1, parts=1)
    scheduler = on_a_cluster([one], 8)
    scheduler.open("late")
    scheduler.open("first")
    scheduler.started("first", Place("n"))
    assert scheduler.next_pack("first")
    assert scheduler.withdrawn() == ["late"]
    scheduler.keep("late")
    scheduler.started("late", Place("n"))
    assert scheduler.surplus() == ["late"]


def test_nothing_is_withdrawn_where_places_are_of_no_other_use(tmp_path: Path) -> None:
    scheduler = Scheduler([plain(tmp_path, seeds=1, parts=1)], 8, 8)
    for name in "123":
        scheduler.open(name)
    assert scheduler.withdrawn() == []


def test_no_worker_waits_for_packs_that_cannot_come(tmp_path: Path) -> None:
    """On a cluster, where others could use its place."""
    now = 0.0
    one = sweep(tmp_path, trials=2, lag=2, seeds=3)
    scheduler = Scheduler([one], 64, 64, clock=lambda: now, timeouts=Timeouts(idle=60))
    scheduler.update_nodes({"n": "n"})
    assert scheduler.wants_slot()
    scheduler.open("1")
    assert not scheduler.wants_slot()  # one pack, one worker
    scheduler.started("1", Place("n"))
    assert scheduler.next_pack("1")
    assert not scheduler.wants_slot()
    scheduler.ended("1", pretend(one.in_flight["0"]))
    assert scheduler.wants_slot()  # two final packs: the third seed is that of the search
    scheduler.open("2")
    scheduler.started("2", Place("n"))
    assert scheduler.next_pack("2")
    assert scheduler.next_pack("1")
    scheduler.ended("2", pretend(next(iter(one.in_flight.values()))))
    assert scheduler.surplus() == ["2"]
    assert scheduler.surplus() == []


def test_an_idle_worker_gives_its_place_back_after_a_while(tmp_path: Path) -> None:
    now = 0.0
    one = sweep(tmp_path, trials=4, lag=1)
    scheduler = Scheduler([one], 4, 4, clock=lambda: now, timeouts=Timeouts(idle=60))
    for name in ("1", "2"):
        scheduler.open(name)
        scheduler.started(name, Place("n"))
    assert scheduler.next_pack("1")
    assert scheduler.next_pack("2") is None
    assert scheduler.surplus() == []
    now = 61.0
    assert scheduler.surplus() == ["2"]


def test_nobody_else_wants_this_machine(tmp_path: Path) -> None:
    """Workers are there before their packs, as many as packs may come."""
    one = sweep(tmp_path, trials=2, lag=2, seeds=2)
    scheduler = Scheduler([one], 8, 8)
    number = 0
    while scheduler.wants_slot():
        number += 1
        scheduler.open(str(number))
    assert number == 2


def test_a_turn_asks_each_sweep_a_few_times(tmp_path: Path) -> None:
    """The driver asks for workers with every report: what it asks of a sweep must not grow with the other sweeps."""
    asked = Counter[str]()

    class Counted(QueuedSweep):
        @property
        def potential(self) -> int:
            asked[self.name] += 1
            return super().potential

    plan = plan_seeds(get_workload("digits"), "bp", CONFIGURATION, (0,), 1, {"by": "published"})

    def times_asked(count: int) -> int:
        sweeps: list[QueuedSweep] = []
        for number in range(count):
            sweeps.append(Counted(f"s{number}", "", PackSettings(str(tmp_path))))
            sweeps[-1].train_final(plan, 1)
        scheduler = Scheduler(sweeps, 4, 4)
        asked.clear()
        scheduler.wants_slot()
        scheduler.surplus()
        return asked["s0"]

    assert 1 <= times_asked(20) == times_asked(2)


def test_sweeps_know_what_the_others_could_train(tmp_path: Path) -> None:
    one, other = plain(tmp_path, name="one"), plain(tmp_path, seeds=3, parts=3, name="other")
    scheduler = Scheduler([one, other], 2, 2)
    assert (scheduler.workers(one).others, scheduler.workers(other).others) == (3, 4)
    assert scheduler.workers(one).unfinished == 2
    other.interrupt("for now")
    assert (scheduler.workers(one).others, scheduler.workers(one).unfinished) == (0, 1)
