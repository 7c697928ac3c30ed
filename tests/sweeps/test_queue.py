"""The queue of packs: turns, finals, failures, interruptions. Packs are made up, and Tune is played."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import cloudpickle

from tests.results.records import counts
from tests.sweeps.playing import FINGERPRINT, Train, Workers, final_sweep, pretend
from tpbench.engine import RuleError, TpbenchError
from tpbench.results import RunStore
from tpbench.search.definition import SweepDefinition, SweepFolder, sweep_status
from tpbench.search.spaces import space_for
from tpbench.sweeps.mailbox import END
from tpbench.sweeps.queue import SweepQueue
from tpbench.sweeps.reproduction import TimeBudget
from tpbench.sweeps.scheduler import Scheduler, Timeouts
from tpbench.sweeps.sweep import Failure, Place, QueuedPack, QueuedSweep, SearchedSweep, should_abandon
from tpbench.sweeps.sweep import Workers as Known
from tpbench.training.plan import Outcome, PackSettings, plan_seeds
from tpbench.training.sizing import guessed_cost
from tpbench.workloads import get_workload


def sweep(
    folder: Path,
    method: str = "bp",
    trials: int = 6,
    lag: int = 2,
    seeds: int = 3,
    cost: float = 0.0,
    changes: Mapping[str, Any] | None = None,
    **more: Any,
) -> SearchedSweep:
    space = space_for(method)
    wanted = SweepDefinition(
        "digits", method, FINGERPRINT, space.describe(), trials, 1, tuple(range(seeds)), 0, 2, lag, cost=cost
    )
    wanted = replace(wanted, **changes or {})
    home = SweepFolder(folder / "sweeps" / wanted.id)
    definition, journal = home.begin(wanted, {})
    made = SearchedSweep(definition, get_workload("digits"), space, home, journal, PackSettings(str(folder)), **more)
    made.begin(Known(2))
    return made


def stored(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "runs").glob("*.json"))}


def journals(folder: Path) -> dict[str, list[Any]]:
    found = {}
    for path in sorted((folder / "sweeps").glob("*/journal.jsonl")):
        from tpbench.search.journal import Journal

        found[path.parent.name] = [(p.suggestions, p.outcomes) for p in Journal.read(path).packs]
    return found


@settings(max_examples=15)
@given(seed=st.integers(0, 999), workers=st.integers(1, 5))
def test_timing_and_workers_change_no_result(tmp_path_factory: pytest.TempPathFactory, seed: int, workers: int) -> None:
    folders = [tmp_path_factory.mktemp("queue") for _ in range(2)]
    for folder, order in zip(folders, (0, seed), strict=True):
        sweeps = [sweep(folder, method) for method in ("bp", "dfa")]
        tune = Workers(list(sweeps), workers, order)
        tune.run(pretend)
        assert all(s.done for s in sweeps)
        assert len(set(tune.handed)) == len(tune.handed)  # nothing is handed out twice
    assert stored(folders[0]) == stored(folders[1])
    assert journals(folders[0]) == journals(folders[1])


@settings(max_examples=10)
@given(costs=st.tuples(*[st.sampled_from([0.0, 0.1, 1.0, 50.0])] * 3), workers=st.integers(1, 5), gpus=st.booleans())
def test_the_order_of_sweeps_changes_no_result(
    tmp_path_factory: pytest.TempPathFactory, costs: tuple[float, ...], workers: int, gpus: bool
) -> None:
    plainly, ordered = (tmp_path_factory.mktemp("order") for _ in range(2))
    methods = ("bp", "dfa", "dtp")
    Workers([sweep(plainly, m) for m in methods]).run(pretend)
    sweeps = [sweep(ordered, m, cost=cost) for m, cost in zip(methods, costs, strict=True)]
    Workers(list(sweeps), workers, on_gpus=gpus).run(pretend)
    assert all(one.done for one in sweeps)
    assert stored(plainly) == stored(ordered)
    assert journals(plainly) == journals(ordered)


@settings(max_examples=15)
@given(stops=st.lists(st.integers(1, 6), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_a_campaign_that_is_killed_continues_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int], seed: int
) -> None:
    undisturbed, killed = tmp_path_factory.mktemp("u"), tmp_path_factory.mktemp("k")
    Workers([sweep(undisturbed, m) for m in ("bp", "dfa", "dtp")]).run(pretend)
    for place, steps in enumerate([*stops, 10**6]):
        Workers([sweep(killed, m) for m in ("bp", "dfa", "dtp")], seed=seed + place).run(pretend, steps=steps)
    assert stored(killed) == stored(undisturbed)
    assert journals(killed) == journals(undisturbed)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_killed_search_with_known_configurations_goes_on_after_them(tmp_path: Path, steps: int) -> None:
    point = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6}
    known = tuple({**point, "lr": 1e-4 * k} for k in (1, 2, 3))
    changes = {"epochs": 3, "search_epochs": 2, "start": known, "start_from": "file"}
    undisturbed, killed = tmp_path / "u", tmp_path / "k"
    Workers([sweep(undisturbed, changes=changes)]).run(pretend)
    Workers([sweep(killed, changes=changes)]).run(pretend, steps=steps)
    continued = sweep(killed, changes=changes)
    Workers([continued]).run(pretend)
    assert stored(killed) == stored(undisturbed)
    assert journals(killed) == journals(undisturbed)
    assert [s for pack in continued.journal.packs for s in pack.suggestions][:3] == list(known)
    records = list(RunStore(killed).records())
    ends = sorted((r.search_info["role"], r.definition.epochs, r.definition.seed) for r in records)
    assert ends == [*[("final", 3, seed) for seed in range(3)], *[("search", 2, 0)] * 6]


def test_a_campaign_continues_a_single_sweep_and_the_other_way_round(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    Workers([sweep(alone, "bp")]).run(pretend)
    Workers([sweep(alone, "dfa")]).run(pretend)
    Workers([sweep(together, "bp")]).run(pretend, steps=2)
    Workers([sweep(together, m) for m in ("bp", "dfa")]).run(pretend, steps=4)
    Workers([sweep(together, "dfa")]).run(pretend)
    Workers([sweep(together, "bp")]).run(pretend)
    assert stored(alone) == stored(together)


def test_the_best_error_of_a_sweep_comes_from_outcomes_too(tmp_path: Path) -> None:
    """A short pack ends before it reports its last epochs; final runs, of one configuration, are no part of it."""
    one = sweep(tmp_path, trials=6, seeds=3)
    found: list[float] = []

    def train(pack: QueuedPack) -> list[Outcome]:
        outcomes = pretend(pack)
        if one.final is None:
            found.extend(outcome.validation_error for outcome in outcomes)
        else:
            outcomes = [replace(outcome, validation_error=0.0) for outcome in outcomes]
        return outcomes

    workers = Workers([one])
    workers.run(train, steps=1)
    assert one.best_error == min(found)
    # A report between two packs lowers it as well, and a worse outcome does not raise it.
    one.report("none", 0.5, min(found) / 2)
    workers.run(train)
    assert one.done
    assert len(found) == 6
    assert one.best_error == min(min(found), min(found[:2]) / 2)


def test_the_best_error_without_a_search_is_that_of_the_final_runs(tmp_path: Path) -> None:
    plan = plan_seeds(get_workload("digits"), "bp", {}, tuple(range(4)), 1, {"by": "published"})
    one = final_sweep("bp", "bp", plan, PackSettings(str(tmp_path)), 2)
    found: list[float] = []

    def train(pack: QueuedPack) -> list[Outcome]:
        outcomes = pretend(pack)
        found.extend(outcome.validation_error for outcome in outcomes)
        return outcomes

    Workers([one]).run(train)
    assert len(found) == 4
    assert one.best_error == min(found)


def test_sweeps_take_turns_and_final_packs_go_first(tmp_path: Path) -> None:
    sweeps = [sweep(tmp_path, m, trials=4, lag=2) for m in ("bp", "dfa")]
    tune = Workers(list(sweeps), workers=3)
    handed = tune.run(pretend)
    assert [name for name, _ in handed[:4]] == [s.name for s in sweeps] * 2
    for one in sweeps:
        keys = [key for name, key in handed if name == one.name]
        assert keys[:2] == ["0", "1"]
        assert keys[2].startswith("final")
    first_final = next(k for k, (_, key) in enumerate(handed) if key.startswith("final"))
    assert not [key for _, key in handed[first_final + 1 : first_final + 2] if not key.startswith("final")]


def test_final_seeds_are_split_over_the_workers_that_are_free() -> None:
    assert Known(1).parts(10) == 1
    assert Known(2).parts(10) == 2
    assert Known(16).parts(10) == 10
    assert Known(4, unfinished=12, others=30).parts(10) == 2
    assert Known(16, unfinished=12, others=30).parts(10) == 6
    assert Known(16, unfinished=12, others=30).parts(1) == 1


def test_final_seeds_on_gpus_stay_whole_while_other_packs_wait() -> None:
    assert Known(8, unfinished=12, others=30, on_gpus=True).parts(10) == 1
    assert Known(8, unfinished=12, others=8, on_gpus=True).parts(10) == 1
    # At the end, over the GPUs that are free: few parts, as a pack of few seeds takes nearly as long as one of all.
    assert Known(8, unfinished=2, others=6, on_gpus=True).parts(10) == 2
    assert Known(64, on_gpus=True).parts(10) == 2
    assert Known(64, on_gpus=True).parts(1) == 1
    assert Known(1, on_gpus=True).parts(10) == 1


def test_a_journal_keeps_the_parts_of_its_final_seeds(tmp_path: Path) -> None:
    one = sweep(tmp_path, seeds=4)
    Workers([one], on_gpus=True).run(pretend, steps=4)
    assert one.journal.parts == 2
    again = sweep(tmp_path, seeds=4)
    again.begin(Known(8, others=30, on_gpus=True))
    assert again.final
    assert [pack.members for pack in again.final.packs.values()] == [2]


def test_what_has_the_most_work_left_gets_workers_first(tmp_path: Path) -> None:
    """Whatever its place in the command; equal ones take turns."""
    sweeps = [sweep(tmp_path, m, trials=8, lag=4, cost=c) for m, c in (("bp", 1.0), ("dfa", 3.0), ("dtp", 1.0))]
    assert [one.remaining for one in sweeps] == [8 + 3, 3 * (8 + 3), 8 + 3]
    handed = Workers(list(sweeps), workers=8).run(pretend, steps=1)
    names = [one.name for one in sweeps]
    assert [name for name, _ in handed] == [names[1]] * 4 + [names[0], names[2]] * 2
    ended = next(one for one in sweeps if one.journal.ended_count)
    assert ended.remaining == (1.0 if ended is not sweeps[1] else 3.0) * (6 + 3)


def test_final_runs_that_are_left_are_work(tmp_path: Path) -> None:
    one = sweep(tmp_path, trials=2, seeds=4, cost=0.5)
    Workers([one], workers=1).run(pretend, steps=1)
    assert one.remaining == 4 * 0.5
    Workers([one], workers=1).run(pretend)
    assert one.remaining == 0


def test_a_sweep_that_was_not_measured_is_ordered_by_its_steps(tmp_path: Path) -> None:
    one = sweep(tmp_path, trials=2, seeds=4)
    assert one.remaining == pytest.approx((2 + 4) * guessed_cost(one.workload))


def lost(times: dict[str, int]) -> Train:
    """Training whose process is lost so often for a pack."""

    def train(pack: QueuedPack) -> list[Outcome]:
        if times.get(pack.key, 0) > 0:
            times[pack.key] -= 1
            raise ProcessLookupError
        return pretend(pack)

    return train


def test_a_lost_pack_is_handed_out_again(tmp_path: Path) -> None:
    plain, disturbed = tmp_path / "a", tmp_path / "b"
    Workers([sweep(plain)]).run(pretend)
    one = sweep(disturbed)
    handed = Workers([one]).run(lost({"0": 2, "final-0": 1}))
    assert one.done
    assert [key for _, key in handed].count("0") == 3
    assert stored(plain) == stored(disturbed)


def refusing(*keys: str) -> Train:
    def train(pack: QueuedPack) -> list[Outcome]:
        if pack.key in keys:
            raise ValueError("refused")
        return pretend(pack)

    return train


def test_a_sweep_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    bad, good = sweep(tmp_path, "bp"), sweep(tmp_path, "dfa")

    def train(pack: QueuedPack) -> list[Outcome]:
        return (refusing("0", "1", "2") if pack.plan.method == "bp" else pretend)(pack)

    Workers([bad, good]).run(train)
    assert good.done
    assert bad.failure
    assert "refused" in bad.failure
    assert "--fresh" in bad.failure
    with pytest.raises(TpbenchError, match="refused"):
        bad.result()
    again = sweep(tmp_path, "bp")
    assert again.failure
    assert again.finished


def test_what_a_rule_does_wrong_fails_its_sweep_at_once(tmp_path: Path) -> None:
    """Who asks again has it tried once more; a rule that was mended is another one, and its sweep too."""
    bad, good = sweep(tmp_path, "bp"), sweep(tmp_path, "dfa")
    tried, reason = [], "Mine: the rule raised KeyError: 'gian' (mine.py:3)"

    def train(pack: QueuedPack) -> list[Outcome]:
        if pack.plan.method == "bp":
            tried.append(pack.key)
            raise RuleError(reason)
        return pretend(pack)

    Workers([bad, good], workers=1).run(train)
    assert good.done
    assert bad.failure == reason
    assert len(tried) == 1
    status = sweep_status(bad.folder)
    assert (status.state, status.reason, status.command) == ("failed", bad.failure, "")


def test_many_failed_suggestions_are_no_search_unless_accepted(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    Workers([one]).run(refusing("1"))
    assert one.failure is not None
    assert counts(one.failure)[:2] == [2, 6]
    assert "refused" in one.failure
    assert "--accept" in one.failure
    accepted = sweep(tmp_path, accept_failures=True)
    Workers([accepted]).run(pretend)
    assert accepted.done
    assert len(accepted.result()) == 3


def test_final_runs_that_cannot_be_trained_fail_the_sweep_and_are_tried_again_next_time(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    Workers([one]).run(refusing("final-0", "final-1"))
    assert one.failure
    assert "final" in one.failure
    assert "refused" in one.failure
    again = sweep(tmp_path)
    assert not again.finished
    Workers([again]).run(pretend)
    assert again.done


def test_what_the_only_machine_lacks_fails_the_sweep_and_no_pack_for_good(tmp_path: Path) -> None:
    reason = "data set 'digits' is not in /mnt"

    def unmounted(pack: QueuedPack) -> list[Outcome]:
        raise TpbenchError(reason)

    one, other = sweep(tmp_path), sweep(tmp_path, "dfa")
    Workers([one, other]).run(lambda pack: (unmounted if pack.plan.method == "bp" else pretend)(pack))
    assert one.failure == reason
    assert other.done
    again = sweep(tmp_path)
    Workers([again]).run(pretend)
    assert again.done
    assert again.journal.failed_count == 0


def test_a_searcher_that_raises_fails_its_sweep_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = sweep(tmp_path), sweep(tmp_path, "dfa")

    reason = "replaying pack 0 gave other suggestions"

    def broken(allowed: object) -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(one.search, "next_pack", broken)
    Workers([one, other]).run(pretend)
    assert one.failure == f"RuntimeError: {reason}"
    assert other.done


def test_a_finished_sweep_of_which_much_failed_stays_finished(tmp_path: Path) -> None:
    Workers([sweep(tmp_path)]).run(refusing("1"))
    accepted = sweep(tmp_path, accept_failures=True)
    Workers([accepted]).run(pretend)
    accepted.close()
    assert sweep(tmp_path).done


def test_the_same_failure_is_said_again_as_it_was(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    Workers([one]).run(refusing("0", "1", "2"))
    again = sweep(tmp_path)
    assert again.failure == one.failure
    assert one.failure is not None
    assert "refused" in one.failure


def test_a_budget_begins_what_fits_beside_what_has_begun(tmp_path: Path) -> None:
    configuration = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.9, "epsilon": 1e-8}
    cells = []
    for place, method in enumerate(("bp", "dfa", "gnt")):
        plan = plan_seeds(get_workload("digits"), method, configuration, (0, 1), 1, {"by": "published"})
        cells.append(final_sweep(f"digits-{method}", method, plan, PackSettings(str(tmp_path)), 2))
        cells[-1].priority = place
    budget = TimeBudget(100.0, {"digits-bp": 60.0, "digits-dfa": 30.0, "digits-gnt": 30.0})
    tune = Workers(cells, workers=2, admission=budget)
    handed = tune.run(lambda pack: [])
    assert [name for name, _ in handed] == ["digits-bp"] * 2 + ["digits-dfa"] * 2 + ["digits-gnt"] * 2
    # gnt fitted when bp had ended; with a shorter budget it never does, and nobody waits for it.
    few = [final_sweep(c.name, c.label, c.final.plan, c.settings, 2) for c in cells if c.final]
    short = Workers(few, workers=2, admission=TimeBudget(70.0, {c.name: 60.0 for c in few}))
    assert {name for name, _ in short.run(lambda pack: [])} == {"digits-bp", "digits-dfa", "digits-gnt"}
    none = [final_sweep(c.name, c.label, c.final.plan, c.settings, 2) for c in cells if c.final]
    idle = Workers(none, workers=2, admission=TimeBudget(1.0, {c.name: 60.0 for c in none}))
    assert idle.run(pretend) == []
    assert idle.scheduler.over


def test_a_journal_that_cannot_be_written_ends_the_run_instead_of_waiting_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sweep(tmp_path)
    tune = Workers([one])
    tune.run(pretend, steps=2)

    def full(*_: object) -> None:
        raise TpbenchError("journal.jsonl: could not be written (No space left on device)")

    monkeypatch.setattr("tpbench.search.journal.append_line", full)
    with pytest.raises(TpbenchError, match="No space"):
        tune.run(pretend)


def test_a_queue_that_stands_still_says_so(tmp_path: Path) -> None:
    one = sweep(tmp_path, lag=1)
    workers = Workers([one], workers=1)
    workers.fill()
    workers.scheduler.slots.clear()  # as if somebody had forgotten it
    one.in_flight.clear()
    with pytest.raises(RuntimeError, match="stands still"):
        workers.scheduler.wants_slot()


def failures(*kinds: str) -> list[Failure]:
    return [Failure(kind, "m") for kind in kinds]


def test_how_often_a_pack_is_tried() -> None:
    def tried(kinds: list[str], members: int = 1, on_cluster: bool = False) -> bool:
        return should_abandon(failures(*kinds), members, on_cluster=on_cluster)

    assert not tried(["node"] * 60, on_cluster=True)  # never the pack's fault
    assert not tried(["raised"] * 2)
    assert tried(["raised"] * 3, on_cluster=True)
    assert [tried(["lost"] * 3), tried(["lost"] * 4)] == [False, True]
    # Where it may be memory, it is halved as often as it has members.
    assert [tried(["lost"] * 6, members=8), tried(["lost"] * 7, members=8)] == [False, True]
    assert not tried(["gone"] * 49, on_cluster=True)
    assert tried(["gone"] * 50, on_cluster=True)
    assert not tried(["memory"] * 60)


def test_sweeps_without_a_search_train_what_the_store_lacks(tmp_path: Path) -> None:
    settings_ = PackSettings(str(tmp_path))
    configuration = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.9, "epsilon": 1e-8}

    def plain(seeds: Iterator[int] | range, parts: int) -> QueuedSweep:
        plan = plan_seeds(get_workload("digits"), "bp", configuration, tuple(seeds), 1, {"by": "published"})
        return final_sweep("digits-bp", "digits bp", plan, settings_, parts)

    assert [key for _, key in Workers([plain(range(3), 1)]).run(pretend)] == ["final-0"]
    more = plain(range(6), 2)
    assert [key for _, key in Workers([more]).run(pretend)] == ["final-1"]
    assert len(more.result()) == 6
    assert more.final_progress.total == more.final_progress.done == 6


def test_a_pack_travels_to_another_process(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    pack = one.next_pack()
    assert pack is not None
    assert cloudpickle.loads(cloudpickle.dumps(pack)) == pack


class Jobs(dict[str, bytes]):
    """What was left at the mailbox."""

    def put(self, worker: str, job: bytes) -> None:
        self[worker] = job


@pytest.mark.parametrize("other", ["stays full", "is lost"])
def test_a_worker_that_avoids_a_node_is_not_waited_for_when_its_other_nodes_never_come(
    tmp_path: Path, other: str
) -> None:
    now, jobs = 0.0, Jobs()
    plan = plan_seeds(get_workload("digits"), "bp", {"lr": 1e-3}, (0,), 1, {"by": "published"})
    one = final_sweep("digits-bp", "digits bp", plan, PackSettings(str(tmp_path)), 1, on_cluster=True)
    scheduler = Scheduler([one], 1, 1, clock=lambda: now)
    scheduler.update_nodes({"a": "a", "b": "b"})
    queue = SweepQueue(scheduler, jobs.put)

    def starts_on_a(worker: str) -> None:
        about = {"node": "a", "gpu": "", "host": "a", "lacks": {}}
        queue.handle_report(worker, {"share": 0.0, "started": json.dumps(about)})

    assert queue.suggest("1")["avoid"] == []
    starts_on_a("1")
    assert jobs.pop("1")
    queue.lost("1", Failure("raised", "boom"))
    assert queue.suggest("2")["avoid"] == ["a"]
    assert queue.suggest("3") is None
    if other == "is lost":
        scheduler.update_nodes({"a": "a"})
    else:
        now = 130.0
    assert queue.suggest("3")["avoid"] == []
    assert queue.suggest("4") is None
    starts_on_a("3")
    assert cloudpickle.loads(jobs["3"]).key == "final-0"


def test_a_worker_asks_again_for_what_the_gate_lost(tmp_path: Path) -> None:
    jobs = Jobs()
    one = sweep(tmp_path, trials=2, lag=1, seeds=2)
    queue = SweepQueue(Scheduler([one], 2, 2, timeouts=Timeouts(idle=60)), jobs.put)
    for worker in "12":
        queue.scheduler.open(worker)
        queue.scheduler.started(worker, Place("n"))
    queue.hand_out()
    assert one.in_flight
    job = jobs.pop("1")
    queue.handle_report("1", {"share": 0.0, "asks": True})
    assert jobs == {"1": job}
    queue.scheduler.slots["2"].leaving = True
    queue.handle_report("2", {"share": 0.0, "asks": True})
    assert jobs["2"] == END
