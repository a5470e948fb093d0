"""Writes the folder of an imported set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from manynet.devices import DeviceName
from manynet.latency.published.additive import Additivity, additivity
from manynet.latency.published.latencies import (
    PublishedError,
    PublishedNet,
    PublishedSet,
    milliseconds_per_example,
)
from manynet.records.ledger import Ledger, Record, record_key
from manynet.storage import join, locate, write_bytes

FILE = "published.json"
_ORIGIN = "published"


@dataclass(frozen=True)
class DeviceSummary:
    """A device of an imported set.

    Attributes:
        device: its name.
        nets: number of nets with a latency on it.
        fastest, slowest: latency of one example, ms.
        left_out: number of skipped rows, by reason.
        additivity: whether latency is a sum over choices; None where choices are not operators of layers.
    """

    device: str
    nets: int
    fastest: float
    slowest: float
    left_out: Mapping[str, int]
    additivity: Additivity | None


@dataclass(frozen=True)
class Imported:
    """An imported set.

    Attributes:
        name: of the set.
        metric: ``accuracy`` or None.
        nets: records in the ledger.
        with_metric: records that have the metric.
        devices: a summary of each device.
    """

    name: str
    metric: str | None
    nets: int
    with_metric: int
    devices: tuple[DeviceSummary, ...]


def check_folder(folder: str | Path) -> None:
    """Check that a folder is empty or does not exist.

    Raises:
        PublishedError: for a file, or a folder that is not empty.
    """
    system, path = locate(folder)
    if system.get_file_info(path).is_file:
        raise PublishedError(f"the output must be a new folder, but {folder} is a file")
    entries = system.get_file_info(pa.fs.FileSelector(path, allow_not_found=True))
    if entries:
        raise PublishedError(f"the output must be a new folder, but {folder} holds {entries[0].base_name}")


def write_set(published: PublishedSet, folder: str | Path) -> Imported:
    """Write a set's ledger, tables, licences and, last, ``published.json``.

    Raises:
        manynet.ManynetError: if they cannot be written.
    """
    devices = tuple(_summary(published, device) for device in published.devices)
    Ledger(join(folder, "ledger")).write_all(_records(published))
    for summary in devices:
        if summary.additivity and summary.additivity.table:
            summary.additivity.table.write(join(folder, "tables", f"{summary.device}.json"))
    for name, content in published.licences.items():
        write_bytes(join(folder, name), content)
    imported = Imported(
        published.name,
        published.metric,
        len(published.nets),
        sum(published.metric in net.metrics for net in published.nets),
        devices,
    )
    write_bytes(join(folder, FILE), json.dumps(_facts(published, imported), indent=1).encode())
    return imported


def _summary(published: PublishedSet, device: str) -> DeviceSummary:
    timed_nets: list[tuple[PublishedNet, float]] = [
        (net, milliseconds_per_example(measured))
        for net in published.nets
        for measured in net.measurements
        if measured.device == device
    ]
    times = [time for _, time in timed_nets]
    fit = (
        additivity(device, [net.architecture for net, _ in timed_nets], times) if published.by_layer else None
    )
    return DeviceSummary(device, len(times), min(times), max(times), published.left_out.get(device, {}), fit)


def _records(published: PublishedSet) -> list[Record]:
    """A record for each net; its metrics are ms of one example, its measurements ms of the whole batch."""
    space = _space(published.name, published.choices)
    columns = {device: DeviceName.parse(device).column for device in published.devices}
    return [
        Record(
            key=record_key("evaluation", space, "", net.architecture, _ORIGIN, _ORIGIN),
            kind="evaluation",
            space=space,
            weights="",
            architecture=net.architecture,
            data=_ORIGIN,
            protocol=_ORIGIN,
            metrics={
                **net.metrics,
                **{
                    columns[measured.device]: milliseconds_per_example(measured)
                    for measured in net.measurements
                },
            },
            measurements=[one.to_dict() for one in net.measurements],
            details=net.details,
        )
        for net in published.nets
    ]


def _space(name: str, choices: object) -> str:
    return hashlib.sha256(json.dumps([name, choices], sort_keys=True).encode()).hexdigest()[:16]


def _facts(published: PublishedSet, imported: Imported) -> dict[str, object]:
    return {
        "name": published.name,
        "metric": published.metric,
        "devices": list(published.devices),
        "source": published.source,
        "licence": published.licence,
        "nets": imported.nets,
        "left_out": {one.device: dict(one.left_out) for one in imported.devices if one.left_out},
        "additive": {one.device: one.additivity.verdict for one in imported.devices if one.additivity},
    }
