"""Data sets shipped with installed packages."""

from __future__ import annotations

import numpy as np

from manynet.data.base import Data
from manynet.data.clicks.flights import flights, flights_by_time
from manynet.data.images.in_memory import in_memory
from manynet.data.images.pixels import ImageShape, conform
from manynet.data.splitting import split

__all__ = ["digits", "flights", "flights_by_time"]


def digits(*, channels: int | None = None, seed: int = 0) -> Data:
    """Scikit-learn's handwritten digits: 1797 grey 8 x 8 images of 10 classes, split 8:1:1.

    Args:
        channels: 1 (grey, as they are) or 3 (RGB); None keeps grey.
        seed: of the split.
    """
    # Slow to import, and every process that decodes images imports this package.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    # Their 17 levels of grey are spread over the 256 of a byte.
    grey = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = labels.astype(np.int64)
    parts = split(labels, {"train": np.arange(len(labels))}, seed)
    return in_memory("digits", conform(grey, ImageShape(channels or 1, 8, 8)), labels, parts, seed)
