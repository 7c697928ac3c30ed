"""Tells a view how far Ray's trials are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import tune

from tpbench.search.journal import Journal
from tpbench.training.progress import View


class TrialProgress(tune.Callback):
    """Adds up the shares of the running packs and what the journal has.

    Args:
        view: where to show it.
        task: the view's name of the task.
        total: configurations of the search, or epochs of the final runs.
        journal: of a search; None: one trial is the whole task.
    """

    def __init__(self, view: View, task: str, total: int, journal: Journal | None) -> None:
        self.view, self.task, self.total, self.journal = view, task, total, journal
        self.running: dict[str, tuple[float, float | None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks to restore an experiment; sweeps are restored from their journal instead."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **_: Any
    ) -> None:
        weight = len(trial.config["suggestions"]) if self.journal else self.total
        self.running[trial.trial_id] = (weight * min(result["share"], 0.999), result.get("best"))
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.running.pop(trial.trial_id, None)
        if self.journal is None:
            self.view.update(self.task, self.total, self.total, trial.last_result.get("best"))
        else:
            self._show()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.running.pop(trial.trial_id, None)
        self.view.say(f"{trial} failed; Ray's log says why")

    def _show(self) -> None:
        best = [error for _, error in self.running.values() if error is not None]
        done = sum(share for share, _ in self.running.values())
        if self.journal:
            known = self.journal.best()
            best += [known[1].validation_error] if known else []
            done += self.journal.ended_count
        self.view.update(self.task, done, self.total, min(best, default=None))
