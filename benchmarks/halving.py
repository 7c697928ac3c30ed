"""What halving costs and finds: the same searches with and without it, in this process (no Ray, one pack at a time).

For each method, pack size and search seed: member epochs and the best validation error of both. A run that the store
has from the one is not trained again for the other, but counts there as if it were.

    python benchmarks/halving.py
    python benchmarks/halving.py --workload mnist --methods ddtp-linear --trials 54 --packs 9 --seeds 1 --data DIR
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.spaces import space_for
from tpbench.sweeps.sweep import SearchedSweep, Workers
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackSettings
from tpbench.workloads import get_workload, load_problem


def search(
    folder: Path,
    workload: str,
    method: str,
    trials: int,
    pack: int,
    epochs: int,
    seed: int,
    halving: int,
    settings: PackSettings,
) -> tuple[int, float]:
    """One search to its end; returns member epochs and the best validation error in per cent."""
    space = space_for(method)
    declared = get_workload(workload)
    _, dataset = load_problem(declared, Path(settings.data) if settings.data else None)
    wanted = SweepDefinition(
        workload,
        method,
        dataset.fingerprint,
        space.describe(),
        trials,
        epochs,
        (0,),
        seed,
        pack,
        lag=1,
        halving=halving,
    )
    home = SweepFolder(folder / "sweeps" / f"{wanted.id}-{pack}")
    definition, journal = home.begin(wanted, {})
    sweep = SearchedSweep(definition, declared, space, home, journal, settings)
    sweep.begin(Workers(1))
    while sweep.final is None and not sweep.failure:
        handed = sweep.next_pack()
        assert handed is not None
        sweep.ended(handed.key, PackJob(handed.plan, handed.settings, handed.bracket).run(), Workers(1))
    best = journal.best()
    return journal.member_epochs, 100 * best[1].validation_error if best else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="digits")
    parser.add_argument("--methods", default="bp,dtp,ddtp-linear")
    parser.add_argument("--trials", type=int, default=108)
    parser.add_argument("--packs", default="9,27")
    parser.add_argument("--epochs", type=int, default=27)
    parser.add_argument("--seeds", type=int, default=3, help="Search seeds, from 0 on.")
    parser.add_argument("--factor", type=int, default=3)
    parser.add_argument("--data")
    parser.add_argument("--results", help="A store to keep, so that an interrupted benchmark goes on.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(arguments.results or name)
        settings = PackSettings(str(folder), arguments.data)
        shares, differences = [], []
        print("method pack seed | member epochs without, with, share | best without, with, difference", flush=True)
        for method in arguments.methods.split(","):
            for pack in map(int, arguments.packs.split(",")):
                for seed in range(arguments.seeds):
                    what = (folder, arguments.workload, method, arguments.trials, pack, arguments.epochs, seed)
                    whole, best = search(*what, 0, settings)
                    part, found = search(*what, arguments.factor, replace(settings))
                    shares.append(part / whole)
                    differences.append(found - best)
                    print(
                        f"{method} {pack} {seed} | {whole} {part} {part / whole:.2f} | {best:.2f} {found:.2f} "
                        f"{found - best:+.2f}",
                        flush=True,
                    )
        print(f"mean share of member epochs {fmean(shares):.2f}, mean difference {fmean(differences):+.2f} points")


if __name__ == "__main__":
    main()
