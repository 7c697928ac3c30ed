"""What a run records of the command that trained it, and of the commit it was trained at."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpbench.results import runs
from tpbench.results.commands import recorded_command


@pytest.mark.parametrize(
    ("command", "recorded"),
    [
        ("tpbench run mnist bp --seeds 0-9", "tpbench run mnist bp --seeds 0-9"),
        ("tpbench run mnist bp --results /work/store --data /work/data --seeds 0", "tpbench run mnist bp --seeds 0"),
        ("tpbench run mnist bp --results=s3://b/x --seeds=0", "tpbench run mnist bp --seeds=0"),
        ("tpbench run mnist bp --config '/home/my name/bp.yaml'", "tpbench run mnist bp --config bp.yaml"),
        ("tpbench run mnist bp --config=../bp.yaml", "tpbench run mnist bp --config=bp.yaml"),
        (r"tpbench run mnist bp --config 'C:\me\bp.yaml'", "tpbench run mnist bp --config bp.yaml"),
        ("/usr/bin/tpbench sweep mnist bp --address ray://10.0.0.1:10001", "tpbench sweep mnist bp"),
        ("tpbench plot cost mnist --output", "tpbench plot cost mnist"),
        ("tpbench run mnist bp --config folder/", "tpbench run mnist bp --config folder"),
        ("tpbench run mnist bp --config '/home/my secret", "tpbench run mnist bp --config"),
        ("tpbench run a/--results b", "tpbench run"),
        (
            "tpbench.run('digits', 'bp', {'lr': 0.1}, seeds='0-9')",
            "tpbench.run('digits', 'bp', {'lr': 0.1}, seeds='0-9')",
        ),
        (
            "tpbench.run('w', 'bp', {'lr': 1}, epochs=2, results=\"/it's/x\", data='/d')",
            "tpbench.run('w', 'bp', {'lr': 1}, epochs=2)",
        ),
        ("tpbench.run('/home/me/wine.yaml', 'bp', {'lr': 0.1})", "tpbench.run('wine.yaml', 'bp', {'lr': 0.1})"),
        ("", ""),
        ("/", ""),
    ],
)
def test_places_of_the_machine_are_not_recorded(command: str, recorded: str) -> None:
    assert recorded_command(command) == recorded


words = st.sampled_from(
    [
        "tpbench",
        "tpbench.run('a/b',",
        "run",
        "--results",
        "--data=x",
        "--config",
        "/a/b c",
        "a/--data",
        "=",
        "'",
        '"',
        "\\",
    ]
)


@given(st.one_of(st.text(), st.lists(words | st.text(max_size=5)).map(" ".join), st.lists(words).map(shlex.join)))
def test_no_path_survives_and_cleaning_twice_changes_nothing(command: str) -> None:
    cleaned = recorded_command(command)
    assert "/" not in cleaned
    assert "\\" not in cleaned
    assert recorded_command(cleaned) == cleaned


def test_provenance_records_the_command_so() -> None:
    assert (
        runs.provenance("cpu", "float32", "tpbench run mnist bp --data /home/me")["command"] == "tpbench run mnist bp"
    )


def _git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_commit_is_that_of_a_repository_that_holds_the_package(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "tpbench"
    package.mkdir(parents=True)
    shutil.copy(Path(runs.__file__).parents[1] / "__init__.py", package)
    (tmp_path / "thesis.tex").write_text("somebody's own repository")
    _git(tmp_path, "init")
    _git(tmp_path, "add", "thesis.tex")
    _git(tmp_path, "commit", "-m", "x")
    assert runs.commit_of(package) is None
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-m", "y")
    found = runs.commit_of(package)
    assert found
    assert len(found) == 40
    (package / "__init__.py").write_text("changed")
    assert runs.commit_of(package) == f"{found}+"
    assert runs.commit_of(tmp_path / "absent") is None


def test_of_several_files_each_keeps_its_name() -> None:
    assert recorded_command("tpbench sweep /home/me/a.yaml,b/c.yml,digits bp") == "tpbench sweep a.yaml,c.yml,digits bp"
