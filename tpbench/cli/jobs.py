"""Commands for sweeps as jobs of a Ray cluster: submit, status, logs, stop."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from tpbench.cli.app import app
from tpbench.cli.options import (
    JobsAddress,
    MethodName,
    WorkloadName,
)
from tpbench.results.formats import draw


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def submit(context: typer.Context, workload: WorkloadName, method: MethodName, address: JobsAddress) -> None:
    """Start a sweep as a job of a Ray cluster. Takes the options of 'tpbench sweep'; --results must be shared."""
    from tpbench.sweeps import jobs
    from tpbench.sweeps.commands import CellChoice

    CellChoice.of(workload, method)
    jobs.check_jobs_address(address)
    arguments = [workload, method, *context.args]
    # Read here as the cluster will read them, so that a slip shows now.
    command = typer.main.get_command(app).commands["sweep"]  # type: ignore[attr-defined]
    results = command.make_context("sweep", list(arguments)).params["results"]
    name = jobs.submit(address, jobs.job_command(arguments, results))
    print(f"submitted: {name}")
    print(f"tpbench status --address {address}")
    print(f"tpbench logs {name} --address {address}")


@app.command()
def status(address: JobsAddress) -> None:
    """The sweeps that were submitted to a cluster."""
    from tpbench.sweeps.jobs import jobs

    listing = Table("job", "state", "started (UTC)", "command")
    for job in jobs(address):
        listing.add_row(job.name, job.state, job.started, job.command)
    print(draw(listing), end="")


@app.command()
def logs(job: Annotated[str, typer.Argument(metavar="JOB")], address: JobsAddress) -> None:
    """What a submitted sweep printed so far."""
    from tpbench.sweeps.jobs import logs

    print(logs(address, job), end="")


@app.command()
def stop(job: Annotated[str, typer.Argument(metavar="JOB")], address: JobsAddress) -> None:
    """Stop a submitted sweep: Ray sends it SIGTERM, and SIGKILL 3 s later (RAY_JOB_STOP_WAIT_TIME_S on the head).

    What it finished is kept, and submitting it again continues from the last checkpoints.
    """
    from tpbench.sweeps.jobs import stop

    print(f"{job}: {'stopping' if stop(address, job) else 'had ended already'}")
