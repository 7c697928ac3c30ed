"""What is committed shows the committed runs, and nothing older."""

from __future__ import annotations

from tests.committed import RESULTS, documents
from tpbench.engine import METHODS
from tpbench.results import RunStore
from tpbench.results.cells import choose_cells
from tpbench.search.listing import list_sweeps
from tpbench.workloads import WORKLOADS


def test_committed_tables_are_those_of_the_archives_and_models() -> None:
    """``python -m tests.committed`` writes them anew."""
    for path, text in documents().items():
        assert path.read_text(encoding="utf-8") == text, path.name


def test_the_campaign_on_the_digits_compares_all_methods_with_equal_budgets() -> None:
    for workload in ("digits", "digits-conv"):
        cells = [cell for cell in choose_cells(RunStore(RESULTS).summaries()).values() if cell.workload == workload]
        trained = {name for name in METHODS if not WORKLOADS[workload].refusal(name)}
        # With convolutions every configuration of drtp was stopped early.
        assert {cell.method for cell in cells} == trained - ({"drtp"} if workload == "digits-conv" else set())
        assert {(cell.tuning, cell.seeds, tuple(cell.marks)) for cell in cells} == {("27 x 20 halved", 10, ())}


def test_no_committed_sweep_is_unfinished() -> None:
    states = {sweep.id: sweep.state for sweep in list_sweeps(RunStore(RESULTS))}
    unfinished = {name: state for name, state in states.items() if state != "done"}
    assert unfinished == {"digits-tp-4166f8f4": "failed", "digits-conv-drtp-3889ccde": "failed"}
