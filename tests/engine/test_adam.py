"""Adam over a pack against torch.optim.Adam, member by member."""

from __future__ import annotations

import pytest
import torch

from tpbench.engine.adam import Adam, AdamSettings
from tpbench.engine.network import Parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_member_is_torch_optim_adam(dtype: torch.dtype) -> None:
    settings = [AdamSettings(1e-2, 0.9, 0.999, 1e-8, 0.0), AdamSettings(1e-3, 0.99, 0.9, 1e-4, 0.1)]
    start = torch.randn(2, 20, dtype=dtype)
    gradients = torch.randn(6, 2, 20, dtype=dtype)
    mine = Parameters({"W1": (4, 5), "W2": (20,)}, 2, dtype=dtype, device="cpu")
    gradient = mine.like()
    for name in mine:
        mine[name].copy_(start.view_as(mine[name]))
    adam = Adam(mine, gradient, settings, ["W1"])
    for g in gradients:
        gradient["W1"].copy_(g.view(2, 4, 5))
        adam.step()
    assert torch.equal(mine["W2"], start)
    for p, s in enumerate(settings):
        reference = start[p].clone().requires_grad_()
        optimizer = torch.optim.Adam([reference], s.lr, (s.beta1, s.beta2), s.epsilon, s.weight_decay)
        for g in gradients:
            reference.grad = g[p].clone()
            optimizer.step()
        torch.testing.assert_close(mine["W1"][p].flatten(), reference.detach())
