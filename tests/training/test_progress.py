"""The display of progress on terminals, in notebooks and in logs."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from tpbench.training import progress


def test_the_time_left_does_not_count_what_a_checkpoint_brought_along(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 20.0, 80.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
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


class Shown:
    """An output of a notebook's cell."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def display(self, data: dict[str, str], **_: object) -> Shown:
        self.texts.append(data["text/plain"])
        return self

    update = display


def test_a_notebook_shows_one_output_that_is_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, clock = Shown(), iter([0.0, 0.0, 0.1, 0.2, 0.9, 0.9, 1.0, 1.0])
    monkeypatch.setattr("IPython.display.display", shown.display)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock, 2.0)))
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    with progress.Display() as view:
        view.say("2 runs are there")
        for done in range(1, 11):
            view.update("epochs", done, 10, 0.02)
        view.end("epochs")
    assert len(shown.texts) < 10  # not at every step
    assert shown.texts[0] == "2 runs are there"
    assert shown.texts[-1] == f"2 runs are there\nepochs {'█' * 20} 10/10, best validation error 2.00 %"
    assert any("░" in text for text in shown.texts)


def test_silence_but_for_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Display(progress=False) as view:
        view.start("epochs", 3)
        view.update("epochs", 3, 3, None)
        view.end("epochs")
        view.say("starting Ray")
        with pytest.warns(UserWarning, match="^digits bp: its targets are odd$") as caught:
            view.say("digits bp: warning: its targets are odd")
        assert caught[0].filename == __file__  # the line that called, and none of tpbench's
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_view_at_a_time_has_the_terminal() -> None:
    first, second, third = (progress.Display(Terminal()) for _ in range(3))
    with first as live, second as lines:
        assert isinstance(live, progress.LiveView)
        assert isinstance(lines, progress.PlainView)
    with third as live:
        assert isinstance(live, progress.LiveView)


@pytest.mark.parametrize("where", ["start", "stop"])
def test_a_view_that_fails_gives_the_terminal_back(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, where, fail)
        with pytest.raises(ZeroDivisionError), progress.Display(Terminal()):
            pass
    with progress.Display(Terminal()) as live:
        assert isinstance(live, progress.LiveView)
