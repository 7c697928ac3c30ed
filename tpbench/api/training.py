"""Runs and sweeps from Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench.api.asked import (
    Names,
    Place,
    Seeds,
    Track,
    folder,
    hyperparameters,
    is_offline,
    maybe_whole,
    one_name,
    options_of,
    place,
    seeds_text,
    several_names,
    trackers,
    whole,
    yes_or_no,
)
from tpbench.api.words import for_python, warn
from tpbench.engine import check_precision
from tpbench.results.commands import CALL
from tpbench.results.runs import DEFAULT_OBJECTIVE, DEFAULT_PRECISION

if TYPE_CHECKING:
    import os

    import pandas as pd

_MOST = 1_000_000
_USUAL = {
    "results": "results",
    "precision": DEFAULT_PRECISION,
    "device": "auto",
    "checkpoint_every": 5,
    "config": "published",
    "trials": 100,
    "objective": DEFAULT_OBJECTIVE,
    "halving": 0,
    "pack": "auto",
    "search_seed": 0,
    "offline": False,
    "track": (),
    "again": False,
}
"""What the command line takes where nothing is said."""


@for_python
def run(
    workload: str | os.PathLike[str],
    method: str,
    configuration: str | os.PathLike[str] | Mapping[str, float] = "published",
    seeds: Seeds = range(10),
    epochs: int | None = None,
    results: Place = "results",
    *,
    data: Place | None = None,
    precision: str = DEFAULT_PRECISION,
    device: str = "auto",
    checkpoint_every: int = 5,
    offline: bool | None = None,
    keep_networks: bool = False,
    track: Track | None = None,
    again: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train one configuration over seeds, as one pack or as one per core, without Ray: ``tpbench run``.

    Runs that the store has are not trained again. The call may be made from any thread; on a CPU, several train side by
    side.

    Args:
        workload: a name, or a ``.yaml`` file.
        method: a name.
        configuration: ``"published"`` (the authors'), ``"best"`` (of the store), a YAML file, or the hyperparameters by
            name.
        seeds: numbers, or text such as ``"0-4,7"``.
        epochs: joint epochs. None: the workload's.
        results: the store that they are added to: a folder or a URL.
        data: folder of the data sets. None: ``$TPBENCH_DATA`` or the cache.
        precision: ``float32``, ``float64``, ``tf32`` or ``bf16``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        checkpoint_every: epochs between checkpoints.
        offline: whether a missing data set is an error. None: what ``$TPBENCH_OFFLINE`` says.
        keep_networks: whether the store gets the networks of the final runs too (:func:`load_network`).
        track: trackers that follow the runs: ``"tensorboard[:DIR]"``, ``"mlflow[:URI]"``, or several in a list; None:
            none.
        again: whether stored runs without predictions are trained again for them (:func:`load_predictions`).
        progress: whether to show how far it is.

    Returns:
        The runs, one row per seed, with the columns of :func:`load_runs`. Those that diverged are among them.

    Raises:
        UsageError: an argument is wrong.
        TpbenchError: the data set is missing, or the store cannot be written.
        KeyboardInterrupt: Ctrl-C, the interrupt of a notebook, SIGTERM or SIGHUP while the main thread trains; what was
            finished is stored, and the same call continues from the last checkpoint.
    """
    from tpbench.results.frames import runs_frame
    from tpbench.search.configurations import find_configuration
    from tpbench.training.choice import CellChoice
    from tpbench.training.running import run_seeds
    from tpbench.training.seeds import parse_seeds
    from tpbench.training.settings import make_settings

    names = one_name(workload, "workload"), one_name(method, "method")
    cell = CellChoice.of(*names)
    config = hyperparameters(configuration)
    store, folder_of_data = place(results), folder(data, "data")
    options: dict[str, Any] = {
        "config": config,
        "seeds": seeds_text(seeds),
        "epochs": maybe_whole(epochs, "epochs", 1, _MOST),
        "precision": check_precision(one_name(precision, "precision")),
        "device": one_name(device, "device"),
        "checkpoint_every": whole(checkpoint_every, "checkpoint_every", 1, _MOST),
    }
    places: dict[str, Any] = {
        "results": store,
        "data": folder_of_data,
        "offline": is_offline(offline),
        "keep_networks": yes_or_no(keep_networks, "keep_networks"),
        "track": trackers(track),
        "again": yes_or_no(again, "again"),
    }
    settings = make_settings(
        store,
        folder_of_data,
        options["precision"],
        options["device"],
        options["checkpoint_every"],
        places["offline"],
        _run_command(names, {**options, **places}),
        keep_networks=places["keep_networks"],
        track=places["track"],
        again=places["again"],
    )
    chosen = find_configuration(
        cell, config, store, folder_of_data, offline=settings.offline, precision=settings.precision
    )
    records = run_seeds(
        cell,
        chosen.values,
        chosen.found,
        parse_seeds(options["seeds"]),
        options["epochs"],
        settings,
        note=chosen.note,
        progress=yes_or_no(progress, "progress"),
    )
    return runs_frame(records)


@for_python
def sweep(
    workloads: Names,
    methods: Names,
    trials: int = 100,
    *,
    seeds: int | None = None,
    final_seeds: Seeds | None = None,
    epochs: int | None = None,
    space: Place | None = None,
    objective: str = DEFAULT_OBJECTIVE,
    halving: int = 0,
    results: Place = "results",
    data: Place | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    address: str | None = None,
    pack: int | str = "auto",
    search_seed: int = 0,
    fresh: bool = False,
    accept_failures: bool = False,
    precision: str = DEFAULT_PRECISION,
    search_precision: str | None = None,
    checkpoint_every: int = 5,
    offline: bool | None = None,
    keep_networks: bool = False,
    track: Track | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Search hyperparameters with TPE, then train the best configuration over all seeds: ``tpbench sweep``.

    One cell or many, on a Ray that is started for the call and ends with it. The same call continues a sweep that was
    interrupted. It may be made from any thread; a second one in the same process waits for the first.

    Args:
        workloads, methods: a name (of a workload also a ``.yaml`` file), several with commas between them or as a list,
            or ``"all"``: the paper's data sets, the methods of Table S6.
        trials: configurations that each search tries.
        seeds: how many final runs there are, with seeds from 0 on. None: 10.
        final_seeds: which seeds they have instead: numbers, or text such as ``"1-10"``.
        epochs: joint epochs. None: the workload's.
        space: a file with search spaces. None: the paper's.
        objective: what is minimised: ``validation_error``, ``validation_loss`` or ``train_loss``.
        halving: the factor by which packs are halved at two rungs; 0: no halving.
        results: the store: a folder or a URL.
        data: folder of the data sets. None: ``$TPBENCH_DATA`` or the cache.
        cpus, gpus: what to use of this machine or cluster. None: all.
        address: a running Ray cluster, ``"auto"`` or ``HOST:PORT``; ``"auto"`` also where this process called
            ``ray.init()``, whose Ray is used then and left as it is.
        pack: configurations that are trained together. ``"auto"``: measured.
        search_seed: of the search.
        fresh: start another sweep though one was begun.
        accept_failures: go on though more than a tenth of the configurations could not be trained.
        precision: as :func:`run` takes it.
        search_precision: of the search alone.
        checkpoint_every: epochs between checkpoints.
        offline: whether a missing data set is an error. None: what ``$TPBENCH_OFFLINE`` says.
        keep_networks: whether the store gets the networks of the final runs too (:func:`load_network`).
        track: trackers that follow the runs: ``"tensorboard[:DIR]"``, ``"mlflow[:URI]"``, or several in a list; None:
            none.
        progress: whether to show how far it is.

    Returns:
        The final runs, one row per workload, method and seed, with the columns of :func:`load_runs`; the runs of the
        searches are in the store too.

    Raises:
        UsageError: an argument is wrong, or this process is connected to a Ray and ``address`` is None.
        TpbenchError: a data set is missing, a sweep is running already, or one failed; the runs of the others are in
            the store.
        KeyboardInterrupt: as of :func:`run`.
    """
    from tpbench.results.frames import runs_frame
    from tpbench.sweeps.campaign import require_success, run_sweeps
    from tpbench.sweeps.options import choose_options
    from tpbench.training.choice import choose_all
    from tpbench.training.settings import make_settings

    names = several_names(workloads, "workloads"), several_names(methods, "methods")
    cells, left = choose_all(*names)
    warn(f"left out: {line}" for line in left)
    options: dict[str, Any] = {
        "trials": whole(trials, "trials", 1, _MOST),
        "seeds": maybe_whole(seeds, "seeds", 1, 10_000),
        "final_seeds": None if final_seeds is None else seeds_text(final_seeds, "final_seeds"),
        "epochs": maybe_whole(epochs, "epochs", 1, _MOST),
        "space": folder(space, "space"),
        "objective": one_name(objective, "objective"),
        "halving": whole(halving, "halving", 0, 10),
        "cpus": maybe_whole(cpus, "cpus", 1, _MOST),
        "gpus": maybe_whole(gpus, "gpus", 0, _MOST),
        "address": None if address is None else one_name(address, "address"),
        "pack": str(pack),
        "search_seed": whole(search_seed, "search_seed", 0, 2**32 - 1),
        "fresh": yes_or_no(fresh, "fresh"),
        "accept_failures": yes_or_no(accept_failures, "accept_failures"),
        "search_precision": search_precision,
    }
    if search_precision is not None:
        check_precision(one_name(search_precision, "search_precision"), "search precision")
    chosen = choose_options(**options)
    others: dict[str, Any] = {
        "precision": check_precision(one_name(precision, "precision")),
        "checkpoint_every": whole(checkpoint_every, "checkpoint_every", 1, _MOST),
        "results": place(results),
        "data": folder(data, "data"),
        "offline": is_offline(offline),
        "keep_networks": yes_or_no(keep_networks, "keep_networks"),
        "track": trackers(track),
    }
    command = shlex.join(["tpbench", "sweep", *names, *options_of({**options, **others}, _USUAL)])
    settings = make_settings(
        others["results"],
        others["data"],
        others["precision"],
        None,
        others["checkpoint_every"],
        others["offline"],
        command,
        keep_networks=others["keep_networks"],
        track=others["track"],
    )
    found = run_sweeps(cells, chosen, settings, progress=yes_or_no(progress, "progress"))
    require_success(found)
    return runs_frame(record for one in found for record in one.records)


def _run_command(names: tuple[str, str], options: Mapping[str, Any]) -> str:
    """The command that does the same; of hyperparameters in a mapping there is none, so the call itself."""
    if not isinstance(options["config"], Mapping):
        return shlex.join(["tpbench", "run", *names, *options_of(options, {**_USUAL, "seeds": "0-9"})])
    others = {name: value for name, value in options.items() if name != "config" and value != _USUAL.get(name)}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in others.items()}
    spelled = [f"{name}={value!r}" for name, value in plain.items() if value is not None and value is not False]
    return f"{CALL}{', '.join([*map(repr, names), repr(options['config']), *spelled])})"
