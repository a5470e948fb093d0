"""The device service: an actor that hands networks to whichever device of a kind is free and fit.

It is on the driver's node, outlives evaluators and devices, and holds no network itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray

from manynet.devices.actor import Description
from manynet.devices.drift import DriftRules
from manynet.devices.errors import DeviceError, DeviceLostError, MeasurementError
from manynet.devices.exported import DeviceMetrics
from manynet.devices.journal import Journal, Status
from manynet.devices.lease import Lease
from manynet.devices.measurement import Measurement
from manynet.devices.name import DeviceName
from manynet.devices.placement import Place, places
from manynet.devices.station import ActorDiedError, Inputs, Station
from manynet.errors import typed_line
from manynet.telemetry.periodic import Periodic

MOST_DEATHS = 2
LOOK_SECONDS = 10.0
JOURNAL_SECONDS = 2.0
POLL_SECONDS = 0.5


@dataclass
class MeasurementRequest:
    """A network that waits to be measured."""

    inputs: Inputs
    answer: asyncio.Future[Measurement]
    deaths: int = 0


class Line:
    """Jobs in the order they came; one that was given back is the next."""

    def __init__(self) -> None:
        self._jobs: deque[MeasurementRequest] = deque()
        self._arrived = asyncio.Condition()

    async def put(self, job: MeasurementRequest, first: bool = False) -> None:
        async with self._arrived:
            (self._jobs.appendleft if first else self._jobs.append)(job)
            self._arrived.notify()

    async def take(self) -> MeasurementRequest:
        async with self._arrived:
            await self._arrived.wait_for(lambda: self._jobs)
            return self._jobs.popleft()

    def __len__(self) -> int:
        return len(self._jobs)

    def refuse(self, error: Exception) -> None:
        """Answer all that wait with ``error``."""
        while self._jobs:
            self._jobs.popleft().answer.set_exception(error)


@dataclass
class Kind:
    """All stations of one device name, and the networks that wait for any of them."""

    name: DeviceName
    line: Line = field(default_factory=Line)
    stations: list[Station] = field(default_factory=list)
    first: float | None = None

    @property
    def lost(self) -> DeviceLostError | None:
        """What to tell where no station is left."""
        if any(station.state != "lost" for station in self.stations):
            return None
        reasons = "; ".join(dict.fromkeys(station.status.why for station in self.stations))
        return DeviceLostError(f"device {self.name} must be served, but its actors are lost: {reasons}")

    def alone(self, station: Station) -> bool:
        """Whether no other station is in service."""
        return all(other is station or other.state != "in service" for other in self.stations)


class ServicePlan(NamedTuple):
    """What a service is made for.

    Attributes:
        names: of the devices.
        home: id of the driver's node.
        cores: kept for measurements on every host that measures; 0 is none.
        journal: address of the file that says how the devices are, or None.
        rules: of drift.
    """

    names: Sequence[DeviceName]
    home: str
    cores: int
    journal: str | None
    rules: DriftRules


class DeviceService:
    """An asynchronous actor: each station of each name works in a task of its own, on jobs of one line.

    A station that dies gives its job back, so that another of its kind takes it, and is started again; so does one
    whose reference subnet has drifted, until it is near its first time again. Nodes that come to offer a name later
    are taken in.
    """

    def __init__(self, plan: ServicePlan) -> None:
        self._plan = plan
        self._written = Journal() if plan.journal is None else Journal.read(plan.journal)
        before = self._written.references
        # Of services before this one, what they did stays on record.
        self._earlier = [status.ended for status in self._written.devices if status.measured or status.deaths]
        self._kinds = {str(name): Kind(name, first=before.get(str(name))) for name in plan.names}
        self._reference: Inputs | None = None
        self._exported = DeviceMetrics()
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: Periodic | None = None

    def __repr__(self) -> str:
        return f"Devices({', '.join(self._kinds)})"

    @ray.method
    async def start(self) -> dict[str, Description]:
        """Start the actors of every name; one that is up describes its name.

        Raises:
            DeviceError: for a name that nobody serves.
        """
        described = await asyncio.gather(*map(self._begin, self._kinds.values()))
        self._spawn(self._look_for_more())
        self._telling = Periodic(self._tell)
        return dict(zip(self._kinds, described, strict=True))

    @ray.method
    async def refer(self, inputs: Inputs) -> None:
        """Hold all devices to the times of this subnet from now on."""
        self._reference = inputs

    @ray.method
    async def measure(self, name: str, inputs: Inputs) -> Measurement:
        """Measure a network on any device of ``name``.

        Raises:
            MeasurementError: if it cannot be measured, or died twice with the process that tried.
            DeviceLostError: if no device of the name is left.
        """
        kind = self._kinds[name]
        if kind.lost:
            raise kind.lost
        job = MeasurementRequest(inputs, asyncio.get_running_loop().create_future())
        await kind.line.put(job)
        return await job.answer

    @ray.method
    async def statuses(self) -> list[Status]:
        """Of all stations."""
        return self._statuses()

    def _statuses(self) -> list[Status]:
        return [station.status for kind in self._kinds.values() for station in kind.stations]

    @ray.method
    async def close(self) -> None:
        """End all actors, and write the journal a last time."""
        for task in self._tasks:
            task.cancel()
        for kind in self._kinds.values():
            for station in kind.stations:
                station.close()
        if self._telling is not None:
            await self._telling.end()
        await self._write_journal(ended=True)

    async def _begin(self, kind: Kind) -> Description:
        found = await asyncio.to_thread(places, kind.name, self._plan.home)
        kind.stations = [self._station(kind, place) for place in found]
        results = await asyncio.gather(
            *(station.start() for station in kind.stations), return_exceptions=True
        )
        for station, result in zip(kind.stations, results, strict=True):
            if isinstance(result, BaseException):
                station.lose(str(result))
            else:
                self._spawn(self._work(kind, station))
        up = [result for result in results if not isinstance(result, BaseException)]
        if not up:
            raise next(result for result in results if isinstance(result, BaseException))
        return up[0]

    def _station(self, kind: Kind, place: Place) -> Station:
        return Station(kind.name, place, Lease(), self._plan.cores, self._plan.rules)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, kind: Kind, station: Station) -> None:
        """Do jobs until the station is lost."""
        try:
            while True:
                try:
                    job = await kind.line.take()
                    if self._reference is not None and station.drift.due(time.monotonic()):
                        # Another may be free to take it meanwhile.
                        await kind.line.put(job, first=True)
                        await self._until_fit(kind, station, self._reference)
                        job = await kind.line.take()
                    await self._do(kind, station, job)
                except ActorDiedError:
                    await station.revive()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody must wait for this station
            station.lose(str(error) if isinstance(error, DeviceError) else typed_line(error))
            if kind.lost:
                kind.line.refuse(kind.lost)

    async def _until_fit(self, kind: Kind, station: Station, reference: Inputs) -> None:
        await self._check(kind, station, reference)
        while not station.judge(kind.alone(station)):
            await asyncio.sleep(POLL_SECONDS)
            if station.drift.due(time.monotonic()):
                await self._check(kind, station, reference)

    async def _check(self, kind: Kind, station: Station, reference: Inputs) -> None:
        # Of all of a kind the first to measure it sets the time: others than it are held to are no longer comparable.
        station.drift.first = kind.first
        await station.check(reference)
        # Another may have been quicker; this one is held to its time from the next check on.
        kind.first = station.drift.first = station.drift.first if kind.first is None else kind.first

    async def _do(self, kind: Kind, station: Station, job: MeasurementRequest) -> None:
        try:
            job.answer.set_result(await station.measure(job.inputs))
        except MeasurementError as error:
            job.answer.set_exception(error)
        except ActorDiedError:
            job.deaths += 1
            if job.deaths < MOST_DEATHS:
                await kind.line.put(job, first=True)
            else:
                rule = f"device {kind.name} must answer, but its process died twice on the same request"
                job.answer.set_exception(MeasurementError(rule))
            raise
        except Exception as error:
            job.answer.set_exception(MeasurementError(f"{kind.name} could not measure: {typed_line(error)}"))
            raise

    async def _look_for_more(self) -> None:
        """Take in nodes that come to offer a name."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for kind in self._kinds.values():
                known = {station.place.node for station in kind.stations}
                with suppress(DeviceError):  # nobody offers it now
                    for place in await asyncio.to_thread(places, kind.name, self._plan.home):
                        if place.node not in known:
                            self._spawn(self._join(kind, self._station(kind, place)))

    async def _join(self, kind: Kind, station: Station) -> None:
        kind.stations.append(station)
        try:
            await station.start()
        except DeviceError as error:
            station.lose(str(error))
        else:
            await self._work(kind, station)

    async def _tell(self) -> float:
        waiting = {name: len(kind.line) for name, kind in self._kinds.items()}
        self._exported.show(waiting, self._statuses())
        await self._write_journal()
        return JOURNAL_SECONDS

    async def _write_journal(self, ended: bool = False) -> None:
        """Write the journal where it is new; never twice at a time, or the older could be written last."""
        if self._plan.journal is None:
            return
        references = {name: kind.first for name, kind in self._kinds.items() if kind.first is not None}
        now = [status.ended if ended else status for status in self._statuses()]
        journal = Journal([*self._earlier, *now], {**self._written.references, **references})
        if journal != self._written:
            await asyncio.to_thread(journal.write, self._plan.journal)
            self._written = journal
