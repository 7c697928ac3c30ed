"""The protocol: schedules, seeds, selection, checkpoints, divergence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import CONFIGURATION
from tests.engine.test_field_rules import RULES
from tpbench.engine import (
    METHODS,
    MemberHistory,
    Parameters,
    Problem,
    TpbenchError,
    Trainer,
    UsageError,
    example_configuration,
    load_checkpoint,
    save_checkpoint,
)
from tpbench.engine.protocol import Phase, Schedule


def trainer(
    problem: Problem,
    name: str,
    seeds: list[int],
    epochs: int = 3,
    changes: list[dict[str, float]] | None = None,
    **more: object,
) -> Trainer:
    method = METHODS[name]
    base = {name: CONFIGURATION.get(name, value) for name, value in example_configuration(method).items()}
    if method.trains_feedback:
        base |= {"fb_pretrain_epochs": 1, "fb_epochs_between": 1}
    configurations = [{**base, **c} for c in changes or [{}] * len(seeds)]
    return Trainer(method, problem, configurations, seeds, epochs=epochs, **more)  # type: ignore[arg-type]


def finish(t: Trainer) -> Trainer:
    while not t.done:
        t.advance()
    return t


def test_schedule_puts_feedback_epochs_before_and_between() -> None:
    kinds = "".join(phase.kind[0] for phase in Schedule(3, 2, 1))
    assert kinds == "ffjfjfj"
    assert "".join(phase.kind[0] for phase in Schedule(2, 0, 0)) == "jj"


@given(epochs=st.integers(1, 6), pretrain=st.integers(0, 4), between=st.integers(0, 4))
def test_a_schedule_is_as_if_it_were_listed(epochs: int, pretrain: int, between: int) -> None:
    listed = [Phase("feedback", 0)] * pretrain
    for epoch in range(epochs):
        listed.append(Phase("joint", epoch))
        listed += [Phase("feedback", epoch + 1)] * between * (epoch + 1 < epochs)
    schedule = Schedule(epochs, pretrain, between)
    assert list(schedule) == listed
    assert len(schedule) == len(listed)
    for position in range(len(listed) + 1):
        assert schedule.joint_before(position) == sum(phase.kind == "joint" for phase in listed[:position])


def test_the_first_epoch_with_the_lowest_validation_error_is_selected() -> None:
    history = MemberHistory()
    history.curves["validation_error"] = [0.3, 0.1, 0.2, 0.1]
    history.curves["test_error"] = [0.31, 0.12, 0.2, 0.5]
    assert history.selected_epoch == 1
    assert history.at_selected("test_error") == 0.12
    assert MemberHistory().selected_epoch is None


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns(small_problem: Problem, name: str) -> None:
    history = finish(trainer(small_problem, name, [0, 1], epochs=20)).histories[0]
    assert history.status == "finished"
    # Plain target propagation "fails to propagate useful learning signals" in such networks (section 3.2).
    assert min(history.curves["test_error"]) < (0.7 if name == "tp" else 0.2)
    assert len(history.curves["reconstruction_loss"]) == (20 if METHODS[name].measures_feedback else 0)


def numbers_of(parameters: Parameters, p: int) -> torch.Tensor:
    """All numbers of one member as one vector."""
    return torch.cat([parameters[name][p].flatten() for name in parameters])


# The rules of the field must agree bit for bit, in tests/engine/test_field_rules.py.
@pytest.mark.parametrize("name", [name for name in METHODS if name not in RULES])
def test_a_member_does_not_depend_on_its_pack(small_problem: Problem, name: str) -> None:
    alone = finish(trainer(small_problem, name, [3], precision="float64"))
    different = [{"beta1": 0.99}, {}, {"beta2": 0.9}]
    packed = finish(trainer(small_problem, name, [8, 3, 3], changes=different, precision="float64"))
    for curve, values in alone.histories[0].curves.items():
        assert packed.histories[1].curves[curve] == pytest.approx(values, rel=1e-9), curve
    torch.testing.assert_close(
        numbers_of(packed.pack.forward, 1), numbers_of(alone.pack.forward, 0), rtol=1e-9, atol=1e-11
    )


def test_initial_weights_split_and_order_depend_on_the_seed_alone(small_problem: Problem) -> None:
    one = trainer(small_problem, "ddtp-rhl", [4])
    many = trainer(small_problem, "ddtp-rhl", [9, 4, 2])
    assert torch.equal(numbers_of(one.pack.forward, 0), numbers_of(many.pack.forward, 1))
    assert one.pack.feedback is not None
    assert many.pack.feedback is not None
    assert torch.equal(numbers_of(one.pack.feedback, 0), numbers_of(many.pack.feedback, 1))
    assert torch.equal(one.pack.fixed["R"][0], many.pack.fixed["R"][1])
    for mine, theirs in zip(one._minibatches(), many._minibatches(), strict=True):
        assert torch.equal(mine[0], theirs[1])
    training, validation = small_problem.split(4)
    assert sorted([*training.tolist(), *validation.tolist()]) == list(range(300))
    assert not torch.equal(small_problem.split(5)[1], validation)


def test_a_joint_epoch_trains_every_sample_of_the_split_once(small_problem: Problem) -> None:
    t = trainer(small_problem, "bp", [0])
    seen = torch.cat([b[0] for b in t._minibatches()])
    assert sorted(seen.tolist()) == sorted(small_problem.split(0)[0].tolist())


@pytest.mark.parametrize("name", ["bp", "ddtp-rhl", "dtp"])
def test_training_continues_from_a_checkpoint_to_the_same_numbers(
    small_problem: Problem, tmp_path: Path, name: str
) -> None:
    whole = finish(trainer(small_problem, name, [0, 1]))
    first = trainer(small_problem, name, [0, 1])
    for _ in range(2):
        first.advance()
    save_checkpoint(first, tmp_path / "c.pt")
    second = trainer(small_problem, name, [0, 1])
    load_checkpoint(second, tmp_path / "c.pt")
    finish(second)
    assert second.histories == whole.histories
    assert torch.equal(second.pack.forward.flat, whole.pack.forward.flat)


def test_further_training_leaves_a_snapshot_as_it_is(small_problem: Problem) -> None:
    t = trainer(small_problem, "ddtp-rhl", [0, 1], keep=True)
    undisturbed = trainer(small_problem, "ddtp-rhl", [0, 1], keep=True)
    for one in (t, undisturbed):
        for _ in range(4):
            one.advance()
    snapshot = t.snapshot()
    finish(t)
    kept, then = snapshot.pop("kept"), undisturbed.checkpoint()["kept"]
    assert kept.keys() == then.keys()
    assert all(torch.equal(kept[p][name], then[p][name]) for p in then for name in then[p])
    resumed = trainer(small_problem, "ddtp-rhl", [0, 1])
    resumed.restore(snapshot)
    assert resumed.histories == undisturbed.histories
    finish(resumed)
    assert resumed.histories == t.histories
    assert torch.equal(resumed.pack.forward.flat, t.pack.forward.flat)


def test_a_damaged_checkpoint_is_refused(small_problem: Problem, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(trainer(small_problem, "bp", [0]), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(TpbenchError, match="readable"):
        load_checkpoint(trainer(small_problem, "bp", [0]), path)


def test_a_diverged_member_is_marked_and_does_not_disturb_the_rest(small_problem: Problem, tmp_path: Path) -> None:
    changes = [{}, {"lr_fb": 1e308}, {}]
    packed = trainer(small_problem, "dtp", [0, 1, 2], epochs=4, changes=changes, precision="float64")
    packed.advance()
    packed.advance()
    assert packed.alive == [0, 2]
    save_checkpoint(packed, tmp_path / "c.pt")
    resumed = trainer(small_problem, "dtp", [0, 1, 2], epochs=4, changes=changes, precision="float64")
    load_checkpoint(resumed, tmp_path / "c.pt")
    for t in (finish(packed), finish(resumed)):
        assert [h.status for h in t.histories] == ["finished", "diverged", "finished"]
        assert t.histories[1].epochs < 4
        alone = finish(trainer(small_problem, "dtp", [2], epochs=4, precision="float64"))
        assert t.histories[2].curves["test_loss"] == pytest.approx(alone.histories[0].curves["test_loss"], rel=1e-9)


def test_a_member_that_learns_nothing_is_pruned(small_problem: Problem) -> None:
    t = finish(trainer(small_problem, "bp", [0, 1], epochs=5, changes=[{"lr": 1e-9}, {"lr": 1e-2}], prune=(2, 0.5)))
    assert [h.status for h in t.histories] == ["pruned", "finished"]
    assert [h.epochs for h in t.histories] == [2, 5]


def test_frozen_layers_do_not_move(small_problem: Problem) -> None:
    frozen = dataclasses.replace(small_problem, trained_layers=(1,))
    t = trainer(frozen, "ddtp-linear", [0])
    before = {n: t.pack.forward[n].clone() for n in t.pack.forward}
    finish(t)
    moved = {n for n in before if not torch.equal(before[n], t.pack.forward[n])}
    assert moved == {"W1", "b1"}


def test_float32_follows_float64(small_problem: Problem) -> None:
    curves = [
        finish(trainer(small_problem, "ddtp-linear", [0], precision=p)).histories[0].curves["test_loss"]
        for p in ("float32", "float64")
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_members_must_share_a_schedule(small_problem: Problem) -> None:
    with pytest.raises(UsageError, match="schedule"):
        trainer(small_problem, "dtp", [0, 1], changes=[{}, {"fb_pretrain_epochs": 3}])
