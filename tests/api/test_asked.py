"""Arguments of Python as the command line would have them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpbench.api.asked import (
    hyperparameters,
    is_offline,
    options_of,
    place,
    seeds_text,
    several_names,
    trackers,
    yes_or_no,
)
from tpbench.engine import UsageError
from tpbench.training.seeds import parse_seeds


@given(st.lists(st.integers(0, 50) | st.integers(0, 2**32 - 1), min_size=1))
def test_seeds_survive_being_written(seeds: list[int]) -> None:
    assert parse_seeds(seeds_text(seeds)) == tuple(dict.fromkeys(seeds))


def test_seeds_are_written_short() -> None:
    assert seeds_text(range(10)) == "0-9"
    assert seeds_text(iter([0, 1, 2, 7, 5])) == "0-2,7,5"
    assert seeds_text("1-3") == "1-3"
    assert parse_seeds(seeds_text(range(25_000))) == tuple(range(25_000))  # a range of the command line is shorter
    with pytest.raises(UsageError, match=r"give range\(10\)"):
        seeds_text(-1)
    with pytest.raises(UsageError):
        seeds_text(b"01")


def test_names_may_be_text_or_lists() -> None:
    assert several_names("bp, dfa", "methods") == "bp, dfa"
    assert several_names(("bp", "dfa"), "methods") == several_names({"bp": 1, "dfa": 2}, "methods") == "bp,dfa"


def test_what_is_meant_is_never_guessed() -> None:
    assert trackers(None) == trackers("") == trackers([]) == ()
    assert trackers("mlflow") == trackers(["mlflow"]) == ("mlflow",)
    with pytest.raises(UsageError, match="give 'tensorboard'"):
        trackers(5)  # type: ignore[arg-type]
    assert yes_or_no(np.True_, "fresh") is True
    with pytest.raises(UsageError, match="fresh 'no': give True or False"):
        yes_or_no("no", "fresh")
    assert hyperparameters({"lr": np.float32(0.5)}) == {"lr": 0.5}
    assert list(hyperparameters({"lr": np.ones(2)})["lr"]) == [1, 1]  # type: ignore[index] # told when it is checked
    with pytest.raises(UsageError, match="hyperparameters by name"):
        hyperparameters([1])
    with pytest.raises(UsageError, match="give a folder or a URL"):
        place(pd.DataFrame({"protocol": [1]}))


def test_a_command_line_says_what_is_not_usual() -> None:
    given = {"trials": 3, "pack": "auto", "fresh": True, "offline": False, "space": None, "final_seeds": "1-3"}
    assert options_of(given, {"trials": 100, "pack": "auto"}) == ["--trials", "3", "--fresh", "--final-seeds", "1-3"]


@pytest.mark.parametrize(("said", "meant"), [("1", True), ("True", True), ("0", False), ("", False)])
def test_the_environment_decides_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch, said: str, meant: bool) -> None:
    monkeypatch.setenv("TPBENCH_OFFLINE", said)
    assert is_offline(None) is meant
    assert (is_offline(True), is_offline(False)) == (True, False)
