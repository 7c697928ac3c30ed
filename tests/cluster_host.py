"""A Ray cluster of several nodes on this machine, driven by lines on standard input. Not a test.

``start``: a node of one core more, ``kill``: SIGKILL the newest; end of input: all go.
"""

from __future__ import annotations

import sys

from ray._private.utils import write_ray_address
from ray.cluster_utils import Cluster

cluster = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": 1,
        "include_dashboard": True,
        "dashboard_port": int(sys.argv[1]),
        # The agent takes jobs; on the usual port another Ray of this machine may have one, and this would have none.
        "dashboard_agent_listen_port": int(sys.argv[2]),
    },
)
# As 'ray start' does: the jobs of a head that did not would go to any Ray on this machine, such as another test's.
write_ray_address(cluster.address, cluster.head_node.get_temp_dir_path())
print(cluster.address, cluster.head_node.webui_url, flush=True)
added = []
for line in sys.stdin:
    if line.strip() == "start":
        added.append(cluster.add_node(num_cpus=1))
    else:
        cluster.remove_node(added.pop(), allow_graceful=False)
    print("done", flush=True)
cluster.shutdown()
