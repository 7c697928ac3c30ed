"""Packed search: order, packing, replay after an interruption, failures. No Ray cluster is needed."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.search.hyperopt import HyperOptSearch

from tpbench.engine import TpbenchError
from tpbench.search.journal import Journal
from tpbench.search.packed_tpe import METRIC, PackedSearch
from tpbench.search.spaces import space_for
from tpbench.training.plan import Outcome


def hyperopt(known: list[dict[str, float]] | None = None) -> HyperOptSearch:
    return HyperOptSearch(
        space_for("bp").to_hyperopt(),
        metric=METRIC,
        mode="min",
        points_to_evaluate=known,
        random_state_seed=7,
        n_initial_points=4,
    )


def outcome(suggestion: dict[str, float], status: str = "finished") -> Outcome:
    """Return an outcome whose objective depends on the suggestion alone."""
    error = min(1.0, abs(suggestion["lr"] - 1e-3) * 50 + suggestion["beta1"] / 10)
    return Outcome(f"{suggestion['lr']:.17g}", status, error, error)


def play(search: PackedSearch, workers: int, seed: int, stop_after: int = 10**9) -> None:
    """Train packs on so many workers that finish in a random order; stop dead after some packs."""
    generator, running = random.Random(seed), []
    while not search.ended:
        while len(running) < workers and (entry := search.next_pack()):
            running.append(entry)
        entry = running.pop(generator.randrange(len(running)))
        search.journal.end_pack(entry.number, [outcome(s) for s in entry.suggestions])
        stop_after -= 1
        if stop_after == 0:
            return


def new_search(
    path: Path, trials: int = 12, pack: int = 3, lag: int = 2, known: list[dict[str, float]] | None = None
) -> PackedSearch:
    return PackedSearch(lambda: hyperopt(known), Journal.open(path), trials=trials, pack=pack, max_pending=lag)


def suggestions(journal: Journal) -> list[dict[str, float]]:
    return [s for pack in journal.packs for s in pack.suggestions]


def test_the_order_of_results_does_not_matter(tmp_path: Path) -> None:
    found = []
    for seed in range(4):
        search = new_search(tmp_path / f"{seed}.jsonl")
        play(search, workers=2, seed=seed)
        assert search.journal.ended_count == 12
        found.append(suggestions(search.journal))
    assert all(f == found[0] for f in found)


def test_packs_suggest_what_single_trials_suggest_first(tmp_path: Path) -> None:
    packed, single = new_search(tmp_path / "p.jsonl", pack=4, lag=1), new_search(tmp_path / "s.jsonl", pack=1, lag=1)
    play(packed, 1, 0)
    play(single, 1, 0)
    assert suggestions(packed.journal)[:4] == suggestions(single.journal)[:4]
    # Afterwards TPE has seen other results: the searches part.
    assert suggestions(packed.journal) != suggestions(single.journal)


@settings(max_examples=20, deadline=None)
@given(stop=st.integers(1, 5), again=st.integers(1, 3), seed=st.integers(0, 99))
def test_an_interrupted_search_continues_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory, stop: int, again: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("search")
    undisturbed = new_search(folder / "u.jsonl", trials=14)
    play(undisturbed, 2, seed)
    for pause in (stop, again):
        play(new_search(folder / "i.jsonl", trials=14), 2, seed + pause, stop_after=pause)
    last = new_search(folder / "i.jsonl", trials=14)
    play(last, 2, seed)
    assert suggestions(last.journal) == suggestions(undisturbed.journal)
    assert len({tuple(s.items()) for s in suggestions(last.journal)}) == 14
    assert last.journal.best() == undisturbed.journal.best()


def test_the_last_pack_is_cut_to_the_number_of_trials(tmp_path: Path) -> None:
    search = new_search(tmp_path / "j.jsonl", trials=7, pack=3)
    play(search, 2, 0)
    assert [len(p.suggestions) for p in search.journal.packs] == [3, 3, 1]


def test_a_pack_that_failed_tells_tpe_that_its_suggestions_did(tmp_path: Path) -> None:
    search = new_search(tmp_path / "j.jsonl", lag=1)
    assert search.next_pack() is not None
    assert not search.may_suggest
    assert search.next_pack() is None
    search.journal.end_pack(0, [])
    assert search.journal.failed_count == 3
    assert search.next_pack() is not None
    assert len(search.journal.path.read_text().splitlines()) == 3
    states = [t["state"] for t in search._inner._hpopt_trials._dynamic_trials[:3]]  # type: ignore[union-attr]
    assert states == [3, 3, 3]  # hyperopt's JOB_STATE_ERROR


def test_a_pack_can_be_handed_out_again(tmp_path: Path) -> None:
    search = new_search(tmp_path / "j.jsonl", lag=1)
    entry = search.next_pack()
    search.requeue(0)
    assert search.next_pack() is entry


def test_a_diverged_member_reports_the_worst_error(tmp_path: Path) -> None:
    diverged = Outcome("r", "diverged", 0.1, 0.1)
    assert diverged.score == 1.0
    assert Outcome("r", "diverged", 0.1, 0.1, value=0.0).score == math.inf
    search = new_search(tmp_path / "j.jsonl", pack=1, lag=1)
    search.next_pack()
    search.journal.end_pack(0, [diverged])
    search.next_pack()
    assert search._inner._hpopt_trials.trials[0]["result"]["loss"] == 1.0  # type: ignore[union-attr]
    assert search.journal.best() is None


def test_what_is_replayed_must_be_what_was_suggested(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    play(new_search(path), 2, 0, stop_after=2)
    path.write_text(path.read_text().replace('"lr": ', '"lr": 1', 1))
    with pytest.raises(TpbenchError, match="pack 0"):
        play(new_search(path), 2, 0)


def test_a_search_goes_on_where_exponentials_round_otherwise(tmp_path: Path) -> None:
    """numpy has several of them, for processors with AVX-512 and without."""
    whole, path = tmp_path / "whole.jsonl", tmp_path / "j.jsonl"
    play(new_search(whole), 1, 0)
    play(new_search(path), 1, 0, stop_after=2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for k, suggestion in enumerate(lines[0]["suggestions"]):
        suggestion["lr"] = math.nextafter(suggestion["lr"], k % 2)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    begun = path.read_text()
    play(new_search(path), 1, 0)
    assert path.read_text().startswith(begun)
    assert suggestions(Journal.open(path))[3:] == suggestions(Journal.open(whole))[3:]


def test_a_torn_last_line_is_dropped_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    play(new_search(path), 2, 0)
    whole = path.read_text()
    path.write_text(whole + '{"event": "sugg')
    assert suggestions(Journal.open(path)) == suggestions(new_search(path).journal)
    assert path.read_text() == whole
    path.write_text(whole.replace('"ended"', '"bended"', 1))
    with pytest.raises(TpbenchError, match=r"j\.jsonl:\d+"):
        Journal.open(path)


def test_a_journal_counts_without_a_look_at_its_packs(tmp_path: Path) -> None:
    """The scheduler asks for the counts with every report, of each sweep."""
    path = tmp_path / "j.jsonl"
    search = new_search(path, trials=14)
    play(search, 2, 0, stop_after=3)
    journals = search.journal, Journal.read(path)
    for journal in journals:
        packs = journal.packs
        suggested = sum(len(pack.suggestions) for pack in packs)
        ended = sum(len(pack.suggestions) for pack in packs if pack.outcomes is not None)
        assert suggested > ended == 9
        assert (journal.suggested_count, journal.ended_count) == (suggested, ended)
        # A pack that ended twice counts once; nothing reads the packs.
        journal._apply({"event": "ended", "pack": 0, "outcomes": []})
        journal.packs = []
        assert (journal.suggested_count, journal.ended_count) == (suggested, ended)


# On the bounds of the space, and within a rounding of neither.
KNOWN = [
    {"lr": 1e-5, "beta1": 0.999, "beta2": 0.9, "epsilon": 1e-3},
    {"lr": 1e-2, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    {"lr": 0.0002970474733093798, "beta1": 0.99, "beta2": 0.99, "epsilon": 6.9e-08},
    {"lr": 2e-4, "beta1": 0.99, "beta2": 0.99, "epsilon": 6.9e-08},
]


@pytest.mark.parametrize("pack", [3, 1, 7])
def test_known_configurations_come_first_in_their_order_and_are_replayed(tmp_path: Path, pack: int) -> None:
    undisturbed = new_search(tmp_path / "u.jsonl", 14, pack, known=KNOWN)
    play(undisturbed, 2, 0)
    assert suggestions(undisturbed.journal)[:4] == KNOWN
    for pause in (1, 1):
        play(new_search(tmp_path / "i.jsonl", 14, pack, known=KNOWN), 2, pause, stop_after=pause)
    last = new_search(tmp_path / "i.jsonl", 14, pack, known=KNOWN)
    play(last, 2, 0)
    assert suggestions(last.journal) == suggestions(undisturbed.journal)


def test_known_configurations_that_fail_do_not_hide_the_others(tmp_path: Path) -> None:
    search = new_search(tmp_path / "j.jsonl", pack=1, lag=1, known=KNOWN)
    for number in range(6):
        entry = search.next_pack()
        assert entry is not None
        failed = number in (0, 2)
        search.journal.end_pack(entry.number, [] if failed else [outcome(s) for s in entry.suggestions])
    assert suggestions(search.journal)[:4] == KNOWN
    assert len({tuple(s.items()) for s in suggestions(search.journal)}) == 6


def test_a_journal_of_other_known_configurations_is_not_replayed(tmp_path: Path) -> None:
    play(new_search(tmp_path / "j.jsonl", known=KNOWN), 2, 0, stop_after=2)
    with pytest.raises(TpbenchError, match="pack 0"):
        play(new_search(tmp_path / "j.jsonl", known=KNOWN[1:]), 2, 0)
