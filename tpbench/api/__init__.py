"""tpbench from Python: take what was asked for, call, return data frames. The public names are those of ``tpbench``."""
