"""Results: the run store, statistics over seeds, tables and leaderboards. Tables are computed from the store alone."""

from tpbench.results.cells import Cell, choose_cells
from tpbench.results.leaderboards import leaderboard, render_leaderboard, write_leaderboard
from tpbench.results.rendering import render
from tpbench.results.runs import RunDefinition, RunRecord, provenance
from tpbench.results.store import RunStore, write_atomically
from tpbench.results.tables import paper_table

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
    "render_leaderboard",
    "write_atomically",
    "write_leaderboard",
]
