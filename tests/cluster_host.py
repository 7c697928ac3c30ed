"""A Ray cluster of several nodes on this machine, driven by lines on standard input. Not a test.

``start``: a node of one core more, ``kill``: SIGKILL the newest; end of input: all go.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

cluster = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": 1,
        "include_dashboard": True,
        "dashboard_port": int(sys.argv[1]),
    },
)
print(cluster.address, cluster.head_node.webui_url, flush=True)
added = []
for line in sys.stdin:
    if line.strip() == "start":
        added.append(cluster.add_node(num_cpus=1))
    else:
        cluster.remove_node(added.pop(), allow_graceful=False)
    print("done", flush=True)
cluster.shutdown()
