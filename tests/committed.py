"""The committed tables, made from the committed archives. Not a test.

``python -m tests.committed`` writes them anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.documents import ROOT
from tpbench.reports.alignment_tables import angle_table, damping_table
from tpbench.results import RunStore, leaderboard, paper_table, render, render_leaderboard

RESULTS = ROOT / "results"
_README_TABLE = re.compile(r"^\| method \| MNIST .*?\n\n", re.MULTILINE | re.DOTALL)


def documents() -> dict[Path, str]:
    """What should stand in each file."""
    store = RunStore(RESULTS)
    table_1 = render(paper_table(store, "1"), "md")
    found = _README_TABLE.search(table_1)
    assert found, "Table 1 has no rows"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert _README_TABLE.search(readme), "README.md has no Table 1"
    return {
        RESULTS / "table_1.md": table_1,
        RESULTS / "table_s6.md": render(paper_table(store, "s6"), "md"),
        RESULTS / "table_s7.md": damping_table(store, "md"),
        RESULTS / "angles.md": angle_table(store, "md"),
        RESULTS / "leaderboard.csv": render_leaderboard(leaderboard(store), "csv"),
        ROOT / "README.md": _README_TABLE.sub(found.group().replace("\\", "\\\\"), readme, count=1),
    }


def main() -> None:
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
