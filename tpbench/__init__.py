"""tpbench: is this learning rule really better than that one?"""

__version__ = "0.1.0"
