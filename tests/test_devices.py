"""Devices: names, timing, the lease of a host, tools, and pools on real Ray."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray
import torch
from torch import Tensor, nn

from manynet.devices import (
    DeviceError,
    DeviceName,
    DevicePool,
    Lease,
    Measurement,
    MeasurementError,
    list_devices,
    resources,
)
from manynet.devices.actor import DeviceActor
from manynet.devices.timing import calmest, summarise, time_run
from manynet.devices.tools import tool_of


class Net(nn.Module):
    """A dense input and an integer one, so that casts to bf16 must tell them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 16)
        self.layer = nn.Linear(16, 16)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return torch.relu(self.norm(self.layer(x + self.embedding(ids))))


EXAMPLE = (torch.ones(1, 16), torch.tensor([3]))


class Branch(nn.Module):
    """Branches on values: fine for eager torch, impossible to export."""

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return x if float(x.sum()) > float(ids.sum()) else -x


class Killer(nn.Module):
    """Ends the process that runs it in float32, ``times`` times in all."""

    def __init__(self, marks: Path, times: int) -> None:
        super().__init__()
        self.marks = marks
        self.times = times

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        died = len(list(self.marks.iterdir()))
        if x.dtype == torch.float32 and died < self.times:
            (self.marks / str(died)).touch()
            os._exit(1)
        return x


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A device owns its process and sets its threads; here it shares the tests' process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("host/torch", "host/torch"),
        ("host/torch?batch=1&threads=1&precision=float32", "host/torch"),
        ("host/torch?precision=bf16&threads=2&batch=8", "host/torch?batch=8&threads=2&precision=bf16"),
        ("pi-5.a/onnxruntime?threads=4", "pi-5.a/onnxruntime?threads=4"),
        ("host/torch?source=predicted&batch=8", "host/torch?batch=8&source=predicted"),
    ],
)
def test_name_is_canonical(text: str, canonical: str) -> None:
    name = DeviceName.parse(text)
    assert str(name) == canonical
    assert DeviceName.parse(str(name)) == name
    assert name.column == f"latency@{canonical}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("host", "must be spelled"),
        ("host/torch,batch=8", "must be spelled"),
        ("host/torch?", "must be spelled"),
        ("host/torch/x", "must be spelled"),
        ("host/torch?size=8", "must be batch, threads, precision or source, but got 'size'"),
        ("host/torch?batch=8&batch=8", "given once"),
        ("host/torch?batch=0", "batch must be a positive whole number, but got '0'"),
        ("host/torch?threads=two", "threads must be a positive whole number, but got 'two'"),
        ("host/torch?threads=2,batch=2", "threads must be a positive whole number, but got '2,batch=2'"),
        ("host/torch?precision=int4", "precision must be one of float32, bf16, but got 'int4'"),
        ("host/torch?source=guessed", "source must be one of measured, predicted, table, but got 'guessed'"),
    ],
)
def test_wrong_name_is_one_clear_line(text: str, said: str) -> None:
    with pytest.raises(DeviceError) as caught:
        DeviceName.parse(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_resources_offer_only_what_this_host_has() -> None:
    names = ["host/torch?batch=8", "host/torch", "pixel/onnxruntime"]
    assert resources(names) == {"device:host/torch": 1.0}


# ---------------------------------------------------------------- timing


def test_summary_is_median_and_relative_interquartile_range() -> None:
    timing = summarise([0.001, 0.002, 0.003, 0.004, 0.005])
    assert timing.milliseconds == pytest.approx(3.0)
    assert timing.spread == pytest.approx(2 / 3)
    assert timing.count == 5
    assert not timing.steady


def test_wide_spread_is_told_not_hidden() -> None:
    pauses = iter([0.0005, 0.005] * 100_000)
    timing = time_run(lambda: time.sleep(next(pauses)))
    assert not timing.steady
    assert timing.spread > 0.05


def test_what_the_rest_of_a_machine_adds_for_a_while_is_left_out() -> None:
    start = time.perf_counter()

    def take() -> float:
        # Seven tenths of the time something else slows it down, for a quarter of a second on end.
        disturbed = (time.perf_counter() - start) % 0.357 < 0.25
        time.sleep(1e-4)
        return 0.0145 if disturbed else 0.01 + 1e-5 * random.random()

    timing = calmest(take)
    assert timing.milliseconds == pytest.approx(10, rel=0.01)
    assert timing.steady


def test_a_slow_run_is_timed_a_few_times() -> None:
    timing = time_run(lambda: time.sleep(0.3))
    assert 3 <= timing.count <= 5
    assert timing.milliseconds == pytest.approx(300, rel=0.1)


def test_run_faster_than_the_clock_is_timed_in_groups() -> None:
    runs: list[None] = []
    timing = time_run(lambda: runs.append(None))
    assert 0 < timing.milliseconds < 1
    assert len(runs) > 10 * timing.count


# ---------------------------------------------------------------- the lease


def note(log: Path, event: str) -> None:
    """Append one line in one write, so that lines of several processes keep the order of events."""
    with log.open("ab", buffering=0) as stream:
        stream.write(f"{event}\n".encode())


def assert_excluded(events: list[str]) -> None:
    """No shared holder and no second exclusive one while an exclusive one is inside."""
    inside = {"shared": 0, "exclusive": 0}
    for event in events:
        kind, way = event.split()
        inside[kind] += 1 if way == "in" else -1
        assert inside["exclusive"] <= 1, events
        assert not (inside["exclusive"] and inside["shared"]), events


def hold(lease: Lease, kind: str, log: Path, seconds: float) -> None:
    with getattr(lease, kind)():
        note(log, f"{kind} in")
        time.sleep(seconds)
        note(log, f"{kind} out")


def hammer(lease: Lease, log: Path, stop: Path) -> None:
    while not stop.exists():
        hold(lease, "shared", log, 0.004)


def assert_turnstile(lease: Lease, log: Path) -> None:
    for _ in range(5):
        hold(lease, "exclusive", log, 0.002)
    events = log.read_text().splitlines()
    assert_excluded(events)
    assert events.count("exclusive in") == 5


def test_exclusive_gets_through_a_crowd_of_threads(tmp_path: Path) -> None:
    lease, log, stop = Lease(tmp_path, wait_seconds=10), tmp_path / "log", tmp_path / "stop"
    with ThreadPoolExecutor(6) as threads:
        crowd = [threads.submit(hammer, lease, log, stop) for _ in range(6)]
        try:
            assert_turnstile(lease, log)
        finally:
            stop.touch()
        for member in crowd:
            member.result()
    assert log.read_text().splitlines().count("shared in") >= 6


@pytest.mark.usefixtures("ray_cluster")
def test_exclusive_gets_through_a_crowd_of_processes(tmp_path: Path) -> None:
    lease, log, stop = Lease(tmp_path, wait_seconds=10), tmp_path / "log", tmp_path / "stop"
    crowd = [ray.remote(num_cpus=0)(hammer).remote(lease, log, stop) for _ in range(2)]
    try:
        while not (log.exists() and "shared in" in log.read_text()):
            time.sleep(0.01)
        assert_turnstile(lease, log)
    finally:
        stop.touch()
    ray.get(crowd)


def test_measurements_take_turns(tmp_path: Path) -> None:
    lease, log = Lease(tmp_path), tmp_path / "log"
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(hold, lease, "exclusive", log, 0.002) for _ in range(8)]:
            done.result()
    assert_excluded(log.read_text().splitlines())


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process inside the shared lease of ``tmp_path``."""
    text = (
        "import sys, time, pathlib; from manynet.devices.lease import Lease\n"
        "with Lease(pathlib.Path(sys.argv[1])).shared(): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", text, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_killed_holder_blocks_nobody(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="must give up the host within 0.05 s"):
        hold(Lease(tmp_path, wait_seconds=0.05), "exclusive", tmp_path / "log", 0)
    assert not (tmp_path / "log").exists()

    os.kill(holder.pid, signal.SIGKILL)
    hold(Lease(tmp_path), "exclusive", tmp_path / "log", 0)
    hold(Lease(tmp_path), "shared", tmp_path / "log", 0)


def test_error_inside_gives_the_lease_back(tmp_path: Path) -> None:
    for kind in ("shared", "exclusive"):
        with pytest.raises(KeyError), getattr(Lease(tmp_path), kind)():
            raise KeyError
    hold(Lease(tmp_path), "exclusive", tmp_path / "log", 0)


def test_measurement_waits_for_evaluators(tmp_path: Path) -> None:
    actor = DeviceActor(DeviceName.parse("host/torch"), Lease(tmp_path, wait_seconds=0.05))
    with Lease(tmp_path).shared(), pytest.raises(MeasurementError, match="give up the host"):
        actor.measure(Net(), EXAMPLE)
    assert actor.measure(Net(), EXAMPLE).milliseconds > 0


# ---------------------------------------------------------------- tools


@pytest.mark.parametrize("text", ["host/torch?batch=4", "host/torch?batch=4&precision=bf16"])
def test_torch_runs_the_whole_batch_in_its_precision(text: str) -> None:
    seen: list[tuple[torch.Size, torch.dtype]] = []
    net = Net()
    net.norm.register_forward_hook(lambda *call: seen.append((call[2].shape, call[2].dtype)))
    name = DeviceName.parse(text)
    run = tool_of(name).prepare(net, EXAMPLE, name)
    run()
    dtype = torch.bfloat16 if "bf16" in text else torch.float32
    assert set(seen) == {(torch.Size([4, 16]), dtype)}
    assert net.training, "the caller's network must stay as it is"
    assert net.layer.weight.dtype == torch.float32


def test_tool_refuses_what_it_cannot_do() -> None:
    with pytest.raises(DeviceError, match="host/onnxruntime must be one of float32, but got 'bf16'"):
        tool_of(DeviceName.parse("host/onnxruntime?precision=bf16"))
    for name in ("gpu/torch", "cuda/onnxruntime", "cuda/torch.compile", "cuda/openvino"):
        with pytest.raises(DeviceError, match=f"measures on processors .*, but got '{name}'"):
            tool_of(DeviceName.parse(name))
    with pytest.raises(
        DeviceError, match="must be one of torch, .*, openvino, command or module:name, but got 'tflite'"
    ):
        tool_of(DeviceName.parse("host/tflite"))


def test_example_must_have_batch_one() -> None:
    name = DeviceName.parse("host/torch")
    with pytest.raises(ValueError, match="must have batch 1, but got shape"):
        tool_of(name).prepare(Net(), (torch.ones(2, 16), torch.tensor([3])), name)


def test_onnxruntime_measures_what_it_can_export(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    actor = DeviceActor(DeviceName.parse("host/onnxruntime?batch=2"), Lease(tmp_path))
    measurement = actor.measure(Net(), EXAMPLE)
    assert (measurement.tool, measurement.batch) == ("onnxruntime", 2)
    assert measurement.milliseconds > 0
    with pytest.raises(MeasurementError, match="host/onnxruntime.* could not measure") as caught:
        actor.measure(Branch(), EXAMPLE)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- pools


@pytest.fixture(scope="module")
def pool(ray_cluster: None) -> Iterator[DevicePool]:
    with DevicePool(["host/torch", "host/torch?precision=bf16&batch=4"]) as made:
        yield made


def test_empty_pool_measures_nothing() -> None:
    pool = DevicePool([])
    assert pool.measure(Net(), EXAMPLE) == {}
    assert isinstance(pool.lease(), nullcontext)
    pool.close()


def test_pool_measures_every_name(pool: DevicePool) -> None:
    measured = pool.measure(Net(), EXAMPLE)
    assert tuple(measured) == pool.names == ("host/torch", "host/torch?batch=4&precision=bf16")
    for name, measurement in measured.items():
        parsed = DeviceName.parse(name)
        assert measurement.device == name
        assert (measurement.batch, measurement.precision) == (parsed.batch, parsed.precision)
        assert measurement.milliseconds > 0
        assert measurement.spread >= 0
        assert measurement.source == "measured"
        assert torch.__version__ in measurement.fingerprint
        assert "cores, frequency " in measurement.fingerprint
        assert Measurement.from_dict(json.loads(json.dumps(measurement.to_dict()))) == measurement


def test_measurement_with_other_fields_is_refused() -> None:
    with pytest.raises(DeviceError, match="must have the fields .* but got"):
        Measurement.from_dict({"device": "host/torch"})


def test_pool_works_from_several_tasks(pool: DevicePool) -> None:
    def evaluate(pool: DevicePool) -> int:
        with pool.lease():
            pass
        return len(pool.measure(Net(), EXAMPLE))

    assert ray.get([ray.remote(num_cpus=0)(evaluate).remote(pool) for _ in range(2)]) == [2, 2]


def test_dead_device_is_restarted_and_tries_once_more(pool: DevicePool, tmp_path: Path) -> None:
    assert tuple(pool.measure(Killer(tmp_path, times=1), EXAMPLE)) == pool.names
    assert len(list(tmp_path.iterdir())) == 1


def test_net_that_kills_its_device_twice_is_an_error(pool: DevicePool, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="device host/torch must answer, but its process died twice"):
        pool.measure(Killer(tmp_path, times=2), EXAMPLE)
    assert len(list(tmp_path.iterdir())) == 2
    assert tuple(pool.measure(Net(), EXAMPLE)) == pool.names, "the next network is measured"


def test_net_that_cannot_run_names_device_and_cause(pool: DevicePool) -> None:
    with pytest.raises(
        MeasurementError, match="host/torch could not measure the network: RuntimeError"
    ) as caught:
        pool.measure(nn.Bilinear(3, 3, 3), EXAMPLE)
    assert "\n" not in str(caught.value)


def test_a_device_measures_and_does_nothing_else() -> None:
    with pytest.raises(DeviceError, match="a device measures, but got source=predicted in 'host/torch"):
        DevicePool(["host/torch?source=predicted"])


@pytest.mark.usefixtures("ray_cluster")
def test_unknown_device_says_what_can_be_had() -> None:
    with pytest.raises(DeviceError, match="one of cuda/torch, .*host/torch.*, but got 'pixel/torch'"):
        DevicePool(["host/torch", "pixel/torch"])


@pytest.mark.usefixtures("ray_cluster")
def test_listing_tells_what_is_here() -> None:
    listed = {entry.name: entry for entry in list_devices()}
    assert listed["host/torch"].status == "ready"
    assert torch.__version__ in listed["host/torch"].detail
    assert "host/onnxruntime" in listed
