"""The committed tables and configurations, made from the committed archives and the models of options. Not a test.

``python -m tests.committed`` writes them anew, and ``python -m tests.committed --figures`` draws the figures of the
pages, apart from what is measured (``docs/scaling.png``).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from tests.documents import ROOT
from tpbench.engine import METHODS
from tpbench.options import MODELS, options_table
from tpbench.reports.alignment_tables import angle_table, damping_table
from tpbench.results import RunRecord, RunStore, leaderboard, paper_table, render, render_rankings
from tpbench.results.cells import choose_cells
from tpbench.results.field_table import render_field
from tpbench.results.ranking import board_csv, rank_all
from tpbench.results.runs import from_search
from tpbench.search.spaces import format_number, supplied_file

RESULTS = ROOT / "results"
FIGURES: dict[str, tuple[str, ...]] = {
    **{f"figure_{name}": ("figure", name) for name in ("2", "4", "s2", "s3", "s4", "s5", "s6")},
    **{
        f"forest_{name}": ("plot", "forest", name, "--tuning", "published")
        for name in ("mnist", "mnist-frozen", "fashion-mnist")
    },
    "forest_fashion-mnist_tuned": ("plot", "forest", "fashion-mnist", "--tuning", "54 x 27 halved"),
    "tuning_digits": ("plot", "tuning", "digits"),
    "tuning_fashion-mnist": ("plot", "tuning", "fashion-mnist"),
    "search_mnist_ddtp_linear_halving": ("plot", "search", "mnist-ddtp-linear-ce3e265d"),
}
"""The commands that draw the figures of ``docs``, by the names of their files."""
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
# Every one was found by a search of the same size, by one command for the paper's methods and relatives, another for
# the rules of other papers, and a third for the convolutional network:
#   {command}
#   {field}
#   {convolutional}
# results/digits.zip, digits_field.zip and digits_conv.zip hold the three campaigns; 'python -m tests.committed' writes
# this file.
# tp learns next to nothing: its search has no winner, so its trial with the lowest validation error stands here. With
# convolutions every configuration of drtp was stopped early, so that none stands here.
# `found` is what the file of a run records about the search. lr_eta is lr * eta_hat, as in published.yaml.
"""


def _supplied(store: RunStore) -> str:
    """The file of the configurations on the digits: those of the campaigns' final runs."""
    runs = [run for run in store.summaries() if run.definition.seed == 0 and from_search(run.search_info, "final")]
    finals = {(run.definition.workload, run.definition.method): run for run in runs}
    first = {"command": ("digits", "bp"), "field": ("digits", "kp"), "convolutional": ("digits-conv", "bp")}
    lines = [_SUPPLIED.format(**{name: finals[cell].provenance["command"] for name, cell in first.items()})]
    for workload in ("digits", "digits-conv"):
        lines.append(f"{workload}:\n")
        for method in METHODS:
            if (workload, method) in finals:
                lines += _supplied_entry(method, finals[workload, method])
    return "".join(lines)


def _supplied_entry(method: str, run: RunRecord) -> list[str]:
    """The lines of the configuration of a final run."""
    found = yaml.safe_dump(dict(run.search_info), default_flow_style=True, sort_keys=False, width=10_000)
    values = run.definition.configuration
    settings = [f"    {name}: {format_number(values[name])}\n" for name in METHODS[method].names]
    return [f"  {method}:\n    found: {found}", *settings]


def draw_figures() -> None:
    """Draw every figure of the pages with today's code from the committed archives."""
    for name, command in FIGURES.items():
        line = ["tpbench", *command, "--results", str(RESULTS), "--output", str(ROOT / "docs" / f"{name}.png")]
        subprocess.run(line, check=True)


def main() -> None:
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
    if "--figures" in sys.argv[1:]:
        draw_figures()


if __name__ == "__main__":
    main()
