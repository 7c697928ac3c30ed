"""What a watched page shows of sweeps at work: numbers from made-up journals and states, and the page in Chromium."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Inside
from tests.reports.axe import violations_in
from tests.reports.browser import Browser, browsing, chromium
from tests.results.records import record
from tests.search.test_trials import DEFINITION, OUTCOMES, searched
from tpbench.engine import TpbenchError
from tpbench.reports import watching
from tpbench.reports.live import LiveReader, render_live
from tpbench.reports.watching import Watch
from tpbench.results import RunStore
from tpbench.search.campaigns import FILE, CampaignState, write_campaign
from tpbench.search.definition import SweepFolder, sweep_status
from tpbench.search.journal import Journal
from tpbench.search.listing import check_sweeps, merge_sweeps, pack_store
from tpbench.training.plan import Outcome

SWEEP: dict[str, Any] = {
    "name": "mnist-bp-1",
    "label": "mnist bp",
    "trials": 12,
    "tried": 8,
    "seeds": 1,
    "trained": 0,
    "in_flight": 1.0,
    "best": 0.01,
    "done": False,
    "failure": None,
}
PACK = {"sweep": "mnist-bp-1", "pack": "2", "members": 4, "share": 0.25, "place": "node1, GPU 0"}
FAILED = {"sweep": "mnist-bp-1", "kind": "lost", "message": "its process was lost", "place": "node1", "count": 2}
STATE: dict[str, Any] = {
    "command": "tpbench sweep mnist bp",
    "device": "cuda",
    "begun": 1000.0,
    "written": 1100.0,
    "workers": 2,
    "packs": [PACK],
    "sweeps": [SWEEP],
    "failures": [FAILED],
    "work_done": 50.0,
    "work_left": 150.0,
}


def write_state(sweep: SweepFolder, **changed: object) -> None:
    write_campaign(sweep, CampaignState.model_validate({**STATE, **changed}))


@pytest.fixture
def sweep(tmp_path: Path) -> SweepFolder:
    """A search of which two of three packs have ended, one in each way."""
    folder = searched(tmp_path / "results")
    write_state(folder)
    return folder


@pytest.fixture
def store(sweep: SweepFolder) -> RunStore:
    return RunStore(sweep.results)


def test_a_sweep_at_work_has_its_numbers(store: RunStore, sweep: SweepFolder) -> None:
    with sweep.lock():
        live = LiveReader(store).read(1100.0)
    (one,) = live.sweeps
    assert (one.state, live.running, dict(live.counts)) == ("running", True, {"running": 1})
    search, final = one.bars
    assert (search.done, search.running, search.total, search.widths) == (8, 1.0, 12, ["66.7%", "8.3%"])
    assert (final.done, final.running, final.total) == (0, 0.0, 1)
    assert [n for n in ("1 stopped at", "1 stopped early", "1 diverged", "4 failed", "1 pack ") if n in search.text]
    assert one.best == "2.00 %"  # of a configuration that ended; the campaign knows a lower one of a pack in flight
    assert one.configuration.startswith("lr 0.1, ")
    assert len(one.problems) == 1
    assert str(sweep.log) in one.problems[0]
    assert len(live.campaigns) == len(live.places) == 1
    assert "node1, GPU 0" in live.places[0]


def test_a_sweep_without_packs_waits_and_one_of_which_all_is_trained_is_done(
    store: RunStore, sweep: SweepFolder
) -> None:
    ended = {**SWEEP, "done": True, "trained": 1}
    failed = {**SWEEP, "failure": "its rule is wrong"}
    with sweep.lock():
        for changed, state in (
            ({"packs": []}, "waiting"),
            ({"sweeps": [ended]}, "done"),
            ({"sweeps": [failed]}, "failed"),
        ):
            write_state(sweep, **changed)
            live = LiveReader(store).read(1100.0)
            assert [one.state for one in live.sweeps] == [state]
    assert "its rule is wrong" in live.sweeps[0].problems


def test_what_a_driver_left_that_was_killed_is_no_progress(store: RunStore, sweep: SweepFolder) -> None:
    live = LiveReader(store).read(1100.0)
    (one,) = live.sweeps
    assert (one.state, live.running, live.campaigns, live.places) == ("interrupted", False, [], [])
    assert one.bars[0].running == 0.0
    write_state(sweep, written=1200.0)
    (sweep.local / FILE).write_text('{"command": 1}')
    assert LiveReader(store).read(1100.0).sweeps[0].problems == one.problems[-1:]


def test_the_time_left_follows_from_the_pace() -> None:
    state = CampaignState.model_validate(STATE)
    assert state.seconds_left(1100.0) == pytest.approx(300.0)
    assert state.seconds_left(1160.0) == pytest.approx(240.0)
    assert state.seconds_left(1500.0) is None
    for unknown in ({"work_done": 0.0}, {"begun": 1095.0}, {"work_done": 0.0, "work_left": 0.0}):
        assert CampaignState.model_validate({**STATE, **unknown}).seconds_left(1100.0) is None


def test_final_runs_are_counted_in_the_store(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    sweep = searched(tmp_path, definition=replace(DEFINITION, trials=8, seeds=(3, 4, 5)))
    known = record("bp", 0, epochs=100)
    store.publish(known)
    journal = Journal.open(sweep.journal_path)
    best = Outcome(known.definition.id, "finished", 0.001, 0.03, epochs=100)
    journal.end_pack(2, [best, *OUTCOMES[1:]])
    journal.split(1)
    for seed in (4, 5):
        store.publish(record("bp", seed, epochs=100))
    status = sweep_status(sweep)
    assert (status.seeds, status.seeds_done) == (3, 2)
    assert (status.workload, status.method, status.label) == ("mnist", "bp", "8 x 100")
    assert status.ends == {"diverged": 2, "pruned": 2, "stopped": 2, "failed": 4, "finished": 2}
    journal.finish([Outcome(record("bp", s, epochs=100).definition.id, "finished", 0.1, 0.1) for s in (4, 5)])
    live = LiveReader(store).read()
    assert ([one.state for one in live.sweeps], list(live.done)) == ([], ["mnist: BP"])


def test_a_sweep_is_read_anew_when_its_files_change(
    store: RunStore, sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(folder: SweepFolder, *rest: Any) -> Any:
        read.append(folder.folder.name)
        return sweep_status(folder, *rest)

    monkeypatch.setattr("tpbench.reports.live.sweep_status", counted)
    reader = LiveReader(store)
    reader.read()
    write_state(sweep, written=1200.0)
    reader.read()
    assert len(read) == 1
    Journal.open(sweep.journal_path).end_pack(2, OUTCOMES)
    assert reader.read().sweeps[0].bars[0].done == 12
    assert len(read) == 2


def test_a_sweep_is_read_anew_when_its_runs_or_archive_change(tmp_path: Path) -> None:
    store, final = RunStore(tmp_path / "results"), record("bp", 1, epochs=100)
    sweep = searched(store.folder, definition=replace(DEFINITION, trials=8, seeds=(1,)))
    journal = Journal.open(sweep.journal_path)
    journal.end_pack(2, OUTCOMES)
    journal.split(1)
    store.publish(final)
    journal.finish([Outcome(final.definition.id, "finished", 0.1, 0.1)])
    reader = LiveReader(store)
    assert reader.read().counts == {"done": 1}
    store.path(final.definition.id).unlink()
    assert reader.read().counts == {"interrupted": 1}
    store.publish(final)
    assert reader.read().counts == {"done": 1}
    # The same archive's name, with a sweep whose search has no end yet, and with the one that is done.
    done = tmp_path / "done.zip"
    pack_store(store, done)
    shutil.rmtree(store.runs)
    shutil.rmtree(sweep.folder)
    shutil.copy(done, store.folder / "old.zip")
    assert reader.read().counts == {"done": 1}
    other = searched(tmp_path / "other")
    RunStore(other.results).publish(final)
    pack_store(RunStore(other.results), tmp_path / "open.zip")
    shutil.copy(tmp_path / "open.zip", store.folder / "old.zip")
    assert reader.read().counts == {"interrupted": 1}


def test_the_state_of_a_campaign_is_no_result(store: RunStore, sweep: SweepFolder, tmp_path: Path) -> None:
    assert check_sweeps(store).problems == []
    merge_sweeps(store, RunStore(tmp_path / "other"))
    assert not (tmp_path / "other" / "sweeps" / "mnist-bp-1" / FILE).exists()
    store.publish(record())
    pack_store(store, tmp_path / "packed.zip")
    assert FILE.encode() not in (tmp_path / "packed.zip").read_bytes()


def test_the_list_of_sweeps_says_the_same(tpbench_inside: Inside, sweep: SweepFolder) -> None:
    with sweep.lock():
        ended = tpbench_inside("sweeps")
        known = json.loads(tpbench_inside("sweeps", "--json").stdout)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "8/12" in ended.stdout
    assert "node1, GPU 0" in ended.stdout
    assert [(one["state"], one["label"], one["seeds"]) for one in known] == [("running", "12 x 100", 1)]


def test_names_from_files_are_text(sweep: SweepFolder, store: RunStore) -> None:
    write_state(sweep, failures=[{**FAILED, "message": "<script>alert(1)</script>\u202e"}])
    html = render_live(LiveReader(store).read(), "now")
    assert "<script" not in html
    assert "\u202e" not in html


@pytest.fixture
def watch(store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    monkeypatch.setattr(watching, "_REST", 0)
    return Watch(store, tmp_path / "report.html", "tpbench report --watch", 1, lambda line: None)


def fed(watch: Watch) -> dict[str, Any]:
    """The values that the script hands to the page."""
    text = watch.feed.read_text()
    values: dict[str, Any] = json.loads(text.partition("showLive(")[2].removesuffix(");\n"))
    return values


def test_progress_is_written_at_every_look_and_figures_are_drawn_seldom(
    watch: Watch, sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    original = watching.make_report
    monkeypatch.setattr(watching, "make_report", lambda *rest: drawn.append("") or original(*rest))
    monkeypatch.setattr(watching, "_REST_BESIDE_SWEEP", 1e9)
    watch.store.publish(record())
    with sweep.lock():
        watch.look()
        first = fed(watch)
        assert first["every"] == 1
        Journal.open(sweep.journal_path).end_pack(2, OUTCOMES)
        watch.look()
        second = fed(watch)
        assert "12 of 12 " in second["html"]
        assert "12 of 12 " in watch.output.read_text()
        assert (len(drawn), second["stamp"]) == (1, first["stamp"])
    # The campaign is over: the cores are free.
    watch.look()
    assert (len(drawn), fed(watch)["stamp"] != first["stamp"]) == (2, True)
    assert fed(watch)["every"] == 15


def test_what_cannot_be_read_is_said_on_the_page(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    watch.look()
    before = fed(watch)
    assert "mnist-bp-1" in before["html"]

    def away(store: RunStore) -> str:
        raise TpbenchError("the mount is away")

    monkeypatch.setattr(watching, "store_stamp", away)
    with pytest.raises(TpbenchError):
        watch.look()
    after = fed(watch)
    assert "the mount is away" in after["html"]
    assert "mnist-bp-1" in after["html"]
    assert after["stamp"] == before["stamp"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not chromium():
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.slow
def test_the_section_is_replaced_in_an_open_page(watch: Watch, sweep: SweepFolder, browser: Browser) -> None:
    watch.store.publish(record())
    with sweep.lock():
        watch.look()
        browser.open(watch.output, 390)
        assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
        assert violations_in(browser) == []
        browser.ask("window.before = true; document.querySelector('#live').innerHTML += '<p id=old></p>'")
        browser.ask("document.querySelector('#summary').scrollIntoView()")
        place = browser.ask("document.querySelector('#summary').getBoundingClientRect().top")
        write_state(sweep, failures=[FAILED, {**FAILED, "kind": "raised", "message": "ValueError"}])
        watch.look()
        browser.wait("document.querySelector('#live').textContent.includes('ValueError')")
        # It was not loaded anew.
        assert browser.ask("[window.before, document.querySelector('#old')]") == [True, None]
        # What is read stays in its place, though there is one line more above it.
        assert browser.ask("document.querySelector('#summary').getBoundingClientRect().top") == pytest.approx(
            place, abs=1
        )
        assert browser.complaints == []


@pytest.mark.slow
def test_nothing_moves_while_a_reader_pauses_or_selects(watch: Watch, sweep: SweepFolder, browser: Browser) -> None:
    watch.store.publish(record())
    with sweep.lock():
        watch.look()
        browser.open(watch.output, 800)
        browser.ask("getSelection().selectAllChildren(document.querySelector('#now')); window.before = true")
        fields = {**fed(watch), "html": "<p id=new></p>", "stamp": "other figures"}
        watch.feed.write_text(f"showLive({json.dumps(fields)}); window.looks = (window.looks ?? 0) + 1")
        browser.wait("window.looks > 1")
        assert browser.ask("[window.before, document.querySelector('#new')]") == [True, None]
        browser.ask("document.querySelector('.live button').click(); getSelection().empty()")
        # The script of a look that had begun before may still come.
        browser.wait("!document.querySelector('script[src]')")
        browser.ask("window.looks = 0")
        time.sleep(2.2)
        assert browser.ask("[window.before, window.looks]") == [True, 0]
        # Once it goes on, it looks at once, and loads the page with other figures.
        browser.ask("document.querySelector('.live button').click()")
        browser.wait("!window.before && document.readyState === 'complete'")


@pytest.mark.slow
def test_an_open_page_becomes_the_final_one(watch: Watch, browser: Browser) -> None:
    watch.store.publish(record())
    watch.look()
    browser.open(watch.output, 800)
    top = "document.querySelector('#summary').getBoundingClientRect().top"
    place = browser.ask_loaded(
        "document.querySelector('details:not(#live *)').open = true",
        "document.querySelector('#summary').scrollIntoView()",
        top,
    )
    watch.finish()
    # It may load itself anew more than once on the way there.
    seen = browser.ask_loaded(
        f"[document.querySelector('details').open, {top}, document.querySelector('#live')]",
        condition="!document.documentElement.dataset.reload",
    )
    # The section above it is gone.
    assert seen == [True, pytest.approx(place, abs=1), None]
