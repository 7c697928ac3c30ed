"""A Ray cluster of several nodes on this machine, driven by lines on standard input. Not a test.

``start N``: a node of N cores more, ``kill``: SIGKILL the newest, ``count``: nothing; the answer says how many nodes
are alive then. End of input: all go.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from ray._private.utils import get_ray_address_file, write_ray_address
from ray.cluster_utils import Cluster

# Jobs go to the cluster whose address is noted in this folder. In the common one 'ray stop' of another test deletes the
# note, and then they go to any Ray on this machine.
temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
# Ray notes the address in its usual folder too, which is missing where no other Ray has run.
Path(get_ray_address_file(None)).parent.mkdir(parents=True, exist_ok=True)
cluster = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": 1,
        "include_dashboard": True,
        "temp_dir": temporary,
        "dashboard_port": int(sys.argv[1]),
        # The agent takes jobs; on the usual port another Ray of this machine may have one, and this would have none.
        "dashboard_agent_listen_port": int(sys.argv[2]),
    },
)
write_ray_address(cluster.address, temporary)
print(cluster.address, cluster.head_node.webui_url, flush=True)
added = []


def add_node(cores: int) -> Any:
    """Start a node; Ray gives it 30 s, which a busy machine may exceed twice."""
    for attempts_left in (2, 1, 0):
        try:
            return cluster.add_node(num_cpus=cores)
        except Exception:
            if not attempts_left:
                raise
            for late in cluster.worker_nodes - set(added):
                cluster.remove_node(late, allow_graceful=False)


for line in sys.stdin:
    if line.startswith("start"):
        added.append(add_node(int(line.split()[1])))
    elif line.strip() == "kill":
        cluster.remove_node(added.pop(), allow_graceful=False)
    alive = sum(node["Alive"] for node in cluster.global_state.node_table())
    print("done", alive, flush=True)
cluster.shutdown()
shutil.rmtree(temporary, ignore_errors=True)
