"""The checkpoints of a pack: by time or by epochs, written by a thread of their own while the training goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tpbench.options import parse_duration

if TYPE_CHECKING:
    from tpbench.engine import Trainer

# Seconds of training before the first checkpoint by time: to train a minute again costs less than to write for all the
# packs of a search that last no longer.
_FIRST = 60.0


class CheckpointWriter:
    """Writes the checkpoints of one training, one at a time.

    At the end of an epoch the arrays are copied, and a thread writes the copy while the training goes on. A checkpoint
    by time that is due meanwhile is copied once the thread has ended. One by epochs is copied and waits, in the place
    of one that waited before it.

    The writer is a context manager. If the training ends by an error or an interruption, what was copied is written;
    otherwise it is dropped. After the block nothing is written.

    Args:
        path: the file.
        every: the time between checkpoints (:func:`tpbench.options.parse_duration`), with none in the first minute of
            training, or a number of epochs of any kind.
        clock: returns seconds.
        names: of the trainer's members, kept in the checkpoint.

    Example:
        ``with CheckpointWriter(path, "60s", time.perf_counter, names) as writer:`` around the training, and in it
        ``writer.after_epoch(trainer)`` after every epoch.
    """

    def __init__(self, path: Path, every: int | str, clock: Callable[[], float], names: Sequence[str] = ()) -> None:
        self.path, self.clock, self.names = path, clock, list(names)
        self.epochs = every if isinstance(every, int) else None
        self.seconds = 0.0 if isinstance(every, int) else parse_duration(every)
        self._last = clock()
        self._waiting: Mapping[str, Any] | None = None
        self._writing: tuple[threading.Thread, threading.Event] | None = None
        self._error: Exception | None = None
        self._cancelled = threading.Event()

    def after_epoch(self, trainer: Trainer) -> None:
        """Copy a checkpoint if one is due, and begin to write what waits if nothing else is being written.

        Args:
            trainer: between two epochs, with ``elapsed`` up to date.

        Raises:
            TpbenchError: an earlier checkpoint could not be written.
        """
        if self._error and not self.writing:
            error, self._error = self._error, None
            raise error
        if self._is_due(trainer):
            # Dropped before the copy is made, which needs as much memory.
            self._waiting = None
            self._waiting = {**trainer.snapshot(), "names": self.names}
        if not self.writing:
            self._write_waiting()

    def _is_due(self, trainer: Trainer) -> bool:
        if self.epochs:
            return trainer.position % self.epochs == 0
        now = self.clock()
        if self.writing or trainer.elapsed < _FIRST or now - self._last < self.seconds:
            return False
        self._last = now
        return True

    @property
    def writing(self) -> bool:
        """True while a checkpoint is being written."""
        return self._writing is not None and not self._writing[1].is_set()

    def _write_waiting(self) -> None:
        if self._waiting is not None:
            checkpoint, self._waiting = self._waiting, None
            ended = threading.Event()
            # No daemon: torch aborts the process if Python ends while it writes.
            thread = threading.Thread(target=self._write, args=(checkpoint, ended), name="checkpoint", daemon=False)
            thread.start()
            self._writing = thread, ended

    def _write(self, checkpoint: Mapping[str, Any], ended: threading.Event) -> None:
        from tpbench.engine.trainer import write_checkpoint

        try:
            write_checkpoint(checkpoint, self.path, self._cancelled.is_set)
        except Exception as error:
            self._error = error
        finally:
            ended.set()

    def _wait(self) -> None:
        if self._writing:
            thread, ended = self._writing
            # Python 3.11 takes a thread for ended if Ctrl-C interrupts its join, and would itself end before it.
            ended.wait()
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self._waiting = None
                self._cancelled.set()
            self._wait()
            if not self._error:
                self._write_waiting()
                self._wait()
        except BaseException:
            # Ctrl-C for the second time: the write ends with the piece that it is at.
            self._cancelled.set()
            raise
        if self._error:
            # The training ended before it could be raised.
            logging.getLogger(__name__).warning("the last checkpoint is missing: %s", self._error)
