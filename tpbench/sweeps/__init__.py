"""Sweeps on Ray: the queue, the trainable, the driver, clusters, jobs, doctor, reproduction."""

from tpbench.sweeps.environment import prepare_environment

# Before any module of this package imports Ray, which would take other settings and keep them.
prepare_environment()
