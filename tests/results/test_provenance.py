"""What a run records of the options that trained it, and of the commit it was trained at."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tpbench.results import runs


def test_options_are_recorded_as_data_and_as_a_command() -> None:
    options = {"command": "run", "workload": "/home/me/wine.yaml", "method": "bp", "data": "/home/me"}
    found = runs.provenance("cpu", "float32", options)
    assert found["options"] == {"command": "run", "workload": "wine.yaml", "method": "bp"}
    assert found["command"].split() == ["tpbench", "run", "wine.yaml", "bp"]
    assert not {"options", "command"} & runs.provenance("cpu", "float32", {}).keys()


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
