"""Faults of the store: disk full, read-only, and two sweeps at once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.results.records import counts

RUN = ("run", "digits", "bp", "--config", "bp.yaml", "--seeds", "0-9", "--epochs", "30", "--checkpoint-every", "100")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 44 KiB: room for some of ten runs."""
    folder = tmp_path / "results"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=44k", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path) -> None:
    (tmp_path / "bp.yaml").write_text("lr: 1.0e-3\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1.0e-8\n")


def test_a_full_disk_loses_no_published_run(small_disk: Path, tpbench_inside: Inside) -> None:
    result = tpbench_inside(*RUN)
    assert result.returncode == 1
    assert os.strerror(errno.ENOSPC) in result.stderr
    assert "Traceback" not in result.stderr
    written = {path.name: path.read_bytes() for path in (small_disk / "runs").iterdir()}
    assert all(name.endswith((".json", ".bits")) for name in written)  # nothing half-written
    kept = {name: content for name, content in written.items() if name.endswith(".json")}
    assert 0 < len(kept) < 10
    # A run is published after its predictions.
    assert {f"{name.removesuffix('.json')}.bits" for name in kept} <= set(written)
    assert counts(tpbench_inside("results", "check").stdout)[:2] == [len(kept), 0]

    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    again = tpbench_inside(*RUN)
    assert again.returncode == 0, again.stderr
    assert counts(again.stdout)[:2] == [len(kept), 10]
    now = {path.name: path.read_bytes() for path in (small_disk / "runs").iterdir()}
    assert sorted(Path(name).suffix for name in now) == [".bits"] * 10 + [".json"] * 10
    assert {name: now[name] for name in kept} == kept


def test_a_disk_without_room_for_a_checkpoint_ends_the_run_with_one_line(
    small_disk: Path, tpbench_inside: Inside
) -> None:
    result = tpbench_inside(*RUN[:-4], "--epochs", "1000", "--checkpoint-every", "1")
    assert result.returncode == 1
    assert os.strerror(errno.ENOSPC) in result.stderr
    assert "Traceback" not in result.stderr
    assert list((small_disk / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("command", [RUN, ("sweep", "digits", "bp", "--trials", "2")])
def test_a_read_only_store_is_found_before_the_work(
    small_disk: Path, tpbench_inside: Inside, command: tuple[str, ...]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    result = tpbench_inside(*command)
    assert result.returncode == 1
    assert f"({os.strerror(errno.EROFS)})" in result.stderr
    assert "epochs:" not in result.stdout
    assert "Traceback" not in result.stderr


WITHOUT_RAY = """
import sys
from tests.sweeps.playing import no_ray, run_here
from tpbench.cli import main
from tpbench.sweeps import driver, session
driver.run_queue, session.ray_running = run_here, no_ray
main()
"""


@pytest.mark.slow
def test_two_sweeps_on_one_store_at_once(tmp_path: Path) -> None:
    """Two processes; that two Rays can run side by side is no matter of the store."""
    options = ["--trials", "2", "--pack", "2", "--n-seeds", "2", "--epochs", "2", "--cpus", "1"]
    root = Path(__file__).parents[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WITHOUT_RAY, "sweep", "digits", method, *options],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(root), os.environ.get("PYTHONPATH", "")))},
        )
        for method in ("bp", "dfa")
    ]
    for process in processes:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    runs = [json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").glob("*.json")]
    assert sorted(run["definition"]["method"] for run in runs) == ["bp"] * 3 + ["dfa"] * 3
