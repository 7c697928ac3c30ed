"""Devices as a person names them."""

from __future__ import annotations

import re

from tpbench.engine.errors import UsageError, unknown

DEVICES = ("auto", "cpu", "cuda", "cuda:N")
"""``auto`` is the GPU if there is one; N counts from 0."""


def choose_device(wanted: str) -> str:
    """The device to train on, as torch names it.

    Raises:
        UsageError: there is no such device, or not here.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if count else "cpu"
    if wanted == "cpu":
        return wanted
    found = re.fullmatch(r"cuda(?::([0-9]{1,4}))?", wanted)
    if not found:
        raise unknown("device", wanted, DEVICES)
    if not count:
        raise UsageError(f"device '{wanted}' was asked for, but torch sees no GPU here; use --device cpu")
    if found[1] and int(found[1]) >= count:
        there = "cuda:0 alone" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise UsageError(f"device '{wanted}' was asked for, but torch sees {there} here")
    return wanted
