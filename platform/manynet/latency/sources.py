"""Where each latency of a study comes from, as its name says: a device that measures, a predictor, or a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import ray
from ray.actor import ActorProxy

from manynet.config.settings import SearchSettings
from manynet.devices import DeviceError, DeviceName, DevicePool, Measurement, placement
from manynet.devices.tools import described, tool_of
from manynet.latency.forecaster import Forecaster, Known
from manynet.latency.table import LatencyTable
from manynet.records.ledger import Record
from manynet.space.evaluation import Inputs
from manynet.space.search_space import Architecture, SearchSpace
from manynet.space.subnet import Subnet


@dataclass(frozen=True)
class Latencies:
    """Gives a subnet's latency under each name. Pickles into evaluators.

    Attributes:
        space: of the subnets.
        names: that are asked for.
        pool: measures what is to be measured, or may have to be.
        tables: of the names whose source is a table.
        forecasters: of the names whose source is a prediction.
    """

    space: SearchSpace
    names: Sequence[DeviceName]
    pool: DevicePool
    tables: Mapping[DeviceName, LatencyTable] = field(default_factory=dict)
    forecasters: Mapping[DeviceName, ActorProxy[Forecaster]] = field(default_factory=dict)

    def __call__(self, subnet: Subnet, example: Inputs) -> dict[str, Measurement]:
        """Latency of ``subnet`` under every name; what was measured for a prediction, also as measured.

        Args:
            subnet: called ``subnet(*example)``.
            example: inputs ``(1, ...)``.

        Raises:
            MeasurementError: if a device cannot measure it.
            DeviceLostError: if no device of a name is left.
            LatencyTableError: if a table lacks a part of it.
        """
        costs = self._costs(subnet.arch)
        found = {str(name): self._looked_up(name, subnet.arch) for name in self.tables}
        for name, forecaster in self.forecasters.items():
            forecast = ray.get(forecaster.ask.remote(subnet.arch, costs))
            if forecast is not None:
                found[str(name)] = forecast
        measured = self.pool.measure(subnet, example, self._unknown(found))
        for name, forecaster in self.forecasters.items():
            if str(name.measured) in measured:
                forecaster.tell.remote(subnet.arch, costs, measured[str(name.measured)])
        return {**found, **self._under_all_names(measured)}

    def measured(self, subnet: Subnet, example: Inputs) -> dict[str, Measurement]:
        """Latency under every name that a device serves, measured; what no device serves, from its table.

        Arguments and errors are those of a call.
        """
        found = {str(name): self._looked_up(name, subnet.arch) for name in self.tables}
        return {**found, **self._under_all_names(self.pool.measure(subnet, example))}

    def _unknown(self, found: Iterable[str]) -> list[str]:
        """Names to measure for those not found."""
        left = [name for name in self.names if str(name) not in found]
        return list(dict.fromkeys(str(name.measured) for name in left))

    def _under_all_names(self, measured: Mapping[str, Measurement]) -> dict[str, Measurement]:
        """Measurements, and those again under the names that ask for another source."""
        asked = [name for name in self.names if str(name.measured) in measured]
        again = {str(name): replace(measured[str(name.measured)], device=str(name)) for name in asked}
        return {**measured, **again}

    def _looked_up(self, name: DeviceName, arch: Architecture) -> Measurement:
        table = self.tables[name]
        return Measurement(
            device=str(name),
            fingerprint=table.device,
            tool=table.tool,
            tool_version="",
            batch=name.batch,
            threads=name.threads,
            precision=name.precision,
            milliseconds=table.milliseconds(self.space, arch),
            spread=0.0,
            count=0,
            steady=True,
            source="table",
        )

    def _costs(self, arch: Architecture) -> list[float]:
        reading = self.space.read(arch)
        return [float(reading.macs), float(reading.parameters)]


def check(space: SearchSpace, names: Sequence[DeviceName], settings: SearchSettings) -> None:
    """Refuse names that nothing serves, before anything is trained for them; needs a connection to Ray.

    Raises:
        DeviceError: for a name that is misspelt, that nothing serves, or that lacks its table.
        LatencyTableError: for a table of another space.
    """
    for name in names:
        if name.source != "table":
            _check_served(name)
    for table in tables(names, settings).values():
        table.check(space)


def _check_served(name: DeviceName) -> None:
    home = placement.this_node()
    found = placement.places(name, home)
    tool = tool_of(name.measured)
    if all(place.node == home for place in found):
        described(tool, name.measured)


def measuring(names: Sequence[DeviceName]) -> list[str]:
    """Names of the devices that measure, or may have to."""
    return list(dict.fromkeys(str(name.measured) for name in names if name.source != "table"))


def served(names: Sequence[DeviceName]) -> list[str]:
    """Names of all devices that can measure, also of those whose table is asked for."""
    return [
        *measuring(names),
        *(str(name.measured) for name in names if name.source == "table" and _is_served(name)),
    ]


def tables(names: Sequence[DeviceName], settings: SearchSettings) -> dict[DeviceName, LatencyTable]:
    """The table of each name whose source is one.

    Raises:
        DeviceError: where the settings name none for it, or it asks for another batch than the table's.
        LatencyTableError, StorageError: where it cannot be read.
    """
    wanted = [name for name in names if name.source == "table"]
    for name in wanted:
        if str(name.measured) not in settings.tables:
            named = ", ".join(settings.tables) or "none"
            raise DeviceError(f"search.tables must name the table of {name.measured}, but got {named}")
        if name.batch != 1:
            raise DeviceError(
                f"a table holds the times of one example, but got batch={name.batch} in '{name}'"
            )
    return {name: LatencyTable.read(settings.tables[str(name.measured)]) for name in wanted}


def forecasters(
    space: SearchSpace, names: Sequence[DeviceName], settings: SearchSettings, records: Iterable[Record]
) -> dict[DeviceName, ActorProxy[Forecaster]]:
    """An actor that predicts for each name whose source is a prediction, with all that was measured before."""
    records = list(records)
    return {
        name: ray.remote(Forecaster)
        .options(num_cpus=0)
        .remote(space.domains, settings.prediction_deviation, _known(name, records))
        for name in names
        if name.source == "predicted"
    }


def _known(name: DeviceName, records: Iterable[Record]) -> list[Known]:
    column = name.measured.column
    return [
        Known(
            record.architecture,
            [record.metrics["macs"], record.metrics["parameters"]],
            record.metrics[column],
        )
        for record in records
        if column in record.metrics
    ]


def _is_served(name: DeviceName) -> bool:
    try:
        return bool(placement.places(name.measured, placement.this_node()))
    except DeviceError:
        return False
