"""Time a pack's joint minibatches in tpbench and in JAX, in turn, as ratios.

    python benchmarks/jax_pack.py [CELL ...] [--pack 10] [--minibatches 10] [--rounds 5]

A cell is WORKLOAD:METHOD with the method bp or ddtp-linear. Both programs do the same work on made-up data: they
shuffle, gather minibatches, draw noise, train and add up the losses, in float32 and with hyperparameters of each
member's own. The JAX program is the epoch of one member, a ``lax.scan`` over its minibatches, under ``vmap`` and
``jit``. Both run on one CPU, with one thread.

First the script trains one minibatch in both, from the same numbers and with the same noise, and compares all
parameters and Adam's moments. Then it times short epochs in turn, the compilation left out. It prints the best time of
each and tpbench's time over JAX's.

JAX is no dependency of tpbench: ``pip install jax``. Exit code 1: the numbers differ. Exit code 2: there is no JAX.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from tpbench.engine import Problem, Trainer, get_method
from tpbench.engine.adam import feedback_settings, forward_settings
from tpbench.engine.methods import example_configuration
from tpbench.engine.network import Parameters
from tpbench.workloads import WORKLOADS, get_workload
from tpbench.workloads.problems import random_problem

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    jax = None

METHODS = ("bp", "ddtp-linear")
CELLS = tuple(f"{workload}:{method}" for workload in ("mnist", "cifar10") for method in METHODS)
GENERATORS = ("threefry2x32", "rbg", "unsafe_rbg")
TOLERANCE = 1e-4
"""The largest relative difference of an array after one minibatch, in the Euclidean norm."""
EPSILON = 1e-5
"""Of Adam. Its first step is ``lr g / (|g| + epsilon)``: rounding errors of gradients near epsilon grow large."""

Arrays = dict[str, Any]
"""Arrays by the engine's names: ``W1``, ``b1``, of the feedback ``Q1``, ``c1``. JAX's functions see one member's,
without the member dimension."""


class Optimised(NamedTuple):
    """Parameters with Adam's moments."""

    parameters: Arrays
    first: Arrays
    second: Arrays


class State(NamedTuple):
    """Everything that changes in training."""

    forward: Optimised
    feedback: Optimised
    """Without arrays for backpropagation."""
    steps: Any
    """Steps so far, float32."""


def adam(state: Optimised, gradients: Arrays, steps: Any, settings: Arrays) -> Optimised:
    """Return the state after one step of Adam, with weight decay as L2 in the gradient.

    Args:
        state: parameters and moments.
        gradients: of the parameters.
        steps: the number of this step, from 1.
        settings: the fields of :class:`tpbench.engine.adam.AdamSettings`.
    """
    beta1, beta2 = settings["beta1"], settings["beta2"]
    size, root = settings["lr"] / (1 - beta1**steps), jnp.sqrt(1 - beta2**steps)
    new = Optimised({}, {}, {})
    for name, values in state.parameters.items():
        gradient = gradients[name] + settings["weight_decay"] * values
        first = beta1 * state.first[name] + (1 - beta1) * gradient
        second = beta2 * state.second[name] + (1 - beta2) * gradient * gradient
        new.parameters[name] = values - size * first / (jnp.sqrt(second) / root + settings["epsilon"])
        new.first[name], new.second[name] = first, second
    return new


def activities_of(parameters: Arrays, x: Any) -> list[Any]:
    """Return the activities h_0 .. h_L of inputs (B, n_0): tanh layers, and a linear output."""
    depth, activities = len(parameters) // 2, [x]
    for i in range(1, depth + 1):
        a = activities[-1] @ parameters[f"W{i}"].T + parameters[f"b{i}"]
        activities.append(jnp.tanh(a) if i < depth else a)
    return activities


def cross_entropy(outputs: Any, labels: Any) -> Any:
    """Return the loss of every sample (B,) of outputs (B, n_L) and labels (B,)."""
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], axis=1)[:, 0]


def backpropagation(state: State, x: Any, labels: Any, noise: list[Any], settings: Arrays) -> tuple[State, Arrays]:
    """Train one member on one minibatch by backpropagation.

    Args:
        state: of the member.
        x: inputs (B, n_0).
        labels: (B,).
        noise: none.
        settings: Adam's settings, ``forward``.

    Returns:
        The new state, and the sums of losses and of errors.
    """

    def mean_loss(parameters: Arrays) -> tuple[Any, Any]:
        outputs = activities_of(parameters, x)[-1]
        return cross_entropy(outputs, labels).mean(), outputs

    (loss, outputs), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.forward.parameters)
    steps = state.steps + 1
    sums = {"loss": loss * len(labels), "wrong": jnp.sum(outputs.argmax(1) != labels)}
    return State(adam(state.forward, gradients, steps, settings["forward"]), state.feedback, steps), sums


def ddtp_linear(state: State, x: Any, labels: Any, noise: list[Any], settings: Arrays) -> tuple[State, Arrays]:
    """Train one member on one minibatch by DDTP-linear: direct linear feedback, difference reconstruction loss.

    Args:
        state: of the member.
        x: inputs (B, n_0).
        labels: (B,).
        noise: standard-normal numbers of hidden layer i at index i - 1, (B, n_i).
        settings: Adam's settings ``forward`` and ``feedback``, and ``eta`` and ``sigma``.

    Returns:
        The new state, and the sums of losses, of errors and of mean reconstruction losses.
    """
    weights, feedback = state.forward.parameters, state.feedback.parameters
    activities = activities_of(weights, x)
    batch, depth = len(labels), len(activities) - 1
    losses, pullback = jax.vjp(lambda outputs: cross_entropy(outputs, labels), activities[-1])
    # The gradient of the mean loss.
    (output_gradient,) = pullback(jnp.full(batch, 1 / batch))
    slopes = [1 - h * h for h in activities]

    # Targets hhat_i - h_i, and the gradients of the local losses (1/B) |hhat_i - h_i|^2.
    change = -settings["eta"] * output_gradient
    gradients = {}
    for i in range(1, depth + 1):
        target = change @ feedback[f"Q{i}"].T if i < depth else change
        error = target * (-2 / batch)
        error = error * slopes[i] if i < depth else error
        gradients[f"W{i}"], gradients[f"b{i}"] = error.T @ activities[i - 1], error.sum(0)

    # The corruptions of all hidden layers travel to the output, those that pass a layer in one product.
    corruptions = [settings["sigma"] * draws for draws in noise]
    travelling = corruptions[0][None]
    for i in range(2, depth + 1):
        travelling = travelling @ weights[f"W{i}"].T
        if i < depth:
            t = jnp.tanh(travelling)
            # tanh(a + d) - tanh(a) without cancellation.
            travelling = t * slopes[i] / (1 + jnp.finfo(t.dtype).eps + activities[i] * t)
            travelling = jnp.concatenate([travelling, corruptions[i - 1][None]])

    feedback_gradients, reconstruction = {}, 0.0
    for i in range(1, depth):
        arrived = travelling[i - 1]
        residual = arrived @ feedback[f"Q{i}"].T - corruptions[i - 1]
        weight = 1 / (settings["sigma"] ** 2 * residual.size)
        reconstruction += weight * jnp.sum(residual * residual) / (depth - 1)
        feedback_gradients[f"Q{i}"] = (2 * weight * residual).T @ arrived
        # The difference correction takes the bias out of the loss.
        feedback_gradients[f"c{i}"] = jnp.zeros_like(feedback[f"c{i}"])

    steps = state.steps + 1
    sums = {"loss": losses.sum(), "wrong": jnp.sum(activities[-1].argmax(1) != labels)}
    new = State(
        adam(state.forward, gradients, steps, settings["forward"]),
        adam(state.feedback, feedback_gradients, steps, settings["feedback"]),
        steps,
    )
    return new, sums | {"reconstruction": reconstruction}


Step = Callable[[State, Any, Any, "list[Any]", Arrays], tuple[State, Arrays]]
STEPS: dict[str, Step] = {"bp": backpropagation, "ddtp-linear": ddtp_linear}


class JaxPack:
    """A pack in JAX that begins where a trainer's pack is.

    Args:
        trainer: of tpbench; its arrays are copied.
        generator: JAX's random generator, one of :data:`GENERATORS`.
    """

    def __init__(self, trainer: Trainer, generator: str) -> None:
        self._step = STEPS[_name_of(trainer)]
        self._problem, self._widths = trainer.problem, trainer.method.noise_widths(trainer.problem.architecture)
        self.state, self.settings = state_of(trainer), settings_of(trainer)
        seeds = jnp.array(trainer.pack.seeds)
        self._keys = jax.vmap(lambda seed: jax.random.key(seed, impl=generator))(seeds)
        self._splits = jnp.stack([jnp.array(trainer.problem.split(seed)[0].numpy()) for seed in trainer.pack.seeds])
        self._images = jnp.array(trainer.problem.x_train.numpy())
        self._labels = jnp.array(trainer.problem.y_train.numpy())
        shared = None
        self._epoch = jax.jit(jax.vmap(self._member_epoch, (0, 0, 0, 0, shared, shared)), donate_argnums=0)

    def _member_epoch(
        self, state: State, settings: Arrays, key: Any, split: Any, images: Any, labels: Any
    ) -> tuple[State, Arrays, Any]:
        """Train one member for an epoch. Returns its state, the sums of its measurements and the key of the next."""
        key, for_order, for_noise = jax.random.split(key, 3)
        minibatches = jax.random.permutation(for_order, split).reshape(-1, self._problem.batch_size)

        def minibatch(state: State, given: tuple[Any, Any]) -> tuple[State, Arrays]:
            samples, key = given
            x = images[samples].astype(jnp.float32) * self._problem.scale + self._problem.shift
            noise = []
            if self._widths:
                draws = jax.random.normal(key, (len(samples), sum(self._widths)))
                noise = jnp.split(draws, [sum(self._widths[: k + 1]) for k in range(len(self._widths) - 1)], axis=1)
            return self._step(state, x, labels[samples], noise, settings)

        keys = jax.random.split(for_noise, len(minibatches))
        state, sums = jax.lax.scan(minibatch, state, (minibatches, keys))
        return state, jax.tree.map(lambda values: values.sum(0), sums), key

    def train_minibatch(self, x: torch.Tensor, labels: torch.Tensor, noise: Sequence[torch.Tensor]) -> None:
        """Train one minibatch (P, B, n_0) that is given."""
        given = [jnp.array(x.numpy()), jnp.array(labels.numpy()), [jnp.array(draws.numpy()) for draws in noise]]
        self.state, _ = jax.jit(jax.vmap(self._step))(self.state, *given, self.settings)

    def train_epoch(self) -> None:
        """Train an epoch, and wait for its end."""
        trained = self._epoch(self.state, self.settings, self._keys, self._splits, self._images, self._labels)
        self.state, _, self._keys = jax.block_until_ready(trained)


def _name_of(trainer: Trainer) -> str:
    return next(name for name in METHODS if get_method(name) is trainer.method)


def state_of(trainer: Trainer) -> State:
    """Return a copy of a pack's arrays, all moments zero, with the member dimension."""

    def optimised(parameters: Parameters | None) -> Optimised:
        arrays = {name: jnp.array(parameters[name].numpy()) for name in parameters} if parameters else {}
        # Memory that is donated must not be shared.
        return Optimised(arrays, *({name: jnp.zeros_like(values) for name, values in arrays.items()} for _ in range(2)))

    pack = trainer.pack
    return State(optimised(pack.forward), optimised(pack.feedback), jnp.zeros(pack.members))


def settings_of(trainer: Trainer) -> Arrays:
    """Return the hyperparameters of a pack, each (P,)."""
    configurations = trainer.pack.configurations

    def adam_settings(read: Callable[[Any], Any]) -> Arrays:
        of_members = [vars(read(configuration)) for configuration in configurations]
        return {name: jnp.array([settings[name] for settings in of_members]) for name in of_members[0]}

    settings: Arrays = {"forward": adam_settings(forward_settings)}
    if trainer.method.trains_feedback:
        settings["feedback"] = adam_settings(feedback_settings)
        settings |= {name: jnp.array([c[name] for c in configurations]) for name in ("eta", "sigma")}
    return settings


def trainer_of(workload_name: str, method_name: str, members: int, minibatches: int) -> Trainer:
    """Return a trainer of a pack whose members all have a learning rate of their own, on made-up data."""
    method = get_method(method_name)
    problem: Problem = random_problem(get_workload(workload_name), minibatches)
    configuration = example_configuration(method)
    configuration |= {name: EPSILON for name in ("epsilon", "epsilon_fb") if name in configuration}
    rate = "lr" if "lr" in configuration else "lr_eta"
    configurations = [{**configuration, rate: configuration[rate] * (1 + p / members)} for p in range(members)]
    return Trainer(method, problem, configurations, list(range(members)), epochs=10**6)


def difference_of_one_minibatch(trainer: Trainer, pack: JaxPack) -> float:
    """Train one minibatch in both, from the same numbers and with the same noise, and compare parameters and moments.

    Adam's first step hides the size of a gradient; the moments show it. Inputs are standard normal numbers: gradients
    of saturated units are rounding errors, and Adam's first step makes them large.

    Returns:
        The largest relative difference of an array of a member afterwards, in the Euclidean norm.
    """
    generator, problem = torch.Generator().manual_seed(1), trainer.problem
    members, batch, sizes = trainer.pack.members, problem.batch_size, problem.architecture.sizes
    widths = sizes[0], *trainer.method.noise_widths(problem.architecture)
    x, *noise = (torch.randn(members, batch, width, generator=generator) for width in widths)
    labels = torch.randint(0, sizes[-1], (members, batch), generator=generator)
    pack.train_minibatch(x, labels, noise)
    trainer.pack.joint_step(x, labels, noise or None)
    return largest_difference(trainer, pack.state)


def largest_difference(trainer: Trainer, state: State) -> float:
    """Return the largest relative difference of an array of a member, in the Euclidean norm."""
    pack, differences = trainer.pack, []
    pairs = [(state.forward, pack.forward, pack.forward_adam)]
    if pack.feedback and pack.feedback_adam:
        pairs.append((state.feedback, pack.feedback, pack.feedback_adam))
    for theirs, parameters, optimiser in pairs:
        ours = (parameters, optimiser.first_moment, optimiser.second_moment)
        for name, k in product(parameters, range(len(ours))):
            expected = ours[k][name].flatten(1)
            difference = torch.from_numpy(np.array(theirs[k][name])).flatten(1) - expected
            size = expected.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
            differences.append(difference.norm(dim=1) / size)
    return float(torch.stack(differences).max())


def seconds_of(train: Callable[[], object]) -> float:
    """Return the time that a function takes."""
    started = perf_counter()
    train()
    return perf_counter() - started


def use_one_cpu() -> None:
    """Keep this process, torch and JAX on one CPU and to one thread; before JAX runs anything."""
    torch.set_num_threads(1)
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1".strip()
    )
    os.environ["JAX_PLATFORMS"] = "cpu"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def compare(cell: str, options: argparse.Namespace) -> bool:
    """Print the times of a cell and their ratio. Returns whether both programs train the same."""
    workload, method = cell.split(":")
    trainer = trainer_of(workload, method, options.pack, options.minibatches)
    pack = JaxPack(trainer, options.generator)
    difference = difference_of_one_minibatch(trainer, pack)
    if not difference <= TOLERANCE:
        print(f"{cell}: the numbers differ by {difference:.1e} after one minibatch", flush=True)
        return False
    trains = (partial(trainer._train_minibatches, "joint"), pack.train_epoch)
    _, first = (seconds_of(train) for train in trains)
    times = [[seconds_of(train) for train in trains] for _ in range(options.rounds)]
    ours, theirs = (min(column) / options.minibatches * 1e3 for column in zip(*times, strict=True))
    compiled = first - theirs * options.minibatches / 1e3
    print(
        f"{cell}: {ours:.1f} ms a minibatch in tpbench, {theirs:.1f} in JAX, {ours / theirs:.2f} times "
        f"(JAX compiles {compiled:.1f} s; numbers differ by {difference:.0e})",
        flush=True,
    )
    return True


def _cell(text: str) -> str:
    workload, _, method = text.partition(":")
    if workload not in WORKLOADS or method not in METHODS:
        raise argparse.ArgumentTypeError(f"'{text}' is no WORKLOAD:METHOD with a method of {', '.join(METHODS)}")
    if WORKLOADS[workload].trained_layers:
        raise argparse.ArgumentTypeError(f"'{workload}' has frozen layers, which the JAX program does not know")
    return text


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1 on")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", type=_cell, metavar="CELL", help=f"default: {' '.join(CELLS)}")
    parser.add_argument("--pack", type=_count, default=10, help="members")
    parser.add_argument("--minibatches", type=_count, default=10, help="of an epoch")
    parser.add_argument("--rounds", type=_count, default=5, help="epochs of each, of which the fastest counts")
    parser.add_argument("--generator", choices=GENERATORS, default=GENERATORS[0], help="JAX's random generator")
    options = parser.parse_args()
    if jax is None:
        print("JAX is not installed: pip install jax", file=sys.stderr)
        sys.exit(2)
    use_one_cpu()
    same = [compare(cell, options) for cell in options.cells or CELLS]
    sys.exit(0 if all(same) else 1)


if __name__ == "__main__":
    main()
