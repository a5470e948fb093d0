"""Candidates a second with one, two and four evaluator nodes, as a share of linear.

Real raylets on one machine, one evaluator a node; the evaluation is a sleep, declared as such, so that what is
measured is the search: Ray Tune's trials, Optuna, the ledger. The rate is that between the first and the last
result of a search, so what starts a search is left out; it is printed beside.

    python benchmarks/evaluator_nodes.py [--candidates 40]
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from typing import Any

import ray
from ray.cluster_utils import Cluster
from support.frame import Option, at_least, run, show
from support.processes import in_own_process, in_this_process
from support.sleeping import asleep

from manynet.references import load

OPTIONS = (
    Option("--space", "search_spaces.vit:tiny"),
    Option("--nodes", (1, 2, 4), "the first is compared with", quick=(2,)),
    Option("--candidates", 40, "for each node", quick=3),
    Option("--seconds", 1.0, "of each evaluation", quick=0.05),
)
BARS = {"share_of_linear_2": at_least(0.9), "share_of_linear_4": at_least(0.9)}


def main(given: Namespace) -> dict[str, Any]:
    """Search with each number of nodes, in a process of its own."""
    apart = in_this_process if given.quick else in_own_process
    found = {nodes: apart(rate, nodes, given) for nodes in given.nodes}
    one = found[given.nodes[0]]["rate"] / given.nodes[0]
    shares = {nodes: figures["rate"] / (one * nodes) for nodes, figures in found.items()}
    show(
        f"{given.candidates} candidates a node, {given.seconds:g} s each",
        ("evaluator nodes", "candidates a second", "share of linear", "first after"),
        [
            (f"{nodes}", f"{figures['rate']:.3f}", f"{shares[nodes]:.3f}", f"{figures['first_s']:.0f} s")
            for nodes, figures in found.items()
        ],
    )
    # Of the number that others are compared with, the share is 1 by definition.
    compared = {f"share_of_linear_{nodes}": shares[nodes] for nodes in given.nodes[1:]}
    rates = {nodes: figures["rate"] for nodes, figures in found.items()}
    return {**dict.fromkeys(BARS), **compared, "candidates_a_second": rates}


def rate(nodes: int, given: Namespace) -> dict[str, float]:
    """Candidates a second with as many nodes, and the seconds until the first came."""
    cluster = started(nodes)
    began = time.time()
    records = asleep(load(given.space), given.seconds, given.candidates * nodes, nodes, "random")
    ended = [record.metrics["ended"] for record in records]
    assert len({record.metrics["node"] for record in records}) == nodes, "every node evaluated"
    ray.shutdown()
    cluster.shutdown()
    # From the first result of each node on, all of them are at work.
    whole = ended[nodes - 1 :]
    taken = whole[-1] - whole[0]
    return {"rate": (len(whole) - 1) / taken if taken else math.nan, "first_s": ended[0] - began}


def started(nodes: int) -> Cluster:
    """A cluster of as many nodes, each with room for one evaluator, and this process in it."""
    small: dict[str, Any] = {"object_store_memory": 100 * 2**20}
    head = {"num_cpus": 0, "include_dashboard": False, **small}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, **small)
    cluster.wait_for_nodes()
    ray.init(cluster.address, log_to_driver=False)
    return cluster


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
