"""Products with operands in bfloat16: which are rounded, which are not, and where they are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tpbench.engine import METHODS, Architecture, Minibatch, Problem, Trainer, UsageError, adam, example_configuration
from tpbench.engine import precision as module
from tpbench.engine.network import Parameters
from tpbench.engine.precision import (
    EXACT_MATMUL,
    LARGE,
    MatmulPolicy,
    ReducedPrecisionMatmul,
    matmul_policy,
)
from tpbench.engine.step import PackState

sizes = st.sampled_from([3, LARGE, LARGE + 3])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(values: Tensor) -> Tensor:
    return values.bfloat16().double()


@given(m=sizes, k=sizes, n=sizes, transposed=st.booleans(), result=st.booleans(), simulated=st.booleans())
def test_large_products_have_rounded_operands(
    m: int, k: int, n: int, transposed: bool, result: bool, simulated: bool
) -> None:
    if not simulated and not result:
        return  # a GPU's alone
    a, b, bias, summand = draw(2, m, k), draw(2, k, n, seed=1), draw(2, n, seed=2), draw(2, m, n, seed=3)
    b = b.mT.contiguous().mT if transposed else b
    lowered = ReducedPrecisionMatmul("cpu", simulated=simulated, rounded=result)
    large = min(m, k, n) >= LARGE
    expected = rounded(a) @ rounded(b) if large else a.double() @ b.double()
    # Another order of adding up may round a result to the neighbouring number.
    bound = 2**-7 if large and result else 1e-5
    for wanted, product in (
        (expected, lowered.weight_gradient(a.mT, b, torch.empty(2, m, n))),
        (expected, lowered.weight_gradient(a.mT, b, torch.empty(2, m, n), cache=False)),
        (expected + summand, lowered.weight_gradient(a.mT, b, summand.clone(), accumulate=True)),
        (expected, lowered.backward(a, b)),
        (expected, lowered.linear_difference(a.unsqueeze(1), b.mT, torch.empty(2, 1, m, n)).squeeze(1)),
        (expected + bias.unsqueeze(1), lowered.linear(a, b.mT, bias, torch.empty(2, m, n))),
        (expected + summand, lowered.add_linear(a, b.mT, summand.clone())),
    ):
        assert float((product - wanted).abs().max()) <= bound * float(expected.abs().max())
    if large and result:
        product = lowered.backward(a, b)
        assert torch.equal(product, product.bfloat16().float())


def test_a_weight_is_converted_once_until_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered, a, b = ReducedPrecisionMatmul("cpu", simulated=True), draw(1, LARGE, LARGE), draw(1, LARGE, LARGE, seed=1)
    converted = []
    original = ReducedPrecisionMatmul._round
    monkeypatch.setattr(
        ReducedPrecisionMatmul,
        "_round",
        lambda self, values: (converted.append(values is b), original(self, values))[1],
    )
    before = lowered.backward(a, b)
    lowered.linear_difference(a.unsqueeze(1), b, torch.empty(1, 1, LARGE, LARGE))
    assert torch.equal(lowered.backward(a, b), before)
    assert sum(converted) == 1
    b += 1
    assert not torch.equal(lowered.backward(a, b), before)
    lowered.backward(a, b)
    assert sum(converted) == 2


def noise_of(pack: PackState, batch: int) -> list[torch.Tensor] | None:
    """The noise that a step of the pack takes."""
    widths = pack.method.noise_widths(pack.architecture) * max(pack.noise_repeats, default=1)
    return [draw(pack.members, batch, width, seed=i) for i, width in enumerate(widths, 1)] or None


def packs(method: str, *policies: MatmulPolicy, **hyperparameters: float) -> list[PackState]:
    """The same step with each kind of products, on a network whose hidden products are large."""
    architecture = Architecture((80, 72, 70, 66, 10), random_hidden=68)
    rule = METHODS[method]
    configuration = {**example_configuration(rule), **hyperparameters}
    found = []
    for kind in policies:
        pack = PackState(rule, architecture, [configuration] * 2, [0, 1], matmul=kind)
        labels = torch.arange(128).view(2, 64) % 10
        pack.joint_step(draw(2, 64, 80), labels, noise_of(pack, 64))
        found.append(pack)
    return found


# The controller of dfc-ssa inverts a matrix of random feedback, which amplifies the rounding of the activities.
@pytest.mark.parametrize("method", [method for method in METHODS if method != "dfc-ssa"])
def test_the_gradients_of_a_step_keep_two_digits(method: str) -> None:
    exact, lowered = packs(method, EXACT_MATMUL, ReducedPrecisionMatmul("cpu", simulated=True))
    groups = [(exact.forward_gradients, lowered.forward_gradients)]
    if exact.feedback_gradients and lowered.feedback_gradients:
        groups.append((exact.feedback_gradients, lowered.feedback_gradients))
    for wanted, found in groups:
        for name in wanted:
            error = float((found[name] - wanted[name]).norm())
            assert error <= 0.03 * float(wanted[name].norm()), name
        # And something was rounded.
        assert not torch.equal(found.flat, wanted.flat)


def test_the_simulation_is_what_torch_computes() -> None:
    """In torch's bfloat16, however slow it is here."""
    simulated, real = packs("ddtp-rhl", ReducedPrecisionMatmul("cpu", simulated=True), ReducedPrecisionMatmul("cpu"))
    for name in real.forward_gradients:
        error = float((simulated.forward_gradients[name] - real.forward_gradients[name]).norm())
        assert error <= 3e-3 * float(real.forward_gradients[name].norm()), name


def test_evaluation_is_exact_and_members_do_not_depend_on_their_pack() -> None:
    rule, architecture = METHODS["bp"], Architecture((80, 72, 70, 10))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(400, 80, generator=generator), torch.arange(400) % 10
    problem = Problem(architecture, x, y, x, y, validation_size=80, batch_size=64)
    kind = ReducedPrecisionMatmul("cpu", simulated=True)
    histories = []
    for seeds in ([0, 1], [1]):
        trainer = Trainer(
            rule,
            problem,
            [example_configuration(rule)] * len(seeds),
            seeds,
            epochs=1,
            precision="bf16",
            matmul=kind.clone(),
        )
        trainer.advance()
        histories.append(trainer.histories[-1])
        exact = problem.loss(trainer.pack.propagate(x.expand(len(seeds), -1, -1))[-1], y.expand(len(seeds), -1))[0]
        assert histories[-1].curves["test_loss"][0] == pytest.approx(float(exact[-1].double().mean()), rel=1e-12)
    assert histories[0].curves == histories[1].curves


def test_packs_that_lose_members_go_on_with_memory_of_their_own() -> None:
    (pack,) = packs("dtp", ReducedPrecisionMatmul("cpu", simulated=True))
    chosen = pack.select([1])
    assert isinstance(chosen.matmul, ReducedPrecisionMatmul)
    assert chosen.matmul is not pack.matmul
    assert chosen.matmul.simulated


def test_slow_bfloat16_is_refused(small_problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    rule = METHODS["bp"]
    with pytest.raises(UsageError, match="AVX-512"):
        Trainer(rule, small_problem, [example_configuration(rule)], [0], epochs=1, precision="bf16")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    trainer = Trainer(rule, small_problem, [example_configuration(rule)], [0], epochs=1, precision="bf16")
    assert isinstance(trainer.pack.matmul, ReducedPrecisionMatmul)
    assert trainer.pack.forward.flat.dtype == torch.float32


def test_other_precisions_multiply_exactly() -> None:
    assert (
        matmul_policy("float32", "cpu")
        is matmul_policy("float64", "cpu")
        is matmul_policy("tf32", "cuda")
        is EXACT_MATMUL
    )


class RoundedEachTime(MatmulPolicy):
    """Computes what :class:`ReducedPrecisionMatmul` does, without cached operands."""

    def _bmm(self, a: module._Operand, b: module._Operand, out: Tensor) -> Tensor:
        left, right = module._plain(a), module._plain(b)
        if min(left.shape[1], left.shape[2], right.shape[2]) < LARGE:
            return torch.bmm(left, right, out=out)
        return out.copy_(torch.bmm(left.bfloat16().float(), right.bfloat16().float()).bfloat16())

    def _baddbmm(self, summand: Tensor, a: module._Operand, b: module._Operand, out: Tensor) -> Tensor:
        left, right = module._plain(a), module._plain(b)
        if min(left.shape[1], left.shape[2], right.shape[2]) < LARGE:
            return torch.baddbmm(summand, left, right, out=out)
        return torch.add(summand, self._bmm(a, b, torch.empty_like(out)), out=out)


def changing(batch: Minibatch) -> list[Tensor]:
    """Asks, changes the feedback, and asks again."""
    assert batch.feedback
    first = batch.feedback.targets(-batch.output_gradient)
    for name in batch.feedback.parameters:
        batch.feedback.parameters[name].mul_(1.5)
    second = batch.feedback.targets(-batch.output_gradient)
    return [*(one + other for one, other in zip(first, second, strict=True)), -batch.output_gradient]


def train(pack: PackState, step: int, batch: int = 64, feedback_steps: int = 1) -> None:
    """Train the feedback alone where there is some, then both, on made-up data of a step."""
    noise = noise_of(pack, batch)
    x, y = draw(pack.members, batch, 80, seed=step), torch.arange(batch).expand(pack.members, -1) % 10
    if pack.method.trains_feedback:
        for _ in range(feedback_steps):
            pack.feedback_step(x, noise, y)
    pack.joint_step(x, y, noise)


def changing_uncounted(batch: Minibatch) -> list[Tensor]:
    """Changes the feedback in ways that torch does not count, for the next minibatch."""
    assert batch.feedback
    targets = batch.feedback.targets(-batch.output_gradient)
    for i in batch.architecture.hidden:
        batch.feedback.parameters[f"Q{i}"].data.mul_(1.5)
        array = batch.feedback.parameters[f"Q{i}"].numpy()
        array *= 0.5
    return [*targets, -batch.output_gradient]


RULES = {
    **METHODS,
    "changing": replace(METHODS["ddtp-rhl"], targets=changing),
    "changing-uncounted": replace(METHODS["fw-dtp"], targets=changing_uncounted),
}


@pytest.mark.parametrize("method", RULES)
def test_nothing_that_is_kept_is_out_of_date(method: str) -> None:
    """Several steps of both kinds, of other sizes and with a member that leaves, against products that keep nothing."""
    architecture, rule = Architecture((80, 72, 70, 66, 10), random_hidden=68), RULES[method]
    flat = []
    for kind in (ReducedPrecisionMatmul("cpu", simulated=True), RoundedEachTime()):
        configuration = example_configuration(rule)
        pack = PackState(rule, architecture, [configuration] * 2, [0, 1], matmul=kind)
        # No product of a batch of 40 is large.
        for step, batch in enumerate((64, 96, 40, 64, 64)):
            if step == 3:
                pack = pack.select([1])
            train(pack, step, batch)
        flat.append((pack.forward.flat, pack.feedback.flat if pack.feedback else None))
    (mine, mine_back), (reference, reference_back) = flat
    assert torch.equal(mine, reference)
    assert mine_back is reference_back or (mine_back is not None and torch.equal(mine_back, reference_back))


def restored(pack: PackState) -> PackState:
    state = copy.deepcopy(pack.state())
    train(pack, 1)
    pack.restore(state)
    return pack


def with_other_rates(pack: PackState) -> PackState:
    pack.forward_adam.scale_learning_rates(30.0)
    if pack.feedback_adam:
        pack.feedback_adam.scale_learning_rates(30.0)
    train(pack, 1)
    return pack


def partly_updated(pack: PackState) -> PackState:
    """The second member takes a step of one weight alone."""
    pack.forward_adam.step([[], ["W2"]])
    return pack


def scaled(pack: PackState) -> PackState:
    for parameters in (pack.forward, pack.feedback):
        if parameters:
            parameters.flat.mul_(1.5)
    for values in pack.fixed.values():
        values.mul_(1.5)
    return pack


def after_feedback_epochs(pack: PackState) -> PackState:
    train(pack, 1, feedback_steps=3)
    return pack


CHANGES: list[Callable[[PackState], PackState]] = [
    restored,
    with_other_rates,
    partly_updated,
    scaled,
    after_feedback_epochs,
    lambda pack: pack.select([1, 0]),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", ["bp", "dtp", "ddtp-rhl", "wm", "dkp", "l-drl", "dfc-ssa"])
def test_a_copy_follows_every_change_of_the_weights(method: str, change: Callable[[PackState], PackState]) -> None:
    parameters = []
    for kind in (ReducedPrecisionMatmul("cpu", simulated=True), RoundedEachTime()):
        (pack,) = packs(method, kind)
        pack = change(pack)
        train(pack, 2)
        parameters.append([pack.forward.flat, *([pack.feedback.flat] if pack.feedback else [])])
    assert all(torch.equal(mine, reference) for mine, reference in zip(*parameters, strict=True))


def test_weights_are_converted_as_a_whole_in_the_first_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    (pack,) = packs("ddtp-rhl", ReducedPrecisionMatmul("cpu", simulated=True))
    weights = {
        id(parameters[name]) for parameters in (pack.forward, pack.feedback) if parameters for name in parameters
    }
    converted = []
    original = ReducedPrecisionMatmul._fill
    monkeypatch.setattr(
        ReducedPrecisionMatmul,
        "_fill",
        lambda self, memory, values: (converted.append(id(values)), original(self, memory, values))[1],
    )
    train(pack, 1)
    assert converted
    assert not weights & set(converted)


@pytest.mark.parametrize(
    "kind", [EXACT_MATMUL, ReducedPrecisionMatmul("cpu"), ReducedPrecisionMatmul("cpu", simulated=True)]
)
@pytest.mark.parametrize("method", ["bp", "dtp", "ddtp-rhl", "l-drl", "dfc-ssa", "pepita"])
def test_gradients_that_are_read_train_as_those_that_are_not(
    method: str, kind: MatmulPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do the numbers depend on the size of the blocks in which Adam takes deferred gradients."""
    monkeypatch.setattr(adam, "_BLOCK", 1 << 10)
    seen: list[dict[str, Tensor]] = []

    def observe(batch: Minibatch, gradients: Parameters) -> None:
        seen.append({name: gradients[name].clone() for name in gradients})

    plain, observed = packs(method, kind.clone(), kind.clone())
    observed.observer = observe
    for pack in (plain, observed):
        train(pack, 1)
        train(pack, 2)
    assert torch.equal(plain.forward.flat, observed.forward.flat)
    assert all(torch.equal(plain.forward_gradients[name], seen[-1][name]) for name in seen[-1] if method != "dfc-ssa")
    if plain.feedback and observed.feedback:
        assert torch.equal(plain.feedback.flat, observed.feedback.flat)
    # Two more gradients are read, of both kinds; the next step does not depend on it.
    assert observed.forward_gradients["W2"].dtype == torch.float32
    assert (observed.feedback_gradients is None) == (plain.feedback_adam is None)
    for pack in (plain, observed):
        train(pack, 3)
    assert torch.equal(plain.forward.flat, observed.forward.flat)


def trained(method: str, kind: MatmulPolicy) -> Trainer:
    """A trainer after an epoch of two full minibatches and one whose products are small."""
    architecture, rule = Architecture((80, 72, 70, 66, 10), random_hidden=68), METHODS[method]
    x, y = draw(250, 80), torch.arange(250) % 10
    problem = Problem(architecture, x, y, x, y, validation_size=90, batch_size=64, scale=0.7, shift=0.1)
    configuration = {**example_configuration(rule), "fb_pretrain_epochs": 1} if rule.trains_feedback else None
    members = [configuration or example_configuration(rule)] * 2
    trainer = Trainer(rule, problem, members, [0, 1], epochs=1, precision="bf16", matmul=kind.clone())
    while not trainer.done:
        trainer.advance()
    return trainer


@pytest.mark.parametrize("method", METHODS)
def test_inputs_kept_in_bfloat16_train_as_those_that_are_rounded_in_each_step(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = ReducedPrecisionMatmul("cpu", simulated=True)
    rounded = trained(method, kind)
    assert (rounded._rounded_inputs is None) == (method in ("pepita", "pc"))
    monkeypatch.setattr(PackState, "takes_rounded_inputs", lambda self, batch: False)
    plain = trained(method, kind)
    assert plain._rounded_inputs is None
    assert torch.equal(rounded.pack.forward.flat, plain.pack.forward.flat)
    assert [h.curves for h in rounded.histories] == [h.curves for h in plain.histories]


def test_who_reads_the_inputs_gets_them_in_float32() -> None:
    (pack,) = packs("bp", ReducedPrecisionMatmul("cpu", simulated=True))
    assert pack.takes_rounded_inputs(LARGE)
    assert not pack.takes_rounded_inputs(LARGE - 1)
    pack.observer = lambda batch, gradients: None
    assert not pack.takes_rounded_inputs(LARGE)
    pack.observer, pack.method = None, replace(METHODS["bp"], title="a package's")
    assert not pack.takes_rounded_inputs(LARGE)
    (exact,) = packs("bp", EXACT_MATMUL)
    assert not exact.takes_rounded_inputs(LARGE)


def test_deferred_gradients_are_clipped() -> None:
    kind = ReducedPrecisionMatmul("cpu", simulated=True)
    clipped, reference, free = (
        *packs("dfc-ssa", kind.clone(), RoundedEachTime(), clip=1e-3),
        *packs("dfc-ssa", kind.clone()),
    )
    assert torch.equal(clipped.forward.flat, reference.forward.flat)
    norms = clipped.forward_gradients["W2"].flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, 1e-3), rtol=1e-2, atol=0.0)
    assert float(free.forward_gradients["W2"].norm()) > 1e-2
