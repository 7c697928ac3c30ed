"""What is committed shows the committed runs, and nothing older."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.committed import documents


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_committed_tables_are_those_of_the_committed_archives(path: Path) -> None:
    """``python -m tests.committed`` writes them anew."""
    assert path.read_text(encoding="utf-8") == documents()[path]
