"""Networks with convolutions: gradients against autograd, differences against subtraction, packs against members."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tpbench.engine import (
    METHODS,
    Architecture,
    Convolution,
    Problem,
    Trainer,
    convolutional,
    example_configuration,
    load_checkpoint,
    save_checkpoint,
)
from tpbench.engine.alignment import AlignmentLog
from tpbench.engine.golden import GoldenFile, compare_golden_file, golden_files
from tpbench.engine.network import network_layers
from tpbench.engine.operations import joint_operations
from tpbench.engine.precision import EXACT_MATMUL, CountingMatmul, ReducedPrecisionMatmul
from tpbench.engine.step import PackState

# Not square, of odd and even sizes, without and with pooling.
NETWORKS = {
    "two": convolutional((3, 8, 6), [Convolution(4), Convolution(5)], [7, 4], random_hidden=6),
    "three kinds": convolutional(
        (2, 7, 9), [Convolution(3, 3, 2, 2), Convolution(4, 5, 1, 1), Convolution(3, 1, 3, 1)], [6, 5, 4], 6
    ),
    "one": convolutional((1, 5, 5), [Convolution(3, 3)], [4, 3], 5),
}
TRAINABLE = [
    *("bp", "dfa", "ddtp-linear", "ddtp-control", "ddtp-rhl", "ddtp-rhl-extra-fb", "drtp", "dkp"),
    *("ddtp-linear-ggn", "ddtp-rhl-ggn"),
]
BATCH = 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pack_of(method: str, architecture: Architecture, seeds: list[int], **settings: Any) -> PackState:
    rule = METHODS[method]
    configurations = [example_configuration(rule) for _ in seeds]
    return PackState(rule, architecture, configurations, seeds, **{"dtype": torch.float64, **settings})


def data_of(pack: PackState, batch: int = BATCH) -> tuple[Tensor, Tensor, list[Tensor] | None]:
    sizes, members = pack.architecture.sizes, pack.members
    x = torch.stack([draw(batch, sizes[0], seed=100 + seed) for seed in pack.seeds]).to(pack.dtype)
    y = torch.arange(batch).expand(members, batch) % sizes[-1]
    widths = pack.method.noise_widths(pack.architecture)
    noise = [
        torch.stack([draw(batch, n, seed=i + 10 * seed) for seed in pack.seeds]).to(pack.dtype)
        for i, n in enumerate(widths, 1)
    ]
    return x, y, noise or None


def module_of(pack: PackState, row: int = 0) -> nn.Sequential:
    """Return the network of a member, with tanh before the pooling as the authors have it."""
    modules: list[nn.Module] = []
    arrays = pack.member(row)
    for i in pack.architecture.layers:
        weight, bias = arrays[f"W{i}"], arrays[f"b{i}"]
        if pack.architecture.is_convolution(i):
            c = pack.architecture.convolutions[i - 1]
            layer: nn.Module = nn.Conv2d(weight.shape[1], c.channels, c.kernel, padding=c.kernel // 2)
            after = [nn.Tanh()] + ([nn.MaxPool2d(c.pool, c.stride, (c.pool - 1) // 2)] if c.pool > 1 else [])
        else:
            flat = (
                []
                if pack.architecture.is_convolution(i) or i != len(pack.architecture.convolutions) + 1
                else [nn.Flatten()]
            )
            modules += flat
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            after = [nn.Tanh()] if i < pack.architecture.depth else []
        layer.double()
        layer.load_state_dict({"weight": weight, "bias": bias})
        modules += [layer, *after]
    return nn.Sequential(*modules)


def images(pack: PackState, x: Tensor) -> Tensor:
    channels, rows, columns = pack.architecture.image or (0, 0, 0)
    return x.view(-1, rows, columns, channels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_backpropagation_is_autograd(name: str) -> None:
    pack = pack_of("bp", NETWORKS[name], [3, 4])
    x, y, _ = data_of(pack)
    modules = [module_of(pack, row) for row in range(2)]
    for row, module in enumerate(modules):
        outputs = module(images(pack, x[row]))
        torch.testing.assert_close(pack.propagate(x)[-1][row], outputs.detach())
        nn.functional.cross_entropy(outputs, y[row]).backward()
    pack.joint_step(x, y, None)
    for row, module in enumerate(modules):
        layers = [layer for layer in module if isinstance(layer, (nn.Conv2d, nn.Linear))]
        for i, layer in enumerate(layers, 1):
            torch.testing.assert_close(pack.forward_gradients[f"W{i}"][row], layer.weight.grad)
            torch.testing.assert_close(pack.forward_gradients[f"b{i}"][row], layer.bias.grad)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["dfa", "ddtp-linear", "ddtp-rhl", "ddtp-control"])
def test_gradients_are_those_of_the_local_losses(method: str, name: str) -> None:
    """Of targets after the pooling: a mean over units in convolutional layers, a sum in the others."""
    pack = pack_of(method, NETWORKS[name], [5])
    x, y, noise = data_of(pack)
    before = pack.member(0)
    record = pack.joint_step(x, y, noise)
    architecture, h = pack.architecture, [values[0] for values in record.activities]
    for i in architecture.layers:
        alone = pack_of(method, architecture, [5])
        module = module_of(alone)
        wanted = (h[i] + record.targets[i - 1][0]).detach()
        parts, found = list(module), [k for k, m in enumerate(module) if isinstance(m, (nn.Conv2d, nn.Linear))]
        ends = [*found[1:], len(parts)]
        layer = nn.Sequential(*parts[found[i - 1] : ends[i - 1]])
        below = h[i - 1]
        if architecture.is_convolution(i):
            shape = architecture.maps[i - 1]
            below = images(pack, below) if i == 1 else below.view(-1, *shape)
        value = layer(below).flatten(1)
        loss = (wanted - value).square().sum() / BATCH
        if architecture.is_convolution(i):
            loss = loss / architecture.sizes[i]
        loss.backward()
        weight = next(m for m in layer if isinstance(m, (nn.Conv2d, nn.Linear))).weight
        torch.testing.assert_close(pack.forward_gradients[f"W{i}"][0], weight.grad, rtol=1e-6, atol=1e-12)
    assert set(before) == set(pack.member(0))


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_feedback_gradients_are_those_of_the_reconstruction_loss(name: str, corrected: bool) -> None:
    """The corrupted activity goes through the pooling with winners of its own, and on to the output."""
    method = "ddtp-linear" if corrected else "ddtp-control"
    pack = pack_of(method, NETWORKS[name], [6])
    x, y, noise = data_of(pack)
    assert noise is not None
    arrays, module, sigma = pack.member(0), module_of(pack), example_configuration(METHODS[method])["sigma"]
    record = pack.joint_step(x, y, noise)
    architecture, h = pack.architecture, [values[0] for values in record.activities]
    parts = list(module)
    found = [k for k, m in enumerate(parts) if isinstance(m, (nn.Conv2d, nn.Linear))]
    for i in architecture.hidden:
        rest = nn.Sequential(*parts[found[i] :])
        corrupted = h[i] + sigma * noise[i - 1][0]
        given = corrupted.view(-1, *architecture.maps[i]) if architecture.is_convolution(i + 1) else corrupted
        moved = rest(given).detach()
        q = arrays[f"Q{i}"].clone().requires_grad_()
        c = arrays.get(f"c{i}", torch.zeros(architecture.sizes[i], dtype=torch.float64))
        back = moved @ q.T + c
        if corrected:
            back = back + h[i] - (h[-1] @ q.T + c)
        loss = (back - corrupted).square().mean() / (sigma**2 if corrected else 1.0)
        loss.backward()
        assert pack.feedback_gradients
        assert record.reconstruction_losses is not None
        torch.testing.assert_close(pack.feedback_gradients[f"Q{i}"][0], q.grad, rtol=1e-7, atol=1e-12)
        torch.testing.assert_close(record.reconstruction_losses[0, i - 1], loss.detach())
        assert (f"c{i}" in arrays) == (not architecture.is_convolution(i))


@pytest.mark.parametrize("method", TRAINABLE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_member_does_not_depend_on_its_pack(method: str, dtype: torch.dtype) -> None:
    # In float32 the library multiplies small matrices of odd sizes in an order that depends on where they lie.
    network = convolutional((3, 8, 8), [Convolution(16), Convolution(16)], [16, 16], random_hidden=16)
    seeds = [1, 2, 3]
    together = pack_of(method, network, seeds, dtype=dtype)
    alone = [pack_of(method, network, [seed], dtype=dtype) for seed in seeds]
    for _ in range(2):
        for pack in (together, *alone):
            x, y, noise = data_of(pack)
            pack.joint_step(x, y, noise)
    for row, pack in enumerate(alone):
        for name, values in pack.member(0).items():
            assert torch.equal(together.member(row)[name], values), name


def test_every_method_trains_or_says_why_not() -> None:
    refused = {name: rule.refusal(NETWORKS["two"]) for name, rule in METHODS.items()}
    assert {name for name, reason in refused.items() if not reason} == set(TRAINABLE)
    assert all("\n" not in reason for reason in refused.values())
    assert not any(rule.refusal(Architecture((6, 5, 4))) for rule in METHODS.values())
    unlike = replace(METHODS["ddtp-linear"], convolutions=False)
    assert unlike.refusal(NETWORKS["two"])


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("members", [1, 3])
def test_the_authors_numbers(shared_data: Path, precision: torch.dtype, members: int) -> None:
    reports = [compare_golden_file(p, precision, members) for p in golden_files(shared_data / "golden_conv")]
    assert [r.method for r in reports] == ["bp", "ddtp-control", "ddtp-linear", "dfa"]
    assert all(
        {"gradients", "later gradients", "first step", "last step"} <= set(r.errors) & set(r.bounds) for r in reports
    )
    assert [(r.method, r.worst, r.errors[r.worst]) for r in reports if not r.passed] == []


def test_small_target_differences_keep_their_digits(shared_data: Path) -> None:
    """Formed by subtraction in float32 these gradients would be wrong by 1 to 2 per cent."""
    golden = GoldenFile(shared_data / "golden_conv" / "ddtp-linear.npz")
    golden.configuration["eta"] = 5e-5
    exact, single = (golden.pack(1, dtype) for dtype in (torch.float64, torch.float32))
    for pack in (exact, single):
        golden.train(pack, 0)
    for name in exact.forward:
        expected = exact.forward_gradients[name]
        error = (single.forward_gradients[name].double() - expected).abs().max() / expected.abs().max()
        assert error < 3e-6, name


def test_a_change_of_winners_keeps_its_digits() -> None:
    """The change of the output due to a tiny corruption, in float32 against float64."""
    changes = []
    for dtype in (torch.float64, torch.float32):
        pack = pack_of("ddtp-linear", NETWORKS["two"], [1], dtype=dtype)
        x, y, _ = data_of(pack, 64)
        batch = pack.minibatch(x.to(dtype), y)
        change = 1e-5 * draw(1, 64, pack.architecture.sizes[1]).to(dtype)
        changes.append(batch.difference(2, change).double())
    assert float((changes[1] - changes[0]).abs().max() / changes[0].abs().max()) < 1e-4


def test_jacobians_are_those_of_autograd() -> None:
    for name in ("two", "three kinds"):
        pack = pack_of("bp", NETWORKS[name], [2, 3])
        x, y, _ = data_of(pack, 3)
        batch = pack.minibatch(x, y)
        jacobians = batch.jacobians()
        for row in range(2):
            parts = list(module_of(pack, row))
            found = [k for k, m in enumerate(parts) if isinstance(m, (nn.Conv2d, nn.Linear))]
            for i in pack.architecture.hidden:
                rest, h = nn.Sequential(*parts[found[i] :]), batch.activities[i][row]
                shape = pack.architecture.maps[i] if pack.architecture.is_convolution(i + 1) else (h.shape[1],)
                for b in range(3):
                    through = nn.Sequential(nn.Unflatten(1, shape), rest) if len(shape) > 1 else rest
                    expected = torch.autograd.functional.jacobian(through, h[b : b + 1])[0, :, 0]
                    torch.testing.assert_close(jacobians[i - 1][row, b], expected)


def test_angles_are_measured_after_the_pooling() -> None:
    log = AlignmentLog(1, dampings=(0.1,))
    pack = pack_of("bp", NETWORKS["two"], [1, 2])
    pack.observer = log
    x, y, noise = data_of(pack)
    pack.joint_step(x, y, noise)
    assert log.loss_angles[0].shape == (2, 3)
    assert float(log.loss_angles[0].abs().max()) < 1e-4
    assert log.target_angles[0].shape == (2, 1, 3)
    assert bool(((log.target_angles[0] > 0) & (log.target_angles[0] < 180)).all())


def test_a_change_of_the_inputs_is_refused_where_the_first_layer_pools() -> None:
    pack = pack_of("bp", NETWORKS["two"], [1])
    x, y, _ = data_of(pack)
    with pytest.raises(ValueError, match="first layer"):
        pack.minibatch(x, y).difference(1, x)


def problem_of(architecture: Architecture, count: int = 60) -> Problem:
    x = (draw(count, architecture.sizes[0], seed=9) * 20 + 128).clamp(0, 255).to(torch.uint8)
    y = torch.arange(count) % architecture.sizes[-1]
    return Problem(architecture, x, y, x[:20], y[:20], 20, 16, 1 / 64, -2.0)


@pytest.mark.parametrize("method", ["bp", "ddtp-linear", "ddtp-rhl"])
def test_a_resumed_run_has_the_same_numbers(method: str, tmp_path: Path) -> None:
    rule, architecture = METHODS[method], NETWORKS["two"]
    configuration = {**example_configuration(rule), "fb_pretrain_epochs": 1, "fb_epochs_between": 1}

    def trainer() -> Trainer:
        return Trainer(rule, problem_of(architecture), [configuration] * 2, [0, 1], epochs=3)

    whole = trainer()
    while not whole.done:
        whole.advance()
    first = trainer()
    for _ in range(2):
        first.advance()
    save_checkpoint(first, tmp_path / "pack.pt")
    second = trainer()
    load_checkpoint(second, tmp_path / "pack.pt")
    while not second.done:
        second.advance()
    assert [h.curves for h in second.histories] == [h.curves for h in whole.histories]
    assert torch.equal(second.pack.forward.flat, whole.pack.forward.flat)


def test_bfloat16_products_of_convolutions_are_rounded_as_they_are_simulated() -> None:
    x = draw(8, 16, 6, 6).float().contiguous(memory_format=torch.channels_last)
    weight, bias = draw(5, 16, 3, 3, seed=1).float(), draw(5, seed=2).float()
    simulated = ReducedPrecisionMatmul("cpu", simulated=True)
    error = draw(8, 5, 6, 6, seed=3).float().contiguous(memory_format=torch.channels_last)

    def rounded(values: Tensor) -> Tensor:
        return values.to(torch.bfloat16).float()

    exact = EXACT_MATMUL.convolve(rounded(x), rounded(weight))
    torch.testing.assert_close(simulated.convolve(x, weight, bias), rounded(exact) + bias.view(-1, 1, 1))
    gradient = EXACT_MATMUL.kernel_gradient(rounded(error), rounded(x), torch.empty_like(weight))
    torch.testing.assert_close(simulated.kernel_gradient(error, x, torch.empty_like(weight)), rounded(gradient))
    back = EXACT_MATMUL.convolve_back(rounded(error), rounded(weight), x)
    torch.testing.assert_close(simulated.convolve_back(error, weight, x), rounded(back))
    # A product of few numbers keeps all digits.
    small = draw(8, 2, 6, 6).float()
    kernels = draw(5, 2, 3, 3).float()
    assert torch.equal(simulated.convolve(small, kernels), EXACT_MATMUL.convolve(small, kernels))


def test_operations_are_those_of_the_specification() -> None:
    """GFLOP per step of a minibatch of 128: the table of section 10 of conv.md."""
    architecture = convolutional((3, 32, 32), [Convolution(32), Convolution(64)], [512, 10])
    for method, expected in {"bp": 12.9, "dfa": 9.1, "ddtp-linear": 13.6}.items():
        found = joint_operations(METHODS[method], architecture, 128, tuple(architecture.layers)) / 1e9
        assert found == pytest.approx(expected, rel=0.01)


def test_the_network_of_the_specification() -> None:
    architecture = convolutional((3, 32, 32), [Convolution(32), Convolution(64)], [512, 10])
    assert architecture.sizes == (3072, 8192, 4096, 512, 10)
    assert architecture.maps == ((3, 32, 32), (32, 16, 16), (64, 8, 8))
    shapes = {name: shape for layer in network_layers(architecture) for name, shape in layer.shapes.items()}
    assert [shapes[name] for name in ("W2", "b2", "W3")] == [(64, 32, 5, 5), (64,), (512, 4096)]
    pack = pack_of("bp", architecture, [0], dtype=torch.float32)
    for name, deviation in {"W1": 0.0478, "W2": 0.0289, "W3": 0.0208, "W4": 0.0619}.items():
        assert float(pack.forward[name].std()) == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize(
    "declared",
    [
        lambda: Convolution(0),
        lambda: Convolution(4, kernel=4),
        lambda: Convolution(4, pool=2, stride=3),
        lambda: Convolution(4, stride=0),
        lambda: convolutional((1, 8, 8), [Convolution(4)], []),
        lambda: Architecture((64, 100, 10, 4), 0, (Convolution(4),), (1, 8, 8)),
        lambda: Architecture((64, 64, 10), 0, (Convolution(4),), None),
    ],
)
def test_networks_that_cannot_be(declared: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        declared()


def test_counting_counts_what_the_products_do() -> None:
    counting = CountingMatmul()
    x, weight = draw(2, 3, 4, 5), draw(6, 3, 3, 3)
    out = counting.convolve(x, weight)
    assert counting.operations == 2 * out.numel() * 27
    counting.kernel_gradient(out, x, torch.empty_like(weight))
    counting.convolve_back(out, weight, x)
    assert counting.operations == 3 * 2 * out.numel() * 27
