"""Angles, null-space shares and the choice of damping, against what they are by definition."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import CONFIGURATION
from tpbench.engine import METHODS, Architecture
from tpbench.engine.alignment import DAMPINGS, AlignmentLog, angles, null_space_share
from tpbench.engine.step import PackState
from tpbench.reports.alignment_tables import choose_damping

SIZES = (6, 8, 7, 3)


def measured(name: str, damping: float = 0.1, members: int = 2) -> AlignmentLog:
    configuration = {k: CONFIGURATION[k] for k in METHODS[name].hyperparameters} | {"damping": damping}
    configuration = {k: configuration[k] for k in METHODS[name].hyperparameters}
    pack = PackState(
        METHODS[name], Architecture(SIZES, 12), [configuration] * members, range(members), dtype=torch.float64
    )
    log = AlignmentLog(every=2)
    pack.observer = log
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        x = torch.randn(members, 16, SIZES[0], generator=generator, dtype=torch.float64)
        y = torch.randint(SIZES[-1], (members, 16), generator=generator)
        noise = [torch.randn(members, 16, n, generator=generator, dtype=torch.float64) for n in SIZES[1:-1]]
        pack.joint_step(x, y, noise if METHODS[name].trains_feedback else None)
    return log


def test_every_second_minibatch_is_measured() -> None:
    log = measured("ddtp-linear")
    assert log.steps == [0, 2, 4]
    assert log.loss_angles[0].shape == (2, 2)
    assert log.target_angles[0].shape == (2, len(DAMPINGS), 2)
    assert all(((a >= 0) & (a <= 180)).all() for a in [*log.loss_angles, *log.target_angles])


def test_backpropagation_follows_the_gradient() -> None:
    # acos is steep at 1: an angle of a few 1e-6 degrees is rounding.
    assert max(float(a.max()) for a in measured("bp").loss_angles) < 1e-4


@pytest.mark.parametrize("damping", [0.0, 0.1, 10.0])
def test_gnt_follows_itself_and_its_damping_is_chosen(damping: float) -> None:
    log = measured("gnt", damping)
    index = DAMPINGS.index(damping)
    assert max(float(a[:, index].max()) for a in log.target_angles) < 1e-4
    assert choose_damping(torch.stack(log.target_angles).mean((0, 1)).numpy(), DAMPINGS) == [damping, damping]


def test_large_damping_turns_targets_into_gradients() -> None:
    log = measured("bp")
    shrinking = torch.stack(log.target_angles).mean((0, 1, 3))
    assert shrinking[-1] < shrinking[-3] < shrinking[0]


def test_angles_are_per_member() -> None:
    one = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    other = torch.tensor([[[0.0, 2.0]], [[3.0, 3.0]]])
    torch.testing.assert_close(angles(one, other), torch.tensor([90.0, 45.0], dtype=torch.float64))


def test_the_null_space_share_is_what_does_not_move_the_output() -> None:
    generator = torch.Generator().manual_seed(1)
    jacobian = torch.randn(1, 2, 6, generator=generator, dtype=torch.float64)
    slope = torch.rand(1, 6, generator=generator, dtype=torch.float64)
    below = torch.randn(1, 5, generator=generator, dtype=torch.float64)
    through = jacobian * slope.unsqueeze(1)
    useful = through.mT @ torch.randn(1, 2, 1, generator=generator, dtype=torch.float64)
    useless = torch.linalg.svd(through).Vh[0, -1].view(1, 6, 1)
    for update, share in ((useful, 0.0), (useless, 1.0), (useful / useful.norm() + useless, 0.5**0.5)):
        found = null_space_share(jacobian, slope, update @ below.unsqueeze(1))
        assert float(found) == pytest.approx(share, abs=1e-9)
