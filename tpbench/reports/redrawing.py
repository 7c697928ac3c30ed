"""Sections that a watched page keeps from one drawing to the next, as most of them change seldom."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from typing import ParamSpec, TypeVar

from tpbench.reports.style import Glyphs
from tpbench.results import RunStore
from tpbench.results.location import file_stamps

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class _Drawn:
    """A section as it was drawn last."""

    key: str
    section: object
    glyphs: Glyphs
    damaged: list[str]
    """Messages of its reading."""


_kept: ContextVar[dict[str, _Drawn] | None] = ContextVar("kept", default=None)


@contextmanager
def keeping_sections(sections: dict[str, _Drawn]) -> Iterator[None]:
    """Let functions that :func:`kept` marks reuse what is kept here, for the length of a ``with`` block."""
    token = _kept.set(sections)
    try:
        yield
    finally:
        _kept.reset(token)


def kept(draw: Callable[P, T]) -> Callable[P, T]:
    """Mark a function that draws a section of a store's runs or alignment records, not of its sweeps.

    Within :func:`keeping_sections` it draws only if its arguments, the alignment records or the archives have changed.
    Its first argument is the store, and another one the page's glyphs.
    """

    @functools.wraps(draw)
    def wrapped(*arguments: P.args, **named: P.kwargs) -> T:
        sections = _kept.get()
        if sections is None or named:
            return draw(*arguments, **named)
        store, glyphs = arguments[0], next(one for one in arguments if isinstance(one, Glyphs))
        assert isinstance(store, RunStore)
        key = _key(store, [one for one in arguments if not isinstance(one, (RunStore, Glyphs))])
        drawn = sections.get(draw.__name__)
        if drawn is None or drawn.key != key:
            own, before = Glyphs(), len(store.damaged)
            section = draw(*(own if one is glyphs else one for one in arguments))  # type: ignore[arg-type, call-arg]
            drawn = _Drawn(key, section, own, store.damaged[before:])
            sections[draw.__name__] = drawn
        else:
            store.damaged += drawn.damaged
        glyphs.update(drawn.glyphs)
        return drawn.section  # type: ignore[return-value]

    return wrapped


def _key(store: RunStore, arguments: list[object]) -> str:
    stamps = file_stamps(store.folder / "alignment", ".json"), file_stamps(store.folder, ".zip")
    return hashlib.sha256(repr(_plain((arguments, stamps))).encode(errors="surrogatepass")).hexdigest()


def _plain(value: object) -> object:
    """Return the fields of a value, and of all in it: equal ones have equal texts then."""
    if is_dataclass(value):
        return [_plain(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, Mapping):
        return [(_plain(name), _plain(one)) for name, one in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value
