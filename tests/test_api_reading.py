"""Stores as data frames."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tpbench
from tests.results.records import record
from tpbench.reports.alignment_tables import DAMPING_COLUMNS
from tpbench.results import RunStore
from tpbench.results.comparison import COLUMNS as COMPARED
from tpbench.results.frames import CURVE_COLUMNS, EXPORT_COLUMNS
from tpbench.results.ranking import COLUMNS as RANKED
from tpbench.results.runs import PUBLISHED


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two methods on mnist over four seeds, one of a package that is not installed here, and one run on digits."""
    store = RunStore(tmp_path / "results")
    for method, error in (("bp", 0.02), ("dtp", 0.03), ("somebodys-rule", 0.04)):
        for seed in range(4):
            store.publish(record(method, seed, [0.5, error + seed / 1000, 0.4], found=PUBLISHED))
    store.publish(record("bp", 0, [0.1], workload="digits", epochs=1))
    return tmp_path / "results"


def test_runs_are_rows(results: Path) -> None:
    frame = tpbench.load_runs(results)
    assert list(frame.columns[: len(EXPORT_COLUMNS)]) == list(EXPORT_COLUMNS)
    assert len(frame) == 13
    assert frame["seed"].dtype == frame["epochs"].dtype == "int64"
    assert frame["test_error"].dtype == frame["hp_lr"].dtype == "float64"
    one = frame[(frame.method == "dtp") & (frame.seed == 1)].iloc[0]
    assert (one.selected_epoch, one.data, one.status) == (2, "exact", "finished")
    assert one.test_error == pytest.approx(4.1)
    assert set(tpbench.load_runs(str(results), workload="digits").workload) == {"digits"}
    assert set(tpbench.load_runs(results, "mnist", "bp, somebodys-rule").method) == {"bp", "somebodys-rule"}
    assert len(tpbench.load_runs(results, ["mnist", "digits"], ["bp"])) == 5


def test_a_run_that_finished_no_epoch_has_none(tmp_path: Path) -> None:
    RunStore(tmp_path).publish(record("bp", 0, [], status="diverged"))
    frame = tpbench.load_runs(tmp_path)
    assert frame.selected_epoch.isna().all()
    assert frame.status[0] == "diverged"
    assert tpbench.load_curves(tmp_path).empty


def test_curves_are_long_and_count_epochs_from_one(results: Path) -> None:
    frame = tpbench.load_curves(results, workload="mnist", method="dtp")
    assert list(frame.columns) == list(CURVE_COLUMNS)
    assert len(frame) == 4 * 2 * 3
    assert (frame["epoch"].dtype, frame["value"].dtype) == ("int64", "float64")
    one = frame[(frame.seed == 2) & (frame.curve == "validation_error")]
    assert list(one.epoch) == [1, 2, 3]
    assert list(one.value) == [0.5, 0.032, 0.4]
    assert len(tpbench.load_curves(results)) == 12 * 2 * 3 + 2
    # The selected epoch of a run is that of its curve.
    joined = frame.merge(tpbench.load_runs(results), left_on=["run", "epoch"], right_on=["id", "selected_epoch"])
    at_best = joined[joined.curve == "test_error"]
    assert list(100 * at_best.value) == pytest.approx(list(at_best.test_error))


def test_the_selection_reads_no_other_runs(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tpbench.leaderboard(results)  # its summaries are kept
    read, before = [], RunStore._copies

    def counted(self: RunStore, kind: Any, run_id: str, archives: Any) -> Any:
        read.append(run_id)
        return before(self, kind, run_id, archives)

    monkeypatch.setattr(RunStore, "_copies", counted)
    frame = tpbench.load_curves(results, method="dtp")
    assert sorted(read) == sorted(frame.run.unique())


def test_an_empty_store_gives_empty_frames_and_none_is_a_slip(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    empty = tmp_path / "results"
    assert list(tpbench.load_runs(empty).columns) == list(EXPORT_COLUMNS)
    assert list(tpbench.load_curves(empty).columns) == list(CURVE_COLUMNS)
    assert set(RANKED) <= set(tpbench.leaderboard(empty).columns)
    assert list(tpbench.compare(empty, "bp", "dtp").columns) == list(COMPARED)
    assert "train_loss_mean" in tpbench.table(empty, "loss").columns
    assert list(tpbench.table(empty, "s7").columns) == list(DAMPING_COLUMNS)
    for frame in (tpbench.load_runs(empty), tpbench.load_curves(empty), tpbench.leaderboard(empty)):
        assert frame.empty
    assert set(tpbench.table(empty, "1").seeds) == {"none"}
    with pytest.raises(tpbench.UsageError, match=r"^results '.*resultz': .*results'\?$"):
        tpbench.load_runs(tmp_path / "resultz")


def test_damaged_runs_are_named(results: Path) -> None:
    broken = next((results / "runs").glob("*.json"))
    broken.write_text("{}")
    for read in (tpbench.load_runs, tpbench.load_curves, tpbench.leaderboard):
        with pytest.warns(UserWarning, match=broken.stem) as warned:
            read(results)
        assert Path(warned[0].filename) == Path(__file__)  # who called, not tpbench
    with pytest.warns(UserWarning, match="not trained"):
        tpbench.table(results, "s6")


def test_leaderboard_tables_and_comparisons_are_those_of_the_commands(results: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        board = tpbench.leaderboard(results)
        table = tpbench.table(results, "S6")
        losses = tpbench.table(results, "loss")
        pair = tpbench.compare(results, "bp", "dtp")
    assert list(board[board.workload == "mnist"].method) == ["bp", "dtp", "somebodys-rule"]
    assert board.set_index(["workload", "method"]).tested["mnist", "dtp"] == "permutation, 4 and 4 seeds"
    for workload in ("MNIST", "Digits"):  # a legend and the test set of each
        assert sum(note.startswith(f"{workload}: Test") for note in board.attrs["notes"]) == 2
    assert list(tpbench.leaderboard(results, "digits").workload) == ["digits"]
    one = table[(table.method == "dtp") & (table.workload == "mnist")].iloc[0]
    assert (one.seeds, one.tuning, one.compared) == ("0-3", "published", "compared")
    assert one.test_error_mean == pytest.approx(4.15)
    assert one.difference == pytest.approx(100 * (4.15 / one.paper_mean - 1))
    assert one.low < one.difference < one.high
    # Every empty difference has its reason.
    assert (table.difference.isna() == (table.compared != "compared")).all()
    assert "Table S6" in table.attrs["title"]
    assert "somebodys-rule" in " ".join(table.attrs["notes"])
    assert set(losses.method) == {"bp", "dtp", "somebodys-rule"}
    assert len(pair) == 1
    assert pair.difference[0] == pytest.approx(-1.0)
    assert pair.family[0] == "against BP"
    assert "bp - dtp" in pair.attrs["notes"][0]
    assert tpbench.compare(results, "bp", "dtp", ["digits"]).empty
    shape = table.pivot(index="method", columns=["workload", "data"], values="test_error_mean")
    assert isinstance(shape.columns, pd.MultiIndex)


RUN_NEEDED = "run 'bp': write the 24 hex digits that name the run's file, or at least the first 8"
BASELINE_REFUSED = "baseline 'bp': only the tables 'overview', 'epochs', 'field' have one"


def test_slips_are_told_as_on_the_command_line(results: Path) -> None:
    for wrong, message in (
        (lambda: tpbench.load_runs(results, "mnits"), "unknown workload 'mnits': did you mean 'mnist'?"),
        (lambda: tpbench.load_curves(results, method="dpt"), "unknown method 'dpt': did you mean 'dtp'?"),
        (lambda: tpbench.load_curves(results, method=["bp", 3]), "method ['bp', 3]: one name is needed, as text"),
        (lambda: tpbench.load_runs(results, workload=5), "workload 5: give a name, a list of names, or 'all'"),
        (lambda: tpbench.load_runs(None), "results None: give a folder or a URL"),
        (lambda: tpbench.table(results, "s66"), "unknown table 's66': did you mean 's6'?"),
        (lambda: tpbench.compare(results, "bp", "bp"), "'bp' stands twice: name two methods to compare"),
        (lambda: tpbench.compare(results, "bp", "dpt"), "unknown method 'dpt': did you mean 'dtp'?"),
        (lambda: tpbench.compare_runs(results, "bp", "dtp"), RUN_NEEDED),
        (lambda: tpbench.table(results, "1", baseline="bp"), BASELINE_REFUSED),
    ):
        with pytest.raises(tpbench.UsageError) as told:
            wrong()
        assert str(told.value) == message
