"""Which tests go to the same worker when several share the suite. Not a test.

pytest-xdist hands its groups on in the names of tests, which since pytest 9.2 cannot be changed: ``--dist loadgroup``
then groups nothing and says nothing (https://github.com/pytest-dev/pytest-xdist/issues/1386). So a group is a list of
names here.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

# What starts Ray. Several Rays at once slow each other down, and two workers with tests of the cluster, or of a sweep
# that is compared with an undisturbed one, would each start the cluster and each train the other sweep.
RAY = (
    "tests/sweeps/test_driver.py",
    "tests/sweeps/test_gpus.py",
    "tests/test_tour.py::test_it_runs_and_shows_what_is_committed",
    "tests/test_cluster.py",
    "tests/test_resume.py",
    "tests/test_sweep.py",
    "tests/sweeps/test_local_ray.py::test_a_local_ray_listens_on_loopback_alone_and_leaves_nothing",
    "tests/test_cluster_files.py::test_the_slurm_script_with_the_real_ray_and_a_real_sweep",
)

# Files whose tests share something that takes seconds to build: the site, the wheel, one Chromium, MLflow's tables.
BUILT_ONCE = (
    "tests/test_site.py",
    "tests/test_wheel.py",
    "tests/reports/test_page_in_use.py",
    "tests/reports/test_live.py",
    "tests/training/test_mlflow.py",
)


class GroupScheduling(LoadScopeScheduling):
    """Ray's tests are one group, which comes first as it is the largest; most other tests are groups of their own."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if nodeid.startswith(RAY) else file if file in BUILT_ONCE else nodeid
