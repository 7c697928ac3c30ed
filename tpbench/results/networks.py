"""Trained networks beside their runs: one safetensors file each, named by the run, checked when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench import __version__
from tpbench.engine import TpbenchError
from tpbench.engine.errors import reason_of
from tpbench.engine.files import atomic_write
from tpbench.results.location import file_stamps, read_bytes
from tpbench.results.runs import ID_PATTERN, NewerFormat, Predictions, RunRecord, sealed, unsealed
from tpbench.results.store import RunStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
FOLDER = "networks"
"""Beside ``runs`` in a store's folder."""
ENDING = ".safetensors"
EXPORTS = (ENDING, ".pt", ".npz")
"""How the files end into which networks can be exported."""
_AGAIN = "'tpbench run ... --keep-networks' with the run's configuration trains it again"


class WrongNetwork(TpbenchError):  # noqa: N818 (named for what is there)
    """A network that is missing, damaged, or of another training: training the run again makes it."""


@dataclass(frozen=True)
class TrainedNetwork:
    """The parameters that a run had after its selected epoch, and what they are."""

    run: str
    """The run's id."""
    workload: str
    method: str
    seed: int
    precision: str
    selected_epoch: int
    """From 0."""
    validation_error: float
    test_error: float
    """Fractions, at the selected epoch."""
    curves: str
    """Digest of the run's curves: another training of the same run may have others."""
    sizes: tuple[int, ...]
    """Widths of inputs, hidden tanh layers and linear outputs."""
    scale: float
    shift: float
    """The network's inputs are ``stored number * scale + shift``."""
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    """``forward.{i}.weight`` (n_i, n_{i-1}), ``forward.{i}.bias`` (n_i), and the feedback's (docs/networks.md)."""
    tpbench: str = __version__
    """The version that trained it."""

    def to_bytes(self) -> bytes:
        """The contents of the network's file: the same bytes for the same network."""
        from safetensors.numpy import save

        about = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "arrays"}
        about |= {
            "format": FORMAT,
            "sizes": list(self.sizes),
            "activation": "tanh",
            "output": "linear",
            "arrays": arrays_digest(self.arrays),
        }
        # One entry: safetensors writes several in no fixed order.
        return save(dict(self.arrays), {"tpbench": json.dumps(sealed(about), sort_keys=True, allow_nan=False)})

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> TrainedNetwork:
        """Read a network's file back.

        Raises:
            NewerFormat: it is whole, but a newer version wrote it.
            WrongNetwork: it is truncated, altered, or no network.
        """
        try:
            about = unsealed(_metadata(content))
            written_in = about.get("format")
            if type(written_in) is int and written_in > FORMAT:
                raise NewerFormat(f"{where}: written by a newer tpbench (format {written_in}): update this one")
            if type(written_in) is not int or written_in != FORMAT:
                raise ValueError("it has another format")
            from safetensors.numpy import load

            from tpbench.results.schemas import NetworkFields, check_fields

            check_fields(NetworkFields, about)
            arrays = load(content)
            if arrays_digest(arrays) != about.get("arrays"):
                raise ValueError("its numbers do not match their checksum")
            known = {f.name: about[f.name] for f in fields(cls) if f.name != "arrays"}
            found = cls(**{**known, "sizes": tuple(about["sizes"]), "arrays": arrays})
            found._check_shapes()
        except NewerFormat:
            raise
        except Exception as error:  # safetensors has exceptions of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise WrongNetwork(f"{where}: not a valid network ({reason}); delete it: {_AGAIN}") from error
        return found

    def _check_shapes(self) -> None:
        for i, (below, width) in enumerate(zip(self.sizes, self.sizes[1:], strict=False), start=1):
            shapes = [self.arrays[f"forward.{i}.{kind}"].shape for kind in ("weight", "bias")]
            if shapes != [(width, below), (width,)]:
                raise ValueError(f"layer {i} has the shapes {shapes}")
        if f"forward.{len(self.sizes)}.weight" in self.arrays:
            raise ValueError("it has more layers than sizes")

    def belongs(self, record: RunRecord) -> bool:
        """Whether it is what the training of this run left: curves of another machine may differ in the last digits."""
        return self.run == record.definition.id and self.curves == record.curves_digest


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _metadata(content: bytes) -> str:
    """Ours of a safetensors file, which begins with the length of its JSON header."""
    length = int.from_bytes(content[:8], "little")
    text: str = json.loads(content[8 : 8 + length])["__metadata__"]["tpbench"]
    return text


def network_path(store: RunStore, run_id: str) -> Path:
    """Where the network of a run lies.

    Raises:
        ValueError: no run has such an id.
    """
    if not ID_PATTERN.fullmatch(run_id):
        raise ValueError(f"not the id of a run: {run_id!r}")
    return store.folder / FOLDER / f"{run_id}{ENDING}"


def read_network(store: RunStore, run_id: str) -> TrainedNetwork | None:
    """The network of that id, None if there is none; changes nothing.

    Raises:
        NewerFormat: a newer version wrote its file.
        WrongNetwork: it is damaged.
        TpbenchError: it cannot be read.
    """
    path = network_path(store, run_id)
    try:
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except TpbenchError as error:
        raise WrongNetwork(f"{error}; delete it: {_AGAIN}") from error
    except Exception as error:  # a URL's file system has exceptions of its own
        raise TpbenchError(f"{path}: could not be read ({reason_of(error)})") from error
    found = TrainedNetwork.from_bytes(content, str(path))
    if found.run != run_id:
        raise WrongNetwork(f"{path}: holds the network of the run {found.run}; delete it: {_AGAIN}")
    return found


def network_of(store: RunStore, record: RunRecord) -> TrainedNetwork:
    """The network of a run.

    Raises:
        NewerFormat: a newer version wrote its file.
        WrongNetwork: there is none, or it is damaged, or comes from another training of the run.
        TpbenchError: it cannot be read.
    """
    found, run_id = read_network(store, record.definition.id), record.definition.id
    if found is None:
        diverged = record.history.selected_epoch is None
        why = "it diverged before its first epoch ended" if diverged else f"it was not kept; {_AGAIN} and keeps it"
        raise WrongNetwork(f"{store.folder} holds no network of the run {run_id}: {why}")
    if not found.belongs(record):
        raise WrongNetwork(
            f"{network_path(store, run_id)}: comes from another training of the run, whose curves are not those of the "
            f"run's file; delete it: {_AGAIN}"
        )
    return found


def has_network(store: RunStore, record: RunRecord) -> bool:
    """Whether a run's network is there and whole, or nothing can be: it diverged in its first epoch.

    Raises:
        NewerFormat: a newer version wrote its file.
        TpbenchError: it cannot be read.
    """
    if record.history.selected_epoch is None:
        return True
    try:
        network_of(store, record)
    except WrongNetwork:
        return False
    return True


def keep_network(store: RunStore, network: TrainedNetwork) -> None:
    """Write a network's file; one that is there already stays if it is of the same training.

    Raises:
        NewerFormat: a newer version wrote the file that is there.
        TpbenchError: the store cannot be read or written; nothing half-written stays behind.
    """
    try:
        there = read_network(store, network.run)
    except WrongNetwork:
        there = None
    if there and there.curves == network.curves:
        return
    with atomic_write(network_path(store, network.run)) as file:
        file.write(network.to_bytes())


def replace_training(store: RunStore, old: RunRecord, record: RunRecord, predictions: Predictions | None) -> None:
    """Put another training of a run in the place of that in the store: run, predictions and network as one.

    The old ones go to the store's ``replaced/`` (:meth:`RunStore.replace_run`).

    Raises:
        TpbenchError: the store cannot be read or written.
    """
    _set_network_aside(store, store.replace_run(old, record, predictions))


def _set_network_aside(store: RunStore, record: RunRecord) -> None:
    try:
        there = read_network(store, record.definition.id)
    except WrongNetwork:
        return
    if there and there.belongs(record):
        path = network_path(store, record.definition.id)
        with atomic_write(store.replaced / f"{record.definition.id}-{record.curves_digest[:8]}{ENDING}") as file:
            file.write(there.to_bytes())
        path.unlink(missing_ok=True)


def network_ids(store: RunStore) -> list[str]:
    """The ids of the networks in a store, in order; what is not named like a run is passed over.

    Raises:
        TpbenchError: the folder cannot be read.
    """
    names = [name.removesuffix(ENDING) for name in file_stamps(store.folder / FOLDER, ENDING)]
    return sorted(name for name in names if ID_PATTERN.fullmatch(name))


@dataclass(frozen=True)
class NetworkCheck:
    """What a look at every network of a store found."""

    whole: int
    wrong: list[str]
    """What is the matter with files, a line each."""
    orphans: int
    """Whole ones whose run is not in the store: it lies elsewhere, or the work ended before it was published."""


def check_networks(store: RunStore) -> NetworkCheck:
    """Read every network and compare it with its run. Changes nothing."""
    whole = orphans = 0
    wrong: list[str] = []
    for run_id in network_ids(store):
        try:
            record = store.read(run_id)
            if record:
                network_of(store, record)
            orphans += not (record or read_network(store, run_id) is None)
            whole += 1
        except TpbenchError as error:
            wrong.append(str(error))
    return NetworkCheck(whole, wrong, orphans)
