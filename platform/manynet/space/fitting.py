"""A space and its data, made for each other."""

from __future__ import annotations

import numpy as np

from manynet import data as datasets
from manynet.data import Data, DataError, Features
from manynet.data.own import is_reference
from manynet.space.evaluation import InputError, fit
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
    fitted = space.fitted(loaded.features) if isinstance(loaded.features, Features) else space
    if isinstance(data, Data) or is_reference(data):
        _check_inputs(fitted, loaded)
    return fitted, loaded


def _check_inputs(space: SearchSpace, data: Data) -> None:
    """Refuse inputs that no conversion made fit for the space, by one batch of them."""
    wanted = space.inputs(arch := space.draw(np.random.default_rng(0)))
    inputs = next(iter(data.train.batches(1))).inputs
    try:
        fit(inputs, space, arch)
    except InputError as error:
        raise DataError(f"{data.name} does not fit space {space.name!r}: {error}") from None
    for x, (name, (_, dtype)) in zip(inputs, wanted.items(), strict=True):
        if x.dtype != dtype:
            raise DataError(
                f"{data.name} does not fit space {space.name!r}: {name} must be {dtype}, but got {x.dtype}"
            )


def _load(space: SearchSpace, data: str) -> Data:
    shapes = [shape for shape, _ in space.inputs(space.largest).values()]
    if len(shapes) != 1 or len(shapes[0]) != 3:
        return datasets.load(data)
    return datasets.load(data, channels=shapes[0][0], image_size=max(shapes[0][1:]))
