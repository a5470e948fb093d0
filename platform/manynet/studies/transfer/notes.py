"""Notes of a transfer study: coverage, failures and doubts, one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from manynet.records.conditions import LATENCY
from manynet.records.ledger import Record
from manynet.records.rank_correlation import FEWEST
from manynet.studies.transfer.measuring import FAILURES_IN_A_ROW, Outcome


def coverage(source: str, selected: int, evaluated: int) -> str:
    """How many subnets were meant to be measured, of how many."""
    return (
        f"{selected} of {evaluated} evaluated subnets were chosen to be measured: the front of {source}, then "
        f"others evenly spaced by rank"
    )


def failures(outcomes: Mapping[str, Outcome]) -> list[str]:
    """A line for each device that could not measure everything, with its first reason."""
    return [_failure(device, outcome) for device, outcome in outcomes.items() if outcome.failures]


def left_out(device: str) -> str:
    """Why a device has no row."""
    return f"{device} is left out: fewer than {FEWEST} subnets were measured on it and on the source"


def doubts(records: Sequence[Record], devices: Sequence[str]) -> list[str]:
    """Measurements that were not steady, and devices that were not one machine with one version of its tool."""
    lines = []
    for device in devices:
        taken = [
            one
            for record in records
            for one in record.measurements
            if one.get("device") == device and LATENCY + device in record.metrics
        ]
        unsteady = sum(not one.get("steady", True) for one in taken)
        if unsteady:
            lines.append(f"{unsteady} of {len(taken)} measurements on {device} were unsteady")
        made = {(one.get("fingerprint"), one.get("tool_version")) for one in taken}
        if len(made) > 1:
            lines.append(
                f"latencies on {device} come from {len(made)} different machines or versions of its tool"
            )
    return lines


def _failure(device: str, outcome: Outcome) -> str:
    tried = outcome.measured + len(outcome.failures)
    line = f"{device} could not measure {len(outcome.failures)} of {tried} subnets: {outcome.failures[0]}"
    return f"{line}; given up after {FAILURES_IN_A_ROW} in a row" if outcome.given_up else line
