"""Splits that leave no class out."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tpbench.engine.splits import first_of_each_class, loses_class


@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=60), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_the_first_of_each_class(labels: list[int], seed: int, share: float) -> None:
    y = np.array(labels)
    order = np.random.default_rng(seed).permutation(len(y))
    found = first_of_each_class(order, y)
    assert sorted(found.tolist()) == list(range(len(y)))
    most = len(y) - len(set(labels))
    count = min(round(share * len(y)), most)
    assert not loses_class(y, found[count:])
    assert loses_class(y, found[most + 1 :])
    # Of each class about its share, and its samples in their random order.
    for k in set(labels):
        chosen = [sample for sample in found[:count] if y[sample] == k]
        assert [sample for sample in order if y[sample] == k][: len(chosen)] == chosen
        if count == round(share * len(y)) and len(set(labels)) == 1:
            assert len(chosen) == count
