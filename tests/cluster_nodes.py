"""Joins a cluster whose second node differs from the first in one way after another; run by test_nodes.

Writes said.json into the given folder: what is said of each difference, null for none.
"""

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from manynet.errors import ManynetError
from manynet.runtime import nodes
from manynet.runtime.ray_session import connect

SMALL = {"object_store_memory": 100 * 2**20, "include_dashboard": False}

HIDES_OPTUNA = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "optuna" else find(name, *rest)
"""
CANNOT_START = """
import os, sys
if "default_worker.py" in " ".join(sys.orig_argv):
    os._exit(1)
"""


def environment(root: Path, start: str = "", optuna: str = "") -> dict[str, str]:
    """Environment of a node whose Python runs ``start`` first, or has another optuna."""
    root.mkdir()
    (root / "sitecustomize.py").write_text(start)
    if optuna:
        about = root / f"optuna-{optuna}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: optuna\nVersion: {optuna}\n")
        (root / "optuna").mkdir()
        (root / "optuna" / "__init__.py").touch()
    return {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}


def main(folder: Path) -> None:
    # Ray asks a node that does not answer five times, three seconds apart, before it counts as dead.
    soon_dead = {"health_check_period_ms": 500}
    head = {"num_cpus": 0, "_system_config": soon_dead, **SMALL}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    os.environ["RAY_ADDRESS"] = cluster.address
    said: dict[str, str | None] = {}

    def ask(what: str, where: str = str(folder / "study"), seconds: float = nodes.SECONDS) -> None:
        try:
            nodes.check(where, seconds)
            said[what] = None
        except ManynetError as error:
            said[what] = str(error)

    version, ray.__version__ = ray.__version__, "2.9.0"
    try:
        connect()
    except ManynetError as error:
        said["another ray"] = str(error)
    ray.__version__ = version

    first = cluster.add_node(num_cpus=1, **SMALL)
    connect(folder=str(folder / "study"))
    ask("none")
    said["left behind"] = ", ".join(os.listdir(folder / "study"))
    os.chdir(folder)
    ask("own folder", where="/proc/self/cwd/study")
    cluster.remove_node(first)

    odd = {
        "lacks": environment(folder / "lacks", start=HIDES_OPTUNA),
        "another version": environment(folder / "another", optuna="4.1.0"),
        "cannot start": environment(folder / "broken", start=CANNOT_START),
    }
    for what, variables in odd.items():
        node = cluster.add_node(num_cpus=1, env_vars=variables, **SMALL)
        ask(what, seconds=5 if what == "cannot start" else nodes.SECONDS)
        if what == "cannot start":
            threading.Timer(2, cluster.remove_node, (node, False)).start()
            start = time.monotonic()
            ask("dies")
            said["dies in time"] = str(time.monotonic() - start < nodes.SECONDS)
        else:
            cluster.remove_node(node)
    (folder / "said.json").write_text(json.dumps(said))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
