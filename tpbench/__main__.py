"""``python -m tpbench``: the command line."""

from tpbench.cli import main

if __name__ == "__main__":
    main()
