"""Noise that is drawn for several minibatches at once is the noise that single draws give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tpbench.engine import noise
from tpbench.engine.network import stream
from tpbench.engine.noise import device_generators, draw_noise, minibatches_at_once
from tpbench.engine.precision import Workspace

CPU = torch.device("cpu")


@given(
    batches=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 5)), min_size=1, max_size=4),
    units=st.integers(1, 40),
    members=st.integers(1, 3),
    at_once=st.sampled_from([1, 500, 5000, 1 << 16]),
)
def test_the_numbers_are_those_of_single_draws(
    batches: list[tuple[int, int]], units: int, members: int, at_once: int
) -> None:
    sizes = [size for size, count in batches for _ in range(count)]
    alone = [
        [torch.empty(size * units).normal_(generator=g) for size in sizes]
        for g in (stream(seed, "noise") for seed in range(members))
    ]
    kept, noise._BLOCK["cpu"] = noise._BLOCK["cpu"], at_once
    try:
        generators = [stream(seed, "noise") for seed in range(members)]
        # What is yielded lasts until the next is asked for.
        together = [drawn.clone() for drawn in draw_noise(sizes, units, generators, Workspace(torch.float32, CPU))]
    finally:
        noise._BLOCK["cpu"] = kept
    assert len(together) == len(sizes)
    for step, drawn in enumerate(together):
        for member in range(members):
            torch.testing.assert_close(drawn[member], alone[member][step], rtol=0, atol=0)


@pytest.mark.parametrize("numbers", [16, 1600, 163_840, 10**7])
def test_memory_is_bounded_and_draws_are_few(numbers: int) -> None:
    gpu = minibatches_at_once(numbers, torch.device("cuda"))
    assert gpu >= 1
    assert gpu == 1 or gpu * numbers <= 1 << 20
    assert gpu >= minibatches_at_once(numbers, CPU)


def test_numbers_that_fill_no_group_are_drawn_one_minibatch_at_a_time() -> None:
    assert minibatches_at_once(17, CPU) == 1
    assert minibatches_at_once(17, torch.device("cuda")) > 1


def test_the_generators_of_a_cpu_are_those_given() -> None:
    generators = [stream(0, "noise")]
    assert device_generators(generators, CPU) == generators
