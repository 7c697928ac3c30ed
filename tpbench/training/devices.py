"""Devices as a person names them."""

from __future__ import annotations

import gc
import re
import socket

from tpbench.engine.errors import TpbenchError, UsageError, unknown

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


def require_gpu(device: str) -> None:
    """Where a node was promised to have a GPU: its driver may be too old for torch.

    Raises:
        TpbenchError: torch cannot use it; says why, and on which node.
    """
    import torch

    if not device.startswith("cuda") or torch.cuda.is_available():
        return
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        reason = "it gives no reason"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
    built = f"torch {torch.__version__}, for CUDA {torch.version.cuda}" if torch.version.cuda else torch.__version__
    raise TpbenchError(f"torch sees no GPU on node {socket.gethostname()}: {reason} ({built})")


def give_back_memory(device: str) -> None:
    """Free what is left in cycles, and on a GPU what torch would keep of it for itself."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
