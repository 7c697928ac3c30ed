"""Adam over a pack: every member has its own learning rate, betas, epsilon and weight decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdamSettings:
    """Adam's hyperparameters of one member; ``weight_decay`` is L2 in the gradient, as in ``torch.optim.Adam``."""

    lr: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float = 0.0


class Adam:
    """Adam on the rows of a flat buffer.

    torch's own fused kernel does the arithmetic: one pass over a member's parameters, gradients and moments.

    Args:
        parameters: (P, N), updated in place; a slice of a wider buffer will do.
        gradients: (P, N).
        settings: the hyperparameters of every member.
    """

    def __init__(self, parameters: Tensor, gradients: Tensor, settings: Sequence[AdamSettings]) -> None:
        self.parameters, self.gradients, self.settings = parameters, gradients, list(settings)
        self.first_moment = torch.zeros_like(parameters, memory_format=torch.contiguous_format)
        self.second_moment = torch.zeros_like(self.first_moment)
        # One counter per member on the parameters' device, as the fused kernel wants it.
        self.steps = torch.zeros(len(self.settings), dtype=torch.float32, device=parameters.device)
        everything = (parameters, gradients, self.first_moment, self.second_moment, self.steps)
        self._rows = [tuple([values[p]] for values in everything) for p in range(len(self.settings))]

    def step(self) -> None:
        """One update of every member."""
        self.steps += 1
        for (parameters, gradients, first, second, steps), s in zip(self._rows, self.settings, strict=True):
            torch._fused_adam_(
                parameters, gradients, first, second, [], steps, lr=s.lr, beta1=s.beta1, beta2=s.beta2,
                weight_decay=s.weight_decay, eps=s.epsilon, amsgrad=False, maximize=False,
            )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """The moments and step counts, for a checkpoint."""
        return {"first_moment": self.first_moment, "second_moment": self.second_moment, "steps": self.steps}

    def restore(self, state: Mapping[str, Tensor], members: Sequence[int] | None = None) -> None:
        """Take over a state of :meth:`state`, or its named members only."""
        for name, mine in self.state().items():
            mine.copy_(state[name] if members is None else state[name][list(members)])
