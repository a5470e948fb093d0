"""Jobs on a real cluster with token authentication: a head without CPUs and two worker nodes, on this machine."""

import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from manynet.config.experiment import read_experiment
from manynet.studies.study import Study

ROOT = Path(__file__).parent.parent
JOBS = ROOT / "clusters" / "jobs"
SCRIPTS = sorted(JOBS.glob("*.sh"))
RAY = Path(sys.executable).parent / "ray"
SETTINGS: dict[str, dict[str, Any]] = {
    "train": {"steps": 12, "workers": 1, "evaluate_every": 12},
    "search": {"evaluations": 3, "evaluators": 2, "validation_examples": 64, "calibration_batches": 1},
    "finalists": {"count": 1, "anchors": 0, "steps": 4, "workers": 0},
}
SHRUNK = [
    f"--set={step}.{key}={value}" for step, settings in SETTINGS.items() for key, value in settings.items()
]
# Training on workers of the cluster is what the test of a space of one's own looks at.
SHRUNK += ["--set=train.workers=0"]
OWN_NET = (ROOT / "examples" / "tiny_conv.py").read_text().split("study = ")[0]
OWN_STUDY = """
import json
import sys

import manynet as mn
from my_net import space

study = mn.Study(sys.argv[1], space)
for step, settings in json.loads(sys.argv[2]).items():
    getattr(study, step)(**settings)
print("manynet is", mn.__file__)
print("report is", study.report())
"""


class Head(NamedTuple):
    """A running cluster: its dashboard, what joins it, and the environment of those that may use it."""

    dashboard: str
    address: str
    environment: dict[str, str]
    token: str

    def run(
        self, *command: object, cwd: Path = ROOT, timeout: float = 500, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user of the cluster; no output may tell its token."""
        ran = subprocess.run(
            list(map(str, command)),
            cwd=cwd,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert self.token not in ran.stdout + ran.stderr
        return ran

    def manynet(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command of Manynet's."""
        return self.run(sys.executable, "-m", "manynet", *arguments, **options)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different, and below those that the kernel hands to others meanwhile."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(20000, 29000), 9000):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            break
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head and two nodes, which find no Manynet of ours on their own path."""
    # Short: sockets are in it, and the names of sockets must be.
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    (folder / "token").write_text(token := secrets.token_hex(16))
    gcs, dashboard, client, *agents = free_ports(12)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
    }
    nodes = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    names = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent")
    common = ["--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0", "--block"]
    first = [
        f"--port={gcs}",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
        "--dashboard-host=127.0.0.1",
        "--num-cpus=0",
        "--head",
    ]
    later = [f"--address=127.0.0.1:{gcs}", "--num-cpus=1"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number, arguments in enumerate((first, later, later)):
            # A folder each: nodes on one machine would replace a job's working directory under each other.
            own = [f"--{name}-port={agents.pop()}" for name in names] + [f"--temp-dir={folder}/{number}"]
            log = folder / f"node{number}.log"
            with log.open("w") as stream:
                command = [RAY, "start", *arguments, *own, *common]
                started.append(subprocess.Popen(command, env=nodes, stdout=stream, stderr=stream))
            # And one after another: they would take each other's ports.
            wait_until(lambda log=log: runs(started[-1], log), "a node runs")
        made = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", environment, token)
        environment["RAY_API_SERVER_ADDRESS"] = made.dashboard
        wait_until(lambda: answers(dashboard), "the dashboard answers")
        listed = [RAY, "list", "nodes", "--format=json", "--filter=state=ALIVE"]
        wait_until(lambda: ready(made.run(*listed)), "three nodes are there")
        yield made
    finally:
        for node in reversed(started):
            node.send_signal(signal.SIGTERM)
        for node in started:
            node.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def runs(node: subprocess.Popen[bytes], log: Path) -> bool:
    """Whether a node is up; it must not have ended."""
    assert node.poll() is None, log.read_text()[-2000:]
    return "block forever" in log.read_text()


def ready(listed: subprocess.CompletedProcess[str]) -> bool:
    """Whether three nodes are listed."""
    # With no node yet, it says so in words.
    return listed.stdout.startswith("[") and len(json.loads(listed.stdout)) == 3


def answers(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 180) -> None:
    """Wait for a condition, or fail."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"within {seconds:g} s, {what}"
        time.sleep(0.5)


def one_error(ran: subprocess.CompletedProcess[str]) -> str:
    """The only line of a command that was refused."""
    assert ran.returncode == 1
    assert "Traceback" not in ran.stdout + ran.stderr
    (line,) = ran.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


# ---------------------------------------------------------------- the scripts


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_parses_and_names_an_example_that_is_there(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    (example,) = set(re.findall(r"examples/\S+\.yaml", script.read_text()))
    assert read_experiment(ROOT / example).steps
    assert os.access(script, os.X_OK)


def test_there_is_a_script_for_each_family() -> None:
    assert {script.stem for script in SCRIPTS} == {"vit", "nasrec", "dmasking"}


@pytest.mark.slow
def test_a_script_runs_to_its_report(head: Head, tmp_path: Path) -> None:
    study = tmp_path / "study"
    ran = head.run(JOBS / "vit.sh", f"--set=study={study}", *SHRUNK)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert (study / "report.html").is_file()
    (finalist,) = Study.open(study).winners()
    assert (study / finalist.details["folder"] / "model.onnx").is_file()
    assert len([record for record in Study.open(study).ledger.read() if record.kind == "evaluation"]) == 3


@pytest.mark.slow
def test_a_space_of_ones_own_in_a_folder_of_ones_own_runs_on_several_nodes(
    head: Head, tmp_path: Path
) -> None:
    own, study = tmp_path / "own", tmp_path / "study"
    own.mkdir()
    (own / "my_net.py").write_text(OWN_NET)
    (own / "study.py").write_text(OWN_STUDY)
    search = {**SETTINGS["search"], "objectives": ["accuracy:max", "macs:min"]}
    settings = json.dumps({"train": SETTINGS["train"], "search": search})
    ran = head.run(sys.executable, JOBS / "own_space.py", own, "study.py", study, settings, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert f"report is {study}/report.html" in ran.stdout
    assert (study / "report.html").is_file()
    # What was shipped ran, not what the nodes have installed.
    assert re.search(r"manynet is \S+/_ray_pkg_\S+/manynet/__init__.py", ran.stdout)


# ---------------------------------------------------------------- what is refused


def test_a_wrong_token_is_refused_in_one_line(head: Head, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text(wrong := secrets.token_hex(16))
    environment = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}
    own = [sys.executable, JOBS / "own_space.py", tmp_path, "study.py"]
    for command in (own, [JOBS / "vit.sh"]):
        ran = head.run(*command, **environment)
        assert "refused the token" in one_error(ran)
        assert wrong not in ran.stdout + ran.stderr
    ran = head.manynet("submit", "examples/vit-digits.yaml", **environment)
    assert f"the cluster at {head.dashboard} refused the token" in one_error(ran)


def test_a_missing_token_is_told_from_a_wrong_one(head: Head, tmp_path: Path) -> None:
    none = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "", "HOME": str(tmp_path)}
    assert "needs a token" in one_error(head.manynet("submit", "examples/vit-digits.yaml", **none))


def test_a_wrong_token_of_a_driver_on_the_cluster_is_told(head: Head, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text(secrets.token_hex(16))
    environment = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong"), "RAY_ADDRESS": head.address}
    # Ray asks twenty times, a second apart.
    environment["RAY_NUM_REDIS_GET_RETRIES"] = "2"
    study = f"study={tmp_path / 'study'}"
    ran = head.manynet("run", "examples/vit-digits.yaml", "--set", study, **environment)
    # Ray's own lines come first, from its C++.
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert last.startswith(f"Error: the cluster at {head.address} must accept the token")
    assert not (tmp_path / "study").exists()


def test_nothing_is_submitted_of_a_file_that_is_wrong(head: Head) -> None:
    wrong = ["--set", "train.stpes=1"]
    for command in (
        [JOBS / "nasrec.sh"],
        [sys.executable, "-m", "manynet", "submit", "examples/vit-digits.yaml"],
    ):
        assert "train.stpes is not a key" in one_error(head.run(*command, *wrong))


def test_an_address_where_nobody_answers(head: Head) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    ran = head.manynet("submit", "examples/vit-digits.yaml", "--address", nobody)
    assert f"must answer, but none does at {nobody}" in one_error(ran)


def test_another_ray_than_the_clusters(head: Head) -> None:
    script = (
        "import ray; ray.__version__ = '2.9.0'\n"
        "import sys; sys.argv = ['manynet', 'submit', 'examples/vit-digits.yaml']\n"
        "from manynet.cli import main; main()"
    )
    assert re.search(
        r"must run the Ray .* 2.9.0, but the one at \S+ runs 2\.6",
        one_error(head.run(sys.executable, "-c", script)),
    )


def test_a_file_that_would_not_go_with_the_job(head: Head, tmp_path: Path) -> None:
    ran = head.manynet("submit", ROOT / "examples" / "vit-digits.yaml", cwd=tmp_path)
    assert "must be in the working directory" in one_error(ran)


def test_a_job_that_fails_ends_in_its_own_last_error(head: Head, tmp_path: Path) -> None:
    wrong = f"data=idx:{tmp_path / 'none'}"
    ran = head.manynet(
        "submit", "examples/vit-digits.yaml", "--set", wrong, "--set", f"study={tmp_path / 's'}"
    )
    assert ran.returncode == 1
    assert "Traceback" not in ran.stdout + ran.stderr
    _, last = ran.stderr.splitlines()
    assert re.match(r"Error: job \S+ failed: .*none", last)


def test_a_job_that_is_killed_while_it_waits(head: Head, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "manynet", "submit", "examples/vit-digits.yaml", "--cpus", "99"]
    with subprocess.Popen(
        command, cwd=ROOT, env=head.environment, stderr=subprocess.PIPE, text=True
    ) as submitting:
        assert submitting.stderr is not None
        told = re.match(r"job (\S+) is submitted", submitting.stderr.readline())
        assert told is not None
        # `ray job stop` waits for a job to begin; its supervisor can be killed before that.
        script = (
            "import ray\n"
            "from ray.dashboard.modules.job.common import JOB_ACTOR_NAME_TEMPLATE, SUPERVISOR_ACTOR_RAY_NAMESPACE\n"
            f"ray.init('{head.address}', log_to_driver=False)\n"
            f"name = JOB_ACTOR_NAME_TEMPLATE.format(job_id='{told[1]}')\n"
            "ray.kill(ray.get_actor(name, SUPERVISOR_ACTOR_RAY_NAMESPACE))"
        )
        killed = head.run(sys.executable, "-c", script)
        assert killed.returncode == 0, killed.stderr
        rest = submitting.stderr.read().splitlines()
        assert submitting.wait() == 1
    assert rest[-1].startswith(f"Error: job {told[1]} was ended before it began: ")
    assert not any("Traceback" in line for line in rest)
