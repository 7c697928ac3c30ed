"""Tuning curves: the expected best of random trials, which trials are random, and what a stopped trial counts."""

from __future__ import annotations

import io
import itertools
import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.search.hyperopt import HyperOptSearch

import tpbench
from tests.conftest import Inside
from tests.results.records import record
from tests.search.test_trials import DEFINITION, suggestions
from tpbench.engine import TpbenchError
from tpbench.reports.tuning_plots import TUNING_AXES, TuningPlot, search_figure, tuning_figure, tuning_panel
from tpbench.results import RunStore
from tpbench.results.runs import search_info
from tpbench.search.definition import SweepDefinition
from tpbench.search.journal import Journal
from tpbench.search.packed_tpe import METRIC, RANDOM_FIRST, PackedSearch, random_trials
from tpbench.search.spaces import space_for, supplied_configuration
from tpbench.search.tuning import OBSERVED, WITH, WITHOUT, expected_best, tuning_frames
from tpbench.training.plan import Outcome
from tpbench.workloads import WORKLOADS

VALUES = [2.30, 2.50, 2.92, 3.10, 4.00, 5.80]
ERRORS = st.lists(st.floats(0, 100, allow_subnormal=False), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("replacement", "expected"),
    [(True, [3.436667, 2.820556, 2.604352, 2.407938]), (False, [3.436667, 2.697333, 2.493, 2.3])],
)
def test_the_expected_best_has_the_reference_values(replacement: bool, expected: list[float]) -> None:
    assert expected_best(VALUES, [1, 2, 3, 6], replacement=replacement) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_expected_best_is_the_mean_over_all_draws(n: int) -> None:
    values = [4.0, 1.0, 1.0, 3.5]
    draws = [min(draw) for draw in itertools.product(values, repeat=n)]
    subsets = [min(draw) for draw in itertools.combinations(values, n)]
    assert expected_best(values, [n]) == pytest.approx([np.mean(draws)])
    assert expected_best(values, [n], replacement=False) == pytest.approx([np.mean(subsets)])


@given(ERRORS)
def test_more_draws_are_no_worse_and_replacement_no_better(values: list[float]) -> None:
    with_it, without = expected_best(values), expected_best(values, replacement=False)
    assert len(with_it) == len(without) == len(values)
    for curve in (with_it, without):
        assert curve[0] == pytest.approx(np.mean(values), abs=1e-9)
        assert (np.diff(curve) <= 1e-9).all()
    assert (with_it >= without - 1e-9).all()
    assert without[-1] == pytest.approx(min(values), abs=1e-9)


def test_as_many_trials_as_no_binomial_coefficient_holds() -> None:
    values = np.arange(3000.0)
    assert expected_best(values, [1, 3000], replacement=False) == pytest.approx([1499.5, 0.0])


@pytest.mark.parametrize(("values", "n", "replacement"), [([], None, True), ([1.0], [0], True), ([1.0], [2], False)])
def test_draws_that_cannot_be_are_an_error(values: list[float], n: list[int] | None, replacement: bool) -> None:
    with pytest.raises(ValueError, match="draws"):
        expected_best(values, n, replacement=replacement)


@pytest.mark.parametrize(("pack", "lag", "given"), [(3, 2, 0), (7, 1, 0), (1, 4, 0), (3, 2, 5), (7, 1, 2), (1, 4, 25)])
def test_the_trials_that_tpe_draws_at_random_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: int, lag: int, given: int
) -> None:
    """Packs that fail, and losses that are infinite, count for nothing, so more trials are random."""
    from hyperopt import rand

    drawn: list[int] = []
    suggest = rand.suggest

    def counted(new_ids: list[int], *others: Any) -> Any:
        drawn.append(new_ids[0])
        return suggest(new_ids, *others)

    monkeypatch.setattr(rand, "suggest", counted)

    point = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6}

    def inner() -> HyperOptSearch:
        return HyperOptSearch(
            space_for("bp").to_hyperopt(),
            metric=METRIC,
            mode="min",
            points_to_evaluate=[{**point, "lr": 1e-4 + k / 1e4} for k in range(given)] or None,
            random_state_seed=7,
            n_initial_points=RANDOM_FIRST,
        )

    search = PackedSearch(inner, Journal.open(tmp_path / "j.jsonl"), trials=42, pack=pack, max_pending=lag)
    running = []
    while not search.ended:
        while entry := search.next_pack():
            running.append(entry)
        entry = running.pop(0)
        outcomes = [
            Outcome("0" * 24, "diverged" if k == 1 else "finished", 0.1, 0.1, value=1.0)
            for k in range(len(entry.suggestions))
        ]
        search.journal.end_pack(entry.number, [] if entry.number == 1 else outcomes)
    random = random_trials(search.journal.packs, lag, given)
    assert len(random) == 42
    assert [number for number, is_random in enumerate(random) if is_random] == drawn
    assert given + sum(random) > RANDOM_FIRST or pack == 1


def test_the_search_draws_as_many_at_random_as_the_curve_believes() -> None:
    from tpbench.sweeps.sweep import SearchedSweep

    sweep: Any = SimpleNamespace(space=space_for("bp"), definition=DEFINITION)
    search = SearchedSweep._inner(sweep)
    assert search.algo.keywords["n_startup_jobs"] == RANDOM_FIRST
    known = {"lr": 1e-4, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6}
    sweep.definition = replace(DEFINITION, start=(known,))
    assert SearchedSweep._inner(sweep).suggest("0") == known


# --- frames and figures ---

HALVED = replace(DEFINITION, trials=8, epochs=27, halving=2)
ENDS = [
    Outcome("0" * 24, "stopped", 0.05, 0.1, epochs=7),
    Outcome("1" * 24, "finished", 0.03, 0.1, epochs=27),
    Outcome("2" * 24, "stopped", 0.01, 0.1, epochs=14),
    Outcome("3" * 24, "diverged", 0.2, 0.2, epochs=5),
    Outcome("4" * 24, "finished", 0.04, 0.1, epochs=27),
    Outcome("5" * 24, "finished", 0.02, 0.1, epochs=27),
    Outcome("6" * 24, "pruned", 0.9, 0.9, epochs=2),
    Outcome("7" * 24, "stopped", 0.06, 0.1, epochs=7),
]


def searched(results: Path, definition: SweepDefinition = HALVED, ends: list[Outcome] = ENDS) -> str:
    """A sweep of two packs of four trials; returns its name."""
    folder = results / "sweeps" / definition.id
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps(definition.plain()))
    journal = Journal.open(folder / "journal.jsonl")
    for pack in range(2):
        journal.add_pack(suggestions(pack))
        journal.end_pack(pack, ends[4 * pack : 4 * pack + 4])
    return definition.id


def test_a_stopped_trial_costs_its_epochs_and_is_never_the_best(tmp_path: Path) -> None:
    name = searched(tmp_path)
    frame = tpbench.load_tuning(tmp_path, "mnist")
    assert set(frame.sweep) == {name}
    assert set(frame.search) == {"8 x 27 halved by 2"}
    observed = frame[frame.kind == OBSERVED]
    assert list(observed.trials) == list(range(1, 9))
    assert list(observed.member_epochs) == [7, 34, 48, 53, 80, 107, 109, 116]
    # The third trial was stopped with 1 %.
    assert list(observed.validation_error) == pytest.approx([np.nan, 3, 3, 3, 3, 2, 2, 2], nan_ok=True)
    values = [5, 3, 4, 100, 4, 2, 90, 6]  # of the third trial the worst that came to the end
    for kind in (WITH, WITHOUT):
        rows = frame[frame.kind == kind]
        assert list(rows.validation_error) == pytest.approx(list(expected_best(values, replacement=kind == WITH)))
        assert list(rows.member_epochs) == pytest.approx([n * 116 / 8 for n in range(1, 9)])


def test_quantiles_among_unfinished_trials_are_missing(tmp_path: Path) -> None:
    searched(tmp_path)
    [row] = tpbench.load_tuning(tmp_path).attrs["quantiles"]
    assert (row["random"], row["unfinished"]) == (8, 5)
    assert [row[f"q{q}"] for q in (10, 25, 50, 75, 90)] == pytest.approx([2, 3, np.nan, np.nan, np.nan], nan_ok=True)


def test_trials_say_whether_they_were_drawn_at_random(tmp_path: Path) -> None:
    definition = replace(DEFINITION, trials=24, pack=12, lag=1)
    folder = tmp_path / "sweeps" / definition.id
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps(definition.plain()))
    journal = Journal.open(folder / "journal.jsonl")
    for pack in range(2):
        journal.add_pack([{"lr": 0.1 + place / 100} for place in range(12)])
        journal.end_pack(pack, [Outcome("0" * 24, "finished", 0.02, 0.1, epochs=100)] * 12)
    frame = tpbench.load_trials(tmp_path)
    assert list(frame.random) == [True] * RANDOM_FIRST + [False] * 4
    assert frame.random.dtype == bool


def test_known_configurations_are_no_random_trials(tmp_path: Path) -> None:
    searched(
        tmp_path, replace(HALVED, epochs=100, search_epochs=27, start=tuple(suggestions(0)[:2]), start_from="file")
    )
    frame = tpbench.load_tuning(tmp_path)
    assert set(frame.search) == {"8 x 27 halved by 2 from file"}
    assert list(tpbench.load_trials(tmp_path).random) == [False] * 2 + [True] * 6
    [row] = frame.attrs["quantiles"]
    assert (row["random"], row["unfinished"]) == (6, 4)
    # What is given counts among the trials that were made, and costs its epochs.
    observed = frame[frame.kind == OBSERVED]
    assert list(observed.member_epochs) == [7, 34, 48, 53, 80, 107, 109, 116]
    without = frame[frame.kind == WITHOUT]
    assert list(without.trials) == list(range(1, 7))
    assert without.validation_error.iloc[-1] == pytest.approx(2)


def test_a_finished_trial_without_epochs_has_those_of_the_search(tmp_path: Path) -> None:
    searched(tmp_path, replace(HALVED, epochs=100, search_epochs=27), [replace(end, epochs=None) for end in ENDS])
    frame = tpbench.load_trials(tmp_path)
    assert list(frame.epochs[frame.state == "finished"]) == [27, 27, 27]


def test_epochs_that_were_not_recorded_leave_the_cost_open(tmp_path: Path) -> None:
    searched(tmp_path, ends=[replace(end, epochs=None) for end in ENDS])
    frame = tpbench.load_tuning(tmp_path)
    assert frame.validation_error.iloc[-1] == pytest.approx(expected_best([5, 3, 4, 100, 4, 2, 90, 6])[-1])
    assert frame[frame.kind == OBSERVED].member_epochs.isna().all()


def test_a_search_by_a_loss_is_left_out_and_named(tmp_path: Path) -> None:
    kept = searched(tmp_path)
    loss = searched(tmp_path, replace(HALVED, objective="train_loss"), [replace(end, value=0.5) for end in ENDS])
    with pytest.warns(UserWarning, match=loss):
        frame = tpbench.load_tuning(tmp_path)
    assert set(frame.sweep) == {kept}
    assert len(frame.attrs["notes"]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tpbench.load_tuning(tmp_path, "fashion-mnist").empty


@pytest.mark.parametrize("changed", [{"validation_error": 0.0, "status": "finished"}, {"status": "stopped"}])
@pytest.mark.filterwarnings("error")
def test_a_search_without_an_error_above_zero_is_drawn(tmp_path: Path, changed: dict[str, Any]) -> None:
    searched(tmp_path, ends=[replace(end, **changed) for end in ENDS])
    figure = tuning_figure(RunStore(tmp_path), "mnist")
    figure.savefig(io.BytesIO())
    assert [axes.get_yscale() for axes in figure.axes[:2]] == ["linear", "linear"]


def test_a_search_of_which_none_came_to_its_end_has_no_expectation(tmp_path: Path) -> None:
    searched(tmp_path, ends=[replace(end, status="stopped") for end in ENDS])
    frame = tpbench.load_tuning(tmp_path)
    assert set(frame.kind) == {OBSERVED}
    assert frame.validation_error.isna().all()
    tuning_figure(RunStore(tmp_path), "mnist")


def test_a_store_without_searches_has_no_curves_and_a_figure_is_an_error(
    tmp_path: Path, tpbench_inside: Inside
) -> None:
    (tmp_path / "results").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = tpbench.load_tuning(tmp_path / "results")
    assert frame.empty
    assert {"sweep", "kind", "trials", "member_epochs", "validation_error"} <= set(frame.columns)
    with pytest.raises(TpbenchError):
        tuning_figure(RunStore(tmp_path / "results"), "mnist")
    ended = tpbench_inside("plot", "tuning", "mnist")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "tuning_mnist.png").exists()


def test_the_figure_has_both_panels_and_a_line_for_each_kind(tmp_path: Path, tpbench_inside: Inside) -> None:
    searched(tmp_path / "results")
    searched(tmp_path / "results", replace(HALVED, search_seed=1))
    searched(tmp_path / "results", replace(HALVED, method="dfa"))
    store = RunStore(tmp_path / "results")
    curves, spread, _ = tuning_frames(store, ["mnist"])
    plot = TuningPlot("mnist", curves, spread)
    assert len({search.label for search in plot.searches}) == 3
    styles = {(search.style["color"], search.style["marker"]) for search in plot.searches}
    assert len(styles) == 3
    header, rows = plot.table()
    assert [len(row) for row in rows] == [len(header)] * 3
    for column in TUNING_AXES:
        [axes] = tuning_panel(plot, column).axes
        drawn = [line for line in axes.lines if len(line.get_xdata())]  # type: ignore[arg-type]
        assert len(drawn) == 3 * 3
        # Two searches of one method share its colour.
        assert len({text.get_text() for text in axes.texts}) == 3
    assert len(tuning_figure(store, "mnist").axes) == 3
    assert tpbench_inside("plot", "tuning", "mnist").returncode == 0
    assert (tmp_path / "tuning_mnist.png").exists()
    assert tpbench_inside("plot", "tuning", "mnsit").returncode == 2


def test_the_committed_search_is_plotted_from_its_archive() -> None:
    store = RunStore(Path(__file__).parents[2] / "results")
    name = "mnist-ddtp-linear-ce3e265d"
    search_figure(store, name)
    curves, spread, _ = tuning_frames(store, ["mnist"])
    [row] = spread[spread.sweep == name].to_dict("records")
    assert (row["random"], row["unfinished"], row["q10"]) == (20, 18, pytest.approx(2.68))
    rows = curves[(curves.sweep == name) & (curves.kind == WITHOUT)]
    assert list(rows.validation_error.iloc[[0, -1]]) == pytest.approx([8.662, 1.88])
    observed = curves[(curves.sweep == name) & (curves.kind == OBSERVED)].iloc[-1]
    assert (observed.trials, observed.member_epochs, observed.validation_error) == (54, 378, pytest.approx(1.88))


def test_searches_without_a_journal_are_named(tmp_path: Path) -> None:
    found = search_info("gone", 40, 100, "d", "final", range(10))
    store = RunStore(tmp_path)
    store.publish(record("bp", found=found))
    curves, _, notes = tuning_frames(store, ["mnist"])
    assert curves.empty
    (note,) = notes
    assert "mnist bp (40 x 100)" in note
    assert tuning_frames(store, ["digits"])[2] == []
    # That of a configuration that comes with tpbench is no search of the user's.
    _, supplied = supplied_configuration(WORKLOADS["digits"], "bp")
    store.publish(record("bp", workload="digits", found=supplied))
    assert tuning_frames(store, ["digits"])[2] == []


def test_runs_of_a_supplied_configuration_name_no_search_that_is_not_here(tmp_path: Path) -> None:
    _, supplied = supplied_configuration(WORKLOADS["digits-conv"], "bp")
    store = RunStore(tmp_path)
    store.publish(record("bp", workload="digits-conv", found=supplied))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tpbench.load_runs(tmp_path, "digits-conv", "bp").attrs["notes"] == []
    # Runs of the search itself are here: its other trials are missing.
    store.publish(record("bp", seed=1, workload="digits-conv", found={**supplied, "role": "search"}))
    with pytest.warns(UserWarning, match=supplied["sweep"]):
        assert len(tpbench.load_runs(tmp_path, "digits-conv", "bp").attrs["notes"]) == 1
