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
    import pkgutil

    import lazy_loader

    # A command that needs no PyTorch does not wait for it.
    __getattr__, _, _ = lazy_loader.attach(
        __name__,
        submodules=[module.name for module in pkgutil.iter_modules(__path__)],
        submod_attrs={
            "errors": ["ManynetError"],
            "space": ["tasks"],
            "space.domains": ["ArchitectureError", "SpaceError"],
            "space.search_space": ["Architecture", "SearchSpace", "Supernet"],
            "space.subnet": ["Cost", "Subnet", "cost", "extract"],
            "studies.study": ["Study"],
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
