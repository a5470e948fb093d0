"""A search on a cluster of raylets, of which a device's node is killed in the middle; run by test_device_service.

Writes told.json into the given folder: records, the actors that measured them, and how the devices are at the end.
"""

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.cluster_utils import Cluster
from torch import Tensor

from manynet import data, elastic
from manynet.config.settings import SearchSettings
from manynet.devices import DevicePool, running
from manynet.records.ledger import Ledger
from manynet.search.runs import search
from manynet.space import tasks
from manynet.space.search_space import SearchSpace, Supernet

EVALUATIONS = 12
KILL_AFTER = 4
KIND, OTHER = "pi/torch", "jetson/torch"
# Ray asks a node that does not answer five times, three seconds apart, before it counts as dead.
SOON_DEAD = {"health_check_period_ms": 500}


class Net(Supernet):
    def __init__(self) -> None:
        super().__init__()
        self.layer = elastic.Linear(64, 64)
        self.head = elastic.Linear(64, 10)

    def forward(self, x: Tensor, arch: Any) -> Tensor:
        hidden = self.layer(x.flatten(1), out_features=arch["width"]).relu()
        return self.head(hidden, in_features=arch["width"])  # type: ignore[no-any-return]


space = SearchSpace(
    "cluster-net", {"width": tune.choice(list(range(4, 65, 2)))}, Net, tasks.Classification(10), (1, 8, 8)
)


def start_cluster() -> tuple[Cluster, list[Any]]:
    """A head that has a device of one kind, two nodes for evaluators and two for devices of another kind."""
    small = {"object_store_memory": 100 * 2**20}
    head = {"num_cpus": 0, "include_dashboard": False, "resources": {f"device:{OTHER}": 1}, **small}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": SOON_DEAD})
    for _ in range(2):
        cluster.add_node(num_cpus=1, **small)
    kind = [cluster.add_node(num_cpus=0, resources={f"device:{KIND}": 1}, **small) for _ in range(2)]
    cluster.wait_for_nodes()
    return cluster, kind


def kill_later(cluster: Cluster, node: Any, ledger: Ledger, told: dict[str, Any]) -> None:
    """Kill the node's raylet once some evaluations are in the ledger and it has measured one of them."""
    while len(ledger.keys()) < KILL_AFTER or node.node_id[:8] not in str(ledger.read()):
        time.sleep(0.05)
    told["before"] = len(ledger.keys())
    cluster.remove_node(node, allow_graceful=False)


def main(folder: Path) -> None:
    cluster, kind = start_cluster()
    ray.init(cluster.address, log_to_driver=False)
    ledger, told = Ledger(folder / "ledger"), dict[str, Any]()
    killer = threading.Thread(target=kill_later, args=(cluster, kind[0], ledger, told), daemon=True)
    killer.start()
    settings = SearchSettings(
        objectives=["accuracy:max", f"latency@{KIND}:min", f"latency@{OTHER}:min"],
        sampler="random",
        evaluations=EVALUATIONS,
        validation_examples=64,
        calibration_batches=1,
        batch_size=64,
    )
    with DevicePool([KIND, OTHER], journal=str(folder / "devices.json")) as pool:
        example = space.example(space.largest, batch=1)
        pool.refer(torch.nn.Flatten(), example)
        records = search(
            space,
            space.build().state_dict(),
            data.digits(),
            settings,
            ledger,
            folder,
            weights_digest="w",
            measure=pool.measure,
            lease=pool.lease,
        )
        told["live"] = [status._asdict() for status in running()]
    told["killed"] = kind[0].node_id[:8]
    told["kind"] = [node.node_id[:8] for node in kind]
    told["records"] = [
        {"metrics": record.metrics, "actors": {m["device"]: m["actor"] for m in record.measurements}}
        for record in records
    ]
    (folder / "told.json").write_text(json.dumps(told))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
