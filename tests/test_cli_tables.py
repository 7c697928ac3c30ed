"""The command line and the calls that compare methods: leaderboard, compare, the tables with a baseline."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from scipy import stats

import tpbench as package
from tests.conftest import Ended, Inside
from tests.results.records import record
from tpbench.engine import UsageError
from tpbench.reports.page import make_report
from tpbench.results import RunRecord, RunStore
from tpbench.results.comparison import COLUMNS as COMPARED
from tpbench.results.comparison import RUN_COLUMNS
from tpbench.results.ranking import COLUMNS
from tpbench.results.runs import PUBLISHED, Predictions
from tpbench.results.tables import EPOCH_COLUMNS, OVERVIEW_COLUMNS

MEANS = {"bp": 2.0, "dfa": 2.1, "dtp": 3.0, "ddtp-linear": 2.05}
"""Test errors in per cent on mnist; on digits, which has no BP, those of dfa and dtp are 5 points higher."""
SEEDS = range(10)


def errors_of(workload: str, method: str, seeds: Sequence[int] = SEEDS) -> np.ndarray[Any, Any]:
    """Test errors in per cent, one per seed."""
    generator = np.random.default_rng([len(workload), len(method), ord(method[1])])
    noise = 0.1 * generator.standard_normal(len(SEEDS))
    return np.round(MEANS[method] + 5 * (workload == "digits") + noise, 2)[list(seeds)]


def runs(workload: str, method: str, seeds: Sequence[int] = SEEDS) -> list[RunRecord]:
    """Runs with these errors; the validation error falls to a tenth of a point below them in the second epoch."""
    made = []
    for seed, error in zip(seeds, errors_of(workload, method, seeds), strict=True):
        run = record(method, seed, [0.5, error / 100 - 0.01, error / 100], workload=workload, found=PUBLISHED)
        made.append(run)
    return made


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "results")
    for method in MEANS:
        for run in runs("mnist", method):
            store.publish(run)
    for method in ("dfa", "dtp"):
        for run in runs("digits", method):
            store.publish(run)
    return store


def csv_of(ended: Ended) -> pd.DataFrame:
    assert ended.returncode == 0, ended.stderr
    return pd.read_csv(io.StringIO(ended.stdout))


def refused(ended: Ended, code: int = 2) -> str:
    """The one line of an error."""
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (code, "", 1), ended
    return ended.stderr


# Leaderboard


def test_the_leaderboard_compares_with_bp(store: RunStore, tpbench_inside: Inside) -> None:
    board = csv_of(tpbench_inside("leaderboard", "mnist", "--format", "csv"))
    assert tuple(board.columns) == COLUMNS
    assert board["method"].iloc[0] == "bp"
    assert set(board["seeds"]) == {"0-9"}
    rows = board.set_index("method")
    bp = errors_of("mnist", "bp")
    for method in MEANS:
        difference = (errors_of("mnist", method) - bp).mean() if method != "bp" else np.nan
        assert rows["difference"][method] == pytest.approx(difference, abs=1e-4, nan_ok=True)
        assert rows["test_error_mean"][method] == pytest.approx(errors_of("mnist", method).mean(), abs=1e-4)
    assert dict(rows["differs"]) == {
        "bp": "baseline",
        "dfa": "yes" if rows["p"]["dfa"] < 0.05 else "no",
        "dtp": "yes",
        "ddtp-linear": "no",
    }
    # The baseline has no numbers of its own.
    assert rows.loc["bp", ["difference", "low", "high", "p"]].isna().all()
    assert rows.loc["bp", ["could_be_best", "tested"]].tolist() == ["baseline", "baseline"]
    assert dict(rows["could_be_best"])["dtp"] == "no"
    assert rows["p"]["dtp"] == pytest.approx(2 / 2**10, abs=1e-4)


def test_another_baseline_is_the_first_row_of_every_workload(store: RunStore, tpbench_inside: Inside) -> None:
    board = csv_of(tpbench_inside("leaderboard", "--baseline", "dfa", "--format", "csv"))
    assert set(board["baseline"]) == {"dfa"}
    assert list(board.groupby("workload", sort=False)["method"].first()) == ["dfa", "dfa"]
    row = board[(board["workload"] == "digits") & (board["method"] == "dtp")].iloc[0]
    difference = errors_of("digits", "dtp") - errors_of("digits", "dfa")
    assert row["difference"] == pytest.approx(difference.mean(), abs=1e-4)
    assert row["low"] < row["difference"] < row["high"]
    assert board.set_index(["workload", "method"])["could_be_best"]["mnist", "bp"] == "yes"


@pytest.mark.parametrize(("form", "mark"), [("text", "┏"), ("md", "| --- "), ("latex", r"\begin{table}")])
def test_each_workload_has_a_table(store: RunStore, tpbench_inside: Inside, form: str, mark: str) -> None:
    tables = {
        name: sum(mark in line for line in tpbench_inside("leaderboard", *name, "--format", form).stdout.splitlines())
        for name in ((), ("mnist",))
    }
    assert tables == {(): 2, ("mnist",): 1}


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--baseline", "ddtp_linear"), ["ddtp-linear"]),  # misspelled
        (("--baseline", "tp"), list(MEANS)),  # no run of it
        (("digits", "--baseline", "ddtp-linear"), ["dfa", "dtp"]),  # none on this workload
        (("mnits",), ["mnist"]),
        (("--format", "pdf"), ["md"]),
    ],
)
def test_a_wrong_choice_names_the_right_ones(
    store: RunStore, tpbench_inside: Inside, arguments: tuple[str, ...], names: list[str]
) -> None:
    said = refused(tpbench_inside("leaderboard", *arguments))
    assert all(name in said for name in names)


def test_a_store_without_bp_lists_its_methods_and_how_to_choose_another(tmp_path: Path, tpbench_inside: Inside) -> None:
    store = RunStore(tmp_path / "results")
    for method in ("dfa", "dtp"):
        for run in runs("mnist", method):
            store.publish(run)
    ended = tpbench_inside("leaderboard", "--format", "csv")
    board = csv_of(ended)
    assert board[["difference", "low", "high", "p"]].isna().all(axis=None)
    assert all(tested.startswith("not tested") for tested in board["tested"])
    assert dict(zip(board["method"], board["could_be_best"], strict=True)) == {"dfa": "yes", "dtp": "no"}
    assert ended.stderr.count("\n") == 1
    assert "--baseline" in ended.stderr
    assert tpbench_inside("leaderboard", "--baseline", "dfa").stderr == ""
    assert tpbench_inside("compare", "dfa", "dtp").returncode == 0
    refused(tpbench_inside("leaderboard", "--baseline", "bp"))
    refused(tpbench_inside("table", "epochs"), 1)


def test_a_store_with_one_run_tests_nothing(tmp_path: Path, tpbench_inside: Inside) -> None:
    RunStore(tmp_path / "results").publish(record("dfa", 0, [0.02]))
    row = csv_of(tpbench_inside("leaderboard", "--format", "csv")).iloc[0]
    assert (str(row["seeds"]), row["could_be_best"], row["differs"]) == ("0", "open", "not tested")
    assert np.isnan(row["test_error_std"])
    for form in ("text", "md", "latex"):
        ended = tpbench_inside("leaderboard", "--baseline", "dfa", "--format", form)
        assert (ended.returncode, "nan" in ended.stdout) == (0, False)


def test_what_is_written_is_what_is_printed(store: RunStore, tpbench_inside: Inside, tmp_path: Path) -> None:
    printed = tpbench_inside("leaderboard", "--format", "csv").stdout
    for options in ((), ("--baseline", "bp")):
        assert tpbench_inside("leaderboard", "--write", *options).returncode == 0
        assert (store.folder / "leaderboard.csv").read_text() == printed
        (store.folder / "leaderboard.csv").unlink()
    assert tpbench_inside("leaderboard", "digits", "--write", "mine.csv").returncode == 0
    assert set(pd.read_csv(tmp_path / "mine.csv")["workload"]) == {"digits"}
    refused(tpbench_inside("leaderboard", "--write", "board.md"))


def test_a_leaderboard_against_another_baseline_is_written_into_a_file_of_its_own(
    store: RunStore, tpbench_inside: Inside, tmp_path: Path
) -> None:
    said = refused(tpbench_inside("leaderboard", "--write", "--baseline", "dtp"))
    assert "--baseline dtp" in said
    assert not (store.folder / "leaderboard.csv").exists()
    printed = tpbench_inside("leaderboard", "--format", "csv", "--baseline", "dtp").stdout
    assert tpbench_inside("leaderboard", "--write", "mine.csv", "--baseline", "dtp").returncode == 0
    assert (tmp_path / "mine.csv").read_text() == printed


HALVED = "54 x 27 halved"
SEARCH = {"by": "search", "trials": 54, "epochs": 27, "halving": 3}


@pytest.fixture
def tuned(store: RunStore, tmp_path: Path) -> RunStore:
    """A store of searches of bp, dfa and dtp on mnist, with the seeds 1 to 10; their runs are in ``store`` too."""
    tuned = RunStore(tmp_path / "tuned")
    for method, mean in (("bp", 1.9), ("dfa", 2.4), ("dtp", 2.5)):
        for seed, published in zip(range(1, 11), errors_of("mnist", method), strict=True):
            error = (published - MEANS[method] + mean) / 100
            run = record(method, seed, [0.5, error], found=SEARCH, lr=0.5)
            store.publish(run)
            tuned.publish(run)
    return tuned


def test_one_tuning_is_compared_as_in_a_store_of_it_alone(
    store: RunStore, tuned: RunStore, tpbench_inside: Inside
) -> None:
    board = csv_of(tpbench_inside("leaderboard", "mnist", "--format", "csv", "--tuning", "54x27 HALVED"))
    alone = csv_of(tpbench_inside("leaderboard", "--results", str(tuned.folder), "--format", "csv"))
    pd.testing.assert_frame_equal(board, alone)
    assert (list(board["method"]), set(board["seeds"])) == (["bp", "dfa", "dtp"], {"1-10"})
    every = csv_of(tpbench_inside("leaderboard", "mnist", "--format", "csv"))
    assert (len(every), set(every["seeds"])) == (7, {"1-9"})
    rows = package.leaderboard(store.folder, "mnist", tuning="published")
    assert (set(rows["seeds"]), list(rows["tuning"])) == ({"0-9"}, ["published"] * 4)
    for form in ("text", "md", "latex"):
        shown = tpbench_inside("leaderboard", "mnist", "--tuning", HALVED, "--format", form).stdout
        assert f"MNIST, {HALVED}" in shown
        assert f"'{HALVED}'" in shown


def test_two_methods_of_one_tuning_are_compared_as_in_a_store_of_it_alone(
    store: RunStore, tuned: RunStore, tpbench_inside: Inside
) -> None:
    frame = compared(tpbench_inside, "dfa", "dtp", "--workload", "mnist", "--tuning", HALVED)
    pd.testing.assert_frame_equal(frame, compared(tpbench_inside, "dfa", "dtp", "--results", str(tuned.folder)))
    called = package.compare(store.folder, "dfa", "dtp", "mnist", tuning=HALVED)
    assert list(called["second_tuning"]) == [HALVED]
    assert any(HALVED in note for note in called.attrs["notes"])
    assert f"'{HALVED}'" in tpbench_inside("compare", "dfa", "dtp", "--tuning", HALVED).stdout
    # There is none on digits, and none of ddtp-linear.
    assert "mnist" not in refused(tpbench_inside("compare", "dfa", "ddtp-linear", "--tuning", HALVED), 1)


def test_tables_of_several_tunings_say_how_to_compare_one(
    store: RunStore, tuned: RunStore, tpbench_inside: Inside
) -> None:
    def notes(workload: str) -> list[str]:
        board = package.leaderboard(store.folder, workload)
        pair = package.compare(store.folder, "dfa", "dtp", workload)
        return [note for frame in (board, pair) for note in frame.attrs["notes"] if "--tuning" in note]

    board, _ = notes("mnist")
    assert all(f"'{label}'" in board for label in (HALVED, "published"))
    assert notes("digits") == []
    assert "--tuning" in tpbench_inside("compare", "dfa", "dtp", "--workload", "mnist").stdout
    # An empty comparison says nothing of tunings.
    assert not any("--tuning" in note for note in package.compare(store.folder, "bp", "dfa", "digits").attrs["notes"])


@pytest.mark.parametrize("name", ["overview", "epochs", "field"])
def test_tables_of_one_tuning_are_those_of_a_store_of_it_alone(
    store: RunStore, tuned: RunStore, tpbench_inside: Inside, name: str
) -> None:
    wanted = csv_of(tpbench_inside("table", name, "--results", str(tuned.folder), "--format", "csv"))
    pd.testing.assert_frame_equal(csv_of(tpbench_inside("table", name, "--tuning", HALVED, "--format", "csv")), wanted)
    called = package.table(store.folder, name, tuning=HALVED)
    assert (list(called["method"]), set(called["tuning"])) == (list(wanted["method"]), {HALVED})
    assert HALVED in tpbench_inside("table", name, "--tuning", HALVED).stdout
    for other in ("s6", "loss"):
        assert tpbench_inside("table", other, "--tuning", HALVED).returncode == 2
    with pytest.raises(UsageError):
        package.table(store.folder, "s6", tuning=HALVED)


def test_a_source_that_has_no_run_of_the_tuning_hides_none(tmp_path: Path, tpbench_inside: Inside) -> None:
    """A package's rule of one version has published runs, that of another the searched ones."""
    store = RunStore(tmp_path / "results")
    for seed in SEEDS:
        store.publish(record("bp", seed, [0.5, 0.02], found=SEARCH, lr=0.5))
        store.publish(record("my-rule", seed, [0.5, 0.03], found=PUBLISHED, source="package 1 aaaa"))
        if seed < 5:
            store.publish(record("my-rule", seed, [0.5, 0.025], found=SEARCH, lr=0.5, source="package 2 bbbb"))
    board = csv_of(tpbench_inside("leaderboard", "--tuning", HALVED, "--format", "csv"))
    assert list(board["method"]) == ["bp", "my-rule"]


def test_the_forest_of_one_tuning_has_its_rows_and_title(
    tuned: RunStore, tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tpbench.reports import forest

    drawn: list[tuple[set[str], str]] = []
    before = forest.forest_figure

    def figure(rows: Any, *rest: Any) -> Any:
        made = before(rows, *rest)
        drawn.append(({row.cell.tuning for row in rows}, made.get_suptitle()))
        return made

    monkeypatch.setattr(forest, "forest_figure", figure)
    for options in ((), ("--tuning", HALVED)):
        assert tpbench_inside("plot", "forest", "mnist", *options).returncode == 0
    (both, every), (one, title) = drawn
    # Neither picture takes the other's place.
    assert {path.name for path in tmp_path.glob("*.png")} == {"forest_mnist.png", "forest_mnist_54-x-27-halved.png"}
    assert (both, one) == ({"published", HALVED}, {HALVED})
    assert (HALVED in every, HALVED in title) == (False, True)


@pytest.mark.parametrize("kind", ["curves", "cost"])
def test_pictures_of_one_tuning_have_its_cells_and_title(
    tmp_path: Path, tpbench_inside: Inside, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path / "results")
    for method, found in (("bp", SEARCH), ("dfa", SEARCH), ("dfa", PUBLISHED), ("ddtp-linear", PUBLISHED)):
        store.publish(record(method, 0, [0.5, 0.4], epochs=2, found=found, lr=0.1 * len(found)))
    from tpbench.reports import style

    drawn: list[str] = []

    def save(figure: Any, path: Path) -> None:
        drawn.append("\n".join(text.get_text() for text in figure.findobj(Text)))

    monkeypatch.setattr(style, "save", save)
    for options in ((), ("--tuning", "54x27 halved")):
        result = tpbench_inside("plot", kind, "mnist", *options)
        assert result.returncode == 0, result.stderr
    every, one = drawn
    assert ("DDTP-linear" in every, "DDTP-linear" in one) == (True, False)
    assert f"MNIST, {HALVED}" in one
    assert f"MNIST, {HALVED}" not in every


def test_the_page_of_one_tuning_is_that_of_a_store_of_it_alone(
    store: RunStore, tuned: RunStore, tpbench_inside: Inside, tmp_path: Path
) -> None:
    result = tpbench_inside("report", "--tuning", "54x27 HALVED", "--baseline", "dtp")
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "report.html").read_text()
    assert f"tpbench plot forest mnist --baseline dtp --tuning &#39;{HALVED}&#39;" in page
    assert f"tpbench plot cost mnist --tuning &#39;{HALVED}&#39;" in page
    one = make_report(RunStore(store.folder), "tpbench report", tuning=HALVED).content
    alone = make_report(RunStore(tuned.folder), "tpbench report").content
    assert one["matrix"] == alone["matrix"]
    assert [sentence for _, sentence in one["verdicts"]] == [sentence for _, sentence in alone["verdicts"]]
    # Of the published configurations, which are not asked for, the cards say nothing.
    assert [card.statements for card in one["cards"]] == [[]]
    assert one["warnings"] == []
    # --config best is the best of the whole store.
    assert [card.commands for card in one["cards"]] == [[]]
    # A watched page may be there before the first run of the tuning.
    (warning,) = make_report(RunStore(store.folder), "tpbench report", tuning="9 x 9").content["warnings"]
    assert "'9 x 9'" in warning
    assert f"'{HALVED}'" in warning


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("leaderboard", "--tuning", "54 x 72 halved"), [HALVED, "published"]),
        (("leaderboard", "--tuning", ""), [HALVED, "published"]),
        (("leaderboard", "digits", "--tuning", HALVED), ["digits", "published"]),
        (("compare", "dfa", "dtp", "--workload", "digits", "--tuning", HALVED), ["digits", "published"]),
        (("plot", "forest", "digits", "--tuning", HALVED), ["digits", "published"]),
        # A baseline of which there are runs, of another tuning.
        (("leaderboard", "--tuning", HALVED, "--baseline", "ddtp-linear"), [HALVED, "dtp"]),
        (("compare", "dfa", "dtp", "--tuning", HALVED, "--baseline", "ddtp-linear"), [HALVED, "dtp"]),
        (("plot", "forest", "mnist", "--tuning", HALVED, "--baseline", "ddtp-linear"), [HALVED, "dtp"]),
        (("plot", "curves", "digits", "--tuning", HALVED), ["digits", "published"]),
        (("report", "--tuning", "54 x 72 halved"), [HALVED, "published"]),
        (("report", "--tuning", HALVED, "--baseline", "ddtp-linear"), [HALVED, "dtp"]),
        (("plot", "tuning", "mnist", "--tuning", "published"), ["forest", "curves", "cost"]),
        (("leaderboard", "--write", "--tuning", "published"), ["--tuning"]),
    ],
)
def test_a_wrong_tuning_names_the_right_ones(
    tuned: RunStore, tpbench_inside: Inside, arguments: tuple[str, ...], names: list[str]
) -> None:
    said = refused(tpbench_inside(*arguments))
    assert all(name in said for name in names)


def test_calls_refuse_a_wrong_tuning(store: RunStore, tuned: RunStore) -> None:
    for wrong in ("file", "", 3):
        with pytest.raises(package.UsageError):
            package.leaderboard(store.folder, tuning=wrong)  # type: ignore[arg-type]
    with pytest.raises(package.UsageError):
        package.compare(store.folder, "dfa", "dtp", "digits", tuning=HALVED)
    with pytest.raises(package.UsageError):
        package.compare(store.folder, "dfa", "dtp", tuning=HALVED, baseline="ddtp-linear")


def test_a_tuning_of_one_method_is_not_tested_and_an_empty_store_has_none(
    store: RunStore, tpbench_inside: Inside, tmp_path: Path
) -> None:
    store.publish(record("dfa", 0, [0.5, 0.02], found={"by": "file"}, lr=0.5))
    ended = tpbench_inside("leaderboard", "--tuning", "file", "--format", "csv")
    (row,) = csv_of(ended).to_dict("records")
    assert (row["method"], row["differs"]) == ("dfa", "not tested")
    assert "'file'" in ended.stderr
    (tmp_path / "empty").mkdir()
    refused(tpbench_inside("leaderboard", "--results", "empty", "--tuning", "published"), 1)
    assert package.leaderboard(tmp_path / "empty", tuning="published").empty


def test_the_leaderboard_of_one_tuning_is_written_into_a_file_of_its_own(
    tuned: RunStore, tpbench_inside: Inside, tmp_path: Path
) -> None:
    printed = tpbench_inside("leaderboard", "--tuning", HALVED, "--format", "csv").stdout
    assert tpbench_inside("leaderboard", "--tuning", HALVED, "--write", "mine.csv").returncode == 0
    assert (tmp_path / "mine.csv").read_text() == printed


def test_completion_offers_the_tunings_of_the_store(
    tuned: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tpbench.cli.app import complete_tunings

    monkeypatch.chdir(tmp_path)
    for results, labels in ((None, ["54x27halved", "published"]), ("missing", []), ("s3://bucket/runs", [])):
        context = SimpleNamespace(params={"results": results})
        assert complete_tunings(context, "") == labels  # type: ignore[arg-type]
    assert complete_tunings(SimpleNamespace(params={}), "5") == ["54x27halved"]  # type: ignore[arg-type]


def test_a_workload_without_the_baseline_says_so_above_its_table(store: RunStore, tpbench_inside: Inside) -> None:
    for form in ("text", "md", "latex"):
        shown = " ".join(tpbench_inside("leaderboard", "--format", form).stdout.split())
        assert "MNIST: test error against BP" in shown
        assert "Digits: test error against" not in shown
        assert "Digits: test error; there is no run of BP" in shown


def test_the_call_is_the_command(store: RunStore, tpbench_inside: Inside) -> None:
    board = package.leaderboard(store.folder, baseline="dfa")
    printed = csv_of(tpbench_inside("leaderboard", "--baseline", "dfa", "--format", "csv"))
    assert list(board["method"]) == list(printed["method"])
    assert list(board["difference"]) == pytest.approx(list(printed["difference"]), abs=1e-4, nan_ok=True)
    assert list(board["differs"]) == list(printed["differs"])
    assert len(package.leaderboard(store.folder, "mnist")) == len(MEANS)
    # A workload alone has the same tests as among others.
    alone = package.leaderboard(store.folder, ["digits"], baseline="dfa")
    pd.testing.assert_series_equal(
        alone["p"], board[board["workload"] == "digits"]["p"].reset_index(drop=True), check_exact=True
    )
    titles = {note.split(":")[0] for note in board.attrs["notes"]}
    assert titles == {"MNIST", "Digits"}
    with pytest.raises(package.UsageError, match=r"^baseline 'tp': "):
        package.leaderboard(store.folder, baseline="tp")
    with pytest.raises(package.UsageError, match="'dtp'"):
        package.leaderboard(store.folder, baseline="dpt")
    # BP is the default, so it is none of the caller's slips.
    assert package.leaderboard(store.folder, "digits")["difference"].isna().all()


# Two methods


def compared(tpbench_inside: Inside, *arguments: str) -> pd.DataFrame:
    frame = csv_of(tpbench_inside("compare", *arguments, "--format", "csv"))
    assert tuple(frame.columns) == COMPARED
    return frame.set_index("workload")


def test_methods_are_compared_in_the_family_of_the_leaderboard(store: RunStore, tpbench_inside: Inside) -> None:
    board = package.leaderboard(store.folder).set_index(["workload", "method"])
    against = compared(tpbench_inside, "dtp", "bp").loc["mnist"]
    assert against["family"] == "against BP"
    for column in ("difference", "low", "high", "p"):
        assert against[column] == pytest.approx(board[column]["mnist", "dtp"], abs=1e-4)
    pairs = compared(tpbench_inside, "dfa", "dtp")
    assert list(pairs.index) == ["mnist", "digits"]
    assert set(pairs["family"]) == {"all pairs"}
    assert pairs["low"].isna().all()
    assert pairs["p"]["mnist"] < 0.05
    assert pairs["verdict"]["mnist"] == "dfa is better"
    expected = (errors_of("mnist", "dfa") - errors_of("mnist", "dtp")).mean()
    assert pairs["difference"]["mnist"] == pytest.approx(expected, abs=1e-4)


def test_the_baseline_decides_the_family(store: RunStore, tpbench_inside: Inside) -> None:
    frame = compared(tpbench_inside, "dfa", "dtp", "--workload", "mnist", "--baseline", "dfa")
    assert list(frame.index) == ["mnist"]
    assert frame["family"]["mnist"] == "against DFA"
    assert frame["low"]["mnist"] < frame["difference"]["mnist"] < frame["high"]["mnist"] < 0
    same = package.compare(store.folder, "dfa", "dtp", "mnist", baseline="dfa")
    assert same["p"][0] == pytest.approx(frame["p"]["mnist"], abs=1e-4)
    assert len(same.attrs["notes"]) == 2  # what is compared, and the test


@pytest.mark.parametrize("form", ["text", "md", "latex"])
def test_a_comparison_has_every_format(store: RunStore, tpbench_inside: Inside, form: str) -> None:
    ended = tpbench_inside("compare", "dfa", "dtp", "--format", form)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "dfa is better" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("dfa", "dfa"), 2),
        (("dfa", "dpt"), 2),
        (("dfa", "dtp", "--baseline", "gnt"), 2),
        (("dfa", "dtp", "--format", "pdf"), 2),
        (("dfa", "gnt"), 1),
        (("bp", "dtp", "--workload", "digits"), 1),
        (("dfa", "deadbeef"), 2),
        (("deadbeef", "deadbee0"), 2),
        (("dead12", "dead1234"), 2),
    ],
)
def test_a_comparison_that_cannot_be_is_one_line(
    store: RunStore, tpbench_inside: Inside, arguments: tuple[str, ...], code: int
) -> None:
    refused(tpbench_inside("compare", *arguments), code)


@pytest.mark.parametrize("words", [("--detect", "0.2"), ("--detect=0.2",)])
def test_detect_is_gone_and_says_why(store: RunStore, tpbench_inside: Inside, words: tuple[str, ...]) -> None:
    said = refused(tpbench_inside("compare", "bp", "dtp", *words))
    assert "interval" in said
    with pytest.raises(package.UsageError, match="interval"):
        package.compare(store.folder, "bp", "dtp", detect=0.2)  # type: ignore[call-arg]


def test_methods_of_packages_that_are_not_installed_are_compared(store: RunStore, tpbench_inside: Inside) -> None:
    for seed in SEEDS:
        store.publish(record("somebodys-rule", seed, [0.2 + seed / 1000], found=PUBLISHED))
    frame = compared(tpbench_inside, "somebodys-rule", "bp")
    assert frame["difference"]["mnist"] > 10
    assert package.compare(store.folder, "somebodys-rule", "dfa")["family"].tolist() == ["all pairs"]


# Two runs


@pytest.fixture
def predicted(tmp_path: Path) -> tuple[RunStore, list[RunRecord]]:
    """Three runs on 200 test samples, of which the third has no predictions, and one on other data."""
    store = RunStore(tmp_path / "results")
    made = [record("bp", 0, [0.05]), record("dfa", 0, [0.09]), record("dtp", 0, [0.05])]
    made.append(record("bp", 0, [0.05], fingerprint="a" * 64, workload="digits"))
    # 12 samples are wrong in the first, of which the second has 4 right, and 12 more wrong.
    wrong: Mapping[int, Sequence[int]] = {0: range(12), 1: range(4, 24), 3: range(12)}
    for number, run in enumerate(made):
        correct = np.ones(200, dtype=bool)
        correct[list(wrong.get(number, ()))] = False
        store.publish(run, Predictions.of(run, correct) if number in wrong else None)
    return store, made


def test_two_runs_are_compared_sample_by_sample(
    predicted: tuple[RunStore, list[RunRecord]], tpbench_inside: Inside
) -> None:
    store, made = predicted
    first, second = (run.definition.id for run in made[:2])
    ended = tpbench_inside("compare", first[:8], second.upper(), "--format", "csv")
    frame = csv_of(ended)
    assert tuple(frame.columns) == RUN_COLUMNS
    row = frame.iloc[0]
    assert (row["first"], row["second"], row["samples"]) == (first, second, 200)
    assert (row["first_error"], row["second_error"]) == (pytest.approx(6), pytest.approx(10))
    assert (row["first_only"], row["second_only"]) == (12, 4)
    assert row["p"] == pytest.approx(stats.binomtest(4, 16).pvalue, abs=1e-4)
    called = package.compare_runs(store.folder, second, first[:10])
    assert (called["first_only"][0], called["second_only"][0]) == (4, 12)
    assert called["difference"][0] == pytest.approx(4)
    assert called["p"][0] == pytest.approx(stats.binomtest(4, 16).pvalue, rel=1e-9)
    for form in ("text", "md", "latex"):
        shown = tpbench_inside("compare", first, second, "--format", form).stdout
        assert {"12", "4", "10.00"} <= set(shown.replace("|", " ").replace("│", " ").replace("&", " ").split())


@pytest.mark.parametrize(
    ("pair", "options", "code"),
    [
        ((0, 0), (), 2),  # the same run
        ((0, 3), (), 2),  # of other data
        ((0, 2), (), 1),  # without predictions
        ((0, 1), ("--workload", "mnist"), 2),
        ((0, 1), ("--baseline", "bp"), 2),
        ((0, 1), ("--format", "pdf"), 2),
    ],
)
def test_runs_that_cannot_be_compared_are_one_line(
    predicted: tuple[RunStore, list[RunRecord]],
    tpbench_inside: Inside,
    pair: tuple[int, int],
    options: tuple[str, ...],
    code: int,
) -> None:
    ids = [predicted[1][number].definition.id for number in pair]
    refused(tpbench_inside("compare", *ids, *options), code)


def test_ids_of_runs_are_not_names_of_methods(predicted: tuple[RunStore, list[RunRecord]]) -> None:
    store, made = predicted
    ids = [run.definition.id for run in made[:2]]
    for pair in (ids, [one[:8] for one in ids]):
        with pytest.raises(package.UsageError, match="compare_runs"):
            package.compare(store.folder, *pair)
    with pytest.raises(package.UsageError) as told:
        package.compare(store.folder, ids[0], "bp")
    assert ids[0] in str(told.value)


def test_a_run_that_is_not_there_is_a_slip(predicted: tuple[RunStore, list[RunRecord]]) -> None:
    store, made = predicted
    with pytest.raises(package.UsageError):
        package.compare_runs(store.folder, made[0].definition.id, "0" * 24)
    with pytest.raises(package.UsageError, match="second"):
        package.compare_runs(store.folder, made[0].definition.id, 7)  # type: ignore[arg-type]


# Tables and pictures


@pytest.mark.parametrize("name", ["1", "s6", "s7", "loss", "angles"])
def test_the_papers_tables_take_no_baseline(store: RunStore, tpbench_inside: Inside, name: str) -> None:
    refused(tpbench_inside("table", name, "--baseline", "dfa"))
    with pytest.raises(package.UsageError, match=r"^baseline 'dfa': "):
        package.table(store.folder, name, "dfa")


@pytest.mark.parametrize("name", ["curves", "cost", "search"])
def test_plots_that_compare_nothing_take_no_baseline(store: RunStore, tpbench_inside: Inside, name: str) -> None:
    assert "forest" in refused(tpbench_inside("plot", name, "mnist", "--baseline", "dfa"))


def test_the_overview_is_the_leaderboard_in_a_matrix(store: RunStore, tpbench_inside: Inside) -> None:
    frame = csv_of(tpbench_inside("table", "overview", "--format", "csv", "--baseline", "dtp"))
    assert tuple(frame.columns) == OVERVIEW_COLUMNS
    board = package.leaderboard(store.folder, baseline="dtp")
    assert frame["difference"].tolist() == pytest.approx(board["difference"].tolist(), abs=1e-4, nan_ok=True)
    assert frame["differs"].tolist() == board["differs"].tolist()
    called = package.table(store.folder, "Overview", baseline="dtp")
    assert called["could_be_best"].tolist() == frame["could_be_best"].tolist()
    assert "DTP" in called.attrs["title"]
    assert (tpbench_inside("table", "overview", "--baseline", "dpt").returncode) == 2
    assert set(package.table(store.folder, "overview")["workload"]) == {"mnist", "digits"}


def test_epochs_to_target_follow_the_baseline(store: RunStore, tpbench_inside: Inside) -> None:
    frame = csv_of(tpbench_inside("table", "epochs", "--format", "csv"))
    assert tuple(frame.columns) == EPOCH_COLUMNS
    assert set(frame["workload"]) == {"mnist"}  # digits has no BP
    rows = frame.set_index("method")
    target = 1.25 * (errors_of("mnist", "bp") - 1).mean()
    assert rows["target"]["dtp"] == pytest.approx(target, abs=1e-4)
    assert (rows["median"]["bp"], rows["reached"]["dtp"]) == (2, 0)
    called = package.table(store.folder, "epochs", baseline="dtp")
    assert set(called["workload"]) == {"mnist", "digits"}
    assert (called["reached"] > 0).all()


def test_an_empty_store_has_no_rows_and_says_so(tmp_path: Path, tpbench_inside: Inside) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for command in ("leaderboard", "compare bp dfa", "table overview", "table epochs"):
        for options in ((), ("--baseline", "dfa")):
            refused(tpbench_inside(*command.split(), *options), 1)
    for frame, columns in (
        (package.leaderboard(folder, baseline="dfa"), COLUMNS),
        (package.compare(folder, "bp", "dfa"), COMPARED),
        (package.table(folder, "overview"), OVERVIEW_COLUMNS),
        (package.table(folder, "epochs", baseline="dfa"), EPOCH_COLUMNS),
    ):
        assert (frame.empty, tuple(frame.columns)) == (True, columns)


def test_forest_and_report_take_a_baseline(
    store: RunStore, tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tpbench.reports import forest, page

    baselines: list[str] = []

    def spy(module: Any, name: str) -> None:
        before = getattr(module, name)

        def called(*arguments: Any, baseline: str, **more: Any) -> Any:
            baselines.append(baseline)
            return before(*arguments, baseline=baseline, **more)

        monkeypatch.setattr(module, name, called)

    spy(forest, "forest_rows")
    spy(page, "make_report")
    for options in ((), ("--baseline", "dfa")):
        assert tpbench_inside("plot", "forest", "mnist", *options).returncode == 0
        assert tpbench_inside("report", *options).returncode == 0
    assert baselines == ["bp", "bp", "dfa", "dfa"]
    refused(tpbench_inside("report", "--baseline", "tp"))
    refused(tpbench_inside("report", "--baseline", "dpt", "--watch"))
    refused(tpbench_inside("plot", "forest", "digits", "--baseline", "ddtp-linear"))


@pytest.mark.parametrize(
    "command",
    [("leaderboard",), ("compare", "bp", "dtp"), ("table", "overview"), ("plot", "forest", "mnist"), ("report",)],
    ids=" ".join,
)
def test_a_damaged_archive_is_named_before_an_error_that_it_may_be_the_cause_of(
    command: Sequence[str], tmp_path: Path, tpbench_inside: Inside
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.zip").write_bytes(b"PK no archive")
    ended = tpbench_inside(*command)
    assert ended.returncode in (1, 2)
    warnings = [line for line in ended.stderr.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 1
    assert "a.zip" in warnings[0]


def test_a_store_is_not_merged_into_itself(store: RunStore, tpbench_inside: Inside) -> None:
    (store.folder.parent / "link").symlink_to(store.folder)
    before = sorted(store.folder.rglob("*"))
    for source in ("results", "link", "./results"):
        assert tpbench_inside("results", "merge", source, "results").returncode == 2
    assert sorted(store.folder.rglob("*")) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["leaderboard"]], ids=" ".join)
def test_output_to_a_full_disk_is_one_line(store: RunStore, arguments: Sequence[str]) -> None:
    command = [sys.executable, "-m", "tpbench", *arguments]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            command, check=False, cwd=store.folder.parent, stdout=full, stderr=subprocess.PIPE, text=True, timeout=240
        )
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
