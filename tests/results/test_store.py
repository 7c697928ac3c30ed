"""The run store: names, atomic publication, damage."""

from __future__ import annotations

import json
import resource
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.results.records import archive_of, of_newer_format, record
from tpbench.engine import TpbenchError
from tpbench.results import RunDefinition, RunRecord, RunStore
from tpbench.results.artifacts import NewerFormat
from tpbench.results.runs import PUBLISHED
from tpbench.results.store import append_line

fractions = st.lists(st.floats(0, 0.99), min_size=1, max_size=5)


@given(fractions, st.integers(0, 2**32 - 1), st.floats(1e-9, 1e3), st.text(max_size=20))
def test_a_record_survives_its_file(errors: list[float], seed: int, lr: float, label: str) -> None:
    original = record("bp", seed, errors, lr=lr, label=label)
    assert RunRecord.from_json(original.to_json(), "x") == original


def test_the_id_depends_on_what_defines_a_run_and_on_nothing_else() -> None:
    base = RunDefinition("mnist", "f", "bp", {"lr": 1, "beta1": 0.9}, 3, 100)
    assert base.id == RunDefinition("mnist", "f", "bp", {"beta1": 0.9, "lr": 1.0}, 3, 100).id
    others = [
        RunDefinition("mnist-frozen", "f", "bp", {"lr": 1, "beta1": 0.9}, 3, 100),
        RunDefinition("mnist", "g", "bp", {"lr": 1, "beta1": 0.9}, 3, 100),
        RunDefinition("mnist", "f", "dfa", {"lr": 1, "beta1": 0.9}, 3, 100),
        RunDefinition("mnist", "f", "bp", {"lr": 1, "beta1": 0.99}, 3, 100),
        RunDefinition("mnist", "f", "bp", {"lr": 1, "beta1": 0.9}, 4, 100),
        RunDefinition("mnist", "f", "bp", {"lr": 1, "beta1": 0.9}, 3, 99),
        RunDefinition("mnist", "f", "bp", {"lr": 1, "beta1": 0.9}, 3, 100, protocol=2),
    ]
    assert len({base.id, *(o.id for o in others)}) == 8


def test_a_finished_run_is_never_overwritten(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    path = store.publish(record(errors=[0.3]))
    before = path.read_bytes()
    store.publish(record(errors=[0.1]))  # the same definition, other numbers
    assert path.read_bytes() == before
    assert [p.name for p in store.runs.iterdir()] == [path.name]


def test_concurrent_publication_leaves_whole_files(tmp_path: Path) -> None:
    records = [record(seed=s % 5, errors=[0.1] * 100) for s in range(20)]
    threads = [threading.Thread(target=RunStore(tmp_path).publish, args=(r,)) for r in records]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    store = RunStore(tmp_path)
    assert sorted(r.definition.seed for r in store.records()) == [0, 1, 2, 3, 4]
    assert not store.damaged
    assert len(list(store.runs.iterdir())) == 5


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "binary", "other id", "list", "older format"])
def test_reading_damage_changes_nothing_and_publishing_keeps_it_aside(tmp_path: Path, damage: str) -> None:
    store, original = RunStore(tmp_path), record()
    path = store.publish(original)
    text = path.read_text()
    damaged = {
        "truncate": text[:-20].encode(),
        "flip": text.replace("0.02", "0.01", 1).encode(),
        "empty": b"",
        "binary": b"\xff\xfe\x00",
        "other id": record(seed=9).to_json().encode(),
        "list": b"[]",
        "older format": text.replace('"format": 1', '"format": 0').encode(),
    }[damage]
    path.write_bytes(damaged)
    assert store.read(original.definition.id) is None
    assert list(store.records()) == []
    assert len(store.damaged) == 1
    assert path.name in store.damaged[0]
    assert "not trained" in store.damaged[0]
    assert [(p.name, p.read_bytes()) for p in store.runs.iterdir()] == [(path.name, damaged)]
    store.publish(original)
    assert "set aside" in store.damaged[1]
    assert store.read(original.definition.id) == original
    assert path.with_suffix(".damaged").read_bytes() == damaged


def test_a_file_whose_copy_ends_is_a_run(tmp_path: Path) -> None:
    store, original = RunStore(tmp_path), record()
    path = store.publish(original)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert store.read(original.definition.id) is None
    path.write_bytes(whole)
    assert store.read(original.definition.id) == original


def test_what_was_set_aside_is_never_overwritten(tmp_path: Path) -> None:
    store, original = RunStore(tmp_path), record()
    path = store.path(original.definition.id)
    path.parent.mkdir()
    for content in ("first", "second", "third"):
        path.write_text(content)
        store.publish(original)
    aside = {p.name.removeprefix(path.stem): p.read_text() for p in store.runs.glob("*.damaged")}
    assert aside == {".damaged": "first", "-2.damaged": "second", "-3.damaged": "third"}


def _no_links(*_: object) -> None:
    raise PermissionError("no hard links here")


def test_without_hard_links_the_same_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "hardlink_to", _no_links)
    store, original = RunStore(tmp_path), record(errors=[0.3])
    path = store.publish(original)
    store.publish(record(errors=[0.1]))
    assert store.read(original.definition.id) == original
    path.write_text("damaged")
    store.publish(original)
    assert store.read(original.definition.id) == original
    assert path.with_suffix(".damaged").read_text() == "damaged"


def test_concurrent_publication_over_damage_ends_whole_and_keeps_the_damage(tmp_path: Path) -> None:
    original = record(errors=[0.1] * 100)
    path = RunStore(tmp_path).path(original.definition.id)
    path.parent.mkdir()
    path.write_text("damaged")
    threads = [threading.Thread(target=RunStore(tmp_path).publish, args=(original,)) for _ in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert RunStore(tmp_path).read(original.definition.id) == original
    assert "damaged" in [p.read_text() for p in path.parent.glob("*.damaged")]


@pytest.mark.parametrize("links", [True, False])
def test_a_newer_format_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", _no_links)
    store, run = RunStore(tmp_path), record()
    newer = of_newer_format(run)
    path = store.path(run.definition.id)
    path.parent.mkdir()
    path.write_text(newer)
    for use in (lambda: store.read(run.definition.id), lambda: list(store.records())):
        with pytest.raises(NewerFormat, match=path.name):
            use()
    store.publish(run)
    assert [(p.name, p.read_text()) for p in store.runs.iterdir()] == [(path.name, newer)]


def test_a_store_that_cannot_be_written_is_an_error_and_stays_whole(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file is in the way")
    with pytest.raises(TpbenchError, match=str(tmp_path)):
        RunStore(tmp_path).publish(record())


def test_the_file_is_readable_json_with_the_selected_numbers(tmp_path: Path) -> None:
    path = RunStore(tmp_path).publish(record(errors=[0.4, 0.2, 0.3, 0.2]))
    body = json.loads(path.read_text())
    assert body["selected_epoch"] == 1
    assert body["validation_error"] == 0.2
    assert body["test_error"] == pytest.approx(0.21)
    assert path.stem == body["id"]


def test_half_a_line_does_not_stay(tmp_path: Path) -> None:
    """On a full disk a part of a line may be written; the next one must not be glued to it."""
    path = tmp_path / "journal.jsonl"
    append_line(path, "first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Beyond the limit the kernel sends a signal too.
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 3, hard))
    try:
        with pytest.raises(TpbenchError):
            append_line(path, "a line that does not fit")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    append_line(path, "second")
    assert path.read_text().splitlines() == ["first", "second"]


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_of_equal_copies_the_best_known_origin_counts_not_the_name_of_an_archive(tmp_path: Path, names: str) -> None:
    published, final = (record(found=found) for found in (PUBLISHED, {"by": "file"}))
    for name, run in zip(names, (published, final), strict=True):
        (tmp_path / f"{name}.zip").write_bytes(archive_of(run))
    run_id = published.definition.id
    store = RunStore(tmp_path)
    read = store.read(run_id)
    # Once from the files, and once from the cache of summaries.
    found = [read and read.search_info, *(run.search_info for _ in range(2) for run in store.summaries())]
    assert found == [PUBLISHED] * 3
