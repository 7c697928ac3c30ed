"""The examples of the documentation do what they say: files, commands and their output are taken from the pages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Inside
from tests.documents import DOCUMENTS, PAGES, ROOT, examples, missing_line, page_name, write_files
from tests.sweeps.playing import no_ray, run_here
from tpbench.search.spaces import space_for

EXAMPLES = [page for page in PAGES if examples(page)]


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs are trained in this process."""
    monkeypatch.setattr("tpbench.sweeps.driver.run_queue", run_here)
    monkeypatch.setattr("tpbench.sweeps.session.ray_running", no_ray)


def partition(words: list[str], mark: str) -> tuple[list[str], list[str], list[str]]:
    """Return what stands before a word, the word, and what stands after it."""
    at = words.index(mark) if mark in words else len(words)
    return words[:at], words[at : at + 1], words[at + 1 :]


def recipe(target: str) -> list[list[str]]:
    """Return the commands of tpbench that ``make TARGET`` runs after the installation."""
    ended = subprocess.run(
        ["make", "--silent", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [line.split()[1:] for line in ended.stdout.splitlines() if line.split()[0].endswith("/tpbench")]


def run_example(words: list[str], folder: Path, tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a command of a page; returns what it printed, errors' stream first."""
    program, *arguments = words
    if program == "make":
        return "".join(
            run_example(["tpbench", *line], folder, tpbench_inside, monkeypatch) for line in recipe(*arguments)
        )
    if program == "tpbench":
        arguments, _, file = partition(arguments, ">")
        ended = tpbench_inside(*arguments)
        assert ended.returncode == 0, f"{arguments}: {ended.stderr}"
        if file:
            (folder / file[0]).write_text(ended.stdout)
        return ended.stderr + ended.stdout
    if program == "python":
        command = [sys.executable, *arguments]
    else:
        assert (program, arguments[0]) == ("pip", "install")
        site = str(folder / "site")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, *arguments[1:]]
        monkeypatch.syspath_prepend(site)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, check=True, timeout=200, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", EXAMPLES, ids=page_name)
def test_the_examples_of_a_page_print_what_it_shows(
    page: Path, tmp_path: Path, tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As wide as the blocks of the pages are.
    monkeypatch.setenv("COLUMNS", "100")
    write_files(page, tmp_path)
    for example in examples(page):
        printed = run_example(example.words, tmp_path, tpbench_inside, monkeypatch)
        wanted = missing_line(example.output, printed)
        assert not wanted, f"{page_name(page)}: {' '.join(example.words)} does not print:\n{wanted}\nbut:\n{printed}"
    if page.name == "adding-a-method.md":
        check_the_plugin(tmp_path, tpbench_inside)


def check_the_plugin(folder: Path, tpbench_inside: Inside) -> None:
    """Check what the example's runs record, and a campaign of a workload from a file and two rules, one a package's.

    The example is Kolen-Pollack learning: its updates come to be the gradient (finding B-2 of the review).
    """
    (record,) = (folder / "results" / "alignment").glob("digits-my-kp-*.json")
    angles = np.array(json.loads(record.read_text())["loss_angles"])
    assert angles[0].min() > 80
    assert 0.5 < angles[len(angles) // 10 :].mean() < 4
    runs: list[dict[str, Any]] = [json.loads(path.read_text()) for path in (folder / "results/runs").glob("*.json")]
    plugged = [run for run in runs if run["definition"]["method"] == "my-kp"]
    (source,) = {run["definition"]["method_source"] for run in plugged}
    assert re.fullmatch(r"tpbench-kolen-pollack 1\.0 [0-9a-f]{16}", source)
    assert {"my_decay"} <= set(plugged[0]["definition"]["configuration"])
    (folder / "small.yaml").write_text("name: small\nlike: digits\nnetwork: [16]\n")
    options = "--space kolen-pollack/space.yaml --trials 2 --pack 2 --epochs 2 --n-seeds 2 --cpus 2"
    swept = tpbench_inside("sweep", "small.yaml", "my-kp,fa", *options.split())
    assert swept.returncode == 0, swept.stderr
    spaces = {
        path.parent.name.rsplit("-", 1)[0]: json.loads(path.read_text())["space"]
        for path in (folder / "results" / "sweeps").glob("small-*/sweep.json")
    }
    assert "my_decay" in spaces["small-my-kp"]
    assert spaces["small-fa"] == space_for("fa").describe()


def test_lines_of_an_example_are_found_by_their_words_and_numbers() -> None:
    printed = "bp: 3.14 ± 0.37 %\nsweep digits-bp-63da47f4: done\n╭───╮"
    for shown in (["bp: 3.20 ± 0.40 %"], ["bp: 3.14 ± 0.37 %", "...", "sweep digits-bp-12345678: done"], ["╭──────╮"]):
        assert not missing_line(shown, printed)
    late = ["sweep digits-bp-63da47f4: done", "bp: 3.14 ± 0.37 %"]
    for shown in (["dfa: 3.14 ± 0.37 %"], ["bp: 8.14 ± 0.37 %"], late):
        assert missing_line(shown, printed) == shown[-1]


@pytest.mark.parametrize(
    ("shown", "printed", "alike"),
    [
        ("DFA 0.10 ± 0.05", "DFA 0.44 ± 0.05", True),
        ("DFA 0.10 ± 0.05", "DFA 0.58 ± 0.05", False),
        ("DFA 26.98", "DFA 31.00", True),
        ("8 epochs", "10 epochs", True),
        ("seeds 3-9", "seeds 3-9", True),
        ("+0.20 [-0.42, +1.09]", "-0.10 [-0.60, +0.80]", True),
        ("+0.20 [+0.10, +0.30]", "-0.10 [-0.20, -0.02]", False),
        ("-0.10 (p 0.2)", "+0.10 (p 0.2)", False),
    ],
)
def test_numbers_of_a_line_are_near_and_have_the_same_sign(shown: str, printed: str, alike: bool) -> None:
    assert (not missing_line([shown], printed)) == alike


def test_the_pages_for_beginners_are_examples() -> None:
    pages = {"tour.md", "your-own-data.md", "your-own-network.md", "adding-a-method.md"}
    assert {ROOT / "README.md", *(DOCUMENTS / page for page in pages)} <= set(EXAMPLES)
