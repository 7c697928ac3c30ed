"""Settings of tpbench's own processes: garbage collection, waiting threads. A program that imports it keeps its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import atexit, contextlib, gc, sys
gc.set_threshold(700, 10, 10)  # of Python 3.11; later versions have others
sys.argv = ["tpbench", "methods"]
with contextlib.suppress(SystemExit):
    {}
atexit._run_exitfuncs()
print(gc.get_threshold()[0], gc.get_freeze_count() > 0)
"""


@pytest.mark.parametrize(
    ("used", "said"),
    [("from tpbench.cli import main; main()", "100000 True"), ("import tpbench; tpbench.run", "700 False")],
)
def test_a_command_searches_rarely_and_a_library_as_before(used: str, said: str) -> None:
    ended = subprocess.run([sys.executable, "-c", CODE.format(used)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("variables", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")],
)
def test_threads_of_a_command_spin_briefly_unless_the_user_says_otherwise(
    variables: dict[str, str], spins: str
) -> None:
    code = """
import contextlib, os, sys
sys.argv = ["tpbench", "methods"]
from tpbench.cli import main
assert "torch" not in sys.modules  # it reads the variable when it is imported
with contextlib.suppress(SystemExit):
    main()
print(os.environ.get("GOMP_SPINCOUNT"))
"""
    unset = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**unset, **variables}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == spins
