"""Alignment records, as ``tpbench align`` writes them: one JSON file each, in a store or in its archives."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tpbench.engine import TpbenchError
from tpbench.results.artifacts import Artifact, ArtifactKind, verify_format, with_checksum
from tpbench.results.runs import Provenance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tpbench.results.schemas import Count, Epochs, Name, NonNegative
    from tpbench.results.store import RunStore

# Types of fields; tpbench.results.schemas has a model for each.
Seeds = list[int]
Steps = list[int]
LossAngles = list[Any]
TargetAngles = list[Any]

FORMAT = 1


@dataclass(frozen=True)
class AlignmentRecord(Artifact):
    """The angles of one method on one workload, in degrees; one row per measured minibatch."""

    workload: Name
    data_label: str
    method: Name
    seeds: Seeds
    epochs: Epochs
    every: Count
    steps_per_epoch: Count
    """Joint minibatches of one epoch."""
    dampings: list[NonNegative]
    steps: Steps
    loss_angles: LossAngles
    """(measurements, seeds, hidden layers)"""
    target_angles: TargetAngles
    """(measurements, seeds, dampings, hidden layers)"""
    provenance: Provenance

    @property
    def layers(self) -> int:
        """Number of hidden layers."""
        return len(self.loss_angles[0][0])

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return both kinds of angles as arrays; not a number where an update was zero."""
        import numpy as np

        # As floats, numpy reads None as not a number.
        loss, target = (np.array(values, dtype=np.float64) for values in (self.loss_angles, self.target_angles))
        return loss, target

    def disagrees(self, other: AlignmentRecord) -> bool:
        """Return whether another copy of the record has other angles."""
        mine, others = ((r.steps, r.loss_angles, r.target_angles) for r in (self, other))
        return mine != others

    def to_json(self) -> str:
        """Return the text of the record's file."""
        return json.dumps(with_checksum({"format": FORMAT, **asdict(self)})) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> AlignmentRecord:
        """Read a record's text back.

        Raises:
            NewerFormat: it is valid, but a newer version wrote it.
            TpbenchError: it is damaged.
        """
        try:
            body = verify_format(text, where, FORMAT)
            del body["format"]
            from tpbench.results.schemas import AlignmentFile, check_fields

            check_fields(AlignmentFile, body)
            record = cls(**body)
            record._check_shapes()
        except ValueError as error:
            raise TpbenchError(f"{where}: not a valid alignment record ({error})") from error
        return record

    def _check_shapes(self) -> None:
        loss, target = self.arrays()
        layers = loss.shape[-1]
        shape = (len(self.steps), len(self.seeds), layers)
        if loss.shape != shape or target.shape != (*shape[:2], len(self.dampings), layers) or not layers:
            raise ValueError(f"its angles have the shapes {loss.shape} and {target.shape}")


ALIGNMENTS = ArtifactKind(
    title="alignment record",
    content="angles",
    folder="alignment",
    suffix=".json",
    names=re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}"),
    # Every minibatch of 100 epochs of ten seeds would be a third of it.
    largest=500_000_000,
    decode=lambda content, where: AlignmentRecord.from_json(content.decode("utf-8", errors="replace"), where),
    encode=lambda record: record.to_json().encode(),
)
"""Files of alignment records. Their names cannot lead out of the folder."""


def read_alignments(store: RunStore) -> dict[str, AlignmentRecord]:
    """Read all valid records of a store, by name; damaged ones are named in ``store.damaged``.

    Raises:
        NewerFormat: a newer version wrote one of them.
        TpbenchError: the folder cannot be read.
    """
    return dict(store.read_all(ALIGNMENTS))
