"""``python -m tpbench``: the command line."""

import sys
from pathlib import Path

if sys.path and Path(sys.path[0] or ".").resolve() == Path.cwd() and not Path(__file__).is_relative_to(Path.cwd()):
    # Python puts the current folder first, whatever lies there; the command tpbench does not.
    del sys.path[0]

from tpbench.cli import main

if __name__ == "__main__":
    main()
