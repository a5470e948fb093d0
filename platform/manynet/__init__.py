"""Manynet: train one weight-sharing supernet, search it on measured latency, hand over the winners."""

from manynet import elastic, tasks
from manynet.domains import ArchitectureError, SpaceError
from manynet.errors import ManynetError
from manynet.space import Architecture, SearchSpace, Supernet
from manynet.study import Study
from manynet.subnet import Cost, Subnet, cost, extract

__all__ = [
    "Architecture",
    "ArchitectureError",
    "Cost",
    "ManynetError",
    "SearchSpace",
    "SpaceError",
    "Study",
    "Subnet",
    "Supernet",
    "cost",
    "elastic",
    "extract",
    "tasks",
]
