"""Commands that measure and check: bench, verify, doctor."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tpbench.cli.app import (
    Data,
    Device,
    MethodName,
    Results,
    app,
    complain,
    parse_names,
    verify_app,
)
from tpbench.cli.libraries import why_missing
from tpbench.engine import (
    METHODS,
    TpbenchError,
    UsageError,
    all_methods,
    check_device_precision,
    check_precision,
    get_method,
    method_names,
    unknown,
)
from tpbench.engine.files import user_path
from tpbench.results.formats import listing
from tpbench.results.location import location
from tpbench.results.opening import DEFAULT_STORE
from tpbench.results.terminal import say
from tpbench.training.choice import choose_workloads
from tpbench.training.devices import CHECKS

if TYPE_CHECKING:
    from tpbench.workloads.benchmark import BenchmarkRow


def _sizes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 5 and int(part) for part in parts):
        raise UsageError(f"--pack '{text}': write pack sizes from 1 to 9999 with commas between them")
    return [int(part) for part in parts]


@app.command()
def bench(
    workloads: Annotated[
        str, typer.Option(metavar="NAMES", help="Names or .yaml files, with commas between.")
    ] = "mnist,cifar10",
    methods: Annotated[str | None, typer.Option(metavar="NAMES", help="As above; all by default.")] = None,
    pack: Annotated[str, typer.Option(metavar="SIZES", help="Members per pack, with commas between them.")] = "10",
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(metavar="NAMES", help="Precisions, with commas between; compared with the first.")
    ] = "float32",
    seconds: Annotated[float, typer.Option(min=0.01, max=3600, help="Time per measurement.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="A list of rows with every number.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw time per member against pack size.", parser=user_path)
    ] = None,
) -> None:
    """Measure joint training: rate, share of the machine's product rate, time by phase, memory."""
    chosen = choose_workloads(workloads)
    rules = parse_names(methods, all_methods() if methods is None else method_names(), "method")
    from dataclasses import asdict

    from tpbench.training.devices import choose_device
    from tpbench.workloads.benchmark import measure_all

    if plot:
        from tpbench.reports.style import check_picture

        check_picture(plot)
    precisions, place = [check_precision(name.strip()) for name in precision.split(",")], choose_device(device)
    for name in precisions:
        check_device_precision(name, place)
    rows = list(measure_all(chosen, rules, _sizes(pack), place, precisions, seconds))
    print(json.dumps([asdict(row) for row in rows], indent=1) if as_json else _spell_rows(rows).rstrip("\n"))
    # The numbers are there by now, whatever becomes of the picture.
    if plot:
        from tpbench.reports.scaling import plot_scaling

        plot_scaling(rows, plot)


def _spell_rows(rows: list[BenchmarkRow]) -> str:
    from tpbench.engine.clock import PHASES

    first = {(row.workload, row.method, row.pack): row for row in reversed(rows)}
    compared = len({row.precision for row in rows}) > 1
    columns = ("ms/step", "member epochs/s", "GFLOP/s", "of product rate")
    named = ("workload", "method", "pack", *(("precision", f"times {rows[0].precision}") if compared else ()))
    spelled = [
        (
            row.workload,
            row.method,
            str(row.pack),
            *(_speed_up(row, first) if compared else ()),
            f"{1000 * row.step_seconds:.1f}",
            f"{row.member_epochs_per_second:.3f}",
            f"{row.rate / 1e9:.0f}",
            f"{100 * row.fraction:.0f} %",
            *(f"{100 * row.phases[name]:.0f} %" for name in PHASES),
            f"{row.peak_memory / 2**20:.0f}" if row.peak_memory else "?",
        )
        for row in rows
    ]
    return listing((*named, *columns, *PHASES, "peak MiB"), spelled)


def _speed_up(row: BenchmarkRow, first: Mapping[tuple[str, str, int], BenchmarkRow]) -> tuple[str, str]:
    """The precision, and how many times as fast it is as the one that was measured first."""
    other = first[row.workload, row.method, row.pack]
    return row.precision, f"{row.member_epochs_per_second / other.member_epochs_per_second:.2f}"


@verify_app.command("fixtures")
def verify_fixtures(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of golden .npz files.", parser=user_path)],
    precision: Annotated[str, typer.Option(help="Arithmetic: float32, float64.")] = "float64",
    pack: Annotated[int, typer.Option(min=1, max=1000, help="Members of the pack; all are compared.")] = 1,
) -> None:
    """Run the engine on golden files and print the largest relative errors."""
    from tpbench.engine.fixtures import QUANTITIES, fixture_files, verify_fixture

    if precision not in ("float32", "float64"):
        raise unknown("precision of fixtures", precision, ("float32", "float64"))
    from tpbench.engine.training import dtype_of

    reports = [verify_fixture(path, dtype_of(precision), pack) for path in fixture_files(folder)]
    rows = []
    for report in reports:
        errors = [f"{report.errors[q]:.1e}" if q in report.errors else "" for q in QUANTITIES]
        rows.append((report.file, report.method, *errors, "ok" if report.passed else "FAILED"))
    header = ("file", "method", *QUANTITIES, "verdict")
    print(listing(header, rows, f"Largest relative errors, {precision}"), end="")
    failed = [r for r in reports if not r.passed]
    for report in failed:
        for quantity, bound in report.bounds.items():
            if not report.errors.get(quantity, 0.0) <= bound:
                complain(f"{report.file}: {quantity} {report.errors[quantity]:.1e} exceeds {bound:.0e}")
    if failed:
        raise typer.Exit(1)


@verify_app.command("theory")
def verify_theory_command(
    as_json: Annotated[bool, typer.Option("--json", help="A list of rows.")] = False,
) -> None:
    """Check the paper's theorems on small networks with the engine's own functions; exit code 1 if one fails."""
    from dataclasses import asdict

    from tpbench.engine.theory import verify_theory

    checks = list(verify_theory())
    if as_json:
        rows = [{**asdict(c), "criterion": c.criterion, "passed": c.passed} for c in checks]
        # Unbounded sides are spelled by the criterion; JSON has no infinity.
        print(json.dumps([{k: v for k, v in row.items() if k not in ("lower", "upper")} for row in rows], indent=1))
    else:
        header = ("source", "statement", "setting", "measured", "criterion", "verdict")
        lines = [
            (c.name, c.statement, c.setting, f"{c.value:.3g}", c.criterion, "ok" if c.passed else "FAILED")
            for c in checks
        ]
        print(listing(header, lines), end="")
    if not all(c.passed for c in checks):
        raise typer.Exit(1)


@verify_app.command("method")
def verify_method_command(
    method: MethodName,
    as_json: Annotated[bool, typer.Option("--json", help="A list of rows.")] = False,
) -> None:
    """Check a learning rule on a small network, such as one of a package; exit code 1 if one check fails."""
    from dataclasses import asdict

    from tpbench.engine.rule_checks import verify_method

    checks = list(verify_method(get_method(method)))
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        rows = [(check.name, check.found, check.verdict) for check in checks]
        print(listing(("check", "found", "verdict"), rows), end="")
    if any(check.passed is False for check in checks):
        raise typer.Exit(1)


@verify_app.command("device")
def verify_device_command(
    device: Device = "auto",
    fixtures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder of golden .npz files.",
            parser=user_path,
            show_default="'golden' in the folder of the data sets",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="With commas between them; memory is looked at with bp.",
            show_default="all built-in ones",
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="NAMES", help=f"Some of: {', '.join(CHECKS)}.", show_default="all")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of rows.")] = False,
) -> None:
    """Check the engine on a GPU, or what applies on the CPU; exit code 1 if one check fails. Needs no Ray."""
    rules = parse_names(methods, METHODS if methods is None else method_names(), "method")
    groups = parse_names(only, CHECKS, "check")
    for module in ("numpy", "torch"):
        if why := why_missing(module):
            raise TpbenchError(f"'verify device' {why}")
    from dataclasses import asdict

    from tpbench.training.device_checks import Request, verify_device
    from tpbench.training.devices import choose_device

    # A minute or more is long where nothing moves.
    say = complain if sys.stderr.isatty() else lambda text: None
    checks = list(verify_device(Request(choose_device(device), rules, fixtures), groups, say))
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        rows = [(check.check, check.setting, check.found, check.criterion, check.verdict) for check in checks]
        print(listing(("check", "of", "found", "criterion", "verdict"), rows), end="")
    failed = [check for check in checks if check.verdict == "FAILED"]
    for check in failed:
        complain(f"{check.check}, {check.setting}: {check.found}")
    if failed:
        raise typer.Exit(1)


@app.command()
def doctor(
    results: Results = DEFAULT_STORE,
    data: Data = None,
    address: Annotated[
        str | None, typer.Option(metavar="http://HEAD:8265", help="Look at a cluster too, through its dashboard.")
    ] = None,
) -> None:
    """What this installation is made of, what is wrong and how to mend it; exit code 1 if sweeps cannot work."""
    from tpbench.sweeps.doctor import examine

    findings = list(examine(location(results), data, address))
    print(listing(("what", "state"), [(f.subject, f.state) for f in findings]), end="")
    # Not in the table: remedies hold commands, and a cell would break them.
    for finding in findings:
        if finding.remedy:
            say(f"{finding.subject}: {finding.remedy}")
    if any(finding.fatal for finding in findings):
        raise typer.Exit(1)
