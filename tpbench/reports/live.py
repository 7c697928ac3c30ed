"""The part of a watched page that shows what is going on now: the progress of each sweep, the workers, and failures."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from tpbench.engine import method_title
from tpbench.engine.configuration import format_value
from tpbench.engine.errors import visible
from tpbench.results import RunStore
from tpbench.results.formats import count_of
from tpbench.results.location import file_stamps
from tpbench.search.campaigns import FILE, REPRODUCTION, Campaign, SweepProgress, read_campaigns
from tpbench.search.definition import SweepFolder, SweepStatus, sweep_status
from tpbench.search.journal import format_ends
from tpbench.search.listing import stored_sweeps
from tpbench.training.progress import format_error_rate


@dataclass(frozen=True)
class Bar:
    """The progress of a search or of final runs."""

    label: str
    total: int
    done: float
    """Steps that have ended."""
    running: float
    """Steps of packs in flight, by the share of them that is trained."""
    text: str

    @property
    def widths(self) -> list[str]:
        """Widths of the two parts, in CSS."""
        return [f"{100 * min(1.0, part / max(1, self.total)):.1f}%" for part in (self.done, self.running)]


@dataclass(frozen=True)
class LiveSweep:
    """One sweep as the page shows it."""

    name: str
    title: str
    state: str
    bars: Sequence[Bar]
    best: str
    configuration: str
    problems: Sequence[str]
    command: str
    """The command that continues it; empty where none is needed or known."""


@dataclass(frozen=True)
class Live:
    """The state of all sweeps of a store, for the page."""

    sweeps: Sequence[LiveSweep]
    """Those that run, were stopped or have failed, and all of the latest campaign."""
    done: Sequence[str]
    """Titles of the others."""
    campaigns: Sequence[str]
    """A line about each campaign that runs: its packs, workers and the time left."""
    places: Sequence[str]
    """The places of packs that train now."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Numbers of sweeps by their state."""
        return Counter([*(sweep.state for sweep in self.sweeps), *["done"] * len(self.done)])

    @property
    def running(self) -> bool:
        return bool(self.counts["running"] or self.counts["waiting"])

    @property
    def headline(self) -> str:
        """One sentence about all sweeps."""
        counts = self.counts
        if not counts:
            return "No sweep has been started here yet."
        if set(counts) == {"done"}:
            return f"{'All sweeps are' if counts['done'] > 1 else 'The sweep is'} done. Nothing trains now."
        parts = [f"{counts[state]} {words}" for state, words in _STATES.items() if counts[state]]
        return f"{count_of(sum(counts.values()), 'sweep')}: {', '.join(parts)}."


_STATES = {
    "running": "running",
    "waiting": "waiting for a worker",
    "done": "done",
    "interrupted": "stopped",
    "failed": "failed",
    "damaged": "with a damaged folder",
}


class LiveReader:
    """Reads what is going on in a store, again and again; a sweep whose files are as before is not read anew.

    Args:
        store: to read.
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._known: dict[str, tuple[object, int, SweepStatus]] = {}
        self._archives: dict[str, str] = {}
        self._runs: dict[str, str] = {}
        self._losses = 0
        """How often a look missed files of runs, or found other ones in their place."""

    def read(self, now: float | None = None) -> Live:
        """Read the state of all sweeps and campaigns.

        Args:
            now: the time, in seconds since 1970; None: now.

        Raises:
            TpbenchError: the store cannot be read.
        """
        now = time.time() if now is None else now
        # Lists of archives are read once per object.
        store = RunStore(self.store.folder)
        runs, self._archives = file_stamps(store.runs, ".json"), file_stamps(store.folder, ".zip")
        self._losses += not self._runs.items() <= runs.items()
        self._runs = runs
        statuses = [self._status(sweep, store) for sweep in stored_sweeps(store)]
        campaigns = read_campaigns(store)
        return _arrange(statuses, campaigns, now)

    def _status(self, sweep: SweepFolder, store: RunStore) -> SweepStatus:
        stamps = {**file_stamps(sweep.folder, ".json"), **file_stamps(sweep.folder, ".jsonl")}
        stamps.pop(FILE, None)
        stamp = sweep.archive, self._archives, sweep.locked, stamps, self._losses
        runs = len(self._runs)
        known = self._known.get(sweep.folder.name)
        # Between two losses runs are only added, which changes nothing of a sweep that is done.
        if known is None or known[0] != stamp or (known[1] != runs and known[2].state != "done"):
            known = self._known[sweep.folder.name] = stamp, runs, sweep_status(sweep, str(store.folder), store)
        return known[2]


def _arrange(statuses: Sequence[SweepStatus], campaigns: Sequence[Campaign], now: float) -> Live:
    running = [campaign for campaign in campaigns if campaign.running]
    latest = running or list(campaigns[:1])
    named = {one.name for campaign in latest for one in campaign.state.sweeps}
    shown = [status for status in statuses if status.state != "done" or status.id in named]
    sweeps = [_sweep(status, _of(status.id, campaigns)) for status in shown]
    known = {status.id for status in statuses}
    for campaign in latest:
        if campaign.folder.folder.name == REPRODUCTION:
            sweeps += [_cell(one, campaign) for one in campaign.state.sweeps if one.name not in known]
    order = [*_STATES]
    return Live(
        sorted(sweeps, key=lambda one: order.index(one.state)),
        [_title(status) for status in statuses if status not in shown],
        [campaign.summary(now) for campaign in running],
        [place for campaign in running for place in campaign.places()],
    )


def _of(name: str, campaigns: Sequence[Campaign]) -> tuple[Campaign, SweepProgress] | None:
    """Return the latest campaign that trained a sweep, and its progress in it."""
    return next(((c, one) for c in campaigns for one in c.state.sweeps if one.name == name), None)


def _title(status: SweepStatus) -> str:
    return f"{status.workload}: {method_title(status.method)}" if status.method else status.id


def _sweep(status: SweepStatus, found: tuple[Campaign, SweepProgress] | None) -> LiveSweep:
    campaign, progress = found or (None, None)
    running = status.state == "running" and campaign is not None and campaign.running
    now = progress if running else None
    # The journal does not tell the seeds that are trained before the last one is.
    trained = max(status.seeds_done, now.trained) if now else status.seeds_done
    searching = status.searched < status.trials
    flying = now.in_flight if now else 0.0
    best = status.best if status.best is not None or now is None else now.best
    open_packs = f"; {count_of(status.packs_open, 'pack')} in flight" if running and status.packs_open else ""
    ends = f" ({format_ends({**status.ends, 'finished': 0})})".replace(" ()", "")
    tried = f"{status.searched} of {count_of(status.trials, 'configuration')}{ends}{open_packs}"
    bars = [
        Bar("search", status.trials, status.searched, flying if searching else 0.0, tried),
        _final_bar(status.seeds, trained, 0.0 if searching else flying),
    ]
    problems = campaign.problems(status.id) if campaign and status.state != "done" else []
    if status.reason:
        problems.append(status.reason)
    elif progress and progress.failure and status.state != "done":
        problems.append(progress.failure)
    state = status.state
    if now and campaign:
        # The journal tells the end of a sweep only when its campaign is over.
        training = any(pack.sweep == status.id for pack in campaign.state.packs)
        state = "done" if now.done else "failed" if now.failure else "running" if training else "waiting"
    return LiveSweep(
        status.id,
        _title(status),
        state,
        bars if status.state != "damaged" else [],
        format_error_rate(best) if best is not None else "",
        ", ".join(f"{name} {format_value(value, '.3g')}" for name, value in status.configuration.items()),
        problems,
        status.command,
    )


def _final_bar(seeds: int, trained: int, in_flight: float) -> Bar:
    return Bar("final runs", seeds, trained, in_flight, f"{trained} of {count_of(seeds, 'seed')}")


def _cell(one: SweepProgress, campaign: Campaign) -> LiveSweep:
    """Return a cell of ``tpbench reproduce``, which has final runs alone."""
    state = "done" if one.done else "failed" if one.failure else "running" if campaign.running else "interrupted"
    bar = _final_bar(one.seeds, one.trained, one.in_flight)
    problems = campaign.problems(one.name) + ([one.failure] if one.failure else [])
    command = campaign.state.command if state in ("interrupted", "failed") else ""
    best = format_error_rate(one.best) if one.best is not None else ""
    return LiveSweep(one.name, one.label, state, [bar], best, "", problems, command)


def render_live(live: Live, looked: str, problem: str = "") -> str:
    """Return the section as HTML.

    Args:
        live: what is shown.
        looked: the time when it was read, for people.
        problem: the reason why the store could not be read since.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_visible)
    template = files("tpbench.reports").joinpath("templates", "live.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(live=live, looked=looked, problem=problem, states=_STATES)


def _visible(value: object) -> object:
    """Escape control and direction characters."""
    return visible(value) if isinstance(value, str) else value


def script_of(fields: Mapping[str, Any]) -> str:
    """Return a script that hands values to the page: a page that is opened as a file may load scripts, but no data."""
    text = json.dumps(fields).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f"showLive({text});\n"
