"""The application that the commands join, and what they share: options, completion, lines of output."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand

from tpbench import __version__
from tpbench.engine import TpbenchError, UsageError, method_names, unknown
from tpbench.engine.files import is_regular_file, user_path
from tpbench.results import RunRecord, RunStore
from tpbench.results.formats import FORMATS, count_of, format_mean, mean_and_deviation, say
from tpbench.results.location import is_url, location
from tpbench.results.opening import DEFAULT_STORE
from tpbench.training.choice import read_options
from tpbench.training.devices import DEVICES
from tpbench.training.tracking import TRACKERS, parse_target
from tpbench.workloads import get_workload, is_file, workload_names

if TYPE_CHECKING:
    from tpbench.options import Options

app = typer.Typer(
    name="tpbench",
    help="Is this learning rule really better than that one? Sweeps, runs and tables of target-propagation methods.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

data_app = typer.Typer(help="Data sets: download, import, list.", no_args_is_help=True)

verify_app = typer.Typer(help="Check the engine against numbers made elsewhere.", no_args_is_help=True)

show_app = typer.Typer(help="Print search spaces and the authors' configurations as YAML.", no_args_is_help=True)

results_app = typer.Typer(help="Look after run stores: check, merge, pack, export, remove.", no_args_is_help=True)

app.add_typer(data_app, name="data")

app.add_typer(results_app, name="results")

app.add_typer(show_app, name="show")

app.add_typer(verify_app, name="verify")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tpbench {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# Completion: what the shell offers at the tab key (``tpbench --install-completion``).

Completion = Callable[[typer.Context, str], list[str]]


def complete_from(names: Iterable[str]) -> Completion:
    """Return a completion that offers fixed names."""

    def offer(context: typer.Context, incomplete: str) -> list[str]:
        # Names that would act on a terminal are offered to none.
        return [name for name in names if name.startswith(incomplete) and name.isprintable()]

    return offer


def complete_workloads(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the workloads, also those that packages add, and the files of a folder that may hold one."""
    return complete_from([*workload_names(), *_yaml_files()])(context, incomplete)


def complete_starts(context: typer.Context, incomplete: str) -> list[str]:
    """Offer ``published``, and the files of a folder that may hold configurations."""
    return complete_from(["published", *_yaml_files()])(context, incomplete)


def _yaml_files() -> list[str]:
    """Return the names of the YAML files of the current folder."""
    try:
        return sorted(path.name for path in Path().iterdir() if is_file(path.name))
    except OSError:
        return []


def complete_methods(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the methods, also those that packages add."""
    return complete_from(method_names())(context, incomplete)


def complete_plotted(context: typer.Context, incomplete: str) -> list[str]:
    """Offer what ``tpbench plot`` can draw: sweeps of the results folder for a search, workloads otherwise."""
    if context.params.get("kind") == "search":
        return complete_from(_sweep_names(context))(context, incomplete)
    return complete_workloads(context, incomplete)


def _sweep_names(context: typer.Context) -> list[str]:
    """Return the sweeps in the ``--results`` that stand on the line so far; those of a URL would take too long."""
    results = str(context.params.get("results") or DEFAULT_STORE)
    if is_url(results):
        return []
    from tpbench.results.sweep_files import archived_sweeps, sweep_names

    try:
        store = RunStore(location(results))
        with store.archived.opened() as archives:
            return sorted({*sweep_names(store.folder), *archived_sweeps(store, archives)})
    except TpbenchError:
        return []


_COMPLETIONS: dict[str, Completion] = {
    "workloads": complete_workloads,
    "methods": complete_methods,
    "trackers": complete_from(TRACKERS),
    "starts": complete_starts,
}


class OptionsCommand(TyperCommand):
    """A command whose arguments and options are the fields of an options model; the callback gets the options.

    The model is read when it is needed: the list of commands needs no pydantic, which takes a tenth of a second.
    """

    @cached_property
    def model(self) -> type[Options]:
        """The options of the command of this name."""
        from tpbench.options import MODELS

        return MODELS[str(self.name)]

    @cached_property
    def _parsed(self) -> Any:
        """A command with the parameters, which hands on what was given."""
        made = typer.Typer(add_completion=False)
        made.command(self.name)(_function_of(self.model))
        return typer.main.get_command(made)

    @property
    def params(self) -> list[Any]:
        """The parameters as typer has them; a list that click adds its own to."""
        parameters: list[Any] = self._parsed.params
        return parameters

    @params.setter
    def params(self, value: object) -> None:
        """Take none: they are the model's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the command line; a name of an older version is refused with that of today."""
        for word in args:
            for before, now in self.model.renamed.items():
                if word.partition("=")[0] == _flag(before):
                    raise UsageError(f"{_flag(before)} is called {_flag(now)} now")
        return list(super().parse_args(ctx, args))

    def read(self, ctx: Any) -> Options:
        """Return the options of a line that was parsed.

        Raises:
            UsageError: a value is wrong.
        """
        words = ("COMMANDLINE", "PROMPT")
        # The defaults, also those of the environment, are the model's.
        given = {name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") in words}
        values = self._parsed.callback(**ctx.params)
        return read_options(self.model, {name: value for name, value in values.items() if name in given})

    def invoke(self, ctx: Any) -> Any:
        """Call the command with its options."""
        ctx.obj = self.read(ctx)
        ctx.params = {}
        return super().invoke(ctx)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _function_of(model: type[Options]) -> Callable[..., dict[str, Any]]:
    """Return a function with the parameters of a model, as typer reads them, that returns what it is called with."""
    from tpbench.options import choices_of, flag_of, help_of, is_flag, range_of

    def values(**given: Any) -> dict[str, Any]:
        return given

    parameters = []
    for name, (field, shown) in model.fields().items():
        flag, limits, choices = flag_of(name, shown), range_of(field), choices_of(field)
        known: dict[str, Any] = {"help": help_of(field, shown.help)}
        if shown.metavar:
            known["metavar"] = help_of(field, shown.metavar)
        completion = _COMPLETIONS.get(shown.completion) or (complete_from(choices) if choices else None)
        if completion:
            known["autocompletion"] = completion
        if limits and not shown.metavar:
            known |= {"min": limits.lowest, "max": limits.highest}
        if shown.shown:
            known["show_default"] = shown.shown
        if shown.variable:
            known["envvar"] = shown.variable
        kind: Any = bool if is_flag(field) else int if limits else str
        default: Any = field.default
        if shown.kind == "track":
            kind, default, known["show_default"] = list[str] | None, None, False
        elif field.is_required():
            default = inspect.Parameter.empty
        elif default is None and not is_flag(field):
            kind = kind | None
        if flag.startswith("-"):
            told: Any = typer.Option(flag, **known)
            default = bool(default) if is_flag(field) else default
        else:
            told = typer.Argument(metavar=flag, **{k: v for k, v in known.items() if k != "metavar"})
        annotation = Annotated[kind, told]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    values.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    values.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return values


def format_error(error: TpbenchError) -> str:
    """Return an error's message with the parameter that it names spelled as an option."""
    if not isinstance(error, UsageError) or not error.parameter:
        return str(error)
    from tpbench.options import flags

    flag = flags().get(error.parameter) or _flag(error.parameter)
    return error.spelled(flag if flag.startswith("-") else error.parameter)


# Options of commands that train nothing.


def _known_workload(name: str) -> str:
    get_workload(name)
    return name


def _known_method(name: str) -> str:
    if name not in method_names():
        raise unknown("method", name, method_names())
    return name


# Checked as they are read, so that a slip shows before torch is imported.
WorkloadName = Annotated[
    str,
    typer.Argument(
        metavar="WORKLOAD",
        help="See 'tpbench workloads'; or a .yaml file.",
        callback=_known_workload,
        autocompletion=complete_workloads,
    ),
]

MethodName = Annotated[
    str,
    typer.Argument(
        metavar="METHOD", help="See 'tpbench methods'.", callback=_known_method, autocompletion=complete_methods
    ),
]

OfWorkload = Annotated[
    str | None,
    typer.Option("--workload", metavar="WORKLOAD", help="Only this one.", autocompletion=complete_workloads),
]


def baseline_option(only: str = "") -> Any:
    """Return the option that names the method which all others are compared with.

    Args:
        only: words of the help that say for what it is; empty: for all that the command prints.
    """
    text = "the method that all others are compared with."
    return typer.Option(
        "--baseline",
        metavar="METHOD",
        help=f"{only}: {text}" if only else text.capitalize(),
        show_default="bp",
        autocompletion=complete_methods,
    )


Baseline = Annotated[str | None, baseline_option()]

Results = Annotated[str, typer.Option("--results", metavar="DIR|URL", help="The run store.")]


def _folder_of_data(text: str) -> Path:
    folder = user_path(text)
    if is_regular_file(folder):
        raise UsageError("this is a file, a folder is needed", parameter="data", value=text)
    return folder


Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder of the data sets.",
        show_default="$TPBENCH_DATA or the cache",
        parser=_folder_of_data,
    ),
]

Device = Annotated[str, typer.Option(help=f"{', '.join(DEVICES)}.")]


def _known_trackers(texts: list[str] | None) -> list[str] | None:
    for text in texts or ():
        parse_target(text)
    return texts


Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="tensorboard[:DIR]|mlflow[:URI]",
        help="Follow every run there too; may be given twice.",
        show_default=False,
        callback=_known_trackers,
        autocompletion=complete_from(TRACKERS),
    ),
]

JobsAddress = Annotated[str, typer.Option("--address", metavar="http://HEAD:8265", help="The cluster's dashboard.")]

Format = Annotated[str, typer.Option("--format", help=", ".join(FORMATS), autocompletion=complete_from(FORMATS))]


def complain(message: str) -> None:
    """Print a line on standard error."""
    say(message, error=True)


def warn_damaged(store: RunStore) -> None:
    """Print a warning for every damaged file that a store has met."""
    for message in store.damaged:
        complain(f"warning: {message}")


def parse_names(text: str | None, known: Iterable[str], what: str) -> list[str]:
    """Return the names of a list with commas; all where none is given.

    Raises:
        UsageError: one is unknown.
    """
    names = [name.strip() for name in text.split(",")] if text else list(known)
    for name in names:
        if name not in known:
            raise unknown(what, name, known)
    return names


def print_records(records: Sequence[RunRecord], method: str, workload: str) -> None:
    """Print one line: mean and deviation over the seeds that did not diverge, as in tables.

    Raises:
        TpbenchError: all of them diverged.
    """
    errors = [100 * run.test_error for run in records if not run.diverged and run.test_error is not None]
    if not errors:
        raise TpbenchError(
            f"{workload} {method}: all of {count_of(len(records), 'seed')} diverged (numbers became non-finite), "
            "so there is no test error; the runs are stored as diverged"
        )
    diverged = len(records) - len(errors)
    note = f" ({diverged} diverged, not in the mean)" if diverged else ""
    known = format_mean(*mean_and_deviation(errors))
    say(f"{workload} {method}: test error {known} % over {count_of(len(records), 'seed')}{note}")
