"""Messages of the command line in the words of Python."""

from __future__ import annotations

import pytest

from tpbench.api.words import in_python


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("--results 'x': there is no such folder", "results 'x': there is no such folder"),
        (
            "is running already: see 'tpbench sweeps'; --fresh starts another",
            "is running already: see 'tpbench sweeps'; fresh=True starts another",
        ),
        ("torch sees no GPU here; use --device cpu", "torch sees no GPU here; use device='cpu'"),
        (
            "'tpbench sweep a b --trials 3' and take --config best, or give --config FILE",
            "'tpbench sweep a b --trials 3' and take configuration='best', or give configuration FILE",
        ),
        (
            "--seeds says how many final runs there are, --final-seeds which",
            "seeds says how many final runs there are, final_seeds which",
        ),
        ("my--results, a --b", "my--results, a b"),
    ],
)
def test_options_are_arguments_and_commands_stay(said: str, told: str) -> None:
    assert in_python(said) == told
    assert in_python(told) == told
