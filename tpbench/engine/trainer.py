"""On CUDA: a step captured once as a graph and replayed, so that the host launches one thing per minibatch; and small
things of a step side by side."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpbench.engine.configuration import SCHEDULE, Configuration
from tpbench.engine.errors import TpbenchError, UsageError
from tpbench.engine.files import atomic_write
from tpbench.engine.methods import Method
from tpbench.engine.network import stream
from tpbench.engine.noise import device_generators, draw_noise
from tpbench.engine.precision import Products, Scratch, products_of
from tpbench.engine.problem import Problem
from tpbench.engine.protocol import (
    PRECISIONS,
    PROTOCOL_VERSION,
    EpochReport,
    MemberHistory,
    Schedule,
    Status,
    check_device_precision,
)
from tpbench.engine.step import PackState

Step = Callable[[Tensor, Tensor | None], None]
"""Trains the minibatch of these sample numbers (P, B) with this noise (P, B * units of the hidden layers), in float32;
reads nothing back to the host."""

# Steps that run as usual before the capture, so that all memory and all library handles exist.
_WARM_UP = 3
# Streams for what runs side by side: more than that a GPU hardly runs at once.
_SIDE_BY_SIDE = 16


@lru_cache(maxsize=16)
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures on a device: cuBLAS keeps working memory, up to 32 MiB, for every stream it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=16)
def _streams(device: torch.device) -> list[torch.cuda.Stream]:
    """For what runs side by side on a device."""
    return [torch.cuda.Stream(device) for _ in range(_SIDE_BY_SIDE)]  # type: ignore[no-untyped-call]


def side_by_side(tasks: Sequence[Callable[[], object]], device: torch.device) -> None:
    """Run tasks none of which touches what another writes, nor allocates: on a GPU at the same time, also in a graph.

    Whatever is launched before is done when they begin, and they are done before whatever is launched after.
    """
    # A GPU that is not there (tpbench.engine.rehearsal) has no streams.
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


class CapturedStep:
    """Replays a function of a minibatch's sample numbers and noise on a CUDA device.

    The first calls run the function as it is, on a side stream as capture demands; then it is captured. Everything it
    touches must stay where it is: parameters, optimiser states and accumulators are updated in place, and the inputs
    are copied into buffers of its own. Capturing runs nothing, so every call trains its minibatch exactly once.

    The function is given with every call and not kept: it belongs to a trainer that holds this object, and the two
    would keep each other, with all their memory on the GPU, until Python looks for cycles.

    Args:
        samples: shape of the sample numbers, (P, B).
        noise: shape of the noise, (P, B * units); None if there is none.
        device: a CUDA device.
    """

    def __init__(
        self,
        samples: tuple[int, ...],
        noise: tuple[int, ...] | None,
        device: torch.device,
    ) -> None:
        self.device = device
        self.samples = torch.empty(samples, dtype=torch.int64, device=device)
        self.noise = None if noise is None else torch.empty(noise, dtype=torch.float32, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0

    def take(self, samples: Tensor, noise: Tensor | None) -> None:
        """Copy a minibatch to where the graph looks for it."""
        self.samples.copy_(samples)
        if self.noise is not None and noise is not None:
            self.noise.copy_(noise)

    def __call__(self, step: Step, samples: Tensor, noise: Tensor | None) -> None:
        """Train one minibatch; ``step`` is the same function every time."""
        # Streams and captures belong to the current device, which need not be that of the pack.
        with torch.cuda.device(self.device):
            self._train(step, samples, noise)

    def _train(self, step: Step, samples: Tensor, noise: Tensor | None) -> None:
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


# The protocol: a pack trained epoch by epoch, what is measured after each, and which members go on.


# Samples evaluated at once: large enough for full-speed products, small enough to stay in cache.
EVALUATION_CHUNK = 1000


def dtype_of(precision: str) -> torch.dtype:
    """The type of numbers of a precision (one of :data:`tpbench.engine.PRECISIONS`)."""
    found: torch.dtype = getattr(torch, PRECISIONS[precision])
    return found


class Trainer:
    """Trains one pack from its seeds to the end of its schedule, an epoch at a time.

    Args:
        method: the learning rule.
        problem: data, network and protocol numbers.
        configurations: one per member: every hyperparameter of the method, and the schedule where it trains feedback.
        seeds: one per member.
        epochs: joint epochs.
        precision: one of :data:`PRECISIONS`.
        device: torch device.
        prune: drop members that learn nothing: ``(epoch, training error)`` above which a member is stopped (the
            authors' rule for searches); None: never.
        products: how steps multiply matrices, such as a simulation of what the device cannot do fast; None: as the
            precision says.
        capture: whether a GPU replays its steps as graphs, where the method allows it; for who compares.
        host_noise: draw the noise on the CPU whatever the device, so that every device sees the same; for who compares.
        keep: copy the parameters of every member's selected epoch into ``kept``.

    Raises:
        UsageError: members that do not share one schedule, or a precision that the device cannot do.
    """

    captured_step = CapturedStep
    """What makes a graph of a step on a GPU."""

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
        products: Products | None = None,
        capture: bool = True,
        host_noise: bool = False,
        keep: bool = False,
    ) -> None:
        if not seeds or len(configurations) != len(seeds):
            raise UsageError(f"a pack needs one configuration per seed, got {len(configurations)} and {len(seeds)}")
        schedules = {tuple(int(c.get(name, 0)) for name in SCHEDULE) for c in configurations}
        if len(schedules) > 1:
            raise UsageError(f"members of one pack must share their feedback schedule, got {sorted(schedules)}")
        pretrain, between = schedules.pop() if method.trains_feedback else (0, 0)
        self.method, self.problem = method, problem.to(device)
        self.phases = Schedule(epochs, pretrain, between)
        self.prune, self.capture = prune, capture
        self.dtype, self.device = dtype_of(precision), torch.device(device)
        if products is None:
            check_device_precision(precision, str(self.device))
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        # Always drawn in float32, so that all precisions see the same noise.
        self._noise_memory = Scratch(torch.float32, "cpu" if host_noise else device)
        self.position = 0
        self.elapsed = 0.0
        """Seconds spent so far, kept up by whoever drives the epochs; part of a checkpoint."""
        self.histories = [MemberHistory() for _ in seeds]
        self.alive = list(range(len(seeds)))
        self.keep = keep
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
            products=products or products_of(precision, device),
        )
        self._use(pack)
        self._splits = [problem.split(seed) for seed in seeds]

    @property
    def done(self) -> bool:
        return self.position == len(self.phases) or not self.alive

    def advance(self) -> EpochReport:
        """Train the next epoch of the schedule."""
        phase = self.phases[self.position]
        if phase.kind == "joint":
            self._joint_epoch()
        else:
            self._feedback_epoch()
        self.position += 1
        if self.done:
            for p in self.alive:
                self.histories[p].status = "finished"
        best = [h.at_selected("validation_error") for h in self.histories]
        known = [error for error in best if error is not None]
        said = self._warnings() if phase.kind == "joint" and phase.epoch == 0 else ()
        return EpochReport(phase, self.position, len(self.phases), min(known, default=None), said)

    def _warnings(self) -> tuple[str, ...]:
        said, idle = [], self.pack.idle_layers if self.alive else []
        if self.pack.not_finite:
            said.append(f"{self.method.title}: {self.pack.not_finite} in the first minibatch")
        if idle:
            which = f"layer{'s' * (len(idle) > 1)} {', '.join(map(str, idle))}"
            said.append(f"{self.method.title} gave hidden {which} no update in the first epoch")
        return tuple(said)

    @property
    def joint_epochs(self) -> int:
        """Joint epochs done."""
        return self.phases.joint_before(self.position)

    def stop(self, members: Iterable[int]) -> None:
        """Train these members no further; those that left the pack already are passed over."""
        self._drop({member: "stopped" for member in members if member in self.alive})

    def _minibatches(self) -> Sequence[Tensor]:
        """Sample numbers (P, b) of this epoch's minibatches; each member has its own split and its own order."""
        orders = []
        for p in self.alive:
            training = self._splits[p][0]
            order = torch.randperm(len(training), generator=self._stream(p, "order"))
            orders.append(training[order])
        return torch.split(torch.stack(orders).to(self.device), self.problem.batch_size, dim=1)

    def _stream(self, member: int, purpose: str) -> torch.Generator:
        return stream(self.pack.seeds[self.alive.index(member)], purpose, self.position)

    def _noise(self, batches: Sequence[Tensor]) -> Iterator[Tensor | None]:
        """The noise of each of these minibatches (:func:`draw_noise`); None where no feedback is trained."""
        if not self.method.trains_feedback:
            return iter([None] * len(batches))
        units = sum(self._hidden_sizes)
        draws = draw_noise([samples.shape[1] for samples in batches], units, self._generators(), self._noise_memory)
        return (noise.to(self.device) for noise in draws)

    def _generators(self) -> list[torch.Generator]:
        """What the noise of every member is drawn with, where it is drawn."""
        return device_generators([self._stream(p, "noise") for p in self.alive], self._noise_memory.device)

    @property
    def _hidden_sizes(self) -> list[int]:
        return [self.problem.architecture.sizes[i] for i in self.problem.architecture.hidden]

    def _by_layer(self, noise: Tensor) -> list[Tensor]:
        """The noise (P, B * units) of every hidden layer, (P, B, n_i)."""
        batch = noise.shape[1] // sum(self._hidden_sizes)
        parts = torch.split(noise.to(self.dtype), [batch * n for n in self._hidden_sizes], dim=1)
        return [part.view(-1, batch, n) for part, n in zip(parts, self._hidden_sizes, strict=True)]

    def _train_joint(self, samples: Tensor, noise: Tensor | None) -> None:
        """One joint minibatch; what it measures is added to the epoch's totals, on the device."""
        with self.pack.clock("batches"):
            x, y = self.problem.batch(samples, self.dtype)
        record = self.pack.joint_step(x, y, None if noise is None else self._by_layer(noise))
        self._totals["loss"] += record.losses.sum(1, dtype=torch.float64)
        self._totals["wrong"] += record.wrong.sum(1, dtype=torch.float64)
        if record.reconstruction_losses is not None:
            self._totals["reconstruction"] += record.reconstruction_losses.mean(1)

    def _train_feedback(self, samples: Tensor, noise: Tensor | None) -> None:
        """One minibatch of pure feedback training."""
        assert noise is not None
        x, _ = self.problem.batch(samples, self.dtype)
        self._totals["reconstruction"] += self.pack.feedback_step(x, self._by_layer(noise)).mean(1)

    def train_epoch(self, kind: Literal["joint", "feedback"]) -> int:
        """All minibatches of an epoch; returns how many. Nothing is read back from the device before the end."""
        for total in self._totals.values():
            total.zero_()
        step = self._train_joint if kind == "joint" else self._train_feedback
        self.pack.generators = [self._stream(p, "rule") for p in self.alive]
        batches = self._minibatches()
        draws = self._noise(batches)
        for samples in batches:
            with self.pack.clock("batches"):
                noise = next(draws)
            runner = self._captured(kind, step, samples, noise) if samples.shape[1] == self.problem.batch_size else step
            runner(samples, noise)
        return len(batches)

    @property
    def captures(self) -> bool:
        """Whether steps become CUDA graphs: on a GPU, for rules that allow it, nothing being timed or looked at."""
        if not self.capture or self.device.type != "cuda" or not self.pack.capturable:
            return False
        return not (self.pack.clock.device or self.pack.observer)

    @property
    def captured(self) -> list[str]:
        """The kinds of epoch whose step is replayed as a graph by now."""
        return [kind for kind, captured in self._graphs.items() if captured.graph is not None]

    def _captured(self, kind: str, step: Step, samples: Tensor, noise: Tensor | None) -> Step:
        """The step as a CUDA graph where that can be."""
        if not self.captures:
            return step
        if kind not in self._graphs:
            shape = None if noise is None else tuple(noise.shape)
            self._graphs[kind] = self.captured_step(tuple(samples.shape), shape, self.device)
        return partial(self._graphs[kind], step)

    def measured_joint_epoch(self) -> dict[str, Tensor]:
        """Train a joint epoch; returns what the curves get of it, by their names, (P,) each and still on the device."""
        batches, size = self.train_epoch("joint"), self.problem.training_size
        measured = {"train_loss": self._totals["loss"] / size, "train_error": self._totals["wrong"] / size}
        if self.method.trains_feedback:
            measured["reconstruction_loss"] = self._totals["reconstruction"] / batches
        measured["validation_loss"], measured["validation_error"] = self._evaluate_validation()
        measured["test_loss"], measured["test_error"] = self._evaluate_test()
        return measured

    def _joint_epoch(self) -> None:
        measured = self.measured_joint_epoch()
        # One read for everything: each waits until the device is done.
        *columns, largest = torch.stack([*measured.values(), self.pack.largest()]).tolist()
        self._record(dict(zip(measured, columns, strict=True)), [math.isfinite(number) for number in largest])

    def measured_feedback_epoch(self) -> Tensor:
        """Train an epoch of feedback alone; returns the sum of its minibatches' losses (P,), still on the device."""
        self.train_epoch("feedback")
        return self._totals["reconstruction"]

    def _feedback_epoch(self) -> None:
        rows = torch.stack([self.measured_feedback_epoch(), self.pack.largest()], dim=1).tolist()
        self._drop({p: "diverged" for p, row in zip(self.alive, rows, strict=True) if not all(map(math.isfinite, row))})

    def _record(self, measured: dict[str, list[float]], finite: list[bool]) -> None:
        """Append an epoch to the curves; members with non-finite numbers are marked and leave the pack."""
        leaving: dict[int, Status] = {}
        selected: list[tuple[int, int]] = []
        for row, p in enumerate(self.alive):
            values = {name: column[row] for name, column in measured.items()}
            history = self.histories[p]
            if not (finite[row] and all(math.isfinite(v) for v in values.values())):
                leaving[p] = "diverged"
                continue
            for name, value in values.items():
                history.curves[name].append(value)
            if history.selected_epoch == history.epochs - 1:
                selected.append((row, p))
                if self.keep:
                    self.kept[p] = self.pack.member(row)
            if self.prune and history.epochs == self.prune[0] and values["train_error"] > self.prune[1]:
                leaving[p] = "pruned"
        if selected and self._test_errors.dtype == torch.bool:
            wrong = self._test_errors[[row for row, _ in selected]].cpu().numpy()
            self.correct |= {p: ~of_member for (_, p), of_member in zip(selected, wrong, strict=True)}
        self._drop(leaving)

    def _drop(self, leaving: Mapping[int, Status]) -> None:
        if not leaving:
            return
        for p, status in leaving.items():
            self.histories[p].status = status
            if status != "diverged":
                # Runs that are given up are not stored.
                self.kept.pop(p, None)
                self.correct.pop(p, None)
        rows = [row for row, p in enumerate(self.alive) if p not in leaving]
        self.alive = [self.alive[row] for row in rows]
        if rows:
            self._use(self.pack.select(rows))

    def _use(self, pack: PackState) -> None:
        """Train this pack from now on; what was captured or counted of another goes."""
        self.pack = pack
        self._graphs: dict[str, CapturedStep] = {}
        names = ("loss", "wrong", "reconstruction")
        self._totals = {n: torch.zeros(pack.members, dtype=torch.float64, device=self.device) for n in names}

    def _evaluate_validation(self) -> tuple[Tensor, Tensor]:
        samples = torch.stack([self._splits[p][1] for p in self.alive]).to(self.device)
        chunks = torch.split(samples, EVALUATION_CHUNK, dim=1)
        loss, error, _ = self._evaluate((self.problem.batch(chunk, self.dtype) for chunk in chunks), samples.shape[1])
        return loss, error

    def _evaluate_test(self) -> tuple[Tensor, Tensor]:
        members, problem = len(self.alive), self.problem

        def chunks() -> Any:
            for start in range(0, len(problem.x_test), EVALUATION_CHUNK):
                x = problem.inputs(problem.x_test[start : start + EVALUATION_CHUNK], self.dtype)
                y = problem.y_test[start : start + EVALUATION_CHUNK]
                yield x.expand(members, *x.shape), y.expand(members, *y.shape)

        loss, error, self._test_errors = self._evaluate(chunks(), len(problem.x_test))
        return loss, error

    def _evaluate(self, chunks: Any, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate every alive member on the samples of the chunks.

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
        return loss / samples, error / samples, torch.cat(of_samples, dim=1)

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to continue: plain tensors, lists and numbers, so that it loads with ``weights_only``."""
        state = {
            "protocol": PROTOCOL_VERSION,
            "position": self.position,
            "elapsed": self.elapsed,
            "alive": list(self.alive),
            "histories": [{"curves": h.curves, "status": h.status} for h in self.histories],
            "pack": self.pack.state(),
        }
        state["correct"] = {p: torch.from_numpy(bits) for p, bits in self.correct.items()}
        return {**state, "kept": self.kept} if self.keep else state

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


# Files from which the training of a pack continues.


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
