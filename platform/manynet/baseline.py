"""A plain model on the same split, so that a finalist's accuracy has something to stand beside."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from manynet.data import Data, Split

LARGEST = 5_000_000
"""Pixels of the training split beyond which fitting would take longer than it tells."""


def logistic_regression(data: Data) -> float | None:
    """Test accuracy of scikit-learn's logistic regression on the pixels; None for large data.

    It is fitted on the training split alone, as finalists are.
    """
    (images,) = next(iter(data.train.batches(1))).inputs
    if len(data.train) * images.numel() > LARGEST:
        return None
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(*_arrays(data.train))
    return float(model.score(*_arrays(data.test)))


def _arrays(split: Split) -> tuple[np.ndarray, np.ndarray]:
    batch = next(iter(split.batches(len(split))))
    return batch.inputs[0].flatten(1).numpy(), batch.targets.numpy()
