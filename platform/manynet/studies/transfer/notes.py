"""Notes of a transfer study: coverage, failures and doubts, one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from manynet.records.conditions import LATENCY
from manynet.records.ledger import Record
from manynet.records.rank_correlation import FEWEST
from manynet.studies.transfer.measuring import FAILURES_IN_A_ROW, Outcome


def coverage(source: str, selected: int, evaluated: int) -> str:
    """A line with the numbers of selected and of evaluated subnets."""
    return (
        f"{selected} of {evaluated} evaluated subnets were chosen to be measured: the front of {source}, then "
        f"others evenly spaced by rank"
    )


def failures(outcomes: Mapping[str, Outcome]) -> list[str]:
    """A line for each device with failures, with the first reason."""
    return [_failure(device, outcome) for device, outcome in outcomes.items() if outcome.failures]


def left_out(device: str) -> str:
    """A line that says why a device has no row."""
    return f"{device} is left out: fewer than {FEWEST} subnets were measured on it and on the source"


def doubts(records: Sequence[Record], devices: Sequence[str]) -> list[str]:
    """Lines on unsteady measurements, and on devices with several machines or tool versions."""
    lines = []
    for device in devices:
        measurements = [
            measurement
            for record in records
            for measurement in record.measurements
            if measurement.get("device") == device and LATENCY + device in record.metrics
        ]
        unsteady = sum(not measurement.get("steady", True) for measurement in measurements)
        if unsteady:
            lines.append(f"{unsteady} of {len(measurements)} measurements on {device} were unsteady")
        origins = {(m.get("fingerprint"), m.get("tool_version")) for m in measurements}
        if len(origins) > 1:
            lines.append(
                f"latencies on {device} come from {len(origins)} different machines or versions of its tool"
            )
    return lines


def _failure(device: str, outcome: Outcome) -> str:
    tried = outcome.measured + len(outcome.failures)
    line = f"{device} could not measure {len(outcome.failures)} of {tried} subnets: {outcome.failures[0]}"
    return f"{line}; given up after {FAILURES_IN_A_ROW} in a row" if outcome.given_up else line
