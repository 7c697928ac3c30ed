"""What a log says while something trains."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tpbench.training import progress


def test_the_time_left_does_not_count_what_a_checkpoint_brought_along(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 20.0, 80.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    written = io.StringIO()
    view = progress.PlainView(Console(file=written))
    view.start("epochs", 100)
    view.update("epochs", 40, 100, 0.021)
    view.update("epochs", 50, 100, None)
    # 10 epochs took 60 s, so the 50 others take 300 s.
    assert written.getvalue().splitlines() == [
        "epochs: 0/100",
        "epochs: 40/100, best validation error 2.10 %",
        "epochs: 50/100, about 5 min left",
    ]
