"""Manynet: train one weight-sharing supernet, search it on measured latency, hand over the winners."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manynet import elastic
    from manynet.errors import ManynetError
    from manynet.space import tasks
    from manynet.space.domains import ArchitectureError, SpaceError
    from manynet.space.search_space import Architecture, SearchSpace, Supernet
    from manynet.space.subnet import Cost, Subnet, cost, extract
    from manynet.studies.study import Study
else:
    from manynet.lazy import lazily

    __getattr__ = lazily(
        __name__,
        {
            "Architecture": "space",
            "ArchitectureError": "domains",
            "Cost": "subnet",
            "ManynetError": "errors",
            "SearchSpace": "space",
            "SpaceError": "domains",
            "Study": "study",
            "Subnet": "subnet",
            "Supernet": "space",
            "cost": "subnet",
            "extract": "subnet",
        },
    )

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
