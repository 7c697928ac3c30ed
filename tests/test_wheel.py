"""The wheel works where no checkout is: built as for publishing, installed in a fresh environment, and used there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.documents import ROOT
from tpbench import __version__

needed = [name for name in ("build", "hatchling") if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(needed), reason=f"{', '.join(needed)} not installed: pip install 'tpbench[dev]'"),
]


def called(*command: str | Path, folder: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """A command somewhere else than in the checkout, which nothing points to."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ended = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        input=text,
        timeout=200,
        check=False,
        env={**environment, "TPBENCH_OFFLINE": "1", "TPBENCH_CACHE": str(folder / "cache"), "COLUMNS": "200"},
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and the wheel that was made from it (that is how build does it)."""
    folder = tmp_path_factory.mktemp("built")
    called(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", ROOT, folder=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; what it depends on is looked up in the one that the tests run in."""
    fresh = tmp_path_factory.mktemp("fresh") / "venv"
    called(sys.executable, "-m", "venv", "--without-pip", fresh, folder=fresh.parent)
    pip = (sys.executable, "-m", "pip", "--python", fresh / "bin" / "python", "install", "--quiet", "--no-compile")
    called(*pip, "--no-deps", "--no-index", next(built.glob("*.whl")), folder=fresh.parent)
    # After the installation, and a path alone: an editable tpbench there comes later, or not at all.
    (purelib,) = fresh.glob("lib/python*/site-packages")
    (purelib / "beside.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return fresh


def test_the_sdist_is_what_git_tracks(built: Path) -> None:
    with tarfile.open(built / f"tpbench-{__version__}.tar.gz") as archive:
        packed = {member.name.partition("/")[2]: member.size for member in archive if member.isfile()}
    asked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip("no git checkout")
    tracked = set(asked.stdout.strip("\0").split("\0"))
    there = {name for name in tracked if (ROOT / name).exists()}
    assert there - set(packed) == set()
    # The folder where a user's own runs go.
    assert {name for name in packed if name.startswith("results/")} <= tracked
    # Committed results grow with every cell; a data set or a checkpoint would be larger.
    assert sum(packed.values()) < 15e6


def test_the_wheel_holds_what_the_package_reads(built: Path) -> None:
    with zipfile.ZipFile(built / f"tpbench-{__version__}-py3-none-any.whl") as archive:
        names = set(archive.namelist())
    files = (path for path in (ROOT / "tpbench").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {str(path.relative_to(ROOT)) for path in files} <= names
    assert {f"tpbench/search_spaces/{path.name}" for path in (ROOT / "search_spaces").iterdir()} <= names
    info = f"tpbench-{__version__}.dist-info"
    assert {"tpbench/py.typed", f"{info}/licenses/LICENSE"} <= names
    assert {name.partition("/")[0] for name in names} == {"tpbench", info}


def test_it_works_installed_elsewhere(environment: Path, tmp_path: Path) -> None:
    python, tpbench = environment / "bin" / "python", environment / "bin" / "tpbench"
    at = called(python, "-c", "import tpbench; print(tpbench.__file__)", folder=tmp_path).stdout
    assert Path(at.strip()).is_relative_to(environment)
    assert called(tpbench, "--version", folder=tmp_path).stdout == f"tpbench {__version__}\n"
    assert "dfa" in called(tpbench, "methods", folder=tmp_path).stdout
    configuration = called(tpbench, "show", "config", "mnist", "bp", folder=tmp_path).stdout
    (tmp_path / "bp.yaml").write_text(configuration)

    # The others in one process, which imports torch once.
    commands = [
        "show space dfa",
        "run digits bp --config bp.yaml --epochs 1 --seeds 0",
        "table s6",
        "leaderboard",
        "report",
        "results check",
    ]
    lines = "".join(json.dumps(command.split()) + "\n" for command in commands)
    host = (tmp_path / "host.py").absolute()
    host.write_text((ROOT / "tests" / "command_host.py").read_text())
    answers = called(python, host, folder=tmp_path, text=lines).stdout.splitlines()
    printed = {}
    for command, answer in zip(commands, answers, strict=True):
        code, output, errors = json.loads(answer)
        assert code == 0, f"{command}: {output}{errors}"
        printed[command] = output
    assert "log_uniform" in printed["show space dfa"]
    assert "MNIST" in printed["table s6"]
    assert "BP" in printed["leaderboard"]
    assert re.search("1 runs? whole", printed["results check"])
    assert "tpbench" in (tmp_path / "report.html").read_text()
    (run,) = (tmp_path / "results" / "runs").glob("*.json")
    assert __version__ in run.read_text()
