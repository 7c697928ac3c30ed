"""The sweep: a packed TPE search on Ray Tune, then the best configuration over all seeds as one pack."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import Any

from tpbench.engine import TpbenchError, get_method
from tpbench.results import RunStore
from tpbench.results.location import location
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.definition import SELECTION_SEED, SweepDefinition, SweepFolder
from tpbench.sweeps.journal import Journal
from tpbench.sweeps.packs import Outcome, PackJob, PackPlan, PackSettings, outcome_of, plan_seeds, require_precision
from tpbench.sweeps.progress import View
from tpbench.sweeps.spaces import SearchSpace
from tpbench.workloads import get_workload

# How often Ray restarts a pack whose process died; it continues from the pack's checkpoint. Nodes of a cluster come and
# go (spot instances), which is no fault of the pack's; errors that would come again are not raised, but reported.
_RESTARTS, _RESTARTS_ON_A_CLUSTER = 2, 50


@dataclass(frozen=True)
class SweepResult:
    """What a finished sweep found."""

    configuration: dict[str, float]
    outcomes: list[Outcome]
    """The final runs, one per seed."""
    warnings: tuple[str, ...] = ()
    """What else went wrong, and costs no run."""


class Sweep:
    """One sweep from its definition to its final runs.

    Args:
        definition, space: what is searched.
        folder: where its state is.
        journal: what has been done.
        settings: how packs are trained.
        resources: what it may use.
        view: where progress is shown.
    """

    def __init__(
        self, definition: SweepDefinition, space: SearchSpace, folder: SweepFolder, journal: Journal,
        settings: PackSettings, resources: Resources, view: View,
    ) -> None:  # fmt: skip
        self.definition, self.space, self.folder, self.journal = definition, space, folder, journal
        self.settings, self.resources, self.view = settings, resources, view
        self.store = RunStore(location(settings.results))
        self.constants = {
            **space.constants, **get_workload(definition.workload).feedback_schedule(get_method(definition.method)),
        }  # fmt: skip

    @property
    def done(self) -> bool:
        """Whether nothing is left to do: the final runs are in the store. Then no Ray is needed."""
        return self.journal.final_runs(self.store) is not None

    def run(self) -> SweepResult:
        """Search what is left to search, then train the final runs that are missing; Ray must be connected if any are.

        Raises:
            TpbenchError: no configuration learnt anything, packs failed, or the runs have another precision.
        """
        best = self.journal.best()
        if best and (known := self.store.read(best[1].run)):
            # Older versions took sweeps of every precision for one and the same.
            require_precision(known, self.definition.precision, self.store)
        if not self.done:
            self._search()
            self._final()
            shutil.rmtree(self.folder.ray, ignore_errors=True)
        records = self.journal.final_runs(self.store)
        if not records:
            raise TpbenchError(f"the sweep {self.definition.id} ended without a result; see {self.folder.log}")
        for record in records:
            require_precision(record, self.definition.precision, self.store)
        configuration = dict(records[0].definition.configuration)
        return SweepResult(configuration, [outcome_of(record) for record in records])

    def _plan(self, **changes: Any) -> PackPlan:
        d = self.definition
        plan = PackPlan(d.workload, d.method, (), (SELECTION_SEED,), d.epochs, prune=True, found=d.found("search"))
        return replace(plan, **changes)

    def _search(self) -> None:
        from ray.tune.search.hyperopt import HyperOptSearch

        from tpbench.sweeps.search import METRIC, PackedSearch

        d = self.definition

        def inner() -> HyperOptSearch:
            return HyperOptSearch(self.space.to_hyperopt(), metric=METRIC, mode="min", random_state_seed=d.search_seed)

        done = self.journal.ended_count
        self.view.start("search", d.trials, done)
        if done < d.trials:
            search = PackedSearch(inner, self.journal, trials=d.trials, pack=d.pack, lag=d.lag)
            errors = self._tune(search, self._plan(), self.resources.concurrent, "search")
            if errors and all(not pack.outcomes for pack in self.journal.packs):
                raise self._failed(f"every pack of the search failed: {errors[0]}; see {self.folder.log}", "--fresh")
        self.view.end("search")

    def _final(self) -> None:
        best, d = self.journal.best(), self.definition
        if best is None:
            raise self._failed(
                f"none of the {d.trials} configurations learnt anything ({self.journal.tally()})",
                f"more --trials, more than {d.epochs} --epochs or another --space",
            )
        self.view.say(f"best configuration of the search: validation error {100 * best[1].validation_error:.2f} %")
        configuration = {**best[0], **self.constants}
        found = d.found("final")
        job = PackJob(plan_seeds(d.workload, d.method, configuration, d.seeds, d.epochs, found), self.settings)
        if job.missing:
            config = {"pack": "final", "suggestions": [best[0]] * len(d.seeds)}
            self.view.start("final runs", d.epochs)
            errors = self._tune(config, self._plan(seeds=d.seeds, prune=False, found=found), 1, "final runs")
            self.view.end("final runs")
            if errors:
                raise TpbenchError(f"the final runs failed: {errors[0]}; see {self.folder.log}")
            job = PackJob(job.plan, self.settings)
        self.journal.finished(job.run())

    def _failed(self, reason: str, remedy: str) -> TpbenchError:
        """What to raise when the search has found nothing; the journal keeps it once no pack is left to train."""
        message = f"{reason}; start another sweep with {remedy}"
        if self.journal.ended_count >= self.definition.trials:
            self.journal.failed(message)
        return TpbenchError(message)

    def _steps(self, task: str) -> int:
        """What progress counts: configurations of a search, epochs of the final runs."""
        return self.definition.trials if task == "search" else self.definition.epochs

    def _tune(self, search: Any, plan: PackPlan, concurrent: int, task: str) -> list[str]:
        """Run Ray Tune over a searcher, or one trial of a fixed configuration; returns what went wrong."""
        from ray import tune

        from tpbench.sweeps.callback import TrialProgress
        from tpbench.sweeps.trainable import train_pack

        share = self.resources.per_pack(concurrent)
        trainable = tune.with_parameters(
            train_pack, plan=plan, settings=self.settings, constants=self.constants, threads=int(share["cpu"])
        )
        fixed = search if isinstance(search, dict) else None
        restarts = _RESTARTS_ON_A_CLUSTER if self.resources.address else _RESTARTS
        tuner = tune.Tuner(
            tune.with_resources(trainable, share),
            param_space=fixed,
            tune_config=tune.TuneConfig(
                search_alg=None if fixed else search, num_samples=1 if fixed else -1, reuse_actors=True,
                trial_name_creator=_trial_name, trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=task.replace(" ", "-"), storage_path=str(self.folder.ray.resolve()), verbose=0,
                failure_config=tune.FailureConfig(max_failures=restarts),
                callbacks=[TrialProgress(self.view, task, self._steps(task), None if fixed else self.journal)],
            ),
        )  # fmt: skip
        results = tuner.fit()
        reported = [result.metrics["failed"] for result in results if result.metrics and "failed" in result.metrics]
        return [*reported, *(_last_line(str(error)) for error in results.errors)]


def _trial_name(trial: Any) -> str:
    return f"pack-{trial.config.get('pack')}-{trial.trial_id}"


def _last_line(traceback: str) -> str:
    """The message of an exception that Ray hands on as text."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    return lines[-1].split(": ", 1)[-1] if lines else "unknown error"
