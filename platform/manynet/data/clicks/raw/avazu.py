"""Avazu's mobile advertising logs (Kaggle 2014)."""

from __future__ import annotations

from manynet.data.clicks.raw.layout import Columns, Dialect, Layout, tables

# Published numbers of distinct values, plus a row for missing ones.
TABLES = {
    "id": 10000,
    "hour": 241,
    "C1": 8,
    "banner_pos": 8,
    "site_id": 4738,
    "site_domain": 7746,
    "site_category": 27,
    "app_id": 8553,
    "app_domain": 560,
    "app_category": 37,
    "device_id": 2686409,
    "device_ip": 6729487,
    "device_model": 8252,
    "device_type": 6,
    "device_conn_type": 5,
    "C14": 2627,
    "C15": 9,
    "C16": 10,
    "C17": 436,
    "C18": 5,
    "C19": 69,
    "C20": 173,
    "C21": 61,
}


def avazu_layout(table_rows: int | None) -> Layout:
    """Comma-separated, with a header: `click` and 23 categories, no numbers.

    Args:
        table_rows: most rows of a table; None keeps the published sizes.

    Raises:
        DataError: if `table_rows` is below 2.
    """
    columns = Columns(label="click", texts=tuple(TABLES))
    return Layout("avazu", columns, tables(TABLES, table_rows), Dialect(",", quoted=True))
