"""``tpbench verify``: what it needs to run, and what it refuses; ``pytest -m`` where Ray is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import WITHOUT_RAY, Inside
from tests.documents import ROOT

ABSENT = ("ray", "hyperopt", "pandas", "scipy", "psutil", "torchvision", "sklearn", "pyarrow", "matplotlib", "upath")
_BLOCK = "import sys; sys.modules.update(dict.fromkeys({absent!r})); "


def run_without(absent: tuple[str, ...], code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code where these modules cannot be imported."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", _BLOCK.format(absent=absent) + code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={
            **os.environ,
            "HOME": str(folder),
            "PYTHONPATH": paths,
            "COLUMNS": "200",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
    )


def call(*arguments: str) -> str:
    """Return code that runs tpbench's command line."""
    return f"sys.argv[1:] = {arguments!r}; import runpy; runpy.run_module('tpbench.cli', run_name='__main__')"


def test_verify_device_runs_where_torch_is_and_little_else(tmp_path: Path) -> None:
    ended = run_without(ABSENT, call("verify", "device"), tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "steps/s" in ended.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["typer", "rich", "yaml", "pydantic", "torch", "numpy"])
def test_a_missing_library_is_named_in_a_line(tmp_path: Path, missing: str) -> None:
    ended = run_without((missing,), call("verify", "device"), tmp_path)
    assert ended.returncode == 1
    assert f"needs {'pyyaml' if missing == 'yaml' else missing}, which cannot be imported" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (("theory",), "pytest -m theory"),
        (("theory", "--json"), "pytest -m theory"),
        (("device", "--device", "cuda"), "pytest -m device"),
        (("device", "--fixtures", "nowhere"), "pytest -m device"),
        (("device", "--methods", "bp"), "pytest -m device"),
        (("device", "--only", "resume"), "pytest -m device"),
        (("device", "--json"), "pytest -m device"),
    ],
)
def test_commands_and_options_that_are_tests_now_are_refused(
    tpbench_inside: Inside, arguments: tuple[str, ...], instead: str
) -> None:
    ended = tpbench_inside("verify", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert instead in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_check_that_fails_ends_the_command_with_1(tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    from tpbench.engine import verify

    monkeypatch.setattr(verify, "_check_golden", lambda *arguments: 1 / 0)
    ended = tpbench_inside("verify", "device")
    assert ended.returncode == 1
    assert ended.stderr.startswith("golden file bp, float64: ZeroDivisionError")


def test_marked_tests_are_collected_without_ray(tmp_path: Path) -> None:
    """And where little more than pytest, torch, numpy, pyyaml and rich is installed."""
    absent = (*ABSENT, "hypothesis", "typer", "xdist")
    for marker in ("theory", "golden", "device"):
        options = ["-m", marker, "--collect-only", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
        options += ["-c", str(ROOT / "pyproject.toml"), str(ROOT / "tests")]
        ended = run_without(absent, f"import pytest; sys.exit(pytest.main({options!r}))", tmp_path)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        files = {line.partition("::")[0] for line in ended.stdout.splitlines() if "::" in line}
        assert {f"tests/{file}" for file in WITHOUT_RAY[marker]} == files
