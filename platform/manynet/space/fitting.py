"""A space and its data, made for each other."""

from __future__ import annotations

from manynet import data as datasets
from manynet.data import Data, DataError, Features
from manynet.space.search_space import SearchSpace


def fit_together(space: SearchSpace, data: str | Data) -> tuple[SearchSpace, Data]:
    """Load data for a space, and make the space for the data where its network depends on them.

    Images are converted to the channels and the largest resolution that the space takes.

    Args:
        space: as it was declared.
        data: the data, or its name or address.

    Raises:
        DataError: when the data cannot be read, or the space's task cannot learn them.
    """
    loaded = data if isinstance(data, Data) else _load(space, data)
    try:
        space.task.check(loaded.features)
    except ValueError as error:
        raise DataError(f"{loaded.name} does not fit space {space.name!r}: {error}") from None
    return (space.fitted(loaded.features) if isinstance(loaded.features, Features) else space), loaded


def _load(space: SearchSpace, data: str) -> Data:
    shapes = [shape for shape, _ in space.inputs(space.largest).values()]
    if len(shapes) != 1 or len(shapes[0]) != 3:
        return datasets.load(data)
    return datasets.load(data, channels=shapes[0][0], image_size=max(shapes[0][1:]))
