"""Training a pack epoch by epoch: minibatches, measurements, selection, checkpoints and CUDA graphs."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpbench.engine.configuration import SCHEDULE, Configuration
from tpbench.engine.errors import TpbenchError, UsageError
from tpbench.engine.files import atomic_write
from tpbench.engine.methods import Method
from tpbench.engine.network import ConvolutionLayer, network_layers, stream
from tpbench.engine.noise import by_layer, device_generators, draw_noise
from tpbench.engine.parts import Architecture
from tpbench.engine.precision import MatmulPolicy, Workspace, matmul_policy
from tpbench.engine.problem import Problem
from tpbench.engine.protocol import (
    CURVES,
    PRECISIONS,
    PROTOCOL_VERSION,
    UNVALIDATED_CURVES,
    EpochKind,
    EpochReport,
    MemberHistory,
    Schedule,
    Status,
    check_device_precision,
)
from tpbench.engine.step import PackState

# Samples evaluated at once: large enough for full-speed products, small enough to stay in cache.
_EVALUATION_CHUNK = 1000
# The same for convolutions, whose maps are many numbers of each sample.
_EVALUATION_NUMBERS = 1 << 22

Step = Callable[[Tensor, Tensor | None], None]
"""Trains the minibatch of these sample numbers (P, B) with this noise (P, B * units of the hidden layers), in float32;
reads nothing back to the host."""

# Steps that run as usual before a CUDA graph is captured, so that all memory and all library handles exist.
_WARM_UP = 3


def evaluation_chunk(architecture: Architecture) -> int:
    """Return how many samples are evaluated at once."""
    maps = [prod(layer.before) for layer in network_layers(architecture) if isinstance(layer, ConvolutionLayer)]
    return min(_EVALUATION_CHUNK, max(1, _EVALUATION_NUMBERS // max(maps))) if maps else _EVALUATION_CHUNK


def dtype_of(precision: str) -> torch.dtype:
    """Return the type of the numbers of a precision (one of :data:`tpbench.engine.PRECISIONS`)."""
    dtype: torch.dtype = getattr(torch, PRECISIONS[precision])
    return dtype


@contextmanager
def tf32_products(device: torch.device, *, allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in the float32 products and convolutions of a GPU, settings of the process; then restore.

    torch allows it in convolutions unless it is told otherwise.
    """
    if device.type != "cuda":
        yield
        return
    settings: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [setting.allow_tf32 for setting in settings]
    for setting in settings:
        setting.allow_tf32 = allowed
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value


class CudaGraphStep:
    """Replays a step of a minibatch's sample numbers and noise as a CUDA graph.

    The host then launches one thing per minibatch. The first calls run the step as it is, on a side stream as capture
    demands; then it is captured. Everything it touches must stay where it is: parameters, optimiser states and sums
    are updated in place, and the inputs are copied into buffers of its own. Capturing runs nothing, so every call
    trains its minibatch exactly once.

    The step is given with every call and not kept: it belongs to a trainer that holds this object, and the two would
    keep each other, with all their memory on the GPU, until Python looks for cycles.

    Args:
        samples: shape of the sample numbers, (P, B).
        noise: shape of the noise, (P, B * units); None if there is none.
        device: a CUDA device.
    """

    def __init__(self, samples: tuple[int, ...], noise: tuple[int, ...] | None, device: torch.device) -> None:
        self.device = device
        self.samples = torch.empty(samples, dtype=torch.int64, device=device)
        self.noise = None if noise is None else torch.empty(noise, dtype=torch.float32, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0

    def take(self, samples: Tensor, noise: Tensor | None) -> None:
        """Copy a minibatch to where the graph reads it."""
        self.samples.copy_(samples)
        if self.noise is not None and noise is not None:
            self.noise.copy_(noise)

    def __call__(self, step: Step, samples: Tensor, noise: Tensor | None) -> None:
        """Train one minibatch; ``step`` is the same function every time."""
        # Streams and captures belong to the current device, which need not be that of the pack.
        with torch.cuda.device(self.device):
            self.take(samples, noise)
            if self.calls == _WARM_UP:
                self._capture(step)
            self.calls += 1
            if self.graph is not None:
                self.graph.replay()
                return
            side = _side_stream(self.device)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                step(self.samples, self.noise)
            torch.cuda.current_stream().wait_stream(side)

    def _capture(self, step: Step) -> None:
        """Make the graph; where a library refuses, steps go on as they are."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=_side_stream(self.device)):
                step(self.samples, self.noise)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = (str(error).strip() or "-").splitlines()[0]
            logging.getLogger(__name__).warning("the steps are not replayed as a CUDA graph: %s", reason)
            return
        self.graph = graph


@lru_cache(maxsize=16)
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream for all captures on a device: cuBLAS keeps up to 32 MiB for every stream it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Trainer:
    """Trains one pack from its seeds to the end of its schedule, an epoch at a time.

    Args:
        method: the learning rule.
        problem: data, network and protocol numbers.
        configurations: one per member: every hyperparameter of the method, and the schedule where it trains feedback.
        seeds: one per member.
        epochs: joint epochs.
        precision: one of :data:`tpbench.engine.PRECISIONS`.
        device: torch device.
        prune: drop members that learn nothing: ``(epoch, training error)`` above which a member is stopped (the
            authors' rule for searches); None: never.
        matmul: how steps multiply matrices, such as a simulation of a precision that the device does not have; None:
            as the precision demands.
        cuda_graph: a GPU replays its steps as CUDA graphs where the method allows it; False for comparisons.
        host_noise: draw the noise on the CPU, so that every device sees the same; for comparisons.
        keep: copy the parameters of every member's selected epoch into ``kept``.

    Raises:
        UsageError: members that do not share one schedule, or a precision that the device cannot do.

    Example:
        ``trainer = Trainer(METHODS["bp"], problem, [configuration], [0], epochs=5)``, then ``trainer.advance()`` until
        ``trainer.done``; ``trainer.histories[0].curves`` holds the curves.
    """

    cuda_graph_step = CudaGraphStep
    """Makes a CUDA graph of a step."""

    def __init__(
        self,
        method: Method,
        problem: Problem,
        configurations: Sequence[Configuration],
        seeds: Sequence[int],
        *,
        epochs: int,
        precision: str = "float32",
        device: torch.device | str = "cpu",
        prune: tuple[int, float] | None = None,
        matmul: MatmulPolicy | None = None,
        cuda_graph: bool = True,
        host_noise: bool = False,
        keep: bool = False,
    ) -> None:
        if not seeds or len(configurations) != len(seeds):
            raise UsageError(f"a pack needs one configuration per seed, got {len(configurations)} and {len(seeds)}")
        schedules = {tuple(int(c.get(name, 0)) for name in SCHEDULE) for c in configurations}
        if len(schedules) > 1:
            raise UsageError(f"members of one pack must share their feedback schedule, got {sorted(schedules)}")
        pretrain, between = schedules.pop() if method.trains_feedback else (0, 0)
        if matmul is None:
            check_device_precision(precision, str(torch.device(device)))
        self.method, self.problem = method, problem.to(device)
        self.phases = Schedule(epochs, pretrain, between)
        self.prune, self.cuda_graph, self.keep = prune, cuda_graph, keep
        self.precision, self.dtype, self.device = precision, dtype_of(precision), torch.device(device)
        # Always drawn in float32, so that all precisions see the same noise.
        self._noise_memory = Workspace(torch.float32, "cpu" if host_noise else device)
        self._noise_widths = method.noise_widths(problem.architecture)
        self.position = 0
        self.elapsed = 0.0
        """Seconds spent so far, set by the caller that drives the epochs; part of a checkpoint."""
        names = CURVES if problem.validation_size else UNVALIDATED_CURVES
        self.histories = [MemberHistory({name: [] for name in names}) for _ in seeds]
        self.alive = list(range(len(seeds)))
        """Members that train; row r of the pack is member ``alive[r]``."""
        self.correct: dict[int, NDArray[np.bool_]] = {}
        """By member, which test samples its network classifies correctly after the selected epoch so far, (N,). A
        member that was restored from a checkpoint of version 0.2.0 has none before its next selected epoch; none has
        where the loss classifies nothing."""
        self.kept: dict[int, dict[str, Tensor]] = {}
        """By member, its arrays after the selected epoch so far (:meth:`PackState.member`). In the host's memory: a
        GPU's may be all taken by the pack, and an epoch ends with a read anyway."""
        pack = PackState(
            method,
            problem.architecture,
            configurations,
            seeds,
            trained=problem.trained,
            loss=problem.loss,
            dtype=self.dtype,
            device=device,
            matmul=matmul or matmul_policy(precision, device),
        )
        self._use(pack)
        self._splits = [problem.split(seed) for seed in seeds]
        self._rounded_inputs: Tensor | None = None
        self._rounded_memory = Workspace(torch.bfloat16, device)

    def _use(self, pack: PackState) -> None:
        """Train this pack from now on; graphs and sums of another go."""
        self.pack = pack
        self._graphs: dict[EpochKind, CudaGraphStep] = {}
        names = ("loss", "wrong", "reconstruction")
        self._totals = {n: torch.zeros(pack.members, dtype=torch.float64, device=self.device) for n in names}

    @property
    def done(self) -> bool:
        """The schedule has ended, or no member is left."""
        return self.position == len(self.phases) or not self.alive

    @property
    def joint_epochs(self) -> int:
        """Joint epochs done."""
        return self.phases.joint_before(self.position)

    def advance(self) -> EpochReport:
        """Train the next epoch of the schedule, and record it where it is a joint one."""
        phase = self.phases[self.position]
        measured = self.train_epoch(phase.kind)
        # One read for everything: each waits until the device is done.
        *columns, largest = torch.stack([*measured.values(), self.pack.largest()]).tolist()
        self._record(phase.kind, dict(zip(measured, columns, strict=True)), largest)
        self.position += 1
        if self.done:
            for p in self.alive:
                self.histories[p].status = "finished"
        best = [error for h in self.histories if (error := h.at_selected("validation_error")) is not None]
        warnings = self._warnings() if phase.kind == "joint" and phase.epoch == 0 else ()
        return EpochReport(phase, self.position, len(self.phases), min(best, default=None), warnings)

    def train_epoch(self, kind: EpochKind) -> dict[str, Tensor]:
        """Train all minibatches of an epoch; nothing is read back from the device.

        Returns:
            The measurements of every member by name, (P,) each, on the device: those of the curves for a joint epoch;
            ``reconstruction_loss`` alone for an epoch of feedback training.
        """
        for total in self._totals.values():
            total.zero_()
        with tf32_products(self.device, allowed=self.precision == "tf32"):
            batches = self._train_minibatches(kind)
            evaluated = self._evaluate() if kind == "joint" else {}
        measured: dict[str, Tensor] = {}
        if kind == "joint":
            size = self.problem.training_size
            measured = {"train_loss": self._totals["loss"] / size, "train_error": self._totals["wrong"] / size}
        if self.method.measures_feedback:
            measured["reconstruction_loss"] = self._totals["reconstruction"] / batches
        return measured | evaluated

    def _train_minibatches(self, kind: EpochKind) -> int:
        """Train all minibatches of an epoch; return their number."""
        self.pack.generators = [self._stream(p, "rule") for p in self.alive]
        step = self._train_joint if kind == "joint" else self._train_feedback
        batches = self._minibatches()
        noise_draws = self._noise(batches)
        for samples in batches:
            with self.pack.clock("batches"):
                noise = next(noise_draws)
            full = samples.shape[1] == self.problem.batch_size
            run = self._as_cuda_graph(kind, step, samples, noise) if full else step
            run(samples, noise)
        return len(batches)

    def _train_joint(self, samples: Tensor, noise: Tensor | None) -> None:
        """Train a joint minibatch; its measurements are added to the epoch's totals, on the device."""
        with self.pack.clock("batches"):
            x, y = self._batch(samples)
        record = self.pack.joint_step(x, y, self._split_noise(noise))
        self._totals["loss"] += record.losses.sum(1, dtype=torch.float64)
        self._totals["wrong"] += record.wrong.sum(1, dtype=torch.float64)
        if record.reconstruction_losses is not None:
            self._totals["reconstruction"] += record.reconstruction_losses.mean(1)

    def _train_feedback(self, samples: Tensor, noise: Tensor | None) -> None:
        """Train the feedback alone on a minibatch."""
        x, y = self._batch(samples)
        losses = self.pack.feedback_step(x, self._split_noise(noise), y)
        if losses is not None:
            self._totals["reconstruction"] += losses.mean(1)

    def _batch(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Gather a minibatch, in bfloat16 where the step needs no more."""
        if not self.pack.takes_rounded_inputs(samples.shape[1]):
            return self.problem.batch(samples, self.dtype)
        if self._rounded_inputs is None:
            self._rounded_inputs = self.problem.rounded_inputs(self.dtype)
        return self.problem.batch(samples, self.dtype, self._rounded_inputs, self._rounded_memory)

    def _split_noise(self, noise: Tensor | None) -> list[Tensor] | None:
        """Split the noise of a minibatch by layer, one step of a feedback phase after the other."""
        if noise is None:
            return None
        return by_layer(noise, self._noise_widths * max(self.pack.noise_repeats, default=1), self.dtype)

    def _minibatches(self) -> Sequence[Tensor]:
        """Return sample numbers (P, B) of this epoch's minibatches; each member has its own split and its own order."""
        orders = []
        for p in self.alive:
            training = self._splits[p][0]
            order = torch.randperm(len(training), generator=self._stream(p, "order"))
            orders.append(training[order])
        return torch.split(torch.stack(orders).to(self.device), self.problem.batch_size, dim=1)

    def _noise(self, batches: Sequence[Tensor]) -> Iterator[Tensor | None]:
        """Draw the noise of each of these minibatches (:func:`draw_noise`); None where no feedback is trained."""
        if not self._noise_widths:
            return iter([None] * len(batches))
        sizes, width = [samples.shape[1] for samples in batches], sum(self._noise_widths)
        draws = draw_noise(sizes, width, self._generators(), self._noise_memory, self.pack.noise_repeats)
        return (noise.to(self.device) for noise in draws)

    def _generators(self) -> list[torch.Generator]:
        """Return the generators of every member's noise, on the device where it is drawn."""
        return device_generators([self._stream(p, "noise") for p in self.alive], self._noise_memory.device)

    def _stream(self, member: int, purpose: str) -> torch.Generator:
        return stream(self.pack.seeds[self.alive.index(member)], purpose, self.position)

    def _evaluate(self) -> dict[str, Tensor]:
        """Evaluate every alive member on its validation samples, where there are some, and on all test samples."""
        members, problem = len(self.alive), self.problem
        chunk = evaluation_chunk(problem.architecture)
        evaluated: dict[str, Tensor] = {}
        if problem.validation_size:
            samples = torch.stack([self._splits[p][1] for p in self.alive]).to(self.device)
            chunks = torch.split(samples, chunk, dim=1)
            loss, error, _ = self._measure(problem.batch(part, self.dtype) for part in chunks)
            evaluated = {"validation_loss": loss, "validation_error": error}
        loss, error, self._test_errors = self._measure(
            (x.expand(members, *x.shape), y.expand(members, *y.shape))
            for x, y in problem.test_chunks(chunk, self.dtype)
        )
        return {**evaluated, "test_loss": loss, "test_error": error}

    def _measure(self, chunks: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Measure every alive member on inputs (P, B, n_0) and labels (P, B).

        Returns:
            Mean loss and mean error, (P,) each, and the error of each sample, (P, N): whether it is misclassified, or
            the loss's own measure where nothing is classified.
        """
        loss = torch.zeros(len(self.alive), dtype=torch.float64, device=self.device)
        error, of_samples = torch.zeros_like(loss), []
        for x, y in chunks:
            losses, errors, _ = self.problem.loss(self.pack.propagate(x)[-1], y)
            loss += losses.sum(1, dtype=torch.float64)
            error += errors.sum(1, dtype=torch.float64)
            of_samples.append(errors)
        all_errors = torch.cat(of_samples, dim=1)
        samples = all_errors.shape[1]
        return loss / samples, error / samples, all_errors

    def _record(self, kind: EpochKind, measured: dict[str, list[float]], largest: list[float]) -> None:
        """Append a joint epoch to the curves; members with non-finite numbers are marked and leave the pack."""
        leaving: dict[int, Status] = {}
        selected: list[tuple[int, int]] = []
        for row, p in enumerate(self.alive):
            values = {name: column[row] for name, column in measured.items()}
            if not all(map(math.isfinite, [*values.values(), largest[row]])):
                leaving[p] = "diverged"
                continue
            if kind == "feedback":
                continue
            history = self.histories[p]
            for name, value in values.items():
                history.curves[name].append(value)
            if history.selected_epoch == history.epochs - 1:
                selected.append((row, p))
            if self.prune and history.epochs == self.prune[0] and values["train_error"] > self.prune[1]:
                leaving[p] = "pruned"
        self._keep_selected(selected)
        self._drop(leaving)

    def _keep_selected(self, selected: list[tuple[int, int]]) -> None:
        """Keep what the selected epoch of some members (row, member) gives: predictions, and parameters if wanted."""
        if not selected:
            return
        if self.keep:
            self.kept |= {p: self.pack.member(row) for row, p in selected}
        if self._test_errors.dtype == torch.bool:
            wrong = self._test_errors[[row for row, _ in selected]].cpu().numpy()
            self.correct |= {p: ~of_member for (_, p), of_member in zip(selected, wrong, strict=True)}

    def _warnings(self) -> tuple[str, ...]:
        """Return what is odd about the rule after the first joint epoch, a line each."""
        lines, idle = [], self.pack.idle_layers if self.alive else []
        if self.pack.non_finite:
            lines.append(f"{self.method.title}: {self.pack.non_finite} in the first minibatch")
        if idle:
            layers = f"layer{'s' * (len(idle) > 1)} {', '.join(map(str, idle))}"
            lines.append(f"{self.method.title} gave hidden {layers} no update in the first epoch")
        return tuple(lines)

    def stop(self, members: Iterable[int]) -> None:
        """Train these members no further; those that left the pack already are passed over."""
        self._drop({member: "stopped" for member in members if member in self.alive})

    def _drop(self, leaving: Mapping[int, Status]) -> None:
        """Take members out of the pack."""
        if not leaving:
            return
        for p, status in leaving.items():
            self.histories[p].status = status
            if status != "diverged":
                # Pruned and stopped runs are not stored.
                self.kept.pop(p, None)
                self.correct.pop(p, None)
        rows = [row for row, p in enumerate(self.alive) if p not in leaving]
        self.alive = [self.alive[row] for row in rows]
        if rows:
            self._use(self.pack.select(rows))

    def keep_only(self, members: Sequence[int]) -> None:
        """Forget all other members; those that stay are numbered anew, in the given order.

        Args:
            members: each once, in ascending order.
        """
        rows = [row for row, p in enumerate(self.alive) if p in members]
        if rows and len(rows) < len(self.alive):
            self._use(self.pack.select(rows))
        self.alive = [members.index(self.alive[row]) for row in rows]
        self.histories = [self.histories[p] for p in members]
        self._splits = [self._splits[p] for p in members]
        self.correct = {n: self.correct[p] for n, p in enumerate(members) if p in self.correct}
        self.kept = {n: self.kept[p] for n, p in enumerate(members) if p in self.kept}

    @property
    def uses_cuda_graphs(self) -> bool:
        """Steps become CUDA graphs: on a GPU, for rules that allow it, unless they are timed or observed."""
        if not self.cuda_graph or self.device.type != "cuda" or not self.pack.allows_cuda_graph:
            return False
        return not (self.pack.clock.device or self.pack.observer)

    @property
    def cuda_graphs(self) -> list[EpochKind]:
        """The kinds of epoch whose step is replayed as a CUDA graph by now."""
        return [kind for kind, step in self._graphs.items() if step.graph is not None]

    def _as_cuda_graph(self, kind: EpochKind, step: Step, samples: Tensor, noise: Tensor | None) -> Step:
        """Return the step as a CUDA graph where that can be."""
        if not self.uses_cuda_graphs:
            return step
        if kind not in self._graphs:
            shape = None if noise is None else tuple(noise.shape)
            self._graphs[kind] = self.cuda_graph_step(tuple(samples.shape), shape, self.device)
        return partial(self._graphs[kind], step)

    def checkpoint(self) -> dict[str, Any]:
        """Return everything needed to continue: plain tensors, lists and numbers, which load with ``weights_only``."""
        state = {
            "protocol": PROTOCOL_VERSION,
            "position": self.position,
            "elapsed": self.elapsed,
            "alive": list(self.alive),
            "histories": [
                {"curves": {name: list(values) for name, values in h.curves.items()}, "status": h.status}
                for h in self.histories
            ],
            "pack": self.pack.state(),
            "correct": {p: torch.from_numpy(bits) for p, bits in self.correct.items()},
        }
        return {**state, "kept": dict(self.kept)} if self.keep else state

    def snapshot(self) -> dict[str, Any]:
        """Return a checkpoint that further training leaves as it is: the pack's arrays are copied to the host's memory.

        What is kept of selected epochs is replaced as a whole when it changes, and needs no copy.
        """
        return {**self.checkpoint(), "pack": _copy_to_host(self.pack.state())}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue from a checkpoint of a trainer that was made with the same arguments.

        Raises:
            TpbenchError: the checkpoint belongs to another protocol version or another pack, or lacks the copies that
                are to be kept.
        """
        if checkpoint["protocol"] != PROTOCOL_VERSION or len(checkpoint["histories"]) != len(self.histories):
            raise TpbenchError("the checkpoint belongs to another protocol version or another pack")
        histories = [MemberHistory(h["curves"], h["status"]) for h in checkpoint["histories"]]
        if self.keep:
            kept = checkpoint.get("kept", {})
            wanted = {p for p, h in enumerate(histories) if h.epochs and h.status not in ("pruned", "stopped")}
            if not wanted <= set(kept):
                raise TpbenchError("the checkpoint lacks the networks that are to be kept")
            self.kept = {p: {name: values.cpu() for name, values in arrays.items()} for p, arrays in kept.items()}
        self.correct = {p: bits.cpu().numpy() for p, bits in checkpoint.get("correct", {}).items()}
        self.position, self.elapsed = checkpoint["position"], checkpoint["elapsed"]
        self.histories = histories
        self.alive = list(checkpoint["alive"])
        self._use(self.pack.select(self.alive))
        self.pack.restore(checkpoint["pack"])


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint so that a crash leaves either the old one or the new one, never half of one.

    Raises:
        TpbenchError: it cannot be written (no permission, disk full, ...); an earlier one stays.
    """
    write_checkpoint(trainer.checkpoint(), path)


def _never() -> bool:
    return False


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path, cancelled: Callable[[], bool] = _never) -> None:
    """Write a checkpoint of :meth:`Trainer.checkpoint` or :meth:`Trainer.snapshot`, as :func:`save_checkpoint` does.

    Args:
        checkpoint: what is written.
        path: the file.
        cancelled: asked while the bytes are written; once it returns True, nothing is written and an earlier checkpoint
            stays.

    Raises:
        TpbenchError: it cannot be written.
    """
    with suppress(_CancelledError), atomic_write(path) as file:
        pieces = _Pieces(file, cancelled)
        try:
            torch.save(dict(checkpoint), cast(BinaryIO, pieces))
        except RuntimeError:
            if pieces.error is None:
                raise
            raise pieces.error from None
        # What follows, up to the last byte on the disk, cannot be stopped.
        pieces.require_wanted()


class _CancelledError(Exception):
    """A write that is not wanted any more."""


class _Pieces:
    """A binary file that takes large arrays piece by piece, and can be told to stop in between.

    torch hides an error of the file behind one of its own that says nothing about it, so the first is kept.
    """

    _SIZE = 2**23

    def __init__(self, file: BinaryIO, cancelled: Callable[[], bool]) -> None:
        self.file, self.cancelled = file, cancelled
        self.error: BaseException | None = None

    def require_wanted(self) -> None:
        if self.cancelled():
            raise _CancelledError

    def write(self, data: memoryview) -> int:
        view = memoryview(data)
        try:
            for start in range(0, len(view), self._SIZE):
                self.require_wanted()
                self.file.write(view[start : start + self._SIZE])
        except BaseException as error:
            self.error = self.error or error
            raise
        return len(view)

    def flush(self) -> None:
        self.file.flush()


def _copy_to_host(state: Any) -> Any:
    """Return a state of :meth:`PackState.state` with a copy of every array."""
    if isinstance(state, Tensor):
        return state.to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {name: _copy_to_host(values) for name, values in state.items()}
    return state


def read_checkpoint(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Return the contents of a file written by :func:`write_checkpoint`, for :meth:`Trainer.restore`.

    Raises:
        TpbenchError: the file is damaged.
    """
    try:
        checkpoint = torch.load(io.BytesIO(path.read_bytes()), weights_only=True, map_location=device)
        if not isinstance(checkpoint, dict):
            raise ValueError("it holds no names")
    except Exception as error:  # torch raises many kinds for a damaged file
        raise TpbenchError(f"{path}: not a readable checkpoint ({error}); delete it to start over") from error
    return checkpoint


def load_checkpoint(trainer: Trainer, path: Path) -> None:
    """Continue from a file written by :func:`save_checkpoint`.

    Raises:
        TpbenchError: the file is damaged or belongs to something else.
    """
    trainer.restore(read_checkpoint(path, trainer.device))
