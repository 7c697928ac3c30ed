"""The top of the report says what tables and leaderboards say, in words: each rule on a made-up store."""

from __future__ import annotations

from typing import Any

import pytest

from tests.results.records import record
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


def test_every_method_stands_in_one_group() -> None:
    diverged = [record("dtpdrl", 8, [0.5], status="diverged")]
    summary = summary_of(
        runs("bp", 0.01),
        runs("dfa", 0.03),
        runs("ddtp-linear", 0.0301),
        runs("dtp", 0.05),
        runs("dtp-pretrained", 0.04, seeds=2),
        runs("dtpdrl", 0.02),
        diverged,
        runs("ddtp-control", 0.04, seeds=4),
    )
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
    said = dict(statements(summary))
    assert said["Best but BP"] == ["DFA: 4.16 ± 0.14 %"]
    assert said["No difference could show (4 shared seeds)"] == ["DDTP-control"]
    assert said["Could not be tested"] == ["DTPDRL (9 seeds, 1 diverged)", "DTP (pre-trained) (2 seeds)"]
    assert [title.split(" (")[0] for title in said] == [
        "Best but BP",
        "Lower error",
        "Not told apart",
        "No difference could show",
        "Higher error",
        "Could not be tested",
    ]


def test_the_words_hold_the_numbers_of_the_tests() -> None:
    summary = summary_of(runs("bp", 0.02), runs("dfa", 0.03), runs("ddtp-linear", 0.0301))
    said = dict(statements(summary))
    by_method = {cell.method: standing.comparison for cell, standing in summary.rows}
    lower, apart = by_method["bp"], by_method["ddtp-linear"]
    assert lower is not None
    assert apart is not None
    assert said[f"Lower error (p {lower.p:.2g})"] == [f"BP {lower.difference:+.2f}"]
    assert said[f"Not told apart ({apart.detectable:.2f} would show)"] == ["DDTP-linear"]


def test_a_best_method_with_another_below_it_says_why() -> None:
    better = [record("dtp", seed, [0.5, 0.03 + seed / 1000]) for seed in range(4)]
    for run in better:
        run.curves["test_error"][1] = 0.02
    summary = summary_of(better, runs("dfa", 0.025, seeds=4))
    ((title, said), *_) = statements(summary)
    assert title == "Best"
    assert said == ["DFA: 3.65 ± 0.13 %", "by validation error; DTP has the lower test error, 2.00 %"]


def test_the_card_names_methods_whose_lower_error_is_of_too_few_seeds() -> None:
    summary = summary_of(runs("dfa", 0.03), runs("dtp", 0.04), runs("dtpdrl", 0.02, seeds=3), runs("tp", 0.01, seeds=4))
    first, second, *_ = statements(summary)
    assert first == ("Best", ["DFA: 4.16 ± 0.14 %"])
    title, said = second
    assert title == "Lower validation error, of fewer than 6 seeds"
    assert said == ["TP 1.00 % (the best's: 3.16 %)", "DTPDRL 2.23 % (the best's: 3.16 %)"]
    assert headline([summary]) == "Best so far: DFA on MNIST."


def test_a_method_of_few_seeds_with_a_lower_test_error_alone_is_named_for_that() -> None:
    lower = runs("dtpdrl", 0.05, seeds=3)
    for run in lower:
        run.curves["test_error"] = [0.5, 0.01]
    ((_, said), *_) = statements(summary_of(runs("dfa", 0.03), runs("dtp", 0.04), lower))
    assert said[1:] == ["by validation error; DTPDRL has the lower test error, 1.00 %"]


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
    assert warnings_of(summary) == [
        "not by the protocol (3 seeds): BP",
        "not by the protocol (1 diverged): DTPDRL",
        "unequal search budgets: search 100 x 100 epochs for the best; search 40 x 100 epochs for DTP",
    ]
    shorter = runs("dtp", 0.05, seeds=10, epochs=90)
    said = warnings_of(summary_of(runs("dfa", 0.03, seeds=10), shorter))
    assert said[0] == "not by the protocol (90 epochs): DTP"
    assert "unknown, trained for 100 epochs for the best; unknown, trained for 90 epochs for DTP" in said[1]


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
    assert protocol_words(summaries[3]) == "a copy of the data"
    assert protocol_words(summaries[4]) == "not in the paper"
    (mine,) = (s for s in summaries_of(runs("bp", 0.4, workload="letters", label="file 1a2b3c4d")) if s.rows)
    assert protocol_words(mine) == "not in the paper"
    assert "1 stands here by its protocol" in completeness(summaries)
    assert "1 with fewer seeds or otherwise" in completeness(summaries)
    # A copy's column stands in the place of CIFAR-10's ten cells.
    assert completeness(summaries).startswith("Of the 39 cells of the paper's Table S6, ")
    assert completeness(summaries).endswith("; 37 are missing. 1 cell of a copy of the data does not count.")
    copies = summaries_of(
        runs("bp", 0.02, seeds=10),
        runs("dfa", 0.03, seeds=3, workload="cifar10", label="JPEG copy"),
        runs("bp", 0.4, seeds=10, workload="cifar10", label="copy 0123abcd"),
    )
    assert completeness(copies).endswith("; 38 are missing. 2 cells of copies of the data do not count.")
    assert completeness(copies[:3]).endswith("; 38 are missing.")


def test_nothing_is_said_of_the_paper_where_the_store_has_none_of_its_workloads() -> None:
    summaries = summaries_of(runs("bp", 0.02, workload="digits"))
    assert completeness(summaries) == ""
    assert headline(summaries).startswith("No method can be called best yet")
    (digits,) = (summary for summary in summaries if summary.rows)
    assert dict(statements(digits))["Best but BP"][0].startswith("none can be named")


@pytest.mark.parametrize("method", ["dfa", "dtp"])
def test_the_headline_names_the_best(method: str) -> None:
    other = {"dfa": "dtp", "dtp": "dfa"}[method]
    both = [runs(method, 0.02, workload=w) + runs(other, 0.05, workload=w) for w in ("mnist", "digits")]
    assert headline(summaries_of(*both)) == f"Best so far: {method.upper()} on MNIST and Digits."
    both += [runs("bp", 0.01)]
    assert headline(summaries_of(*both)) == f"Best so far, BP apart: {method.upper()} on MNIST and Digits."


def test_the_only_method_beside_bp_is_not_called_the_best() -> None:
    """BP is what the others are measured by: who reads "best" beside a lower error of BP's would be misled."""
    summaries = summaries_of(runs("bp", 0.02, workload="digits"), runs("dfa", 0.5, workload="digits"))
    assert headline(summaries).startswith("No method can be called best yet")
    (digits,) = (summary for summary in summaries if summary.rows)
    assert dict(statements(digits))["Best but BP"][1] == "the only one that could be"
