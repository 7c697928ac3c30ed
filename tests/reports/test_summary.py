"""The top of the report says what the leaderboard says, in words: each rule on a made-up store."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.results.records import counts, record
from tpbench.reports.summary import (
    State,
    completeness,
    headline,
    paper_states,
    protocol_words,
    statements,
    warnings_of,
)
from tpbench.results import RunRecord, choose_cells
from tpbench.results.ranking import Ranking, rank_all
from tpbench.results.runs import search_info

PUBLISHED = {"by": "published"}
SEARCH = search_info("s", 40, 100, "0" * 64, "final", range(10))


def runs(method: str, level: float, seeds: int = 10, step: float = 0.0005, **options: Any) -> list[RunRecord]:
    """A method's runs; the error of a seed is ``level`` and a little that depends on method and seed."""
    wobble = np.random.default_rng(list(method.encode())).permutation(seeds) * step
    options = {"found": PUBLISHED, "lr": 2e-3 if "found" in options else 1e-3, **options}
    return [record(method, seed, [0.5, level + float(wobble[seed])], **options) for seed in range(seeds)]


def rankings_of(*records: list[RunRecord], baseline: str = "bp") -> list[Ranking]:
    return rank_all(choose_cells(run for part in records for run in part), baseline)


def ranking_of(*records: list[RunRecord], baseline: str = "bp") -> Ranking:
    """Of MNIST."""
    (ranking,) = rankings_of(*records, baseline=baseline)
    return ranking


@pytest.fixture
def every_group() -> Ranking:
    """A workload with a method in each group."""
    return ranking_of(
        runs("bp", 0.03),
        runs("dfa", 0.02),
        runs("ddtp-linear", 0.0201),
        runs("dtp", 0.05),
        runs("dtp", 0.04, found=SEARCH),
        runs("dtpdrl", 0.03),
        runs("ddtp-control", 0.031, seeds=4),
        runs("dtp-pretrained", 0.04, seeds=2),
        runs("gnt", 0.04, epochs=90),
    )


def test_the_sentences(every_group: Ranking) -> None:
    """The only test of their words."""
    rows = {row.cell.title: row for row in every_group.cells}
    assert headline([every_group]) == "Could be the best, BP apart: DFA and DDTP-linear on MNIST."
    said = statements(every_group)
    assert said == [
        ("Could be the best, BP apart", ["DFA", "DDTP-linear"]),
        ("Better than BP", [f"{name} {rows[name].difference_text}" for name in ("DFA", "DDTP-linear")]),
        ("Worse than BP", [f"{name} {rows[name].difference_text}" for name in ("DTP, 40 x 100", "DTP, published")]),
        ("Not shown to differ from BP", ["DTPDRL"]),
        ("Permutation test", [f"DDTP-control {rows['DDTP-control'].difference_text}"]),
        ("Not tested", ["GNT (90 epochs, BP 100)", "DTP (pre-trained) (2 seeds)"]),
    ]
    assert warnings_of(every_group) == [
        "90 epochs: GNT",
        "tunings differ (number of cells): published (8), 40 x 100 (1)",
    ]


def test_the_sentences_hold_the_numbers_of_the_tests(every_group: Ranking) -> None:
    rows = {row.cell.title: row for row in every_group.cells}
    found = {entry.split(" ")[0]: entry for _, entries in statements(every_group) for entry in entries}
    numbers = [float(number) for number in re.findall(r"[+-]\d\.\d\d", found["DFA"])]
    dfa = rows["DFA"]
    assert numbers == [round(value, 2) for value in (dfa.difference, dfa.low, dfa.high)]
    assert f"p {rows['DDTP-control'].p:.2g}" in found["DDTP-control"]


def test_every_method_but_the_baseline_has_one_result(every_group: Ranking) -> None:
    results = [
        entry for title, entries in statements(every_group) if not title.startswith("Could") for entry in entries
    ]
    assert len(results) == len(every_group.cells) - 1


def test_departures_are_warnings_and_missing_seeds_are_not_said_twice() -> None:
    diverged = [record("dfa", 9, [0.5], status="diverged", found=PUBLISHED)]
    ranking = ranking_of(
        runs("bp", 0.02), runs("dfa", 0.03, seeds=9), diverged, runs("dtp", 0.03, seeds=3, precision="bf16")
    )
    assert [warning.rpartition(": ") for warning in warnings_of(ranking)] == [
        ("1 of 10 diverged", ": ", "DFA"),
        ("bf16", ": ", "DTP"),
    ]


@pytest.mark.parametrize(
    "cells", [[("bp", 10)], [("bp", 10), ("dfa", 10)], [("bp", 10), ("dfa", 10), ("dtp", 9)], [("dfa", 3), ("dtp", 3)]]
)
def test_nothing_could_be_the_best_with_fewer_than_two_rivals(cells: list[tuple[str, int]]) -> None:
    ranking = ranking_of(*(runs(method, 0.02, seeds) for method, seeds in cells))
    assert headline([ranking]) == ""
    assert not any(title.startswith("Could") for title, _ in statements(ranking))


def test_the_headline_names_each_method_once() -> None:
    both = rankings_of(
        runs("bp", 0.02),
        runs("dfa", 0.03),
        runs("dfa", 0.03, found=SEARCH),
        runs("dtp", 0.5),
        *(runs(method, 0.03, workload="digits") for method in ("dfa", "dtp")),
    )
    names, _, last = headline(both).partition(": ")[2].partition("; ")
    assert names == "DFA on MNIST"
    assert last.split(" on ")[0].split(" and ") == ["DFA", "DTP"]


def test_another_baseline_is_named() -> None:
    ranking = ranking_of(runs("bp", 0.02), runs("dfa", 0.03), runs("dtp", 0.05), baseline="dfa")
    assert ", DFA apart: BP on" in headline([ranking])
    assert dict(statements(ranking)).keys() == {"Could be the best, DFA apart", "Better than DFA", "Worse than DFA"}


def test_without_the_baseline_nothing_is_tested_against_it() -> None:
    ranking = ranking_of(runs("dfa", 0.02), runs("dtp", 0.05))
    assert ", BP apart" not in headline([ranking])
    (best, names), (_, untested) = statements(ranking)
    assert (best, names) == ("Could be the best", ["DFA"])
    assert len(untested) == 1
    assert all(name in untested[0] for name in ("DFA", "DTP", "no BP"))


def test_completeness_counts_the_papers_published_cells_alone() -> None:
    diverged = [record("dtpdrl", 9, [0.5], status="diverged", found=PUBLISHED)]
    rankings = rankings_of(
        runs("bp", 0.02),
        runs("dfa", 0.03, seeds=3),
        runs("dtp", 0.03, found=SEARCH),
        runs("ddtp-linear", 0.03, epochs=90),
        runs("ddtp-rhl", 0.03, precision="bf16"),
        runs("dtpdrl", 0.03, seeds=9),
        diverged,
        runs("gnt", 0.03),
        runs("bp", 0.4, workload="cifar10", label="copy 0123abcd"),
        runs("dfa", 0.4, workload="cifar10", label="copy 0123abcd", found=SEARCH),
        runs("bp", 0.4, workload="digits"),
    )
    states = paper_states(rankings, "mnist")
    assert {method: state for method, state in states.items() if state is not State.MISSING} == {
        "bp": State.WHOLE,
        **dict.fromkeys(("ddtp-linear", "ddtp-rhl", "dtpdrl", "dfa"), State.PARTIAL),
    }
    assert set(paper_states(rankings, "cifar10").values()) == {State.MISSING}
    # All cells, whole ones, the protocol's seeds, others, missing ones, those of copies.
    assert counts(completeness(rankings).replace("S6", "")) == [39, 1, 10, 4, 34, 1]
    mnist, copy, digits = rankings
    assert counts(protocol_words(mnist, states)) == [5, 10, 1]
    assert "copy" in protocol_words(copy, {})
    assert protocol_words(digits, {}).startswith("not in")


def test_nothing_is_said_of_the_paper_where_the_store_has_none_of_its_cells() -> None:
    assert completeness(rankings_of(runs("bp", 0.02, workload="digits"))) == ""
    assert completeness(rankings_of(runs("bp", 0.02, found=SEARCH))) == ""
