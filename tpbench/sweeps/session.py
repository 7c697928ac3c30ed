"""A session of the queue: its locks, console, trackers, Ray and nodes, and the progress that it shows."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tpbench.engine import TpbenchError, check_device_precision
from tpbench.results.location import absolute, from_here
from tpbench.search.campaigns import CampaignState, FailedAttempts, SweepProgress, TrainingPack, write_campaign
from tpbench.search.definition import SweepFolder
from tpbench.sweeps.cluster import Resources, cluster_resources, head_address, ray_running
from tpbench.sweeps.nodes import Needs, NodeFindings, SweepNeeds, ask_nodes, capable_nodes, nodes
from tpbench.sweeps.sharing import Membership
from tpbench.sweeps.sweep import Admission, Place, QueuedSweep
from tpbench.training.console import CONTINUES, interruptible, redirect_output
from tpbench.training.plan import PackSettings
from tpbench.training.progress import WARNING, Display, View
from tpbench.training.tracking import environment_warning, prepare_trackers

if TYPE_CHECKING:
    from tpbench.sweeps.scheduler import Scheduler

# Lines of standard input: the head's address, once it is known, and "done". The end of the input without it is the end
# of the driver. Signals are the driver's to handle.
_WATCHER = """
import signal, socket, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
head = ""
for line in sys.stdin:
    if line.strip() == "done":
        sys.exit()
    head = line.strip() or head
lost = False
if head:
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError):
        lost = True
what = f"the head of the cluster at {head} was lost" if lost else "its process was killed, or Ray ended it"
print(f"error: the sweep has ended: {what}; {sys.argv[1]}: {sys.argv[2]}", file=sys.stderr, flush=True)
"""


@contextmanager
def watch_driver(command: str) -> Iterator[Callable[[str], None]]:
    """Print the command that continues even if this process is ended without a chance to do so.

    Ray ends a process that has lost its cluster's head, or its own node, from within: no Python code runs any more. So
    a small process of its own waits for the end of this one, and prints unless this one ended its ``with`` block.

    Args:
        command: to continue with.

    Yields:
        A function that takes the address of the cluster's head, so that its loss is distinguished from other ends.
    """
    arguments = [sys.executable, "-I", "-S", "-c", _WATCHER, CONTINUES, command]
    watcher = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )

    def send(line: str) -> None:
        if watcher.stdin:
            with suppress(OSError, ValueError):  # the watcher was ended by hand
                print(line, file=watcher.stdin, flush=True)

    try:
        yield send
    finally:
        send("done")
        if watcher.stdin:
            with suppress(OSError):
                watcher.stdin.close()
        watcher.wait()


# Seconds between two states of a campaign on the disk.
_STATE_EVERY = 3.0


class StateFile:
    """Keeps the file that says what a campaign does now (:mod:`tpbench.search.campaigns`).

    Args:
        folder: of the campaign's first sweep.
        settings: with the command that continues it, and its device.
        sweeps: all of the campaign.
    """

    def __init__(self, folder: SweepFolder, settings: PackSettings, sweeps: Sequence[QueuedSweep]) -> None:
        self.folder, self.settings, self.sweeps = folder, settings, list(sweeps)
        self.scheduler: Scheduler | None = None
        """Knows the workers, once there are some."""
        self._begun = 0.0
        self._work = {sweep.name: sweep.untrained for sweep in sweeps}
        """By sweep, what was left at the beginning."""
        self._written = 0.0

    def write(self, *, at_once: bool = False) -> None:
        """Write the state, unless that was done a moment ago; an error is passed over, as no result depends on it."""
        now = time.time()
        if not at_once and now - self._written < _STATE_EVERY:
            return
        self._written = now
        if not self._begun and any(sweep.in_flight for sweep in self.sweeps):
            self._begun = now
        with suppress(TpbenchError, OSError):
            write_campaign(self.folder, self._state(now))

    def close(self) -> None:
        """Write the last state, in which nothing trains."""
        self.scheduler = None
        self.write(at_once=True)

    def _state(self, now: float) -> CampaignState:
        slots = list(self.scheduler.slots.values()) if self.scheduler else []
        packs = []
        for slot in slots:
            if slot.work and not slot.work[0].failure:
                sweep, pack = slot.work
                share = sweep.progress.running.get(pack.key, (0, 0.0))[1]
                place = (slot.place or Place()).name
                packs.append(
                    TrainingPack(
                        sweep=sweep.name, pack=pack.key, members=pack.members, share=min(share, 1.0), place=place
                    )
                )
        going = [sweep for sweep in self.sweeps if not sweep.failure]
        left = sum(sweep.untrained for sweep in going)
        return CampaignState(
            command=self.settings.command,
            device=self.settings.device or "cpu",
            begun=self._begun or now,
            written=now,
            workers=sum(slot.place is not None for slot in slots),
            packs=packs,
            sweeps=[self._progress_of(sweep) for sweep in self.sweeps],
            failures=self._failures(),
            work_done=max(0.0, sum(self._work[sweep.name] for sweep in going) - left),
            work_left=left,
        )

    @staticmethod
    def _progress_of(sweep: QueuedSweep) -> SweepProgress:
        search, final = sweep.search_progress, sweep.final_progress
        return SweepProgress(
            name=sweep.name,
            label=sweep.label,
            trials=search.total,
            # All of a sweep that is over: its search may have ended before.
            tried=search.total if sweep.done else search.done,
            seeds=final.total,
            trained=final.done,
            in_flight=max(0.0, sweep.progress.so_far - sweep.progress.done),
            best=sweep.best_error,
            done=sweep.done,
            failure=sweep.failure,
        )

    def _failures(self) -> list[FailedAttempts]:
        counts: Counter[tuple[str, str, str]] = Counter()
        places = {}
        for sweep in self.sweeps:
            for failure in (failure for of_pack in sweep.failures.values() for failure in of_pack):
                key = sweep.name, failure.kind, failure.message
                counts[key] += 1
                places[key] = failure.place.name
        return [
            FailedAttempts(sweep=key[0], kind=key[1], message=key[2], place=places[key], count=count)
            for key, count in counts.items()
        ]


_ALL = "all sweeps"


class ProgressReporter:
    """Shows how far the sweeps of a queue are: a bar for each that runs, and one over all.

    Args:
        view: where to show it.
        sweeps: all of the command.
        on_end: called with each sweep when it is over.
        state: a file that tells other processes the same.
    """

    def __init__(
        self,
        view: View,
        sweeps: Sequence[QueuedSweep],
        on_end: Callable[[QueuedSweep], None] = lambda sweep: None,
        state: StateFile | None = None,
    ) -> None:
        self.view, self.sweeps, self.on_end, self.state = view, list(sweeps), on_end, state
        self._tasks: dict[str, str] = {}
        """The task of the view by sweep."""
        self._over: set[str] = set()
        self._warned: set[tuple[str, str]] = set()

    def say(self, message: str) -> None:
        """Show a line that stays."""
        self.view.say(message)

    def warn(self, sweep: QueuedSweep, warnings: Sequence[str]) -> None:
        """Show warnings about a sweep's rule, each once, though every pack reports it."""
        for warning in warnings:
            if (sweep.name, warning) not in self._warned:
                self._warned.add((sweep.name, warning))
                self.say(f"{sweep.label}: {WARNING}{warning}")

    def start(self) -> None:
        """Begin to show progress, with a bar over all where there are several sweeps."""
        if len(self.sweeps) > 1:
            self.view.start(_ALL, self._total(), int(self._done()))
        self.show()

    def show(self) -> None:
        """Bring the view up to date."""
        for sweep in self.sweeps:
            self._show(sweep)
        if len(self.sweeps) > 1:
            self.view.update(_ALL, self._done(), self._total(), None)
        if self.state:
            self.state.write()

    def _show(self, sweep: QueuedSweep) -> None:
        if sweep.finished:
            self._end(sweep)
            return
        part, progress = self._part(sweep), sweep.progress
        if not (sweep.in_flight or sweep.name in self._tasks):
            return
        task = f"{sweep.label} {part}" if len(self.sweeps) > 1 else part
        if self._tasks.get(sweep.name) != task:
            self._close_search(sweep)
            self._tasks[sweep.name] = task
            self.view.start(task, progress.total, progress.done)
        self.view.update(task, progress.so_far, progress.total, self._best(sweep))

    def _close_search(self, sweep: QueuedSweep) -> None:
        """End the task of a sweep's search."""
        task = self._tasks.pop(sweep.name, None)
        if task:
            total = sweep.search_progress.total
            self.view.update(task, total, total, sweep.best_error)
            self.view.end(task)

    @staticmethod
    def _best(sweep: QueuedSweep) -> float | None:
        """Return the best error of a search beside the search; without one, that of the runs."""
        return None if sweep.final is not None and sweep.search_progress.total else sweep.best_error

    @staticmethod
    def _part(sweep: QueuedSweep) -> str:
        return "search" if sweep.final is None else "final runs"

    def _end(self, sweep: QueuedSweep) -> None:
        if sweep.name in self._over:
            return
        self._over.add(sweep.name)
        if sweep.final is not None and self._tasks.get(sweep.name, "").endswith("search"):
            self._close_search(sweep)  # all final runs were there already
        task = self._tasks.pop(sweep.name, None)
        if task:
            if not sweep.failure:
                self.view.update(task, sweep.progress.total, sweep.progress.total, self._best(sweep))
            self.view.end(task)
        if sweep.failure:
            self.say(f"{sweep.label}: failed: {sweep.failure}")
        self.on_end(sweep)

    def _total(self) -> int:
        return sum(s.search_progress.total + s.final_progress.total for s in self.sweeps)

    def _done(self) -> float:
        """Return the steps that are done; all of a sweep that is over, as a search may end early or fail."""
        return sum(
            s.search_progress.total + s.final_progress.total
            if s.finished
            else s.search_progress.so_far + s.final_progress.so_far
            for s in self.sweeps
        )


@dataclass
class Session:
    """The surroundings of a command that trains through the queue (:func:`training_session`)."""

    view: View
    settings: PackSettings
    resources: Resources
    """CPUs and GPUs of this machine, or of the connected cluster."""
    folder: SweepFolder
    """Its folder of this machine holds Ray's log and Tune's files."""
    findings: NodeFindings | None = None
    """Missing needs of a cluster's nodes, once they were asked."""
    membership: Membership | None = None
    """Its membership among the campaigns of a cluster."""

    def ask_nodes(self, sweeps: Sequence[SweepNeeds]) -> None:
        """Ask the nodes of the cluster for the needs that they lack; without a cluster, nothing is asked.

        Raises:
            UsageError: no node shares the results folder.
            TpbenchError: no node can train anything.
        """
        if self.resources.address:
            needs = Needs.of(sweeps, self.settings.data, self.settings.device)
            self.findings = ask_nodes(self.settings.results, needs, capable_nodes(self.resources.share), self.view.say)

    def train(
        self,
        sweeps: Sequence[QueuedSweep],
        admission: Admission | None = None,
        on_end: Callable[[QueuedSweep], None] = lambda sweep: None,
    ) -> None:
        """Train what is left of the sweeps; where nothing is, no Ray is started.

        Args:
            sweeps: what is trained; afterwards each is done or holds its failure.
            admission: which sweeps may begin; None: all.
            on_end: called with each sweep when it is over.
        """
        state = StateFile(self.folder, self.settings, sweeps)
        # That of an earlier session is out of date.
        state.write(at_once=True)
        reporter = ProgressReporter(self.view, sweeps, on_end, state)
        if all(sweep.finished for sweep in sweeps):
            reporter.show()
            return
        local = not self.resources.address
        if local:
            self.view.say(f"starting Ray; its log: {from_here(self.folder.log)}")
        # A cluster is connected since the session began.
        with ray_running(self.resources, self.view.say) if local else nullcontext():
            # Ray reads its environment when it is imported.
            from tpbench.sweeps.driver import run_queue

            reporter.start()
            try:
                run_queue(
                    sweeps,
                    self.resources,
                    self.folder.ray,
                    reporter,
                    admission=admission,
                    nodes=self.findings,
                    membership=self.membership,
                )
            finally:
                state.close()


def for_workers(settings: PackSettings) -> PackSettings:
    """Return settings whose paths do not depend on the current folder: Ray's workers run elsewhere."""
    data = str(Path(settings.data).resolve()) if settings.data else None
    return replace(settings, results=absolute(settings.results), data=data)


def on_device(settings: PackSettings, resources: Resources, searched_in: str | None = None) -> PackSettings:
    """Return the settings with the device that the packs get.

    Nodes of a cluster check the precisions themselves (:func:`tpbench.sweeps.nodes.missing`).

    Raises:
        UsageError: the device cannot compute in one of the precisions.
    """
    device, here = "cuda" if resources.gpus else "cpu", not resources.address
    check_device_precision(settings.precision, device, here=here)
    if searched_in:
        check_device_precision(searched_in, device, "search precision", here=here)
    return replace(settings, device=device)


@contextmanager
def training_session(
    folders: Sequence[SweepFolder],
    settings: PackSettings,
    resources: Resources,
    *,
    searched_in: str | None = None,
    progress: bool = True,
) -> Iterator[Session]:
    """Set up the surroundings of a command that trains through the queue, and take them down at the end.

    The folders are locked, Ray's output goes to the log of the first one, Ctrl-C ends with the command that continues,
    and a cluster is connected. Ray of this machine is started only where something is left to train.

    Args:
        folders: of the sweeps.
        settings: with absolute paths (:func:`for_workers`).
        resources: as they were asked for.
        searched_in: precision of the searches, if there are any.
        progress: whether anything is shown.

    Raises:
        UsageError: the device cannot compute in a precision.
        TpbenchError: a sweep is running already, or the cluster cannot be reached.
    """
    with ExitStack() as stack:
        name_head = stack.enter_context(watch_driver(settings.command))
        warnings = [stack.enter_context(folder.lock()) for folder in folders]
        stack.enter_context(interruptible(settings.command))
        stream = stack.enter_context(redirect_output(folders[0].log))
        view = stack.enter_context(Display(stream, progress=progress))
        for warning in filter(None, warnings):
            view.say(f"{WARNING}{warning}")
        settings = replace(settings, track=prepare_trackers(settings.track, view.say))
        if resources.address:
            stack.enter_context(ray_running(resources, view.say))
            name_head(head_address())
            view.say(f"cluster {resources.address}: {len(nodes())} nodes")
            if warning := environment_warning(settings.track):
                view.say(f"{WARNING}{warning}")
            asked, resources = resources, cluster_resources(resources)
            planned = max(0, asked.gpus) if resources.gpus else asked.cpus
        settings, membership = on_device(settings, resources, searched_in), None
        if resources.address:
            # Until its packs train, it needs places to measure their sizes: one for each sweep.
            wanted = min(len(folders), resources.concurrent)
            membership = stack.enter_context(Membership(resources.share, wanted, planned))
        yield Session(view, settings, resources, folders[0], membership=membership)
