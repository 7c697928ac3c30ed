"""The commands that continue sweeps work where they are printed; sweeps that came to nothing have none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Inside
from tpbench.search.definition import SweepDefinition, SweepFolder, portable_options, sweep_status
from tpbench.search.journal import Journal
from tpbench.search.spaces import space_for
from tpbench.workloads import WORKLOADS, get_workload, load_problem

OPTIONS = {"command": "sweep", "workloads": "digits", "methods": "bp", "trials": 2}


def test_kept_options_hold_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"results": "old", "space": "my.yaml", "fresh": True, "workloads": "digits,a.yaml,../b.yml"}
    assert portable_options({**OPTIONS, **places}) == {
        **OPTIONS,
        "space": f"{tmp_path}/my.yaml",
        "workloads": f"digits,{tmp_path}/a.yaml,{tmp_path.parent}/b.yml",
    }
    assert portable_options({**OPTIONS, "start": "my.yaml"}) == {**OPTIONS, "start": f"{tmp_path}/my.yaml"}
    assert portable_options({**OPTIONS, "start": "published"}) == {**OPTIONS, "start": "published"}
    assert portable_options({}) == {}


@pytest.mark.parametrize(
    ("kept", "shown"),
    [
        (
            "tpbench sweep digits bp --fresh --results old --trials 3 --seeds 5",
            "tpbench sweep digits bp --trials 3 --n-seeds 5",
        ),
        ("tpbench sweep digits bp --final-seeds=1-10", "tpbench sweep digits bp --seeds 1-10"),
        ("tpbench sweep digits bp --final-seeds 10", "tpbench sweep digits bp --seeds 10-10"),
        ("tpbench sweep digits bp --space '/a b/c.yaml'", "tpbench sweep digits bp --space '/a b/c.yaml'"),
        (
            "tpbench sweep digits bp --search-precision float64 --precision=float32 --keep-networks",
            "tpbench sweep digits bp --search-precision float64 --keep-networks",
        ),
        ("tpbench sweep digits bp --checkpoint-every 2", "tpbench sweep digits bp --checkpoint-every 2"),
        ("tpbench 'sweep", ""),
        ("tpbench sweep digits bp --no-such 3", ""),
        ("", ""),
    ],
)
def test_a_folder_of_an_older_version_is_continued_in_the_words_of_today(tmp_path: Path, kept: str, shown: str) -> None:
    (tmp_path / "command").write_text(kept + "\n")
    folder = SweepFolder(tmp_path)
    assert folder.command("results") == shown
    if shown:
        assert folder.command("../a b") == f"{shown} --results '../a b'"
        # As the folder keeps it once the sweep goes on.
        assert SweepFolder(tmp_path).options == portable_options(folder.options)


def test_options_with_a_number_of_epochs_between_checkpoints_are_read(tmp_path: Path) -> None:
    """As version 0.3.0 keeps them."""
    (tmp_path / "options.json").write_text(json.dumps({**OPTIONS, "checkpoint_every": 2}))
    assert SweepFolder(tmp_path).options == {**OPTIONS, "checkpoint_every": 2}
    assert SweepFolder(tmp_path).command("results") == "tpbench sweep digits bp --trials 2 --checkpoint-every 2"


def begin(results: Path, *, fresh: bool = False) -> tuple[SweepFolder, SweepDefinition, Journal]:
    fingerprint = load_problem(WORKLOADS["digits"])[1].fingerprint
    wanted = SweepDefinition("digits", "bp", fingerprint, space_for("bp").describe(), 2, 1, (0, 1), 0, 2, 3)
    folder = SweepFolder.latest(results / "sweeps", wanted.id, fresh=fresh)
    definition, journal = folder.begin(wanted, {**OPTIONS, "results": str(results)})
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
    folder.begin(wanted, {**OPTIONS, "workloads": "deep.yaml,digits"})
    folder.keep_workload(workload)
    assert sweep_status(folder, "results").command == f"tpbench sweep {file},digits bp --trials 2"
    file.write_text("name: deep\nlike: digits\nnetwork: [8]\n")
    for _ in range(2):
        command = sweep_status(folder, "results").command
        assert command == f"tpbench sweep {folder.workload_copy},digits bp --trials 2"
        file.unlink(missing_ok=True)
    assert get_workload(str(folder.workload_copy)) == workload
