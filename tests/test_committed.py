"""What is committed shows the committed runs, and nothing older."""

from __future__ import annotations

from tests.committed import documents


def test_committed_tables_are_those_of_the_archives_and_models() -> None:
    """``python -m tests.committed`` writes them anew."""
    for path, text in documents().items():
        assert path.read_text(encoding="utf-8") == text, path.name
