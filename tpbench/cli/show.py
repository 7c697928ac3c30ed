"""Commands that show what a store holds: tables, leaderboards, figures, plots, the report."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from tpbench.cli.app import (
    KNOWN,
    RESULTS,
    Baseline,
    Command,
    Format,
    MethodName,
    OfWorkload,
    Results,
    Tuning,
    WorkloadName,
    app,
    baseline_option,
    between,
    command,
    complain,
    complete_from,
    complete_methods,
    complete_plotted,
    complete_workloads,
    open_store,
    read_store,
    show_app,
    tuning_option,
    warn_damaged,
)
from tpbench.engine import (
    Method,
    TpbenchError,
    UsageError,
    all_methods,
    get_method,
    method_names,
    method_source,
    unknown,
)
from tpbench.engine.files import check_target, user_path
from tpbench.engine.parts import JOINT
from tpbench.reports import ALIGNMENT_WORKLOADS, FIGURES, LOOK_EVERY, PLOTS
from tpbench.results.formats import check_format, listing, say
from tpbench.results.opening import (
    DEFAULT_STORE,
    NoRunError,
    find_record,
    stored_baseline,
    stored_method,
    stored_methods,
    stored_tuning,
    stored_workload,
)
from tpbench.results.paper import (
    ANGLE_TABLE,
    BASELINE_TABLES,
    DAMPING_TABLE,
    EPOCHS_TABLE,
    FIELD_TABLE,
    LOSS_TABLE,
    OVERVIEW_TABLE,
    TABLES,
    check_table,
    check_table_options,
)
from tpbench.results.store import RunStore
from tpbench.workloads import Workload, all_workloads, get_workload


class CompareCommand(Command):
    """A command that refuses options of older versions with the reason why they are gone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the command line."""
        from tpbench.options import REMOVED

        for name, reason in REMOVED[str(self.name)].items():
            if any(word.partition("=")[0] == f"--{name}" for word in args):
                raise UsageError(f"--{name} is gone: {reason}")
        return super().parse_args(ctx, args)


class OptionalFile(Command):
    """A command whose ``--write`` may stand without its file, which typer does not know."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read a word after ``--write`` as its file where it ends in .csv, and as an argument otherwise."""
        words = list(args)
        for place, word in enumerate(args):
            after = "".join(args[place + 1 : place + 2])
            if word == "--write" and not after.endswith(".csv"):
                if not after.startswith("-") and ("." in after or "/" in after):
                    raise UsageError(f"--write '{after}': the file's name must end in .csv")
                words[place] = "--write="
        return super().parse_args(ctx, words)


@command(app, "tpbench methods ddtp-linear", KNOWN)
def methods(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD",
            help="Methods to show in full: formula, hyperparameters, ranges and known values.",
            autocompletion=complete_methods,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods; with names, show what these compute and their hyperparameters."""
    chosen = {name: get_method(name) for name in names} if names else all_methods()
    if as_json:
        print(json.dumps([_method_fields(name, method) for name, method in chosen.items()], indent=1))
    elif not names:
        width = max(map(len, chosen))
        for name, method in chosen.items():
            origin = "" if _origin(name) == "built in" else f" (from {_origin(name)})"
            say(f"{name:{width}}  {method.title}: {method.summary}{origin}")
        say("'tpbench methods NAME' shows the formula and the hyperparameters of a method.")
    else:
        for name, method in chosen.items():
            _print_method(name, method)


def _method_fields(name: str, method: Method) -> dict[str, Any]:
    hyperparameters = {spec.name: spec.meaning for spec in method.hyperparameter_specs.values()}
    known: dict[str, Any] = {"title": method.title, "summary": method.summary, "formula": method.formula}
    known["convolutions"] = not method.convolution_refusal
    return {"name": name, **known, "hyperparameters": hyperparameters, "source": _origin(name)}


def _print_method(name: str, method: Method) -> None:
    """Print what a method computes, its hyperparameters with their ranges, and the configurations that are known."""
    from tpbench.engine.configuration import format_value
    from tpbench.search.spaces import known_configurations, space_for

    say(f"{name} ({method.title}): {method.summary}")
    if method.formula:
        say(method.formula)
    if _origin(name) != "built in":
        say(f"from {_origin(name)}")
    refusal = method.convolution_refusal
    say(f"trains convolutional networks: {f'no, {refusal}' if refusal else 'yes'}")
    try:
        ranges = {key: str(entry) for key, entry in space_for(name).ranges.items()}
    except UsageError:
        ranges = {}
    specs = method.hyperparameter_specs.values()
    rows = [(spec.name, " ".join(spec.meaning.split()), ranges.get(spec.name, "-")) for spec in specs]
    print(listing(("hyperparameter", "what it is", "range of the search"), rows), end="")
    known = known_configurations(name)
    if known:
        values = [(spec.name, *(format_value(one[spec.name], ".3g") for one in known.values())) for spec in specs]
        note = "The authors' values, some outside the ranges that they print"
        note += "; on the digits those of tpbench's own search." if _origin(name) == "built in" else "."
        print(listing(("value of", *known), values, note=note), end="")


@command(app, "tpbench workloads mnist-frozen", KNOWN)
def workloads(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORKLOAD", help="Names or .yaml files to show in full.", autocompletion=complete_workloads
        ),
    ] = None,
) -> None:
    """List the workloads; with names or .yaml files, show everything that these fix."""
    for name in files or ():
        workload = get_workload(name)
        print(listing(("key", name), [*_workload_keys(workload), ("trained by", _trained(workload))]), end="")
    if not files:
        header = ("workload", "data", "network", "trained layers", "epochs", "batch", "validation samples")
        rows = [[value for _, value in _workload_keys(w)[: len(header)]] for w in all_workloads().values()]
        print(listing(header, rows), end="")


def _origin(name: str) -> str:
    try:
        return method_source(name) or "built in"
    except TpbenchError:
        return "unknown"


def _workload_keys(w: Workload) -> list[tuple[str, str]]:
    feedback = [
        f"{kind}: {first} before, {between} between" for kind, (first, between) in w.schedules.items() if kind != JOINT
    ]
    by_class = ", by class for seeds that would lose one" * bool(w.own_file)
    drawn = f"{w.validation_size}{by_class}" if w.validation_size else "none: the last epoch counts"
    share = f"{100 * w.test:g} % of x and y, chosen by tpbench (x_train, ... y_test are a split of your own)"
    chosen = [("test set", share)] if w.test else []
    normalise = w.normalise if isinstance(w.normalise, str) else "mean {:g}, deviation {:g}".format(*w.normalise)
    return [
        ("workload", w.name),
        ("data", w.own_file.name if w.own_file else w.data),
        ("network", str(w.architecture)),
        ("trained layers", ", ".join(map(str, w.trained_layers)) if w.trained_layers else "all"),
        ("epochs", str(w.epochs)),
        ("batch", str(w.batch_size)),
        ("validation samples", drawn),
        ("training samples", str(w.samples - w.validation_size)),
        ("normalise", normalise),
        ("random hidden layer", str(w.random_hidden)),
        ("feedback epochs", "; ".join(feedback)),
        ("stopped in a search", "after {} epochs with a training error above {:g}".format(*w.prune)),
        *chosen,
        *_convolution_keys(w),
        ("in tables", _in_tables(w)),
    ]


def _trained(w: Workload) -> str:
    """Return the methods that can be trained on a workload, with commas between them."""
    known = all_methods()
    trained = [name for name in known if not w.refusal(name)]
    return "all" if len(trained) == len(known) else ", ".join(trained)


def _convolution_keys(w: Workload) -> list[tuple[str, str]]:
    """Return a line on each convolution."""
    lines = []
    for layer, (convolution, (channels, rows, columns)) in enumerate(
        zip(w.convolutions, w.architecture.maps[1:], strict=True), start=1
    ):
        kernel = f"kernel {convolution.kernel} x {convolution.kernel}"
        pooling = f", max-pooling {convolution.pool} x {convolution.pool} with stride {convolution.stride}"
        made = f" to {rows} x {columns} x {channels}"
        lines.append((f"layer {layer}", f"{kernel}{pooling if convolution.pool > 1 else ''}{made}"))
    return lines


def _in_tables(w: Workload) -> str:
    """The column that runs on it get, which says what the file and its data are."""
    if not w.source:
        return w.title
    from tpbench.results.cells import with_label
    from tpbench.workloads.cache import load_for

    try:
        return with_label(w.name, load_for(w).label)
    except TpbenchError as error:
        return f"unknown: {error}"


@command(show_app, "tpbench show config mnist ddtp-linear", name="config")
def show_config(workload: WorkloadName, method: MethodName) -> None:
    """Print the configuration that 'tpbench run' takes: the authors', or tpbench's own on the digits.

    Comments name where the authors' configuration departs from the paper's text.
    """
    from tpbench.search.spaces import format_configuration
    from tpbench.training.choice import CellChoice

    print(format_configuration(CellChoice.of(workload, method).workload, method), end="")


@command(show_app, "tpbench show space dfa", name="space")
def show_space(
    method: MethodName,
    space: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read this file.", show_default="tpbench's own", parser=user_path),
    ] = None,
    template: Annotated[
        bool, typer.Option("--template", help="One to start from, made of its hyperparameters.")
    ] = False,
    workload: Annotated[
        str | None,
        typer.Option(
            "--workload",
            metavar="WORKLOAD",
            help="Of searches on this workload.",
            show_default="those without a space of their own",
            autocompletion=complete_workloads,
        ),
    ] = None,
) -> None:
    """Print the search space of a method: tpbench's own, that of its package, or that of a file."""
    from tpbench.search.spaces import format_space, space_template

    given = [name for name, value in (("--space", space), ("--template", template), ("--workload", workload)) if value]
    if len(given) > 1:
        raise UsageError(f"{given[0]} goes without {given[1]}")
    name = get_workload(workload).name if workload else ""
    print(space_template(method) if template else format_space(method, space, name), end="")


def _chosen_baseline(given: str | None, store: RunStore, workload: str | None = None, tuning: str | None = None) -> str:
    """Return the baseline of a command: the one that is given, of which there must be runs, or BP."""
    from tpbench.results.ranking import BASELINE

    return BASELINE if given is None else stored_baseline(given, store, [workload] if workload else None, tuning)


def _chosen_tuning(given: str | None, store: RunStore, workload: str | None = None) -> str | None:
    """Return the tuning label of a command as the store writes it; None: all."""
    return None if given is None else stored_tuning(given, store, [workload] if workload else None)


def _hint_baseline(baseline: str, found: Collection[str], tuning: str | None = None) -> None:
    """Print a line on the choice of a baseline where none of the methods of a table, of one tuning or all, is it."""
    if baseline not in found:
        others, tuned = ", ".join(sorted(found)), f" tuned as '{tuning}'" if tuning else ""
        choice = f"--baseline names another: {others}" if len(found) > 1 else f"there is {others} alone"
        complain(f"nothing is compared with {baseline}, of which there is no run{tuned}; {choice}")


@command(app, "tpbench leaderboard mnist", RESULTS, name="leaderboard", cls=OptionalFile)
def show_leaderboard(
    workload: Annotated[
        str | None, typer.Argument(metavar="WORKLOAD", help="Only this workload.", autocompletion=complete_workloads)
    ] = None,
    baseline: Baseline = None,
    tuning: Tuning = None,
    form: Format = "text",
    write: Annotated[
        str | None,
        typer.Option(
            "--write",
            metavar="[FILE.csv]",
            show_default="not written",
            help="Write a CSV file too; without a name, leaderboard.csv of all workloads in the store's folder.",
        ),
    ] = None,
    results: Results = DEFAULT_STORE,
) -> None:
    """Test all methods of a workload against a baseline, and name those that could be the best."""
    check_format(form)
    if workload:
        workload = stored_workload(workload, open_store(results))
    store = read_store(results)
    target = user_path(write) if write else store.folder / "leaderboard.csv"
    if write is not None:
        check_target(target, [".csv"])
        if not write and baseline not in (None, "bp"):
            raise UsageError(f"--write with --baseline {baseline}: name a file, as leaderboard.csv is against bp")
        if not write and tuning is not None:
            raise UsageError("--write with --tuning: name a file, as leaderboard.csv has all tunings")
    from tpbench.results import choose_cells, write_leaderboard
    from tpbench.results.ranking import (
        board_csv,
        rank_all,
        ranking_frame,
        read_test_samples,
        render_rankings,
        require_validated,
    )

    require_validated(store.summaries(), [workload] if workload else None)
    label = _chosen_tuning(tuning, store, workload)
    method = _chosen_baseline(baseline, store, workload, label)
    cells = choose_cells(store.summaries(), label)
    ranked = rank_all(cells, method, label)
    rankings = [ranking for ranking in ranked if workload in (None, ranking.workload)]
    if not rankings:
        raise NoRunError(results, workload)
    board = ranking_frame(ranked)
    shown = board[board["workload"] == workload] if workload else board
    if form == "csv":
        print(board_csv(shown), end="")
    else:
        print(render_rankings(read_test_samples(store, rankings), form), end="")
    _hint_baseline(method, {row.cell.method for ranking in rankings for row in ranking.cells}, label)
    if write is not None:
        write_leaderboard(shown if write else board, store, target)
        complain(f"written: {target}")
    warn_damaged(store)


# Some hex digits: find_record tells what is wrong with fewer than 8, or more than 24.
_RUN_ID = re.compile(r"[0-9a-f]{6,}", re.IGNORECASE)


def _is_run(name: str) -> bool:
    return name not in method_names() and _RUN_ID.fullmatch(name) is not None


@command(app, "tpbench compare bp ddtp-linear --workload mnist", RESULTS, cls=CompareCommand)
def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="METHOD_A|RUN_A",
            help="A method, or a run's id (its first 8 digits will do).",
            autocompletion=complete_methods,
        ),
    ],
    second: Annotated[
        str, typer.Argument(metavar="METHOD_B|RUN_B", help="Another method, or run.", autocompletion=complete_methods)
    ],
    workload: OfWorkload = None,
    baseline: Baseline = None,
    tuning: Tuning = None,
    form: Format = "text",
    results: Results = DEFAULT_STORE,
) -> None:
    """Compare two methods, each tuning that both have by itself, or two runs sample by sample (McNemar's test)."""
    check_format(form)
    runs = [_is_run(name) for name in (first, second)]
    if any(runs):
        if not all(runs):
            raise UsageError(f"'{first}' and '{second}': name two methods, or two runs by their ids")
        if (workload, baseline, tuning) != (None, None, None):
            raise UsageError("--workload, --baseline and --tuning go with two methods, not with two runs")
        _compare_runs(first, second, form, results)
        return
    for method in (first, second):
        stored_method(method, open_store(results))
    if workload:
        workload = stored_workload(workload, open_store(results))
    store = read_store(results)
    from tpbench.results.comparison import compare_methods, render_comparison

    workloads = [workload] if workload else None
    label = _chosen_tuning(tuning, store, workload)
    base = _chosen_baseline(baseline, store, workload, label)
    frame = compare_methods(store, first, second, workloads, base, label)
    if frame.empty:
        where = (f" on {workload}" if workload else "") + (f" tuned as '{label}'" if label else "")
        found = stored_methods(store, workloads, label)
        there = f"there are runs of {', '.join(sorted(found))}" if found else "there is no run yet"
        raise TpbenchError(f"{results} holds no workload with runs of both {first} and {second}{where}; {there}")
    print(render_comparison(frame, first, second, form), end="")
    warn_damaged(store)


def _compare_runs(first: str, second: str, form: str, results: str) -> None:
    """Print McNemar's test of two runs."""
    from tpbench.results.comparison import render_runs, runs_comparison

    store = read_store(results)
    frame = runs_comparison(store, find_record(store, first), find_record(store, second))
    print(render_runs(frame, form), end="")
    warn_damaged(store)


@command(app, "tpbench table s6 --format md", RESULTS)
def table(
    name: Annotated[
        str,
        typer.Argument(
            metavar="|".join(TABLES),
            help="1, s6, s7: of the paper. loss, angles, overview, field: of all runs. epochs: until a target error.",
            autocompletion=complete_from(TABLES),
        ),
    ],
    workload: Annotated[
        str | None,
        typer.Argument(metavar="WORKLOAD", help="For loss: only this workload.", autocompletion=complete_workloads),
    ] = None,
    baseline: Annotated[str | None, baseline_option(f"For {', '.join(BASELINE_TABLES)}")] = None,
    tuning: Annotated[str | None, tuning_option(f"For {', '.join(BASELINE_TABLES)}")] = None,
    form: Format = "text",
    results: Results = DEFAULT_STORE,
) -> None:
    """Print a table of the store's runs; a table of the paper stands beside the paper's own numbers."""
    name = check_table(name)
    check_format(form)
    if workload is not None:
        if name != LOSS_TABLE:
            raise UsageError(f"a workload goes with 'table {LOSS_TABLE}', not with 'table {name}'")
        workload = stored_workload(workload, open_store(results))
    check_table_options(name, baseline, tuning)
    store = read_store(results)
    if name in (DAMPING_TABLE, ANGLE_TABLE):
        from tpbench.reports.alignment_tables import angle_table, damping_table

        text = (damping_table if name == DAMPING_TABLE else angle_table)(store, form)
    elif name == LOSS_TABLE:
        from tpbench.results.tables import loss_table

        text = loss_table(store, form, workload)
    elif name in BASELINE_TABLES:
        from tpbench.results.field_table import render_field
        from tpbench.results.tables import render_epochs, render_overview

        draw = {OVERVIEW_TABLE: render_overview, EPOCHS_TABLE: render_epochs, FIELD_TABLE: render_field}[name]
        label = _chosen_tuning(tuning, store)
        method = _chosen_baseline(baseline, store, tuning=label)
        text = draw(store, form, method, label)
        _hint_baseline(method, stored_methods(store, tuning=label), label)
    else:
        from tpbench.results import paper_table, render

        text = render(paper_table(store, name), form)
    warn_damaged(store)
    print(text, end="" if text.endswith("\n") else "\n")


def _output(default: str) -> Any:
    """Return the option that names a picture's file.

    Args:
        default: shown in the help.
    """
    return typer.Option(
        "--output", "-o", metavar="FILE", help="The file to write.", show_default=default, parser=user_path
    )


@command(app, "tpbench figure s3 --output angles.png", RESULTS, name="figure")
def draw_figure(
    name: Annotated[
        str,
        typer.Argument(metavar="|".join(FIGURES), help="Figure of the paper.", autocompletion=complete_from(FIGURES)),
    ],
    output: Annotated[
        Path | None,
        _output("figure_NAME.png"),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            metavar="WORKLOAD",
            help=f"Another workload than the paper's, for {', '.join(ALIGNMENT_WORKLOADS)}.",
            autocompletion=complete_workloads,
        ),
    ] = None,
    results: Results = DEFAULT_STORE,
) -> None:
    """Draw a figure of the paper. Figures of angles are drawn from the records of 'tpbench align'."""
    name = name.lower()
    if name not in FIGURES:
        raise unknown("figure", name, FIGURES)
    if workload:
        workload = stored_workload(workload, open_store(results))
    store = read_store(results) if name in ALIGNMENT_WORKLOADS else open_store(results)
    from tpbench.reports.paper_figures import make_figure
    from tpbench.reports.style import check_picture, save

    path = check_picture(output or Path(f"figure_{name}.png"))
    if name == "2":
        say("training the feedback of twenty students: about half a minute")
    save(make_figure(name, store, workload), path)
    say(f"written: {path}")
    warn_damaged(store)


@command(app, "tpbench plot forest mnist", RESULTS)
def plot(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="|".join(PLOTS),
            help="curves: errors by epoch. cost: errors by time. forest: intervals. search: trials. tuning: best of N "
            "trials.",
            autocompletion=complete_from(PLOTS),
        ),
    ],
    what: Annotated[
        str,
        typer.Argument(
            metavar="WORKLOAD|SWEEP",
            help="A workload; for a search, the name of a sweep.",
            autocompletion=complete_plotted,
        ),
    ],
    output: Annotated[
        Path | None,
        _output("KIND_WHAT.png, with baseline and tuning"),
    ] = None,
    baseline: Annotated[str | None, baseline_option("For a forest")] = None,
    tuning: Annotated[str | None, tuning_option("For curves, cost, a forest")] = None,
    results: Results = DEFAULT_STORE,
) -> None:
    """Draw the methods of a workload (learning curves, cost, forest, tuning curves) or the trials of a search."""
    if kind not in PLOTS:
        raise unknown("plot", kind, PLOTS)
    if baseline is not None and kind != "forest":
        raise UsageError(f"--baseline goes with 'plot forest', not with 'plot {kind}'")
    if tuning is not None and kind in ("search", "tuning"):
        raise UsageError(f"--tuning goes with 'plot curves', 'plot cost' and 'plot forest', not with 'plot {kind}'")
    if kind != "search":
        what = stored_workload(what, open_store(results))
    from tpbench.reports.curves import cells_of, cost_plot, learning_curves
    from tpbench.reports.forest import forest_figure, forest_rows
    from tpbench.reports.style import check_picture, save
    from tpbench.reports.tuning_plots import search_figure, tuning_figure
    from tpbench.results.ranking import require_validated

    store = read_store(results)
    label = _chosen_tuning(tuning, store, what)
    # A picture of another baseline or tuning is another file.
    words = [kind, what, *filter(None, (baseline, label and re.sub(r"\W+", "-", label)))]
    path = check_picture(output or Path("_".join(words) + ".png"))
    if kind == "search":
        figure = search_figure(store, what)
    elif kind == "tuning":
        figure = tuning_figure(store, what)
    elif kind == "forest":
        method = _chosen_baseline(baseline, store, what, label)
        rows = forest_rows(store, what, baseline=method, tuning=label)
        _hint_baseline(method, {row.cell.method for row in rows}, label)
        figure = forest_figure(rows, what, label)
    else:
        if kind == "cost":
            require_validated(store.summaries(), [what])
        cells = cells_of(store, what, label)
        figure = learning_curves(store, cells) if kind == "curves" else cost_plot(cells)
    save(figure, path)
    say(f"written: {path}")
    warn_damaged(store)


@command(app, "tpbench report --output report.html", RESULTS)
def report(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.", parser=user_path)
    ] = Path("report.html"),
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it anew as runs come in, until Ctrl-C; the page reloads itself.")
    ] = False,
    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="With --watch: time between two looks at the store.",
            show_default=f"{LOOK_EVERY:g}",
            **between("--every", 1, 86_400),
        ),
    ] = None,
    baseline: Baseline = None,
    tuning: Tuning = None,
    results: Results = DEFAULT_STORE,
) -> None:
    """Write everything that the store holds as one self-contained HTML page."""
    if every is not None and not watch:
        raise UsageError("--every goes with --watch")
    check_target(output, [".html", ".htm"])
    # Who watches may have come before the sweep.
    store = open_store(results) if watch else read_store(results)
    from tpbench.reports.page import make_report
    from tpbench.results.store import write_atomically

    command = shlex.join(["tpbench", *sys.argv[1:]])
    if watch:
        from tpbench.reports.watching import watch_store
        from tpbench.results.ranking import BASELINE

        # Its runs may come later, and those of the tuning.
        method = stored_method(baseline, store) if baseline else BASELINE
        watch_store(store, output, command, every or LOOK_EVERY, method, tuning)
        return
    fresh = open_store(results)
    label = _chosen_tuning(tuning, fresh)
    method = _chosen_baseline(baseline, fresh, tuning=label)
    text = make_report(store, command, baseline=method, tuning=label).html()
    write_atomically(output, text)
    say(f"written: {output} ({len(text) / 1e6:.1f} MB)")
    warn_damaged(store)
