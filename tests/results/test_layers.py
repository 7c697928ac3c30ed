"""Runs whose configurations have one number for each layer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.results.records import record
from tpbench.engine import TpbenchError
from tpbench.results import RunRecord, RunStore
from tpbench.results.artifacts import NewerFormat, digest, verify_format
from tpbench.results.cells import candidates
from tpbench.results.formats import csv_text
from tpbench.results.frames import export_frame
from tpbench.training.tracking import Member


def with_rates(rates: Any, seed: int = 0) -> RunRecord:
    made = record(seed=seed)
    return replace(made, definition=replace(made.definition, configuration={"lr": rates, "eta": 1}))


def test_a_list_has_an_id_of_its_own_and_equal_numbers_one_id() -> None:
    ids = [with_rates(rates).definition.id for rates in (0.1, [0.1], [0.1, 0.1], [0.1, 0.2], [0.2, 0.1])]
    assert len(set(ids)) == 5
    assert with_rates([1, 2]).definition.id == with_rates((1.0, 2.0)).definition.id
    # That of version 0.2.0.
    assert record().definition.id == "8b53798e65a96a56fb322ea9"


def test_only_runs_with_lists_have_the_newer_format(tmp_path: Path) -> None:
    store, listed, plain = RunStore(tmp_path), with_rates([0.1, 0.2]), with_rates(0.1)
    for run, written in ((listed, 2), (plain, 1)):
        store.publish(run)
        assert json.loads(run.to_json())["format"] == written
        read = store.read(run.definition.id)
        assert read is not None
        assert read == run
        assert read.definition.id == run.definition.id
    verify_format(plain.to_json(), "", 1)
    with pytest.raises(NewerFormat):  # what older versions do
        verify_format(listed.to_json(), "", 1)
    assert {run.definition.id for run in store.summaries()} == {listed.definition.id, plain.definition.id}


@pytest.mark.parametrize(
    ("rates", "change"),
    [
        ([0.1, 0.2], {"format": 1}),
        (0.1, {"format": 2}),
        (0.1, {"format": 0}),
        ([], {}),
        ([0.1, "0.2"], {}),
        ([0.1, [0.2]], {}),
        ([0.1, True], {}),
    ],
)
def test_files_of_the_wrong_format_or_with_wrong_lists_are_damaged(rates: Any, change: dict[str, Any]) -> None:
    body = json.loads(with_rates([0.1, 0.2] if isinstance(rates, list) else 0.1).to_json())
    body = {**body, **change, "definition": {**body["definition"], "configuration": {"lr": rates, "eta": 1}}}
    del body["checksum"]
    with pytest.raises(TpbenchError, match=r"f\.json"):
        RunRecord.from_json(json.dumps({**body, "checksum": digest(body)}), "f.json")


def test_exports_and_trackers_have_an_entry_for_each_number() -> None:
    frame = export_frame([with_rates([0.1, 0.2]), with_rates(0.3)])
    assert list(frame.filter(like="hp_").columns) == ["hp_lr_1", "hp_lr_2", "hp_eta", "hp_lr"]
    assert frame.loc[0, ["hp_lr_1", "hp_lr_2"]].tolist() == [0.1, 0.2]
    assert frame["hp_lr"].isna().tolist() == [True, False]
    assert Member.from_record(with_rates([0.1, 0.2])).hyperparameters == {"lr_1": 0.1, "lr_2": 0.2, "eta": 1.0}


def test_an_epoch_stays_a_whole_number_beside_a_run_without_any() -> None:
    frame = export_frame([record(), record(seed=1, errors=[], status="diverged")])
    assert csv_text(frame[["selected_epoch"]]).split() == ["selected_epoch", "1", '""']


def test_seeds_of_one_list_are_one_entry_of_a_table() -> None:
    runs = [with_rates(rates, seed) for seed in range(3) for rates in ([0.1, 0.2], [0.1, 0.3])]
    ((cell, other),) = candidates(runs).values()
    assert [len(one.runs) for one in (cell, other)] == [3, 3]
