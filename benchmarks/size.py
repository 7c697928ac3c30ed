"""Count the size of the package and the wording of its docstrings and tests.

    python benchmarks/size.py [TREE ...] [--option NAME ...] [--json]

A column for each checkout, this one by default. Nothing is imported. What is counted:

- statements: those of Python's grammar at all depths, without imports and without strings that stand alone (docstrings,
  also those of attributes);
- docstrings that begin with a question word: of modules, classes and functions; in the next row also those of
  attributes (any string that stands alone), and those that begin with As or That;
- assertions: ``assert`` and ``match=``; they pin words where a string in them has three in a row;
- an option's files: those of the package that contain its name as a whole word, in code or in text.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ("halving", "objective", "keep_networks")
QUESTIONS = ("What", "Whether", "How", "Which", "Who", "Why", "Whose", "Of")
SMALL = 60
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Put together, so that this line is no such comment itself.
_SKIP = "# fmt: " + "skip"
_THREE_WORDS = re.compile(r"\w+ \w+ \w+")
_FIRST_WORD = re.compile(r"\W*(\w*)")


def sources(folder: Path) -> dict[Path, str]:
    """Read the Python files below a folder."""
    return {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}


def lone_string(node: ast.AST) -> str | None:
    """Return the string of a statement that is nothing else."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return node.value.value
    return None


def statements(tree: ast.AST) -> int:
    """Count statements, without imports and without strings that stand alone."""
    return sum(
        isinstance(node, ast.stmt) and not isinstance(node, (ast.Import, ast.ImportFrom)) and lone_string(node) is None
        for node in ast.walk(tree)
    )


def first_words(tree: ast.AST) -> tuple[list[str], list[str]]:
    """List the first words of docstrings: of modules, classes and functions, and of all strings that stand alone."""
    nodes = list(ast.walk(tree))
    documented = [ast.get_docstring(node) for node in nodes if isinstance(node, _DOCUMENTED)]
    return _words(documented), _words([lone_string(node) for node in nodes])


def _words(texts: list[str | None]) -> list[str]:
    found = (_FIRST_WORD.match(text) for text in texts if text is not None)
    return [match[1] for match in found if match]


def assertions(tree: ast.AST) -> tuple[int, int]:
    """Count assertions, and those that pin three or more words in a row."""
    checked = [
        node.test if isinstance(node, ast.Assert) else node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) or (isinstance(node, ast.keyword) and node.arg == "match")
    ]
    return len(checked), sum(map(_pins_words, checked))


def _pins_words(checked: ast.expr) -> bool:
    strings = [node.value for node in ast.walk(checked) if isinstance(node, ast.Constant)]
    return any(isinstance(text, str) and _THREE_WORDS.search(text) for text in strings)


def counts(root: Path, options: tuple[str, ...] = OPTIONS) -> dict[str, int]:
    """Count everything of a checkout."""
    package, tests = sources(root / "tpbench"), sources(root / "tests")
    others = sources(root / "benchmarks")
    lines = [len(text.splitlines()) for text in package.values()]
    parsed = [ast.parse(text) for text in package.values()]
    words, all_words = Counter[str](), Counter[str]()
    for tree in parsed:
        documented, every = first_words(tree)
        words.update(documented)
        all_words.update(every)
    checked = [assertions(ast.parse(text)) for text in tests.values()]
    modules = Counter(path.stem for path in package if not path.stem.startswith("__"))
    return {
        "lines": sum(lines),
        "files": len(package),
        f"files under {SMALL} lines": sum(count < SMALL for count in lines),
        "module names used more than once": sum(count > 1 for count in modules.values()),
        "statements": sum(map(statements, parsed)),
        "docstrings that begin with a question word": sum(words[word] for word in QUESTIONS),
        "the same with attributes, As, That": sum(all_words[word] for word in (*QUESTIONS, "As", "That")),
        f"{_SKIP} in the package": sum(text.count(_SKIP) for text in package.values()),
        f"{_SKIP} in all": sum(text.count(_SKIP) for part in (package, tests, others) for text in part.values()),
        "assertions of tests": sum(count for count, _ in checked),
        "assertions that pin three or more words": sum(pinned for _, pinned in checked),
        **{
            f"files with {name}": sum(bool(re.search(rf"\b{re.escape(name)}\b", text)) for text in package.values())
            for name in options
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, metavar="TREE", default=[ROOT])
    parser.add_argument("--option", nargs="+", default=OPTIONS, metavar="NAME", help="names to look for in the package")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    columns = {str(tree): counts(tree, tuple(options.option)) for tree in options.trees}
    if options.json:
        print(json.dumps(columns, indent=2))
        return
    titles = [Path(tree).resolve().name for tree in columns]
    widths = [max(len(title), 8) for title in titles]
    print(" " * 44, *(title.rjust(width) for title, width in zip(titles, widths, strict=True)))
    for row in next(iter(columns.values())):
        numbers = (f"{column[row]:,}".rjust(width) for column, width in zip(columns.values(), widths, strict=True))
        print(row.ljust(44), *numbers)


if __name__ == "__main__":
    main()
