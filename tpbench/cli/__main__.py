"""``python -m tpbench.cli``."""

from tpbench.cli import main

main()
