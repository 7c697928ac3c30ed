"""The sweep's driver where no Ray is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tpbench.sweeps.commands import _write_board

from tpbench.engine import TpbenchError
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.journal import Journal
from tpbench.search.listing import sweep_status
from tpbench.search.spaces import space_for
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.driver import Sweep
from tpbench.training.packs import Outcome, PackSettings
from tpbench.training.progress import Display
from tpbench.workloads import WORKLOADS, load_problem


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (
            [Outcome("0" * 24, "pruned", 0.9, 0.9), Outcome("1" * 24, "diverged", 1.0, None)],
            "none of the 2 configurations",
        ),
        ([], "none of the 2 configurations learnt anything"),
    ],
)
def test_a_search_that_finds_nothing_says_so(tmp_path: Path, outcomes: list[Outcome], message: str) -> None:
    space, folder = space_for("bp", None), SweepFolder(tmp_path)
    definition = SweepDefinition("digits", "bp", "f", space.describe(), 2, 7, (0, 1), 0, 2, 3)
    journal = Journal.open(folder.journal_path)
    journal.suggested([{"lr": 1e-12, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}] * 2)
    journal.ended(0, outcomes)
    with Display() as view, pytest.raises(TpbenchError, match=message):
        Sweep(definition, space, folder, journal, PackSettings(str(tmp_path)), Resources(1), view)._final()


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """A sweep whose search has ended and whose final runs are trained in this process, without Ray."""
    monkeypatch.setattr(Sweep, "_tune", lambda *_: [])  # the driver itself then trains what is missing
    space, folder = space_for("bp", None), SweepFolder(tmp_path / "sweeps" / "digits-bp-0")
    fingerprint = load_problem(WORKLOADS["digits"])[1].fingerprint
    wanted = SweepDefinition("digits", "bp", fingerprint, space.describe(), 1, 1, (1, 2), 0, 1, 1)
    definition, journal = folder.begin(wanted, "tpbench sweep digits bp")
    journal.suggested([{"lr": 1e-3, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}])
    journal.ended(0, [Outcome("0" * 24, "finished", 0.1, 0.1)])
    with Display() as view:
        yield Sweep(definition, space, folder, journal, PackSettings(str(tmp_path)), Resources(1), view)


def test_the_search_trains_one_seed_and_the_final_runs_those_that_were_asked_for(finished: Sweep) -> None:
    assert finished._plan().seeds == (0,)
    assert not finished.done
    result = finished.run()
    records = list(finished.store.records())
    assert sorted(record.definition.seed for record in records) == [1, 2]
    assert all(record.found == finished.definition.found("final") for record in records)
    assert result.configuration == records[0].definition.configuration


def test_done_means_that_the_final_runs_are_in_the_store(finished: Sweep) -> None:
    first = finished.run()
    assert finished.done
    assert sweep_status(finished.folder).state == "done"
    finished.store.path(first.outcomes[0].run).unlink()
    assert not finished.done
    assert sweep_status(finished.folder).state == "interrupted"
    assert finished.run() == first
    assert finished.done


def test_what_a_finished_sweep_tells_comes_from_the_store(finished: Sweep) -> None:
    first = finished.run()
    finished.journal.finished([replace(outcome, test_error=0.0) for outcome in first.outcomes])
    assert finished.run() == first


def test_a_sweep_that_an_older_version_ran_in_another_precision_is_no_answer(finished: Sweep) -> None:
    outcome = finished.run().outcomes[0]
    record = finished.store.read(outcome.run)
    assert record
    assert finished.journal.final
    finished.store.path(outcome.run).unlink()
    finished.store.publish(replace(record, provenance={**record.provenance, "precision": "float64"}))
    message = "a run of precision float64 made by an older version"
    with pytest.raises(TpbenchError, match=message):
        finished.run()
    # If the search's best is such a run, that shows before anything is trained.
    finished.journal.ended(0, [outcome])
    finished.store.path(finished.journal.final[1].run).unlink()
    with pytest.raises(TpbenchError, match=message):
        finished.run()
    assert len(list(finished.store.records())) == 1


def test_a_leaderboard_that_cannot_be_written_is_a_warning(finished: Sweep, tmp_path: Path) -> None:
    finished.run()
    assert _write_board(finished.store) == ()
    assert "digits,exact,bp,2,1," in (tmp_path / "leaderboard.csv").read_text()
    (tmp_path / "leaderboard.csv").unlink()
    (tmp_path / "leaderboard.csv").mkdir()
    (warning,) = _write_board(finished.store)
    assert warning.startswith("leaderboard.csv was not written: ")
