"""The runs that stand for a method, their seeds, their marks and their tuning label, on made-up stores."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from tests.results.records import record, runs_with, store_of
from tpbench.results import RunRecord, choose_cells
from tpbench.results.cells import Cell, candidates, preferred_cell
from tpbench.results.runs import FROM_FILE, FROM_PYTHON, PUBLISHED, SearchInfo, search_info, tuning_budget
from tpbench.results.statistics import mean_interval
from tpbench.results.tables import Column, paper_table
from tpbench.workloads import WORKLOADS

MNIST = Column("mnist", "")


def runs(method: str = "bp", seeds: Iterable[int] = range(10), error: float = 0.02, **more: object) -> list[RunRecord]:
    """Runs whose errors vary a little with the seed."""
    return [record(method, s, [error + 0.0003 * ((s * 7) % 5)], **more) for s in seeds]  # type: ignore[arg-type]


def searched(
    sweep: str = "s", trials: int = 40, epochs: int = 100, role: str = "final", **others: object
) -> SearchInfo:
    """Search info of a run of a sweep."""
    return search_info(sweep, trials, epochs, "d", role, range(10), **others)


def cells_of(*groups: Iterable[RunRecord]) -> dict[str, Cell]:
    """The cells of one method on one workload, by tuning label."""
    cells = choose_cells(run for group in groups for run in group)
    by_tuning = {tuning: cell for (*_, tuning), cell in cells.items()}
    assert len(by_tuning) == len(cells)
    return by_tuning


def chosen(*groups: Iterable[RunRecord]) -> Cell:
    """The only cell of these runs."""
    (cell,) = cells_of(*groups).values()
    return cell


# Epochs, precision, search, data: the choice among candidates


def test_epochs_come_before_seeds() -> None:
    """3 seeds of more epochs are more of the protocol than 4 seeds of fewer."""
    assert chosen(runs(seeds=range(4), epochs=1, lr=1e-2), runs(seeds=range(3), epochs=2)).epochs == 2


def test_the_protocols_epochs_come_first_then_those_below_then_those_above() -> None:
    full, below, fewer, above = (runs(epochs=n, lr=n / 1e4) for n in (100, 90, 10, 300))
    assert chosen(above, full, below).epochs == 100
    assert chosen(above, fewer, below).epochs == 90
    assert chosen(above, fewer).epochs == 10
    assert chosen(above).epochs == 300


def test_other_epochs_than_the_protocols_are_marked() -> None:
    assert chosen(runs(epochs=300)).marks == ["300 epochs"]
    assert chosen(runs(epochs=1)).marks == ["1 epoch"]
    assert chosen(runs(epochs=90, seeds=range(3))).marks == ["without seeds 3-9", "90 epochs"]
    assert chosen(runs()).marks == []


def test_a_try_out_of_one_seed_displaces_no_cell_that_can_be_tested() -> None:
    assert chosen(runs(seeds=range(1), lr=1e-2), runs(epochs=90)).seeds == 10


def test_a_seed_counts_once_though_an_older_version_named_its_float64_run_otherwise() -> None:
    older = [replace(run, provenance={"precision": "float64"}) for run in runs(seeds=range(5))]
    newer = [replace(run, provenance={"precision": "float64"}) for run in runs(seeds=range(5), precision="float64")]
    assert chosen(older, newer).marks == ["without seeds 5-9", "float64"]
    assert {run.definition.precision for run in chosen(older, newer).runs} == {"float64"}


def test_float32_stands_before_other_precisions() -> None:
    assert chosen(runs(precision="float64", error=0.01), runs()).precision == "float32"
    assert len(candidates([*runs(), *runs(precision="float64")])["mnist", "", "bp", "unknown"]) == 2
    assert chosen(runs(precision="float64")).marks == ["float64"]


def test_runs_of_a_search_stand_for_a_method_only_where_nothing_else_does() -> None:
    trials = [record("bp", 0, [0.001], lr=lr, found=searched(role="search")) for lr in (1e-2, 1e-4)]
    final = runs(epochs=50, found=searched())
    assert chosen(trials, final).epochs == 50
    alone = chosen(trials)
    assert (alone.seeds, alone.whole, alone.testable, alone.configurations) == (1, False, False, 1)


def test_the_run_that_the_search_selected_on_is_no_final_run_unless_its_seed_is_one() -> None:
    def both(seeds: range) -> list[RunRecord]:
        final, search = (search_info("s", 40, 100, "d", role, list(seeds)) for role in ("final", "search"))
        return [*runs(seeds=[s for s in seeds if s], found=final), *runs(seeds=[0], found=search)]

    assert chosen(both(range(10))).counted_seeds == tuple(range(10))
    without = chosen(both(range(1, 11)))
    assert sorted(without.all_seeds) == list(range(1, 11))
    assert without.whole


def test_a_search_run_of_another_precision_is_in_no_cell_of_the_final_runs() -> None:
    trial = runs(seeds=[0], error=0.001, precision="float64", found=searched(role="search"))
    cells = cells_of(trial, runs(found=searched(search_precision="float64")))
    final = cells["40 x 100 in float64"]
    assert (final.seeds, final.precision, final.marks) == (10, "float32", [])
    assert cells["40 x 100"].precision == "float64"


def test_copies_of_unknown_content_are_columns_of_their_own() -> None:
    copies = [runs(label="unverified copy", fingerprint=digit * 64) for digit in "ab"]
    found = choose_cells(run for group in copies for run in group)
    assert {label for _, label, *_ in found} == {f"unverified copy {digit * 8}" for digit in "ab"}
    assert {label for _, label, *_ in choose_cells(runs(label="JPEG copy"))} == {"JPEG copy"}
    assert {label for _, label, *_ in choose_cells(runs(label="noisy 1234abcd"))} == {"noisy 1234abcd"}
    # A label of an older version joins the column of a newer one on the same data.
    full = "unverified copy 1234abcd"
    mixed = [*runs(label=full, seeds=range(5)), *runs(label="unverified copy", seeds=range(5, 9))]
    assert {key[:3]: cell.seeds for key, cell in choose_cells([*mixed, *runs("dtp", label="exact")]).items()} == {
        ("mnist", full, "bp"): 9,
        ("mnist", full, "dtp"): 10,
    }
    # A known copy is one whatever an older version called it; no run makes the others exact.
    known = [*runs(label="JPEG copy", seeds=range(5)), *runs(label=full, seeds=range(5, 10))]
    assert {key[1]: cell.seeds for key, cell in choose_cells(known).items()} == {"JPEG copy": 10}
    assert {key[1] for key in choose_cells([*runs(label=full, seeds=[0]), *runs(seeds=[1])])} == {full, ""}


def test_an_empty_store_has_no_cells() -> None:
    assert choose_cells([]) == {}
    assert preferred_cell([]) is None


def test_five_thousand_runs_of_a_search_are_read_in_seconds() -> None:
    info = searched(trials=5000, role="search")
    trials = [record("dfa", 0, [0.02 + trial * 1e-6], lr=1e-5 * (trial + 1), found=info) for trial in range(5000)]
    start = time.thread_time()
    cell = chosen(trials, runs("dfa", found=searched(trials=5000)))
    assert time.thread_time() - start < 10
    assert (cell.seeds, cell.configurations) == (10, 1)


# Seeds of the protocol


@pytest.mark.parametrize(
    ("seeds", "counted", "whole", "marks"),
    [
        (range(10), range(10), True, []),
        (range(1, 11), range(1, 11), True, []),
        (range(11), range(10), True, ["not counted: seed 10"]),
        (range(20), range(10), True, ["not counted: seeds 10-19"]),
        ([*range(7), 8, 9], [*range(7), 8, 9], False, ["without seed 7"]),
        ([0, 1, 2, 17], [0, 1, 2], False, ["without seeds 3-9", "not counted: seed 17"]),
        # Ten of many seeds with the lowest error are no ten seeds of the protocol.
        ([1, 3, *range(20, 28)], [1, 3], False, ["without seeds 0, 2, 4-9", "not counted: seeds 20-27"]),
        (range(2, 11), range(2, 10), False, ["without seeds 0-1", "not counted: seed 10"]),
        ([3, 17, 40], [3], False, ["without seeds 0-2, 4-9", "not counted: seeds 17, 40"]),
        ([10, 17, 40], [10, 17, 40], False, ["seeds 10, 17, 40, outside the protocol"]),
    ],
)
def test_a_cell_counts_the_protocols_seeds_and_names_those_that_it_lacks(
    seeds: Iterable[int], counted: Iterable[int], whole: bool, marks: list[str]
) -> None:
    cell = chosen(runs(seeds=seeds))
    assert cell.counted_seeds == tuple(counted)
    assert cell.whole == whole
    assert cell.marks == marks


def test_seeds_outside_the_protocol_are_listed_and_do_not_make_a_cell_testable() -> None:
    assert not chosen(runs(seeds=range(10, 20))).testable
    assert not chosen(runs(seeds=[0, 1, *range(10, 20)])).testable
    assert chosen(runs(seeds=[0, 1, 2])).testable


def test_mean_and_interval_are_over_the_counted_seeds() -> None:
    """Seeds 4 to 19: four to nine are the protocol's, and lower seeds beyond them change nothing."""
    errors = [2.2, 2.3, 2.1, 2.4, 2.2, 2.3]
    cell = chosen(runs_with("bp", [*errors, *[0.5] * 10], range(4, 20)))
    assert cell.errors() == pytest.approx(np.array(errors))
    assert cell.mean == pytest.approx(np.mean(errors))
    assert cell.std == pytest.approx(np.std(errors, ddof=1))
    assert cell.interval == pytest.approx(mean_interval(errors))
    assert cell.marks == ["without seeds 0-3", "not counted: seeds 10-19"]


def test_where_both_kinds_of_whole_cells_occur_nine_shared_seeds_count() -> None:
    cells = choose_cells([*runs("bp"), *runs("dfa", range(1, 11)), *runs("dtp", range(11)), *runs("tp", range(4))])
    by_method = {method: cell for (_, _, method, _), cell in cells.items()}
    for method in ("bp", "dfa", "dtp"):
        assert by_method[method].counted_seeds == tuple(range(1, 10))
        assert by_method[method].marks == ["over seeds 1-9"]
    assert by_method["tp"].counted_seeds == (0, 1, 2, 3)


def test_a_cell_with_both_kinds_of_seeds_counts_those_of_the_others_and_says_so() -> None:
    cells = choose_cells([*runs("bp", range(1, 11)), *runs("dfa", range(11))])
    dfa = cells["mnist", "", "dfa", "unknown"]
    assert dfa.counted_seeds == tuple(range(1, 11))
    assert dfa.marks == ["not counted: seed 0"]


def test_seeds_are_shared_within_a_workload_alone() -> None:
    cells = choose_cells([*runs("bp"), *runs("bp", range(1, 11), workload="cifar10")])
    assert {workload: cell.counted_seeds for (workload, *_), cell in cells.items()} == {
        "mnist": tuple(range(10)),
        "cifar10": tuple(range(1, 11)),
    }


@pytest.mark.parametrize("other", [{"fingerprint": "e" * 64}, {"epochs": 90}, {"label": "JPEG copy"}])
def test_seeds_are_shared_within_one_data_order_and_number_of_epochs_alone(other: dict[str, Any]) -> None:
    cells = choose_cells([*runs("bp"), *runs("dfa"), *runs("dtp", range(1, 11), **other)])
    by_method = {method: cell.counted_seeds for (_, _, method, _), cell in cells.items()}
    assert by_method == {"bp": tuple(range(10)), "dfa": tuple(range(10)), "dtp": tuple(range(1, 11))}


def test_seeds_beyond_the_protocols_count_for_nothing_in_the_choice() -> None:
    assert chosen(runs(seeds=range(20), lr=1e-2, error=0.03), runs(error=0.02)).marks == ["1 of 2 configurations"]
    assert chosen(runs(seeds=range(4), lr=1e-2), runs(seeds=range(3), error=0.001)).seeds == 4


# Diverged seeds


def test_a_diverged_seed_counts_as_chance_and_the_cell_says_how_many() -> None:
    errors = [2.0 + 0.01 * seed for seed in range(10)]
    cell = chosen(runs_with("bp", errors, diverged=[3, 8]))
    expected = np.array(errors)
    expected[[3, 8]] = 90.0
    assert cell.errors() == pytest.approx(expected)
    assert cell.mean == pytest.approx(expected.mean())
    assert cell.interval == pytest.approx(mean_interval(expected))
    assert (cell.seeds, cell.diverged, cell.marks) == (10, 2, ["2 of 10 diverged"])


def test_a_seed_that_diverged_in_its_first_epoch_counts_as_chance_too() -> None:
    first = record("bp", 0, [], status="diverged")
    assert chosen([first, *runs(seeds=range(1, 10))]).errors()[0] == pytest.approx(90.0)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_chance_is_that_of_the_workloads_classes(workload: str) -> None:
    cell = chosen(runs_with("bp", [2.0] * 3, diverged=range(3), workload=workload))
    assert cell.mean == pytest.approx(100 * (1 - 1 / WORKLOADS[workload].outputs))


@pytest.mark.parametrize(("content", "chance"), [({"outputs": 4}, 75.0), ({"outputs": "4"}, 100.0), ({"a": 1}, 100.0)])
def test_chance_of_an_own_workload_is_that_of_its_classes(content: dict[str, object], chance: float) -> None:
    cell = chosen(runs_with("bp", [2.0] * 3, diverged=[1], workload="wine", content=content))
    assert cell.errors() == pytest.approx([2.0, chance, 2.0])


def test_fewer_diverged_seeds_come_before_a_lower_validation_error() -> None:
    survivors = [*runs(seeds=range(1), lr=1e-2, error=0.001), *runs(seeds=range(1, 10), lr=1e-2, status="diverged")]
    assert chosen(survivors, runs(error=0.05)).diverged == 0


def test_a_diverged_run_cannot_be_replaced_by_deleting_its_file() -> None:
    """Nine seeds are a cell of fewer seeds, and no whole one."""
    nine = chosen(runs(seeds=range(9)))
    assert not nine.whole
    assert nine.marks == ["without seed 9"]


# Tuning labels


@pytest.mark.parametrize(
    ("info", "label"),
    [
        (PUBLISHED, "published"),
        (searched(trials=100), "100 x 100"),
        (searched(trials=54, epochs=27, halving=3), "54 x 27 halved"),
        (searched(trials=54, epochs=27, halving=2), "54 x 27 halved by 2"),
        (searched(objective="train_loss"), "40 x 100 by train_loss"),
        (searched(search_precision="float64"), "40 x 100 in float64"),
        (searched(trials=54, epochs=27, halving=3, start="published"), "54 x 27 halved from published"),
        (searched(start="file", objective="train_loss"), "40 x 100 by train_loss from file"),
        (FROM_FILE, "file"),
        (FROM_PYTHON, "python"),
        ({}, "unknown"),
        ({"by": "magic"}, "unknown"),
        ({"by": "search"}, "unknown"),
        ({"by": "search", "trials": 40}, "unknown"),
        ({"by": "search", "epochs": 100}, "unknown"),
    ],
)
def test_a_cell_has_a_tuning_label(info: SearchInfo, label: str) -> None:
    assert list(cells_of(runs(found=info))) == [label]


@pytest.mark.parametrize(
    ("most", "one", "label"),
    [
        # A file with the values of a search of any size.
        (searched(), FROM_FILE, "file"),
        # One of ten runs is of another search; nine runs without a record, one published.
        (searched(), searched(trials=41), "unknown"),
        ({}, PUBLISHED, "unknown"),
        (PUBLISHED, searched(), "40 x 100"),
        (PUBLISHED, FROM_FILE, "file"),
        (PUBLISHED, searched(start="published"), "40 x 100 from published"),
        (searched(), searched(start="published"), "unknown"),
        # A search from a file's configurations is known no better than the file.
        (searched(), searched(start="file"), "40 x 100 from file"),
        (FROM_PYTHON, searched(start="file"), "python"),
        (FROM_FILE, {}, "unknown"),
        (PUBLISHED, {"by": "search"}, "unknown"),
    ],
)
@pytest.mark.parametrize("place", [0, 4, 9])
def test_the_weakest_label_of_a_cells_runs_is_the_cells(
    most: SearchInfo, one: SearchInfo, label: str, place: int
) -> None:
    others = [seed for seed in range(10) if seed != place]
    assert list(cells_of(runs(seeds=others, found=most), runs(seeds=[place], found=one))) == [label]


def test_a_trial_of_a_search_says_nothing_beside_other_runs() -> None:
    """The authors' configuration, which a search tried first; and a configuration that two searches share."""
    trial, final = searched(role="search", start="published"), searched("s1", trials=54)
    assert list(cells_of(runs(seeds=[0], found=trial), runs(seeds=range(1, 10), found=PUBLISHED))) == ["published"]
    other = runs(seeds=[0], found=searched("s0", role="search", objective="train_loss"))
    assert list(cells_of(other, runs(seeds=range(1, 10), found=final))) == ["54 x 100"]
    assert list(cells_of(runs(seeds=[0], found=trial))) == ["40 x 100 from published"]
    # The search's winner keeps a row beside the published one.
    winner = runs(error=0.019, lr=2e-3, found=searched(start="published"))
    found = cells_of(runs(seeds=[0], found=trial), runs(seeds=range(1, 10), found=PUBLISHED), winner)
    assert {label: cell.runs[-1].definition.configuration["lr"] for label, cell in found.items()} == {
        "published": 1e-3,
        "40 x 100 from published": 2e-3,
    }


def test_a_trial_beside_other_runs_is_no_search_behind_a_configuration() -> None:
    other = runs(error=0.03, lr=2e-3, found=FROM_FILE)
    cell = chosen(runs(seeds=[0], found=searched(role="search")), runs(seeds=range(1, 10), found=FROM_FILE), other)
    assert (cell.tuning, cell.marks) == ("file", ["1 of 2 configurations"])


def test_of_two_splits_of_a_seed_todays_counts() -> None:
    def split(by: Literal["", "by class"], error: float) -> list[RunRecord]:
        return [replace(run, definition=replace(run.definition, split=by)) for run in runs(error=error)]

    assert [run.definition.split for run in chosen(split("", 0.01), split("by class", 0.09)).runs] == ["by class"] * 10


def test_the_label_is_of_the_protocols_seeds() -> None:
    """Seed 10 is one of them, as it may be counted; seed 99 is not."""
    assert list(cells_of(runs(found=PUBLISHED), runs(seeds=[99], found=FROM_FILE))) == ["published"]
    assert list(cells_of(runs(found=PUBLISHED), runs(seeds=[10], found=FROM_FILE))) == ["file"]
    assert list(cells_of(runs(seeds=[98], found=PUBLISHED), runs(seeds=[99], found=FROM_FILE))) == ["file"]


def test_twenty_searches_of_one_label_are_counted() -> None:
    """Forty trials each, of which the lowest validation error was kept."""
    groups = [
        runs(error=0.02 + 0.0001 * sweep, lr=1e-3 * (sweep + 1), found=searched(f"s{sweep}")) for sweep in range(20)
    ]
    cell = chosen(*groups)
    assert cell.tuning == "40 x 100"
    assert cell.marks == ["1 of 20 configurations", "800 trials"]
    assert cell.validation == pytest.approx(min(chosen(group).validation for group in groups))


def test_trials_of_one_search_are_its_label_and_no_configurations() -> None:
    trials = [record("bp", 0, [0.02], lr=1e-4 * (n + 1), found=searched(role="search")) for n in range(40)]
    cell = chosen(trials, runs(lr=1.0, found=searched()))
    assert (cell.tuning, cell.marks) == ("40 x 100", [])


def test_searches_without_final_runs_are_counted() -> None:
    """Whoever starts four searches and trains final runs for one has chosen among four."""
    lost = [
        runs(seeds=[0], lr=1e-3 * (n + 2) + 1e-6 * trial, error=0.06, found=searched(f"lost{n}", role="search"))
        for n in range(3)
        for trial in range(5)
    ]
    own = runs(seeds=[0], lr=0.5, found=searched("kept", role="search"))
    cell = chosen(runs(found=searched("kept")), own, *lost)
    assert cell.marks == ["1 of 4 configurations", "160 trials"]
    assert chosen(runs(found=searched("kept")), own).marks == []
    # Of one label: a search of another size is a row of its own.
    other = cells_of(runs(found=searched("kept")), runs(seeds=[0], lr=0.7, found=searched("x", 41, role="search")))
    assert other["40 x 100"].marks == []


def test_a_search_beside_final_runs_of_two_searches_is_counted_once() -> None:
    groups = [runs(lr=lr, error=lr, found=searched(f"s{lr}")) for lr in (0.02, 0.03)]
    trials = [runs(seeds=[0], lr=lr * 10, found=searched(f"s{lr}", role="search")) for lr in (0.02, 0.03, 0.04)]
    assert chosen(*groups, *trials).marks == ["1 of 3 configurations", "120 trials"]


def test_configurations_from_files_are_counted() -> None:
    cell = chosen(*(runs(lr=lr, found=FROM_FILE) for lr in (1e-1, 1e-2, 1e-3)))
    assert cell.marks == ["1 of 3 configurations"]


def test_twenty_versions_of_a_plug_in_do_not_compete_by_their_errors() -> None:
    """That of the installed package, or of most seeds, or with the first digest stands, and their number beside it."""
    groups = [runs("mine", error=0.03 - 0.001 * n, source=f"mine 1.{n} {n:016x}", found=PUBLISHED) for n in range(20)]
    cell = chosen(*groups)
    assert cell.marks == ["1 of 20 sources"]
    assert cell.validation == pytest.approx(chosen(groups[0]).validation)


def test_searches_in_two_spaces_are_two_configurations() -> None:
    groups = [
        runs(lr=lr, found=search_info(f"s{lr}", 100, 100, space, "final", range(10)))
        for lr, space in ((1e-2, "a" * 16), (1e-3, "b" * 16))
    ]
    assert chosen(*groups).marks == ["1 of 2 configurations", "200 trials"]


def test_the_same_data_in_two_orders_is_counted_where_one_stands() -> None:
    cell = chosen(runs(fingerprint="a" * 64), runs(fingerprint="b" * 64, error=0.01))
    assert cell.marks == ["1 of 2 configurations"]


def test_of_one_label_most_of_the_protocols_seeds_stand_then_the_lowest_validation_error() -> None:
    nine, ten = runs(seeds=range(9), error=0.001, lr=1e-2), runs(error=0.05, lr=1e-3)
    assert chosen(nine, ten).seeds == 10
    worse, better = runs(lr=1e-2, error=0.03), runs(lr=1e-3, error=0.02)
    for run in worse:
        run.curves["test_error"][0] = 0.0001
    # The test error chooses nothing.
    assert chosen(worse, better).runs[0].definition.configuration["lr"] == 1e-3


@pytest.mark.parametrize("backwards", [False, True])
def test_between_equals_the_first_id_stands(backwards: bool) -> None:
    groups = [runs(lr=lr) for lr in (1e-1, 1e-2, 1e-3, 1e-4)]
    cell = chosen(*(reversed(groups) if backwards else groups))
    assert min(run.definition.id for group in groups for run in group) in {run.definition.id for run in cell.runs}


def test_every_label_of_a_method_is_a_cell_and_its_title_names_it_where_there_are_several() -> None:
    cells = cells_of(runs(found=PUBLISHED), runs(lr=1e-2, error=0.01, found=searched()))
    assert set(cells) == {"published", "40 x 100"}
    assert {cell.title for cell in cells.values()} == {"BP, published", "BP, 40 x 100"}
    assert all(cell.marks == [] for cell in cells.values())
    assert chosen(runs(found=PUBLISHED)).title == "BP"


def test_of_equal_cells_the_best_known_tuning_and_the_larger_search_are_preferred() -> None:
    labels = {"published": PUBLISHED, "40 x 100": searched(), "100 x 100": searched(trials=100), "file": FROM_FILE}
    cells = cells_of(*(runs(lr=n + 1.0, found=info) for n, info in enumerate(labels.values())))
    order = []
    while cells:
        best = preferred_cell(cells.values())
        assert best
        order.append(best.tuning)
        del cells[best.tuning]
    assert order == ["published", "100 x 100", "40 x 100", "file"]


@pytest.mark.parametrize(
    "weaker",
    [
        {"seeds": range(9)},
        {"seeds": range(2)},
        {"epochs": 1},
        {"epochs": 90},
        {"epochs": 300},
        {"precision": "float64"},
    ],
)
def test_epochs_precision_and_seeds_come_before_the_label(weaker: dict[str, Any]) -> None:
    cells = cells_of(runs(found=PUBLISHED, **weaker), runs(lr=1.0, found=FROM_FILE))
    found = preferred_cell(cells.values())
    assert found
    assert found.tuning == "file"


def test_epochs_come_before_missing_seeds_but_not_before_too_few() -> None:
    def preferred(*groups: list[RunRecord]) -> int:
        found = preferred_cell(cells_of(*groups).values())
        assert found
        return found.epochs

    searches = runs(lr=1.0, found=searched())
    short = [replace(run, definition=replace(run.definition, epochs=10)) for run in searches]
    assert preferred(runs(seeds=range(3), found=PUBLISHED), short) == 100
    assert preferred(runs(seeds=range(2), found=PUBLISHED), short) == 10


def test_the_cost_of_unknown_origins_is_unknown() -> None:
    budgets = [tuning_budget(info) for info in (PUBLISHED, searched(), FROM_FILE, FROM_PYTHON, {})]
    assert [budget.rank for budget in budgets] == sorted(budget.rank for budget in budgets)
    assert tuning_budget(searched()).trials == 40


def test_a_tuned_configuration_does_not_enter_the_papers_table(tmp_path: Path) -> None:
    tuned = runs(lr=1e-2, error=0.001, found=searched())
    alone = paper_table(store_of(tmp_path / "a", runs(found=PUBLISHED)), "1")
    beside = paper_table(store_of(tmp_path / "b", runs(found=PUBLISHED), tuned, runs("dfa", found=FROM_FILE)), "1")
    assert {method: entry.agreement for method, entry in beside.column(MNIST).items()} == {
        "bp": alone.entries["bp", MNIST].agreement
    }
    assert beside.shift == alone.shift
    assert {cell.tuning for cell in beside.others} == {"40 x 100", "file"}


def test_a_mean_of_two_seeds_has_no_interval() -> None:
    assert all(map(math.isnan, chosen(runs(seeds=range(2))).interval))
    assert math.isnan(chosen(runs(seeds=range(1))).std)
