"""From the text that names a data set to the data set."""

from __future__ import annotations

import os

from manynet.data import bundled
from manynet.data.base import Data, DataError
from manynet.data.clicks.load import load_clicks
from manynet.data.clicks.schema import is_finished
from manynet.data.images.folders import load_images
from manynet.data.images.idx import load_idx
from manynet.data.images.parquet import load_parquet
from manynet.data.own import is_reference, load_own
from manynet.storage import StorageError

MEMORY = 2**30


def load(
    spec: str,
    *,
    channels: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    memory: int = MEMORY,
) -> Data:
    """Load a data set by name or address.

    A data set of a user's own, `module:name`, comes as it is: it takes no options.

    Click-through data are "flights", "flights_by_time" and a `parquet:ADDRESS` that holds `schema.json`, as
    conversion writes it; everything else is images, for which alone `channels` and `image_size` are.

    Images of one common size stay at it, unless a side is longer than `image_size`. Others are scaled to
    cover a square of side `image_size` (by default the median of their shorter sides, at most 256) and cut
    to its centre.

    Args:
        spec: "digits", "flights", "flights_by_time", `idx:PATH`, `images:PATH`, `parquet:ADDRESS`, or
            `module:name` of a :class:`Data` or of a function or class that gives one without arguments.
        channels: 1 (grey) or 3 (RGB) to convert to; None keeps what the images have.
        image_size: largest side in pixels, and the side of images that differ in size.
        seed: of the splits that the data set does not name itself.
        memory: bytes that decoded examples may take; larger sets of `images:` and `parquet:` are read while
            they are used.

    Raises:
        DataError: for an unknown name, an address with no data, or data that is damaged.
        UnknownNameError: if `module:name` gives no data set.
    """
    if channels not in (None, 1, 3):
        raise DataError(f"channels must be 1 (grey) or 3 (RGB), but got {channels!r}")
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size must be at least 1 pixel, but got {image_size}")
    kind, _, path = spec.partition(":")
    if kind == "idx" and path:
        return load_idx(spec, path, channels=channels, image_size=image_size, seed=seed)
    if kind == "images" and path:
        return load_images(spec, path, channels=channels, image_size=image_size, seed=seed, memory=memory)
    if kind == "parquet" and path:
        if _is_clicks(address := os.path.expanduser(path)):
            return load_clicks(spec, address, memory)
        return load_parquet(spec, path, channels=channels, image_size=image_size, seed=seed, memory=memory)
    if is_reference(spec):
        return load_own(spec)
    if spec not in bundled.__all__:
        names = ", ".join(bundled.__all__)
        raise DataError(
            f"data must be one of ({names}) or idx:PATH, images:PATH, parquet:ADDRESS, but got {spec!r}; "
            f"a data set of one's own is module:name"
        )
    if spec == "digits":
        return bundled.digits(channels=channels, seed=seed)
    data: Data = getattr(bundled, spec)(seed=seed)
    return data


def _is_clicks(address: str) -> bool:
    try:
        return is_finished(address)
    except (StorageError, OSError):
        return False  # reading it as images says what is wrong
