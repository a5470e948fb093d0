"""Runs transfer studies of searches and of published tables, and writes their files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from manynet.devices import DeviceName
from manynet.devices.tools import tool_of
from manynet.errors import InvalidValue
from manynet.records.conditions import LATENCY
from manynet.records.ledger import Ledger, Record
from manynet.records.rank_correlation import FEWEST
from manynet.storage import exists, join, read_bytes, write_bytes
from manynet.studies.transfer import notes
from manynet.studies.transfer.comparison import (
    Transfer,
    TransferError,
    check_devices,
    compare,
    with_columns,
)
from manynet.studies.transfer.measuring import (
    Measure,
    Outcome,
    chosen,
    measure_missing,
    with_measurements,
)
from manynet.studies.transfer.page import transfer_page

PUBLISHED = "published.json"
Open = Callable[[Sequence[str]], AbstractContextManager[Measure]]
"""Context that starts the named devices, and releases them on exit."""


class Published(BaseModel):
    """Description of a folder of published latencies.

    Attributes:
        name: of the table.
        metric: column of a score, larger is better; None if the table has latencies alone.
        devices: names, each with a column ``latency@<device>`` in ms.
    """

    name: str
    metric: str | None
    devices: list[str]


def is_published(folder: str | Path) -> bool:
    """Whether a folder holds an imported table of published latencies."""
    return exists(join(folder, PUBLISHED))


def transfer_published(folder: str | Path, source: str, targets: Sequence[str] = ()) -> Transfer:
    """Compare devices of an imported table, and write ``transfer.json`` and ``transfer.html`` beside it.

    Args:
        folder: holds ``published.json`` and ``ledger``.
        source: device of the front.
        targets: other devices; by default all that share three subnets with the source.

    Raises:
        TransferError: the folder holds no such table, or a device is not in it.
    """
    table = _published(folder)
    for name in (source, *targets):
        if name not in table.devices:
            raise TransferError(
                f"a device of {table.name} must be one of ({', '.join(table.devices)}), but got {name!r}"
            )
    records = Ledger(join(folder, "ledger")).read()
    transfer = compare(records, source, targets or comparable(records, source), table.metric)
    write(folder, transfer, table.name, {"subnets": f"{len(records):,}"})
    return transfer


def transfer_search(
    records: Sequence[Record],
    source: str,
    targets: Sequence[str],
    metric: str,
    subnets: int,
    ledger: Ledger,
    open_devices: Open,
) -> Transfer:
    """Compare devices on subnets of a search, and measure missing latencies.

    Args:
        records: the search's evaluations.
        source: device of the front.
        targets: other devices; by default those that the search measured.
        metric: the task's; larger is better.
        subnets: most subnets to measure, including the front.
        ledger: measurements are read from it and written to it.
        open_devices: starts the devices that have something to measure.

    Raises:
        TransferError: devices are not distinct, ``subnets`` is less than three, or fewer than three could
            be measured on every target.
        DeviceError: a name is malformed, or its device is not available.
    """
    targets = targets or comparable(records, source)
    _check(source, targets, subnets)
    selected = chosen(records, source, metric, subnets)
    merged = {record.key: record for record in with_measurements(records, ledger.read())}
    to_measure = [merged[record.key] for record in selected]
    failures = notes.failures(_measure(to_measure, [source, *targets], ledger, open_devices))
    known = with_measurements(records, ledger.read())
    kept = [name for name in targets if name in comparable(known, source)]
    if not kept:
        reason = f"; {failures[0]}" if failures else ""
        raise TransferError(
            f"at least {FEWEST} subnets must be measured on {source} and another device, but fewer were{reason}"
        )
    lines = [notes.coverage(source, len(selected), len(records)), *failures]
    lines += [notes.left_out(name) for name in targets if name not in kept]
    return compare(known, source, kept, metric, [*lines, *notes.doubts(known, [source, *kept])])


def comparable(records: Sequence[Record], source: str) -> list[str]:
    """Devices that share at least three subnets with ``source``, in order of appearance."""
    columns = dict.fromkeys(name for r in records for name in r.metrics if name.startswith(LATENCY))
    others = [name for name in columns if name != LATENCY + source]
    return [
        name.removeprefix(LATENCY)
        for name in others
        if len(with_columns(records, LATENCY + source, name)) >= FEWEST
    ]


def write(folder: str | Path, transfer: Transfer, title: str, facts: Mapping[str, str]) -> None:
    """Write ``transfer.json`` and ``transfer.html``, one page that opens offline.

    Raises:
        StorageError: they cannot be written.
    """
    write_bytes(join(folder, "transfer.json"), json.dumps(transfer.to_dict(), indent=1).encode())
    write_bytes(join(folder, "transfer.html"), transfer_page(title, transfer, facts).encode())


def _measure(
    records: Sequence[Record], names: Sequence[str], ledger: Ledger, open_devices: Open
) -> dict[str, Outcome]:
    missing = [name for name in names if any(LATENCY + name not in r.metrics for r in records)]
    if not missing:
        return {}
    with open_devices(missing) as measure:
        outcomes = measure_missing(records, missing, measure, ledger)
    ledger.compact()
    return outcomes


def _check(source: str, targets: Sequence[str], subnets: int) -> None:
    if subnets < FEWEST:
        raise TransferError(f"subnets must be at least {FEWEST}, but got {subnets}")
    check_devices(source, targets)
    for text in (source, *targets):
        tool_of(DeviceName.parse_canonical(text))


def _published(folder: str | Path) -> Published:
    address = join(folder, PUBLISHED)
    try:
        return Published.model_validate_json(read_bytes(address))
    except ValidationError as error:
        problem = InvalidValue.first(error).line()
        raise TransferError(f"{address} must hold name, metric and devices, but got {problem}") from None
