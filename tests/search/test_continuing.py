"""The commands that continue sweeps work where they are printed; sweeps that came to nothing have none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tpbench.sweeps.commands import CellChoice, SweepOptions, run_sweep

from tests.conftest import Inside
from tpbench.engine import TpbenchError
from tpbench.search.continuing import command_for, continues, kept_command
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.journal import Journal
from tpbench.search.spaces import space_for
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.driver import Sweep
from tpbench.training.packs import Outcome, PackSettings
from tpbench.training.progress import Display
from tpbench.workloads import WORKLOADS, load_problem

BEGUN = "tpbench sweep digits bp --fresh --results old --space=my.yaml --trials 3"


def test_what_a_folder_keeps_works_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert continues(BEGUN) == "tpbench sweep digits bp --results old --space=my.yaml --trials 3"
    kept = kept_command(BEGUN)
    assert kept == f"tpbench sweep digits bp --space {tmp_path}/my.yaml --trials 3"
    assert command_for(kept, "results") == kept
    assert command_for(kept, "../a b") == f"{kept} --results '../a b'"
    # As older versions kept it, and one that no shell reads.
    assert command_for(BEGUN, "s3://a/b").endswith("--trials 3 --results s3://a/b")
    assert "--fresh" not in command_for(BEGUN, "x")
    assert kept_command("tpbench 'sweep") == "tpbench 'sweep"
    assert command_for("", "x") == ""


def begin(results: Path, *, fresh: bool = False) -> tuple[SweepFolder, SweepDefinition, Journal]:
    fingerprint = load_problem(WORKLOADS["digits"])[1].fingerprint
    wanted = SweepDefinition("digits", "bp", fingerprint, space_for("bp").describe(), 2, 1, (0, 1), 0, 2, 3)
    folder = SweepFolder.latest(results / "sweeps", wanted.id, fresh=fresh)
    definition, journal = folder.begin(wanted, f"tpbench sweep digits bp --trials 2 --results {results}")
    return folder, definition, journal


def test_a_moved_folder_is_named_as_it_is_now(tpbench_inside: Inside, tmp_path: Path) -> None:
    begin(tmp_path / "before")
    shutil.move(tmp_path / "before", tmp_path / "after")
    listed = tpbench_inside("sweeps", "--results", "after").stdout
    assert "interrupted" in listed
    assert "before" not in listed
    assert ": tpbench sweep digits bp --trials 2 --results after\n" in listed


def test_a_sweep_that_another_replaced_has_no_command(tpbench_inside: Inside, tmp_path: Path) -> None:
    first, *_ = begin(tmp_path / "results")
    second, *_ = begin(tmp_path / "results", fresh=True)
    listed = tpbench_inside("sweeps").stdout.splitlines()
    assert f"{first.folder.name}: replaced by {second.folder.name} (--fresh)" in listed
    assert f"{second.folder.name}: tpbench sweep digits bp --trials 2" in listed


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (
            [Outcome("0" * 24, "pruned", 0.9, 0.9), Outcome("1" * 24, "diverged", 1.0, None)],
            "none of the 2 configurations learnt anything (1 diverged, 1 stopped early); start another sweep with more "
            "--trials, more than 1 --epochs or another --space",
        ),
        ([], "every pack of the search failed: no memory; see "),
    ],
)
def test_a_search_that_found_nothing_has_failed_for_good(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcomes: list[Outcome], message: str
) -> None:
    folder, definition, journal = begin(tmp_path / "results")

    def tune(sweep: Sweep, *_: object) -> list[str]:
        journal.suggested([{"lr": 1e-12, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}] * 2)
        journal.ended(0, outcomes)
        return [] if outcomes else ["no memory"]

    monkeypatch.setattr(Sweep, "_tune", tune)
    settings, space = PackSettings(str(tmp_path / "results")), space_for("bp", None)
    with Display() as view, pytest.raises(TpbenchError) as first:
        Sweep(definition, space, folder, journal, settings, Resources(1), view).run()
    assert message in str(first.value)

    listed = tpbench_inside("sweeps").stdout
    assert " failed " in listed
    assert f"{folder.folder.name}: {message}" in listed
    assert "tpbench sweep" not in listed
    # The same command again says the same, before any Ray is started.
    monkeypatch.setattr("tpbench.sweeps.commands.ray_running", None)
    options = SweepOptions(2, (0, 1), 1, None, 0, 2, Resources(1))
    with pytest.raises(TpbenchError) as second:
        run_sweep(CellChoice.of("digits", "bp"), options, settings)
    assert str(second.value) == f"the sweep {folder.folder.name} has failed: {first.value}"
    again = tpbench_inside("sweep", "digits", "bp", "--trials", "2", "--epochs", "1", "--seeds", "2")
    assert again.returncode == 1
    assert "has failed" in again.stderr


def test_a_search_that_has_packs_left_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, definition, journal = begin(tmp_path / "results")
    monkeypatch.setattr(Sweep, "_tune", lambda *_: ["the cluster went"])
    sweep_of = (definition, space_for("bp"), folder, journal, PackSettings(str(tmp_path / "results")), Resources(1))
    with Display() as view, pytest.raises(TpbenchError, match="every pack of the search failed: the cluster went"):
        Sweep(*sweep_of, view).run()
    assert Journal.read(folder.journal_path).failure is None
