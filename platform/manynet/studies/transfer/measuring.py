"""Latencies that a transfer study lacks: which subnets are measured, and every measurement kept at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from rich.console import Console

from manynet.devices import DeviceError
from manynet.records.conditions import COST, LATENCY
from manynet.records.ledger import Ledger, Record, record_key
from manynet.records.selection import anchors
from manynet.search.scoring import Latency
from manynet.space.search_space import Architecture
from manynet.studies.transfer.comparison import pareto_front
from manynet.telemetry.progress_bar import logged_bar

Measure = Callable[[Architecture, Sequence[str]], Mapping[str, Latency]]
"""Latency of an architecture on each of the named devices; raises DeviceError where one cannot measure it."""
FAILURES_IN_A_ROW = 10


@dataclass
class Outcome:
    """What became of one device: subnets measured, why others were not, and whether it was given up.

    Attributes:
        measured: subnets that were measured now.
        failures: why a subnet could not be, a line each.
        given_up: ten failures in a row ended it.
    """

    measured: int = 0
    failures: list[str] = field(default_factory=list)
    given_up: bool = False


def chosen(records: Sequence[Record], source: str, metric: str, count: int) -> list[Record]:
    """The subnets to measure: the source's front first, then others evenly spaced by rank of latency on it.

    Where the search has no latency on the source, multiply-adds stand in for it.

    Args:
        records: evaluations, as the search left them: the choice must not change as measurements come in.
        source: device of the front.
        metric: larger is better.
        count: how many at most.
    """
    column = LATENCY + source
    known = [record for record in records if column in record.metrics]
    if not known:
        stand_in = COST[0]
        known = [replace(r, metrics={**r.metrics, column: r.metrics[stand_in]}) for r in records]
    front = anchors(pareto_front(known, metric, source), column, count)
    keys = {record.key for record in front}
    others = anchors([record for record in known if record.key not in keys], column, count - len(front))
    given = {record.key: record for record in records}
    return [given[record.key] for record in [*front, *others]]


def with_measurements(records: Sequence[Record], ledger: Sequence[Record]) -> list[Record]:
    """Evaluations with the columns that were measured after the search.

    Args:
        records: evaluations.
        ledger: all records of the same ledger.
    """
    later = {record.key: record for record in ledger if record.kind == "measurement"}
    devices = dict.fromkeys(record.protocol for record in later.values())
    return [_merged(record, later, list(devices)) for record in records]


def measure_missing(
    records: Sequence[Record],
    devices: Sequence[str],
    measure: Measure,
    ledger: Ledger,
    console: Console | None = None,
) -> dict[str, Outcome]:
    """Measure on each device what has no latency on it; each measurement is in the ledger before the next begins.

    Devices work side by side: the lease of a host keeps their timings apart, and conversions may overlap. A subnet
    that a device cannot measure is left out for that device alone. A device that fails on ten in a row is given up.

    Args:
        records: subnets, in the order they are measured.
        devices: names.
        measure: called with one name at a time.
        ledger: where records of kind ``measurement`` are written.
        console: for progress; standard error by default.
    """
    missing = {name: [r for r in records if LATENCY + name not in r.metrics] for name in devices}
    missing = {name: left for name, left in missing.items() if left}
    if not missing:
        return {}
    stop = threading.Event()
    total, done, lock = sum(map(len, missing.values())), 0, threading.Lock()

    def advance(more: int) -> None:
        nonlocal done
        with lock:
            done += more
            told(done, total)

    with logged_bar("transfer", console) as told, ThreadPoolExecutor(len(missing)) as threads:
        jobs = {
            name: threads.submit(_measure_all, name, left, measure, ledger, advance, stop)
            for name, left in missing.items()
        }
        try:
            wait(jobs.values(), return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    return {name: job.result() for name, job in jobs.items()}


def _measure_all(
    device: str,
    records: Sequence[Record],
    measure: Measure,
    ledger: Ledger,
    advance: Callable[[int], None],
    stop: threading.Event,
) -> Outcome:
    outcome, in_a_row = Outcome(), 0
    for number, record in enumerate(records):
        if stop.is_set():
            break
        try:
            latency = measure(record.architecture, [device])[device]
        except DeviceError as error:
            outcome.failures.append(str(error))
            in_a_row += 1
        else:
            ledger.write(_measurement(record, device, latency))
            outcome.measured += 1
            in_a_row = 0
        if in_a_row == FAILURES_IN_A_ROW:
            outcome.given_up = True
            advance(len(records) - number)
            break
        advance(1)
    return outcome


def _key(record: Record, device: str) -> str:
    # A latency depends on neither weights nor data, so it has no part of them in its key.
    return record_key("measurement", record.space, "", record.architecture, "", device)


def _measurement(record: Record, device: str, latency: Latency) -> Record:
    return Record(
        key=_key(record, device),
        kind="measurement",
        space=record.space,
        weights="",
        architecture=record.architecture,
        data="",
        protocol=device,
        metrics={LATENCY + device: latency.milliseconds},
        measurements=[latency.to_dict()],
    )


def _merged(record: Record, later: Mapping[str, Record], devices: Sequence[str]) -> Record:
    found = [later[key] for key in (_key(record, device) for device in devices) if key in later]
    # What the search measured itself comes first: it is what its front was made of.
    metrics = {name: value for one in found for name, value in one.metrics.items()} | dict(record.metrics)
    new = [
        taken
        for one in found
        if not one.metrics.keys() <= record.metrics.keys()
        for taken in one.measurements
    ]
    return replace(record, metrics=metrics, measurements=[*record.measurements, *new])
