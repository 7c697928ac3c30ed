"""A notebook as a page: its text, its code, and the output that is stored in it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The name of the page, and its notebook in docs/.
NOTEBOOKS = {"tour-python.md": "tour.ipynb"}


def pages(folder: Path) -> dict[str, str]:
    """Pages from the notebooks that are there: name and text."""
    return {
        uri: "\n\n".join(_cells(json.loads((folder / name).read_text(encoding="utf-8")), name))
        for uri, name in NOTEBOOKS.items()
        if (folder / name).is_file()
    }


def _cells(notebook: dict[str, Any], name: str) -> Iterator[str]:
    texts = [cell for cell in notebook["cells"] if _joined(cell["source"]).strip()]
    for number, cell in enumerate(texts):
        source = _joined(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
        elif cell["cell_type"] == "code":
            yield _fenced("python", source)
            for output in cell.get("outputs", ()):
                yield from _output(output)
        if number == 0:
            yield f"This page is [a notebook]({name}): download it to run it."


def _output(output: dict[str, Any]) -> Iterator[str]:
    """The richest form of an output that a page can show."""
    if "text" in output:
        yield _fenced("text", _joined(output["text"]))
    data = output.get("data", {})
    if "image/png" in data:
        image = "".join(_joined(data["image/png"]).split())
        base64.b64decode(image, validate=True)
        yield f"![What the cell draws](data:image/png;base64,{image})"
    elif "image/svg+xml" in data:
        image = base64.b64encode(_joined(data["image/svg+xml"]).encode()).decode("ascii")
        yield f"![What the cell draws](data:image/svg+xml;base64,{image})"
    elif "text/markdown" in data:
        yield _joined(data["text/markdown"])
    elif "text/html" in data:
        yield f'<div class="notebook-output" markdown="0">{_joined(data["text/html"])}</div>'
    elif "text/plain" in data:
        yield _fenced("text", _joined(data["text/plain"]))


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _fenced(language: str, text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
