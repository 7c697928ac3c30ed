"""Train one pack and publish its runs: the code that ``tpbench run`` and every Ray trial share. Needs no Ray."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tpbench.engine import MemberHistory, TpbenchError, get_method, method_source
from tpbench.results import RunDefinition, RunRecord, RunStore, provenance
from tpbench.results.budgets import DEFAULT_OBJECTIVE
from tpbench.results.location import location
from tpbench.results.networks import TrainedNetwork, has_network, keep_network, replace_training
from tpbench.results.predictions import Predictions, can_have_predictions
from tpbench.results.runs import DEFAULT_PRECISION, digest
from tpbench.training.devices import release_memory
from tpbench.training.progress import WARNING
from tpbench.training.tracking import Member, PackTracking
from tpbench.workloads import Workload, load_problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tpbench.engine import EpochReport, Trainer
    from tpbench.workloads import Dataset

# What a GPU computes in, and whether a graph is being captured, is the process's: packs of several threads take turns.
_GPU_LOCK = threading.Lock()

WORST_ERROR = 1.0
"""What a search is told of a run whose numbers became non-finite."""


@dataclass(frozen=True)
class PackPlan:
    """What to train together, in plain data so that it travels to any process.

    ``configurations`` are complete (:meth:`tpbench.workloads.Workload.complete`); there is one per seed.
    """

    workload: Workload
    method: str
    configurations: tuple[Mapping[str, float], ...]
    seeds: tuple[int, ...]
    epochs: int
    prune: bool = False
    objective: str = DEFAULT_OBJECTIVE
    """The curve whose lowest value a search minimises."""
    found: Mapping[str, Any] = field(default_factory=dict)
    """How the configurations were found (:mod:`tpbench.results.budgets`); in the runs' files, not in their names."""
    fingerprint: str = ""
    """Of the data that it must be trained on, where another process knows them."""

    def plain(self) -> dict[str, Any]:
        """The plan as plain data, which may become JSON."""
        return {**asdict(self), "workload": self.workload.plain()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> PackPlan:
        """What :meth:`plain` gave."""
        fields = {**plain, **{name: tuple(plain[name]) for name in ("configurations", "seeds")}}
        return cls(**{**fields, "workload": Workload.from_plain(plain["workload"])})


@dataclass(frozen=True)
class PackSettings:
    """How and where to train it: nothing here but the precision changes what a run is."""

    results: str
    data: str | None = None
    precision: str = DEFAULT_PRECISION
    device: str = "cpu"
    checkpoint_every: int = 5
    command: str = "tpbench"
    sweep: str | None = None
    """Name of the sweep's folder, which a process on another machine must see too; None outside sweeps."""
    offline: bool = False
    """Whether a missing data set is an error, and not downloaded before the work begins."""
    keep_networks: bool = False
    """Whether the store gets the network of each run too; runs that lack theirs are trained again for it."""
    again: bool = False
    """Whether stored runs without predictions are trained again for them; where the curves come out otherwise, the new
    run replaces the old one."""
    track: tuple[str, ...] = ()
    """Where runs are tracked besides the store, as :func:`tpbench.training.tracking.resolve_targets` says."""

    def __post_init__(self) -> None:
        # JSON knows no tuples.
        object.__setattr__(self, "track", tuple(self.track))


class StopRule(Protocol):
    """Decides which members of a pack train no further, such as :class:`tpbench.search.halving.Bracket`."""

    @property
    def name(self) -> str:
        """Names the rule: the pack's checkpoint belongs to it."""

    @property
    def rungs(self) -> list[int]:
        """Joint epochs after which it decides."""

    def stopped(self, histories: Sequence[MemberHistory], epoch: int) -> dict[int, int]:
        """The members that are stopped when so many joint epochs are done, and after how many each was."""


@dataclass
class PartStopRule:
    """A stop_rule of a whole pack, for a part of it that is trained while the others wait at the last rung."""

    stop_rule: StopRule
    part: slice
    """Of the pack's members, in their order."""
    histories: list[MemberHistory]
    """Of all members of the pack as far as they are known."""
    decided: int = 0
    """Joint epochs that all parts have done; nothing is decided beyond them."""

    @property
    def name(self) -> str:
        """Names the rule and the pack."""
        return f"{self.stop_rule.name}, part {self.part.start} to {self.part.stop} of {len(self.histories)}"

    @property
    def rungs(self) -> list[int]:
        """Joint epochs after which the parts wait for each other."""
        return self.stop_rule.rungs

    def stopped(self, histories: Sequence[MemberHistory], epoch: int) -> dict[int, int]:
        """The members of the part that are stopped, by their place in it."""
        everyone = list(self.histories)
        everyone[self.part] = histories
        out = self.stop_rule.stopped(everyone, min(epoch, self.decided))
        first, end = self.part.start, self.part.stop
        return {member - first: at for member, at in out.items() if first <= member < end}


@dataclass(frozen=True)
class Outcome:
    """How one member ended."""

    run: str
    """The run's id; it is in the store if ``status`` is ``finished`` or ``diverged``."""
    status: str
    validation_error: float
    test_error: float | None
    value: float | None = None
    """The lowest value of the objective, where that is not the validation error."""
    epochs: int | None = None
    """Joint epochs trained; None in the journals of older versions."""

    @property
    def objective(self) -> float:
        """What the search minimises; of a run that diverged the worst validation error there is, or infinite."""
        if self.value is None:
            return WORST_ERROR if self.status == "diverged" else self.validation_error
        return math.inf if self.status == "diverged" else self.value


def is_out_of_memory(error: BaseException) -> bool:
    """torch says so with a class of its own on a GPU, and with a plain RuntimeError on a CPU."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def outcome_of(run_id: str, history: MemberHistory, objective: str = DEFAULT_OBJECTIVE) -> Outcome:
    """How a member ended.

    Args:
        run_id: of its run.
        history: its curves and status.
        objective: the curve whose lowest value the search minimises.
    """
    error, other = history.at_selected("validation_error"), objective != DEFAULT_OBJECTIVE
    return Outcome(
        run_id,
        history.status,
        WORST_ERROR if error is None else error,
        history.at_selected("test_error"),
        # Of a run without any epoch it is not looked at: it diverged.
        min(history.curves.get(objective, []), default=0.0) if other else None,
        history.epochs,
    )


def _cut(history: MemberHistory, epochs: int) -> MemberHistory:
    """A member as it was when it was stopped."""
    return MemberHistory({name: values[:epochs] for name, values in history.curves.items()}, "stopped")


def define_runs(plan: PackPlan, fingerprint: str, precision: str) -> list[RunDefinition]:
    """What the members of a plan are, trained on the data of that fingerprint."""
    from tpbench.workloads.problems import split_rule

    source = method_source(plan.method)
    return [
        RunDefinition(
            plan.workload.name,
            fingerprint,
            plan.method,
            dict(configuration),
            seed,
            plan.epochs,
            precision=precision,
            method_source=source,
            workload_source=plan.workload.source,
            split=split_rule(plan.workload, seed),
        )
        for configuration, seed in zip(plan.configurations, plan.seeds, strict=True)
    ]


def require_precision(record: RunRecord, wanted: str, store: RunStore) -> None:
    """Older versions named runs of every precision alike: such a run is no answer to who asks for another precision.

    Raises:
        TpbenchError: the run was trained in another precision than is wanted.
    """
    if record.precision != wanted:
        raise TpbenchError(
            f"{store.folder} holds under the name {record.definition.id} a run of precision {record.precision} made by "
            f"an older version, where one of precision {wanted} is asked for: choose another --results"
        )


def find_run(store: RunStore, definition: RunDefinition) -> RunRecord | None:
    """The run of a store that a definition asks for; older versions left the precision out of its name.

    Raises:
        TpbenchError: what has its name was trained in another precision.
    """
    record = store.read(definition.id)
    if record:
        require_precision(record, definition.precision, store)
        return record
    if definition.precision == DEFAULT_PRECISION:
        return None
    older = store.read(replace(definition, precision=DEFAULT_PRECISION).id)
    return older if older and older.precision == definition.precision else None


def lacks_predictions(store: RunStore, record: RunRecord) -> bool:
    """Return whether a run could have predictions and the store has none of them."""
    return can_have_predictions(record) and store.predictions(record) is None


class PackJob:
    """One pack from its plan to the published runs.

    Runs that the store has are not trained again, unless their networks are to be kept and are not there (a run's file
    stays as it is, and its network is kept if the curves come out the same), or ``settings.again`` asks for predictions
    that are not there. A checkpoint is written every few epochs and removed at the end; the same plan started again
    continues from it.

    Raises:
        UsageError, TpbenchError: the data set is missing, the store cannot be written, or holds under the same name a
            run of another precision.
    """

    def __init__(
        self, plan: PackPlan, settings: PackSettings, stop_rule: StopRule | None = None, parts: int = 1
    ) -> None:
        self.plan, self.settings, self.stop_rule = plan, settings, stop_rule
        self.parts = max(1, min(parts, len(plan.seeds)))
        """How many parts the members are trained in, one after the other; more where memory does not suffice."""
        self.store = RunStore(location(settings.results))
        self.problem, self.dataset = load_problem(plan.workload, Path(settings.data) if settings.data else None)
        if plan.fingerprint and plan.fingerprint != self.dataset.fingerprint:
            raise TpbenchError(
                f"the data of {plan.workload.name} are not the same here as where the work began (fingerprints "
                f"{self.dataset.fingerprint[:8]} and {plan.fingerprint[:8]})"
            )
        self.definitions = define_runs(plan, self.dataset.fingerprint, settings.precision)
        known = {d.id: find_run(self.store, d) for d in self.definitions}
        self.finished = {run_id: record for run_id, record in known.items() if record}
        kept = settings.keep_networks
        self.without_network = {
            i for i, record in self.finished.items() if kept and not has_network(self.store, record)
        }
        """Finished runs whose networks are to be kept and are not there."""
        self.without_predictions = {
            i for i, r in self.finished.items() if settings.again and lacks_predictions(self.store, r)
        }
        """Finished runs that are trained again for their predictions."""
        again = self.without_network | self.without_predictions
        left = [d for d in self.definitions if d.id not in self.finished or d.id in again]
        # Equal definitions in one pack are trained once.
        self.missing = list({d.id: d for d in left}.values())
        self._decided = 0
        self._done_of_parts: dict[int, int] = {}

    @property
    def checkpoint_path(self) -> Path:
        what = [[d.id for d in self.missing], self.plan.prune, self.settings.precision]
        # With networks it holds more, and one begun without them cannot be continued.
        what += ["networks"] if self.settings.keep_networks else []
        name = digest([*what, *([self.stop_rule.name] if self.stop_rule else [])])[:24]
        return self.store.folder / "checkpoints" / f"{name}.pt"

    def _trainer(self) -> Trainer:
        from tpbench.engine import Trainer

        return Trainer(
            get_method(self.plan.method),
            self.problem,
            [d.configuration for d in self.missing],
            [d.seed for d in self.missing],
            epochs=self.plan.epochs,
            precision=self.settings.precision,
            device=self.settings.device,
            prune=self.plan.workload.prune if self.plan.prune else None,
            keep=self.settings.keep_networks,
        )

    def run(self, on_epoch: Callable[[EpochReport], None] | None = None) -> list[Outcome]:
        """Train what is missing; one outcome per member of the plan, in its order."""
        trained = self._train_or_split(on_epoch) if self.missing else {}
        histories = self._histories(trained)
        out = self.stop_rule.stopped(histories, self.plan.epochs) if self.stop_rule else {}
        return [
            outcome_of(self._name(d), _cut(histories[k], out[k]) if k in out else histories[k], self.plan.objective)
            for k, d in enumerate(self.definitions)
        ]

    def records(self) -> list[RunRecord | None]:
        """The runs of the plan that the store had when the job was made."""
        return [self.finished.get(d.id) for d in self.definitions]

    def _name(self, definition: RunDefinition) -> str:
        """The id under which the store has a run; older versions left the precision out of it."""
        return self.finished[definition.id].definition.id if definition.id in self.finished else definition.id

    def _histories(self, trained: Mapping[str, MemberHistory]) -> list[MemberHistory]:
        """Of all members in the order of the plan: those of the store, and those that are trained here."""
        return [self.finished[d.id].history if d.id in self.finished else trained[d.id] for d in self.definitions]

    def _train_or_split(self, on_epoch: Callable[[EpochReport], None] | None) -> dict[str, MemberHistory]:
        """Train what is missing as one pack, or in parts where the memory does not suffice."""
        while True:
            try:
                if self.parts > 1:
                    return self._train_in_parts(on_epoch)
                return dict(zip([d.id for d in self.missing], self._train(on_epoch), strict=True))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.parts >= len(self.definitions):
                    raise TpbenchError(f"not enough memory for a single run of {self.plan.method}: {error}") from error
            members, self.parts = -(-len(self.definitions) // self.parts), min(2 * self.parts, len(self.definitions))
            logging.getLogger(__name__).warning(
                "out of memory with %d members: training them in %d packs, one after the other", members, self.parts
            )
            release_memory(self.settings.device)

    def _train_in_parts(self, on_epoch: Callable[[EpochReport], None] | None) -> dict[str, MemberHistory]:
        """Train the members part by part: what they become is what they become together.

        Where a stop_rule stops members, all parts are trained to a rung before any goes on, from its checkpoint.
        """
        slices = self._slices(self.parts)
        histories = [MemberHistory() for _ in self.definitions]
        for k, definition in enumerate(self.definitions):
            if definition.id in self.finished:
                histories[k] = self.finished[definition.id].history
        self._remove_checkpoints_of_larger_parts(histories)
        over: set[int] = set()
        for rung in [*(self.stop_rule.rungs if self.stop_rule else ()), None]:
            for number, part in enumerate(slices):
                if number in over:
                    continue
                job = self._part(part, histories)
                trained = job._train(self._shared(on_epoch, number), rung) if job.missing else []
                histories[part] = job._histories(dict(zip([d.id for d in job.missing], trained, strict=True)))
                # One that has come to its end needs no checkpoint, and has none.
                if rung is None or not job.checkpoint_path.exists():
                    over.add(number)
                release_memory(self.settings.device)
            if rung is not None:
                self._decided = rung
        return {d.id: histories[k] for k, d in enumerate(self.definitions)}

    def _slices(self, parts: int) -> list[slice]:
        count = len(self.definitions)
        return [slice(k * count // parts, (k + 1) * count // parts) for k in range(parts)]

    def _remove_checkpoints_of_larger_parts(self, histories: list[MemberHistory]) -> None:
        """Remove what was begun with more members at once: it cannot be continued."""
        self.checkpoint_path.unlink(missing_ok=True)
        if not any(self.store.folder.joinpath("checkpoints").glob("*.pt")):
            return
        parts = 2
        while parts < self.parts:
            for part in self._slices(parts):
                if part not in self._slices(self.parts):
                    self._part(part, histories).checkpoint_path.unlink(missing_ok=True)
            parts *= 2

    def _part(self, part: slice, histories: list[MemberHistory]) -> PackJob:
        """The job of some members, in the order of the pack."""
        plan = replace(self.plan, configurations=self.plan.configurations[part], seeds=self.plan.seeds[part])
        stop_rule = PartStopRule(self.stop_rule, part, histories, self._decided) if self.stop_rule else None
        return PackJob(plan, self.settings, stop_rule)

    def _shared(
        self, on_epoch: Callable[[EpochReport], None] | None, number: int
    ) -> Callable[[EpochReport], None] | None:
        """What hears of a part's epochs as of epochs of the whole; every part counts as much."""
        if on_epoch is None:
            return None
        done = self._done_of_parts

        def report(epoch: EpochReport) -> None:
            done[number] = epoch.done
            on_epoch(replace(epoch, done=sum(done.values()), total=self.parts * epoch.total))

        return report

    def _stop_members(self, trainer: Trainer) -> None:
        """Let the stop_rule stop members after a joint epoch."""
        if self.stop_rule:
            ids = [d.id for d in self.missing]
            out = self.stop_rule.stopped(
                self._histories(dict(zip(ids, trainer.histories, strict=True))), trainer.joint_epochs
            )
            # Equal definitions are trained once: as long as one of them races, all do.
            racing = {d.id for k, d in enumerate(self.definitions) if k not in out}
            gone = {self.definitions[k].id for k in out} - racing
            trainer.stop(row for row, run_id in enumerate(ids) if run_id in gone)

    def _train(self, on_epoch: Callable[[EpochReport], None] | None, until: int | None = None) -> list[MemberHistory]:
        """Train what is missing to its end, or until so many joint epochs are done; then a checkpoint is there."""
        members = [Member.from_definition(d, self.dataset.label, self.plan.found) for d in self.missing]
        alone = _GPU_LOCK if self.settings.device.startswith("cuda") else nullcontext()
        with PackTracking(self.settings.track, members) as trackers:
            with alone:
                histories, report = self._train_until(on_epoch, trackers, until)
            # Only now: the store comes first, and the next pack may have the GPU.
            if not self.checkpoint_path.exists():
                trackers.finish(histories)
            if on_epoch and report and (late := trackers.warnings()):
                on_epoch(replace(report, warnings=late))
        return histories

    def _train_until(
        self, on_epoch: Callable[[EpochReport], None] | None, trackers: PackTracking, until: int | None
    ) -> tuple[list[MemberHistory], EpochReport | None]:
        """Train and publish; returns how the members ended, and what was reported last."""
        from tpbench.engine import load_checkpoint, save_checkpoint

        trainer, path, every = self._trainer(), self.checkpoint_path, self.settings.checkpoint_every
        started = time.perf_counter()
        if path.exists():
            try:
                load_checkpoint(trainer, path)
            except TpbenchError:
                # A damaged checkpoint costs its epochs, not the sweep.
                path.unlink(missing_ok=True)
                trainer = self._trainer()
            started -= trainer.elapsed
            if isinstance(self.stop_rule, PartStopRule):
                # The others have come as far meanwhile.
                self._stop_members(trainer)
        report: EpochReport | None = None
        while not trainer.done and (until is None or trainer.joint_epochs < until):
            report = trainer.advance()
            trainer.elapsed = time.perf_counter() - started
            if report.phase.kind == "joint":
                self._stop_members(trainer)
            if not trainer.done and trainer.position % every == 0:
                save_checkpoint(trainer, path)
            if not trainer.done:
                trackers.update(trainer.histories)
            if on_epoch:
                on_epoch(replace(report, warnings=(*report.warnings, *trackers.warnings())))
        if not trainer.done:
            save_checkpoint(trainer, path)
            return trainer.histories, report
        self._publish(trainer)
        path.unlink(missing_ok=True)
        return trainer.histories, report

    def _publish(self, trainer: Trainer) -> None:
        members, workload = len(self.missing), self.plan.workload
        origin = provenance(self.settings.device, self.settings.precision, self.settings.command)
        for member, (definition, history) in enumerate(zip(self.missing, trainer.histories, strict=True)):
            # A pruned or stopped run is no finished one: the sweep's journal keeps what it reached, the store does not.
            if history.status in ("finished", "diverged"):
                curves = {name: values for name, values in history.curves.items() if values}
                record = RunRecord(
                    definition,
                    self.dataset.label,
                    history.status,
                    curves,
                    wall_time_s=trainer.elapsed / members,
                    pack_members=members,
                    provenance=origin,
                    found=self.plan.found,
                    workload=workload.content() if workload.source else {},
                )
                self._store(record, trainer.correct.get(member), trainer.kept.get(member))

    def _store(self, record: RunRecord, correct: NDArray[np.bool_] | None, arrays: Mapping[str, Tensor] | None) -> None:
        """Store a member's run with its predictions and network, or add these to the run that the store has."""
        stored = self.finished.get(record.definition.id)
        new = None if correct is None else Predictions.of(record, correct)
        other = stored is not None and stored.curves_digest != record.curves_digest
        # An older version's run of another precision has another name, and is left as it is.
        if (
            stored
            and new
            and other
            and record.definition.id in self.without_predictions
            and stored.definition.id == new.run
        ):
            replace_training(self.store, stored, replace(record, found=stored.found), new)
        if arrays is not None:
            self._keep(record, arrays)
        if stored is None:
            self.store.publish(record, new)
        elif new and not other:
            self.store.add_predictions(replace(new, run=stored.definition.id))

    def _keep(self, record: RunRecord, arrays: Mapping[str, Tensor]) -> None:
        """Store a member's network, before its run: where the run is, its network is too."""
        stored = find_run(self.store, record.definition) or record
        # Bit for bit on the same machine. Of another machine's run this is not the network.
        if stored.curves == record.curves:
            keep_network(self.store, trained_network(stored, arrays, self.plan.workload, *self._input_scale))

    @cached_property
    def _input_scale(self) -> tuple[float, float]:
        return input_scale(self.plan.workload, self.dataset)


def plan_seeds(
    workload: Workload,
    method: str,
    configuration: Mapping[str, float],
    seeds: Sequence[int],
    epochs: int,
    found: Mapping[str, Any],
    fingerprint: str = "",
) -> PackPlan:
    """One configuration over several seeds, and how it was found."""
    return PackPlan(
        workload,
        method,
        (dict(configuration),) * len(seeds),
        tuple(seeds),
        epochs,
        found=found,
        fingerprint=fingerprint,
    )


# What is kept of a training beside its runs: the parameters of each run's selected epoch.


# Of the engine's arrays, by the letter that they begin with.
_NAMES = {
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
    """The name that an array of the engine has in a network's file: ``forward.1.weight`` of ``W1``."""
    found = _ARRAY.fullmatch(name)
    if not found:
        raise ValueError(f"no array of a pack is called {name!r}")
    return _NAMES[found[1]].format(found[2])


def input_scale(workload: Workload, dataset: Dataset) -> tuple[float, float]:
    """How the workload's problem normalises the data set's stored numbers: ``number * scale + shift``."""
    from tpbench.workloads.own_data import scale_and_shift

    images = dataset.arrays["x_train"]
    return scale_and_shift(workload.normalise, images.reshape(len(images), -1))


def trained_network(
    record: RunRecord, arrays: Mapping[str, Tensor], workload: Workload, scale: float, shift: float
) -> TrainedNetwork:
    """The network of a run that has a selected epoch.

    Args:
        arrays: the member's, as :meth:`tpbench.engine.step.PackState.member` names them.
        scale, shift: of the inputs (:func:`input_scale`).
    """
    d = record.definition
    epoch, validation, test = record.history.selected_epoch, record.validation_error, record.test_error
    if epoch is None or validation is None or test is None:
        raise ValueError(f"the run {d.id} has no epoch to take a network from")
    return TrainedNetwork(
        d.id,
        d.workload,
        d.method,
        d.seed,
        record.precision,
        epoch,
        validation,
        test,
        record.curves_digest,
        workload.architecture.sizes,
        scale,
        shift + 0.0,  # no -0.0
        {array_name(name): values.contiguous().numpy() for name, values in arrays.items()},
    )


def count_missing_networks(store: RunStore, records: Iterable[RunRecord | None]) -> int:
    """How many of these runs are without their networks."""
    return sum(not has_network(store, record) for record in records if record)


def format_missing_networks(count: int) -> str:
    """A warning that is due after runs were trained again for their networks."""
    runs = f"{count} run{'s are' if count != 1 else ' is'}"
    return (
        f"{WARNING}{runs} without a network still: trained again, the curves did not come out as they are stored "
        "(another machine, device or version trained them). The stored runs stay; for networks choose another --results"
    )
