"""Executes the notebook docs/tour.ipynb. Not a test.

``python -m tests.tour`` writes its outputs anew.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"


def read() -> Any:
    """The notebook as it is committed."""
    return nbformat.read(TOUR, as_version=4)


def executed(notebook: Any, folder: Path) -> Any:
    """The notebook with new outputs, executed in a folder; a cell that fails raises."""
    # A kernel of this environment, and this checkout: it runs in another folder.
    path = os.pathsep.join(filter(None, [str(TOUR.parents[1]), os.environ.get("PYTHONPATH")]))
    client = NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, "PYTHONPATH": path, "IPYTHONDIR": str(folder / ".ipython")})
    for cell in notebook.cells:
        # When it was executed says nothing.
        cell.metadata.pop("execution", None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(read(), Path(folder)), TOUR)


if __name__ == "__main__":
    main()
