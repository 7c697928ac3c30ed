"""``tpbench report --watch``: the page follows the store and is left whole, however it ends."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import Inside
from tests.results.records import alignment_record, keep_alignments, record
from tests.search.test_trials import searched
from tests.training.test_signals import handlers  # noqa: F401 (a fixture)
from tpbench.engine import TpbenchError
from tpbench.reports import page, watching
from tpbench.reports.watching import Watch, store_stamp
from tpbench.results import Cell, RunStore
from tpbench.search.definition import SweepFolder


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    (tmp_path / "results").mkdir()
    return RunStore(tmp_path / "results")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watch(store: RunStore, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    monkeypatch.setattr(watching, "_REST", 0)
    return Watch(store, tmp_path / "report.html", "tpbench report --watch", 1, said.append)


def test_the_page_follows_the_store(watch: Watch, store: RunStore, said: list[str]) -> None:
    watch.look()
    assert "no run" in said[0]
    assert 'data-reload="1" data-feed="report.html.live.js"' in watch.output.read_text()
    assert "no run" in watch.output.read_text()
    store.publish(record("bp", 0, [0.5, 0.02]))
    watch.look()
    assert said[1:] == [f"written: {watch.output} (1 run)"]
    page = watch.output.read_text()
    assert 'data-reload="1"' in page
    assert '<noscript><meta http-equiv="refresh" content="10"></noscript>' in page
    watch.look()
    assert len(said) == 2  # nothing is drawn where nothing changed
    store.publish(record("bp", 1, [0.5, 0.03]))
    watch.finish()
    written, ended = said[2:]
    assert written == f"written: {watch.output} (2 runs)"
    assert ended.startswith(f"ended; {watch.output} ")
    assert "data-reload" not in watch.output.read_text()
    assert 'http-equiv="refresh"' not in watch.output.read_text()
    assert not list(watch.output.parent.glob("*.part"))
    assert not watch.feed.exists()


def test_who_watches_may_come_before_the_sweep(
    watch: Watch, store: RunStore, said: list[str], tpbench_inside: Inside
) -> None:
    store.folder.rmdir()
    watch.look()
    assert "no folder" in said[0]
    store.publish(record("bp", 0, [0.5, 0.02]))
    watch.look()
    assert said[1:] == [f"written: {watch.output} (1 run)"]


def test_a_watched_page_has_its_baseline(store: RunStore, said: list[str], tmp_path: Path) -> None:
    for seed in range(3):
        store.publish(record("bp", seed, [0.5, 0.02]))
        store.publish(record("dfa", seed, [0.5, 0.02]))
    watch = Watch(store, tmp_path / "report.html", "tpbench report --watch", 1, said.append, "dfa")
    watch.look()
    page = watch.output.read_text()
    assert ("minus DFA" in page, "minus BP" in page) == (True, False)


def test_sections_are_drawn_anew_where_runs_or_angles_changed(
    watch: Watch, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def counted(cells: Sequence[Cell], *rest: Any) -> Any:
        drawn.append("")
        return original(cells, *rest)

    original = page.cost_panel
    monkeypatch.setattr(page, "cost_panel", counted)
    for seed in range(3):
        store.publish(record("bp", seed, [0.5, 0.02]))
    watch.look()
    store.publish(record("dfa", 0, [0.5, 0.02]))
    watch.look()
    assert len(drawn) == 2
    searched(store.folder)
    watch.look()
    assert len(drawn) == 2
    text = watch.output.read_text()
    assert "mnist-bp-1" in text
    # What the kept figures use is on the page.
    used, there = set(re.findall(r'xlink:href="#([^"]+)"', text)), set(re.findall(r' id="([^"]+)"', text))
    assert used
    assert used <= there
    keep_alignments(store.folder, alignment_record("mnist", "ddtp-linear", [0.0]))
    watch.look()
    assert len(drawn) == 3


def test_what_a_report_shows_changes_the_stamp_and_nothing_else_does(store: RunStore) -> None:
    seen = [store_stamp(store)]
    store.publish(record("bp", 0, [0.5, 0.02]))
    seen.append(store_stamp(store))
    for name in ("more.zip", "alignment/a.json", "sweeps/mnist-bp-1/sweep.json", "sweeps/mnist-bp-1/journal.jsonl"):
        (store.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (store.folder / name).write_text("{}")
        seen.append(store_stamp(store))
    with SweepFolder(store.folder / "sweeps" / "mnist-bp-1").lock():
        running = store_stamp(store)
    assert running not in seen  # a sweep that is killed writes nothing
    assert len(set(seen)) == len(seen)
    (store.folder / "checkpoints").mkdir()
    (store.folder / "checkpoints" / "x.json").write_text("{}")
    (store.folder / "runs" / "x.part").write_text("{}")
    assert store_stamp(store) == seen[-1]


def test_what_fails_later_is_said_once_and_tried_again(
    watch: Watch, store: RunStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(["", "away", "away", ""])

    def listing(store: RunStore) -> str:
        problem = next(looks, None)
        if problem is None:
            raise KeyboardInterrupt
        if problem:
            raise TpbenchError(problem)
        return "a stamp"

    monkeypatch.setattr(watching, "store_stamp", listing)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(KeyboardInterrupt):
        watching._follow(watch)
    assert said[1:] == ["away; trying again"]


def test_what_fails_at_first_ends_it_and_nothing_is_said_to_be_written(
    watch: Watch, store: RunStore, said: list[str]
) -> None:
    store.publish(record("bp", 0, [0.5, 0.02]))
    watch.output.mkdir()
    with pytest.raises(TpbenchError):
        watching._follow(watch)
    watch.finish()
    assert (said, watch.feed.exists()) == ([], False)


@pytest.mark.parametrize("target", ["feed", "output"])
def test_a_first_look_that_is_interrupted_leaves_a_page_that_follows_nothing(
    watch: Watch, store: RunStore, said: list[str], monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    store.publish(record("bp", 0, [0.5, 0.02]))
    original = watching.write_atomically

    def interrupted(path: Path, text: str) -> None:
        original(path, text)
        if path == getattr(watch, target):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(watching, "write_atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            watch.look()
    watch.finish()
    assert not watch.feed.exists()
    assert watch.output.exists() == bool(said) == (target == "output")
    if said:
        assert "data-reload" not in watch.output.read_text()


def test_a_file_of_the_users_is_not_taken_for_the_script(store: RunStore, tpbench_inside: Inside) -> None:
    store.publish(record("bp", 0, [0.5, 0.02]))
    theirs = store.folder.parent / "report.html.live.js"
    theirs.write_text("alert(1)")
    ended = tpbench_inside("report", "--watch")
    assert (ended.returncode, theirs.read_text()) == (2, "alert(1)")
    assert str(theirs.name) in ended.stderr
    assert not (store.folder.parent / "report.html").exists()


def test_a_page_may_have_a_name_that_is_no_text(store: RunStore, said: list[str], tmp_path: Path) -> None:
    watch = Watch(store, tmp_path / "a\udcffb.html", "tpbench report --watch", 1, said.append)
    watch.look()
    assert 'data-feed="a%FFb.html.live.js"' in watch.output.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("handlers")
def test_a_signal_ends_it_cleanly(
    store: RunStore, tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    store.publish(record("bp", 0, [0.5, 0.02]))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert "data-reload" in (tmp_path / "report.html").read_text()
        signal.raise_signal(number)

    clock = SimpleNamespace(sleep=sleep, monotonic=time.monotonic, process_time=time.process_time)
    monkeypatch.setattr(watching, "time", clock)
    ended = tpbench_inside("report", "--watch", "--every", "3")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "ended; " in ended.stdout
    assert "data-reload" not in (tmp_path / "report.html").read_text()
    assert slept[0] >= 3


def test_an_interval_without_watching_is_a_slip(store: RunStore, tpbench_inside: Inside) -> None:
    ended = tpbench_inside("report", "--every", "3")
    assert (ended.returncode, "--watch" in ended.stderr) == (2, True)
