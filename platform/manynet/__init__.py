"""Manynet: train one weight-sharing supernet, search it on measured latency, hand over the winners."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manynet import elastic, testing
    from manynet.data.base import Batch, Data, Split
    from manynet.devices.tools.base import Tool
    from manynet.errors import ManynetError
    from manynet.learning.strategy import Step, Strategy
    from manynet.space import tasks
    from manynet.space.domains import ArchitectureError, SpaceError
    from manynet.space.search_space import Architecture, SearchSpace, Supernet
    from manynet.space.subnet import Cost, Subnet, cost, extract
    from manynet.space.tasks import Task
    from manynet.studies.study import Study
else:
    import pkgutil

    import lazy_loader

    # A command that needs no PyTorch does not wait for it.
    __getattr__, _, _ = lazy_loader.attach(
        __name__,
        submodules=[module.name for module in pkgutil.iter_modules(__path__)],
        submod_attrs={
            "data.base": ["Batch", "Data", "Split"],
            "devices.tools.base": ["Tool"],
            "errors": ["ManynetError"],
            "learning.strategy": ["Step", "Strategy"],
            "space": ["tasks"],
            "space.domains": ["ArchitectureError", "SpaceError"],
            "space.search_space": ["Architecture", "SearchSpace", "Supernet"],
            "space.subnet": ["Cost", "Subnet", "cost", "extract"],
            "space.tasks": ["Task"],
            "studies.study": ["Study"],
        },
    )

__all__ = [
    "Architecture",
    "ArchitectureError",
    "Batch",
    "Cost",
    "Data",
    "ManynetError",
    "SearchSpace",
    "SpaceError",
    "Split",
    "Step",
    "Strategy",
    "Study",
    "Subnet",
    "Supernet",
    "Task",
    "Tool",
    "cost",
    "elastic",
    "extract",
    "tasks",
    "testing",
]
