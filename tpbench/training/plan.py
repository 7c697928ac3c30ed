"""The plan of a pack, its settings, and the outcomes of its members: plain data. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tpbench.engine import Configuration, MemberHistory, TpbenchError, UsageError, check_device_precision, method_source
from tpbench.engine.files import is_regular_file, user_path
from tpbench.results import RunDefinition, RunRecord, RunStore
from tpbench.results.location import location
from tpbench.results.networks import NETWORKS, has_network
from tpbench.results.opening import open_store
from tpbench.results.runs import DEFAULT_OBJECTIVE, DEFAULT_PRECISION
from tpbench.training.devices import choose_device
from tpbench.training.progress import WARNING
from tpbench.training.tracking import resolve_targets
from tpbench.workloads import Workload

if TYPE_CHECKING:
    from tpbench.options import TrainingOptions


WORST_ERROR = 1.0
"""The validation error that a search records for a run whose numbers became non-finite."""


@dataclass(frozen=True)
class PackPlan:
    """The members of a pack and how long they train.

    Plain data, so that it travels to any process. ``configurations`` are complete
    (:meth:`tpbench.workloads.Workload.complete`); there is one per seed.
    """

    workload: Workload
    method: str
    configurations: tuple[Configuration, ...]
    seeds: tuple[int, ...]
    epochs: int
    prune: bool = False
    curve: str = DEFAULT_OBJECTIVE
    """The curve whose lowest value a search minimises."""
    found: Mapping[str, Any] = field(default_factory=dict)
    """The search behind the configurations (:mod:`tpbench.results.runs`); in the runs' files, not in their ids."""
    fingerprint: str = ""
    """The fingerprint of the data that another process began with; empty: any data will do."""
    method_source: str = ""
    """The source of the rule that another process began with; empty: built in, or any will do."""
    part_name: str = ""
    """The place of the members in a larger plan: ``0 to 5 of 10``; empty: it is a whole one."""

    def part(self, members: slice) -> PackPlan:
        """Return the plan of some of the members."""
        start, stop, _ = members.indices(len(self.seeds))
        if stop - start == len(self.seeds):
            return self
        name = f"{start} to {stop} of {len(self.seeds)}"
        return replace(
            self,
            seeds=self.seeds[members],
            configurations=self.configurations[members],
            part_name=f"{self.part_name}, {name}" if self.part_name else name,
        )

    def slices(self, parts: int) -> list[slice]:
        """Return the members of each of several parts, which are as equal as can be."""
        count = len(self.seeds)
        return [slice(k * count // parts, (k + 1) * count // parts) for k in range(parts)]

    def plain(self) -> dict[str, Any]:
        """Return the plan as plain data, which may become JSON."""
        return {**asdict(self), "workload": self.workload.plain()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> PackPlan:
        """Return the plan of :meth:`plain`, also after it was JSON."""
        fields = {**plain, **{name: tuple(plain[name]) for name in ("configurations", "seeds")}}
        return cls(**{**fields, "workload": Workload.from_plain(plain["workload"])})


def plan_seeds(
    workload: Workload,
    method: str,
    configuration: Configuration,
    seeds: Sequence[int],
    epochs: int,
    search_info: Mapping[str, Any],
    fingerprint: str = "",
    method_source: str = "",
) -> PackPlan:
    """Return the plan of one configuration over several seeds.

    Args:
        workload: to train on.
        method: name of the learning rule.
        configuration: complete, as of :meth:`tpbench.workloads.Workload.complete`.
        seeds: one member each.
        epochs: joint epochs.
        search_info: the search behind the configuration (:mod:`tpbench.results.runs`).
        fingerprint: of the data that the plan must be trained on; empty: any.
        method_source: of the rule that it must be trained with; empty: any.
    """
    return PackPlan(
        workload,
        method,
        (dict(configuration),) * len(seeds),
        tuple(seeds),
        epochs,
        found=search_info,
        fingerprint=fingerprint,
        method_source=method_source,
    )


@dataclass(frozen=True)
class PackSettings:
    """Place and manner of a training; of these, the precision alone changes a run's id. Plain data."""

    results: str
    data: str | None = None
    precision: str = DEFAULT_PRECISION
    device: str = "cpu"
    checkpoint_every: int | str = "60s"
    """Between checkpoints: a time (:func:`tpbench.options.parse_duration`), or a number of epochs."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options of the command or call (:meth:`tpbench.options.Options.plain`), which runs record."""
    sweep: str | None = None
    """Name of the sweep's folder, which a process on another machine must see too; None outside sweeps."""
    offline: bool = False
    """True: a missing data set is an error. False: it is downloaded before the work begins."""
    keep_networks: bool = False
    """Store the network of each run too; stored runs without one are trained again for it."""
    again: bool = False
    """Train stored runs without predictions again for them; where the curves differ, the new run replaces the old."""
    track: tuple[str, ...] = ()
    """The trackers that get the runs besides the store (:func:`tpbench.training.tracking.resolve_targets`)."""

    def __post_init__(self) -> None:
        # JSON knows no tuples.
        object.__setattr__(self, "track", tuple(self.track))

    @classmethod
    def of(cls, options: TrainingOptions, device: str | None) -> PackSettings:
        """Check the options that hold for every pack of a command or call.

        Args:
            options: of the command.
            device: None where it is chosen later, as on a cluster; it is checked there whether it can compute in the
                precision.

        Raises:
            UsageError: there is no such device, it cannot compute in the precision, the store is a file, or a tracker
                is unknown, lacks its package, or its place makes no sense here.
        """
        chosen = "cpu" if device is None else choose_device(device)
        if device is not None:
            check_device_precision(options.precision, chosen)
        data = user_path(options.data) if options.data else None
        if data and is_regular_file(data):
            raise UsageError("this is a file, a folder is needed", parameter="data", value=options.data)
        open_store(options.results)
        given = dict(options)
        # Of one name are the options that hold for packs as they are.
        shared = {one.name: given[one.name] for one in fields(cls) if one.name in given}
        chosen_here = {
            "data": str(data) if data else None,
            "device": chosen,
            "options": options.plain(),
            "offline": options.downloads_nothing,
            "track": resolve_targets(given.get("track", ()), options.results),
        }
        return cls(**{**shared, **chosen_here})

    @property
    def data_folder(self) -> Path | None:
        """The folder of the data sets; None: the default one."""
        return Path(self.data) if self.data else None

    def obtain(self, workload: Workload) -> None:
        """Download a workload's data set if it is missing, unless nothing may be downloaded.

        Raises:
            TpbenchError: the download failed.
        """
        from tpbench.workloads import obtain

        obtain(workload, self.data_folder, offline=self.offline)

    def for_search(self, precision: str) -> PackSettings:
        """Return the settings of a search's packs, which keep no networks."""
        return replace(self, precision=precision, keep_networks=False)

    def require_writable(self) -> None:
        """Check that the store can take what is asked for.

        Raises:
            TpbenchError: it cannot.
        """
        self.store.require_writable(*[NETWORKS.folder] * self.keep_networks)

    def missing_networks(self, records: Iterable[RunRecord]) -> int:
        """Return the number of runs whose networks were to be kept and were not."""
        return count_missing_networks(self.store, records) if self.keep_networks else 0

    @property
    def store(self) -> RunStore:
        """The store that the runs go to."""
        return RunStore(location(self.results))

    @property
    def command(self) -> str:
        """The command, or call, that goes on with the work."""
        from tpbench.options import continuing, format_command

        return format_command(continuing(self.options)) if self.options else "tpbench"


class StopRule(Protocol):
    """A rule that stops members of a pack early, such as :class:`tpbench.search.brackets.Bracket`."""

    @property
    def name(self) -> str:
        """Names the rule: a checkpoint belongs to one."""

    @property
    def rungs(self) -> list[int]:
        """Joint epochs after which members may be stopped, in rising order."""

    def stopped(self, histories: Sequence[MemberHistory], epoch: int) -> dict[int, int]:
        """Return the members that are stopped by a joint epoch, and after how many epochs each was.

        Args:
            histories: of all members of the pack.
            epoch: joint epochs done.
        """


@dataclass
class PartStopRule:
    """The stop rule of a whole pack, for a part of it that trains while the others wait at the last rung."""

    stop_rule: StopRule
    part: slice
    """The part's members, by their places in the pack."""
    histories: list[MemberHistory]
    """The histories of all members of the pack, as far as they are known."""
    decided: int = 0
    """Joint epochs that all parts have done; nothing is decided beyond them."""

    @property
    def name(self) -> str:
        """Names the rule; the plan names the part."""
        return self.stop_rule.name

    @property
    def rungs(self) -> list[int]:
        """Joint epochs after which the parts wait for each other."""
        return self.stop_rule.rungs

    def stopped(self, histories: Sequence[MemberHistory], epoch: int) -> dict[int, int]:
        """Return the members of the part that are stopped, by their place in it, and after how many epochs."""
        all_histories = list(self.histories)
        all_histories[self.part] = histories
        stopped = self.stop_rule.stopped(all_histories, min(epoch, self.decided))
        first, end = self.part.start, self.part.stop
        return {member - first: at for member, at in stopped.items() if first <= member < end}


@dataclass(frozen=True)
class Outcome:
    """The end of one member's training."""

    run: str
    """The run's id; it is in the store if ``status`` is ``finished`` or ``diverged``."""
    status: str
    """``finished``, ``diverged``, ``pruned`` or ``stopped``."""
    validation_error: float
    """The error at the selected epoch, from 0 to 1."""
    test_error: float | None
    """The error at the selected epoch, from 0 to 1; None: no epoch was selected."""
    value: float | None = None
    """The lowest value of the curve that the search minimises, where that is not the validation error."""
    epochs: int | None = None
    """Joint epochs trained; None in the journals of older versions."""

    @property
    def score(self) -> float:
        """The number that the search minimises; for a run that diverged, 1 or (other curves) infinite."""
        if self.value is None:
            return WORST_ERROR if self.status == "diverged" else self.validation_error
        return math.inf if self.status == "diverged" else self.value


def outcome_of(run_id: str, history: MemberHistory, curve: str = DEFAULT_OBJECTIVE) -> Outcome:
    """Return the outcome of a member's training.

    Args:
        run_id: of its run.
        history: its curves and status.
        curve: the one whose lowest value the search minimises.
    """
    error = history.at_selected("validation_error")
    value = None
    if curve != DEFAULT_OBJECTIVE:
        # A run without any epoch diverged, and its value counts as infinite.
        value = min(history.curves.get(curve, []), default=0.0)
    return Outcome(
        run_id,
        history.status,
        WORST_ERROR if error is None else error,
        history.at_selected("test_error"),
        value,
        history.epochs,
    )


def define_runs(plan: PackPlan, fingerprint: str, precision: str) -> list[RunDefinition]:
    """Return the definitions of a plan's runs, one per member.

    Args:
        plan: the members.
        fingerprint: of the data set.
        precision: of the training.
    """
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
    """Check that a stored run has a precision; older versions named runs of every precision alike.

    Raises:
        TpbenchError: the run was trained in another precision than is wanted.
    """
    if record.precision != wanted:
        raise TpbenchError(
            f"{store.folder} holds under the name {record.definition.id} a run of precision {record.precision} made by "
            f"an older version, but one of precision {wanted} is needed: choose another --results"
        )


def find_run(store: RunStore, definition: RunDefinition) -> RunRecord | None:
    """Return the stored run of a definition, or None; older versions left the precision out of a run's name.

    Raises:
        TpbenchError: the run of this name was trained in another precision.
    """
    record = store.read(definition.id)
    if record:
        require_precision(record, definition.precision, store)
        return record
    if definition.precision == DEFAULT_PRECISION:
        return None
    older = store.read(replace(definition, precision=DEFAULT_PRECISION).id)
    return older if older and older.precision == definition.precision else None


def count_missing_networks(store: RunStore, records: Iterable[RunRecord | None]) -> int:
    """Return the number of runs whose networks the store lacks."""
    return sum(not has_network(store, record) for record in records if record)


def format_missing_networks(count: int) -> str:
    """Return the warning about runs that were trained again for their networks and still have none."""
    runs = f"{count} run{'s are' if count != 1 else ' is'}"
    return (
        f"{WARNING}{runs} without a network still: trained again, they have other curves than the stored ones "
        "(another machine, device or version). The stored runs stay; for networks choose another --results"
    )
