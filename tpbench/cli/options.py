"""What several commands share: options, and what they become."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tpbench.cli import completion
from tpbench.engine import PRECISIONS, TpbenchError, UsageError, check_precision, method_names, unknown
from tpbench.engine.files import is_regular_file, user_path
from tpbench.results import RunRecord, RunStore
from tpbench.results.formats import FORMATS, format_mean, mean_and_deviation, say
from tpbench.results.opening import DEFAULT_STORE
from tpbench.training.choice import choose_methods, choose_workloads
from tpbench.training.devices import DEVICES
from tpbench.training.tracking import TRACKERS, parse_target
from tpbench.workloads import get_workload


def _known_workload(name: str) -> str:
    get_workload(name)
    return name


def _known_method(name: str) -> str:
    if name not in method_names():
        raise unknown("method", name, method_names())
    return name


# Checked as they are read, so that a slip shows before torch and Ray are imported.
WorkloadName = Annotated[
    str,
    typer.Argument(
        metavar="WORKLOAD",
        help="See 'tpbench workloads'; or a .yaml file.",
        callback=_known_workload,
        autocompletion=completion.workloads,
    ),
]

MethodName = Annotated[
    str,
    typer.Argument(
        metavar="METHOD", help="See 'tpbench methods'.", callback=_known_method, autocompletion=completion.methods
    ),
]

OfWorkload = Annotated[
    str | None,
    typer.Option("--workload", metavar="WORKLOAD", help="Only this one.", autocompletion=completion.workloads),
]


def _known_workloads(text: str) -> str:
    choose_workloads(text)
    return text


def _known_methods(text: str) -> str:
    choose_methods(text)
    return text


Workloads = Annotated[
    str,
    typer.Argument(
        metavar="WORKLOADS",
        help="A name or .yaml file, several with commas, or 'all'.",
        callback=_known_workloads,
        autocompletion=completion.workloads,
    ),
]

Methods = Annotated[
    str,
    typer.Argument(
        metavar="METHODS",
        help="A name, several with commas, or 'all'.",
        callback=_known_methods,
        autocompletion=completion.methods,
    ),
]

Results = Annotated[str, typer.Option("--results", metavar="DIR|URL", help="The run store.")]


def _folder_of_data(text: str) -> Path:
    folder = user_path(text)
    if is_regular_file(folder):
        raise UsageError(f"--data '{text}': this is a file, a folder is needed")
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

Epochs = Annotated[
    int | None,
    typer.Option(min=1, max=1_000_000, help="Joint epochs.", show_default="the workload's, 100 in the paper"),
]


def _known_precision(name: str) -> str:
    return check_precision(name)


def _known_search_precision(name: str | None) -> str | None:
    return None if name is None else check_precision(name, "search precision")


Precision = Annotated[
    str,
    typer.Option(
        help=f"Arithmetic: {', '.join(PRECISIONS)}.",
        callback=_known_precision,
        autocompletion=completion.of(PRECISIONS),
    ),
]

SearchPrecision = Annotated[
    str | None,
    typer.Option(
        help="Of the search alone; the final runs keep --precision.",
        show_default="as --precision",
        callback=_known_search_precision,
        autocompletion=completion.of(PRECISIONS),
    ),
]

Device = Annotated[str, typer.Option(help=f"{', '.join(DEVICES)}.")]

Config = Annotated[str, typer.Option("--config", metavar="published|best|FILE", help="The hyperparameters.")]

Seeds = Annotated[str, typer.Option("--seeds", metavar="SEEDS", help="0-9, or a list of seeds and ranges.")]

Cpus = Annotated[int | None, typer.Option("--cpus", min=1, help="CPU cores to use.", show_default="all")]

Gpus = Annotated[int | None, typer.Option("--gpus", min=0, help="GPUs to use.", show_default="all")]

Address = Annotated[
    str | None,
    typer.Option("--address", metavar="auto|HOST:PORT", help="A running Ray cluster.", show_default="none"),
]

CheckpointEvery = Annotated[int, typer.Option(min=1, help="Epochs between checkpoints.")]

Offline = Annotated[
    bool, typer.Option("--offline", envvar="TPBENCH_OFFLINE", help="Download nothing: a missing data set is an error.")
]

KeepNetworks = Annotated[
    bool, typer.Option("--keep-networks", help="Keep the final runs' weights of the selected epoch, not the search's.")
]


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
        autocompletion=completion.of(TRACKERS),
    ),
]

JobsAddress = Annotated[str, typer.Option("--address", metavar="http://HEAD:8265", help="The cluster's dashboard.")]

Format = Annotated[str, typer.Option("--format", help=", ".join(FORMATS), autocompletion=completion.of(FORMATS))]

RESULTS = DEFAULT_STORE


class OptionalFile(TyperCommand):
    """A command whose ``--write`` may stand without its file, which typer does not know."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # Only a name that ends in .csv is the file: what else follows is an argument of its own.
        spelled = list(args)
        for place, word in enumerate(args):
            after = "".join(args[place + 1 : place + 2])
            if word == "--write" and not after.endswith(".csv"):
                if not after.startswith("-") and ("." in after or "/" in after):
                    raise UsageError(f"--write '{after}': the file's name must end in .csv")
                spelled[place] = "--write="
        return super().parse_args(ctx, spelled)


def make_settings(
    results: str,
    data: Path | None,
    precision: str,
    device: str | None,
    checkpoint_every: int,
    offline: bool,
    keep_networks: bool = False,
    track: Sequence[str] | None = None,
    again: bool = False,
) -> Any:
    """:func:`tpbench.training.settings.make_settings` for the command that was typed."""
    from tpbench.training.settings import make_settings

    return make_settings(
        results,
        data,
        precision,
        device,
        checkpoint_every,
        offline,
        shlex.join(["tpbench", *sys.argv[1:]]),
        keep_networks=keep_networks,
        track=track or (),
        again=again,
    )


def complain(message: str) -> None:
    """A line on standard error."""
    say(message, error=True)


def warn_damaged(store: RunStore) -> None:
    for message in store.damaged:
        complain(f"warning: {message}")


def parse_names(text: str | None, known: Iterable[str], what: str) -> list[str]:
    """A comma-separated list of names; all where none is given."""
    names = [name.strip() for name in text.split(",")] if text else list(known)
    for name in names:
        if name not in known:
            raise unknown(what, name, known)
    return names


def print_records(records: Sequence[RunRecord], method: str, workload: str) -> None:
    """One line: mean and deviation over the seeds that did not diverge, as in tables.

    Raises:
        TpbenchError: all of them diverged.
    """
    errors = [100 * run.test_error for run in records if not run.diverged and run.test_error is not None]
    many = "s" * (len(records) > 1)
    if not errors:
        raise TpbenchError(
            f"{workload} {method}: all of {len(records)} seed{many} diverged (numbers became non-finite), so there is "
            "no test error; the runs are stored as diverged"
        )
    diverged = len(records) - len(errors)
    note = f" ({diverged} diverged, not in the mean)" if diverged else ""
    known = format_mean(*mean_and_deviation(errors))
    say(f"{workload} {method}: test error {known} % over {len(records)} seed{many}{note}")
