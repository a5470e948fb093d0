"""Candidates a second with one, two and four evaluator nodes, as a share of linear.

Real raylets on one machine, one evaluator a node; the evaluation is a sleep of one second, declared as such, so that
what is measured is the search: Ray Tune's trials, Optuna, the ledger. The rate is that between the first and the last
result of a search, so what starts a search is left out; it is printed beside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

from manynet.config.settings import SearchSettings
from manynet.records.ledger import Ledger
from manynet.references import load
from manynet.search.evaluator import Evaluation, Provenance
from manynet.search.runs import run

SECONDS = 1.0
NODES = (1, 2, 4)
BAR = 0.9


def prepare() -> Callable[[Any], Evaluation]:
    """An evaluation that takes ``SECONDS``, and says when it ended and where."""
    node = float(int(ray.get_runtime_context().get_node_id()[:8], 16))

    def evaluate(arch: Any) -> Evaluation:
        time.sleep(SECONDS)
        width = float(len(str(sorted(arch.items()))))
        return Evaluation({"accuracy": 1 / width, "macs": width, "ended": time.time(), "node": node})

    return evaluate


def rate(nodes: int, candidates: int, space: Any) -> dict[str, float]:
    """Candidates a second with as many nodes, and the seconds until the first came."""
    small = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small}
    )
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, **small)
    cluster.wait_for_nodes()
    ray.init(cluster.address, log_to_driver=False)
    settings = SearchSettings(
        objectives=["accuracy:max", "macs:min"],
        evaluations=candidates * nodes,
        evaluators=nodes,
        sampler="random",
    )
    provenance = Provenance(space.digest, "none", "none", "sleep")
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        records = run(space, settings, Ledger(f"{folder}/ledger"), prepare, provenance, folder)
    ended = sorted(record.metrics["ended"] for record in records)
    assert len({record.metrics["node"] for record in records}) == nodes, "every node evaluated"
    ray.shutdown()
    cluster.shutdown()
    # From the first result of each node on, all of them are at work.
    whole = ended[nodes - 1 :]
    return {"rate": (len(whole) - 1) / (whole[-1] - whole[0]), "first_s": ended[0] - started}


def main() -> None:
    """Measure, print a table, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="search_spaces.vit:tiny")
    parser.add_argument("--candidates", type=int, default=40, help="for each node")
    parser.add_argument("--nodes", type=int, help="measure so many in this process, for the others")
    options = parser.parse_args()
    if options.nodes:
        print(json.dumps(rate(options.nodes, options.candidates, load(options.space))))
        return
    report({nodes: measured(nodes, options) for nodes in NODES}, options)


def measured(nodes: int, options: argparse.Namespace) -> dict[str, float]:
    """The figures of as many nodes, from a process of its own."""
    command = [sys.executable, __file__, "--nodes", str(nodes), "--space", options.space]
    command += ["--candidates", str(options.candidates)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def report(found: dict[int, dict[str, float]], options: argparse.Namespace) -> None:
    """The table for people, the last line for programs."""
    title = f"{options.candidates} candidates a node, {SECONDS:g} s each"
    table = Table("evaluator nodes", "candidates a second", "share of linear", "first after", title=title)
    shares = {nodes: one["rate"] / (found[1]["rate"] * nodes) for nodes, one in found.items()}
    for nodes, one in found.items():
        table.add_row(f"{nodes}", f"{one['rate']:.3f}", f"{shares[nodes]:.3f}", f"{one['first_s']:.0f} s")
    Console().print(table)
    figures = {f"share_of_linear_{nodes}": round(share, 3) for nodes, share in shares.items() if nodes > 1}
    line = {
        "benchmark": "evaluator_nodes",
        "figures": figures,
        "bars": dict.fromkeys(figures, BAR),
        "pass": all(share >= BAR for share in figures.values()),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
