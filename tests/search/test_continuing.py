"""The commands that continue sweeps work where they are printed; sweeps that came to nothing have none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Inside
from tpbench.results.commands import continuing, recorded_command
from tpbench.search.continuing import command_for, kept_command
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.journal import Journal
from tpbench.search.listing import sweep_status
from tpbench.search.spaces import space_for
from tpbench.workloads import WORKLOADS, get_workload, load_problem

BEGUN = "tpbench sweep digits bp --fresh --results old --space=my.yaml --trials 3"


def test_what_a_folder_keeps_works_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert continuing(BEGUN) == "tpbench sweep digits bp --results old --space=my.yaml --trials 3"
    kept = kept_command(BEGUN)
    assert kept == f"tpbench sweep digits bp --space {tmp_path}/my.yaml --trials 3"
    assert command_for(kept, "results") == kept
    assert command_for(kept, "../a b") == f"{kept} --results '../a b'"
    # As older versions kept it, and one that no shell reads.
    assert command_for(BEGUN, "s3://a/b").endswith("--trials 3 --results s3://a/b")
    assert "--fresh" not in command_for(BEGUN, "x")
    assert kept_command("tpbench 'sweep") == "tpbench 'sweep"
    assert command_for("", "x") == ""


def test_the_precision_of_the_search_is_kept() -> None:
    command = "tpbench sweep digits bp --search-precision float64 --precision=float32"
    assert command_for(kept_command(command), "results") == command
    assert recorded_command(command) == command


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
    assert "\ntpbench sweep digits bp --trials 2 --results after\n" in listed


def test_a_sweep_that_another_replaced_has_no_command(tpbench_inside: Inside, tmp_path: Path) -> None:
    first, *_ = begin(tmp_path / "results")
    second, *_ = begin(tmp_path / "results", fresh=True)
    listed = tpbench_inside("sweeps").stdout.splitlines()
    assert f"replaced by {second.folder.name} (--fresh)" in listed
    assert listed.count("tpbench sweep digits bp --trials 2") == 1
    assert listed[listed.index("tpbench sweep digits bp --trials 2") - 1] == f"{second.folder.name}, interrupted:"
    assert first.folder.name != second.folder.name


def test_files_of_workloads_are_named_so_that_they_are_found_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = kept_command("tpbench sweep digits,a.yaml,../b.yml bp --trials 3")
    assert kept == f"tpbench sweep digits,{tmp_path}/a.yaml,{tmp_path.parent}/b.yml bp --trials 3"


def test_a_sweep_continues_though_the_file_of_its_workload_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "deep.yaml"
    file.write_text("name: deep\nlike: digits\nnetwork: [9]\n")
    workload = get_workload("deep.yaml")
    wanted = SweepDefinition(
        "deep",
        "bp",
        load_problem(workload)[1].fingerprint,
        space_for("bp").describe(),
        2,
        1,
        (0,),
        0,
        2,
        3,
        workload_source=workload.source,
    )
    folder = SweepFolder.latest(tmp_path / "results" / "sweeps", wanted.id, fresh=False)
    folder.begin(wanted, "tpbench sweep deep.yaml,digits bp --trials 2")
    folder.keep_workload(workload)
    assert sweep_status(folder, "results").command == f"tpbench sweep {file},digits bp --trials 2"
    file.write_text("name: deep\nlike: digits\nnetwork: [8]\n")
    for _ in range(2):
        command = sweep_status(folder, "results").command
        assert command == f"tpbench sweep {folder.workload_copy},digits bp --trials 2"
        file.unlink(missing_ok=True)
    assert get_workload(str(folder.workload_copy)) == workload
