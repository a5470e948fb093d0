"""Finds the image and label columns of a Parquet file, and converts their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manynet.data.base import DataError
from manynet.data.images.pixels import Pixels

IMAGE_NAMES = ("image", "img", "images", "bytes", "pixels")
LABEL_NAMES = ("label", "labels", "fine_label", "target")


class Columns(NamedTuple):
    """Names of the columns; `split` is None if there is none."""

    image: str
    label: str
    split: str | None


def find_columns(schema: pa.Schema, where: str) -> Columns:
    """Find columns by their usual names, and check the type of the labels.

    Raises:
        DataError: listing the known names and the file's own.
    """
    image, label = (
        _find_column(schema, "image", IMAGE_NAMES, where),
        _find_column(schema, "label", LABEL_NAMES, where),
    )
    if not pa.types.is_integer(schema.field(label).type):
        raise DataError(f"column {label!r} must hold integers, but {where} has {schema.field(label).type}")
    return Columns(image, label, "split" if "split" in schema.names else None)


def _find_column(schema: pa.Schema, kind: str, names: Sequence[str], where: str) -> str:
    column = next((name for name in names if name in schema.names), None)
    if column is None:
        raise DataError(
            f"the {kind} column must be one of ({', '.join(names)}), but {where} has ({', '.join(schema.names)})"
        )
    return column


def labels_of(column: pa.ChunkedArray, where: str) -> NDArray[np.int64]:
    """Labels `(N,)`.

    Raises:
        DataError: if one is null or negative.
    """
    if column.null_count:
        raise DataError(f"every row must have a label, but {where} has {column.null_count} without")
    labels: NDArray[np.int64] = column.to_numpy().astype(np.int64)
    if len(labels) and labels.min() < 0:
        row = int(np.argmin(labels))
        raise DataError(f"labels must be at least 0, but row {row} of {where} has {labels[row]}")
    return labels


def images_of(column: pa.ChunkedArray, where: str) -> list[memoryview] | Pixels:
    """Encoded images, or an array of pixels `(N, H, W, C)`.

    Args:
        column: of binary, of structs with a field `bytes`, or of nested lists or tensors of numbers.
        where: names the file in errors.

    Raises:
        DataError: for other types, nulls, lists of unequal length or numbers that are no bytes.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if array.null_count:
        raise DataError(f"every row must have an image, but {where} has {array.null_count} without")
    if pa.types.is_struct(array.type):
        if array.type.get_field_index("bytes") < 0:
            raise DataError(
                f"an image column of structs must have a field bytes, but {where} has {array.type}"
            )
        return images_of(pa.chunked_array([array.field("bytes")]), where)
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return [memoryview(value.as_buffer()) for value in array]
    return _pixels(_tensor(array, where), where)


def _tensor(array: pa.Array, where: str) -> NDArray[np.generic]:
    """Nested lists or tensors as one array."""
    if isinstance(array.type, pa.FixedShapeTensorType):
        return np.asarray(array.to_numpy_ndarray())
    if isinstance(array.type, pa.BaseExtensionType) and hasattr(array.type, "shape"):
        return np.stack(list(array.to_numpy(zero_copy_only=False)))  # tensors written by Ray Data
    shape = [len(array)]
    while (
        pa.types.is_list(array.type)
        or pa.types.is_large_list(array.type)
        or pa.types.is_fixed_size_list(array.type)
    ):
        flat = array.flatten()
        if len(array) * (length := len(flat) // max(1, len(array))) != len(flat) or not _all_of_length(
            array, length
        ):
            raise DataError(f"arrays of pixels must have one shape, but those of {where} differ")
        shape.append(length)
        array = flat
    if not pa.types.is_integer(array.type) or array.null_count:
        raise DataError(
            f"images must be encoded bytes or arrays of whole numbers, but {where} has {array.type}"
        )
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(shape)


def _all_of_length(array: pa.Array, length: int) -> bool:
    return array.null_count == 0 and bool(
        np.all(array.value_lengths().to_numpy(zero_copy_only=False) == length)
    )


def _pixels(values: NDArray[np.generic], where: str) -> Pixels:
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"pixels must be whole numbers in 0..255, but {where} has {values.dtype}")
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or values.shape[3] not in (1, 3):
        raise DataError(
            f"arrays of pixels must be (H, W), (H, W, 1) or (H, W, 3), but {where} has {values.shape[1:]}"
        )
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 255:
        raise DataError(f"pixels must be in 0..255, but {where} has {values.min()}..{values.max()}")
    return values.astype(np.uint8)
