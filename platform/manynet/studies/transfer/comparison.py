"""Comparison of devices: rank correlation of latencies, and the loss of a front at equal latency.

A device means a device together with its deployment tool and settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from manynet.errors import ManynetError
from manynet.records.conditions import LATENCY
from manynet.records.ledger import Record
from manynet.records.pareto import Floats, front
from manynet.records.rank_correlation import FEWEST, RESAMPLES, RankingQuality, kendall, kendall_tau

# Beyond this many subnets the interval's own noise is far below its width, and resamples cost n squared.
MANY, RESAMPLES_OF_MANY = 500, 1_000


class TransferError(ManynetError, ValueError):
    """A device is unknown or asked for twice, or too few subnets were measured to compare anything."""


@dataclass(frozen=True)
class Loss:
    """Loss of the source's front against a device's own front, at equal latency.

    Attributes:
        mean, largest: over the reached members, in the metric's unit; 0 or more; None if none is reached.
        reached: members of the own front with a member of the other front that is as fast or faster.
        unreached: members of the own front that are faster than every member of the other front.
    """

    mean: float | None
    largest: float | None
    reached: int
    unreached: int


@dataclass(frozen=True)
class Target:
    """Comparison of one device with the source; both fronts are over the subnets measured on both.

    Attributes:
        device: name of the device.
        tau: rank correlation of both latencies over all subnets measured on both.
        front_tau: the same over the source's front; None with fewer than three members, or no metric.
        front: the source's front, fastest on this device first.
        own: this device's own front, fastest first.
        absent: number of the source's front members that were not measured on this device.
        loss: of ``front`` against ``own``; None without a metric.
    """

    device: str
    tau: RankingQuality
    front_tau: RankingQuality | None
    front: Sequence[Record]
    own: Sequence[Record]
    absent: int
    loss: Loss | None


@dataclass(frozen=True)
class Transfer:
    """Result of a transfer study.

    Attributes:
        source: the device that subnets were chosen for.
        metric: column of the score, larger is better; None if no subnet has a score.
        records: subnets with columns ``latency@<device>`` (ms); a column may be missing.
        targets: the other devices.
        taus: (D, D) Kendall's tau-b between latencies on ``devices``, in their order, over the subnets
            measured on both; None for fewer than three.
        notes: further remarks, a line each.
    """

    source: str
    metric: str | None
    records: Sequence[Record]
    targets: Sequence[Target]
    taus: Sequence[Sequence[float | None]]
    notes: Sequence[str] = ()

    @property
    def devices(self) -> list[str]:
        """The source, then the targets."""
        return [self.source, *(target.device for target in self.targets)]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values; fronts are lists of record keys."""
        rows = []
        for target in self.targets:
            row = {
                name: value
                for name, value in vars(target).items()
                if name not in ("tau", "front_tau", "loss")
            }
            row |= {name: [record.key for record in row[name]] for name in ("front", "own")}
            row |= {name: _plain(getattr(target, name)) for name in ("tau", "front_tau", "loss")}
            rows.append(row)
        return {
            "source": self.source,
            "metric": self.metric,
            "targets": rows,
            "devices": self.devices,
            "taus": self.taus,
            "notes": list(self.notes),
        }


def compare(
    records: Sequence[Record],
    source: str,
    targets: Sequence[str],
    metric: str | None,
    notes: Sequence[str] = (),
) -> Transfer:
    """Compare ``source`` with each of ``targets`` on subnets with known latencies.

    Args:
        records: subnets with columns ``latency@<device>`` (ms) and ``metric``; missing and NaN values are left out.
        source: device of the front.
        targets: other devices.
        metric: larger is better; None gives rank correlations alone.
        notes: for the result.

    Raises:
        TransferError: devices are not distinct, no subnet has the metric, or fewer than three subnets were
            measured on the source and a target.
    """
    check_devices(source, targets)
    if metric is not None and not with_columns(records, metric):
        raise TransferError(f"a transfer study of {metric} needs subnets that have it, but got none")
    for target in targets:
        both = len(with_columns(records, LATENCY + source, LATENCY + target))
        if both < FEWEST:
            raise TransferError(
                f"at least {FEWEST} subnets must be measured on both {source} and {target}, but got {both}"
            )
    rows = [_target(records, source, target, metric) for target in targets]
    return Transfer(source, metric, records, rows, _taus(records, [source, *targets]), notes)


def check_devices(source: str, targets: Sequence[str]) -> None:
    """Reject a source among its targets, a target twice, and no target at all.

    Raises:
        TransferError: for the first of them.
    """
    if not targets:
        raise TransferError("a transfer study needs at least one device to transfer to, but got none")
    for number, target in enumerate(targets):
        if target in (source, *targets[:number]):
            raise TransferError(f"devices of a transfer study must be different, but got {target!r} twice")


def with_columns(records: Sequence[Record], *columns: str) -> list[Record]:
    """Records with a finite value in every column."""
    return [r for r in records if all(np.isfinite(r.metrics.get(column, np.nan)) for column in columns)]


def pareto_front(records: Sequence[Record], metric: str, device: str) -> list[Record]:
    """Members of the front of ``metric`` against latency on ``device``, fastest first."""
    known = with_columns(records, metric, LATENCY + device)
    if not known:
        return []
    values = [[record.metrics[metric], record.metrics[LATENCY + device]] for record in known]
    return _by_latency([known[index] for index in front(values, [True, False])], device)


def loss_at_equal_latency(own: Sequence[Record], other: Sequence[Record], metric: str, device: str) -> Loss:
    """Loss of front ``other`` against front ``own`` on ``device``.

    For every member of ``own``: its metric minus the best metric among the members of ``other`` that are at least as
    fast. Members of ``own`` that are faster than all of ``other`` are counted as unreached.
    """
    column, gaps = LATENCY + device, []
    for member in own:
        scores = [rival.metrics[metric] for rival in other if rival.metrics[column] <= member.metrics[column]]
        if scores:
            gaps.append(member.metrics[metric] - max(scores))
    mean, largest = (float(np.mean(gaps)), max(gaps)) if gaps else (None, None)
    return Loss(mean, largest, len(gaps), len(own) - len(gaps))


def _target(records: Sequence[Record], source: str, device: str, metric: str | None) -> Target:
    both = with_columns(records, LATENCY + source, LATENCY + device)
    tau = _tau(both, source, device)
    if metric is None:
        return Target(device, tau, None, [], [], 0, None)
    # Over the same subnets, so that missing measurements do not look like a bad transfer.
    transferred = _by_latency(pareto_front(both, metric, source), device)
    own = pareto_front(both, metric, device)
    measured = {record.key for record in both}
    absent = sum(record.key not in measured for record in pareto_front(records, metric, source))
    front_tau = _tau(transferred, source, device) if len(transferred) >= FEWEST else None
    loss = loss_at_equal_latency(own, transferred, metric, device)
    return Target(device, tau, front_tau, transferred, own, absent, loss)


def _tau(records: Sequence[Record], source: str, device: str) -> RankingQuality:
    resamples = RESAMPLES if len(records) <= MANY else RESAMPLES_OF_MANY
    first, second = (_column(records, LATENCY + name).tolist() for name in (source, device))
    return kendall(first, second, resamples=resamples)


def _taus(records: Sequence[Record], devices: Sequence[str]) -> list[list[float | None]]:
    columns = [_column(records, LATENCY + device) for device in devices]
    taus: list[list[float | None]] = [[1.0] * len(devices) for _ in devices]
    for row, first in enumerate(columns):
        for column, second in enumerate(columns[:row]):
            taus[row][column] = taus[column][row] = _plain_tau(first, second)
    return taus


def _plain_tau(first: Floats, second: Floats) -> float | None:
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < FEWEST:
        return None
    return kendall_tau(first[both], second[both])


def _column(records: Sequence[Record], column: str) -> Floats:
    return np.array([record.metrics.get(column, np.nan) for record in records], dtype=np.float64)


def _by_latency(records: Sequence[Record], device: str) -> list[Record]:
    return sorted(records, key=lambda record: (record.metrics[LATENCY + device], record.key))


def _plain(value: RankingQuality | Loss | None) -> dict[str, Any] | None:
    return None if value is None else asdict(value)
