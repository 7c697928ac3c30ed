"""Hyperparameters with one number for each layer, against the same numbers by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tpbench.engine import METHODS, Hyperparameter, UsageError, get_method
from tpbench.engine.configuration import check_configuration, flatten, is_list
from tpbench.engine.methods import Method, example_configuration, gradient_targets
from tpbench.engine.parts import Architecture
from tpbench.engine.step import PackState
from tpbench.engine.verify import member_configurations

NETWORK = Architecture((7, 6, 5, 4, 3), random_hidden=5)
BATCH, STEPS = 4, 3
METHOD_NAMES = ["bp", "dtp", "dtpdrl", "ddtp-rhl-rec", "ddtp-control", "kp", "wm", "dkp", "l-drl", "dfc-ssa", "pc"]


def of_numbers(method: Method, configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with each number as the list of as many equal ones, where a list is valid."""
    entries = method.entries(NETWORK)
    return {name: [value] * entries[name] if name in entries else value for name, value in configuration.items()}


def varied(method: Method) -> dict[str, Any]:
    """Return a configuration with another number for each layer, where a list is valid."""
    whole = of_numbers(method, example_configuration(method))
    specs = method.hyperparameter_specs
    return {
        name: [v + k if specs[name].whole else v * (1 - 0.1 * k) for k, v in enumerate(value)]
        if is_list(value)
        else value
        for name, value in whole.items()
    }


def data(pack: PackState, step: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return a minibatch and noise, the same for all members."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(1, BATCH, NETWORK.sizes[0], generator=generator, dtype=torch.float64)
    y = torch.randint(0, NETWORK.sizes[-1], (1, BATCH), generator=generator)
    widths = pack.method.noise_widths(NETWORK) * max(pack.noise_repeats, default=1)
    noise = [torch.randn(1, BATCH, n, generator=generator, dtype=torch.float64) for n in widths]
    return (
        x.repeat(pack.members, 1, 1),
        y.repeat(pack.members, 1),
        [values.repeat(pack.members, 1, 1) for values in noise],
    )


def train(
    method: Method, configurations: list[dict[str, Any]], seeds: list[int], steps: range = range(STEPS)
) -> PackState:
    pack = PackState(method, NETWORK, configurations, seeds, dtype=torch.float64)
    for step in steps:
        pack.joint_step(*data(pack, step))
    return pack


def arrays(pack: PackState, row: int = 0) -> dict[str, Tensor]:
    return pack.member(row)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_list_of_equal_numbers_trains_as_the_number(name: str) -> None:
    method = METHODS[name]
    configurations = member_configurations(method)
    seeds = list(range(len(configurations)))
    lists = [of_numbers(method, c) for c in configurations]
    number, listed = train(method, configurations, seeds), train(method, lists, seeds)
    assert torch.equal(number.forward.flat, listed.forward.flat)
    if number.feedback and listed.feedback:
        assert torch.equal(number.feedback.flat, listed.feedback.flat)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_pack_with_lists_is_its_members_alone(name: str) -> None:
    method = METHODS[name]
    configurations = [example_configuration(method), varied(method)]
    pack = train(method, configurations, [0, 1])
    for row, configuration in enumerate(configurations):
        alone = arrays(train(method, [configuration], [row]))
        for array, values in arrays(pack, row).items():
            torch.testing.assert_close(values, alone[array], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_another_number_in_one_layer_changes_the_training(name: str) -> None:
    method = METHODS[name]
    plain = arrays(train(method, [example_configuration(method)], [0]))
    for listed, value in varied(method).items():
        if is_list(value) and listed not in ("clip", "clip_fb"):
            other = arrays(train(method, [{**example_configuration(method), listed: value}], [0]))
            assert any(not torch.equal(plain[array], other[array]) for array in plain), listed


def test_each_layer_has_an_adam_of_its_own() -> None:
    method = METHODS["bp"]
    rates, epsilons, betas = [1e-2, 1e-3, 5e-3, 2e-2], [1e-8, 1e-4, 1e-2, 1e-6], [0.9, 0.5, 0.0, 0.8]
    configuration = {"lr": rates, "epsilon": epsilons, "beta1": betas, "beta2": 0.99}
    pack = PackState(method, NETWORK, [configuration], [0], dtype=torch.float64)
    references = {name: pack.forward[name][0].clone().requires_grad_() for name in pack.forward}
    groups = [
        {"params": [references[f"W{i}"], references[f"b{i}"]], "lr": rates[i - 1], "eps": epsilons[i - 1]}
        | {"betas": (betas[i - 1], 0.99)}
        for i in NETWORK.layers
    ]
    optimizer = torch.optim.Adam(groups)
    for step in range(STEPS):
        x, y, _ = data(pack, step)
        h = x[0]
        for i in NETWORK.layers:
            h = h @ references[f"W{i}"].T + references[f"b{i}"]
            h = h.tanh() if i < NETWORK.depth else h
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(h, y[0]).backward()
        optimizer.step()
        pack.joint_step(x, y, None)
    for name, values in references.items():
        torch.testing.assert_close(pack.forward[name][0], values.detach(), rtol=1e-12, atol=1e-12)


def test_feedback_arrays_take_part_in_their_own_number_of_steps() -> None:
    method = METHODS["l-drl"]
    configuration = {**example_configuration(method), "fb_steps": [3, 1, 2]}
    pack = train(method, [configuration], [0])
    assert pack.feedback_adam
    assert pack.feedback_adam.names == ("Q1", "c1", "Q2", "c2", "Q3", "c3")
    assert pack.feedback_adam.steps.tolist() == [[3.0 * STEPS] * 2 + [1.0 * STEPS] * 2 + [2.0 * STEPS] * 2]
    # A layer's feedback depends on no other layer's, so each is that of a pack with its number.
    for i, count in zip(NETWORK.hidden, configuration["fb_steps"], strict=True):
        other = PackState(method, NETWORK, [{**configuration, "fb_steps": count}], [0], dtype=torch.float64)
        other.joint_step(*data(other, 0))
        first = PackState(method, NETWORK, [configuration], [0], dtype=torch.float64)
        record = first.joint_step(*data(first, 0))
        assert first.feedback
        assert other.feedback
        assert torch.equal(first.feedback[f"Q{i}"], other.feedback[f"Q{i}"])
        assert record.reconstruction_losses is not None


def test_training_goes_on_from_a_state_with_lists_and_from_one_of_an_older_version() -> None:
    for name in ("bp", "l-drl"):
        method = METHODS[name]
        straight = train(method, [varied(method)], [0])
        stopped, resumed = (
            train(method, [varied(method)], [0], range(1)),
            train(method, [varied(method)], [5], range(0)),
        )
        resumed.restore(stopped.state())
        for step in range(1, STEPS):
            resumed.joint_step(*data(resumed, step))
        assert torch.equal(straight.forward.flat, resumed.forward.flat)
    state = train(METHODS["bp"], [example_configuration(METHODS["bp"])], [0]).state()
    state["forward_adam"]["steps"] = state["forward_adam"]["steps"][:, 0]  # type: ignore[index]
    older = train(METHODS["bp"], [example_configuration(METHODS["bp"])], [0], range(0))
    older.restore(state)
    assert older.forward_adam.steps.tolist() == [[float(STEPS)] * 8]


def test_members_that_leave_take_their_lists_along() -> None:
    method = METHODS["dtp"]
    pack = train(method, [example_configuration(method), varied(method)], [0, 1], range(1))
    chosen = pack.select([1])
    chosen.joint_step(*data(chosen, 1))
    alone = train(method, [varied(method)], [1], range(2))
    torch.testing.assert_close(chosen.forward.flat, alone.forward.flat, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("bp", {"lr": [1e-3, 1e-3]}),
        ("bp", {"lr": []}),
        ("bp", {"lr": [1e-3, 1e-3, float("nan"), 1e-3]}),
        ("bp", {"lr": [1e-3, 1e-3, [1e-3], 1e-3]}),
        ("bp", {"lr": [1e-3, -1.0, 1e-3, 1e-3]}),
        ("dtp", {"eta": [0.1, 0.1, 0.1]}),
        ("dtp", {"sigma": [0.1, 0.1, 0.1, 0.1]}),
        ("l-drl", {"fb_steps": [1, 2, 2.5]}),
        ("dfc-ssa", {"lr_fb": [0.1, 0.1, 0.1]}),
        ("dfc-ssa", {"clip": [1.0, 1.0, 1.0, 1.0]}),
        ("gnt", {"damping": [1.0, 1.0, 1.0]}),
    ],
)
def test_lists_that_are_not_valid(method: str, given: dict[str, Any]) -> None:
    rule = get_method(method)
    configuration = {**example_configuration(rule), **given}
    specs = rule.hyperparameter_specs.values()
    with pytest.raises(UsageError, match=next(iter(given))):
        check_configuration(configuration, specs, entries=rule.entries(NETWORK))
    with pytest.raises(UsageError, match=next(iter(given))):
        PackState(rule, NETWORK, [configuration], [0])


def test_a_hyperparameter_of_a_package_says_whether_a_list_is_valid() -> None:
    decay = Hyperparameter("decay", "of the rule", layers="hidden")
    method = Method("Mine", "", gradient_targets, ("lr", "beta1", "beta2", "epsilon", decay))
    assert method.entries(NETWORK) == {"lr": 4, "beta1": 4, "beta2": 4, "epsilon": 4, "decay": 3}
    with pytest.raises(ValueError, match="layers"):
        Hyperparameter("decay", "of the rule", layers="each")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="decay_1"):
        Method("Mine", "", gradient_targets, (*method.hyperparameters, Hyperparameter("decay_1", "")))


def test_numbers_of_a_list_have_names_of_their_own() -> None:
    assert flatten({"lr": [1, 2.0], "eta": 3}) == {"lr_1": 1.0, "lr_2": 2.0, "eta": 3.0}
