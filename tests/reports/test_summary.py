"""The top of the report says what tables and leaderboards say, in words: each rule on a made-up store."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.results.records import counts, record
from tpbench.reports.summary import (
    State,
    WorkloadSummary,
    completeness,
    headline,
    protocol_words,
    statements,
    summarise,
    warnings_of,
)
from tpbench.results import RunRecord, choose_cells
from tpbench.results.ranking import Verdict, all_standings
from tpbench.results.runs import search_info


def runs(method: str, level: float, seeds: int = 8, step: float = 0.001, **options: Any) -> list[RunRecord]:
    """A method's runs; the error of a seed is ``level`` and a little that depends on method and seed."""
    wobble = [step * ((seed * (len(method) + 3)) % 5) for seed in range(seeds)]
    return [record(method, seed, [0.5, level + wobble[seed]], **options) for seed in range(seeds)]


def summary_of(*records: list[RunRecord]) -> WorkloadSummary:
    """Of MNIST."""
    return summaries_of(*records)[0]


def summaries_of(*records: list[RunRecord]) -> list[WorkloadSummary]:
    cells = choose_cells(run for part in records for run in part)
    return summarise(cells, all_standings(cells))


def methods(rows: list[Any]) -> list[str]:
    return [cell.method for cell, _ in rows]


def about(summary: WorkloadSummary, method: str) -> tuple[str, str]:
    """Return the statement that names a method, and its entry."""
    ((title, entry),) = [(t, e) for t, entries in statements(summary) for e in entries if e.startswith(method)]
    return title, entry


@pytest.fixture
def every_group() -> WorkloadSummary:
    """A workload with a method in each group."""
    diverged = [record("dtpdrl", 8, [0.5], status="diverged")]
    return summary_of(
        runs("bp", 0.01),
        runs("dfa", 0.03),
        runs("ddtp-linear", 0.0301),
        runs("dtp", 0.05),
        runs("dtp-pretrained", 0.04, seeds=2),
        runs("dtpdrl", 0.02),
        diverged,
        runs("ddtp-control", 0.04, seeds=4),
    )


def test_every_method_stands_in_one_group(every_group: WorkloadSummary) -> None:
    summary = every_group
    assert summary.best is not None
    assert summary.best[0].method == "dfa"
    groups = {
        "lower": summary.of(Verdict.LOWER),
        "apart": summary.not_told_apart,
        "silent": summary.silent,
        "higher": summary.of(Verdict.HIGHER),
        "untested": summary.untested,
    }
    assert {name: methods(rows) for name, rows in groups.items()} == {
        "lower": ["bp"],
        "apart": ["ddtp-linear"],
        "silent": ["ddtp-control"],
        "higher": ["dtp"],
        "untested": ["dtpdrl", "dtp-pretrained"],
    }
    assert [cell.marks for cell, _ in summary.untested] == [["9 seeds", "1 diverged"], ["2 seeds"]]
    assert [standing.comparison.seeds for _, standing in summary.silent if standing.comparison] == [4]


def test_the_sentences(every_group: WorkloadSummary) -> None:
    """The only test of their words."""
    numbers = {cell.method: standing.comparison for cell, standing in every_group.rows if standing.comparison}
    bp, apart, dtp = numbers["bp"], numbers["ddtp-linear"], numbers["dtp"]
    assert headline([every_group]) == "Best so far, BP apart: DFA on MNIST."
    assert statements(every_group) == [
        ("Best but BP", ["DFA: 4.16 ± 0.14 %"]),
        (f"Lower error (p {bp.p:.2g})", [f"BP {bp.difference:+.2f}"]),
        (f"Not told apart ({apart.detectable:.2f} would show)", ["DDTP-linear"]),
        ("No difference could show (4 shared seeds)", ["DDTP-control"]),
        (f"Higher error (p {dtp.p:.2g})", [f"DTP {dtp.difference:+.2f}"]),
        ("Could not be tested", ["DTPDRL (9 seeds, 1 diverged)", "DTP (pre-trained) (2 seeds)"]),
    ]
    small, large = (search_info("s", trials, 100, "0" * 64, "final", range(10)) for trials in (40, 100))
    unequal = summary_of(runs("dfa", 0.03, seeds=10, found=large), runs("dtp", 0.05, seeds=3, found=small))
    assert warnings_of(unequal) == [
        "not by the protocol (3 seeds): DTP",
        "unequal search budgets: search 100 x 100 epochs for the best; search 40 x 100 epochs for DTP",
    ]


def test_the_words_hold_the_numbers_of_the_tests() -> None:
    summary = summary_of(runs("bp", 0.02), runs("dfa", 0.03), runs("ddtp-linear", 0.0301))
    by_method = {cell.method: standing.comparison for cell, standing in summary.rows}
    lower, apart = by_method["bp"], by_method["ddtp-linear"]
    assert lower is not None
    assert apart is not None
    title, entry = about(summary, "BP")
    assert f"(p {lower.p:.2g})" in title
    assert entry.endswith(f" {lower.difference:+.2f}")
    title, entry = about(summary, "DDTP-linear")
    assert f"({apart.detectable:.2f} " in title


def test_a_best_method_with_another_below_it_says_why() -> None:
    better = [record("dtp", seed, [0.5, 0.03 + seed / 1000]) for seed in range(4)]
    for run in better:
        run.curves["test_error"][1] = 0.02
    summary = summary_of(better, runs("dfa", 0.025, seeds=4))
    ((title, (best, reason)), *_) = statements(summary)
    assert title == summary.best_title == "Best"
    assert best.startswith("DFA: 3.65 ± 0.13")
    assert all(word in reason for word in ("validation", "DTP", "2.00"))


def test_the_card_names_methods_whose_lower_error_is_of_too_few_seeds() -> None:
    summary = summary_of(runs("dfa", 0.03), runs("dtp", 0.04), runs("dtpdrl", 0.02, seeds=3), runs("tp", 0.01, seeds=4))
    first, second, *_ = statements(summary)
    assert first == ("Best", ["DFA: 4.16 ± 0.14 %"])
    title, said = second
    assert "6 seeds" in title
    assert [entry.split()[0] for entry in said] == ["TP", "DTPDRL"]
    assert [re.findall(r"\d\.\d\d", entry) for entry in said] == [["1.00", "3.16"], ["2.23", "3.16"]]
    assert "DFA on" in headline([summary])


def test_a_method_of_few_seeds_with_a_lower_test_error_alone_is_named_for_that() -> None:
    lower = runs("dtpdrl", 0.05, seeds=3)
    for run in lower:
        run.curves["test_error"] = [0.5, 0.01]
    ((_, said), *_) = statements(summary_of(runs("dfa", 0.03), runs("dtp", 0.04), lower))
    (reason,) = said[1:]
    assert all(word in reason for word in ("validation", "DTPDRL", "1.00"))


def test_warnings_name_few_seeds_diverged_seeds_and_unequal_budgets() -> None:
    small, large = (search_info("s", trials, 100, "0" * 64, "final", range(10)) for trials in (40, 100))
    summary = summary_of(
        runs("dfa", 0.03, seeds=10, found=large),
        runs("dtp", 0.05, seeds=10, found=small),
        runs("bp", 0.02, seeds=3),
        runs("dtpdrl", 0.05, seeds=9),
        [record("dtpdrl", 9, [0.5], status="diverged")],
        runs("ddtp-linear", 0.06, seeds=10, found=large),
    )
    departed = {mark: [cell.method for cell in cells] for mark, cells in summary.departures.items()}
    assert departed == {"3 seeds": ["bp"], "1 diverged": ["dtpdrl"]}
    assert [cell.method for cell in summary.unequal] == ["dtp"]
    few, diverged, unequal = warnings_of(summary)
    assert "(3 seeds): BP" in few
    assert diverged.endswith("(1 diverged): DTPDRL")
    assert counts(unequal) == [100, 100, 40, 100]  # trials and epochs of the best and of the other
    assert unequal.endswith("for DTP")


def test_warnings_name_other_epochs_as_another_budget() -> None:
    shorter = summary_of(runs("dfa", 0.03, seeds=10), runs("dtp", 0.05, seeds=10, epochs=90))
    departure, budget = warnings_of(shorter)
    assert departure.endswith("(90 epochs): DTP")
    assert re.findall(r"(\d+) epochs", budget) == ["100", "90"]


def test_completeness_counts_the_papers_cells_alone() -> None:
    summaries = summaries_of(
        runs("bp", 0.02, seeds=10),
        runs("dfa", 0.03, seeds=3),
        runs("gnt", 0.03, seeds=10),
        runs("bp", 0.4, seeds=10, workload="cifar10", label="copy 0123abcd"),
        runs("bp", 0.4, workload="digits"),
    )
    assert [summary.title for summary in summaries] == [
        "MNIST",
        "MNIST (frozen)",
        "Fashion-MNIST",
        "CIFAR10 (copy 0123abcd)",
        "Digits",
    ]
    mnist = summaries[0]
    assert mnist.states["bp"] is State.WHOLE
    assert mnist.states["dfa"] is State.PARTIAL
    assert mnist.states["dtp"] is State.MISSING
    assert (len(mnist.states), "gnt" in mnist.states) == (10, False)
    assert [len(summary.states) for summary in summaries] == [10, 9, 10, 0, 0]
    assert "copy" in protocol_words(summaries[3])
    assert protocol_words(summaries[4]).startswith("not in")
    (mine,) = (s for s in summaries_of(runs("bp", 0.4, workload="letters", label="file 1a2b3c4d")) if s.rows)
    assert protocol_words(mine) == protocol_words(summaries[4])
    assert completeness(summaries) == (
        "Of the 39 cells of the paper's Table S6, 1 stands here by its protocol (10 seeds, all epochs, none diverged), "
        # A copy's column stands in the place of CIFAR-10's ten cells.
        "1 with fewer seeds or otherwise; 37 are missing. 1 cell of a copy of the data does not count."
    )


def test_copies_of_the_data_do_not_count_as_the_papers_cells() -> None:
    copies = summaries_of(
        runs("bp", 0.02, seeds=10),
        runs("dfa", 0.03, seeds=3, workload="cifar10", label="JPEG copy"),
        runs("bp", 0.4, seeds=10, workload="cifar10", label="copy 0123abcd"),
    )
    # All cells, whole ones, the protocol's seeds, missing ones, those of copies.
    assert counts(completeness(copies)) == [39, 1, 10, 38, 2]
    assert counts(completeness(copies[:3])) == [39, 1, 10, 38]


def test_nothing_is_said_of_the_paper_where_the_store_has_none_of_its_workloads() -> None:
    summaries = summaries_of(runs("bp", 0.02, workload="digits"))
    assert completeness(summaries) == ""
    assert headline(summaries).startswith("No method")
    (digits,) = (summary for summary in summaries if summary.rows)
    assert digits.best is None
    ((title, (reason,)), *_) = statements(digits)
    assert title == digits.best_title
    assert reason.startswith("none")


@pytest.mark.parametrize("method", ["dfa", "dtp"])
def test_the_headline_names_the_best(method: str) -> None:
    other = {"dfa": "dtp", "dtp": "dfa"}[method]
    both = [runs(method, 0.02, workload=w) + runs(other, 0.05, workload=w) for w in ("mnist", "digits")]
    assert f"far: {method.upper()} on MNIST" in headline(summaries_of(*both))
    assert headline(summaries_of(*both)).endswith("and Digits.")
    both += [runs("bp", 0.01)]
    assert f"BP apart: {method.upper()}" in headline(summaries_of(*both))


def test_the_only_method_beside_bp_is_not_called_the_best() -> None:
    """BP is what the others are measured by: who reads "best" beside a lower error of BP's would be misled."""
    summaries = summaries_of(runs("bp", 0.02, workload="digits"), runs("dfa", 0.5, workload="digits"))
    assert headline(summaries).startswith("No method")
    (digits,) = (summary for summary in summaries if summary.rows)
    assert digits.alone
    ((_, (best, reason)), *_) = statements(digits)
    assert best.startswith("DFA: ")
    assert "only" in reason
