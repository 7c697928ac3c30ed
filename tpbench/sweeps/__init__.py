"""Sweeps on Ray: the queue, the trainable, the driver, clusters, jobs, doctor, reproduction."""
