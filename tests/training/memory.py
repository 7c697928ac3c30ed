"""A memory that suffices for one member alone. Not a test."""

from __future__ import annotations

import pytest
import torch

from tpbench.engine import EpochReport, Trainer


def allow_one_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every pack of more than one member run out of memory as soon as it trains."""
    advance = Trainer.advance

    def limited(trainer: Trainer) -> EpochReport:
        if len(trainer.alive) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return advance(trainer)

    monkeypatch.setattr(Trainer, "advance", limited)
