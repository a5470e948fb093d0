"""Commands on devices: what latency can be measured on."""

from __future__ import annotations

import os

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def devices() -> None:
    """List the devices whose latency can be measured here and in the connected cluster.

    Names go into objectives and constraints: `latency@host/torch:min`. Batch 1, one thread and float32 unless
    spelled otherwise: `host/torch?batch=8&threads=2&precision=bf16`.
    """
    from manynet.cluster import connect
    from manynet.devices import list_devices

    if os.environ.get("RAY_ADDRESS"):
        connect()
    table = Table("device", "status", "found", "what it is")
    for listing in list_devices():
        # What to install is in brackets, which Rich would take for a style.
        table.add_row(*map(escape, listing))
    Console().print(table)
