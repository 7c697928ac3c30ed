"""Adam over a pack: every member has its own learning rate, betas, epsilon and weight decay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from tpbench.engine.configuration import Configuration
from tpbench.engine.network import Parameters

# A GPU hardly runs more streams than this at once.
_STREAMS = 16


@dataclass(frozen=True)
class AdamSettings:
    """Adam's hyperparameters of one member; ``weight_decay`` is L2 in the gradient, as in ``torch.optim.Adam``."""

    lr: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float = 0.0


def forward_settings(configuration: Configuration) -> AdamSettings:
    """Return the forward optimiser's settings: its learning rate is lr, or lr_eta / eta (section B.1)."""
    lr = configuration["lr"] if "lr" in configuration else configuration["lr_eta"] / configuration["eta"]
    return AdamSettings(
        lr=lr,
        beta1=configuration["beta1"],
        beta2=configuration["beta2"],
        epsilon=configuration["epsilon"],
        weight_decay=configuration.get("wd", 0.0),
    )


def feedback_settings(configuration: Configuration) -> AdamSettings:
    """Return the feedback optimiser's settings, with weight decay as L2 in the gradient."""
    return AdamSettings(
        lr=configuration["lr_fb"],
        beta1=configuration["beta1_fb"],
        beta2=configuration["beta2_fb"],
        epsilon=configuration["epsilon_fb"],
        weight_decay=configuration["wd_fb"],
    )


class Adam:
    """Adam on the arrays of a pack.

    torch's own fused kernel does the arithmetic: one pass over a member's parameters, gradients and moments. The call
    for one member of mnist keeps a tenth of an H100 busy (docs/notebook.md). So on a GPU a pack whose members all
    have equal settings, such as the seeds of one configuration, is one call; otherwise the members run in parallel
    streams.

    Args:
        parameters: updated in place.
        gradients: of the same layout.
        settings: the hyperparameters of every member; see :meth:`set_learning_rates`.
        names: the arrays that train; None: all.
    """

    def __init__(
        self,
        parameters: Parameters,
        gradients: Parameters,
        settings: Sequence[AdamSettings],
        names: Sequence[str] | None = None,
    ) -> None:
        self.first_moment, self.second_moment = parameters.like(names), parameters.like(names)
        # One counter per member on the parameters' device, as the fused kernel wants it.
        self.steps = torch.zeros(len(settings), dtype=torch.float32, device=parameters.flat.device)
        buffers = (parameters, gradients, self.first_moment, self.second_moment)
        self._arrays = [[buffer[name] for name in self.first_moment] for buffer in buffers]
        self._bind(settings)

    def _bind(self, settings: Sequence[AdamSettings]) -> None:
        """Make the calls of one step with these hyperparameters."""
        self._settings = tuple(settings)
        # A CPU's kernel treats the end of an array by itself: its numbers may depend on where a member begins.
        together = self.steps.device.type == "cuda" and len(set(self._settings)) == 1
        self._members = [self._update_of(p, p) for p in range(len(self._settings))]
        self._updates = [self._update_of(slice(None), 0)] if together else self._members

    def _update_of(self, rows: int | slice, p: int) -> Callable[[], None]:
        """Return the call that updates some rows once, with the settings and steps of member ``p``."""
        arrays = [[array[rows] for array in buffer] for buffer in self._arrays]
        return partial(update, arrays, [self.steps[p]] * len(arrays[0]), self._settings[p])

    @property
    def settings(self) -> tuple[AdamSettings, ...]:
        """The hyperparameters of every member, as the next step uses them."""
        return self._settings

    def set_learning_rates(self, rates: Sequence[float]) -> None:
        """Change the learning rate of every member from the next step on; moments and step counts stay.

        A step that was captured as a CUDA graph before goes on with the rates it was captured with.

        Args:
            rates: one per member.
        """
        self._bind([replace(s, lr=rate) for s, rate in zip(self._settings, rates, strict=True)])

    def step(self, members: Sequence[int] | None = None) -> None:
        """Update every member once, or those of these rows alone."""
        if members is None:
            self.steps += 1
            run_parallel(self._updates, self.steps.device)
            return
        for p in members:
            self.steps[p] += 1
        run_parallel([self._members[p] for p in members], self.steps.device)

    def select(self, other: Adam, members: list[int]) -> None:
        """Copy the moments and step counts of some members of another pack's optimiser."""
        for name in self.first_moment:
            self.first_moment[name].copy_(other.first_moment[name][members])
            self.second_moment[name].copy_(other.second_moment[name][members])
        self.steps.copy_(other.steps[members])

    def state(self) -> dict[str, Tensor]:
        """Return the moments and step counts, for a checkpoint."""
        return {
            "first_moment": self.first_moment.flat,
            "second_moment": self.second_moment.flat,
            "steps": self.steps,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state of :meth:`state`."""
        for name, mine in self.state().items():
            mine.copy_(state[name])


def update(arrays: list[list[Tensor]], steps: list[Tensor], settings: AdamSettings) -> None:
    """Update parameters once by gradients, first and second moments, which all have these settings."""
    parameters, gradients, first, second = arrays
    torch._fused_adam_(
        parameters,
        gradients,
        first,
        second,
        [],
        steps,
        lr=settings.lr,
        beta1=settings.beta1,
        beta2=settings.beta2,
        weight_decay=settings.weight_decay,
        eps=settings.epsilon,
        amsgrad=False,
        maximize=False,
    )


@lru_cache(maxsize=16)
def _streams(device: torch.device) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(device) for _ in range(_STREAMS)]  # type: ignore[no-untyped-call]


def run_parallel(tasks: Sequence[Callable[[], object]], device: torch.device) -> None:
    """Run independent tasks, on a GPU in parallel streams, also while a CUDA graph is captured.

    Whatever is launched before is done when they begin, and they are done before whatever is launched after.

    Args:
        tasks: none touches what another writes, nor allocates memory.
        device: where they run.
    """
    # A fake device (torch's FakeTensorMode) has no streams.
    if len(tasks) < 2 or device.type != "cuda" or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for task in tasks:
            task()
        return
    current, streams = torch.cuda.current_stream(device), _streams(device)[: len(tasks)]
    for stream in streams:
        stream.wait_stream(current)
    for number, task in enumerate(tasks):
        with torch.cuda.stream(streams[number % len(streams)]):
            task()
    for stream in streams:
        current.wait_stream(stream)
