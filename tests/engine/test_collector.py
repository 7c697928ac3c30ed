"""Processes of tpbench's own search for garbage rarely; whoever imports it keeps Python's settings."""

from __future__ import annotations

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
