"""Random matrices (section A.4), and what the difference form is good for (section B.1)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tpbench.engine.gauss_newton import gauss_newton_change
from tpbench.engine.precision import tanh_difference_, tanh_slope
from tpbench.engine.theory.check import DTYPE, Check, degrees, draw, relative

_OUTPUTS, _MATRICES = 10, 5
# Measured beforehand (issue text): mean angle in degrees at each n/m; the bounds leave a fifth.
_ANGLES = {1: 82.0, 3: 36.0, 10: 19.0, 30: 11.0, 100: 5.7, 1000: 1.8}


def random_matrices() -> Iterator[Check]:
    """Theorem S12: for n >> m the transpose of a random m x n matrix is a good multiple of its pseudo-inverse."""
    for ratio, expected in _ANGLES.items():
        angles = []
        for k in range(_MATRICES):
            jacobian = draw(f"random matrix {ratio} {k}", 1, _OUTPUTS, _OUTPUTS, ratio * _OUTPUTS)[:, :1]
            spread = jacobian.expand(-1, _OUTPUTS, -1, -1)
            inverse = gauss_newton_change(spread, -torch.eye(_OUTPUTS, dtype=DTYPE)[None], torch.zeros(1, dtype=DTYPE))
            angles.append(degrees(inverse[0], jacobian[0, 0]))
        upper = expected * 1.2 if ratio > 1 else 90.0
        yield Check(
            "Theorem S12",
            f"mean angle of pseudo-inverse and transpose at n/m = {ratio}, degrees",
            f"{_MATRICES} standard-normal matrices of {_OUTPUTS} rows",
            sum(angles) / len(angles),
            upper=upper,
        )


def difference_form() -> Iterator[Check]:
    """Section B.1: what tanh(a + d) - tanh(a) loses in float32, carried as a difference and by subtraction."""
    a, direction = draw("difference a", 1, 1000), draw("difference d", 1, 1000)
    carried, subtracted = 0.0, 0.0
    for scale in (1e-3, 1e-5, 1e-7, 1e-9):
        d = scale * direction
        h = torch.tanh(a)
        exact = tanh_difference_(h, tanh_slope(h), d.clone())
        h32, d32 = torch.tanh(a.float()), d.float()
        carried = max(carried, relative(tanh_difference_(h32, tanh_slope(h32), d32.clone()).double(), exact))
        subtracted = max(subtracted, relative((torch.tanh(a.float() + d32) - h32).double(), exact))
    setting = "1000 units, |d| from 1e-3 to 1e-9, float32"
    yield Check("Section B.1", "relative error, carried as a difference", setting, carried, upper=1e-6)
    yield Check("Section B.1", "relative error, by subtraction", setting, subtracted, lower=0.5)
