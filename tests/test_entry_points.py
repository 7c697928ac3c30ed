"""A method of another package: installed, it trains and ranks like the built-in ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Inside

EXAMPLE = Path(__file__).parents[1] / "docs" / "example-method"


@pytest.mark.slow
def test_the_documented_example_installs_trains_and_ranks(
    tmp_path: Path, tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(EXAMPLE)]
    installed = subprocess.run(pip, capture_output=True, text=True, timeout=200, check=False)
    assert installed.returncode == 0, installed.stderr
    monkeypatch.syspath_prepend(str(site))
    assert "Sign-DFA" in tpbench_inside("methods").stdout
    (tmp_path / "c.yaml").write_text("lr: 1.0e-3\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1.0e-8\n")
    run = tpbench_inside("run", "digits", "sign-dfa", "--config", "c.yaml", "--seeds", "0-2", "--epochs", "8")
    assert run.returncode == 0, run.stderr
    bodies = [json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").glob("*.json")]
    (source,) = {body["definition"]["method_source"] for body in bodies}
    assert re.fullmatch(r"tpbench-example-method 1\.0 [0-9a-f]{16}", source)
    board = tpbench_inside("leaderboard", "digits").stdout
    assert "Sign-DFA" in board
    assert "did you mean 'sign-dfa'" in tpbench_inside("run", "digits", "sign_dfa").stderr
    from tpbench.search.spaces import space_for

    assert space_for("sign-dfa", EXAMPLE / "space.yaml").describe()
    plotted = tpbench_inside("plot", "curves", "digits")
    assert plotted.returncode == 0, plotted.stderr
