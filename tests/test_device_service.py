"""The device service: drift, several nodes of a kind, what dies, cores kept, and what a study tells of it all."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor, nn

from manynet.devices import DeviceError, DevicePool, running
from manynet.devices.actor import Description
from manynet.devices.cores import beside, kept
from manynet.devices.drift import Drift, DriftRules
from manynet.devices.journal import Journal
from manynet.devices.lease import Lease
from manynet.devices.name import DeviceName
from manynet.devices.placement import Place
from manynet.devices.service import DeviceService, Kind, ServicePlan
from manynet.devices.station import Inputs, Station

EXAMPLE = (torch.ones(1, 16),)
RULES = DriftRules()


class Sleeper(nn.Module):
    """Takes as many milliseconds as a file says."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(float(self.file.read_text()) / 1e3)
        return x


class Branching(nn.Module):
    """Branches on values, which no export can."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


# ---------------------------------------------------------------- drift


def test_the_first_time_is_what_later_ones_are_held_against() -> None:
    drift = Drift(RULES)
    assert drift.due(0.0)
    drift.note(2.0, at=0.0)
    assert drift.fit and drift.now == 0
    assert not drift.due(RULES.interval_seconds - 1)
    assert drift.due(RULES.interval_seconds)
    drift.note(2.3, at=60.0)
    assert drift.fit
    assert drift.now == pytest.approx(0.15)


@pytest.mark.parametrize("milliseconds", [2.6, 1.5])
def test_a_drifted_device_is_set_aside_until_it_is_back(milliseconds: float) -> None:
    drift = Drift()
    drift.note(2.0, at=0.0)
    drift.note(milliseconds, at=100.0)
    assert not drift.fit
    assert drift.aside(at=1000.0, alone=False)
    assert drift.due(100 + RULES.again_seconds)
    assert str(drift) == f"the reference subnet takes {milliseconds:.3g} ms, and took 2 ms"
    drift.note(2.1, at=1001.0)
    assert not drift.aside(at=1001.0, alone=False)


def test_the_only_device_of_a_kind_goes_on_in_spite_of_drift_after_a_while() -> None:
    drift = Drift()
    drift.note(2.0, at=0.0)
    drift.note(3.0, at=100.0)
    drift.note(3.1, at=110.0)
    assert drift.aside(at=100.0 + RULES.patience_seconds - 1, alone=True)
    assert not drift.aside(at=100.0 + RULES.patience_seconds, alone=True)
    assert drift.aside(at=100.0 + RULES.patience_seconds, alone=False)
    assert drift.now == pytest.approx(0.55)


@pytest.mark.usefixtures("ray_cluster")
def test_drift_is_noticed_told_and_forgiven(tmp_path: Path) -> None:
    # Long enough that what else the machine does is little beside it.
    clock, journal = tmp_path / "clock", tmp_path / "devices.json"
    clock.write_text("20")
    rules = DriftRules(interval_seconds=0, again_seconds=0.2, patience_seconds=1)
    with DevicePool(["host/torch"], journal=str(journal), drift=rules) as pool:
        pool.refer(Sleeper(clock), EXAMPLE)
        first = pool.measure(nn.Identity(), EXAMPLE)["host/torch"]
        assert abs(first.drift) < rules.tolerance

        clock.write_text("40")
        start = time.monotonic()
        alone = pool.measure(nn.Identity(), EXAMPLE)["host/torch"]
        assert time.monotonic() - start >= rules.patience_seconds, "it was set aside first"
        assert 0.5 < alone.drift < 1.5
        (status,) = pool.statuses()
        assert status.why.startswith("the reference subnet takes 40")

        clock.write_text("20")
        assert abs(pool.measure(nn.Identity(), EXAMPLE)["host/torch"].drift) < rules.tolerance
        (status,) = pool.statuses()
        assert (status.state, status.why, status.measured) == ("in service", "", 3)
        assert running() == [status]
    (entry,) = json.loads(journal.read_text())["devices"]
    assert (entry["state"], entry["measured"]) == ("ended", 3)

    # A later run holds its devices to the same time.
    clock.write_text("10")
    with DevicePool(["host/torch"], journal=str(journal), drift=rules) as pool:
        pool.refer(Sleeper(clock), EXAMPLE)
        assert pool.measure(nn.Identity(), EXAMPLE)["host/torch"].drift < -0.3
    before, after = json.loads(journal.read_text())["devices"]
    assert before == entry
    assert after["measured"] == 1


@pytest.mark.usefixtures("ray_cluster")
def test_a_reference_that_a_tool_cannot_convert_leaves_its_device_unwatched() -> None:
    pytest.importorskip("onnxruntime")
    with DevicePool(["host/onnxruntime"]) as pool:
        pool.refer(Branching(), EXAMPLE)
        assert pool.measure(nn.Linear(16, 4), EXAMPLE)["host/onnxruntime"].milliseconds > 0
        (status,) = pool.statuses()
        assert (status.state, status.measured) == ("in service", 1)
        assert status.why.startswith("not watched for drift: host/onnxruntime could not measure")


@pytest.mark.usefixtures("ray_cluster")
def test_a_reference_that_fails_once_is_measured_again(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("4")
    rules = DriftRules(interval_seconds=0, again_seconds=0, patience_seconds=0)
    with DevicePool(["host/torch"], drift=rules) as pool:

        def told() -> str:
            pool.measure(nn.Identity(), EXAMPLE)
            (status,) = pool.statuses()
            return status.why

        pool.refer(Sleeper(clock), EXAMPLE)
        assert told() == ""
        clock.write_text("no number")
        assert told().startswith("not watched for drift: ")
        clock.write_text("8")
        assert told().startswith("the reference subnet takes 8")


# ---------------------------------------------------------------- order


class Slow(Station):
    """Has no actor; its reference takes so many milliseconds, and as many to tell."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__(DeviceName.parse("host/torch"), Place("node", {}), Lease(), 0, RULES)
        self.milliseconds = milliseconds

    async def check(self, reference: Inputs) -> None:
        await asyncio.sleep(self.milliseconds / 1e3)
        self.drift.note(self.milliseconds, time.monotonic())


class Served(DeviceService):
    """Has one such station for each name."""

    async def _begin(self, kind: Kind) -> Description:
        kind.stations = [Slow(1)]
        return Description("", "", "")


def service(journal: Path | None) -> Served:
    """A service of one device, in this process."""
    return Served(ServicePlan([DeviceName.parse("host/torch")], "node", 0, journal and str(journal), RULES))


def test_a_journal_that_takes_long_to_write_is_not_written_over_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "devices.json"
    begun, may_go_on = threading.Event(), threading.Event()
    write = Journal.write

    def slow(journal: Journal, address: str) -> None:
        if journal.devices[0].state != "ended":
            begun.set()
            assert may_go_on.wait(30)
        write(journal, address)

    monkeypatch.setattr(Journal, "write", slow)

    async def run() -> None:
        one = service(file)
        await one.start()
        assert await asyncio.to_thread(begun.wait, 30)
        closing = asyncio.create_task(one.close())
        await asyncio.wait([closing], timeout=0.5)
        may_go_on.set()
        await closing

    asyncio.run(run())
    assert [device.state for device in Journal.read(str(file)).devices] == ["ended"]


def test_of_devices_that_measure_the_reference_at_once_the_quicker_one_sets_the_time() -> None:
    async def run() -> list[float | None]:
        one, kind = service(None), Kind(DeviceName.parse("host/torch"))
        kind.stations = [Slow(500), Slow(50)]
        await asyncio.gather(*(one._check(kind, station, []) for station in kind.stations))
        return [kind.first, *(station.drift.first for station in kind.stations)]

    assert asyncio.run(run()) == [50, 50, 50]


# ---------------------------------------------------------------- cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_cores_are_kept_and_the_rest_is_for_evaluators() -> None:
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("needs two cores")
    try:
        with beside(1):
            assert os.sched_getaffinity(0) == before - kept(1)
            assert torch.ones(8).sum() == 8
        assert len(kept(1)) == 1
    finally:
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), before)
    with pytest.raises(DeviceError, match=f"must leave one for evaluators, but got {len(before)} of"):
        kept(len(before))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.usefixtures("ray_cluster")
def test_an_isolated_device_measures_on_cores_that_evaluators_leave() -> None:
    class Where(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if os.sched_getaffinity(0) != kept(1):
                raise RuntimeError(f"runs on {os.sched_getaffinity(0)}")
            return x

    @ray.remote(num_cpus=0)
    def evaluate(pool: DevicePool) -> tuple[set[int], set[int]]:
        with pool.lease():
            return os.sched_getaffinity(0), kept(1)

    with DevicePool(["host/torch"], isolate=True) as pool:
        assert pool.measure(Where(), EXAMPLE)["host/torch"].milliseconds > 0
        mine, others = ray.get(evaluate.remote(pool))
        assert mine and not mine & others


@pytest.mark.usefixtures("ray_cluster")
def test_isolation_that_leaves_evaluators_no_core_is_refused() -> None:
    threads = len(os.sched_getaffinity(0))
    with pytest.raises(DeviceError, match=f"must leave one for evaluators, but got {threads} of {threads}"):
        DevicePool([f"host/torch?threads={threads}"], isolate=True)


# ---------------------------------------------------------------- what dies


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_device_is_started_again_and_no_network_is_lost(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("100")

    @ray.remote(num_cpus=0)
    def measure(pool: DevicePool) -> float:
        return pool.measure(Sleeper(clock), EXAMPLE)["host/torch"].milliseconds

    with DevicePool(["host/torch"]) as pool:
        (status,) = pool.statuses()
        waiting = [measure.remote(pool) for _ in range(3)]
        time.sleep(1)
        os.kill(int(status.actor.split("/")[-1]), signal.SIGKILL)
        assert all(milliseconds >= 100 for milliseconds in ray.get(waiting))
        (after,) = pool.statuses()
        assert (after.state, after.deaths, after.measured) == ("in service", 1, 3)
        assert after.actor != status.actor


@pytest.mark.usefixtures("ray_cluster")
def test_a_device_whose_node_goes_before_it_starts_says_so() -> None:
    gone = NodeAffinitySchedulingStrategy(node_id="ab" * 28, soft=False)
    place = Place("ab" * 28, {"scheduling_strategy": gone})
    station = Station(DeviceName.parse("host/torch"), place, Lease(), 0, RULES)
    with pytest.raises(DeviceError, match="device host/torch must start, but its node is gone"):
        asyncio.run(station.start())


@pytest.mark.slow
def test_search_outlives_a_device_node(tmp_path: Path) -> None:
    """Real raylets: two evaluator nodes, two device nodes of one kind, one killed; another kind on the head."""
    script = Path(__file__).with_name("cluster_search.py")
    command = [sys.executable, str(script), str(tmp_path)]
    outside = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    ran = subprocess.run(command, env=outside, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    records, killed = told["records"], told["killed"]
    assert len(records) == 12
    assert all(
        record["metrics"][f"latency@{kind}"] > 0
        for record in records
        for kind in ("pi/torch", "jetson/torch")
    )
    nodes = Counter(record["actors"]["pi/torch"].split("/")[1] for record in records)
    assert set(nodes) == set(told["kind"]), "both measured"
    assert nodes[killed] <= told["before"]
    states = {(one["device"], one["node"][:8]): one for one in told["live"]}
    assert states["pi/torch", killed]["state"] == "lost"
    assert states["pi/torch", killed]["why"].endswith("its node is gone")
    assert [one["state"] for one in told["live"]].count("in service") == 2
