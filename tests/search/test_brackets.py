"""Brackets: which members stop at which rung."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpbench.engine import MemberHistory
from tpbench.search.brackets import Bracket, bracket_sizes, rung_epochs


def history(*errors: float, status: str = "finished") -> MemberHistory:
    made = MemberHistory(status=status)  # type: ignore[arg-type]
    made.curves["validation_error"] = list(errors)
    return made


def test_rungs_are_a_ninth_and_a_third_rounded() -> None:
    assert rung_epochs(27, 3) == [3, 9]
    assert rung_epochs(100, 3) == [11, 33]
    assert rung_epochs(10, 3) == [1, 3]
    assert rung_epochs(2, 3) == [1]
    assert rung_epochs(1, 3) == []


def test_of_27_members_9_and_then_3_go_on() -> None:
    bracket = Bracket(27, 3, "validation_error")
    histories = [history(*[1 - k / 100] * 27) for k in range(27)]
    assert bracket.stopped(histories, 2) == {}
    first = bracket.stopped(histories, 3)
    assert first == dict.fromkeys(range(18), 3)
    assert bracket.stopped(histories, 27) == {**first, **dict.fromkeys(range(18, 24), 9)}


def test_ties_are_decided_by_the_order_of_suggestion() -> None:
    stopped = Bracket(9, 3, "validation_error").stopped([history(*[0.5] * 9) for _ in range(3)], 9)
    assert stopped == {1: 1, 2: 1}


def test_the_best_so_far_counts_not_the_last() -> None:
    early, late = history(0.9, 0.1, 0.8, *[0.8] * 6), history(0.5, 0.5, 0.4, *[0.4] * 6)
    assert Bracket(27, 3, "validation_error").stopped([late, early, late], 3) == {2: 3, 0: 3} | {}


def test_who_diverged_or_was_pruned_takes_no_place() -> None:
    bracket = Bracket(27, 3, "validation_error")
    gone = [history(0.1, status="diverged") for _ in range(2)]
    racing = [history(*[0.5 + k / 10] * 27) for k in range(1)]
    assert bracket.stopped([*gone, *racing], 27) == {}


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=27, max_size=27), min_size=1, max_size=30),
    st.integers(2, 4),
    st.randoms(),
)
def test_what_a_member_did_after_it_was_stopped_changes_nothing(
    curves: list[list[float]], factor: int, random: object
) -> None:
    """A run that the store has from elsewhere competes as if it were trained here."""
    bracket = Bracket(27, factor, "validation_error")
    histories = [history(*errors) for errors in curves]
    whole = bracket.stopped(histories, 27)
    cut = [history(*errors[: whole.get(k, 27)]) for k, errors in enumerate(curves)]
    assert bracket.stopped(cut, 27) == whole
    assert len(histories) - len(whole) == max(1, round(len(curves) / factor**2))
    seen: dict[int, int] = {}
    for epoch in range(28):
        now = bracket.stopped(histories, epoch)
        assert seen.items() <= now.items()
        seen = now


def test_packs_that_can_be_halved_twice() -> None:
    assert bracket_sizes(3, on_gpus=False) == (9, 27)
    assert bracket_sizes(3, on_gpus=True) == (9, 18, 36, 72)
    assert bracket_sizes(2, on_gpus=True)[:2] == (4, 8)


@given(st.integers(1, 60), st.integers(1, 100), st.integers(2, 5))
def test_the_share_of_epochs_is_what_a_bracket_trains(members: int, epochs: int, factor: int) -> None:
    bracket = Bracket(epochs, factor, "validation_error")
    stopped = bracket.stopped([history(*[k / 100] * epochs) for k in range(members)], epochs)
    trained = sum(stopped.get(k, epochs) for k in range(members))
    assert bracket.share(members) == pytest.approx(trained / (members * epochs))
