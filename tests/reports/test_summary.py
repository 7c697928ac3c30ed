"""The top of the report says what the leaderboard says, in words: each rule on a made-up store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.results.records import counts, record
from tpbench.reports.summary import (
    State,
    Verdict,
    few_seeds,
    legend,
    matrix,
    missing_methods,
    missing_runs,
    paper_states,
    reproduction,
    verdict_sentence,
    warnings_of,
)
from tpbench.results import RunRecord, RunStore, choose_cells
from tpbench.results.ranking import RankedCell, Ranking, rank_all
from tpbench.results.runs import search_info
from tpbench.results.tables import ErrorTable, paper_table

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
    assert verdict_sentence(every_group) == (
        f"DTPDRL is not shown to differ from BP ({every_group.cells[0].cell.mean:.2f} %); "
        f"DFA is better than BP by {unsigned(rows['DFA'])} and DDTP-linear by {unsigned(rows['DDTP-linear'])}; "
        f"DTP (40 x 100) is worse than BP by {unsigned(rows['DTP, 40 x 100'])} and "
        f"DTP by {unsigned(rows['DTP, published'])}. "
        "DFA and DDTP-linear could be the best, BP apart. DDTP-control is tested with fewer seeds, below."
    )
    assert few_seeds(every_group) == [
        ("Fewer seeds", [f"DDTP-control {rows['DDTP-control'].difference_text}"]),
        ("Not tested", ["GNT (90 epochs, BP 100)", "DTP (pre-trained) (2 seeds)"]),
    ]
    assert warnings_of(every_group) == [
        "90 epochs: GNT",
        "tunings differ (number of cells): published (8), 40 x 100 (1)",
    ]


def unsigned(row: RankedCell) -> str:
    """The size of a difference and its interval, which lies on the side of the difference."""
    low, high = sorted((abs(row.low), abs(row.high)))
    return f"{abs(row.difference):.2f} [{low:.2f}, {high:.2f}]"


def test_the_matrix_has_a_verdict_for_every_cell(every_group: Ranking) -> None:
    rows = dict(matrix([every_group]))
    found = {title: cells[0].verdicts for title, cells in rows.items()}
    best = Verdict.BEST
    assert found == {
        "BP": (Verdict.BASELINE,),
        "DFA": (Verdict.BETTER, best),
        "DDTP-linear": (Verdict.BETTER, best),
        "DTP": (Verdict.WORSE,),
        "DTP, 40 x 100": (Verdict.WORSE,),
        "DTPDRL": (Verdict.SAME,),
        "DDTP-control": (Verdict.SAME,),
        "DTP (pre-trained)": (Verdict.UNTESTED,),
        "GNT": (Verdict.UNTESTED,),
    }
    assert {title: counts(cells[0].detail) for title, cells in rows.items() if title in ("BP", "GNT")} == {
        "BP": [],
        "GNT": [90, 100],
    }
    assert set(legend(rows.items(), "bp")) == {one for verdicts in found.values() for one in verdicts}


def test_only_cells_of_the_paper_are_missing_from_the_matrix() -> None:
    both = rankings_of(
        runs("bp", 0.02),
        runs("dfa", 0.03, found=SEARCH),
        runs("dtp", 0.03),
        runs("bp", 0.02, workload="digits"),
        runs("dfa", 0.02, workload="mnist-frozen"),
    )
    titles = [ranking.workload for ranking in both]
    rows = {title: dict(zip(titles, cells, strict=True)) for title, cells in matrix(both)}
    assert rows["DTP"]["mnist-frozen"].verdicts == (Verdict.MISSING,)
    assert rows["DTP"]["digits"].verdicts == (Verdict.OUTSIDE,)
    assert rows["DFA, 40 x 100"]["mnist-frozen"].verdicts == (Verdict.OUTSIDE,)


def test_the_commands_train_what_is_missing() -> None:
    ranking = ranking_of(
        runs("bp", 0.02), runs("dfa", 0.03, seeds=3), runs("dtp", 0.03, seeds=4, found=SEARCH), runs("gnt", 0.03)
    )
    assert missing_runs(ranking) == [
        "tpbench run mnist dfa --seeds 3-9",
        "tpbench run mnist dtp --config best --seeds 4-9",
    ]
    assert missing_runs(ranking, [SEARCH["sweep"]])[1] == "tpbench run mnist dtp --seeds 4-9"
    names = missing_methods(ranking)
    assert len(names) == 10 - 2
    assert "DTP" in names
    digits = ranking_of(runs("bp", 0.02, workload="digits"))
    assert (missing_methods(digits), missing_runs(digits)) == ([], [])


def test_best_is_named_only_where_it_is_that_configuration() -> None:
    other = search_info("t", 80, 100, "0" * 64, "final", range(10))
    ranking = ranking_of(
        runs("dtp", 0.03, seeds=4, found=other), runs("dtp", 0.02, seeds=4, found=SEARCH), runs("dtp", 0.01, seeds=4)
    )
    assert missing_runs(ranking) == ["tpbench run mnist dtp --seeds 4-9"]
    trial = search_info("s", 40, 100, "0" * 64, "search", range(10))
    assert missing_runs(ranking_of(runs("dtp", 0.03, seeds=1, found=trial))) == []
    quoted = ranking_of(runs("a b", 0.03, seeds=9))
    assert missing_runs(quoted) == ["tpbench run mnist 'a b' --seeds 9"]


def test_seeds_and_departures_of_untested_cells_are_told() -> None:
    few = runs("dfa", 0.05, seeds=4, epochs=2)
    (_, (cell,)), *_ = matrix([ranking_of(few)])
    assert cell.detail.split(", ") == ["no BP", "4 seeds", "2 epochs"]
    both = ranking_of(runs("bp", 0.02, seeds=2), few)
    cells = [cells[0].detail for _, cells in matrix([both])]
    assert cells == ["2 seeds", "2 epochs, BP 100, 4 seeds"]
    assert [text.split(": ")[0] for text in warnings_of(both)] == [
        "without seeds 2-9",
        "without seeds 4-9",
        "2 epochs",
    ]


def test_names_are_never_taken_for_places_of_text() -> None:
    ranking = ranking_of(runs("bp", 0.02), runs("nosuch{}", 0.02), runs("other{0}", 0.5))
    sentence = verdict_sentence(ranking)
    assert [sentence.count(name) for name in ("nosuch{}", "other{0}", "BP (3.")] == [1, 1, 1]


def test_the_best_of_the_others_is_told_where_nothing_is_tested_against_the_baseline() -> None:
    ranking = ranking_of(runs("bp", 0.02, seeds=2), runs("dfa", 0.05), runs("dtp", 0.02))
    sentence = verdict_sentence(ranking)
    assert ("DTP could be the best" in sentence, "BP apart" in sentence) == (True, False)


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
    assert "best" not in verdict_sentence(ranking)
    assert not any(Verdict.BEST in cell.verdicts for _, row in matrix([ranking]) for cell in row)


def test_another_baseline_is_named() -> None:
    ranking = ranking_of(runs("bp", 0.02), runs("dfa", 0.03), runs("dtp", 0.05), baseline="dfa")
    sentence = verdict_sentence(ranking)
    assert [word in sentence for word in ("better than DFA", "worse than DFA", "than BP")] == [True, True, False]
    assert dict(matrix([ranking]))["DFA"][0].verdicts == (Verdict.BASELINE,)


def test_without_the_baseline_nothing_is_tested_against_it() -> None:
    ranking = ranking_of(runs("dfa", 0.02), runs("dtp", 0.05))
    assert "no run of BP" in verdict_sentence(ranking)
    assert {cell.verdicts[-1] for _, row in matrix([ranking]) for cell in row} == {Verdict.UNTESTED}
    ((_, untested),) = few_seeds(ranking)
    assert all(name in untested[0] for name in ("DFA", "DTP", "no BP"))


def test_cells_of_few_seeds_make_the_sentence_where_there_are_no_others() -> None:
    ranking = ranking_of(runs("bp", 0.02, seeds=4), runs("dfa", 0.05, seeds=4), runs("dtp", 0.05, seeds=2))
    assert "DFA is worse than BP" in verdict_sentence(ranking)
    assert "p 0." in verdict_sentence(ranking)
    assert "DTP" not in verdict_sentence(ranking)


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
    # All cells, whole ones, others, missing ones.
    text = reproduction(rankings, table_of(rankings)).replace("S6", "")
    assert counts(text.split(".")[0]) == [39, 1, 4, 34]


def table_of(rankings: list[Ranking]) -> ErrorTable:
    cells = {row.cell.key: row.cell for ranking in rankings for row in ranking.cells}
    return paper_table(RunStore(Path("nowhere")), "s6", cells)


def test_nothing_is_said_of_the_paper_where_the_store_has_none_of_its_cells() -> None:
    for found in (runs("bp", 0.02, workload="digits"), runs("bp", 0.02, found=SEARCH)):
        rankings = rankings_of(found)
        assert reproduction(rankings, table_of(rankings)) == ""


def test_agreement_with_the_paper_is_counted() -> None:
    rankings = rankings_of(runs("bp", 0.0094, step=0.0001), runs("dfa", 0.5), runs("dtp", 0.02, found=SEARCH))
    text = reproduction(rankings, table_of(rankings)).partition("missing. ")[2]
    # BP's error is the paper's, DFA's is far from it.
    # Those that are compared, within, the margin, and outside.
    assert counts(text.split(" outside")[0]) == [2, 1, 5, 1]
