"""Right or wrong, one bit per test sample: a small file beside each run, which belongs to that very training."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tpbench.engine import TpbenchError
from tpbench.results.runs import NewerFormat, RunRecord, sealed, unsealed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
ENDING = ".bits"
"""Of the file that lies beside ``ID.json`` and has its name."""
LARGEST_FILE = 100_000_000
"""Bytes; that of 10,000 test samples has 2,000."""


@dataclass(frozen=True)
class Predictions:
    """Which test samples a run classifies correctly at its selected epoch."""

    run: str
    """The run's id."""
    curves: str
    """Digest of the run's curves (:attr:`RunRecord.curves_digest`): another training of the run may have others."""
    correct: NDArray[np.bool_] = field(repr=False, compare=False)
    """(test samples,), in the order of the data set."""

    @classmethod
    def of(cls, record: RunRecord, correct: NDArray[np.bool_]) -> Predictions:
        """Make the predictions of a run from what its trainer kept."""
        return cls(record.definition.id, record.curves_digest, correct)

    def belongs(self, record: RunRecord) -> bool:
        """Return whether these come from the training that made this run's file, and are wrong as often as it says."""
        if self.run != record.definition.id or self.curves != record.curves_digest or record.test_error is None:
            return False
        return abs(1.0 - float(self.correct.mean()) - record.test_error) < 1e-9

    def to_json(self) -> str:
        """Return the text of the file: the same for the same predictions, closed by a checksum."""
        import numpy as np

        packed = base64.b64encode(np.packbits(self.correct).tobytes()).decode("ascii")
        body = {
            "format": FORMAT,
            "run": self.run,
            "curves": self.curves,
            "samples": len(self.correct),
            "correct": packed,
        }
        return json.dumps(sealed(body), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Predictions:
        """Read a file's text back.

        Raises:
            NewerFormat: it is valid, but a newer version wrote it.
            TpbenchError: it is truncated, altered, or holds something else.
        """
        import numpy as np

        try:
            body = unsealed(text)
            written_in = body.get("format")
            if type(written_in) is int and written_in > FORMAT:
                raise NewerFormat(f"{where}: written by a newer tpbench (format {written_in}): update this one")
            from tpbench.results.schemas import PredictionsFile, check_fields

            check_fields(PredictionsFile, body)
            if written_in != FORMAT:
                raise ValueError(f"it has another format than {FORMAT}, which this version reads")
            packed = np.frombuffer(base64.b64decode(body["correct"], validate=True), dtype=np.uint8)
            samples = body["samples"]
            if len(packed) != -(-samples // 8):
                raise ValueError(f"it has {8 * len(packed)} bits for {samples} samples")
        except ValueError as error:
            raise TpbenchError(f"{where}: not a valid file of predictions ({error})") from error
        return cls(body["run"], body["curves"], np.unpackbits(packed, count=samples).astype(bool))


def predictions_path(runs: Path, run_id: str) -> Path:
    """Return where the predictions of a run lie, in the folder of the runs."""
    return runs / f"{run_id}{ENDING}"


def can_have_predictions(record: RunRecord) -> bool:
    """Return whether a run has an epoch to take predictions from; one that diverged in its first epoch has none."""
    return record.history.selected_epoch is not None
