"""The application that the commands join, and what they share: options, completion, lines of output."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from tpbench import __version__
from tpbench.engine import TpbenchError, UsageError, method_names, unknown
from tpbench.engine.files import is_regular_file, user_path
from tpbench.results import RunRecord, RunStore, opening
from tpbench.results.formats import FORMATS, count_of, format_loss, format_mean, mean_and_deviation, say
from tpbench.results.location import is_url, location
from tpbench.results.opening import DEFAULT_STORE
from tpbench.training.choice import read_options
from tpbench.training.devices import DEVICES
from tpbench.training.tracking import TRACKERS, parse_target
from tpbench.workloads import get_workload, is_file, workload_names

if TYPE_CHECKING:
    from tpbench.options import Options

KNOWN, DATA, TRAIN, RESULTS, CHECK, CLUSTER = PANELS = ("What there is", "Data", "Train", "Results", "Check", "Cluster")
"""Groups of commands in the help, in their order."""


def _without_types(parameters: Sequence[Any]) -> list[Any]:
    """Let the help show flags without ``<bool>``, and arguments without ``<str>``: their names say what they are."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None
    return list(parameters)


class Command(TyperCommand):
    """A command as the help shows it."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, ``--help`` among them."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands as the help shows it."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, ``--help`` among them."""
        return _without_types(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, by their groups in the help."""
        panels = {name: getattr(command, "rich_help_panel", None) for name, command in self.commands.items()}
        return sorted(self.commands, key=lambda name: PANELS.index(panels[name]) if panels[name] in PANELS else 0)


def _group(text: str, **settings: Any) -> typer.Typer:
    return typer.Typer(cls=Group, help=text, no_args_is_help=True, **settings)


app = _group(
    "Compare learning rules fairly: search, train and test target propagation, feedback alignment and backpropagation.",
    name="tpbench",
    pretty_exceptions_enable=False,
)
data_app = _group("Download, import and list data sets.")
verify_app = _group("Check the engine and learning rules against numbers made elsewhere.")
show_app = _group("Print a method's search space or configuration as YAML.")
results_app = _group("Check, merge, pack, export and remove runs of a store.")
app.add_typer(data_app, name="data", rich_help_panel=DATA)
app.add_typer(results_app, name="results", rich_help_panel=RESULTS)
app.add_typer(show_app, name="show", rich_help_panel=KNOWN)
app.add_typer(verify_app, name="verify", rich_help_panel=CHECK)


def command(
    group: typer.Typer,
    example: str,
    panel: str | None = None,
    *,
    name: str | None = None,
    cls: type[TyperCommand] = Command,
    **settings: Any,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command.

    Args:
        group: the application, or one of its groups.
        example: a command line, which the help shows.
        panel: the group of :data:`PANELS` in the application's help.
        name: the command's; None: the function's.
        cls: its class.
        settings: further ones of typer.
    """
    return group.command(name, cls=cls, epilog=f"Example: {example}", rich_help_panel=panel, **settings)


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


def complete_tunings(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the tuning labels of the results folder, without the spaces that a shell would part them at."""

    def labels(store: RunStore) -> Iterable[str]:
        from tpbench.results.cells import tuning_labels
        from tpbench.results.opening import squeeze_label

        return map(squeeze_label, tuning_labels(store.summaries()))

    return complete_from(_names_in_results(context, labels))(context, incomplete)


def complete_plotted(context: typer.Context, incomplete: str) -> list[str]:
    """Offer what ``tpbench plot`` can draw: sweeps of the results folder for a search, workloads otherwise."""
    if context.params.get("kind") == "search":
        return complete_from(_names_in_results(context, _sweep_names))(context, incomplete)
    return complete_workloads(context, incomplete)


def _sweep_names(store: RunStore) -> Iterable[str]:
    """Return the sweeps of a store, of its archives too."""
    from tpbench.results.sweep_files import archived_sweeps, sweep_names

    with store.archived.opened() as archives:
        return {*sweep_names(store.folder), *archived_sweeps(store, archives)}


def _names_in_results(context: typer.Context, names: Callable[[RunStore], Iterable[str]]) -> list[str]:
    """Return names of the ``--results`` that stand on the line so far; those of a URL would take too long.

    Args:
        names: returns those of a store.
    """
    results = str(context.params.get("results") or DEFAULT_STORE)
    if is_url(results):
        return []
    try:
        return sorted(names(RunStore(location(results))))
    except (OSError, TpbenchError):
        return []


_COMPLETIONS: dict[str, Completion] = {
    "workloads": complete_workloads,
    "methods": complete_methods,
    "trackers": complete_from(TRACKERS),
    "starts": complete_starts,
}


class OptionsCommand(Command):
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

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters; ``--help`` is in the last group."""
        from tpbench.options import PANELS

        parameters = super().get_params(ctx)
        for parameter in parameters:
            if parameter.name == "help":
                parameter.rich_help_panel = max(self.model.panels().values(), key=PANELS.index)
        return parameters

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
    from tpbench.options import PANELS, choices_of, flag_of, help_of, is_flag, range_of

    def values(**given: Any) -> dict[str, Any]:
        return given

    parameters = []
    panels = model.panels()
    for name, (field, shown) in sorted(model.fields().items(), key=lambda item: PANELS.index(panels[item[0]])):
        flag, limits, choices = flag_of(name, shown), range_of(field), choices_of(field)
        known: dict[str, Any] = {"help": help_of(field, shown.help)}
        if shown.metavar:
            known["metavar"] = help_of(field, shown.metavar)
        completion = _COMPLETIONS.get(shown.completion) or (complete_from(choices) if choices else None)
        if completion:
            known["autocompletion"] = completion
        if limits and not shown.metavar:
            # The model checks the number, and says what is wrong in the words of all other errors.
            known |= {"parser": _number, "metavar": "N"}
        if shown.shown:
            known["show_default"] = shown.shown
        if shown.variable:
            known["envvar"] = shown.variable
        kind: Any = bool if is_flag(field) else int if limits else str
        default: Any = field.default
        if default == ():
            kind, default, known["show_default"] = list[str] | None, None, shown.shown or False
        elif field.is_required():
            default = inspect.Parameter.empty
        elif default is None and not is_flag(field):
            kind = kind | None
        if flag.startswith("-"):
            told: Any = typer.Option(flag, rich_help_panel=panels[name], **known)
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


def _number(text: object) -> object:
    """Return the whole number that a text spells; any other text as it is."""
    return int(str(text)) if re.fullmatch(r"[+-]?[0-9]{1,20}", str(text)) else text


def between(flag: str, lowest: float, highest: float, kind: type[float] = float) -> dict[str, Any]:
    """Return the settings of an option that takes a number.

    Args:
        flag: the option.
        lowest, highest: bounds of the number.
        kind: ``int`` for a whole number.
    """

    def read(text: object) -> float:
        try:
            number = kind(str(text))
        except ValueError:
            number = kind(lowest) - 1
        if not lowest <= number <= highest:
            whole = "whole number" if kind is int else "number"
            raise UsageError(f"{flag} {text}: give a {whole} from {lowest:g} to {highest:g}")
        return number

    return {"parser": read}


def format_error(error: TpbenchError) -> str:
    """Return an error's message with the parameter that it names spelled as an option."""
    if not isinstance(error, UsageError) or not error.parameter:
        return str(error)
    from tpbench.options import flags

    flag = flags().get(error.parameter) or _flag(error.parameter)
    return error.spelled(flag if flag.startswith("-") else error.parameter)


# Options of commands that train nothing.


def _known_workload(name: str) -> str:
    try:
        get_workload(name)
    except UsageError:
        store = RunStore(location(DEFAULT_STORE))
        if store.folder_exists and any(record.definition.workload == name for record in store.summaries()):
            raise UsageError(
                f"'{name}' in {DEFAULT_STORE} is the workload of a file: give that file, such as {name}.yaml"
            ) from None
        raise
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
        help="A name (see 'tpbench workloads') or a .yaml file.",
        callback=_known_workload,
        autocompletion=complete_workloads,
    ),
]

MethodName = Annotated[
    str,
    typer.Argument(
        metavar="METHOD",
        help="A name (see 'tpbench methods').",
        callback=_known_method,
        autocompletion=complete_methods,
    ),
]

OfWorkload = Annotated[
    str | None,
    typer.Option("--workload", metavar="WORKLOAD", help="Only this workload.", autocompletion=complete_workloads),
]


def baseline_option(only: str = "") -> Any:
    """Return the option that names the method which all others are compared with.

    Args:
        only: words of the help that say for what it is; empty: for all that the command prints.
    """
    text = _help_for(only, "the method that others are compared with.")
    return typer.Option("--baseline", metavar="METHOD", help=text, show_default="bp", autocompletion=complete_methods)


def tuning_option(only: str = "") -> Any:
    """Return the option that restricts rows and tests to one tuning label; ``only`` as of :func:`baseline_option`."""
    labels = "'published', '54 x 27 halved' or another of the table's"
    text = _help_for(only, f"only what was tuned so, also in the tests: {labels}.")
    return typer.Option("--tuning", metavar="LABEL", help=text, show_default="all", autocompletion=complete_tunings)


def _help_for(only: str, text: str) -> str:
    return f"{only}: {text}" if only else text[0].upper() + text[1:]


Baseline = Annotated[str | None, baseline_option()]

Tuning = Annotated[str | None, tuning_option()]

Results = Annotated[str, typer.Option("--results", metavar="DIR|URL", help="Folder or URL of the run store.")]


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

Device = Annotated[str, typer.Option(metavar="|".join(DEVICES), help="Where it is measured.")]


def _known_trackers(texts: list[str] | None) -> list[str] | None:
    for text in texts or ():
        parse_target(text)
    return texts


Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="tensorboard[:DIR]|mlflow[:URI]",
        help="Where the runs are shown; may be given twice.",
        show_default=False,
        callback=_known_trackers,
        autocompletion=complete_from(TRACKERS),
    ),
]

JobsAddress = Annotated[
    str, typer.Option("--address", metavar="http://HEAD:8265", help="Address of the cluster's dashboard.")
]

Format = Annotated[
    str,
    typer.Option(
        "--format", metavar="|".join(FORMATS), help="Format of the output.", autocompletion=complete_from(FORMATS)
    ),
]


def complain(message: str) -> None:
    """Print a line on standard error."""
    say(message, error=True)


opened: list[RunStore] = []
"""The stores that the command has opened."""


def read_store(results: str) -> RunStore:
    """Return the store that a command reads (:func:`tpbench.results.opening.read_store`).

    Should the command fail, the damage that was met is printed first: it may be the cause.
    """
    opened.append(opening.read_store(results))
    return opened[-1]


def open_store(results: str) -> RunStore:
    """Return a store as :func:`read_store` does, also one that is not there yet."""
    opened.append(opening.open_store(results))
    return opened[-1]


def warn_damaged(store: RunStore) -> None:
    """Print a warning for every damaged file that a store has met."""
    for message in store.damaged:
        complain(f"warning: {message}")
    store.damaged.clear()


def warn_of_opened() -> None:
    """Print the warnings of all stores that the command has opened and not told of, each once."""
    for message in dict.fromkeys(message for store in opened for message in store.damaged):
        complain(f"warning: {message}")
    opened.clear()


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

    Of runs without a validation set these are the training loss and the test error of the last epoch.

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
    measured = f"test error {known} %"
    if not all(run.validated for run in records):
        losses = [run.curves["train_loss"][-1] for run in records if not run.diverged]
        measured = f"last epoch: training loss {format_loss(*mean_and_deviation(losses))}, {measured}"
    say(f"{workload} {method}: {measured} over {count_of(len(records), 'seed')}{note}")
