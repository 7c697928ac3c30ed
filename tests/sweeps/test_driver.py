"""The sweep's driver where no Ray is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpbench.engine import TpbenchError
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.definition import SweepDefinition, SweepFolder
from tpbench.sweeps.driver import Sweep
from tpbench.sweeps.journal import Journal
from tpbench.sweeps.packs import Outcome, PackSettings
from tpbench.sweeps.progress import Display
from tpbench.sweeps.spaces import space_for


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (
            [Outcome("0" * 24, "pruned", 0.9, 0.9), Outcome("1" * 24, "diverged", 1.0, None)],
            "none of the 2 configurations",
        ),
        ([], "none of the 2 configurations learnt anything"),
    ],
)
def test_a_search_that_finds_nothing_says_so(tmp_path: Path, outcomes: list[Outcome], message: str) -> None:
    space, folder = space_for("bp", None), SweepFolder(tmp_path)
    definition = SweepDefinition("digits", "bp", "f", space.describe(), 2, 7, (0, 1), 0, 2, 3)
    journal = Journal.open(folder.journal_path)
    journal.suggested([{"lr": 1e-12, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}] * 2)
    journal.ended(0, outcomes)
    with Display() as view, pytest.raises(TpbenchError, match=message):
        Sweep(definition, space, folder, journal, PackSettings(str(tmp_path)), Resources(1), view)._final()
