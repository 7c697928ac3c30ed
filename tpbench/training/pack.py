"""The training of one pack and the publication of its runs, for ``tpbench run`` and for sweeps. Needs no Ray."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench.engine import MemberHistory, TpbenchError, get_method, method_source
from tpbench.results import RunDefinition, RunRecord, RunStore, provenance
from tpbench.results.artifacts import digest
from tpbench.results.location import file_stamps
from tpbench.results.networks import TrainedNetwork, has_network, save_network
from tpbench.results.runs import Predictions
from tpbench.training.devices import release_memory
from tpbench.training.plan import (
    Outcome,
    PackPlan,
    PackSettings,
    PartStopRule,
    StopRule,
    define_runs,
    find_run,
    outcome_of,
)
from tpbench.training.tracking import Member, PackTracking
from tpbench.workloads import Workload, load_problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tpbench.engine import EpochReport, Trainer
    from tpbench.engine.protocol import Status
    from tpbench.workloads import Dataset

# The precision of a GPU's products and the capture of a CUDA graph hold for the whole process: packs of several threads
# take turns.
_GPU_LOCK = threading.Lock()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out.

    torch raises a class of its own on a GPU, and a plain RuntimeError on a CPU.
    """
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _cut(history: MemberHistory, epochs: int, status: Status = "stopped") -> MemberHistory:
    """Return a member's history up to the epoch at which it was stopped or pruned."""
    return MemberHistory({name: values[:epochs] for name, values in history.curves.items()}, status)


def lacks_predictions(store: RunStore, record: RunRecord) -> bool:
    """Return whether a run could have predictions and the store has none of them."""
    # One that diverged in its first epoch has no epoch to take them from.
    return record.history.selected_epoch is not None and store.predictions(record) is None


class PackJob:
    """The training of one pack, from its plan to the published runs.

    Stored runs are trained again in two cases only. With ``settings.keep_networks``, where the network is missing: the
    run's file stays as it is, and the network is stored if the curves come out the same. With ``settings.again``, where
    the predictions are missing. Checkpoints are written in the background and removed at the end; a job of the same
    plan continues from the last one.

    Args:
        plan: the members to train.
        settings: how and where they are trained.
        stop_rule: stops members early; None: all reach the last epoch.
        parts: how many parts the members are trained in, one after the other; more where memory does not suffice.
        clock: returns seconds; checkpoints and the runs' times depend on it.

    Raises:
        UsageError, TpbenchError: the data set is missing or another one than the plan names, the store cannot be
            written, or holds under the same name a run of another precision.
    """

    def __init__(
        self,
        plan: PackPlan,
        settings: PackSettings,
        stop_rule: StopRule | None = None,
        parts: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.plan, self.settings, self.stop_rule, self.clock = plan, settings, stop_rule, clock
        self.parts = max(1, min(parts, len(plan.seeds)))
        """The number of parts that are trained one after the other; more where memory does not suffice."""
        self.store = settings.store
        self.problem, self.dataset = load_problem(plan.workload, settings.data_folder)
        if plan.fingerprint and plan.fingerprint != self.dataset.fingerprint:
            raise TpbenchError(
                f"the data of {plan.workload.name} are not the same here as where the work began (fingerprints "
                f"{self.dataset.fingerprint[:8]} and {plan.fingerprint[:8]})"
            )
        if plan.method_source and plan.method_source != (here := method_source(plan.method)):
            raise TpbenchError(
                f"the rule {plan.method} is not the same here as where the work began ({here} and "
                f"{plan.method_source}): it was edited meanwhile, or another version is installed"
            )
        self._compare_with_store()

    def _compare_with_store(self) -> None:
        """Find out which runs of the plan the store has, and which are to be trained."""
        self.definitions = define_runs(self.plan, self.dataset.fingerprint, self.settings.precision)
        stored = {d.id: find_run(self.store, d) for d in self.definitions}
        self.finished = {run_id: record for run_id, record in stored.items() if record}
        """Runs of the plan that the store has, by the ids of their definitions."""
        self.without_network: set[str] = set()
        """Finished runs that are trained again for their networks."""
        self.without_predictions: set[str] = set()
        """Finished runs that are trained again for their predictions."""
        if self.settings.keep_networks:
            self.without_network = {i for i, record in self.finished.items() if not has_network(self.store, record)}
        if self.settings.again:
            self.without_predictions = {i for i, r in self.finished.items() if lacks_predictions(self.store, r)}
        done = self.finished.keys() - self.without_network - self.without_predictions
        # Equal definitions in one pack are trained once.
        self.missing = list({d.id: d for d in self.definitions if d.id not in done}.values())

    def with_plan(self, plan: PackPlan, stop_rule: StopRule | None = None) -> PackJob:
        """Return the job of another plan on the same data, as the store is now; the data are not read again."""
        job = copy(self)
        job.plan, job.stop_rule, job.parts = plan, stop_rule, 1
        job._compare_with_store()
        return job

    @property
    def checkpoint_path(self) -> Path:
        """The file of the checkpoint; its name is a hash of the plan, not of the runs that are missing by now."""
        return self._checkpoint_of(self.definitions, self.plan.part_name)

    def part_path(self, part: slice) -> Path:
        """Return the file of the checkpoint of some members that train without the others."""
        return self._checkpoint_of(self.definitions[part], self.plan.part(part).part_name)

    def _checkpoint_of(self, definitions: Sequence[RunDefinition], part_name: str) -> Path:
        content: list[Any] = [[d.id for d in definitions], self.plan.prune, self.settings.precision]
        # With networks a checkpoint holds more, and one begun without them cannot be continued.
        content += ["networks"] if self.settings.keep_networks else []
        content += [self.stop_rule.name] if self.stop_rule else []
        # Runs that were begun by themselves are no reason to train others in parts.
        content += [part_name] if part_name else []
        return self.store.folder / "checkpoints" / f"{digest(content)[:24]}.pt"

    def checkpoint_names(self) -> Set[str]:
        """Return the names of all checkpoint files of the store, of any pack."""
        return file_stamps(self.store.folder / "checkpoints", ".pt").keys()

    def run(self, on_epoch: Callable[[EpochReport], None] | None = None) -> list[Outcome]:
        """Train what is missing, and return one outcome per member of the plan, in its order.

        Args:
            on_epoch: called after every epoch.

        Raises:
            TpbenchError: memory does not suffice for a single run, or the store cannot be written.
        """
        trained = self._train_missing(on_epoch) if self.missing else {}
        self.remove_checkpoints()
        histories = self._histories(trained)
        stopped = self.stop_rule.stopped(histories, self.plan.epochs) if self.stop_rule else {}
        for member, epoch in stopped.items():
            histories[member] = _cut(histories[member], epoch)
        return [
            outcome_of(self._stored_id(definition), history, self.plan.curve)
            for definition, history in zip(self.definitions, histories, strict=True)
        ]

    def records(self) -> list[RunRecord | None]:
        """Return the runs of the plan that the store had when the job was made; None where it had none."""
        return [self.finished.get(d.id) for d in self.definitions]

    def _stored_id(self, definition: RunDefinition) -> str:
        """Return the id under which the store has a run; older versions left the precision out of it."""
        return self.finished[definition.id].definition.id if definition.id in self.finished else definition.id

    def _histories(self, trained: Mapping[str, MemberHistory]) -> list[MemberHistory]:
        """Return the histories of all members in the order of the plan.

        Args:
            trained: those that were trained here, by id; the store has the others.
        """
        return [self._stored_history(d.id) if d.id in self.finished else trained[d.id] for d in self.definitions]

    def _stored_history(self, run_id: str) -> MemberHistory:
        """Return the history of a stored run as if the plan had trained it: pruned where it would have been."""
        history = self.finished[run_id].history
        epochs, error = self.plan.workload.prune
        errors = history.curves.get("train_error", ())
        pruned = self.plan.prune and len(errors) >= epochs and errors[epochs - 1] > error
        return _cut(history, epochs, "pruned") if pruned else history

    def _by_id(self, histories: Sequence[MemberHistory]) -> dict[str, MemberHistory]:
        """Return histories of the missing runs by the runs' ids."""
        return dict(zip([d.id for d in self.missing], histories, strict=True))

    # Memory: a pack that does not fit is trained in parts.

    def _train_missing(self, on_epoch: Callable[[EpochReport], None] | None) -> dict[str, MemberHistory]:
        """Train the missing runs at once, or in twice as many parts as long as memory runs out."""
        count = len(self.definitions)
        self.parts = max(self.parts, self._parts_begun())
        while True:
            try:
                return self._train_in_parts(on_epoch) if self.parts > 1 else self._by_id(self._train(on_epoch))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.parts >= count:
                    raise TpbenchError(f"not enough memory for a single run of {self.plan.method}: {error}") from error
            # Outside the handler: the error holds the trainer that failed, and its memory is needed.
            members, self.parts = -(-count // self.parts), min(2 * self.parts, count)
            logging.getLogger(__name__).warning(
                "out of memory with %d members: training them in %d packs, one after the other", members, self.parts
            )
            release_memory(self.settings.device)

    def _parts_begun(self) -> int:
        """Return in how many parts another process has begun to train the members: 1 if not in parts."""
        there = self.checkpoint_names()
        if not there or self.checkpoint_path.name in there:
            return 1
        begun = (n for n in self._numbers() if any(self.part_path(part).name in there for part in self.plan.slices(n)))
        return next(begun, 1)

    def _train_in_parts(self, on_epoch: Callable[[EpochReport], None] | None) -> dict[str, MemberHistory]:
        """Train the members part by part, with the same results as together.

        Where members may be stopped, all parts are trained to a rung before any goes on, from its checkpoint.
        """
        histories = [MemberHistory() for _ in self.definitions]
        for k, definition in enumerate(self.definitions):
            if definition.id in self.finished:
                histories[k] = self._stored_history(definition.id)
        self.remove_checkpoints(keep=self.parts)
        # Each part's own epochs, which are reported as epochs of the whole; every part counts as much.
        done: dict[int, int] = {}

        def report(number: int, epoch: EpochReport) -> None:
            done[number] = epoch.done
            if on_epoch:
                on_epoch(replace(epoch, done=sum(done.values()), total=self.parts * epoch.total))

        running, decided = dict(enumerate(self.plan.slices(self.parts))), 0
        for rung in [*(self.stop_rule.rungs if self.stop_rule else ()), None]:
            for number, part in list(running.items()):
                job = self._part(part, histories, decided)
                trained = job._train(partial(report, number), rung) if job.missing else []
                histories[part] = job._histories(job._by_id(trained))
                # A part that has come to its end needs no checkpoint, and has none.
                if not job.checkpoint_path.exists():
                    del running[number]
                release_memory(self.settings.device)
            decided = rung or decided
        return {d.id: histories[k] for k, d in enumerate(self.definitions)}

    def _part(self, part: slice, histories: list[MemberHistory], decided: int = 0) -> PackJob:
        """Return the job of some members, in the order of the pack.

        Args:
            part: of the plan's members.
            histories: of all members, as far as they are known.
            decided: joint epochs that all parts have done.
        """
        return self.with_plan(
            self.plan.part(part), PartStopRule(self.stop_rule, part, histories, decided) if self.stop_rule else None
        )

    def remove_checkpoints(self, keep: int = 0) -> None:
        """Remove the checkpoints of the plan and of its parts, but for those of so many parts: none continues them."""
        if not (there := self.checkpoint_names()):
            return
        paths = {self.checkpoint_path, *(self.part_path(part) for n in self._numbers() for part in self.plan.slices(n))}
        for path in paths - {self.part_path(part) for part in self.plan.slices(keep)}:
            if path.name in there:
                path.unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        """Return the numbers of parts that members are trained in where memory runs out: twice as many each time."""
        count = len(self.definitions)
        doubled = [2**k for k in range(1, count.bit_length()) if 2**k < count]
        return [*doubled, count] if count > 1 else []

    # One pack: the loop over its epochs.

    def _train(self, on_epoch: Callable[[EpochReport], None] | None, until: int | None = None) -> list[MemberHistory]:
        """Train the missing runs at once, and return their histories.

        Args:
            on_epoch: called after every epoch.
            until: joint epochs after which the training pauses with a checkpoint; None: train to the end.
        """
        members = [Member.from_definition(d, self.dataset.label, self.plan.found) for d in self.missing]
        lock = _GPU_LOCK if self.settings.device.startswith("cuda") else nullcontext()
        with PackTracking(self.settings.track, members) as trackers:
            with lock:
                histories, report = self._train_until(on_epoch, trackers, until)
            # Outside the lock: the runs are stored, and the next pack may have the GPU meanwhile.
            if not self.checkpoint_path.exists():
                trackers.finish(histories)
            if on_epoch and report and (late := trackers.warnings()):
                on_epoch(replace(report, warnings=late))
        return histories

    def _train_until(
        self, on_epoch: Callable[[EpochReport], None] | None, trackers: PackTracking, until: int | None
    ) -> tuple[list[MemberHistory], EpochReport | None]:
        """Train, publish at the end, and return the histories and the last report."""
        from tpbench.engine.trainer import write_checkpoint
        from tpbench.training.checkpoints import CheckpointWriter

        started, path, report = self.clock(), self.checkpoint_path, None
        trainer = self._resumed_trainer()
        started -= trainer.elapsed
        names = [d.id for d in self.missing]
        with CheckpointWriter(path, self.settings.checkpoint_every, self.clock, names) as writer:
            while not trainer.done and (until is None or trainer.joint_epochs < until):
                report = trainer.advance()
                trainer.elapsed = self.clock() - started
                if report.phase.kind == "joint":
                    self._stop_members(trainer)
                if not trainer.done:
                    writer.after_epoch(trainer)
                    trackers.update(trainer.histories)
                if on_epoch:
                    on_epoch(replace(report, warnings=(*report.warnings, *trackers.warnings())))
        # Nothing is written from here on: no checkpoint appears after the one that is removed.
        if trainer.done:
            self._publish(trainer)
            path.unlink(missing_ok=True)
        else:
            write_checkpoint({**trainer.checkpoint(), "names": names}, path)
        return trainer.histories, report

    def _trainer(self, definitions: Sequence[RunDefinition]) -> Trainer:
        """Return a trainer of runs of the plan, before the first epoch."""
        from tpbench.engine import Trainer

        return Trainer(
            get_method(self.plan.method),
            self.problem,
            [d.configuration for d in definitions],
            [d.seed for d in definitions],
            epochs=self.plan.epochs,
            precision=self.settings.precision,
            device=self.settings.device,
            prune=self.plan.workload.prune if self.plan.prune else None,
            keep=self.settings.keep_networks,
        )

    def _resumed_trainer(self) -> Trainer:
        """Return a trainer of the missing runs where the checkpoint left it, or at the beginning without one."""
        from tpbench.engine.trainer import read_checkpoint

        if not self.checkpoint_path.exists():
            return self._trainer(self.missing)
        try:
            checkpoint = read_checkpoint(self.checkpoint_path, self.settings.device)
            # Some of its runs may have been stored since; a run that it lacks begins anew, and the others with it.
            of_name = {d.id: d for d in self.definitions}
            names = [str(name) for name in checkpoint.get("names", ())]
            if not {d.id for d in self.missing} <= set(names) <= set(of_name):
                raise TpbenchError(f"{self.checkpoint_path}: of other runs")
            trainer = self._trainer([of_name[name] for name in names])
            trainer.restore(checkpoint)
            trainer.keep_only([names.index(d.id) for d in self.missing])
            # A run's time is its share of its pack's.
            trainer.elapsed *= len(self.missing) / len(names)
        except TpbenchError:
            # A damaged checkpoint costs its epochs, not the sweep.
            self.checkpoint_path.unlink(missing_ok=True)
            return self._trainer(self.missing)
        if isinstance(self.stop_rule, PartStopRule):
            # The other parts have come as far meanwhile.
            self._stop_members(trainer)
        return trainer

    def _stop_members(self, trainer: Trainer) -> None:
        """Stop the members that the rule stops after this joint epoch."""
        if self.stop_rule:
            histories = self._histories(self._by_id(trainer.histories))
            stopped = self.stop_rule.stopped(histories, trainer.joint_epochs)
            # Equal definitions are trained once: as long as one of them continues, all do.
            continuing = {d.id for k, d in enumerate(self.definitions) if k not in stopped}
            trainer.stop(row for row, d in enumerate(self.missing) if d.id not in continuing)

    # The store: runs, predictions, networks.

    def _publish(self, trainer: Trainer) -> None:
        """Store the members that came to an end; a sweep's journal keeps what pruned and stopped ones reached."""
        members, workload = len(self.missing), self.plan.workload
        origin = provenance(self.settings.device, self.settings.precision, self.settings.options)
        for member, (definition, history) in enumerate(zip(self.missing, trainer.histories, strict=True)):
            if history.status in ("finished", "diverged"):
                # Also without any epoch, a run without a validation set lacks the validation curves.
                named = not (history.epochs or history.validated)
                curves = {name: values for name, values in history.curves.items() if values or named}
                record = RunRecord(
                    definition,
                    self.dataset.label,
                    history.status,
                    curves,
                    wall_time_s=trainer.elapsed / members,
                    pack_members=members,
                    provenance=origin,
                    search_info=self.plan.found,
                    workload=workload.content() if workload.source else {},
                )
                self._store(record, trainer.correct.get(member), trainer.kept.get(member))

    def _store(self, record: RunRecord, correct: NDArray[np.bool_] | None, arrays: Mapping[str, Tensor] | None) -> None:
        """Store a member's run with its predictions and network, or add these to the run that the store has.

        Args:
            record: the run.
            correct: of shape (test samples,), True where the selected epoch's network is right; None: not known.
            arrays: the parameters of the selected epoch by name; None: no network is stored.
        """
        stored = self.finished.get(record.definition.id)
        predictions = None if correct is None else Predictions.of(record, correct)
        differs = stored is not None and stored.curves_digest != record.curves_digest
        if (
            stored
            and predictions
            and differs
            and record.definition.id in self.without_predictions
            # An older version's run of another precision has another name, and is left as it is.
            and stored.definition.id == predictions.run
        ):
            self.store.replace_run(stored, replace(record, search_info=stored.search_info), predictions)
        if arrays is not None:
            self._store_network(record, arrays)
        if stored is None:
            self.store.publish(record, predictions)
        elif predictions and not differs:
            self.store.add_predictions(replace(predictions, run=stored.definition.id))

    def _store_network(self, record: RunRecord, arrays: Mapping[str, Tensor]) -> None:
        """Store a member's network, before its run: where the run is, its network is too."""
        stored = find_run(self.store, record.definition) or record
        # Curves are equal bit for bit on the same machine. To another machine's run this network does not belong.
        if stored.curves == record.curves:
            save_network(self.store, trained_network(stored, arrays, self.plan.workload, *self._input_scale))

    @cached_property
    def _input_scale(self) -> tuple[float, float]:
        return input_scale(self.plan.workload, self.dataset)


# Names in a network's file, by the letter that an array of the engine begins with.
_NETWORK_NAMES = {
    "W": "forward.{}.weight",
    "b": "forward.{}.bias",
    "Q": "feedback.{}.weight",
    "c": "feedback.{}.bias",
    "S": "feedback.{}.recurrent",
    "R": "feedback.random.weight",
    "d": "feedback.random.bias",
}
_ARRAY = re.compile(r"([A-Za-z])([0-9]*)")


def array_name(name: str) -> str:
    """Return the name that an array of the engine has in a network's file: ``forward.1.weight`` of ``W1``.

    Raises:
        ValueError: the engine has no such array.
    """
    match = _ARRAY.fullmatch(name)
    if not match:
        raise ValueError(f"no array of a pack is called {name!r}")
    return _NETWORK_NAMES[match[1]].format(match[2])


def input_scale(workload: Workload, dataset: Dataset) -> tuple[float, float]:
    """Return scale and shift of the inputs: a network gets ``scale * number + shift`` of each stored number."""
    from tpbench.workloads.own_data import scale_and_shift

    images = dataset.arrays["x_train"]
    return scale_and_shift(workload.normalise, images.reshape(len(images), -1))


def trained_network(
    record: RunRecord, arrays: Mapping[str, Tensor], workload: Workload, scale: float, shift: float
) -> TrainedNetwork:
    """Return the network of a run's selected epoch, as the store takes it.

    Args:
        record: the run.
        arrays: the member's, as :meth:`tpbench.engine.step.PackState.member` names them.
        workload: of the run.
        scale, shift: of the inputs (:func:`input_scale`).

    Raises:
        ValueError: the run has no selected epoch.
    """
    d = record.definition
    epoch, test = record.history.selected_epoch, record.test_error
    if epoch is None or test is None:
        raise ValueError(f"the run {d.id} has no epoch to take a network from")
    return TrainedNetwork(
        d.id,
        d.workload,
        d.method,
        d.seed,
        record.precision,
        epoch,
        record.validation_error,
        test,
        record.curves_digest,
        workload.architecture.sizes,
        scale,
        shift + 0.0,  # no -0.0
        {array_name(name): values.contiguous().numpy() for name, values in arrays.items()},
        convolutions=workload.convolutions,
        image=workload.architecture.image,
    )
