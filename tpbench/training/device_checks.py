"""What ``tpbench verify device`` checks: a list of checks by group, each carried out to one row. Needs no Ray."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tpbench.engine import TpbenchError, UsageError, example_configuration, get_method
from tpbench.engine.device_checks import (
    CAPTURED,
    CAPTURED_LOWERED,
    CLOSE,
    EXACT,
    GRADIENT,
    Found,
    NotHere,
    captured_and_not,
    fixture_on,
    gradient_error,
    resumed,
    same_as_on_cpu,
)
from tpbench.engine.fixtures import Fixture, fixture_bounds, fixture_files
from tpbench.engine.precision import slow_bfloat16
from tpbench.engine.trainer import dtype_of
from tpbench.training.memory_limit import limited_pack, provoked_pack
from tpbench.training.packs import out_of_memory
from tpbench.workloads import WORKLOADS
from tpbench.workloads.benchmark import measure
from tpbench.workloads.cache import default_folder

GOLDEN = "golden"
"""The folder of golden fixtures within that of the data sets."""
BOTH = ("float32", "float64")
PRECISIONS_OF_GRADIENTS = ("float32", "tf32", "bf16")
RATED = ("bp", "dtp", "ddtp-linear")
"""Methods whose rates are measured, unless others are asked for."""
PACKS = {"cuda": (1, 10, 40, 100), "cpu": (1, 10)}
"""Sizes of the packs whose rates are measured."""

_EVERY = "every method"

Verdict = Literal["ok", "FAILED", "measured", "not here"]


@dataclass(frozen=True)
class Check:
    """One check that is still to be made."""

    setting: str
    """Of which method or file, and how."""
    criterion: str
    """Empty where something is only measured."""
    find: Callable[[], Found]


@dataclass(frozen=True)
class Row:
    """One check and how it ended."""

    check: str
    setting: str
    found: str
    criterion: str
    verdict: Verdict
    seconds: float
    numbers: Mapping[str, float | str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What is to be checked."""

    device: str
    """As torch names it, and there."""
    methods: Sequence[str]
    fixtures: Path | None = None
    """Folder of golden fixtures; None: where the data sets are, if it is there."""

    @property
    def gpu(self) -> bool:
        return self.device.startswith("cuda")


def carry_out(group: str, check: Check) -> Row:
    """A check's row; one that raises has failed, and the next one is made all the same."""
    started = time.perf_counter()
    verdict: Verdict = "FAILED"
    numbers: Mapping[str, float | str | None] = {}
    try:
        found = check.find()
        text, numbers = found.text, found.numbers
        verdict = "measured" if found.passed is None else "ok" if found.passed else "FAILED"
    except NotHere as reason:
        text, verdict = str(reason), "not here"
    except TpbenchError as error:
        text = str(error)
    except Exception as error:
        text = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
    # JSON has no infinity.
    finite = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in numbers.items()}
    return Row(group, check.setting, text, check.criterion, verdict, time.perf_counter() - started, finite)


def _golden(request: Request) -> list[Path]:
    """The golden files.

    Raises:
        UsageError: the folder that was named has none.
        NotHere: none was named, and there is none where it may be.
    """
    if request.fixtures:
        return fixture_files(request.fixtures)
    try:
        folder = default_folder() / GOLDEN
        if folder.is_dir():
            return fixture_files(folder)
    except TpbenchError:
        pass  # no home folder, or no file
    raise NotHere(f"no folder '{GOLDEN}' in the data folder ($TPBENCH_DATA); name it with --fixtures")


def _fixtures(request: Request) -> Iterator[Check]:
    try:
        files = _golden(request)
    except NotHere as reason:
        yield Check("", "", partial(_not_here, str(reason)))
        return
    for path in files:
        if not _is_of(path, request.methods):
            continue
        for precision in BOTH:
            find = partial(fixture_on, path, precision, request.device)
            yield Check(f"{path.stem}, {precision}", _bound(path, precision), find)


def _is_of(path: Path, methods: Sequence[str]) -> bool:
    """Whether a golden file is of one of these methods; of a damaged one nobody knows."""
    try:
        return Fixture(path).method_name in methods
    except TpbenchError:
        return True


def _bound(path: Path, precision: str) -> str:
    try:
        bounds = fixture_bounds(Fixture(path).method_name, dtype_of(precision))
    except TpbenchError:
        return "a readable file"
    return f"{next(iter(bounds)) if len(bounds) == 1 else 'everything'} to {max(bounds.values()):.0e}"


def _captured(request: Request) -> Iterator[Check]:
    if not request.gpu:
        yield Check(_EVERY, "", partial(_not_here, "a CPU captures nothing"))
        return
    slow = slow_bfloat16(request.device)
    for precision, bound in (("float32", CAPTURED), ("bf16", CAPTURED_LOWERED)):
        for name in request.methods:
            find = partial(captured_and_not, get_method(name), request.device, precision)
            if precision == "bf16" and slow:
                find = partial(_not_here, slow)
            if not get_method(name).allows_cuda_graph([example_configuration(get_method(name))]):
                find = partial(_not_here, "runs step by step: declared not capturable")
            yield Check(f"{name}, {precision}", f"bit for bit, or to {bound:.0e}", find)


def _same(request: Request) -> Iterator[Check]:
    if not request.gpu:
        yield Check(_EVERY, "", partial(_not_here, "this is the CPU"))
        return
    for name in request.methods:
        for precision in BOTH:
            find = partial(same_as_on_cpu, get_method(name), precision, request.device)
            yield Check(f"{name}, {precision}", f"to {EXACT if precision == 'float64' else CLOSE:.0e}", find)


def _resumed(request: Request) -> Iterator[Check]:
    device = request.device
    ways = [(device, "cpu"), ("cpu", device)] if request.gpu else [("cpu", "cpu")]
    for name in request.methods:
        for first, then in ways:
            criterion = f"to {EXACT:.0e}" if request.gpu else "bit for bit"
            yield Check(f"{name}, {first} to {then}", criterion, partial(resumed, get_method(name), first, then))


def _gradients(request: Request) -> Iterator[Check]:
    for precision in PRECISIONS_OF_GRADIENTS:
        if precision == "tf32" and not request.gpu:
            yield Check(f"{_EVERY}, tf32", "", partial(_not_here, "tf32 exists on a GPU only"))
            continue
        simulated = " (simulated)" if precision == "bf16" and slow_bfloat16(request.device) else ""
        for name in request.methods:
            criterion = f"float64's to {GRADIENT[precision]:.0e}"
            find = partial(gradient_error, get_method(name), precision, request.device)
            yield Check(f"{name}, {precision}{simulated}", criterion, find)


def _memory(request: Request) -> Iterator[Check]:
    setting = "four runs of bp" if request.gpu else "four runs of bp, an error provoked once (a limit needs a GPU)"
    find = partial(limited_pack, request.device) if request.gpu else provoked_pack
    yield Check(setting, "trained in smaller packs, all published", find)


def _rates(request: Request) -> Iterator[Check]:
    methods = [name for name in RATED if name in request.methods] or list(request.methods[:1])
    for name in methods:
        for pack in PACKS["cuda" if request.gpu else "cpu"]:
            yield Check(f"mnist {name}, pack of {pack}", "", partial(rate, name, pack, request.device))


GROUPS: dict[str, tuple[str, Callable[[Request], Iterator[Check]]]] = {
    "fixtures": ("golden fixtures", _fixtures),
    "captured": ("captured epochs", _captured),
    "same": ("same as on the CPU", _same),
    "resume": ("resumed", _resumed),
    "memory": ("out of memory", _memory),
    "rates": ("rates", _rates),
    "gradients": ("gradients", _gradients),
}
"""By the names that ``--only`` takes: what rows are called, and the checks."""


def verify_device(
    request: Request, groups: Sequence[str] = tuple(GROUPS), say: Callable[[str], None] = lambda text: None
) -> Iterator[Row]:
    """The rows of these groups, as they are found; ``say`` hears of each group before it begins.

    Raises:
        UsageError: the folder of fixtures that was named has none, or fixtures alone were asked for and none are found.
    """
    if request.fixtures:
        # A slip is said before anything runs.
        fixture_files(request.fixtures)
    if tuple(groups) == ("fixtures",):
        try:
            _golden(request)
        except NotHere as reason:
            raise UsageError(str(reason)) from reason
    yield carry_out("machine", Check(request.device, "", partial(machine, request.device)))
    for group in groups:
        title, checks = GROUPS[group]
        say(f"{title} ...")
        for check in checks(request):
            yield carry_out(title, check)


def machine(device: str) -> Found:
    """What was checked on, and which libraries of tpbench's other commands are not there."""
    threads = torch.get_num_threads()
    name = f"{threads} thread{'s' * (threads > 1)}"
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    absent = [module for module in ("ray", "hyperopt", "pandas", "scipy", "torchvision") if not _is_there(module)]
    without = f"; without {', '.join(absent)}, which nothing here needs" if absent else ""
    return Found(f"{name}, torch {torch.__version__}, numpy {np.__version__}{without}")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def rate(method: str, pack: int, device: str, seconds: float = 0.3) -> Found:
    """Joint training on made-up data of MNIST's shape."""
    try:
        row = measure(WORKLOADS["mnist"], method, pack, device, "float32", seconds=seconds)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise NotHere("there is not enough memory for it") from error
    peak = f", {row.peak_memory / 2**20:.0f} MiB" if row.peak_memory else ""
    text = (
        f"{1000 * row.step_seconds:.2f} ms/step, {row.member_epochs_per_second:.2f} member epochs/s, "
        f"{row.rate / 1e9:.0f} GFLOP/s ({100 * row.fraction:.0f} % of the product rate){peak}"
    )
    return Found(text, None, {name: value for name, value in asdict(row).items() if name != "phases"})


def _not_here(reason: str) -> Found:
    raise NotHere(reason)
