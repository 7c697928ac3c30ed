"""How long an interrupted search takes to replay its journal: python benchmarks/replay.py [TRIALS]"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from ray.tune.search.hyperopt import HyperOptSearch

from tpbench.search.journal import Journal
from tpbench.search.packed_tpe import METRIC, PackedSearch
from tpbench.search.spaces import space_for
from tpbench.training.plan import Outcome

trials = int(sys.argv[1]) if len(sys.argv) > 1 else 100


def inner() -> HyperOptSearch:
    space = space_for("ddtp-linear", None).to_hyperopt()
    return HyperOptSearch(space, metric=METRIC, mode="min", random_state_seed=0)


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "journal.jsonl"
    search = PackedSearch(inner, Journal.open(path), trials=trials, pack=1, max_pending=3)
    while not search.ended:
        entry = search.next_pack()
        assert entry is not None
        error = abs(entry.suggestions[0]["eta"] - 0.1)
        search.record(entry.number, [Outcome("0" * 24, "finished", error, error)])
    started = time.perf_counter()
    # One suggestion more than the journal holds: replaying is put off until it is needed.
    PackedSearch(inner, Journal.open(path), trials=trials + 1, pack=1, max_pending=3).next_pack()
    print(f"{trials} suggestions replayed in {time.perf_counter() - started:.1f} s")
