"""Adam over a pack against torch.optim.Adam, member by member."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tpbench.engine.adam import Adam, AdamSettings, run_parallel, update
from tpbench.engine.network import Parameters
from tpbench.engine.verify import fake_gpu

SETTINGS = AdamSettings(1e-2, 0.9, 0.999, 1e-8, 0.1)


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


def test_learning_rates_that_change_are_those_of_the_next_step() -> None:
    parameters = Parameters({"W1": (4, 5)}, 2, dtype=torch.float64, device="cpu")
    parameters.flat.normal_(generator=torch.Generator().manual_seed(0))
    gradient = parameters.like()
    references = [parameters["W1"][p].clone().requires_grad_() for p in range(2)]
    adam = Adam(parameters, gradient, [SETTINGS, replace(SETTINGS, lr=1e-3)])
    optimizers = [
        torch.optim.Adam([r], SETTINGS.lr, (SETTINGS.beta1, SETTINGS.beta2), SETTINGS.epsilon, SETTINGS.weight_decay)
        for r in references
    ]
    rates = [SETTINGS.lr, 1e-3]
    for factor in (1.0, 0.1, 30.0, 0.0):
        adam.scale_learning_rates(factor)
        rates = [factor * rate for rate in rates]
        assert [s.lr for (s,) in adam.settings] == rates
        before = parameters.flat.clone()
        gradient.flat.normal_(generator=torch.Generator().manual_seed(1))
        adam.step()
        assert torch.equal(parameters.flat, before) == (not any(rates))
        for p, (reference, optimizer) in enumerate(zip(references, optimizers, strict=True)):
            optimizer.param_groups[0]["lr"] = rates[p]
            reference.grad = gradient["W1"][p].clone()
            optimizer.step()
            torch.testing.assert_close(parameters["W1"][p], reference.detach())


def test_settings_change_in_one_way_alone() -> None:
    parameters = Parameters({"W1": (4, 5)}, 2, dtype=torch.float64, device="cpu")
    adam = Adam(parameters, parameters.like(), [SETTINGS, SETTINGS])
    with pytest.raises(AttributeError):
        adam.settings = [SETTINGS, SETTINGS]  # type: ignore[misc, assignment]
    with pytest.raises(TypeError):
        adam.settings[0] = SETTINGS  # type: ignore[index]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_on_a_gpu_members_of_equal_settings_are_one_call(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch, "_fused_adam_", lambda parameters, *more, **settings: calls.append(len(parameters)))
    with fake_gpu():
        parameters = Parameters({"W1": (4, 5), "b1": (5,)}, 3, dtype=torch.float32, device=device)
        for other, expected in ((SETTINGS, 1), (AdamSettings(1e-3, 0.9, 0.999, 1e-8), 3)):
            calls.clear()
            Adam(parameters, parameters.like(), [SETTINGS, SETTINGS, other]).step()
            assert calls == [2] * (3 if device == "cpu" else expected)


def test_one_call_for_all_members_is_what_each_gets() -> None:
    arrays = [torch.rand(3, 40, 7) for _ in range(4)]
    whole, single = ([array.clone() for array in arrays] for _ in range(2))
    steps = torch.ones(3)
    update([[array] for array in whole], [steps[0]], SETTINGS)
    for p in range(3):
        update([[array[p]] for array in single], [steps[p]], SETTINGS)
    for one, other in zip(whole, single, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(whole[0], arrays[0])


def test_parallel_tasks_are_all_done() -> None:
    done: list[int] = []
    for count in (0, 1, 20):
        done.clear()
        run_parallel([lambda number=number: done.append(number) for number in range(count)], torch.device("cpu"))
        assert done == list(range(count))
