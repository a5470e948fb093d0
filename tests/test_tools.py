"""Deployment tools: what each runs, what it refuses, and a user's own command with every way it can go wrong."""

import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import tune
from torch import Tensor, nn

from manynet import data, elastic
from manynet.config.settings import SearchSettings
from manynet.devices import DeviceError, DeviceName, DevicePool, Lease, MeasurementError
from manynet.devices.actor import DeviceActor
from manynet.devices.timing import Timing
from manynet.devices.tools import tool_of
from manynet.devices.tools.base import Tool, repeated
from manynet.devices.tools.boards import VARIABLE, boards
from manynet.devices.tools.onnx_export import exported
from manynet.devices.tools.program import printed_milliseconds
from manynet.records.ledger import Ledger
from manynet.search.runs import search
from manynet.space import tasks
from manynet.space.search_space import SearchSpace, Supernet

EXAMPLE = (torch.rand(1, 16),)

# A board's program as a user would write it: it takes an ONNX file and prints milliseconds on its last line.
BENCH = """
import sys, time
import numpy, onnx, onnxruntime
path, batch, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
onnx.checker.check_model(onnx.load(path))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
feed = {i.name: numpy.ones(i.shape, numpy.float32) for i in session.get_inputs()}
assert all(len(value) == batch for value in feed.values())
print("loaded", path)
session.run(None, feed)
start = time.perf_counter()
for _ in range(20):
    session.run(None, feed)
print((time.perf_counter() - start) / 20 * 1e3)
"""


class Net(nn.Module):
    """Two layers with a normalisation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Bessel(nn.Module):
    """An operator that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Determinant(nn.Module):
    """An operator that ONNX has and OpenVINO does not."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.det(x.reshape(-1, 4, 4))


class Odd(nn.Module):
    """An operator of a user's own that says nothing of the shape it returns."""

    def forward(self, x: Tensor) -> Tensor:
        return odd_operator(x)  # type: ignore[no-any-return]


@torch.library.custom_op("manynet_tests::odd_operator", mutates_args=())
def odd_operator(x: Tensor) -> Tensor:
    return x.clone()


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A device owns its process and sets its threads; here it shares the tests' process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a board ``pi`` whose program is this machine's ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "bench me.py").write_text(BENCH)
    python = shlex.quote(sys.executable)
    command = f"{python} './bench me.py' {{model}} {{batch}} {{threads}}"
    (tmp_path / "devices.yaml").write_text(
        f'pi:\n  command: "{command}"\n  hardware: "a board, ONNX Runtime"\n  timeout_seconds: 60\n  calls: 2\n'
    )
    monkeypatch.setenv(VARIABLE, str(tmp_path / "devices.yaml"))
    return tmp_path


def actor(text: str, folder: Path) -> DeviceActor:
    return DeviceActor(DeviceName.parse(text), Lease(folder))


def refusal(run: Callable[[], object]) -> str:
    """The one line that ``run`` is refused with."""
    with pytest.raises(MeasurementError) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- every tool


class Stopped(Tool):
    """A tool whose clock does not tell a time."""

    def __init__(self, milliseconds: float) -> None:
        self.milliseconds = milliseconds

    def version(self) -> str:
        return "1"

    def prepare(
        self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName
    ) -> Callable[[], Timing]:
        return lambda: Timing(self.milliseconds, 0.0, 3, True)


@pytest.mark.parametrize("milliseconds", [0.0, -1.0, math.nan, math.inf])
def test_a_timing_that_is_no_time_is_refused(milliseconds: float, tmp_path: Path) -> None:
    device = actor("host/torch", tmp_path)
    device.tool = Stopped(milliseconds)
    said = refusal(lambda: device.measure(Net(), EXAMPLE))
    assert said.endswith(f"milliseconds of a run must be more than 0, but got {milliseconds:g}")


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    said = refusal(lambda: exported(Bessel(), EXAMPLE))
    assert "export to ONNX failed" in said
    assert "prims.bessel_j0" in said


def test_devices_lists_every_tool_with_why_one_is_unavailable(declared: Path) -> None:
    settings = {"CXX": "no-such-compiler", "COLUMNS": "500"}
    outside = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, "-c", "from manynet.cli import main; main()", "devices"]
    listed = subprocess.run(
        command, check=False, env={**outside, **settings}, capture_output=True, text=True, timeout=120
    )
    assert listed.returncode == 0, listed.stderr
    rows = {line.split()[1]: line for line in listed.stdout.splitlines() if "/" in line}
    assert "ready" in rows["host/torch"]
    assert "unavailable" in rows["host/torch.compile"]
    assert "a C++ compiler must be installed, but got no no-such-compiler" in rows["host/torch.compile"]
    assert "unavailable" in rows["host/command"]
    assert f"must be declared in the file that {VARIABLE} names, but got pi" in rows["host/command"]
    assert "ready" in rows["pi/command"]
    assert "a board, ONNX Runtime" in rows["pi/command"]
    assert "host/openvino" in rows
    assert ("unavailable" in rows["cuda/torch"]) != torch.cuda.is_available()


# ---------------------------------------------------------------- torch.compile


def test_compiled_network_is_measured_with_its_settings(tmp_path: Path) -> None:
    if reason := tool_of(DeviceName.parse("host/torch.compile")).missing(
        DeviceName.parse("host/torch.compile")
    ):
        pytest.skip(reason)
    net = Net()
    measurement = actor("host/torch.compile?batch=4&precision=bf16", tmp_path).measure(net, EXAMPLE)
    assert (measurement.tool, measurement.batch, measurement.precision) == ("torch.compile", 4, "bf16")
    assert measurement.device == "host/torch.compile?batch=4&precision=bf16"
    assert 0 < measurement.milliseconds < 1000, "compiling takes seconds and is not the network's time"
    assert net.training, "the caller's network must stay as it is"
    assert net.layers[0].weight.dtype == torch.float32


def test_compiled_subnet_gives_the_subnets_outputs(tmp_path: Path) -> None:
    from manynet.devices.tools.torch_compile import TorchCompile, compiled
    from manynet.space.subnet import extract

    if reason := TorchCompile().missing(DeviceName.parse("host/torch.compile")):
        pytest.skip(reason)
    space = choosing_space()
    arch = {"operator": "relu", "width": 8}
    inputs = (torch.rand(1, 1, 8, 8),)
    subnet = extract(space.build().eval(), arch, inputs)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(subnet.eval(), inputs)(*inputs), subnet(*inputs))


def test_compiling_names_the_operator_it_cannot_do(tmp_path: Path) -> None:
    said = refusal(lambda: actor("host/torch.compile", tmp_path).measure(Odd(), EXAMPLE))
    assert "host/torch.compile could not measure the network: torch.compile failed" in said
    assert "odd_operator" in said


# ---------------------------------------------------------------- torch on CUDA


def test_cuda_without_a_gpu_says_why() -> None:
    name = DeviceName.parse("cuda/torch?precision=bf16")
    reason = tool_of(name).missing(name)
    assert (reason is None) == torch.cuda.is_available()
    assert reason is None or "CUDA" in reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.usefixtures("ray_cluster")
def test_pool_refuses_cuda_where_there_is_no_gpu() -> None:
    with pytest.raises(DeviceError, match="cuda/torch cannot be used: torch") as caught:
        DevicePool(["cuda/torch"])
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_is_timed_by_its_own_events(tmp_path: Path) -> None:
    measurement = actor("cuda/torch?batch=64", tmp_path).measure(Net(), EXAMPLE)
    assert 0 < measurement.milliseconds < 1000
    assert torch.cuda.get_device_name() in measurement.fingerprint


# ---------------------------------------------------------------- OpenVINO


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_openvino_runs_with_the_threads_and_precision_asked_for(precision: str) -> None:
    pytest.importorskip("openvino")
    from manynet.devices.tools.open_vino import loaded

    name = DeviceName.parse(f"host/openvino?batch=3&threads=2&precision={precision}")
    if reason := tool_of(name).missing(name):
        pytest.skip(reason)
    net, inputs = Net().eval(), repeated(EXAMPLE, name.batch)
    model = loaded(exported(net, inputs), name)
    assert model.get_property("INFERENCE_NUM_THREADS") == 2
    assert model.get_property("INFERENCE_PRECISION_HINT").to_string() == (
        "bf16" if precision == "bf16" else "f32"
    )
    output = torch.from_numpy(model([inputs[0].numpy()])[0].copy())
    tolerance = 0.02 if precision == "bf16" else 1e-5
    torch.testing.assert_close(output, net(*inputs).detach(), atol=tolerance, rtol=tolerance)


def test_openvino_measures_and_names_what_it_cannot_convert(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    device = actor("host/openvino?batch=2", tmp_path)
    measurement = device.measure(Net(), EXAMPLE)
    assert (measurement.tool, measurement.batch) == ("openvino", 2)
    assert measurement.milliseconds > 0
    said = refusal(lambda: device.measure(Determinant(), EXAMPLE))
    assert "OpenVINO must have a rule for every operator, but got Det" in said


# ---------------------------------------------------------------- command


def test_command_measures_with_a_real_program(declared: Path) -> None:
    measurement = actor("pi/command?batch=3&threads=2", declared).measure(Net(), EXAMPLE)
    assert measurement.device == "pi/command?batch=3&threads=2"
    assert (measurement.tool, measurement.batch, measurement.threads) == ("command", 3, 2)
    assert measurement.fingerprint == "a board, ONNX Runtime"
    assert "{model}" in measurement.tool_version
    assert measurement.count == 2
    assert 0 < measurement.milliseconds < 1000


@pytest.mark.usefixtures("ray_cluster")
def test_declared_board_is_measured_by_a_pool(declared: Path) -> None:
    # The cluster was started before the board was declared: its actor is told of the file.
    with DevicePool(["pi/command"]) as pool:
        assert pool.measure(Net(), EXAMPLE)["pi/command"].milliseconds > 0


def test_a_board_of_its_own_leaves_the_host_to_evaluators(tmp_path: Path) -> None:
    host = Lease(tmp_path, wait_seconds=0.05)
    board = tool_of(DeviceName.parse("pi/command")).lease(host)
    assert tool_of(DeviceName.parse("host/command")).lease(host) == host
    with host.shared(), board.exclusive():
        pass


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("", "must print milliseconds on its last line, but got no output"),
        ("print('12 ms')", "a number alone, on its last line, but got '12 ms'"),
        ("print(3.5); print('done')", "a number alone, on its last line, but got 'done'"),
        ("print(0)", "must print milliseconds more than 0, but got 0"),
        ("print('nan')", "must print milliseconds more than 0, but got nan"),
        ("print('inf')", "must print milliseconds more than 0, but got inf"),
        ("print(-2.5)", "must print milliseconds more than 0, but got -2.5"),
        ("import sys; print(3.5); sys.exit('one\\nboard is off')", "exit with 0, but got 1: board is off"),
        ("import os; os._exit(3)", "exit with 0, but got 3: nothing on its standard error"),
    ],
)
def test_program_that_misbehaves_is_one_clear_line(program: str, said: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", program]
    assert said in refusal(lambda: printed_milliseconds(words, tmp_path, 30))


def test_program_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    child = (
        f"import os, time; open({str(tmp_path / 'child')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    start = time.monotonic()
    said = refusal(lambda: printed_milliseconds([sys.executable, "-c", program], tmp_path, 5))
    assert said == "the command must end within 5 s, but got no end"
    assert time.monotonic() - start < 30
    _wait_until_gone(int((tmp_path / "child").read_text()))


def _wait_until_gone(process: int) -> None:
    """Killed, though perhaps not yet collected by whoever inherits it."""
    deadline = time.monotonic() + 10
    status = Path(f"/proc/{process}/stat")
    while time.monotonic() < deadline and status.exists() and status.read_text().split()[2] != "Z":
        time.sleep(0.05)
    assert time.monotonic() < deadline, f"process {process} lives on"


def test_program_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    said = refusal(lambda: printed_milliseconds(["./no-such-program"], tmp_path, 5))
    assert said == "the command must start, but got No such file or directory: ./no-such-program"


def test_no_shell_reads_a_command(declared: Path) -> None:
    (declared / "devices.yaml").write_text(
        "pi:\n  command: 'echo {model} {threads} ; touch hit $(touch hit)'\n  hardware: x\n  calls: 2\n"
    )
    said = refusal(lambda: actor("pi/command", declared).measure(Net(), EXAMPLE))
    assert "a number alone" in said
    assert "; touch hit $(touch hit)" in said
    assert not (declared / "hit").exists()
    assert os.listdir(declared).count("model.onnx") == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1", "must hold boards by their labels"),
        ("pi: {command: 'run {model} {threads}'}", "pi.hardware of .*: field required"),
        (
            "pi: {command: 'run {threads}', hardware: x}",
            "must have {model} and {threads}, and {model} is missing",
        ),
        ("pi: {command: 'run {model}', hardware: x}", "{threads} is missing"),
        ("pi: {command: 'run {model} {threads} {size}', hardware: x}", "and {size} is not"),
        ("pi: {command: 'run \" {model} {threads}', hardware: x}", "No closing quotation"),
        (
            "pi: {command: 'run {model} {threads}', hardware: x, calls: 1}",
            "greater than or equal to 2, but got 1",
        ),
        (
            "pi: {command: 'run {model} {threads}', hardware: x, timeout_seconds: 0}",
            "greater than 0, but got 0",
        ),
        ("pi: {command: 'run {model} {threads}', hardware: x, shell: true}", "pi.shell of"),
        ("a/b: {command: 'run {model} {threads}', hardware: x}", "label must be of letters"),
        ("pi: [", "must name a YAML file of boards"),
        (None, "must name a YAML file of boards, but got .*No such file"),
    ],
)
def test_board_declared_wrongly_is_one_clear_line(
    text: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "devices.yaml"))
    if text is not None:
        (tmp_path / "devices.yaml").write_text(text)
    with pytest.raises(DeviceError, match=said.replace("{", r"\{")) as caught:
        boards()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- a search


def choosing_space() -> SearchSpace:
    """One layer and a choice of activation, of which one has no ONNX operator."""

    class Chosen(Supernet):
        def __init__(self) -> None:
            super().__init__()
            self.layer = elastic.Linear(64, 16)
            self.head = elastic.Linear(16, 10)

        def forward(self, x: Tensor, arch: Any) -> Tensor:
            x = self.layer(x.flatten(1), out_features=arch["width"])
            x = torch.special.bessel_j0(x) if arch["operator"] == "bessel" else x.relu()
            return self.head(x)  # type: ignore[no-any-return]

    domains = {"operator": tune.choice(["relu", "bessel"]), "width": tune.choice([8, 16])}
    return SearchSpace("choosing", domains, Chosen, tasks.Classification(10), (1, 8, 8))


@pytest.mark.usefixtures("ray_cluster")
def test_search_marks_what_a_tool_cannot_convert_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    space, digits = choosing_space(), data.digits()
    settings = SearchSettings(
        objectives=["accuracy:max", "latency@host/onnxruntime:min"],
        sampler_options={"population_size": 4},
        evaluations=4,
        evaluators=1,
        validation_examples=64,
        calibration_batches=1,
        batch_size=64,
    )
    with DevicePool(["host/onnxruntime"]) as pool:
        records = search(
            space,
            space.build().state_dict(),
            digits,
            settings,
            Ledger(tmp_path / "ledger"),
            tmp_path,
            weights_digest="w",
            measure=pool.measure,
            lease=pool.lease,
        )
    assert "prims.bessel_j0" in caplog.text, "a candidate that cannot be converted was tried, and marked"
    assert {record.architecture["operator"] for record in records} == {"relu"}
    assert {record.architecture["width"] for record in records} == {8, 16}
    assert all(record.metrics["latency@host/onnxruntime"] > 0 for record in records)
