"""Real sweeps: the command line, Ray Tune and HyperOpt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.conftest import heed_interrupts, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary folder with a name short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_a_sweep_searches_trains_and_fills_the_table(tmp_path: Path, temporary: Path) -> None:
    """With the installed command, for which modules of the current folder are not the workers'."""
    for name in ("torch", "sklearn"):
        (tmp_path / f"{name}.py").write_text("import sys\nsys.exit('usage: mine.py FILE')\n")
    (tmp_path / "tpbench").mkdir()
    (tmp_path / "tpbench" / "__init__.py").write_text("raise RuntimeError('another tpbench')\n")
    arguments = [
        "sweep",
        "digits",
        "ddtp-rhl",
        "--trials",
        "5",
        "--pack",
        "2",
        "--n-seeds",
        "3",
        "--epochs",
        "4",
        "--cpus",
        "1",
        "--keep-networks",
    ]
    result = subprocess.run(
        [Path(sys.executable).parent / "tpbench", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={
            **{name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"},
            "COLUMNS": "200",
            "TMPDIR": str(temporary),
            "TPBENCH_DATA": str(tmp_path / "data"),
            "TPBENCH_OFFLINE": "1",
        },
    )
    assert result.returncode == 0, result.stdout + result.stderr
    # Ray is gone with its folder.
    assert not list(temporary.glob("*tpb-*"))
    wait_for(
        lambda: not any(str(temporary) in " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))
    )
    assert "3 seeds" in result.stdout
    assert "starting Ray; its log: " in result.stdout
    for noise in ("Traceback", "WARNING", "Configuration for experiment", "ray.init"):
        assert noise not in result.stdout + result.stderr
    runs = [json.loads(p.read_text()) for p in (tmp_path / "results" / "runs").glob("*.json")]
    # Five of the search with seed 0, two more seeds of the best.
    assert sorted(r["definition"]["seed"] for r in runs) == [0] * 5 + [1, 2]
    best = min((r for r in runs if r["definition"]["seed"] == 0), key=lambda r: r["validation_error"])
    for run in runs:
        if run["definition"]["seed"]:
            assert run["definition"]["configuration"] == best["definition"]["configuration"]
        assert sorted(run["provenance"]["command"].split()) == sorted(("tpbench", *arguments))
        assert run["found"]["role"] == ("final" if run["definition"]["seed"] else "search")
        assert (run["found"]["trials"], run["found"]["epochs"], run["found"]["seeds"]) == (5, 4, [0, 1, 2])
    # Of the final runs, also of the one that the search had trained; not of the others of the search.
    final = [r["id"] for r in runs if r["definition"]["configuration"] == best["definition"]["configuration"]]
    assert sorted(p.stem for p in (tmp_path / "results" / "networks").iterdir()) == sorted(final)
    assert len(final) == 3
    row = pd.read_csv(tmp_path / "results" / "leaderboard.csv").iloc[0]
    assert (row.method, row.tuning, row.seeds, row.epochs) == ("ddtp-rhl", "5 x 4", "0-2", 4)


def test_an_interrupted_sweep_says_how_to_continue(tmp_path: Path) -> None:
    """That a sweep does continue, tests/test_resume.py shows, and what SIGTERM does."""
    arguments = [
        sys.executable,
        "-m",
        "tpbench",
        "sweep",
        "digits",
        "bp",
        "--trials",
        "6",
        "--pack",
        "1",
        "--n-seeds",
        "2",
        "--epochs",
        "20000",
        "--cpus",
        "1",
        "--checkpoint-every",
        "5",
    ]
    process = subprocess.Popen(
        arguments,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    try:
        wait_for(lambda: list(tmp_path.glob("results/checkpoints/*.pt")), process)  # it trains, and will for long
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=240)
    finally:
        process.terminate()
    assert process.returncode == 130
    assert sorted(stderr.split("tpbench ")[-1].split()) == sorted(arguments[3:])
    assert "Traceback" not in stderr
