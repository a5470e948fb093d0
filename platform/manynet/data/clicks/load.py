"""Loads a folder of converted click-through data."""

from __future__ import annotations

import numpy as np

from manynet.data.base import Data, DataError, Split
from manynet.data.clicks.in_memory import Clicks, ClickSplit
from manynet.data.clicks.schema import Schema, check_labels, read_schema
from manynet.data.clicks.streamed import ClickFiles, StreamedClicks, find_clicks
from manynet.storage import join

CONVERSION = {
    "dense_transform": "log(max(x, 0) + 1), where a missing value counts as 0",
    "ids": "manynet.data.hashing.text_ids(texts, rows): hash % (rows - 1) + 1, and 0 for an empty text",
}


def load_clicks(name: str, folder: str, memory: int) -> Data:
    """Read a converted data set.

    It is loaded into memory if it fits, and streamed otherwise. A split's `batches` are the same either way.

    Args:
        name: as the user gave it.
        folder: its address.
        memory: bytes that the examples of all splits may take.

    Raises:
        DataError: if a file is missing or damaged.
    """
    schema = read_schema(folder)
    files = {split: _files(folder, split, schema) for split in ("train", "validation", "test")}
    check_labels(schema, f"in {folder}")
    # A float32 for each dense feature, an int32 for each id, and a byte for the label.
    row = 4 * (len(schema.features.dense) + schema.features.ids_width) + 1
    make = _in_memory if row * sum(map(len, files.values())) <= memory else StreamedClicks
    splits: dict[str, Split] = {split: make(split_files) for split, split_files in files.items()}
    conversion = {"source": schema.source, **CONVERSION}
    return Data(name, schema.digest, **splits, features=schema.features, conversion=conversion)


def _files(folder: str, split: str, schema: Schema) -> ClickFiles:
    if not schema.rows[split]:
        raise DataError(f"each split must hold at least one example, but {split} of {folder} holds none")
    files = find_clicks(join(folder, split), schema.features)
    if len(files) != schema.rows[split]:
        raise DataError(
            f"{split} of {folder} must hold {schema.rows[split]} examples, but its files hold {len(files)}"
        )
    return files


def _in_memory(files: ClickFiles) -> ClickSplit:
    pieces = zip(*(piece.arrays for piece in files.read(files.fixed_order())), strict=True)
    return ClickSplit(Clicks(*(np.concatenate(arrays) for arrays in pieces)))
