"""The committed tables and configurations, made from the committed archives and the models of options. Not a test.

``python -m tests.committed`` writes them anew.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.documents import ROOT
from tpbench.engine import METHODS
from tpbench.options import MODELS, options_table
from tpbench.reports.alignment_tables import angle_table, damping_table
from tpbench.results import RunStore, leaderboard, paper_table, render, render_rankings
from tpbench.results.cells import choose_cells
from tpbench.results.field_table import render_field
from tpbench.results.ranking import board_csv, rank_all
from tpbench.results.runs import from_search
from tpbench.search.spaces import format_number, supplied_file

RESULTS = ROOT / "results"
_OPTIONS = """# Options of commands that train

The tables are made from the models in [tpbench/options.py](../tpbench/options.py), as the command line and the Python
calls are (`python -m tests.committed` writes this page). The second column is the keyword of `tpbench.run` or
`tpbench.sweep` and the name in a run's `provenance.options`; `reproduce` and `align` have no Python call.

**Seeds.** `--seeds` is a list everywhere: `0-9`, `3,5` or `0,2,5-7`. `--n-seeds 10` is a number of seeds, from 0 on.
Give one of the two. `sweep`, `reproduce` and `tpbench.sweep` refuse a single number as `--seeds`, because in version
0.2.0 it was a number of seeds there; the seed 10 alone is `--seeds 10-10`. `run` and `align` take a single seed, such
as `--seeds 3`.

**What a run records.** A run's file holds the options that differ from the defaults as data, in `provenance.options`,
and the command line that follows from them. Places of one machine (`--results`, `--data`, `--address`) and trackers
are left out, and files are recorded by their names. A sweep's folder holds its options in `options.json`.
"""


def documents() -> dict[Path, str]:
    """What should stand in each file."""
    store = RunStore(RESULTS)
    return {
        RESULTS / "table_1.md": render(paper_table(store, "1"), "md"),
        RESULTS / "table_s6.md": render(paper_table(store, "s6"), "md"),
        RESULTS / "table_s7.md": damping_table(store, "md"),
        RESULTS / "angles.md": angle_table(store, "md"),
        RESULTS / "leaderboard.md": render_rankings(rank_all(choose_cells(store.summaries())), "md"),
        RESULTS / "field.md": render_field(store, "md"),
        RESULTS / "leaderboard.csv": board_csv(leaderboard(store)),
        ROOT / "docs" / "options.md": _options(),
        supplied_file(): _supplied(store),
    }


def _options() -> str:
    """The page of the options."""
    tables = [f"## tpbench {name}\n\n{options_table(model)}" for name, model in MODELS.items()]
    return "\n".join([_OPTIONS, *tables])


_SUPPLIED = """\
# Configurations on the digits that come with tpbench, for 'tpbench run digits METHOD'. They are not the authors'.
# Every one was found by a search of the same size, by one command for the paper's methods and relatives, and another
# for the rules of other papers:
#   {command}
#   {field}
# results/digits.zip and results/digits_field.zip hold the two campaigns; 'python -m tests.committed' writes this file.
# tp learns next to nothing: its search has no winner, so its trial with the lowest validation error stands here.
# `found` is what the file of a run records about the search. lr_eta is lr * eta_hat, as in published.yaml.
digits:
"""


def _supplied(store: RunStore) -> str:
    """The file of the configurations on the digits: those of the campaign's final runs."""
    runs = [run for run in store.summaries() if run.definition.workload == "digits" and run.definition.seed == 0]
    finals = {run.definition.method: run for run in runs if from_search(run.search_info, "final")}
    commands = {name: finals[method].provenance["command"] for name, method in (("command", "bp"), ("field", "kp"))}
    lines = [_SUPPLIED.format(**commands)]
    for method in METHODS:
        found = yaml.safe_dump(dict(finals[method].search_info), default_flow_style=True, sort_keys=False, width=10_000)
        values = finals[method].definition.configuration
        lines += [f"  {method}:\n    found: {found}"]
        lines += [f"    {name}: {format_number(values[name])}\n" for name in METHODS[method].names]
    return "".join(lines)


def main() -> None:
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
