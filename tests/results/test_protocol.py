"""The rules of docs/protocol.md on made-up stores: which runs stand for a method, and what may be said of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.results.records import record
from tpbench.results import RunRecord, RunStore, choose_cells, leaderboard, paper_table, render
from tpbench.results.cells import Cell, candidates
from tpbench.results.comparison import compare_methods, render_comparison
from tpbench.results.ranking import ENOUGH, Verdict, all_standings, best_of, standings
from tpbench.results.runs import FROM_FILE, PUBLISHED, same_budget, search_info, tuning_budget
from tpbench.results.statistics import LEVEL
from tpbench.results.tables import Column, notes

MNIST = Column("mnist", "")


def runs(method: str = "bp", seeds: Iterable[int] = range(10), error: float = 0.02, **more: object) -> list[RunRecord]:
    """Runs whose errors vary a little with the seed."""
    return [record(method, s, [error + 0.0003 * ((s * 7) % 5)], **more) for s in seeds]  # type: ignore[arg-type]


def store_of(folder: Path, *groups: list[RunRecord]) -> RunStore:
    store = RunStore(folder)
    for group in groups:
        for run in group:
            store.publish(run)
    return store


def chosen(*groups: list[RunRecord], method: str = "bp") -> Cell:
    return choose_cells(run for group in groups for run in group)["mnist", "", method]


# Which runs stand for a method


def test_epochs_come_before_seeds() -> None:
    """3 seeds of more epochs are more of the protocol than 4 seeds of fewer."""
    assert chosen(runs(seeds=range(4), epochs=1, lr=1e-2), runs(seeds=range(3), epochs=2)).epochs == 2


def test_the_protocols_epochs_come_first_then_those_below_then_those_above() -> None:
    full, below, fewer, above = (runs(epochs=n, lr=n / 1e4) for n in (100, 90, 10, 300))
    assert chosen(above, full, below).epochs == 100
    assert chosen(above, fewer, below).epochs == 90
    assert chosen(above, fewer).epochs == 10
    assert chosen(above).epochs == 300


def test_more_epochs_than_the_protocol_are_marked_like_fewer() -> None:
    assert chosen(runs(epochs=300)).marks == ["300 epochs"]
    assert chosen(runs(epochs=90, seeds=range(3))).marks == ["3 seeds", "90 epochs"]
    assert chosen(runs()).marks == []


def test_a_candidate_of_few_finished_seeds_displaces_none_with_more() -> None:
    """A try-out of one seed, or ten seeds that all diverged."""
    assert chosen(runs(seeds=range(1), lr=1e-2), runs(epochs=90)).seeds == 10
    assert chosen(runs(lr=1e-2, status="diverged"), runs(seeds=range(9))).seeds == 9


def test_a_seed_counts_once_though_an_older_version_named_its_float64_run_otherwise() -> None:
    older = [replace(run, provenance={"precision": "float64"}) for run in runs(seeds=range(5))]
    newer = [replace(run, provenance={"precision": "float64"}) for run in runs(seeds=range(5), precision="float64")]
    assert chosen(older, newer).marks == ["5 seeds", "float64"]
    assert {run.definition.precision for run in chosen(older, newer).runs} == {"float64"}


def test_float32_stands_before_other_precisions() -> None:
    assert chosen(runs(precision="float64", error=0.01), runs()).precision == "float32"


def test_seeds_beyond_the_protocols_count_no_more() -> None:
    assert chosen(runs(seeds=range(20), lr=1e-2, error=0.03), runs(error=0.02)).seeds == 10
    assert chosen(runs(seeds=range(4), lr=1e-2), runs(seeds=range(3), error=0.001)).seeds == 4


def test_fewer_diverged_seeds_come_before_a_lower_validation_error() -> None:
    survivors = [*runs(seeds=range(1), lr=1e-2, error=0.001), *runs(seeds=range(1, 10), lr=1e-2, status="diverged")]
    assert chosen(survivors, runs(error=0.05)).diverged == 0


def test_the_validation_error_decides_between_equals_and_never_the_test_error() -> None:
    worse, better = runs(lr=1e-2, error=0.03), runs(lr=1e-3, error=0.02)
    for run in worse:
        run.curves["test_error"][0] = 0.0001
    assert chosen(worse, better).runs[0].definition.configuration["lr"] == 1e-3


def test_runs_of_a_search_stand_for_a_method_only_where_nothing_else_does() -> None:
    found = search_info("s", 40, 100, "d", "search", range(10))
    searched = [record("bp", 0, [0.001], lr=lr, found=found) for lr in (1e-2, 1e-4)]
    assert chosen(searched, runs(epochs=50)).epochs == 50
    alone = chosen(searched)
    assert (alone.seeds, alone.ranked) == (1, False)


def test_the_run_that_the_search_selected_on_is_no_final_run_unless_it_was_asked_for() -> None:
    def both(seeds: range) -> list[RunRecord]:
        final, search = (search_info("s", 40, 100, "d", role, list(seeds)) for role in ("final", "search"))
        return [*runs(seeds=[s for s in seeds if s], found=final), *runs(seeds=[0], found=search)]

    assert chosen(both(range(10))).seeds == 10
    assert [run.definition.seed for run in chosen(both(range(1, 11))).runs] == list(range(1, 11))


def test_precisions_are_different_candidates_and_marked() -> None:
    found = candidates([*runs(), *runs(precision="float64")])["mnist", "", "bp"]
    assert len(found) == 2
    assert chosen(runs(precision="float64")).marks == ["float64"]


def test_copies_of_unknown_content_are_columns_of_their_own() -> None:
    copies = [runs(label="unverified copy", fingerprint=digit * 64) for digit in "ab"]
    found = choose_cells(run for group in copies for run in group)
    assert {label for _, label, _ in found} == {f"unverified copy {digit * 8}" for digit in "ab"}
    assert {label for _, label, _ in choose_cells(runs(label="JPEG copy"))} == {"JPEG copy"}
    assert {label for _, label, _ in choose_cells(runs(label="noisy 1234abcd"))} == {"noisy 1234abcd"}
    # What an older version called so or so is one column with what a newer one says of the same data.
    full = "unverified copy 1234abcd"
    mixed = [*runs(label=full, seeds=range(5)), *runs(label="unverified copy", seeds=range(5, 9))]
    assert {key: cell.seeds for key, cell in choose_cells([*mixed, *runs("dtp", label="exact")]).items()} == {
        ("mnist", full, "bp"): 9,
        ("mnist", full, "dtp"): 10,
    }


# What may be said of them


def test_a_diverged_seed_does_not_enter_the_mean_and_is_counted() -> None:
    cell = chosen([*runs(seeds=range(9), error=0.02), record("bp", 9, [0.5, 0.4], status="diverged")])
    assert cell.mean == pytest.approx(chosen(runs(seeds=range(9), error=0.02)).mean)
    assert (cell.seeds, cell.diverged, cell.marks) == (10, 1, ["1 diverged"])


def test_a_cell_with_diverged_seeds_is_never_best_or_tied_and_comes_after_those_without(tmp_path: Path) -> None:
    survivors = [*runs("dtp", range(9), 0.001), record("dtp", 9, [0.5], status="diverged")]
    store = store_of(tmp_path, survivors, runs("dfa", error=0.05), runs("ddtp-linear", error=0.06))
    board = leaderboard(store)
    assert board.method.tolist() == ["dfa", "ddtp-linear", "dtp"]
    assert board.verdict.tolist()[::2] == [Verdict.BEST.value, Verdict.NOT_TESTED.value]
    entry = paper_table(store, "1").entries["dtp", MNIST]
    assert entry.standing is not None
    assert (entry.best, entry.standing.verdict) == (False, Verdict.NOT_TESTED)
    assert math.isnan(entry.p_paper)
    assert "[1 diverged]" in render(paper_table(store, "1"), "md")
    found = compare_methods(store, "dtp", "dfa").iloc[0]
    assert (found.first_seeds, found.first_diverged, found.second_diverged) == (10, 1, 0)
    assert "dtp diverged" in found.verdict
    assert found.shared_seeds == 9
    assert math.isnan(found.p)


def test_a_cell_of_fewer_than_three_seeds_is_shown_below_and_takes_part_in_no_test(tmp_path: Path) -> None:
    store = store_of(tmp_path, runs("dtp", range(2), 0.001), runs("dfa", error=0.05), runs("ddtp-linear", error=0.06))
    board = leaderboard(store)
    assert board.method.tolist() == ["dfa", "ddtp-linear", "dtp"]
    assert board.iloc[2].verdict == Verdict.NOT_TESTED.value
    assert math.isnan(board.iloc[2].ci_low)
    table = paper_table(store, "1")
    assert table.entries["dfa", MNIST].best
    assert "? [2 seeds]" in render(table, "md")
    compared = compare_methods(store, "dtp", "dfa").iloc[0]
    assert math.isnan(compared.p)
    assert compared.verdict.startswith("too few")


def test_tested_and_different_not_told_apart_and_untested_are_three_states(tmp_path: Path) -> None:
    noisy = [record("dfa", s, [0.0208 + 0.004 * (-1) ** s]) for s in range(10)]
    store = store_of(
        tmp_path, runs("ddtp-linear"), noisy, runs("dtp", error=0.04), runs("dtpdrl", range(2)), runs("bp", error=0.001)
    )
    entries = paper_table(store, "s6").column(MNIST)
    assert {method: entry.standing and entry.standing.verdict for method, entry in entries.items()} == {
        "ddtp-linear": Verdict.BEST,
        "dfa": Verdict.NOT_TOLD_APART,
        "dtp": Verdict.HIGHER,
        "dtpdrl": Verdict.NOT_TESTED,
        "bp": Verdict.LOWER,
    }
    board = leaderboard(store).set_index("method")
    assert {method: entry.standing.verdict.value for method, entry in entries.items() if entry.standing} == {
        method: board.verdict[method] for method in entries
    }
    assert 0.3 < board.detectable["dfa"] < 0.7
    assert f"(10 seeds; {board.detectable['dfa']:.2f} " in board.against_best["dfa"]
    text = render(paper_table(store, "s6"), "md")
    assert f"= ({board.detectable['dfa']:.2f})" in text
    assert "tied" not in text


def test_three_seeds_cannot_tell_and_say_so(tmp_path: Path) -> None:
    """Equal differences of one test image each: a t-test would say p = 0."""
    store = store_of(
        tmp_path,
        [record("dtp", s, [0.02 + 0.001 * s]) for s in range(3)],
        [record("dfa", s, [0.0201 + 0.001 * s]) for s in range(3)],
    )
    found = compare_methods(store, "dtp", "dfa").iloc[0]
    assert (found.test, found.p) == ("sign-flip", 0.25)
    assert "apart" in found.verdict
    board = leaderboard(store).set_index("method")
    assert board.against_best["dfa"] == "not told apart (3 seeds; no difference would show)"
    assert board.verdict["dfa"] == Verdict.NOT_TOLD_APART.value
    assert "= (-) [3 seeds]" in render(paper_table(store, "1"), "text")


def test_the_best_is_chosen_by_validation_and_bp_is_the_yardstick_everywhere(tmp_path: Path) -> None:
    lucky = runs("dtp", error=0.03)
    for run in lucky:
        run.curves["test_error"][0] = 0.001
    store = store_of(tmp_path, lucky, runs("dfa", error=0.02), runs("bp", error=0.0001))
    cells = list(choose_cells(store.records()).values())
    best = best_of(cells)
    assert best is not None
    assert best.method == "dfa"
    found = standings(cells)
    assert found["bp"].verdict is found["dtp"].verdict is Verdict.LOWER
    board = leaderboard(store)
    assert board.method.tolist() == ["dtp", "bp", "dfa"]
    assert board.set_index("method").against_best["dfa"] == "best"
    assert paper_table(store, "1").entries["dfa", MNIST].best
    assert best_of([c for c in cells if c.method == "bp"]) is None


def verdicts(*groups: list[RunRecord]) -> dict[str, str]:
    """Return the marks of one workload's cells, by method."""
    cells = choose_cells(run for group in groups for run in group)
    return {method: standing.verdict.value for (_, _, method), standing in all_standings(cells).items()}


@pytest.mark.parametrize(
    ("seeds", "most", "best"),
    [
        (3, 10, "dtp"),
        (8, 9, "dtp"),
        (9, 12, "tp"),
        (10, 10, "tp"),
        (5, 6, "dtp"),
        (6, 8, "tp"),
        (3, 5, "tp"),
    ],
)
def test_the_best_has_as_many_seeds_as_tests_need(seeds: int, most: int, best: str) -> None:
    """The lowest error of all is not the best if it has fewer than nine seeds and another method has nine; or six."""
    groups = runs("tp", range(seeds), error=0.01), runs("dtp", range(most), error=0.03)
    found = all_standings(choose_cells(run for group in groups for run in group))
    assert [method for (_, _, method), standing in found.items() if standing.best] == [best]
    assert [method for (_, _, method), standing in found.items() if standing.passed_over] == ["tp"] * (best != "tp")


@pytest.mark.parametrize(("seeds", "tests"), [(9, 12), (6, 1)])
def test_so_many_seeds_are_what_tests_need(seeds: int, tests: int) -> None:
    """Against a best of nine seeds twelve methods can be told apart, of six one; of one seed less fewer."""
    assert seeds in ENOUGH
    assert tests * 2 / 2**seeds < LEVEL < (tests + 1) * 2 / 2**seeds
    names = ["tp", *(f"method-{n}" for n in range(tests))]
    cells = choose_cells(run for name in names for run in runs(name, range(seeds), 0.01 if name == "tp" else 0.03))
    marks = [standing.verdict for standing in all_standings(cells).values()]
    assert marks.count(Verdict.HIGHER) == tests


def test_the_seeds_of_the_yardstick_and_of_diverged_cells_do_not_count() -> None:
    groups = [runs(method, range(3), error=error) for method, error in (("tp", 0.01), ("dtp", 0.03))]
    groups += [runs("bp", error=0.005), runs("dfa", error=0.05), [record("dfa", 99, [0.5], status="diverged")]]
    assert verdicts(*groups) == {"bp": "=", "tp": "", "dtp": "=", "dfa": "?"}


def test_tests_that_can_show_nothing_cost_the_others_nothing() -> None:
    """Ten seeds against ten have the same p, and the same difference that would show, with cells of three beside."""
    whole = [runs("dtp", error=0.02), runs("dfa", error=0.0203), runs("dtpdrl", error=0.03)]
    few = [runs(method, range(3), error=0.05) for method in ("tp", "ddtp-linear", "ddtp-control")]
    alone, beside = (
        {m: s.comparison for (_, _, m), s in all_standings(choose_cells(r for g in groups for r in g)).items()}
        for groups in (whole, [*whole, *few])
    )
    assert [beside[method] for method in alone] == list(alone.values())
    assert [beside[method].p for method in ("tp", "ddtp-control") if beside[method]] == [0.25, 0.25]  # type: ignore[union-attr]


def test_the_same_seeds_on_differently_ordered_data_are_no_pairs(tmp_path: Path) -> None:
    store = store_of(tmp_path, runs("dtp"), runs("dfa", error=0.03, fingerprint="e" * 64))
    assert compare_methods(store, "dtp", "dfa").iloc[0].test == "Welch"
    other = store_of(tmp_path / "b", runs("dtp"), runs("dfa", range(20, 30), error=0.03))
    assert compare_methods(other, "dtp", "dfa").iloc[0].test == "Welch"


def test_the_seeds_that_a_hopeless_comparison_needs_are_those_in_a_family_that_it_joins(tmp_path: Path) -> None:
    """Six seeds would do alone (2 / 2^6 < 0.05), but beside another workload they are tested at 2.5 %."""
    few = [runs(method, range(3), error) for method, error in (("dtp", 0.02), ("dfa", 0.05))]
    whole = [runs(method, error=error, workload="digits") for method, error in (("dtp", 0.02), ("dfa", 0.05))]
    frame = compare_methods(store_of(tmp_path / "a", *few, *whole), "dtp", "dfa", detect=3.0).set_index("workload")
    assert frame.seeds_for.to_dict() == {"mnist": 7, "digits": 6}
    twice = [[replace(run, definition=replace(run.definition, workload="cifar10")) for run in group] for group in few]
    both = compare_methods(store_of(tmp_path / "c", *few, *twice), "dtp", "dfa", detect=3.0)
    assert both.seeds_for.tolist() == [7, 7]
    alone = compare_methods(store_of(tmp_path / "b", *few), "dtp", "dfa", detect=3.0)
    assert alone.seeds_for.tolist() == [6]


def test_comparisons_over_workloads_are_corrected(tmp_path: Path, tpbench_inside: Inside) -> None:
    groups = [
        runs(method, range(6), error, workload=workload)
        for workload in ("mnist", "cifar10")
        for method, error in (("dtp", 0.05), ("dfa", 0.02))
    ]
    frame = compare_methods(store_of(tmp_path / "results", *groups), "dtp", "dfa", detect=0.2)
    assert frame.p.tolist() == [2 / 64] * 2
    assert frame.p_holm.tolist() == [4 / 64] * 2
    assert all("apart" in verdict for verdict in frame.verdict)
    shown = tpbench_inside("compare", "dtp", "dfa", "--detect", "0.2")
    assert shown.returncode == 0, shown.stderr
    assert "p (Holm)" in shown.stdout
    assert "for 0.2" in shown.stdout
    one = tpbench_inside("compare", "dtp", "dfa", "--workload", "mnist")
    assert "dfa is" in one.stdout
    assert tpbench_inside("compare", "dtp", "dtp").returncode == 2


def test_the_cells_are_judged_against_the_paper_together(tmp_path: Path) -> None:
    store = store_of(tmp_path, runs("bp", error=0.0098), runs("dtp", error=0.0139), runs("dfa", error=0.05))
    table = paper_table(store, "1")
    assert (table.overall.tested, table.overall.differing) == (3, 1)
    # Differing and tested cells, their level, and how many would differ by chance.
    assert re.findall(r"\d[\d.]*", notes(table)[0])[:4] == ["1", "3", "0.05", "0.2"]
    for form in ("text", "md", "latex"):
        assert "Stouffer" in render(table, form)
    copy = paper_table(store_of(tmp_path / "copy", runs(label="JPEG copy", workload="cifar10")), "1")
    assert copy.overall.tested == 0  # a copy of the data is not the paper's


def test_unequal_search_budgets_are_marked(tmp_path: Path) -> None:
    found = search_info("s", 40, 10, "d", "final", range(10))
    store = store_of(
        tmp_path,
        runs("ddtp-linear", found=PUBLISHED),
        runs("dtp", error=0.04, found=found),
        runs("dfa", error=0.05, found=PUBLISHED),
        runs("bp", error=0.05),
    )
    table = paper_table(store, "1")
    unequal = {method for method, e in table.column(MNIST).items() if e.standing and e.standing.unequal}
    assert unequal == {"dtp"}
    text = render(table, "md")
    assert "> #" in text
    assert "budgets differ" in text
    assert f"DTP: {tuning_budget(found)}" in text
    board = leaderboard(store).set_index("method")
    assert board.budget.to_dict() == {
        "ddtp-linear": "published",
        "dtp": str(tuning_budget(found)),
        "dfa": "published",
        "bp": "unknown",
    }
    assert compare_methods(store, "dtp", "ddtp-linear").iloc[0].budgets == "differ"
    assert compare_methods(store, "dfa", "ddtp-linear").iloc[0].budgets == "same"
    assert compare_methods(store, "bp", "ddtp-linear").iloc[0].budgets == "unknown"


def test_a_search_in_another_precision_is_another_budget(tmp_path: Path) -> None:
    other, same = (search_info("s", 40, 10, "d", "final", range(10), search_precision=p) for p in ("float64", ""))
    assert "search_precision" not in same
    store = store_of(tmp_path, runs("ddtp-linear", found=same), runs("dtp", error=0.04, found=other))
    text = render(paper_table(store, "1"), "md")
    assert "> #" in text
    assert tuning_budget(other).search_precision == "float64"
    assert f"DDTP-linear: {tuning_budget(same)}; DTP: {tuning_budget(other)}." in text
    assert leaderboard(store).set_index("method").budget["dtp"] == str(tuning_budget(other))
    compared = compare_methods(store, "dtp", "ddtp-linear")
    assert f"budgets differ ({tuning_budget(other)}; " in render_comparison(compared, "dtp", "x", None)
    assert str(tuning_budget({**other, "halving": 3})) == "search 40 x 10 epochs in float64, halving 3"


def test_a_search_run_of_another_precision_is_in_no_cell_of_the_final_runs() -> None:
    search, final = (search_info("s", 40, 100, "d", role, range(10)) for role in ("search", "final"))
    searched = runs(seeds=[0], error=0.001, precision="float64", found=search)
    cell = chosen(searched, runs(found={**final, "search_precision": "float64"}))
    assert (cell.seeds, cell.precision, cell.marks) == (10, "float32", [])
    assert cell.budget.search_precision == "float64"
    # Where the search is all there is, its cell says its precision itself.
    assert chosen(searched).marks == ["1 seed", "float64"]


def test_nobody_knows_what_a_users_file_cost() -> None:
    assert same_budget(tuning_budget(FROM_FILE), tuning_budget(FROM_FILE)) is None
    assert same_budget(tuning_budget({}), tuning_budget(PUBLISHED)) is None
    one, other = (tuning_budget(search_info("s", n, 10, "d", "final", [0])) for n in (40, 41))
    assert same_budget(one, one) is True
    assert same_budget(one, other) is False


def test_the_leaderboard_prints_every_format_and_writes_only_when_asked(tmp_path: Path, tpbench_inside: Inside) -> None:
    store_of(tmp_path / "results", runs("dtp"), runs("dfa", error=0.04), runs("dfa", workload="digits", epochs=30))
    folder = tmp_path / "results"
    shown = {form: tpbench_inside("leaderboard", "--format", form) for form in ("text", "md", "csv", "latex")}
    assert all(result.returncode == 0 for result in shown.values())
    assert not (folder / "leaderboard.csv").exists()
    header = shown["csv"].stdout.splitlines()[0]
    assert header == (
        "workload,data,method,seeds,epochs,test_error_mean,test_error_std,ci_low,ci_high,p_best,validation_error_mean,"
        "diverged,paper_mean,paper_std,p_paper,budget,marks"
    )
    folder.chmod(0o500)
    assert tpbench_inside("leaderboard", "mnist").returncode == 0
    folder.chmod(0o700)
    assert "written" in tpbench_inside("leaderboard", "--write", "mnist").stderr
    assert (folder / "leaderboard.csv").read_text() == shown["csv"].stdout
    assert tpbench_inside("leaderboard", "digits", "--write", "mine.csv").returncode == 0
    assert (tmp_path / "mine.csv").read_text().count("\n") == 2
    assert tpbench_inside("leaderboard", "--format", "pdf").returncode == 2
    wrong = tpbench_inside("leaderboard", "--write", "board.md")
    assert wrong.returncode == 2
    assert ".csv" in wrong.stderr


def test_other_epochs_than_the_bests_are_marked_at_the_verdict(tmp_path: Path) -> None:
    store = store_of(tmp_path, runs("dtp"), runs("dfa", error=0.04, epochs=300))
    assert "> # [300 epochs]" in render(paper_table(store, "1"), "md")
    assert "(best)" in render(paper_table(store, "1"), "text")
    assert "Search budgets" not in render(paper_table(store, "1"), "md")


def test_the_table_of_losses_takes_the_last_epoch(tmp_path: Path, tpbench_inside: Inside) -> None:
    store = RunStore(tmp_path / "results")
    for seed in range(3):
        run = record("dtp", seed, [0.5, 0.02])
        run.curves["train_loss"] = [2.0, 0.01 + seed / 1000]  # type: ignore[index]
        store.publish(run)
    gone = record("dfa", 0, [0.5], status="diverged", workload="digits")
    store.publish(gone)
    shown = {form: tpbench_inside("table", "loss", "--format", form) for form in ("text", "md", "latex", "csv")}
    assert all(result.returncode == 0 for result in shown.values()), shown["text"].stderr
    assert "0.011 ± 0.001 [3 seeds]" in shown["md"].stdout
    assert "dtp,3,100,0,0.011,0.001" in shown["csv"].stdout
    assert "1 diverged]" in shown["text"].stdout
