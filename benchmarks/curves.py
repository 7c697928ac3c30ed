"""Print the curves of six methods on digits, to the last bit, or compare those of two checkouts.

    python benchmarks/curves.py TREE [--output FILE]
    python benchmarks/curves.py OLD NEW [--old-child FILE] [--new-child FILE]

TREE is a checkout of tpbench. OLD and NEW are checkouts or files made by ``--output``. Numbers are hex floats of all
that the trainer records in five epochs of seeds 0 and 1, in float32 on one thread. Only curves of the same machine and
the same torch can be equal. Exit code 1: a curve differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

METHODS = "bp,dfa,dtp,dtpdrl,ddtp-linear,ddtp-rhl"
CHILD = Path(__file__).with_name("child.py")


def recorded(source: Path, child: Path, methods: str = METHODS, epochs: int = 5) -> dict[str, Any]:
    """Return the curves of a checkout, trained in a process of its own, or those of a file."""
    if source.is_file():
        curves: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
        return curves
    command = [sys.executable, str(child), str(source), "curves", "--methods", methods, "--epochs", str(epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child_process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if child_process.returncode:
        sys.exit(f"{child} failed with {source}")
    trained: dict[str, Any] = json.loads(child_process.stdout.splitlines()[-1])
    return trained


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """List the curves (or statuses) that differ or that only one side has."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old == new:
            return []
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            pairs = list(enumerate(zip(old, new, strict=True)))
            epoch, (before, after) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
            return [f"{place}: epoch {epoch}: {float.fromhex(before)!r} became {float.fromhex(after)!r}"]
        return [f"{place}: {_brief(old)} became {_brief(new)}"]
    return [
        line
        for key in dict.fromkeys([*old, *new])
        for line in differences(old.get(key), new.get(key), f"{place}, {key}" if place else key)
    ]


def _brief(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{len(value)} values" if isinstance(value, (list, dict)) else str(value)


def count(curves: Any) -> int:
    """Count the numbers of the curves."""
    if isinstance(curves, dict):
        return sum(map(count, curves.values()))
    return len(curves) if isinstance(curves, list) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="TREE")
    parser.add_argument("new", type=Path, nargs="?", metavar="NEW")
    parser.add_argument("--output", type=Path, help="write the curves of the last checkout into this file")
    parser.add_argument("--old-child", type=Path, default=CHILD, help="script that trains with the first checkout")
    parser.add_argument("--new-child", type=Path, default=CHILD, help="script that trains with the second checkout")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    old = recorded(options.old, options.old_child, options.methods, options.epochs)
    new = old
    if options.new is not None:
        new = recorded(options.new, options.new_child, options.methods, options.epochs)
    text = json.dumps(new, indent=1)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")
    elif options.new is None:
        print(text)
    if options.new is not None:
        different = differences(old, new)
        print("\n".join([*different, f"{count(new)} numbers, {len(different)} curves differ"]))
        sys.exit(bool(different))


if __name__ == "__main__":
    main()
