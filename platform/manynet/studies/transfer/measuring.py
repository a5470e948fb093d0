"""Measures the missing latencies of a transfer study; each goes to the ledger at once."""

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
    """Outcome of measuring on one device.

    Attributes:
        measured: number of subnets measured now.
        failures: reasons of failed measurements, a line each.
        given_up: whether ten failures in a row stopped the device.
    """

    measured: int = 0
    failures: list[str] = field(default_factory=list)
    given_up: bool = False


def chosen(records: Sequence[Record], source: str, metric: str, count: int) -> list[Record]:
    """The subnets to measure: the source's front first, then others evenly spaced by rank of latency on it.

    Multiply-adds replace the latency on the source where the search has none.

    Args:
        records: the search's evaluations, without later measurements: these must not change the choice.
        source: device of the front.
        metric: larger is better.
        count: most subnets.
    """
    column = LATENCY + source
    known = [record for record in records if column in record.metrics]
    if not known:
        proxy = COST[0]
        known = [replace(r, metrics={**r.metrics, column: r.metrics[proxy]}) for r in records]
    front = anchors(pareto_front(known, metric, source), column, count)
    keys = {record.key for record in front}
    others = anchors([record for record in known if record.key not in keys], column, count - len(front))
    originals = {record.key: record for record in records}
    return [originals[record.key] for record in [*front, *others]]


def with_measurements(records: Sequence[Record], ledger: Sequence[Record]) -> list[Record]:
    """Evaluations with added latency columns of measurements after the search.

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
    """Measure the subnets without a latency, on each device; each measurement is in the ledger before the next begins.

    Devices work in parallel: a host's lease, the exclusive right to compute there, separates their timings;
    conversions may overlap. A subnet that fails on a device is skipped for that device alone. A device is given up
    after ten failures in a row.

    Args:
        records: subnets, in the order of measurement.
        devices: names.
        measure: called with one name at a time.
        ledger: where records of kind ``measurement`` are written.
        console: for progress; standard error by default.
    """
    missing = {name: [r for r in records if LATENCY + name not in r.metrics] for name in devices}
    missing = {name: subnets for name, subnets in missing.items() if subnets}
    if not missing:
        return {}
    stop = threading.Event()
    total, done, lock = sum(map(len, missing.values())), 0, threading.Lock()

    def advance(more: int) -> None:
        nonlocal done
        with lock:
            done += more
            show(done, total)

    with logged_bar("transfer", console) as show, ThreadPoolExecutor(len(missing)) as threads:
        jobs = {
            name: threads.submit(_measure_all, name, subnets, measure, ledger, advance, stop)
            for name, subnets in missing.items()
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
    # A latency depends on neither weights nor data, so its key contains neither.
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
    extra = [later[key] for key in (_key(record, device) for device in devices) if key in later]
    # The search's own latencies take precedence: its front is based on them.
    metrics = {name: value for other in extra for name, value in other.metrics.items()} | dict(record.metrics)
    new = [
        measurement
        for other in extra
        if not other.metrics.keys() <= record.metrics.keys()
        for measurement in other.measurements
    ]
    return replace(record, metrics=metrics, measurements=[*record.measurements, *new])
