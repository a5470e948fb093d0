"""KDD Cup 2012, track 2: advertisements beside the search results of soso.com."""

from __future__ import annotations

from collections.abc import Iterator
from os.path import expanduser

import pyarrow as pa

from manynet.data.base import DataError
from manynet.data.clicks.raw.bad_row_policy import BadRowPolicy
from manynet.data.clicks.raw.delimited import PIECE_BYTES, pieces
from manynet.data.clicks.raw.layout import Columns, Dialect, Join, Layout, capped, tables
from manynet.data.clicks.raw.lookup import read_lists, read_profile
from manynet.data.clicks.raw.reading_bar import ReadingBar
from manynet.data.features import Categorical
from manynet.data.raw_files import RawFile, find_files
from manynet.storage import exists, join

LOG, PROFILE = "training.txt", "userid_profile.txt"
HEADER = "click impression displayURL adID advertiserID depth position queryID keywordID titleID descriptionID userID"
DENSE = ("impression", "depth", "position")
# Published numbers of distinct values, plus a row for missing ones.
TABLES = {
    "displayURL": 26274,
    "adID": 641708,
    "advertiserID": 14848,
    "queryID": 22122011,
    "keywordID": 1188090,
    "titleID": 3735797,
    "descriptionID": 2934102,
    "userID": 20004011,
}
PROFILE_TABLES = {"gender": 4, "age": 8}
# Texts by id: file, key column and feature.
TOKENS = (
    ("queryid_tokensid.txt", "queryID", "queryTokens"),
    ("purchasedkeywordid_tokensid.txt", "keywordID", "keywordTokens"),
    ("titleid_tokensid.txt", "titleID", "titleTokens"),
    ("descriptionid_tokensid.txt", "descriptionID", "descriptionTokens"),
)
TOKEN_ROWS, TOKEN_VALUES = 2**18, 16


def kdd_files(folder: str) -> list[RawFile]:
    """The log of a folder.

    Raises:
        DataError: if it is missing.
    """
    return [_find(folder, LOG)]


def kdd_layout(
    folder: str, table_rows: int | None, tokens: bool, policy: BadRowPolicy, bar: ReadingBar
) -> Layout:
    """Tab-separated, without a header. Reads the joined files into memory.

    Args:
        folder: with the competition's files, each plain or gzipped.
        table_rows: most rows of a table; None keeps the published sizes.
        tokens: also join the tokens of queries, keywords, titles and descriptions, as multi-valued features.
        policy: counts the rows of the joined files.
        bar: shows how many bytes of each joined file are read.

    Raises:
        DataError: naming the file that is missing or has bad rows, or if `table_rows` is below 2.
    """
    columns = Columns(label="click", dense=DENSE, texts=tuple(TABLES), counts=True)
    categorical = tables(TABLES, table_rows)
    joins = [_profile(folder, table_rows, policy, bar)]
    if tokens:
        joins += [_tokens(folder, *names, table_rows, policy, bar) for names in TOKENS]
    return Layout("kdd", columns, categorical, Dialect("\t", header=tuple(HEADER.split())), tuple(joins))


def _profile(folder: str, table_rows: int | None, policy: BadRowPolicy, bar: ReadingBar) -> Join:
    features = tables(PROFILE_TABLES, table_rows)
    texts = _texts(folder, PROFILE, ("userID", *PROFILE_TABLES), policy, bar)
    return read_profile("userID", features, texts)


def _tokens(
    folder: str, file: str, key: str, name: str, table_rows: int | None, policy: BadRowPolicy, bar: ReadingBar
) -> Join:
    (feature,) = capped([Categorical(name, TOKEN_ROWS, TOKEN_VALUES)], table_rows)
    return read_lists(key, feature, "|", _texts(folder, file, (key, name), policy, bar))


def _texts(
    folder: str, name: str, header: tuple[str, ...], policy: BadRowPolicy, bar: ReadingBar
) -> Iterator[pa.Table]:
    """All rows of a joined file, as texts."""
    file = _find(folder, name)
    columns, dialect = Columns(texts=header), Dialect("\t", header=header)
    with bar(name, file.size) as show:
        for piece in pieces(file, columns, dialect, PIECE_BYTES):
            table, faults = piece.read(columns)
            policy.add(piece, len(table), faults)
            show(piece.done)
            yield table


def _find(folder: str, name: str) -> RawFile:
    for path in (join(expanduser(folder), name), join(expanduser(folder), f"{name}.gz")):
        if exists(path):
            return find_files(path)[0]
    raise DataError(f"kdd:FOLDER must hold {name} or {name}.gz, but {folder} does not")
