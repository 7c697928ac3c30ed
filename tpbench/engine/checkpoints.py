"""Files from which the training of a pack continues."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from tpbench.engine.errors import TpbenchError
from tpbench.engine.files import atomic_write
from tpbench.engine.training import Trainer


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint so that a crash leaves either the old one or the new one, never half of one."""
    with atomic_write(path) as file:
        torch.save(trainer.checkpoint(), file)


def load_checkpoint(trainer: Trainer, path: Path) -> None:
    """Continue from a file written by :func:`save_checkpoint`.

    Raises:
        TpbenchError: the file is damaged or belongs to something else.
    """
    try:
        checkpoint = torch.load(io.BytesIO(path.read_bytes()), weights_only=True, map_location=trainer.device)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise TpbenchError(f"{path}: not a readable checkpoint ({error}); delete it to start over") from error
    trainer.restore(checkpoint)
