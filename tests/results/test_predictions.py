"""One bit per test sample beside every run; and what merges, archives and checks make of two versions of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tpbench
from tests.conftest import Inside
from tests.results.records import archive_of, counts, record, store_of
from tpbench.engine import TpbenchError, UsageError
from tpbench.results import RunRecord, RunStore, choose_cells
from tpbench.results import store as store_module
from tpbench.results.artifacts import digest
from tpbench.results.maintenance import check_store, merge_stores
from tpbench.results.opening import open_source
from tpbench.results.runs import PREDICTIONS, PUBLISHED, RUNS, Predictions
from tpbench.search.listing import pack_store

SAMPLES = 200


def bits(run: RunRecord) -> Predictions:
    """Predictions that are wrong as often as the run's test error says."""
    wrong = round(SAMPLES * (run.test_error or 0.0))
    return Predictions.of(run, np.arange(SAMPLES) >= wrong)


def published(store: RunStore, *runs: RunRecord, predicted: bool = True) -> RunStore:
    for run in runs:
        store.publish(run, bits(run) if predicted else None)
    return store


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_predictions_survive_their_file(correct: list[bool]) -> None:
    made = Predictions.of(record(), np.array(correct))
    read = Predictions.from_json(made.to_json(), "x")
    assert read == made
    assert read.correct.tolist() == correct


def test_ten_thousand_samples_take_two_kilobytes() -> None:
    assert len(Predictions.of(record(), np.ones(10_000, dtype=bool)).to_json()) < 2_000


def forged(change: dict[str, Any]) -> str:
    body = {**json.loads(bits(record()).to_json()), **change}
    del body["checksum"]
    return json.dumps({**body, "checksum": digest(body)})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        bits(record()).to_json()[:-20],
        bits(record()).to_json().replace('"samples": 200', '"samples": 201'),
        forged({"samples": 10**12}),
        forged({"samples": "200"}),
        forged({"correct": "@@"}),
        forged({"correct": 5}),
        forged({"run": None}),
        forged({"curves": []}),
    ],
)
def test_a_damaged_or_forged_file_counts_as_none_and_is_named(tmp_path: Path, text: str) -> None:
    store = published(RunStore(tmp_path), record())
    store.predictions_path(record().definition.id).write_text(text)
    assert store.predictions(record()) is None
    assert len(store.damaged) == 1
    assert len(check_store(RunStore(tmp_path))[PREDICTIONS].wrong) == 1
    assert len(list(RunStore(tmp_path).records())) == 1


def test_predictions_belong_to_one_training(tmp_path: Path) -> None:
    store = published(RunStore(tmp_path), record())
    other = record(errors=[0.5, 0.03])
    store.publish(other, bits(other))  # the run is there: it stays, and so do its predictions
    found = store.predictions(record())
    assert found is not None
    assert found.belongs(record())
    assert store.predictions(other) is None


def test_check_compares_the_bits_with_the_runs_test_error(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.publish(record(), Predictions.of(record(), np.ones(SAMPLES, dtype=bool)))
    found = check_store(store)
    assert (found[RUNS].valid, found[PREDICTIONS].valid, len(found[PREDICTIONS].wrong)) == (1, 0, 1)


def test_a_run_without_predictions_reads_as_before(tmp_path: Path) -> None:
    store = published(RunStore(tmp_path), record(seed=0), predicted=False)
    published(store, record(seed=1))
    assert len(list(store.records())) == 2
    frame = tpbench.load_predictions(tmp_path)
    assert frame["seed"].tolist() == [1]
    assert frame.attrs["without"] == 1
    assert frame["correct"][0].dtype == bool
    assert frame["test_error"][0] == pytest.approx(100 * (record().test_error or 0))
    assert tpbench.load_predictions(tmp_path, "mnist", "dfa").empty


def test_archives_and_merges_carry_predictions(tmp_path: Path) -> None:
    store = published(RunStore(tmp_path / "a"), record(seed=0), record(seed=1))
    published(store, record(seed=2), predicted=False)
    packed = pack_store(store, tmp_path / "a.zip")
    assert (packed.runs, packed.predictions) == (3, 2)
    before = (tmp_path / "a.zip").read_bytes()
    pack_store(store, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == before
    into = RunStore(tmp_path / "b")
    merged = merge_stores(open_source(str(tmp_path / "a.zip")), into)
    assert merged.new == 3
    assert [into.predictions(record(seed=seed)) is not None for seed in range(3)] == [True, True, False]
    # Known runs get the predictions that they lack.
    published(store, record(seed=2))
    merged = merge_stores(store, into)
    assert (merged.new, merged.known, merged.predictions) == (0, 3, 1)
    # An archive's predictions are found below the folder.
    (tmp_path / "c").mkdir()
    (tmp_path / "a.zip").rename(tmp_path / "c" / "a.zip")
    layered = RunStore(tmp_path / "c")
    assert layered.predictions(record(seed=1)) is not None
    assert check_store(layered)[PREDICTIONS].valid == 2


def test_pack_does_not_lose_predictions(tmp_path: Path) -> None:
    pack_store(published(RunStore(tmp_path / "a"), record()), tmp_path / "a.zip")
    without = published(RunStore(tmp_path / "b"), record(), predicted=False)
    with pytest.raises(UsageError, match="lose"):
        pack_store(without, tmp_path / "a.zip")


# A run that was trained again


def replaced(folder: Path, old: RunRecord, new: RunRecord) -> RunStore:
    store = published(RunStore(folder), old)
    store.replace_run(old, new, bits(new))
    return store


OLD, NEW = record(errors=[0.5, 0.02]), record(errors=[0.5, 0.025])


def test_a_replaced_run_goes_aside_and_does_not_count(tmp_path: Path) -> None:
    store = replaced(tmp_path, OLD, NEW)
    assert [run.test_error for run in store.records()] == [NEW.test_error]
    found = store.predictions(next(store.records()))
    assert found is not None
    assert len(list(store.replaced.glob("*.json"))) == len(list(store.replaced.glob("*.bits"))) == 1
    checked = check_store(RunStore(tmp_path))
    assert (checked[RUNS].valid, checked[PREDICTIONS].valid) == (1, 1)
    assert not any(check.problems for check in checked.values())


@pytest.mark.parametrize("order", ["old archive, new file", "new archive, old file", "two archives"])
def test_an_older_copy_of_a_replaced_run_is_no_conflict(tmp_path: Path, order: str) -> None:
    new = next(replaced(tmp_path / "elsewhere", OLD, NEW).records())
    store = RunStore(tmp_path / "results")
    store.folder.mkdir()
    if order == "two archives":
        (store.folder / "a.zip").write_bytes(archive_of(OLD))
        (store.folder / "b.zip").write_bytes(archive_of(new))
    else:
        first, second = (OLD, new) if order.startswith("old") else (new, OLD)
        (store.folder / "a.zip").write_bytes(archive_of(first))
        store.publish(second)
    for _ in range(2):  # read, and from the cache
        fresh = RunStore(store.folder)
        assert [(run.test_error, run.versions) for run in fresh.summaries()] == [(NEW.test_error, 1)]
        assert fresh.damaged == []


def test_pack_accepts_what_was_replaced(tmp_path: Path) -> None:
    store = published(RunStore(tmp_path / "a"), OLD, record(seed=1))
    pack_store(store, tmp_path / "a.zip")
    store.replace_run(OLD, NEW, bits(NEW))
    pack_store(store, tmp_path / "a.zip")
    runs = {run.definition.seed: run.test_error for run in open_source(str(tmp_path / "a.zip")).records()}
    assert runs == {0: NEW.test_error, 1: record().test_error}


def test_merge_replaces_what_was_replaced(tmp_path: Path) -> None:
    new, old = replaced(tmp_path / "new", OLD, NEW), published(RunStore(tmp_path / "old"), OLD)
    assert merge_stores(old, new).known == 1
    assert [run.test_error for run in new.records()] == [NEW.test_error]
    assert merge_stores(new, old).replaced == 1
    assert [run.test_error for run in old.records()] == [NEW.test_error]
    assert list(old.replaced.glob("*.json"))


# Two stores that disagree


def test_merge_names_a_conflict_and_keeps_the_targets_run(tmp_path: Path, tpbench_inside: Inside) -> None:
    for name, run in (("a", OLD), ("b", NEW)):
        published(RunStore(tmp_path / name), run)
    for source, target, kept in (("a", "b", NEW), ("b", "a", OLD)):
        ended = tpbench_inside("results", "merge", source, target)
        assert ended.returncode == 1
        assert OLD.definition.id in ended.stderr
        assert [run.test_error for run in RunStore(tmp_path / target).records()] == [kept.test_error]


@pytest.mark.parametrize("in_file", [True, False])
def test_copies_that_disagree_are_named_and_mark_their_cell(
    tmp_path: Path, tpbench_inside: Inside, in_file: bool
) -> None:
    store = RunStore(tmp_path / "results")
    published(store, *[record(seed=seed) for seed in range(1, 10)])
    (store.folder / "b.zip").write_bytes(archive_of(NEW))
    if in_file:
        store.publish(OLD)
    else:
        (store.folder / "a.zip").write_bytes(archive_of(OLD))
    for read in (RunStore.summaries, RunStore.summaries, lambda s: list(s.records())):
        fresh = RunStore(store.folder)
        cells = choose_cells(read(fresh))
        assert cells["mnist", "", "bp", "unknown"].marks == ["2 versions"]
        assert len(fresh.damaged) == 1
    checked = tpbench_inside("results", "check")
    assert checked.returncode == 1
    assert OLD.definition.id in checked.stderr
    assert "2 versions" in tpbench_inside("leaderboard").stdout
    with pytest.raises(TpbenchError, match="versions"):
        pack_store(RunStore(store.folder), tmp_path / "all.zip")
    assert not (tmp_path / "all.zip").exists()


def test_copies_that_agree_are_no_conflict(tmp_path: Path) -> None:
    store = published(RunStore(tmp_path), record())
    (tmp_path / "a.zip").write_bytes(archive_of(replace(record(), wall_time_s=99.0)))
    assert next(store.records()).versions == 1
    assert check_store(store)[RUNS].conflicts == []


# Cells of one source


def sourced(source: str, seeds: range, error: float, **changes: Any) -> list[RunRecord]:
    runs = [record("mine", seed, [0.5, error], **changes) for seed in seeds]
    return [replace(run, definition=replace(run.definition, method_source=source)) for run in runs]


@pytest.mark.parametrize(
    ("runs", "installed", "chosen"),
    [
        # The lower validation error does not decide.
        (lambda: sourced("p 1 aa", range(10), 0.02) + sourced("p 1 bb", range(10), 0.01), None, "p 1 aa"),
        (lambda: sourced("p 1 aa", range(3), 0.02) + sourced("p 1 bb", range(10), 0.03), None, "p 1 bb"),
        (lambda: sourced("p 1 aa", range(10), 0.02) + sourced("p 1 bb", range(3), 0.03), "p 1 bb", "p 1 bb"),
        # Seeds outside the protocol are none of its seeds.
        (lambda: sourced("p 1 aa", range(20, 40), 0.02) + sourced("p 1 bb", range(3), 0.03), None, "p 1 bb"),
        (lambda: sourced("p 2 aa", range(10), 0.02) + sourced("p 1 bb", range(10), 0.01), "gone", "p 2 aa"),
    ],
)
def test_a_cell_is_of_one_source(
    runs: Callable[[], list[RunRecord]], installed: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finding B-4 of the review."""
    monkeypatch.setattr("tpbench.results.cells.installed_source", lambda name: installed)
    cell = choose_cells(runs())["mnist", "", "mine", "unknown"]
    assert {run.definition.method_source for run in cell.runs} == {chosen}
    assert cell.sources == 2
    assert [1, 2] in [counts(mark) for mark in cell.marks]  # one of two sources


def test_one_source_is_not_marked() -> None:
    cell = choose_cells(sourced("p 1 aa", range(10), 0.02))["mnist", "", "mine", "unknown"]
    assert (cell.sources, cell.marks) == (1, [])


# What reviewers found


def third() -> RunRecord:
    return record(errors=[0.5, 0.027])


def test_a_run_replaced_twice_keeps_its_history_through_a_merge(tmp_path: Path) -> None:
    newest = replaced(tmp_path / "a", OLD, NEW)
    newest.replace_run(next(newest.records()), third(), bits(third()))
    behind = published(RunStore(tmp_path / "b"), OLD)
    assert merge_stores(newest, behind).replaced == 1
    middle = replaced(tmp_path / "c", OLD, NEW)
    for store in (newest, behind):
        merged = merge_stores(middle, store)
        assert (merged.known, merged.conflicts) == (1, [])
    pack_store(newest, tmp_path / "a.zip")
    pack_store(behind, tmp_path / "a.zip")


def test_two_machines_in_turn_make_no_conflict(tmp_path: Path) -> None:
    store = replaced(tmp_path / "results", OLD, NEW)
    middle = next(store.records())
    store.replace_run(middle, OLD, bits(OLD))
    (store.folder / "a.zip").write_bytes(archive_of(middle))
    (store.folder / "b.zip").write_bytes(archive_of(OLD))
    fresh = RunStore(store.folder)
    assert [(run.test_error, run.versions) for run in fresh.summaries()] == [(OLD.test_error, 1)]
    assert merge_stores(open_source(str(store.folder / "a.zip")), RunStore(store.folder)).known == 1
    pack_store(RunStore(store.folder), store.folder / "a.zip")
    # The other way round the newest training is not lost.
    with pytest.raises(UsageError):
        pack_store(replaced(tmp_path / "other", OLD, NEW), store.folder / "a.zip")


def test_replacing_takes_what_lies_there_now(tmp_path: Path) -> None:
    store = replaced(tmp_path, OLD, NEW)
    store.replace_run(OLD, third(), bits(third()))  # its caller read OLD before NEW came
    (now,) = store.records()
    assert now.replaces == (OLD.curves_digest, NEW.curves_digest)
    assert len(list(store.replaced.glob("*.json"))) == 2


def test_predictions_of_a_run_that_came_too_late_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, late = RunStore(tmp_path), RunStore(tmp_path)
    whole = RunStore.add_predictions
    added = []

    def interleaved(self: RunStore, predictions: Predictions, *, replace: bool = True) -> None:
        whole(self, predictions, replace=replace)
        if not added:  # another process writes its own between the predictions and the run
            added.append(True)
            whole(late, bits(NEW))

    monkeypatch.setattr(RunStore, "add_predictions", interleaved)
    store.publish(OLD, bits(OLD))
    assert store.predictions(OLD) is not None


def test_predictions_of_a_run_that_came_first_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process publishes the run after this one saw none."""
    first, late = record(errors=[0.4, 0.2]), record(errors=[0.4, 0.1])
    inspect = store_module._inspect

    def inspect_and_lose(kind: Any, path: Path) -> Any:
        found = inspect(kind, path)
        monkeypatch.setattr(store_module, "_inspect", inspect)
        RunStore(tmp_path).publish(first, bits(first))
        return found

    monkeypatch.setattr(store_module, "_inspect", inspect_and_lose)
    RunStore(tmp_path).publish(late, bits(late))
    assert RunStore(tmp_path).read(first.definition.id) == first
    assert RunStore(tmp_path).predictions(first) == bits(first)


def test_a_file_that_an_archive_replaced_goes_aside_too(tmp_path: Path) -> None:
    old, new = record(errors=[0.4, 0.3]), record(errors=[0.4, 0.1])
    store = store_of(tmp_path, [old])
    between = replace(record(errors=[0.4, 0.2]), provenance={"torch": "x", "replaces": [old.curves_digest]})
    (tmp_path / "x.zip").write_bytes(archive_of(between))
    store.add_predictions(bits(old))
    RunStore(tmp_path).replace_run(old, new, bits(new))
    (kept_bits,) = store.replaced.glob("*.bits")
    assert Predictions.from_json(kept_bits.read_text(), "").belongs(old)
    kept = {RunRecord.from_json(p.read_text(), str(p)).curves_digest for p in store.replaced.glob("*.json")}
    assert kept == {old.curves_digest, between.curves_digest}


def test_predictions_that_contradict_their_run_are_made_anew(tmp_path: Path) -> None:
    store = published(RunStore(tmp_path), OLD, predicted=False)
    store.add_predictions(Predictions.of(OLD, np.ones(SAMPLES, dtype=bool)))
    assert store.predictions(OLD) is None
    store.add_predictions(bits(OLD))
    assert store.predictions(OLD) is not None


def test_a_store_in_conflict_is_not_merged_without_a_word(tmp_path: Path) -> None:
    source = published(RunStore(tmp_path / "a"), OLD, record(seed=1))
    (source.folder / "a.zip").write_bytes(archive_of(NEW))
    merged = merge_stores(RunStore(source.folder), RunStore(tmp_path / "b"))
    assert merged.new == 1
    assert len(merged.conflicts) == 1


def test_a_long_run_is_read_again(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.publish(record(errors=[0.123456789012345] * 150_000, epochs=150_000))
    assert len(list(store.records())) == 1


def test_a_new_version_of_one_source_is_no_other_source() -> None:
    runs = sourced("p 1 aa", range(9), 0.02) + sourced("p 2 aa", range(9, 10), 0.02)
    cell = choose_cells(runs)["mnist", "", "mine", "unknown"]
    assert (cell.seeds, cell.sources, cell.marks) == (10, 1, [])


def test_marks_stand_in_csv_and_beside_comparisons(tmp_path: Path, tpbench_inside: Inside) -> None:
    store = published(RunStore(tmp_path / "results"), *[record(seed=seed, found=PUBLISHED) for seed in range(10)])
    published(store, *[record("dfa", seed, found=PUBLISHED) for seed in range(10)])
    (store.folder / "a.zip").write_bytes(archive_of(replace(NEW, search_info=PUBLISHED)))
    for command in (("leaderboard", "--format", "csv"), ("table", "s6", "--format", "csv"), ("compare", "bp", "dfa")):
        assert "2 versions" in tpbench_inside(*command).stdout
    assert tpbench.compare(store.folder, "bp", "dfa")["first_marks"].tolist() == ["2 versions"]
