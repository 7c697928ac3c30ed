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
from tpbench.engine import TpbenchError
from tpbench.results import RunRecord, RunStore
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.spaces import space_for
from tpbench.sweeps import packs
from tpbench.sweeps.packs import Failure, HandedPack, given_up
from tpbench.sweeps.sweep import PlainSweep, SearchedSweep, Workers
from tpbench.training.packs import Outcome, PackSettings, define_runs, plan_seeds

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
    made = SearchedSweep(definition, space, home, journal, PackSettings(str(folder)), **more)
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
            raise TpbenchError("data set 'digits' is not there")
        return pretend(pack)

    return train


def test_a_sweep_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    bad, good = sweep(tmp_path, "bp"), sweep(tmp_path, "dfa")

    def train(pack: HandedPack) -> list[Outcome]:
        return (refusing("0", "1", "2") if pack.plan.method == "bp" else pretend)(pack)

    Tune([bad, good]).run(train)
    assert good.done
    assert (
        bad.failure
        == "every pack of the search failed: data set 'digits' is not there; start another sweep with --fresh"
    )
    with pytest.raises(TpbenchError, match="every pack"):
        bad.result()
    again = sweep(tmp_path, "bp")
    assert again.failure
    assert again.finished


def test_many_failed_suggestions_are_no_search_unless_accepted(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    Tune([one]).run(refusing("1"))
    assert one.failure is not None
    assert one.failure.startswith(
        "2 of 6 configurations could not be trained (data set 'digits' is not there); --accept"
    )
    accepted = sweep(tmp_path, accept_failures=True)
    Tune([accepted]).run(pretend)
    assert accepted.done
    assert len(accepted.result()) == 3


def test_final_runs_that_cannot_be_trained_fail_the_sweep_and_are_tried_again_next_time(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    Tune([one]).run(refusing("final-0", "final-1"))
    assert one.failure == "the final runs failed: data set 'digits' is not there"
    again = sweep(tmp_path)
    assert not again.finished
    Tune([again]).run(pretend)
    assert again.done


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
    assert given_up(failures("node"), on_cluster=False)  # the next attempt would meet the same node
    assert not given_up(failures("node", "node", nodes="aa"), on_cluster=True)
    assert given_up(failures("node", "node", "node", nodes="abc"), on_cluster=True)
    assert given_up(failures(*["node"] * 6, nodes="aaaaaa"), on_cluster=True)
    assert not given_up(failures("raised", "raised"), on_cluster=True)
    assert given_up(failures(*["raised"] * 3), on_cluster=True)
    assert given_up(failures(*["lost"] * 4), on_cluster=False)
    assert not given_up(failures(*["lost"] * 49), on_cluster=True)
    assert given_up(failures(*["lost"] * packs._LOST_ON_A_CLUSTER), on_cluster=True)


def test_sweeps_without_a_search_train_what_the_store_lacks(tmp_path: Path) -> None:
    settings_ = PackSettings(str(tmp_path))
    configuration = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.9, "epsilon": 1e-8}

    def plain(seeds: Iterator[int] | range, parts: int) -> PlainSweep:
        plan = plan_seeds("digits", "bp", configuration, tuple(seeds), 1, {"by": "published"})
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
