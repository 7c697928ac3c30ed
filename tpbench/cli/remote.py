"""Commands for sweeps as jobs of a Ray cluster: submit, status, logs, stop."""

from __future__ import annotations

from typing import Annotated

import typer

from tpbench.cli.app import CLUSTER, JobsAddress, app, command, complete_methods, complete_workloads
from tpbench.engine.errors import UsageError, visible
from tpbench.results.formats import listing, say

Workloads = Annotated[
    str,
    typer.Argument(
        metavar="WORKLOADS",
        help="Names or .yaml files with commas between them, or 'all' (see 'tpbench workloads').",
        autocompletion=complete_workloads,
    ),
]

Methods = Annotated[
    str,
    typer.Argument(
        metavar="METHODS",
        help="Names with commas between them, 'all' or 'field' (see 'tpbench methods').",
        autocompletion=complete_methods,
    ),
]


Job = Annotated[str, typer.Argument(metavar="JOB", help="Name of the job, as 'tpbench status' prints it.")]


@command(
    app,
    "tpbench submit mnist bp --results /shared/results --address http://head:8265",
    CLUSTER,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def submit(context: typer.Context, workload: Workloads, method: Methods, address: JobsAddress) -> None:
    """Start sweeps as a job of a Ray cluster, with the options of 'tpbench sweep'. All nodes must share the folders."""
    from tpbench.engine.files import user_path
    from tpbench.search.configurations import search_inputs
    from tpbench.sweeps import jobs
    from tpbench.training.choice import choose_all

    cells, _ = choose_all(workload, method)
    jobs.check_jobs_address(address)
    arguments = [workload, method, *map(jobs.with_home, context.args)]
    # Read here as the cluster will read them, so that a slip shows now.
    sweep = typer.main.get_command(app).commands["sweep"]  # type: ignore[attr-defined]
    options = sweep.read(sweep.make_context("sweep", list(arguments)))
    if options.dry_run:
        raise UsageError("a dry run is no job: make it with 'tpbench sweep' on one of the cluster's nodes")
    data = user_path(options.data) if options.data else None
    line = jobs.job_command(arguments, options.results, data, options.track)
    search_inputs(cells, options)
    files = jobs.carried_files(options.space, options.start)
    name = jobs.submit(address, line, files, jobs.workloads_of_files(workload))
    say(f"submitted: {name}")
    say(f"tpbench status --address {address}")
    say(f"tpbench logs {name} --address {address}")


@command(app, "tpbench status --address http://head:8265", CLUSTER)
def status(address: JobsAddress) -> None:
    """List the jobs that were submitted to a cluster."""
    from tpbench.sweeps.jobs import jobs

    found = jobs(address)
    print(listing(("job", "state", "started (UTC)"), [(job.name, job.state, job.started) for job in found]), end="")
    # Not in the table: a cell would break the commands.
    for job in found:
        say(f"{job.name}:")
        say(job.command)


@command(app, "tpbench logs tpbench-1a2b3c4d --address http://head:8265", CLUSTER)
def logs(job: Job, address: JobsAddress) -> None:
    """Print the output of a submitted job so far."""
    from tpbench.sweeps.jobs import logs

    print(visible(logs(address, job), keep="\n\t"), end="")


@command(app, "tpbench stop tpbench-1a2b3c4d --address http://head:8265", CLUSTER)
def stop(job: Job, address: JobsAddress) -> None:
    """Stop a submitted job: Ray sends it SIGTERM, and SIGKILL 3 s later (RAY_JOB_STOP_WAIT_TIME_S on the head).

    What it finished is kept, and submitting it again continues from the last checkpoints.
    """
    from tpbench.sweeps.jobs import stop

    say(f"{job}: {'stopping' if stop(address, job) else 'had ended already'}")
