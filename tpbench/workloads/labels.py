"""What results are labelled by: the content of the data decides, people only add to it."""

from __future__ import annotations

import unicodedata

from tpbench.engine import UsageError
from tpbench.workloads.specs import DATASETS, DatasetSpec

DOWNLOADED = "torchvision"
"""The source of the files that torchvision downloads, checked by their MD5 sums; no other file that is imported gets
it."""
_UNVERIFIED = "unverified copy"
_LONGEST = 40


def chosen_label(spec: DatasetSpec, digest: str, source: str, wanted: str | None) -> str:
    """The label of data that somebody brings.

    Args:
        spec: the data set that they are said to be.
        digest: of their content.
        source: where they come from.
        wanted: the label that was asked for, if any.

    Raises:
        UsageError: the content does not bear that label, or it is none.
    """
    known = _known_label(spec, digest, source)
    if known is None:
        label = _UNVERIFIED if wanted is None else wanted.strip(" ").removesuffix(_mark(digest))
        if problem := _problem(label):
            raise UsageError(f"--label '{_printable(label)}': {problem}")
        return label + _mark(digest)
    if wanted is not None and (_normal(wanted) or "exact") != (_normal(known) or "exact"):
        what = "the exact data set, which needs no label" if not known else f"the {known}, and is labelled so"
        raise UsageError(f"--label '{_printable(wanted)}': by its content this is {what}")
    return known


def read_label(spec: DatasetSpec, digest: str, source: str, written: str) -> str:
    """The label of a file in the data folder, whatever is written in it."""
    known = _known_label(spec, digest, source)
    if known is not None:
        return known
    label = written.removesuffix(_mark(digest))
    return (_UNVERIFIED if _problem(label) else label) + _mark(digest)


def _mark(digest: str) -> str:
    """What tells copies of different content apart."""
    return f" {digest[:8]}"


def _known_label(spec: DatasetSpec, digest: str, source: str) -> str | None:
    """The label that the content alone decides: empty if exact, None if it is not known."""
    for known, label in spec.known_copies:
        if digest == known:
            return label
    if digest == spec.content or (spec.content is None and source == DOWNLOADED):
        return ""
    return None


def _problem(label: str) -> str:
    """Why a label cannot be that of a copy of unknown content, or nothing."""
    reserved = {"", "exact", *(_normal(known) for spec in DATASETS.values() for _, known in spec.known_copies)}
    if not label.isprintable():
        return "a label is printable text"
    if len(label) > _LONGEST:
        return f"a label has at most {_LONGEST} characters"
    if _normal(label) in reserved or _normal(label).split(" ")[0] == "exact":
        return "the content of the file decides that, and these are other data"
    return ""


def _normal(label: str) -> str:
    """As people read it: what differs in case, blanks or width alone is the same."""
    return " ".join(unicodedata.normalize("NFKC", label).split()).casefold()


def _printable(label: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in label)[: 2 * _LONGEST]
