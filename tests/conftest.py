"""What all tests share: the data folder beside the checkout, small problems and the command line."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests that run side by side would otherwise fight for the same cores with all their threads. Read by torch when it
    # is imported, and by the commands that tests start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tpbench.engine import Architecture, Problem
from tpbench.engine.plugins import forget_plugins

# The tests of WITHOUT_RAY need pytest, torch, numpy, pyyaml and rich: a borrowed GPU machine may have nothing else.
with suppress(ImportError):
    from hypothesis import settings

    # A busy machine is no failure, and a failure comes back when the suite runs again.
    settings.register_profile("tpbench", deadline=None, derandomize=True)
    settings.load_profile("tpbench")


def pytest_collection_finish() -> None:
    leave_out_of_collections()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        leave_out_of_collections()


def leave_out_of_collections() -> None:
    """Let no garbage collection look again at what is there, mostly imports: it took half a second in each pack."""
    gc.collect()
    gc.freeze()


WITHOUT_RAY = {
    "theory": ("engine/test_theory.py",),
    "golden": ("engine/test_golden.py",),
    "device": ("engine/test_device.py", "training/test_memory_limit.py"),
}
"""Files with the tests of these markers."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        type=Path,
        help="folder of golden files for '-m golden'; by default every ../shared/data/golden*",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no other file where the tests of WITHOUT_RAY are selected: others need Ray or HyperOpt."""
    markers = str(config.option.markexpr).split(" or ")
    if collection_path.suffix != ".py" or not set(markers) <= set(WITHOUT_RAY):
        return None
    files = {Path(__file__).parent / file for marker in markers for file in WITHOUT_RAY[marker]}
    return None if collection_path in files else True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How several workers share the tests: asked where pytest-xdist is and used."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from tests.scheduling import GroupScheduling

    return GroupScheduling(config, log)


SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests with the argument ``golden_path`` every golden file there is, or skip them with a reason."""
    if "golden_path" not in metafunc.fixturenames:
        return
    folder: Path | None = metafunc.config.getoption("--golden")
    folders = [folder] if folder else sorted(SHARED.glob("golden*"))
    paths: list[Any] = [path for each in folders for path in sorted(each.glob("*.npz"))]
    if not paths:
        reason = f"no .npz file in {folder or f'{SHARED}/golden*'}"
        paths = [pytest.param(Path(), marks=pytest.mark.skip(reason=reason), id="absent")]
    metafunc.parametrize("golden_path", paths, ids=lambda path: f"{path.parent.name}/{path.stem}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data sets and golden files; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent")
    return SHARED


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Summaries of the tests' stores do not pile up in the user's cache."""
    monkeypatch.setenv("TPBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def small_problem() -> Problem:
    """A classification problem that a few epochs can learn: 300 + 60 points in 6 dimensions, 3 classes."""
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(3, 6, generator=generator) * 2
    y = torch.arange(360) % 3
    x = centres[y] + 0.5 * torch.randn(360, 6, generator=generator)
    return Problem(
        Architecture((6, 8, 7, 3), random_hidden=12),
        x[:300],
        y[:300],
        x[300:],
        y[300:],
        validation_size=60,
        batch_size=32,
    )


CONFIGURATION = {
    "lr": 1e-2,
    "lr_eta": 3e-4,
    "eta": 0.05,
    "beta1": 0.9,
    "beta2": 0.99,
    "epsilon": 1e-8,
    "lr_fb": 1e-3,
    "beta1_fb": 0.9,
    "beta2_fb": 0.999,
    "epsilon_fb": 1e-8,
    "sigma": 0.05,
    "wd_fb": 1e-5,
    "damping": 0.1,
}


def heed_interrupts() -> None:
    """Let a process that a test starts end at SIGINT; for the argument ``preexec_fn`` of ``subprocess.Popen``.

    A shell lets what it starts in the background ignore SIGINT (``nohup make test &``), and so do its children: Python
    raises no KeyboardInterrupt where the signal is ignored from the start.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(
    condition: Callable[[], object],
    process: subprocess.Popen[Any] | None = None,
    *,
    tell: Callable[[], str] = str,
) -> None:
    """Look until a condition holds; that a process ends before is a failure.

    Args:
        tell: gives the message of a failure.
    """
    until = time.monotonic() + 240
    while not condition():
        assert process is None or process.poll() is None, tell() or f"ended too early: {process.args!r}"
        assert time.monotonic() < until, tell()
        time.sleep(0.05)


@dataclass
class Ended:
    """How a command ended, named as in ``subprocess.CompletedProcess``."""

    returncode: int
    stdout: str
    stderr: str


Inside = Callable[..., Ended]


@cache
def _cached_commands() -> Callable[..., Any]:
    """Return typer's ``get_command`` with a memory: its work takes three times as long as finding a usage error."""
    from typer.main import get_command

    return cache(get_command)


@pytest.fixture
def fresh_methods() -> Iterator[None]:
    """Packages that a test adds are found, and forgotten after it."""
    forget_plugins()
    yield
    forget_plugins()


@pytest.fixture
def tpbench_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fresh_methods: None
) -> Inside:
    """The command line's entry point in this process, which saves the two seconds that torch takes to import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TPBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TPBENCH_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("typer.main.get_command", _cached_commands())

    def call(*arguments: str) -> Ended:
        from tpbench.cli import main

        monkeypatch.setattr("sys.argv", ["tpbench", *arguments])
        # A process of its own would look for itself.
        forget_plugins()
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return Ended(code if isinstance(code, int) else 1, captured.out, captured.err)

    return call


CommandLine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tpbench(tmp_path: Path) -> CommandLine:
    """The real command line in a folder of its own."""

    def call(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tpbench", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "COLUMNS": "200", "TPBENCH_OFFLINE": "1", "TPBENCH_DATA": str(tmp_path / "data")},
        )

    return call
