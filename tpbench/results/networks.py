"""Trained networks beside their runs: one safetensors file each, named by the run, checked when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from tpbench import __version__
from tpbench.engine import Architecture, TpbenchError
from tpbench.engine.files import atomic_write
from tpbench.engine.parts import Convolution
from tpbench.results.artifacts import ID_PATTERN, Artifact, ArtifactKind, NewerFormat, verify_format, with_checksum
from tpbench.results.location import LARGEST_FILE
from tpbench.results.runs import RunRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tpbench.results.schemas import Finite, Fraction, Name, Natural, RunId
    from tpbench.results.store import RunStore

# Types of fields; tpbench.results.schemas has a model for each.
Sizes = tuple[int, ...]
Convolutions = tuple[Convolution, ...]
ImageMap = tuple[int, int, int] | None

FORMAT = 2
"""The format of a network with convolutions, or of a run without a validation set; older versions read format 1 alone,
and name this as newer."""
PLAIN_FORMAT = 1
"""The format of all other networks."""
EXPORTS = (".safetensors", ".pt", ".npz")
"""Suffixes of the files into which networks can be exported."""
_AGAIN = "'tpbench run ... --keep-networks' with the run's configuration trains it again"


class WrongNetwork(TpbenchError):  # noqa: N818 (named for what is there)
    """A network that is missing, damaged, or of another training; training the run again makes it."""


@dataclass(frozen=True)
class TrainedNetwork(Artifact):
    """The parameters that a run had after its selected epoch, with their description."""

    run: RunId
    """The run's id."""
    workload: Name
    method: Name
    seed: Natural
    precision: Name
    selected_epoch: Natural
    """From 0."""
    validation_error: Fraction | None
    """At the selected epoch, as the next is; None: the run has no validation set."""
    test_error: Fraction
    curves: str
    """Digest of the run's curves: another training of the same run may have others."""
    sizes: Sizes
    """Numbers of inputs, units of hidden tanh layers and linear outputs."""
    scale: Finite
    shift: Finite
    """The network's inputs are ``stored number * scale + shift``."""
    arrays: Mapping[str, NDArray[Any]] = field(repr=False, metadata={"stored": False})
    """``forward.{i}.weight`` (n_i, n_{i-1}), of a convolution (channels, channels of its inputs, k, k);
    ``forward.{i}.bias``; and the feedback's (docs/files.md)."""
    tpbench: str = field(default=__version__, metadata={"required": True})
    """The version that trained it."""
    convolutions: Convolutions = ()
    """The first layers. The units of each are in the order channel, row, column."""
    image: ImageMap = None
    """Channels, rows and columns of the inputs, whose order is row, column, channel; None without convolutions."""

    @property
    def architecture(self) -> Architecture:
        """The network's layers."""
        return Architecture(self.sizes, convolutions=self.convolutions, image=self.image)

    @property
    def format(self) -> int:
        """The format of the network's file."""
        return FORMAT if self.convolutions or self.validation_error is None else PLAIN_FORMAT

    def to_bytes(self) -> bytes:
        """Return the contents of the network's file: the same bytes for the same network."""
        from safetensors.numpy import save

        left_out = ("arrays",) if self.convolutions else ("arrays", "convolutions", "image")
        about = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        about |= {"convolutions": list(map(asdict, self.convolutions))} if self.convolutions else {}
        about |= {
            "format": self.format,
            "sizes": list(self.sizes),
            "activation": "tanh",
            "output": "linear",
            "arrays": arrays_digest(self.arrays),
        }
        # One entry: safetensors writes several in no fixed order.
        return save(dict(self.arrays), {"tpbench": json.dumps(with_checksum(about), sort_keys=True, allow_nan=False)})

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> TrainedNetwork:
        """Read a network's file back.

        Raises:
            NewerFormat: it is valid, but a newer version wrote it.
            WrongNetwork: it is truncated, altered, or no network.
        """
        try:
            about = verify_format(_metadata(content), where, FORMAT, PLAIN_FORMAT)
            from safetensors.numpy import load

            from tpbench.results.schemas import NetworkFields, check_fields

            check_fields(NetworkFields, about)
            arrays = load(content)
            if arrays_digest(arrays) != about.get("arrays"):
                raise ValueError("its numbers do not match their checksum")
            known = {f.name: about[f.name] for f in fields(cls) if f.name in about and f.name != "arrays"}
            known |= {"sizes": tuple(about["sizes"]), "image": tuple(about["image"]) if about.get("image") else None}
            known["convolutions"] = tuple(Convolution(**layer) for layer in about.get("convolutions", ()))
            network = cls(**{**known, "arrays": arrays})
            network._check_shapes()
            if about["format"] != network.format:
                raise ValueError(f"its format is {about['format']}")
        except NewerFormat:
            raise
        except Exception as error:  # safetensors has exceptions of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise WrongNetwork(f"{where}: not a valid network ({reason}); delete it: {_AGAIN}") from error
        return network

    def _check_shapes(self) -> None:
        for i, expected in enumerate(self._weight_shapes(), start=1):
            shapes = [self.arrays[f"forward.{i}.{kind}"].shape for kind in ("weight", "bias")]
            if shapes != [expected, expected[:1]]:
                raise ValueError(f"layer {i} has the shapes {shapes}")
        if f"forward.{len(self.sizes)}.weight" in self.arrays:
            raise ValueError("it has more layers than sizes")

    def _weight_shapes(self) -> list[tuple[int, ...]]:
        architecture = self.architecture
        layers = zip(architecture.convolutions, architecture.maps, strict=False)
        shapes = [(layer.channels, source[0], layer.kernel, layer.kernel) for layer, source in layers]
        return [*shapes, *zip(self.sizes[len(shapes) + 1 :], self.sizes[len(shapes) :], strict=False)]

    def belongs(self, record: RunRecord) -> bool:
        """Return whether the training that made this run's file left the network; another's curves differ."""
        return self.run == record.definition.id and self.curves == record.curves_digest


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of arrays."""
    hashed = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        hashed.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        hashed.update(array.tobytes())
    return hashed.hexdigest()


def _metadata(content: bytes) -> str:
    """Return our entry of the header of a safetensors file, which begins with the header's length."""
    length = int.from_bytes(content[:8], "little")
    text: str = json.loads(content[8 : 8 + length])["__metadata__"]["tpbench"]
    return text


NETWORKS = ArtifactKind(
    title="network of the run",
    content="parameters",
    folder="networks",
    suffix=".safetensors",
    names=ID_PATTERN,
    largest=LARGEST_FILE,
    decode=TrainedNetwork.from_bytes,
    encode=TrainedNetwork.to_bytes,
    owner=lambda network: network.run,
    archived=False,
    error=WrongNetwork,
    remedy=f"; delete it: {_AGAIN}",
)
"""Files of networks; their names are the ids of the runs."""


def read_network(store: RunStore, run_id: str) -> TrainedNetwork | None:
    """Read the network of a run's id; None if there is none.

    Raises:
        NewerFormat: a newer version wrote its file.
        WrongNetwork: it is damaged.
        TpbenchError: it cannot be read.
    """
    return NETWORKS.read_if_there(NETWORKS.path(store.folder, run_id))


def network_of(store: RunStore, record: RunRecord) -> TrainedNetwork:
    """Return the network of a run.

    Raises:
        NewerFormat: a newer version wrote its file.
        WrongNetwork: there is none, or it is damaged, or comes from another training of the run.
        TpbenchError: it cannot be read.
    """
    run_id = record.definition.id
    network = read_network(store, run_id)
    if network is None:
        diverged = record.history.selected_epoch is None
        why = "it diverged before its first epoch ended" if diverged else f"it was not kept; {_AGAIN} and keeps it"
        raise WrongNetwork(f"{store.folder} holds no network of the run {run_id}: {why}")
    if not network.belongs(record):
        path = NETWORKS.path(store.folder, run_id)
        raise WrongNetwork(
            f"{path}: comes from another training of the run, whose curves are not those of the run's file; delete it: "
            f"{_AGAIN}"
        )
    return network


def has_network(store: RunStore, record: RunRecord) -> bool:
    """Return whether a run's network is valid, or cannot exist because the run diverged in its first epoch.

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


def save_network(store: RunStore, network: TrainedNetwork) -> None:
    """Write a network's file; one of the same training stays as it is.

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
    with atomic_write(NETWORKS.path(store.folder, network.run)) as file:
        file.write(network.to_bytes())
