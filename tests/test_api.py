"""Every public name is documented where people look for it."""

from __future__ import annotations

import inspect
import re

import pytest

import tpbench
from tests.documents import DOCUMENTS

FUNCTIONS = [name for name in tpbench.__all__ if inspect.isfunction(getattr(tpbench, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_says_what_it_takes_and_gives(name: str) -> None:
    function = getattr(tpbench, name)
    documented = inspect.getdoc(function) or ""
    assert all(f"\n{part}:\n" in documented for part in ("Args", "Returns", "Raises"))
    taken = documented.partition("Args:")[2].partition("Returns:")[0]
    # ``workload, method: only these``
    said = {word for line in re.findall(r"^    ([\w, ]+):", taken, re.MULTILINE) for word in line.split(", ")}
    assert said == set(inspect.signature(function).parameters)
    assert f"tpbench.{name}(" in (DOCUMENTS / "python.md").read_text()
