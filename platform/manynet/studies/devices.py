"""Opens and checks the devices of a study's search, finalists and transfer; reads their state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from manynet.config.settings import SearchSettings
from manynet.devices import DeviceName, DevicePool, Measurement, MeasurementError
from manynet.devices.journal import Journal, Status
from manynet.errors import ManynetError
from manynet.latency import sources
from manynet.latency.sources import Latencies
from manynet.records.conditions import LATENCY, Condition
from manynet.records.ledger import Record
from manynet.runtime.ray_session import connect
from manynet.space.evaluation import Inputs
from manynet.space.search_space import Architecture, SearchSpace
from manynet.space.subnet import Subnet, extract
from manynet.storage import exists, join
from manynet.studies.transfer.measuring import Measure

logger = logging.getLogger(__name__)
FILE = "devices.json"
"""How the devices of a study are; see :mod:`manynet.devices.journal`."""


class DevicesError(ManynetError):
    """A study has no record of its devices, or they are too slow for its limits."""


def check(
    space: SearchSpace, asked: Sequence[str], settings: SearchSettings, folder: str | None = None
) -> None:
    """Connect to Ray and refuse devices that a search could not use, before anything expensive starts.

    Raises:
        ClusterError, NodesError: as :func:`manynet.runtime.ray_session.connect` with the study's ``folder``.
        DeviceError, LatencyTableError: as :func:`manynet.latency.sources.check`.
    """
    connect(asked, folder)
    sources.check(space, [DeviceName.parse_canonical(name) for name in asked], settings)


@contextmanager
def opened(
    space: SearchSpace,
    asked: Sequence[str],
    settings: SearchSettings,
    folder: str,
    records: Iterable[Record],
    devices: Callable[[Sequence[DeviceName]], list[str]] = sources.measuring,
) -> Iterator[Latencies]:
    """Open the devices of a search; yields the source of its latencies.

    Args:
        space: of the subnets.
        asked: names of the latencies.
        settings: of the search.
        folder: of the study.
        records: evaluations there are already, which predictors learn from.
        devices: which of the names need a device that measures.
    """
    connect(asked)
    names = [DeviceName.parse_canonical(name) for name in asked]
    with _referred(space, devices(names), settings.isolate, join(folder, FILE)) as pool:
        tables = sources.tables(names, settings)
        forecasters = sources.forecasters(space, names, settings, records)
        yield Latencies(space, names, pool, tables, forecasters)


@contextmanager
def measuring(space: SearchSpace, network: nn.Module, asked: Sequence[str]) -> Iterator[Measure]:
    """Measurement function for subnets of a trained supernet on these devices."""
    check(space, asked, SearchSettings())
    with _referred(space, asked) as pool:

        def measure(arch: Architecture, names: Sequence[str]) -> dict[str, Measurement]:
            example = space.example(arch, batch=1)
            # Extracting is work: under the lease, no measurement on this host meets it.
            with pool.lease():
                subnet = extract(network, arch, example, share=True)
            return pool.measure(subnet, example, names)

        yield measure


def check_limits(latency: Latencies, conditions: Iterable[Condition]) -> None:
    """Refuse a limit on latency that even the smallest subnet does not keep, by measuring it.

    Raises:
        DevicesError: for the first such limit.
    """
    limits = [c for c in conditions if c.column.startswith(LATENCY) and c.operator in ("<", "<=")]
    if not limits:
        return
    try:
        measured = latency.measured(*_untrained(latency.space, latency.space.smallest))
    except MeasurementError as error:
        # Others may be measured all the same: a tool need not know every operator.
        logger.warning(
            "limits on latency are not checked, because the smallest subnet was not measured: %s", error
        )
        return
    for limit in limits:
        reached = measured[limit.column.removeprefix(LATENCY)].milliseconds
        if reached > limit.bound:
            raise DevicesError(f"{limit} cannot be met: the smallest subnet takes {reached:.3g} ms")


def told(folder: str | Path) -> Sequence[Status]:
    """State of the devices of a study's search: the current one, or that at its end.

    Raises:
        DevicesError: when the folder has no record of them.
    """
    address = join(folder, FILE)
    if not exists(address):
        raise DevicesError(f"a study that measured latency must hold {FILE}, but {str(folder)!r} holds none")
    return Journal.read(address).devices


@contextmanager
def _referred(
    space: SearchSpace, names: Sequence[str], isolate: bool = False, journal: str | None = None
) -> Iterator[DevicePool]:
    """A pool of devices with a reference subnet of the space, always the same."""
    with DevicePool(names, isolate=isolate, journal=journal) as pool:
        if pool.names:
            pool.refer(*_untrained(space, space.sample(seed=0)))
        yield pool


def _untrained(space: SearchSpace, arch: Architecture) -> tuple[Subnet, Inputs]:
    """A subnet with random weights, which take as long as any, and its example input."""
    example = space.example(arch, batch=1)
    return extract(space.build().eval(), arch, example), example
