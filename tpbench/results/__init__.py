"""Results: the run store, statistics over seeds, tables and leaderboards. Tables are computed from the store alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpbench.engine.startup import lazily

if TYPE_CHECKING:
    from tpbench.results.cells import Cell, choose_cells
    from tpbench.results.ranking import leaderboard, render_rankings, write_leaderboard
    from tpbench.results.runs import RunDefinition, RunRecord, provenance
    from tpbench.results.store import RunStore, write_atomically
    from tpbench.results.tables import paper_table, render

# Tables need pandas and scipy; what looks after runs does not.
__getattr__ = lazily(
    globals(),
    {
        "Cell": "tpbench.results.cells",
        "RunDefinition": "tpbench.results.runs",
        "RunRecord": "tpbench.results.runs",
        "RunStore": "tpbench.results.store",
        "choose_cells": "tpbench.results.cells",
        "leaderboard": "tpbench.results.ranking",
        "paper_table": "tpbench.results.tables",
        "provenance": "tpbench.results.runs",
        "render": "tpbench.results.tables",
        "render_rankings": "tpbench.results.ranking",
        "write_atomically": "tpbench.results.store",
        "write_leaderboard": "tpbench.results.ranking",
    },
)

__all__ = [
    "Cell",
    "RunDefinition",
    "RunRecord",
    "RunStore",
    "choose_cells",
    "leaderboard",
    "paper_table",
    "provenance",
    "render",
    "render_rankings",
    "write_atomically",
    "write_leaderboard",
]
