"""Sweeps as jobs of a Ray cluster, through Ray's Jobs API: submit, status, logs, stop."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import tpbench
from tpbench.engine import TpbenchError, UsageError, unknown
from tpbench.engine.files import user_path
from tpbench.results.runs import commit
from tpbench.sweeps.cluster import first_sentence, prepare_environment, require_cluster_path
from tpbench.training.tracking import TRACKERS, Target, parse_target
from tpbench.workloads import Workload, get_workload, is_file

# The names that files of the user's have in the folder of the job that they go with: by option, and of workloads.
_CARRIED = {"--space": "space{}.yaml", "--start": "start{}.yaml"}
_WORKLOAD = "workload-{}.yaml"

# Seconds for which a cluster that has just been started may lack the process that starts jobs.
_AGENTS = 60.0
_ADDRESS = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(:[0-9]{1,5})?/?")


def check_jobs_address(address: str) -> str:
    """Return the address of a cluster's dashboard if it is one.

    Raises:
        UsageError: it is no http address.
    """
    if not _ADDRESS.fullmatch(address):
        raise UsageError(
            "write the address of the cluster's dashboard, http://HEAD:8265", parameter="address", value=address
        )
    return address


@contextmanager
def _errors(address: str) -> Iterator[None]:
    """Raise Ray's exceptions as one line. They may quote a request, but not its headers, in which the token travels."""
    try:
        yield
    except TpbenchError:
        raise
    except Exception as error:
        raise TpbenchError(f"{address}: {first_sentence(error)}") from error


def _client(address: str) -> Any:
    check_jobs_address(address)
    prepare_environment()
    from ray.job_submission import JobSubmissionClient

    with _errors(address):
        return JobSubmissionClient(address)


@contextmanager
def _code(files: Mapping[str, Path], workloads: Sequence[Workload]) -> Iterator[Path]:
    """Make a folder with this installation's code, files and workloads, which the cluster's nodes get."""
    package = Path(tpbench.__file__).parent
    with tempfile.TemporaryDirectory(prefix="tpbench-code-") as name:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, Path(name) / "tpbench", ignore=ignore)
        spaces = package.parent / "search_spaces"
        if spaces.is_dir():
            shutil.copytree(spaces, Path(name) / "search_spaces", ignore=ignore)
        for carried, file in files.items():
            shutil.copyfile(file, Path(name) / carried)
        for number, workload in enumerate(workloads):
            (Path(name) / _WORKLOAD.format(number)).write_text(workload.to_yaml(), encoding="utf-8")
        yield Path(name)


def carried_files(spaces: Sequence[str], start: str | None) -> dict[str, Path]:
    """Return the files of ``--space`` and ``--start`` by their names in the job's folder."""
    given = [("--space", number, file) for number, file in enumerate(spaces)]
    given += [("--start", 0, start)] if start and start != "published" else []
    return {_carried_name(option, number): user_path(file) for option, number, file in given}


def _carried_name(option: str, number: int) -> str:
    return _CARRIED[option].format(f"-{number}" if number else "")


def workloads_of_files(text: str) -> list[Workload]:
    """Return the workloads from files among names and files with commas between them."""
    return [get_workload(name.strip()) for name in text.split(",") if is_file(name.strip())]


def with_home(word: str) -> str:
    """Return a word of a command for another machine, with ``~`` replaced by the home folder on this one.

    Raises:
        UsageError: there is no such home folder.
    """
    option, value = word.split("=", 1) if word.startswith("--") and "=" in word else ("", word)
    if value.startswith("~"):
        value = str(user_path(value))
    elif value.partition(":")[0] in TRACKERS:
        value = str(Target.from_text(value).expand_home())
    return f"{option}={value}" if option else value


def job_command(arguments: Sequence[str], results: str, data: Path | None = None, track: Sequence[str] = ()) -> str:
    """Return the command line that the cluster runs, with the names that :func:`submit` gives to files there.

    Args:
        arguments: of ``tpbench sweep``, the workloads first, without ``--address``.
        results, data, track: their ``--results``, ``--data`` and ``--track``.

    Raises:
        UsageError: the results would be written to the job's own folder, which goes with it, or data be looked for
            there.
    """
    require_cluster_path(results)
    if data:
        require_cluster_path(str(data), "--data")
    for folder in filter(None, (parse_target(text).local_path for text in track)):
        require_cluster_path(folder, "--track")
    number = count()
    names = [_WORKLOAD.format(next(number)) if is_file(w.strip()) else w for w in arguments[0].split(",")]
    carried = [",".join(names), *_with_carried_files(arguments[1:])]
    words = ["python", "-m", "tpbench", "sweep", *carried, "--address", "auto"]
    return shlex.join(words)


def _with_carried_files(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the words of a command with the names of files in the job's folder."""
    before, numbers = "", {option: count() for option in _CARRIED}

    def carried(option: str, value: str) -> str:
        if option not in _CARRIED or (option, value) == ("--start", "published"):
            return value
        return _carried_name(option, next(numbers[option]))

    for word in arguments:
        option, equals, value = word.partition("=")
        assigned = equals and option in _CARRIED and before not in _CARRIED
        yield f"{option}={carried(option, value)}" if assigned else carried(before, word)
        before = word


def submit(
    address: str, command: str, files: Mapping[str, Path] | None = None, workloads: Sequence[Workload] = ()
) -> str:
    """Start a job; returns its id.

    Args:
        address: of the cluster's dashboard.
        command: what the job runs.
        files: copied into its folder, by their names there (:func:`carried_files`).
        workloads: those from files, which go with it too.
    """
    client = _client(address)
    with _code(files or {}, workloads) as code, _errors(address):
        environment = {"working_dir": str(code), "env_vars": {"TPBENCH_COMMIT": commit() or ""}}
        until = time.monotonic() + _AGENTS
        while True:
            try:
                # The driver itself only hands out work.
                job = client.submit_job(entrypoint=command, runtime_env=environment, metadata={"tpbench": "sweep"})
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(1.0)
            else:
                return str(job)


def cluster_version(address: str) -> str:
    """Return the version of Ray that a cluster runs."""
    client = _client(address)
    with _errors(address):
        response = client._do_request("GET", "/api/version")
        response.raise_for_status()
        return str(response.json()["ray_version"])


@dataclass(frozen=True)
class Job:
    """A submitted sweep."""

    name: str
    state: str
    started: str
    command: str


def jobs(address: str) -> list[Job]:
    """Return the sweeps that were submitted to a cluster, oldest first."""
    client = _client(address)
    with _errors(address):
        sweeps = [job for job in client.list_jobs() if (job.metadata or {}).get("tpbench") == "sweep"]
    sweeps.sort(key=lambda job: job.start_time or 0)
    return [
        Job(
            str(job.submission_id),
            str(getattr(job.status, "value", job.status)).lower(),
            datetime.fromtimestamp((job.start_time or 0) / 1000, UTC).isoformat(" ", "seconds"),
            job.entrypoint,
        )
        for job in sweeps
    ]


def _require_job(address: str, name: str) -> str:
    names = [job.name for job in jobs(address)]
    if name not in names:
        raise unknown("job", name, names) if names else UsageError(f"{address} has no sweeps of tpbench")
    return name


def logs(address: str, name: str) -> str:
    """Return the output of a job."""
    _require_job(address, name)
    with _errors(address):
        return str(_client(address).get_job_logs(name))


def stop(address: str, name: str) -> bool:
    """Ask a job to stop; False if it had ended.

    Ray sends it SIGTERM, which ends a sweep as Ctrl-C does, and SIGKILL 3 s later (RAY_JOB_STOP_WAIT_TIME_S, read on
    the head). Either way no run is lost: a sweep continues from its journal and the last checkpoints.
    """
    _require_job(address, name)
    with _errors(address):
        return bool(_client(address).stop_job(name))
