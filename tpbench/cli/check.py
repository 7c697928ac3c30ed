"""Commands that measure and check: bench, verify, doctor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tpbench.cli.app import (
    CHECK,
    Data,
    Device,
    MethodName,
    Results,
    app,
    between,
    command,
    complain,
    parse_names,
    verify_app,
)
from tpbench.cli.libraries import why_missing
from tpbench.engine import (
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
from tpbench.results.formats import listing, say
from tpbench.results.location import location
from tpbench.results.opening import DEFAULT_STORE
from tpbench.training.choice import choose_workloads, pair_up

if TYPE_CHECKING:
    from tpbench.engine.verify import Check
    from tpbench.workloads.benchmark import BenchmarkRow


def _sizes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 5 and int(part) for part in parts):
        raise UsageError(f"--pack '{text}': write pack sizes from 1 to 9999 with commas between them")
    return [int(part) for part in parts]


@command(app, "tpbench bench --workloads digits --methods bp,ddtp-linear --pack 1,10", CHECK)
def bench(
    workloads: Annotated[
        str, typer.Option(metavar="NAMES", help="Names or .yaml files, with commas between them.")
    ] = "mnist,cifar10",
    methods: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Methods, with commas between them.", show_default="all")
    ] = None,
    pack: Annotated[str, typer.Option(metavar="SIZES", help="Sizes of packs, with commas between them.")] = "10",
    device: Device = "auto",
    precision: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Precisions, with commas between them; all are compared with the first."),
    ] = "float32",
    seconds: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Time per measurement.", **between("--seconds", 0.01, 3600)),
    ] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with every number.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw time per member against pack size.", parser=user_path)
    ] = None,
) -> None:
    """Measure how fast packs train: epochs per second, floating-point rate, time by phase, memory."""
    rules = parse_names(methods, all_methods() if methods is None else method_names(), "method")
    chosen, left = pair_up(choose_workloads(workloads), rules)
    for line in left if methods else ():
        complain(line)
    from dataclasses import asdict

    from tpbench.training.devices import choose_device
    from tpbench.workloads.benchmark import measure_all

    if plot:
        from tpbench.reports.style import check_picture

        check_picture(plot)
    cells = [(cell.workload, cell.method) for cell in chosen]
    precisions, place = [check_precision(name.strip()) for name in precision.split(",")], choose_device(device)
    for name in precisions:
        check_device_precision(name, place)
    rows = list(measure_all(cells, _sizes(pack), place, precisions, seconds))
    print(json.dumps([asdict(row) for row in rows], indent=1) if as_json else _spell_rows(rows).rstrip("\n"))
    # The numbers are there by now, whatever becomes of the picture.
    if plot:
        from tpbench.reports.curves import scaling_figure
        from tpbench.reports.style import save

        save(scaling_figure(rows), plot)


def _spell_rows(rows: list[BenchmarkRow]) -> str:
    from tpbench.engine.step import PHASES

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


@command(verify_app, "tpbench verify fixtures tests/golden --precision float64", name="fixtures")
def verify_fixtures(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of golden .npz files.", parser=user_path)],
    precision: Annotated[str, typer.Option(metavar="float32|float64", help="Arithmetic of the engine.")] = "float64",
    pack: Annotated[
        int,
        typer.Option(metavar="N", help="Members of the pack; all are compared.", **between("--pack", 1, 1000, int)),
    ] = 1,
) -> None:
    """Compare the engine with golden files, and print the largest relative errors."""
    if precision not in ("float32", "float64"):
        raise unknown("precision of fixtures", precision, ("float32", "float64"))
    from tpbench.engine.golden import QUANTITIES, compare_golden_file, golden_files
    from tpbench.engine.trainer import dtype_of

    reports = [compare_golden_file(path, dtype_of(precision), pack) for path in golden_files(folder)]
    rows = []
    for report in reports:
        errors = [f"{report.errors[q]:.1e}" if q in report.errors else "" for q in QUANTITIES]
        verdict = "not covered" if report.not_covered else "ok" if report.passed else "FAILED"
        rows.append((report.file, report.method, *errors, verdict))
    header = ("file", "method", *QUANTITIES, "verdict")
    print(listing(header, rows, f"Largest relative errors, {precision}"), end="")
    for report in reports:
        if report.not_covered:
            print(f"{report.file} is not covered: {report.not_covered}")
        for quantity, bound in report.bounds.items():
            if not report.errors.get(quantity, 0.0) <= bound:
                complain(f"{report.file}: {quantity} {report.errors[quantity]:.1e} exceeds {bound:.0e}")
    if not all(report.passed for report in reports):
        raise typer.Exit(1)


# Options of version 0.2.0 are refused by one line, not by a usage message.
_ANY_ARGUMENTS = {"ignore_unknown_options": True, "allow_extra_args": True}


@command(verify_app, "pytest -m theory", name="theory", hidden=True, context_settings=_ANY_ARGUMENTS)
def verify_theory() -> None:
    """Refuse: the theorems are tests."""
    raise UsageError("'verify theory' is no command any more: run 'pytest -m theory' in a checkout of tpbench")


@command(verify_app, "tpbench verify method dfa", name="method")
def verify_method_command(
    method: MethodName,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a learning rule, such as one of your own package, on a small network; exit code 1 if a check fails."""
    from tpbench.engine.verify import verify_method

    checks = list(verify_method(get_method(method)))
    if as_json:
        rows = [{"name": check.name, "found": check.result, "passed": check.passed} for check in checks]
        print(json.dumps(rows, indent=1))
    else:
        _print_checks(checks, "-")
    if any(check.passed is False for check in checks):
        raise typer.Exit(1)


def _print_checks(checks: Sequence[Check], undecided: str) -> None:
    """Print a table of checks; ``undecided`` is the verdict of one that has neither passed nor failed."""
    verdicts = {True: "ok", False: "FAILED", None: undecided}
    rows = [(check.name, check.result, verdicts[check.passed]) for check in checks]
    print(listing(("check", "found", "verdict"), rows), end="")


@command(verify_app, "tpbench verify device", name="device", context_settings=_ANY_ARGUMENTS)
def verify_device_command(context: typer.Context) -> None:
    """Check the engine on the GPU, or on the CPU where there is none; exit code 1 if a check fails."""
    if context.args:
        raise UsageError(
            "'verify device' takes no options: it looks at the first GPU of CUDA_VISIBLE_DEVICES; "
            "run 'pytest -m device' in a checkout of tpbench for all checks"
        )
    for module in ("numpy", "torch"):
        if why := why_missing(module):
            raise TpbenchError(f"'verify device' {why}")
    from tpbench.engine.verify import verify_device
    from tpbench.training.devices import choose_device

    checks = list(verify_device(choose_device("auto")))
    _print_checks(checks, "")
    failed = [check for check in checks if check.passed is False]
    for check in failed:
        complain(f"{check.name}: {check.result}")
    if failed:
        raise typer.Exit(1)


@command(app, "tpbench doctor", CHECK)
def doctor(
    results: Results = DEFAULT_STORE,
    data: Data = None,
    address: Annotated[
        str | None, typer.Option(metavar="http://HEAD:8265", help="Check a cluster too, through its dashboard.")
    ] = None,
) -> None:
    """Check this installation, and say what is wrong and how to mend it; exit code 1 if sweeps cannot work."""
    from tpbench.sweeps.doctor import examine

    findings = list(examine(location(results), data, address))
    print(listing(("what", "state"), [(f.subject, f.state) for f in findings]), end="")
    # Not in the table: remedies hold commands, and a cell would break them.
    for finding in findings:
        if finding.remedy:
            say(f"{finding.subject}: {finding.remedy}")
    if any(finding.fatal for finding in findings):
        raise typer.Exit(1)
