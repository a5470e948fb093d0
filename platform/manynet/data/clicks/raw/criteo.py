"""Criteo's display advertising logs (Kaggle 2014 and the terabyte log, which have the same columns)."""

from __future__ import annotations

from manynet.data.clicks.raw.layout import Columns, Dialect, Layout, tables

# Published numbers of distinct values of C1 to C26 in the Kaggle log, plus a row for missing ones.
_SIZES = [
    "1461",
    "584",
    "10131227",
    "2202609",
    "306",
    "25",
    "12518",
    "634",
    "4",
    "93146",
    "5684",
    "8351593",
    "3195",
    "28",
    "14993",
    "5461307",
    "11",
    "5653",
    "2174",
    "5",
    "7046548",
    "19",
    "16",
    "286182",
    "106",
    "142573",
]
DENSE = tuple(f"I{number}" for number in range(1, 14))
TABLES = {f"C{number}": int(size) for number, size in enumerate(_SIZES, start=1)}


def criteo_layout(table_rows: int | None) -> Layout:
    """Tab-separated, without a header: the label, 13 counts, 26 categories as 8 hexadecimal digits.

    Args:
        table_rows: most rows of a table; None keeps the published sizes.

    Raises:
        DataError: if `table_rows` is below 2.
    """
    columns = Columns(label="label", dense=DENSE, texts=tuple(TABLES))
    return Layout("criteo", columns, tables(TABLES, table_rows), Dialect("\t", header=columns.names))
