"""The queue of packs: turns, finals, failures, interruptions. Packs are made up, and Tune is played."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sweeps.playing import Train, Tune
from tpbench.engine import RuleError, TpbenchError
from tpbench.results import RunRecord, RunStore
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.listing import sweep_status
from tpbench.search.spaces import space_for
from tpbench.sweeps import packs
from tpbench.sweeps.packs import Failure, HandedPack, given_up
from tpbench.sweeps.queue import SweepQueue
from tpbench.sweeps.reproduction import Budget
from tpbench.sweeps.sweep import PlainSweep, SearchedSweep, Workers
from tpbench.training.packs import Outcome, PackSettings, define_runs, plan_seeds
from tpbench.workloads import get_workload

FINGERPRINT = "0" * 64


def pretend(pack: HandedPack) -> list[Outcome]:
    """Publish made-up runs whose errors depend on what they are alone."""
    store, outcomes = RunStore(Path(pack.settings.results)), []
    for definition in define_runs(pack.plan, FINGERPRINT, "float32"):
        error = random.Random(definition.id).random()
        curves = {"validation_error": [error], "test_error": [error]}
        store.publish(RunRecord(definition, "", "finished", curves, 1.0, 1, {}, pack.plan.found))
        outcomes.append(Outcome(definition.id, "finished", error, error, epochs=1))
    return outcomes


def sweep(
    folder: Path, method: str = "bp", trials: int = 6, lag: int = 2, seeds: int = 3, **more: Any
) -> SearchedSweep:
    space = space_for(method)
    wanted = SweepDefinition(
        "digits", method, FINGERPRINT, space.describe(), trials, 1, tuple(range(seeds)), 0, pack=2, lag=lag
    )
    home = SweepFolder(folder / "sweeps" / wanted.id)
    definition, journal = home.begin(wanted, "tpbench sweep")
    made = SearchedSweep(definition, get_workload("digits"), space, home, journal, PackSettings(str(folder)), **more)
    made.begin(Workers(2))
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
        tune = Tune(list(sweeps), workers, order)
        tune.run(pretend)
        assert all(s.done for s in sweeps)
        assert len(set(tune.handed)) == len(tune.handed)  # nothing is handed out twice
    assert stored(folders[0]) == stored(folders[1])
    assert journals(folders[0]) == journals(folders[1])


@settings(max_examples=15)
@given(stops=st.lists(st.integers(1, 6), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_a_campaign_that_is_killed_continues_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int], seed: int
) -> None:
    undisturbed, killed = tmp_path_factory.mktemp("u"), tmp_path_factory.mktemp("k")
    Tune([sweep(undisturbed, m) for m in ("bp", "dfa", "dtp")]).run(pretend)
    for place, steps in enumerate([*stops, 10**6]):
        Tune([sweep(killed, m) for m in ("bp", "dfa", "dtp")], seed=seed + place).run(pretend, steps=steps)
    assert stored(killed) == stored(undisturbed)
    assert journals(killed) == journals(undisturbed)


def test_a_campaign_continues_a_single_sweep_and_the_other_way_round(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    Tune([sweep(alone, "bp")]).run(pretend)
    Tune([sweep(alone, "dfa")]).run(pretend)
    Tune([sweep(together, "bp")]).run(pretend, steps=2)
    Tune([sweep(together, m) for m in ("bp", "dfa")]).run(pretend, steps=4)
    Tune([sweep(together, "dfa")]).run(pretend)
    Tune([sweep(together, "bp")]).run(pretend)
    assert stored(alone) == stored(together)


def test_sweeps_take_turns_and_final_packs_go_first(tmp_path: Path) -> None:
    sweeps = [sweep(tmp_path, m, trials=4, lag=2) for m in ("bp", "dfa")]
    tune = Tune(list(sweeps), workers=3)
    handed = tune.run(pretend)
    assert [name for name, _ in handed[:4]] == [s.name for s in sweeps] * 2
    for one in sweeps:
        keys = [key for name, key in handed if name == one.name]
        assert keys[:2] == ["0", "1"]
        assert keys[2].startswith("final")
    first_final = next(k for k, (_, key) in enumerate(handed) if key.startswith("final"))
    assert not [key for _, key in handed[first_final + 1 : first_final + 2] if not key.startswith("final")]


def test_workers_start_before_the_first_pack_and_wait_where_there_is_none(tmp_path: Path) -> None:
    tune = Tune([sweep(tmp_path, lag=1)], workers=3)
    found = [tune.queue.suggest(f"a{k}") for k in range(6)]
    assert [c["workers"] for c in found[:3]] == [3, 3, 3]
    assert "job" in found[3]
    # With lag 1 the second pack waits for the first: the other workers are kept.
    assert [c["workers"] for c in found[4:] if c] == [None] * sum(c is not None for c in found[4:])
    alone = Tune([sweep(tmp_path / "one", lag=1)], workers=1)
    assert "job" in alone.queue.suggest("a")


def test_final_seeds_are_split_over_the_workers_that_are_free() -> None:
    assert Workers(1).parts(10) == 1
    assert Workers(2).parts(10) == 2
    assert Workers(16).parts(10) == 10
    assert Workers(4, unfinished=12, others=30).parts(10) == 2
    assert Workers(16, unfinished=12, others=30).parts(10) == 6
    assert Workers(16, unfinished=12, others=30).parts(1) == 1


def lost(times: dict[str, int]) -> Train:
    """Training whose process is lost so often for a pack."""

    def train(pack: HandedPack) -> list[Outcome]:
        if times.get(pack.key, 0) > 0:
            times[pack.key] -= 1
            raise ProcessLookupError
        return pretend(pack)

    return train


def test_a_lost_pack_is_handed_out_again(tmp_path: Path) -> None:
    plain, disturbed = tmp_path / "a", tmp_path / "b"
    Tune([sweep(plain)]).run(pretend)
    one = sweep(disturbed)
    handed = Tune([one]).run(lost({"0": 2, "final-0": 1}))
    assert one.done
    assert [key for _, key in handed].count("0") == 3
    assert stored(plain) == stored(disturbed)


def refusing(*keys: str) -> Train:
    def train(pack: HandedPack) -> list[Outcome]:
        if pack.key in keys:
            raise ValueError("no such thing")
        return pretend(pack)

    return train


def test_a_sweep_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    bad, good = sweep(tmp_path, "bp"), sweep(tmp_path, "dfa")

    def train(pack: HandedPack) -> list[Outcome]:
        return (refusing("0", "1", "2") if pack.plan.method == "bp" else pretend)(pack)

    Tune([bad, good]).run(train)
    assert good.done
    assert bad.failure == "every pack of the search failed: no such thing; start another sweep with --fresh"
    with pytest.raises(TpbenchError, match="every pack"):
        bad.result()
    again = sweep(tmp_path, "bp")
    assert again.failure
    assert again.finished


def test_what_a_rule_does_wrong_fails_its_sweep_at_once(tmp_path: Path) -> None:
    """Who asks again has it tried once more; a rule that was mended is another one, and its sweep too."""
    bad, good = sweep(tmp_path, "bp"), sweep(tmp_path, "dfa")
    tried = []

    def train(pack: HandedPack) -> list[Outcome]:
        if pack.plan.method == "bp":
            tried.append(pack.key)
            raise RuleError("Mine: the rule raised KeyError: 'gian' (mine.py:3)")
        return pretend(pack)

    Tune([bad, good], workers=1).run(train)
    assert good.done
    assert bad.failure == "Mine: the rule raised KeyError: 'gian' (mine.py:3)"
    assert len(tried) == 1
    status = sweep_status(bad.folder)
    assert (status.state, status.reason, status.command) == ("failed", bad.failure, "")


def test_many_failed_suggestions_are_no_search_unless_accepted(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    Tune([one]).run(refusing("1"))
    assert one.failure is not None
    assert one.failure.startswith("2 of 6 configurations could not be trained (no such thing); --accept")
    accepted = sweep(tmp_path, accept_failures=True)
    Tune([accepted]).run(pretend)
    assert accepted.done
    assert len(accepted.result()) == 3


def test_final_runs_that_cannot_be_trained_fail_the_sweep_and_are_tried_again_next_time(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    Tune([one]).run(refusing("final-0", "final-1"))
    assert one.failure == "the final runs failed: no such thing"
    again = sweep(tmp_path)
    assert not again.finished
    Tune([again]).run(pretend)
    assert again.done


def test_what_the_only_machine_lacks_fails_the_sweep_and_no_pack_for_good(tmp_path: Path) -> None:
    def unmounted(pack: HandedPack) -> list[Outcome]:
        raise TpbenchError("data set 'digits' is not in /mnt")

    one, other = sweep(tmp_path), sweep(tmp_path, "dfa")
    Tune([one, other]).run(lambda pack: (unmounted if pack.plan.method == "bp" else pretend)(pack))
    assert one.failure == "data set 'digits' is not in /mnt"
    assert other.done
    again = sweep(tmp_path)
    Tune([again]).run(pretend)
    assert again.done
    assert again.journal.failed_count == 0


def test_a_searcher_that_raises_fails_its_sweep_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = sweep(tmp_path), sweep(tmp_path, "dfa")

    def broken() -> None:
        raise RuntimeError("replaying pack 0 gave other suggestions")

    monkeypatch.setattr(one.search, "next_pack", broken)
    Tune([one, other]).run(pretend)
    assert one.failure == "RuntimeError: replaying pack 0 gave other suggestions"
    assert other.done


def test_a_finished_sweep_of_which_much_failed_stays_finished(tmp_path: Path) -> None:
    Tune([sweep(tmp_path)]).run(refusing("1"))
    accepted = sweep(tmp_path, accept_failures=True)
    Tune([accepted]).run(pretend)
    accepted.close()
    assert sweep(tmp_path).done


def test_the_same_failure_is_said_again_as_it_was(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    Tune([one]).run(refusing("0", "1", "2"))
    again = sweep(tmp_path)
    assert again.failure == one.failure
    assert one.failure is not None
    assert "no such thing" in one.failure


STATES = {name: name for name in ("PENDING", "RUNNING", "TERMINATED", "ERROR")}


def test_a_trial_that_tune_gave_up_in_silence_is_found(tmp_path: Path) -> None:
    """A worker that cannot be reset: neither the searcher nor a callback hears of it."""
    from types import SimpleNamespace

    from tpbench.sweeps.board import Board
    from tpbench.sweeps.driver import QueueCallback

    class View:
        def say(self, message: str) -> None:
            said.append(message)

        start = update = end = lambda self, *arguments: None

    said: list[str] = []
    one = sweep(tmp_path)
    tune = Tune([one], workers=1)
    tune.fill()
    trial_id = tune.packs()[0]
    trial = SimpleNamespace(trial_id=trial_id, status="ERROR", get_pickled_error=lambda: None, **STATES)
    callback = QueueCallback(tune.queue, Board(View(), [one]))  # type: ignore[arg-type]
    callback.on_step_end(1, [trial])
    assert "its process was lost" in said[0]
    tune.running.pop(trial_id)
    tune.run(pretend)
    assert one.done


def test_one_that_waits_leaves_its_place_to_a_pack_that_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen when a node was killed: the pack waited for a place, and the waiting for a pack."""
    from types import SimpleNamespace

    from tpbench.sweeps import driver

    released: list[int] = []
    queue = SweepQueue([sweep(tmp_path, trials=4)], 2, 2, released.append)
    for name in ("first", "second"):  # wait for each other
        assert queue.suggest(name)
    for name in ("first", "second"):
        queue.on_trial_complete(name, {"share": 1.0})
    configs = {name: queue.suggest(name) for name in ("pack", "another", "waits")}
    trials = [
        SimpleNamespace(trial_id=name, status="PENDING" if "job" in config else "RUNNING", **STATES)
        for name, config in configs.items()
    ]
    assert [trial.status for trial in trials] == ["PENDING", "PENDING", "RUNNING"]
    released.clear()
    callback = driver.QueueCallback(queue, None)  # type: ignore[arg-type]
    now = 0.0
    monkeypatch.setattr(driver.time, "monotonic", lambda: now)
    callback.on_step_end(1, trials)
    assert not released
    for seconds, times in ((0.5, 0), (1.5, 1), (3.0, 1), (4.0, 2)):
        now = seconds
        callback.on_step_end(2, trials)
        assert len(released) == times
    for trial in trials:
        trial.status = "RUNNING"
    for seconds in (7.0, 20.0):
        now = seconds
        callback.on_step_end(3, trials)
    assert len(released) == 2


def test_no_more_processes_start_than_there_are_packs(tmp_path: Path) -> None:
    tune = Tune([sweep(tmp_path, trials=4, lag=2)], workers=64)
    tune.fill()
    assert [c.get("workers") for c in tune.running.values()][:4] == [3, 3, 3, None]


def test_a_cluster_is_not_asked_for_more_than_it_may_give(tmp_path: Path) -> None:
    sweeps = [sweep(tmp_path, m, lag=3) for m in ("bp", "dfa", "dtp")]
    queue = SweepQueue(sweeps, 2, 2, lambda count: None, most=3)
    given = [queue.suggest(f"t{k}") for k in range(9)]
    assert sum(one is not None for one in given) == 3


def test_a_budget_begins_what_fits_beside_what_has_begun(tmp_path: Path) -> None:
    configuration = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.9, "epsilon": 1e-8}
    cells = []
    for place, method in enumerate(("bp", "dfa", "gnt")):
        plan = plan_seeds(get_workload("digits"), method, configuration, (0, 1), 1, {"by": "published"})
        cells.append(PlainSweep(f"digits-{method}", method, plan, FINGERPRINT, PackSettings(str(tmp_path)), 2))
        cells[-1].priority = place
    budget = Budget(100.0, {"digits-bp": 60.0, "digits-dfa": 30.0, "digits-gnt": 30.0})
    tune = Tune(cells, workers=2, admission=budget)
    handed = tune.run(lambda pack: [])
    assert [name for name, _ in handed] == ["digits-bp"] * 2 + ["digits-dfa"] * 2 + ["digits-gnt"] * 2
    # gnt fitted when bp had ended; with a shorter budget it never does, and nobody waits for it.
    few = [PlainSweep(c.name, c.label, c.final.plan, FINGERPRINT, c.settings, 2) for c in cells if c.final]
    short = Tune(few, workers=2, admission=Budget(70.0, {c.name: 60.0 for c in few}))
    assert {name for name, _ in short.run(lambda pack: [])} == {"digits-bp", "digits-dfa", "digits-gnt"}
    none = [PlainSweep(c.name, c.label, c.final.plan, FINGERPRINT, c.settings, 2) for c in cells if c.final]
    idle = Tune(none, workers=2, admission=Budget(1.0, {c.name: 60.0 for c in none}))
    assert idle.run(pretend) == []
    assert idle.finished
    assert idle.opened


def test_a_journal_that_cannot_be_written_ends_the_run_instead_of_waiting_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sweep(tmp_path)
    tune = Tune([one])
    tune.run(pretend, steps=2)

    def full(*_: object) -> None:
        raise TpbenchError("journal.jsonl: could not be written (No space left on device)")

    monkeypatch.setattr("tpbench.search.journal.append_line", full)
    with pytest.raises(TpbenchError, match="No space left"):
        tune.run(pretend)


def test_a_queue_that_stands_still_says_so(tmp_path: Path) -> None:
    one = sweep(tmp_path, lag=1)
    tune = Tune([one], workers=1)
    tune.fill()
    tune.queue.live.clear()  # as if Tune had forgotten it
    one.flying.clear()
    with pytest.raises(RuntimeError, match="stands still"):
        tune.queue.suggest("next")


def failures(*kinds: str, nodes: str = "") -> list[Failure]:
    return [Failure(kind, "m", nodes[k] if nodes else "n") for k, kind in enumerate(kinds)]


def test_how_often_a_pack_is_tried() -> None:
    assert not given_up(failures(*["node"] * 6, nodes="aaaaaa"), on_cluster=True)
    assert given_up(failures("node", "node", "node", nodes="abc"), on_cluster=True)
    assert given_up(failures(*["node"] * 30, nodes="a" * 30), on_cluster=True)
    assert not given_up(failures("raised", "raised"), on_cluster=True)
    assert given_up(failures(*["raised"] * 3), on_cluster=True)
    assert given_up(failures(*["lost"] * 4), on_cluster=False)
    assert not given_up(failures(*["lost"] * 49), on_cluster=True)
    assert given_up(failures(*["lost"] * packs._LOST_ON_A_CLUSTER), on_cluster=True)


def test_sweeps_without_a_search_train_what_the_store_lacks(tmp_path: Path) -> None:
    settings_ = PackSettings(str(tmp_path))
    configuration = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.9, "epsilon": 1e-8}

    def plain(seeds: Iterator[int] | range, parts: int) -> PlainSweep:
        plan = plan_seeds(get_workload("digits"), "bp", configuration, tuple(seeds), 1, {"by": "published"})
        return PlainSweep("digits-bp", "digits bp", plan, FINGERPRINT, settings_, parts)

    assert [key for _, key in Tune([plain(range(3), 1)]).run(pretend)] == ["final-0"]
    more = plain(range(6), 2)
    assert [key for _, key in Tune([more]).run(pretend)] == ["final-1"]
    assert len(more.result()) == 6
    assert more.final_progress.total == more.final_progress.done == 6


def test_what_is_handed_out_travels_as_text(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    pack = one.next_pack()
    assert pack is not None
    assert HandedPack.from_json(pack.to_json()) == pack
