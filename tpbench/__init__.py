"""tpbench: is this learning rule really better than that one?"""

__version__ = "0.2.0"
