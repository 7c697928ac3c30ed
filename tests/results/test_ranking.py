"""The comparison with a baseline and the set that could be the best: on made-up stores, and on the committed runs."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from tests.results.records import record, runs_with, store_of
from tpbench.results import RunRecord, RunStore, choose_cells, leaderboard, render_rankings, write_leaderboard
from tpbench.results.cells import Cell, CellKey
from tpbench.results.comparison import compare_methods
from tpbench.results.formats import Value
from tpbench.results.paper import PAPER_WORKLOADS, paper_cell
from tpbench.results.ranking import (
    BRACKETS,
    COLUMNS,
    OTHER_ORDER,
    RankedCell,
    Ranking,
    board_csv,
    format_p,
    rank_all,
    ranking_frame,
    ranking_header,
    ranking_notes,
    ranking_title,
    ranking_values,
    read_test_samples,
)
from tpbench.results.runs import FROM_FILE, PUBLISHED, Predictions, search_info
from tpbench.results.statistics import agreement, holm, max_t, overall_shift, permutation_p, simultaneous_intervals
from tpbench.results.tables import minibatch_means

ROOT = Path(__file__).parents[2]
Floats = NDArray[np.float64]
SEARCHED = search_info("s", 40, 100, "d", "final", range(10))


def errors_of(method: str, mean: float, seeds: int = 10, deviation: float = 0.06) -> list[float]:
    """Test errors in per cent with exactly this mean, the same for a method's name at every call."""
    noise = np.random.default_rng(sum(map(ord, method))).normal(0, deviation, seeds)
    return list(mean + noise - noise.mean())


def trained(method: str, mean: float, seeds: Iterable[int] = range(10), **more: object) -> list[RunRecord]:
    """Runs of a method with this mean test error in per cent."""
    numbers = list(seeds)
    return runs_with(method, errors_of(method, mean, len(numbers)), numbers, **more)  # type: ignore[arg-type]


def ranked(*groups: Iterable[RunRecord], baseline: str = "bp") -> Ranking:
    """The ranking of the only workload of these runs."""
    (ranking,) = rank_all(choose_cells(run for group in groups for run in group), baseline)
    return ranking


def by_method(ranking: Ranking) -> dict[str, RankedCell]:
    """The cells of a ranking with one cell a method."""
    found = {each.cell.method: each for each in ranking.cells}
    assert len(found) == len(ranking.cells)
    return found


def answers_of(found: Mapping[str, RankedCell]) -> dict[str, str]:
    """The column "could be best" by method."""
    return {method: each.could_be_best for method, each in found.items()}


def answers(ranking: Ranking) -> dict[str, str]:
    return answers_of(by_method(ranking))


def leaderboard_of(*groups: Iterable[RunRecord], baseline: str = "bp") -> dict[str, dict[Hashable, object]]:
    """The rows of a leaderboard by method."""
    cells = choose_cells(run for group in groups for run in group)
    board = ranking_frame(rank_all(cells, baseline))
    return {row["method"]: row for row in board.to_dict("records")}


def numbers(each: RankedCell) -> tuple[float, ...]:
    return each.difference, each.low, each.high, each.p


# Nobody is elected


def jumping(method: str, amplitude: float, errors: Sequence[float], seed: int) -> list[RunRecord]:
    """Runs with these test errors whose validation error jumps by this many points from epoch to epoch."""
    generator = np.random.default_rng(seed)
    return [
        record(method, number, list(0.02 + generator.normal(0, amplitude / 100, 60)), test=[error / 100] * 60)
        for number, error in enumerate(errors)
    ]


def test_a_jumpy_and_a_steady_rule_of_equal_test_error_could_both_be_the_best() -> None:
    """By the lowest validation error the jumpy one would win every time: its minimum is the more optimistic."""
    for seed in range(5):
        generator = np.random.default_rng(seed)
        groups = [
            jumping(method, amplitude, list(2 + generator.normal(0, 0.05, 10)), seed)
            for method, amplitude in {"dtpdrl": 0.15, "ddtp-linear": 0.01}.items()
        ]
        found = by_method(ranked(*groups, trained("bp", 2.0)))
        assert found["dtpdrl"].cell.validation < found["ddtp-linear"].cell.validation - 0.2
        assert answers_of(found) == {"bp": "baseline", "dtpdrl": "yes", "ddtp-linear": "yes"}


def test_the_set_that_could_be_best_leaves_out_the_baseline() -> None:
    found = ranked(trained("bp", 1.0), trained("dfa", 2.0), trained("dtp", 2.02), trained("tp", 4.0))
    assert answers(found) == {"bp": "baseline", "dfa": "yes", "dtp": "yes", "tp": "no"}
    assert {each.cell.method for each in found.could_be_best} == {"dfa", "dtp"}


def test_validation_errors_decide_nothing() -> None:
    groups = [trained("bp", 1.0), trained("dfa", 2.0), trained("dtp", 2.5)]
    other = [trained("bp", 1.0), trained("dfa", 2.0, validation=0.9), trained("dtp", 2.5, validation=0.001)]
    assert [numbers(each) for each in ranked(*groups).cells[1:]] == [numbers(each) for each in ranked(*other).cells[1:]]
    assert answers(ranked(*groups)) == answers(ranked(*other)) == {"bp": "baseline", "dfa": "yes", "dtp": "no"}


@pytest.mark.parametrize("others", [[], [("tp", range(5))], [("tp", range(10, 20))]])
def test_with_fewer_than_two_rivals_nothing_is_marked(others: list[tuple[str, range]]) -> None:
    found = ranked(trained("bp", 1.0), trained("dfa", 2.0), *(trained(method, 0.5, seeds) for method, seeds in others))
    assert answers(found)["dfa"] == "no rival"
    assert found.could_be_best == []


def test_two_tunings_of_one_method_are_no_two_rivals() -> None:
    groups = trained("bp", 1.0), trained("dfa", 2.0, found=PUBLISHED), trained("dfa", 3.0, lr=1.0, found=SEARCHED)
    found = ranked(*groups)
    assert [each.could_be_best for each in found.cells] == ["baseline", "no rival", "no rival"]
    beside = ranked(*groups, trained("dtp", 5.0))
    assert [each.could_be_best for each in beside.cells] == ["baseline", "yes", "no", "no"]


def test_another_method_can_be_the_baseline() -> None:
    groups = trained("bp", 1.0), trained("dfa", 2.0), trained("dtp", 3.0)
    found = by_method(ranked(*groups, baseline="dfa"))
    assert next(iter(found)) == "dfa"
    assert answers_of(found) == {"dfa": "baseline", "bp": "yes", "dtp": "no"}
    assert found["bp"].difference == pytest.approx(found["bp"].cell.mean - found["dfa"].cell.mean)
    assert found["bp"].difference == pytest.approx(-1, abs=0.1)
    board = leaderboard_of(*groups, baseline="dfa")
    assert board["bp"]["difference"] == pytest.approx(found["bp"].difference)


def test_without_the_baseline_nothing_is_compared_with_it_but_rivals_are() -> None:
    found = by_method(ranked(trained("dfa", 2.0), trained("dtp", 3.0)))
    assert answers_of(found) == {"dfa": "yes", "dtp": "no"}
    assert all(math.isnan(each.difference) and each.tested.startswith("not tested") for each in found.values())


# Two families of max-T


def test_the_differences_from_the_baseline_are_one_family() -> None:
    means = {"bp": 2.0, "dfa": 2.1, "dtp": 2.06, "tp": 2.4}
    found = by_method(ranked(*(trained(method, mean) for method, mean in means.items())))
    others = [method for method in means if method != "bp"]
    differences = np.stack([np.array(errors_of(m, means[m])) - errors_of("bp", 2.0) for m in others], axis=1)
    assert [found[method].p for method in others] == pytest.approx(list(max_t(differences)))
    intervals = simultaneous_intervals(differences)
    assert [found[m].low for m in others] == pytest.approx([low for low, _ in intervals])
    assert [found[m].high for m in others] == pytest.approx([high for _, high in intervals])
    assert [found[m].difference for m in others] == pytest.approx(list(differences.mean(axis=0)))
    assert all(found[m].tested == "max-T, 10 seeds" for m in others)


def test_all_ordered_pairs_without_the_baseline_are_the_other_family() -> None:
    means = {"bp": 1.0, "dfa": 2.0, "dtp": 2.08, "tp": 2.4}
    ranking = ranked(*(trained(method, mean) for method, mean in means.items()))
    rivals = [method for method in means if method != "bp"]
    pairs = [(a, b) for a in rivals for b in rivals if a != b]
    differences = np.stack([np.array(errors_of(a, means[a])) - errors_of(b, means[b]) for a, b in pairs], axis=1)
    expected = dict(zip(pairs, max_t(differences, one_sided=True), strict=True))
    found = {(worse[2], better[2]): p for (worse, better), p in ranking.rival_p.items()}
    assert found == pytest.approx(expected)
    worse = {a for (a, _), p in expected.items() if p < 0.05}
    assert answers(ranking) == {"bp": "baseline", **{m: "no" if m in worse else "yes" for m in rivals}}


def test_forty_bad_methods_hide_no_difference_of_many_deviations() -> None:
    """Holm's p of each sign-flip test would be 40 * 2 / 1024 = 0.078."""
    bad = [trained(f"junk-{n}", 7.0) for n in range(40)]
    found = by_method(ranked(trained("bp", 2.0), trained("dfa", 2.01), *bad))
    junk = [each for method, each in found.items() if method.startswith("junk")]
    assert len(junk) == 40
    assert all(each.differs and each.p == pytest.approx(2 / 1024) for each in junk)
    assert all(each.could_be_best == "no" for each in junk)
    assert found["dfa"].could_be_best == "yes"
    assert not found["dfa"].differs


def test_junk_methods_leave_the_mark_of_a_rival_as_it_is_everywhere(tmp_path: Path) -> None:
    """DFA is three points worse on every seed; 25 variants of a beaten rule are added as plug-ins."""
    groups = [trained("bp", 2.0), trained("dtp", 2.1), trained("ddtp-linear", 2.11), trained("dfa", 5.1)]
    junk = [trained(f"junk-{n}", 2.1 + 0.001 * n) for n in range(25)]
    for folder, added in (("alone", []), ("beside", junk)):
        store = store_of(tmp_path / folder, *groups, *added)
        dfa = by_method(rank_all(choose_cells(store.summaries()))[0])["dfa"]
        assert (dfa.differs, dfa.could_be_best) == (True, "no")
        shown = ranking_values(dfa)
        assert isinstance(shown[2], Value)
        assert (shown[2].bold, shown[3]) == (True, "no")
        assert dfa.p == pytest.approx(2 / 1024)
        row = leaderboard(store).set_index("method").loc["dfa"]
        assert (row.differs, row.could_be_best) == ("yes", "no")
        assert row.p == dfa.p
        assert compare_methods(store, "dfa", "bp").iloc[0].p == dfa.p
        assert compare_methods(store, "dfa", "bp").iloc[0].verdict.startswith("bp ")
        rivals = compare_methods(store, "dtp", "dfa").iloc[0]
        assert rivals.verdict.startswith("dtp ")
        assert rivals.p < 0.05


DIVERGING = [seeds for seeds in combinations(range(10), 5) if 0 in seeds][:40]
"""Forty halves of the seeds."""


def test_methods_that_diverge_on_other_seeds_each_hide_nothing() -> None:
    """In one family with these 40 the interval of DFA would hold 0, and GNT's p would be 0.098 instead of 0.041."""
    means = {"bp": 2.0, "dfa": 2.3, "ddtp-linear": 2.4, "dtp": 2.01, "gnt": 2.08}
    groups = [trained(method, mean) for method, mean in means.items()]
    junk = [trained(f"junk-{n}", 2.05, diverged=seeds) for n, seeds in enumerate(DIVERGING)]
    alone, beside = ranked(*groups), ranked(*groups, *junk)
    expected, found = by_method(alone), by_method(beside)
    others = [method for method in found if method != "bp"]
    together = np.stack([found[m].cell.errors() - found["bp"].cell.errors() for m in others], axis=1)
    low, high = simultaneous_intervals(together)[others.index("dfa")]
    assert low < 0 < high
    assert max_t(together)[others.index("gnt")] > 0.05
    for method, each in expected.items():
        assert numbers(found[method]) == pytest.approx(numbers(each), nan_ok=True)
        assert (found[method].differs, found[method].could_be_best) == (each.differs, each.could_be_best)
    assert {method: each.differs for method, each in expected.items() if method != "bp"} == {
        "dfa": True,
        "ddtp-linear": True,
        "gnt": True,
        "dtp": False,
    }
    assert expected["dfa"].low > 0
    assert beside.rival_p == alone.rival_p
    assert answers(alone)["ddtp-linear"] == answers(beside)["ddtp-linear"] == "no"
    assert {found[f"junk-{n}"].could_be_best for n in range(40)} == {"no"}


@pytest.mark.parametrize("failed", range(1, 11))
def test_a_method_with_diverged_seeds_could_never_be_the_best_and_saves_no_other(failed: int) -> None:
    """DTP is the best where it does not diverge; DDTP-linear is shown to be worse than DFA."""
    groups = trained("bp", 2.0), trained("dfa", 2.2), trained("ddtp-linear", 2.3)
    found = by_method(ranked(*groups, trained("dtp", 1.0, diverged=range(failed))))
    assert answers_of(found) == {"bp": "baseline", "dfa": "yes", "ddtp-linear": "no", "dtp": "no"}
    assert found["dtp"].tested == "max-T, 10 seeds"
    assert 0 < found["dtp"].p <= 1
    assert found["dtp"].low < found["dtp"].difference < found["dtp"].high


def test_cells_with_diverged_seeds_are_tested_among_all() -> None:
    whole = [trained(method, mean) for method, mean in {"bp": 2.0, "dfa": 2.05, "tp": 2.06}.items()]
    failing = [trained("dtp", 2.1, diverged=[1]), trained("ddtp-linear", 2.1, diverged=[0, 5, 6, 7])]
    found = by_method(ranked(*whole, *failing))
    others = [method for method in found if method != "bp"]
    differences = np.stack([found[m].cell.errors() - found["bp"].cell.errors() for m in others], axis=1)
    p, intervals = max_t(differences), simultaneous_intervals(differences)
    for n, method in enumerate(others):
        if found[method].cell.diverged:
            assert found[method].p == pytest.approx(p[n])
            assert (found[method].low, found[method].high) == pytest.approx(intervals[n])


def test_a_difference_is_marked_where_p_is_below_five_per_cent() -> None:
    found = by_method(ranked(trained("bp", 2.0), trained("dfa", 2.02), trained("dtp", 2.5), trained("tp", 1.6)))
    for method, differs in {"bp": False, "dfa": False, "dtp": True, "tp": True}.items():
        each = found[method]
        assert each.differs == differs
        assert each.differs == (each.p < 0.05)
        assert each.shown == ("baseline" if method == "bp" else "yes" if differs else "no")


def test_equal_methods_do_not_differ() -> None:
    errors = errors_of("bp", 2.0)
    # A count of test samples over their number, and the same but for rounding.
    groups = [runs_with("bp", errors), runs_with("dfa", errors), runs_with("dtp", [e + 1e-13 for e in errors])]
    found = by_method(ranked(*groups))
    for method in ("dfa", "dtp"):
        assert not found[method].differs
        assert found[method].p == 1.0
        assert found[method].could_be_best == "yes"


def test_constant_differences_of_one_sample_are_shown() -> None:
    """Zero variance: a t-test divides by zero, joint flips do not."""
    found = by_method(ranked(runs_with("bp", [2.0] * 10), runs_with("dfa", [2.01] * 10), runs_with("dtp", [2.0] * 10)))
    assert found["dfa"].differs
    assert found["dfa"].p == pytest.approx(2 / 1024)
    assert answers_of(found) == {"bp": "baseline", "dtp": "yes", "dfa": "no"}


def test_the_mark_is_that_of_p_and_not_of_the_interval_beside_it() -> None:
    """Nine equal differences and a large one in the same direction: p is 0.002, and the interval holds 0."""
    base = errors_of("bp", 2.0)
    later = [error + (5.0 if seed == 9 else 0.1) for seed, error in enumerate(base)]
    groups = runs_with("bp", base), runs_with("dfa", later)
    ranking = ranked(*groups)
    found = by_method(ranking)["dfa"]
    assert found.p == pytest.approx(2 / 1024)
    assert found.low < 0 < found.high
    assert found.differs
    assert leaderboard_of(*groups)["dfa"]["differs"] == "yes"
    shown = ranking_values(found)[2]
    assert isinstance(shown, Value)
    assert shown.bold
    assert f"{found.difference_text} *" in render_rankings([ranking])
    assert f"**{found.difference_text}**" in render_rankings([ranking], "md")


def test_a_p_that_is_shown_is_not_printed_as_five_per_cent() -> None:
    assert [format_p(p) for p in (0.0004, 0.032, 0.0496, 0.05, 0.0504, 0.5)] == [
        "< 0.001",
        "0.032",
        "0.0496",
        "0.05",
        "0.05",
        "0.5",
    ]


# Seeds


def test_both_kinds_of_whole_cells_are_flipped_over_nine_shared_seeds() -> None:
    errors = {method: errors_of(method, mean, 11) for method, mean in {"bp": 2.0, "dfa": 2.2, "dtp": 2.3}.items()}
    groups = [
        runs_with("bp", errors["bp"][:10]),
        runs_with("dfa", errors["dfa"][1:], range(1, 11)),
        runs_with("dtp", errors["dtp"]),
    ]
    found = by_method(ranked(*groups))
    differences = np.stack([np.array(errors[m][1:10]) - errors["bp"][1:10] for m in ("dfa", "dtp")], axis=1)
    assert [found[m].p for m in ("dfa", "dtp")] == pytest.approx(list(max_t(differences)))
    assert found["dfa"].tested == "max-T, 9 seeds"
    for method in errors:
        assert found[method].cell.mean == pytest.approx(np.mean(errors[method][1:10]))
        assert "over seeds 1-9" in found[method].cell.marks
    assert found["dfa"].p == pytest.approx(2 / 512)


@pytest.mark.parametrize("seeds", [(0, 1, 2), (7, 8, 9), (0, 4, 9)])
def test_three_seeds_get_the_permutation_test_whatever_they_are_called(seeds: Sequence[int]) -> None:
    few = [2.31, 2.28, 2.35]
    found = by_method(ranked(trained("bp", 2.0), trained("dfa", 2.1), runs_with("dtp", few, seeds)))["dtp"]
    assert found.p == pytest.approx(permutation_p(few, errors_of("bp", 2.0)))
    assert found.p == pytest.approx(2 / 286, abs=2 / 286)
    assert found.tested == "permutation, 3 and 10 seeds"
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.differs
    assert found.could_be_best == "open"


def test_three_against_three_seeds_can_show_nothing_and_the_note_says_so() -> None:
    """Of 20 deals into two groups two are as far apart: p is at least 0.1."""
    groups = runs_with("bp", [2.0, 2.1, 2.2]), runs_with("dfa", [90.0, 91.0, 92.0])
    ranking = ranked(*groups)
    found = by_method(ranking)["dfa"]
    assert found.p == pytest.approx(0.1)
    assert not found.differs
    found_numbers = re.findall(r"With (\d+) and (\d+) seeds no p is below (\S+)\.", " ".join(ranking_notes(ranking)))
    assert found_numbers == [("3", "3", "0.1")]
    for seeds in (range(3), range(4)):
        able = ranked(trained("bp", 2.0), trained("dfa", 3.0, seeds))
        assert "no p is below" not in " ".join(ranking_notes(able))
    (four, three), large = ((4, 3), 1 / math.comb(7, 3))
    other = ranked(trained("bp", 2.0, range(three)), trained("dfa", 90.0, range(four)))
    assert by_method(other)["dfa"].p == pytest.approx(large)
    assert "no p is below" not in " ".join(ranking_notes(other))


def test_seeds_outside_the_protocol_are_listed_and_never_tested() -> None:
    """Beside shared seeds they would be left out; alone they show nothing, whatever their errors are."""
    alone = by_method(ranked(trained("bp", 2.0), runs_with("dfa", [1.0] * 10, range(10, 20))))["dfa"]
    assert alone.tested.startswith("not tested")
    assert math.isnan(alone.p)
    assert math.isnan(alone.difference)
    assert (alone.differs, alone.could_be_best) == (False, "open")
    errors = errors_of("dfa", 2.3, 10)
    plain = ranked(trained("bp", 2.0), runs_with("dfa", errors))
    more = ranked(trained("bp", 2.0), runs_with("dfa", [*errors, *[0.1] * 10], range(20)))
    assert numbers(by_method(plain)["dfa"]) == numbers(by_method(more)["dfa"])
    assert "not counted: seeds 10-19" in by_method(more)["dfa"].cell.marks


def test_fewer_than_three_of_the_protocols_seeds_are_not_tested() -> None:
    two = by_method(ranked(trained("bp", 2.0), runs_with("dfa", [1.0] * 12, [0, 1, *range(10, 20)])))["dfa"]
    assert two.tested.startswith("not tested")
    assert two.cell.errors() == pytest.approx([1.0, 1.0])


def test_the_least_p_of_several_rows_of_few_seeds_is_corrected_too() -> None:
    """Twice 2/20 for two rows of three seeds against three, and three times 1/35 for a third row, of four seeds."""
    base, rows = trained("bp", 2.0, range(3)), [trained(name, 9.0, range(3)) for name in ("dfa", "dtp")]
    for cells, least in (
        ([rows[0]], ["0.1"]),
        (rows, ["0.2"]),
        ([*rows, trained("ddtp-linear", 9.0, range(4))], ["0.2", "0.086"]),
    ):
        notes = " ".join(ranking_notes(ranked(base, *cells)))
        assert set(re.findall(r"no p is below (\S+)\.", notes)) == set(least)


def test_cells_of_few_seeds_are_corrected_among_themselves() -> None:
    few = {"dtp": [2.31, 2.28, 2.35], "tp": [2.09, 2.1, 2.02], "dfa": [2.12, 2.2, 2.15, 2.06]}
    groups = [runs_with(method, errors) for method, errors in few.items()]
    found = by_method(ranked(trained("bp", 2.0), trained("ddtp-linear", 2.3), *groups))
    base = errors_of("bp", 2.0)
    raw = {method: permutation_p(errors, base) for method, errors in few.items()}
    order, largest = sorted(raw, key=lambda method: raw[method]), 0.0
    for factor, method in zip((3, 2, 1), order, strict=True):
        largest = max(largest, min(1.0, factor * raw[method]))
        assert found[method].p == pytest.approx(largest)
    alone = by_method(ranked(trained("bp", 2.0), trained("ddtp-linear", 2.3)))["ddtp-linear"]
    assert numbers(found["ddtp-linear"]) == numbers(alone)


def test_a_baseline_of_few_seeds_is_no_test_of_its_own() -> None:
    """Of 70 deals of four and four seeds two are as far apart; as one of two tests that would be 0.057."""
    found = by_method(ranked(trained("bp", 2.0, range(4)), trained("dfa", 9.0, range(4))))["dfa"]
    assert found.p == pytest.approx(2 / 70)
    assert found.differs


def test_whole_cells_beside_a_baseline_of_few_seeds() -> None:
    base, errors = errors_of("bp", 2.0)[:5], errors_of("dfa", 2.3)
    found = by_method(ranked(runs_with("bp", base), runs_with("dfa", errors), trained("dtp", 2.31), trained("tp", 4.0)))
    assert found["dfa"].tested == "permutation, 10 and 5 seeds"
    assert not found["dfa"].has_interval
    rivals = {"dfa": errors, "dtp": errors_of("dtp", 2.31), "tp": errors_of("tp", 4.0)}
    raw = {method: permutation_p(each, base) for method, each in rivals.items()}
    assert {method: found[method].p for method in raw} == pytest.approx(holm(raw))
    assert found["dfa"].difference == pytest.approx(np.mean(errors) - np.mean(base))
    # Rivals are still tested against each other.
    assert answers_of(found) == {"bp": "baseline", "dfa": "yes", "dtp": "yes", "tp": "no"}
    two = by_method(ranked(runs_with("bp", base[:2]), runs_with("dfa", errors), trained("dtp", 2.31)))
    assert all(each.tested.startswith("not tested") for method, each in two.items() if method != "bp")


def test_the_same_seeds_on_differently_ordered_data_are_no_pairs() -> None:
    errors = errors_of("dfa", 2.05)
    other = runs_with("dfa", errors, fingerprint="e" * 64)
    ranking = ranked(trained("bp", 2.0), other, trained("dtp", 2.2), trained("tp", 2.2))
    found = by_method(ranking)["dfa"]
    assert found.tested == f"permutation, 10 and 10 seeds, {OTHER_ORDER}"
    assert found.p == pytest.approx(permutation_p(errors, errors_of("bp", 2.0)))
    assert found.could_be_best == "open"
    # Where the numbers are printed it is said too, and in the legend.
    assert OTHER_ORDER in found.difference_text
    assert "in another order" in " ".join(ranking_notes(ranking))
    few = ranked(trained("bp", 2.0), trained("dtp", 2.2, range(4)))
    assert OTHER_ORDER not in by_method(few)["dtp"].difference_text
    assert "in another order" not in " ".join(ranking_notes(few))


def test_seeds_are_shared_by_cells_of_one_data_order_and_number_of_epochs() -> None:
    """A cell of another order, or of one epoch, with seeds 1 to 10 takes seed 0 from no other cell."""
    groups = trained("bp", 2.0), trained("dfa", 2.2), trained("dtp", 2.4)
    alone = by_method(ranked(*groups))
    for other in ({"fingerprint": "e" * 64}, {"epochs": 1}):
        found = by_method(ranked(*groups, trained("ddtp-rhl", 80.0, range(1, 11), **other)))
        for method, each in alone.items():
            assert numbers(found[method]) == pytest.approx(numbers(each), nan_ok=True)
            assert found[method].cell.counted_seeds == tuple(range(10))
        assert found["ddtp-rhl"].cell.counted_seeds == tuple(range(1, 11))
    same = by_method(ranked(*groups, trained("ddtp-rhl", 80.0, range(1, 11))))
    assert {each.cell.counted_seeds for each in same.values()} == {tuple(range(1, 10))}


def test_other_epochs_than_the_baselines_are_listed_and_not_tested() -> None:
    found = by_method(ranked(trained("bp", 2.0), trained("dfa", 1.0, epochs=300), trained("dtp", 2.1)))["dfa"]
    assert (found.could_be_best, found.differs) == ("open", False)
    assert found.tested.startswith("not tested")
    assert "300 epochs" in found.cell.marks
    both = by_method(ranked(*(trained(method, 2.0, epochs=300) for method in ("bp", "dfa", "dtp"))))["dfa"]
    assert both.tested == "max-T, 10 seeds"


# Numbers and marks belong together

methods = st.sampled_from(["dfa", "dtp", "tp", "ddtp-linear", "dtpdrl"])
seed_sets = st.one_of(
    st.sampled_from([range(10), range(1, 11), range(12)]), st.sets(st.integers(0, 13), min_size=1, max_size=12)
)


@settings(max_examples=40)
@given(st.dictionaries(methods, seed_sets, min_size=1), seed_sets, st.sets(st.integers(0, 9), max_size=2))
def test_a_difference_is_that_of_the_means_beside_it(
    seeds: dict[str, Iterable[int]], base: Iterable[int], diverged: set[int]
) -> None:
    groups = [trained(method, 2.0 + n, sorted(each)) for n, (method, each) in enumerate(seeds.items())]
    ranking = ranked(trained("bp", 2.0, sorted(base), diverged=diverged), *groups)
    baseline = ranking.baseline_cell
    assert baseline
    for each in ranking.cells:
        low, high = each.cell.interval
        assert math.isnan(low) or low <= each.cell.mean <= high
        if each.is_baseline:
            continue
        if each.tested.startswith("not tested"):
            assert all(map(math.isnan, numbers(each)))
            assert not each.differs
            continue
        assert each.difference == pytest.approx(each.cell.mean - baseline.mean)
        assert 0 < each.p <= 1
        if each.has_interval:
            assert each.cell.counted_seeds == baseline.counted_seeds
            assert each.low <= each.difference <= each.high
        else:
            assert each.could_be_best == "open" or not baseline.whole
    for each in ranking.could_be_best:
        assert each.cell.whole


def test_diverged_seeds_are_tested_at_chance() -> None:
    """A rule that fails on seven of ten seeds is not undecided."""
    failing = trained("dfa", 1.5, diverged=range(7))
    found = by_method(ranked(trained("bp", 2.0), failing, trained("dtp", 2.3)))["dfa"]
    errors = [90.0] * 7 + errors_of("dfa", 1.5)[7:]
    assert found.cell.errors() == pytest.approx(errors)
    assert found.difference == pytest.approx(np.mean(errors) - np.mean(errors_of("bp", 2.0)))
    assert found.tested == "max-T, 10 seeds"
    assert found.could_be_best == "no"
    assert "7 of 10 diverged" in found.cell.marks


def test_a_baseline_that_diverged_is_worse_than_all() -> None:
    found = by_method(ranked(trained("bp", 2.0, diverged=range(10)), trained("dfa", 2.0)))
    assert found["dfa"].difference == pytest.approx(-88, abs=0.1)
    assert found["dfa"].differs


def test_a_missing_seed_is_no_exclusion() -> None:
    """Without the file of the one diverged seed the cell is one of fewer seeds."""
    groups = [trained("bp", 2.0), trained("dtp", 2.3), trained("tp", 2.4)]
    whole = by_method(ranked(*groups, trained("dfa", 2.1, diverged=[9])))["dfa"]
    without = by_method(ranked(*groups, trained("dfa", 2.1)[:9]))["dfa"]
    assert (whole.could_be_best, whole.tested) == ("no", "max-T, 10 seeds")
    assert (without.could_be_best, without.tested) == ("open", "permutation, 9 and 10 seeds")


# Tunings


def test_every_tuning_of_a_method_is_a_row() -> None:
    found = ranked(
        trained("bp", 2.0, found=PUBLISHED),
        trained("bp", 1.8, lr=1.0, found=SEARCHED),
        trained("dfa", 2.2, found=PUBLISHED),
        trained("dfa", 2.6, lr=1.0, found=FROM_FILE),
        trained("dtp", 2.21, found=PUBLISHED),
    )
    rows = [(each.cell.method, each.cell.tuning, each.could_be_best) for each in found.cells]
    assert rows == [
        ("bp", "published", "baseline"),
        ("bp", "40 x 100", "baseline"),
        ("dfa", "published", "yes"),
        ("dtp", "published", "yes"),
        ("dfa", "file", "no"),
    ]
    # The baseline's other tuning is compared with it, but is no rival.
    tuned = found.cells[1]
    assert tuned.tested == "max-T, 10 seeds"
    assert tuned.difference == pytest.approx(-0.2, abs=1e-9)
    assert not any("bp" in (worse[2], better[2]) for worse, better in found.rival_p)


def test_a_published_baseline_of_one_epoch_displaces_no_tuned_one_of_all() -> None:
    tuned = [trained("bp", 2.0, lr=1.0, found=SEARCHED), trained("dfa", 2.2), trained("dtp", 2.4)]
    alone = ranked(*tuned)
    found = ranked(trained("bp", 8.0, epochs=1, found=PUBLISHED), *tuned)
    assert found.baseline_cell
    assert (found.baseline_cell.tuning, found.baseline_cell.epochs) == ("40 x 100", 100)
    rows = {(each.cell.method, each.cell.tuning): each for each in found.cells}
    for each in alone.cells:
        assert numbers(rows[each.cell.method, each.cell.tuning]) == pytest.approx(numbers(each), nan_ok=True)
    assert rows["dfa", "unknown"].tested == "max-T, 10 seeds"
    assert rows["bp", "published"].tested.startswith("not tested: 1 epoch,")
    full = ranked(trained("bp", 2.5, found=PUBLISHED), *tuned)
    assert full.baseline_cell
    assert full.baseline_cell.tuning == "published"


@pytest.mark.parametrize("base", [{"epochs": 1}, {"fingerprint": "e" * 64}, {"seeds": range(2)}])
def test_rivals_are_ranked_among_themselves_whatever_the_baseline_is(base: dict[str, Any]) -> None:
    """Two of the protocol's epochs and two of one epoch: the former are compared, also with a baseline of one epoch."""
    groups = trained("dfa", 2.2), trained("dtp", 2.4), trained("tp", 8.0, epochs=1), trained("gnt", 8.0, epochs=1)
    found = by_method(ranked(trained("bp", 2.0, **base), *groups, trained("ddtp-rhl", 9.0, epochs=1)))
    assert answers_of(found) == {
        "bp": "baseline",
        "dfa": "yes",
        "dtp": "no",
        **dict.fromkeys(("tp", "gnt", "ddtp-rhl"), "open"),
    }


# Leaderboard


def mixed() -> list[list[RunRecord]]:
    """Cells of every kind on two workloads."""
    return [
        trained("bp", 2.0),
        trained("dfa", 2.5),
        trained("dtp", 2.02),
        trained("tp", 2.4, range(3)),
        trained("ddtp-rhl", 2.4, range(2)),
        trained("dtpdrl", 2.4, range(20, 30)),
        trained("ddtp-linear", 2.4, epochs=30),
        trained("bp", 5.0, workload="digits"),
        trained("dfa", 5.5, workload="digits"),
        trained("dfa", 5.5, workload="cifar10"),
    ]


def test_the_leaderboard_has_no_empty_cell_with_two_meanings(tmp_path: Path) -> None:
    board = leaderboard(store_of(tmp_path, *mixed()))
    assert tuple(board.columns) == COLUMNS
    assert {"difference", "low", "high", "could_be_best", "tuning", "tested"} <= set(COLUMNS)
    untested = board.tested.str.startswith("not tested") | (board.tested == "baseline")
    assert list(board.difference.isna()) == list(board.p.isna()) == list(untested)
    with_interval = board.tested.str.startswith("max-T")
    assert list(board.low.notna()) == list(board.high.notna()) == list(with_interval)
    assert set(board.could_be_best) == {"baseline", "yes", "no", "open", "no rival"}
    expected = ["yes" if p < 0.05 else "no" for p in board.p]
    expected = ["not tested" if no else word for word, no in zip(expected, untested, strict=True)]
    bases = board.tested == "baseline"
    assert board.differs.tolist() == ["baseline" if base else word for word, base in zip(expected, bases, strict=True)]
    assert set(board.differs) == {"yes", "no", "not tested", "baseline"}
    always = board.drop(columns=["difference", "p", "low", "high", "test_error_std", "ci_low", "ci_high", "marks"])
    assert always.notna().all(axis=None)
    assert (always.map(str) != "").all(axis=None)


def test_the_leaderboard_begins_with_the_baseline_and_ends_with_few_seeds(tmp_path: Path) -> None:
    board = leaderboard(store_of(tmp_path, *mixed()))
    mnist = board[board.workload == "mnist"].method.tolist()
    assert mnist == ["bp", "dtp", "dfa", "tp", "ddtp-linear", "ddtp-rhl", "dtpdrl"]
    assert list(dict.fromkeys(board.workload)) == ["mnist", "cifar10", "digits"]


def test_the_leaderboard_is_written_where_asked(tmp_path: Path) -> None:
    store = store_of(tmp_path / "results", *mixed())
    board = leaderboard(store)
    assert write_leaderboard(board, store) == store.folder / "leaderboard.csv"
    assert (store.folder / "leaderboard.csv").read_text(encoding="utf-8") == board_csv(board)
    assert write_leaderboard(board[:3], store, tmp_path / "mine.csv").read_text(encoding="utf-8").count("\n") == 4
    assert leaderboard(RunStore(tmp_path / "empty")).empty


def test_legends_name_the_marks_that_occur_alone() -> None:
    plain = ranking_notes(ranked(trained("bp", 2.0)))
    one = ranking_notes(ranked(trained("bp", 2.0), trained("dfa", 2.1)))
    few = ranking_notes(ranked(trained("bp", 2.0), trained("dfa", 2.1, range(3))))
    every = ranking_notes(ranked(*mixed()[:4]))
    words = ("max-T, joint", "permutation", "Could be best")
    assert [[sum(word in note for note in notes) for word in words] for notes in (plain, one, few, every)] == [
        [0, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [1, 1, 1],
    ]
    # The test set's own uncertainty is said once, and what brackets are only where there are some.
    assert [sum("test samples" in note for note in notes) for notes in (plain, one, few, every)] == [1, 1, 1, 1]
    assert [BRACKETS in notes for notes in (plain, one, few, every)] == [False, False, True, True]


def test_a_table_without_the_baseline_says_so_in_its_title() -> None:
    with_it, without = ranked(*mixed()[:4]), ranked(*mixed()[1:4])
    assert ranking_title(with_it) == "MNIST: test error against BP"
    assert ranking_title(without).startswith("MNIST: test error; ")
    assert "against" not in ranking_title(without)
    assert "apart" in ranking_header(with_it)[3]
    assert "apart" not in ranking_header(without)[3]
    for form in ("text", "md", "latex"):
        assert ranking_title(without) in render_rankings([without], form)


def test_marks_are_explained_where_they_occur() -> None:
    shown, equal = (ranked(trained("bp", 2.0), trained("dfa", mean)) for mean in (3.0, 2.0))
    assert [note for note in ranking_notes(shown) if note.startswith("Bold:")]
    assert [note for note in ranking_notes(shown, "*") if note.startswith("*:")]
    assert not [note for note in ranking_notes(equal) if note.startswith("Bold:")]
    two = ranked(trained("bp", 2.0), trained("dfa", 2.0), trained("dtp", 2.0, range(3)))
    assert [sum("Open:" in note for note in ranking_notes(one)) for one in (two, shown)] == [1, 0]
    assert [sum("No rival:" in note for note in ranking_notes(one)) for one in (ranked(*mixed()[:3]), shown)] == [0, 1]


def test_the_number_of_test_samples_is_that_of_the_predictions_where_it_is_not_known(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for run in runs_with("bp", [25.0] * 3, workload="wine", content={"outputs": 3}):
        store.publish(run, Predictions.of(run, np.arange(200) >= 50))
    (ranking,) = rank_all(choose_cells(store.summaries()))
    assert ranking.test_samples is None
    assert ranking.test_set == ""
    (filled,) = read_test_samples(store, [ranking])
    assert filled.test_samples == 200


@pytest.mark.parametrize("form", ["text", "md", "latex"])
def test_tables_print_all_methods_in_every_format(form: str) -> None:
    cells = choose_cells(run for group in mixed() for run in group)
    text = render_rankings(rank_all(cells), form)
    for title in ("BP", "DFA", "DTPDRL", "DDTP-linear"):
        assert title in text
    assert render_rankings([], form) == ""


# The committed runs


@cache
def committed() -> dict[CellKey, Cell]:
    return choose_cells(RunStore(ROOT / "results").summaries())


def published(workload: str, label: str = "") -> Ranking:
    """The ranking of the published configurations with all ten seeds on one workload."""
    cells = {key: cell for key, cell in committed().items() if cell.tuning == "published" and cell.whole}
    return next(r for r in rank_all(cells) if (r.workload, r.data_label) == (workload, label))


@pytest.mark.parametrize(
    ("workload", "methods", "beside_searches"),
    [
        ("mnist", {"ddtp-linear", "ddtp-rhl", "dfa", "dtpdrl"}, set()),
        ("mnist-frozen", {"ddtp-rhl"}, set()),
        ("fashion-mnist", {"ddtp-linear", "dfa", "dtpdrl"}, {"ddtp-control"}),
    ],
)
def test_the_committed_sets_that_could_be_best(workload: str, methods: set[str], beside_searches: set[str]) -> None:
    """Beside searches of the same methods the tests are stricter, so that more methods could be."""
    every = next(r for r in rank_all(committed()) if r.workload == workload)
    for ranking, expected in ((published(workload), methods), (every, methods | beside_searches)):
        found = [each.cell for each in ranking.could_be_best]
        assert {cell.method for cell in found if cell.tuning == "published"} == expected
    searched = {cell.method for cell in found if cell.tuning != "published"}
    assert searched == ({"ddtp-linear", "dfa", "dtp"} if beside_searches else set())


def test_the_published_pairs_that_differ_are_ordered_as_in_the_paper() -> None:
    """The summary counts them: against BP by the family of the baseline, the others by that of all pairs."""
    better: list[tuple[float, bool]] = []
    for workload in ("mnist", "mnist-frozen", "fashion-mnist"):
        ranking = published(workload)
        means = {each.cell.key: paper_cell(workload, each.cell.method) or (math.nan, 0.0) for each in ranking.cells}
        base, *others = ranking.cells
        for each in others:
            better.append((each.p, (each.difference < 0) == (means[each.cell.key] < means[base.cell.key])))
        for one, other in combinations(others, 2):
            worse, best = sorted((one, other), key=lambda each: each.cell.mean, reverse=True)
            p = ranking.rival_p[worse.cell.key, best.cell.key]
            better.append((p, means[best.cell.key] < means[worse.cell.key]))
    assert len(better) == 77
    assert [alike for p, alike in better if p < 0.05] == [True] * 48


def test_the_committed_searches_on_fashion_mnist_keep_the_order_of_the_published_configurations() -> None:
    cells = choose_cells(RunStore(ROOT / "results").summaries(), "54 x 27 halved")
    ranking = next(r for r in rank_all(cells) if r.workload == "fashion-mnist")
    assert [each.cell.method for each in ranking.cells] == ["bp", "ddtp-linear", "dfa", "dtp", "drtp"]
    assert [each.differs for each in ranking.cells] == [False, False, True, True, True]
    assert answers(ranking) == {"bp": "baseline", "ddtp-linear": "yes", "dfa": "yes", "dtp": "no", "drtp": "no"}
    keys = {each.cell.method: each.cell.key for each in ranking.cells}
    assert ranking.rival_p[keys["dtp"], keys["ddtp-linear"]] == pytest.approx(0.031, abs=5e-4)


@pytest.mark.parametrize(("workload", "quantile"), [("mnist-frozen", 3.29), ("fashion-mnist", 3.42)])
def test_the_committed_quantiles(workload: str, quantile: float) -> None:
    ranking = published(workload)
    base = ranking.baseline_cell
    assert base
    for each in ranking.cells[1:]:
        standard_error = stats.sem(each.cell.errors() - base.errors())
        assert (each.high - each.low) / 2 / standard_error == pytest.approx(quantile, abs=0.01)


def test_the_committed_cells_of_few_seeds() -> None:
    """Of three or five against ten seeds, whatever they are called; before Holm's correction."""
    cells = {key: cell for key, cell in committed().items() if cell.tuning == "published"}
    for workload, method, p, missing in (
        ("mnist-frozen", "ddtp-rhl-rec-extra-fb", 1 / 286, "3-9"),
        ("fashion-mnist", "ddtp-rhl-extra-fb", 1 / 3003, "5-9"),
    ):
        (ranking,) = (r for r in rank_all(cells) if r.workload == workload)
        found = by_method(ranking)[method]
        base = ranking.baseline_cell
        assert base
        assert permutation_p(found.cell.errors(), base.errors()) == pytest.approx(p, abs=1e-6)
        assert found.could_be_best == "open"
        assert found.cell.marks == [f"without seeds {missing}"]


def compared_with_the_paper() -> dict[tuple[str, str], tuple[Cell, tuple[float, float]]]:
    found = {}
    for (workload, label, method, tuning), cell in committed().items():
        printed = paper_cell(workload, method)
        if workload in PAPER_WORKLOADS and not label and tuning == "published" and cell.testable and printed:
            found[workload, method] = cell, printed
    return found


def test_fifteen_committed_cells_of_ten_seeds_agree_with_the_paper_within_five_per_cent() -> None:
    cells = compared_with_the_paper()
    within = {key: agreement(cell.errors(), printed).within for key, (cell, printed) in cells.items()}
    assert len(within) == 27
    assert list(within.values()).count("yes") == 16
    assert [answer for key, answer in within.items() if cells[key][0].whole].count("yes") == 15
    assert [workload for (workload, _), answer in within.items() if answer == "yes"].count("mnist") == 1


def test_the_committed_cells_are_shifted_from_the_papers() -> None:
    whole = [(cell.errors(), printed) for cell, printed in compared_with_the_paper().values() if cell.whole]
    found = overall_shift(whole)
    assert found
    assert found.cells == 23
    assert found.difference == pytest.approx(
        100 * np.mean([ours.mean() / mean - 1 for ours, (mean, _) in whole]), abs=1e-9
    )
    assert 0 < found.difference < 2
    assert found.low < found.difference < found.high


def test_the_mean_over_minibatches_is_lower_by_up_to_one_per_cent_where_it_is_known() -> None:
    """The last 16 test samples, which weigh as much as 128 in it, are hardly ever wrong: the notebook has the cells."""
    cells = {key: cell for key, cell in committed().items() if cell.workload in PAPER_WORKLOADS and cell.whole}
    found = minibatch_means(RunStore(ROOT / "results"), cells)
    change = {key: 100 * (mean / cells[key].mean - 1) for key, mean in found.items()}
    assert len(change) == 10
    assert min(change.values()) == pytest.approx(100 * (10_000 / (79 * 128) - 1))
    assert max(change.values()) == pytest.approx(-0.36, abs=5e-3)
