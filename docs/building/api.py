"""The page of the public API: every name of ``tpbench.__all__``, described from its docstring by mkdocstrings."""

from __future__ import annotations

_INTRODUCTION = """# Python API

Every name that `import tpbench` gives and promises (`tpbench.__all__`). What else the package holds may change.
"""


def pages() -> dict[str, str]:
    """The page."""
    import tpbench

    names = [name for name in tpbench.__all__ if not name.startswith("_")]
    # What one calls, then the classes.
    names.sort(key=lambda name: (name[0].isupper(), name))
    return {"api.md": "\n".join([_INTRODUCTION, *(f"::: tpbench.{name}\n" for name in names)])}
