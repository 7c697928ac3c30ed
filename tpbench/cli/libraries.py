"""Libraries that may be missing, as on a machine that has torch and little else."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec


def why_missing(module: str) -> str:
    """Return what to do where a module cannot be imported; empty where it can."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        # The name for pip, where a module is named otherwise.
        package = "pyyaml" if module == "yaml" else module
        return f"needs {package}, which cannot be imported ({error}); pip install {package}"
    return ""


# Commands print with the first, errors too; the second makes the commands, and older versions of it import the first;
# the third looks up names. pydantic reads options; importing it takes a tenth of a second, so it is only looked for.
for _module in ("rich", "typer", "yaml", *(() if find_spec("pydantic") else ("pydantic",))):
    if _why := why_missing(_module):
        sys.exit(f"error: tpbench's command line {_why}")
