"""The parameters of the selected epoch: copied when the validation error falls, carried by checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.engine.test_training import finish, trainer
from tpbench.engine import MemberHistory, Problem, TpbenchError, Trainer, load_checkpoint, save_checkpoint

Arrays = dict[str, Tensor]


def equal(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def after_every_epoch(t: Trainer) -> list[list[Arrays]]:
    """Train to the end; every member's parameters after each joint epoch."""
    seen: list[list[Arrays]] = [[] for _ in t.alive]
    while not t.done:
        if t.advance().phase.kind == "joint":
            for p in t.alive:
                seen[p].append(t.pack.member(p))
    return seen


@pytest.mark.parametrize("name", ["bp", "dfa", "ddtp-rhl-rec", "gnt"])
def test_what_is_kept_are_the_parameters_after_the_selected_epoch(small_problem: Problem, name: str) -> None:
    t = trainer(small_problem, name, [0, 1, 2], epochs=6, keep=True)
    seen = after_every_epoch(t)
    selected = [history.selected_epoch for history in t.histories]
    assert any(epoch != 5 for epoch in selected)  # the last one is not always the best
    for p, epoch in enumerate(selected):
        assert epoch is not None
        assert equal(t.kept[p], seen[p][epoch])
        arrays = [a for a in (t.pack.forward, t.pack.feedback) if a]
        assert set(t.kept[p]) == {n for a in arrays for n in a} | set(t.pack.fixed)


def test_nothing_is_kept_unless_asked_for_and_keeping_changes_nothing(small_problem: Problem) -> None:
    plain = finish(trainer(small_problem, "ddtp-linear", [0, 1]))
    keeping = finish(trainer(small_problem, "ddtp-linear", [0, 1], keep=True))
    assert plain.kept == {}
    assert "kept" not in plain.checkpoint()
    assert keeping.histories == plain.histories
    assert set(keeping.kept) == {0, 1}


def test_what_is_kept_is_in_a_checkpoint(small_problem: Problem, tmp_path: Path) -> None:
    whole = finish(trainer(small_problem, "dtp", [0, 1], epochs=5, keep=True))
    first = trainer(small_problem, "dtp", [0, 1], epochs=5, keep=True)
    while first.joint_epochs < 4:
        first.advance()
    save_checkpoint(first, tmp_path / "c.pt")
    second = trainer(small_problem, "dtp", [0, 1], epochs=5, keep=True)
    load_checkpoint(second, tmp_path / "c.pt")
    finish(second)
    assert all(equal(second.kept[p], whole.kept[p]) for p in (0, 1))
    # Who keeps nothing may go on with it.
    load_checkpoint(trainer(small_problem, "dtp", [0, 1], epochs=5), tmp_path / "c.pt")


def test_a_checkpoint_without_copies_is_none_for_who_keeps(small_problem: Problem, tmp_path: Path) -> None:
    t = trainer(small_problem, "dtp", [0, 1])
    t.advance()
    save_checkpoint(t, tmp_path / "early.pt")  # after an epoch of feedback alone there is nothing to copy
    load_checkpoint(trainer(small_problem, "dtp", [0, 1], keep=True), tmp_path / "early.pt")
    t.advance()
    save_checkpoint(t, tmp_path / "c.pt")
    fresh = trainer(small_problem, "dtp", [0, 1], keep=True)
    with pytest.raises(TpbenchError, match="lacks"):
        load_checkpoint(fresh, tmp_path / "c.pt")
    assert fresh.histories == [MemberHistory(), MemberHistory()]


def test_a_diverged_member_keeps_its_selected_epoch_and_a_pruned_one_nothing(small_problem: Problem) -> None:
    t = trainer(small_problem, "bp", [0, 1, 2], epochs=6, changes=[{}, {}, {"lr": 1e-9}], prune=(3, 0.5), keep=True)
    seen: list[Arrays] = []
    while not t.done:
        t.advance()
        if t.joint_epochs <= 2:
            seen.append(t.pack.member(1))
        if t.joint_epochs == 2:
            t.pack.forward["W1"][1] = torch.nan
    assert [history.status for history in t.histories] == ["finished", "diverged", "pruned"]
    assert set(t.kept) == {0, 1}
    epoch = t.histories[1].selected_epoch
    assert epoch is not None
    assert equal(t.kept[1], seen[epoch])
    t = trainer(small_problem, "bp", [0, 1], keep=True)
    t.advance()
    t.stop([0])
    assert set(t.kept) == {1}
