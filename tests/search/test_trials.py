"""The trials of searches as data frames, and sweeps' files that another program wrote."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tpbench
from tests.conftest import Inside
from tests.results.records import record
from tpbench.engine import TpbenchError
from tpbench.reports.tuning_plots import read_search
from tpbench.results import RunStore
from tpbench.results.runs import search_info
from tpbench.search.definition import SweepDefinition, SweepFields, SweepFolder
from tpbench.search.journal import Journal, OutcomeFields
from tpbench.search.listing import TRIAL_COLUMNS, check_sweeps, list_sweeps
from tpbench.training.plan import Outcome

DEFINITION = SweepDefinition("mnist", "bp", "f" * 64, {"lr": ["log_uniform", 1e-5, 1e-2]}, 12, 100, (0,), 0, 4, 3)
OUTCOMES = [
    Outcome("0" * 24, "finished", 0.02, 0.03, epochs=100),
    Outcome("1" * 24, "stopped", 0.1, 0.1, epochs=11),
    Outcome("2" * 24, "pruned", 0.9, 0.9, epochs=5),
    Outcome("3" * 24, "diverged", 0.3, 0.3, epochs=7),
]


def suggestions(pack: int) -> list[dict[str, float]]:
    return [{"lr": 10.0 ** -(pack + 1), "beta1": 0.9 + place / 100} for place in range(4)]


def searched(results: Path, name: str = "mnist-bp-1", definition: SweepDefinition = DEFINITION) -> SweepFolder:
    """A sweep whose first pack ended in all ways, the second failed and the third is at work."""
    folder = results / "sweeps" / name
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps(definition.plain()))
    journal = Journal.open(folder / "journal.jsonl")
    for pack in range(3):
        journal.add_pack(suggestions(pack))
    journal.end_pack(0, OUTCOMES)
    journal.end_pack(1, [])
    return SweepFolder(folder)


def test_every_trial_that_ended_is_a_row(tmp_path: Path) -> None:
    searched(tmp_path)
    frame = tpbench.load_trials(tmp_path, "mnist-bp-1")
    assert list(frame.columns) == [*TRIAL_COLUMNS, "hp_lr", "hp_beta1"]
    assert list(frame.state) == ["finished", "stopped", "pruned", "diverged", *["failed"] * 4]
    assert list(frame.trial) == list(range(8))
    assert list(frame.pack) == [0] * 4 + [1] * 4
    assert list(frame.epochs[:4]) == [100, 11, 5, 7]
    assert frame.epochs[4:].isna().all()
    assert list(frame.validation_error[:4]) == pytest.approx([2.0, 10.0, 90.0, 30.0])
    assert list(frame.objective[:4]) == pytest.approx([2.0, 10.0, 90.0, 100.0])
    assert frame.objective[4:].isna().all()
    assert list(frame.run[:4]) == [outcome.run for outcome in OUTCOMES]
    assert frame.run[4:].isna().all()
    assert list(frame.hp_lr) == [0.1] * 4 + [0.01] * 4
    assert (frame.epochs.dtype, frame.trial.dtype) == ("Int64", "int64")


def test_all_sweeps_are_one_frame_and_losses_stay_losses(tmp_path: Path) -> None:
    searched(tmp_path)
    losses = searched(tmp_path, "mnist-bp-2", replace(DEFINITION, objective="train_loss"))
    journal = Journal.open(losses.journal_path)
    journal.end_pack(2, [replace(outcome, value=0.5, epochs=None) for outcome in OUTCOMES])
    frame = tpbench.load_trials(tmp_path)
    assert list(frame.sweep) == ["mnist-bp-1"] * 8 + ["mnist-bp-2"] * 12
    last = frame[(frame.sweep == "mnist-bp-2") & (frame.pack == 2)]
    assert list(last.objective) == [0.5, 0.5, 0.5, np.inf]
    # What finished was trained to the end, which journals of older versions do not say.
    assert list(last.epochs.isna()) == [False, True, True, True]
    assert last.epochs.iloc[0] == 100


def test_a_store_without_sweeps_has_no_trials_and_a_wrong_name_is_a_slip(tmp_path: Path) -> None:
    RunStore(tmp_path).publish(record())
    frame = tpbench.load_trials(tmp_path)
    assert frame.empty
    assert list(frame.columns) == list(TRIAL_COLUMNS)
    with pytest.raises(tpbench.UsageError):
        tpbench.load_trials(tmp_path, "mnist-bp-1")
    searched(tmp_path)
    with pytest.raises(tpbench.UsageError, match="mnist-bp-1"):
        tpbench.load_trials(tmp_path, "mnist-bp-2")
    with pytest.raises(tpbench.UsageError):
        tpbench.load_trials(tmp_path / "nowhere")
    with pytest.raises(tpbench.UsageError):
        tpbench.load_trials(tmp_path, 5)  # type: ignore[arg-type]


def test_pictures_show_the_same_trials(tmp_path: Path) -> None:
    searched(tmp_path)
    shown = read_search(RunStore(tmp_path), "mnist-bp-1").configurations
    assert list(shown.columns) == ["lr", "beta1", "error"]
    assert list(shown.error) == pytest.approx([2.0, 10.0, 90.0, 100.0])


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_trials_are_exported(tmp_path: Path, tpbench_inside: Inside, form: str) -> None:
    searched(tmp_path / "results")
    damaged = searched(tmp_path / "results", "mnist-bp-2")
    (damaged.folder / "sweep.json").write_text("{}")
    ended = tpbench_inside("results", "export", "--trials", f"t.{form}")
    assert ended.returncode == 0, ended.stderr
    assert "mnist-bp-2" in ended.stderr
    read = pd.read_csv if form == "csv" else pd.read_parquet
    frame = read(tmp_path / f"t.{form}")
    assert list(frame.columns) == [*TRIAL_COLUMNS, "hp_lr", "hp_beta1"]
    assert list(frame.state) == ["finished", "stopped", "pruned", "diverged", *["failed"] * 4]
    assert tpbench_inside("results", "export", "--trials", "t.xlsx").returncode == 2
    with pytest.warns(UserWarning, match="mnist-bp-2"):
        assert len(tpbench.load_trials(tmp_path / "results")) == 8


def test_runs_say_of_which_searches_only_a_part_is_there(tmp_path: Path, tpbench_inside: Inside) -> None:
    store = RunStore(tmp_path / "results")
    for name, trials, lr in (("whole", 3, 0.1), ("part", 12, 0.2)):
        for number in range(3):
            found = search_info(name, trials, 100, "0" * 64, "search", range(10))
            store.publish(record(lr=lr + number / 100, found=found))
    with pytest.warns(UserWarning, match="3 of 12") as told:
        frame = tpbench.load_runs(tmp_path / "results")
    assert len(told) == len(frame.attrs["notes"]) == 1
    assert "whole" not in frame.attrs["notes"][0]
    assert "3 of 12" in tpbench_inside("results", "export", "x.csv").stdout
    other = RunStore(tmp_path / "other")
    other.publish(record())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tpbench.load_runs(other.folder).attrs["notes"] == []


# --- files that another program wrote ---

OUTCOME = {"run": "0" * 24, "status": "finished", "validation_error": 0.1, "test_error": None}
SUGGESTED = {"event": "suggested", "pack": 0, "suggestions": [{"lr": 0.1}]}
ENDED = {"event": "ended", "pack": 0, "outcomes": [OUTCOME]}
EVENTS: list[list[Any]] = [
    *[[SUGGESTED | {"suggestions": value}] for value in (["lr"], [{"lr": "0.1"}], [{"lr": [1]}], [], [{}], "x", None)],
    *[[SUGGESTED | {"suggestions": [{"lr": value}]}] for value in (None, True, 10**400, "\ud800")],
    *[[SUGGESTED | {"pack": value}] for value in (1, -1, "0", 0.0, 10**400)],
    *[[SUGGESTED, ENDED | {"pack": value}] for value in (1, -1, "0", 10**30)],
    *[[SUGGESTED, ENDED | {"outcomes": value}] for value in ([OUTCOME] * 2, [5], "x", None, {})],
    *[[SUGGESTED, ENDED | {"outcomes": [OUTCOME | {"validation_error": v}]}] for v in ("x", None, [0.1], 7.0, 10**400)],
    *[[SUGGESTED, ENDED | {"outcomes": [OUTCOME | {"epochs": v}]}] for v in ("x", [], -1, 1.5, 10**30)],
    *[[SUGGESTED, ENDED | {"outcomes": [OUTCOME | {"value": v}]}] for v in ("x", [0.1])],
    *[[SUGGESTED, ENDED | {"outcomes": [OUTCOME | {"status": v}]}] for v in ("x", None, 5)],
    *[[SUGGESTED, ENDED | {"outcomes": [OUTCOME | v]}] for v in ({"run": 5}, {"more": 1}, {"test_error": "x"})],
    *[[{"event": "split", "packs": value}] for value in ("x", 0, -3, None, 1.5)],
    *[[{"event": "failed", "reason": value}] for value in (5, None, ["x"])],
    [{"event": "nothing"}],
    [{}],
    [[]],
    [5],
    [None],
    [{"event": ["suggested"]}],
]
LINES = ['{"event": "split", "packs": 1e999}', "[" * 100_000, '{"event": "split", "packs": ' + "1" * 5000 + "}", "NaN"]


def write_journal(folder: SweepFolder, lines: list[str]) -> None:
    folder.journal_path.write_text("\n".join([*lines, ""]))


@pytest.mark.parametrize(
    "lines", [*[[json.dumps(e) for e in events] for events in EVENTS], *[[line] for line in LINES]]
)
def test_a_forged_journal_is_damaged(tmp_path: Path, lines: list[str]) -> None:
    write_journal(SweepFolder(tmp_path), lines)
    with pytest.raises(TpbenchError, match=rf"journal\.jsonl:{len(lines)}: damaged ") as told:
        Journal.read(tmp_path / "journal.jsonl")
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 400


DEFINED: list[Mapping[str, Any]] = [
    *[{"epochs": value} for value in (None, "x", 0, 10**30, 1.5)],
    *[{"seeds": value} for value in (None, [], ["0"], 5, [-1])],
    *[{"objective": value} for value in (None, [], "x", 5)],
    *[{"space": value} for value in (None, [], {"lr": 5}, {"lr": [[1]]})],
    *[{"halving": value} for value in (None, "3", -1, 11)],
    *[{name: value} for name in ("workload", "method") for value in (None, 5, "", "\ud800")],
    {"trials": "x"},
    {"trials": 10**400},
    {"pack": 0},
    {"lag": None},
    {"more": 1},
    {"fingerprint": 5},
    {"search_precision": 64},
    *[{"search_epochs": value} for value in (None, "27", -1, 0, 2.5)],
    *[{"start": value} for value in (None, [], {"lr": 1.0}, [{}], [{"lr": "x"}], [[1.0]])],
    *[{"start_from": value} for value in (None, "", "elsewhere", 5)],
    {"search_seed": "x"},
]


@pytest.mark.parametrize("change", DEFINED, ids=lambda change: ascii(change)[:40])
def test_a_forged_definition_is_damaged(tmp_path: Path, change: Mapping[str, Any]) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps(DEFINITION.plain()))
    assert SweepFolder(tmp_path).read() == DEFINITION
    (tmp_path / "sweep.json").write_text(json.dumps({**DEFINITION.plain(), **change}))
    with pytest.raises(TpbenchError, match=r"sweep\.json: damaged ") as told:
        SweepFolder(tmp_path).read()
    assert str(told.value).isprintable()


def test_forged_sweeps_are_listed_as_damaged_beside_the_others(tmp_path: Path, tpbench_inside: Inside) -> None:
    results = tmp_path / "results"
    RunStore(results).publish(record())
    searched(results)
    count = 0
    for events in EVENTS:
        folder = searched(results, f"forged-{count}")
        write_journal(folder, [json.dumps(event) for event in events])
        count += 1
    for change in DEFINED:
        folder = searched(results, f"forged-{count}")
        (folder.folder / "sweep.json").write_text(json.dumps({**DEFINITION.plain(), **change}))
        count += 1
    states = [status.state for status in list_sweeps(RunStore(results))]
    assert states.count("damaged") == count
    assert len(states) == count + 1
    check = check_sweeps(RunStore(results))
    assert (check.valid, len(check.wrong)) == (1, count)
    assert tpbench_inside("results", "check").returncode == 1
    for command in (("sweeps",), ("sweeps", "--json"), ("report",), ("plot", "search", "mnist-bp-1")):
        ended = tpbench_inside(*command)
        assert ended.returncode == 0, ended.stderr
    with pytest.warns(UserWarning, match="damaged") as told:
        assert len(tpbench.load_trials(results)) == 8
    assert len(told) == count


def test_what_this_version_writes_about_odd_paths_can_be_read(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    journal.fail("a\udcff/sweep.json: could not be read")
    assert Journal.read(journal.path).failure == journal.failure


def test_the_models_know_every_field() -> None:
    assert set(OutcomeFields.model_fields) == {field.name for field in fields(Outcome)}
    assert set(SweepFields.model_fields) == {field.name for field in fields(SweepDefinition)}
