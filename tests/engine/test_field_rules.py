"""The field's rules against naive statements of their formulas, one member in float64; packs and checkpoints.

The statements follow the rules' papers and the authors' code, written anew with plain loops and autograd. ``e`` is
softmax minus one-hot label of one sample; samples are rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.dry_run import dry_run
from tpbench.engine import (
    AFTER,
    METHODS,
    Architecture,
    FeedbackPhase,
    Method,
    Minibatch,
    Problem,
    Trainer,
    Update,
    errors_sent_back,
    example_configuration,
)
from tpbench.engine.network import Parameters, stream
from tpbench.engine.precision import ReducedPrecisionMatmul
from tpbench.engine.step import PackState
from tpbench.engine.verify import member_configurations
from tpbench.workloads import get_workload

RULES = ("kp", "wm", "usf", "frsf", "brsf", "drtp", "dkp", "fw-dtp", "dtp-lee", "l-drl", "dfc-ssa", "pepita", "pc")
NETWORK = Architecture((7, 6, 5, 4, 3))
DEPTH, HIDDEN, LAYERS = NETWORK.depth, NETWORK.hidden, NETWORK.layers
SAMPLES = 5
HYPERPARAMETERS = {
    "eta": 0.4,
    "kp_decay": 0.05,
    "wm_rate": 0.3,
    "wm_decay": 0.02,
    "fb_scale": 0.7,
    "fb_steps": 1,
    "sigma": 0.02,
    "wd_fb": 0.01,
    "damping_dfc": 0.05,
    "leak_fb": 0.6,
    "k_p_fb": 0.15,
    "dt_fb": 0.02,
    "tau_fb": 0.06,
    "tau_apical_fb": 0.3,
    "times_fb": 6,
    "sigma_output_fb": 0.015,
    "hwd_fb": 0.02,
    "frozen_output_fb": 0,
    "clip": 1e3,
    "pepita_scale": 0.5,
    "pc_steps": 4,
    "pc_rate": 0.2,
}
Arrays = dict[str, Tensor]


@dataclass
class Step:
    """What one member has at a joint step, and what the engine makes of it."""

    x: Tensor
    labels: Tensor
    noise: list[Tensor]
    configuration: dict[str, float]
    start: Arrays
    """Forward parameters and arrays before the step."""
    used: Arrays = field(default_factory=dict)
    """Forward parameters and arrays that the rule sees, after a phase before it."""
    gradients: Arrays = field(default_factory=dict)
    feedback_gradients: Arrays = field(default_factory=dict)
    losses: Tensor | None = None
    end: Arrays = field(default_factory=dict)

    def forward(self, x: Tensor, arrays: Arrays | None = None) -> list[Tensor]:
        """Return h_0 .. h_L."""
        arrays, h = arrays or self.used, [x]
        for i in LAYERS:
            a = h[-1] @ arrays[f"W{i}"].T + arrays[f"b{i}"]
            h.append(a.tanh() if i < DEPTH else a)
        return h

    def error(self, outputs: Tensor) -> Tensor:
        """Return e of every sample."""
        return outputs.softmax(1) - torch.eye(NETWORK.sizes[-1], dtype=torch.float64)[self.labels]


def one_step(name: str, **changed: float) -> Step:
    """Train a member for one step; all its numbers are random, biases too."""
    method = METHODS[name]
    configuration = {**example_configuration(method)}
    configuration |= {k: v for k, v in {**HYPERPARAMETERS, **changed}.items() if k in configuration}
    pack = PackState(method, NETWORK, [configuration], [3], dtype=torch.float64)
    generator = stream(11, "field rules")

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    for i in LAYERS:
        pack.forward[f"b{i}"].copy_(0.3 * draw(1, NETWORK.sizes[i]))
    for array in pack.feedback or ():
        if array.startswith("c") and pack.feedback:
            pack.feedback[array].copy_(0.3 * draw(*pack.feedback[array].shape))
    x, y = draw(1, SAMPLES, 7), torch.randint(0, 3, (1, SAMPLES), generator=generator)
    noise = [draw(1, SAMPLES, width) for width in method.noise_widths(NETWORK) * max(pack.noise_repeats, default=1)]
    step = Step(x[0], y[0], [values[0] for values in noise], configuration, start=pack.member(0))

    def observe(batch: Minibatch, gradients: Parameters) -> None:
        step.used = pack.member(0)
        step.gradients = {array: gradients[array][0].clone() for array in gradients}

    pack.observer = observe
    record = pack.joint_step(x, y, noise)
    if pack.feedback_gradients:
        step.feedback_gradients = {k: pack.feedback_gradients[k][0].clone() for k in pack.feedback_gradients}
    step.losses = None if record.reconstruction_losses is None else record.reconstruction_losses[0]
    step.end = pack.member(0)
    return step


def of_errors(errors: list[Tensor], inputs: list[Tensor]) -> Arrays:
    """Return the gradients of errors of single samples: sums over outer products, one sample after the other."""
    gradients = {}
    for i, error, h in zip(LAYERS, errors, inputs, strict=False):
        gradients[f"W{i}"] = torch.stack([torch.outer(d, a) for d, a in zip(error, h, strict=True)]).sum(0) / SAMPLES
        gradients[f"b{i}"] = error.sum(0) / SAMPLES
    return gradients


def sent_back(step: Step, matrices: dict[int, Tensor]) -> Arrays:
    """Send e back by a matrix (n_{i-1}, n_i) in the place of each W_i^T."""
    h = step.forward(step.x)
    errors = [step.error(h[-1])]
    for i in range(DEPTH, 1, -1):
        errors.insert(0, errors[0] @ matrices[i].T * (1 - h[i - 1] ** 2))
    return of_errors(errors, h)


def kolen_pollack(step: Step) -> Arrays:
    return sent_back(step, {i: (step.used[f"D{i}"] + step.used[f"W{i}"]).T for i in LAYERS[1:]})


def mirrored(step: Step) -> Arrays:
    return sent_back(step, {i: step.used[f"Q{i - 1}"] for i in LAYERS[1:]})


def uniform_signs(step: Step) -> Arrays:
    weights = {i: step.used[f"W{i}"] for i in LAYERS[1:]}
    return sent_back(step, {i: sqrt(2 / sum(w.shape)) * torch.sign(w).T for i, w in weights.items()})


def signs(step: Step) -> Arrays:
    return sent_back(step, {i: (step.used[f"M{i}"] * torch.sign(step.used[f"W{i}"])).T for i in LAYERS[1:]})


def direct(step: Step, *, of_labels: bool) -> Arrays:
    h = step.forward(step.x)
    e = step.error(h[-1])
    sent = torch.eye(3, dtype=torch.float64)[step.labels] if of_labels else e
    return of_errors([*(sent @ step.used[f"Q{i}"].T * (1 - h[i] ** 2) for i in HIDDEN), e], h)


def local_losses(step: Step, targets: dict[int, Tensor]) -> Arrays:
    """Differentiate ``mean over the batch of |hhat_i - h_i|^2`` of each layer by itself."""
    h, gradients = step.forward(step.x), {}
    for i in LAYERS:
        weight, bias = (step.used[f"{kind}{i}"].clone().requires_grad_() for kind in "Wb")
        a = h[i - 1] @ weight.T + bias
        loss = ((targets[i] - (a.tanh() if i < DEPTH else a)) ** 2).sum() / SAMPLES
        gradients[f"W{i}"], gradients[f"b{i}"] = torch.autograd.grad(loss, (weight, bias))
    return gradients


def decoder(step: Step, i: int, arrays: Arrays | None = None) -> Callable[[Tensor], Tensor]:
    arrays = arrays or step.used
    return lambda z: (z @ arrays[f"Q{i}"].T + arrays[f"c{i}"]).tanh()


def difference_targets(step: Step, *, lee: bool = False) -> Arrays:
    h = step.forward(step.x)
    eta, e = step.configuration["eta"], step.error(h[-1]) / SAMPLES
    targets = {DEPTH: h[DEPTH] - eta * e}
    top = DEPTH
    if lee:
        top = DEPTH - 1
        targets[top] = h[top] - eta * (e @ step.used[f"W{DEPTH}"])
    for i in range(top - 1, 0, -1):
        g = decoder(step, i)
        targets[i] = h[i] + g(targets[i + 1]) - g(h[i + 1])
    return local_losses(step, targets)


def controlled(step: Step) -> Arrays:
    """The controller's steady state, one sample after the other; the Jacobian by autograd."""
    arrays, sizes = step.used, NETWORK.sizes
    eta, damping = step.configuration["eta"], step.configuration["damping_dfc"]
    stacked = torch.cat([arrays[f"Q{i}"] for i in LAYERS])
    e = step.error(step.forward(step.x)[-1]) / SAMPLES
    errors: list[list[Tensor]] = [[] for _ in LAYERS]
    inputs: list[list[Tensor]] = [[] for _ in LAYERS]
    for sample, change in zip(step.x, -eta * e, strict=True):

        def output(moves: Tensor, sample: Tensor = sample) -> Tensor:
            """Return h_L where the pre-activations of all layers are moved."""
            h = sample
            for i, move in zip(LAYERS, moves.split(list(sizes[1:])), strict=True):
                a = arrays[f"W{i}"] @ h + arrays[f"b{i}"] + move
                h = a.tanh() if i < DEPTH else a
            return h

        jacobian = torch.autograd.functional.jacobian(output, torch.zeros(sum(sizes[1:]), dtype=torch.float64))
        u = torch.linalg.inv(jacobian @ stacked + damping * torch.eye(sizes[-1], dtype=torch.float64)) @ change
        r = sample
        for i in LAYERS:
            given = arrays[f"Q{i}"] @ u
            v = arrays[f"W{i}"] @ r + arrays[f"b{i}"] + given
            inputs[i - 1].append(r)
            phi = torch.tanh if i < DEPTH else torch.clone
            r = phi(v)
            errors[i - 1].append(-2 * (r - phi(v - given)))
    return of_errors([torch.stack(rows) for rows in errors], [torch.stack(rows) for rows in inputs])


def modulated(step: Step) -> Arrays:
    h = step.forward(step.x)
    second = step.forward(step.x + step.error(h[-1]) @ step.used["F"].T)
    errors = [*(h[i] - second[i] for i in HIDDEN), step.error(second[-1])]
    return of_errors(errors, second)


def relaxed(step: Step) -> Arrays:
    """Descend the energy of predictive coding: cross-entropy plus half the squared prediction errors."""
    used = {name: values.clone().requires_grad_() for name, values in step.used.items()}

    def energy(x: list[Tensor]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for i in LAYERS:
            a = x[i - 1] @ used[f"W{i}"].T + used[f"b{i}"]
            if i < DEPTH:
                total = total + ((x[i] - a.tanh()) ** 2).sum() / 2
            else:
                total = total + torch.nn.functional.cross_entropy(a, step.labels, reduction="sum")
        return total

    x = [values.detach().requires_grad_() for values in step.forward(step.x)[:-1]]
    for _ in range(int(step.configuration["pc_steps"])):
        slopes = torch.autograd.grad(energy(x), x[1:])
        moved = [values - step.configuration["pc_rate"] * s for values, s in zip(x[1:], slopes, strict=True)]
        x = [x[0], *(values.detach().requires_grad_() for values in moved)]
    return dict(zip(used, torch.autograd.grad(energy(x) / SAMPLES, list(used.values())), strict=True))


NAIVE: dict[str, Callable[[Step], Arrays]] = {
    "kp": kolen_pollack,
    "wm": mirrored,
    "usf": uniform_signs,
    "frsf": signs,
    "brsf": signs,
    "drtp": lambda step: direct(step, of_labels=True),
    "dkp": lambda step: direct(step, of_labels=False),
    "fw-dtp": difference_targets,
    "dtp-lee": lambda step: difference_targets(step, lee=True),
    "l-drl": difference_targets,
    "dfc-ssa": controlled,
    "pepita": modulated,
    "pc": relaxed,
}


def require_close(found: Arrays, expected: Arrays) -> None:
    for name, values in expected.items():
        scale = float(values.abs().max())
        assert float((found[name] - values).abs().max()) <= 1e-9 * scale, name
        assert scale > 0, name


@pytest.mark.parametrize("name", RULES)
def test_the_updates_are_those_of_the_formula(name: str) -> None:
    step = one_step(name)
    expected = NAIVE[name](step)
    assert set(expected) == set(step.gradients)
    require_close(step.gradients, expected)


def test_every_rule_of_the_field_is_stated() -> None:
    assert set(NAIVE) == set(RULES)
    assert set(RULES) < set(METHODS)


def test_kolen_pollack_feedback_takes_the_weights_steps_and_decays_towards_them() -> None:
    step = one_step("kp")
    require_close(step.end, {f"D{i}": (1 - 0.05) * step.start[f"D{i}"] for i in LAYERS[1:]})


def test_a_weight_mirror_learns_from_noise_after_the_step() -> None:
    step = one_step("wm")
    for i in HIDDEN:
        x = 0.1 * ((1 + torch.erf(step.noise[i - 1] / sqrt(2))) / 2 - 0.5)
        z = (x @ step.end[f"W{i + 1}"].T + step.end[f"b{i + 1}"]).tanh()
        product = torch.stack([torch.outer(a, b) for a, b in zip(x, z, strict=True)]).sum(0)
        require_close(step.end, {f"Q{i}": 0.98 * step.start[f"Q{i}"] + 0.3 * product})


def test_magnitudes_of_sign_symmetry_are_xavier_uniform() -> None:
    fixed, drawn = one_step("frsf"), one_step("brsf")
    generator = stream(3, "rule")
    for i in LAYERS[1:]:
        shape = (NETWORK.sizes[i], NETWORK.sizes[i - 1])
        uniform = (1 + torch.erf(torch.randn(shape, generator=generator).double() / sqrt(2))) / 2
        assert 0 <= float(fixed.used[f"M{i}"].min()) <= float(fixed.used[f"M{i}"].max()) <= sqrt(6 / sum(shape))
        assert torch.equal(fixed.end[f"M{i}"], fixed.start[f"M{i}"])
        require_close(drawn.used, {f"M{i}": sqrt(6 / sum(shape)) * uniform})


def test_direct_kolen_pollack_feedback_gets_the_gradient_of_a_last_layer() -> None:
    step = one_step("dkp")
    h = step.forward(step.x)
    require_close(step.feedback_gradients, {f"Q{i}": h[i].T @ step.error(h[-1]) / SAMPLES for i in HIDDEN})


def test_fixed_feedback_of_difference_targets_is_uniform() -> None:
    step = one_step("fw-dtp")
    for i in HIDDEN:
        matrix = step.start[f"Q{i}"]
        assert float(matrix.abs().max()) <= 0.7
        assert float(matrix.min()) < -0.2 < 0.2 < float(matrix.max())
        assert torch.equal(step.end[f"Q{i}"], matrix)


def test_a_local_difference_loss_has_its_gradient_and_its_value() -> None:
    step = one_step("l-drl")
    start, sigma = step.start, step.configuration["sigma"]
    h = step.forward(step.x, start)
    for i in HIDDEN:
        own = {name: start[name].clone().requires_grad_() for name in (f"Q{i}", f"c{i}")}
        g = decoder(step, i, own)
        xi, zeta = sigma * step.noise[i - 1], sigma * step.noise[len(HIDDEN) + i - 1]
        there = (h[i] + xi) @ start[f"W{i + 1}"].T + start[f"b{i + 1}"]
        there = there.tanh() if i + 1 < DEPTH else there
        loss = torch.zeros((), dtype=torch.float64)
        for n in range(SAMPLES):
            forth = g(there[n]) - g(h[i + 1][n])
            around = g(h[i + 1][n] + zeta[n]) - g(h[i + 1][n])
            loss = loss + (-2 * (xi[n] * forth).sum() + (around**2).sum()) / SAMPLES
        require_close(step.feedback_gradients, dict(zip(own, torch.autograd.grad(loss, own.values()), strict=True)))
        assert step.losses is not None
        assert float(step.losses[i - 1]) == pytest.approx(loss.item(), rel=1e-9)


def simulated_feedback(step: Step) -> Arrays:
    """The gradients of the controller's feedback, simulated with voltages (not with deviations from the output)."""
    c, arrays, x = step.configuration, step.start, step.x
    h, depth = step.forward(x, arrays), DEPTH
    v = {i: h[i - 1] @ arrays[f"W{i}"].T + arrays[f"b{i}"] for i in LAYERS}
    r = dict(enumerate(h))
    apical = {i: torch.zeros_like(v[i]) for i in LAYERS}
    u = integral = torch.zeros_like(h[-1])
    total = {i: torch.zeros_like(arrays[f"Q{i}"]) for i in LAYERS}
    dt, times = c["dt_fb"], int(c["times_fb"])
    for k in range(times - 1):
        wrong = h[-1] - r[depth]
        integral = integral + dt * (wrong - c["leak_fb"] * u)
        new_u = integral + c["k_p_fb"] * wrong
        for i in LAYERS:
            total[i] = total[i] + apical[i].T @ new_u
            sigma = c["sigma"] if i < depth else c["sigma_output_fb"]
            noise = sigma * sqrt(dt) / c["tau_apical_fb"] * step.noise[k * depth + i - 1]
            apical[i] = apical[i] + dt / c["tau_apical_fb"] * (u @ arrays[f"Q{i}"].T - apical[i]) + noise
            basal = r[i - 1] @ arrays[f"W{i}"].T + arrays[f"b{i}"]
            v[i] = v[i] + dt / c["tau_fb"] * (apical[i] + basal - v[i])
            r[i] = v[i].tanh() if i < depth else v[i]
        u = new_u
    squares = sum(float((arrays[f"Q{i}"] ** 2).sum()) for i in LAYERS)
    decay, scale = c["hwd_fb"] * (squares - float(arrays["C"])), max(c["sigma"], 0.01) ** 2 * (times - 1) * SAMPLES
    gradients = {f"Q{i}": total[i] / scale + decay * arrays[f"Q{i}"] for i in LAYERS}
    norm = sqrt(sum(float((values**2).sum()) for values in gradients.values()))
    return {name: values * min(1, c["clip"] / (norm + 1e-6)) for name, values in gradients.items()}


@pytest.mark.parametrize("changed", [{}, {"clip": 1e-4}, {"sigma": 0.004}, {"times_fb": 3, "k_p_fb": 0.0}])
def test_the_controllers_feedback_is_trained_by_a_simulation(changed: dict[str, float]) -> None:
    step = one_step("dfc-ssa", **changed)
    require_close(step.feedback_gradients, simulated_feedback(step))


def test_the_controllers_feedback_to_the_output_can_be_frozen() -> None:
    frozen, free = (one_step("dfc-ssa", frozen_output_fb=value) for value in (1, 0))
    name = f"Q{DEPTH}"
    assert torch.equal(frozen.start[name], torch.eye(NETWORK.sizes[-1], dtype=torch.float64))
    assert torch.equal(frozen.end[name], frozen.start[name])
    assert not torch.equal(free.end[name], free.start[name])
    assert not torch.equal(frozen.end["Q1"], frozen.start["Q1"])


def gradient_update(batch: Minibatch) -> Update:
    """Return backpropagation as an update: dL/da_i of the mean loss."""
    weights = batch.forward_parameters
    return errors_sent_back(batch, lambda i, error: batch.product(error, weights[f"W{i}"]))


def test_an_update_of_the_gradient_trains_exactly_as_backpropagation(small_problem: Problem) -> None:
    """The factor of an update is 1 and of targets -2/B: finding B-3 of the review."""
    bp = METHODS["bp"]
    rules = (bp, Method("Mine", "a rule", gradient_update, bp.hyperparameters))
    # Adam's epsilon shows a factor.
    trained = [trainer_of(rule, small_problem, [{**example_configuration(bp), "epsilon": 1e-3}], [0]) for rule in rules]
    assert torch.equal(trained[0].pack.forward.flat, trained[1].pack.forward.flat)
    assert trained[0].histories[0].curves == trained[1].histories[0].curves


def trainer_of(
    rule: Method, problem: Problem, configurations: list[Any], seeds: list[int], *, stop: int | None = None
) -> Trainer:
    """Train a pack for two joint epochs, or the first ``stop`` epochs of its schedule."""
    trainer = Trainer(rule, problem, configurations, seeds, epochs=2, precision="float64")
    while not trainer.done and trainer.position != stop:
        trainer.advance()
    return trainer


def configurations_of(name: str) -> list[dict[str, float]]:
    """Return those of the members of a pack; all hyperparameters differ."""
    method = METHODS[name]
    epochs = {"fb_pretrain_epochs": 1, "fb_epochs_between": 1} if method.trains_feedback else {}
    return [{**values, **epochs} for values in member_configurations(method)]


@pytest.mark.parametrize("name", RULES)
def test_members_of_a_pack_are_runs_alone_bit_for_bit(name: str, small_problem: Problem) -> None:
    """Also those whose phase has other numbers of steps or draws (B-1, B-1b of the review)."""
    configurations = configurations_of(name)
    # Products of matrices round by where a member's begins in memory: here all begin alike.
    small_problem = replace(small_problem, architecture=Architecture((6, 8, 8, 8), random_hidden=8))
    together = trainer_of(METHODS[name], small_problem, configurations, [0, 1, 2])
    assert together.alive == [0, 1, 2]
    for row, configuration in enumerate(configurations):
        alone = trainer_of(METHODS[name], small_problem, [configuration], [row])
        assert alone.histories[0].curves == together.histories[row].curves
        expected = alone.pack.member(0)
        assert all(torch.equal(values, expected[key]) for key, values in together.pack.member(row).items())


@pytest.mark.parametrize("name", RULES)
def test_a_checkpoint_continues_bit_for_bit(name: str, small_problem: Problem) -> None:
    rule, configurations, seeds = METHODS[name], configurations_of(name)[:2], [0, 1]
    straight = trainer_of(rule, small_problem, configurations, seeds)
    stopped = trainer_of(rule, small_problem, configurations, seeds, stop=len(straight.phases) // 2)
    resumed = Trainer(rule, small_problem, configurations, seeds, epochs=2, precision="float64")
    resumed.restore(stopped.checkpoint())
    while not resumed.done:
        resumed.advance()
    assert [h.curves for h in resumed.histories] == [h.curves for h in straight.histories]
    for row in range(2):
        expected = straight.pack.member(row)
        assert all(torch.equal(values, expected[key]) for key, values in resumed.pack.member(row).items())


@pytest.mark.parametrize("name", RULES)
def test_a_fake_gpu_trains_a_pack_of_unlike_members(name: str, small_problem: Problem) -> None:
    """Members differ in numbers of steps and draws, which the dry run of all methods has equal."""
    rule = METHODS[name]
    # One full minibatch and one of 20, beside 60 samples for validation.
    small_problem = replace(small_problem, x_train=small_problem.x_train[:112], y_train=small_problem.y_train[:112])
    captured = dry_run(rule, small_problem, 3, configurations=member_configurations(rule))
    assert captured == (0 if rule.capturable is False else 1 + rule.trains_feedback)


def test_kolen_pollack_learns_nothing_without_steps_of_the_weights() -> None:
    """D decays only beside a step of W: otherwise the feedback would become the weights without any."""
    pack = PackState(METHODS["kp"], Architecture((6, 5, 4, 3)), [example_configuration(METHODS["kp"])], [0])
    assert pack.feedback is not None
    before = pack.feedback.flat.clone()
    x, y = torch.randn(1, 4, 6), torch.tensor([[0, 1, 2, 0]])
    assert pack.feedback_step(x, None, y) is None
    assert torch.equal(pack.feedback.flat, before)
    pack.joint_step(x, y, None)
    assert not torch.equal(pack.feedback.flat, before)
    assert get_workload("mnist-frozen").refusal("kp")
    assert not get_workload("mnist").refusal("kp")


def test_a_phase_after_the_step_multiplies_by_the_new_weights() -> None:
    """Also where products are reduced and converted weights are kept within a step."""
    found = []

    def train(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
        weight = batch.forward_parameters["W2"]
        rounded = weight.bfloat16().float()
        found.append((batch.product(torch.eye(64).expand(1, 64, 64), weight), rounded))

    rule = replace(METHODS["kp"], feedback_phase=FeedbackPhase(train, AFTER, own_step=True))
    configuration = {**example_configuration(METHODS["kp"]), "lr": 0.05}
    policy = ReducedPrecisionMatmul("cpu", simulated=True)
    pack = PackState(rule, Architecture((64, 64, 64, 10)), [configuration], [0], matmul=policy)
    pack.joint_step(torch.randn(1, 64, 64), torch.arange(64).view(1, 64) % 10, None)
    ((product, rounded),) = found
    assert torch.equal(product, rounded)


@pytest.mark.parametrize(
    ("name", "own", "neighbours"),
    [
        ("dfc-ssa", {"dt_fb": 0.9, "tau_fb": 0.2, "times_fb": 8}, {"dt_fb": 0.05, "tau_fb": 0.5, "times_fb": 200}),
        ("pc", {"pc_rate": 1.8, "pc_steps": 3}, {"pc_rate": 0.1, "pc_steps": 2000}),
    ],
)
def test_a_member_whose_simulation_would_overflow_later_is_not_simulated_further(
    name: str, own: dict[str, float], neighbours: dict[str, float], small_problem: Problem
) -> None:
    """A neighbour's simulation takes longer; 0 times infinity would be no number."""
    rule, example = METHODS[name], example_configuration(METHODS[name])
    if name == "pc":
        small_problem = replace(small_problem, x_train=small_problem.x_train[:80], y_train=small_problem.y_train[:80])
    configurations = [{**example, **own}, {**example, **neighbours}]
    alone = Trainer(rule, small_problem, configurations[:1], [0], epochs=1)
    pack = Trainer(rule, small_problem, configurations, [0, 1], epochs=1)
    alone.advance(), pack.advance()
    assert alone.histories[0].status == "finished"
    assert pack.histories[0].curves == alone.histories[0].curves
