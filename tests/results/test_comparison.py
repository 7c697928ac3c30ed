"""The comparison of two methods over the workloads of a store, and of two runs by each test sample."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.results.records import counts, record, runs_with, store_of
from tpbench.engine import TpbenchError, UsageError
from tpbench.results import RunRecord, RunStore, choose_cells
from tpbench.results.comparison import COLUMNS, compare_methods, comparison_notes, render_comparison, runs_comparison
from tpbench.results.ranking import rank_all
from tpbench.results.runs import FROM_FILE, PUBLISHED, Predictions, search_info
from tpbench.results.statistics import max_t, permutation_p

SEARCHED = search_info("s", 40, 100, "d", "final", range(10))
NOISE = {
    method: np.random.default_rng(n).permutation(np.linspace(-0.09, 0.09, 10))
    for n, method in enumerate(("bp", "dfa", "dtp", "tp"))
}


def trained(method: str, mean: float, seeds: Iterable[int] = range(10), **more: object) -> list[RunRecord]:
    """Runs of a method with this test error in per cent, and noise that is fixed by method and seed."""
    numbers = list(seeds)
    return runs_with(method, [mean + NOISE[method][n % 10] for n in numbers], numbers, **more)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Four methods on MNIST; two of them on digits, where DFA lacks seeds."""
    digits = trained("bp", 5.0, workload="digits"), trained("dfa", 5.5, range(4), workload="digits")
    mnist = trained("bp", 2.0), trained("dfa", 2.3), trained("dtp", 2.35), trained("tp", 3.0)
    return store_of(tmp_path / "results", *mnist, *digits)


def test_against_the_baseline_p_is_that_of_all_methods_against_it(store: RunStore) -> None:
    ranking = rank_all(choose_cells(store.summaries()))[0]
    expected = next(each for each in ranking.cells if each.cell.method == "dfa")
    differences = np.stack([0.3 + NOISE["dfa"], 0.35 + NOISE["dtp"], 1.0 + NOISE["tp"]], axis=1) - NOISE["bp"][:, None]
    found = compare_methods(store, "dfa", "bp", ["mnist"]).iloc[0]
    assert found.p == expected.p == pytest.approx(max_t(differences)[0])
    assert (found.difference, found.low, found.high) == (expected.difference, expected.low, expected.high)
    assert found.difference == pytest.approx(0.3)
    assert found.family == "against BP"
    assert found.verdict.split()[0] == "bp"


def test_the_order_of_two_methods_turns_the_difference_around(store: RunStore) -> None:
    for first, second in (("dfa", "bp"), ("dfa", "tp"), ("dfa", "dtp")):
        one, other = (compare_methods(store, *pair).iloc[0] for pair in ((first, second), (second, first)))
        assert other.difference == pytest.approx(-one.difference)
        assert (other.p, other.family, other.verdict) == (one.p, one.family, one.verdict)
        if not math.isnan(one.low):
            assert (other.low, other.high) == pytest.approx((-one.high, -one.low))


def test_of_two_rivals_p_is_that_of_all_pairs(store: RunStore) -> None:
    ranking = rank_all(choose_cells(store.summaries()))[0]
    for better, worse in (("dfa", "tp"), ("dfa", "dtp")):
        found = compare_methods(store, better, worse).iloc[0]
        keys = [next(each.cell.key for each in ranking.cells if each.cell.method == m) for m in (worse, better)]
        assert found.p == ranking.rival_p[keys[0], keys[1]]
        assert (found.family, found.tested) == ("all pairs", "max-T, 10 seeds")
        # One-sided, for the method with the lower mean being better: no interval.
        assert math.isnan(found.low)
    assert compare_methods(store, "dfa", "tp").iloc[0].verdict.split()[0] == "dfa"
    near = compare_methods(store, "dfa", "dtp").iloc[0]
    assert near.p > 0.05
    assert near.verdict.startswith("no difference")


def test_a_difference_has_the_digits_that_a_leaderboard_against_one_of_the_two_has(tmp_path: Path) -> None:
    # Half way between two last digits, where the sums of the two ways differ by a rounding.
    means = {"bp": 2.0, "dfa": 2.005, "dtp": 2.44, "tp": 2.875}
    store = store_of(tmp_path / "results", *(trained(method, mean) for method, mean in means.items()))
    cells = choose_cells(store.summaries())
    for base in ("dtp", "tp"):
        (ranking,) = rank_all(cells, base)
        shown = {each.cell.method: each.difference for each in ranking.cells}
        for method in set(means) - {"bp", base}:
            found = compare_methods(store, method, base).iloc[0]
            assert (found.family, found.difference) == ("all pairs", shown[method])


def test_another_baseline_changes_the_families(store: RunStore) -> None:
    against = compare_methods(store, "dfa", "tp", baseline="tp").iloc[0]
    assert against.family == "against TP"
    rivals = compare_methods(store, "dfa", "bp", ["mnist"], baseline="tp").iloc[0]
    assert rivals.family == "all pairs"


def test_a_workload_alone_has_the_p_that_it_has_among_others(store: RunStore) -> None:
    every = compare_methods(store, "dfa", "bp")
    assert every.workload.tolist() == ["mnist", "digits"]
    for workload in every.workload:
        alone = compare_methods(store, "dfa", "bp", [workload])
        pd.testing.assert_frame_equal(alone, every[every.workload == workload].reset_index(drop=True))
    assert compare_methods(store, "dfa", "bp", ["cifar10"]).empty


def test_a_cell_of_few_seeds_is_tested_by_permutations(store: RunStore) -> None:
    found = compare_methods(store, "dfa", "bp", ["digits"]).iloc[0]
    assert found.p == pytest.approx(permutation_p(5.5 + NOISE["dfa"][:4], 5.0 + NOISE["bp"]))
    assert (found.first_seeds, found.second_seeds) == ("0-3", "0-9")
    assert found.first_marks.startswith("without seeds 4-9")
    assert found.tested == "permutation, 4 and 10 seeds"


@pytest.mark.parametrize(
    ("other", "numbers"),
    [
        ({"seeds": range(5)}, []),
        ({"diverged": range(8)}, [8, 10]),
        ({"epochs": 30}, [30, 100]),
        ({"fingerprint": "e" * 64}, []),
    ],
    ids=["few seeds", "diverged", "other epochs", "other order"],
)
def test_two_rivals_that_are_not_in_the_family_are_not_tested(
    tmp_path: Path, other: dict[str, Any], numbers: list[int]
) -> None:
    """A p of such a pair alone would be one that nothing corrects."""
    rivals = trained("dtp", 2.9), trained("tp", 3.0)
    store = store_of(tmp_path, trained("bp", 2.0), trained("dfa", 2.3, **other), *rivals)
    for names in (("dfa", "dtp"), ("dtp", "dfa")):
        found = compare_methods(store, *names).iloc[0]
        assert found.tested.startswith("not tested: ")
        assert found.verdict == found.tested
        assert (found.family, sorted(counts(found.tested))) == ("none", numbers)
        assert all(math.isnan(found[name]) for name in ("difference", "low", "high", "p"))
    assert compare_methods(store, "dtp", "tp").iloc[0].family == "all pairs"


@pytest.mark.parametrize("other", [{"seeds": range(2)}, {"seeds": range(20, 30)}, {"seeds": range(10), "epochs": 30}])
def test_nothing_is_said_where_nothing_can_be_tested(tmp_path: Path, other: dict[str, object]) -> None:
    """Two seeds, seeds outside the protocol, other epochs: against the baseline and against a rival."""
    store = store_of(tmp_path, trained("bp", 2.0), trained("dfa", 1.0, **other), trained("dtp", 2.9))  # type: ignore[arg-type]
    for second in ("bp", "dtp"):
        found = compare_methods(store, "dfa", second).iloc[0]
        assert found.tested.startswith("not tested")
        assert all(math.isnan(found[name]) for name in ("difference", "low", "high", "p"))
        assert found.verdict == found.tested


def test_methods_are_compared_within_their_tuning_labels(tmp_path: Path) -> None:
    labels = {"published": PUBLISHED, "40 x 100": SEARCHED}
    groups = [
        trained(method, mean + n, lr=n + 1.0, found=info)
        for method, mean in {"dfa": 2.0, "dtp": 3.0}.items()
        for n, info in enumerate(labels.values())
    ]
    store = store_of(tmp_path, trained("bp", 1.0, found=PUBLISHED), *groups)
    found = compare_methods(store, "dfa", "dtp")
    assert found.first_tuning.tolist() == found.second_tuning.tolist() == list(labels)
    assert found.difference.tolist() == pytest.approx([-1.0, -1.0])


def test_without_a_label_in_common_the_best_known_are_compared(tmp_path: Path) -> None:
    store = store_of(
        tmp_path,
        trained("dfa", 2.0, found=SEARCHED),
        trained("dfa", 2.5, lr=1.0, found=FROM_FILE),
        trained("dtp", 3.0, found=PUBLISHED),
    )
    (row,) = compare_methods(store, "dfa", "dtp").to_dict("records")
    assert (row["first_tuning"], row["second_tuning"]) == ("40 x 100", "published")


@pytest.mark.parametrize("baseline", ["bp", "dfa", "dtp"])
def test_a_tuning_that_both_have_is_compared_within_itself(tmp_path: Path, baseline: str) -> None:
    """A tuned method is not compared with one that was not: the rows are those of ``--tuning``, also p."""
    labels = {"published": PUBLISHED, "40 x 100": SEARCHED}
    means = {"bp": 2.0, "dfa": 2.3, "dtp": 2.6}
    store = store_of(
        tmp_path,
        *(
            trained(method, mean - 0.2 * n, lr=n + 1.0, found=info)
            for method, mean in means.items()
            for n, info in enumerate(labels.values())
        ),
        trained("tp", 9.0, found=PUBLISHED),
        # One tuning alone, of another workload, is tested together with no other.
        *(trained(method, mean, workload="digits", found=FROM_FILE) for method, mean in means.items()),
    )
    for names in (("dfa", "bp"), ("bp", "dfa"), ("dfa", "dtp")):
        found = compare_methods(store, *names, baseline=baseline)
        assert found.first_tuning.tolist() == found.second_tuning.tolist() == [*labels, "file"]
        alone = [compare_methods(store, *names, baseline=baseline, tuning=label) for label in [*labels, "file"]]
        pd.testing.assert_frame_equal(found, pd.concat(alone, ignore_index=True))
        assert len(found.attrs["notes"]) == 1


def test_labels_of_data_are_those_of_the_whole_store(tmp_path: Path) -> None:
    """A run on another workload of the same data says what copy it is."""
    groups = [
        trained(method, mean, lr=n + 1.0, found=info, label="unverified copy")
        for method, mean in {"bp": 2.0, "dfa": 2.3}.items()
        for n, info in enumerate((PUBLISHED, SEARCHED))
    ]
    newer = trained("bp", 4.0, [0], workload="mnist-frozen", label="unverified copy 0123abcd")
    found = compare_methods(store_of(tmp_path, *groups, newer), "dfa", "bp")
    assert found.first_tuning.tolist() == found.second_tuning.tolist() == ["published", "40 x 100"]


def test_without_a_label_in_common_the_baseline_is_the_leaderboards(tmp_path: Path) -> None:
    store = store_of(
        tmp_path,
        trained("bp", 2.0, found=PUBLISHED),
        trained("dfa", 2.3, found=FROM_FILE),
        trained("dfa", 2.1, lr=1.0, found=SEARCHED),
    )
    ranking = rank_all(choose_cells(store.summaries()))[0]
    expected = {each.cell.tuning: each for each in ranking.cells if each.cell.method == "dfa"}
    for names, sign in ((("dfa", "bp"), 1), (("bp", "dfa"), -1)):
        found = compare_methods(store, *names)
        side, other = ("first", "second") if sign == 1 else ("second", "first")
        assert set(found[f"{side}_tuning"]) == {"file", "40 x 100"}
        assert set(found[f"{other}_tuning"]) == {"published"}
        for row in found.to_dict("records"):
            each = expected[row[f"{side}_tuning"]]
            assert (row["p"], row["tested"]) == (each.p, "max-T, 10 seeds")
            assert row["difference"] == pytest.approx(sign * each.difference)


def test_diverged_seeds_are_at_chance_in_mean_and_test(tmp_path: Path) -> None:
    store = store_of(tmp_path, trained("bp", 2.0), trained("dfa", 2.0, diverged=range(8)), trained("dtp", 2.1))
    mean = 0.8 * 90 + (4 + NOISE["dfa"][8:].sum()) / 10
    for second in ("bp", "dtp"):
        found = compare_methods(store, "dfa", second).iloc[0]
        assert (found.first_diverged, found.second_diverged) == (8, 0)
        assert found.first_mean == pytest.approx(mean)
        assert "8 of 10 diverged" in found.first_marks
    against = compare_methods(store, "dfa", "bp").iloc[0]
    assert (against.family, against.tested) == ("against BP", "max-T, 10 seeds")
    assert against.difference == pytest.approx(mean - 2.0)
    assert against.verdict.split()[0] == "bp"


def test_the_verdict_is_that_of_p_and_not_of_the_interval(tmp_path: Path) -> None:
    """Nine equal differences and a large one: p is 2/1024, and the interval holds 0."""
    later = [2.0 + NOISE["bp"][seed] + (5.0 if seed == 9 else 0.1) for seed in range(10)]
    store = store_of(tmp_path, trained("bp", 2.0), runs_with("dfa", later))
    found = compare_methods(store, "dfa", "bp").iloc[0]
    assert found.p == pytest.approx(2 / 1024)
    assert found.low < 0 < found.high
    assert found.verdict.split()[0] == "bp"


def test_a_comparison_needs_two_methods_and_may_be_empty(store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        compare_methods(store, "dfa", "dfa")
    empty = compare_methods(RunStore(tmp_path / "none"), "dfa", "bp")
    assert empty.empty
    assert tuple(empty.columns) == COLUMNS
    assert compare_methods(store, "dfa", "ddtp-linear").empty


@pytest.mark.parametrize("form", ["text", "md", "latex", "csv"])
def test_a_comparison_is_printed_in_every_format(store: RunStore, form: str) -> None:
    frame = compare_methods(store, "dfa", "bp")
    text = render_comparison(frame, "dfa", "bp", form)
    assert "digits" in text
    assert "against BP" in text
    assert "all pairs" not in text.lower()
    with pytest.raises(UsageError):
        render_comparison(frame, "dfa", "bp", "pdf")


def test_the_note_is_of_the_tests_that_occur(store: RunStore, tmp_path: Path) -> None:
    few = store_of(tmp_path / "few", trained("bp", 2.0), trained("dfa", 2.3, range(4)), trained("dtp", 2.3, range(4)))
    words = "max-T", "permutation", "All pairs"
    for frame, there in (
        (compare_methods(store, "dfa", "bp", ["mnist"]), (True, False, False)),
        (compare_methods(store, "dfa", "bp", ["digits"]), (False, True, False)),
        (compare_methods(store, "dfa", "bp"), (True, True, False)),
        (compare_methods(store, "dfa", "tp"), (True, False, True)),
        (compare_methods(few, "dfa", "dtp"), (False, False, False)),
    ):
        lines = comparison_notes(frame, "dfa", "bp")
        assert tuple(any(word in line for line in lines) for word in words) == there
    assert "Against the baseline" not in " ".join(comparison_notes(compare_methods(store, "dfa", "tp"), "dfa", "tp"))


def predicted(store: RunStore, run: RunRecord, correct: np.ndarray) -> RunRecord:
    """Publish a run with predictions."""
    store.publish(run, Predictions.of(run, correct))
    return run


def test_two_runs_are_compared_by_each_test_sample(tmp_path: Path) -> None:
    """Both are wrong on 3 % of the samples; of those that only one gets right each has 30."""
    store = RunStore(tmp_path)
    places = np.arange(1000)
    first = predicted(store, record("bp", 0, [0.02]), places >= 30)
    second = predicted(store, record("dfa", 0, [0.02]), places < 970)
    third = predicted(store, record("dtp", 0, [0.06]), places >= 70)
    same = runs_comparison(store, first, second).iloc[0]
    assert (same.first_only, same.second_only, same.p) == (30, 30, 1.0)
    worse = runs_comparison(store, first, third).iloc[0]
    assert (worse.first_only, worse.second_only) == (40, 0)
    assert worse.p == pytest.approx(stats.binomtest(40, 40).pvalue)


def test_runs_without_predictions_or_of_other_data_are_not_compared(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    first = predicted(store, record("bp", 0, [0.02]), np.arange(1000) >= 30)
    other = predicted(store, record("dfa", 0, [0.02], fingerprint="e" * 64), np.arange(1000) >= 30)
    bare = record("dtp", 0, [0.02])
    store.publish(bare)
    for run in (first, other):
        with pytest.raises(UsageError):
            runs_comparison(store, first, run)
    with pytest.raises(TpbenchError):
        runs_comparison(store, first, bare)
