"""Commands of tpbench one after the other in one process, which imports Ray once. Not a test.

A line of standard input is a command's arguments as a JSON list; a line of standard output is its exit code, output
and errors. Ray keeps the first token that a process has read, so the tests' own process cannot do this.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from tpbench.cli import main

answers = sys.stdout
for line in sys.stdin:
    output, errors, code = StringIO(), StringIO(), 0
    sys.argv = ["tpbench", *json.loads(line)]
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    print(json.dumps([code, output.getvalue(), errors.getvalue()]), file=answers, flush=True)
