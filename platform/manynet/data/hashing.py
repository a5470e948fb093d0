"""Hash ids of texts, the same on every machine and in every version.

The bytes of a text are cut into words of 8, little-endian, the last one filled up with zeros. The hash starts
at ``length * GOLDEN``; each word in turn is xored in, and the result mixed by splitmix64's finaliser. All of it
is modulo 2**64. So texts of up to 8 bytes and equal length never share a hash; the empty text has hash 0.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Ids = NDArray[np.int32]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
WORD = 8
# Initial hash of a text of one word.
_ONE_WORD = np.uint64(WORD * int(GOLDEN) % 2**64)
# By number of bytes that belong to the text: mask of a word's bytes.
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(WORD + 1)], dtype=np.uint64)


def mix(numbers: Hashes) -> Hashes:
    """splitmix64's finaliser, in place: every bit of a number changes half of the result's bits."""
    spare = numbers >> np.uint64(30)
    numbers ^= spare
    numbers *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(numbers, np.uint64(27), out=spare)
    numbers ^= spare
    numbers *= np.uint64(0x94D049BB133111EB)
    np.right_shift(numbers, np.uint64(31), out=spare)
    numbers ^= spare
    return numbers


def hash_texts(texts: pa.BinaryArray) -> Hashes:
    """The hash of every text, `(N,)`; null counts as empty."""
    filled, hashed = _hash_filled(texts)
    result = np.zeros(len(texts), np.uint64)
    result[filled] = hashed
    return result


def text_ids(texts: pa.BinaryArray, rows: int) -> Ids:
    """Rows of a table of `rows`, `(N,)`: `hash % (rows - 1) + 1`, and 0 for a text that is empty or null."""
    filled, hashed = _hash_filled(texts)
    hashed %= np.uint64(rows - 1)
    hashed += np.uint64(1)
    result = np.zeros(len(texts), np.int32)
    result[filled] = hashed
    return result


def _hash_filled(texts: pa.BinaryArray) -> tuple[NDArray[np.intp], Hashes]:
    """Indices of texts that are not empty, and their hashes."""
    bounds, data = _bytes(texts)
    lengths = np.diff(bounds)
    filled = np.flatnonzero(lengths != 0)
    if len(data) == WORD * len(filled) and np.all(lengths <= WORD):
        # Every text that is not empty is one word: a common case, and then the words lie side by side.
        return filled, mix(data.view("<u8") ^ _ONE_WORD)
    starts = bounds[filled].astype(np.int64)
    return filled, _hash_words(starts, lengths[filled].astype(np.int64), data)


def _hash_words(starts: NDArray[np.int64], lengths: NDArray[np.int64], data: NDArray[np.uint8]) -> Hashes:
    """Hashes of texts that are not empty, by their start and length."""
    # The 8 bytes from every offset, as a number; a word may reach past the last text.
    padded = np.concatenate([data, np.zeros(WORD, np.uint8)])
    words: Hashes = np.ndarray(len(data) + 1, "<u8", padded, strides=(1,))
    hashed: Hashes = lengths.astype(np.uint64) * GOLDEN
    rows = np.arange(len(starts))
    while len(rows):
        word = words[starts] & _MASKS[np.minimum(lengths, WORD)]
        hashed[rows] = mix(hashed[rows] ^ word)
        # Only texts with another word continue: there are as many rounds as words in the longest, most of them short.
        longer = np.flatnonzero(lengths > WORD)
        rows, starts, lengths = rows[longer], starts[longer] + WORD, lengths[longer] - WORD
    return hashed


def _bytes(texts: pa.BinaryArray) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Start of each text and end of the last, and the bytes of all."""
    if texts.null_count:
        texts = texts.fill_null(b"")
    _, offsets, data = texts.buffers()
    if not len(texts):
        return np.zeros(1, np.int32), np.zeros(0, np.uint8)
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    first, last = int(bounds[0]), int(bounds[-1])
    if first == last:
        return np.zeros_like(bounds), np.zeros(0, np.uint8)
    return bounds - first if first else bounds, np.frombuffer(data, np.uint8)[first:last]
