"""The notebook of the documentation runs, and shows what is committed with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests import tour

SIZE = 100_000
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def tables(notebook: Any) -> Iterator[list[list[str]]]:
    """The tables that a notebook's cells return, as the words of their lines."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "execute_result":
                yield [line.split() for line in output.data["text/plain"].splitlines()]


def kinds(notebook: Any) -> list[list[tuple[str, list[str]]]]:
    """What each cell shows."""
    return [
        [(output.output_type, sorted(output.get("data", ()))) for output in cell.get("outputs", ())]
        for cell in notebook.cells
    ]


def test_what_is_committed_is_small_and_of_no_machine() -> None:
    text, notebook = tour.TOUR.read_text(encoding="utf-8"), tour.read()
    assert len(text) < SIZE
    assert "\\u001b" not in text
    outputs = str([cell.get("outputs") for cell in notebook.cells])
    assert not re.search(r"/(home|root|tmp|work|Users)\b", outputs)
    assert "error" not in [output.output_type for cell in notebook.cells for output in cell.get("outputs", ())]
    assert all(cell.outputs or "import" in cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert all("execution" not in cell.metadata for cell in notebook.cells)


@pytest.mark.slow
def test_it_runs_and_shows_what_is_committed(tmp_path: Path) -> None:
    """Other processors may round otherwise, so that a sample or two are classified differently."""
    committed = tour.read()
    now = tour.executed(tour.read(), tmp_path)
    assert kinds(now) == kinds(committed)
    for found, expected in zip(tables(now), tables(committed), strict=True):
        assert [len(line) for line in found] == [len(line) for line in expected]
        for word, wanted in zip(chain(*found), chain(*expected), strict=True):
            if _NUMBER.fullmatch(wanted):
                assert float(word) == pytest.approx(float(wanted), abs=1.5, rel=0.2)
            else:
                assert word == wanted
