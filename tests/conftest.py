"""Shared fixtures: one Ray session for all tests that need one, one S3 server, and the command line in this process."""

import logging
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pyarrow.fs
import pytest
import torch

ROOT = Path(__file__).parent.parent

# pytest's own `pythonpath` reaches only this process; Ray's workers read the variable.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [
        *(str(ROOT / name) for name in ("platform", "benchmarks", "tests")),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
)
os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
# Ray Train asks its workers every two seconds whether they are done, and tests train for less.
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
# A process more for each training, which waits for a machine of a cloud to be taken away.
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"

# Nobody looks at how busy the processes of the tests' Rays are, which each Ray asks every five seconds.
os.environ["REPORTER_UPDATE_INTERVAL_MS"] = "600000"

# A process that a test starts imports a hundred modules of Manynet: compiled once, not by each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Of the S3 servers that tests start; Ray's processes have the environment in which it was started.
os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}

# On as many cores as Ray's workers use, threads would wait for each other.
torch.set_num_threads(1)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")


# The files that take longest come first: at the end, one of them would leave the other processes idle.
LONGEST = {"benchmarks", "jobs", "study", "device_service", "plugins", "testing", "training", "search"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray with room for two workers, two evaluators and a device."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=400 * 2**20,
        resources={"device:host/torch": 1, "device:host/onnxruntime": 1},
        # Short runs, too, are to be seen in the metrics.
        _system_config={"metrics_report_interval_ms": 500},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def joining(ray_cluster: None) -> dict[str, str]:
    """Environment of a process that joins the tests' Ray, where one of its own would cost more than what it does."""
    import ray

    return {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.fixture(scope="session")
def when_free(ray_cluster: None) -> Callable[[], None]:
    """Waits until nothing runs on the tests' Ray: what a killed driver had started ends a little after it."""
    import ray

    def wait() -> None:
        deadline = time.monotonic() + 60
        while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
            assert time.monotonic() < deadline, ray.available_resources()
            time.sleep(0.05)

    return wait


@pytest.fixture
def manynet(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line, in this process: what a new one imports takes seconds."""
    from manynet.cli import main

    def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        caplog.set_level(logging.INFO, logger="manynet")
        capsys.readouterr()
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["manynet", *arguments])
            patch.setattr(sys, "path", list(sys.path))
            with pytest.raises(SystemExit) as ended:
                main()
        said = capsys.readouterr()
        # pytest takes the log, which a process of its own writes to its errors.
        return subprocess.CompletedProcess(
            ["manynet", *arguments], int(ended.value.code or 0), said.out, caplog.text + said.err
        )

    return run


class S3Server:
    """Moto's server in a process of its own, on a free port, with the bucket ``studies``.

    Attributes:
        place: its host and port.
        options: what an address ends with to lead there.
    """

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.place = f"127.0.0.1:{port}"
        self.options = f"?endpoint_override={self.place}&scheme=http"
        while not _answers(port):
            assert self.process.poll() is None
            time.sleep(0.05)
        there = {"endpoint_override": self.place, "scheme": "http"}
        pyarrow.fs.S3FileSystem(**there, allow_bucket_creation=True).create_dir("studies")

    def stop(self) -> None:
        """End it, with all that it holds."""
        self.process.kill()
        self.process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def mortal_s3() -> Iterator[S3Server]:
    """Another server, for a test to stop."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a new folder, on a local disk and on an object store."""
    if request.param == "local":
        return str(tmp_path / "place")
    return f"s3://studies/{uuid.uuid4().hex}{request.getfixturevalue('s3').options}"
