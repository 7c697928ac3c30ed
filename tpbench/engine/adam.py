"""Adam over a pack: every member, and every array of it, has its own learning rate, betas, epsilon and weight decay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from tpbench.engine.configuration import Configuration, layer_value
from tpbench.engine.network import Parameters
from tpbench.engine.precision import EXACT_MATMUL, MatmulPolicy

# Numbers of an array that are updated at once where the matmul policy keeps a copy: 1 MiB of float32.
_BLOCK = 1 << 18
# A GPU hardly runs more streams than this at once.
_STREAMS = 16


@dataclass(frozen=True)
class AdamSettings:
    """Adam's hyperparameters of an array; ``weight_decay`` is L2 in the gradient, as in ``torch.optim.Adam``."""

    lr: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float = 0.0


def forward_settings(configuration: Configuration, layer: int = 1) -> AdamSettings:
    """Return the forward optimiser's settings of a layer: its learning rate is lr, or lr_eta / eta (section B.1)."""
    names = ("beta1", "beta2", "epsilon", "lr" if "lr" in configuration else "lr_eta")
    beta1, beta2, epsilon, lr = (layer_value(configuration[name], layer) for name in names)
    decay = layer_value(configuration.get("wd", 0.0), layer)
    return AdamSettings(lr if "lr" in configuration else lr / configuration["eta"], beta1, beta2, epsilon, decay)


def feedback_settings(configuration: Configuration, layer: int = 1) -> AdamSettings:
    """Return the feedback optimiser's settings of a layer, with weight decay as L2 in the gradient."""
    names = ("lr_fb", "beta1_fb", "beta2_fb", "epsilon_fb", "wd_fb")
    return AdamSettings(*(layer_value(configuration[name], layer) for name in names))


class Adam:
    """Adam on the arrays of a pack.

    torch's own fused kernel does the arithmetic: one pass over a member's parameters, gradients and moments. The call
    for one member of mnist keeps a tenth of an H100 busy (docs/notebook.md). So on a GPU a pack whose members all
    have equal settings, such as the seeds of one configuration, is one call; otherwise the members run in parallel
    streams. A member needs one call for each group of arrays with equal settings.

    Args:
        parameters: updated in place.
        gradients: of the same layout.
        settings: the hyperparameters of every member: of all arrays, or of each in the order of ``names``.
        names: the arrays that train; None: all.
        matmul: is told what changes; it may hold the gradients in its own type.
    """

    def __init__(
        self,
        parameters: Parameters,
        gradients: Parameters,
        settings: Sequence[AdamSettings | Sequence[AdamSettings]],
        names: Sequence[str] | None = None,
        matmul: MatmulPolicy = EXACT_MATMUL,
    ) -> None:
        self.matmul = matmul
        self.first_moment, self.second_moment = parameters.like(names), parameters.like(names)
        self.names = tuple(self.first_moment)
        # One counter per member and array on the parameters' device, as the fused kernel wants it.
        self.steps = torch.zeros(len(settings), len(self.names), dtype=torch.float32, device=parameters.flat.device)
        buffers = (parameters, gradients, self.first_moment, self.second_moment)
        self._arrays = [[buffer[name] for name in self.names] for buffer in buffers]
        self._bind([(s,) * len(self.names) if isinstance(s, AdamSettings) else tuple(s) for s in settings])

    def _bind(self, settings: Sequence[tuple[AdamSettings, ...]]) -> None:
        """Make the calls of one step with these hyperparameters."""
        self._settings = tuple(settings)
        # A CPU's kernel treats the end of an array by itself: its numbers may depend on where a member begins.
        together = self.steps.device.type == "cuda" and len(set(self._settings)) == 1
        members = range(len(self._settings))
        self._updates = [self._update_of(slice(None), 0)] if together else [self._update_of(p, p) for p in members]
        self._partial_updates: dict[tuple[int, tuple[str, ...]], Callable[[], None]] = {}

    def _update_of(self, rows: int | slice, p: int, names: Sequence[str] | None = None) -> Callable[[], None]:
        """Return the call that updates some rows once, with the settings and steps of member ``p``.

        Args:
            rows: of the pack.
            p: a member.
            names: of arrays; None: all.
        """
        groups: dict[AdamSettings, list[int]] = {}
        for k, settings in enumerate(self._settings[p]):
            if names is None or self.names[k] in names:
                groups.setdefault(settings, []).append(k)
        calls: list[Callable[[], None]] = []
        for settings, chosen in groups.items():
            kept = [k for k in chosen if self.matmul.keeps(self._arrays[0][k])]
            others = [k for k in chosen if k not in kept]
            if others:
                arrays = [[buffer[k][rows] for k in others] for buffer in self._arrays]
                calls.append(partial(update, arrays, [self.steps[p, k] for k in others], settings))
            calls += [partial(self._update_kept, k, p, settings, self._blocks(k, p)) for k in kept]
        return calls[0] if len(calls) == 1 else partial(_run_all, calls)

    def _blocks(self, k: int, p: int) -> list[tuple[slice, Tensor, Tensor, Tensor]]:
        """Return where the blocks of a member's array lie in the flattened one, their parameters and moments."""
        parameter, first, second = (buffer[k].view(-1) for buffer in (self._arrays[0], *self._arrays[2:]))
        size = len(parameter) // len(self._arrays[0][k])
        starts = range(p * size, (p + 1) * size, _BLOCK)
        blocks = [slice(start, min(start + _BLOCK, (p + 1) * size)) for start in starts]
        return [(block, parameter[block], first[block], second[block]) for block in blocks]

    def _update_kept(
        self, k: int, p: int, settings: AdamSettings, blocks: Sequence[tuple[slice, Tensor, Tensor, Tensor]]
    ) -> None:
        """Update one member's part of an array of which the matmul policy keeps a copy, and of the copy.

        Gradient, moments, parameters and copy of a block are in the cache at once. The numbers are those of an update
        in one call.
        """
        parameter, gradient = self._arrays[0][k], self._arrays[1][k]
        steps = [self.steps[p, k]]
        for block, values, first, second in blocks:
            numbers = self.matmul.gradient_block(gradient, block)
            update([[values], [numbers], [first], [second]], steps, settings)
            self.matmul.write_copy(parameter, block, values)

    @property
    def settings(self) -> tuple[tuple[AdamSettings, ...], ...]:
        """The hyperparameters of every member and array, as the next step uses them."""
        return self._settings

    def scale_learning_rates(self, factor: float) -> None:
        """Multiply all learning rates from the next step on; moments and step counts stay.

        A step that was captured as a CUDA graph before goes on with the rates it was captured with.
        """
        self._bind([tuple(replace(s, lr=s.lr * factor) for s in member) for member in self._settings])

    def step(self, active: Sequence[Sequence[str]] | None = None) -> None:
        """Update every array once, or those of these names alone, one sequence of names for each member."""
        if active is None or all(len(names) == len(self.names) for names in active):
            self.steps += 1
            self._run(self._updates)
            return
        updates = []
        for p, names in enumerate(active):
            if not names:
                continue
            key = (p, tuple(names))
            if key not in self._partial_updates:
                self._partial_updates[key] = self._update_of(p, p, names)
            updates.append(self._partial_updates[key])
            for name in names:
                self.steps[p, self.names.index(name)] += 1
        self._run(updates)

    def _run(self, updates: Sequence[Callable[[], None]]) -> None:
        run_parallel(updates, self.steps.device)
        if not self.matmul.keeps_copies:
            self.matmul.forget(self._arrays[0])

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
            given = state[name]
            # Older versions counted the steps of a member alone.
            mine.copy_(given.unsqueeze(1) if given.dim() < mine.dim() else given)


def _run_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()


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
