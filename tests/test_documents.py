"""The worked examples of the documentation do what they say: files and commands are taken from the pages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Ended, Inside
from tests.documents import commands_of, files_of
from tests.sweeps.playing import no_ray, run_here
from tpbench.search.spaces import space_for

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs are trained in this process."""
    monkeypatch.setattr("tpbench.sweeps.driver.run_queue", run_here)
    monkeypatch.setattr("tpbench.sweeps.session.ray_running", no_ray)


def partition(words: list[str], mark: str) -> tuple[list[str], list[str], list[str]]:
    """What stands before a word, the word, and what stands after it."""
    at = words.index(mark) if mark in words else len(words)
    return words[:at], words[at : at + 1], words[at + 1 :]


def follow(page: str, folder: Path, tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Do what a page says; returns what each command of tpbench printed (its last time)."""
    files_of(page, folder)
    printed = {}
    for program, *arguments in commands_of(page):
        if program == "tpbench":
            arguments, _, file = partition(arguments, ">")
            ended = tpbench_inside(*arguments)
            assert ended.returncode == 0, f"{arguments}: {ended.stderr}"
            if file:
                (folder / file[0]).write_text(ended.stdout)
            printed[" ".join(arguments)] = ended.stdout
        elif program == "python":
            subprocess.run([sys.executable, *arguments], cwd=folder, check=True, timeout=200)
        else:
            assert (program, arguments[0]) == ("pip", "install")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site")]
            subprocess.run([*pip, *arguments[1:]], cwd=folder, check=True, timeout=200)
            monkeypatch.syspath_prepend(str(folder / "site"))
    return printed


def runs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (folder / "results" / "runs").glob("*.json")]


def test_the_tour(tmp_path: Path, tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference is shown: two epochs are enough to see that."""
    compared = []

    def with_fewer_epochs(*arguments: str) -> Ended:
        ended = tpbench_inside(*("2" if word == "10" else word for word in arguments))
        if arguments[0] == "compare":
            compared.append(ended.stdout)
        return ended

    follow("tour.md", tmp_path, with_fewer_epochs, monkeypatch)
    assert [re.findall("bp is better|against BP", text) for text in compared] == [["against BP", "bp is better"]]
    assert len(runs(tmp_path)) == 20


def test_your_own_data(tmp_path: Path, tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = follow("your-own-data.md", tmp_path, tpbench_inside, monkeypatch)
    assert "13-32-32-3" in printed["workloads wine.yaml"]
    board = printed["leaderboard"]
    assert re.search(r"wine \(file [0-9a-f]{8}\)", board)
    for name in ("digits-1", "digits-2", "digits-4"):
        assert re.search(rf"{name} \(file [0-9a-f]{{8}}\)", board)
    assert "digits-1" not in printed["leaderboard wine.yaml"]
    assert tpbench_inside("leaderboard", "wine").stdout == printed["leaderboard wine.yaml"]
    wines = [run for run in runs(tmp_path) if run["definition"]["workload"] == "wine"]
    assert {run["workload"]["hidden"] == [32, 32] for run in wines} == {True}
    assert str(tmp_path) not in json.dumps(wines)


def test_adding_a_method(tmp_path: Path, tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a campaign of a workload from a file and two rules, of which one is the package's.

    The example is Kolen-Pollack learning: its updates come to be the gradient (finding B-2 of the review).
    """
    printed = follow("adding-a-method.md", tmp_path, tpbench_inside, monkeypatch)
    assert "tpbench-kolen-pollack 1.0" in printed["methods"]
    assert "FAILED" not in printed["verify method my-kp"]
    assert "My KP" in printed["leaderboard digits"]
    (record,) = (tmp_path / "results" / "alignment").glob("digits-my-kp-*.json")
    angles = json.loads(record.read_text())["loss_angles"]
    late = np.array(angles[len(angles) // 10 :])
    assert 0.5 < late.mean() < 4
    assert np.array(angles[0]).min() > 80
    sources = {run["definition"].get("method_source", "") for run in runs(tmp_path)}
    (source,) = sources
    assert re.fullmatch(r"tpbench-kolen-pollack 1\.0 [0-9a-f]{16}", source)
    assert {"my_decay"} <= set(runs(tmp_path)[0]["definition"]["configuration"])
    exported = tpbench_inside("results", "export", "runs.csv")
    assert exported.returncode == 0
    assert "hp_my_decay" in (tmp_path / "runs.csv").read_text()

    (tmp_path / "small.yaml").write_text("name: small\nlike: digits\nnetwork: [16]\n")
    swept = tpbench_inside(
        "sweep",
        "small.yaml",
        "my-kp,fa",
        "--space",
        "kolen-pollack/space.yaml",
        "--trials",
        "2",
        "--pack",
        "2",
        "--epochs",
        "2",
        "--n-seeds",
        "2",
        "--cpus",
        "2",
    )
    assert swept.returncode == 0, swept.stderr
    spaces = {
        path.parent.name.rsplit("-", 1)[0]: json.loads(path.read_text())["space"]
        for path in (tmp_path / "results" / "sweeps").glob("small-*/sweep.json")
    }
    assert "my_decay" in spaces["small-my-kp"]
    assert spaces["small-fa"] == space_for("fa").describe()
    board = tpbench_inside("leaderboard", "small.yaml").stdout
    assert "My KP" in board
    assert re.search(r"[│|] FA ", board)
